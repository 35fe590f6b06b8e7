import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import config as configs
from keras_alexnet import evaluate, export, rundir
from keras_alexnet.cli import run_command
from keras_alexnet.data import prepare, sources, statistics
from keras_alexnet.data.decoding import decode_center
from keras_alexnet.data.prepare import Settings
from keras_alexnet.serving.signatures import ServedModel
from tests.conftest import history
from tests.data import test_sources
from tests.reference.errors import top_k_credit


def command(*argv):
    return run_command("evaluate", evaluate.main, list(argv))


def evaluated(tmp_path, *argv):
    path = tmp_path / "figures.json"
    assert command(f"--json={path}", *argv) == 0
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def second_run(run_of_three_epochs, tmp_path_factory):
    """The same run with other weights."""
    folder = tmp_path_factory.mktemp("second") / "run"
    run = rundir.open_run(str(run_of_three_epochs))
    model = rundir.build(run)
    for variable in model.trainable_variables:
        variable.assign(variable + np.random.default_rng(1).normal(scale=0.02, size=variable.shape))
    argv = [f"--{name}={value}" for name, value in run.config.resolved if name != "model_dir"]
    config = configs.parse_train([*argv, f"--model_dir={folder}"], "")
    rundir.create(config, model, run.class_names, run.statistics)
    return folder


def views_of(image, mean, views):
    if views == 1:
        return image[None, 16:240, 16:240].astype(np.float32) - mean
    corners = [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]
    parts = [image[row : row + 224, column : column + 224] for row, column in corners]
    return np.stack([*parts, *(part[:, ::-1] for part in parts)]).astype(np.float32) - mean


def by_hand(folder, pictures, views):
    """(probabilities, labels) of all validation pictures, one after the other, by the Keras model."""
    run = rundir.open_run(str(folder))
    model, mean = rundir.build(run), run.statistics.mean_image[16:240, 16:240]
    files = sorted((pictures / "val").glob("*/*"))
    labels = [run.class_names.index(file.parent.name) for file in files]
    images = [decode_center(file.read_bytes()).numpy() for file in files]
    found = [tf.nn.softmax(model(views_of(image, mean, views))).numpy().mean(axis=0) for image in images]
    return np.array(found), np.array(labels)


@pytest.mark.parametrize("views", [1, 10])
def test_errors_are_those_of_the_model_by_hand(run_of_three_epochs, small_pictures, views, tmp_path, capsys):
    report = evaluated(tmp_path, f"--model_dir={run_of_three_epochs}", f"--views={views}", "--batch_size=40")
    probabilities, labels = by_hand(run_of_three_epochs, small_pictures, views)
    for k in (1, 5):
        error = 100 - 100 * top_k_credit(probabilities, labels, k).mean()
        assert report["result"][f"top{k}_error"] == pytest.approx(error, abs=1e-4)
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    # Pictures of 256 pixels, so that every view is cut to the pixel.
    assert report["result"]["loss"] == pytest.approx(loss, rel=2e-3)
    assert report["views"] == views and report["set"]["images"] == 9
    shown = capsys.readouterr().out
    assert "9 images of 3 classes" in shown and f"{report['result']['top1_error']:.2f} %" in shown


