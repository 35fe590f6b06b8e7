"""Caffe's AlexNet -> a run's folder, to be evaluated, exported, asked and trained further as our own.

    python tools/import_caffe.py bvlc_alexnet.caffemodel --out=RUN
    python tools/import_caffe.py bvlc_alexnet.npy --out=RUN --mean=imagenet_mean.binaryproto --towers=1

Weights: BVLC AlexNet as Caffe wrote it, or as caffe-tensorflow converted it; nothing in the files is run. The network
computes what Caffe's does. Its input differs in two things: Caffe stretched images to 256x256, where here the shorter
side is brought to 256 and the center cut; and Caffe's example subtracts the mean color, as here without --mean, where
it trained and measured with the mean image (--mean=imagenet_mean.binaryproto or ilsvrc_2012_mean.npy). CaffeNet, the
other network of Caffe, is refused where the file tells: a .npy does not.
"""

import dataclasses
import os
import sys

import numpy as np

from keras_alexnet import config as configs
from keras_alexnet import flags, rundir
from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.data import imagenet
from keras_alexnet.errors import ArgumentError, RunError, UsageError
from keras_alexnet.flags import flag
from keras_alexnet.model import caffe


@dataclasses.dataclass(frozen=True)
class ImportConfig:
    """Import."""

    weights: tuple[str, ...] = flag((), "bvlc_alexnet.caffemodel, or the .npy of caffe-tensorflow.")
    out: str | None = flag(None, "The run's folder; new or empty.", path=True)
    mean: str | None = flag(None, "imagenet_mean.binaryproto or ilsvrc_2012_mean.npy; else its mean color.", path=True)
    towers: int = flag(2, "One stack of layers, or two.", choices=(1, 2))
    class_names: str | None = flag(None, "A text file, one name a line, in the order of the outputs.", path=True)


def main(argv):
    options = flags.parse(ImportConfig, argv, __doc__, positional="weights")
    if len(options.weights) != 1:
        raise UsageError("no weights given: name one .caffemodel, or the .npy that caffe-tensorflow made of one")
    file, out = options.weights[0], flags.required(options, "out")
    if os.path.exists(out) and not (os.path.isdir(out) and not os.listdir(out)):
        raise ArgumentError("out", out, "is not empty; name a new folder")
    start_tensorflow()  # a wrong flag does not wait for it
    from keras_alexnet.data import statistics
    from keras_alexnet.model import weights as named_weights

    mean_image = caffe.read_mean(options.mean)
    weights = caffe.read(file)
    names = class_names(options.class_names, weights["fc8/bias"].size, file)
    # As Caffe trained it (flags/caffe.cfg): the part of the mean that is under a crop, and no color noise.
    texts = {"variant": "caffe", "towers": options.towers, "groups": 2, "width": weights["conv1/bias"].size / 96}
    texts |= {"model_dir": out, "mean_subtraction": "aligned", "pca_color": "none"}
    try:
        config = flags.read(configs.Config, {name: str(value) for name, value in texts.items()})
        model = rundir.build_model(config.network, len(names), config.run.seed, devices=())
        named_weights.assign(weights, model)  # splits them between two towers
    except ValueError as error:
        raise RunError(f"{file}: is not AlexNet ({error})") from None
    rgb_mean = mean_image.mean((0, 1), np.float64)
    # Caffe's files have neither the covariance, which only color noise needs, nor the number of images.
    rundir.create(config, model, names, statistics.Statistics(mean_image, rgb_mean, np.zeros((3, 3)), count=0))
    parameters = sum(array.size for array in weights.values())
    print(f"imported:  {len(weights) // 2} layers, {parameters:,} parameters, in {options.towers} tower(s)")
    print(f"classes:   {len(names)}, from {names[0]} to {names[-1]}")
    print("mean:      {}, red {:.2f}, green {:.2f}, blue {:.2f}".format(options.mean or "one color", *rgb_mean))
    print(f"measure:   python -m keras_alexnet.evaluate --model_dir={out}")
    print(f"export:    python -m keras_alexnet.export --model_dir={out}")
    print(f"ask:       python -m keras_alexnet.predict --model={out}/export/1 IMAGE...")
    print(f"train on:  python -m keras_alexnet.train --variant=caffe --initial_weights={out} ...")


def class_names(path, count, weights):
    """A name for each output of a file of weights, tuple of str; without a path those of ImageNet."""
    if not path:
        if count != 1000:
            raise UsageError(f"--class_names is missing: {weights} has {count} classes, and ImageNet 1000")
        return imagenet.class_names([wordnet_id for wordnet_id, _ in imagenet.classes()], {})
    try:
        with open(path, encoding="utf-8") as file:
            names = tuple(line.strip() for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError("class_names", path, f"cannot be read ({error})") from None
    if not len(names) == len(set(names)) == count:
        problem = f"has {len(names)} names, {len(set(names))} of them different; {weights} has {count} classes"
        raise ArgumentError("class_names", path, problem)
    return names


if __name__ == "__main__":
    sys.exit(run_command("import_caffe", main, sys.argv[1:]))
