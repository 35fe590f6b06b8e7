"""A config's data, opened and looked at before anything is trained on it."""

import atexit
import dataclasses
import json
import os
import shutil
import tempfile

from keras_alexnet import rundir
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.files import atomic_write, progress_bar

NAMED = 10  # bad files named on the screen; all of them are in the run's skipped.txt
_GRAY = 118.0  # of 255, about what photographs are in the mean


def _statistics_path(config):
    """Where the statistics of the training set are already, or None."""
    if config.data.statistics or config.data.dataset != "records":
        return config.data.statistics
    from keras_alexnet.data.preparation import STATISTICS

    return os.path.join(config.data.data_dir, STATISTICS)


def given_statistics(config):
    """Statistics of the training set that are there already, or None. Raises UsageError of a file that holds none."""
    path = _statistics_path(config)
    if not path:
        return None
    from keras_alexnet.data import statistics

    try:
        return statistics.load(path)
    except (OSError, RunError) as error:
        raise UsageError(
            f"--statistics={path}: {error}; give a statistics.npz of another run, or leave it out"
        ) from None


def open_sources(config):
    """The sources of a config: (training, validation). Raises UsageError, see `data.sources.open_training`."""
    from keras_alexnet.data import sources

    data = config.data
    if config.run.dry_run and not sources.is_there(data):
        if data.dataset != "shapes":
            raise UsageError(
                f"--dataset={data.dataset}: is not prepared yet, and --dry_run writes nothing; prepare it first: tfds "
                f"build {data.dataset}"
            )
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        data = dataclasses.replace(data, data_dir=os.path.join(folder, "shapes"))
    return sources.open_training(data, progress_bar)


def placeholder_statistics(config, given, train_source, val_source):
    """Statistics and a summary that take no time: what is known, or gray images of equally many in each class."""
    import numpy as np

    from keras_alexnet.data import statistics as stats

    path = os.path.join(config.run.model_dir, rundir.STATISTICS)
    statistics = stats.load(path) if os.path.isfile(path) else given
    if statistics is None:
        gray = np.full((stats.STORED_SIZE, stats.STORED_SIZE, 3), _GRAY, np.float32)
        statistics = stats.Statistics(gray, np.full(3, _GRAY), 4000.0 * np.eye(3), train_source.count)
    counts = val_source.label_counts or (1,) * len(val_source.class_names)
    return statistics, stats.DatasetSummary(tuple(counts), (), val_source.fingerprint())


def look_at(config, given, train_source, val_source, write):
    """What is known of both sets, from the run's folder if it is there, or else found out and written there.

    Args:
        config: config.Config.
        given: data.statistics.Statistics, as of `given_statistics`, or None.
        train_source, val_source: see `data.sources`.
        write: bool, whether this process writes; of several machines one does.

    Returns:
        (statistics, the training set without what is no image, summary, the validation set likewise).

    Raises:
        UsageError: the run or the statistics are of other images, or a class has none.
        RunError: files are no images, and `--bad_images=fail`.
    """
    from keras_alexnet.data import statistics as stats

    model_dir, threads = config.run.model_dir, config.data.input_threads
    path = os.path.join(model_dir, rundir.STATISTICS)
    statistics = stats.load(path) if os.path.isfile(path) else given
    if statistics is None:
        statistics = stats.compute(train_source, threads, progress_bar("mean and covariance of the training set"))
    elif statistics.fingerprint and statistics.fingerprint != train_source.fingerprint():
        known = path if os.path.isfile(path) else _statistics_path(config)
        raise UsageError(
            f"{known}: is of another training set than there is now; name another --model_dir or leave out --statistics"
        )
    if write and not os.path.isfile(path):
        stats.save(statistics, path)

    survey_path = os.path.join(model_dir, rundir.VALIDATION)
    summary = None
    if os.path.isfile(survey_path):
        with open(survey_path, encoding="utf-8") as file:
            summary = stats.DatasetSummary(**json.load(file))
    elif val_source.label_counts:
        summary = stats.DatasetSummary(val_source.label_counts, (), val_source.fingerprint())
        if write:
            _write_text(survey_path, json.dumps(dataclasses.asdict(summary)))
    if summary is None or summary.fingerprint != val_source.fingerprint():
        summary = stats.summarize(val_source, threads, progress_bar("looking at the validation set"))
        if write:
            _write_text(survey_path, json.dumps(dataclasses.asdict(summary)))

    bad = {
        "train": [*train_source.other_files, *statistics.skipped],
        "val": [*val_source.other_files, *summary.skipped],
    }
    _report_bad(bad, config.data.bad_images, os.path.join(model_dir, "skipped.txt"), write)
    for source, counts in ((train_source, statistics.label_counts), (val_source, summary.label_counts)):
        # A class may be missing from a part of a set; a class folder without one image in it is a mistake.
        empty = [name for name, count in zip(source.class_names, counts, strict=False) if not count]
        if empty and config.data.dataset == "folder":
            raise UsageError(
                f"--data_dir={config.data.data_dir}: {source.name}/{empty[0]} holds no image that can be read"
            )
    return statistics, train_source.without(statistics.skipped), summary, val_source.without(summary.skipped)


def _report_bad(bad, policy, path, write):
    names = [f"{split}/{name}" for split, files in bad.items() for name in files]
    if not names:
        return
    if write:
        _write_text(path, "".join(f"{name}\n" for name in names))
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    if policy == "fail":
        raise RunError(
            f"{len(names)} files are not images: {shown}; all are in {path}. --bad_images=skip leaves them out"
        )
    print(f"{len(names)} files are not images and are left out: {shown}; all are in {path}", flush=True)


def _write_text(path, text):
    with atomic_write(path) as file:
        file.write(text)