def test_the_center_view_is_what_training_measured(run_of_three_epochs, tmp_path):
    report = evaluated(tmp_path, f"--model_dir={run_of_three_epochs}")
    last = history(run_of_three_epochs)[-1]
    for name, value in report["result"].items():
        assert value == pytest.approx(float(last[f"val_{name}"]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("views", [1, 10])
def test_an_exported_model_gives_what_its_run_gives(run_of_three_epochs, views, tmp_path):
    own, exported = (
        evaluated(tmp_path, f"--model_dir={folder}", f"--views={views}")
        for folder in (run_of_three_epochs, run_of_three_epochs / "export" / "1")
    )
    assert exported["result"] == pytest.approx(own["result"], rel=1e-4)
    assert exported["models"][0]["epochs"] == 3


@pytest.mark.parametrize(("weights", "expected"), [("equal", [0.5, 0.5]), ("1,3", [0.25, 0.75])])
def test_several_models_are_averaged(
    run_of_three_epochs, second_run, small_pictures, weights, expected, tmp_path, capsys
):
    folders = [f"--model_dir={run_of_three_epochs}", f"--model_dir={second_run}"]
    report = evaluated(tmp_path, *folders, f"--weights={weights}")
    parts = [by_hand(folder, small_pictures, 1) for folder in (run_of_three_epochs, second_run)]
    labels = parts[0][1]
    averaged = sum(weight * part for weight, (part, _) in zip(expected, parts, strict=True))
    assert [model["weight"] for model in report["models"]] == pytest.approx(expected)
    assert report["result"]["loss"] == pytest.approx(-np.log(averaged[np.arange(9), labels]).mean(), rel=2e-3)
    for model, (part, _) in zip(report["models"], parts, strict=True):
        assert model["loss"] == pytest.approx(-np.log(part[np.arange(9), labels]).mean(), rel=2e-3)
    assert "average of 2" in capsys.readouterr().out


def test_searched_weights_name_the_set(run_of_three_epochs, second_run, tmp_path, capsys):
    folders = [f"--model_dir={run_of_three_epochs}", f"--model_dir={second_run}"]
    report = evaluated(tmp_path, *folders, "--weights=search", "--search_split=train")
    assert (report["weights"]["split"], report["weights"]["images"]) == ("train", 18)
    assert not report["weights"]["same_images"]
    assert "weights searched on folder train (18 images)" in capsys.readouterr().out
    assert sum(model["weight"] for model in report["models"]) == pytest.approx(1)
    evaluated(tmp_path, *folders, "--weights=search")
    assert "weights searched on folder val (9 images, the images that are evaluated)" in capsys.readouterr().out


def test_what_is_shown_on_request(run_of_three_epochs, tmp_path, capsys):
    report = evaluated(
        tmp_path,
        f"--model_dir={run_of_three_epochs}",
        "--per_class",
        "--confusions=3",
        "--calibration",
        "--split=train",
    )
    assert [row["images"] for row in report["per_class"]] == [6, 6, 6]
    total = sum(row["images"] * row["top1_error"] for row in report["per_class"]) / 18
    assert total == pytest.approx(report["result"]["top1_error"], abs=1e-3)
    assert sum(row["images"] for row in report["calibration"]["bins"]) == 18
    wrong = sum(row["images"] for row in report["confusions"])
    assert wrong <= 18 * report["result"]["top1_error"] / 100 + 1e-6
    shown = capsys.readouterr().out
    assert "errors by class:" in shown and "calibration:" in shown


def test_another_set_with_fewer_classes_in_another_order_and_a_bad_file(
    run_of_three_epochs, small_pictures, tmp_path, capsys
):
    other = tmp_path / "other" / "test"
    shutil.copytree(small_pictures / "val" / "striped_red_disk", other / "striped_red_disk")
    (other / "striped_red_disk" / "bad.jpg").write_bytes(b"no picture")
    (other / "striped_red_disk" / "note.txt").write_bytes(b"no picture either")
    argv = [f"--model_dir={run_of_three_epochs}", "--dataset=folder", f"--data_dir={other.parent}", "--split=test"]
    report = evaluated(tmp_path, *argv, "--per_class")
    assert report["set"]["images"] == 3 and report["set"]["classes"] == 1
    assert sorted(report["set"]["left_out"]) == ["striped_red_disk/bad.jpg", "striped_red_disk/note.txt"]
    assert [row["images"] for row in report["per_class"]] == [0, 0, 3]
    whole = evaluated(tmp_path, f"--model_dir={run_of_three_epochs}", "--per_class")
    assert report["per_class"][2] == whole["per_class"][2]
    assert "2 left out: striped_red_disk/note.txt" in capsys.readouterr().out


def test_where_the_figures_are_written(run_of_three_epochs, second_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(f"--model_dir={run_of_three_epochs}", "--views=10") == 0
    assert (run_of_three_epochs / "evaluation_val_10views.json").is_file()
    assert command(f"--model_dir={run_of_three_epochs / 'export' / '1'}", f"--model_dir={second_run}") == 0
    assert (run_of_three_epochs / "evaluation_val_1views_version1_2models.json").is_file()
    shutil.copytree(run_of_three_epochs / "export" / "1", tmp_path / "models" / "7")
    assert command(f"--model_dir={tmp_path / 'models' / '7'}") == 0
    assert (tmp_path / "evaluation_val_1views_version7.json").is_file()


def test_images_that_change_meanwhile_are_not_passed_over(run_of_three_epochs, small_pictures, monkeypatch, capsys):
    from keras_alexnet.data.sources import FolderSource

    # The loader reads one file less than the source has.
    items = FolderSource.items
    monkeypatch.setattr(FolderSource, "items", lambda self, *rest: items(self, *rest).skip(1))
    assert command(f"--model_dir={run_of_three_epochs}") == 1
    assert "8 images came instead of 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ([], 2, "--model_dir is missing"),
        (["--model_dir={tmp}"], 2, "is neither a run (no flags.cfg) nor an exported model (no saved_model.pb)"),
        (["--model_dir={run}", "--views=5"], 2, "views"),
        (["--model_dir={run}", "--weights=0.5,0.5"], 2, "2 numbers for 1 --model_dir"),
        (["--model_dir={run}", "--weights=heavy"], 2, "--weights=heavy: give equal, search, or numbers"),
        (["--model_dir={run}", "--weights=-1"], 2, "--weights=-1"),
        (["--model_dir={run}", "--split=test"], 2, "there is no folder"),
        (["--model_dir={run}", "--dataset=shapes", "--split=all"], 2, "has train and val"),
        (["--model_dir={run}", "--dataset=shapes", "--data_dir={tmp}"], 2, "holds no built-in shapes"),
        (["--model_dir={run}", "--model_dir={run}", "--weights=1e308,1e308"], 2, "--weights=1e308,1e308"),
        (["--model_dir={run}", "--weights=search"], 2, "needs several --model_dir"),
        (["--model_dir={run}", "--dataset=folder"], 2, "--data_dir is missing"),
        (["--model_dir={run}", "--search_split=train"], 2, "is only read with --weights=search"),
        (["--model_dir={run}", "--json={tmp}/no/folder.json"], 2, "no/folder.json: cannot be written there"),
        (["--model_dir={run}", "--json={tmp}"], 2, "cannot be written there"),
        (["--model_dir={run}", "--model_dir={other}"], 2, "has other classes than"),
        (["--model_dir={other}", "--dataset=folder", "--data_dir={pictures}"], 2, "does not know 3 of its classes"),
    ],
)
def test_bad_input_in_one_line(
    argv, code, words, run_of_three_epochs, small_pictures, folder, tmp_path, capsys, other_export
):
    places = {"run": run_of_three_epochs, "tmp": tmp_path, "other": other_export, "pictures": small_pictures}
    assert command(*(each.format(**places) for each in argv)) == code
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.fixture(scope="module")
def other_export(run_of_three_epochs, tmp_path_factory):
    """The same network, exported with other class names."""
    run = rundir.open_run(str(run_of_three_epochs))
    served = ServedModel(rundir.build(run), ["x", "y", "z"], run.statistics.mean_image)
    metadata = export.read_metadata(str(run_of_three_epochs / "export" / "1"))
    return export.save(served, str(tmp_path_factory.mktemp("other") / "export"), metadata)


@pytest.mark.parametrize(
    "file", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
)
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_an_export_that_was_half_copied(run_of_three_epochs, file, share, tmp_path, capsys):
    shutil.copytree(run_of_three_epochs / "export" / "1", tmp_path / "1")
    content = (tmp_path / "1" / file).read_bytes()
    (tmp_path / "1" / file).write_bytes(content[: int(share * len(content))])
    assert command(f"--model_dir={tmp_path / '1'}") == 1
    error = capsys.readouterr().err
    assert "cannot be read" in error and error.count("\n") == 1


@pytest.mark.parametrize("file", ["epoch-3.index", "epoch-3.data-00000-of-00001"])
def test_a_checkpoint_that_was_half_copied(run_of_three_epochs, file, tmp_path, capsys):
    shutil.copytree(run_of_three_epochs, tmp_path / "run")
    content = (tmp_path / "run" / "checkpoints" / file).read_bytes()
    (tmp_path / "run" / "checkpoints" / file).write_bytes(content[: len(content) // 2])
    for main in (evaluate.main, export.main):
        assert run_command("command", main, [f"--model_dir={tmp_path / 'run'}"]) == 1
        error = capsys.readouterr().err
        assert "epoch-3: cannot be read" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        (
            {"class_names": ["striped_red_disk", "red_square", "blue_disk"]},
            0,
            "",
        ),  # the model's own names are what counts
        ({"input_size": -5}, 0, ""),
        ({"class_names": 7}, 2, "was not exported by"),
        ({"epochs": "many"}, 1, "cannot be read"),
        ({"flags": {"flagfile": "/etc/passwd"}}, 2, "'flagfile' is no flag of a run"),
        ({"flags": {"epochs": 3}}, 2, "'epochs' is no flag of a run"),
        ({"flags": {"epochs": "3\n--width=2"}}, 2, "epochs"),
    ],
)
def test_metadata_that_was_changed(run_of_three_epochs, changes, code, words, tmp_path, capsys):
    shutil.copytree(run_of_three_epochs / "export" / "1", tmp_path / "1")
    path = tmp_path / "1" / "assets.extra" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    figures = tmp_path / "figures.json"
    assert command(f"--model_dir={tmp_path / '1'}", f"--json={figures}") == code
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == (code > 0) and "root:" not in error
    if not code:
        whole = evaluated(tmp_path, f"--model_dir={run_of_three_epochs}")
        assert json.loads(figures.read_text())["result"] == pytest.approx(whole["result"], rel=1e-4)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("class_names.txt", "", "one name a line, and no name twice"),
        ("class_names.txt", "a\n\nb\n", "one name a line, and no name twice"),
        ("class_names.txt", "a\nb\na\n", "one name a line, and no name twice"),
        ("class_names.txt", "a\nb\nc\nd\n", "cannot be read"),
        ("flags.cfg", "--model_dir=x\n--width=0.37\n", "cannot be read"),
        ("flags.cfg", "--model_dir=x\n--towers=1\n--width=0.125\n", "cannot be read"),
    ],
)
def test_a_run_whose_files_do_not_go_together(run_of_three_epochs, file, content, words, tmp_path, capsys):
    shutil.copytree(run_of_three_epochs, tmp_path / "run")
    (tmp_path / "run" / file).write_text(content)
    assert command(f"--model_dir={tmp_path / 'run'}") == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_mean_that_is_not_a_number(run_of_three_epochs, tmp_path, capsys):
    shutil.copytree(run_of_three_epochs, tmp_path / "run")
    path = str(tmp_path / "run" / "statistics.npz")
    known = statistics.load(path)
    statistics.save(dataclasses.replace(known, mean_image=known.mean_image * np.float32("nan")), path)
    assert command(f"--model_dir={tmp_path / 'run'}") == 1
    assert "statistics with numbers that are not finite" in capsys.readouterr().err


