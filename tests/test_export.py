import json
import math
import os

import pytest
import tensorflow as tf

from keras_alexnet import __version__, export
from keras_alexnet.cli import run_command
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.serving.signatures import ServedModel
from tests.conftest import CLASSES, history

METADATA = {"class_names": CLASSES, "flags": {}}


@pytest.fixture
def served(tiny_model, mean_image):
    return ServedModel(tiny_model, CLASSES, mean_image)


def test_versions_count_up_and_nothing_half_written_stays(served, tmp_path, monkeypatch):
    target = tmp_path / "export"
    assert export.save(served, str(target), METADATA) == str(target / "1")

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    for module, name in ((tf.saved_model, "save"), (json, "dump")):  # before and after most of it is written
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            with pytest.raises(OSError, match="no space"):
                export.save(served, str(target), METADATA)
        assert [entry.name for entry in target.iterdir()] == ["1"]
    (target / "9").mkdir()
    (target / "10").mkdir()
    assert export.save(served, str(target), METADATA) == str(target / "11")


def test_a_version_holds_what_tf_serving_looks_for(folder):
    assert {"saved_model.pb", "variables", "assets.extra"} <= set(os.listdir(folder))
    assert set(os.listdir(os.path.join(folder, "assets.extra"))) == {"metadata.json", "tf_serving_warmup_requests"}
    assert export.read_metadata(folder) == METADATA


def test_the_metadata_of_a_run(run_of_three_epochs):
    metadata = export.read_metadata(str(run_of_three_epochs / "export" / "1"))
    assert metadata["keras_alexnet"] == __version__ and metadata["tensorflow"] == tf.__version__
    assert metadata["class_names"] == ["blue_disk", "red_square", "striped_red_disk"]
    assert metadata["flags"]["variant"] == "release2012" and metadata["flags"]["epochs"] == "3"
    assert metadata["training_set"]["images"] == 18 and metadata["training_set"]["label_counts"] == [6, 6, 6]
    last = history(run_of_three_epochs)[-1]
    (measured,) = metadata["measured"]
    assert measured["set"] == "folder validation" and measured["views"] == 1 and measured["epoch"] == 3
    assert measured["top1_error"] == pytest.approx(float(last["val_top1_error"]))
    assert (metadata["views"], metadata["input_size"], metadata["epochs"]) == (1, 224, 3)


def test_ten_views_are_exported_by_a_flag(run_of_three_epochs, small_pictures, capsys):
    assert run_command("export", export.main, [f"--model_dir={run_of_three_epochs}", "--views=10"]) == 0
    folder = capsys.readouterr().out.split()[-1]
    assert export.read_metadata(folder)["views"] == 10
    picture = (small_pictures / "val" / "blue_disk" / "0.jpg").read_bytes()
    one, ten = (
        tf.saved_model.load(each).signatures["serving_default"](image_bytes=tf.constant([picture]))
        for each in (str(run_of_three_epochs / "export" / "1"), folder)
    )
    assert abs(one["probabilities"] - ten["probabilities"]).numpy().max() > 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "was not exported by"),
        ("no JSON", "was not exported by"),
        ('{"class_names": 5, "flags": {}}', "other kinds"),
    ],
)
def test_an_export_of_somebody_else(tmp_path, content, words):
    with pytest.raises(UsageError, match="is no exported model"):
        export.read_metadata(str(tmp_path))
    (tmp_path / "saved_model.pb").touch()
    (tmp_path / "assets.extra").mkdir()
    if content is not None:
        (tmp_path / "assets.extra" / "metadata.json").write_text(content)
    with pytest.raises(UsageError, match=words):
        export.read_metadata(str(tmp_path))


def test_a_run_without_a_checkpoint(run_of_three_epochs, tmp_path, capsys):
    for name in ("flags.cfg", "class_names.txt", "statistics.npz"):
        (tmp_path / name).write_bytes((run_of_three_epochs / name).read_bytes())
    assert run_command("export", export.main, [f"--model_dir={tmp_path}"]) == 1
    assert "has no checkpoint yet" in capsys.readouterr().err
    with pytest.raises(RunError, match="has no checkpoint yet"):
        export.export_run(str(tmp_path))
    assert run_command("export", export.main, [f"--model_dir={tmp_path / 'nowhere'}"]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_weights_are_stored_once(folder, tiny_model):
    reader = tf.train.load_checkpoint(os.path.join(folder, "variables", "variables"))
    shapes = reader.get_variable_to_shape_map()
    numbers = sum(math.prod(shape) for name, shape in shapes.items() if name != "_CHECKPOINTABLE_OBJECT_GRAPH")
    assert numbers == tiny_model.count_params()
