"""A run -> a versioned SavedModel, as TF Serving takes it.

python -m keras_alexnet.export --model_dir=RUN [--views=10]      # RUN/export/1, or the next free number
"""

import dataclasses
import datetime
import json
import os
import sys

from keras_alexnet import __version__, flags, rundir
from keras_alexnet import config as configs
from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.errors import UsageError
from keras_alexnet.files import atomic_directory, remove_temp_files
from keras_alexnet.flags import flag

METADATA = os.path.join("assets.extra", "metadata.json")


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Export."""

    model_dir: str | None = flag(None, "A run's folder, as training wrote it.", path=True)
    views: int = flag(
        1, "1: an image is answered by its center view. 10: by the mean of its ten views, section 4.1.", choices=(1, 10)
    )
    checkpoint: str = flag("newest", configs.CHECKPOINT_HELP, choices=configs.CHECKPOINT)


def main(argv):
    config = flags.parse(ExportConfig, argv, __doc__)
    model_dir = flags.required(config, "model_dir")
    rundir.check_run(model_dir)
    start_tensorflow()
    print(f"exported to {export_run(model_dir, config.views, config.checkpoint)}")


def export_run(model_dir, views=1, checkpoint="newest"):
    """Writes a checkpoint of a run as a SavedModel; returns its folder, MODEL_DIR/export/VERSION, str.

    The views are those of `serving.signatures.ServedModel`, checkpoint and errors those of `rundir.open_run`.
    """
    run = rundir.open_run(model_dir, checkpoint)
    served = served_model(run, views)
    return save(served, os.path.join(model_dir, "export"), _metadata(run, views, served.size))


def served_model(run, views=1):
    """The network of a rundir.Run with its preprocessing: serving.signatures.ServedModel."""
    from keras_alexnet.serving.signatures import ServedModel  # TensorFlow, which a wrong flag does not wait for

    data, mean_image = run.config.data, run.statistics.mean_image
    ways = data.mean_subtraction == "aligned", views, data.resize, data.served_orientation
    return ServedModel(rundir.build(run), run.class_names, mean_image, *ways)


def save(served, export_dir, metadata):
    """Writes a ServedModel as the next version, from 1 on, in `export_dir`; returns EXPORT_DIR/VERSION, str.

    The metadata, a dict for JSON, are written to `assets.extra/metadata.json`.
    """

    def write(folder):
        served.save(folder)
        with open(os.path.join(folder, METADATA), "w", encoding="utf-8") as file:
            json.dump(metadata, file, indent=1, ensure_ascii=False)

    def next_version():
        versions = [int(name) for name in os.listdir(export_dir) if name.isdigit()]
        return os.path.join(export_dir, str(max(versions, default=0) + 1))

    os.makedirs(export_dir, exist_ok=True)
    remove_temp_files(export_dir)
    # TF Serving reads only folders whose names are numbers; the temporary one begins with a dot.
    return atomic_directory(export_dir, next_version, write)


def read_metadata(folder):
    """The metadata of an exported version: dict with class_names (list of str), flags (dict of str) and more.

    Raises UsageError where the folder holds no model, or one that another program wrote.
    """
    if not os.path.isfile(os.path.join(folder, "saved_model.pb")):
        raise UsageError(f"{folder}: is not an exported model (its saved_model.pb is missing)")
    try:
        with open(os.path.join(folder, METADATA), encoding="utf-8") as file:
            metadata = json.load(file)
        if not all(isinstance(metadata[name], kind) for name, kind in (("class_names", list), ("flags", dict))):
            raise ValueError("class_names and flags are of other kinds")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder}: was not exported by keras_alexnet.export ({METADATA}: {error})") from None
    return metadata


def _metadata(run, views, size):
    import tensorflow as tf  # as above

    data, measured = run.config.data, {}
    if run.history:  # in percent but for the loss (nats); on the validation set after the last epoch
        last, names = run.history[-1], ("top1_error", "top5_error", "loss", "mean_squared_error")
        measured = {"set": f"{data.dataset} validation", "views": 1, "models": 1, "epoch": last["epoch"]}
        measured |= {name: last[f"val_{name}"] for name in names}
    return {
        "keras_alexnet": __version__,
        "tensorflow": tf.__version__,
        "keras": rundir.packages()["keras"],
        "exported": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "variant": run.config.network.variant,
        "input_size": size,
        "views": views,
        "mean_subtraction": data.mean_subtraction,
        "resize": data.resize,
        "epochs": len(run.history),
        "training_set": {
            "dataset": data.dataset,
            "images": run.statistics.count,
            "label_counts": list(run.statistics.label_counts),
            "fingerprint": run.statistics.fingerprint,
        },
        "measured": [measured] if measured else [],
        "class_names": list(run.class_names),
        "flags": flags.as_text(run.config),
    }


if __name__ == "__main__":
    sys.exit(run_command("export", main, sys.argv[1:]))
