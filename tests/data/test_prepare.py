import hashlib
import io
import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from keras_alexnet.data import prepare as preparation, sources, statistics
from keras_alexnet.data.decoding import decode_center, to_yuv420
from keras_alexnet.data.prepare import Settings, prepare
from keras_alexnet.data.records import WORK, check_files, open_prepared
from keras_alexnet.errors import ArgumentError, RunError, UsageError
from tests.data.conftest import encoded, files_of, items_of, photo, write_folder
from tests.data.test_decoding import claiming
from tests.runs import ROOT

SMALL = {"shard_images": 4, "quality": 80}
CLASSES = ("cat", "newt", "wolf")
GOOD = encoded(photo(300, 280))


def images(split, count):
    """Sizes above and below 256, both kinds of files."""
    files = {}
    for index in range(count):
        kind = ("JPEG", "PNG")[index % 5 == 3]
        image = photo(280 + 13 * index, 300 - 9 * index, seed=len(split))
        files[f"{CLASSES[index % 3]}/{index:02d}.{kind.lower()}"] = encoded(image, kind)
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    write_folder(root / "train", images("train", 10))
    return write_folder(root / "val", images("val", 5)).parent


@pytest.fixture(scope="module")
def opened(folder):
    return sources.open_folder(str(folder))


@pytest.fixture(scope="module")
def prepared(opened, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "jpeg"
    return out, prepare(*opened, str(out), Settings(**SMALL), threads=2)


def centers_of(source):
    return {name: decode_center(tf.constant(data)).numpy() for name, data, _ in items_of(source)}


def examples_of(folder, **options):
    """What TensorFlow Datasets reads of the training split."""
    builder = tfds.builder_from_directory(str(folder))
    return list(builder.as_dataset(split="train", shuffle_files=False, **options).as_numpy_iterator())


def test_what_is_in_the_folder(prepared, opened):
    out, report = prepared
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest == report.manifest and report.handled == 15 and report.seconds > 0
    settings = {"size": 256, "encoding": "jpeg", "quality": 80, "shard_images": 4, "seed": 2012}
    assert manifest["settings"] == settings | {"resize": "shorter_side", "orientation": "ignore"}
    facts = manifest["splits"]["train"]
    assert [shard["images"] for shard in facts["shards"]] == [4, 4, 2]
    assert (facts["images"], facts["label_counts"], facts["skipped"]) == (10, [4, 3, 3], [])
    assert manifest["class_names"] == list(CLASSES)
    assert manifest["source"]["train"] == {"name": "train", "files": 10, "fingerprint": opened[0].fingerprint()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files_of(out).items()}
    listed = {shard["file"]: shard["sha256"] for facts in manifest["splits"].values() for shard in facts["shards"]}
    assert manifest["checksums"] | listed == {name: value for name, value in sums.items() if name != "manifest.json"}
    assert {"dataset_info.json", "prepared-validation.tfrecord-00001-of-00002", "statistics.npz"} < sums.keys()


def test_images_order_and_statistics(prepared, opened, tmp_path):
    out, _ = prepared
    train, _ = open_prepared(str(out), 100)
    originals = {name: (data, label) for name, data, label in items_of(opened[0])}
    examples = examples_of(out, decoders={"image": tfds.decode.SkipDecoding()})
    assert {example["file_name"].decode() for example in examples} == originals.keys()
    for example, (_, content, label) in zip(examples, items_of(train), strict=True):
        data, expected_label = originals[example["file_name"].decode()]
        assert example["label"] == label == expected_label
        expected = tf.io.encode_jpeg(decode_center(tf.constant(data)), quality=80).numpy()
        assert example["image"] == content == expected
    found, expected = statistics.load(str(out / "statistics.npz")), statistics.compute(opened[0])
    for name in ("mean_image", "rgb_mean", "rgb_covariance"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (found.count, found.label_counts) == (10, (4, 3, 3)) and found.fingerprint == train.fingerprint()
    assert (train.label_counts, train.stored, train.class_names) == ((4, 3, 3), "jpeg", CLASSES)
    # The order is mixed, and fixed by the seed.
    order = [example["label"] for example in examples]
    assert order != list(opened[0].labels) == sorted(order)
    prepare(*opened, str(tmp_path / "again"), Settings(**SMALL), threads=1)
    assert files_of(tmp_path / "again") == files_of(out)
    prepare(*opened, str(tmp_path / "other"), Settings(**SMALL, seed=1))
    assert [example["label"] for example in examples_of(tmp_path / "other")] != order


def test_another_size_is_resized_when_it_is_read_and_records_are_a_source_too(opened, tmp_path):
    prepare(*opened, str(tmp_path / "large"), Settings(size=300, **SMALL))
    again = open_prepared(str(tmp_path / "large"), 100)
    assert {Image.open(io.BytesIO(data)).size for _, data, _ in items_of(again[0])} == {(300, 300)}
    # The mean is that of what training will see.
    seen, found = centers_of(again[0]), statistics.load(str(tmp_path / "large" / "statistics.npz"))
    np.testing.assert_allclose(found.mean_image, np.stack(list(seen.values())).mean(0), atol=1e-4)
    for encoding, stored in (("raw", lambda image: image), ("yuv420", to_yuv420)):
        prepare(*again, str(tmp_path / encoding), Settings(shard_images=3, encoding=encoding))
        for example in examples_of(tmp_path / encoding):
            np.testing.assert_array_equal(example["image"], stored(seen[example["file_name"].decode()]))
    examples = examples_of(tmp_path / "yuv420")
    for example, (_, image, _) in zip(examples, items_of(open_prepared(str(tmp_path / "yuv420"), 100)[0]), strict=True):
        assert np.abs(image.astype(float) - seen[example["file_name"].decode()]).mean() < 4  # photos are smooth


def at_progress(monkeypatch, function):
    monkeypatch.setattr(preparation, "progress_bar", lambda label: function)


def test_interruptions_leave_whole_shards_and_end_in_the_same_bytes(opened, tmp_path, monkeypatch):
    settings, out, steps = Settings(shard_images=3, encoding="raw"), tmp_path / "interrupted", []
    prepare(*opened, str(tmp_path / "whole"), settings)
    # By the library and by their places: the same pixels, in the order of the records.
    train, val = open_prepared(str(tmp_path / "whole"), 100)
    whole, originals = files_of(tmp_path / "whole"), centers_of(opened[0])
    assert (train.count, val.count, train.stored) == (10, 5, "raw")
    for example, (_, image, label) in zip(examples_of(tmp_path / "whole"), items_of(train), strict=True):
        np.testing.assert_array_equal(example["image"], originals[example["file_name"].decode()])
        np.testing.assert_array_equal(image, example["image"])
        assert label == example["label"]

    def progress(done, total):
        steps.append((done, total))
        if len(steps) in (1, 4, 9):
            raise KeyboardInterrupt

    at_progress(monkeypatch, progress)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            prepare(*opened, str(out), settings)
        shards = {name: content for name, content in files_of(out).items() if name.startswith("prepared-")}
        assert shards.items() <= whole.items()
        with pytest.raises(UsageError, match="is not completely prepared; the same preparation again resumes"):
            open_prepared(str(out), 100)
    at_progress(monkeypatch, lambda done, total: done > 14 and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(*opened, str(out), settings)
    at_progress(monkeypatch, progress)
    # The first shard is damaged, the third has lost its facts.
    first, third = (out / f"prepared-train.tfrecord-0000{index}-of-00004" for index in (0, 2))
    first.write_bytes(first.read_bytes()[:-1])
    (out / WORK / f"{third.name}.npz").write_bytes(b"nothing")
    report = prepare(*opened, str(out), settings)
    assert steps[-1] == (15, 15) and report.handled < 15 and files_of(out) == whole
    assert prepare(*opened, str(out), settings).handled == 0 and files_of(out) == whole


WEBP = "a WebP image; only JPEG and PNG are read: convert it with `mogrify -format jpg newt/webp.jpg`"
BAD = {
    "empty.jpg": (b"", "not a JPEG or PNG file"),
    "webp.jpg": (encoded(photo(30, 20), "WEBP"), WEBP),
    "header_only.jpg": (GOOD[:20] + b"\xff\xd9", "Invalid JPEG data"),
    "bomb.jpg": (claiming(GOOD, 20000, 20000), "claims more than 134,217,728 pixels"),
    "tab\x1b[2J.jpg": (b"no image", "not a JPEG or PNG file"),
}


def test_bad_files_are_left_out_and_listed(tmp_path):
    train = {"cat/row.jpg": encoded(photo(9, 1)), "cat/cmyk.jpg": encoded(photo(280, 270).convert("CMYK"))}
    train |= {"cat/png.JPEG": encoded(photo(9, 9), "PNG")}
    train |= {f"newt/{name}": data for name, (data, _) in BAD.items()} | {"newt/good.jpg": GOOD, "newt/y.gif": GOOD}
    write_folder(tmp_path / "train", train)
    write_folder(tmp_path / "val", {"cat/good.jpg": GOOD, "newt/good.jpg": GOOD})
    out, fail = str(tmp_path / "out"), Settings(shard_images=5, bad_images="fail")
    with pytest.raises(RunError, match=r"train/newt/y.gif: is one of 1 files that are not read; .*bad_images=skip"):
        prepare(*sources.open_folder(str(tmp_path)), out, fail)
    (tmp_path / "train" / "newt" / "y.gif").unlink()
    train, val = sources.open_folder(str(tmp_path))
    with pytest.raises(RunError, match=r"train/newt/\S+: .*; repair or remove it, or .* --bad_images=skip") as caught:
        prepare(train, val, out, fail)
    assert str(caught.value).isprintable()
    manifest, *_ = prepare(train, val, out, Settings(shard_images=5))
    reasons = {entry["name"]: entry["reason"] for entry in manifest["splits"]["train"]["skipped"]}
    assert reasons.keys() == {f"newt/{name}" for name in BAD}
    for name, (_, words) in BAD.items():
        assert words in reasons[f"newt/{name}"] and "{{" not in reasons[f"newt/{name}"], reasons
    found, _ = open_prepared(out, 100)
    assert (found.count, found.label_counts) == (4, (3, 1))
    assert statistics.summarize(train).skipped == tuple(sorted(reasons))


def test_a_file_that_can_be_read_again_is_not_left_out(tmp_path, monkeypatch):
    write_folder(tmp_path / "train", images("train", 6))
    write_folder(tmp_path / "val", images("val", 3))
    train, val = sources.open_folder(str(tmp_path))
    path, check = tmp_path / "train" / "wolf" / "02.jpeg", sources.FolderSource.check_readable
    path.rename(tmp_path / "away")

    def back(self, key):
        (tmp_path / "away").rename(path)
        check(self, key)

    monkeypatch.setattr(sources.FolderSource, "check_readable", back)
    with pytest.raises(RunError, match="train/wolf/02.jpeg: could be read at the second attempt only; start again"):
        prepare(train, val, str(tmp_path / "out"), Settings(**SMALL))
    manifest, *_ = prepare(train, val, str(tmp_path / "out"), Settings(**SMALL))
    assert not manifest["splits"]["train"]["skipped"]


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


def refuse(out, opened, words, **settings):
    with pytest.raises(UsageError, match=words) as caught:
        prepare(*opened, str(out), Settings(**(SMALL | settings)))
    assert "\n" not in str(caught.value)


def test_folders_that_hold_something_else(prepared, opened, tmp_path, monkeypatch):
    out, _ = prepared
    before = files_of(out)
    refuse(out, opened, "prepared with --size=256; prepare into another folder", size=300)
    refuse(out, tuple(reversed(opened)), "prepared with another source; prepare into another folder")
    assert files_of(out) == before
    write_folder(tmp_path, {"mine/letter.txt": b"dear"})
    refuse(tmp_path / "mine", opened, r"holds something else already \(letter.txt\); name a new or an empty folder")
    refuse(tmp_path / "mine" / "letter.txt", opened, "letter.txt: is a file; name a folder")
    with pytest.raises(ArgumentError, match="size must be 256 for raw images"):
        Settings(encoding="raw", size=300)

    def second(done, total):
        refuse(tmp_path / "out", opened, "another process is preparing images into it; wait for it to end")
        raise KeyboardInterrupt

    at_progress(monkeypatch, second)
    with pytest.raises(KeyboardInterrupt):
        prepare(*opened, str(tmp_path / "out"), Settings(**SMALL))
    refuse(tmp_path / "out", opened, "prepared with --seed=2012; prepare into another folder", seed=3)


def test_a_full_disk(opened, prepared, tmp_path):
    out, whole, limit = tmp_path / "out", files_of(prepared[0]), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # A file that may not grow any further is what a full disk is to whoever writes.
        resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, limit[1]))
        with pytest.raises((OSError, tf.errors.OpError)):
            prepare(*opened, str(out), Settings(**SMALL))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not [name for name in os.listdir(out) if name.startswith(".writing")]
    prepare(*opened, str(out), Settings(**SMALL))
    assert files_of(out) == whole


def test_changes_are_found_before_anything_is_believed(opened, tmp_path):
    out, places, shard = str(tmp_path), tmp_path / "places.npz", tmp_path / "prepared-train.tfrecord-00001-of-00003"
    manifest, *_ = prepare(*opened, out, Settings(encoding="raw", shard_images=4))
    check_files(out, manifest, shards_too=True)
    content, known = shard.read_bytes(), places.read_bytes()
    shard.write_bytes(content[:9000] + b"?" + content[9001:])
    with pytest.raises(RunError, match="00001-of-00003: has changed since it was prepared"):
        check_files(out, manifest, shards_too=True)
    for path, damaged, words in (
        (shard, content[:-1], f"00001-of-00003: has {len(content) - 1} bytes instead of"),
        (places, known[:-1] + b"x", "places.npz: has changed since it was prepared"),
        (places, None, "places.npz: is missing"),
        *((tmp_path / "manifest.json", each, "is not a manifest") for each in (b"", b"[]", b'{"format": 0}')),
        (tmp_path / "manifest.json", None, r"holds no prepared images \(manifest.json\)"),
    ):
        path.write_bytes(damaged) if damaged is not None else path.unlink()
        with pytest.raises(UsageError, match=rf"--data_dir={tmp_path}.*{words}"):
            open_prepared(out, 100)


# Apache Beam, in a process of its own: the runner opens connections, which tests here do not, and outliving threads.
BEAM = """
import functools, sys
from keras_alexnet.data import prepare, sources
from keras_alexnet.errors import RunError
source, other, out = sys.argv[1:]
settings = prepare.Settings(shard_images=4, encoding="raw")
options = {"write": prepare.beam_writer(functools.partial(sources.open_folder, source), ["--runner=DirectRunner"])}
prepare.progress_bar = lambda label: print
print(prepare.prepare(*sources.open_folder(source), out, settings, **options).handled)
try:
    prepare.prepare(*sources.open_folder(other), out + "2", settings, **options)
except RunError as error:
    print(error)
"""


def test_beam_writes_the_same_records_and_statistics(folder, opened, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed")
    for split in ("train", "val"):
        write_folder(tmp_path / "other" / split, {f"{name}/a.jpg": GOOD for name in CLASSES})
    command = [sys.executable, "-c", BEAM, str(folder), str(tmp_path / "other"), str(tmp_path / "beam")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    *steps, error = done.stdout.splitlines()
    assert steps == ["10 15", "15 15", "15"] and error.startswith("Apache Beam: ")
    assert "train: a worker finds other files than the program that started it" in error
    prepare(*opened, str(tmp_path / "alone"), Settings(shard_images=4, encoding="raw"))
    assert files_of(tmp_path / "beam") == files_of(tmp_path / "alone")
    with pytest.raises(UsageError, match="--shard_imges: is neither an option of this program nor one of Beam's"):
        preparation.beam_writer(None, ["--shard_imges=4"])
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UsageError, match=r"--beam: needs Apache Beam: pip install 'keras-alexnet\[beam\]'"):
        preparation.beam_writer(None, [])
