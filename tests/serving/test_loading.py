"""Models in a new process: a .keras file by imports alone, in either order; a SavedModel without this package."""

import subprocess
import sys

import numpy as np
import tensorflow as tf

from keras_alexnet import AlexNet
from keras_alexnet.training.optimizer import MomentumSGD
from tests.conftest import CLASSES

PROGRAM = """
import os, sys
import keras_alexnet
assert not {"tensorflow", "keras"} & {*sys.modules}
import keras
import numpy as np
import tensorflow as tf
folder, exported = sys.argv[1:]
given = np.load(os.path.join(folder, "given.npz"))

def load():
    for name in ("model.keras", "compiled.keras"):
        model = keras.saving.load_model(os.path.join(folder, name))
        np.testing.assert_array_equal(model(given["image"]), given["answer"])
    assert type(model.optimizer).__name__ == "MomentumSGD" and float(model.optimizer.learning_rate) == 0.125

load()
for name in [name for name in sys.modules if name.startswith("keras_alexnet")]:
    del sys.modules[name]
keras.saving.get_custom_objects().clear()
import keras_alexnet  # now after Keras
load()
sys.modules["keras_alexnet"] = None   # what imports it fails
with open(os.path.join(folder, "images"), "rb") as file:
    files = tf.io.parse_tensor(file.read(), tf.string).numpy().tolist()
batches = [files[:1], files[:64]]
served = tf.saved_model.load(exported).signatures["serving_default"]
answers = [{name: value.numpy() for name, value in served(image_bytes=tf.constant(b)).items()} for b in batches]
# tensorflow_model_server runs this loader's C++ twin, and sessions.
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    graph = tf.compat.v1.saved_model.loader.load(session, [tf.saved_model.SERVING], exported)
    signature = graph.signature_def["serving_default"]
    fetches = {name: info.name for name, info in signature.outputs.items()}
    feed = signature.inputs["image_bytes"].name
    answers += [session.run(fetches, {feed: batch}) for batch in batches]
for index, answer in enumerate(answers):
    np.savez(os.path.join(folder, f"{index}.npz"), **{**answer, "classes": answer["classes"].astype("U")})
"""


def test_a_new_process_answers_as_the_model(folder, tiny_model, mean, files, center_views, tmp_path):
    form = {"removed_layers": ("conv3", "conv4", "fc7"), "width": 1 / 16, "seed": 1}
    model = AlexNet(3, "release2012", **form)
    image = np.random.default_rng(0).normal(scale=60, size=(1, 224, 224, 3)).astype(np.float32)
    np.savez(tmp_path / "given.npz", image=image, answer=model(image))
    model.save(tmp_path / "model.keras")
    model.compile(MomentumSGD(0.125), "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "compiled.keras")
    (tmp_path / "images").write_bytes(tf.io.serialize_tensor(tf.constant(files)).numpy())
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = tf.nn.softmax(tiny_model(center_views - mean)).numpy()
    for index, count in enumerate((1, 64, 1, 64)):
        answer = np.load(tmp_path / f"{index}.npz")
        found = answer["probabilities"]
        np.testing.assert_allclose(found, expected[:count], rtol=1e-3, atol=1e-6)
        best = np.argsort(-found, axis=1)[:, :5]
        assert answer["classes"].tolist() == [[CLASSES[i] for i in row] for row in best]
        np.testing.assert_array_equal(answer["scores"], np.take_along_axis(found, best, axis=1))
