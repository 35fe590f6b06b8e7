"""What goes wrong in a long run, named while it does: on the screen, in TensorBoard, with what to do."""

import math
import resource
import shutil
import sys
import time

import keras
import tensorflow as tf

STARVING = 0.5  # share of the time that goes by waiting for images
WARM_UP = 50  # steps at the start of a process in which the data graph fills its buffers
FLAT = 0.02  # a loss this near to that of a majority-class baseline, as a part of it
FLAT_STEPS = 2000
FLAT_EPOCHS = 10  # whichever comes first
_GIGABYTE = 1e9


class Watch(keras.callbacks.Callback):
    """Speed, waiting and memory every few steps, and a warning for each thing that goes wrong, once a process.

    Args:
        curves: callbacks.Curves, in whose training part the points appear.
        folder: str, whose disk is looked at.
        needed: int, bytes that the next checkpoint takes.
        constant_loss: float, nats, of the best majority-class baseline.
        classes: int.
        epoch_steps: int, steps of an epoch.
        variant: str, of the network.
    """

    def __init__(self, curves, folder, needed, constant_loss, classes, epoch_steps, variant):
        super().__init__()
        self.curves, self.folder, self.needed = curves, folder, needed
        self.constant_loss, self.classes, self.variant = constant_loss, classes, variant
        self.patience = min(FLAT_STEPS, FLAT_EPOCHS * epoch_steps)
        self.begun, self.images, self.waited, self.seen, self.flat = None, 0.0, 0.0, 0, 0
        self.warned = set()

    def on_epoch_begin(self, epoch, logs=None):
        self.begun = None  # the validation before it is no time of training

    def on_train_batch_end(self, batch, logs=None):
        trainer, now = self.curves.trainer, time.perf_counter()
        self.seen += 1
        count = trainer.averages.count()
        if self.begun is None:
            self.begun, self.images, self.waited = now, count, trainer.waited
            return
        if self.curves.step % self.curves.every:
            return
        seconds, images = now - self.begun, count - self.images
        waiting = (trainer.waited - self.waited) / seconds
        with self.curves.train_writer.as_default(self.curves.step):
            tf.summary.scalar("speed/images_per_second", images / seconds)
            tf.summary.scalar("speed/share_of_time_waiting_for_images", waiting)
            for name, size in memory().items():
                tf.summary.scalar(f"memory/{name}_gigabytes", size / _GIGABYTE)
        self.begun, self.images, self.waited = now, count, trainer.waited
        if self.seen > WARM_UP and waiting > STARVING:
            self._warn(
                "waiting",
                f"{100 * waiting:.0f} % of the time goes by waiting for images: prepare them once with "
                "tools/prepare_dataset.py and train with --dataset=records, or give --input_threads",
            )
        self._look_at_loss(logs["loss"])
        self.look_at_disk()

    def _look_at_loss(self, loss):
        """The loss is the mean over the epoch so far."""
        near = abs(loss - self.constant_loss) < FLAT * self.constant_loss
        self.flat = self.flat + self.curves.every if near else 0
        if self.flat >= self.patience:
            start = "" if self.variant == "release2012" else "; --variant=release2012 begins with larger weights"
            self._warn(
                "flat",
                f"for {self.flat} steps the loss has stood at {loss:.3f}, which a majority-class baseline has (ln "
                f"{self.classes} is {math.log(self.classes):.3f}): the published start can do so for hundreds of "
                f"steps, a wrong --learning_rate or wrong labels for ever{start}",
            )

    def look_at_disk(self):
        """Warns where the disk has no room for two more checkpoints."""
        free = shutil.disk_usage(self.folder).free
        if free < 2 * self.needed:
            self._warn(
                "disk",
                f"{free / _GIGABYTE:.2f} GB are left on the disk of {self.folder}, and a checkpoint takes "
                f"{self.needed / _GIGABYTE:.2f} GB: make room, or the run ends at the next one",
            )

    def _warn(self, kind, words):
        if kind in self.warned:
            return
        self.warned.add(kind)
        print(f"warning: {words}", file=sys.stderr, flush=True)
        self.note(words)

    def note(self, words):
        """Puts a warning into TensorBoard alone."""
        with self.curves.train_writer.as_default(self.curves.step):
            tf.summary.text("warnings", words)


def memory():
    """Bytes in use: dict of "process" (the most it ever had) and each GPU, such as "GPU:0" (now) -> int."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"process": most if sys.platform == "darwin" else 1024 * most}
    for device in tf.config.list_logical_devices("GPU"):
        name = device.name.removeprefix("/device:")
        found[name] = tf.config.experimental.get_memory_info(name)["current"]
    return found


def idle(model):
    """GPUs that hold nothing of a model: list of str, such as "GPU:1"."""
    used = {device for variable in model.variables for device in _devices_of(variable.value)}
    there = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
    return [name for name in there if not any(device.endswith(name) for device in used)]


def _devices_of(variable):
    replicas = getattr(variable, "values", None)
    return [each.device for each in replicas] if isinstance(replicas, tuple) else [variable.device]
