"""Trains a network and exports it as a SavedModel.

    python -m keras_alexnet.train --flagfile=flags/NAME.cfg [--data_dir=DIR] [--model_dir=RUN]

If --model_dir already holds a run, it is resumed. TensorBoard: `tensorboard --logdir RUN/logs`.
"""

import contextlib
import glob
import os
import time

from keras_alexnet import config as configs, export, files, flags, rundir
from keras_alexnet.cli import catch_signals, quiet_start, run_command
from keras_alexnet.data import sources
from keras_alexnet.errors import UsageError

LOCK = "lock"  # file in a run's folder, see `files.acquire`


def main(argv):
    train(configs.parse_train(argv, __doc__))


def train(config):
    """Starts or resumes the run of a config.Config, and exports the trained network.

    Returns the history, list with a dict for each epoch. Raises UsageError where a setting is wrong or what it names is
    missing, before anything is written; RunError where the run fails, whose files are kept.
    """
    started = time.perf_counter()
    check_model_dir(config)
    # Listing an image folder needs no TensorFlow, so a wrong --data_dir fails at once.
    listed = sources.open_training(config.data) if config.data.dataset == "folder" else None
    with catch_signals() as stop:
        with quiet_start():
            from keras_alexnet import datasets, loop
            from keras_alexnet.training import distribution as distributions

            batch_size = config.training.batch_size
            distribution, devices, all_devices = distributions.choose(config.run, config.network, batch_size)
            stop.listen()
        # Before data are prepared, which may take hours.
        initial_weights = loop.read_initial_weights(config)
        resumed = rundir.has_checkpoint(config.run.model_dir)
        if not resumed:
            datasets.check_statistics(config.data)
        data = datasets.find_imagenet(config.data, may_prepare=not config.run.dry_run and distribution.workers == 1)
        train_source, val_source = listed or datasets.open_sources(data, config.run.dry_run)
        kept = resumed and os.path.isfile(os.path.join(config.run.model_dir, rundir.STATISTICS))
        statistics = None if kept else datasets.given_statistics(data)
        with distribution.strategy.scope():
            model = rundir.build_model(config.network, len(train_source.class_names), config.run.seed, devices)
            if initial_weights is not None:
                loop.assign_initial_weights(config, initial_weights, model)
                del initial_weights  # as large as the network
        arguments = config, model, devices, distribution
        if config.run.dry_run:
            placeholders = datasets.placeholder_statistics(config, statistics, train_source, val_source)
            loop.dry_run(loop.Loop(*arguments, *placeholders, train_source, val_source), all_devices)
            return []
        os.makedirs(config.run.model_dir, exist_ok=True)
        with lock(config.run.model_dir) if distribution.is_chief else contextlib.nullcontext():
            if distribution.is_chief:
                files.remove_temp_files(config.run.model_dir)
            statistics, train_source, val_summary, val_source = datasets.prepare_datasets(
                config, statistics, train_source, val_source, distribution.is_chief
            )
            running = loop.Loop(*arguments, statistics, val_summary, train_source, val_source)
            if distribution.is_chief:
                rundir.write_settings(config, train_source.class_names)
                changed = "; ".join(rundir.write_provenance(config.run.model_dir, statistics, val_summary))
                if changed:
                    print(f"changed since the run started: {changed}; results may not repeat to the bit")
            print(loop.describe(running, all_devices), end="")
            trained = running.fit(started, stop)
            last = running.progress.history[-1]
            errors = "top-1 error {val_top1_error:.2f} %, top-5 error {val_top5_error:.2f} %".format(**last)
            print(f"validation, center view, 1 model, {val_source.count} images: {errors}")
            baseline = running.plateau.constant_error
            if last["val_top1_error"] >= baseline:
                remedy = "train longer (--epochs, a smaller --batch_size), or start from trained --initial_weights"
                print(f"warning: no better than always giving the most frequent class ({baseline:.2f} %); {remedy}")
            exported = running.progress.epochs in export.exported_epochs(config.run.model_dir)
            if distribution.is_chief and config.run.export and (trained or not exported):
                print(f"exported to {export.export_run(config.run.model_dir)}")
    return running.progress.history


def check_model_dir(config):
    """Raises UsageError if --model_dir is unusable or holds a checkpoint of a run that was started with other flags."""
    model_dir = config.run.model_dir
    rundir.check_path(model_dir)
    if os.path.exists(model_dir) and not os.path.isdir(model_dir):
        raise UsageError(f"--model_dir={model_dir}: is a file; name a folder")
    if config.data.dataset == "folder" and sources.is_inside(model_dir, config.data.data_dir):
        raise UsageError(f"--model_dir={model_dir}: is inside the images of --data_dir; name another folder")
    resumed = rundir.has_checkpoint(model_dir)
    begun = resumed or os.path.isfile(os.path.join(model_dir, rundir.FLAGS))
    # The Monitor of a run removes those that are newer than its checkpoint.
    places = (os.path.join(glob.escape(model_dir), "logs", name, "events.out.tfevents.*") for name in ("train", "val"))
    if not begun and any(map(glob.glob, places)):
        raise UsageError(f"--model_dir={model_dir}: holds TensorBoard's files of something else; name another folder")
    if not rundir.is_run(model_dir) or not resumed:
        return
    changed = ", ".join(flags.changes(rundir.read_config(model_dir), config))
    if changed:
        problem = f"holds a run with other flags, {changed}; repeat its flags, or name another folder"
        raise UsageError(f"--model_dir={model_dir}: {problem}")


def lock(model_dir):
    """The open lock of a folder, which keeps other processes from training in it. Raises UsageError where one does."""
    path = os.path.join(model_dir, LOCK)
    file = files.acquire(path)
    if file is None:
        raise UsageError(f"--model_dir={model_dir}: is being trained by {files.owner(path)}; name another folder")
    return file


if __name__ == "__main__":
    raise SystemExit(run_command("train", main))
