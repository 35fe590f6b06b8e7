"""A run -> a versioned SavedModel, as TF Serving takes it, or files of other runtimes.

    python -m keras_alexnet.export --model_dir=RUN [--views=10]      # RUN/export/1, or the next free number
    python -m keras_alexnet.export --model_dir=RUN --format=onnx,litert,keras [--quantize=int8]      # RUN/onnx/1 ...
    python -m keras_alexnet.export --model_dir=RUN --format=run      # RUN/run/1: a run to give away, in float16

ONNX, LiteRT and Keras files compute in float32. Each is compared with the run in its own runtime, on a few images of
the validation set, before it takes its place.
"""

import contextlib
import dataclasses
import datetime
import glob
import os

import numpy as np

from keras_alexnet import __version__, card, config as configs, flags, rundir
from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.errors import ArgumentError, UsageError, optional
from keras_alexnet.files import atomic_write, read_json, write_json, write_version
from keras_alexnet.flags import flag

METADATA = os.path.join("assets.extra", "metadata.json")
# What --format may name, with the modules that each needs beyond the package; their extra is called as the format.
FORMATS = {
    "saved_model": (),
    "onnx": ("tf2onnx", "onnxruntime"),
    "litert": ("ai_edge_litert.interpreter",),
    "keras": (),
    "run": (),
}
QUANTIZED = ("litert", "keras")


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Export."""

    model_dir: str | None = flag(None, "A run's folder, as training wrote it.", path=True)
    views: int = flag(
        1, "1: an image is answered by its center view. 10: by the mean of its ten views, section 4.1.", choices=(1, 10)
    )
    checkpoint: str = flag("newest", configs.CHECKPOINT_HELP, choices=configs.CHECKPOINT)
    format: tuple[str, ...] = flag(("saved_model",), f"One or several of {', '.join(FORMATS)}, separated by commas.")
    quantize: str = flag(
        "none",
        "int8: weights of eight bits, of dense layers (keras) or of all (litert); errors with both are measured.",
        choices=("none", "int8"),
    )


def main(argv):
    config = flags.parse(ExportConfig, argv, __doc__)
    model_dir = flags.required(config, "model_dir")
    check(config)
    rundir.check_run(model_dir)
    start_tensorflow()
    for name in config.format:
        for module in FORMATS[name]:
            optional(module, name)
    from keras_alexnet.serving import formats  # TensorFlow, which a wrong flag does not wait for

    for name in config.format:
        if name == "saved_model":
            folder = export_run(model_dir, config.views, config.checkpoint)
        elif name == "run":
            folder = export_half(model_dir, config.checkpoint)
        else:
            folder = formats.export_run(model_dir, name, config.checkpoint, config.quantize)
        print(f"exported to {folder}")


def check(config):
    """Raises ArgumentError where flags of an ExportConfig do not go together."""
    text, names = ",".join(config.format), set(config.format)
    if not names or not names <= set(FORMATS) or len(names) < len(config.format):
        raise ArgumentError("format", text, f"must be one or several different ones of {', '.join(FORMATS)}")
    if config.quantize != "none" and not names <= set(QUANTIZED):
        raise ArgumentError("quantize", config.quantize, f"goes with --format={' or '.join(QUANTIZED)}, not {text}")
    if config.views != 1 and names != {"saved_model"}:
        raise ArgumentError("views", config.views, f"goes with --format=saved_model, not {text}, which takes one view")


def export_run(model_dir, views=1, checkpoint="newest"):
    """Writes a checkpoint of a run as a SavedModel; returns its folder, MODEL_DIR/export/VERSION, str.

    The views are those of `serving.signatures.ServedModel`, checkpoint and errors those of `rundir.open_run`.
    """
    from keras_alexnet.serving import signatures  # TensorFlow, which a wrong flag does not wait for

    run = rundir.open_run(model_dir, checkpoint)
    served = signatures.of_run(run, views)
    folder = save(served, os.path.join(model_dir, "export"), metadata(run, views, served.size))
    write_card(run, os.path.dirname(folder))
    return folder


def export_half(model_dir, checkpoint="newest"):
    """Writes a run's folder with weights in float16, and what evaluation, export and prediction need beside them.

    Nothing in it depends on the machine or the time: paths become runs/NAME and data/NAME. Returns the folder,
    MODEL_DIR/run/VERSION, str.
    """
    run = rundir.open_run(model_dir, checkpoint)
    history = [{name: value for name, value in row.items() if name != "images_per_second"} for row in run.history]
    halves = {name: value.astype(np.float16) for name, value in run.weights.items()}
    model_dir, data, training = os.path.abspath(model_dir), run.config.data, run.config.training

    def below(folder, path):
        is_path = path and path not in rundir.INCLUDED
        return os.path.join(folder, os.path.basename(os.path.abspath(path))) if is_path else path

    data = dataclasses.replace(data, data_dir=below("data", data.data_dir), statistics=below("runs", data.statistics))
    training = dataclasses.replace(training, initial_weights=below("runs", training.initial_weights))
    settings = dataclasses.replace(run.config.run, model_dir=below("runs", model_dir))
    config = dataclasses.replace(run.config, data=data, training=training, run=settings)

    def write(folder):
        rundir.create(config, halves, run.class_names, run.statistics, history, folder)
        write_card(rundir.open_run(folder), folder)

    return write_version(os.path.join(model_dir, "run"), write)


def save(served, export_dir, metadata):
    """Writes a ServedModel as the next version, from 1 on, in `export_dir`; returns EXPORT_DIR/VERSION, str.

    The metadata, a dict for JSON, are written to `assets.extra/metadata.json`.
    """

    def write(folder):
        served.save(folder)
        write_json(os.path.join(folder, METADATA), metadata, indent=1, ensure_ascii=False)

    return write_version(export_dir, write)


def write_card(run, export_dir):
    """Writes the model card of a rundir.Run, see `keras_alexnet.card`, beside the versions of an export."""
    text = card.text(run)
    with atomic_write(os.path.join(export_dir, "README.md")) as file:
        file.write(text)


def exported_epochs(model_dir):
    """The epochs of all exported versions of a run, set of int."""
    found = set()
    for folder in glob.glob(os.path.join(glob.escape(model_dir), "export", "[0-9]*")):
        with contextlib.suppress(UsageError):
            found.add(read_metadata(folder).get("epochs"))
    return found


def read_metadata(folder):
    """The metadata of an exported version: dict with class_names (list of str), flags (dict of str) and more.

    Raises UsageError where the folder holds no model, or one that another program wrote.
    """
    if not rundir.is_export(folder):
        raise UsageError(f"{folder}: is not an exported model (its saved_model.pb is missing)")
    try:
        metadata = read_json(os.path.join(folder, METADATA))
        if not all(isinstance(metadata[name], kind) for name, kind in (("class_names", list), ("flags", dict))):
            raise ValueError("class_names and flags are of other kinds")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder}: was not exported by keras_alexnet.export ({METADATA}: {error})") from None
    return metadata


def metadata(run, views, size):
    """What is known of an exported rundir.Run, dict for JSON; the size is that of the network's input."""
    data, packages, measured = run.config.data, rundir.packages(), {}
    if run.history:  # in percent but for the loss (nats); on the validation set after the last epoch
        last, names = run.history[-1], ("top1_error", "top5_error", "loss", "mean_squared_error")
        measured = {"set": f"{data.dataset} validation", "views": 1, "models": 1, "epoch": last["epoch"]}
        measured |= {name: last[f"val_{name}"] for name in names}
    known = run.statistics
    training_set = {"dataset": data.dataset, "images": known.count, "fingerprint": known.identity}
    return {
        "keras_alexnet": __version__,
        "tensorflow": packages["tensorflow"],
        "keras": packages["keras"],
        "exported": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "variant": run.config.network.variant,
        "input_size": size,
        "views": views,
        "mean_subtraction": data.mean_subtraction,
        "resize": data.resize,
        "orientation": data.served_orientation,
        "epochs": len(run.history),
        "training_set": {**training_set, "label_counts": list(known.label_counts)},
        "measured": [measured] if measured else [],
        "class_names": list(run.class_names),
        "flags": flags.as_text(run.config),
    }


if __name__ == "__main__":
    raise SystemExit(run_command("export", main))
