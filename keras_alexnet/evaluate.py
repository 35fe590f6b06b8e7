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
from keras_alexnet.cli import Table, run_command, start_tensorflow
from keras_alexnet.errors import ArgumentError, UsageError
from keras_alexnet.files import atomic_write
from keras_alexnet.flags import flag

NAMED = 5  # files left out that are named on the screen; all of them are in the JSON


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation."""

    model_dir: tuple[str, ...] = flag(
        (),
        "A run's folder or an exported model's (RUN/export/1); given several times, probabilities are averaged.",
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
        "equal", "equal; a number for each --model_dir, such as 0.3,0.7; or search: the best on --search_split."
    )
    search_split: str | None = flag(
        None, "Where weights are searched (default: --split, as the release did; its errors are then too low)."
    )
    batch_size: int = flag(120, "Views that a network gets at a time.", low=1, high=4096)
    input_threads: int = flag(0, "Threads of the data graph; 0: one per core.", low=0, high=1024)
    per_class: bool = flag(False, "Errors of every class.")
    confusions: int = flag(0, "So many pairs of classes that were taken for each other.", low=0, high=10**6)
    calibration: bool = flag(False, "How well probabilities say how often they are right.")
    json: str | None = flag(
        None, "Where all figures are written (default: evaluation_SPLIT_VIEWSviews.json in the first run).", path=True
    )

    def given_weights(self):
        """One number for each model, tuple of float; () for "equal" and "search". Raises ArgumentError."""
        if self.weights in ("equal", "search"):
            return ()
        try:
            weights = tuple(float(part) for part in self.weights.split(","))
        except ValueError:
            weights = ()
        if not all(weight >= 0 for weight in weights) or not 0 < sum(weights) < math.inf:
            problem = "must be equal, search, or numbers from 0 on such as 0.3,0.7, not all 0"
            raise ArgumentError("weights", self.weights, problem)
        if len(weights) != len(self.model_dir):
            problem = f"has {len(weights)} numbers for {len(self.model_dir)} --model_dir; give one for each"
            raise ArgumentError("weights", self.weights, problem)
        return weights


def main(argv):
    config = parse_evaluate(argv, __doc__)
    for folder in config.model_dir:
        rundir.check_path(folder)
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
    """The report as tables for a terminal, str."""
    about, models = report["set"], report["models"]
    left_out = about["left_out"]
    named = f"; {len(left_out)} left out: {', '.join(left_out[:NAMED])}" + " ..." * (len(left_out) > NAMED)
    protocol = "center view" if report["views"] == 1 else "10 views (corners, center, reflections), averaged"
    lines = [
        f"set:    {about['dataset']} {about['split']}, {about['images']} images of {about['classes']} classes"
        + (named if left_out else ""),
        f"views:  {protocol}",
        f"models: {len(models)}" + f", {_describe_weights(report['weights'])}" * (len(models) > 1),
    ]
    return "\n\n".join(["\n".join(lines), *(table.as_text() for table in _tables(report))])


def _tables(report):
    """The cli.Table of every model and of what else was asked for."""
    models = report["models"]
    rows = [(f"{model['model_dir']}, epoch {model['epochs']}", f"{model['weight']:.3f}", model) for model in models]
    if len(models) > 1:
        rows.append((f"average of {len(models)}", "", report["result"]))
    rows = [
        (name, weight, *_errors(report, own), f"{own['loss']:.4f}", f"{own['mean_squared_error']:.6f}")
        for name, weight, own in rows
    ]
    yield Table("", ("", "weight", "top-1 error", "top-5 error", "loss", "mean squared error"), rows)
    if "per_class" in report:
        rows = [(row["class_name"], str(row["images"]), *_errors(report, row)) for row in report["per_class"]]
        yield Table("errors by class:", ("", "images", "top-1 error", "top-5 error"), rows)
    if report.get("confusions"):
        rows = [
            (row["class_name"], row["taken_for"], str(row["images"]), f"{row['percent']:.1f} %")
            for row in report["confusions"]
        ]
        yield Table("most frequent confusions:", ("class", "taken for", "images", "of the class"), rows)
    if "calibration" in report:
        found = report["calibration"]
        rows = [
            (f"{each['from']:.3f}-{each['to']:.3f}", str(each["images"]))
            + (f"{each['confidence']:.4f}", f"{each['accuracy']:.4f}")
            for each in found["bins"]
            if each["images"]
        ]
        note = (
            f"expected error {found['expected_calibration_error']:.4f}, largest "
            f"{found['maximum_calibration_error']:.4f}, {len(found['bins'])} bins"
        )
        columns = ("probability", "images", "mean probability", "share of right answers")
        yield Table("calibration:", columns, rows, note)


def _errors(report, row):
    """Cells of the top-1 and the top-5 error; among five classes every answer is one of the best five."""
    if row["top1_error"] is None:
        return "", ""
    top5 = f"{row['top5_error']:.2f} %" if report["set"]["model_classes"] > 5 else "-"
    return f"{row['top1_error']:.2f} %", top5


def _describe_weights(weights):
    if not isinstance(weights, dict):
        return f"{weights} weights"
    same = ", the images that are evaluated" if weights["same_images"] else ""
    return f"weights searched on {weights['dataset']} {weights['split']} ({weights['images']} images{same})"


def _json_folder(config):
    """The folder of the figures: the run's, also that of an exported model. Checked before any image is read."""
    first = config.model_dir[0]
    run_of_export = os.path.dirname(os.path.dirname(os.path.abspath(first)))
    folder = next((each for each in (first, run_of_export) if rundir.is_run(each)), ".")
    if config.json:
        folder = os.path.dirname(config.json) or "."
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK) or os.path.isdir(config.json or ""):
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
