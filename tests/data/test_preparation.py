"""Preparation: what is stored, that it is the same bytes however it came about, and what does not fit."""

import hashlib
import io
import json
import os
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

from keras_alexnet.data import preparation, shards, sources, statistics
from keras_alexnet.data.decoding import decode_center
from keras_alexnet.data.preparation import Settings, prepare
from keras_alexnet.errors import RunError, UsageError
from tests.data.conftest import encoded, photo, write_folder
from tests.data.test_decoding import claiming

ROOT = Path(__file__).parents[2]
SMALL = {"shard_images": 4, "quality": 80}
CLASSES = ("cat", "newt", "wolf")


def pictures(split, count):
    """{CLASS/FILE: bytes}, sizes above and below 256, both kinds of files."""
    files = {}
    for index in range(count):
        picture = photo(280 + 13 * index, 300 - 9 * index, seed=len(split))
        kind = ("JPEG", "PNG")[index % 5 == 3]
        files[f"{CLASSES[index % 3]}/{index:02d}.{kind.lower()}"] = encoded(picture, kind)
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    write_folder(root / "train", pictures("train", 10))
    write_folder(root / "val", pictures("val", 5))
    return root


@pytest.fixture(scope="module")
def opened(folder):
    return sources.open_folder(str(folder))


@pytest.fixture(scope="module")
def prepared(opened, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "jpeg"
    return out, prepare(*opened, str(out), Settings(**SMALL), threads=2)


def files_of(folder):
    """{name: SHA-256} of everything below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def items_of(source):
    return list(source.items().map(source.loader()).as_numpy_iterator())


def test_what_is_in_the_folder(prepared, opened):
    out, report = prepared
    assert sorted(os.listdir(out)) == sorted(
        [
            *("dataset_info.json", "features.json", "label.labels.txt", "manifest.json", "statistics.npz"),
            *(f"prepared-train.tfrecord-0000{index}-of-00003" for index in range(3)),
            *(f"prepared-validation.tfrecord-0000{index}-of-00002" for index in range(2)),
        ]
    )
    assert (report.images, report.skipped) == ({"train": 10, "validation": 5}, {"train": 0, "validation": 0})
    assert report.handled == 15 and report.seconds > 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"] == {"size": 256, "encoding": "jpeg", "quality": 80, "shard_images": 4, "seed": 2012}
    assert manifest["class_names"] == list(CLASSES)
    assert [shard["images"] for shard in manifest["splits"]["train"]["shards"]] == [4, 4, 2]
    assert manifest["splits"]["train"]["label_counts"] == [4, 3, 3]
    assert manifest["source"]["train"] == {"name": "train", "files": 10, "fingerprint": opened[0].fingerprint()}
    sums = files_of(out)
    listed = {shard["file"]: shard["sha256"] for facts in manifest["splits"].values() for shard in facts["shards"]}
    assert manifest["checksums"] | listed == {name: value for name, value in sums.items() if name != "manifest.json"}
    assert report.bytes == sum((out / name).stat().st_size for name in listed)


def test_images_are_the_decoded_ones_as_jpegs_of_that_quality(prepared, opened):
    out, _ = prepared
    for split, source in zip(sources.open_records(str(out), 100), opened, strict=True):
        originals = {name.decode(): (data, label) for name, data, label in items_of(source)}
        builder = tfds.builder_from_directory(str(out))
        examples = builder.as_dataset(
            split=split.name.split()[1], decoders={"image": tfds.decode.SkipDecoding()}, shuffle_files=False
        )
        by_file = {example["file_name"].decode(): example for example in examples.as_numpy_iterator()}
        assert by_file.keys() == originals.keys()
        for name, (data, label) in originals.items():
            assert by_file[name]["label"] == label
            expected = tf.io.encode_jpeg(decode_center(tf.constant(data)), quality=80)
            assert by_file[name]["image"] == expected.numpy()
            with Image.open(io.BytesIO(by_file[name]["image"])) as opened_image:
                assert opened_image.size == (256, 256)


def test_tensorflow_datasets_reads_it_by_itself(prepared):
    out, _ = prepared
    builder = tfds.builder_from_directory(str(out))
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 10, "validation": 5}
    assert builder.info.features["label"].names == list(CLASSES)
    seen = [(image.shape, int(label)) for image, label in builder.as_dataset(split="train", as_supervised=True)]
    assert len(seen) == 10 and {shape for shape, _ in seen} == {(256, 256, 3)}
    assert builder.info.splits["train[3:7]"].num_examples == 4


def test_the_order_is_mixed_and_fixed(prepared, opened, tmp_path):
    out, _ = prepared
    train, _ = sources.open_records(str(out), 100)
    order = [label for _, _, label in items_of(train)]
    by_class = [label for _, _, label in items_of(opened[0])]
    assert order != by_class and sorted(order) == by_class
    prepare(*opened, str(tmp_path / "again"), Settings(**SMALL), threads=1)
    assert files_of(tmp_path / "again") == files_of(out)
    prepare(*opened, str(tmp_path / "other"), Settings(**SMALL, seed=1))
    other = [label for _, _, label in items_of(sources.open_records(str(tmp_path / "other"), 100)[0])]
    assert other != order


def test_statistics_are_those_of_the_source(prepared, opened):
    out, _ = prepared
    found, expected = statistics.load(str(out / "statistics.npz")), statistics.compute(opened[0])
    for name in ("mean_image", "rgb_mean", "rgb_covariance"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (found.count, found.label_counts) == (10, (4, 3, 3))
    assert found.fingerprint == sources.open_records(str(out), 100)[0].fingerprint()


def test_raw_images(opened, tmp_path):
    out = tmp_path / "raw"
    prepare(*opened, str(out), Settings(encoding="raw", shard_images=4))
    originals = {name.decode(): decode_center(tf.constant(data)).numpy() for name, data, _ in items_of(opened[0])}
    examples = tfds.builder_from_directory(str(out)).as_dataset(split="train")
    for example in examples.as_numpy_iterator():
        np.testing.assert_array_equal(example["image"], originals[example["file_name"].decode()])
    train, val = sources.open_records(str(out), 100)
    assert (train.count, val.count, train.stored) == (10, 5, "raw")
    # By their places: the same numbers, in the order of the records.
    for example, (_, image, label) in zip(examples.as_numpy_iterator(), items_of(train), strict=True):
        np.testing.assert_array_equal(image, example["image"])
        assert label == example["label"]


def test_another_size_is_resized_when_it_is_read(opened, tmp_path):
    prepare(*opened, str(tmp_path / "large"), Settings(size=300, **SMALL))
    train, _ = sources.open_records(str(tmp_path / "large"), 100)
    assert train.stored == ""
    for _, data, _ in items_of(train):
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (300, 300)
    # The mean is that of what training will see.
    seen = np.stack([decode_center(tf.constant(data)).numpy() for _, data, _ in items_of(train)])
    found = statistics.load(str(tmp_path / "large" / "statistics.npz"))
    np.testing.assert_allclose(found.mean_image, seen.mean(0), atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"encoding": "raw"}], ids=["jpeg", "raw"])
def test_an_interruption_leaves_whole_shards_and_ends_in_the_same_bytes(opened, tmp_path, settings):
    settings = Settings(shard_images=3, **settings)
    prepare(*opened, str(tmp_path / "whole"), settings)
    out = tmp_path / "interrupted"

    def until(limit, steps):
        def progress(done, total):
            assert total == 15
            steps.append(done)
            if done >= limit:
                raise KeyboardInterrupt

        return progress

    for limit in (1, 5, 11):
        with pytest.raises(KeyboardInterrupt):
            prepare(*opened, str(out), settings, progress=until(limit, []))
        there = [name for name in os.listdir(out) if name.startswith("prepared-")]
        assert all((out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in there)
        assert not (out / "manifest.json").exists()
        with pytest.raises(UsageError, match="not prepared to the end; start its preparation again"):
            sources.open_records(str(out), 100)
    steps = []
    report = prepare(*opened, str(out), settings, progress=until(99, steps))
    assert steps[-1] == 15 and steps[0] > 9
    assert report.handled < 15  # what was there was not done again
    assert files_of(out) == files_of(tmp_path / "whole")


def test_a_finished_folder_is_left_as_it_is(prepared, opened):
    out, _ = prepared
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    report = prepare(*opened, str(out), Settings(**SMALL))
    assert report.handled == 0 and report.images == {"train": 10, "validation": 5}
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


KILLED = """
import sys
from keras_alexnet.data import preparation, sources
train, val = sources.open_folder(sys.argv[1])
settings = preparation.Settings(shard_images=2, quality=80)
preparation.prepare(train, val, sys.argv[2], settings, progress=lambda done, total: print(done, flush=True))
"""


def kill_and_go_on(folder, out, when):
    """Kills a preparation after so many lines of progress, then lets it go on to its end; returns its files."""
    command = [sys.executable, "-c", KILLED, str(folder), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        for _ in range(int(when) + 1):
            process.stdout.readline()
        time.sleep(when % 1 / 10)
        process.send_signal(signal.SIGKILL)
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return files_of(out)


def test_killed_and_started_again(folder, opened, tmp_path):
    prepare(*opened, str(tmp_path / "whole"), Settings(shard_images=2, quality=80))
    assert kill_and_go_on(folder, tmp_path / "killed", 3.4) == files_of(tmp_path / "whole")


@pytest.mark.slow
def test_killed_at_twenty_moments(folder, opened, tmp_path):
    prepare(*opened, str(tmp_path / "whole"), Settings(shard_images=2, quality=80))
    for index, when in enumerate(np.random.default_rng(0).uniform(0, 8, 20)):
        assert kill_and_go_on(folder, tmp_path / str(index), when) == files_of(tmp_path / "whole"), when


# What is no image, and what is.
GOOD = encoded(photo(300, 280))
STRANGE = {
    "cmyk.jpg": encoded(photo(280, 270).convert("CMYK")),
    "grey.jpg": encoded(photo(280, 270).convert("L")),
    "png_named.JPEG": encoded(photo(280, 270), "PNG"),
    "row.jpg": encoded(photo(9, 1)),
    "column.jpg": encoded(photo(1, 9)),
}
BAD = {
    "empty.jpg": (b"", "not a JPEG or PNG file"),
    "text.jpg": (b"no image", "not a JPEG or PNG file"),
    "gif.jpg": (encoded(photo(30, 20), "GIF"), "not a JPEG or PNG file"),
    "cut.jpg": (GOOD[: len(GOOD) // 2], "Invalid JPEG data"),
    "header_only.jpg": (GOOD[:20], "Invalid JPEG data"),
    "cut.png": (encoded(photo(90, 70), "PNG")[:500], "Invalid PNG"),
    "bomb.jpg": (claiming(GOOD, 20000, 20000), "claims more than 134,217,728 pixels"),
    "bomb.png": (claiming(encoded(photo(90, 70), "PNG"), 20000, 20000), "claims more than 134,217,728 pixels"),
}


def with_strange_files(root):
    train = {f"cat/{name}": data for name, data in STRANGE.items()}
    train |= {f"newt/{name}": data for name, (data, _) in BAD.items()} | {"newt/good.jpg": GOOD}
    write_folder(root / "train", train)
    write_folder(root / "val", {"cat/good.jpg": GOOD, "newt/good.jpg": GOOD})
    return sources.open_folder(str(root))


def test_bad_files_are_left_out_and_listed(tmp_path):
    train, val = with_strange_files(tmp_path / "in")
    out = tmp_path / "out"
    report = prepare(train, val, str(out), Settings(shard_images=5))
    assert report.images == {"train": len(STRANGE) + 1, "validation": 2}
    assert report.skipped == {"train": len(BAD), "validation": 0}
    listed = preparation.manifest_of(str(out))["splits"]["train"]["skipped"]
    reasons = {entry["name"]: entry["reason"] for entry in listed}
    assert reasons.keys() == {f"newt/{name}" for name in BAD}
    for name, (_, words) in BAD.items():
        assert words in reasons[f"newt/{name}"], reasons
        assert "{{" not in reasons[f"newt/{name}"] and "\n" not in reasons[f"newt/{name}"]
    found, _ = sources.open_records(str(out), 100)
    assert (found.count, found.label_counts) == (len(STRANGE) + 1, (len(STRANGE), 1))
    assert sum(1 for _ in found.items()) == found.count
    assert statistics.load(str(out / "statistics.npz")).count == found.count


def test_bad_files_stop_it_where_they_are_to(tmp_path):
    train, val = with_strange_files(tmp_path / "in")
    with pytest.raises(RunError, match=r"train/newt/\S+: .*; mend or remove it, or .* --bad_images=skip"):
        prepare(train, val, str(tmp_path / "out"), Settings(shard_images=5, bad_images="fail"))
    # Nothing that was written is lost, and skipping goes on from there.
    prepare(train, val, str(tmp_path / "out"), Settings(shard_images=5))


def test_a_file_that_has_gone_is_one_that_cannot_be_read(folder, tmp_path):
    write_folder(tmp_path / "train", pictures("train", 6))
    write_folder(tmp_path / "val", pictures("val", 3))
    train, val = sources.open_folder(str(tmp_path))
    (tmp_path / "train" / "wolf" / "02.jpeg").unlink()
    prepare(train, val, str(tmp_path / "out"), Settings(**SMALL))
    (entry,) = preparation.manifest_of(str(tmp_path / "out"))["splits"]["train"]["skipped"]
    assert entry["name"] == "wolf/02.jpeg" and "No such file" in entry["reason"]


def test_not_one_image(tmp_path):
    write_folder(tmp_path / "train", {"cat/a.jpg": b"no image"})
    write_folder(tmp_path / "val", {"cat/a.jpg": GOOD})
    train, val = sources.open_folder(str(tmp_path))
    with pytest.raises(RunError, match="train: none of the 1 files is an image that can be decoded"):
        prepare(train, val, str(tmp_path / "out"), Settings())


def refuse(out, opened, words, **settings):
    with pytest.raises(UsageError, match=words) as caught:
        prepare(*opened, str(out), Settings(**(SMALL | settings)))
    assert "\n" not in str(caught.value)


def test_folders_that_hold_something_else(prepared, opened, tmp_path):
    out, _ = prepared
    before = files_of(out)
    refuse(out, opened, "prepared with --size=256; prepare into another folder", size=300)
    refuse(out, opened, "prepared with --quality=80; prepare into another folder", quality=81)
    refuse(out, tuple(reversed(opened)), "prepared with another source; prepare into another folder")
    assert files_of(out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    refuse(tmp_path / "mine", opened, r"holds something else already \(letter.txt\); name a new or an empty folder")
    refuse(tmp_path / "mine" / "letter.txt", opened, "letter.txt: is a file; name a folder")
    assert os.listdir(tmp_path / "mine") == ["letter.txt"]


def test_an_unfinished_folder_of_other_settings(opened, tmp_path):
    with pytest.raises(ZeroDivisionError):
        prepare(*opened, str(tmp_path / "out"), Settings(**SMALL), progress=lambda done, total: 1 / 0)
    refuse(tmp_path / "out", opened, "prepared with --seed=2012; prepare into another folder", seed=3)


def test_two_preparations_into_one_folder(opened, tmp_path):
    out = tmp_path / "out"

    def second(done, total):
        refuse(out, opened, "another process is preparing images into it; wait for it to end")
        tried.append(done)

    tried = []
    prepare(*opened, str(out), Settings(**SMALL), progress=second)
    assert tried


def test_classes_that_differ(opened, tmp_path):
    write_folder(tmp_path / "train", {"cat/a.jpg": GOOD})
    write_folder(tmp_path / "val", {"cat/a.jpg": GOOD})
    other, _ = sources.open_folder(str(tmp_path))
    refuse(tmp_path / "out", (opened[0], other), "train and train have different classes")


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"size": 7}, "--size=7: give a number from 8 to 4096"),
        ({"quality": 101}, "--quality=101: give a number from 1 to 100"),
        ({"shard_images": 0}, "--shard_images=0: give a number from 1"),
        ({"seed": -1}, "--seed=-1: give a number from 0"),
        ({"encoding": "gif"}, "--encoding=gif: give jpeg or raw"),
        ({"bad_images": "mend"}, "--bad_images=mend: give skip or fail"),
        ({"encoding": "raw", "size": 300}, "--size=300: raw images are stored as training takes them, with 256"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_make_no_sense(settings, words):
    with pytest.raises(UsageError, match=words):
        Settings(**settings)


FULL = """
import resource, signal, sys
from keras_alexnet.data import preparation, sources
from keras_alexnet.cli import run_command
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
train, val = sources.open_folder(sys.argv[1])
def main(argv):
    limit = int(sys.argv[3])
    if limit:
        # A file that may not grow any further: what a full disk is to whoever writes.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    preparation.prepare(train, val, sys.argv[2], preparation.Settings(shard_images=4, quality=80))
sys.exit(run_command("prepare_dataset", main, []))
"""


def test_a_disk_that_is_full(folder, prepared, tmp_path):
    out = tmp_path / "out"

    def run(limit):
        command = [sys.executable, "-c", FULL, str(folder), str(out), str(limit)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    done = run(90_000)  # the last shard of training fits, the others do not
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("prepare_dataset: ")
    assert "Traceback" not in done.stderr
    assert not [name for name in os.listdir(out / shards.WORK) if name.startswith(shards.ASIDE)]
    whole, _ = prepared
    for name in os.listdir(out):
        if name.startswith("prepared-"):
            assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert run(0).returncode == 0
    assert files_of(out) == files_of(whole)


def test_a_shard_that_was_damaged_before_the_end_is_made_anew(opened, prepared, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        prepare(*opened, str(out), Settings(**SMALL), progress=lambda done, total: done > 9 and 1 / 0)
    first, second = (out / f"prepared-train.tfrecord-0000{index}-of-00003" for index in (0, 1))
    first.write_bytes(first.read_bytes()[:-1])
    (out / shards.WORK / f"{second.name}.npz").write_bytes(b"nothing")
    prepare(*opened, str(out), Settings(**SMALL))
    assert files_of(out) == files_of(prepared[0])


def test_check_finds_what_has_changed(opened, tmp_path):
    out = tmp_path / "out"
    prepare(*opened, str(out), Settings(**SMALL))
    preparation.check(str(out))
    shard = out / "prepared-train.tfrecord-00001-of-00003"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(RunError, match="00001-of-00003: has changed since it was prepared"):
        preparation.check(str(out))
    shard.write_bytes(content[:-1])
    with pytest.raises(UsageError, match=rf"--data_dir=.*00001-of-00003: has {len(content) - 1} bytes instead of"):
        sources.open_records(str(out), 100)
    shard.unlink()
    with pytest.raises(RunError, match="00001-of-00003: has gone"):
        preparation.check(str(out))
    with pytest.raises(RunError, match="00001-of-00003: has gone"):
        prepare(*opened, str(out), Settings(**SMALL))


@pytest.mark.parametrize("name", ["statistics.npz", "dataset_info.json", "features.json", "places.npz"])
def test_what_describes_the_shards_is_checked_before_it_is_believed(opened, tmp_path, name):
    prepare(*opened, str(tmp_path), Settings(encoding="raw"))
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match=rf"--data_dir=\S+{name}: has changed since it was prepared"):
        sources.open_records(str(tmp_path), 100)
    path.unlink()
    with pytest.raises(UsageError, match=rf"--data_dir=\S+{name}: has gone"):
        sources.open_records(str(tmp_path), 100)


def test_records_are_a_source_too(prepared, tmp_path):
    out, _ = prepared
    again = sources.open_records(str(out), 3)
    report = prepare(*again, str(tmp_path / "again"), Settings(shard_images=3, encoding="raw"))
    assert report.images == {"train": 10, "validation": 5}
    expected = {name.decode(): decode_center(tf.constant(data)).numpy() for name, data, _ in items_of(again[0])}
    examples = tfds.builder_from_directory(str(tmp_path / "again")).as_dataset(split="train")
    for example in examples.as_numpy_iterator():
        np.testing.assert_array_equal(example["image"], expected.pop(example["file_name"].decode()))
    assert not expected


def test_folders_that_are_not_prepared(tmp_path):
    with pytest.raises(UsageError, match=r"--data_dir=\S+: holds no prepared images \(manifest.json\)"):
        sources.open_records(str(tmp_path), 100)
    for content in ("", "[]", "{}", '{"format": 0, "splits": {}}'):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(UsageError, match=r"manifest.json: is no manifest of this version"):
            sources.open_records(str(tmp_path), 100)
