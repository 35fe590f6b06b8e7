"""Sets that are stored as records, opened: those of TensorFlow Datasets and prepared folders."""

import dataclasses
import functools
import hashlib
import json
import logging
import os

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader

from keras_alexnet.data.decoding import SHORTER_SIDE, STORED_SIZE
from keras_alexnet.data.records import RawSource, RecordSource
from keras_alexnet.data.sources import check_class_names
from keras_alexnet.errors import RunError, UsageError

# What is in a prepared folder; `keras_alexnet.data.prepare` writes it.
MANIFEST = "manifest.json"  # written last: a folder that has it is whole
STATISTICS = "statistics.npz"
PLACES = "places.npz"  # of raw images: where in which file the pixels of each begin, and its label
FORMAT = 1  # to be raised when the same source and settings give other bytes
WORK = ".preparing"  # a folder of what is needed only until all shards are there
SPLITS = ("train", "validation")
IMAGE, LABEL, FILE_NAME = "image", "label", "file_name"  # keys of the features

_TRIES, _CONNECT_SECONDS, _READ_SECONDS = 3, 5, 60  # of a download; the library itself tries for minutes


def open_tfds(name, data_dir, train_split, val_split, shuffle_buffer):
    """Two splits, RecordSource, of any image classification set of TensorFlow Datasets; prepared where needed.

    Splits are in the library's notation, such as "train[:80%]", or None (see `--val_split`). Raises UsageError where
    the set or a split is unknown, cannot be had, or is not one of labeled images.
    """
    builder, keys = _open_builder(name, data_dir)
    if not {"validation", "test"} & set(builder.info.splits):
        if (train_split is None) != (val_split is None):
            problem = "has one split only; give both --train_split and --val_split, or neither"
            raise UsageError(f"--dataset={name}: {problem}")
        train_split, val_split = train_split or "train[:80%]", val_split or "train[80%:]"
    train_split = train_split or "train"
    val_split = val_split or ("validation" if "validation" in builder.info.splits else "test")
    train = _split_of(builder, name, keys, "train_split", train_split, shuffle_buffer)
    val = _split_of(builder, name, keys, "val_split", val_split, shuffle_buffer)
    ranges = [list(zip(source.paths, source.first, source.ends, strict=True)) for source in (train, val)]
    if any(a == b and low < end and start < high for a, low, high in ranges[0] for b, start, end in ranges[1]):
        raise UsageError(f"--val_split={val_split}: has images of --train_split={train_split} in it; keep them apart")
    return train, val


def open_tfds_split(name, data_dir, split, shuffle_buffer):
    """One split of a set of TensorFlow Datasets: RecordSource. Args and errors as of `open_tfds`."""
    builder, keys = _open_builder(name, data_dir)
    return _split_of(builder, name, keys, "split", split, shuffle_buffer)


def open_prepared(data_dir, shuffle_buffer):
    """The splits of a prepared folder: (training, validation), RecordSource or RawSource.

    Raises UsageError where the folder is not a prepared one, or something in it is missing or has changed.
    """
    try:
        manifest = read_manifest(data_dir)
        check_files(data_dir, manifest)
    except (UsageError, RunError) as error:
        raise UsageError(f"--data_dir={error}") from None
    settings = manifest["settings"]
    if settings["encoding"] == "raw":
        return tuple(_raw_source(data_dir, manifest, split) for split in SPLITS)
    builder, opened = tfds.builder_from_directory(data_dir), []
    for split, facts in manifest["splits"].items():
        source = of_builder(builder, "records", split, IMAGE, LABEL, shuffle_buffer)
        known = {"identity": facts["fingerprint"], "label_counts": tuple(facts["label_counts"])}
        stored = "jpeg" if settings["size"] == STORED_SIZE else ""
        opened.append(dataclasses.replace(source, stored=stored, resize=settings["resize"], **known))
    return tuple(opened)


def read_manifest(folder):
    """The manifest of a prepared folder, dict. Raises UsageError where it is missing or something else."""
    path = os.path.join(folder, MANIFEST)
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
        if manifest["format"] != FORMAT or set(manifest["splits"]) != set(SPLITS):
            raise ValueError
        manifest["settings"].setdefault("resize", SHORTER_SIDE)  # which a folder of version 0.1.0 does not say
        return manifest
    except FileNotFoundError:
        if os.path.isdir(os.path.join(folder, WORK)):
            raise UsageError(f"{folder}: is not completely prepared; the same preparation again resumes") from None
        raise UsageError(f"{folder}: holds no prepared images ({MANIFEST}); see tools/prepare_dataset.py") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: is not a manifest of this version; prepare into another folder") from None


