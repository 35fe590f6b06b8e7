"""TensorBoard's HParams of a grid: what each run was trained with and how it ended, and which of that differs.

Files of fixed names, written aside and put in place: writing them again leaves one of each.
"""

import os

from keras_alexnet.cli import quiet_start
from keras_alexnet.config import FREE_ON_RESUME
from keras_alexnet.files import atomic_write

METRICS = {"val_top1_error": "validation top-1 error, %", "val_loss": "validation loss, nats"}
_FILE = "events.out.tfevents.0.hparams"  # TensorBoard reads what has tfevents in its name
_ASIDE = FREE_ON_RESUME - {"epochs"}  # where a run lives and what it keeps


def settings_of(config):
    """The flags of a run that change what is learned, by name.

    Args:
        config: keras_alexnet.config.Config.

    Returns:
        dict of str -> bool, float or str.
    """
    typed = {
        name: value
        for part in (config.data, config.network, config.training, config.run)
        for name, value in vars(part).items()
        if isinstance(value, bool | int | float)
    }
    return {
        name: typed[name] if isinstance(typed.get(name), bool) else float(typed[name]) if name in typed else text or "-"
        for name, text in config.resolved
        if name not in _ASIDE
    }


def path_of(folder):
    """Where the HParams of a run are, str."""
    return os.path.join(folder, "logs", "hparams", _FILE)


def write_run(folder, group, config, last):
    """Writes what a run was trained with and its metrics.

    Args:
        folder: str, the run's.
        group: str, its name in the table.
        config: keras_alexnet.config.Config.
        last: dict, the last row of its history.
    """
    with quiet_start():
        from tensorboard.compat.proto import event_pb2
        from tensorboard.plugins.hparams import api
        from tensorboard.plugins.scalar import summary_v2

    path, ended = path_of(folder), os.path.getmtime(os.path.join(folder, "history.csv"))
    trained = api.hparams_pb(settings_of(config), trial_id=group, start_time_secs=ended)
    metrics = [summary_v2.scalar_pb(name, last[name]) for name in METRICS]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _write(
        path,
        [
            event_pb2.Event(wall_time=ended, step=step, summary=summary)
            for step, summary in [(0, trained), *((int(last["epoch"]), each) for each in metrics)]
        ],
    )


def write_experiment(out, configs):
    """Writes in what the runs of a grid differ; TensorBoard's table has a column for each such flag, and for the seed.

    Args:
        out: str, the grid's folder.
        configs: sequence of keras_alexnet.config.Config.
    """
    with quiet_start():
        from tensorboard.compat.proto import event_pb2
        from tensorboard.plugins.hparams import api

    settings = [settings_of(config) for config in configs]
    columns = {name: sorted({each[name] for each in settings}) for name in settings[0]}
    summary = api.hparams_config_pb(
        [
            api.HParam(name, api.Discrete(values))
            for name, values in columns.items()
            if len(values) > 1 or name == "seed"
        ],
        [api.Metric(name, display_name=shown) for name, shown in METRICS.items()],
        time_created_secs=0.0,
    )
    _write(os.path.join(out, _FILE), [event_pb2.Event(summary=summary)])


def _write(path, events):
    from tensorboard.compat.proto import event_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    with atomic_write(path, "wb") as file:
        writer = RecordWriter(file)
        for event in [event_pb2.Event(file_version="brain.Event:2", wall_time=events[0].wall_time), *events]:
            writer.write(event.SerializeToString())
