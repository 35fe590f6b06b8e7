import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands do, which tests run in processes of their own
# The references multiply small matrices: threads would only wait for each other on busy cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import AlexNet, export, train
from keras_alexnet.cli import STOPPING, run_command
from keras_alexnet.data import shapes
from keras_alexnet.serving.signatures import ServedModel
from tests.runs import FULL_RUN, SMALL_CLASSES, TINY_RUN

CLASSES = ["blue_disk", "red_disk", "red_square", "red_star", "striped_red_disk", "blue_square"]

# Two devices, before anything runs: this process can place towers and replicas.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(scope="session")
def small_images(tmp_path_factory):
    """6 training and 3 validation images of each of three classes."""
    root = tmp_path_factory.mktemp("images")
    for label, name in enumerate(SMALL_CLASSES):
        for split, count in (("train", 6), ("val", 3)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                shapes.draw(name, 1000 * label + 100 * (split == "val") + index).save(folder / f"{index}.jpg")
    return root


@pytest.fixture(scope="session")
def run_of_three_epochs(small_images, tmp_path_factory):
    """A run of three epochs with two towers and all layers, exported."""
    return trained(tmp_path_factory.mktemp("runs") / "run", [*FULL_RUN, f"--data_dir={small_images}", "--epochs=3"])


@pytest.fixture(scope="session")
def tiny_run(small_images, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "run", [*TINY_RUN, f"--data_dir={small_images}", "--epochs=3"])


def trained(folder, flags):
    assert run_command("train", train.main, [*flags, f"--model_dir={folder}"]) == 0
    return folder


@pytest.fixture
def default_handlers():
    """A shell's background jobs, which these tests may be, ignore some of the signals that stop a run."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number in STOPPING:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def fixed_seed():
    keras.utils.set_random_seed(2012)


@pytest.fixture(scope="session")
def tiny_model():
    return AlexNet(len(CLASSES), "release2012", classifier_activation=None, width=1 / 16, devices=(), seed=4)


@pytest.fixture(scope="session")
def mean_image():
    return np.random.default_rng(0).uniform(90, 130, (256, 256, 3)).astype(np.float32)


@pytest.fixture(scope="session")
def mean(mean_image):
    return mean_image[16:240, 16:240]


@pytest.fixture(scope="session")
def folder(tiny_model, mean_image, tmp_path_factory):
    served, export_dir = ServedModel(tiny_model, CLASSES, mean_image), tmp_path_factory.mktemp("run") / "export"
    return export.save(served, str(export_dir), {"class_names": CLASSES, "flags": {}})


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """64 images whose shorter side is 256: their center view is there without resampling, as PNG to the bit."""
    root, contents = tmp_path_factory.mktemp("files"), []
    for index in range(64):
        path = root / f"{index}.png"
        size = [(256, 256), (301, 256), (256, 390)][index % 3]
        shapes.draw(CLASSES[index % len(CLASSES)], index).resize(size).save(path)
        contents.append(path.read_bytes())
    return contents


@pytest.fixture(scope="session")
def center_views(files):
    """The center views of the files, uint8 (64, 224, 224, 3), cut by NumPy."""
    views = []
    for contents in files:
        image = tf.io.decode_png(contents, channels=3).numpy()
        row, column = (image.shape[0] - 256) // 2 + 16, (image.shape[1] - 256) // 2 + 16
        views.append(image[row : row + 224, column : column + 224])
    return np.stack(views)


@pytest.fixture(scope="session")
def server(folder):
    """A server of the exported version in a process of its own: rest and grpc, its addresses, and what it said."""
    pytest.importorskip("tensorflow_serving", reason="tensorflow-serving-api is not installed (extra serving)")
    program = Path(__file__).parent / "serving" / "model_server.py"
    command = [sys.executable, str(program), str(Path(folder).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = json.loads(process.stdout.readline())
            yield types.SimpleNamespace(
                rest=f"http://127.0.0.1:{said['rest']}/v1/models/alexnet",
                grpc=f"grpc://127.0.0.1:{said['grpc']}/alexnet",
                warmed_up=said["warmed_up"],
            )
        finally:
            process.kill()
