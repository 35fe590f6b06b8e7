"""The main job on a handful of pictures and a network of a sixteenth of the width: everything it writes and refuses."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import export, predict, train
from keras_alexnet.cli import run_command
from keras_alexnet.data import shapes
from keras_alexnet.model import weights as weights_of_model
from keras_alexnet.serving import client
from tests.conftest import SMALL_CLASSES as CLASSES
from tests.conftest import TINY_RUN as TINY
from tests.conftest import history

COLUMNS = [
    "epoch",
    "loss",
    "top1_error",
    "top5_error",
    "val_loss",
    "val_top1_error",
    "val_top5_error",
    "learning_rate",
    "images_per_second",
]


@pytest.fixture(scope="module")
def pictures(small_pictures):
    return small_pictures


@pytest.fixture(scope="module")
def run(run_of_three_epochs):
    return run_of_three_epochs


def command(*argv):
    return run_command("train", train.main, [*TINY, *argv])


def weights(folder):
    reader = tf.train.load_checkpoint(str(folder / "checkpoints"))
    found = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if name != "progress"}
    assert len(found) > 30
    return found


def points(folder, split):
    """tag -> list of (step, tensor), of a run's TensorBoard files."""
    found = {}
    for path in sorted((folder / "logs" / split).iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, tf.make_ndarray(value.tensor)))
    return found


def scalars(folder, split):
    """tag -> steps."""
    return {tag: [step for step, _ in found] for tag, found in points(folder, split).items()}


def values(folder, split):
    """tag -> numbers."""
    return {tag: [float(value) for _, value in found] for tag, found in points(folder, split).items() if tag != "conv1"}


def test_a_run_writes_what_others_read(run):
    rows = history(run)
    assert list(rows[0])[: len(COLUMNS)] == COLUMNS
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    with np.load(run / "statistics.npz", allow_pickle=False) as statistics:
        assert statistics["mean_image"].shape == (256, 256, 3)
        assert statistics["rgb_mean"].shape == (3,) and statistics["rgb_covariance"].shape == (3, 3)
        assert statistics["count"] == 18
    assert (run / "class_names.txt").read_text().split() == list(CLASSES)
    assert "--batch_size=8\n" in (run / "flags.cfg").read_text()
    assert (run / "export" / "1" / "saved_model.pb").is_file()


def test_tensorboard_gets_curves_rate_speed_and_filters(run):
    curves = scalars(run, "train")
    assert curves["loss"] == list(range(1, 10))  # 3 epochs of 3 steps, a point for each
    assert curves["learning_rate"] == curves["images_per_second"] == curves["conv1"] == [3, 6, 9]
    assert scalars(run, "val")["top1_error"] == scalars(run, "val")["mean_squared_error"] == [3, 6, 9]


def test_the_curves_are_means_of_their_batches(run):
    """With a point for each of an epoch's three batches (8, 8 and 2 images) they add up to the epoch's mean."""
    points = values(run, "train")["top1_error"]
    for epoch, row in enumerate(history(run)):
        mean = np.average(points[3 * epoch : 3 * epoch + 3], weights=[8, 8, 2])
        assert mean == pytest.approx(float(row["top1_error"]), rel=1e-4)
    assert values(run, "val")["top1_error"] == pytest.approx([float(row["val_top1_error"]) for row in history(run)])


def test_a_run_that_went_on_ends_as_one_that_was_not_interrupted(run, pictures, tmp_path):
    common = [f"--data_dir={pictures}", f"--model_dir={tmp_path / 'parts'}"]
    assert command(*common, "--epochs=1") == 0
    assert command(*common, "--epochs=3") == 0
    whole, parts = weights(run), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(value, parts[name], err_msg=name)
    for a, b in zip(history(run), history(tmp_path / "parts"), strict=True):
        assert {**a, "images_per_second": 0} == {**b, "images_per_second": 0}


def test_its_own_flags_repeat_a_run(run, tmp_path):
    assert (
        run_command("train", train.main, [f"--flagfile={run / 'flags.cfg'}", f"--model_dir={tmp_path / 'again'}"]) == 0
    )
    assert [row["val_loss"] for row in history(tmp_path / "again")] == [row["val_loss"] for row in history(run)]


