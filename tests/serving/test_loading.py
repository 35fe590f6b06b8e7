"""The exported model on a machine that has TensorFlow and not this package: the two loaders, in a fresh process."""

import json
import subprocess
import sys

import numpy as np
import tensorflow as tf

from tests.conftest import CLASSES

PROGRAM = """
import json, sys
sys.modules["keras_alexnet"] = None   # what imports it fails
import tensorflow as tf
folder, images, out = sys.argv[1:]
with open(images, "rb") as file:
    files = tf.io.parse_tensor(file.read(), tf.string).numpy().tolist()
batches = [files[:1], files[:3], files[:64]]
served = tf.saved_model.load(folder).signatures["serving_default"]
answers = [served(image_bytes=tf.constant(batch)) for batch in batches]
answers = [{name: value.numpy() for name, value in answer.items()} for answer in answers]
# tensorflow_model_server runs this loader's C++ twin, and sessions.
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    graph = tf.compat.v1.saved_model.loader.load(session, [tf.saved_model.SERVING], folder)
    signature = graph.signature_def["serving_default"]
    fetches = {name: info.name for name, info in signature.outputs.items()}
    feed = signature.inputs["image_bytes"].name
    answers += [session.run(fetches, {feed: batch}) for batch in batches]
with open(out, "w") as file:
    plain = lambda value: (value.astype("U") if value.dtype == object else value).tolist()
    json.dump([{name: plain(value) for name, value in answer.items()} for answer in answers], file)
assert not any(name.split(".")[0] == "keras_alexnet" for name in sys.modules if sys.modules[name])
"""


def test_a_fresh_process_without_the_package_answers_as_the_model(
    folder, tiny_model, mean, files, center_views, tmp_path
):
    (tmp_path / "images").write_bytes(tf.io.serialize_tensor(tf.constant(files)).numpy())
    arguments = [folder, str(tmp_path / "images"), str(tmp_path / "out.json")]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads((tmp_path / "out.json").read_text())
    for count, answer in zip((1, 3, 64, 1, 3, 64), answers, strict=True):
        expected = tf.nn.softmax(tiny_model(center_views[:count] - mean)).numpy()
        np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-3, atol=1e-6)
        best = np.argsort(-np.array(answer["probabilities"]), axis=1)[:, :5]
        assert answer["classes"] == [[CLASSES[i] for i in row] for row in best]
        np.testing.assert_array_equal(
            np.array(answer["scores"]), np.take_along_axis(np.array(answer["probabilities"]), best, axis=1)
        )
