"""A model card of a run in Markdown, with the front matter that model hubs read. Every export writes it as README.md.

python -m keras_alexnet.card RUN > README.md
"""

import dataclasses
import glob
import json
import math
import os
import sys

from keras_alexnet import __version__, flags, rundir
from keras_alexnet import config as configs
from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.errors import UsageError, reading
from keras_alexnet.flags import flag
from keras_alexnet.model.variants import VARIANTS

CLASSES = 20  # that are named; class_names.txt has all
# How an image file becomes 256x256, by --resize.
_RESIZED = {
    "shorter_side": "the shorter side to 256 pixels, the central 256x256",
    "stretch": "all of it stretched to 256x256",
}
_TEXT = """\
---
# The license is yours to choose, as far as that of the images allows: https://huggingface.co/docs/hub/model-cards
# license: NAME
library_name: keras
pipeline_tag: image-classification
tags:
- alexnet
- image-classification
- keras
- tensorflow
{metrics}---

# AlexNet on {dataset}

The network of Krizhevsky, Sutskever and Hinton (2012), variant `{variant}`, {towers}, width {width:g}: trained by
[keras_alexnet]({url}) {version}.

## Data

| | |
|---|---|
| set | {dataset} |
| training images | {images} |
| classes | {classes} |

## Training

{epochs}; batches of {batch_size}, learning rate {learning_rate:g} ({lr_policy}), momentum {momentum:g}, weight decay
{weight_decay:g}, dropout {dropout:g}, seed {seed}, {precision}. `flags.cfg` of the run repeats it.

## Errors

{errors}
## Size

| | |
|---|---|
| parameters | {parameters:,} |
| floating-point operations of an image (two for each multiplication with its addition) | {flops:,} |
| weights in float32 | {megabytes:.1f} MB |

{files}## Preprocessing

An image file, JPEG or PNG: {resized}, of that the central {size}x{size}; RGB, 0 to 255, minus the training set's mean
image{scaled}. An EXIF orientation is ignored. The SavedModel takes files and does all of it; the other files come with
`predict.py`, which does the same in NumPy.

## Intended use

Research and teaching: repeating and explaining the paper, features, fine-tuning. It knows its {count} classes only and
gives one of them to any image. It was not tested for decisions about people, nor for safety.
{figures}"""
_URL = "https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks"


@dataclasses.dataclass(frozen=True)
class CardConfig:
    """Card."""

    run: tuple[str, ...] = flag((), "A run's folder, as training wrote it.")
    checkpoint: str = flag("newest", configs.CHECKPOINT_HELP, choices=configs.CHECKPOINT)


def main(argv):
    config = flags.parse(CardConfig, argv, __doc__, positional="run")
    if len(config.run) != 1:
        raise UsageError(f"name one run's folder, not {len(config.run)}")
    rundir.check_run(config.run[0])
    start_tensorflow()
    print(text(rundir.open_run(config.run[0], config.checkpoint)), end="")


def text(run):
    """The card of a rundir.Run, str."""
    network, data, training = run.config.network, run.config.data, run.config.training
    variant, names = VARIANTS[network.variant], run.class_names
    last = run.history[-1] if run.history else None
    model = rundir.build(run)
    parameters, more = model.count_params(), ", ..." * (len(names) > CLASSES)
    plots = sorted(os.path.basename(path) for path in glob.glob(os.path.join(glob.escape(run.model_dir), "*.png")))
    return _TEXT.format(
        url=_URL,
        version=__version__,
        variant=network.variant,
        towers="two towers" if network.towers == 2 else f"one tower, {network.groups} group(s)",
        width=network.width,
        dataset=data.dataset,
        images=f"{run.statistics.count:,}" if run.statistics.count else "not known (imported weights)",
        classes=f"{len(names)}: {', '.join(names[:CLASSES])}{more}".replace("|", "\\|"),
        count=len(names),
        epochs=f"{len(run.history)} epochs"
        if last
        else "Weights that were trained elsewhere; the settings are not theirs",
        **{name: getattr(training, name) for name in ("batch_size", "learning_rate", "lr_policy", "momentum")},
        weight_decay=training.weight_decay,
        dropout=network.dropout,
        seed=run.config.run.seed,
        precision=network.precision,
        metrics=_metrics(data.dataset, last) if last else "",
        errors=_errors(last) if last else "Not run: `python -m keras_alexnet.evaluate` measures them.\n",
        parameters=parameters,
        flops=operations(model),
        megabytes=4 * parameters / 1e6,
        files=_files(run.model_dir),
        resized=_RESIZED[data.resize],
        size=variant.input_size,
        scaled=" (divided by its deviation inside of the network)" if variant.pixel_scale else "",
        figures="\n## Figures\n\n" + "".join(f"![{name}](../{name})\n" for name in plots) if plots else "",
    )


def operations(model):
    """The floating-point operations of a keras.Model of `AlexNet` for one image, in convolutions and dense layers, int.

    A multiplication and an addition are two. Biases, normalization and pooling are not counted: below 1 %.
    """
    kernels = ((layer, layer.kernel.shape) for layer in model.layers if hasattr(layer, "kernel"))
    return sum(2 * math.prod(shape) * math.prod(layer.output.shape[1:-1]) for layer, shape in kernels)


def _metrics(dataset, last):
    """The front matter's metrics: hubs know accuracies, of 1."""
    values = {"accuracy": last["val_top1_error"], "top_5_accuracy": last["val_top5_error"]}
    lines = ["model-index:", "- name: AlexNet", "  results:", "  - task:", "      type: image-classification"]
    name = json.dumps(dataset)  # a JSON string is one of YAML
    lines += ["    dataset:", f"      name: {name}", f"      type: {name}", "      split: validation", "    metrics:"]
    for kind, error in values.items():
        lines += [f"    - type: {kind}", f"      value: {1 - error / 100:.4f}"]
    return "\n".join(["metrics:", "- accuracy", *lines, ""])


def _errors(last):
    return (
        "Validation set, center view, one model, in percent, after the last epoch:\n\n| top-1 | top-5 | loss (nats) |\n"
        f"|---|---|---|\n| {last['val_top1_error']:.2f} | {last['val_top5_error']:.2f} | {last['val_loss']:.4f} |\n"
    )


def _files(model_dir):
    """The files of other runtimes that were exported, each as it was compared with the run; "" without one."""
    rows = []
    for path in sorted(glob.glob(os.path.join(glob.escape(model_dir), "*", "[0-9]*", "metadata.json"))):
        with reading(path), open(path, encoding="utf-8") as file:
            metadata = json.load(file)
            parity, quantization = metadata["parity"], metadata.get("quantization")
            errors = "as the run"
            if quantization:
                before, after = (quantization[name]["top1_error"] for name in ("before", "after"))
                errors = f"{after:.2f} % (float32: {before:.2f} %), {quantization['images']:,} images"
            cells = (
                os.path.relpath(os.path.dirname(path), model_dir),
                f"{metadata['bytes'] / 1e6:.1f} MB",
                parity["runtime"],
            )
            rows.append([*cells, f"{parity['largest_probability_difference']:.1g}", errors])
    head = ["file", "size", "compared in", "largest difference of a probability", "top-1 error"]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join([*lines, "", ""]) if rows else ""


if __name__ == "__main__":
    sys.exit(run_command("card", main, sys.argv[1:]))
