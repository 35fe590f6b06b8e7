"""What a served model costs beside its network: milliseconds, their p50 and p99, alone and in batches of 32.

    python tools/benchmark_serving.py --model=RUN/export/1 [IMAGE...]
    python tools/benchmark_serving.py --model=RUN/export/1 --server=http://localhost:8501/v1/models/alexnet [IMAGE...]

`serving_default` on files, `images` on what it hands to the network, and decoding and resizing alone take turns.
Besides: ten views against as many center views, loading in a fresh process, and requests to a server. Without images
one of 500x375 is drawn.
"""

import dataclasses
import os
import sys

import harness
import numpy as np

from keras_alexnet import flags
from keras_alexnet.cli import run_command
from keras_alexnet.errors import ArgumentError, UsageError
from keras_alexnet.flags import flag, required

BATCHES = ("batch 1", "batch 32")
CALLS = {
    "serving": "serving_default, files",
    "network": "network alone (images)",
    "decode": "decoding and resizing alone",
    "plain_decode": "decode_image and tf.image.resize",
    "beyond": "beyond the network",
    "ratio": "over decoding and resizing",
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
    settings = flags.parse(Settings, argv, __doc__, positional="images")
    if not os.path.isfile(os.path.join(required(settings, "model"), "saved_model.pb")):
        raise ArgumentError("model", settings.model, "is no exported model (there is no saved_model.pb in it)")
    for path in settings.images:
        if not os.path.isfile(path):
            raise UsageError(f"{path}: there is no such file")
    rows = dict.fromkeys(BATCHES, "rows_serving.calls") | {"ten_views": "rows_serving.ten_views"}
    if settings.server:
        rows["server"] = "rows_serving.server"
    facts, turns = harness.interleave(rows, settings, settings.rounds)
    samples = {
        row: {name: np.concatenate([turn[name] for turn in its_turns]) for name in its_turns[0]}
        for row, its_turns in turns.items()
    }
    fresh = [harness.interleave({"loading": "rows_serving.loading"}, settings, 0)[0] for _ in range(settings.rounds)]
    samples["loading"] = {name: [each["loading"][name] for each in fresh] for name in fresh[0]["loading"]}
    report = {"machine": harness.machine(), **facts["batch 1"], **summary(samples)}
    harness.publish(report, as_text(report, settings), settings.json)


def summary(samples):
    """The figures of all rows, in milliseconds, from {row: {str: what was measured in all turns}}.

    beyond is the median of serving less the network in the same turn, ratio that over the p50 of decode.
    """
    calls = {name: {} for name in CALLS}
    for row in BATCHES:
        for name, values in samples[row].items():
            calls[name] |= {f"{row} {figure}": value for figure, value in percentiles(values).items()}
        p50 = f"{row} p50"
        calls["beyond"][p50] = float(np.median(samples[row]["serving"] - samples[row]["network"]))
        calls["ratio"][p50] = calls["beyond"][p50] / calls["decode"][p50]
    report = {"calls": calls}
    for row in ("ten_views", "loading"):
        report[row] = {name: float(np.median(values)) for name, values in samples[row].items()}
    report["ten_views"]["ratio"] = float(np.median(samples["ten_views"]["ten"] / samples["ten_views"]["center"]))
    if "server" in samples:
        found = samples["server"]
        report["server"] = {name: percentiles(found[name]) for name in ("alone", "together")}
        for name, figures in report["server"].items():
            figures["images_per_second"] = float(np.median(found[f"{name}_speed"]))
    return report


def percentiles(values):
    return {"p50": float(np.percentile(values, 50)), "p99": float(np.percentile(values, 99))}


def as_text(report, settings):
    """The tables, list of str."""
    ten, columns = report["ten_views"], [f"{row} {name}" for row in BATCHES for name in ("p50", "p99")]
    rows = [(text, report["calls"][name], "") for name, text in CALLS.items()]
    lines = [
        report["machine"]["device"],
        f"{report['images']} image(s), {report['bytes'] / 1000:.0f} kB on average",
        "",
        *harness.table("milliseconds", {column: (column, ".2f") for column in columns}, rows),
        "",
        f"ten views: {ten['ten']:.1f} ms an image, {ten['ratio']:.2f} times the center view's {ten['center']:.1f} ms",
        "fresh process: import tensorflow {import:.0f} ms, load {load:.0f} ms, "
        "first answer {first_answer:.0f} ms".format(**report["loading"]),
    ]
    for name, each in report.get("server", {}).items():
        line = "p50 {p50:.1f} ms, p99 {p99:.1f} ms, {images_per_second:.0f} images/s".format(**each)
        lines.append(f"{settings.server}, {1 if name == 'alone' else settings.parallel} at a time: {line}")
    return lines


if __name__ == "__main__":
    sys.exit(run_command("benchmark_serving", main, sys.argv[1:]))
