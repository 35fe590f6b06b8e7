"""The command: models and sets that go together or do not, and what it prints and writes."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import config as configs
from keras_alexnet import evaluate, export, flags, rundir
from keras_alexnet.cli import run_command
from keras_alexnet.data import sources
from keras_alexnet.data.decoding import decode_center
from keras_alexnet.serving.signatures import ServedModel
from tests.reference.errors import top_k_credit
from tests.runs import history


def command(*argv):
    return run_command("evaluate", evaluate.main, list(argv))


def evaluated(tmp_path, *argv):
    path = tmp_path / "figures.json"
    assert command(f"--json={path}", *argv) == 0
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def second_run(tiny_run, tmp_path_factory):
    """The same run with other weights."""
    run, folder = rundir.open_run(str(tiny_run)), tmp_path_factory.mktemp("second") / "run"
    model = rundir.build(run)
    for variable in model.trainable_variables:
        variable.assign(variable + np.random.default_rng(1).normal(scale=0.002, size=variable.shape))
    config = flags.read(configs.Config, {**flags.as_text(run.config), "model_dir": str(folder)})
    rundir.create(config, model, run.class_names, run.statistics)
    return folder


@pytest.fixture(scope="module")
def other_export(tiny_run, tmp_path_factory):
    """The same network, exported with other class names."""
    run = rundir.open_run(str(tiny_run))
    served = ServedModel(rundir.build(run), ["x", "y", "z"], run.statistics.mean_image)
    metadata = export.read_metadata(str(tiny_run / "export" / "1"))
    return export.save(served, str(tmp_path_factory.mktemp("other") / "export"), metadata)


def by_hand(folder, images, views):
    """(probabilities, labels) of all validation images, one after the other, by the Keras model."""
    run = rundir.open_run(str(folder))
    model, mean = rundir.build(run), run.statistics.mean_image[16:240, 16:240]
    files = sorted((images / "val").glob("*/*"))
    labels = [run.class_names.index(file.parent.name) for file in files]
    corners = [(16, 16)] if views == 1 else [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]
    found = []
    for image in (decode_center(file.read_bytes()).numpy() for file in files):
        parts = [image[row : row + 224, column : column + 224].astype(np.float32) for row, column in corners]
        parts += [part[:, ::-1] for part in parts] * (views == 10)
        found.append(tf.nn.softmax(model(np.stack(parts) - mean)).numpy().mean(axis=0))
    return np.array(found), np.array(labels)


@pytest.mark.parametrize("views", [1, 10])
def test_errors_are_those_of_the_model_by_hand_and_of_its_export(tiny_run, small_images, views, tmp_path, capsys):
    report = evaluated(tmp_path, f"--model_dir={tiny_run}", f"--views={views}", "--batch_size=40")
    probabilities, labels = by_hand(tiny_run, small_images, views)
    for k in (1, 5):
        error = 100 - 100 * top_k_credit(probabilities, labels, k).mean()
        assert report["result"][f"top{k}_error"] == pytest.approx(error, abs=1e-4)
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    # Images of 256 pixels, so that every view is cut to the pixel.
    assert report["result"]["loss"] == pytest.approx(loss, rel=2e-3)
    assert report["views"] == views and report["set"]["images"] == 9
    shown = capsys.readouterr().out
    assert "9 images of 3 classes" in shown and f"{report['result']['top1_error']:.2f} %" in shown
    assert command(f"--model_dir={tiny_run / 'export' / '1'}", f"--views={views}") == 0
    exported = json.loads((tiny_run / f"evaluation_val_{views}views_version1.json").read_text())
    assert exported["result"] == pytest.approx(report["result"], rel=1e-4)
    assert exported["models"][0]["epochs"] == 3


def test_several_models_are_averaged(tiny_run, second_run, small_images, tmp_path, capsys):
    folders = [f"--model_dir={tiny_run}", f"--model_dir={second_run}"]
    parts = [by_hand(folder, small_images, 1) for folder in (tiny_run, second_run)]
    labels = parts[0][1]
    for weights, expected in (("equal", [0.5, 0.5]), ("1,3", [0.25, 0.75])):
        report = evaluated(tmp_path, *folders, f"--weights={weights}")
        averaged = sum(weight * part for weight, (part, _) in zip(expected, parts, strict=True))
        assert [model["weight"] for model in report["models"]] == pytest.approx(expected)
        assert report["result"]["loss"] == pytest.approx(-np.log(averaged[np.arange(9), labels]).mean(), rel=2e-3)
        for model, (part, _) in zip(report["models"], parts, strict=True):
            assert model["loss"] == pytest.approx(-np.log(part[np.arange(9), labels]).mean(), rel=2e-3)
    assert "average of 2" in capsys.readouterr().out
    report = evaluated(tmp_path, *folders, "--weights=search", "--search_split=train")
    assert (report["weights"]["split"], report["weights"]["images"]) == ("train", 18)
    assert not report["weights"]["same_images"]
    assert "weights searched on folder train (18 images)" in capsys.readouterr().out
    assert sum(model["weight"] for model in report["models"]) == pytest.approx(1)
    evaluated(tmp_path, *folders, "--weights=search")
    assert "weights searched on folder val (9 images, the images that are evaluated)" in capsys.readouterr().out


def test_networks_of_different_inputs_see_the_same_images(tiny_run, small_images, tmp_path):
    """BVLC's takes 227 pixels, the others 224."""
    run = rundir.open_run(str(tiny_run))
    texts = {**flags.as_text(run.config), "variant": "caffe", "model_dir": str(tmp_path / "caffe")}
    config = flags.read(configs.Config, texts)
    rundir.create(config, rundir.build_model(config.network, 3, 1, devices=()), run.class_names, run.statistics)
    folders = [f"--model_dir={tiny_run}", f"--model_dir={tmp_path / 'caffe'}"]
    together = evaluated(tmp_path, *folders)["models"]
    for folder, model in zip(folders, together, strict=True):
        assert model["loss"] == pytest.approx(evaluated(tmp_path, folder)["result"]["loss"], rel=1e-5)


