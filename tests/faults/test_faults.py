"""What happens to a run of six days, done to a run of a minute: `python -m pytest -m slow tests/faults`.

Every fault ends in one clear line, and the same command then ends as an uninterrupted run does, to the bit.
"""

import contextlib
import json
import random
import resource
import shutil
import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from keras_alexnet.training.progress import checkpoint_place
from tests.runs import TINY_RUN, assert_same, finish, newest, points, start, until

pytestmark = pytest.mark.slow
EPOCHS = 30  # of three steps
KILLS = 20


@pytest.fixture(scope="module")
def flags(small_images):
    rate = ["--lr_policy=constant", "--learning_rate=0.0001"]
    return [*TINY_RUN, *rate, f"--data_dir={small_images}", f"--epochs={EPOCHS}", "--noexport"]


@pytest.fixture(scope="module")
def uninterrupted(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert finish(start(*flags, f"--model_dir={folder}"))[0] == 0
    return folder


@pytest.fixture
def run(flags, tmp_path):
    return lambda *more, folder=tmp_path / "run", **options: start(*flags, f"--model_dir={folder}", *more, **options)


def resumes(process, folder, uninterrupted):
    code, _, error = finish(process)
    assert code == 0, error
    assert_same(folder, uninterrupted)


def test_kills_at_random_moments(run, uninterrupted, tmp_path):
    rng = random.Random(2012)
    reached = []
    for number in range(KILLS):
        process = run("--checkpoint_steps=2")
        if number % 4 == 3:
            time.sleep(rng.uniform(0, 6))  # it may not have made its first step
        else:
            until(process, "first step")
            time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate()
        path = newest(tmp_path / "run")
        reached.append(path and checkpoint_place(path))
    places = [place for place in reached if place]
    assert places == sorted(places) and places[-1] < (EPOCHS, 0)  # never back, and not over before the last kill
    resumes(run(), tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_signals_at_random_moments(number, run, uninterrupted, tmp_path):
    rng = random.Random(number)
    for attempt in range(4):
        # A shell's background jobs, which these tests may be, ignore some signals.
        process = run(preexec_fn=lambda: signal.signal(number, signal.SIG_DFL), start_new_session=True)
        if attempt:
            until(process, "first step")
        time.sleep(rng.uniform(0, 0.5) if attempt else 1.5)
        process.send_signal(number)
        code, _, error = finish(process)
        # A Ctrl-C within some imports ends Python by the signal itself, which a shell shows as 130 too.
        assert code in ((130, -signal.SIGINT) if number == signal.SIGINT else (75,)), error
    resumes(run(), tmp_path / "run", uninterrupted)


def test_a_full_disk(run, uninterrupted, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(disk), "-o"]
    # Statistics take 0.8 MB, each checkpoint 0.5.
    if shutil.which("mount") is None or subprocess.run([*mount, "size=2500k"], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        process = run(folder=disk / "run")
        _, error = process.communicate(timeout=300)
        assert process.returncode == 1 and "Traceback" not in error
        assert "GB are left on the disk" in error  # the warning before it
        last = error.strip().splitlines()[-1]
        assert "could not be written (" in last and "is kept" in last, last
        subprocess.run([*mount, "remount,size=60m"], check=True)
        resumes(run(folder=disk / "run"), disk / "run", uninterrupted)
    finally:
        subprocess.run(["umount", "-l", str(disk)])


@pytest.mark.parametrize("limit", [24, 32, 48])
def test_too_few_descriptors(limit, run, uninterrupted, tmp_path):
    process = run(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit,) * 2))
    _, error = process.communicate(timeout=300)
    # TensorFlow and Python may need more already where they begin, before anything of ours.
    assert process.returncode in (0, 1, 2) and ("oo many open files" in error or process.returncode == 0), error
    resumes(run(), tmp_path / "run", uninterrupted)


def start_workers(flags):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in "ab"]
        workers = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    tasks = [{"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}} for index in (0, 1)]
    return [start(*flags, "--strategy=multi_worker", env={"TF_CONFIG": json.dumps(task)}) for task in tasks]


def test_two_workers_make_the_steps_of_one_process(flags, uninterrupted, tmp_path):
    """One is killed and started again; a signal to one of them ends both, at the same step."""
    shared = [*flags, f"--model_dir={tmp_path}", "--checkpoint_steps=2"]
    workers = start_workers(shared)
    until(workers[0], "epoch 3/")
    workers[1].kill()
    code, _, error = finish(workers[0])
    assert code == 75 and "the other workers cannot be reached" in error and "start all workers again" in error
    workers[1].communicate()
    workers = start_workers(shared)
    until(workers[0], "first step")
    workers[1].send_signal(signal.SIGTERM)
    ended = [finish(worker) for worker in workers]
    assert [code for code, _, _ in ended] == [75, 75]
    assert "stopped by a signal to another worker" in ended[0][2] and "stopped by SIGTERM" in ended[1][2]
    for code, shown, error in map(finish, start_workers(shared)):
        assert code == 0 and "2 replicas in 2 processes" in shown, error
    # A sum in another order: float32's rounding at first, and it grows over 90 steps.
    ours, theirs = (np.array(points(each, "train")["curves/loss"])[:, 1] for each in (tmp_path, uninterrupted))
    np.testing.assert_allclose(ours[:9], theirs[:9], rtol=1e-5)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
