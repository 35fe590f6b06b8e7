import pytest

from keras_alexnet.errors import UsageError
from keras_alexnet.training import distribution


@pytest.mark.parametrize(
    "config",
    [
        None, "{", "3", '{"cluster": {}, "task": {}}',
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
    monkeypatch.setenv("SLURM_PROCID", "2")
    for name, value in (("NODELIST", "node[1-2]"), ("TASKS_PER_NODE", "2(x2)"), ("NUM_TASKS", "4")):
        monkeypatch.setenv(f"SLURM_STEP_{name}", value)
    resolver = distribution.resolver()
    assert resolver.cluster_spec().as_dict() == {"worker": ["node1:8888", "node1:8889", "node2:8888", "node2:8889"]}
    assert (resolver.task_type, resolver.task_id) == ("worker", 2)
