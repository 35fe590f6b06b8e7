"""The training and the validation set of a run: opened, measured and checked before the first step."""

import atexit
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import tempfile

import numpy as np

from keras_alexnet import rundir
from keras_alexnet.data import imagenet, prepare, record_sets, sources
from keras_alexnet.data import statistics as stats
from keras_alexnet.data.augmentation import Augmentation
from keras_alexnet.errors import RunError, UsageError, printable
from keras_alexnet.files import atomic_write, progress_bar
from keras_alexnet.model.variants import VARIANTS

NAMED = 10  # bad files that are named on the screen; all of them are in the run's skipped.txt
IMAGENET = "imagenet2012"
IMAGENET_RECORDS = "imagenet256"  # below the data folder
IMAGENET_HELP = """\
ImageNet's images are fetched by hand, from https://image-net.org/download-images (free for research, after a login):
    ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, not unpacked, into {root}
Then give the same command again: it prepares them once, into {records}, and trains."""
_GRAY = 118.0  # of 255, about the mean of natural images


def open_sources(data, dry_run=False):
    """The sources of settings: (training, validation). Raises UsageError, see `data.sources.open_training`."""
    if dry_run and not sources.is_there(data):
        if data.dataset != "shapes":
            raise UsageError(
                f"--dataset={data.dataset}: is not prepared yet, and --dry_run writes nothing; prepare it first: tfds "
                f"build {data.dataset}"
            )
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        data = dataclasses.replace(data, data_dir=os.path.join(folder, "shapes"))
    return sources.open_training(data, progress_bar)


def find_imagenet(data, may_prepare=False):
    """Where the images of --dataset=imagenet2012 are: records, a TensorFlow Datasets folder, or the official archives.

    Looked for in this order below --data_dir (default: data/). Archives are first prepared as records, resumably.

    Returns:
        config.DataConfig by which the images are read; `data` itself for every other dataset.

    Raises:
        UsageError: all of them are missing, or there are archives only and `may_prepare` is False.
    """
    if data.dataset != IMAGENET:
        return data
    root = data.data_dir or "data"
    records = os.path.join(root, IMAGENET_RECORDS + ("_stretch" if data.resize == "stretch" else ""))
    if not data.train_split and not data.val_split:
        for folder in (root, records):
            if os.path.isfile(os.path.join(folder, record_sets.MANIFEST)):
                return dataclasses.replace(data, dataset="records", data_dir=folder)
    for folder in [data.data_dir] if data.data_dir else ["data", None]:
        if record_sets.is_prepared(IMAGENET, folder):
            return dataclasses.replace(data, data_dir=folder)
    try:
        archives = imagenet.find_archives(root)
    except UsageError:
        print(IMAGENET_HELP.format(root=root, records=records), file=sys.stderr)
        raise UsageError(f"--dataset={IMAGENET}: is missing in {root}: records, prepared set or archives") from None
    if not may_prepare:
        raise UsageError(
            f"--dataset={IMAGENET}: the archives in {archives} are not prepared yet; train to prepare them"
        )
    work = prepare.claim(records)
    bar = progress_bar("finding the images in the archives", "bytes")
    train, val = imagenet.open_ilsvrc2012(root, work and os.path.join(work, "index.json"), bar)
    note = imagenet.unofficial(train, val)
    if note:
        print(f"note: {note}", file=sys.stderr)
    bar = progress_bar(f"preparing {records}")
    prepare.prepare(train, val, records, prepare.Settings(resize=data.resize), threads=data.input_threads, progress=bar)
    return dataclasses.replace(data, dataset="records", data_dir=records)


def augmentation(data, variant):
    """The Augmentation of a run's settings; its variant's authors' numbers are the defaults."""
    return Augmentation(
        crop_positions=data.crop_positions or VARIANTS[variant].crop_positions,
        reflections=data.reflections,
        pca_color=data.pca_color,
        pca_scale=VARIANTS[variant].pca_scale if data.pca_scale == "auto" else data.pca_scale,
        pca_stddev=data.pca_stddev,
        aligned_mean=data.mean_subtraction == "aligned",
    )


