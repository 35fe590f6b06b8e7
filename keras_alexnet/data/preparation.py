"""Any source -> a folder of 256x256 images that TensorFlow Datasets reads back, with the training set's statistics.

    from keras_alexnet.data import preparation
    preparation.prepare(train, val, "DATA/imagenet256", preparation.Settings())

The authors stored 256x256 JPEGs (`findsimilar.py` of the release), and so does this. Images are put into one fixed
random order and cut into shards (`keras_alexnet.data.shards`). Which bytes there are in the end depends on the source
and the settings only: not on the machine, nor on interruptions, nor on whether Apache Beam did it
(`keras_alexnet.data.beam`).
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import time

import numpy as np

from keras_alexnet.data import shards, statistics
from keras_alexnet.data.shards import SPLITS, Settings
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.files import atomic_write

MANIFEST = "manifest.json"  # written last: a folder that has it is whole
STATISTICS = "statistics.npz"
PLACES = "places.npz"  # of raw images: where in which file the numbers of each begin, and its label
FORMAT = 1  # to be raised when the same source and settings give other bytes

_LOCK = "lock"
_PLAN = "plan.json"
_NAMED = 3  # entries of a folder that an error names


@dataclasses.dataclass(frozen=True)
class Report:
    """What a preparation came to.

    Attributes:
        images: dict of split -> int.
        skipped: dict of split -> int, files that are no images.
        bytes: int, of all shards.
        handled: int, files that this call has gone through, those left out included.
        seconds: float, that it took.
    """

    images: dict
    skipped: dict
    bytes: int
    handled: int
    seconds: float


def prepare(train, val, out_dir, settings, *, threads=0, progress=None, write=shards.write):
    """Prepares both splits, or goes on where it was interrupted.

    Args:
        train, val: see `keras_alexnet.data.sources`, with the same classes.
        out_dir: str; made if it is not there.
        settings: Settings.
        threads: int, images decoded and encoded at a time; 0 for one per core.
        progress: optional function of (files done, files in all), called now and then.
        write: function as `shards.write`, which does it on this machine; for another way.

    Returns:
        Report.

    Raises:
        UsageError: the folder holds something else or another preparation, or another process is preparing into it.
        RunError: a file is no image and is not to be skipped, or none is one. Finished shards stay.
        tf.errors.OpError, OSError: the disk is full or fails. Finished shards stay.
    """
    started, handled = time.perf_counter(), 0
    plan = _plan(train, val, settings)
    if os.path.isfile(os.path.join(out_dir, MANIFEST)):
        manifest = manifest_of(out_dir)
        _check_same(out_dir, {name: manifest[name] for name in plan}, plan)
        check_sizes(out_dir, manifest)
        # A process that ended between the manifest and this has left its folder behind.
        shutil.rmtree(os.path.join(out_dir, shards.WORK), ignore_errors=True)
        return _report(manifest, 0, time.perf_counter() - started)
    with _taken(out_dir, plan):
        done = 0
        for source, split in zip((train, val), SPLITS, strict=True):
            count = settings.shards_of(source.count)
            todo = [number for number in range(count) if shards.read(out_dir, split, number, count) is None]
            done += source.count - sum(len(settings.places_of(number, source.count)) for number in todo)
            for images in write(source, split, todo, out_dir, settings, threads):
                done, handled = done + images, handled + images
                if progress:
                    progress(done, train.count + val.count)
        manifest = _finish(train, val, out_dir, plan)
    shutil.rmtree(os.path.join(out_dir, shards.WORK))
    return _report(manifest, handled, time.perf_counter() - started)


def manifest_of(out_dir):
    """The manifest of a prepared folder, dict.

    Raises:
        UsageError: there is none, or it is none.
    """
    path = os.path.join(out_dir, MANIFEST)
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
        if manifest["format"] != FORMAT or set(manifest["splits"]) != set(SPLITS):
            raise ValueError
        return manifest
    except FileNotFoundError:
        if os.path.isdir(os.path.join(out_dir, shards.WORK)):
            raise UsageError(f"{out_dir}: is not prepared to the end; start its preparation again to go on") from None
        raise UsageError(f"{out_dir}: holds no prepared images ({MANIFEST}); see tools/prepare_dataset.py") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: is no manifest of this version; prepare into another folder") from None


def check(out_dir, progress=None):
    """Reads every file of a prepared folder and compares it with the manifest's checksums.

    Args:
        out_dir: str.
        progress: optional function of (bytes done, bytes in all), called after each file.

    Raises:
        UsageError: there is no manifest.
        RunError: a file is missing or has changed.
    """
    manifest = manifest_of(out_dir)
    check_sizes(out_dir, manifest)
    listed = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    done, total = 0, sum(shard["bytes"] for shard in listed)
    for shard in listed:
        _check_sum(os.path.join(out_dir, shard["file"]), shard["sha256"])
        done += shard["bytes"]
        if progress:
            progress(done, total)


def _plan(train, val, settings):
    """What decides about every byte, dict."""
    if train.class_names != val.class_names:
        raise UsageError(f"{train.name} and {val.name} have different classes")
    recorded = {name: value for name, value in dataclasses.asdict(settings).items() if name != "bad_images"}
    if settings.encoding == "raw":
        recorded["quality"] = None
    return {
        "format": FORMAT,
        "settings": recorded,
        "source": {
            split: {"name": source.name, "files": source.count, "fingerprint": source.fingerprint()}
            for split, source in zip(SPLITS, (train, val), strict=True)
        },
    }


def _check_same(out_dir, there, plan):
    if there != plan:
        changed = [name for name in plan["settings"] if there["settings"].get(name) != plan["settings"][name]]
        what = ", ".join(f"--{name}={there['settings'].get(name)}" for name in changed) or "another source"
        raise UsageError(f"{out_dir}: holds images that were prepared with {what}; prepare into another folder")


def claim(out_dir):
    """Makes sure that a folder is there and is one to prepare images into.

    Args:
        out_dir: str; made if it is not there.

    Returns:
        str, a folder in it for what is only needed until it is prepared; None when it is prepared already.

    Raises:
        UsageError: it is a file, or holds something else.
    """
    if os.path.exists(out_dir) and not os.path.isdir(out_dir):
        raise UsageError(f"{out_dir}: is a file; name a folder")
    if os.path.isfile(os.path.join(out_dir, MANIFEST)):
        return None
    work = os.path.join(out_dir, shards.WORK)
    if not os.path.isdir(work):
        there = sorted(os.listdir(out_dir)) if os.path.isdir(out_dir) else []
        if there:
            named = ", ".join(there[:_NAMED]) + (" ..." if len(there) > _NAMED else "")
            raise UsageError(f"{out_dir}: holds something else already ({named}); name a new or an empty folder")
        os.makedirs(work)
    return work


@contextlib.contextmanager
def _taken(out_dir, plan):
    """The folder, for this process alone and for this plan alone."""
    work = claim(out_dir)
    with open(os.path.join(work, _LOCK), "w") as lock:
        try:
            # Of the open file, so that it ends with the process, however that ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{out_dir}: another process is preparing images into it; wait for it to end") from None
        path = os.path.join(work, _PLAN)
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                _check_same(out_dir, json.load(file), plan)
        else:
            with atomic_write(path) as file:
                json.dump(plan, file)
        for name in os.listdir(work):
            if name.startswith(shards.ASIDE):  # what a killed process left
                os.unlink(os.path.join(work, name))
        yield


def _finish(train, val, out_dir, plan):
    """Writes everything but the shards; returns the manifest."""
    settings = Settings(**{name: value for name, value in plan["settings"].items() if value is not None})
    splits, sums, places = {}, None, {}
    for source, split in zip((train, val), SPLITS, strict=True):
        count = settings.shards_of(source.count)
        found = [shards.read(out_dir, split, number, count) for number in range(count)]
        lost = [number for number, shard in enumerate(found) if shard is None]
        if lost:
            raise RunError(f"{out_dir}: {shards.file_of(split, lost[0], count)} has gone; start again to make it anew")
        total = statistics.Sums(len(source.class_names))
        for shard in found:
            total.merge(shard.sums)
        if not total.count:
            raise RunError(f"{source.name}: none of the {source.count} files is an image that can be decoded")
        sums = sums or total
        places[f"{split}_files"] = np.repeat(np.arange(count, dtype=np.int32), [len(shard.labels) for shard in found])
        places[f"{split}_offsets"] = np.concatenate([shard.offsets for shard in found])
        places[f"{split}_labels"] = np.concatenate([shard.labels for shard in found])
        columns = ("file", "images", "bytes", "sha256")
        listed = [{name: getattr(shard, name) for name in columns} for shard in found]
        splits[split] = {
            "images": total.count,
            "label_counts": total.label_counts.tolist(),
            "fingerprint": hashlib.sha256(json.dumps([source.class_names, listed]).encode()).hexdigest(),
            "other_files": list(source.other_files),
            "skipped": [{"name": name, "reason": reason} for shard in found for name, reason in shard.skipped],
            "shards": listed,
        }
    _describe(train, out_dir, settings, splits)
    train_split = splits[SPLITS[0]]
    identity = f"{train_split['fingerprint']} {train_split['images']}"  # as `sources.open_records` has it
    statistics.save(sums.statistics(fingerprint=identity), os.path.join(out_dir, STATISTICS))
    if settings.encoding == "raw":
        with atomic_write(os.path.join(out_dir, PLACES), "wb") as file:
            np.savez(file, **places)
    described = [name for name in sorted(os.listdir(out_dir)) if name.endswith((".json", ".txt", ".npz"))]
    manifest = {
        **plan,
        "class_names": train.class_names,
        "wordnet_ids": getattr(train, "wordnet_ids", None),
        "splits": splits,
        "checksums": {name: shards.sha256_of(os.path.join(out_dir, name)) for name in described},
    }
    with atomic_write(os.path.join(out_dir, MANIFEST)) as file:
        json.dump(manifest, file, indent=1)
    return manifest_of(out_dir)


def _describe(source, out_dir, settings, splits):
    """Writes what TensorFlow Datasets wants to know of a folder."""
    import tensorflow_datasets as tfds

    shape = (settings.size, settings.size, 3)
    if settings.encoding == "jpeg":
        image = tfds.features.Image(shape=shape, encoding_format="jpeg")
    else:
        image = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
    features = {
        shards.IMAGE: image,
        shards.LABEL: tfds.features.ClassLabel(names=list(source.class_names)),
        shards.FILE_NAME: tfds.features.Text(),
    }
    template = tfds.core.ShardedFileTemplate(data_dir=out_dir, dataset_name=shards.NAME, filetype_suffix="tfrecord")
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard["images"] for shard in facts["shards"]],
            num_bytes=sum(shard["bytes"] for shard in facts["shards"]),
            filename_template=template.replace(split=split),
        )
        for split, facts in splits.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=out_dir,
        features=features,
        split_infos=infos,
        version="1.0.0",
        check_data=False,
        supervised_keys=(shards.IMAGE, shards.LABEL),
        description=f"Images prepared by keras_alexnet: central squares of {settings.size}x{settings.size} pixels.",
    )


def _check_sum(path, sha256):
    if shards.sha256_of(path) != sha256:
        raise RunError(f"{path}: has changed since it was prepared; prepare it again, into another folder")


def check_sizes(out_dir, manifest):
    """Raises RunError unless every shard is there and as long as it was, and every other file as it was."""
    for name, sha256 in manifest["checksums"].items():
        path = os.path.join(out_dir, name)
        if not os.path.isfile(path):
            raise RunError(f"{path}: has gone; prepare it again, into another folder")
        _check_sum(path, sha256)
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            path = os.path.join(out_dir, shard["file"])
            size = os.path.getsize(path) if os.path.isfile(path) else None
            if size != shard["bytes"]:
                what = "has gone" if size is None else f"has {size} bytes instead of {shard['bytes']}"
                raise RunError(f"{path}: {what}; prepare it again, into another folder")


def _report(manifest, handled, seconds):
    splits = manifest["splits"]
    return Report(
        images={split: facts["images"] for split, facts in splits.items()},
        skipped={split: len(facts["skipped"]) for split, facts in splits.items()},
        bytes=sum(shard["bytes"] for facts in splits.values() for shard in facts["shards"]),
        handled=handled,
        seconds=seconds,
    )
