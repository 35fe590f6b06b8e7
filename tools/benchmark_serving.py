"""What a served model costs beside its network: milliseconds, their p50 and p99, alone and in batches of 32.

    python tools/benchmark_serving.py --model=RUN/export/1 [IMAGE...]
    python tools/benchmark_serving.py --model=RUN/export/1 --server=http://localhost:8501/v1/models/alexnet [IMAGE...]

`serving_default` on files, `images` on what it hands to the network, and decoding and resizing alone take turns.
Besides: ten views against as many center views, loading in a fresh process, and requests to a server. Without images
one of 500x375 is drawn.
"""

import dataclasses
import os

import harness
import numpy as np

from keras_alexnet.cli import run_command
from keras_alexnet.errors import ArgumentError, UsageError
from keras_alexnet.flags import flag, parse, required

BATCHES = ("batch 1", "batch 32")
FIGURES = {
    "serving": "serving_default, files",
    "network": "network alone (images)",
    "decode": "decoding and resizing alone",
    "beyond": "beyond the network",
    "ratio": "the last over decoding and resizing",
    "ten": "an image by ten views",
    "center": "an image by its center view",
    "times": "the one over the other",
    "import": "importing TensorFlow",
    "load": "loading the model",
    "first_answer": "the first answer",
    "alone": "one request at a time",
    "together": "--parallel requests at a time",
    "alone_speed": "one at a time, images a second",
    "together_speed": "--parallel, images a second",
}


@dataclasses.dataclass(frozen=True)
class Settings(harness.Settings):
    """The benchmark of serving."""

    model: str | None = flag(None, "An exported model's folder, such as RUN/export/1.", path=True)
    images: tuple[str, ...] = flag((), "JPEG or PNG files; they take turns.")
    server: str | None = flag(None, "Address of a server of that model, http:// or grpc://.")
    parallel: int = flag(4, "Requests to the server at a time.", low=1)
    repeats: int = flag(300, "Calls of one image each.", low=1)


def main(argv):
    settings = parse(Settings, argv, __doc__, positional="images")
    if not os.path.isfile(os.path.join(required(settings, "model"), "saved_model.pb")):
        raise ArgumentError("model", settings.model, "is no exported model (there is no saved_model.pb in it)")
    for path in settings.images:
        if not os.path.isfile(path):
            raise UsageError(f"{path}: there is no such file")
    rows = dict.fromkeys(BATCHES, "rows_serving.calls") | {"ten_views": "rows_serving.ten_views"}
    if settings.server:
        rows["server"] = "rows_serving.server"
    facts, turns = harness.interleave(rows, settings, settings.rounds)
    loading = {"loading": "rows_serving.loading"}
    turns["loading"] = [harness.interleave(loading, settings, 0)[0]["loading"] for _ in range(settings.rounds)]
    samples = {row: {name: np.hstack([turn[name] for turn in its]) for name in its[0]} for row, its in turns.items()}
    report = {"machine": harness.machine(), **facts["batch 1"], "rows": summary(samples)}
    columns = {"p50": ("p50", ".2f"), "p99": ("p99", ".2f")}
    rows = [(f"{row}: {FIGURES[name]}", each, "") for row, its in report["rows"].items() for name, each in its.items()]
    about = f"{report['images']} image(s), {report['bytes'] / 1000:.0f} kB on average"
    lines = [report["machine"]["device"], about, "", *harness.table("milliseconds", columns, rows)]
    harness.publish(report, lines, settings.json)


def summary(samples):
    """Percentiles of what was measured in all turns, {row: {name: array}} -> {row: {name: {"p50": float, ...}}}.

    beyond is the median of serving less the network in the same turn, ratio that over the p50 of decode.
    """
    found = {row: {name: percentiles(each) for name, each in its.items()} for row, its in samples.items()}
    for row in BATCHES:
        beyond = float(np.median(samples[row]["serving"] - samples[row]["network"]))
        found[row] |= {"beyond": {"p50": beyond}, "ratio": {"p50": beyond / found[row]["decode"]["p50"]}}
    times = np.median(samples["ten_views"]["ten"] / samples["ten_views"]["center"])
    found["ten_views"]["times"] = {"p50": float(times)}
    return found


def percentiles(values):
    return {"p50": float(np.percentile(values, 50)), "p99": float(np.percentile(values, 99))}


if __name__ == "__main__":
    raise SystemExit(run_command("benchmark_serving", main))
