"""A run's network as a file of another runtime, compared with the run in that runtime before it takes its place.

    formats.export_run("runs/photos", "onnx")    # RUN/onnx/1: model.onnx, predict.py, mean.npy, metadata.json

`predict.py` is `keras_alexnet.standalone`: it prepares images as the SavedModel does, and runs the file to compare it.
"""

import dataclasses
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet import evaluate, evaluation, export, rundir, standalone
from keras_alexnet.cli import hidden_library_messages
from keras_alexnet.data import imagenet, pipeline, shapes
from keras_alexnet.errors import RunError, UsageError, optional
from keras_alexnet.files import write_json, write_version
from keras_alexnet.serving import signatures
from keras_alexnet.training.trainer import read

IMAGES = 16  # that are compared
# The largest difference of a probability that an export may have, of float32 in another order and of eight bits.
LARGEST = {"none": 1e-4, "int8": 0.1}


def export_run(model_dir, kind, checkpoint="newest", quantize="none"):
    """Writes a checkpoint of a run in one of export.FORMATS; returns the folder, MODEL_DIR/KIND/VERSION, str.

    int8 versions are below MODEL_DIR/KIND_int8. `metadata.json` has what `compare` found, for int8 also the errors on
    the whole validation set. Raises UsageError where that is missing, and as `compare` and `rundir.open_run` do.
    """
    run = rundir.open_run(model_dir, checkpoint)
    network = dataclasses.replace(run.config.network, precision="float32")
    served = signatures.of_run(run, network=network)
    model = evaluation.Model(model_dir, run.class_names, run.config, served.size, len(run.history), served)
    source, images, taken_from = _images(run, model, needs_set=quantize != "none")
    name, package, write = _FORMATS[kind]
    parent = os.path.join(model_dir, kind if quantize == "none" else f"{kind}_{quantize}")

    def write_folder(folder):
        write(run, network, quantize, os.path.join(folder, name))
        shutil.copyfile(standalone.__file__, os.path.join(folder, "predict.py"))
        np.save(os.path.join(folder, "mean.npy"), served.mean.numpy())
        size = os.path.getsize(os.path.join(folder, name))
        metadata = {**export.metadata(run, 1, served.size), "format": kind, "quantize": quantize, "bytes": size}
        metadata["shown_names"] = [*map(imagenet.word, run.class_names)]  # what predict.py prints
        metadata["parity"] = {
            "runtime": f"{package} {importlib.metadata.version(package)}",
            "images": f"{len(images)} of the {taken_from}",
            **compare(folder, served, images, LARGEST[quantize]),
        }
        if quantize != "none":
            before, after = _errors(model, source, folder)
            parameters = sum(array.size for array in run.weights.values())
            before, after = {"bytes": 4 * parameters, **before}, {"bytes": size, **after}
            metadata["quantization"] = {"images": source.count, "before": before, "after": after}
        write_json(os.path.join(folder, "metadata.json"), metadata, indent=1, ensure_ascii=False)

    folder = write_version(parent, write_folder)
    export.write_card(run, parent)
    return folder


