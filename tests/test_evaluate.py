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
def other_run(tiny_run, tmp_path_factory):
    """A network of the same classes, of another seed, whose input has 227 pixels instead of 224."""
    run, folder = rundir.open_run(str(tiny_run)), tmp_path_factory.mktemp("other") / "run"
    texts = {**flags.as_text(run.config), "variant": "caffe", "model_dir": str(folder)}
    config = flags.read(configs.Config, texts)
    rundir.create(config, rundir.build_model(config.network, 3, 1, devices=()), run.class_names, run.statistics)
    return folder


@pytest.fixture(scope="module")
def other_classes(tiny_run, tmp_path_factory):
    """The same network, exported with other class names."""
    run = rundir.open_run(str(tiny_run))
    served = ServedModel(rundir.build(run), ["x", "y", "z"], run.statistics.mean_image)
    metadata = export.read_metadata(str(tiny_run / "export" / "1"))
    return export.save(served, str(tmp_path_factory.mktemp("other") / "export"), metadata)


def by_hand(folder, images, views=1):
    """(probabilities, labels) of all validation images, one after the other, by the Keras model."""
    run = rundir.open_run(str(folder))
    model = rundir.build(run)
    size = model.input_shape[1]
    middle, last = (256 - size) // 2, 256 - size
    mean = run.statistics.mean_image[middle : middle + size, middle : middle + size]
    places = [(middle, middle), *([(0, 0), (0, last), (last, 0), (last, last)] if views == 10 else [])]
    files, found = sorted((images / "val").glob("*/*")), []
    for image in (decode_center(file.read_bytes()).numpy() for file in files):
        parts = [image[row : row + size, column : column + size].astype(np.float32) for row, column in places]
        parts += [part[:, ::-1] for part in parts] * (views == 10)
        found.append(tf.nn.softmax(model(np.stack(parts) - mean)).numpy().mean(axis=0))
    return np.array(found), np.array([run.class_names.index(file.parent.name) for file in files])


@pytest.mark.parametrize("views", [1, 10])
def test_errors_are_those_of_the_model_by_hand_and_of_its_export(tiny_run, small_images, views, tmp_path, capsys):
    report = evaluated(tmp_path, f"--model_dir={tiny_run}", f"--views={views}", "--batch_size=40")
    probabilities, labels = by_hand(tiny_run, small_images, views)
    for k in (1, 5):
        error = 100 - 100 * top_k_credit(probabilities, labels, k).mean()
        assert report["result"][f"top{k}_error"] == pytest.approx(error, abs=1e-4)
    # Decoded whole and in parts, images may differ by a grey level.
    assert report["result"]["loss"] == pytest.approx(-np.log(probabilities[np.arange(9), labels]).mean(), rel=2e-3)
    assert report["views"] == views and report["set"]["images"] == 9
    shown = capsys.readouterr().out
    assert "9 images of 3 classes" in shown and f"{report['result']['top1_error']:.2f} %" in shown
    assert command(f"--model_dir={tiny_run / 'export' / '1'}", f"--views={views}") == 0
    exported = json.loads((tiny_run / f"evaluation_val_{views}views_version1.json").read_text())
    assert exported["result"] == pytest.approx(report["result"], rel=1e-4)
    assert exported["models"][0]["epochs"] == 3


def test_several_models_are_averaged(tiny_run, other_run, small_images, tmp_path, capsys):
    folders = [f"--model_dir={tiny_run}", f"--model_dir={other_run}"]
    parts, labels = zip(*(by_hand(folder, small_images) for folder in (tiny_run, other_run)), strict=True)
    right = np.arange(9), labels[0]
    for weights, expected in (("equal", [0.5, 0.5]), ("1,3", [0.25, 0.75])):
        report = evaluated(tmp_path, *folders, f"--weights={weights}")
        assert [model["weight"] for model in report["models"]] == pytest.approx(expected)
        averaged = sum(weight * part for weight, part in zip(expected, parts, strict=True))
        for result, part in zip([report["result"], *report["models"]], [averaged, *parts], strict=True):
            assert result["loss"] == pytest.approx(-np.log(part[right]).mean(), rel=2e-3)
    assert "average of 2" in capsys.readouterr().out
    report = evaluated(tmp_path, *folders, "--weights=search", "--search_split=train")
    assert (report["weights"]["split"], report["weights"]["images"]) == ("train", 18)
    assert "weights searched on folder train (18 images)" in capsys.readouterr().out
    assert sum(model["weight"] for model in report["models"]) == pytest.approx(1)
    evaluated(tmp_path, *folders, "--weights=search")
    assert "weights searched on folder val (9 images, the images that are evaluated)" in capsys.readouterr().out


