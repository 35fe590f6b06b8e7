"""Top-1 and top-5 error of runs or exported models on a set of images.

    python -m keras_alexnet.evaluate --model_dir=RUN [--views=10]
    python -m keras_alexnet.evaluate --model_dir=RUN --model_dir=OTHER --weights=search --search_split=train

Errors are in percent; every image counts once, and ties are shared as in the release.
"""

import dataclasses
import math
import os
import re

from keras_alexnet import config as configs, flags, rundir
from keras_alexnet.cli import Table, run_command, start_tensorflow
from keras_alexnet.errors import ArgumentError, UsageError, printable
from keras_alexnet.files import write_json
from keras_alexnet.flags import flag

NAMED = 5  # left-out files named on the screen; the JSON file names all


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation."""

    model_dir: tuple[str, ...] = flag(
        (),
        "The folder of a run or of an exported model (RUN/export/1); if repeated, probabilities are averaged.",
        many=True,
        path=True,
    )
    checkpoint: str = flag("newest", configs.CHECKPOINT_HELP, choices=configs.CHECKPOINT)
    views: int = flag(
        1, "1: the center view. 10: four corners, center and reflections, averaged (section 4.1).", choices=(1, 10)
    )
    dataset: str | None = flag(None, "As in training (default: the dataset of the first model).")
    data_dir: str | None = flag(None, "As in training (default: the folder of the first model's dataset).", path=True)
    split: str | None = flag(
        None,
        "folder: the folder in DATA_DIR that holds the class folders, or . for itself (default: val; . where another "
        "folder than the run's has no splits). records and shapes: train or val. TensorFlow Datasets: a split in its "
        "notation (default: that of the first model).",
    )
    weights: str = flag(
        "equal", "equal; a number for each --model_dir, such as 0.3,0.7; or search: the best on --search_split."
    )
    search_split: str | None = flag(
        None, "Split to search weights on (default: --split as in the release, which makes its errors too low)."
    )
    batch_size: int = flag(120, "Views in a batch.", low=1, high=4096)
    input_threads: int = flag(0, "Threads of the data graph; 0: one per core.", low=0, high=1024)
    per_class: bool = flag(False, "Report the errors of every class.")
    confusions: int = flag(0, "Report this many of the most frequent confusions of two classes.", low=0, high=10**6)
    calibration: bool = flag(False, "Report how well confidence predicts accuracy.")
    json: str | None = flag(
        None, "File for all results (default: evaluation_SPLIT_VIEWSviews.json in the first run).", path=True
    )

    def given_weights(self):
        """The numbers in --weights, tuple of float; () for "equal" and "search". Raises ArgumentError."""
        if self.weights in ("equal", "search"):
            return ()
        try:
            weights = tuple(float(part) for part in self.weights.split(","))
        except ValueError:
            weights = ()
        if not all(weight >= 0 for weight in weights) or not 0 < sum(weights) < math.inf:
            problem = "must be equal, search, or numbers such as 0.3,0.7 that are not negative and not all 0"
            raise ArgumentError("weights", self.weights, problem)
        if len(weights) != len(self.model_dir):
            problem = f"has {len(weights)} numbers for {len(self.model_dir)} --model_dir; give one for each"
            raise ArgumentError("weights", self.weights, problem)
        return weights


def main(argv):
    config = parse_evaluate(argv, __doc__)
    for folder in config.model_dir:
        rundir.check_model(folder)
    json_folder = _json_folder(config)
    start_tensorflow()
    from keras_alexnet import evaluation

    report = evaluation.evaluate(config)
    print(as_text(report))
    path = config.json or os.path.join(json_folder, _json_name(config, report))
    write_json(path, report, indent=1, ensure_ascii=False)
    print(f"all results: {path}")


def parse_evaluate(argv, usage):
    """Parses and checks the flags of an evaluation: EvaluateConfig. Raises as `flags.parse`."""
    config = flags.parse(EvaluateConfig, argv, usage)
    if not config.model_dir or not all(config.model_dir):
        raise UsageError("--model_dir is missing: give a run's folder or an exported model's")
    config.given_weights()
    if config.weights == "search" and len(config.model_dir) == 1:
        raise ArgumentError("weights", config.weights, "needs several --model_dir")
    if config.search_split and config.weights != "search":
        raise ArgumentError("search_split", config.search_split, "needs --weights=search")
    if config.dataset in ("folder", "records") and not config.data_dir:
        raise UsageError(f"--data_dir is missing: --dataset={config.dataset} needs a folder")
    return config


def as_text(report):
    """The report as tables for a terminal, str."""
    about, models = report["set"], report["models"]
    left_out = about["left_out"]
    named = f"; {len(left_out)} left out: {printable(', '.join(left_out[:NAMED]))}" + " ..." * (len(left_out) > NAMED)
    protocol = "center view" if report["views"] == 1 else "10 views (corners, center, reflections), averaged"
    lines = [
        f"set:    {about['dataset']} {about['split']}, {about['images']} images of {about['classes']} classes"
        + (named if left_out else ""),
        f"views:  {protocol}",
        f"models: {len(models)}" + f", {_describe_weights(report['weights'])}" * (len(models) > 1),
    ]
    return "\n\n".join(["\n".join(lines), *(table.as_text() for table in _tables(report))])


def _tables(report):
    """Yields the cli.Table of all models and the tables of requested details."""
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
        values = report["calibration"]
        rows = [
            (f"{each['from']:.3f}-{each['to']:.3f}", str(each["images"]))
            + (f"{each['confidence']:.4f}", f"{each['accuracy']:.4f}")
            for each in values["bins"]
            if each["images"]
        ]
        note = (
            f"expected error {values['expected_calibration_error']:.4f}, largest "
            f"{values['maximum_calibration_error']:.4f}, {len(values['bins'])} bins"
        )
        columns = ("probability", "images", "mean probability", "accuracy")
        yield Table("calibration:", columns, rows, note)


def _errors(report, row):
    """The cells of the top-1 and the top-5 error; with five classes or fewer the top-5 error is always 0."""
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
    """The folder of the JSON file: that of --json, or of the first model's run. Raises UsageError if not writable."""
    first = config.model_dir[0]
    run_of_export = os.path.dirname(os.path.dirname(os.path.abspath(first)))
    folder = next((each for each in (first, run_of_export) if rundir.is_run(each) and os.path.isdir(each)), ".")
    if config.json:
        folder = os.path.dirname(config.json) or "."
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK) or os.path.isdir(config.json or ""):
        raise UsageError(f"--json={config.json or folder}: cannot be written; name a file in a writable folder")
    return folder


def _json_name(config, report):
    first, several = config.model_dir[0], len(config.model_dir)
    split = re.sub(r"\W+", "-", report["set"]["split"]).strip("-") or "all"
    version = "" if rundir.is_run(first) else f"_version{os.path.basename(os.path.abspath(first))}"
    which = f"_{several}models" * (several > 1) + "_best" * (config.checkpoint == "best" and rundir.is_run(first))
    return f"evaluation_{split}_{config.views}views{version}{which}.json"


if __name__ == "__main__":
    raise SystemExit(run_command("evaluate", main))
