"""Where ImageNet is found; bad and shared files are tested with runs in tests/test_train.py."""

import dataclasses
import json

import pytest

from keras_alexnet import datasets
from keras_alexnet.config import DataConfig
from keras_alexnet.data import sources
from keras_alexnet.data.records import MANIFEST
from keras_alexnet.errors import ArgumentError, UsageError
from tests.data import test_imagenet


def test_imagenet_is_prepared_from_the_official_archives_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.records, "is_prepared", lambda name, folder: False)
    with pytest.raises(UsageError, match="--dataset=imagenet2012: is missing in data"):
        datasets.find_imagenet(DataConfig(), may_prepare=True)
    shown = capsys.readouterr().err
    assert "https://image-net.org" in shown and "ILSVRC2012_img_val.tar, not unpacked, into data\n" in shown
    test_imagenet.write(tmp_path / "data")
    with pytest.raises(UsageError, match="the archives in data/? are not prepared yet"):
        datasets.find_imagenet(DataConfig())
    found = datasets.find_imagenet(DataConfig(), may_prepare=True)
    assert (found.dataset, found.data_dir) == ("records", "data/imagenet256")
    assert [source.count for source in sources.open_training(found)] == [9, 3]
    assert json.loads((tmp_path / found.data_dir / MANIFEST).read_text())["wordnet_ids"] == list(test_imagenet.IDS)
    assert "note: the official archives hold 1,281,167 training images" in capsys.readouterr().err
    monkeypatch.setattr(datasets.prepare, "prepare", None)
    assert datasets.find_imagenet(DataConfig(), may_prepare=True) == found
    assert datasets.find_imagenet(DataConfig(data_dir="data/imagenet256")) == found


def test_a_prepared_set_of_tensorflow_datasets_comes_before_archives(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.records, "is_prepared", lambda name, folder: folder == str(tmp_path))
    data = DataConfig(data_dir=str(tmp_path))
    test_imagenet.write(tmp_path)
    assert datasets.find_imagenet(data, may_prepare=True) == data
    (tmp_path / MANIFEST).write_text("{}")
    assert datasets.find_imagenet(data).dataset == "records"
    split = dataclasses.replace(data, train_split="train[:10%]")  # of TensorFlow Datasets: records have no such splits
    assert datasets.find_imagenet(split) == split
    monkeypatch.setattr(datasets.records, "is_prepared", lambda name, folder: False)
    with pytest.raises(ArgumentError, match="train_split is of the TensorFlow Datasets set, which is not in"):
        datasets.find_imagenet(split, may_prepare=True)
    with pytest.raises(UsageError, match="the archives in .* are not prepared yet"):  # of a command without the flag
        datasets.find_imagenet(split)
    other = DataConfig(dataset="tf_flowers")
    assert datasets.find_imagenet(other) is other
