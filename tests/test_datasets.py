"""Where ImageNet is found; bad and shared files are tested with runs in tests/test_train.py."""

import dataclasses
import io
import tarfile

import pytest

from keras_alexnet import datasets
from keras_alexnet.config import DataConfig
from keras_alexnet.data import shapes, sources
from keras_alexnet.data.record_sets import MANIFEST
from keras_alexnet.errors import UsageError

# The classes of the official validation images 1, 2 and 3.
IDS = ("n01751748", "n02105855", "n09193705")


def jpeg(seed):
    buffer = io.BytesIO()
    shapes.draw("red_star", seed).resize((40, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


def tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def write_archives(folder):
    """The two official archives in miniature."""
    inner = {f"{each}.tar": tar({f"{each}_{number}.JPEG": jpeg(number) for number in (1, 2)}) for each in IDS}
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar(inner))
    (folder / "ILSVRC2012_img_val.tar").write_bytes(
        tar({f"ILSVRC2012_val_{number:08d}.JPEG": jpeg(number) for number in (1, 2, 3)})
    )


def test_imagenet_is_prepared_from_the_official_archives_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.record_sets, "is_prepared", lambda name, folder: False)
    with pytest.raises(UsageError, match="--dataset=imagenet2012: is missing in data"):
        datasets.find_imagenet(DataConfig(), may_prepare=True)
    shown = capsys.readouterr().err
    assert "https://image-net.org" in shown and "ILSVRC2012_img_val.tar, not unpacked, into data\n" in shown
    (tmp_path / "data").mkdir()
    write_archives(tmp_path / "data")
    with pytest.raises(UsageError, match="the archives in data/? are not prepared yet"):
        datasets.find_imagenet(DataConfig())
    found = datasets.find_imagenet(DataConfig(), may_prepare=True)
    assert (found.dataset, found.data_dir) == ("records", "data/imagenet256")
    train_source, val_source = sources.open_training(found)
    assert (train_source.count, val_source.count) == (6, 3)
    monkeypatch.setattr(datasets.prepare, "prepare", None)
    assert datasets.find_imagenet(DataConfig(), may_prepare=True) == found
    assert datasets.find_imagenet(DataConfig(data_dir="data/imagenet256")) == found


def test_a_prepared_set_of_tensorflow_datasets_comes_before_archives(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.record_sets, "is_prepared", lambda name, folder: folder == str(tmp_path))
    data = DataConfig(data_dir=str(tmp_path))
    write_archives(tmp_path)
    assert datasets.find_imagenet(data, may_prepare=True) == data
    (tmp_path / MANIFEST).write_text("{}")
    assert datasets.find_imagenet(data).dataset == "records"
    split = dataclasses.replace(data, train_split="train[:10%]")  # of TensorFlow Datasets: records have no such splits
    assert datasets.find_imagenet(split) == split
    other = DataConfig(dataset="tf_flowers")
    assert datasets.find_imagenet(other) is other
