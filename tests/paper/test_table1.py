"""Table 1: its rows, from a given evaluation and without one; the set that it was."""

import dataclasses
import json
import shutil

import pytest

from keras_alexnet import config as configs
from keras_alexnet import evaluate
from keras_alexnet.cli import run_command
from keras_alexnet.paper import contest, results, table1


def run(*argv):
    return run_command("table1", table1.main, [str(each) for each in argv])


@pytest.fixture(scope="module")
def measured(run_of_three_epochs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("table1")
    assert run(f"--cnn={run_of_three_epochs}", "--split=val", f"--results_dir={folder}") == 0
    return results.read(str(folder), "table1")


def of_the_papers_set(values, top1, top5):
    about = {**values["set"], "images": table1.IMAGES - 2, "classes": 1000, "model_classes": 1000}
    about["left_out"] = ["one", "two"]
    network = {**values["networks"][0], "top1_error": top1, "top5_error": top5}
    return {**values, "set": about, "is_papers": contest.has(about, table1.IMAGES), "networks": [network]}


def test_the_row_is_the_evaluation(measured, run_of_three_epochs):
    config = configs.parse_evaluate([f"--model_dir={run_of_three_epochs}", "--views=10", "--split=val"], "")
    expected = evaluate.evaluate(config)
    (network,) = measured["values"]["networks"]
    for name in ("top1_error", "top5_error", "loss"):
        assert network[name] == pytest.approx(expected["result"][name])
    assert (network["epochs"], network["variant"], network["width"]) == (3, "release2012", 0.0625)
    table = table1.tables(measured["values"])[0]
    assert table.rows[-1] == ("CNN", "37.5 / 17.0", "37.47 / 17.00", f"{expected['result']['top1_error']:.1f} / -")
    assert "ten views averaged" in measured["protocol"] and not measured["quick"]


def test_another_set_is_said_to_be_one(measured, small_pictures):
    values = measured["values"]
    words = f"{small_pictures.name} val (9 images of 3 classes)"
    assert not values["is_papers"]
    assert words in table1.tables(values)[0].title and "not on the paper's set" in table1.tables(values)[0].title
    assert table1.verdict(values) == f"Cannot be told: {words} is not the paper's set, {table1.SET}."
    # What training on the paper's set would take is still said.
    assert table1.tables(values)[-1].title.startswith("What training takes")


def test_nothing_run(capsys, tmp_path):
    assert run(f"--results_dir={tmp_path}/r") == 0
    out = capsys.readouterr().out
    assert "Sparse coding [2]  47.1 / 28.2" in out and "SIFT + FVs [24]    45.7 / 25.7" in out
    assert "nothing run: give --cnn=RUN" in out and "flags/paper.cfg" in out and "flags/release2012.cfg" in out
    assert not (tmp_path / "r").exists()
    assert table1.tables(None)[0].rows[-1] == ("CNN", "37.5 / 17.0", "37.47 / 17.00", results.NOT_RUN)
    assert table1.verdict(None) == results.NOT_RUN


def test_the_cost_is_images_by_speed():
    (row,) = table1.tables(None)[-1].rows
    # 90 epochs x 1.2 million images / 45 a second / 86,400 seconds.
    assert row == ("CNN", "108", f"{90 * 1.2e6 / 45 / 86400:.0f}", "five to six days", "not run")
    assert "28 days" in table1.COST


def test_the_papers_set(measured):
    values = of_the_papers_set(measured["values"], 37.9, 17.2)
    table, *rest = table1.tables(values)
    assert table.rows[-1][-1] == "37.9 / 17.2" and "not on the paper's" not in table.title
    assert [each.title for each in rest] == ["Each network alone, errors in percent"]  # nothing is left to be trained
    assert table1.verdict(values).startswith("Holds: CNN 37.9 / 17.2 (paper 37.5 / 17.0)")
    worse = of_the_papers_set(measured["values"], 37.9, 17.6)
    assert table1.verdict(worse).startswith("Does not hold here")
    assert table1.verdict({**values, "views": 1}).startswith("Cannot be told: the center view only")


def test_the_set_is_known_by_its_numbers():
    about = {"images": 149_999, "left_out": ["one"], "classes": 1000, "model_classes": 1000}
    assert contest.has(about, table1.IMAGES)
    for change in ({"images": 150_000}, {"classes": 999}, {"model_classes": 1001}, {"left_out": []}):
        assert not contest.has({**about, **change}, table1.IMAGES)


def test_quick_takes_the_center_view(run_of_three_epochs, tmp_path):
    assert run(f"--cnn={run_of_three_epochs}", "--split=val", f"--results_dir={tmp_path}", "--quick") == 0
    found = results.read(str(tmp_path / "quick"), "table1")
    assert found["quick"] and found["values"]["views"] == 1 and "the center view only" in found["protocol"]
    assert "the center view only" in table1.tables(found["values"])[0].note


def test_bad_input(run_of_three_epochs, small_pictures, tmp_path, capsys):
    own, here = f"--cnn={run_of_three_epochs}", f"--results_dir={tmp_path}/r"
    unknown = tmp_path / "unknown"
    shutil.copytree(small_pictures / "val", unknown / "val")
    (unknown / "val" / "red_square").rename(unknown / "val" / "cats")
    for argv, words in (
        ([f"--cnn={tmp_path}", here], f"--cnn={tmp_path}: is neither a run"),
        ([own, own, here], "one too many"),
        # The table is of the test set.
        ([own, here], "--split=test: there is no such folder"),
        ([own, here, "--split=dev"], "there are train, val"),
        ([own, here, "--dataset=folder"], "--data_dir is missing"),
        ([own, here, f"--data_dir={unknown}", "--split=val"], "the model does not know 1 of its classes"),
        (["--cnn=", here], "--cnn=: give a run's folder"),
        ([own, here, "--views=5"], "views"),
    ):
        assert run(*argv) == 2, argv
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words in line, (argv, line)


def test_what_is_written_can_be_read_by_others(measured):
    assert json.loads(json.dumps(measured))["values"] == measured["values"]
    for values in (None, measured["values"]):
        for table in table1.tables(values):
            assert all(len(row) == len(table.columns) for row in table.rows)
            assert all(isinstance(cell, str) for row in table.rows for cell in row)
    assert dataclasses.is_dataclass(table1.ROWS[0])
