import dataclasses
import os
from pathlib import Path

import pytest

from keras_alexnet import config as configs
from keras_alexnet.errors import UsageError

ROOT = Path(__file__).parent.parent
FLAGFILES = sorted((ROOT / "flags").glob("*.cfg"))
ABLATIONS = sorted(path for path in (ROOT / "flags" / "ablations").glob("*.cfg") if path.stem != "baseline")


def parse(*argv):
    return configs.parse_train(["--model_dir=run", "--dataset=shapes", *argv], "usage")


def test_defaults_are_the_papers():
    config = configs.parse_train(["--model_dir=run"], "usage")
    training, network, data = config.training, config.network, config.data
    assert (training.epochs, training.batch_size, training.learning_rate) == (90, 128, 0.01)
    assert (training.momentum, training.weight_decay, training.bias_learning_rate_multiplier) == (0.9, 0.0005, 1.0)
    assert (training.lr_policy, training.plateau_cuts) == ("plateau", 3)
    assert (network.variant, network.towers, network.activation, network.dropout) == ("paper", 2, "relu", 0.5)
    assert network.local_response_normalization and network.overlapping_pooling
    assert (data.dataset, data.pca_color, data.pca_stddev) == ("imagenet2012", "dataset", 0.1)


def test_later_flags_win_over_the_flagfile(tmp_path):
    (tmp_path / "a.cfg").write_text("# why\n--epochs=7\n--variant=caffe\n")
    config = parse("--epochs=3", f"--flagfile={tmp_path / 'a.cfg'}", "--variant=paper")
    assert (config.training.epochs, config.network.variant) == (7, "paper")


def test_a_recipe_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse().training.epochs = 3


def test_resolved_flags_give_the_same_recipe_again(tmp_path):
    config = parse("--devices=CPU:0,CPU:1", "--lr_policy=schedule", "--lr_schedule=2:bias=0.1,1:0.001", "--profile=2,3")
    text = "# a run\n" + "".join(f"--{name}={value}\n" for name, value in config.resolved)
    assert configs.read_run(text) == config
    (tmp_path / "flags.cfg").write_text(text)
    assert configs.parse_train([f"--flagfile={tmp_path / 'flags.cfg'}"], "usage") == config


def test_schedule_is_sorted_by_epoch():
    config = parse("--lr_policy=schedule", "--lr_schedule=51:1e-4, 23:bias=0.002,23:0.001")
    assert config.training.lr_schedule == ((23, "bias", 0.002), (23, "", 0.001), (51, "", 0.0001))


def test_what_changed_since_a_run_began():
    text = "".join(f"--{name}={value}\n" for name, value in parse("--batch_size=64").resolved)
    assert configs.changed_flags(parse("--batch_size=64", "--epochs=5", "--model_dir=moved"), text) == []
    assert configs.changed_flags(parse(), text) == ["--batch_size=128 (the run has 64)"]
    statistics = "".join(f"--{name}={value}\n" for name, value in parse("--statistics=a.npz").resolved)
    assert configs.changed_flags(parse(), statistics) == ["--statistics= (the run has a.npz)"]
    assert configs.changed_flags(parse(), "--model_dir=run\n--dataset=shapes\n") == []  # an older version's fewer flags


def test_home_is_meant_by_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse("--data_dir=~/data").data.data_dir == "/home/someone/data"


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.name)
def test_every_flagfile_parses_and_says_why_how_and_what_to_expect(path):
    text = path.read_text()
    configs.parse_train([f"--flagfile={path}", "--model_dir=run", "--data_dir=data"], "usage")
    comments = "".join(line for line in text.splitlines() if line.startswith("#"))
    assert text.startswith("# Why: ")
    assert all(
        word in comments for word in ("# Run: python -m keras_alexnet.train --flagfile=flags/", "# Time", "# Expect:")
    )
    assert f"--flagfile=flags/{path.name}" in comments


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_differs_from_the_baseline_by_what_it_says_and_nothing_else(path, monkeypatch):
    monkeypatch.chdir(ROOT)  # flagfiles name each other from here

    def flags_of(name):
        argv = [f"--flagfile=flags/ablations/{name}.cfg", "--model_dir=run", "--data_dir=data"]
        return dict(configs.parse_train(argv, "usage").resolved)

    lines = path.read_text().splitlines()
    assert lines[0].startswith("# Section ") and lines[1].startswith(
        "# Run, time and device: as baseline.cfg. Expect: "
    )
    said = dict(line.removeprefix("--").split("=", 1) for line in lines if line.startswith("--"))
    assert said.pop("flagfile") == "flags/ablations/baseline.cfg"
    baseline, own = flags_of("baseline"), flags_of(path.stem)
    changed = {name: value.lower() for name, value in own.items() if value != baseline[name]}
    assert changed == said


