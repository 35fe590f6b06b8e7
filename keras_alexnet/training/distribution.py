"""Who shares the work of a run: one process, the GPUs of one machine, or many machines.

Data parallelism: every replica has the whole network and a part of each batch; gradients are summed. It is something
else than the towers of section 3.2, which split one network over two devices (`model.towers`).
"""

import dataclasses
import json
import os

import tensorflow as tf

from keras_alexnet.errors import UsageError

STRATEGIES = ("one", "mirrored", "multi_worker")


@dataclasses.dataclass(frozen=True)
class Distribution:
    """How a run is shared.

    Attributes:
        strategy: tf.distribute.Strategy, in whose scope model, optimizer and trainer are made.
        workers: int >= 1, processes.
        worker: int, which of them this is.
        replicas: int, of all processes.
    """

    strategy: tf.distribute.Strategy
    workers: int = 1
    worker: int = 0
    replicas: int = 1

    @property
    def is_chief(self):
        """Whether this is the process that writes, bool."""
        return self.worker == 0


def choose(name, devices=(), batch_size=1):
    """The distribution of a name; before TensorFlow has done anything else, since it connects the machines.

    Args:
        name: one of STRATEGIES. "multi_worker" reads TF_CONFIG, or Slurm's environment where there is none.
        devices: names such as "GPU:0", for "mirrored"; () for all GPUs, or the processor where there are none.
        batch_size: int, images of a whole batch.

    Returns:
        Distribution.

    Raises:
        UsageError: there is no cluster in the environment, or the batch does not divide.
    """
    if name == "one":
        return Distribution(tf.distribute.get_strategy())
    if name == "mirrored":
        strategy = tf.distribute.MirroredStrategy(list(devices) or None)
        found = Distribution(strategy, replicas=strategy.num_replicas_in_sync)
    else:
        cluster = resolver()
        workers = len(cluster.cluster_spec().as_dict()["worker"])
        strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=cluster)
        found = Distribution(strategy, workers, cluster.task_id, strategy.num_replicas_in_sync)
    if batch_size % found.replicas:
        raise UsageError(
            f"--batch_size={batch_size}: does not divide by {found.replicas} replicas; give a multiple, the images of "
            "all of them together"
        )
    return found


def resolver():
    """Where the workers are and which this one is, from TF_CONFIG or Slurm: a tf.distribute ClusterResolver."""
    text = os.environ.get("TF_CONFIG")
    if text is None and "SLURM_PROCID" in os.environ:
        # Port 8888 on every node, 8889 for its second task and so on. The GPUs of a task are those that Slurm shows it;
        # what is said of them here only has to be enough for all tasks, since the class counts tasks by GPUs.
        tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", os.environ.get("SLURM_NTASKS", "1")))
        found = tf.distribute.cluster_resolver.SlurmClusterResolver(
            gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
        )
        found.cluster_spec()  # which finds out the task, too
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
