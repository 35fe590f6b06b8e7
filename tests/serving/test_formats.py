"""Files of other runtimes: of a trained run with a few layers, and of imported weights with all layers of Caffe's."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import AlexNet, config, export, flags, rundir, standalone
from keras_alexnet.data import shapes, statistics
from keras_alexnet.model import weights
from keras_alexnet.serving import formats, signatures
from tests.conftest import CLASSES
from tests.runs import REMOVED, SMALL_CLASSES, call, refusal

NAMES = {"onnx": "model.onnx", "litert": "model.tflite", "keras": "model.keras"}


def needs(name):
    for module in export.FORMATS[name]:
        pytest.importorskip(module.split(".")[0], reason=f"{module} is not installed (extra {name})")


@pytest.fixture(scope="module")
def trained(tiny_run, tmp_path_factory):
    ignored = shutil.ignore_patterns("export", "logs")
    return shutil.copytree(tiny_run, tmp_path_factory.mktemp("trained") / "run", ignore=ignored)


@pytest.fixture(scope="module")
def imported(tmp_path_factory, mean_image):
    """One stack of grouped layers, an input of 227, stretched images, and no validation set."""
    folder = tmp_path_factory.mktemp("imported") / "run"
    texts = {"variant": "caffe", "towers": "1", "width": "0.0625", "resize": "stretch", "mean_subtraction": "aligned"}
    texts |= {"model_dir": str(folder), "dataset": "folder", "data_dir": str(folder / "images")}
    settings = flags.read(config.Config, texts)
    values = weights.named(rundir.build_model(settings.network, len(CLASSES), 5, devices=()))
    rundir.create(settings, values, CLASSES, statistics.Statistics(mean_image, np.zeros(3), np.zeros((3, 3)), 0))
    return folder


def metadata_of(folder):
    return json.loads((folder / "metadata.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["trained", "imported"])
def test_a_file_answers_image_files_as_the_saved_model_does(kind, name, request, tmp_path):
    needs(name)
    run = request.getfixturevalue(kind)
    assert call(export, f"--model_dir={run}", f"--format={name}")[:2] == (0, f"exported to {run / name / '1'}\n")
    folder = run / name / "1"
    assert {path.name for path in folder.iterdir()} == {NAMES[name], "predict.py", "mean.npy", "metadata.json"}
    found = metadata_of(folder)
    assert (found["format"], found["quantize"]) == (name, "none")
    assert found["parity"]["largest_probability_difference"] < 1e-6 and found["parity"]["top5_agreement"] == 1
    expected = "9 of the folder val" if kind == "trained" else "10 of the built-in shapes"
    assert found["parity"]["images"] == expected and f"| {name}/1 |" in (run / name / "README.md").read_text()
    # From a file to the answer, with what is in the folder only.
    image = tmp_path / "image.jpg"
    shapes.draw("red_star", 3).resize((700, 530)).save(image)
    served = signatures.of_run(rundir.open_run(str(run)))
    answer = standalone.load(folder)(np.stack([standalone.prepare(image, folder)] * 3))
    expected = served.extract_features(tf.constant([image.read_bytes()] * 3))["features"]
    np.testing.assert_allclose(answer["features"], expected, rtol=1e-4, atol=1e-5)
    expected = served.classify_files(tf.constant([image.read_bytes()]))
    np.testing.assert_allclose(answer["probabilities"][:1], expected["probabilities"], rtol=1e-4)
    if kind == "trained":
        command = [sys.executable, str(folder / "predict.py"), str(image)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        best = zip(expected["scores"][0].numpy(), expected["classes"][0].numpy(), strict=True)
        lines = [f"  {100 * score:6.2f} %  {each.decode()}" for score, each in best]
        assert done.stdout.splitlines() == [str(image), *lines]


@pytest.mark.parametrize("name", export.QUANTIZED)
def test_eight_bits_are_measured_before_and_after(name, trained):
    needs(name)
    assert call(export, f"--model_dir={trained}", f"--format={name}", "--quantize=int8")[0] == 0
    folder = trained / f"{name}_int8" / "1"
    found = metadata_of(folder)
    before, after = (found["quantization"][key] for key in ("before", "after"))
    history = rundir.open_run(str(trained)).history[-1]
    assert (found["quantize"], found["quantization"]["images"]) == ("int8", 9)
    assert before["top1_error"] == pytest.approx(history["val_top1_error"], abs=1e-3)
    assert before["loss"] == pytest.approx(history["val_loss"], rel=1e-4)
    assert after["loss"] == pytest.approx(before["loss"], rel=0.02) and after["loss"] != before["loss"]
    assert after["bytes"] == (folder / NAMES[name]).stat().st_size < 0.6 * before["bytes"]
    if name == "keras":
        layers = keras.saving.load_model(folder / "model.keras").layers
        quantized = {layer.name.split("_")[0] for layer in layers if getattr(layer, "quantization_mode", None)}
        assert quantized == {"fc6", "fc8"}


def test_litert_needs_no_operations_of_tensorflow(trained):
    needs("litert")
    call(export, f"--model_dir={trained}", "--format=litert")
    from ai_edge_litert.interpreter import Interpreter

    (folder, *_) = sorted((trained / "litert").glob("[0-9]*"))
    operations = {each["op_name"] for each in Interpreter(str(folder / "model.tflite"))._get_ops_details()}
    assert {"CONV_2D", "FULLY_CONNECTED"} <= operations and not [name for name in operations if "Flex" in name]


def test_a_file_that_answers_otherwise_takes_no_place(trained, monkeypatch):
    def other(run, network, quantize, path):
        AlexNet(len(SMALL_CLASSES), "release2012", width=1 / 16, towers=1, removed_layers=REMOVED, seed=9).save(path)

    def damaged(run, network, quantize, path):
        with open(path, "wb") as file:
            file.write(b"no model")

    before = sorted((trained / "keras").glob("*"))
    for writer, words in (
        (other, "does not answer as the run: probabilities differ by 0."),
        (damaged, "cannot be run"),
    ):
        monkeypatch.setitem(formats._FORMATS, "keras", ("model.keras", "keras", writer))
        assert words in refusal(export, f"--model_dir={trained}", "--format=keras", code=1)
        assert sorted((trained / "keras").glob("*")) == before


def test_what_cannot_be_exported(trained, imported, monkeypatch):
    for arguments, words in (
        (
            ["--format=onnx,tflite"],
            "--format=onnx,tflite: must be one or several different ones of saved_model, onnx, ",
        ),
        (["--format="], "--format=: must be one or several"),
        (["--format=keras,keras"], "--format=keras,keras: must be one or several different ones"),
        (["--format=onnx", "--quantize=int8"], "--quantize=int8: goes with --format=litert or keras, not onnx"),
        (["--quantize=int8"], "--quantize=int8: goes with --format=litert or keras, not saved_model"),
        (["--format=keras", "--views=10"], "--views=10: goes with --format=saved_model, not keras"),
    ):
        assert refusal(export, f"--model_dir={trained}", *arguments).startswith(words)
    words = refusal(export, f"--model_dir={imported}", "--format=keras", "--quantize=int8")
    assert words.startswith("--quantize=int8 measures errors on the validation set of the run: ")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    words = "tf2onnx is not installed; pip install 'keras-alexnet[onnx]'"
    assert refusal(export, f"--model_dir={trained}", "--format=saved_model,onnx") == words
    assert not (trained / "export").exists()
