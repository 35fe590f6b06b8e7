import json
import math
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import __version__, export, predict, rundir
from keras_alexnet.data import shapes
from tests.conftest import CLASSES
from tests.runs import call, history, refusal


def test_versions_count_up_and_nothing_half_written_stays(tiny_run, tmp_path, monkeypatch):
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("export", "logs"))
    (run / "export" / ".writing-1-ab" / "variables").mkdir(parents=True)  # left by a killed export

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    for module, name in ((tf.saved_model, "save"), (json, "dump")):  # before and after most of it is written
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            assert "no space left on device" in refusal(export, f"--model_dir={run}", code=1)
        assert list((run / "export").iterdir()) == []
    for version in ("9", "10"):
        (run / "export" / version).mkdir()
    folder = run / "export" / "11"
    assert call(export, f"--model_dir={run}", "--views=10") == (0, f"exported to {folder}\n", "")
    assert export.read_metadata(str(folder))["views"] == 10


def test_a_version_holds_what_tf_serving_looks_for(folder, tiny_model):
    assert {"saved_model.pb", "variables", "assets.extra"} <= set(os.listdir(folder))
    assert set(os.listdir(os.path.join(folder, "assets.extra"))) == {"metadata.json", "tf_serving_warmup_requests"}
    assert export.read_metadata(folder) == {"class_names": CLASSES, "flags": {}}
    # Weights are stored once.
    sizes = tf.train.load_checkpoint(os.path.join(folder, "variables", "variables")).get_variable_to_shape_map()
    numbers = sum(math.prod(shape) for name, shape in sizes.items() if name != "_CHECKPOINTABLE_OBJECT_GRAPH")
    assert numbers == tiny_model.count_params()


def test_the_metadata_of_a_run(tiny_run):
    metadata = export.read_metadata(str(tiny_run / "export" / "1"))
    names = ("keras_alexnet", "tensorflow", "views", "input_size", "epochs")
    assert [metadata[name] for name in names] == [__version__, tf.__version__, 1, 224, 3]
    assert metadata["class_names"] == ["blue_disk", "red_square", "striped_red_disk"]
    assert metadata["flags"]["variant"] == "release2012" and metadata["flags"]["epochs"] == "3"
    assert metadata["training_set"]["images"] == 18 and metadata["training_set"]["label_counts"] == [6, 6, 6]
    (measured,) = metadata["measured"]
    assert (measured["set"], measured["views"], measured["epoch"]) == ("folder validation", 1, 3)
    assert measured["top1_error"] == pytest.approx(float(history(tiny_run)[-1]["val_top1_error"]))


def test_a_run_to_give_away_is_half_as_large_and_says_nothing_of_the_machine(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "first", ignore=shutil.ignore_patterns("export", "logs"))
    flags = (run / "flags.cfg").read_text()
    for name, path in (("initial_weights", "start"), ("statistics", "some.npz")):
        flags = flags.replace(f"--{name}=", f"--{name}={tmp_path / path}")
    (run / "flags.cfg").write_text(flags)
    folder = run / "run" / "1"
    assert call(export, f"--model_dir={run}", "--format=run")[:2] == (0, f"exported to {folder}\n")
    whole, half = rundir.open_run(str(run)), rundir.open_run(str(folder))
    for name, value in whole.weights.items():
        np.testing.assert_array_equal(half.weights[name], value.astype(np.float16).astype(np.float32))
    assert [row["val_loss"] for row in half.history] == [row["val_loss"] for row in whole.history]
    contents = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert b"# AlexNet on " in contents["README.md"]
    # Nothing of the machine, and nothing of the time: a second one is the same to the bit.
    assert [name for name, content in contents.items() if str(tmp_path).encode() in content] == []
    call(export, f"--model_dir={run}", "--format=run")
    again = {path.name: path.read_bytes() for path in (run / "run" / "2").rglob("*") if path.is_file()}
    assert again == contents
    assert max(map(len, contents.values())) < 2.1 * sum(value.size for value in whole.weights.values()) + 8e5
    # It answers as the run does.
    image = tmp_path / "image.png"
    shapes.draw(shapes.CLASS_NAMES[0], 0).save(image)
    answers = [
        call(predict, f"--model={each}", "--format=jsonl", image)[1] for each in (folder, run / "run" / "2", run)
    ]
    classes = [json.loads(answer)["classes"] for answer in answers]
    assert answers[0] == answers[1] and classes[0] == classes[2]


def test_what_is_not_a_run(tmp_path):
    assert "--model_dir is missing" in refusal(export)
    assert "is not a run" in refusal(export, f"--model_dir={tmp_path}")