def test_another_set_with_fewer_classes_bad_files_and_all_tables(tiny_run, small_images, tmp_path, capsys):
    other = tmp_path / "other" / "test"
    shutil.copytree(small_images / "val" / "striped_red_disk", other / "striped_red_disk")
    (other / "striped_red_disk" / "bad.jpg").write_bytes(b"not an image")
    (other / "striped_red_disk" / "note.txt").write_bytes(b"not an image either")
    tables = ["--per_class", "--confusions=3", "--calibration"]
    argv = [f"--model_dir={tiny_run}", "--dataset=folder", f"--data_dir={other.parent}", "--split=test"]
    report = evaluated(tmp_path, *argv, *tables)
    assert report["set"]["images"] == 3 and report["set"]["classes"] == 1
    assert sorted(report["set"]["left_out"]) == ["striped_red_disk/bad.jpg", "striped_red_disk/note.txt"]
    assert [row["images"] for row in report["per_class"]] == [0, 0, 3]
    assert sum(row["images"] for row in report["calibration"]["bins"]) == 3
    shown = capsys.readouterr().out
    assert "2 left out: striped_red_disk/note.txt" in shown
    assert all(f"{title}:" in shown for title in ("errors by class", "calibration"))
    whole = evaluated(tmp_path, f"--model_dir={tiny_run}", f"--data_dir={small_images}", *tables)
    assert report["per_class"][2] == whole["per_class"][2]
    wrong = sum(row["images"] for row in whole["confusions"])
    assert 0 < wrong <= 9 * whole["result"]["top1_error"] / 100 + 1e-6
    assert "most frequent confusions:" in capsys.readouterr().out


def test_records_and_sets_of_tensorflow_datasets(tiny_run, small_images, tmp_path, monkeypatch):
    """Which split of which set is opened; the sources themselves are tested in tests/data."""
    train, val = sources.open_folder(str(small_images))
    counts = {"label_counts": (3, 3, 3), "name": "flowers test[:50%]"}
    opened = {"training": (train, dataclasses.replace(val, **counts)), "split": dataclasses.replace(val, **counts)}
    asked = []
    monkeypatch.setattr(sources, "open_training", lambda data: asked.append(data) or opened["training"])
    monkeypatch.setattr(sources, "open_tfds_split", lambda *arguments: asked.append(arguments) or opened["split"])
    argv = [f"--model_dir={tiny_run}", f"--data_dir={tmp_path}"]
    assert evaluated(tmp_path, *argv, "--dataset=records", "--split=train")["set"]["images"] == 18
    assert (asked[-1].dataset, asked[-1].data_dir) == ("records", str(tmp_path))
    report = evaluated(tmp_path, *argv, "--dataset=flowers")
    assert report["set"]["split"] == "test[:50%]" and asked[-1].val_split is None
    assert command(*argv, "--dataset=flowers", "--split=train[:7]") == 0
    assert asked[-1][:3] == ("flowers", str(tmp_path), "train[:7]")
    assert (tiny_run / "evaluation_train-7_1views.json").is_file()


