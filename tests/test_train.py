import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import __version__, config as configs, datasets, evaluate, export, loop, predict, train
from keras_alexnet.model import weights
from keras_alexnet.paper import experiment
from keras_alexnet.training import metrics
from tests.runs import SMALL_CLASSES, TINY_RUN, call, history, newest, points, refusal, state


@pytest.fixture
def data(small_images, tmp_path):
    return shutil.copytree(small_images, tmp_path / "data")


def test_from_training_to_prediction(run_of_three_epochs, small_images, tmp_path):
    run, rows = run_of_three_epochs, history(run_of_three_epochs)
    columns = "epoch loss top1_error top5_error val_loss val_top1_error val_top5_error learning_rate images_per_second"
    assert list(rows[0])[:9] == columns.split() and [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    assert len([name for name in state(run) if name.endswith(("_tower0/kernel", "_tower1/kernel"))]) == 2 * 2 * 7
    assert (run / "class_names.txt").read_text().split() == list(SMALL_CLASSES)
    (record,) = json.loads((run / "provenance.json").read_text())
    assert record["keras_alexnet"] == __version__ and record["device"].endswith(tf.__version__)
    assert (record["training_set"]["images"], record["validation_set"]["images"]) == (18, 9)

    assert call(evaluate, f"--model_dir={run}", f"--json={tmp_path / 'figures.json'}")[0] == 0
    measured = json.loads((tmp_path / "figures.json").read_text())["result"]
    assert measured == {name: pytest.approx(float(rows[-1][f"val_{name}"]), rel=1e-4, abs=1e-5) for name in measured}

    assert call(export, f"--model_dir={run}")[0] == 0
    images = sorted((small_images / "val").glob("*/*.jpg"))
    first, second = (call(predict, f"--model={run}/export/{each}", "--format=jsonl", *images) for each in "12")
    assert first == second and first[0] == 0
    answers = [json.loads(line)["classes"][0] for line in first[1].splitlines()]
    wrong = sum(answer != path.parent.name for answer, path in zip(answers, images, strict=True))
    assert 100 * wrong / len(images) == pytest.approx(float(rows[-1]["val_top1_error"]), abs=1e-3)


def test_a_point_for_each_epoch_histograms_and_a_profile(tiny_run, small_images, tmp_path):
    flags = ["--summary_steps=100", "--histograms", "--profile=2,3", f"--statistics={tiny_run / 'statistics.npz'}"]
    argv = [f"--data_dir={small_images}", f"--model_dir={tmp_path}", "--epochs=2", "--noexport"]
    assert call(train, *TINY_RUN, *argv, *flags)[0] == 0
    found, rows = points(tmp_path, "train"), history(tmp_path)
    assert found["curves/loss"] == [
        (3 * int(row["epoch"]), pytest.approx(float(row["loss"]), rel=1e-4)) for row in rows
    ]
    errors = [(3 * int(row["epoch"]), pytest.approx(float(row["val_mean_squared_error"]), rel=1e-4)) for row in rows]
    assert points(tmp_path, "val")["curves/mean_squared_error"] == errors
    assert [step for step, _ in found["conv1/kernel"]] == [3, 6] and "fc8/bias" in found
    assert [row["val_loss"] for row in rows] == [row["val_loss"] for row in history(tiny_run)[:2]]
    assert list((tmp_path / "logs" / "plugins" / "profile").iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--data_dir={tmp}/nowhere", "nowhere: is not a folder"),
        ("--devices=GPU:7", "GPU:7 is missing, there are CPU:0"),
        ("--model_dir={tmp}/file", "is a file; name a folder"),
        ("--model_dir={data}/train", "is inside the images of --data_dir"),
        ("--model_dir={tmp}/logged", "holds TensorBoard's files of something else; name another folder"),
        ("--model_dir={run} --momentum=0.5", "--momentum=0.5 (the run has 0.9)"),
        ("--model_dir={tmp}/a\\b", "must not contain [ ] * ? or \\"),
        ("--batch_size=9 --strategy=mirrored --devices=CPU:0,CPU:1", "must be a multiple of the 2 replicas"),
        ("--statistics={run}/flags.cfg", "give a statistics.npz of another run"),
        ("--statistics={tmp}/other.npz", "is of another training set"),
        (
            "--statistics={tmp}/gray.npz",
            "gray.npz: has no covariance of colors, as imported weights have none; give --pca_color=none",
        ),
        ("--initial_weights={tmp}/nowhere", "there is no such file or folder"),
        ("--initial_weights={tmp}/nowhere --dataset=imagenet2012 --data_dir=", "there is no such file or folder"),
        ("--initial_weights={run} --width=0.125", "its network has --width=0.0625, and this run has 0.125"),
        ("--initial_weights={run} --topology=conv6 --new_layers=fc6,fc8", "conv6/kernel should be (3, 3, 6, 16)."),
        ("--initial_weights={tmp}/tiny.npz", "conv1/kernel should be (11, 11, 3, 6). Received"),
    ],
)
def test_what_is_refused_before_anything_is_trained(flags, words, tiny_run, data, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "logged" / "logs" / "train").mkdir(parents=True)
    (tmp_path / "logged" / "logs" / "train" / "events.out.tfevents.1").touch()
    np.savez(tmp_path / "tiny.npz", **{"conv1/kernel": np.zeros((11, 11, 3, 9))})
    with np.load(tiny_run / "statistics.npz") as statistics:
        np.savez(tmp_path / "other.npz", **{**statistics, "fingerprint": "0"})
        gray = {"fingerprint": "", "rgb_covariance": np.zeros((3, 3))}  # as of imported weights
        np.savez(tmp_path / "gray.npz", **{**statistics, **gray})
    argv = flags.format(tmp=tmp_path, run=tiny_run, data=data).split()
    line = refusal(train, *TINY_RUN, f"--data_dir={data}", f"--model_dir={tmp_path / 'run'}", *argv)
    assert line.startswith(argv[0].partition("=")[0]) and words in line
    assert newest(tmp_path / "run") is None


