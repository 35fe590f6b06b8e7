"""A run's checkpoints: tables of named numbers, written beside training, whole or not there.

    CHECKPOINTS/epoch-12.index, .data-*            after the twelfth epoch
    CHECKPOINTS/epoch-12-step-340.index, .data-*   and 340 steps into the thirteenth

The files are TensorFlow's own (`tf.train.load_checkpoint`), with a checksum for every tensor; `checkpoint` names the
newest (`tf.train.latest_checkpoint`). They are listed without TensorFlow, for who only asks whether there is one.

Keras' and TensorFlow's own ways do not do: TensorFlow 2.21's asynchronous checkpoints fail at the second one with Keras
3's variables, and neither puts a file on the disk before its name.
"""

import contextlib
import glob
import os
import re
import sys
import threading

from keras_alexnet.errors import RunError, brief
from keras_alexnet.files import atomic_write, sync_directory
from keras_alexnet.training.progress import Progress
from keras_alexnet.training.progress import of_json as progress_of

PROGRESS = "progress"  # the tensor that is a text
NEWEST, BEST = "newest", "best"
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?")
_ASIDE = ".writing"


class ChangedError(RunError):
    """A checkpoint is of another network or optimizer."""


def name_of(epochs, steps):
    """The name of the checkpoint after so many whole epochs and so many steps of the next, str."""
    return f"epoch-{epochs}" + (f"-step-{steps}" if steps else "")


def place_of(path):
    """What a checkpoint's name says: (epochs, steps); None of other names."""
    found = _NAME.fullmatch(os.path.basename(path))
    return found and (int(found[1]), int(found[2] or 0))


def paths(folder):
    """The checkpoints of a folder, oldest first: list of str, without suffix. Found by their names alone."""
    found = [path.removesuffix(".index") for path in glob.glob(os.path.join(glob.escape(folder), "epoch-*.index"))]
    return sorted((path for path in found if place_of(path)), key=place_of)


def newest(folder):
    """The newest checkpoint of a folder, str, or None."""
    return (paths(folder) or [None])[-1]


