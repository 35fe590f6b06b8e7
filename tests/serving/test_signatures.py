import os

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_alexnet import AlexNet
from keras_alexnet.serving import signatures
from keras_alexnet.serving.signatures import ServedModel
from tests.runs import REMOVED


@pytest.fixture(scope="module")
def served(folder):
    return tf.saved_model.load(folder)


@pytest.fixture(scope="module")
def few_layers():
    form = {"towers": 1, "groups": 1, "removed_layers": REMOVED, "width": 1 / 16}
    return AlexNet(2, "release2012", classifier_activation=None, seed=4, **form)


def classify(served, files, signature="serving_default"):
    return served.signatures[signature](image_bytes=tf.constant(files, tf.string))


def test_files_floats_and_features_are_answered_as_by_the_network(served, tiny_model, mean, files, center_views):
    """Classes and scores are in test_loading.py."""
    answer = classify(served, files[:3])
    logits = tiny_model(center_views[:3] - mean)
    np.testing.assert_allclose(answer["probabilities"], tf.nn.softmax(logits), rtol=1e-4, atol=1e-7)
    by_floats = served.signatures["images"](images=tf.constant(center_views[:3] - mean))
    np.testing.assert_allclose(answer["probabilities"], by_floats["probabilities"], rtol=1e-5, atol=1e-8)
    features, head = classify(served, files[:3], "features")["features"].numpy(), tiny_model.get_layer("fc8")
    assert features.shape == (3, 256)  # a sixteenth of 4096
    np.testing.assert_allclose(features @ head.kernel.numpy() + head.bias.numpy(), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("aligned", [False, True])
def test_ten_views_are_averaged(few_layers, mean_image, files, aligned, monkeypatch):
    """And with fewer than five classes all are returned, and the limit counts views."""
    served = ServedModel(few_layers, ["a", "b"], mean_image, aligned, views=10)
    images, expected = [], []
    for contents in files[:3]:
        image = tf.io.decode_png(contents, channels=3).numpy()
        row, column = (image.shape[0] - 256) // 2, (image.shape[1] - 256) // 2
        images.append(image[row : row + 256, column : column + 256])
        views = []
        for row, column in [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]:
            part, below = (each[row : row + 224, column : column + 224] for each in (images[-1], mean_image))
            center = mean_image[16:240, 16:240]
            views.append(part - (below if aligned else center))
            views.append(part[:, ::-1] - (below[:, ::-1] if aligned else center))
        expected.append(tf.reduce_mean(tf.nn.softmax(few_layers(np.stack(views))), axis=0).numpy())
    np.testing.assert_allclose(served.ten_views(np.stack(images)), expected, rtol=1e-4, atol=1e-7)
    answer = served.classify_files(tf.constant(files[:3]))
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-4, atol=1e-7)
    assert answer["classes"].shape == answer["scores"].shape == (3, 2)
    monkeypatch.setattr(signatures, "MAX_VIEWS", 20)
    with pytest.raises(tf.errors.InvalidArgumentError, match="3 images in one request; 1 to 2 are taken"):
        served.classify_files(tf.constant([b"a", b"b", b"c"]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="21 images in one request; 1 to 20 are taken"):
        served.classify_images(tf.zeros((21, 224, 224, 3)))


def test_the_graph_needs_no_python_and_no_device(folder):
    with open(f"{folder}/saved_model.pb", "rb") as file:
        graph = saved_model_pb2.SavedModel.FromString(file.read())
    functions = graph.meta_graphs[0].graph_def.library.function
    nodes = [node for function in functions for node in function.node_def]
    assert len(nodes) > 100
    assert not [node.name for node in nodes if "PyFunc" in node.op]
    # What reads the weights back runs on the host, which every machine has.
    assert {node.device for node in nodes} <= {"", "/device:CPU:0", "/device:CPU:*"}


def test_bad_files_are_named_by_their_places_and_the_model_continues(served, files):
    size = (20000).to_bytes(4, "big")
    huge = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + size * 2 + b"\x08\x02\x00\x00\x00" + bytes(40)
    cut = files[3][: len(files[3]) // 2]
    for bad, words in (
        (
            [files[0], b"", b"no image", huge, b"\xff\xd8\xff\xe0" + bytes(50), files[1], cut],
            r"\[1, 2, 3, 4, 6\]: not a JP",
        ),
        ([b"no image"], ""),
        ([b"", b""], r"image_bytes\[0, 1\]: not a JPEG or PNG file that can be decoded"),
        ([], "0 images in one request; 1 to 512 are taken"),
        ([b"x"] * 10_000, "10000 images in one request; 1 to 512 are taken"),
    ):
        for signature in ("serving_default", "features"):
            with pytest.raises(tf.errors.InvalidArgumentError, match=words):
                classify(served, bad, signature)
            assert classify(served, files[:2], signature)


def test_the_warm_up_requests_are_what_the_published_protocol_reads(folder, server):
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    seen = set()
    for record in tf.data.TFRecordDataset(os.path.join(folder, signatures.WARMUP)).as_numpy_iterator():
        log = logs.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        assert log.SerializeToString(deterministic=True) == record  # nothing that the protocol does not know
        request = log.predict_log.request
        assert request.model_spec.name == "alexnet"
        ((name, value),) = request.inputs.items()
        value = tf.make_ndarray(value)
        shape = tf.io.decode_jpeg(value[0]).shape if name == "image_bytes" else value.shape[1:]
        assert shape == ((375, 500, 3) if name == "image_bytes" else (224, 224, 3))
        seen.add((request.model_spec.signature_name, name, len(value)))
    kinds = (("serving_default", "image_bytes"), ("features", "image_bytes"), ("images", "images"))
    assert seen == {(*kind, count) for kind in kinds for count in (1, 2, 32)}
    assert server.warmed_up == 9
    for length in (0, 127, 128, 16383, 16384, 3_000_000):
        tensor = tf.make_tensor_proto(["x" * length])
        log = logs.PredictionLog.FromString(signatures._predict_log("features", "image_bytes", tensor))
        assert tf.make_ndarray(log.predict_log.request.inputs["image_bytes"])[0] == b"x" * length
