"""Any source -> a folder of 256x256 images that TensorFlow Datasets reads too, with the training set's statistics.

    prepare.prepare(train, val, "DATA/imagenet256", prepare.Settings())

The authors stored 256x256 JPEGs (`findsimilar.py` of the release), and so does this. Images are put into one fixed
random order and cut into shards. All bytes depend on the source and the settings only: not on the machine, on
interruptions or on Apache Beam.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time

import numpy as np
import tensorflow_datasets as tfds

from keras_alexnet.data import record_sets, shards, statistics
from keras_alexnet.data.record_sets import FILE_NAME, IMAGE, LABEL, MANIFEST, PLACES, SPLITS, WORK, sha256_of
from keras_alexnet.data.shards import Settings
from keras_alexnet.errors import RunError, UsageError, printable
from keras_alexnet.files import acquire, atomic_write

__all__ = ["Settings", "beam_writer", "claim", "prepare"]
_NAMED = 3  # files that an error names

Report = collections.namedtuple("Report", "manifest handled seconds")


def prepare(train, val, out_dir, settings, *, threads=0, progress=None, write=shards.write):
    """Prepares both splits, or resumes where it was interrupted.

    Args:
        train, val: sources.Source, with the same classes.
        out_dir: str; made where it is missing.
        settings: Settings.
        threads: int, images decoded and encoded at a time; 0 for one per core.
        progress: optional function of (files done, files in all), called now and then.
        write: function as `shards.write`, or as of `beam_writer`.

    Returns:
        Report: manifest, dict; handled, files that this call has read, int; seconds, float.

    Raises:
        UsageError: the folder holds something else or another preparation, or another process is preparing into it.
        RunError: a file cannot be decoded and is not to be skipped, or a class has no image. Finished shards stay.
        tf.errors.OpError, OSError: the disk is full or fails. Finished shards stay.
    """
    started, handled, splits = time.perf_counter(), 0, dict(zip(SPLITS, (train, val), strict=True))
    plan = _plan(splits, settings)
    if os.path.isfile(os.path.join(out_dir, MANIFEST)):
        manifest = record_sets.read_manifest(out_dir)
        _check_same(out_dir, {name: manifest[name] for name in plan}, plan)
        record_sets.check_files(out_dir, manifest)
    else:
        with _locked(out_dir, plan):
            done = 0
            for split, source in splits.items():
                files = settings.files(split, source.count)
                todo = [number for number, file in enumerate(files) if shards.read(out_dir, file) is None]
                done += source.count - sum(len(settings.places(number, source.count)) for number in todo)
                for images in write(source, split, todo, out_dir, settings, threads):
                    done, handled = done + images, handled + images
                    if progress:
                        progress(done, train.count + val.count)
            manifest = _finish(splits, out_dir, settings, plan)
    # Here, since a process may have ended between the manifest and this.
    shutil.rmtree(os.path.join(out_dir, WORK), ignore_errors=True)
    return Report(manifest, handled, time.perf_counter() - started)


def claim(out_dir):
    """Makes a folder to prepare images into, unless it is one already.

    Returns:
        str, a folder in it for what is needed only until it is prepared; None when it is prepared already.

    Raises:
        UsageError: it is a file, or holds something else.
    """
    work = os.path.join(out_dir, WORK)
    if os.path.exists(out_dir) and not os.path.isdir(out_dir):
        raise UsageError(f"{out_dir}: is a file; name a folder")
    if os.path.isfile(os.path.join(out_dir, MANIFEST)):
        return None
    if not os.path.isdir(work):
        if os.path.isdir(out_dir) and os.listdir(out_dir):
            named = _first(sorted(os.listdir(out_dir)))
            raise UsageError(f"{out_dir}: holds something else already ({named}); name a new or an empty folder")
        os.makedirs(work)
    return work


def beam_writer(opener, options):
    """A function to be given to `prepare` as `write`: one pipeline of Apache Beam for each split, a shard an element.

    All machines must see the source and the folder under the same paths, and have this package installed.

    Args:
        opener: function of nothing -> (train, val); pickled, and called by each worker, because the list of a million
            files is too large to be a part of a pipeline.
        options: list of str, Beam's own, such as "--runner=DirectRunner".

    Raises:
        UsageError: Beam is not installed, or does not know its options.
    """
    try:
        import apache_beam as beam  # in the extra `beam`
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise UsageError("--beam: needs Apache Beam: pip install 'keras-alexnet[beam]'") from None
    try:
        parsed = PipelineOptions(options)
        unknown = sorted(set(parsed.get_all_options(retain_unknown_options=True)) - set(parsed.get_all_options()))
    except SystemExit:
        raise UsageError(f"Beam does not understand {' '.join(options)}; its own words are above") from None
    if unknown:
        raise UsageError(f"--{unknown[0]}: is neither an option of this program nor one of Beam's")

    def write(source, split, numbers, folder, settings, threads=1):
        fingerprint = source.fingerprint()

        class Write(beam.DoFn):
            def setup(self):
                self.source = opener()[SPLITS.index(split)]
                if self.source.fingerprint() != fingerprint:
                    raise RunError(f"{self.source.name}: a worker finds other files than the program that started it")

            def process(self, number):
                yield sum(shards.write(self.source, split, [number], folder, settings, threads))

        if not numbers:
            return
        try:
            with beam.Pipeline(options=parsed) as pipeline:
                # Reshuffled: all shards that one list makes would otherwise be the work of one worker.
                pipeline | beam.Create(numbers) | beam.Reshuffle() | beam.ParDo(Write())
        except Exception as error:
            # Beam and its runners wrap what happened on a worker in errors of their own, its own words last.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise RunError(f"Apache Beam: {lines[-1] if lines else type(error).__name__}") from error
        yield sum(len(settings.places(number, source.count)) for number in numbers)  # known at its end only

    return write


def _plan(splits, settings):
    """What decides about every byte, dict."""
    train, val = splits.values()
    if train.class_names != val.class_names:
        raise UsageError(f"{train.name} and {val.name} have different classes")
    other = [f"{source.name}/{file}" for source in splits.values() for file in source.other_files]
    if other and settings.bad_images == "fail":
        raise RunError(f"{_first(other)}: cannot be used; remove such files, or leave them out with --bad_images=skip")
    recorded = {name: value for name, value in dataclasses.asdict(settings).items() if name != "bad_images"}
    return {
        "format": record_sets.FORMAT,
        "settings": recorded | ({"quality": None} if settings.encoding == "raw" else {}),
        "source": {
            split: {"name": source.name, "files": source.count, "fingerprint": source.fingerprint()}
            for split, source in splits.items()
        },
    }


def _check_same(out_dir, found, plan):
    if found != plan:
        changed = [name for name in plan["settings"] if found["settings"].get(name) != plan["settings"][name]]
        what = ", ".join(f"--{name}={found['settings'].get(name)}" for name in changed) or "another source"
        raise UsageError(f"{out_dir}: holds images that were prepared with {what}; prepare into another folder")


@contextlib.contextmanager
def _locked(out_dir, plan):
    """A block in which the folder is this process's and this plan's alone."""
    work = claim(out_dir)
    lock = acquire(os.path.join(work, "lock"))
    if lock is None:
        raise UsageError(f"{out_dir}: another process is preparing images into it; wait for it to end")
    with lock:
        path = os.path.join(work, "plan.json")
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                _check_same(out_dir, json.load(file), plan)
        else:
            with atomic_write(path) as file:
                json.dump(plan, file)
        for name in os.listdir(work):
            if name.startswith(shards.TEMPORARY):  # of a killed process
                os.unlink(os.path.join(work, name))
        yield


def _finish(splits, out_dir, settings, plan):
    """Writes everything but the shards; returns the manifest."""
    facts, sums, places = {}, {}, {}
    for split, source in splits.items():
        files = settings.files(split, source.count)
        found = [shards.read(out_dir, file) for file in files]
        if None in found:
            raise RunError(f"{out_dir}: {files[found.index(None)]} is missing; start again to write it again")
        sums[split] = _sums(source, found)
        lengths = [len(shard["labels"]) for shard in found]
        places[f"{split}_files"] = np.repeat(np.arange(len(files), dtype=np.int32), lengths)
        places[f"{split}_offsets"] = np.concatenate([shard["offsets"] for shard in found])
        places[f"{split}_labels"] = np.concatenate([shard["labels"] for shard in found])
        listed = [
            {"file": file, **{name: shard[name] for name in ("images", "bytes", "sha256")}}
            for file, shard in zip(files, found, strict=True)
        ]
        facts[split] = {
            "images": sums[split].count,
            "label_counts": sums[split].label_counts.tolist(),
            "fingerprint": hashlib.sha256(json.dumps([source.class_names, listed]).encode()).hexdigest(),
            "other_files": list(source.other_files),
            "skipped": [{"name": name, "reason": reason} for shard in found for name, reason in shard["skipped"]],
            "shards": listed,
        }
    train = splits[SPLITS[0]]
    _describe(train.class_names, out_dir, settings, facts)
    identity = f"{facts[SPLITS[0]]['fingerprint']} {sums[SPLITS[0]].count}"  # the fingerprint of the records
    computed = sums[SPLITS[0]].statistics(fingerprint=identity)
    statistics.save(computed, os.path.join(out_dir, record_sets.STATISTICS))
    if settings.encoding == "raw":
        with atomic_write(os.path.join(out_dir, PLACES), "wb") as file:
            np.savez(file, **places)
    described = [name for name in sorted(os.listdir(out_dir)) if name.endswith((".json", ".txt", ".npz"))]
    manifest = {
        **plan,
        "class_names": train.class_names,
        "wordnet_ids": getattr(train, "wordnet_ids", None),
        "splits": facts,
        "checksums": {name: sha256_of(os.path.join(out_dir, name)) for name in described},
    }
    with atomic_write(os.path.join(out_dir, MANIFEST)) as file:
        json.dump(manifest, file, indent=1)
    return record_sets.read_manifest(out_dir)


def _sums(source, found):
    """The sums over a split. Raises RunError where nothing can be decoded of it, or of a class that has files."""
    total = statistics.Sums(len(source.class_names))
    for shard in found:
        total.merge(shard)
    listed = {int(label) for label in source.labels}
    empty = [name for label, name in enumerate(source.class_names) if label in listed and not total.label_counts[label]]
    if empty or not total.count:
        which = f"{source.count} files" if not total.count else f"files of class {printable(empty[0])}"
        raise RunError(f"{source.name}: none of the {which} is an image that can be decoded")
    return total


def _describe(class_names, out_dir, settings, facts):
    """Writes what TensorFlow Datasets wants to know of a folder."""
    shape = (settings.size, settings.size, 3)
    raw = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
    features = {
        IMAGE: raw if settings.encoding == "raw" else tfds.features.Image(shape=shape, encoding_format="jpeg"),
        LABEL: tfds.features.ClassLabel(names=list(class_names)),
        FILE_NAME: tfds.features.Text(),
    }
    template = tfds.core.ShardedFileTemplate(data_dir=out_dir, dataset_name=shards.NAME, filetype_suffix="tfrecord")
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard["images"] for shard in found["shards"]],
            num_bytes=sum(shard["bytes"] for shard in found["shards"]),
            filename_template=template.replace(split=split),
        )
        for split, found in facts.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=out_dir,
        features=features,
        split_infos=infos,
        version="1.0.0",
        check_data=False,
        supervised_keys=(IMAGE, LABEL),
        description=f"Images prepared by keras_alexnet: central squares of {settings.size}x{settings.size} pixels.",
    )


def _first(names):
    return ", ".join(map(printable, names[:_NAMED])) + " ..." * (len(names) > _NAMED)
