"""How fast a training step is, next to the machine's limit, plain Keras layers and PyTorch; and its memory.

    python tools/benchmark_step.py                           # 2 cores: about 8 minutes
    python tools/benchmark_step.py --json=step.json --rows=pinned,mixed_bfloat16

Every row is a process of its own. They take turns, a 4096x4096 float32 matrix product before each turn, so that a
machine that is now fast and now slow is so for all of them; a figure is the median of the rounds, a ratio that of the
rounds' ratios. PyTorch is in the extra `benchmark` and left out where it is not installed.
"""

import argparse
import importlib.util
import json
import math
import os
import statistics
import sys
import time

from racing import machine, median_ratio, race, resident_peak, take_turns

from keras_alexnet.cli import quiet_start, run_command
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.files import atomic_write

# What a row is; each is trained with random images that stay where they are.
ROWS = {
    "keras": "plain Keras layers and optimizer, tf.nn normalization",
    "unpinned": "AlexNet(devices=()), float32",
    "pinned": "AlexNet(devices=one), float32",
    "mixed_bfloat16": "AlexNet(devices=one), mixed_bfloat16",
    "two_devices": "AlexNet(devices=two), float32",
    "torch": "PyTorch, the same function in grouped layers, float32",
}
PEERS = ("keras", "unpinned", "pinned", "torch")  # whom the others are compared with
PRODUCT = 4096  # rows and columns of the matrix product


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", help=f"some of {', '.join(ROWS)}; all but two_devices if left out")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="training steps of a turn")
    parser.add_argument("--width", type=float, default=1.0, help="factor on the units of every layer")
    parser.add_argument("--json", help="a file for the same as JSON")
    parser.add_argument("--worker", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    for name in ("batch_size", "rounds", "steps"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name}={getattr(options, name)}: give at least 1")
    if options.worker:
        return work(options)
    rows = options.rows.split(",") if options.rows else [row for row in ROWS if row != "two_devices"]
    for row in rows:
        if row not in ROWS or rows.count(row) > 1:
            raise UsageError(f"--rows={options.rows}: {row!r} is none of {', '.join(ROWS)}, or there twice")
    if options.json and not os.path.isdir(os.path.dirname(os.path.abspath(options.json))):
        raise UsageError(f"--json={options.json}: there is no folder for it")
    missing = {}
    if "torch" in rows and not importlib.util.find_spec("torch"):
        rows.remove("torch")
        missing["torch"] = "not run: PyTorch is not installed (pip install 'keras-alexnet[benchmark]')"
    environment = dict(os.environ)  # before TensorFlow starts here and is told to be quiet
    report = machine(("tensorflow", "keras", "numpy", "torch"))
    report.update({name: getattr(options, name) for name in ("batch_size", "width", "rounds")})
    report.update(network(options))
    report["rows"] = summary(*race(commands(rows, options), options.rounds, environment, before=product), report)
    print(as_text(report, missing))
    if options.json:
        with atomic_write(options.json) as file:
            json.dump(report, file, indent=1)


def network(options):
    """Facts of the network that every row trains: parameters, gflop_per_image and paper_mb in both precisions."""
    with quiet_start():
        from keras_alexnet import AlexNet

        try:
            model = AlexNet(1000, devices=(), width=options.width)
        except ValueError as error:
            raise UsageError(f"--width={options.width}: {error}") from None
    return {
        "parameters": model.count_params(),
        "gflop_per_image": flop_per_image(model) / 1e9,
        "paper_mb": {size: on_paper(model, options.batch_size, size) for size in (4, 2)},
    }


def commands(rows, options):
    """The workers' programs by row."""
    flags = [f"--{name}={getattr(options, name)}" for name in ("batch_size", "steps", "width")]
    return {row: [sys.executable, os.path.abspath(__file__), f"--worker={row}", *flags] for row in rows}


def product():
    """product_gflops: of a matrix product of TensorFlow, the same for every row; dict."""
    import tensorflow as tf

    square = tf.random.normal((PRODUCT, PRODUCT))
    float(tf.matmul(square, square)[0, 0])
    started = time.perf_counter()
    for _ in range(2):
        float(tf.matmul(square, square)[0, 0])
    return {"product_gflops": 2 * 2 * PRODUCT**3 / (time.perf_counter() - started) / 1e9}


def summary(said, turns, network):
    """The figures of each row.

    Returns:
        dict of row -> dict: images_per_second, product_gflops (measured in the same turns), of_limit (images a second
        over what the product's speed allows), of_PEER (over another row's speed, round by round), peak_mb, paper_mb and
        the turns.

    Raises:
        RunError: a row trained another network.
    """
    found = {}
    for row, its_turns in turns.items():
        if said[row]["parameters"] != network["parameters"]:
            raise RunError(f"{row} has {said[row]['parameters']} parameters instead of {network['parameters']}")
        found[row] = {
            "images_per_second": statistics.median(turn["images_per_second"] for turn in its_turns),
            "product_gflops": statistics.median(turn["product_gflops"] for turn in its_turns),
            "of_limit": statistics.median(
                turn["images_per_second"] * network["gflop_per_image"] / turn["product_gflops"] for turn in its_turns
            ),
            "peak_mb": said[row]["peak_mb"],
            "paper_mb": network["paper_mb"][2 if row == "mixed_bfloat16" else 4],
            "turns": its_turns,
        }
        for peer in PEERS:
            if peer in turns and peer != row:
                found[row][f"of_{peer}"] = median_ratio(its_turns, turns[peer], "images_per_second")
    return found


def as_text(report, missing):
    """The report as two tables."""
    peers = [peer for peer in PEERS if peer in report["rows"]]
    lines = [
        f"Training step, batch of {report['batch_size']}, median of {report['rounds']} rounds. {report['processor']}, "
        f"{report['cores']} cores, TensorFlow {report['tensorflow']}",
        "",
        f"{'row':<16}{'img/s':>8}{'GFLOP/s':>9}{'of limit':>10}" + "".join(f"{'of ' + p:>12}" for p in peers),
    ]
    for row, figures in report["rows"].items():
        ratios = "".join(f"{figures[f'of_{p}']:>12.3f}" if f"of_{p}" in figures else f"{'':>12}" for p in peers)
        speed = f"{figures['images_per_second']:>8.2f}{figures['product_gflops']:>9.1f}{figures['of_limit']:>10.3f}"
        lines.append(f"{row:<16}{speed}{ratios}   {ROWS[row]}")
    lines += [f"{row:<16}{why}" for row, why in missing.items()]
    lines += [
        "",
        f"GFLOP/s: TensorFlow's {PRODUCT}x{PRODUCT} float32 matrix product before the same turns. Limit: that speed at "
        f"{report['gflop_per_image']:.4f} GFLOP an image.",
        "",
        f"{'memory, MB':<16}{'peak':>8}{'weights':>9}{'momentum':>10}{'gradients':>11}{'activations':>13}{'sum':>8}",
    ]
    for row, figures in report["rows"].items():
        paper = figures["paper_mb"]
        parts = f"{paper['weights']:>9.0f}{paper['momentum']:>10.0f}{paper['gradients']:>11.0f}"
        whole = f"{paper['activations']:>13.0f}{sum(paper.values()):>8.0f}"
        lines.append(f"{row:<16}{figures['peak_mb']:>8.0f}{parts}{whole}")
    lines += [
        "",
        "Peak: resident memory of the process beyond what it had before the network was built, or the GPU's own count.",
        "Activations, on paper: the images and the output of every layer once, ReLUs in place.",
    ]
    return "\n".join(lines)


def work(options):
    """One row: builds its network, then takes a turn for every line of the standard input."""
    prepare = torch_row if options.worker == "torch" else tensorflow_row
    step, parameters, peak_mb = prepare(options)
    step()
    step()

    def turn():
        started = time.perf_counter()
        for _ in range(options.steps):
            step()
        seconds = (time.perf_counter() - started) / options.steps
        return {"images_per_second": options.batch_size / seconds}

    take_turns({"parameters": parameters}, turn, lambda: {"peak_mb": peak_mb()})


def tensorflow_row(options):
    """A row of TensorFlow: (a training step, parameters, the peak of memory in MB)."""
    with quiet_start():
        import tensorflow as tf

        from keras_alexnet.model.towers import choose_devices

        gpus = tf.config.list_physical_devices("GPU")
        kind = "GPU" if gpus else "CPU"
        two = options.worker == "two_devices"
        devices = choose_devices((f"{kind}:0", f"{kind}:1") if two else (f"{kind}:0",), 2)
    import numpy as np

    from keras_alexnet import AlexNet
    from keras_alexnet.training.trainer import Trainer
    from keras_alexnet.training.optimizer import MomentumSGD

    rng = np.random.default_rng(0)
    with tf.device(devices[0]):
        images = tf.constant(rng.normal(scale=60, size=(options.batch_size, 224, 224, 3)).astype(np.float32))
        labels = tf.constant(rng.integers(1000, size=options.batch_size).astype(np.int32))
    peak_mb = resident_peak()
    if gpus:
        peak_mb = lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6  # noqa: E731
    if options.worker == "keras":
        model, train_step = plain_keras(options.width)
    else:
        dtype = "mixed_bfloat16" if options.worker == "mixed_bfloat16" else "float32"
        pinned = () if options.worker == "unpinned" else devices
        model = AlexNet(1000, devices=pinned, classifier_activation=None, width=options.width, dtype=dtype, seed=0)
        train_step = Trainer(model, MomentumSGD(), devices[0]).train_step

    def step():
        return float(train_step(images, labels))

    return step, model.count_params(), peak_mb


def plain_keras(width):
    """The two towers as anyone would write them with Keras alone: (model, training step)."""
    import keras
    import tensorflow as tf

    def units(number):
        return round(number * width) // 2

    def convolution(x, filters, size):
        return keras.layers.Conv2D(units(filters), size, padding="same", activation="relu")(x)

    def normalization(x):
        return keras.layers.Lambda(lambda v: tf.nn.local_response_normalization(v, 2, 2.0, 1e-4, 0.75))(x)

    def pool(x):
        return keras.layers.MaxPooling2D(3, 2)(x)

    def joined(parts):
        return [keras.layers.Concatenate()(parts) for _ in parts]

    def dense(x, number):
        return keras.layers.Dropout(0.5)(keras.layers.Dense(units(number), activation="relu")(x))

    image = keras.Input((224, 224, 3))
    padded = keras.layers.ZeroPadding2D(((0, 3), (0, 3)))(image)
    x = [keras.layers.Conv2D(units(96), 11, strides=4, activation="relu")(padded) for _ in range(2)]
    x = [pool(normalization(part)) for part in x]
    x = [pool(normalization(convolution(part, 256, 5))) for part in x]
    x = [convolution(part, 384, 3) for part in joined(x)]
    x = [convolution(part, 384, 3) for part in x]
    x = [pool(convolution(part, 256, 3)) for part in x]
    x = [dense(keras.layers.Flatten()(part), 4096) for part in joined(x)]
    x = [dense(part, 4096) for part in joined(x)]
    model = keras.Model(image, keras.layers.Dense(1000)(keras.layers.Concatenate()(x)))
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=0.0005)
    optimizer.build(model.trainable_variables)

    @tf.function
    def train_step(images, labels):
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return model, train_step


