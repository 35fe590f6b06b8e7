"""The sets of a run: where ImageNet is found, files that both sets share, and what a dry run names."""

import dataclasses
import io
import shutil
import tarfile

import pytest

from keras_alexnet import datasets, train
from keras_alexnet.cli import run_command
from keras_alexnet.config import DataConfig
from keras_alexnet.data import shapes, sources
from keras_alexnet.data.record_sets import MANIFEST
from keras_alexnet.errors import UsageError
from tests.runs import TINY_RUN

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


def test_validation_images_that_are_training_images_are_counted(small_images, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(small_images, data)
    shutil.copy(data / "train" / "blue_disk" / "0.jpg", data / "val" / "red_square" / "again.jpg")
    assert datasets.shared_files(*sources.open_folder(data)) == 1
    argv = [*TINY_RUN, f"--data_dir={data}", f"--model_dir={tmp_path / 'run'}", "--epochs=1", "--noexport"]
    assert run_command("train", train.main, argv) == 0
    assert "1 of 10 validation images are training images too" in capsys.readouterr().err


@pytest.mark.parametrize(("policy", "code"), [("skip", 0), ("fail", 1)])
def test_a_dry_run_names_what_is_not_an_image(policy, code, small_images, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(small_images, data)
    (data / "train" / "blue_disk" / "bad.jpg").write_text("not an image")
    argv = [*TINY_RUN, f"--data_dir={data}", f"--model_dir={tmp_path / 'run'}", "--dry_run", f"--bad_images={policy}"]
    assert run_command("train", train.main, argv) == code
    shown = capsys.readouterr()
    assert "1 file is not an image: train/blue_disk/bad.jpg" in shown.out
    assert ("18 images of 3 classes" in shown.out) == (policy == "skip") and not (tmp_path / "run").exists()