def test_other_flags_are_refused(run, pictures, capsys):
    assert command(f"--data_dir={pictures}", f"--model_dir={run}", "--epochs=3", "--momentum=0.5") == 2
    assert "--momentum=0.5 (the run has 0.9)" in capsys.readouterr().err


def test_a_run_that_is_done_says_so(run, pictures, capsys):
    assert command(f"--data_dir={pictures}", f"--model_dir={run}", "--epochs=3") == 0
    assert "is done: 3 epochs" in capsys.readouterr().out


def test_a_damaged_checkpoint_gives_way_to_the_one_before(run, pictures, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "damaged")
    newest = tmp_path / "damaged" / "checkpoints" / "epoch-3.index"
    newest.write_bytes(newest.read_bytes()[:20])
    assert command(f"--data_dir={pictures}", f"--model_dir={tmp_path / 'damaged'}", "--epochs=3") == 0
    shown = capsys.readouterr()
    assert "going on after epoch 2" in shown.out and "epoch-3: cannot be read" in shown.err
    assert [row["val_loss"] for row in history(tmp_path / "damaged")] == [row["val_loss"] for row in history(run)]


def test_a_run_goes_on_with_one_device_instead_of_two_and_back(run, pictures, tmp_path):
    """Two devices in processes of their own: they are made before anything runs."""
    flags = [f"--data_dir={pictures}", f"--model_dir={tmp_path / 'two'}"]

    def on_two(epochs):
        command = [sys.executable, "-m", "keras_alexnet.train", *TINY, *flags, f"--epochs={epochs}"]
        subprocess.run([*command, "--devices=CPU:0,CPU:1"], check=True, capture_output=True)

    on_two(1)
    assert command(*flags, "--epochs=2") == 0
    on_two(3)
    for one, two in zip(history(run), history(tmp_path / "two"), strict=True):
        # The same operations in another order of adding up: float32 over three steps an epoch.
        assert float(two["val_loss"]) == pytest.approx(float(one["val_loss"]), rel=1e-4)


def answers_of(folder, files):
    """(file, [(class name, probability), best first]) of an exported model."""
    for file, answer in predict.predict(client.open_client(str(folder)), files):
        yield file, list(zip(answer["classes"].tolist(), answer["scores"].tolist(), strict=True))


def first_weights(folder):
    """What a run begins with, by name."""
    return weights_of_model.read(str(folder / "checkpoints" / "epoch-1"))


@pytest.mark.parametrize("towers", [2, 1])
def test_fine_tuning_begins_with_the_layers_of_another_run_but_the_last(run, pictures, towers, tmp_path):
    """With a rate of 0 for them, they stay as they were."""
    common = ["--towers=" + str(towers), "--epochs=1", "--noexport", "--lr_policy=schedule"]
    frozen = "--lr_schedule=0:conv=0,0:fc6=0,0:fc7=0,0:bias=0"
    tuned = tmp_path / "tuned"
    argv = [f"--data_dir={pictures}", f"--model_dir={tuned}", f"--initial_weights={run}", frozen]
    assert command(*common, *argv) == 0
    before = weights_of_model.read(str(run))
    after = weights_of_model.to_towers(first_weights(tuned))
    for name, value in after.items():
        if name.startswith("fc8/kernel"):
            assert abs(value - before[name]).max() > 1e-3
        elif name != "fc8/bias":
            np.testing.assert_array_equal(value, before[name], name)


def test_a_sixth_convolution_on_the_convolutions_of_another_run(run, pictures, tmp_path):
    """As the release went from network 145 to 146: conv1-5 from the one, and the rest new."""
    folder = tmp_path / "conv6"
    new = ["--topology=conv6", f"--initial_weights={run}", "--new_layers=conv6,fc6,fc7,fc8", "--epochs=1"]
    frozen = ["--lr_policy=schedule", "--lr_schedule=0:conv=0,0:conv6=0.01,0:bias=0"]
    assert command(f"--data_dir={pictures}", f"--model_dir={folder}", *new, *frozen) == 0
    before, after = weights_of_model.read(str(run)), weights_of_model.read(str(folder / "export" / "1"))
    for tower in (0, 1):
        for index in range(1, 6):
            name = f"conv{index}_tower{tower}/kernel"
            np.testing.assert_array_equal(after[name], before[name])
        assert after[f"conv6_tower{tower}/kernel"].shape == (3, 3, 16, 8)
        assert np.any(after[f"fc6_tower{tower}/kernel"] != before[f"fc6_tower{tower}/kernel"])


