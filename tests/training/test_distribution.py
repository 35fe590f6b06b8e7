"""Two processes make the steps of one; clusters that are not. Two replicas of one process: tests/test_resume.py."""

import json
import socket

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.config import NetworkConfig, RunConfig
from keras_alexnet.errors import UsageError
from keras_alexnet.training import distribution
from tests.runs import TINY_RUN, finish, history, newest, points, start, state


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
    tasks = [{"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}} for index in range(count)]
    return [start(*flags, "--strategy=multi_worker", env={"TF_CONFIG": json.dumps(task)}) for task in tasks]


def losses(folder):
    return np.array([value for _, value in points(folder, "train")["loss"]])


def test_two_workers_make_the_steps_of_one_process(tiny_run, small_images, tmp_path):
    flags = [*TINY_RUN, f"--data_dir={small_images}", f"--model_dir={tmp_path}", "--epochs=3", "--noexport"]
    workers = start_workers(flags)
    for worker in workers:
        code, shown, error = finish(worker)
        assert code == 0, error
        assert "2 replicas in 2 processes" in shown
    np.testing.assert_allclose(losses(tmp_path), losses(tiny_run), rtol=0, atol=1e-5)
    for ours, theirs in zip(history(tmp_path), history(tiny_run), strict=True):
        assert float(ours["val_loss"]) == pytest.approx(float(theirs["val_loss"]), abs=1e-5)
    own, other = state(tmp_path), state(tiny_run)
    assert own.keys() == other.keys() and newest(tmp_path).endswith("epoch-3")
    for name, value in own.items():
        if name.endswith(("kernel", "bias")) and "velocity" not in name:
            # Biases that have hardly moved from 0 are rounding themselves.
            np.testing.assert_allclose(value, other[name], rtol=0, atol=1e-5 * np.abs(value).max() + 1e-7, err_msg=name)


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
def test_a_cluster_that_is_not_one_is_named(config, monkeypatch):
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UsageError, match="--strategy=multi_worker: TF_CONFIG is .*; it is to be such as"):
        distribution.open_distribution("multi_worker")


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


def test_one_process_has_the_default_strategy():
    found, towers, placed = distribution.choose(RunConfig(), NetworkConfig(devices=("CPU:1",)), 128)
    assert (found.workers, found.worker, found.replicas, found.is_chief) == (1, 0, 1, True)
    assert found.strategy is tf.distribute.get_strategy() and towers == placed == ("CPU:1",)