def test_networks_of_different_inputs_look_at_the_same_images(run_of_three_epochs, small_pictures, tmp_path):
    """BVLC's takes 227 pixels, the others 224."""
    argv = ["--dataset=folder", f"--data_dir={small_pictures}", "--variant=caffe", "--width=0.0625"]
    config = configs.parse_train([*argv, f"--model_dir={tmp_path / 'caffe'}"], "")
    run = rundir.open_run(str(run_of_three_epochs))
    model = rundir.build_model(config.network, 3, 1, devices=())
    rundir.create(config, model, run.class_names, run.statistics)
    folders = [f"--model_dir={run_of_three_epochs}", f"--model_dir={tmp_path / 'caffe'}"]
    for views in (1, 10):
        report = evaluated(tmp_path, *folders, f"--views={views}")
        alone = [evaluated(tmp_path, folder, f"--views={views}") for folder in folders]
        for together, single in zip(report["models"], alone, strict=True):
            assert together["loss"] == pytest.approx(single["result"]["loss"], rel=1e-5)


def test_a_set_of_tensorflow_datasets(run_of_three_epochs, tmp_path):
    data_dir, files = tmp_path / "tfds", tmp_path / "files"
    data_dir.mkdir()
    files.mkdir()
    test_sources.prepare("tiny_validated", data_dir, files)
    run = rundir.open_run(str(run_of_three_epochs))
    argv = ["--dataset=tiny_validated", f"--data_dir={data_dir}", "--variant=release2012", "--width=0.0625"]
    config = configs.parse_train([*argv, f"--model_dir={tmp_path / 'run'}"], "")
    rundir.create(config, rundir.build(run), test_sources.CLASSES, run.statistics)
    counts = {
        split: evaluated(tmp_path, f"--model_dir={tmp_path / 'run'}", f"--split={split}") for split in ("", "test")
    }
    assert [(each["set"]["split"], each["set"]["images"]) for each in counts.values()] == [
        ("validation", 5),
        ("test", 4),
    ]
    assert command(f"--model_dir={tmp_path / 'run'}", "--split=train[:7]") == 0
    assert (tmp_path / "run" / "evaluation_train-7_1views.json").is_file()


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_prepared_records(run_of_three_epochs, small_pictures, encoding, tmp_path):
    train, val = sources.open_folder(str(small_pictures))
    settings = Settings(encoding=encoding, quality=100, shard_images=4)
    prepare.prepare(train, val, str(tmp_path / "records"), settings)
    argv = [f"--model_dir={run_of_three_epochs}", "--dataset=records", f"--data_dir={tmp_path / 'records'}"]
    report = evaluated(tmp_path, *argv)
    assert report["set"]["images"] == 9
    # JPEGs are encoded again; pixels are as they were.
    whole = evaluated(tmp_path, f"--model_dir={run_of_three_epochs}")
    assert report["result"]["loss"] == pytest.approx(whole["result"]["loss"], rel=0.02 if encoding == "jpeg" else 1e-4)
    assert evaluated(tmp_path, *argv, "--split=train")["set"]["images"] == 18
