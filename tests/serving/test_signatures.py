import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_alexnet import AlexNet
from keras_alexnet.errors import brief
from keras_alexnet.serving import signatures
from keras_alexnet.serving.signatures import ServedModel
from tests.conftest import CLASSES


@pytest.fixture(scope="module")
def served(folder):
    return tf.saved_model.load(folder)


def classify(served, files, signature="serving_default"):
    return served.signatures[signature](image_bytes=tf.constant(files, tf.string))


def test_files_are_classified_as_the_network_does(served, tiny_model, mean, files, center_views):
    answer = classify(served, files[:3])
    expected = tf.nn.softmax(tiny_model(center_views[:3] - mean)).numpy()
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-4, atol=1e-7)
    best = np.argsort(-expected, axis=1)[:, :5]
    assert answer["classes"].numpy().tolist() == [[CLASSES[i].encode() for i in row] for row in best]
    np.testing.assert_allclose(answer["scores"], np.take_along_axis(expected, best, axis=1), rtol=1e-4)


def test_floats_and_files_give_the_same(served, mean, files, center_views):
    by_files = classify(served, files[:3])
    by_floats = served.signatures["images"](images=tf.constant(center_views[:3] - mean))
    np.testing.assert_allclose(by_files["probabilities"], by_floats["probabilities"], rtol=1e-5, atol=1e-8)


def test_features_are_the_last_hidden_layer(served, tiny_model, mean, files, center_views):
    answer = classify(served, files[:3], "features")
    head = tiny_model.get_layer("fc8")
    logits = answer["features"].numpy() @ head.kernel.numpy() + head.bias.numpy()
    assert answer["features"].shape == (3, 256)  # a sixteenth of 4096
    np.testing.assert_allclose(logits, tiny_model(center_views[:3] - mean), rtol=1e-3, atol=1e-4)


def ten_views_by_hand(model, image, mean_of):
    """Probabilities of the ten views of a uint8 (256, 256, 3), one after the other, averaged."""
    views = []
    for row, column in [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]:
        part = image[row : row + 224, column : column + 224].astype(np.float32)
        views.append((part, mean_of(row, column, False)))
        views.append((part[:, ::-1], mean_of(row, column, True)))
    return np.mean([tf.nn.softmax(model((view - mean)[None])).numpy()[0] for view, mean in views], axis=0)


@pytest.mark.parametrize("aligned", [False, True])
def test_ten_views_are_averaged(tiny_model, mean_image, files, aligned):
    def mean_of(row, column, reflected):
        if not aligned:
            return mean_image[16:240, 16:240]
        part = mean_image[row : row + 224, column : column + 224]
        return part[:, ::-1] if reflected else part

    served = ServedModel(tiny_model, CLASSES, mean_image, aligned, views=10)
    images = []
    for contents in files[:3]:
        image = tf.io.decode_png(contents, channels=3).numpy()
        row, column = (image.shape[0] - 256) // 2, (image.shape[1] - 256) // 2
        images.append(image[row : row + 256, column : column + 256])
    expected = [ten_views_by_hand(tiny_model, image, mean_of) for image in images]
    np.testing.assert_allclose(served.ten_views(np.stack(images)), expected, rtol=1e-4, atol=1e-7)
    answer = served.classify_files(tf.constant(files[:3]))
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-4, atol=1e-7)


def test_with_fewer_than_five_classes_all_are_returned(mean_image, files):
    model = AlexNet(2, classifier_activation=None, width=1 / 16, devices=(), seed=4)
    answer = ServedModel(model, ["a", "b"], mean_image).classify_files(tf.constant(files[:3]))
    assert answer["classes"].shape == answer["scores"].shape == (3, 2)


def test_another_number_of_views_is_refused(tiny_model, mean_image):
    with pytest.raises(ValueError, match="views must be 1 or 10. Received: views=5"):
        ServedModel(tiny_model, CLASSES, mean_image, views=5)


def test_the_graph_needs_no_python_and_no_device(folder):
    with open(f"{folder}/saved_model.pb", "rb") as file:
        graph = saved_model_pb2.SavedModel.FromString(file.read())
    functions = graph.meta_graphs[0].graph_def.library.function
    nodes = [node for function in functions for node in function.node_def]
    assert len(nodes) > 100
    assert not [node.name for node in nodes if "PyFunc" in node.op]
    # What reads the weights back runs on the host, which every machine has.
    assert {node.device for node in nodes} <= {"", "/device:CPU:0", "/device:CPU:*"}


HUGE = (
    b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + (20000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00" + bytes(40)
)


@pytest.mark.parametrize(
    ("name", "bad"),
    [("empty", b""), ("text", b"no image"), ("header", HUGE), ("jpeg", b"\xff\xd8\xff\xe0" + bytes(50))],
)
def test_a_bad_file_is_named_by_its_place_and_the_model_continues(served, files, name, bad):
    with pytest.raises(tf.errors.InvalidArgumentError) as failed:
        classify(served, [*files[:2], bad, files[2]])
    assert brief(failed.value).startswith("image_bytes[2]: not a JPEG or PNG file that can be decoded")
    with pytest.raises(tf.errors.InvalidArgumentError):
        classify(served, [bad])
    assert classify(served, files[:2])["classes"].shape == (2, 5)


def test_of_truncated_images_all_are_named(served, files):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"image_bytes\[0, 3\]: not a JPEG"):
        classify(served, [files[0][:200], files[1], files[2], files[3][: len(files[3]) // 2]])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"image_bytes\[0, 1\]: not a JPEG"):
        classify(served, [b"", b""])


@pytest.mark.parametrize("signature", ["serving_default", "features"])
@pytest.mark.parametrize("count", [0, 10_000])
def test_a_request_of_nothing_or_of_too_much_is_refused(served, files, signature, count):
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{count} images in one request; 1 to 512 are taken"):
        classify(served, [b"x"] * count, signature)
    assert classify(served, files[:1], signature)


def test_the_limit_counts_views(tiny_model, mean_image, monkeypatch):
    monkeypatch.setattr(signatures, "MAX_VIEWS", 20)
    ten = ServedModel(tiny_model, CLASSES, mean_image, views=10)
    with pytest.raises(tf.errors.InvalidArgumentError, match="3 images in one request; 1 to 2 are taken"):
        ten.classify_files(tf.constant([b"a", b"b", b"c"]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="21 images in one request; 1 to 20 are taken"):
        ten.classify_images(tf.zeros((21, 224, 224, 3)))
