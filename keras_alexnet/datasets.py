"""Opens, measures and checks the training and the validation set of a run before the first step."""

import atexit
import dataclasses
import os
import shutil
import sys
import tempfile

import numpy as np

from keras_alexnet import rundir
from keras_alexnet.config import DATASETS
from keras_alexnet.data import imagenet, prepare, records, sources, statistics as stats
from keras_alexnet.data.augmentation import Augmentation
from keras_alexnet.errors import ArgumentError, RunError, UsageError, printable
from keras_alexnet.files import atomic_write, read_json, write_json
from keras_alexnet.model.variants import VARIANTS

NAMED = 10  # bad files named on the screen; skipped.txt in the run's folder names all
IMAGENET = "imagenet2012"
IMAGENET_RECORDS = "imagenet256"  # folder in the data folder
IMAGENET_HELP = """\
Download ImageNet by hand from https://image-net.org/download-images (free for research, after a login):
    ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, not unpacked, into {root}
Then run the same command again: it prepares the archives once, into {records}, and trains."""
_GRAY = 118.0  # of 255: about the mean of natural images


def open_sources(data, dry_run=False):
    """The (training, validation) sources of settings; a dry run leaves nothing on the disk. Raises UsageError."""
    if dry_run and data.dataset == "shapes" and not os.path.isdir(sources.shapes_folder(data)):
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        data = dataclasses.replace(data, data_dir=os.path.join(folder, "shapes"))
    elif dry_run and data.dataset not in DATASETS and not records.is_prepared(data.dataset, data.data_dir):
        problem = "is not prepared yet, and --dry_run writes nothing"
        raise UsageError(f"--dataset={data.dataset}: {problem}; prepare it first: tfds build {data.dataset}")
    return sources.open_training(data)


def find_imagenet(data, may_prepare=False):
    """Finds the images of --dataset=imagenet2012: records, a TensorFlow Datasets folder, or the official archives.

    They are searched in this order below --data_dir (default: data/). Archives are prepared as records, resumably.
    Returns the config.DataConfig that reads the images, or `data` itself for other datasets. Raises UsageError where
    none is found, or only archives and `may_prepare` is False.
    """
    if data.dataset != IMAGENET:
        return data
    root = data.data_dir or "data"
    ways = "_stretch" * (data.resize == "stretch") + "_upright" * (data.orientation == "apply")
    prepared = os.path.join(root, IMAGENET_RECORDS + ways)
    if not data.train_split and not data.val_split:
        for folder in (root, prepared):
            if os.path.isfile(os.path.join(folder, records.MANIFEST)):
                return dataclasses.replace(data, dataset="records", data_dir=folder)
    for folder in [data.data_dir] if data.data_dir else ["data", None]:
        if records.is_prepared(IMAGENET, folder):
            return dataclasses.replace(data, data_dir=folder)
    try:
        archives = imagenet.find_archives(root)
    except UsageError:
        if may_prepare:
            print(IMAGENET_HELP.format(root=root, records=prepared), file=sys.stderr)
        raise UsageError(f"--dataset={IMAGENET}: is missing in {root} (records, prepared set or archives)") from None
    if not may_prepare:
        problem = f"the archives in {archives} are not prepared yet; tools/prepare_dataset.py prepares them"
        raise UsageError(f"--dataset={IMAGENET}: {problem}")
    for name in ("train_split", "val_split"):
        if getattr(data, name):
            problem = f"is of the TensorFlow Datasets set, which is not in {root}; the archives have their own splits"
            raise ArgumentError(name, getattr(data, name), problem)
    train, val = imagenet.open_ilsvrc2012(root, prepare.claim(prepared), data.orientation)
    imagenet.note_counts(train, val)
    settings = prepare.Settings(resize=data.resize, orientation=data.orientation)
    prepare.prepare(train, val, prepared, settings, threads=data.input_threads)
    return dataclasses.replace(data, dataset="records", data_dir=prepared)


