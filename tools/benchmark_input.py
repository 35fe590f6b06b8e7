"""How many images a second each way of reading delivers, next to the JPEG decoder alone, Keras' loader and PyTorch's.

    python tools/benchmark_input.py --data_dir=PHOTOS                     # 1,000 photographs, 2 cores: about 9 minutes
    python tools/benchmark_input.py --data_dir=PHOTOS --rows=decode,direct --json=input.json --device_rate=3000

PHOTOS holds class folders, or train/CLASS/ as in training. The same images are prepared once before it begins. Every
row is a process of its own; they take turns, each going `--repeats` times over all images, and a ratio is the median of
the rounds' ratios. PyTorch is in the extra `benchmark` and left out where it is not installed.
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time

from racing import machine, median_ratio, race, resident_peak, take_turns

from keras_alexnet.cli import quiet_start, run_command
from keras_alexnet.errors import UsageError, brief
from keras_alexnet.files import atomic_write

ROWS = {
    "decode": "limit: files read and decoded whole, nothing else",
    "direct": "original files -> training batches",
    "keras": "Keras: image_dataset_from_directory, random crop and flip",
    "torch": "PyTorch: DataLoader and Pillow, resize, random crop and flip, mean and color",
    "preparation": "original files -> prepared JPEG records and statistics",
    "decode_prepared": "limit: the prepared JPEGs as files, read and decoded whole",
    "records": "prepared JPEG records -> training batches",
    "torch_prepared": "PyTorch: DataLoader and Pillow on the prepared JPEGs",
    "raw": "prepared raw records -> training batches",
}
LIMITS = dict.fromkeys(("direct", "keras", "torch", "preparation"), "decode")
LIMITS |= dict.fromkeys(("records", "torch_prepared", "raw"), "decode_prepared")
PEERS = {"direct": ("keras", "torch"), "records": ("torch_prepared",), "raw": ("records",)}
OURS = ("direct", "records", "raw")
SUFFIXES = (".jpg", ".jpeg")  # what all rows can read
CROP = 224


def main(argv):
    options = parse(argv)
    if options.worker:
        return work(options)
    rows = options.rows.split(",") if options.rows else list(ROWS)
    missing = {}
    for row in [row for row in rows if row.startswith("torch") and not importlib.util.find_spec("torch")]:
        rows.remove(row)
        missing[row] = "not run: PyTorch is not installed (pip install 'keras-alexnet[benchmark]')"
    environment = dict(os.environ)  # before TensorFlow starts here and is told to be quiet
    chosen = choose(options)
    with tempfile.TemporaryDirectory(dir=options.work_dir, prefix="benchmark-") as folder:
        sizes = lay_out(chosen, folder, options.threads)
        flags = [f"--{name}={getattr(options, name)}" for name in ("batch_size", "threads", "repeats")]
        program = [sys.executable, os.path.abspath(__file__), f"--data_dir={folder}", *flags]
        # The first round is not counted: files come into memory, graphs are built and compiled.
        said, turns = race({row: [*program, f"--worker={row}"] for row in rows}, options.rounds + 1, environment)
    report = machine(("tensorflow", "keras", "numpy", "torch"))
    report["pillow"] = importlib.metadata.version("pillow")  # whose module has another name
    report.update({name: getattr(options, name) for name in ("threads", "batch_size", "rounds", "repeats")})
    report.update(images=len(chosen), **sizes)
    report["rows"] = summary(said, {row: its_turns[1:] for row, its_turns in turns.items()})
    if options.device_rate:
        report["device_rate"] = options.device_rate
        report["needed"] = needed(report)
    print(as_text(report, missing))
    if options.json:
        with atomic_write(options.json) as file:
            json.dump(report, file, indent=1)


def parse(argv):
    """Flags -> options. Raises UsageError."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="class folders of JPEG files, or a folder with train/ that holds them")
    parser.add_argument("--rows", help=f"some of {', '.join(ROWS)}; all if left out")
    parser.add_argument("--images", type=int, default=1000, help="at most so many, spread over all (default: 1000)")
    parser.add_argument("--repeats", type=int, default=10, help="passes over the images in a turn (default: 10)")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each row (default: one per core)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device_rate", type=float, help="images a second that a device trains: what that takes")
    parser.add_argument("--work_dir", help="where the prepared images are kept meanwhile (default: the system's)")
    parser.add_argument("--json", help="a file for the same as JSON")
    parser.add_argument("--worker", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    for name in ("images", "repeats", "batch_size", "threads", "rounds"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name}={getattr(options, name)}: give at least 1")
    rows = options.rows.split(",") if options.rows else []
    for row in rows:
        if row not in ROWS or rows.count(row) > 1:
            raise UsageError(f"--rows={options.rows}: {row!r} is none of {', '.join(ROWS)}, or there twice")
    if options.device_rate is not None and not 0 < options.device_rate < math.inf:
        raise UsageError(f"--device_rate={options.device_rate}: give images a second, above 0")
    if not options.data_dir:
        raise UsageError("--data_dir is missing: name a folder of class folders with JPEG files")
    for name in ("data_dir", "work_dir"):
        if getattr(options, name) and not os.path.isdir(getattr(options, name)):
            raise UsageError(f"--{name}={getattr(options, name)}: there is no such folder")
    if options.json:
        # Now, not when the rounds are over.
        place = os.path.dirname(os.path.abspath(options.json))
        if not os.path.isdir(place):
            raise UsageError(f"--json={options.json}: there is no folder for it")
        if os.path.isdir(options.json):
            raise UsageError(f"--json={options.json}: is a folder; name a file")
        if not os.access(place, os.W_OK | os.X_OK):
            raise UsageError(f"--json={options.json}: its folder cannot be written to")
    return options


def choose(options):
    """The files to use, spread evenly over all: list of (class, path). Hidden ones are none, as in training."""
    root = os.path.join(options.data_dir, "train")
    root = root if os.path.isdir(root) else options.data_dir
    files = [
        (folder.name, os.path.abspath(file.path))
        for folder in seen_in(root)
        if folder.is_dir()
        for file in seen_in(folder.path)
        if file.is_file() and file.name.lower().endswith(SUFFIXES)
    ]
    count = min(options.images, len(files))
    if count < options.batch_size:
        raise UsageError(
            f"--data_dir={options.data_dir}: {count} JPEG files in class folders are fewer than "
            f"--batch_size={options.batch_size}; give more, or a smaller batch"
        )
    return [files[index * len(files) // count] for index in range(count)]


def seen_in(folder):
    """The entries of a folder that are not hidden, by name."""
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    return sorted(entries, key=lambda entry: entry.name)


def lay_out(chosen, folder, threads):
    """Links to the chosen files and what is prepared of them, in one folder.

    Returns:
        dict of kilobytes an image: original_kb, prepared_kb, raw_kb; and size, the median width x height.

    Raises:
        UsageError: a file cannot be decoded.
    """
    for number, (name, path) in enumerate(chosen):
        place = os.path.join(folder, "originals", name)
        os.makedirs(place, exist_ok=True)
        os.symlink(path, os.path.join(place, f"{number:06d}.jpg"))
    with quiet_start():
        import tensorflow as tf

        from keras_alexnet.data import preparation, sources

        tf.config.list_logical_devices()
        # Before anything is prepared, which would leave such a file out; libjpeg's own words stay off the screen.
        shapes = [shape_of(tf, path) for _, path in chosen]
    source = originals(folder)
    for encoding in ("jpeg", "raw"):
        out = os.path.join(folder, encoding)
        preparation.prepare(source, few(source), out, preparation.Settings(encoding=encoding), threads=threads)
    train, _ = sources.open_records(os.path.join(folder, "jpeg"), 1)
    for number, (_, content, label) in enumerate(train.items().map(train.loader()).as_numpy_iterator()):
        place = os.path.join(folder, "prepared", train.class_names[label])
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, f"{number:06d}.jpg"), "wb") as file:
            file.write(content)
    height, width = (int(statistics.median(column)) for column in zip(*shapes, strict=True))
    prepared = statistics.fmean(map(os.path.getsize, files_below(os.path.join(folder, "prepared"))))
    return {
        "size": f"{width}x{height}",
        "original_kb": statistics.fmean(os.path.getsize(path) for _, path in chosen) / 1e3,
        "prepared_kb": prepared / 1e3,
        "raw_kb": 256 * 256 * 3 / 1e3,
    }


def shape_of(tf, path):
    """(height, width) of a file, decoded whole: one that is cut short has a good header."""
    try:
        return tf.io.decode_jpeg(tf.io.read_file(path), channels=3).shape[:2]
    except tf.errors.OpError as error:
        raise UsageError(f"{path}: cannot be decoded; leave it out of --data_dir ({brief(error)})") from None


def originals(folder, repeats=1):
    """The original files as a source, each `repeats` times."""
    from pathlib import Path

    from keras_alexnet.data import sources

    source = sources.list_split(Path(folder), "originals")
    columns = {name: getattr(source, name) * repeats for name in ("files", "labels", "sizes")}
    return dataclasses.replace(source, **columns)


def few(source):
    """The same source with eight of its files: validation sets are not what is measured."""
    return dataclasses.replace(source, **{name: getattr(source, name)[:8] for name in ("files", "labels", "sizes")})


def files_below(folder):
    return [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]


def work(options):
    """One row: makes its loader ready, then goes over all images for every line of the standard input."""
    peak_mb = resident_peak()
    prepare = {"keras": keras_row, "preparation": preparation_row}.get(options.worker)
    if prepare is None:
        prepare = torch_row if options.worker.startswith("torch") else tensorflow_row
    over_all, images = prepare(options)

    def turn():
        started = time.perf_counter()
        seen = over_all()
        seconds = time.perf_counter() - started
        if seen != images:
            raise RuntimeError(f"{options.worker}: {seen} images instead of {images}")
        return {"images_per_second": images / seconds}

    take_turns({"images": images}, turn, lambda: {"peak_mb": peak_mb()})


def start_tensorflow(threads):
    """TensorFlow with so many threads for operations, and as many for parts of one."""
    with quiet_start():
        import tensorflow as tf

        tf.config.threading.set_inter_op_parallelism_threads(threads)
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.list_logical_devices()
    return tf


def tensorflow_row(options):
    """A row of tf.data: (a function that goes over all images and counts them, how many there are)."""
    tf = start_tensorflow(options.threads)
    from keras_alexnet.data import pipeline, sources, statistics
    from keras_alexnet.data.augmentation import Augmentation

    folder, repeats = options.data_dir, options.repeats
    known = statistics.load(os.path.join(folder, "jpeg", "statistics.npz"))
    if options.worker.startswith("decode"):
        files = files_below(os.path.join(folder, "prepared" if options.worker == "decode_prepared" else "originals"))

        def decoded(path):
            # One number of each image: all of it would be copied, none of it not even decoded.
            return tf.io.decode_jpeg(tf.io.read_file(path), channels=3)[0, 0, 0]

        dataset = tf.data.Dataset.from_tensor_slices(files).repeat(repeats).map(decoded, options.threads)
        dataset = limited(tf, dataset.batch(options.batch_size).prefetch(2), options.threads)
        return lambda: sum(len(batch) for batch in dataset), len(files) * repeats
    if options.worker == "direct":
        source = originals(folder, repeats)
    else:
        kind = "raw" if options.worker == "raw" else "jpeg"
        source, _ = sources.open_records(os.path.join(folder, kind), 1024)
        repeated = ("files", "offsets", "labels") if kind == "raw" else ("paths", "first", "ends")
        many = {name: np_or_tuple(getattr(source, name), repeats) for name in repeated}
        source = dataclasses.replace(source, **many)
    epochs = iter(range(10**6))

    def over_all():
        batches = pipeline.training(
            source,
            known,
            Augmentation(),
            size=CROP,
            batch_size=options.batch_size,
            seed=0,
            epoch=next(epochs),
            threads=options.threads,
        )
        return sum(len(labels) for _, labels in batches)

    return over_all, source.count


def np_or_tuple(column, repeats):
    import numpy as np

    return np.tile(column, repeats) if isinstance(column, np.ndarray) else column * repeats


def limited(tf, dataset, threads):
    settings = tf.data.Options()
    settings.autotune.enabled = False
    settings.threading.private_threadpool_size = threads
    return dataset.with_options(settings)


def keras_row(options):
    """Keras' own loader as its guide has it, with parallel calls and prefetching left to tf.data."""
    tf = start_tensorflow(options.threads)
    import keras

    loaded = keras.utils.image_dataset_from_directory(
        os.path.join(options.data_dir, "originals"),
        label_mode="int",
        image_size=(256, 256),
        batch_size=options.batch_size,
        verbose=False,
    )
    changed = keras.Sequential([keras.layers.RandomCrop(CROP, CROP), keras.layers.RandomFlip("horizontal")])
    dataset = loaded.repeat(options.repeats).map(
        lambda images, labels: (changed(images, training=True), labels), num_parallel_calls=tf.data.AUTOTUNE
    )
    settings = tf.data.Options()
    settings.threading.private_threadpool_size = options.threads
    dataset = dataset.prefetch(tf.data.AUTOTUNE).with_options(settings)
    images = len(files_below(os.path.join(options.data_dir, "originals"))) * options.repeats
    return lambda: sum(len(labels) for _, labels in dataset), images


def preparation_row(options):
    """The whole preparation, into a folder that is removed after it."""
    start_tensorflow(options.threads)
    from keras_alexnet.data import preparation

    source = originals(options.data_dir, options.repeats)
    validation = few(source)

    def over_all():
        out = tempfile.mkdtemp(dir=options.data_dir, prefix="out-")
        report = preparation.prepare(source, validation, out, preparation.Settings(), threads=options.threads)
        shutil.rmtree(out)
        return report.handled

    return over_all, source.count + validation.count


def torch_row(options):
    """PyTorch's loader with Pillow: the same batches as ours, channels first."""
    import numpy as np
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    resize = options.worker == "torch"
    folder = os.path.join(options.data_dir, "originals" if resize else "prepared")
    files = files_below(folder) * options.repeats
    mean = torch.from_numpy(np.load(os.path.join(options.data_dir, "jpeg", "statistics.npz"))["mean_image"])
    mean = mean[16:240, 16:240].permute(2, 0, 1).contiguous()

    class Photographs(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            with Image.open(files[index]) as opened:
                image = opened.convert("RGB")
            if resize:
                factor = 256 / min(image.size)
                image = image.resize([max(256, round(side * factor)) for side in image.size], Image.Resampling.BILINEAR)
            left = (image.width - 256) // 2 + int(torch.randint(33, ()))
            top = (image.height - 256) // 2 + int(torch.randint(33, ()))
            image = image.crop((left, top, left + CROP, top + CROP))
            if torch.rand(()) < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float()
            return tensor - mean + torch.randn(3, 1, 1), 0

    loader = torch.utils.data.DataLoader(
        Photographs(),
        batch_size=options.batch_size,
        shuffle=True,
        num_workers=options.threads,
        persistent_workers=True,
    )
    return lambda: sum(len(labels) for _, labels in loader), len(files)


def summary(said, turns):
    """The figures of each row.

    Returns:
        dict of row -> dict: images_per_second; of_limit, over the limit that LIMITS names; of_PEER; peak_mb, of the
        row's own process without PyTorch's workers; the turns.
    """
    found = {}
    for row, its_turns in turns.items():
        found[row] = {
            "images_per_second": statistics.median(turn["images_per_second"] for turn in its_turns),
            "peak_mb": said[row]["peak_mb"],
            "turns": its_turns,
        }
        limit = LIMITS.get(row)
        if limit in turns:
            found[row]["of_limit"] = median_ratio(its_turns, turns[limit], "images_per_second")
        for peer in PEERS.get(row, ()):
            if peer in turns:
                found[row][f"of_{peer}"] = median_ratio(its_turns, turns[peer], "images_per_second")
    return found


def needed(report):
    """What it takes that a device which trains `device_rate` images a second never waits.

    Returns:
        dict of row -> dict: cores, int, if all of them do as well as those measured; megabytes_per_second from storage.
    """
    kilobytes = {"direct": report["original_kb"], "records": report["prepared_kb"], "raw": report["raw_kb"]}
    return {
        row: {
            "cores": math.ceil(report["device_rate"] * report["threads"] / report["rows"][row]["images_per_second"]),
            "megabytes_per_second": report["device_rate"] * kilobytes[row] / 1e3,
        }
        for row in OURS
        if row in report["rows"]
    }


def as_text(report, missing):
    """The report as a table."""
    lines = [
        f"{report['images']} images of {report['size']} (median), {report['original_kb']:.0f} kB each; prepared "
        f"{report['prepared_kb']:.0f} kB, raw {report['raw_kb']:.0f} kB. Batches of {report['batch_size']}, "
        f"{report['threads']} threads, median of {report['rounds']} rounds of {report['repeats']} passes. "
        f"{report['processor']}, TensorFlow {report['tensorflow']}",
        "",
        f"{'row':<16}{'img/s':>8}{'of limit':>10}{'peak MB':>9}",
    ]
    for row, figures in report["rows"].items():
        ratio = f"{figures['of_limit']:>10.2f}" if "of_limit" in figures else f"{'':>10}"
        peers = ", ".join(f"{figures[f'of_{p}']:.2f} of {p}" for p in PEERS.get(row, ()) if f"of_{p}" in figures)
        lines.append(
            f"{row:<16}{figures['images_per_second']:>8.0f}{ratio}{figures['peak_mb']:>9.0f}   {ROWS[row]}"
            + (f" ({peers})" if peers else "")
        )
    lines += [f"{row:<16}{why}" for row, why in missing.items()]
    lines += [
        "",
        "Limit: decode for rows that begin with original files, decode_prepared for the others. Batches: float32, crop "
        f"of {CROP}, reflection, mean and color. Peak: resident memory of the row's process beyond its start.",
    ]
    if "needed" in report:
        lines += [
            "",
            f"For a device that trains {report['device_rate']:g} images a second, in proportion to the above:",
        ]
        for row, need in report["needed"].items():
            lines.append(f"{row:<16}{need['cores']} cores of this kind, {need['megabytes_per_second']:.0f} MB/s read")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command("benchmark_input", main, sys.argv[1:]))