def test_fine_tuning_goes_on_without_what_it_began_with(run, pictures, tmp_path):
    shutil.copytree(run / "export" / "1", tmp_path / "first")
    flags = [f"--data_dir={pictures}", f"--model_dir={tmp_path / 'run'}", "--noexport"]
    begin = f"--initial_weights={tmp_path / 'first'}"
    assert command(*flags, begin, "--epochs=1") == 0
    shutil.rmtree(tmp_path / "first")
    assert command(*flags, begin, "--epochs=2") == 0
    assert len(history(tmp_path / "run")) == 2
    assert command(*flags, "--epochs=3") == 2  # without it, it is another run


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--initial_weights={tmp}/nowhere"], "there is no such file or folder"),
        (["--initial_weights={run}", "--width=0.125"], "its network has --width=0.0625, and this one 0.125"),
        (["--initial_weights={run}", "--variant=paper"], "its network has --variant=release2012, and this one paper"),
        (["--initial_weights={run}/export/1", "--variant=caffe"], "its network has --variant=release2012"),
        (["--initial_weights={run}", "--towers=1", "--groups=1"], "conv2/kernel should be"),
        (
            ["--initial_weights={run}", "--topology=conv6"],
            "conv6_tower0/kernel should be (3, 3, 16, 8). Received: missing",
        ),
        (["--initial_weights={tmp}/tiny.npz"], "conv1_tower0/kernel should be (11, 11, 3, 3). Received"),
    ],
)
def test_initial_weights_that_do_not_fit(flags, words, run, pictures, tmp_path, capsys):
    np.savez(tmp_path / "tiny.npz", **{"conv1_tower0/kernel": np.zeros((11, 11, 3, 9))})
    argv = [each.format(tmp=tmp_path, run=run) for each in flags]
    assert command(f"--data_dir={pictures}", f"--model_dir={tmp_path / 'run'}", *argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("train: --initial_weights=") and words in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--topology=half"], "--topology=half: half is one tower without groups"),
        (["--topology=separate", "--towers=1"], "--topology=separate: separate towers are two"),
        (["--removed_layers=conv3,conv1"], "--removed_layers=conv3,conv1: removed_layers must be of conv2"),
        (["--new_layers=fc9"], "--new_layers: there is no layer 'fc9'"),
    ],
)
def test_networks_that_there_are_not(flags, words, pictures, tmp_path, capsys):
    assert command(f"--data_dir={pictures}", f"--model_dir={tmp_path / 'run'}", *flags) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_export_answers_as_the_network_validates(run, pictures):
    files = sorted(str(path) for path in (pictures / "val").glob("*/*.jpg"))
    answers = list(answers_of(run / "export" / "1", files))
    wrong = sum(classes[0][0] != file.split("/")[-2] for file, classes in answers)
    assert 100 * wrong / len(files) == pytest.approx(float(history(run)[-1]["val_top1_error"]), abs=1e-3)
    assert all(len(classes) == 3 and sum(score for _, score in classes) == pytest.approx(1) for _, classes in answers)


def test_export_again_makes_the_next_version_with_the_same_answers(run, pictures, capsys):
    assert run_command("export", export.main, [f"--model_dir={run}"]) == 0
    again = capsys.readouterr().out.split()[-1]
    assert int(again.removeprefix(str(run / "export") + "/")) > 1
    photo = str(next((pictures / "val").glob("*/*.jpg")))
    first, second = (list(answers_of(version, [photo])) for version in (run / "export" / "1", again))
    assert first == second