def augmentation(data, variant):
    """The Augmentation of a run's settings; the defaults are those of the variant."""
    v, aligned = VARIANTS[variant], data.mean_subtraction == "aligned"
    positions = data.crop_positions or v.crop_positions
    scale = v.pca_scale if data.pca_scale == "auto" else data.pca_scale
    return Augmentation(positions, data.reflections, data.pca_color, scale, data.pca_stddev, aligned)


def given_statistics(data):
    """The statistics of the training set from --statistics or prepared records, or None. Raises UsageError."""
    path = data.statistics or (data.dataset == "records" and os.path.join(data.data_dir, rundir.STATISTICS))
    try:
        return stats.load(path) if path else None
    except (OSError, RunError) as error:
        hint = "give a statistics.npz of another run, or leave the flag out"
        raise UsageError(f"--statistics={path}: {error}; {hint}") from None


def check_statistics(data):
    """Raises UsageError of --statistics as `given_statistics`, and where --pca_color=dataset needs colors of them."""
    has_colors = not data.statistics or given_statistics(data).rgb_covariance.any()
    if data.pca_color == "dataset" and data.pca_stddev and not has_colors:
        problem = "has no covariance of colors, as imported weights have none; give --pca_color=none"
        raise UsageError(f"--statistics={data.statistics}: {problem}")


def placeholder_statistics(config, given, train_source, val_source):
    """(statistics, summary of the validation set) for a dry run, with statistics of gray images if none are known."""
    path = os.path.join(config.run.model_dir, rundir.STATISTICS)
    statistics = stats.load(path) if os.path.isfile(path) else given
    if statistics is None:
        gray = np.full((stats.STORED_SIZE, stats.STORED_SIZE, 3), _GRAY, np.float32)
        statistics = stats.Statistics(gray, np.full(3, _GRAY), 4000.0 * np.eye(3), train_source.count)
    counts = val_source.label_counts or (1,) * len(val_source.class_names)
    return statistics, stats.DatasetSummary(tuple(counts), (), val_source.fingerprint())


def prepare_datasets(config, given, train_source, val_source, is_chief):
    """Reads the statistics of the training set and the summary of the validation set, or computes and writes them.

    `given`: Statistics of `given_statistics`, or None; `is_chief`: bool, whether this process writes. Returns
    (statistics, training source, summary, validation source); the sources skip files that are not images. Raises
    UsageError where the run or the statistics are of other images, or a class has no image; RunError where files are
    not images and `--bad_images=fail`.
    """
    statistics = _statistics(config, given, train_source, is_chief)
    summary = _summary(config, val_source, is_chief)
    if is_chief and not rundir.has_checkpoint(config.run.model_dir):
        shared = shared_files(train_source, val_source)
        if shared:
            found = f"{shared} of {val_source.count} validation images are training images too, by size and content"
            print(f"warning: {found}; the validation error will be too low", file=sys.stderr)
    both, found = (train_source, val_source), (statistics, summary)
    bad = [(*source.other_files, *facts.skipped) for source, facts in zip(both, found, strict=True)]
    _report_bad_files(config, both, bad, is_chief)
    for source, facts in zip(both, found, strict=True):
        # A part of a set may lack a class, but a class folder without any image is a mistake.
        empty = [name for name, count in zip(source.class_names, facts.label_counts, strict=False) if not count]
        if empty and config.data.dataset == "folder":
            folder = f"{source.name}/{printable(empty[0])}"
            raise UsageError(f"--data_dir={config.data.data_dir}: {folder} holds no image that can be read")
    return statistics, train_source.without(statistics.skipped), summary, val_source.without(summary.skipped)


