"""Rows of benchmark_input.py in TensorFlow, and the images that all rows read.

    WORK/originals/CLASS/*.jpg      links to the chosen files
    WORK/jpeg, yuv420, raw          the same, prepared as records
    WORK/prepared/CLASS/*.jpg       the images of the JPEG records as files

Each function of a row returns what a turn reads: (images, a function of nothing that reads them and counts them).
"""

import dataclasses
import itertools
import os
import statistics
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from harness import files_of, speed_turn

from keras_alexnet.data import pipeline, prepare, records, sources
from keras_alexnet.data.augmentation import Augmentation
from keras_alexnet.data.statistics import load
from keras_alexnet.errors import ArgumentError, RunError, UsageError, brief

CROP = 224


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
    return [(file.partition("/")[0], os.path.abspath(os.path.join(source.root, file))) for file in chosen]


def lay_out(row, settings):
    """Fills WORK: no row to measure, only facts. They are images; size, a median; and kilobytes an image."""
    chosen, work, shapes = choose(settings), Path(settings.work_dir), []
    for place, (name, path) in enumerate(chosen):
        try:
            # Decoded whole: preparation would leave out a file that is no image, and one cut short has a good header.
            shapes.append(tf.io.decode_jpeg(tf.io.read_file(path), channels=3).shape[:2])
        except tf.errors.OpError as error:
            raise UsageError(f"{path}: cannot be decoded; leave it out of --data_dir ({brief(error)})") from None
        link = work / "originals" / name / f"{place:06d}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    source = sources.list_split(work, "originals")
    for encoding in ("jpeg", "yuv420", "raw"):
        options = prepare.Settings(encoding=encoding)
        prepare.prepare(source, few(settings), str(work / encoding), options, threads=settings.threads)
    sizes, stored = [], records.open_prepared(str(work / "jpeg"), 1)[0]
    for place, (content, label) in enumerate(stored.items().map(stored.loader()).as_numpy_iterator()):
        path = work / "prepared" / stored.class_names[label] / f"{place:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        sizes.append(path.write_bytes(content))
    height, width = (int(statistics.median(column)) for column in zip(*shapes, strict=True))
    originals = [os.path.getsize(path) for _, path in chosen]
    kinds = {"original_kb": originals, "prepared_kb": sizes, "yuv420_kb": [98_304], "raw_kb": [196_608]}
    kilobytes = {name: statistics.fmean(each) / 1e3 for name, each in kinds.items()}
    return {"images": len(chosen), "size": f"{width}x{height}", **kilobytes}, dict


def few(settings):
    """Eight of the originals: validation sets are not what is measured."""
    source = sources.list_split(settings.work_dir, "originals")
    return source.without(source.files[8:])


def repeated(kind, settings):
    """WORK/KIND as a source that holds each image `repeats` times."""
    if kind == "originals":
        source = sources.list_split(settings.work_dir, kind)
    else:
        source = records.open_prepared(os.path.join(settings.work_dir, kind), 1024)[0]
    for name in getattr(source, "per_image", ("paths", "first", "ends")):  # a source repeats what these repeat
        column = getattr(source, name)
        repeats = np.tile(column, settings.repeats) if isinstance(column, np.ndarray) else column * settings.repeats
        source = dataclasses.replace(source, **{name: repeats})
    return source


def start(row, settings):
    functions = {"keras": keras_loader, "preparation": preparing, "decode": decoder, "decode_prepared": decoder}
    images, read = functions.get(row, training)(row, settings)

    def checked():
        seen = read()
        if seen != images:
            raise RunError(f"{seen} images were read instead of {images}")

    return {}, speed_turn(images, checked, settings.peak_mb)


def count_images(dataset, settings, autotune):
    """A function that reads a dataset of (images, labels) with so many threads and counts the labels."""
    options = tf.data.Options()
    options.autotune.enabled = autotune
    options.threading.private_threadpool_size = settings.threads
    dataset = dataset.with_options(options)
    return lambda: sum(len(labels) for _, labels in dataset)


def decoder(row, settings):
    files = files_of("originals" if row == "decode" else "prepared", settings) * settings.repeats

    def decoded(path):
        # One number of each image: all of it would be copied, none of it not even decoded.
        return tf.io.decode_jpeg(tf.io.read_file(path), channels=3)[0, 0, 0], 0

    dataset = tf.data.Dataset.from_tensor_slices(files).map(decoded, settings.threads)
    return len(files), count_images(dataset.batch(settings.batch_size).prefetch(2), settings, autotune=False)


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
    folder, options = os.path.join(settings.work_dir, "originals"), {"batch_size": settings.batch_size}
    loaded = keras.utils.image_dataset_from_directory(folder, image_size=(256, 256), verbose=False, **options)
    augment = keras.Sequential([keras.layers.RandomCrop(CROP, CROP), keras.layers.RandomFlip("horizontal")])
    dataset = loaded.repeat(settings.repeats).map(
        lambda images, labels: (augment(images, training=True), labels), num_parallel_calls=tf.data.AUTOTUNE
    )
    read = count_images(dataset.prefetch(tf.data.AUTOTUNE), settings, autotune=True)
    return len(loaded.file_paths) * settings.repeats, read


def preparing(row, settings):
    """The whole preparation, into a folder that is removed after it."""
    source, validation = repeated("originals", settings), few(settings)

    def read():
        with tempfile.TemporaryDirectory(dir=settings.work_dir) as out:
            return prepare.prepare(source, validation, out, prepare.Settings(), threads=settings.threads).handled

    return source.count + validation.count, read