def test_images_that_change_meanwhile_are_noticed(tiny_run, monkeypatch, capsys):
    # The loader reads one file less than the source has.
    items = sources.FolderSource.items
    monkeypatch.setattr(sources.FolderSource, "items", lambda self, *rest: items(self, *rest).skip(1))
    assert command(f"--model_dir={tiny_run}") == 1
    assert "8 images came instead of 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--model_dir={tmp}"], "neither a run (its flags.cfg is missing) nor an exported model"),
        (["--model_dir={run}", "--split=test"], "there is no folder"),
        (["--model_dir={run}", "--dataset=shapes", "--split=all"], "has train and val"),
        (["--model_dir={run}", "--dataset=shapes", "--data_dir={tmp}"], "is not a folder of built-in shapes"),
        (["--model_dir={run}", "--json={tmp}/no/folder.json"], "no/folder.json: cannot be written there"),
        (["--model_dir={run}", "--json={tmp}"], "cannot be written there"),
        (["--model_dir={run}", "--model_dir={other}"], "has other classes than"),
        (["--model_dir={other}", "--dataset=folder", "--data_dir={images}"], "does not know 3 of its classes"),
    ],
)
def test_what_does_not_go_together(argv, words, tiny_run, small_images, other_export, tmp_path, capsys):
    places = {"run": tiny_run, "tmp": tmp_path, "other": other_export, "images": small_images}
    assert command(*(each.format(**places) for each in argv)) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.index"])
def test_an_export_that_was_half_copied(tiny_run, file, share, tmp_path, capsys):
    shutil.copytree(tiny_run / "export" / "1", tmp_path / "1")
    content = (tmp_path / "1" / file).read_bytes()
    (tmp_path / "1" / file).write_bytes(content[: int(share * len(content))])
    assert command(f"--model_dir={tmp_path / '1'}") == 1
    error = capsys.readouterr().err
    assert "cannot be read" in error and error.count("\n") == 1


def test_a_damaged_checkpoint_gives_way_to_a_whole_one(tiny_run, tmp_path, capsys):
    """Which one is tested with tests/test_rundir.py."""
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("export", "logs"))
    newest = run / "checkpoints" / "epoch-3.index"
    newest.write_bytes(newest.read_bytes()[:20])
    report = evaluated(tmp_path, f"--model_dir={run}", "--checkpoint=best")
    row = min(history(run), key=lambda row: float(row["val_top1_error"]))
    assert report["models"][0]["epochs"] == int(row["epoch"])
    assert report["result"]["loss"] == pytest.approx(float(row["val_loss"]), rel=1e-4)
    assert run_command("export", export.main, [f"--model_dir={run}"]) == 0
    shown = capsys.readouterr()
    assert export.read_metadata(shown.out.split()[-1])["epochs"] == 2
    assert "epoch-3: cannot be read" in shown.err and "trying the one before" in shown.err


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"class_names": ["striped_red_disk", "red_square", "blue_disk"], "input_size": -5}, 0, ""),
        ({"class_names": 7}, 2, "was not exported by"),
        ({"epochs": "many"}, 1, "cannot be read"),
        ({"flags": {"flagfile": "/etc/passwd"}}, 2, "'flagfile' is not a flag of a run"),
        ({"flags": {"epochs": "3\n--width=2"}}, 2, "epochs"),
    ],
)
def test_metadata_that_was_changed(tiny_run, changes, code, words, tmp_path, capsys):
    """What decides is the model itself."""
    shutil.copytree(tiny_run / "export" / "1", tmp_path / "1")
    path = tmp_path / "1" / "assets.extra" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    figures = tmp_path / "figures.json"
    assert command(f"--model_dir={tmp_path / '1'}", f"--json={figures}") == code
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == (code > 0)
    if not code:
        found = json.loads(figures.read_text())["result"]["loss"]
        assert found == pytest.approx(float(history(tiny_run)[-1]["val_loss"]), rel=1e-4)
