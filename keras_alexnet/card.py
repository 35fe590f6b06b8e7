"""A model card of a run in Markdown, with the front matter that model hubs read. Every export writes it as README.md.

python -m keras_alexnet.card RUN > RUN/export/README.md
"""

import dataclasses
import glob
import html
import json
import math
import os
import re
from pathlib import Path

from keras_alexnet import __version__, flags, rundir
from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.data import imagenet
from keras_alexnet.errors import UsageError, printable, reading
from keras_alexnet.files import read_json
from keras_alexnet.flags import flag
from keras_alexnet.model.variants import VARIANTS

CLASSES = 20  # that are named; class_names.txt has all
TEMPLATE = Path(__file__).with_name("card.md")


@dataclasses.dataclass(frozen=True)
class CardConfig:
    """Card."""

    run: tuple[str, ...] = flag((), "A run's folder, as training wrote it.")


def main(argv):
    config = flags.parse(CardConfig, argv, __doc__, positional="run")
    if len(config.run) != 1:
        raise UsageError(f"name one run's folder, not {len(config.run)}")
    rundir.check_run(config.run[0], flag="")
    start_tensorflow()
    print(text(rundir.open_run(config.run[0])), end="")


def text(run):
    network, data, training = run.config.network, run.config.data, run.config.training
    names, count, model = run.class_names, run.statistics.count, rundir.build(run)
    is_folder = data.dataset in ("folder", "records")
    dataset = os.path.basename(os.path.abspath(data.data_dir)) if is_folder else data.dataset
    values = {"dataset": _escaped(dataset), "images": f"{count:,} training images" if count else "imported weights"}
    values |= {"training": "not known", "errors": "not run", "metrics": ""}
    if run.history:
        last, s = run.history[-1], "s" * (len(run.history) > 1)
        values["metrics"] = _metrics(dataset, last)
        values["errors"] = "{val_top1_error:.2f} %, {val_top5_error:.2f} %: validation set, center view".format(**last)
        values["training"] = (
            f"{len(run.history)} epoch{s}, batches of {training.batch_size}, learning rate {training.learning_rate:g} "
            f"({training.lr_policy}), momentum {training.momentum:g}, weight decay {training.weight_decay:g}, dropout "
            f"{network.dropout:g}, seed {run.config.run.seed}, {network.precision}"
        )
    plots = sorted(glob.glob("*.png", root_dir=run.model_dir))
    template = TEMPLATE.read_text(encoding="utf-8").removesuffix("\n")
    return template.format(
        **values,
        version=__version__,
        variant=network.variant,
        form="two towers" if network.towers == 2 else f"one tower, groups {network.groups}",
        width=network.width,
        count=len(names),
        classes=_escaped(", ".join(map(imagenet.word, names[:CLASSES])) + ", ..." * (len(names) > CLASSES)),
        parameters=model.count_params(),
        megabytes=4 * model.count_params() / 1e6,
        flops=sum(operations(layer) for layer in model.layers if hasattr(layer, "kernel")),
        files=_files(run.model_dir, len(run.history)),
        resized={"shorter_side": "the central square", "stretch": "all"}[data.resize],
        size=VARIANTS[network.variant].input_size,
        orientation={"apply": "applied", "ignore": "ignored"}[data.served_orientation],
        figures="\n## Figures\n\n" + "".join(f"![{name}](../{name})\n" for name in plots) if plots else "",
    )


def _escaped(text):
    """A name from elsewhere as Markdown that shows it: no HTML, code, links, emphasis or columns, and one line."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(printable(text), quote=False))


def operations(layer):
    """The operations of a convolution or dense layer for one image, a multiplication and an addition being two: int."""
    return 2 * math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)


def _metrics(dataset, last):
    """The front matter's results: hubs know accuracies, as shares. A JSON value is one of YAML."""
    values = {"accuracy": last["val_top1_error"], "top_5_accuracy": last["val_top5_error"]}
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": dataset, "type": dataset, "split": "validation"},
        "metrics": [{"type": kind, "value": round(1 - error / 100, 6)} for kind, error in values.items()],
    }
    return f"metrics: [accuracy]\nmodel-index: {json.dumps([{'name': 'AlexNet', 'results': [result]}])}\n"


def _files(model_dir, epochs):
    """The table of the files of other runtimes in a run's folder, each as it was compared with the run, or ""."""
    lines = [
        "| file | size | compared in | largest difference of a probability | top-1 error |",
        "|---|---|---|---|---|",
    ]
    for path in sorted(glob.glob("*/[0-9]*/metadata.json", root_dir=model_dir)):
        with reading(path):
            found = read_json(os.path.join(model_dir, path))
            parity, errors, epoch = found["parity"], "as the run", found.get("epochs", epochs)
            if epoch != epochs:
                errors = f"{found['measured'][0]['top1_error']:.2f} %, of the run after epoch {epoch}"
            if "quantization" in found:
                before, after = (found["quantization"][name]["top1_error"] for name in ("before", "after"))
                errors = f"{after:.2f} % (float32: {before:.2f} %), {found['quantization']['images']:,} images"
            cells = os.path.dirname(path), f"{found['bytes'] / 1e6:.1f} MB", parity["runtime"]
            lines.append(f"| {' | '.join(cells)} | {parity['largest_probability_difference']:.1g} | {errors} |")
    return "\n".join([*lines, "", ""]) if len(lines) > 2 else ""


if __name__ == "__main__":
    raise SystemExit(run_command("card", main))
