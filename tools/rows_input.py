"""Rows of benchmark_input.py in TensorFlow, and the images that all rows read.

    WORK/originals/CLASS/*.jpg      links to the chosen files
    WORK/jpeg, WORK/raw             the same, prepared as records
    WORK/prepared/CLASS/*.jpg       the images of the JPEG records as files

Each function of a row returns what a turn reads: (images, a function of nothing that reads them and counts them).
"""

import dataclasses
import glob
import itertools
import os
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
from harness import speed_turn

from keras_alexnet.cli import quiet_start
from keras_alexnet.errors import ArgumentError, RunError, UsageError, brief

with quiet_start():
    import keras
    import tensorflow as tf

    from keras_alexnet.data import pipeline, prepare, record_sets, sources
    from keras_alexnet.data.augmentation import Augmentation
    from keras_alexnet.data.statistics import load

CROP = 224
# A source repeats its images when these are repeated.
COLUMNS = {
    "originals": ("files", "labels", "sizes"),
    "jpeg": ("paths", "first", "ends"),
    "raw": ("files", "offsets", "labels"),
}


def choose(settings):
    """The JPEG files to read, spread evenly over all: list of (class, path)."""
    root = Path(settings.data_dir)
    source = sources.list_split(root, "train" if (root / "train").is_dir() else ".")
    files = [file for file in source.files if file.lower().endswith((".jpg", ".jpeg"))]
    count = min(settings.images, len(files))
    if count < settings.batch_size:
        problem = f"{count} JPEG files in class folders are fewer than --batch_size={settings.batch_size}"
        raise ArgumentError("data_dir", settings.data_dir, problem)
    chosen = [files[place * len(files) // count] for place in range(count)]
    return [(os.path.dirname(file), os.path.abspath(os.path.join(source.root, file))) for file in chosen]


def lay_out(row, settings):
    """Fills WORK: no row to measure, only facts. They are images; size, a median; and kilobytes an image."""
    chosen, work = choose(settings), settings.work_dir
    shapes = [shape_of(path) for _, path in chosen]  # preparation would leave out a file that is no image
    for place, (name, path) in enumerate(chosen):
        os.makedirs(os.path.join(work, "originals", name), exist_ok=True)
        os.symlink(path, os.path.join(work, "originals", name, f"{place:06d}.jpg"))
    source = sources.list_split(Path(work), "originals")
    for encoding in ("jpeg", "raw"):
        options = prepare.Settings(encoding=encoding)
        prepare.prepare(source, few(source), os.path.join(work, encoding), options, threads=settings.threads)
    records, _ = record_sets.open_prepared(os.path.join(work, "jpeg"), 1)
    sizes = []
    for place, (_, content, label) in enumerate(records.items().map(records.loader()).as_numpy_iterator()):
        path = Path(work, "prepared", records.class_names[label], f"{place:06d}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        sizes.append(path.write_bytes(content))
    height, width = (int(statistics.median(column)) for column in zip(*shapes, strict=True))
    kilobytes = {"prepared_kb": statistics.fmean(sizes) / 1e3, "raw_kb": 256 * 256 * 3 / 1e3}
    kilobytes["original_kb"] = statistics.fmean(os.path.getsize(path) for _, path in chosen) / 1e3
    return {"images": len(chosen), "size": f"{width}x{height}", **kilobytes}, dict


def shape_of(path):
    """(height, width) of a file, decoded whole: one that is cut short has a good header."""
    try:
        return tf.io.decode_jpeg(tf.io.read_file(path), channels=3).shape[:2]
    except tf.errors.OpError as error:
        raise UsageError(f"{path}: cannot be decoded; leave it out of --data_dir ({brief(error)})") from None


def few(source):
    """The same source with eight of its files: validation sets are not what is measured."""
    return dataclasses.replace(source, **{name: getattr(source, name)[:8] for name in COLUMNS["originals"]})


def repeated(kind, settings):
    """WORK/KIND as a source that holds each image `repeats` times."""
    if kind == "originals":
        source = sources.list_split(Path(settings.work_dir), kind)
    else:
        source, _ = record_sets.open_prepared(os.path.join(settings.work_dir, kind), 1024)
    columns = {name: getattr(source, name) for name in COLUMNS[kind]}
    many = {
        n: np.tile(c, settings.repeats) if isinstance(c, np.ndarray) else c * settings.repeats
        for n, c in columns.items()
    }
    return dataclasses.replace(source, **many)


def start(row, settings):
    """A row by its name."""
    functions = {"keras": keras_loader, "preparation": preparing, "decode": decoder, "decode_prepared": decoder}
    images, read = functions.get(row, training)(row, settings)

    def checked():
        seen = read()
        if seen != images:
            raise RunError(f"{seen} images were read instead of {images}")

    return {}, speed_turn(images, checked, settings.peak_mb)


def with_threads(dataset, settings, autotune):
    options = tf.data.Options()
    options.autotune.enabled = autotune
    options.threading.private_threadpool_size = settings.threads
    return dataset.with_options(options)


def decoder(row, settings):
    """The JPEG decoder alone."""
    folder = os.path.join(settings.work_dir, "originals" if row == "decode" else "prepared")
    files = glob.glob(os.path.join(glob.escape(folder), "*", "*")) * settings.repeats

    def decoded(path):
        # One number of each image: all of it would be copied, none of it not even decoded.
        return tf.io.decode_jpeg(tf.io.read_file(path), channels=3)[0, 0, 0]

    dataset = tf.data.Dataset.from_tensor_slices(files).map(decoded, settings.threads)
    dataset = with_threads(dataset.batch(settings.batch_size).prefetch(2), settings, autotune=False)
    return len(files), lambda: sum(len(batch) for batch in dataset)


def training(row, settings):
    """Batches as training has them, another epoch in each turn."""
    source, epochs = repeated({"direct": "originals", "records": "jpeg"}.get(row, row), settings), itertools.count()
    known = load(os.path.join(settings.work_dir, "jpeg", "statistics.npz"))
    options = {"size": CROP, "batch_size": settings.batch_size, "seed": 0, "threads": settings.threads}

    def read():
        batches = pipeline.training(source, known, Augmentation(), epoch=next(epochs), **options)
        return sum(len(labels) for _, labels in batches)

    return source.count, read


def keras_loader(row, settings):
    """Keras' loader as its guide has it, with parallel calls and prefetching left to tf.data."""
    loaded = keras.utils.image_dataset_from_directory(
        os.path.join(settings.work_dir, "originals"),
        label_mode="int",
        image_size=(256, 256),
        batch_size=settings.batch_size,
        verbose=False,
    )
    augment = keras.Sequential([keras.layers.RandomCrop(CROP, CROP), keras.layers.RandomFlip("horizontal")])
    dataset = loaded.repeat(settings.repeats).map(
        lambda images, labels: (augment(images, training=True), labels), num_parallel_calls=tf.data.AUTOTUNE
    )
    dataset = with_threads(dataset.prefetch(tf.data.AUTOTUNE), settings, autotune=True)
    return len(loaded.file_paths) * settings.repeats, lambda: sum(len(labels) for _, labels in dataset)


def preparing(row, settings):
    """The whole preparation, into a folder that is removed after it."""
    source = repeated("originals", settings)
    validation = few(source)

    def read():
        out = tempfile.mkdtemp(dir=settings.work_dir, prefix="out-")
        report = prepare.prepare(source, validation, out, prepare.Settings(), threads=settings.threads)
        shutil.rmtree(out)
        return report.handled

    return source.count + validation.count, read
