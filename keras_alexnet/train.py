"""The main job: a config -> data -> network -> training -> a SavedModel.

    python -m keras_alexnet.train --flagfile=flags/NAME.cfg [--data_dir=DIR] --model_dir=RUN

A folder that holds a run goes on with it. TensorBoard: `tensorboard --logdir RUN/logs`.
"""

import contextlib
import math
import os
import sys
import time

from keras_alexnet import config as configs
from keras_alexnet import files, flags, inspection, preflight, rundir
from keras_alexnet.cli import quiet_start, run_command
from keras_alexnet.errors import UsageError
from keras_alexnet.files import remove_temp_files
from keras_alexnet.session import Session

LOCK = "lock"  # in a run's folder, see `locks`


def main(argv):
    train(configs.parse_train(argv, __doc__))


def train(config):
    """Trains, or goes on training, the run that a config describes; exports it at the end.

    Args:
        config: config.Config.

    Returns:
        list of dict, the history, one an epoch.

    Raises:
        UsageError: something asked for is not there or does not go together; nothing was written.
        RunError: the run stopped; what it had written stays.
    """
    started = time.perf_counter()
    model_dir, run = config.run.model_dir, config.run
    # What can be wrong is looked at before anything is drawn, fetched or computed; a folder's listing even before
    # TensorFlow is there.
    _check_folder(config)
    listed = inspection.open_sources(config) if config.data.dataset == "folder" else None
    with quiet_start():
        import keras
        import tensorflow as tf

        from keras_alexnet.model.towers import check_precision, choose_devices
        from keras_alexnet.training import distribution

        if run.strategy == "one":
            devices = placed = choose_devices(config.network.device_names(), config.network.towers)
        else:
            # Every replica is on a device of its own, its towers side by side.
            names = config.network.device_names()
            devices, placed = (), choose_devices(names, len(names)) if names else ()
        shared = distribution.choose(run.strategy, placed, config.training.batch_size)
        check_precision(config.network.precision, placed)
        if run.deterministic:
            keras.utils.set_random_seed(run.seed)
            tf.config.experimental.enable_op_determinism()
    train_source, val_source = listed or inspection.open_sources(config)
    given = inspection.given_statistics(config)
    with shared.strategy.scope():
        model = rundir.build_model(config.network, len(train_source.class_names), run.seed, devices)
        _begin_with(config, model)
    if run.dry_run:
        statistics, summary = inspection.placeholder_statistics(config, given, train_source, val_source)
        with _held(model_dir) if os.path.isdir(model_dir) else contextlib.nullcontext():
            session = Session(config, model, devices, shared, statistics, summary, train_source, val_source)
            described = _description(config, model, train_source, val_source, placed, shared)
            preflight.report(config, session, described)
        return []

    os.makedirs(model_dir, exist_ok=True)
    with _held(model_dir) if shared.is_chief else contextlib.nullcontext():
        if shared.is_chief:
            remove_temp_files(model_dir)
        statistics, train_source, summary, val_source = inspection.look_at(
            config, given, train_source, val_source, shared.is_chief
        )
        session = Session(config, model, devices, shared, statistics, summary, train_source, val_source)
        if shared.is_chief:
            rundir.write_class_names(model_dir, train_source.class_names)
            rundir.write_flags(config)
            changed = rundir.write_provenance(model_dir, statistics, summary)
            if changed:
                print(f"note: the run was begun with {'; '.join(changed)}: it may not repeat to the bit", flush=True)
        print(_description(config, model, train_source, val_source, placed, shared), end="", flush=True)
        trained = session.fit(started)
        last = session.progress.history[-1]
        print(
            f"validation, center view, 1 model, {val_source.count} images: "
            f"top-1 error {last['val_top1_error']:.2f} %, top-5 error {last['val_top5_error']:.2f} %"
        )
        exported = os.path.isdir(os.path.join(model_dir, "export", "1"))
        if shared.is_chief and run.export and (trained or not exported):
            from keras_alexnet.export import export_run

            print(f"exported to {export_run(model_dir)}")
    return session.progress.history


def _held(model_dir):
    """A lock on a run's folder, a context. Raises UsageError where another process trains there."""
    path = os.path.join(model_dir, LOCK)
    lock = files.acquire(path)
    if lock is None:
        raise UsageError(f"--model_dir={model_dir}: is being trained by {files.owner(path)}; name another folder")
    return lock


def _check_folder(config):
    """A run goes on only as it began; before its first checkpoint there is nothing to go on with."""
    model_dir = config.run.model_dir
    if os.path.exists(model_dir) and not os.path.isdir(model_dir):
        raise UsageError(f"--model_dir={model_dir}: is a file; name a folder")
    if not rundir.is_run(model_dir) or not rundir.has_checkpoint(model_dir):
        return
    with open(os.path.join(model_dir, rundir.FLAGS), encoding="utf-8") as file:
        changed = flags.changes(configs.read_flags_cfg(file.read()), config)
    if changed:
        raise UsageError(
            f"--model_dir={model_dir}: holds a run with other flags: {', '.join(changed)}; repeat its flags, or name "
            "another folder"
        )


def _begin_with(config, model):
    """Gives a model the weights that its run begins with; a run that goes on has its own already."""
    path = config.training.initial_weights
    if not path or rundir.has_checkpoint(config.run.model_dir):
        return
    from keras_alexnet.export import recipe_of
    from keras_alexnet.model import weights

    before = recipe_of(path)
    for name in ("variant", "width"):
        own, other = getattr(config.network, name), before and getattr(before.network, name)
        if before and own != other:
            raise UsageError(f"--initial_weights={path}: its network has --{name}={other}, and this one {own}")
    try:
        weights.assign(weights.read(path), model, without=config.training.new_layers)
    except ValueError as error:
        raise UsageError(f"--initial_weights={path}: {str(error).removeprefix(f'{path}: ')}") from None
    print(f"weights:    of {path}; new: {', '.join(config.training.new_layers) or 'none'}", flush=True)


def _description(config, model, train_source, val_source, devices, shared):
    """What is trained on what, in lines."""
    network, training = config.network, config.training
    steps = math.ceil(train_source.count / training.batch_size)
    where = " and ".join(devices) if devices else "wherever TensorFlow places it"
    if shared.replicas > 1:
        where += f", {shared.replicas} replicas in {shared.workers} process{'es' * (shared.workers > 1)}"
    return (
        f"training:   {train_source.count} images of {len(train_source.class_names)} classes, {steps} steps an epoch, "
        f"up to {training.epochs} epochs\n"
        f"validation: {val_source.count} images, center view\n"
        f"network:    {network.variant}, {network.towers} tower{'s' * (network.towers > 1)}, "
        f"{model.count_params():,} parameters, {network.precision}, on {where}\n"
    )


if __name__ == "__main__":
    sys.exit(run_command("train", main, sys.argv[1:]))
