import pytest
import tensorflow as tf

from keras_alexnet import config as configs
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
    with pytest.raises(UsageError, match="--strategy=multi_worker: TF_CONFIG is .*; set it as in the example"):
        distribution.open_distribution("multi_worker")


def test_slurms_environment_is_a_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setenv("SLURM_PROCID", "2")
    for name, value in (("NODELIST", "node[1-2]"), ("TASKS_PER_NODE", "2(x2)"), ("NUM_TASKS", "4")):
        monkeypatch.setenv(f"SLURM_STEP_{name}", value)
    resolver = distribution.resolver()
    assert resolver.cluster_spec().as_dict() == {"worker": ["node1:8888", "node1:8889", "node2:8888", "node2:8889"]}
    assert (resolver.task_type, resolver.task_id) == ("worker", 2)


def test_determinism_changes_no_order_of_records(monkeypatch):
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    config = configs.parse_train(["--dataset=shapes", "--model_dir=run", "--deterministic"], "usage")
    orders = []
    for start in (lambda: tf.random.set_seed(None), lambda: distribution.choose(config.run, config.network, 8)):
        start()
        orders.append(list(tf.data.Dataset.range(100).shuffle(100, seed=7).as_numpy_iterator()))
    assert orders[0] == orders[1] != sorted(orders[0])


def test_the_memory_of_every_gpu_is_limited(monkeypatch):
    made = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["first", "second"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *arguments: made.append(arguments))
    monkeypatch.setattr(tf.config, "set_logical_device_configuration", lambda *arguments: made.append(arguments))
    for limit in ("all", "grow", "4000"):
        argv = ["--dataset=shapes", "--model_dir=run", "--devices=CPU:0", f"--gpu_memory={limit}"]
        config = configs.parse_train(argv, "usage")
        distribution.choose(config.run, config.network, 8)
    assert made[:2] == [("first", True), ("second", True)]
    assert [(gpu, part.memory_limit) for gpu, (part,) in made[2:]] == [("first", 4000), ("second", 4000)]
