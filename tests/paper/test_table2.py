"""Table 2: averages of networks held against NumPy, and which rows they are."""

import shutil

import numpy as np
import pytest

from keras_alexnet import evaluate, train
from keras_alexnet.cli import run_command
from keras_alexnet.data import imagenet
from keras_alexnet.data.decoding import decode_center
from keras_alexnet.paper import contest, results, table2
from tests.conftest import TINY_RUN


def run(*argv):
    return run_command("table2", table2.main, [str(each) for each in argv])


@pytest.fixture(scope="module")
def networks(run_of_three_epochs, small_pictures, tmp_path_factory):
    """Two runs of other seeds, and the first one's export, which stands for a pre-trained one."""
    folder = tmp_path_factory.mktemp("runs") / "second"
    argv = [*TINY_RUN, f"--data_dir={small_pictures}", f"--model_dir={folder}", "--epochs=1", "--seed=7"]
    assert run_command("train", train.main, [*argv, "--export=false"]) == 0
    return [str(run_of_three_epochs), str(folder), str(run_of_three_epochs / "export" / "1")]


@pytest.fixture(scope="module")
def measured(networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("table2")
    first, second, third = networks
    argv = [f"--cnn={second}", f"--cnn={first}", f"--pretrained_cnn={third}", "--split=val", "--test_split=train"]
    assert run(*argv, f"--results_dir={folder}") == 0
    return results.read(str(folder), "table2")


@pytest.fixture(scope="module")
def probabilities(networks, small_pictures):
    """Of each network, by ten views, and the labels, of both splits."""
    found = {}
    for split in ("val", "train"):
        paths = sorted((small_pictures / split).glob("*/*.jpg"))
        images = np.stack([decode_center(path.read_bytes()).numpy() for path in paths])
        answers = []
        for folder in networks[:2]:
            model = evaluate.open_model(folder)
            answers.append(model.served.ten_views(images).numpy())
        labels = np.array([model.class_names.index(path.parent.name) for path in paths])
        found[split] = (*answers, labels)
    return found


def error(probabilities, labels):
    return 100 * np.mean(probabilities.argmax(axis=1) != labels)


def loss(probabilities, labels):
    return -np.log(probabilities[np.arange(len(labels)), labels]).mean()


def test_averages_are_of_probabilities_with_equal_weights(measured, probabilities, networks):
    values = measured["values"]
    assert [each["model_dir"] for each in values["networks"]] == [networks[1], networks[0], networks[2]]
    assert [(each["cnns"], each["pretrained"]) for each in values["averages"]] == [(2, 0), (2, 1)]
    for split, pick in (("val", lambda each: each), ("train", lambda each: each["test"])):
        first, second, labels = probabilities[split]
        expected = [second, first, first, (first + second) / 2, (2 * first + second) / 3]
        for each, own in zip([*values["networks"], *values["averages"]], expected, strict=True):
            assert pick(each)["loss"] == pytest.approx(loss(own, labels), rel=1e-3)
            assert pick(each)["top1_error"] == pytest.approx(error(own, labels), abs=1e-3)


def test_rows(measured):
    values = measured["values"]
    rows = {row[0]: row for row in table2.tables(values)[0].rows}
    assert list(rows) == [
        "SIFT + FVs [7]", "1 CNN", "5 CNNs", "1 CNN*", "7 CNNs*", "2 CNNs, ours", "2 CNNs + 1 CNN*, ours",
    ]  # fmt: skip
    first, _, star = values["networks"]
    # Among three classes every answer is one of the best five.
    assert rows["1 CNN"] == ("1 CNN", "40.7 / 18.2", "40.66 / 18.21", f"{first['top1_error']:.1f} / -", "-", "-")
    assert rows["1 CNN*"][1:4] == ("39.0 / 16.6", "38.99 / 16.62", f"{star['top1_error']:.1f} / -")
    assert rows["5 CNNs"] == ("5 CNNs", "38.1 / 16.4", "-", "not run", "16.4", "not run")
    assert rows["7 CNNs*"] == ("7 CNNs*", "36.7 / 15.4", "-", "not run", "15.3", "not run")
    assert rows["SIFT + FVs [7]"] == ("SIFT + FVs [7]", "- / -", "-", "-", "26.2", "-")
    assert rows["2 CNNs, ours"][3] == f"{values['averages'][0]['top1_error']:.1f} / -"


def test_each_network_is_named(measured):
    table = table2.tables(measured["values"])[1]
    assert [row[0] for row in table.rows] == ["1: CNN", "2: CNN", "3: CNN*"]
    assert table.rows[0][1:4] == ("release2012, width 0.0625, seed 7", "1", "random weights")
    assert "seed 2012" in table.rows[2][1]


def test_another_set_is_said_to_be_one(measured, small_pictures):
    values = measured["values"]
    words = f"{small_pictures.name} val (9 images of 3 classes)"
    table = table2.tables(values)[0]
    assert words in table.title and "not on the paper's set" in table.title
    assert f"ours, test: {small_pictures.name} train (18 images of 3 classes)" in table.note
    said = table2.verdict(values)
    assert (
        said.startswith(f"Cannot be told: {words} is not the paper's set") and "The average of 2 CNNs + 1 CNN*" in said
    )
    assert "equal weights" in measured["protocol"] and "ten views averaged" in measured["protocol"]


def test_nothing_run(capsys, tmp_path):
    assert run(f"--results_dir={tmp_path}/r") == 0
    out = capsys.readouterr().out
    for words in ("nothing run: give --cnn=RUN", "flags/conv6_pretrain.cfg", "flags/conv6_finetune.cfg", "--seed=5"):
        assert words in out
    assert table2.NO_LABELS in out and not (tmp_path / "r").exists()
    assert [row[3] for row in table2.tables(None)[0].rows] == ["-", *["not run"] * 4]
    assert [row[5] for row in table2.tables(None)[0].rows] == ["-", *["not run"] * 4]
    assert table2.verdict(None) == results.NOT_RUN


def test_the_cost_is_images_by_speed():
    rows = {row[0]: row for row in table2.tables(None)[-1].rows}
    one, star = 90 * 1_281_167, 8 * 15_000_000 + 54 * 1_281_167
    for name, images in (("1 CNN", one), ("5 CNNs", 5 * one), ("1 CNN*", star), ("7 CNNs*", 5 * one + 2 * star)):
        assert rows[name][1] == f"{images / 1e6:.0f}"
        assert rows[name][2].removeprefix("at least ") == f"{images / 45 / 86400:.0f}"
        assert rows[name][4] == results.NOT_RUN
    assert rows["1 CNN"][3] == "five to six days"


def whole(networks, averages):
    """Values as of the paper's set. Args: (pretrained, top-1, top-5) and (cnns, pretrained, top-1, top-5)."""
    about = {
        "dataset": "imagenet2012", "data_dir": None, "split": "validation", "images": 50_000, "classes": 1000,
        "model_classes": 1000, "left_out": [],
    }  # fmt: skip
    described = {
        "model_dir": "runs/cnn", "variant": "paper", "topology": "alexnet", "width": 1.0, "seed": 1, "epochs": 90,
        "initial_weights": None, "test": None,
    }  # fmt: skip
    return {
        "set": about,
        "test_set": None,
        "is_papers": True,
        "views": 10,
        "networks": [
            {**described, "pretrained": star, "top1_error": top1, "top5_error": top5} for star, top1, top5 in networks
        ],
        "averages": [
            {"cnns": cnns, "pretrained": stars, "top1_error": top1, "top5_error": top5, "test": None}
            for cnns, stars, top1, top5 in averages
        ],
    }


def test_all_seven_on_the_papers_set():
    networks = [*[(False, 40.8, 18.3)] * 5, *[(True, 39.1, 16.7)] * 2]
    values = whole(networks, [(5, 0, 38.2, 16.5), (5, 2, 36.8, 15.5)])
    table, *rest = table2.tables(values)
    assert [row[3] for row in table.rows] == ["-", "40.8 / 18.3", "38.2 / 16.5", "39.1 / 16.7", "36.8 / 15.5"]
    assert [row[5] for row in table.rows] == ["-", *["not run"] * 4] and len(rest) == 1
    said = table2.verdict(values)
    assert said.startswith("Holds: 1 CNN 40.8 / 18.3 (paper 40.7 / 18.2), 5 CNNs") and "Not run" not in said
    values["averages"][1]["top5_error"] = 15.95
    assert table2.verdict(values).startswith("Does not hold here")


def test_fewer_than_five_are_a_row_of_their_own():
    values = whole([(False, 40.8, 18.3)] * 3, [(3, 0, 39.0, 17.0)])
    table, _, cost = table2.tables(values)
    assert table.rows[2][3] == results.NOT_RUN and table.rows[-1] == (
        "3 CNNs, ours", "-", "-", "39.0 / 17.0", "-", "not run",
    )  # fmt: skip
    assert [row[0] for row in cost.rows] == ["5 CNNs", "1 CNN*", "7 CNNs*"]
    assert "Not run: 5 CNNs, 1 CNN*, 7 CNNs*." in table2.verdict(values)


def test_the_classes_of_2012():
    ids = [wordnet_id for wordnet_id, _ in imagenet.classes()]
    assert contest.is_ilsvrc2012(ids) and contest.is_ilsvrc2012(sorted(imagenet.class_names(ids, {})))
    assert not contest.is_ilsvrc2012([*ids[1:], "n00000001"]) and not contest.is_ilsvrc2012(ids[1:])


def test_one_pretrained_alone(networks, tmp_path):
    assert run(f"--pretrained_cnn={networks[2]}", f"--results_dir={tmp_path}", "--quick") == 0
    values = results.read(str(tmp_path / "quick"), "table2")["values"]
    rows = table2.tables(values)[0].rows
    assert rows[1][3] == results.NOT_RUN and rows[3][3] != results.NOT_RUN and len(rows) == 5
    assert values["views"] == 1 and not values["averages"]


def test_bad_input(networks, small_pictures, tmp_path, capsys):
    first, second, exported = networks
    here = f"--results_dir={tmp_path}/r"
    other = tmp_path / "other"
    shutil.copytree(second, other)
    names = (other / "class_names.txt").read_text()
    (other / "class_names.txt").write_text(names.replace("red_square", "cats"))
    for argv, words in (
        ([f"--cnn={first}", f"--cnn={other}"], f"--cnn={other}: has other classes than {first}"),
        ([f"--cnn={first}", f"--pretrained_cnn={other}"], f"--pretrained_cnn={other}: has other classes"),
        ([f"--pretrained_cnn={small_pictures}"], f"--pretrained_cnn={small_pictures}: is neither a run"),
        ([f"--cnn={first}", f"--cnn={first}/"], "is given twice"),
        ([f"--cnn={first}/{place}" for place in range(6)], f"--cnn={first}/5: is one too many"),
        ([f"--cnn={first}", "--split=dev"], "--split=dev: there is no such folder"),
        ([f"--cnn={first}", "--test_split=test"], "--test_split=test: there is no such folder"),
        ([f"--cnn={first}", "--dataset=imagenet2012", "--test_split=test"], "not public"),
    ):
        assert run(*argv, here) == 2, argv
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words in line, (argv, line)
