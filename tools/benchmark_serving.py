"""What a served model costs beside its network: milliseconds, their p50 and p99, alone and in batches of 32.

    python tools/benchmark_serving.py --model=RUN/export/1 [PHOTO...]
    python tools/benchmark_serving.py --model=RUN/export/1 --server=http://localhost:8501/v1/models/alexnet [PHOTO...]

All is measured in one process and in turns: `serving_default` on files, `images` on what it hands to the network, and
decoding and resizing alone. Besides: ten views against as many center views, loading in a fresh process, and requests
to a server. Without photographs a picture of 500x375 is drawn.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import racing

from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.errors import RunError, UsageError, brief
from keras_alexnet.files import atomic_write

BATCHES = (1, 32)
VIEWS = 120  # of one call when ten views are compared with the center view

LOADING = """
import json, os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
start = time.perf_counter()
import tensorflow as tf
imported = time.perf_counter()
served = tf.saved_model.load(sys.argv[1])
loaded = time.perf_counter()
with open(sys.argv[2], "rb") as file:
    picture = file.read()
served.signatures["serving_default"](image_bytes=tf.constant([picture]))
answered = time.perf_counter()
print(json.dumps({"import": imported - start, "load": loaded - imported, "first_answer": answered - loaded}))
"""


def main(argv):
    options = parse(argv)
    start_tensorflow()
    photographs = [_read(path) for path in options.photographs] or [_drawn()]
    report = {"machine": racing.machine(["tensorflow", "keras", "numpy"]), "photographs": len(photographs)}
    report["bytes"] = float(np.mean([len(photograph) for photograph in photographs]))
    report["loading"] = loading(options.model, photographs[0], options.rounds)
    import tensorflow as tf

    served = tf.saved_model.load(options.model)
    size = served.signatures["images"].structured_input_signature[1]["images"].shape[1]
    report["answers"] = [answers(served, size, photographs, batch, options.repeats) for batch in BATCHES]
    report["ten_views"] = ten_views(served, size, options.rounds)
    if options.server:
        report["server"] = server(options.server, photographs, options.repeats, options.parallel)
    print(as_text(report, options))
    if options.json:
        with atomic_write(options.json) as file:
            json.dump(report, file, indent=1)


def parse(argv):
    """Flags -> options. Raises UsageError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("photographs", nargs="*", help="JPEG or PNG files; they take turns")
    parser.add_argument("--model", help="an exported model's folder, such as RUN/export/1")
    parser.add_argument("--server", help="address of a server of that model, http:// or grpc://")
    parser.add_argument("--parallel", type=int, default=4, help="requests to the server at a time (default: 4)")
    parser.add_argument("--repeats", type=int, default=300, help="calls of one image each (default: 300)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of the slower measurements (default: 5)")
    parser.add_argument("--json", help="also write all figures here")
    options = parser.parse_args(argv)
    if not options.model:
        raise UsageError("--model is missing: give an exported model's folder, such as RUN/export/1")
    if not os.path.isfile(os.path.join(options.model, "saved_model.pb")):
        raise UsageError(f"--model={options.model}: is no exported model (there is no saved_model.pb in it)")
    for name in ("parallel", "repeats", "rounds"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name}={getattr(options, name)}: give at least 1")
    for path in options.photographs:
        if not os.path.isfile(path):
            raise UsageError(f"{path}: there is no such file")
    return options


def loading(model, photograph, rounds):
    """Seconds in fresh processes, medians: {"import", "load", "first_answer"}."""
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(photograph)
        file.flush()
        command = [sys.executable, "-c", LOADING, model, file.name]
        found = []
        for _ in range(rounds):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RunError(f"{model}: cannot be loaded: {done.stderr.strip().splitlines()[-1]}")
            found.append(json.loads(done.stdout))
    return {name: float(np.median([each[name] for each in found])) for name in found[0]}