def test_a_new_layer_on_layers_of_another_run_that_stay_as_they_are(tiny_run, small_images, tmp_path):
    first, folder = shutil.copytree(tiny_run / "export" / "1", tmp_path / "first"), tmp_path / "run"
    argv = [*TINY_RUN, f"--data_dir={small_images}", f"--model_dir={folder}", "--noexport", "--topology=conv6"]
    known = shutil.copy(tiny_run / "statistics.npz", tmp_path / "known.npz")
    argv += [
        "--new_layers=conv6,fc6,fc8",
        f"--statistics={known}",
        "--lr_policy=schedule",
        "--lr_schedule=0:conv=0,0:conv6=0.01,0:bias=0",
    ]
    assert call(train, *argv, f"--initial_weights={first}", "--epochs=1")[0] == 0
    before, after = weights.read(str(first)), weights.read(newest(folder))
    for name in ("conv1/kernel", "conv1/bias"):
        np.testing.assert_array_equal(after[name], before[name])
    assert after["conv6/kernel"].shape == (3, 3, 6, 16)
    assert abs(after["fc8/kernel"] - before["fc8/kernel"]).max() > 1e-3
    shutil.rmtree(first)
    known.unlink()
    assert call(train, *argv, f"--initial_weights={first}", "--epochs=2")[0] == 0
    assert len(history(folder)) == 2
    assert "--initial_weights= (the run has" in refusal(train, *argv, "--epochs=3")


