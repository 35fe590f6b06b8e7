import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_alexnet import AlexNet, export
from keras_alexnet.data import shapes

CLASSES = ["blue_disk", "red_disk", "red_square", "red_star", "striped_red_disk", "blue_square"]


@pytest.fixture(scope="module")
def model():
    return AlexNet(len(CLASSES), "release2012", classifier_activation=None, width=1 / 16, devices=(), seed=4)


@pytest.fixture(scope="module")
def mean():
    return np.random.default_rng(0).uniform(90, 130, (224, 224, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(model, mean, tmp_path_factory):
    return export.save(model, CLASSES, mean, str(tmp_path_factory.mktemp("run") / "export"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three pictures whose shorter side is 256: their center view is there without resampling, as PNG to the bit."""
    root, contents = tmp_path_factory.mktemp("files"), []
    for index, (width, height) in enumerate([(256, 256), (301, 256), (256, 390)]):
        path = root / f"{index}.png"
        shapes.draw(CLASSES[index], index).resize((width, height)).save(path)
        contents.append(path.read_bytes())
    return contents


def center_views(files):
    views = []
    for contents in files:
        image = tf.io.decode_png(contents, channels=3).numpy()
        row, column = (image.shape[0] - 256) // 2 + 16, (image.shape[1] - 256) // 2 + 16
        views.append(image[row : row + 224, column : column + 224])
    return np.stack(views).astype(np.float32)


@pytest.mark.parametrize("count", [1, 3])
def test_files_are_classified_as_the_network_does(folder, model, mean, files, count):
    answer = tf.saved_model.load(folder).signatures["serving_default"](image_bytes=tf.constant(files[:count]))
    expected = tf.nn.softmax(model(center_views(files[:count]) - mean)).numpy()
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-4, atol=1e-7)
    best = np.argsort(-expected, axis=1)[:, :5]
    assert answer["classes"].numpy().tolist() == [[CLASSES[i].encode() for i in row] for row in best]
    np.testing.assert_allclose(answer["scores"], np.take_along_axis(expected, best, axis=1), rtol=1e-4)


def test_floats_and_files_give_the_same(folder, mean, files):
    signatures = tf.saved_model.load(folder).signatures
    by_files = signatures["serving_default"](image_bytes=tf.constant(files))
    by_floats = signatures["images"](images=tf.constant(center_views(files) - mean))
    np.testing.assert_allclose(by_files["probabilities"], by_floats["probabilities"], rtol=1e-5, atol=1e-8)


def test_features_are_the_last_hidden_layer(folder, model, mean, files):
    answer = tf.saved_model.load(folder).signatures["features"](image_bytes=tf.constant(files))
    head = model.get_layer("fc8")
    logits = answer["features"].numpy() @ head.kernel.numpy() + head.bias.numpy()
    assert answer["features"].shape == (3, 256)  # a sixteenth of 4096
    np.testing.assert_allclose(logits, model(center_views(files) - mean), rtol=1e-3, atol=1e-4)


def test_with_fewer_than_five_classes_all_are_returned(mean, files, tmp_path):
    model = AlexNet(2, classifier_activation=None, width=1 / 16, devices=(), seed=4)
    folder = export.save(model, ["a", "b"], mean, str(tmp_path / "export"))
    answer = tf.saved_model.load(folder).signatures["serving_default"](image_bytes=tf.constant(files))
    assert answer["classes"].shape == answer["scores"].shape == (3, 2)


def test_the_graph_needs_no_python_and_no_device(folder):
    with open(f"{folder}/saved_model.pb", "rb") as file:
        graph = saved_model_pb2.SavedModel.FromString(file.read())
    functions = graph.meta_graphs[0].graph_def.library.function
    nodes = [node for function in functions for node in function.node_def]
    assert len(nodes) > 100
    assert not [node.name for node in nodes if "PyFunc" in node.op]
    # What reads the weights back runs on the host, which every machine has.
    assert {node.device for node in nodes} <= {"", "/device:CPU:0", "/device:CPU:*"}


def test_versions_count_up_and_nothing_half_written_stays(model, mean, tmp_path, monkeypatch):
    target = tmp_path / "export"
    assert export.save(model, CLASSES, mean, str(target)) == str(target / "1")

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tf.saved_model, "save", fail)
        with pytest.raises(OSError, match="no space"):
            export.save(model, CLASSES, mean, str(target))
    assert [entry.name for entry in target.iterdir()] == ["1"]
    (target / "9").mkdir()
    assert export.save(model, CLASSES, mean, str(target)) == str(target / "10")