def torch_row(options):
    """The row of PyTorch, as `tensorflow_row`."""
    import torch
    from torch import nn

    def units(number):
        return round(number * options.width)

    class Normalization(nn.Module):
        """Within a group; PyTorch divides alpha by the size of the window."""

        def __init__(self):
            super().__init__()
            self.layer = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

        def forward(self, x):
            return self.layer(x.reshape(2 * x.shape[0], -1, *x.shape[2:])).reshape(x.shape)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(os.cpu_count())
    images = torch.randn(options.batch_size, 3, 224, 224, device=device) * 60
    labels = torch.randint(1000, (options.batch_size,), device=device)
    peak_mb = resident_peak()
    if device == "cuda":
        peak_mb = lambda: torch.cuda.max_memory_allocated() / 1e6  # noqa: E731
    model = nn.Sequential(
        nn.ZeroPad2d((0, 3, 0, 3)),
        *(nn.Conv2d(3, units(96), 11, stride=4), nn.ReLU(inplace=True), Normalization(), nn.MaxPool2d(3, 2)),
        nn.Conv2d(units(96), units(256), 5, padding=2, groups=2),
        *(nn.ReLU(inplace=True), Normalization(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(units(256), units(384), 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(units(384), units(384), 3, padding=1, groups=2), nn.ReLU(inplace=True)),
        *(nn.Conv2d(units(384), units(256), 3, padding=1, groups=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        *(nn.Flatten(), nn.Linear(36 * units(256), units(4096)), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        *(nn.Linear(units(4096), units(4096)), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        nn.Linear(units(4096), 1000),
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=0.0005)
    loss_of = nn.CrossEntropyLoss()

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model(images), labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    parameters = sum(parameter.numel() for parameter in model.parameters())
    return step, parameters, peak_mb


def flop_per_image(model):
    """Floating-point operations of convolutions and matrix products in a training step, for one image.

    Two a multiplication with its addition; once forward, once for the kernel's gradient, once for the input's, which
    layers that see the image do without: 4,135,610,496 for the network of the paper, of 724,406,816 multiplications.
    """
    total = 0
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            products = 2 * math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
            total += products * (2 if layer.kernel.shape[-2] == 3 else 3)
    return total


def on_paper(model, batch_size, bytes_of_a_number):
    """What a step must hold, in MB by kind; weights, momentum and gradients in float32."""
    in_place = ("InputLayer", "ZeroPadding2D", "Activation", "Copies", "Flatten")
    kept = sum(math.prod(layer.output.shape[1:]) for layer in model.layers if type(layer).__name__ not in in_place)
    images = 4 * math.prod(model.input_shape[1:])
    weights = 4 * model.count_params() / 1e6
    return {
        "weights": weights,
        "momentum": weights,
        "gradients": weights,
        "activations": batch_size * (images + kept * bytes_of_a_number) / 1e6,
    }


if __name__ == "__main__":
    sys.exit(run_command("benchmark_step", main, sys.argv[1:]))