def test_bad_files_are_named_counted_and_left_out(data, tmp_path):
    whole = (data / "train" / "blue_disk" / "0.jpg").read_bytes()
    bad = {
        "train/blue_disk/cut.jpg": whole[: len(whole) // 2],
        "train/red_square/empty\x1b.png": b"",
        "val/red_square/notes.txt": b"not an image",
        "val/red_square/text.jpg": b"not an image",
    }
    for name, content in {**bad, "val/red_square/0.jpg": whole}.items():
        (data / name).write_bytes(content)
    names = [name.replace("\x1b", "\\x1b") for name in bad]
    flags = [*TINY_RUN, f"--data_dir={data}", "--epochs=1", "--noexport"]
    code, shown, error = call(train, *flags, f"--model_dir={tmp_path / 'skip'}")
    assert code == 0 and f"4 files are not images: {', '.join(names)}; all are listed in" in shown
    assert "18 images of 3 classes" in shown and "validation: 9 images" in shown
    assert "1 of 10 validation images are training images too" in error
    assert sorted((tmp_path / "skip" / "skipped.txt").read_text().splitlines()) == names
    # Refused, mended, and the same command again.
    fail = [*flags, f"--model_dir={tmp_path / 'fail'}", "--bad_images=fail"]
    assert "4 files are not images: " in call(train, *fail)[2]
    assert sorted((tmp_path / "fail" / "skipped.txt").read_text().splitlines()) == names
    for name in bad:
        (data / name).unlink()
    assert call(train, *fail)[0] == 0
    assert not (tmp_path / "fail" / "skipped.txt").exists()
    for path in (data / "val" / "red_square").iterdir():
        path.write_text("not an image")
    assert "val/red_square holds no image that can be read" in call(train, *flags, f"--model_dir={tmp_path / 'new'}")[2]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("damaged", "1 file is not an image: train/blue_disk/3.jpg. Restore the originals"),
        ("mended", "Every file can be read now; the same command resumes"),
        ("gone", "data back as it was, and the same command resumes"),
    ],
)
def test_images_that_cannot_be_read_any_more_are_named(what, words, tiny_run, data, tmp_path, monkeypatch):
    run, path = shutil.copytree(tiny_run, tmp_path / "run"), data / "train/blue_disk/3.jpg"
    whole, find = path.read_bytes(), datasets.find_bad_files
    path.write_bytes(bytes(len(whole)))  # a fault of the disk: the name and the size are as before

    def change_and_find(*arguments):
        if what == "mended":
            path.write_bytes(whole)
        elif what == "gone":
            data.rename(tmp_path / "elsewhere")
        return find(*arguments)

    monkeypatch.setattr(datasets, "find_bad_files", change_and_find)
    line = refusal(train, *TINY_RUN, f"--data_dir={data}", f"--model_dir={run}", "--epochs=4", code=1)
    assert line.startswith("an image could not be read: ") and words in line
    assert len(history(run)) == 3


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(small_images, tmp_path):
    flags = [*TINY_RUN, f"--data_dir={small_images}", f"--model_dir={tmp_path}", "--noexport", "--epochs=3"]
    line = refusal(train, *flags, "--learning_rate=1e30", code=1)
    assert "the loss is" in line and "there is no checkpoint yet" in line
    assert not (tmp_path / "history.csv").exists()
    line = refusal(train, *flags, "--lr_policy=schedule", "--lr_schedule=1:1e30", code=1)
    assert "the checkpoint epoch-1 is kept" in line
    ((step, words),) = points(tmp_path, "train")["warnings"]
    assert step >= 3 and "the loss is" in str(words) and len(history(tmp_path)) == 1
    assert all(np.isfinite(value).all() for name, value in state(tmp_path).items())


