import json

import pytest

from keras_alexnet.paper import cifar10_lrn, experiment


def values_of(**errors):
    networks = {
        name.removeprefix("n"): [{"top1_error": error, "diverged": error == 90.0} for error in found]
        for name, found in errors.items()
    }
    return {"networks": networks, "epochs": 140}


def test_a_pair_is_compared_seed_by_seed():
    values = values_of(n19pct=[20.0, 21.0, 22.0], n18pct=[19.0, 19.9, 21.1])
    errors, differences = cifar10_lrn.tables(values)
    assert errors.rows[3] == ("five layers, normalized across maps (11pct)", "11", "11", "not run", "-")
    assert cifar10_lrn.tables(values_of(n19pct=[20.0, 90.0]))[0].rows[0][-1] == "20.00, 90.00 (diverged)"
    # 4.3027 * 0.1 / sqrt(3)
    assert differences.rows[0] == ("four layers (19pct minus 18pct)", "-", "1", "+1.00 [+0.75, +1.25]")
    assert differences.rows[1] == ("five layers (13pct minus 11pct)", "2", "2", "not run")


@pytest.mark.parametrize(
    ("errors", "outcome"),
    [
        ({"n19pct": [20.0, 21.0, 22.0], "n18pct": [20.0, 21.1, 21.9]}, "cannot be told"),
        ({"n19pct": [20.0, 21.0, 22.0], "n18pct": [21.0, 22.1, 22.9]}, "does not hold"),
        ({"n19pct": [20.0], "n18pct": [19.0]}, "cannot be told"),  # one seed has no spread
        ({"n19pct": [20.0]}, "cannot be told"),
        # The pair with the paper's numbers decides.
        ({"n19pct": [9.0] * 3, "n18pct": [8.0] * 3, "n13pct": [8.0] * 3, "n11pct": [9.0] * 3}, "does not hold"),
    ],
)
def test_no_more_is_claimed_than_the_seeds_say(errors, outcome):
    values = values_of(**errors)
    assert cifar10_lrn.verdict(values).outcome == outcome
    assert cifar10_lrn.verdict(values | {"is_papers": False}).outcome == "cannot be told"


def test_a_command_from_start_to_end_and_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("keras_alexnet.paper.cifar_network._SHAPES", (60, 20))
    argv = ["--dataset=shapes", "--seeds=1", "--networks=11pct", "--batch_size=8", "--crop_border=4"]
    argv.append(f"--results_dir={tmp_path}")
    assert experiment.main("cifar10_lrn", [*argv, "--epochs=2"]) == 0
    content = json.loads((tmp_path / "cifar10_lrn.json").read_text())
    assert "60 / 20 images of the built-in shapes" in content["protocol"] and "crops of 24" in content["protocol"]
    assert [len(each["curve"]) for each in content["values"]["networks"]["11pct"]] == [10]
    assert (tmp_path / "cifar10_lrn.svg").read_text().startswith("<?xml")
    # Nothing is trained again: the same numbers.
    assert experiment.main("cifar10_lrn", [*argv, "--epochs=2"]) == 0
    assert json.loads((tmp_path / "cifar10_lrn.json").read_text())["values"] == content["values"]
    assert experiment.main("cifar10_lrn", [*argv, "--epochs=1"]) == 2
    assert "--epochs=1: 11pct, seed 2012 has been trained for 2" in capsys.readouterr().err
    # A trial changes what it trains.
    argv += ["--quick", "--networks=19pct", "--batch_size=12", "--crop_border=0"]
    assert experiment.main("cifar10_lrn", argv) == 0
    quick = json.loads((tmp_path / "quick" / "cifar10_lrn.json").read_text())
    assert quick["quick"] and quick["values"]["epochs"] == 2
