"""Preparation: what is stored, that it is the same bytes however it came about, and what does not fit."""

import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from keras_alexnet.data import prepare as preparation
from keras_alexnet.data import record_sets, sources, statistics
from keras_alexnet.data.decoding import decode_center
from keras_alexnet.data.prepare import Settings, prepare
from keras_alexnet.data.record_sets import check_files, open_prepared, read_manifest
from keras_alexnet.errors import ArgumentError, RunError, UsageError
from tests.data.conftest import encoded, files_of, items_of, photo, write_folder
from tests.data.test_decoding import claiming

ROOT = Path(__file__).parents[2]
SMALL = {"shard_images": 4, "quality": 80}
CLASSES = ("cat", "newt", "wolf")
GOOD = encoded(photo(300, 280))


def images(split, count):
    """{CLASS/FILE: bytes}, sizes above and below 256, both kinds of files."""
    files = {}
    for index in range(count):
        image = photo(280 + 13 * index, 300 - 9 * index, seed=len(split))
        kind = ("JPEG", "PNG")[index % 5 == 3]
        files[f"{CLASSES[index % 3]}/{index:02d}.{kind.lower()}"] = encoded(image, kind)
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    write_folder(root / "train", images("train", 10))
    write_folder(root / "val", images("val", 5))
    return root


@pytest.fixture(scope="module")
def opened(folder):
    return sources.open_folder(str(folder))


