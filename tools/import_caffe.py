"""Caffe's AlexNet -> a run's folder, to be evaluated, exported, asked and trained further as our own.

    python tools/import_caffe.py bvlc_alexnet.caffemodel --out=RUN
    python tools/import_caffe.py bvlc_alexnet.npy --out=RUN --mean=imagenet_mean.binaryproto --towers=1

Weights: BVLC AlexNet as Caffe wrote it, or as caffe-tensorflow converted it; nothing in the files is run. Its one
thousand classes are ImageNet's, and other numbers of them are named by --class_names, a name a line. The network
computes what Caffe's does. Its input differs in two things: Caffe stretched images to 256x256, where here the shorter
side is brought to 256 and the center cut; and Caffe's example subtracts the mean color, as here without --mean, where
it trained and measured with the mean image (--mean=imagenet_mean.binaryproto or ilsvrc_2012_mean.npy). CaffeNet, the
other network of Caffe, is refused where the file tells: a .npy does not.
"""

import argparse
import os
import sys

from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.errors import UsageError


def main(argv):
    options = parse(argv)
    out = os.path.expanduser(options.out)
    start_tensorflow()
    import numpy as np

    from keras_alexnet import config as configs
    from keras_alexnet import rundir
    from keras_alexnet.data.statistics import Statistics
    from keras_alexnet.model import caffe
    from keras_alexnet.model import weights as named_weights

    mean_image = caffe.read_mean(options.mean and os.path.expanduser(options.mean))
    weights = caffe.read(os.path.expanduser(options.weights))
    names = class_names(options, weights["fc8/bias"].size)
    width = weights["conv1/bias"].size / 96
    # As Caffe trained it (flags/caffe.cfg): the part of the mean that is under a crop, and no color noise.
    flags = ["--variant=caffe", f"--towers={options.towers}", "--groups=2", f"--width={width!r}", f"--model_dir={out}"]
    config = configs.parse_train([*flags, "--mean_subtraction=aligned", "--pca_color=none"], __doc__)
    model = rundir.build_model(config.network, len(names), config.run.seed, devices=())
    named_weights.assign(weights, model)  # splits them between two towers
    statistics = Statistics(
        mean_image=mean_image,
        rgb_mean=mean_image.mean((0, 1), np.float64),
        rgb_covariance=np.zeros((3, 3)),  # not in Caffe's files; only color noise, which this run has none of, needs it
        count=0,  # nor is the number of images
    )
    rundir.create(config, model, names, statistics)
    print(as_text(options, out, weights, names, statistics.rgb_mean))


def parse(argv):
    """Flags -> options. Raises UsageError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("weights", nargs="?", help="bvlc_alexnet.caffemodel, or the .npy of caffe-tensorflow")
    parser.add_argument("--out", help="the run's folder; new or empty")
    parser.add_argument("--mean", help="imagenet_mean.binaryproto or ilsvrc_2012_mean.npy (default: its mean color)")
    parser.add_argument("--towers", choices=("1", "2"), default="2", help="one stack of layers, or two (default: 2)")
    parser.add_argument("--class_names", help="a text file, one name a line, in the order of the outputs")
    parser.error = refuse
    options, rest = parser.parse_known_args(argv)
    if rest:
        raise UsageError(f"{rest[0]}: there is no such option; see --help")
    if not options.weights:
        raise UsageError("no weights given: name a .caffemodel, or the .npy that caffe-tensorflow made of one")
    if not options.out:
        raise UsageError("--out is missing: name the run's folder, new or empty")
    out = os.path.expanduser(options.out)
    if os.path.exists(out) and not (os.path.isdir(out) and not os.listdir(out)):
        raise UsageError(f"--out={options.out}: is not empty; name a new folder")
    return options


def refuse(message):
    """In place of argparse's own, which prints its usage in several lines."""
    raise UsageError(message)


def class_names(options, count):
    """A name for each output, tuple of str."""
    from keras_alexnet.data import imagenet

    if not options.class_names:
        if count != 1000:
            raise UsageError(f"--class_names is missing: {options.weights} has {count} classes, and ImageNet 1000")
        return imagenet.class_names([wordnet_id for wordnet_id, _ in imagenet.classes()], {})
    try:
        with open(os.path.expanduser(options.class_names), encoding="utf-8") as file:
            names = tuple(line.strip() for line in file if line.strip())
    except FileNotFoundError:
        raise UsageError(f"--class_names={options.class_names}: there is no such file") from None
    except UnicodeDecodeError:
        raise UsageError(f"--class_names={options.class_names}: is no text") from None
    if len(names) != count:
        raise UsageError(f"--class_names={options.class_names}: {len(names)} names; {options.weights} has {count}")
    if len(set(names)) < count:
        raise UsageError(f"--class_names={options.class_names}: two classes have the same name")
    return names


def as_text(options, out, weights, names, rgb_mean):
    """The report at the end, str."""
    parameters = sum(array.size for array in weights.values())
    red, green, blue = rgb_mean
    return "\n".join(
        [
            f"imported:  {len(weights) // 2} layers, {parameters:,} parameters, in {options.towers} tower(s)",
            f"classes:   {len(names)}, from {names[0]} to {names[-1]}",
            f"mean:      {options.mean or 'one color'}, red {red:.2f}, green {green:.2f}, blue {blue:.2f}",
            f"measure:   python -m keras_alexnet.evaluate --model_dir={out}",
            f"export:    python -m keras_alexnet.export --model_dir={out}",
            f"ask:       python -m keras_alexnet.predict --model={out}/export/1 IMAGE...",
            f"train on:  python -m keras_alexnet.train --variant=caffe --initial_weights={out} ...",
        ]
    )


if __name__ == "__main__":
    sys.exit(run_command("import_caffe", main, sys.argv[1:]))
