"""How a run is distributed: one process, the GPUs of one machine, or many machines.

In data parallelism each replica has the whole network and processes a part of each batch, and gradients are summed. The
towers of section 3.2, in contrast, split one network over two devices (`model.towers`).
"""

import dataclasses
import json
import os

import keras
import tensorflow as tf

from keras_alexnet.errors import ArgumentError, UsageError
from keras_alexnet.model.towers import check_precision, choose_devices

_TENSORFLOW_SEED = 87654321  # tf.compat.v1.random.DEFAULT_GRAPH_SEED, which is not public


@dataclasses.dataclass(frozen=True)
class Distribution:
    """The processes and replicas of a run."""

    strategy: tf.distribute.Strategy  # model, optimizer and trainer are created in its scope
    workers: int = 1  # processes
    worker: int = 0  # index of this process
    replicas: int = 1  # in all processes

    @property
    def is_chief(self):
        """Whether this process writes the files, bool."""
        return self.worker == 0


def choose(run, network, batch_size):
    """The distribution and devices of a run's settings; call before other TensorFlow code, since it connects machines.

    Returns (Distribution, names of the towers' devices, names of all devices), the names () where TensorFlow places
    operations itself. Raises UsageError or ArgumentError where a device is missing or lacks the precision, the
    environment describes no cluster, or the batch cannot be divided.
    """
    for gpu in tf.config.list_physical_devices("GPU") if run.gpu_memory != "all" else ():
        if run.gpu_memory == "grow":
            tf.config.experimental.set_memory_growth(gpu, True)
        else:
            tf.config.set_logical_device_configuration(gpu, [tf.config.LogicalDeviceConfiguration(int(run.gpu_memory))])
    names = network.device_names()
    if run.strategy == "one":
        towers = all_devices = choose_devices(names, network.towers)
    else:
        # Each replica places both towers on its own device.
        towers, all_devices = (), choose_devices(names, len(names)) if names else ()
    check_precision(network.precision, all_devices)
    distribution = open_distribution(run.strategy, all_devices, batch_size)
    if run.deterministic:
        keras.utils.set_random_seed(run.seed)
        # What TensorFlow has without a seed of its own: with another one windows of records are shuffled otherwise,
        # and an epoch that is resumed with the flag, or without it, would have images twice.
        tf.random.set_seed(_TENSORFLOW_SEED)
        tf.config.experimental.enable_op_determinism()
    return distribution, towers, all_devices


def open_distribution(strategy, devices=(), batch_size=1):
    """The Distribution of --strategy. Devices such as "GPU:0" are used by "mirrored"; () is all GPUs, or the CPU."""
    if strategy == "one":
        return Distribution(tf.distribute.get_strategy())
    if strategy == "mirrored":
        mirrored = tf.distribute.MirroredStrategy(list(devices) or None)
        distribution = Distribution(mirrored, replicas=mirrored.num_replicas_in_sync)
    else:
        cluster = resolver()
        workers = len(cluster.cluster_spec().as_dict()["worker"])
        over_workers = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=cluster)
        distribution = Distribution(over_workers, workers, cluster.task_id, over_workers.num_replicas_in_sync)
    if batch_size % distribution.replicas:
        problem = f"must be a multiple of the {distribution.replicas} replicas, which share each batch"
        raise ArgumentError("batch_size", batch_size, problem)
    return distribution


def resolver():
    """The tf.distribute ClusterResolver of TF_CONFIG, or of Slurm's environment if TF_CONFIG is not set."""
    text = os.environ.get("TF_CONFIG")
    if text is None and "SLURM_PROCID" in os.environ:
        # Tasks of a node get the ports 8888, 8889 and so on. The class derives the number of tasks from the GPUs of a
        # node: `gpus_per_node` need only be large enough. Each task uses the GPUs that Slurm assigns to it.
        tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", os.environ.get("SLURM_NTASKS", "1")))
        slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(
            gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
        )
        slurm.cluster_spec()  # sets task_id too
        return slurm
    try:
        config = json.loads(text or "null")
        workers, task = config["cluster"]["worker"], config["task"]
        is_valid = (
            set(config["cluster"]) == {"worker"}
            and all(isinstance(each, str) and ":" in each for each in workers)
            and task["type"] == "worker"
            and 0 <= int(task["index"]) < len(workers)
        )
    except (ValueError, TypeError, KeyError):
        is_valid = False
    if not is_valid:
        raise UsageError(
            f"--strategy=multi_worker: TF_CONFIG is {text or 'not set'}; set it as in the example "
            '{"cluster": {"worker": ["host0:5000", "host1:5000"]}, "task": {"type": "worker", "index": 0}}'
        )
    return tf.distribute.cluster_resolver.TFConfigClusterResolver()
