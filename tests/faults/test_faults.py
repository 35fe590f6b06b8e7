"""What happens to a run of six days, done to a run of a minute, in processes of their own.

    python -m pytest -m slow tests/faults

Every fault ends in one clear line, and the same command then ends as an uninterrupted run does, to the bit.
"""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from keras_alexnet.training import checkpoints
from tests.conftest import TINY_RUN
from tests.test_session import assert_same
from tests.training.test_distribution import start_workers

ROOT = Path(__file__).parents[2]
EPOCHS = 30  # of three steps
KILLS = 20


@pytest.fixture(scope="module")
def flags(small_pictures):
    return [*TINY_RUN, f"--data_dir={small_pictures}", f"--epochs={EPOCHS}", "--noexport", "--learning_rate=0.003"]


@pytest.fixture(scope="module")
def uninterrupted(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert finish(start(flags, folder))[0] == 0
    return folder


def start(flags, folder, *more, **settings):
    command = [sys.executable, "-m", "keras_alexnet.train", *flags, f"--model_dir={folder}", *more]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        **settings,
    )


def finish(process):
    """(exit code, standard output, the last line of standard error, which has no stack trace)."""
    said, error = process.communicate(timeout=300)
    assert "Traceback" not in error, error
    return process.returncode, said, (error.strip().splitlines() or [""])[-1]


def until(process, words):
    """Reads what a process says up to a line that has these words."""
    for line in process.stdout:
        if words in line:
            return line
    raise AssertionError(f"it ended without {words!r}: {process.stderr.read()}")


def goes_on(flags, folder, uninterrupted, *more):
    code, _, error = finish(start(flags, folder, *more))
    assert code == 0, error
    assert_same(folder, uninterrupted)


def test_one_kill_in_its_middle(small_pictures, tmp_path):
    """The short form, for every commit."""
    flags = [*TINY_RUN, f"--data_dir={small_pictures}", "--noexport", "--epochs=8"]
    process = start(flags, tmp_path / "run", "--checkpoint_steps=2")
    until(process, "Epoch 3/8")
    process.kill()
    process.communicate()
    assert checkpoints.newest(str(tmp_path / "run" / "checkpoints"))
    assert finish(start(flags, tmp_path / "whole"))[0] == 0
    goes_on(flags, tmp_path / "run", tmp_path / "whole", "--checkpoint_steps=2")