def shared_files(train_source, val_source):
    """The number of validation files that are in the training folder too, by content, int; 0 for other sources."""
    if not all(isinstance(source, sources.FolderSource) for source in (train_source, val_source)):
        return 0
    sizes = set(train_source.sizes) & set(val_source.sizes)

    def digests(source):
        # Only files of equal size can be equal; their first 64 kB are compared.
        others = (file for file, size in zip(source.files, source.sizes, strict=True) if size not in sizes)
        return [facts.digest for facts in source.without(others).facts() if facts.digest]

    return sum(map(set(digests(train_source)).__contains__, digests(val_source)))


def find_bad_files(train_source, val_source, threads=0):
    """The names of the files of each set that are not images: two tuples of str. Reads all files; raises RunError."""
    return [stats.summarize(source, threads).skipped for source in (train_source, val_source)]


def describe_bad_files(both, bad):
    """A message that counts the files that are not images and names the first, for (training, validation) sources."""
    listed, named = _listed(both, bad), []
    for split, source, name in listed[:NAMED]:
        reason = source.reason(name)
        named.append(printable(f"{split}/{name}") + (f" ({reason})" if reason else ""))
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    count = "1 file is not an image" if len(listed) == 1 else f"{len(listed)} files are not images"
    return f"{count}: {', '.join(named)}{more}"


def read_summary(path):
    """The summary of a validation set in a run's folder; None where it is missing or damaged."""
    try:
        saved = read_json(path)
        summary = stats.DatasetSummary(tuple(saved["label_counts"]), tuple(saved["skipped"]), saved["fingerprint"])
        return summary if all(isinstance(count, int) for count in summary.label_counts) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _statistics(config, given, source, is_chief):
    """The statistics from the run's folder, or those given or computed, which are written to the folder."""
    path, same = os.path.join(config.run.model_dir, rundir.STATISTICS), ("", source.fingerprint())
    saved = stats.load(path) if os.path.isfile(path) else None
    if saved and saved.fingerprint not in same and not rundir.has_checkpoint(config.run.model_dir):
        saved = None  # the training set has changed, but nothing has been trained on it yet
    statistics = saved or given or stats.compute(source, config.data.input_threads)
    if statistics.fingerprint not in same:
        if saved:
            raise UsageError(f"{path}: the training set has changed; restore it, or name another --model_dir")
        remedy = "give the statistics.npz of this training set, or leave the flag out"
        raise UsageError(f"--statistics: is of another training set; {remedy}")
    if is_chief and statistics is not saved:
        stats.save(statistics, path)
    return statistics


def _summary(config, source, is_chief):
    """The summary from the run's folder, or a computed one, which is written to the folder."""
    path = os.path.join(config.run.model_dir, rundir.VALIDATION)
    saved = read_summary(path)
    if saved and saved.fingerprint == source.fingerprint():
        return saved
    if saved and rundir.has_checkpoint(config.run.model_dir):
        raise UsageError(f"{path}: the validation set has changed; restore it, or name another --model_dir")
    prepared = source.label_counts and stats.DatasetSummary(source.label_counts, (), source.fingerprint())
    summary = prepared or stats.summarize(source, config.data.input_threads)
    if is_chief:
        write_json(path, dataclasses.asdict(summary))
    return summary


def _listed(both, bad):
    splits = zip(("train", "val"), both, bad, strict=True)
    return [(split, source, name) for split, source, names in splits for name in names]


def _report_bad_files(config, both, bad, is_chief):
    """Writes the files that are not images to skipped.txt, and prints the first. Raises RunError."""
    path = os.path.join(config.run.model_dir, "skipped.txt")
    lines = [f"{printable(f'{split}/{name}')}\n" for split, _, name in _listed(both, bad)]
    if is_chief and lines:
        with atomic_write(path) as file:
            file.writelines(lines)
    elif is_chief and os.path.exists(path):
        os.unlink(path)
    if lines:
        message = f"{describe_bad_files(both, bad)}; all are listed in {path}"
        if config.data.bad_images == "fail":
            raise RunError(f"{message}. --bad_images=skip leaves them out")
        print(f"{message}; left out")
