import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import config as configs, evaluate, export, flags, rundir
from keras_alexnet.data import records, sources
from keras_alexnet.data.decoding import decode_center
from keras_alexnet.model.weights import named
from keras_alexnet.serving.signatures import ServedModel
from tests.reference.errors import top_k_credit
from tests.runs import call, refusal


def evaluated(tmp_path, *argv):
    path = tmp_path / "figures.json"
    code, shown, _ = call(evaluate, f"--json={path}", *argv)
    assert code == 0
    return json.loads(path.read_text()), shown


@pytest.fixture(scope="module")
def other_run(tiny_run, tmp_path_factory):
    """A network of the same classes, of another seed, whose input has 227 pixels instead of 224."""
    run, folder = rundir.open_run(str(tiny_run)), tmp_path_factory.mktemp("other") / "run"
    texts = {**flags.as_text(run.config), "variant": "caffe", "model_dir": str(folder)}
    config = flags.read(configs.Config, texts)
    rundir.create(config, named(rundir.build_model(config.network, 3, 1, ())), run.class_names, run.statistics)
    return folder


@pytest.fixture(scope="module")
def other_classes(tiny_run, tmp_path_factory):
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
def test_errors_are_those_of_the_model_by_hand_and_of_its_export(tiny_run, small_images, views, tmp_path):
    report, shown = evaluated(tmp_path, f"--model_dir={tiny_run}", f"--views={views}", "--batch_size=40")
    probabilities, labels = by_hand(tiny_run, small_images, views)
    for k in (1, 5):
        error = 100 - 100 * top_k_credit(probabilities, labels, k).mean()
        assert report["result"][f"top{k}_error"] == pytest.approx(error, abs=1e-4)
    # Decoded whole and in parts, images may differ by a grey level.
    assert report["result"]["loss"] == pytest.approx(-np.log(probabilities[np.arange(9), labels]).mean(), rel=2e-3)
    assert report["views"] == views and report["set"]["images"] == 9
    assert "9 images of 3 classes" in shown and f"{report['result']['top1_error']:.2f} %" in shown
    assert call(evaluate, f"--model_dir={tiny_run / 'export' / '1'}", f"--views={views}")[0] == 0
    exported = json.loads((tiny_run / f"evaluation_val_{views}views_version1.json").read_text())
    assert exported["result"] == pytest.approx(report["result"], rel=1e-4)
    assert exported["models"][0]["epochs"] == 3


def test_several_models_are_averaged(tiny_run, other_run, small_images, tmp_path):
    folders = [f"--model_dir={tiny_run}", f"--model_dir={other_run}"]
    parts, labels = zip(*(by_hand(folder, small_images) for folder in (tiny_run, other_run)), strict=True)
    right = np.arange(9), labels[0]
    for weights, expected in (("equal", [0.5, 0.5]), ("1,3", [0.25, 0.75])):
        report, shown = evaluated(tmp_path, *folders, f"--weights={weights}")
        assert [model["weight"] for model in report["models"]] == pytest.approx(expected)
        averaged = sum(weight * part for weight, part in zip(expected, parts, strict=True))
        for result, part in zip([report["result"], *report["models"]], [averaged, *parts], strict=True):
            assert result["loss"] == pytest.approx(-np.log(part[right]).mean(), rel=2e-3)
        assert "average of 2" in shown
    report, shown = evaluated(tmp_path, *folders, "--weights=search", "--search_split=train")
    assert (report["weights"]["split"], report["weights"]["images"]) == ("train", 18)
    assert "weights searched on folder train (18 images)" in shown
    assert sum(model["weight"] for model in report["models"]) == pytest.approx(1)
    _, shown = evaluated(tmp_path, *folders, "--weights=search")
    assert "weights searched on folder val (9 images, the images that are evaluated)" in shown
    shutil.copytree(small_images / "val", tmp_path / "other" / "test")  # which is val too
    given = [f"--data_dir={tmp_path / 'other'}", "--split=test", "--search_split=val", "--weights=search"]
    assert evaluated(tmp_path, *folders, *given)[0]["weights"]["same_images"]


def test_another_set_with_fewer_classes_bad_files_and_all_tables(tiny_run, small_images, tmp_path):
    other = tmp_path / "other" / "test" / "striped_red_disk"
    shutil.copytree(small_images / "val" / "striped_red_disk", other)
    for name in ("bad.jpg", "note.txt"):
        (other / name).write_bytes(b"not an image")
    tables = [f"--model_dir={tiny_run}", "--per_class", "--confusions=3", "--calibration"]
    own = ["--dataset=folder", f"--data_dir={tmp_path / 'other'}", "--split=test"]
    report, shown = evaluated(tmp_path, *tables, *own)
    assert (report["set"]["images"], report["set"]["classes"]) == (3, 1)
    assert sorted(report["set"]["left_out"]) == ["striped_red_disk/bad.jpg", "striped_red_disk/note.txt"]
    assert [row["images"] for row in report["per_class"]] == [0, 0, 3]
    assert sum(row["images"] for row in report["calibration"]["bins"]) == 3
    assert "2 left out: striped_red_disk/note.txt" in shown
    whole, shown = evaluated(tmp_path, *tables, f"--data_dir={small_images}")
    assert report["per_class"][2] == whole["per_class"][2]
    assert all(f"{title}:" in shown for title in ("errors by class", "calibration", "most frequent confusions"))


