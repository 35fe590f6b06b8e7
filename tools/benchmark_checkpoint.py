"""What surviving costs: checkpoints next to training steps, and how soon a run that is taken up is where it was.

    python tools/benchmark_checkpoint.py                         # 2 cores: about 3 minutes
    python tools/benchmark_checkpoint.py --data_dir=photos       # and the place in an epoch of these photographs

Rounds of steps without and with a checkpoint that is written beside them take turns; figures are medians. The share is
that of the default interval, --checkpoint_minutes.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
import time

from keras_alexnet import config as configs
from keras_alexnet.cli import quiet_start, run_command
from keras_alexnet.errors import UsageError


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=float, default=1.0, help="factor on the units of every layer")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data_dir", help="DATA_DIR/train/CLASS/*.jpg and DATA_DIR/val/CLASS/*.jpg")
    options = parser.parse_args(argv)
    for name in ("batch_size", "rounds"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name}={getattr(options, name)}: give at least 1")
    with quiet_start(), tempfile.TemporaryDirectory() as folder:
        print(as_text(measure(options, folder)))


def measure(options, folder):
    """All figures: dict of float, in seconds, megabytes and shares."""
    import tensorflow as tf

    from keras_alexnet import AlexNet
    from keras_alexnet.training.checkpoints import Checkpoints
    from keras_alexnet.training.trainer import Trainer
    from keras_alexnet.training.optimizer import MomentumSGD
    from keras_alexnet.training.progress import Progress

    try:
        model = AlexNet(1000, "paper", devices=(), classifier_activation=None, width=options.width)
    except ValueError as error:
        raise UsageError(f"--width={options.width}: {error}") from None
    trainer = Trainer(model, MomentumSGD())
    images = tf.random.normal((options.batch_size, *model.input_shape[1:]), stddev=60.0)
    labels = tf.random.uniform((options.batch_size,), maxval=1000, dtype=tf.int32)

    def step():
        started = time.perf_counter()
        float(trainer.train_step(images, labels))
        return time.perf_counter() - started

    checkpoints = Checkpoints(folder, trainer.variables(), keep=1)
    step(), step()
    plain, held, extra, written, read = [], [], [], [], []
    for number in range(options.rounds):
        alone = [step() for _ in range(3)]
        plain += alone
        started = time.perf_counter()
        checkpoints.write(Progress(epochs=number + 1))
        held.append(time.perf_counter() - started)
        # Beside it as long as it takes, at least one step: that one makes the copies.
        beside = [step()]
        while checkpoints.writer.is_alive():
            beside.append(step())
        checkpoints.wait()
        written.append(time.perf_counter() - started)
        extra.append(held[-1] + sum(beside) - len(beside) * statistics.median(alone))
        started = time.perf_counter()
        checkpoints.resume()
        read.append(time.perf_counter() - started)
    found = {name: statistics.median(values) for name, values in (
        ("step", plain), ("held", held), ("extra", extra), ("written", written), ("read", read),
    )}  # fmt: skip
    size = sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))
    minutes = configs.RunConfig().checkpoint_minutes
    found |= {"megabytes": size / 1e6, "minutes": minutes, "share": found["extra"] / (60 * minutes)}
    return found | (places(options) if options.data_dir else {})


def places(options):
    """Seconds to the first batch of an epoch, at its beginning and in its last tenth."""
    import numpy as np

    from keras_alexnet.data import pipeline, sources
    from keras_alexnet.data.augmentation import Augmentation
    from keras_alexnet.data.statistics import Statistics

    source, _ = sources.open_folder(options.data_dir)
    statistics_ = Statistics(np.zeros((256, 256, 3), np.float32), np.zeros(3), np.eye(3), source.count)
    found = {"beginning": [], "late": []}
    steps = math.ceil(source.count / options.batch_size)
    for _ in range(options.rounds + 1):
        for name, start in (("beginning", 0), ("late", math.ceil(0.9 * steps - 1) * options.batch_size)):
            started = time.perf_counter()
            batches = pipeline.training(
                source,
                statistics_,
                Augmentation(),
                size=224,
                batch_size=options.batch_size,
                seed=1,
                epoch=0,
                start=start,
            )
            next(iter(batches))
            found[name].append(time.perf_counter() - started)
    # The first of each compiles its graph.
    return {f"{name}_batch": statistics.median(times[1:]) for name, times in found.items()}


def as_text(found):
    """The figures as lines."""
    lines = [
        f"a training step                            {found['step']:8.3f} s",
        f"a checkpoint, {found['megabytes']:7.1f} MB: training held up  {found['held']:8.3f} s",
        f"  on the disk after                        {found['written']:8.3f} s",
        f"  costs, copies and slower steps included  {found['extra']:8.3f} s",
        f"  of {found['minutes']:g} minutes                            {100 * found['share']:8.3f} %",
        f"taking it up again                         {found['read']:8.3f} s",
    ]
    if "late_batch" in found:
        lines += [
            f"first batch of an epoch                    {found['beginning_batch']:8.3f} s",
            f"first batch in its last tenth              {found['late_batch']:8.3f} s",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command("benchmark_checkpoint", main, sys.argv[1:]))