def given_statistics(data):
    """Statistics of the training set that --statistics or prepared records give, or None. Raises UsageError."""
    of_records = os.path.join(data.data_dir, rundir.STATISTICS) if data.dataset == "records" else None
    path = data.statistics or of_records
    try:
        return stats.load(path) if path else None
    except (OSError, RunError) as error:
        hint = "give a statistics.npz of another run, or leave it out"
        raise UsageError(f"--statistics={path}: {error}; {hint}") from None


def placeholder_statistics(config, given, train_source, val_source):
    """(statistics, summary of the validation set) for a dry run: those that are known, or those of gray images."""
    path = os.path.join(config.run.model_dir, rundir.STATISTICS)
    statistics = stats.load(path) if os.path.isfile(path) else given
    if statistics is None:
        gray = np.full((stats.STORED_SIZE, stats.STORED_SIZE, 3), _GRAY, np.float32)
        statistics = stats.Statistics(gray, np.full(3, _GRAY), 4000.0 * np.eye(3), train_source.count)
    counts = val_source.label_counts or (1,) * len(val_source.class_names)
    return statistics, stats.DatasetSummary(tuple(counts), (), val_source.fingerprint())


def prepare_datasets(config, given, train_source, val_source, is_chief):
    """Statistics of the training set and a summary of the validation set: read from the run's folder, or computed.

    Args:
        config: config.Config.
        given: Statistics of `given_statistics`, or None.
        train_source, val_source: see `data.sources`.
        is_chief: bool, whether this process writes.

    Returns:
        (statistics, training source, summary, validation source); the sources without the files that are not images.

    Raises:
        UsageError: the run or the statistics are of other images, or a class has none.
        RunError: files are not images, and `--bad_images=fail`.
    """
    model_dir = config.run.model_dir
    statistics = _statistics(config, given, train_source, is_chief)
    summary = _summary(config, val_source, is_chief)
    if is_chief and not rundir.has_checkpoint(model_dir):
        shared = shared_files(train_source, val_source)
        if shared:
            found = f"{shared} of {val_source.count} validation images are training images too, by size and content"
            print(f"warning: {found}: the validation error will be too low", file=sys.stderr, flush=True)
    bad = (*train_source.other_files, *statistics.skipped), (*val_source.other_files, *summary.skipped)
    of_splits = {"train": train_source, "val": val_source}
    _report_bad_files(
        bad, lambda name: of_splits[name.partition("/")[0]].reason(name.partition("/")[2]), config, is_chief
    )
    for source, counts in ((train_source, statistics.label_counts), (val_source, summary.label_counts)):
        # A class may be missing from a part of a set; a class folder without one image in it is a mistake.
        empty = [name for name, count in zip(source.class_names, counts, strict=False) if not count]
        if empty and config.data.dataset == "folder":
            folder = f"{source.name}/{printable(empty[0])}"
            raise UsageError(f"--data_dir={config.data.data_dir}: {folder} holds no image that can be read")
    return statistics, train_source.without(statistics.skipped), summary, val_source.without(summary.skipped)


def shared_files(train_source, val_source):
    """How many files of a validation folder are in the training folder too, by content, int; 0 for other sources."""
    if not all(isinstance(source, sources.FolderSource) for source in (train_source, val_source)):
        return 0
    # Only files of equal size can be equal; of those the first 64 kB are compared.
    sizes = set(train_source.sizes) & set(val_source.sizes)
    train, val = (
        [
            (size, _digest(os.path.join(each.root, file)))
            for file, size in zip(each.files, each.sizes, strict=True)
            if size in sizes
        ]
        for each in (train_source, val_source)
    )
    known = set(train)
    return sum(pair in known for pair in val if pair[1])