def of_epochs(folder, which=NEWEST):
    """The checkpoint of a folder that stands for its run.

    Args:
        folder: str.
        which: NEWEST, of whole epochs if there is one; or BEST, of the epoch with the lowest validation error.

    Returns:
        str, without suffix; None where there is none.
    """
    there = paths(folder)
    if not there:
        return None
    if which == BEST:
        import tensorflow as tf

        best = progress_of(tf.train.load_variable(there[-1], PROGRESS).decode()).best
        path = os.path.join(folder, name_of(best or 0, 0))
        return path if path in there else None
    return ([path for path in there if not place_of(path)[1]] or there)[-1]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: str; made when there is something to write.
        variables: dict of str -> tf.Variable, all numbers that training goes on with.
        keep: int >= 1, how many of the newest stay.
    """

    def __init__(self, folder, variables, keep):
        self.folder, self.variables, self.keep = folder, variables, keep
        self.writer, self.failure = None, None

    def write(self, progress):
        """Takes a copy of all numbers, and writes it while training goes on; the best checkpoint stays, however old.

        Args:
            progress: progress.Progress, kept beside the numbers.

        Raises:
            RunError: the one before could not be written.
        """
        import tensorflow as tf

        self.wait()
        # A tensor that is read on the processor shares its numbers with the variable until that changes: a copy is made
        # by the next update, and only of what it changes. On a GPU it is a copy to the host.
        with tf.device("CPU:0"):
            tensors = [tf.convert_to_tensor(variable) for variable in self.variables.values()]
        best = None if progress.best is None else name_of(progress.best, 0)
        arguments = (name_of(progress.epochs, progress.batches), tensors, progress.to_json(), best)
        self.writer = threading.Thread(target=self._write, args=arguments, name="checkpoint")
        self.writer.start()

    def wait(self):
        """Waits until the last checkpoint is on the disk. Raises RunError where it could not be written."""
        if self.writer:
            self.writer.join()
            self.writer = None
        if self.failure:
            failure, self.failure = self.failure, None
            kept = newest(self.folder)
            rest = f"the checkpoint {os.path.basename(kept)} is kept" if kept else "there is none yet"
            raise RunError(f"{self.folder}: a checkpoint could not be written ({failure}); {rest}")

    def resume(self):
        """Takes up the newest checkpoint that can be read; one that cannot is named and passed over.

        Returns:
            (path, progress.Progress); (None, one at its beginning) where there is no checkpoint.

        Raises:
            ChangedError: the newest that can be read is of another network.
            RunError: there are checkpoints, and none can be read.
        """
        there = paths(self.folder)
        for path in reversed(there):
            try:
                return path, progress_of(self.read(path))
            except ChangedError:
                raise
            except (RunError, ValueError, TypeError) as error:
                words = str(error).removeprefix(f"{path}: ")
                print(f"warning: {path}: {words}; trying the one before", file=sys.stderr, flush=True)
        if there:
            raise RunError(f"{self.folder}: no checkpoint can be read; give another folder")
        return None, Progress()

    def read(self, path):
        """Gives the variables the numbers of a checkpoint.

        Args:
            path: str, without suffix.

        Returns:
            str, what was kept beside them.

        Raises:
            ChangedError: it has other variables, or of other shapes; nothing was changed.
            RunError: it is damaged or not there; nothing was changed.
        """
        import tensorflow as tf

        try:
            reader = tf.train.load_checkpoint(path)
            shapes = reader.get_variable_to_shape_map()
            if "_CHECKPOINTABLE_OBJECT_GRAPH" in shapes:
                raise ChangedError(
                    f"{path}: was not written by this version's training; --initial_weights takes its weights into a "
                    "new run"
                )
            own = {name: variable.shape.as_list() for name, variable in self.variables.items()}
            unknown = sorted(
                f"{name} is {shapes.get(name, 'missing')} and not {own.get(name, 'wanted')}"
                for name in {*own, *shapes} - {PROGRESS}
                if own.get(name) != shapes.get(name)
            )
            if unknown or PROGRESS not in shapes:
                shown = "; ".join(unknown[:5]) + (f"; and {len(unknown) - 5} more" if len(unknown) > 5 else "")
                raise ChangedError(f"{path}: is of another network ({shown or 'it has no progress'})")
            # All is read, and its checksums with it, before anything is changed.
            values = {name: reader.get_tensor(name) for name in own}
            progress = reader.get_tensor(PROGRESS).decode()
        except RunError:
            raise
        except Exception as error:
            # Damaged tables fail in many ways: an error of TensorFlow's, an IndexError of a shortened file.
            words = brief(error) if isinstance(error, tf.errors.OpError) else str(error)
            raise RunError(f"{path}: cannot be read ({' '.join(words.split())[:200]})") from None
        for name, variable in self.variables.items():
            variable.assign(values[name])
        return progress

    def _write(self, name, tensors, progress, best):
        """Writes aside, on the disk, into place: the data before the index, which makes it a checkpoint."""
        import tensorflow as tf

        aside = os.path.join(self.folder, _ASIDE)
        try:
            os.makedirs(self.folder, exist_ok=True)
            self._remove_aside()
            with tf.device("CPU:0"):
                tf.raw_ops.SaveV2(
                    prefix=aside,
                    tensor_names=[*self.variables, PROGRESS],
                    shape_and_slices=[""] * (1 + len(tensors)),
                    tensors=[*tensors, tf.constant(progress)],
                )
            for path in sorted(glob.glob(f"{glob.escape(aside)}.*")):  # .data-* comes before .index
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(path, os.path.join(self.folder, name) + path.removeprefix(aside))
            sync_directory(self.folder)
            self._sweep(name, best)
        except tf.errors.OpError as error:
            self.failure = brief(error)
        except OSError as error:
            self.failure = error.strerror or str(error)
        except Exception as error:
            # In a thread of its own it would be printed and forgotten.
            self.failure = f"{type(error).__name__}: {error}"
        if self.failure:
            with contextlib.suppress(OSError):
                self._remove_aside()  # it may be what fills the disk

    def _sweep(self, name, best):
        """Names the newest, and removes what is neither among the newest nor the best nor of the last whole epoch."""
        there = paths(self.folder)
        # What stands behind the newest is of a time that this run went back before, and is another's now.
        there = [os.path.basename(path) for path in there if place_of(path) <= place_of(name)]
        # The newest of a whole epoch stays too: it is what its validation error is of.
        whole = [each for each in there if not place_of(each)[1]][-1:]
        kept = [each for each in there if each in there[-self.keep :] or each in (best, *whole)]
        with atomic_write(os.path.join(self.folder, "checkpoint")) as file:  # for tf.train.latest_checkpoint
            file.write(f'model_checkpoint_path: "{name}"\n')
            file.write("".join(f'all_model_checkpoint_paths: "{each}"\n' for each in kept))
        for path in paths(self.folder):
            if os.path.basename(path) not in kept:
                # The index first: without it the rest is no checkpoint.
                for part in sorted(glob.glob(f"{glob.escape(path)}.*"), reverse=True):
                    if part.removeprefix(path).startswith((".index", ".data-")):
                        os.unlink(part)

    def _remove_aside(self):
        for path in glob.glob(f"{glob.escape(os.path.join(self.folder, _ASIDE))}*"):
            os.unlink(path)
