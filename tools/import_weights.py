"""Public weights of AlexNet -> a run's folder, to be evaluated, exported, asked and trained further as our own.

    python tools/import_weights.py alexnet-owt-7be5be79.pth --out=RUN
    python tools/import_weights.py bvlc_alexnet.caffemodel --out=RUN --mean=imagenet_mean.binaryproto --towers=1

Read are PyTorch's .pth (torchvision's alexnet, pytorchcv's alexnet and alexnetb), the .h5 of tf2cv, .onnx of these
networks or of bvlcalexnet, and BVLC AlexNet as Caffe wrote it (.caffemodel) or caffe-tensorflow converted it (.npy);
nothing in the files is run. One thousand classes are ImageNet's, and other numbers of them are named by --class_names,
a name a line. The run has the preprocessing that belongs to the weights: mean, scale, and how images are resized.
Caffe's example subtracts the mean color, as here without --mean, where it trained and measured with the mean image
(--mean=imagenet_mean.binaryproto or ilsvrc_2012_mean.npy). CaffeNet, the other network of Caffe, is refused where the
file tells: a .npy does not.
"""

import dataclasses
import os

import numpy as np

from keras_alexnet import config as configs, flags, rundir
from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.data import imagenet
from keras_alexnet.errors import ArgumentError, UsageError, reading
from keras_alexnet.flags import flag


@dataclasses.dataclass(frozen=True)
class ImportConfig:
    """Import."""

    weights: tuple[str, ...] = flag((), "A .pth, .h5, .onnx, .caffemodel or .npy.")
    out: str | None = flag(None, "The run's folder; new or empty.", path=True)
    mean: str | None = flag(
        None, "Caffe: imagenet_mean.binaryproto or ilsvrc_2012_mean.npy; else its mean color.", path=True
    )
    towers: int = flag(2, "One stack of layers, or two where the network has groups.", choices=(1, 2))
    class_names: str | None = flag(None, "A text file, one name a line, in the order of the outputs.", path=True)


def main(argv):
    options = flags.parse(ImportConfig, argv, __doc__, positional="weights")
    if len(options.weights) != 1:
        raise UsageError("no weights given: name one file, .pth, .h5, .onnx, .caffemodel or .npy")
    file, out = options.weights[0], flags.required(options, "out")
    if os.path.exists(out) and not (os.path.isdir(out) and not os.listdir(out)):
        raise ArgumentError("out", out, "is not empty; name a new folder")
    start_tensorflow()  # a wrong flag does not wait for it
    from keras_alexnet.data import statistics
    from keras_alexnet.model import caffe, public_weights, weights

    imported = public_weights.read(file)
    settings, is_caffe = dict(imported.settings), imported.settings["variant"].startswith("caffe")
    names = class_names(options.class_names, settings.pop("num_classes"), file)
    if options.mean and not is_caffe:
        raise ArgumentError("mean", options.mean, f"goes with Caffe's weights; {file} has those of {imported.origin}")
    mean_image = caffe.read_mean(options.mean) if options.mean else imported.mean_image
    settings["towers"] = options.towers if settings["groups"] == 2 else 1
    # As Caffe trained it (flags/caffe.cfg): the part of the mean that is under a crop. No color noise: no file has the
    # covariance, which only that needs, nor the number of images.
    texts = {**settings, "model_dir": out, "resize": imported.resize, "pca_color": "none"}
    texts |= {"mean_subtraction": "aligned"} if is_caffe else {}
    config = flags.read(configs.Config, {name: str(value) for name, value in texts.items()})
    model = rundir.build_model(config.network, len(names), config.run.seed, devices=())
    weights.assign(imported.weights, model)  # splits them between two towers
    rgb_mean = mean_image.mean((0, 1), np.float64)
    known = statistics.Statistics(mean_image, rgb_mean, np.zeros((3, 3)), count=0)
    rundir.create(config, weights.named(model), names, known)
    arrays, variant = imported.weights.values(), settings["variant"]
    parameters = sum(array.size for array in arrays)
    print(f"imported:  {imported.origin}, with --variant={variant} --resize={imported.resize}")
    print(f"layers:    {len(arrays) // 2}, {parameters:,} parameters, in {settings['towers']} tower(s)")
    print(f"published: {imported.published} error, by others (ILSVRC2012 validation, one center crop)")
    print(f"classes:   {len(names)}, from {names[0]} to {names[-1]}")
    print("mean:      {}, red {:.2f}, green {:.2f}, blue {:.2f}".format(options.mean or "one color", *rgb_mean))
    print(f"measure:   python -m keras_alexnet.evaluate --model_dir={out}")
    print(f"export:    python -m keras_alexnet.export --model_dir={out}")
    print(f"ask:       python -m keras_alexnet.predict --model={out}/export/1 IMAGE...")
    form = "" if settings["groups"] == 2 else " --towers=1 --groups=1"
    print(f"train on:  python -m keras_alexnet.train --variant={variant}{form} --initial_weights={out} ...")


def class_names(path, count, weights):
    """A name for each output of a file of weights, tuple of str; without a path those of ImageNet."""
    if not path:
        if count != 1000:
            raise UsageError(f"--class_names is missing: {weights} has {count} classes, and ImageNet 1000")
        return imagenet.class_names(list(imagenet.classes()), {})
    # utf-8-sig: without the byte order mark of some editors.
    with reading(f"--class_names={path}", kind=UsageError), open(path, encoding="utf-8-sig") as file:
        names = tuple(line.strip() for line in file if line.strip())
    if not len(names) == len(set(names)) == count:
        problem = f"has {len(names)} names, {len(set(names))} of them different; {weights} has {count} classes"
        raise ArgumentError("class_names", path, problem)
    return names


if __name__ == "__main__":
    raise SystemExit(run_command("import_weights", main))