def find_bad_files(train_source, val_source, threads=0):
    """The names of files that are not images, of each set: two tuples of str. Reads all; raises RunError."""
    return [
        stats.summarize(source, threads, progress_bar(f"reading {source.name}")).skipped
        for source in (train_source, val_source)
    ]


def describe_bad_files(train, val, reason=lambda name: ""):
    """Files that are not images in a message, str: their number and the first of them, control characters escaped.

    Args:
        train, val: sequences of str, names.
        reason: function of SPLIT/NAME, why such a file cannot be used, str.
    """
    names = _with_split(train, val)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    count = "1 file is not an image" if len(names) == 1 else f"{len(names)} files are not images"
    named = [printable(name) + (f" ({reason(name)})" if reason(name) else "") for name in names[:NAMED]]
    return f"{count}: {', '.join(named)}{more}"


def _statistics(config, given, source, is_chief):
    """Statistics of the training set: those in the run's folder, the given ones, or computed and written there."""
    path = os.path.join(config.run.model_dir, rundir.STATISTICS)
    kept = stats.load(path) if os.path.isfile(path) else None
    same = ("", source.fingerprint())
    if kept and kept.fingerprint not in same and not rundir.has_checkpoint(config.run.model_dir):
        kept = None  # nothing has been trained on them: the set was changed before the run started
    statistics = kept or given
    if statistics is None:
        bar = progress_bar("mean and covariance of the training set")
        statistics = stats.compute(source, config.data.input_threads, bar)
    elif statistics.fingerprint not in same:
        raise UsageError(
            f"{path}: is of another training set than there is now; restore it, or name another --model_dir"
            if kept
            else "--statistics: is of another training set; give the statistics.npz of this one, or leave it out"
        )
    if is_chief and statistics is not kept:
        stats.save(statistics, path)
    return statistics


def _summary(config, source, is_chief):
    """The summary of the validation set: that in the run's folder, or made and written there."""
    path = os.path.join(config.run.model_dir, rundir.VALIDATION)
    kept = read_summary(path)
    if kept and kept.fingerprint == source.fingerprint():
        return kept
    if kept and rundir.has_checkpoint(config.run.model_dir):
        raise UsageError(
            f"{path}: is of another validation set than there is now; restore it, or name another --model_dir"
        )
    if source.label_counts:
        summary = stats.DatasetSummary(source.label_counts, (), source.fingerprint())
    else:
        summary = stats.summarize(source, config.data.input_threads, progress_bar("reading the validation set"))
    if is_chief:
        with atomic_write(path) as file:
            json.dump(dataclasses.asdict(summary), file)
    return summary


def _digest(path):
    """A hash of the first 64 kB of a file, bytes; None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read(65536)).digest()
    except OSError:
        return None


def read_summary(path):
    """The summary of a validation set in a run's folder; None where it is missing or damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            kept = json.load(file)
        summary = stats.DatasetSummary(tuple(kept["label_counts"]), tuple(kept["skipped"]), kept["fingerprint"])
        return summary if all(isinstance(count, int) for count in summary.label_counts) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _with_split(train, val):
    return [f"{split}/{name}" for split, names in (("train", train), ("val", val)) for name in names]


def _report_bad_files(bad, reason, config, is_chief):
    """Lists the files that are not images in the run's skipped.txt, and names some. Raises RunError."""
    path, names = os.path.join(config.run.model_dir, "skipped.txt"), _with_split(*bad)
    if is_chief and names:
        with atomic_write(path) as file:
            file.write("".join(f"{printable(name)}\n" for name in names))
    elif is_chief and os.path.exists(path):
        os.unlink(path)
    if names:
        listed = f"{describe_bad_files(*bad, reason)}; all are in {path}"
        if config.data.bad_images == "fail":
            raise RunError(f"{listed}. --bad_images=skip leaves them out")
        print(f"{listed}; left out", flush=True)