def test_bad_files_are_named_counted_and_left_out(pictures, tmp_path, capsys):
    shutil.copytree(pictures, tmp_path / "data")
    whole = (tmp_path / "data" / "train" / "blue_disk" / "0.jpg").read_bytes()
    (tmp_path / "data" / "train" / "blue_disk" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "data" / "train" / "red_square" / "empty.png").write_bytes(b"")
    (tmp_path / "data" / "val" / "red_square" / "text.jpg").write_text("not a picture")
    (tmp_path / "data" / "val" / "red_square" / "notes.txt").write_text("not a picture")
    common = [f"--data_dir={tmp_path / 'data'}", "--epochs=1", "--noexport"]
    assert command(*common, f"--model_dir={tmp_path / 'skip'}") == 0
    shown = capsys.readouterr().out
    assert "4 files are not images and are left out" in shown
    assert "18 images of 3 classes" in shown and "validation: 9 images" in shown
    named = {
        "train/blue_disk/cut.jpg",
        "train/red_square/empty.png",
        "val/red_square/text.jpg",
        "val/red_square/notes.txt",
    }
    assert set((tmp_path / "skip" / "skipped.txt").read_text().split()) == named
    assert command(*common, f"--model_dir={tmp_path / 'fail'}", "--bad_images=fail") == 1
    assert all(name in capsys.readouterr().err for name in ["4 files are not images"])
    assert not (tmp_path / "fail" / "checkpoints").exists()


def test_a_file_that_goes_bad_while_training_ends_the_run_in_one_line(pictures, tmp_path, capsys):
    shutil.copytree(pictures, tmp_path / "data")
    common = [f"--data_dir={tmp_path / 'data'}", f"--model_dir={tmp_path / 'run'}", "--noexport"]
    assert command(*common, "--epochs=1") == 0
    photo = tmp_path / "data" / "train" / "blue_disk" / "3.jpg"
    photo.write_bytes(bytes(photo.stat().st_size))  # a disk's fault: the name and the size are as before
    assert command(*common, "--epochs=2") == 1
    error = capsys.readouterr().err.strip()
    assert "blue_disk/3.jpg" in error and error.count("\n") == 0
    assert len(history(tmp_path / "run")) == 1


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(pictures, tmp_path, capsys):
    common = [f"--data_dir={pictures}", f"--model_dir={tmp_path / 'run'}", "--noexport", "--learning_rate=1e30"]
    assert command(*common, "--epochs=2") == 1
    error = capsys.readouterr().err.strip()
    assert "the loss is" in error and "there is no checkpoint yet" in error and error.count("\n") == 0
    assert not (tmp_path / "run" / "history.csv").exists()
    # With nothing to go on with, the same folder takes other flags.
    assert command(f"--data_dir={pictures}", f"--model_dir={tmp_path / 'run'}", "--noexport", "--epochs=1") == 0


