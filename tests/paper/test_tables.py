import dataclasses

import numpy as np
import pytest

from keras_alexnet import evaluation, rundir
from keras_alexnet.data import imagenet
from keras_alexnet.data.decoding import decode_center
from keras_alexnet.model import weights
from keras_alexnet.paper import experiment, table1, table2

ILSVRC_2010, ILSVRC_2012 = table1.TABLE, table2.TABLE


def run(about, *argv):
    return experiment.main(about.__name__.split(".")[-1], [str(each) for each in argv])


def rows_of(about, values):
    return {row[0]: tuple(row[1:]) for row in about.tables(values)[0].rows}


@pytest.fixture(scope="module")
def networks(run_of_three_epochs, tmp_path_factory):
    """A run, another with random weights, and the first one's export, which stands for a pre-trained one."""
    folder, opened = str(tmp_path_factory.mktemp("runs") / "second"), rundir.open_run(str(run_of_three_epochs))
    config = dataclasses.replace(opened.config, run=dataclasses.replace(opened.config.run, model_dir=folder, seed=7))
    model = rundir.build_model(config.network, len(opened.class_names), 7, devices=())
    rundir.create(config, weights.named(model), opened.class_names, opened.statistics)
    return [str(run_of_three_epochs), folder, str(run_of_three_epochs / "export" / "1")]


@pytest.fixture(scope="module")
def measured(networks, tmp_path_factory):
    """Values of Table 2 with two CNNs and one CNN*, on two splits."""
    folder, (first, second, third) = tmp_path_factory.mktemp("table2"), networks
    argv = [f"--cnn={second}", f"--cnn={first}", f"--pretrained_cnn={third}", "--split=val", "--test_split=train"]
    assert run(table2, *argv, f"--results_dir={folder}") == 0
    result = experiment.read("table2", str(folder))
    assert "equal weights" in result["protocol"] and "ten views averaged" in result["protocol"]
    return result["values"]


def test_averages_are_of_probabilities_with_equal_weights(measured, networks, small_images):
    results = measured["results"]
    assert [(each["cnns"], each["pretrained"]) for each in results] == [(1, 0), (1, 0), (0, 1), (2, 0), (2, 1)]
    models = [evaluation.open_model(folder) for folder in networks[:2]]
    for split, pick in (("val", lambda each: each), ("train", lambda each: each["test"])):
        paths = sorted((small_images / split).glob("*/*.jpg"))
        images = np.stack([decode_center(path.read_bytes()).numpy() for path in paths])
        labels = np.array([models[0].class_names.index(path.parent.name) for path in paths])
        first, second = (model.served.ten_views(images).numpy() for model in models)
        expected = [second, first, first, (first + second) / 2, (2 * first + second) / 3]
        for each, own in zip(results, expected, strict=True):
            loss = -np.log(own[np.arange(len(labels)), labels]).mean()
            assert pick(each)["loss"] == pytest.approx(loss, rel=1e-3)
            assert pick(each)["top1_error"] == pytest.approx(100 * np.mean(own.argmax(1) != labels), abs=1e-3)


def test_rows_of_another_set(measured, small_images):
    first, _, star, average, _ = measured["results"]
    # Among three classes every answer is one of the best five.
    assert rows_of(table2, measured) == {
        "SIFT + FVs [7]": ("-", "-", "-", "26.2", "-"),
        "1 CNN": ("40.7 / 18.2", "40.66 / 18.21", f"{first['top1_error']:.1f} / -", "-", "-"),
        "5 CNNs": ("38.1 / 16.4", "-", "not run", "16.4", "not run"),
        "1 CNN*": ("39.0 / 16.6", "38.99 / 16.62", f"{star['top1_error']:.1f} / -", "-", "-"),
        "7 CNNs*": ("36.7 / 15.4", "-", "not run", "15.3", "not run"),
        "2 CNNs, ours": ("-", "-", f"{average['top1_error']:.1f} / -", "-", "-"),
        "2 CNNs + 1 CNN*, ours": ("-", "-", f"{measured['results'][4]['top1_error']:.1f} / -", "-", "-"),
    }
    table, alone, _ = table2.tables(measured)
    words = f"{small_images.name} val (9 images of 3 classes)"
    assert words in table.title and "not on the paper's set" in table.title
    assert f"ours, test: {small_images.name} train (18 images of 3 classes)" in table.note
    assert str(table2.verdict(measured)).startswith(
        f"Cannot be told: {words} is not the paper's set, the validation set"
    )
    assert [row[0] for row in alone.rows] == ["1: CNN", "2: CNN", "3: CNN*"]
    assert alone.rows[0][1] == "release2012, width 0.0625, seed 7, 0 epochs"