def answers(served, size, photographs, batch, repeats):
    """Milliseconds of a call for `batch` files, of the network alone, and of decoding and resizing alone, in turns.

    Returns:
        dict: batch; for serving, network, decode and plain_decode p50 and p99; beyond, the median of serving less the
        network in the same turn; ratio, beyond over the p50 of decode.
    """
    import tensorflow as tf

    from keras_alexnet.data.decoding import decode_center

    signatures = served.signatures
    files = [
        tf.constant([photographs[(start + place) % len(photographs)] for place in range(batch)])
        for start in range(len(photographs))
    ]

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def decode(image_bytes):
        if batch == 1:
            return decode_center(image_bytes[0], size)[None]
        spec = tf.TensorSpec((size, size, 3), tf.uint8)
        return tf.map_fn(lambda file: decode_center(file, size), image_bytes, fn_output_signature=spec)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def plain_decode(image_bytes):
        """What one would write: everything decoded, the shorter side to 256, the center cut."""

        def center(file):
            image = tf.io.decode_image(file, channels=3, expand_animations=False)
            shape = tf.cast(tf.shape(image)[:2], tf.float32)
            scaled = tf.cast(tf.round(shape * 256.0 / tf.reduce_min(shape)), tf.int32)
            image = tf.image.resize(image, scaled)
            first = (scaled - size) // 2
            return tf.slice(image, [first[0], first[1], 0], [size, size, 3])

        spec = tf.TensorSpec((size, size, 3), tf.float32)
        return tf.map_fn(center, image_bytes, fn_output_signature=spec)

    images = [tf.cast(decode(each), tf.float32) for each in files]
    rows = {
        "serving": lambda turn: signatures["serving_default"](image_bytes=files[turn]),
        "network": lambda turn: signatures["images"](images=images[turn]),
        "decode": lambda turn: decode(files[turn]),
        "plain_decode": lambda turn: plain_decode(files[turn]),
    }
    times = {name: [] for name in rows}
    for turn in range(-5, max(40, repeats // batch)):
        for name, call in rows.items():
            started = time.perf_counter()
            call(turn % len(files))
            if turn >= 0:  # the first calls build what later ones use
                times[name].append(1000 * (time.perf_counter() - started))
    beyond = float(np.median(np.subtract(times["serving"], times["network"])))
    found = {name: {"p50": _percentile(each, 50), "p99": _percentile(each, 99)} for name, each in times.items()}
    return {"batch": batch, **found, "beyond": beyond, "ratio": beyond / found["decode"]["p50"]}


def ten_views(served, size, rounds):
    """Seconds of ten views of some images against center views of as many images, in turns.

    Returns:
        dict: images; ten and center, medians for these images; ratio, the median of the turns'.
    """
    import tensorflow as tf

    count = VIEWS // 10
    pixels = np.random.default_rng(0).integers(0, 256, (VIEWS, 256, 256, 3)).astype(np.uint8)
    whole, center = tf.constant(pixels[:count]), tf.constant(pixels[:, 16 : 16 + size, 16 : 16 + size])
    times = {"ten": [], "center": []}
    for turn in range(-1, 2 * rounds):
        for name, call, images in (("ten", served.ten_views, whole), ("center", served.center_view, center)):
            started = time.perf_counter()
            call(images)
            if turn >= 0:
                times[name].append(time.perf_counter() - started)
    # A batch of the same size for both: ten views of 12 images, the center views of 120.
    by_image = np.multiply(times["center"], count / VIEWS)
    return {
        "images": count,
        "ten": float(np.median(times["ten"])),
        "center": float(np.median(by_image)),
        "ratio": float(np.median(times["ten"] / by_image)),
    }


def server(address, photographs, repeats, parallel):
    """Milliseconds of requests of one file each: alone, and so many at a time.

    Returns:
        dict: alone and together, each with p50, p99 and images_per_second; parallel.
    """
    from keras_alexnet.serving.client import open_client

    client = open_client(address)
    client.predict(photographs[:1])

    def ask(count, found):
        for turn in range(count):
            started = time.perf_counter()
            client.predict([photographs[turn % len(photographs)]])
            found.append(1000 * (time.perf_counter() - started))

    report = {"parallel": parallel}
    for name, threads in (("alone", 1), ("together", parallel)):
        found = []
        workers = [threading.Thread(target=ask, args=(repeats // threads, found)) for _ in range(threads)]
        started = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if len(found) < repeats // threads * threads:
            raise RunError(f"{address}: {repeats // threads * threads - len(found)} requests failed")
        speed = len(found) / (time.perf_counter() - started)
        report[name] = {"p50": _percentile(found, 50), "p99": _percentile(found, 99), "images_per_second": speed}
    return report


def as_text(report, options):
    """The tables, str."""
    machine = report["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, TensorFlow {machine.get('tensorflow')}",
        f"{report['photographs']} photograph(s), {report['bytes'] / 1000:.0f} kB on average",
        "",
        f"{'milliseconds':<34}"
        + "".join(f"{'batch ' + str(each['batch']):>11} p50     p99" for each in report["answers"]),
    ]
    words = {
        "serving": "serving_default, files",
        "network": "network alone (images)",
        "decode": "decoding and resizing alone",
        "plain_decode": "decode_image and tf.image.resize",
    }
    for name, label in words.items():
        cells = "".join(f"{each[name]['p50']:>15.2f} {each[name]['p99']:>7.2f}" for each in report["answers"])
        lines.append(f"{label:<34}{cells}")
    lines.append(
        f"{'beyond the network':<34}" + "".join(f"{each['beyond']:>15.2f}{'':8}" for each in report["answers"])
    )
    lines.append(
        f"{'over decoding and resizing':<34}" + "".join(f"{each['ratio']:>15.2f}{'':8}" for each in report["answers"])
    )
    ten, load = report["ten_views"], report["loading"]
    lines += [
        "",
        f"ten views: {1000 * ten['ten'] / ten['images']:.1f} ms an image, {ten['ratio']:.2f} times the center view's "
        f"{1000 * ten['center'] / ten['images']:.1f} ms, in batches of {VIEWS} views",
        f"fresh process: import tensorflow {load['import']:.2f} s, load {load['load']:.2f} s, "
        f"first answer {load['first_answer']:.2f} s",
    ]
    if "server" in report:
        for name, label in (("alone", "one at a time"), ("together", f"{report['server']['parallel']} at a time")):
            each = report["server"][name]
            lines.append(
                f"{options.server}, {label}: p50 {each['p50']:.1f} ms, p99 {each['p99']:.1f} ms, "
                f"{each['images_per_second']:.0f} images/s"
            )
    return "\n".join(lines)


def _percentile(values, percent):
    return float(np.percentile(values, percent))


def _read(path):
    import tensorflow as tf

    from keras_alexnet.data.decoding import decode_center

    with open(path, "rb") as file:
        content = file.read()
    try:
        decode_center(content)
    except tf.errors.OpError as error:
        raise RunError(f"{path}: {brief(error)}") from None
    return content


def _drawn():
    from keras_alexnet.data import shapes

    file = io.BytesIO()
    shapes.draw("red_disk", 0).resize((500, 375)).save(file, "JPEG", quality=92)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(run_command("benchmark_serving", main, sys.argv[1:]))
