"""The compiled training and test steps, and the loops over a dataset.

Keras' `fit` does not run under the multi-worker strategy (its issue 20585), and cannot start within an epoch.
"""

import contextlib
import math
import time

import tensorflow as tf

from keras_alexnet.errors import RunError, brief
from keras_alexnet.training import metrics


class ReadError(RunError):
    """An image could not be read or decoded; the data graph does not tell which."""


class NonFiniteError(RunError):
    """The loss is not finite."""


class Trainer:
    """The compiled steps of one model, on one device, on several or on several machines.

    Created in the scope of its strategy, see `training.distribution`. All replicas together make the step that one
    would make on the whole batch.

    Args:
        model: keras.Model, images -> float32 logits (B, classes).
        optimizer: keras optimizer; built on the model's trainable variables here.
        device: name of the device of the loss and of everything else that belongs to no tower, or None.
        replica_batch: int, images of a batch that a replica gets; None where there is one replica.
    """

    def __init__(self, model, optimizer, device=None, replica_batch=None):
        self.model, self.optimizer, self.device, self.replica_batch = model, optimizer, device, replica_batch
        self.strategy, self.waited = tf.distribute.get_strategy(), 0.0  # seconds, for images
        resolver = self.strategy.cluster_resolver
        cluster = resolver.cluster_spec() if resolver else None
        self.processes = len(cluster.job_tasks("worker")) if cluster else 1
        with tf.device(device):
            self.averages, self.tested = metrics.Averages(), metrics.Averages()  # of training and of test steps
        optimizer.build(model.trainable_variables)
        images = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
        labels = tf.TensorSpec((None,), tf.int32)
        self.train_step = tf.function(self._train_step, input_signature=[images, labels])
        self.test_step = tf.function(self._test_step, input_signature=[images, labels])

    def _train_step(self, images, labels):
        """One update on the mean gradient of a batch; returns the mean loss, float32."""
        sums = self._sum_of_replicas(self._update, images, labels)
        with tf.device(self.device):
            self.averages.add(sums)
            return sums[metrics.NAMES.index("loss")] / sums[-1]

    def _test_step(self, images, labels):
        sums = self._sum_of_replicas(self._test, images, labels)
        with tf.device(self.device):
            self.tested.add(sums)

    def _sum_of_replicas(self, function, images, labels):
        """The sum of a function over all replicas, each on its part of the batch: float32, see `metrics.sums`."""

        def replica(images, labels):
            # tf.device(None) would leave the device of the replica.
            with tf.device(self.device) if self.device else contextlib.nullcontext():
                return _sum_over_replicas(function(*self._part(images, labels)))

        sums = self.strategy.run(replica, args=(images, labels))
        return self.strategy.experimental_local_results(sums)[0]

    def _update(self, images, labels, counted):
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            values = metrics.per_image(self.model(images, training=True), labels)
            # The mean over the images of all replicas, whose gradients are summed.
            count = _sum_over_replicas(tf.reduce_sum(counted))
            scaled = self.optimizer.scale_loss(tf.reduce_sum(counted * values["loss"]) / count)
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        return metrics.sums(values, counted)

    def _test(self, images, labels, counted):
        return metrics.sums(metrics.per_image(self.model(images, training=False), labels), counted)

    def _part(self, images, labels):
        """A replica's part of the batch of its process: neighboring images, and 1.0 for each."""
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync == 1:
            return images, labels, tf.ones_like(labels, tf.float32)
        # Numbered over all processes, of which each has as many replicas.
        here = context.num_replicas_in_sync // self.processes
        start = (context.replica_id_in_sync_group % here) * self.replica_batch
        images, labels = images[start : start + self.replica_batch], labels[start : start + self.replica_batch]
        # A replica without images gets a black one that does not count: a convolution of no images fails on a CPU.
        none = tf.cast(tf.equal(tf.size(labels), 0), tf.int32)
        counted = tf.pad(tf.ones_like(labels, tf.float32), [[0, none]])
        return tf.pad(images, [[0, none], [0, 0], [0, 0], [0, 0]]), tf.pad(labels, [[0, none]]), counted

    def variables(self):
        """All that training resumes with: dict of str -> tf.Variable."""
        trained, optimizer = self.model.trainable_variables, self.optimizer
        velocities = getattr(optimizer, "inner_optimizer", optimizer).velocities
        found = {variable.path: variable for variable in trained}
        found |= {f"velocity/{trained[place].path}": each for place, each in enumerate(velocities)}
        # The states of dropout's random numbers, by position: Keras numbers their names over all models of a process.
        found |= {f"random/{place}": variable for place, variable in enumerate(self.model.non_trainable_variables)}
        known = {id(variable) for variable in found.values()}
        found |= {f"optimizer/{each.path}": each for each in optimizer.variables if id(each) not in known}
        return {name: variable.value for name, variable in found.items()} | {"averages": self.averages.variable}

    def steps(self, dataset, last, callbacks, progress):
        """Trains on the batches of a dataset; yields the loss of each step, float, after it.

        Args:
            dataset: of (images, labels), see `data.pipeline.training`.
            last: int, batches of the whole epoch. Where processes share it, one may have no images left before the
                others; it continues with empty batches.
            callbacks: keras.callbacks.CallbackList.
            progress: progress.Progress, whose steps and batches are updated.

        Raises ReadError, NonFiniteError, or RunError where the dataset holds another number of batches.
        """
        batches = self._filled(dataset, last - progress.batches)
        asked = time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - asked
            callbacks.on_train_batch_begin(progress.batches)
            loss = float(self.train_step(*batch))
            progress.steps, progress.batches = progress.steps + 1, progress.batches + 1
            if not math.isfinite(loss):
                raise NonFiniteError(f"the loss is {loss} at step {progress.steps}")
            callbacks.on_train_batch_end(progress.batches - 1, self.averages.result())
            yield loss
            asked = time.perf_counter()

    def evaluate(self, dataset, count, last, stop=lambda: False):
        """Averages over a dataset: dict of name -> float, see `metrics.NAMES`; None where it was stopped.

        Args:
            dataset: of (images, labels).
            count: int, images that all processes together must see, or RunError is raised.
            last: int, batches, as of `steps`.
            stop: function of nothing -> bool, called after every batch, whether to stop.
        """
        self.tested.reset()
        for images, labels in self._filled(dataset, last):
            self.test_step(images, labels)
            if stop():
                return None
        if self.tested.count() != count:
            raise RunError(f"validation saw {self.tested.count()} images instead of {count}")
        return self.tested.result()

    def _filled(self, dataset, count):
        """`count` batches: those of a dataset and, where processes train together, empty ones after them."""
        found = 0
        for found, batch in enumerate(read(dataset), 1):
            if found > count:
                break
            yield batch
        while found < count and self.processes > 1:
            found += 1
            yield tf.zeros((0, *self.model.input_shape[1:])), tf.zeros((0,), tf.int32)
        if found != count:
            more = "more than " * (found > count)
            raise RunError(f"there are {more}{min(found, count)} batches instead of {count}: the images have changed")

    def is_same_for_all(self, number):
        """Whether all processes pass the same number, bool; all of them have to call this."""
        return self.processes == 1 or float(self._sum(float(number))) == self.processes * float(number)

    def any_of_all(self, flag):
        """Whether a flag is set in any of the processes, bool; all of them have to call this."""
        return bool(flag) if self.processes == 1 else float(self._sum(float(bool(flag)))) > 0

    @tf.function(input_signature=[tf.TensorSpec((), tf.float32)])
    def _sum(self, number):
        """The sum over all processes, float32."""
        sums = self.strategy.experimental_local_results(self.strategy.run(_sum_over_replicas, args=(number,)))
        return sums[0] / len(sums)


def read(dataset):
    """The batches of a dataset; an error in its graph becomes a ReadError."""
    batches = iter(dataset)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            raise ReadError(brief(error)) from None
        yield batch


def _sum_over_replicas(value):
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return value
    # TensorFlow wants to know on which device the sum is; a value from outside is on none yet.
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))