def test_another_set_with_fewer_classes_bad_files_and_all_tables(tiny_run, small_images, tmp_path, capsys):
    other = tmp_path / "other" / "test" / "striped_red_disk"
    shutil.copytree(small_images / "val" / "striped_red_disk", other)
    (other / "bad.jpg").write_bytes(b"not an image")
    (other / "note.txt").write_bytes(b"not an image either")
    tables = [f"--model_dir={tiny_run}", "--per_class", "--confusions=3", "--calibration"]
    own = ["--dataset=folder", f"--data_dir={tmp_path / 'other'}", "--split=test"]
    report = evaluated(tmp_path, *tables, *own)
    assert report["set"]["images"] == 3 and report["set"]["classes"] == 1
    assert sorted(report["set"]["left_out"]) == ["striped_red_disk/bad.jpg", "striped_red_disk/note.txt"]
    assert [row["images"] for row in report["per_class"]] == [0, 0, 3]
    assert sum(row["images"] for row in report["calibration"]["bins"]) == 3
    whole = evaluated(tmp_path, *tables, f"--data_dir={small_images}")
    assert report["per_class"][2] == whole["per_class"][2]
    wrong = sum(row["images"] for row in whole["confusions"])
    assert 0 < wrong <= 9 * whole["result"]["top1_error"] / 100 + 1e-6
    shown = capsys.readouterr().out
    assert "2 left out: striped_red_disk/note.txt" in shown
    assert all(f"{title}:" in shown for title in ("errors by class", "calibration", "most frequent confusions"))


def test_records_and_sets_of_tensorflow_datasets(tiny_run, small_images, tmp_path, monkeypatch):
    """Which split of which set is opened; the sources themselves are tested in tests/data."""
    train, val = sources.open_folder(str(small_images))
    val = dataclasses.replace(val, label_counts=(3, 3, 3), name="flowers test[:50%]")
    asked = []
    monkeypatch.setattr(sources, "open_training", lambda data: asked.append(data) or (train, val))
    monkeypatch.setattr(sources, "open_tfds_split", lambda *arguments: asked.append(arguments) or val)
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
        (["--model_dir={run}", "--json={tmp}"], "cannot be written there"),
        (["--model_dir={run}", "--model_dir={other}"], "has other classes than"),
        (["--model_dir={other}", "--dataset=folder", "--data_dir={images}"], "does not know 3 of its classes"),
        ([], "--model_dir is missing"),
        (["--model_dir={run}", "--weights=1,2"], "--weights=1,2: has 2 numbers for 1 --model_dir"),
        *(
            (["--model_dir={run}", "--model_dir={run}", f"--weights={each}"], "must be equal, search, or numbers")
            for each in ("heavy", "-1,2", "nan,1", "0,0", "1e308,1e308")
        ),
        (["--model_dir={run}", "--weights=search"], "needs several --model_dir"),
        (["--model_dir={run}", "--search_split=train"], "goes with --weights=search"),
        (["--model_dir={run}", "--dataset=folder"], "--data_dir is missing"),
    ],
)
def test_what_does_not_go_together(argv, words, tiny_run, small_images, other_classes, tmp_path, capsys):
    places = {"run": tiny_run, "tmp": tmp_path, "other": other_classes, "images": small_images}
    assert command(*(each.format(**places) for each in argv)) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.index"])
def test_an_export_that_was_half_copied(tiny_run, file, share, tmp_path, capsys):
    folder = shutil.copytree(tiny_run / "export" / "1", tmp_path / "1")
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: int(share * len(content))])
    assert command(f"--model_dir={folder}") == 1
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
        ({"class_names": ["a", "b", "c"], "input_size": -5}, 0, "all figures"),  # what decides is the model itself
        ({"class_names": 7}, 2, "was not exported by"),
        ({"epochs": "many"}, 1, "cannot be read"),
        ({"flags": {"flagfile": "/etc/passwd"}}, 2, "'flagfile' is not a flag of a run"),
        ({"flags": {"epochs": "3\n--width=2"}}, 2, "epochs"),
    ],
)
def test_metadata_that_was_changed(tiny_run, changes, code, words, tmp_path, capsys):
    path = shutil.copytree(tiny_run / "export" / "1", tmp_path / "1") / "assets.extra" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert command(f"--model_dir={tmp_path / '1'}", f"--json={tmp_path / 'figures.json'}") == code
    shown = capsys.readouterr()
    assert words in shown.out + shown.err and shown.err.count("\n") == (code > 0)
