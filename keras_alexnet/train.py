"""Trains a network and exports it as a SavedModel.

    python -m keras_alexnet.train --flagfile=flags/NAME.cfg [--data_dir=DIR] [--model_dir=RUN]

A folder that holds a run resumes it. TensorBoard: `tensorboard --logdir RUN/logs`.
"""

import contextlib
import os
import sys
import time

from keras_alexnet import config as configs
from keras_alexnet import export, files, flags, rundir
from keras_alexnet.cli import catch_signals, quiet_start, run_command
from keras_alexnet.data import sources
from keras_alexnet.errors import UsageError

LOCK = "lock"  # in a run's folder, see `files.acquire`


def main(argv):
    train(configs.parse_train(argv, __doc__))


def train(config):
    """Trains the run of a config.Config, or resumes it, and exports it at the end.

    Returns:
        list of dict, the history, one for each epoch.

    Raises:
        UsageError: a setting is wrong, or something that it names is missing; nothing was written.
        RunError: the run failed; what it has written is kept.
    """
    started = time.perf_counter()
    check_model_dir(config)
    # A folder is listed without TensorFlow: a wrong path is answered at once.
    listed = sources.open_training(config.data) if config.data.dataset == "folder" else None
    with catch_signals() as stop:
        with quiet_start():
            # TensorFlow takes seconds to import: `--help` and a wrong flag are answered before.
            from keras_alexnet import datasets, loop
            from keras_alexnet.training import distribution as distributions

            distribution, devices, placed = distributions.choose(config.run, config.network, config.training.batch_size)
            stop.listen()
        data = datasets.find_imagenet(config.data, may_prepare=not config.run.dry_run and distribution.workers == 1)
        train_source, val_source = listed or datasets.open_sources(data, config.run.dry_run)
        given = datasets.given_statistics(data)
        with distribution.strategy.scope():
            model = rundir.build_model(config.network, len(train_source.class_names), config.run.seed, devices)
            loop.load_initial_weights(config, model)
        parts = config, model, devices, distribution
        if config.run.dry_run:
            known = datasets.placeholder_statistics(config, given, train_source, val_source)
            loop.dry_run(loop.Loop(*parts, *known, train_source, val_source), placed)
            return []
        os.makedirs(config.run.model_dir, exist_ok=True)
        with lock(config.run.model_dir) if distribution.is_chief else contextlib.nullcontext():
            if distribution.is_chief:
                files.remove_temp_files(config.run.model_dir)
            statistics, train_source, val_summary, val_source = datasets.prepare_datasets(
                config, given, train_source, val_source, distribution.is_chief
            )
            running = loop.Loop(*parts, statistics, val_summary, train_source, val_source)
            if distribution.is_chief:
                rundir.write_settings(config, train_source.class_names)
                changed = rundir.write_provenance(config.run.model_dir, statistics, val_summary)
                if changed:
                    words = "; ".join(changed)
                    print(f"note: the run was started with {words}: it may not repeat to the bit", flush=True)
            print(loop.describe(running, placed), end="", flush=True)
            trained = running.fit(started, stop)
            last = running.progress.history[-1]
            print(
                f"validation, center view, 1 model, {val_source.count} images: "
                f"top-1 error {last['val_top1_error']:.2f} %, top-5 error {last['val_top5_error']:.2f} %"
            )
            exported = os.path.isdir(os.path.join(config.run.model_dir, "export", "1"))
            if distribution.is_chief and config.run.export and (trained or not exported):
                print(f"exported to {export.export_run(config.run.model_dir)}")
    return running.progress.history


def check_model_dir(config):
    """A run resumes only as it was started; before its first checkpoint there is nothing to resume."""
    model_dir = config.run.model_dir
    rundir.check_path(model_dir)
    if os.path.exists(model_dir) and not os.path.isdir(model_dir):
        raise UsageError(f"--model_dir={model_dir}: is a file; name a folder")
    if config.data.dataset == "folder":
        inside = os.path.relpath(os.path.realpath(model_dir), os.path.realpath(config.data.data_dir)).split(os.sep)
        if len(inside) > 1 and inside[0] in ("train", *sources.VALIDATION_FOLDERS):
            raise UsageError(f"--model_dir={model_dir}: is inside the images of --data_dir; name another folder")
    if not rundir.is_run(model_dir) or not rundir.has_checkpoint(model_dir):
        return
    changed = flags.changes(rundir.read_config(model_dir), config)
    if changed:
        raise UsageError(
            f"--model_dir={model_dir}: holds a run with other flags: {', '.join(changed)}; repeat its flags, or name "
            "another folder"
        )


@contextlib.contextmanager
def lock(model_dir):
    """A block in which no other process trains in a folder. Raises UsageError where one does."""
    path = os.path.join(model_dir, LOCK)
    held = files.acquire(path)
    if held is None:
        raise UsageError(f"--model_dir={model_dir}: is being trained by {files.owner(path)}; name another folder")
    with held:
        yield


if __name__ == "__main__":
    sys.exit(run_command("train", main, sys.argv[1:]))
