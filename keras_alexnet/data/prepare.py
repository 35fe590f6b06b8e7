"""Any source -> a folder of 256x256 images that TensorFlow Datasets reads too, with the training set's statistics.

The authors stored 256x256 JPEGs (`findsimilar.py` of the release), and so does this. Images are put into one fixed
random order and cut into shards, TFRecord files of tf.train.Example. A shard counts once a file in WORK, on what is in
it, is written after it. All bytes depend on the source and the settings only.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import shutil
import time

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_alexnet.data import decoding, records, statistics
from keras_alexnet.data.decoding import SHORTER_SIDE, STORED_SIZE, STRETCH
from keras_alexnet.data.pipeline import parallel_calls, with_options
from keras_alexnet.data.records import FILE_NAME, IMAGE, LABEL, MANIFEST, PLACES, SPLITS, WORK, sha256_of
from keras_alexnet.data.sources import Settings, conversion
from keras_alexnet.errors import RunError, UsageError, brief, optional, printable
from keras_alexnet.files import acquire, atomic_write, progress_bar, read_json, remove_temp_files, write_json

_DESCRIBED = {SHORTER_SIDE: "central squares of", STRETCH: "whole images, stretched to"}
_BATCH = 32  # images that are handed to Python at a time
_BEFORE_RECORD, _AFTER_RECORD = 12, 4  # bytes of a TFRecord: its length and two check sums

Report = collections.namedtuple("Report", "manifest handled seconds")  # dict; files that were read, int; float


def prepare(train, val, out_dir, settings, *, threads=0, write=None):
    """Prepares two sources with the same classes, or resumes where it was interrupted: Report. Finished shards stay.

    `threads`: int, images decoded and encoded at a time, 0 for one per core; `write`: function as `write_shards`, the
    default, or as of `beam_writer`. Raises UsageError where the folder holds something else or another preparation, or
    another process is preparing into it; RunError where a file cannot be decoded and is not to be skipped, or a class
    has no image; tf.errors.OpError or OSError where the disk is full or fails.
    """
    started, handled, splits = time.perf_counter(), 0, dict(zip(SPLITS, (train, val), strict=True))
    plan, work = _plan(splits, settings), claim(out_dir)
    if work is None:
        manifest = records.read_manifest(out_dir)
        _check_same(out_dir, {name: manifest[name] for name in plan}, plan)
        records.check_files(out_dir, manifest)
    else:
        lock = acquire(os.path.join(work, "lock"))
        if lock is None:
            raise UsageError(f"{out_dir}: another process is preparing images into it; wait for it to end")
        with lock:
            path = os.path.join(work, "plan.json")
            if not os.path.isfile(path):
                write_json(path, plan)
            _check_same(out_dir, read_json(path), plan)
            remove_temp_files(out_dir)
            done, progress = 0, progress_bar(f"preparing {out_dir}")
            for split, source in splits.items():
                files = settings.files(split, source.count)
                todo = [number for number, file in enumerate(files) if _read_shard(os.path.join(out_dir, file)) is None]
                done += source.count - sum(len(settings.places(number, source.count)) for number in todo)
                for images in (write or write_shards)(source, split, todo, out_dir, settings, threads) if todo else ():
                    done, handled = done + images, handled + images
                    progress(done, train.count + val.count)
            manifest = _finish(splits, out_dir, settings, plan)
    shutil.rmtree(os.path.join(out_dir, WORK), ignore_errors=True)
    return Report(manifest, handled, time.perf_counter() - started)


def claim(out_dir):
    """Makes a folder to prepare images into: the path of WORK in it, str; None where it is prepared already.

    Raises UsageError where it is a file or holds something else.
    """
    work = os.path.join(out_dir, WORK)
    if os.path.isfile(out_dir):
        raise UsageError(f"{out_dir}: is a file; name a folder")
    if os.path.isfile(os.path.join(out_dir, MANIFEST)):
        return None
    if os.path.isdir(out_dir) and not os.path.isdir(work) and os.listdir(out_dir):
        named = printable(min(os.listdir(out_dir)))
        raise UsageError(f"{out_dir}: holds something else already ({named}); name a new or an empty folder")
    os.makedirs(work, exist_ok=True)
    return work


def write_shards(source, split, numbers, folder, settings, threads=0):
    """Writes the shards of these numbers, rising, of a split; yields int, the images done since the last time."""
    files, order = settings.files(split, source.count), (settings.seed,)
    load = source.loader()
    stored = _storing(settings.size, settings.encoding, settings.quality, settings.resize, source.orientation)

    def encode(place, item):
        image_bytes, label = load(*item)
        return place, item[0], label, *stored(image_bytes)

    wanted = tf.constant(np.isin(np.arange(len(files)), numbers))
    first, end = settings.places(numbers[0], source.count).start, settings.places(numbers[-1], source.count).stop
    items = tf.data.Dataset.zip(tf.data.Dataset.range(first, end), source.items(order, first))
    items = items.filter(lambda place, item: tf.gather(wanted, place // settings.shard_images))
    # `ignore_errors` drops what cannot be decoded; the places tell which.
    images = items.map(encode, parallel_calls(threads)).ignore_errors().batch(_BATCH).prefetch(2)
    batches = _by_shard(with_options(images, threads).as_numpy_iterator(), settings.shard_images)
    current = next(batches, None)
    for number in numbers:
        path, shard = os.path.join(folder, files[number]), _Shard(source)
        with atomic_write(path, "wb") as file:
            with tf.io.TFRecordWriter(file.name) as writer:
                while current is not None and current[0] == number:
                    shard.add(writer, *current[1:])
                    yield len(current[1])
                    current = next(batches, None)
            missing = sorted(frozenset(settings.places(number, source.count)) - shard.places)
            skipped = list(_reasons(source, order, missing, encode)) if missing else []
            if skipped and settings.bad_images == "fail":
                name, reason = printable(f"{source.name}/{skipped[0][0]}"), skipped[0][1]
                leave = "repair or remove it, or leave such files out with --bad_images=skip"
                raise RunError(f"{name}: {reason}; {leave}")
            size, sha256 = os.path.getsize(file.name), sha256_of(file.name)
        shard.save(path, {"bytes": size, "sha256": sha256, "skipped": skipped})
        yield len(missing)


def beam_writer(opener, options):
    """A function to be given to `prepare` as `write`: one pipeline of Apache Beam for each split, a shard an element.

    All machines see the source and the folder under the same paths. `opener`, a function of nothing -> (train, val), is
    called by each worker too. `options`: list of str, Beam's own. Raises UsageError where Beam is missing or does not
    know them.
    """
    beam = optional("apache_beam", "beam", "--beam: needs Apache Beam:")
    try:
        parsed = beam.options.pipeline_options.PipelineOptions(options)
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
                yield sum(write_shards(self.source, split, [number], folder, settings, threads))

        try:
            with beam.Pipeline(options=parsed) as pipeline:
                # Reshuffled: all shards that one list makes would otherwise be the work of one worker.
                pipeline | beam.Create(numbers) | beam.Reshuffle() | beam.ParDo(Write())
        except Exception as error:
            # Beam and its runners wrap what happened on a worker in errors of their own, its own words last.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise RunError(f"Apache Beam: {lines[-1].strip()}") from error
        yield sum(len(settings.places(number, source.count)) for number in numbers)  # known at its end only

    return write


def _plan(splits, settings):
    """What decides about every byte, dict."""
    train, val = splits.values()
    other = [f"{source.name}/{file}" for source in splits.values() for file in source.other_files]
    if other and settings.bad_images == "fail":
        leave = "remove such files, or leave them out with --bad_images=skip"
        raise RunError(f"{printable(other[0])}: is one of {len(other)} files that are not read; {leave}")
    recorded = {each.name: getattr(settings, each.name) for each in dataclasses.fields(Settings)}
    del recorded["bad_images"]
    if settings.orientation == "auto":
        recorded["orientation"] = "apply" if "apply" in (train.orientation, val.orientation) else "ignore"
    if settings.encoding != "jpeg":
        recorded["quality"] = None
    read = {
        split: {"name": source.name, "files": source.count, "fingerprint": source.fingerprint()}
        for split, source in splits.items()
    }
    return {"format": records.FORMAT, "settings": recorded, "source": read}


def _check_same(out_dir, found, plan):
    found["settings"] = {**records.EARLIER_SETTINGS, **found["settings"]}  # of an interrupted preparation
    if found != plan:
        changed = [name for name in plan["settings"] if found["settings"].get(name) != plan["settings"][name]]
        what = ", ".join(f"--{name}={found['settings'].get(name)}" for name in changed) or "another source"
        raise UsageError(f"{out_dir}: holds images that were prepared with {what}; prepare into another folder")


@functools.cache
def _storing(size, encoding, quality, resize, orientation):
    """A function of a file's bytes -> (what is stored of it, what counts in the statistics); traced once for all."""

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
    def stored(image_bytes):
        image = decoding.decode_window(decoding.require_whole(image_bytes), 0, 0, size, size, resize, orientation)
        # The statistics are of the images before they are encoded, which is to say of the source.
        if encoding != "jpeg":
            return (decoding.to_yuv420(image) if encoding == "yuv420" else tf.zeros([0], tf.uint8)), image
        content = tf.io.encode_jpeg(image, quality=quality)
        return content, image if size == STORED_SIZE else decoding.decode_center(content)

    return stored


