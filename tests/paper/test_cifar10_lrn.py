import json

import pytest

from keras_alexnet.cli import run_command
from keras_alexnet.errors import UsageError
from keras_alexnet.paper import cifar10_lrn, config


def values_of(**errors):
    networks = {
        name.removeprefix("n"): [{"seed": seed, "loss": 1.0, "top1_error": error} for seed, error in enumerate(found)]
        for name, found in errors.items()
    }
    return {"networks": networks, "epochs": 140}


def test_a_pair_is_compared_seed_by_seed():
    values = values_of(n19pct=[20.0, 21.0, 22.0], n18pct=[19.0, 19.9, 21.1])
    errors, differences = cifar10_lrn.tables(values)
    assert errors.rows[0] == ("19pct, without normalization", "-", "19", "21.00 ± 1.00", "20.00, 21.00, 22.00")
    assert errors.rows[3] == ("11pct, with normalization", "11", "11", "not run", "-")
    assert differences.rows[0][:3] == ("19pct minus 18pct", "-", "1")
    assert differences.rows[0][3] == "+1.00 [+0.75, +1.25]"  # 4.3027 * 0.1 / sqrt(3)
    assert differences.rows[1] == ("13pct minus 11pct", "2", "2", "not run")
    assert cifar10_lrn.verdict(values) == (
        "18pct against 19pct (normalization and a lower decay together): holds in direction, 1.00 points with 140 "
        "epochs."
    )


@pytest.mark.parametrize(
    ("with_it", "words"),
    [([20.0, 21.1, 21.9], "cannot be told"), ([21.0, 22.1, 22.9], "does not hold, 1.00 points worse")],
)
def test_no_more_is_claimed_than_the_seeds_say(with_it, words):
    assert words in cifar10_lrn.verdict(values_of(n19pct=[20.0, 21.0, 22.0], n18pct=with_it))


def test_not_run():
    assert cifar10_lrn.verdict(None) == "not run"
    assert all(row[3] == "not run" for table in cifar10_lrn.tables(None) for row in table.rows)


def test_a_trial_run_from_start_to_end_and_again(tmp_path, capsys):
    argv = ["--dataset=shapes", "--quick", "--seeds=1", f"--results_dir={tmp_path}", "--networks=18pct,11pct"]
    argv.append("--crop_border=4")
    assert run_command("cifar10_lrn", cifar10_lrn.main, argv) == 0
    first = json.loads((tmp_path / "quick" / "cifar10_lrn.json").read_text())
    assert first["quick"] and "of the built-in shapes" in first["protocol"] and "crops of 24" in first["protocol"]
    assert [len(runs[0]["curve"]) for runs in first["values"]["networks"].values()] == [10, 10]
    assert (tmp_path / "quick" / "cifar10_lrn.svg").read_text().startswith("<?xml")
    # Nothing is trained again: the same figures, from what is kept.
    assert run_command("cifar10_lrn", cifar10_lrn.main, argv) == 0
    assert json.loads((tmp_path / "quick" / "cifar10_lrn.json").read_text())["values"] == first["values"]
    # Another schedule is another trial.
    assert run_command("cifar10_lrn", cifar10_lrn.main, [*argv, "--crop_border=2"]) == 2
    assert "holds another trial: crop_border 2 (there: 4)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--networks=17pct", "--networks=17pct: give different names of 19pct, 18pct, 13pct, 11pct"),
        ("--networks=19pct,19pct", "--networks=19pct,19pct"),
        ("--rate_drops=soon", "--rate_drops=soon: give epochs such as 120,130"),
        ("--crop_border=9", "--crop_border=9"),
        ("--seeds=0", "--seeds=0"),
    ],
)
def test_wrong_flags_are_named(flag, words):
    with pytest.raises(UsageError) as error:
        config.parse_cifar10_lrn([flag], "usage")
    assert words in str(error.value)


def test_fewer_epochs_than_were_trained_are_refused(tmp_path, capsys):
    argv = ["--dataset=shapes", "--quick", "--seeds=1", f"--results_dir={tmp_path}", "--networks=19pct"]
    assert run_command("cifar10_lrn", cifar10_lrn.main, argv) == 0
    assert run_command("cifar10_lrn", cifar10_lrn.main, [*argv, "--epochs=1"]) == 2
    assert "--epochs=1: 19pct, seed 2012 has been trained for 2 already" in capsys.readouterr().err


def test_one_seed_has_no_spread_and_two_decays_are_named():
    said = cifar10_lrn.verdict(values_of(n19pct=[20.0], n18pct=[19.0]))
    assert "(normalization and a lower decay together): cannot be told, 1.00 points" in said and "too few seeds" in said
