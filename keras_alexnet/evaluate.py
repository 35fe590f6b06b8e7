"""Top-1 and top-5 error of runs or exported models on a set of images.

    python -m keras_alexnet.evaluate --model_dir=RUN [--views=10]
    python -m keras_alexnet.evaluate --model_dir=RUN --model_dir=OTHER --weights=search --search_split=train

Errors are in percent, ties shared as the release shares them, every image counted once.
"""

import dataclasses
import json
import math
import os
import re
import sys

from keras_alexnet import config as configs
from keras_alexnet import flags, rundir
from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.errors import ArgumentError, UsageError
from keras_alexnet.files import atomic_write
from keras_alexnet.flags import flag

NAMED = 5  # files left out that are named on the screen; all of them are in the JSON


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation."""

    model_dir: tuple[str, ...] = flag(
        (),
        "A run's folder, or an exported model's (RUN/export/1). Given several times, probabilities are averaged.",
        many=True,
        path=True,
    )
    checkpoint: str = flag("newest", configs.CHECKPOINT_HELP, choices=configs.CHECKPOINT)
    views: int = flag(
        1, "1: the center view. 10: four corners, center and reflections, averaged (section 4.1).", choices=(1, 10)
    )
    dataset: str | None = flag(None, "As in training; default: what the first model was trained with.")
    data_dir: str | None = flag(None, "As in training; default: the first model's.", path=True)
    split: str | None = flag(
        None,
        "folder: the folder in DATA_DIR that holds the class folders (default: val). records and shapes: train or val. "
        "TensorFlow Datasets: in its notation (default: what the first model was validated on).",
    )
    weights: str = flag(
        "equal",
        "equal; one number for each --model_dir, such as 0.3,0.7; or search: as the release searched them, lowest "
        "top-5 and then top-1 error on --search_split.",
    )
    search_split: str | None = flag(
        None,
        "Where weights are searched (default: --split itself, as the release did; its errors are then too low).",
    )
    batch_size: int = flag(120, "Views that a network gets at a time.", low=1, high=4096)
    input_threads: int = flag(0, "Threads of the data graph; 0: one per core.", low=0, high=1024)
    per_class: bool = flag(False, "Errors of every class.")
    confusions: int = flag(0, "So many pairs of classes that were taken for each other.", low=0, high=10**6)
    calibration: bool = flag(False, "How well probabilities say how often they are right.")
    json: str | None = flag(
        None,
        "Where all figures are written (default: evaluation_SPLIT_VIEWSviews.json in the folder of the first run, or "
        "of the run that the first model was exported from, or else here).",
        path=True,
    )

    def given_weights(self):
        """One number for each model, tuple of float; () for "equal" and "search". Raises ArgumentError."""
        if self.weights in ("equal", "search"):
            return ()
        try:
            weights = tuple(float(part) for part in self.weights.split(","))
        except ValueError:
            weights = ()
        if not weights or not all(weight >= 0 for weight in weights) or not 0 < sum(weights) < math.inf:
            problem = "must be equal, search, or numbers from 0 on such as 0.3,0.7, not all 0"
            raise ArgumentError("weights", self.weights, problem)
        if len(weights) != len(self.model_dir):
            problem = f"has {len(weights)} numbers for {len(self.model_dir)} --model_dir; give one for each"
            raise ArgumentError("weights", self.weights, problem)
        return weights


def main(argv):
    """Prints the table, and writes all figures as JSON."""
    config = parse_evaluate(argv, __doc__)
    for folder in config.model_dir:
        if not rundir.is_run(folder) and not os.path.isfile(os.path.join(folder, "saved_model.pb")):
            raise UsageError(
                f"--model_dir={folder}: is neither a run (its {rundir.FLAGS} is missing) nor an exported model (its "
                "saved_model.pb is missing)"
            )
    json_folder = _json_folder(config)
    start_tensorflow()
    from keras_alexnet import evaluation  # imports TensorFlow, which `--help` and a wrong flag do not wait for

    report = evaluation.evaluate(config)
    print(as_text(report), flush=True)
    path = config.json or os.path.join(json_folder, _json_name(config, report))
    with atomic_write(path) as file:
        json.dump(report, file, indent=1, ensure_ascii=False)
    print(f"all figures: {path}")


def parse_evaluate(argv, usage):
    """Flags of an evaluation -> EvaluateConfig, checked; raises as `flags.parse`."""
    config = flags.parse(EvaluateConfig, argv, usage)
    if not config.model_dir or not all(config.model_dir):
        raise UsageError("--model_dir is missing: give a run's folder or an exported model's")
    config.given_weights()
    if config.weights == "search" and len(config.model_dir) == 1:
        raise ArgumentError("weights", config.weights, "needs several --model_dir")
    if config.search_split and config.weights != "search":
        raise ArgumentError("search_split", config.search_split, "goes with --weights=search")
    if config.dataset in ("folder", "records") and not config.data_dir:
        raise UsageError(f"--data_dir is missing: --dataset={config.dataset} is read from there")
    return config


def as_text(report):
    """The tables, str."""
    about, models = report["set"], report["models"]
    protocol = "center view" if report["views"] == 1 else "10 views (corners, center, reflections), averaged"
    left_out = about["left_out"]
    named = f"; {len(left_out)} left out: {', '.join(left_out[:NAMED])}" + " ..." * (len(left_out) > NAMED)
    lines = [
        f"set:    {about['dataset']} {about['split']}, {about['images']} images of {about['classes']} classes"
        + (named if left_out else ""),
        f"views:  {protocol}",
        f"models: {len(models)}" + f", {_said_of(report['weights'])}" * (len(models) > 1),
        "",
    ]
    rows = [(f"{model['model_dir']}, epoch {model['epochs']}", model["weight"], model) for model in models]
    if len(models) > 1:
        rows.append((f"average of {len(models)}", None, report["result"]))
    width = max(len(name) for name, _, _ in rows)
    lines.append(f"{'':<{width}}  {'weight':>6}  top-1 error  top-5 error    loss  mean squared error")
    for name, weight, values in rows:
        shown = "" if weight is None else f"{weight:.3f}"
        lines.append(
            f"{name:<{width}}  {shown:>6}  {values['top1_error']:>9.2f} %  {_top5(values, about)}  "
            f"{values['loss']:>6.4f}  {values['mean_squared_error']:>18.6f}"
        )
    for title, table in (
        ("errors by class", _by_class),
        ("most frequent confusions", _confusions),
        ("calibration", _calibration),
    ):
        rows = table(report)
        if rows:
            lines += ["", f"{title}:", *rows]
    return "\n".join(lines)


def _by_class(report):
    if "per_class" not in report:
        return []
    rows = report["per_class"]
    width = max(len(row["class_name"]) for row in rows)
    return [
        f"  {'':<{width}}  images  top-1 error  top-5 error",
        *(
            f"  {row['class_name']:<{width}}  {row['images']:>6}"
            + (f"  {row['top1_error']:>9.2f} %  {_top5(row, report['set'])}" if row["images"] else "")
            for row in rows
        ),
    ]


def _confusions(report):
    return [
        f"  {row['images']:>6} images, {row['percent']:>5.1f} % of {row['class_name']}, taken for {row['taken_for']}"
        for row in report.get("confusions", ())
    ]


def _calibration(report):
    if "calibration" not in report:
        return []
    found = report["calibration"]
    return [
        f"  expected error {found['expected_calibration_error']:.4f}, "
        f"largest {found['maximum_calibration_error']:.4f}, {len(found['bins'])} bins",
        "  probability    images  mean probability  share of right answers",
        *(
            f"  {row['from']:.3f}-{row['to']:.3f}  {row['images']:>8}  {row['confidence']:>16.4f}  "
            f"{row['accuracy']:.4f}"
            for row in found["bins"]
            if row["images"]
        ),
    ]


def _top5(values, about):
    """Among five classes every answer is one of the best five."""
    return f"{values['top5_error']:>9.2f} %" if about["model_classes"] > 5 else f"{'-':>9}  "


def _said_of(weights):
    if not isinstance(weights, dict):
        return f"{weights} weights"
    same = ", the images that are evaluated" if weights["same_images"] else ""
    return f"weights searched on {weights['dataset']} {weights['split']} ({weights['images']} images{same})"


def _run_of(folder):
    """The run that a folder is or was exported from, or None."""
    above = os.path.dirname(os.path.dirname(os.path.abspath(folder)))
    return next((each for each in (folder, above) if rundir.is_run(each)), None)


def _json_folder(config):
    """Where the figures are to be written; looked at before any image is."""
    folder = os.path.dirname(config.json) or "." if config.json else _run_of(config.model_dir[0]) or "."
    is_folder = config.json and os.path.isdir(config.json)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK) or is_folder:
        raise UsageError(
            f"--json={config.json or folder}: cannot be written there; name a file in a folder that can be"
        )
    return folder


def _json_name(config, report):
    first, several = config.model_dir[0], len(config.model_dir)
    split = re.sub(r"\W+", "-", report["set"]["split"]).strip("-")
    version = "" if rundir.is_run(first) else f"_version{os.path.basename(os.path.abspath(first))}"
    return f"evaluation_{split}_{config.views}views{version}" + f"_{several}models" * (several > 1) + ".json"


if __name__ == "__main__":
    sys.exit(run_command("evaluate", main, sys.argv[1:]))
