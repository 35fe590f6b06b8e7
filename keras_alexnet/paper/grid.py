"""A grid of runs, one for each flagfile and seed, trained by one runner or by several that share the folder.

OUT/STEM/seedN is the run of flagfile STEM.cfg with seed N, and OUT/STEM/seedN.log the output of its training. The file
OUT/STEM/seedN.lock is locked during training. All flagfiles are trained with the first seed before the second seed, so
that an unfinished grid has complete seeds. TensorBoard shows the runs under HParams.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from keras_alexnet import config as configs, files, flags, rundir
from keras_alexnet.errors import ArgumentError, UsageError, printable
from keras_alexnet.training import progress

TRAINER = (sys.executable, "-m", "keras_alexnet.train")
PATIENCE = 30.0  # seconds that a trainer may take to end after Ctrl-C
HPARAMS_FILE = "events.out.tfevents.0.hparams"  # TensorBoard reads files with "tfevents" in the name


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of a grid. `stem` is the flagfile's name without suffix; `config` holds the parsed arguments `argv`."""

    stem: str
    seed: int
    folder: str
    argv: tuple[str, ...]
    config: configs.Config

    name = property(lambda self: f"{self.stem}/seed{self.seed}")
    log = property(lambda self: f"{self.folder}.log")
    lock = property(lambda self: f"{self.folder}.lock")
    history = property(lambda self: rundir.read_history(self.folder))

    @property
    def epochs(self):
        """The number of epochs that both the history and the newest checkpoint include, int."""
        paths = progress.checkpoint_paths(os.path.join(self.folder, rundir.CHECKPOINTS))
        return min(progress.checkpoint_place(paths[-1])[0], len(self.history)) if paths else 0

    @property
    def done(self):
        """Whether the run has trained to the end, bool."""
        epochs, training = self.epochs, self.config.training
        if not epochs or epochs >= training.epochs or training.lr_policy != "plateau":
            return epochs >= training.epochs
        from keras_alexnet.training import checkpoints  # imports TensorFlow, needed for the plateau policy only

        return checkpoints.read_progress(os.path.join(self.folder, rundir.CHECKPOINTS, f"epoch-{epochs}")).finished

    @property
    def changes(self):
        """The flags in which the run in the folder differs from the cell: list of str; empty without a run."""
        if not rundir.is_run(self.folder) or not rundir.has_checkpoint(self.folder):
            return []
        return flags.changes(rundir.read_config(self.folder), self.config)


def cells_of(flagfiles, seeds, out, further=()):
    """The cells in the folder `out`, in the order of training; `further` are flags to add after each flagfile."""
    stems, cells = {}, []
    for path in flagfiles:
        stem = os.path.splitext(os.path.basename(path))[0]
        if not os.path.isfile(path):
            raise UsageError(f"{path}: is not a flagfile; write further flags as --NAME=VALUE")
        if stem in stems:
            raise UsageError(f"{path}: {stems[stem]} has the same name, and both runs would be {stem}; rename one")
        stems[stem] = path
    for seed in seeds:
        for stem, path in stems.items():
            folder = os.path.join(out, stem, f"seed{seed}")
            argv = (f"--flagfile={path}", *further, f"--seed={seed}", f"--model_dir={folder}")
            try:
                cells.append(Cell(stem, seed, folder, argv, configs.parse_train(argv, "")))
            except (UsageError, ArgumentError) as error:
                raise UsageError(f"{path}: {error}") from None
    return cells


def settings_of(config):
    """The flags that affect a run's results, as values for HParams; the seed is text, since it is not a quantity."""
    texts, settings = flags.as_text(config), {}
    for group in vars(config).values():
        for field in dataclasses.fields(group):
            name, value = field.name, getattr(group, field.name)
            if field.metadata["saved"] and (name == "epochs" or not field.metadata["free"]):
                settings[name] = value if isinstance(value, int | float) and name != "seed" else texts[name] or "-"
    return settings


def train(argv, log, lock):
    """Runs the trainer as a child process and returns its exit code; appends its output to the file `log`.

    The child inherits the open file `lock`: the run stays locked during training, even if this process is killed.
    """
    # SIGTERM and SIGHUP act like Ctrl-C, unless they are ignored (nohup). Only the main thread can set handlers.
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(each) == signal.SIG_DFL:
                signal.signal(each, signal.default_int_handler)
    with open(log, "ab") as output:
        # In a new session, the child does not get Ctrl-C from the terminal; this process passes it on once.
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        process = subprocess.Popen([*TRAINER, *argv], **streams, start_new_session=True, pass_fds=(lock.fileno(),))
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE)
                process.kill()
                process.wait()


