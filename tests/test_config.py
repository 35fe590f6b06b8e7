import pytest

from keras_alexnet import config as configs, flags, rundir
from keras_alexnet.errors import ArgumentError, UsageError
from tests.runs import ROOT

FLAGFILES = sorted((ROOT / "flags").glob("*.cfg"))
ABLATIONS = sorted(path for path in (ROOT / "flags" / "ablations").glob("*.cfg") if path.stem != "baseline")


def parse(*argv):
    return configs.parse_train(["--model_dir=run", "--dataset=shapes", *argv], "usage")


def test_defaults_are_the_papers():
    texts = flags.as_text(configs.parse_train(["--model_dir=run"], "usage"))
    wanted = (
        "epochs=90 batch_size=128 learning_rate=0.01 momentum=0.9 weight_decay=0.0005 lr_policy=plateau plateau_cuts=3 "
        "variant=paper towers=2 activation=relu dropout=0.5 local_response_normalization=True overlapping_pooling=True "
        "dataset=imagenet2012 pca_color=dataset pca_stddev=0.1 bias_learning_rate_multiplier=1.0"
    )
    assert dict(pair.split("=") for pair in wanted.split()).items() <= texts.items()


def test_the_flags_of_a_run_give_the_same_settings_again(tmp_path):
    config = parse("--devices=CPU:0,cpu:1", "--lr_policy=schedule", "--lr_schedule=2:bias=0.1,1:0.001", "--profile=2,3")
    assert config.network.device_names() == ("CPU:0", "CPU:1") and config.run.profile == (2, 3)
    text = "# a run\n" + "".join(f"--{name}={value}\r\n" for name, value in flags.as_text(config).items())
    (tmp_path / "flags.cfg").write_text(text)
    assert rundir.read_config(str(tmp_path)) == config
    assert configs.parse_train([f"--flagfile={tmp_path / 'flags.cfg'}"], "usage") == config
    # The run of an older version has fewer flags.
    (tmp_path / "flags.cfg").write_text("--model_dir=run\n--dataset=shapes\n")
    assert flags.changes(rundir.read_config(str(tmp_path)), parse("--epochs=5")) == []


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.name)
def test_every_flagfile_trains_with_its_own_flags(path):
    text = path.read_text()
    assert configs.parse_train([f"--flagfile={path}"], "usage").run.model_dir == f"runs/{path.stem}"
    assert configs.parse_train(["-flagfile", str(path), "--model_dir=own"], "usage").run.model_dir == "own"
    assert text.startswith("# Why: ") and f" python -m keras_alexnet.train --flagfile=flags/{path.name}" in text
    assert all(f"\n# {word}" in text for word in ("Run: ", "Time", "Expect: "))


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_differs_from_the_baseline_by_what_it_says_and_nothing_else(path, monkeypatch):
    monkeypatch.chdir(ROOT)  # flagfiles name each other from here
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# Section ")
    assert lines[1].startswith("# Run, time and device: as baseline.cfg. Expect: ")
    named = dict(line.removeprefix("--").split("=", 1) for line in lines if line.startswith("--"))
    baseline, own = (
        flags.as_text(configs.parse_train([f"--flagfile={each}", "--model_dir=run", "--data_dir=data"], "usage"))
        for each in (named.pop("flagfile"), path)
    )
    assert {name: value.lower() for name, value in own.items() if value != baseline[name]} == named


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--model_dir="], "--model_dir is missing"),
        (["--dataset="], "--dataset is empty"),
        (["--dataset=folder"], "--data_dir is missing: --dataset=folder reads DATA_DIR/CLASS"),
        (["--dataset=records"], "--data_dir is missing: --dataset=records reads what"),
        (["--val_split=test"], "--val_split=test: must be left out"),
        (["--width=0.01"], "--width=0.01: must give two towers the same units"),  # others: tests/model
        (["--new_layers=fc9"], "--new_layers=fc9: must name layers of conv1, "),
        (["--crop_positions=31", "--variant=caffe"], "--crop_positions=31: must be at most 30 for caffe"),
        (["--lr_policy=schedule"], "--lr_schedule=: needs --lr_policy=schedule, which needs entries"),
        (["--lr_policy=schedule", "--lr_schedule=1:conv9=0.1"], "not 'conv9'"),
        (
            ["--lr_policy=schedule", "--lr_schedule=0:fc8=0.1", "--learning_rate=0"],
            "=0.0: must be positive: without it",
        ),
        (["--lr_policy=schedule", "--lr_schedule=3:0"], "'3:0' freezes everything"),
        (["--lr_policy=schedule", "--lr_schedule=three:0.1"], "'three:0.1' is not AFTER_EPOCH"),
        (["--devices=TPU:0"], "--devices=TPU:0: must be names such as GPU:0,GPU:1"),
        (["--devices=GPU:0,gpu:0"], "--devices=GPU:0,gpu:0: must be different"),
        (["--devices=GPU:0,GPU:1", "--towers=1"], "must not be more devices than towers"),
        (["--devices=GPU:0", "--strategy=multi_worker"], "--devices=GPU:0: must be left out"),
        (["--precision=mixed_float16", "--strategy=mirrored"], "--precision=mixed_float16: must be mixed_bfloat16"),
        (["--gpu_memory=0"], "--gpu_memory=0: must be all, grow, or a number of MB such as 20000"),
        (["--profile=5,2"], "--profile=5,2: must be the first and the last step"),
    ],
)
def test_what_does_not_go_together_is_named(argv, words):
    with pytest.raises((UsageError, ArgumentError)) as error:
        parse(*argv)
    found = error.value
    line = f"--{found.name}={found.value}: {found.problem}" if isinstance(found, ArgumentError) else str(found)
    assert words in line and "\n" not in line