def compare(folder, served, images, largest):
    """How far the file in a folder is from a ServedModel on prepared images, float32 (B, size, size, 3): dict.

    Keys: largest_probability_difference, largest_feature_difference, top5_agreement (0..1). The file is run by the
    folder's predict.py in a new process. Raises RunError where it cannot be run or is too far.
    """
    with tempfile.TemporaryDirectory() as temporary:
        given, answered = (os.path.join(temporary, name) for name in ("images.npz", "answers.npz"))
        np.savez(given, images=images)
        # A .keras file needs this package, which may not be installed but be the current folder.
        path = os.pathsep.join([str(Path(rundir.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, os.path.join(folder, "predict.py"), "--check", given, answered]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RunError(f"the exported file cannot be run in its runtime ({last[:300]}); nothing was exported")
        with np.load(answered, allow_pickle=False) as file:
            found = dict(file)
    expected = {name: value.numpy() for name, value in served.network_outputs(images).items()}
    best = [np.argsort(-each["probabilities"], axis=1, kind="stable")[:, :5] for each in (found, expected)]
    agreement = float(np.mean([np.isin(*rows).mean() for rows in zip(*best, strict=True)]))
    difference, of_features = (float(np.abs(found[name] - value).max()) for name, value in expected.items())
    if not (difference <= largest and agreement >= 0.9):
        raise RunError(
            f"the exported file does not answer as the run: probabilities differ by {difference:.2g} (at most "
            f"{largest:g}), the five best classes agree in {100 * agreement:.0f} %; nothing was exported"
        )
    names = ("largest_probability_difference", "largest_feature_difference", "top5_agreement")
    return dict(zip(names, (difference, of_features, agreement), strict=True))


def _images(run, model, needs_set):
    """(source, images, name): the validation set or None; float32 (B, size, size, 3), prepared; where they are from."""
    try:
        source, described = evaluation.open_set(evaluate.EvaluateConfig(), [model], None, may_download=needs_set)
    except (UsageError, RunError, OSError) as error:
        if needs_set:
            raise UsageError(f"--quantize=int8 measures errors on the validation set of the run: {error}") from None
        # Such as imported weights, whose images are elsewhere.
        drawn = [shapes.draw(name, 0).resize((model.size, model.size)) for name in shapes.CLASS_NAMES]
        images = np.stack([np.asarray(image, np.float32) for image in drawn])
        return None, images - model.served.mean.numpy(), "built-in shapes"
    part = (0, max(1, source.count // IMAGES))  # from all over the set, which is often in the order of its classes
    batches = pipeline.center_view(source, size=model.size, batch_size=IMAGES, part=part)
    (crops, _), _ = next(iter(read(batches)))
    return source, crops.numpy() - model.served.mean.numpy(), f"{described['dataset']} {described['split']}"


def _errors(model, source, folder):
    """The errors on the whole validation set of the run and of the file in a folder: list of two dicts."""
    with hidden_library_messages():
        network, mean = standalone.load(folder), model.served.mean.numpy()

    def center_view(images):
        return tf.constant(network(images.numpy().astype(np.float32) - mean)["probabilities"])

    models = [model, dataclasses.replace(model, served=types.SimpleNamespace(center_view=center_view))]
    answered = evaluation.answers(models, source, evaluate.EvaluateConfig(), "measuring int8")
    return [evaluation.summary(own) for own in evaluation.joined(answered)]


def _graph(run, network):
    """(ServedModel, tf.function of prepared images); in towers, since not every runtime has grouped convolutions."""
    served = signatures.of_run(run, network=dataclasses.replace(network, towers=network.groups))
    images = tf.TensorSpec((None, served.size, served.size, 3), tf.float32, name="images")
    return served, tf.function(served.network_outputs, [images])


def _write_onnx(run, network, quantize, path):
    _, function = _graph(run, network)
    convert = optional("tf2onnx", "onnx").convert
    convert.from_function(function, function.input_signature, opset=17, output_path=path)


def _write_litert(run, network, quantize, path):
    served, function = _graph(run, network)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], served)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]  # none of TensorFlow's own (Flex)
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if quantize == "int8" else []
    Path(path).write_bytes(converter.convert())


def _write_keras(run, network, quantize, path):
    model = rundir.build(run, network, "softmax")
    for layer in model.layers:
        if quantize == "int8" and isinstance(layer, keras.layers.Dense):
            layer.quantize("int8")
    model.save(path)


_FORMATS = {  # the file, the package that runs it, and its writer
    "onnx": ("model.onnx", "onnxruntime", _write_onnx),
    "litert": ("model.tflite", "ai-edge-litert", _write_litert),
    "keras": ("model.keras", "keras", _write_keras),
}