def _by_shard(batches, size):
    """Cuts batches where a shard ends: (shard, *parts of the batch)."""
    for batch in batches:
        numbers = batch[0] // size  # rising, so that a shard's part is a slice
        for number in range(int(numbers[0]), int(numbers[-1]) + 1):
            first, end = np.searchsorted(numbers, [number, number + 1])
            if first < end:
                yield number, *(part[first:end] for part in batch)


def _reasons(source, order, places, encode):
    """(name, reason) of the files at these places, rising; each is tried once more by itself."""
    items = enumerate(source.items(order, places[0]), places[0])
    for place, item in itertools.islice(items, places[-1] - places[0] + 1):
        if place in places:
            key = int(item[0])
            name = source.name_of(key)
            try:
                source.check_readable(key)
                encode(place, item)
                said = printable(f"{source.name}/{name}")
                raise RunError(f"{said}: could be read at the second attempt only; start again to read it once more")
            except OSError as error:
                reason = f"cannot be read ({error.strerror})"
            except tf.errors.OpError as error:
                reason = conversion(source.loader()(*item)[0].numpy()[:16], name) or brief(error)
            yield name, reason


class _Shard:
    """What is in a shard that is being written."""

    def __init__(self, source):
        self.source, self.places, self.sums = source, set(), statistics.Sums(len(source.class_names))
        self.bytes, self.offsets, self.labels = 0, [], []

    def add(self, writer, places, keys, labels, stored, images):
        """Writes a batch of what is made of images, and adds those that count in the statistics."""
        statistics.check_labels(labels, self.source.name)
        self.places.update(places.tolist())
        self.sums.add(images, labels)
        for key, label, content, image in zip(keys, labels, stored, images, strict=True):
            is_file = isinstance(content, bytes)
            content = content if is_file else (content if content.size else image).tobytes()
            features = {
                IMAGE: tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
                LABEL: tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                FILE_NAME: tf.train.Feature(bytes_list=tf.train.BytesList(value=[self.source.name_of(key).encode()])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            # Deterministic: otherwise the order of the features, and with it the bytes, can be any.
            record = example.SerializeToString(deterministic=True)
            writer.write(record)
            if not is_file:
                self.offsets.append(self.bytes + _BEFORE_RECORD + record.index(content))
                self.labels.append(label)
            self.bytes += _BEFORE_RECORD + len(record) + _AFTER_RECORD

    def save(self, path, facts):
        """Writes the file that makes the shard at this path count."""
        facts = np.array(json.dumps({"images": len(self.places), **facts}))
        places = {"offsets": np.array(self.offsets, np.int64), "labels": np.array(self.labels, np.int32)}
        with atomic_write(_facts_path(path), "wb") as file:
            np.savez(file, facts=facts, **places, **vars(self.sums))


def _read_shard(path):
    """What `_Shard.save` has written, dict; None where the shard is missing or damaged."""
    with contextlib.suppress(Exception):  # a file can be damaged in many ways: the shard is written again
        with np.load(_facts_path(path), allow_pickle=False) as arrays:
            shard = {**arrays, **json.loads(str(arrays["facts"]))}
        return shard if os.path.getsize(path) == shard["bytes"] else None
    return None


def _facts_path(path):
    return os.path.join(os.path.dirname(path), WORK, f"{os.path.basename(path)}.npz")


def _finish(splits, out_dir, settings, plan):
    """Writes everything but the shards; returns the manifest. Raises RunError where a split or a class has no image."""
    facts, places = {}, {}
    for split, source in splits.items():
        files, sums = settings.files(split, source.count), statistics.Sums(len(source.class_names))
        found = [_read_shard(os.path.join(out_dir, file)) for file in files]
        if None in found:
            raise RunError(f"{out_dir}: {files[found.index(None)]} is missing; start again to write it again")
        for shard in found:
            sums.merge(shard)
        listed, counts = frozenset(int(label) for label in source.labels), sums.label_counts.tolist()
        empty = [name for label, name in enumerate(source.class_names) if label in listed and not counts[label]]
        if empty or not sums.count:
            which = f"{source.count} files" if not sums.count else f"files of class {printable(empty[0])}"
            raise RunError(f"{source.name}: none of the {which} is an image that can be decoded")
        lengths = [len(shard["labels"]) for shard in found]
        places[f"{split}_files"] = np.repeat(np.arange(len(files), dtype=np.int32), lengths)
        for name in ("offsets", "labels"):
            places[f"{split}_{name}"] = np.concatenate([shard[name] for shard in found])
        shards = [
            {"file": file, **{name: shard[name] for name in ("images", "bytes", "sha256")}}
            for file, shard in zip(files, found, strict=True)
        ]
        fingerprint = hashlib.sha256(json.dumps([source.class_names, shards]).encode()).hexdigest()
        skipped = [{"name": name, "reason": reason} for shard in found for name, reason in shard["skipped"]]
        facts[split] = {"images": sums.count, "label_counts": counts, "fingerprint": fingerprint}
        facts[split] |= {"other_files": list(source.other_files), "skipped": skipped, "shards": shards}
        if split == SPLITS[0]:
            fingerprint = f"{fingerprint} {sums.count}"  # as of the records
            fingerprint += "" if settings.resize == SHORTER_SIDE else f" {settings.resize}"
            fingerprint += " upright" * (plan["settings"]["orientation"] == "apply")
            statistics.save(sums.statistics(fingerprint=fingerprint), os.path.join(out_dir, records.STATISTICS))
    train = splits[SPLITS[0]]
    _describe(train.class_names, out_dir, settings, facts)
    if settings.encoding != "jpeg":
        with atomic_write(os.path.join(out_dir, PLACES), "wb") as file:
            np.savez(file, **places)
    described = [name for name in sorted(os.listdir(out_dir)) if name.endswith((".json", ".txt", ".npz"))]
    checksums = {name: sha256_of(os.path.join(out_dir, name)) for name in described}
    classes = {"class_names": train.class_names, "wordnet_ids": getattr(train, "wordnet_ids", None)}
    manifest = {**plan, **classes, "splits": facts, "checksums": checksums}
    write_json(os.path.join(out_dir, MANIFEST), manifest, indent=1)
    return records.read_manifest(out_dir)


def _describe(class_names, out_dir, settings, facts):
    """Writes what TensorFlow Datasets wants to know of a folder."""
    shape = (settings.size, settings.size, 3)
    if settings.encoding == "jpeg":
        image = tfds.features.Image(shape=shape, encoding_format="jpeg")
    else:
        stored = shape if settings.encoding == "raw" else (shape[0] // 2, 3 * shape[1])  # see `decoding.to_yuv420`
        image = tfds.features.Tensor(shape=stored, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
    features = {IMAGE: image, LABEL: tfds.features.ClassLabel(names=list(class_names)), FILE_NAME: tfds.features.Text()}
    template = tfds.core.ShardedFileTemplate(data_dir=out_dir, dataset_name=Settings.name, filetype_suffix="tfrecord")
    infos = []
    for split, found in facts.items():
        lengths, size = ([shard[key] for shard in found["shards"]] for key in ("images", "bytes"))
        options = {"num_bytes": sum(size), "filename_template": template.replace(split=split)}
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, **options))
    tfds.folder_dataset.write_metadata(
        data_dir=out_dir,
        features=features,
        split_infos=infos,
        version="1.0.0",
        check_data=False,
        supervised_keys=(IMAGE, LABEL),
        description=f"Images prepared by keras_alexnet: {_DESCRIBED[settings.resize]} {shape[0]}x{shape[1]} pixels.",
    )
