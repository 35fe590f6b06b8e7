import json
import shutil
import sys

import numpy as np
import pytest

from keras_alexnet import rundir
from keras_alexnet.data import sources
from keras_alexnet.errors import ArgumentError, RunError
from keras_alexnet.model import variants
from keras_alexnet.paper import experiment, grid, transfer
from tests.runs import ROOT


def test_more_images_contain_fewer(small_images):
    training = sources.open_folder(str(small_images))[0]
    labels = np.array(training.labels)
    some, more, every = (transfer.choose(training, count, 2012) for count in (1, 2, 0))
    assert np.bincount(labels[some]).tolist() == [1, 1, 1] and np.bincount(labels[more]).tolist() == [2, 2, 2]
    assert set(some) < set(more) < set(every) == set(range(training.count))
    assert set(transfer.choose(training, 2, 2013)) != set(more)
    with pytest.raises(ArgumentError, match="images_per_class must be at most 6, as many"):
        transfer.choose(training, 1000, 2012)


def test_a_file_that_cannot_be_read_is_not_left_out(small_images, tmp_path):
    source = sources.list_split(shutil.copytree(small_images, tmp_path / "data"), "val")
    (tmp_path / "data" / "val" / source.files[4]).unlink()
    with pytest.raises(RunError, match="cannot be read .No such file or directory.; repair it"):
        transfer._unreadable(source)


def test_a_classifier_tells_apart_what_is_apart():
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = (np.eye(3)[labels] * 5 + generator.normal(size=(60, 3))).astype(np.float32)
    assert transfer.linear(features[:30], labels[:30], features[30:], labels[30:]) == 0
    assert transfer.linear(features[:30], labels[:30], features[30:], (labels[30:] + 1) % 3) == 100


def test_the_network_is_that_of_the_run(tiny_run, monkeypatch):
    monkeypatch.chdir(ROOT)
    network = rundir.read_config(tiny_run).network
    cells = transfer.cells_of(transfer.Settings(model_dir=str(tiny_run)), network, "images", 10, 2012)
    assert [cell.config.training.initial_weights for cell in cells] == [None, str(tiny_run)]
    assert [variants.settings_of(cell.config.network) for cell in cells] == [variants.settings_of(network)] * 2
    with pytest.raises(ArgumentError, match="model_dir must be a network with fc7"):
        transfer.run(transfer.Settings(data_dir="images", model_dir=str(tiny_run)))


@pytest.mark.parametrize(
    ("pretrained", "outcome"),
    [([30.0, 31.0, 29.5], "holds"), ([41.0, 42.2, 43.1], "does not hold"), ([39.0, 42.0, 41.0], "cannot be told")],
)
def test_no_more_is_claimed_than_the_seeds_say(pretrained, outcome):
    errors = dict.fromkeys(transfer.KINDS, [[40.0, 41.0, 42.0], [35.0, 36.0, 35.5]])
    errors["pretrained"] = [pretrained, [each - 6 for each in pretrained]]
    values = {"counts": [10, 100], "seeds": [1, 2, 3], "errors": errors}
    assert transfer.verdict(values).outcome == outcome
    (table,) = transfer.tables(values)
    assert table.rows[0] == ("random start", "41.00 ± 1.00", "35.50 ± 0.50")


def test_a_trial_from_start_to_end(small_images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(grid, "TRAINER", (sys.executable, str(ROOT / "tests" / "paper" / "fake_trainer.py")))
    data = shutil.copytree(small_images, tmp_path / "before" / "data")
    (data / "train" / "blue_disk" / "00.jpg").write_bytes(b"not an image")
    argv = [f"--data_dir={data}", f"--results_dir={tmp_path}", "--quick"]
    assert experiment.main("transfer", argv) == 0
    assert "train: 1 files are not images: blue_disk/00.jpg; left out" in capsys.readouterr().out
    # Links to images that are elsewhere now are renewed.
    argv[0] = f"--data_dir={data.rename(tmp_path / 'data')}"
    assert experiment.main("transfer", argv) == 0
    found = json.loads((tmp_path / "quick" / "transfer.json").read_text())["values"]
    assert found["counts"] == [2, 4] and found["errors"]["random"] == [[32, 33]] * 2
    assert all(np.shape(each) == (2, 2) for each in found["errors"].values())
    (images,) = tmp_path.glob("quick/transfer/*/2/images2012")
    assert [len(list(images.glob(f"{split}/*/*.jpg"))) for split in ("train", "val")] == [6, 9]
    assert {each.resolve() for each in images.glob("val/*/*")} == set(tmp_path.glob("data/val/*/*"))
    flags = (images.parent / "pretrained" / "seed2012" / "flags.cfg").read_text()
    assert "--initial_weights=imagenette" in flags
    assert "Cannot be told: fewer than 3 seeds." in capsys.readouterr().out