@pytest.mark.slow
def test_kills_at_random_moments(flags, uninterrupted, tmp_path):
    rng = random.Random(2012)
    reached = []
    for number in range(KILLS):
        process = start(flags, tmp_path / "run", "--checkpoint_steps=2")
        if number % 4 == 3:
            time.sleep(rng.uniform(0, 6))  # it may not have got to its first step
        else:
            until(process, "first step")
            time.sleep(rng.uniform(0, 1.0))
        process.kill()
        process.communicate()
        newest = checkpoints.newest(str(tmp_path / "run" / "checkpoints"))
        reached.append(newest and checkpoints.place_of(newest))
    print("kills survived at:", ", ".join("none" if place is None else f"{place[0]}+{place[1]}" for place in reached))
    places = [place for place in reached if place]
    assert places == sorted(places) and places[-1] < (EPOCHS, 0)  # never back, and not over before the last kill
    goes_on(flags, tmp_path / "run", uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_at_random_moments(number, flags, uninterrupted, tmp_path):
    rng = random.Random(number)
    for _ in range(3):
        process = start(flags, tmp_path / "run", start_new_session=True)
        until(process, "first step")
        time.sleep(rng.uniform(0, 1.0))
        process.send_signal(number)
        code, _, error = finish(process)
        assert code == (130 if number == signal.SIGINT else 75), error
    goes_on(flags, tmp_path / "run", uninterrupted)


@pytest.fixture
def small_disk(tmp_path):
    """A function of a size that mounts a memory disk there, or changes it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options, remount=False):
        how = f"remount,{options}" if remount else options
        command = ["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no disk can be mounted here")
        return folder

    yield mount
    subprocess.run(["umount", "-l", str(folder)], capture_output=True)


@pytest.mark.slow
def test_a_full_disk(flags, uninterrupted, small_disk):
    disk = small_disk("size=9m")  # four checkpoints and one being written take 9.1 MB
    process = start(flags, disk / "run")
    said, error = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" not in error
    assert "GB are left on the disk" in error  # the warning before it
    last = error.strip().splitlines()[-1]
    assert "could not be written (" in last and "is kept" in last, last
    assert checkpoints.newest(str(disk / "run" / "checkpoints"))
    small_disk("size=60m", remount=True)
    goes_on(flags, disk / "run", uninterrupted)


@pytest.mark.slow
def test_a_disk_that_becomes_read_only(flags, uninterrupted, small_disk):
    disk = small_disk("size=60m")
    process = start(flags, disk / "run")
    until(process, "Epoch 5/")
    # Files are open for writing, which keeps a disk from being mounted anew: the folder of checkpoints is covered.
    folder = disk / "run" / "checkpoints"
    covered = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(folder)]
    subprocess.run(covered, check=True)
    code, _, error = finish(process)
    subprocess.run(["umount", str(folder)], check=True)
    assert code == 1 and "could not be written (" in error and "ead-only file system" in error, error
    goes_on(flags, disk / "run", uninterrupted)


@pytest.mark.slow
def test_a_read_only_folder_at_the_start(flags, small_disk):
    disk = small_disk("size=1m,ro")
    code, _, error = finish(start(flags, disk / "run"))
    assert code == 1 and "Read-only file system" in error and str(disk / "run") in error


@pytest.mark.slow
def test_flipped_bytes_of_the_newest_checkpoint(flags, uninterrupted, tmp_path):
    process = start(flags, tmp_path / "run")
    until(process, "Epoch 6/")
    process.kill()
    process.communicate()
    newest = checkpoints.newest(str(tmp_path / "run" / "checkpoints"))
    data = Path(f"{newest}.data-00000-of-00001")
    whole = bytearray(data.read_bytes())
    for place in np.random.default_rng(0).integers(0, len(whole), 20):
        whole[place] ^= 0x55
    data.write_bytes(whole)
    code, said, error = finish(start(flags, tmp_path / "run"))
    assert code == 0 and "going on after epoch" in said and newest not in said
    assert_same(tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_flipped_bytes_of_a_record(small_pictures, tmp_path):
    prepare = [sys.executable, "tools/prepare_dataset.py", "--source=folder", f"--data_dir={small_pictures}"]
    subprocess.run([*prepare, f"--out={tmp_path / 'records'}"], check=True, capture_output=True, cwd=ROOT)
    flags = [flag for flag in TINY_RUN if not flag.startswith("--dataset")]
    flags += ["--dataset=records", f"--data_dir={tmp_path / 'records'}", "--epochs=2", "--noexport"]
    assert finish(start(flags, tmp_path / "whole"))[0] == 0
    (shard,) = (tmp_path / "records").rglob("*-train.tfrecord*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    code, _, error = finish(start(flags, tmp_path / "run"))
    assert code == 1 and error.startswith("train: ") and "corrupted record" in error, error
    shard.write_bytes(whole)
    goes_on(flags, tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_clock_that_jumps(flags, uninterrupted, tmp_path):
    """The time of day jumps back and forth by days, at every look."""
    program = (
        "import itertools, sys, time\n"
        "real, jumps = time.time, itertools.cycle([0, -200_000, 300_000])\n"
        "time.time = lambda: real() + next(jumps)\n"
        "from keras_alexnet import train\nfrom keras_alexnet.cli import run_command\n"
        "sys.exit(run_command('train', train.main, sys.argv[1:]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, *flags, f"--model_dir={tmp_path / 'run'}", "--checkpoint_minutes=0.001"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert_same(tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_two_runs_into_one_folder(flags, uninterrupted, tmp_path):
    first = start(flags, tmp_path / "run")
    until(first, "first step")
    code, _, error = finish(start(flags, tmp_path / "run"))
    assert code == 2 and f"is being trained by {os.uname().nodename}, process {first.pid}, since" in error
    assert finish(first)[0] == 0
    assert_same(tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_pictures_that_go_and_come_back(flags, uninterrupted, small_pictures, tmp_path):
    shutil.copytree(small_pictures, tmp_path / "pictures")
    own = [flag for flag in flags if not flag.startswith("--data_dir")] + [f"--data_dir={tmp_path / 'pictures'}"]
    process = start(own, tmp_path / "run")
    until(process, "Epoch 4/")
    (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    code, _, error = finish(process)
    assert code == 1 and "an image could not be read: " in error and "None can be read any more: put " in error, error
    (tmp_path / "elsewhere").rename(tmp_path / "pictures")
    goes_on(own, tmp_path / "run", uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [24, 32, 48])
def test_no_more_descriptors(limit, flags, uninterrupted, tmp_path):
    """However few there are: it ends in one line, or not at all."""
    process = start(
        flags, tmp_path / "run", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit,) * 2)
    )
    said, error = process.communicate(timeout=300)
    if process.returncode:
        # TensorFlow and Python may need more already where they begin, before anything of ours.
        assert process.returncode in (1, 2) and "oo many open files" in error, error
    goes_on(flags, tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_a_worker_that_is_killed_and_started_again(flags, uninterrupted, tmp_path):
    shared = [*flags, f"--model_dir={tmp_path}", "--checkpoint_steps=2"]
    workers = start_workers(shared)
    until(workers[0], "Epoch 4/")
    began = time.perf_counter()
    workers[1].kill()
    code, _, error = finish(workers[0])
    assert code == 75 and "the other workers cannot be reached" in error and "start all of them again" in error
    print(f"the other worker ended {time.perf_counter() - began:.0f} s after the kill")
    workers[1].communicate()
    # A signal to one of them ends both, at the same step.
    workers = start_workers(shared)
    until(workers[0], "first step")
    workers[1].send_signal(signal.SIGTERM)
    ended = [finish(worker) for worker in workers]
    assert [code for code, _, _ in ended] == [75, 75]
    assert "ended by a signal to another worker" in ended[0][2] and "ended by SIGTERM" in ended[1][2]
    workers = start_workers(shared)
    assert [finish(worker)[0] for worker in workers] == [0, 0]
    from tests.training.test_distribution import losses

    np.testing.assert_allclose(losses(tmp_path), losses(uninterrupted), rtol=0, atol=1e-5)
