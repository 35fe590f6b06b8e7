"""The exported model on a machine that has TensorFlow and not this package: the two loaders, in a new process."""

import subprocess
import sys

import numpy as np
import tensorflow as tf

from tests.conftest import CLASSES

PROGRAM = """
import sys
sys.modules["keras_alexnet"] = None   # what imports it fails
import numpy as np
import tensorflow as tf
folder, images, out = sys.argv[1:]
with open(images, "rb") as file:
    files = tf.io.parse_tensor(file.read(), tf.string).numpy().tolist()
batches = [files[:1], files[:64]]
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
arrays = {f"{name}{index}": value for index, answer in enumerate(answers) for name, value in answer.items()}
np.savez(out, **{name: value.astype("U") if value.dtype == object else value for name, value in arrays.items()})
assert not any(name.split(".")[0] == "keras_alexnet" for name in sys.modules if sys.modules[name])
"""


def test_a_new_process_without_the_package_answers_as_the_model(
    folder, tiny_model, mean, files, center_views, tmp_path
):
    (tmp_path / "images").write_bytes(tf.io.serialize_tensor(tf.constant(files)).numpy())
    arguments = [folder, str(tmp_path / "images"), str(tmp_path / "out.npz")]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = np.load(tmp_path / "out.npz")
    expected = tf.nn.softmax(tiny_model(center_views - mean)).numpy()
    for index, count in enumerate((1, 64, 1, 64)):
        classes, scores, found = (answers[f"{name}{index}"] for name in ("classes", "scores", "probabilities"))
        np.testing.assert_allclose(found, expected[:count], rtol=1e-3, atol=1e-6)
        best = np.argsort(-found, axis=1)[:, :5]
        assert classes.tolist() == [[CLASSES[i] for i in row] for row in best]
        np.testing.assert_array_equal(scores, np.take_along_axis(found, best, axis=1))