def test_a_dry_run_says_what_the_run_would_take_and_writes_nothing(data, tmp_path, monkeypatch):
    argv = [*TINY_RUN, f"--data_dir={data}", f"--model_dir={tmp_path / 'run'}", "--epochs=3", "--dry_run"]
    (data / "val" / "blue_disk" / "text.jpg").write_text("not an image")
    (data / "train" / "blue_disk" / "0.jpg").write_bytes(b"")
    code, shown, _ = call(train, *argv)
    assert code == 0 and "2 files are not images: train/blue_disk/0.jpg, val/blue_disk/text.jpg" in shown
    assert "17 images of 3 classes" in shown and "steps:      3 an epoch, 9 in 3 epochs to go" in shown
    parameters = int(shown.partition("1 tower, ")[2].partition(" parameters")[0].replace(",", ""))
    # Weights and velocities, for three checkpoints, those of the last and the best epoch and one being written.
    assert f"disk:       {(8 * 6 + 4) * parameters / 1e9:.2f} GB for 3 checkpoints" in shown
    assert "training would stop at these files" in refusal(train, *argv, "--bad_images=fail", code=1)
    monkeypatch.chdir(tmp_path)
    argv += ["--dataset=shapes", "--data_dir=", "--shapes_train=2", "--shapes_val=1"]
    assert "the loss is" in refusal(train, *argv, "--learning_rate=1e30", code=1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**5))
    assert "0.00 GB are free and 0.00 GB are needed; make room" in refusal(train, *argv)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_an_unsplit_folder_from_training_to_its_neighbors(small_images, tmp_path):
    data, run = tmp_path / "images", tmp_path / "run"
    shutil.copytree(small_images / "train", data)
    argv = [*TINY_RUN, f"--data_dir={data}", f"--model_dir={run}", "--epochs=1", "--val_fraction=0.3"]
    for inside in (data / "blue_disk" / "run", data / "run", data):
        assert "is inside the images of --data_dir" in refusal(train, *argv, f"--model_dir={inside}")
    code, shown, _ = call(train, *argv)
    assert code == 0 and "chosen by content (--val_fraction, --split_seed)" in shown
    assert call(evaluate, f"--model_dir={run}", f"--json={tmp_path / 'figures.json'}")[0] == 0
    report = json.loads((tmp_path / "figures.json").read_text())
    assert report["result"]["loss"] == pytest.approx(float(history(run)[0]["val_loss"]), rel=1e-4)
    results = tmp_path / "results"
    argv = ["--model_dir", run, "--data_dir", data, "--results_dir", results, "--pictures=2", "--queries=2"]
    assert experiment.main("figure4", [str(each) for each in argv]) == 0
    values = experiment.read("figure4", str(results))["values"]
    assert values["data"]["pictures"] == report["set"]["images"] == 18 - values["data"]["index_pictures"]
    assert values["split"]["top1_error"] == pytest.approx(report["result"]["top1_error"])
    assert all((data / row["file"]).is_file() for row in (*values["predictions"], *values["rows"]))


def test_what_speaks_against_a_good_result(tiny_run, small_images, tmp_path):
    few = configs.TrainingConfig(epochs=10)
    assert loop.concerns(few, (), 30) == [] and loop.concerns(few, ((9, "", 0.001),), 30) == []
    assert loop.concerns(few, ((10, "", 0.001),), 30) == [
        "the change of --lr_schedule after epoch 10 is never reached; raise --epochs above 10 or make it earlier"
    ]
    words = "290 training steps are few for a useful network; raise --epochs to 11 or lower --batch_size"
    assert loop.concerns(few, (), 29) == [words]
    trained = dataclasses.replace(few, initial_weights="run")
    assert loop.concerns(trained, (), 10) == [] and len(loop.concerns(trained, (), 9)) == 1
    # A network that learns nothing is no better than the most frequent class.
    argv = [*TINY_RUN, f"--data_dir={small_images}", f"--model_dir={tmp_path}", "--epochs=1", "--noexport"]
    _, shown, _ = call(train, *argv, "--learning_rate=0")
    assert "warning:    3 training steps are few" in shown
    error = float(history(tmp_path)[0]["val_top1_error"])
    assert ("no better than always giving the most frequent class (66.67 %)" in shown) == (error >= 66.66)


@pytest.mark.parametrize("more", [["--dry_run"], []], ids=["dry_run", "train"])
def test_a_step_that_is_too_large_says_what_would_fit(more, small_images, tmp_path, monkeypatch):
    per_image = metrics.per_image

    def huge(logits, labels):
        return per_image(logits + tf.reduce_mean(tf.random.normal((1 << 14, 1 << 20, 1 << 10))), labels)  # 64 TB

    monkeypatch.setattr(metrics, "per_image", huge)
    argv = [*TINY_RUN, f"--data_dir={small_images}", f"--model_dir={tmp_path / 'run'}", *more]
    line = refusal(train, *argv, code=1)
    assert line.startswith("out of memory (OOM when allocating tensor with shape[16384,1048576,1024]")
    assert re.search(r"\); a step takes at least .* GB with --batch_size=4 --precision=mixed_bfloat16$", line)
