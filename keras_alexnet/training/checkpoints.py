"""The checkpoints of a run: named arrays, written atomically by a thread during training.

The files have TensorFlow's format (`tf.train.load_checkpoint`), with checksums; the file `checkpoint` names the newest.
TensorFlow 2.21's own asynchronous checkpoints fail at the second save of Keras 3 variables, and rename files without
syncing them.
"""

import contextlib
import glob
import os
import threading

import numpy as np
import tensorflow as tf

from keras_alexnet.errors import RunError, brief, reading
from keras_alexnet.files import atomic_write, sync
from keras_alexnet.training import progress as progresses

PROGRESS = "progress"  # name of the text tensor with the progress as JSON
_TEMPORARY = ".writing"


def read_progress(path):
    """The progress.Progress that a checkpoint holds. Raises RunError where it cannot be read."""
    with reading(path):
        reader = tf.train.load_checkpoint(path)
        # Version 0.1 stored it under a name of TensorFlow's object graph.
        names = (PROGRESS, f"{PROGRESS}/.ATTRIBUTES/VARIABLE_VALUE")
        return progresses.of_json(reader.get_tensor(next(filter(reader.has_tensor, names))).decode())


def _tensors(path):
    """The tensors of a checkpoint by name, PROGRESS as a progress.Progress: dict."""
    reader = tf.train.load_checkpoint(path)
    values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    if PROGRESS in values:
        values[PROGRESS] = progresses.of_json(values[PROGRESS].decode())
    return values


class Checkpoints:
    """The checkpoints of a run.

    `folder` is created at the first checkpoint; `variables`, dict of str -> tf.Variable, are saved and restored; `keep`
    is the number of newest checkpoints to keep, int >= 1.
    """

    def __init__(self, folder, variables, keep):
        self.folder, self.variables, self.keep = folder, variables, keep
        self.writer, self.failure = None, None

    def write(self, progress):
        """Copies all variables and writes them with a progress.Progress while training continues.

        The best checkpoint is kept, however old. Raises RunError where the previous checkpoint could not be written.
        """
        self.wait()
        # On a CPU a tensor shares the memory of its variable until the next update, which copies it on write. From a
        # GPU it is copied to the host.
        with tf.device("CPU:0"):
            tensors = [tf.convert_to_tensor(variable) for variable in self.variables.values()]
        best = None if progress.best is None else progresses.checkpoint_name(progress.best, 0)
        arguments = (progresses.checkpoint_name(progress.epochs, progress.batches), tensors, progress.to_json(), best)
        self.writer = threading.Thread(target=self._write, args=arguments, name="checkpoint")
        self.writer.start()

    def wait(self):
        """Waits until the last checkpoint is on the disk. Raises RunError where it could not be written."""
        if self.writer:
            self.writer.join()
            self.writer = None
        if self.failure:
            failure, self.failure = self.failure, None
            raise RunError(f"{self.folder}: a checkpoint could not be written ({failure}); {self.kept()}")

    def kept(self):
        """A text that names the newest checkpoint on the disk, str."""
        self.wait()
        paths = progresses.checkpoint_paths(self.folder)
        return f"the checkpoint {os.path.basename(paths[-1])} is kept" if paths else "there is no checkpoint yet"

    def resume(self):
        """Restores the newest readable checkpoint, with a warning for each unreadable one.

        Returns (path, progress.Progress), or (None, a new Progress) without a checkpoint. Raises RunError, with no
        variable changed, where no checkpoint can be read or the newest readable one is of another network.
        """
        paths = progresses.checkpoint_paths(self.folder)
        if not paths:
            return None, progresses.Progress()
        # All tensors and their checksums are read before any variable is changed.
        path, values = progresses.first_readable(paths[::-1], lambda path: (path, _tensors(path)))
        own = {PROGRESS: (), **{name: tuple(variable.shape) for name, variable in self.variables.items()}}
        shapes = {name: np.shape(value) for name, value in values.items()}
        if not any(name.startswith("velocity/") for name in shapes):  # a SavedModel's, or weights alone
            problem = "was not written by this version's training; --initial_weights starts a new run from it"
            raise RunError(f"{path}: {problem}")
        mismatched = sorted(
            f"{name} is {shapes.get(name, 'missing')} instead of {own.get(name, 'missing')}"
            for name in {*own, *shapes}
            if own.get(name) != shapes.get(name)
        )
        if mismatched:
            more = f"; and {len(mismatched) - 5} more" if len(mismatched) > 5 else ""
            raise RunError(f"{path}: is of another network ({'; '.join(mismatched[:5])}{more})")
        for name, variable in self.variables.items():
            variable.assign(values[name])
        return path, values[PROGRESS]

    def _write(self, name, tensors, progress, best):
        """Writes and renames temporary files, the index last, which makes them a checkpoint."""
        temporary = os.path.join(self.folder, _TEMPORARY)
        try:
            os.makedirs(self.folder, exist_ok=True)
            self._remove_temporary()
            with tf.device("CPU:0"):
                tf.raw_ops.SaveV2(
                    prefix=temporary,
                    tensor_names=[*self.variables, PROGRESS],
                    shape_and_slices=[""] * (1 + len(tensors)),
                    tensors=[*tensors, tf.constant(progress)],
                )
            for path in sorted(glob.glob(f"{glob.escape(temporary)}.*")):  # .data-* comes before .index
                sync(path)
                os.replace(path, os.path.join(self.folder, name) + path.removeprefix(temporary))
            sync(self.folder)
            self._sweep(name, best)
        except Exception as error:
            # An exception in a thread is only printed, so `wait` raises it.
            self.failure = brief(error) if isinstance(error, tf.errors.OpError) else str(error) or repr(error)
            with contextlib.suppress(OSError):
                self._remove_temporary()  # the temporary files may fill the disk

    def _sweep(self, name, best):
        """Lists the newest, the best and the last whole epoch in the file `checkpoint`, and removes the others."""
        names = [os.path.basename(path) for path in progresses.checkpoint_paths(self.folder)]
        # Checkpoints of later steps are damaged ones that the run did not resume from.
        names = [each for each in names if progresses.checkpoint_place(each) <= progresses.checkpoint_place(name)]
        # Evaluation and export use the last whole epoch.
        whole = [each for each in names if not progresses.checkpoint_place(each)[1]][-1:]
        kept = [each for each in names if each in names[-self.keep :] or each in (best, *whole)]
        with atomic_write(os.path.join(self.folder, "checkpoint")) as file:  # for tf.train.latest_checkpoint
            file.write(f'model_checkpoint_path: "{name}"\n')
            file.write("".join(f'all_model_checkpoint_paths: "{each}"\n' for each in kept))
        for path in progresses.checkpoint_paths(self.folder):
            if os.path.basename(path) not in kept:
                # The index first: without it, the data files are not a checkpoint.
                for part in sorted(glob.glob(f"{glob.escape(path)}.*"), reverse=True):
                    if part.removeprefix(path).startswith((".index", ".data-")):
                        os.unlink(part)

    def _remove_temporary(self):
        for path in glob.glob(f"{glob.escape(os.path.join(self.folder, _TEMPORARY))}*"):
            os.unlink(path)
