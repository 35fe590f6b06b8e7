"""Two processes and one: the same steps. And clusters that are none."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import train
from keras_alexnet.cli import run_command
from keras_alexnet.errors import UsageError
from keras_alexnet.training import distribution
from tests.conftest import TINY_RUN, history
from tests.test_train import points, weights

ROOT = Path(__file__).parents[2]


def free_ports(count):
    """Ports of this machine that nobody has."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def start_workers(flags, count=2):
    """A training process for each of so many workers: list of subprocess.Popen."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(count)]
    started = []
    for index in range(count):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "keras_alexnet.train", *flags, "--strategy=multi_worker"],
                env={**os.environ, "TF_CONFIG": json.dumps(config), "TF_CPP_MIN_LOG_LEVEL": "3"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        )
    return started


@pytest.fixture(scope="module")
def one_process(small_pictures, tmp_path_factory):
    """25 epochs of two whole batches and a partial one: 75 steps."""
    folder = tmp_path_factory.mktemp("one")
    flags = [*TINY_RUN, f"--data_dir={small_pictures}", "--epochs=25", "--noexport", "--learning_rate=0.003"]
    assert run_command("train", train.main, [*flags, f"--model_dir={folder}"]) == 0
    return folder, flags


def losses(folder):
    return np.array([value for _, value in points(folder, "train")["loss"]])


def test_two_workers_make_the_steps_of_one_process(one_process, tmp_path):
    folder, flags = one_process
    workers = start_workers([*flags, f"--model_dir={tmp_path}"])
    for worker in workers:
        said, error = worker.communicate(timeout=300)
        assert worker.returncode == 0, error
        assert "2 replicas in 2 processes" in said
    assert len(losses(tmp_path)) == 75
    np.testing.assert_allclose(losses(tmp_path), losses(folder), rtol=0, atol=1e-5)
    for ours, theirs in zip(history(tmp_path), history(folder), strict=True):
        assert float(ours["val_loss"]) == pytest.approx(float(theirs["val_loss"]), abs=1e-5)
    own, other = weights(tmp_path), weights(folder)
    assert own.keys() == other.keys() and len(own) > 30
    for name, value in own.items():
        if name.endswith(("kernel", "bias")) and "velocity" not in name:
            # Biases that have hardly moved from 0 are rounding themselves.
            np.testing.assert_allclose(value, other[name], rtol=0, atol=1e-5 * np.abs(value).max() + 1e-7, err_msg=name)


def test_two_replicas_of_one_process_do_too(one_process, tmp_path):
    """In a process of its own: its devices are made at the start."""
    folder, flags = one_process
    command = [sys.executable, "-m", "keras_alexnet.train", *flags, f"--model_dir={tmp_path}", "--epochs=4"]
    run = subprocess.run(
        [*command, "--strategy=mirrored", "--devices=CPU:0,CPU:1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert "2 replicas in 1 process" in run.stdout
    np.testing.assert_allclose(losses(tmp_path), losses(folder)[:12], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        None, "", "{", "[]", "3", '{"cluster": {}, "task": {}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
        '{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
    ],
)  # fmt: skip
def test_a_cluster_that_is_none_is_named(config, monkeypatch):
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UsageError, match="--strategy=multi_worker: TF_CONFIG is .*; it is to be such as"):
        distribution.choose("multi_worker")


def test_slurms_environment_is_a_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for name, value in {
        "SLURM_PROCID": "2",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURM_STEP_NUM_TASKS": "4",
    }.items():
        monkeypatch.setenv(name, value)
    resolver = distribution.resolver()
    assert resolver.cluster_spec().as_dict() == {"worker": ["node1:8888", "node1:8889", "node2:8888", "node2:8889"]}
    assert (resolver.task_type, resolver.task_id) == ("worker", 2)


def test_a_batch_that_does_not_divide_is_named(small_pictures, tmp_path):
    command = [sys.executable, "-m", "keras_alexnet.train", *TINY_RUN, f"--data_dir={small_pictures}"]
    flags = [f"--model_dir={tmp_path / 'run'}", "--strategy=mirrored", "--devices=CPU:0,CPU:1", "--batch_size=9"]
    run = subprocess.run([*command, *flags], capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert run.returncode == 2 and not (tmp_path / "run").exists()
    assert run.stderr.strip().splitlines()[-1] == (
        "train: --batch_size=9: does not divide by 2 replicas; give a multiple, the images of all of them together"
    )


def test_one_process_has_the_strategy_that_is_none():
    found = distribution.choose("one")
    assert (found.workers, found.worker, found.replicas, found.is_chief) == (1, 0, 1, True)
    assert found.strategy is tf.distribute.get_strategy()