def whole(*results):
    """Values as of the paper's set. Args: (CNNs, pre-trained CNNs, top-1, top-5 error)."""
    names = ("cnns", "pretrained", "top1_error", "top5_error")
    found = [{**dict(zip(names, each, strict=True)), "network": None, "test": None} for each in results]
    about = {"dataset": "imagenet2012", "data_dir": None, "split": "validation", "images": 50_000, "classes": 1000}
    about["model_classes"] = 1000
    return {"set": about, "test_set": None, "is_papers": True, "views": 10, "results": found}


def test_verdicts_on_the_papers_set():
    seven = [*[(1, 0, 40.8, 18.3)] * 5, *[(0, 1, 39.1, 16.7)] * 2, (5, 0, 38.2, 16.5), (5, 2, 36.8, 15.5)]
    values = whole(*seven)
    ours = {name: row[2] for name, row in rows_of(table2, values).items()}
    assert list(ours.values()) == ["-", "40.8 / 18.3", "38.2 / 16.5", "39.1 / 16.7", "36.8 / 15.5"]
    said = str(table2.verdict(values))
    assert said.startswith("Holds: 1 CNN 40.8 / 18.3 (paper 40.7 / 18.2), 5 CNNs 38.2") and "not run" not in said
    assert table2.verdict(whole(*seven[:-1], (5, 2, 36.8, 15.95))).outcome == "does not hold"
    three = whole(*[(1, 0, 40.8, 18.3)] * 3, (3, 0, 39.0, 17.0))
    assert rows_of(table2, three)["3 CNNs, ours"] == ("-", "-", "39.0 / 17.0", "-", "not run")
    assert str(table2.verdict(three)).endswith("; not run: 5 CNNs, 1 CNN*, 7 CNNs*.")
    one = whole((1, 0, 37.9, 17.2))
    assert str(table1.verdict(one)).startswith("Holds: CNN 37.9 / 17.2 (paper 37.5 / 17.0)")
    assert table1.verdict(whole((1, 0, 37.9, 17.6))).outcome == "does not hold"
    assert str(table1.verdict({**one, "views": 1})) == "Cannot be told: the center view only (the paper: ten)."
    assert str(table2.verdict(whole((2, 0, 1.0, 1.0)))) == "Cannot be told: no row of the table was run."


def test_the_papers_sets_are_known_by_numbers_and_classes():
    about = {"images": 149_999, "left_out": ["one"], "classes": 1000, "model_classes": 1000}
    assert ILSVRC_2010.is_papers_set(about, ["any"] * 1000)
    for change in ({"images": 150_000}, {"classes": 999}, {"model_classes": 1001}, {"left_out": []}):
        assert not ILSVRC_2010.is_papers_set({**about, **change}, [])
    about["images"] = 49_999
    ids = list(imagenet.classes())
    assert ILSVRC_2012.is_papers_set(about, ids)
    assert ILSVRC_2012.is_papers_set(about, sorted(imagenet.class_names(ids, {})))
    assert not ILSVRC_2012.is_papers_set(about, [*ids[1:], "n00000001"])