def run(cells):
    """Trains the cells that are neither done nor being trained by another runner, and prints progress.

    Returns (dict of Cell -> reason of failure, dict of Cell -> who trains it, in words); other cells are done. Ctrl-C,
    SIGTERM and SIGHUP raise KeyboardInterrupt after the trainer has ended; its run can be resumed.
    """
    out = os.path.dirname(os.path.dirname(cells[0].folder)) or "."
    for cell in cells:
        if cell.changes:  # checked for finished runs too
            changed = ", ".join(cell.changes)
            raise UsageError(f"{cell.folder}: holds a run with other flags, {changed}; name another folder")
        os.makedirs(os.path.dirname(cell.folder), exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        # Version 0.1 listed the columns of HParams there; without the list TensorBoard finds them in the runs.
        os.remove(os.path.join(out, HPARAMS_FILE))
    done, failed, seconds = [cell for cell in cells if cell.done], {}, []
    left = [cell for cell in cells if cell not in done]
    print(f"{out}: {len(cells)} runs, {len(done)} done")
    for cell in done:
        write_hparams(cell)
    while (following := _next(left)) is not None:
        cell, lock = following
        started = time.perf_counter()
        with lock:
            code, failure = train(cell.argv, cell.log, lock), ""
        if code < 0:
            failure = f"was killed by signal {-code}"
        elif code:
            with open(cell.log, encoding="utf-8", errors="replace") as file:
                lines = file.read().split("\n")
            failure = next((printable(line.strip())[:300] for line in lines[::-1] if line.strip()), f"exit code {code}")
        elif not cell.done:
            failure = f"ended after {cell.epochs} of {cell.config.training.epochs} epochs"
        seconds.append(time.perf_counter() - started)
        if failure:
            failed[cell], result = failure, f"FAILED: {failure}"
        else:
            write_hparams(cell)
            error = cell.history[-1]["val_top1_error"]
            result = f"validation top-1 error {error:.2f} %, {seconds[-1] / 60:.1f} min"
        left = [each for each in left if each != cell and not each.done]
        minutes = len(left) * sum(seconds) / len(seconds) / 60
        remaining = f"; {len(left)} left, about {minutes:.0f} min by this runner alone" * bool(left)
        print(f"{len(cells) - len(left)}/{len(cells)} {cell.name}: {result}{remaining}")
    others = [cell for cell in cells if cell not in failed and not cell.done]
    return failed, {cell: f"is being trained by another runner ({files.owner(cell.lock)})" for cell in others}


def _next(cells):
    """(cell, lock) of the first cell that is neither done nor locked; None without such a cell."""
    for cell in cells:
        lock = files.acquire(cell.lock)
        if lock is not None:
            if not cell.done:  # another runner may have finished it meanwhile
                return cell, lock
            lock.close()
    return None


def write_hparams(cell):
    """Writes or replaces the file from which TensorBoard shows a finished run under HParams."""
    last, folder = cell.history[-1], os.path.join(cell.folder, "logs", "hparams")
    images = files.read_json(os.path.join(cell.folder, rundir.PROVENANCE))[0]["training_set"]["images"]
    values = {name: last[name] for name in ("val_top1_error", "val_loss")}
    values["best_val_top1_error"] = min(row["val_top1_error"] for row in cell.history)
    values["training_minutes"] = sum(images / row["images_per_second"] for row in cell.history) / 60
    ended = os.path.getmtime(os.path.join(cell.folder, rundir.HISTORY))
    # Runs of the same name share a row of the table; the name of the grid's folder separates the runs of two grids.
    name = "/".join(os.path.abspath(cell.folder).split(os.sep)[-3:])
    summaries = [(0, hparams_pb(settings_of(cell.config), trial_id=name, start_time_secs=ended))]
    summaries += [(int(last["epoch"]), scalar_pb(name, value)) for name, value in values.items()]
    os.makedirs(folder, exist_ok=True)
    with files.atomic_write(os.path.join(folder, HPARAMS_FILE), "wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=ended, file_version="brain.Event:2").SerializeToString())
        for step, summary in summaries:
            writer.write(Event(wall_time=ended, step=step, summary=summary).SerializeToString())