@pytest.fixture(scope="module")
def prepared(opened, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "jpeg"
    return out, prepare(*opened, str(out), Settings(**SMALL), threads=2)


def centers_of(source):
    """{name: uint8 (256, 256, 3)}"""
    return {name: decode_center(tf.constant(data)).numpy() for name, data, _ in items_of(source)}


def test_what_is_in_the_folder(prepared, opened):
    out, report = prepared
    assert sorted(os.listdir(out)) == sorted(
        [
            *("dataset_info.json", "features.json", "label.labels.txt", "manifest.json", "statistics.npz"),
            *(f"prepared-train.tfrecord-0000{index}-of-00003" for index in range(3)),
            *(f"prepared-validation.tfrecord-0000{index}-of-00002" for index in range(2)),
        ]
    )
    assert report.handled == 15 and report.seconds > 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest == report.manifest
    assert manifest["settings"] == {"size": 256, "encoding": "jpeg", "quality": 80, "shard_images": 4, "seed": 2012}
    assert manifest["class_names"] == list(CLASSES)
    facts = manifest["splits"]["train"]
    assert [shard["images"] for shard in facts["shards"]] == [4, 4, 2]
    assert (facts["images"], facts["label_counts"], facts["skipped"]) == (10, [4, 3, 3], [])
    assert manifest["source"]["train"] == {"name": "train", "files": 10, "fingerprint": opened[0].fingerprint()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files_of(out).items()}
    listed = {shard["file"]: shard["sha256"] for facts in manifest["splits"].values() for shard in facts["shards"]}
    assert manifest["checksums"] | listed == {name: value for name, value in sums.items() if name != "manifest.json"}


def test_images_are_the_decoded_ones_as_jpegs_of_that_quality(prepared, opened):
    out, _ = prepared
    builder = tfds.builder_from_directory(str(out))
    assert builder.info.features["label"].names == list(CLASSES)
    assert builder.info.splits["train[3:7]"].num_examples == 4
    decoders = {"image": tfds.decode.SkipDecoding()}
    for source, original in zip(open_prepared(str(out), 100), opened, strict=True):
        expected = {name: (data, label) for name, data, label in items_of(original)}
        split = builder.as_dataset(split=source.name.split()[1], decoders=decoders, shuffle_files=False)
        examples = list(split.as_numpy_iterator())
        assert {example["file_name"].decode() for example in examples} == expected.keys()
        for example in examples:
            data, label = expected[example["file_name"].decode()]
            assert example["label"] == label
            assert example["image"] == tf.io.encode_jpeg(decode_center(tf.constant(data)), quality=80).numpy()
        assert [example["image"] for example in examples] == [data for _, data, _ in items_of(source)]


def test_statistics_are_those_of_the_source(prepared, opened):
    out, _ = prepared
    found, expected = statistics.load(str(out / "statistics.npz")), statistics.compute(opened[0])
    for name in ("mean_image", "rgb_mean", "rgb_covariance"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (found.count, found.label_counts) == (10, (4, 3, 3))
    train, _ = open_prepared(str(out), 100)
    assert (train.label_counts, train.stored) == ((4, 3, 3), "jpeg") and found.fingerprint == train.fingerprint()


def test_the_order_is_mixed_and_fixed(prepared, opened, tmp_path):
    out, _ = prepared
    order = [label for *_, label in items_of(open_prepared(str(out), 100)[0])]
    by_class = [label for *_, label in items_of(opened[0])]
    assert order != by_class and sorted(order) == by_class
    prepare(*opened, str(tmp_path / "again"), Settings(**SMALL), threads=1)
    assert files_of(tmp_path / "again") == files_of(out)
    prepare(*opened, str(tmp_path / "other"), Settings(**SMALL, seed=1))
    assert [label for *_, label in items_of(open_prepared(str(tmp_path / "other"), 100)[0])] != order


def test_raw_images(opened, tmp_path):
    prepare(*opened, str(tmp_path), Settings(encoding="raw", shard_images=4))
    originals = centers_of(opened[0])
    examples = list(tfds.builder_from_directory(str(tmp_path)).as_dataset(split="train").as_numpy_iterator())
    train, val = open_prepared(str(tmp_path), 100)
    assert (train.count, val.count, train.stored) == (10, 5, "raw")
    # By the library and by their places: the same pixels, in the order of the records.
    for example, (_, image, label) in zip(examples, items_of(train), strict=True):
        np.testing.assert_array_equal(example["image"], originals[example["file_name"].decode()])
        np.testing.assert_array_equal(image, example["image"])
        assert label == example["label"]


def test_another_size_is_resized_when_it_is_read_and_records_are_a_source_too(opened, tmp_path):
    prepare(*opened, str(tmp_path / "large"), Settings(size=300, **SMALL))
    again = open_prepared(str(tmp_path / "large"), 100)
    assert again[0].stored == ""
    assert {Image.open(io.BytesIO(data)).size for _, data, _ in items_of(again[0])} == {(300, 300)}
    # The mean is that of what training will see.
    seen, found = centers_of(again[0]), statistics.load(str(tmp_path / "large" / "statistics.npz"))
    np.testing.assert_allclose(found.mean_image, np.stack(list(seen.values())).mean(0), atol=1e-4)
    prepare(*again, str(tmp_path / "again"), Settings(shard_images=3, encoding="raw"))
    for example in tfds.builder_from_directory(str(tmp_path / "again")).as_dataset(split="train").as_numpy_iterator():
        np.testing.assert_array_equal(example["image"], seen.pop(example["file_name"].decode()))
    assert not seen


def test_an_interruption_leaves_whole_shards_and_ends_in_the_same_bytes(opened, tmp_path):
    settings, out = Settings(shard_images=3, encoding="raw"), tmp_path / "interrupted"
    prepare(*opened, str(tmp_path / "whole"), settings)
    whole, steps = files_of(tmp_path / "whole"), []

    def progress(done, total):
        assert total == 15
        steps.append(done)
        if len(steps) in (1, 4, 9):
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            prepare(*opened, str(out), settings, progress=progress)
        found = files_of(out)
        assert {
            name: content for name, content in found.items() if name.startswith("prepared-")
        }.items() <= whole.items()
        with pytest.raises(UsageError, match="is not completely prepared; the same preparation again resumes"):
            open_prepared(str(out), 100)
    report = prepare(*opened, str(out), settings, progress=progress)
    assert steps[-1] == 15 and report.handled < 15  # finished shards are not made again
    assert files_of(out) == whole
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert prepare(*opened, str(out), settings).handled == 0
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


KILLED = """
import sys
from keras_alexnet.data import prepare, sources
train, val = sources.open_folder(sys.argv[1])
settings = prepare.Settings(shard_images=2, quality=80)
prepare.prepare(train, val, sys.argv[2], settings, progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.slow
def test_killed_at_twenty_moments(folder, opened, tmp_path):
    settings = Settings(shard_images=2, quality=80)
    prepare(*opened, str(tmp_path / "whole"), settings)
    for index, when in enumerate(np.random.default_rng(0).uniform(0, 8, 20)):
        out = tmp_path / str(index)
        command = [sys.executable, "-c", KILLED, str(folder), str(out)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
        ) as process:
            for _ in range(int(when) + 1):
                process.stdout.readline()
            time.sleep(when % 1 / 10)
            process.send_signal(signal.SIGKILL)
        prepare(*opened, str(out), settings)
        assert files_of(out) == files_of(tmp_path / "whole"), when


# What cannot be decoded, and what can.
UNUSUAL = {
    "cmyk.jpg": encoded(photo(280, 270).convert("CMYK")),
    "png_named.JPEG": encoded(photo(280, 270), "PNG"),
    "row.jpg": encoded(photo(9, 1)),
}
WEBP = "a WebP image; only JPEG and PNG are read: convert it with `mogrify -format jpg newt/webp.jpg`"
BAD = {
    "empty.jpg": (b"", "not a JPEG or PNG file"),
    "webp.jpg": (encoded(photo(30, 20), "WEBP"), WEBP),
    "no_end.jpg": (GOOD[:-2], "a JPEG file that is cut short: its end-of-image marker is missing"),
    "header_only.jpg": (GOOD[:20] + b"\xff\xd9", "Invalid JPEG data"),
    "cut.png": (encoded(photo(90, 70), "PNG")[:500], "Invalid PNG"),
    "bomb.jpg": (claiming(GOOD, 20000, 20000), "claims more than 134,217,728 pixels"),
    "tab\x1b[2J.jpg": (b"no image", "not a JPEG or PNG file"),
}


def with_bad_files(root):
    train = {f"cat/{name}": data for name, data in UNUSUAL.items()}
    train |= {f"newt/{name}": data for name, (data, _) in BAD.items()} | {"newt/good.jpg": GOOD, "newt/x/y.jpg": GOOD}
    write_folder(root / "train", train)
    write_folder(root / "val", {"cat/good.jpg": GOOD, "newt/good.jpg": GOOD})
    return sources.open_folder(str(root))


def test_bad_files_are_left_out_and_listed(tmp_path):
    train, val = with_bad_files(tmp_path / "in")
    out = str(tmp_path / "out")
    # Where they are not to be left out, the first one ends it; nothing that was written before is lost.
    with pytest.raises(RunError, match=r"train/newt/x/y.jpg: cannot be used; .* --bad_images=skip"):
        prepare(train, val, out, Settings(shard_images=5, bad_images="fail"))
    (tmp_path / "in" / "train" / "newt" / "x" / "y.jpg").unlink()
    train, _ = sources.open_folder(str(tmp_path / "in"))
    with pytest.raises(RunError, match=r"train/newt/\S+: .*; repair or remove it, or .* --bad_images=skip") as caught:
        prepare(train, val, out, Settings(shard_images=5, bad_images="fail"))
    assert str(caught.value).isprintable()
    prepare(train, val, out, Settings(shard_images=5))
    listed = read_manifest(out)["splits"]["train"]["skipped"]
    reasons = {entry["name"]: entry["reason"] for entry in listed}
    assert reasons.keys() == {f"newt/{name}" for name in BAD}
    for name, (_, words) in BAD.items():
        assert words in reasons[f"newt/{name}"] and "{{" not in reasons[f"newt/{name}"], reasons
    found, _ = open_prepared(out, 100)
    assert (found.count, found.label_counts) == (len(UNUSUAL) + 1, (len(UNUSUAL), 1))
    # The same verdict as of the pass before training.
    assert statistics.summarize(train).skipped == tuple(sorted(reasons))


def test_a_file_that_is_gone_and_classes_without_an_image(tmp_path):
    write_folder(tmp_path / "train", images("train", 6))
    write_folder(tmp_path / "val", images("val", 3))
    train, val = sources.open_folder(str(tmp_path))
    (tmp_path / "train" / "wolf" / "02.jpeg").unlink()
    manifest, *_ = prepare(train, val, str(tmp_path / "out"), Settings(**SMALL))
    (entry,) = manifest["splits"]["train"]["skipped"]
    assert entry == {"name": "wolf/02.jpeg", "reason": "cannot be read (No such file or directory)"}
    (tmp_path / "train" / "wolf" / "05.jpeg").write_bytes(b"no image")
    with pytest.raises(RunError, match="train: none of the files of class wolf is an image that can be decoded"):
        prepare(train, val, str(tmp_path / "other"), Settings(**SMALL))
    write_folder(tmp_path, {"few/train/cat/a.jpg": b"no image", "few/val/cat/a.jpg": GOOD})
    with pytest.raises(RunError, match="train: none of the 1 files is an image that can be decoded"):
        prepare(*sources.open_folder(str(tmp_path / "few")), str(tmp_path / "third"), Settings())


def refuse(out, opened, words, **settings):
    with pytest.raises(UsageError, match=words) as caught:
        prepare(*opened, str(out), Settings(**(SMALL | settings)))
    assert "\n" not in str(caught.value)


def test_folders_that_hold_something_else(prepared, opened, tmp_path):
    out, _ = prepared
    before = files_of(out)
    refuse(out, opened, "prepared with --size=256; prepare into another folder", size=300)
    refuse(out, tuple(reversed(opened)), "prepared with another source; prepare into another folder")
    assert files_of(out) == before
    write_folder(tmp_path, {"mine/letter.txt": b"dear", "in/train/cat/a.jpg": GOOD, "in/val/cat/a.jpg": GOOD})
    refuse(tmp_path / "mine", opened, r"holds something else already \(letter.txt\); name a new or an empty folder")
    refuse(tmp_path / "mine" / "letter.txt", opened, "letter.txt: is a file; name a folder")
    with pytest.raises(ArgumentError, match="size must be 256 for raw images"):
        Settings(encoding="raw", size=300)
    other, _ = sources.open_folder(str(tmp_path / "in"))
    refuse(tmp_path / "out", (opened[0], other), "train and train have different classes")
    tried = []

    def second(done, total):
        refuse(tmp_path / "out", opened, "another process is preparing images into it; wait for it to end")
        tried.append(1 / 0)

    with pytest.raises(ZeroDivisionError):
        prepare(*opened, str(tmp_path / "out"), Settings(**SMALL), progress=second)
    refuse(tmp_path / "out", opened, "prepared with --seed=2012; prepare into another folder", seed=3)


def test_a_full_disk_and_a_damaged_shard(opened, prepared, tmp_path):
    out, whole, limit = tmp_path / "out", files_of(prepared[0]), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # A file that may not grow any further is what a full disk is to whoever writes.
        resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, limit[1]))
        with pytest.raises((OSError, tf.errors.OpError)):
            prepare(*opened, str(out), Settings(**SMALL))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    work = out / record_sets.WORK
    assert not [name for name in os.listdir(out) if name.startswith(".writing")]
    # With room again, but one shard damaged and one without its facts.
    with pytest.raises(ZeroDivisionError):
        prepare(*opened, str(out), Settings(**SMALL), progress=lambda done, total: done > 9 and 1 / 0)
    first, second = (out / f"prepared-train.tfrecord-0000{index}-of-00003" for index in (0, 1))
    first.write_bytes(first.read_bytes()[:-1])
    (work / f"{second.name}.npz").write_bytes(b"nothing")
    prepare(*opened, str(out), Settings(**SMALL))
    assert files_of(out) == whole


def test_changes_are_found_before_anything_is_believed(opened, tmp_path):
    prepare(*opened, str(tmp_path), Settings(encoding="raw", shard_images=4))
    manifest, out = read_manifest(str(tmp_path)), str(tmp_path)
    check_files(out, manifest, shards_too=True)
    for name in ("statistics.npz", "features.json", "places.npz"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:-1] + b"x")
        with pytest.raises(UsageError, match=rf"--data_dir=\S+{name}: has changed since it was prepared"):
            open_prepared(out, 100)
        (tmp_path / name).unlink()
        with pytest.raises(UsageError, match=rf"--data_dir=\S+{name}: is missing"):
            open_prepared(out, 100)
        (tmp_path / name).write_bytes(content)
    shard = tmp_path / "prepared-train.tfrecord-00001-of-00003"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(RunError, match="00001-of-00003: has changed since it was prepared"):
        check_files(out, manifest, shards_too=True)
    shard.write_bytes(content[:-1])
    with pytest.raises(UsageError, match=rf"--data_dir=.*00001-of-00003: has {len(content) - 1} bytes instead of"):
        open_prepared(out, 100)
    shard.unlink()
    with pytest.raises(RunError, match="00001-of-00003: is missing"):
        prepare(*opened, out, Settings(encoding="raw", shard_images=4))
    for content in ("", "[]", "{}", '{"format": 0, "splits": {}}'):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(UsageError, match=r"manifest.json: is not a manifest of this version"):
            open_prepared(out, 100)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"--data_dir=\S+: holds no prepared images \(manifest.json\)"):
        open_prepared(out, 100)


# Apache Beam, in a process of its own: the runner opens connections, which tests here do not, and outliving threads.
BEAM = """
import functools, sys
from keras_alexnet.data import prepare, sources
from keras_alexnet.errors import RunError
source, other, out = sys.argv[1:]
settings = prepare.Settings(shard_images=4, encoding="raw")
write = prepare.beam_writer(functools.partial(sources.open_folder, source), ["--runner=DirectRunner"])
done = []
def progress(*both):
    done.append(both)
report = prepare.prepare(*sources.open_folder(source), out, settings, write=write, progress=progress)
print(report.handled, done)
try:
    prepare.prepare(*sources.open_folder(other), out + "2", settings, write=write)
except RunError as error:
    print(error)
"""


def test_beam_writes_the_same_records_and_statistics(folder, opened, tmp_path):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed")
    for split in ("train", "val"):
        write_folder(tmp_path / "other" / split, {f"{name}/a.jpg": GOOD for name in CLASSES})
    command = [sys.executable, "-c", BEAM, str(folder), str(tmp_path / "other"), str(tmp_path / "beam")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.splitlines()
    assert said[0] == "15 [(10, 15), (15, 15)]"
    assert said[1].startswith("Apache Beam: ")
    assert "train: a worker finds other files than the program that started it" in said[1]
    prepare(*opened, str(tmp_path / "alone"), Settings(shard_images=4, encoding="raw"))
    assert files_of(tmp_path / "beam") == files_of(tmp_path / "alone")


def test_options_of_beam(monkeypatch):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed")
    with pytest.raises(UsageError, match="--shard_imges: is neither an option of this program nor one of Beam's"):
        preparation.beam_writer(None, ["--shard_imges=4"])
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UsageError, match=r"--beam: needs Apache Beam: pip install 'keras-alexnet\[beam\]'"):
        preparation.beam_writer(None, [])
