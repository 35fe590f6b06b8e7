"""How a run is distributed: one process, the GPUs of one machine, or many machines.

Data parallelism: every replica has the whole network and a part of each batch; gradients are summed. The towers of
section 3.2, in contrast, split one network over two devices (`model.towers`).
"""

import dataclasses
import json
import os

import keras
import tensorflow as tf

from keras_alexnet.errors import ArgumentError, UsageError
from keras_alexnet.model.towers import check_precision, choose_devices


@dataclasses.dataclass(frozen=True)
class Distribution:
    """The processes and replicas of a run."""

    strategy: tf.distribute.Strategy  # model, optimizer and trainer are made in its scope
    workers: int = 1  # processes
    worker: int = 0  # which of them this is
    replicas: int = 1  # of all processes

    @property
    def is_chief(self):
        """Whether this is the process that writes, bool."""
        return self.worker == 0

    @property
    def part(self):
        """(worker, workers), by which a source gives this process its part of the images."""
        return self.worker, self.workers


def choose(run, network, batch_size):
    """The distribution and the devices of a run's settings; before all else in TensorFlow: it connects the machines.

    Returns (Distribution, names of the towers' devices, names of all devices that were asked for); () where TensorFlow
    places everything itself. Raises UsageError or ArgumentError where a device is missing or lacks the precision, the
    environment names no cluster, or the batch cannot be divided.
    """
    names = network.device_names()
    if run.strategy == "one":
        towers = placed = choose_devices(names, network.towers)
    else:
        # Every replica has a device of its own, for both of its towers.
        towers, placed = (), choose_devices(names, len(names)) if names else ()
    check_precision(network.precision, placed)
    found = open_distribution(run.strategy, placed, batch_size)
    if run.deterministic:
        keras.utils.set_random_seed(run.seed)
        tf.config.experimental.enable_op_determinism()
    return found, towers, placed


def open_distribution(strategy, devices=(), batch_size=1):
    """The Distribution of --strategy; devices such as "GPU:0" are for "mirrored", () for all GPUs or the CPU."""
    if strategy == "one":
        return Distribution(tf.distribute.get_strategy())
    if strategy == "mirrored":
        mirrored = tf.distribute.MirroredStrategy(list(devices) or None)
        found = Distribution(mirrored, replicas=mirrored.num_replicas_in_sync)
    else:
        cluster = resolver()
        workers = len(cluster.cluster_spec().as_dict()["worker"])
        over_workers = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=cluster)
        found = Distribution(over_workers, workers, cluster.task_id, over_workers.num_replicas_in_sync)
    if batch_size % found.replicas:
        raise ArgumentError(
            "batch_size", batch_size, f"must be a multiple of the {found.replicas} replicas, the images of all together"
        )
    return found


def resolver():
    """The tf.distribute ClusterResolver of TF_CONFIG or, where that is not set, of Slurm's environment."""
    text = os.environ.get("TF_CONFIG")
    if text is None and "SLURM_PROCID" in os.environ:
        # Port 8888 on every node, 8889 for its second task and so on. The class counts tasks by GPUs: the number only
        # has to be enough for all tasks, each of which uses the GPUs that Slurm shows it.
        tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", os.environ.get("SLURM_NTASKS", "1")))
        found = tf.distribute.cluster_resolver.SlurmClusterResolver(
            gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
        )
        found.cluster_spec()  # sets task_id too
        return found
    try:
        config = json.loads(text or "null")
        workers, task = config["cluster"]["worker"], config["task"]
        whole = (
            set(config["cluster"]) == {"worker"}
            and all(isinstance(each, str) and ":" in each for each in workers)
            and task["type"] == "worker"
            and 0 <= int(task["index"]) < len(workers)
        )
    except (ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise UsageError(
            f"--strategy=multi_worker: TF_CONFIG is {text or 'not set'}; it is to be such as "
            '{"cluster": {"worker": ["host0:5000", "host1:5000"]}, "task": {"type": "worker", "index": 0}}'
        )
    return tf.distribute.cluster_resolver.TFConfigClusterResolver()