def test_the_flagfiles_that_others_rely_on_are_there():
    assert {"paper.cfg", "release2012.cfg", "caffe.cfg", "quickstart.cfg"} <= {path.name for path in FLAGFILES}


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--epoch=3"], "'epoch'"),
        (["--epochs=0"], "--epochs=0: 0 is not a positive integer"),
        (["--epochs=many"], "--epochs=many"),
        (["--batch_size=-1"], "--batch_size=-1"),
        (["--learning_rate=nan"], "--learning_rate=nan: give a finite number"),
        (["--learning_rate=-1"], "--learning_rate=-1"),
        (["--momentum=1"], "--momentum=1.0: give a number below 1"),
        (["--dropout=1"], "--dropout=1.0: give a probability below 1"),
        (["--dropout=2"], "--dropout=2"),
        (["--width=0"], "--width=0.0"),
        (["--variant=vgg"], "--variant=vgg: value should be one of <paper|release2012|caffe>"),
        (["--towers=3"], "--towers=3: the layers divide into 1 or 2"),
        (["--groups=1"], "--groups=1: two towers are two groups"),
        (["--crop_positions=33", "--variant=caffe"], "--crop_positions=33: caffe has 30"),
        (["--lr_policy=schedule", "--lr_schedule=3:0"], "'3:0' freezes everything"),
        (["--groups=4"], "--groups=4: the layers divide into 1 or 2"),
        (["--devices=TPU:0"], "--devices=TPU:0: 'TPU:0' is no device"),
        (["--devices=GPU:0,GPU:0"], "--devices=GPU:0,GPU:0: GPU:0 twice"),
        (["--devices=GPU:0,GPU:1,GPU:2"], "3 devices for two towers"),
        (["--devices=GPU:0,GPU:1", "--towers=1"], "more devices than towers"),
        (["--dataset=folder"], "--data_dir is missing"),
        (["--dataset="], "--dataset is empty"),
        (["--val_split=test"], "--val_split=test"),
        (["--model_dir="], "--model_dir is missing"),
        (["--flagfile=nowhere.cfg"], "nowhere.cfg"),
        (["--lr_policy=schedule"], "--lr_schedule is missing"),
        (["--lr_schedule=3:0.1"], "--lr_policy=plateau"),
        (["--lr_policy=schedule", "--lr_schedule=three:0.1"], "'three:0.1' is not AFTER_EPOCH"),
        (["--lr_policy=schedule", "--lr_schedule=3:-0.1"], "'3:-0.1' is not AFTER_EPOCH"),
        (["--profile=5,2"], "--profile=5,2"),
        (["--topology=vgg"], "--topology=vgg: value should be one of <alexnet|half|separate|conv6>"),
        (["train.jpg"], "unexpected argument 'train.jpg'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_flags_are_named(argv, words):
    with pytest.raises(UsageError) as error:
        parse(*argv)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_help_shows_every_flag(capsys):
    with pytest.raises(SystemExit) as end:
        parse("--help")
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert all(f"--{name}" in shown or f"--[no]{name}" in shown for name, _ in parse().resolved)


def test_the_other_verbs_have_recipes_of_their_own():
    prediction = configs.parse_predict(["--model=m", "a.jpg", "--retries=0", "b.jpg"], "usage")
    assert (prediction.model, prediction.photographs, prediction.retries) == ("m", ("a.jpg", "b.jpg"), 0)
    for wrong in (["--model=m"], ["a.jpg"]):
        with pytest.raises(UsageError):
            configs.parse_predict(wrong, "usage")
    assert configs.parse_export(["--model_dir=run"], "usage") == ("run", 1, "newest")
    assert configs.parse_export(["--model_dir=run", "--views=10", "--checkpoint=best"], "usage") == ("run", 10, "best")
    evaluation = configs.parse_evaluate(["--model_dir=a", "--model_dir=~/b", "--weights=1,3"], "usage")
    assert evaluation.model_dirs == ("a", os.path.expanduser("~/b")) and evaluation.weights == (1.0, 3.0)


def test_a_run_is_described_again_by_its_flags():
    config = parse("--width=0.5", "--lr_policy=schedule", "--lr_schedule=0:conv=0,3:0.001")
    assert configs.of_flags(dict(config.resolved)) == config


@pytest.mark.parametrize(
    "flags", [{"flagfile": "x"}, {"undefok": "x"}, {"no such": "1"}, {"epochs": 3}, {"nothing": "1"}]
)
def test_what_are_no_flags_of_a_run(flags):
    with pytest.raises(UsageError):
        configs.of_flags({"model_dir": "m", **flags})


def test_a_null_character_is_named():
    with pytest.raises(UsageError, match="--model_dir: has a null character in it"):
        configs.parse_train(["--dataset=shapes", "--model_dir=r\0x"], "usage")