def test_the_checkpoint_before_a_loss_that_is_not_finite_is_kept(pictures, tmp_path, capsys):
    schedule = ["--lr_policy=schedule", "--lr_schedule=1:1e30", "--noexport"]
    assert command(f"--data_dir={pictures}", f"--model_dir={tmp_path / 'run'}", "--epochs=3", *schedule) == 1
    assert "the checkpoint after epoch 1 is kept" in capsys.readouterr().err
    ((step, words),) = points(tmp_path / "run", "train")["warnings"]
    assert step >= 3 and "the loss is" in str(words)
    assert [row["epoch"] for row in history(tmp_path / "run")] == ["1"]
    assert all(np.isfinite(value).all() for name, value in weights(tmp_path / "run").items())


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda root: None, "there is no folder"),
        (lambda root: (root / "train").mkdir(parents=True), "holds no class folders"),
        (lambda root: (root / "train" / "cat").mkdir(parents=True), "holds no images"),
    ],
)
def test_folders_without_pictures_are_refused_before_anything_is_written(make, words, tmp_path, capsys):
    make(tmp_path / "data")
    assert command(f"--data_dir={tmp_path / 'data'}", f"--model_dir={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err.strip()
    assert words in error and str(tmp_path / "data") in error and error.count("\n") == 0
    assert not (tmp_path / "run").exists()


def test_a_class_without_one_readable_image_is_refused(pictures, tmp_path, capsys):
    shutil.copytree(pictures, tmp_path / "data")
    for path in (tmp_path / "data" / "val" / "red_square").iterdir():
        path.write_text("not a picture")
    assert command(f"--data_dir={tmp_path / 'data'}", f"--model_dir={tmp_path / 'run'}") == 2
    assert "val/red_square holds no image that can be read" in capsys.readouterr().err


def test_statistics_of_another_run_are_taken_and_others_refused(run, pictures, tmp_path, capsys):
    given = f"--statistics={run / 'statistics.npz'}"
    assert command(f"--data_dir={pictures}", f"--model_dir={tmp_path / 'run'}", "--epochs=1", "--noexport", given) == 0
    assert history(tmp_path / "run")[0]["val_loss"] == history(run)[0]["val_loss"]
    shutil.copytree(pictures, tmp_path / "data")
    (tmp_path / "data" / "train" / "blue_disk" / "0.jpg").unlink()
    assert command(f"--data_dir={tmp_path / 'data'}", f"--model_dir={tmp_path / 'other'}", given) == 2
    assert "is of another training set" in capsys.readouterr().err
    for wrong in (tmp_path / "none.npz", run / "flags.cfg"):
        assert command(f"--data_dir={pictures}", f"--model_dir={tmp_path / 'third'}", f"--statistics={wrong}") == 2
        assert f"--statistics={wrong}: " in capsys.readouterr().err


def test_other_files_of_the_same_names_are_another_training_set(run, pictures, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(pictures, tmp_path / "data")
    shapes.draw("blue_disk", 999).save(tmp_path / "data" / "train" / "blue_disk" / "0.jpg")
    assert command(f"--data_dir={tmp_path / 'data'}", f"--model_dir={tmp_path / 'run'}", "--epochs=4") == 2
    assert "is of another training set" in capsys.readouterr().err


def test_other_classes_in_val_are_refused(pictures, tmp_path, capsys):
    shutil.copytree(pictures, tmp_path / "data")
    (tmp_path / "data" / "val" / "blue_disk").rename(tmp_path / "data" / "val" / "blue_cube")
    assert command(f"--data_dir={tmp_path / 'data'}", f"--model_dir={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert "only in train: blue_disk" in error and "only in val: blue_cube" in error


def test_a_device_that_is_not_there_is_refused_with_those_that_are(pictures, tmp_path, capsys):
    assert command(f"--data_dir={pictures}", f"--model_dir={tmp_path / 'run'}", "--devices=GPU:7") == 2
    assert "there is no GPU:7; present: CPU:0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_width_that_does_not_divide_is_refused(pictures, tmp_path, capsys):
    assert command(f"--data_dir={pictures}", f"--model_dir={tmp_path / 'run'}", "--width=0.01") == 2
    assert "--width=0.01" in capsys.readouterr().err


def test_a_layer_that_is_not_there_is_refused(pictures, tmp_path, capsys):
    argv = [f"--data_dir={pictures}", f"--model_dir={tmp_path / 'run'}", "--lr_policy=schedule"]
    assert command(*argv, "--lr_schedule=1:conv9=0.1") == 2
    assert "no layer's name starts with 'conv9'" in capsys.readouterr().err


def test_model_dir_that_is_a_file_is_refused(pictures, tmp_path, capsys):
    (tmp_path / "run").write_text("")
    assert command(f"--data_dir={pictures}", f"--model_dir={tmp_path / 'run'}") == 2
    assert "is a file" in capsys.readouterr().err


def test_predict_refuses_what_is_no_picture(run, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("not a picture")
    common = [f"--model={run / 'export' / '1'}"]
    assert run_command("predict", predict.main, [*common, str(tmp_path / "text.jpg")]) == 1
    assert "text.jpg: not a JPEG or PNG file" in capsys.readouterr().err
    assert run_command("predict", predict.main, [*common, str(tmp_path / "none.jpg")]) == 2
    assert run_command("predict", predict.main, [f"--model={tmp_path}", str(tmp_path / "text.jpg")]) == 2
    assert run_command("export", export.main, [f"--model_dir={tmp_path}"]) == 2


def test_help_and_wrong_flags_never_load_tensorflow():
    code = (
        "import sys; from keras_alexnet import train; from keras_alexnet.cli import run_command\n"
        "assert run_command('train', train.main, ['--epochs=0']) == 2\n"
        "try: train.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--learning_rate" in done.stdout and done.stderr.count("\n") == 1