def check_files(folder, manifest, shards_too=False, progress=None):
    """Raises RunError unless a prepared folder is as its manifest says; of shards only in size without `shards_too`."""
    shards = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    files = [{"file": name, "sha256": sha256, "bytes": None} for name, sha256 in manifest["checksums"].items()]
    done, total = 0, sum(shard["bytes"] for shard in shards)
    for each in files + shards:
        path, size = os.path.join(folder, each["file"]), each["bytes"]
        problem = None if os.path.isfile(path) else "is missing"
        if not problem and size is not None and os.path.getsize(path) != size:
            problem = f"has {os.path.getsize(path)} bytes instead of {size}"
        if not problem and (shards_too or size is None) and sha256_of(path) != each["sha256"]:
            problem = "has changed since it was prepared"
        if problem:
            raise RunError(f"{path}: {problem}; prepare it again, into another folder")
        done += size or 0
        if progress:
            progress(done, total)


def sha256_of(path):
    """The SHA-256 of a file, str."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def of_builder(builder, name, split, image_key, label_key, shuffle_buffer):
    """One split of a tfds.core.DatasetBuilder whose files are there: RecordSource. `name`: str, for messages.

    Raises UsageError where the files are not TFRecords, KeyError or ValueError where the split is unknown.
    """
    info = builder.info
    parts = info.splits[split].file_instructions
    if info.file_format.value != "tfrecord":
        problem = f"is stored as {info.file_format.value}, and only tfrecord is read"
        raise UsageError(f"--dataset={name}: {problem}; prepare it with file_format=tfrecord")
    class_names = tuple(info.features[label_key].names)
    check_class_names(class_names, f"--dataset={name}")
    return RecordSource(
        name=f"{name} {split}",
        identity=f"{info.full_name} {split}",
        paths=tuple(part.filename for part in parts),
        first=tuple(part.skip for part in parts),
        ends=tuple(part.skip + part.take for part in parts),
        image_key=image_key,
        label_key=label_key,
        class_names=class_names,
        shuffle_buffer=shuffle_buffer,
    )


def _raw_source(data_dir, manifest, split):
    """A split of raw images, by the places that its preparation has noted."""
    facts = manifest["splits"][split]
    with np.load(os.path.join(data_dir, PLACES), allow_pickle=False) as places:
        columns = {name: places[f"{split}_{name}"] for name in ("files", "offsets", "labels")}
    return RawSource(
        name=f"records {split}",
        identity=facts["fingerprint"],
        paths=tuple(os.path.join(data_dir, shard["file"]) for shard in facts["shards"]),
        **columns,
        class_names=tuple(manifest["class_names"]),
        label_counts=tuple(facts["label_counts"]),
        resize=manifest["settings"]["resize"],
    )


def is_prepared(name, data_dir):
    """Whether a set of TensorFlow Datasets is on the disk already, bool. Raises UsageError where it is unknown."""
    return bool(_builder(name, data_dir).info.splits)


def _builder(name, data_dir):
    try:
        return tfds.builder(name, data_dir=os.path.expanduser(data_dir) if data_dir else None)
    except (tfds.core.DatasetNotFoundError, ValueError, ImportError, AssertionError) as error:
        reason = [*str(error).strip().splitlines(), "unknown"][0]
        known = "Give the name of a TensorFlow Datasets set, folder, records or shapes."
        raise UsageError(f"--dataset={name}: {reason} {known}") from None


def _open_builder(name, data_dir):
    """A set whose files are there: (builder, (key of the image, key of the label))."""
    builder = _builder(name, data_dir)
    keys, features = builder.info.supervised_keys, builder.info.features
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    if not keys or len(keys) != 2 or not all(map(isinstance, (features[key] for key in keys), kinds)):
        raise UsageError(f"--dataset={name}: is not a set of images with one label each")
    _limit_tries()
    try:
        builder.download_and_prepare()
    except Exception as error:
        # Everything between a missing network and a changed checksum; there is no common base class. An AssertionError
        # is of files that users must fetch themselves.
        by_hand = isinstance(error, AssertionError)
        problem = "some of its files must be fetched by hand" if by_hand else "could not be downloaded and prepared"
        raise UsageError(f"--dataset={name}: {problem}: {' '.join(str(error).split())[:400]}") from None
    return builder, keys


@functools.cache
def _limit_tries():
    """Lets a download without a network fail within seconds, and without urllib3's lines on every try."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    downloader.MAX_RETRIES = _TRIES - 1
    with_timeout = functools.partial(downloader._open_with_requests, timeout=(_CONNECT_SECONDS, _READ_SECONDS))
    downloader._open_with_requests = with_timeout


def _split_of(builder, name, keys, flag, split, shuffle_buffer):
    try:
        source = of_builder(builder, name, split, *keys, shuffle_buffer)
    except UsageError:
        raise
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits)
        raise UsageError(f"--{flag}={split}: {name} has the splits {known} ({error})") from None
    if not source.count:
        raise UsageError(f"--{flag}={split}: {name} has no images there")
    return source