def test_records_and_sets_of_tensorflow_datasets(tiny_run, small_images, tmp_path, monkeypatch):
    train, val = sources.open_folder(str(small_images))
    val = dataclasses.replace(val, label_counts=(3, 3, 3), name="flowers test[:50%]")
    asked = []
    monkeypatch.setattr(sources, "open_training", lambda data: asked.append(data) or (train, val))
    monkeypatch.setattr(records, "open_tfds_split", lambda *arguments: asked.append(arguments) or val)
    argv = [f"--model_dir={tiny_run}", f"--data_dir={tmp_path}"]
    assert evaluated(tmp_path, *argv, "--dataset=records", "--split=train")[0]["set"]["images"] == 18
    assert (asked[-1].dataset, asked[-1].data_dir) == ("records", str(tmp_path))
    assert evaluated(tmp_path, *argv, "--dataset=flowers")[0]["set"]["split"] == "test[:50%]"
    assert asked[-1][:3] == ("flowers", str(tmp_path), None)
    assert call(evaluate, *argv, "--dataset=flowers", "--split=train[:7]")[0] == 0
    assert asked[-1][:3] == ("flowers", str(tmp_path), "train[:7]")
    assert (tiny_run / "evaluation_train-7_1views.json").is_file()


def test_images_that_change_meanwhile_are_noticed(tiny_run, monkeypatch):
    items = sources.FolderSource.items
    monkeypatch.setattr(sources.FolderSource, "items", lambda self, **given: items(self, **given).skip(1))
    assert "8 images were read instead of 9" in refusal(evaluate, f"--model_dir={tiny_run}", code=1)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "--model_dir is missing"),
        ("--model_dir={tmp}", "is neither a run (no flags.cfg) nor an exported model (no saved_model.pb)"),
        ("--model_dir={tmp}/a[1]", "must not contain [ ] * ? or \\"),
        ("--model_dir={run} --split=test", "/test is missing; it holds one folder per class"),
        ("--model_dir={run} --dataset=folder", "--data_dir is missing"),
        ("--model_dir={run} --dataset=shapes --split=all", "has train and val"),
        ("--model_dir={run} --dataset=shapes --data_dir={tmp}", "is not a folder of built-in shapes"),
        ("--model_dir={run} --json={tmp}", "cannot be written; name a file"),
        ("--model_dir={run} --model_dir={other}", "has other classes than"),
        ("--model_dir={other} --dataset=folder --data_dir={images}", "does not know 3 classes of the set"),
        ("--model_dir={run} --weights=search", "needs several --model_dir"),
        ("--model_dir={run} --search_split=train", "needs --weights=search"),
        ("--model_dir={run} --weights=1,2", "--weights=1,2: has 2 numbers for 1 --model_dir"),
        ("--model_dir={run} --weights=heavy", "must be equal, search, or numbers"),
    ],
)
def test_what_does_not_go_together(flags, words, tiny_run, small_images, other_classes, tmp_path):
    places = {"run": tiny_run, "tmp": tmp_path, "other": other_classes, "images": small_images}
    assert words in refusal(evaluate, *flags.format(**places).split())


METADATA = "assets.extra/metadata.json"


@pytest.mark.parametrize(
    ("file", "old", "new", "code", "words"),
    [
        ("saved_model.pb", None, b"", 1, "cannot be read"),
        (METADATA, b'"epochs": 3', b'"epochs": "many"', 1, "cannot be read"),
        (METADATA, None, b"no JSON", 2, "was not exported by"),
        (METADATA, b'"epochs": "3"', b'"flagfile": "x"', 2, "'flagfile' is not a flag"),
        (METADATA, b'"epochs": "3"', b'"epochs": "3\\n--width=2"', 2, "epochs"),
    ],
)
def test_an_export_that_was_changed_or_half_copied(tiny_run, file, old, new, code, words, tmp_path):
    folder = shutil.copytree(tiny_run / "export" / "1", tmp_path / "1")
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content.replace(old, new) if old else new)
    assert words in refusal(evaluate, f"--model_dir={folder}", code=code)


@pytest.mark.parametrize("name, value", [("resize", "stretch"), ("orientation", "ignore")])
def test_models_that_see_images_in_other_ways(tiny_run, tmp_path, name, value):
    other = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("export", "logs"))
    flags = (other / "flags.cfg").read_text()
    (other / "flags.cfg").write_text(re.sub(f"--{name}=.*", f"--{name}={value}", flags))
    assert f"another --{name} than" in refusal(evaluate, f"--model_dir={tiny_run}", f"--model_dir={other}")
