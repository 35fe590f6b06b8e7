"""The compiled training and test steps, and the loops over a dataset.

Keras' `fit` fails with the multi-worker strategy (Keras issue 20585), and cannot resume within an epoch.
"""

import contextlib
import math
import time

import tensorflow as tf

from keras_alexnet.errors import RunError, brief
from keras_alexnet.training import metrics


class ReadError(RunError):
    """An image could not be read or decoded; the data graph does not report which one."""


class NonFiniteError(RunError):
    """The loss is not finite."""


class Trainer:
    """The compiled steps of a model, on one or more devices or machines.

    Created in the scope of its strategy, see `training.distribution`. The replicas together make the same step as one
    replica would make on the whole batch.

    Args:
        model: keras.Model, images -> float32 logits (B, classes).
        optimizer: keras optimizer, which the Trainer builds.
        device: name of the device of the loss and all other operations outside the towers, or None.
        replica_batch: int, images per replica of a batch; None for a single replica.
        preprocess: None, or what makes the model's input of a batch's images within the steps, such as
            `data.augmentation.Preprocessing`: a function whose attribute `signature` is the images' tf.TensorSpecs.
    """

    def __init__(self, model, optimizer, device=None, replica_batch=None, preprocess=None):
        self.model, self.optimizer, self.device, self.replica_batch = model, optimizer, device, replica_batch
        self.preprocess = preprocess or (lambda images: images)
        self.strategy, self.waited = tf.distribute.get_strategy(), 0.0  # seconds spent waiting for images
        resolver = self.strategy.cluster_resolver
        cluster = resolver.cluster_spec() if resolver else None
        self.processes = len(cluster.job_tasks("worker")) if cluster else 1
        with tf.device(device):
            self.averages, self.tested = metrics.Averages(), metrics.Averages()  # of training, of test steps
        self.sgd = getattr(optimizer, "inner_optimizer", optimizer)  # without loss scaling
        self.stops = None  # what `any_of_all` was called with last, summed over all processes
        optimizer.build(model.trainable_variables)
        images = preprocess.signature if preprocess else tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
        self.signature = images, tf.TensorSpec((None,), tf.int32)
        self.train_step = tf.function(self._train_step, input_signature=self.signature)
        self.test_step = tf.function(self._test_step, input_signature=self.signature)

    def _train_step(self, images, labels):
        """Updates the weights by the mean gradient of a batch; returns the mean loss, float32.

        From a non-finite loss until the averages are reset, weights and velocities stay as they are.
        """
        sums = self._sum_of_replicas(self._update, images, labels)
        with tf.device(self.device):
            self.averages.add(sums)
            return sums[metrics.NAMES.index("loss")] / sums[-1]

    def _test_step(self, images, labels):
        sums = self._sum_of_replicas(self._test, images, labels)
        with tf.device(self.device):
            self.tested.add(sums)

    def _sum_of_replicas(self, function, images, labels):
        """The sum of `function` over all replicas, each with its part of the batch: float32, see `metrics.sums`."""

        def replica(images, labels):
            # tf.device(None) would clear the replica's device.
            with tf.device(self.device) if self.device else contextlib.nullcontext():
                return function(*self._part(images, labels))

        sums = self.strategy.run(replica, args=(images, labels))
        return self.strategy.experimental_local_results(sums)[0]

    def _update(self, images, labels, counted):
        variables, inputs = self.model.trainable_variables, self.preprocess(images)
        with tf.GradientTape() as tape:
            values = metrics.per_image(self.model(inputs, training=True), labels)
            # Divide by the images of all replicas, since the gradients of the replicas are summed.
            count = _sum_over_replicas(tf.reduce_sum(counted))
            scaled = self.optimizer.scale_loss(tf.reduce_sum(counted * values["loss"]) / count)
        sums = _sum_over_replicas(metrics.sums(values, counted))
        self.sgd.condition = self.averages.is_finite_with(sums)
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        return sums

    def _test(self, images, labels, counted):
        logits = self.model(self.preprocess(images), training=False)
        return _sum_over_replicas(metrics.sums(metrics.per_image(logits, labels), counted))

    def _part(self, images, labels):
        """(images, labels, 1.0 for each image) of a replica: consecutive images of its process's batch."""
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync == 1:
            return images, labels, tf.ones_like(labels, tf.float32)
        # Replicas are numbered over all processes, which have the same number of replicas each.
        replicas = context.num_replicas_in_sync // self.processes
        start = (context.replica_id_in_sync_group % replicas) * self.replica_batch
        own = slice(start, start + self.replica_batch)
        # A replica without images gets a black image that is not counted: CPU convolutions fail on empty batches.
        padding = tf.cast(tf.equal(tf.size(labels[own]), 0), tf.int32)
        return tf.nest.map_structure(
            lambda each: tf.pad(each[own], [[0, padding]] + [[0, 0]] * (each.shape.rank - 1)),
            (images, labels, tf.ones_like(labels, tf.float32)),
        )

    def variables(self):
        """The variables that a checkpoint saves: dict of str -> tf.Variable."""
        trained, optimizer, velocities = self.model.trainable_variables, self.optimizer, self.sgd.velocities
        named = {variable.path: variable for variable in trained}
        named |= {f"velocity/{trained[place].path}": each for place, each in enumerate(velocities)}
        # Dropout's random states, by position: Keras numbers their names over all models of the process.
        named |= {f"random/{place}": variable for place, variable in enumerate(self.model.non_trainable_variables)}
        ids = {id(variable) for variable in named.values()}
        named |= {f"optimizer/{each.path}": each for each in optimizer.variables if id(each) not in ids}
        return {name: variable.value for name, variable in named.items()} | {"averages": self.averages.variable}

    def steps(self, dataset, total, callbacks, progress, read_every):
        """Trains on the batches of a dataset of (images, labels); yields after each step.

        The device computes while the next batches are read: its averages are read after the first step, after every
        `read_every` steps of the run and after the epoch's last one. There `callbacks` get them as logs, else None.
        `total` is the number of batches of the whole epoch; a process that runs out of images before other processes
        continues with empty batches. The steps and batches of the progress.Progress are updated. Raises ReadError,
        NonFiniteError, or RunError where the dataset has another number of batches.
        """
        batches, is_first = self._filled(dataset, total - progress.batches), True
        started = time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - started
            callbacks.on_train_batch_begin(progress.batches)
            self.train_step(*batch)
            progress.steps, progress.batches = progress.steps + 1, progress.batches + 1
            is_due = is_first or progress.steps % read_every == 0 or progress.batches == total
            is_first = False
            callbacks.on_train_batch_end(progress.batches - 1, self.read_averages(progress) if is_due else None)
            yield
            started = time.perf_counter()

    def read_averages(self, progress):
        """The sums of the epoch so far, see `metrics.Averages.sums`. Raises NonFiniteError where the loss is not."""
        sums = self.averages.sums()
        if not math.isfinite(sums["loss"]):
            raise NonFiniteError(f"the loss is {sums['loss']} at step {progress.steps} or shortly before")
        return sums

    def evaluate(self, dataset, count, total, stop=lambda: False):
        """The means of `metrics.NAMES` over a dataset of (images, labels), dict of float; None if it was stopped.

        `total` is the number of batches, as in `steps`; `stop` a function without arguments, called after each batch,
        that returns whether to stop. Raises RunError unless all processes together read `count` images.
        """
        self.tested.reset()
        for images, labels in self._filled(dataset, total):
            self.test_step(images, labels)
            if stop():
                return None
        if self.tested.count() != count:
            raise RunError(f"validation read {self.tested.count()} images instead of {count}")
        return self.tested.result()

    def _filled(self, dataset, count):
        """Yields `count` batches: those of a dataset and, with several processes, empty batches after them."""
        number = 0
        for number, batch in enumerate(read(self._copied_ahead(dataset)), 1):
            if number > count:
                break
            yield batch
        while number < count and self.processes > 1:
            number += 1
            yield tf.nest.map_structure(lambda spec: tf.zeros((0, *spec.shape[1:]), spec.dtype), self.signature)
        if number != count:
            more = "more than " * (number > count)
            raise RunError(f"there are {more}{min(number, count)} batches instead of {count}; the images have changed")

    def _copied_ahead(self, dataset):
        """A dataset whose batches are copied to the GPU in advance, two in flight; replicas copy theirs in the step."""
        device = self.device or ("GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0")
        if device.startswith("CPU") or self.strategy.num_replicas_in_sync > 1 or not hasattr(dataset, "apply"):
            return dataset
        copied = dataset.apply(tf.data.experimental.prefetch_to_device(device, 2))
        return copied.with_options(dataset.options())  # which do not pass on to the device, tuning for one

    def is_same_for_all(self, number):
        """True if all processes pass the same number; every process must call this."""
        return self.processes == 1 or float(self._sum(float(number))) == self.processes * float(number)

    def any_of_all(self, flag):
        """True if the flag is set in any process; every process must call this.

        With several processes it answers for the call before, so that none waits for the step in progress.
        """
        if self.processes == 1:
            return bool(flag)
        before, self.stops = self.stops, self._sum(float(bool(flag)))
        return before is not None and float(before) > 0

    @tf.function(input_signature=[tf.TensorSpec((), tf.float32)])
    def _sum(self, number):
        """The sum over all processes, float32."""
        sums = self.strategy.experimental_local_results(self.strategy.run(_sum_over_replicas, args=(number,)))
        return sums[0] / len(sums)


def read(dataset):
    """Yields the batches of a dataset. Raises ReadError where its graph fails."""
    try:
        yield from dataset
    except tf.errors.OpError as error:
        raise ReadError(brief(error)) from None


def _sum_over_replicas(value):
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return value
    # all_reduce needs a tensor on a device; a value from outside the replica has none yet.
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))
