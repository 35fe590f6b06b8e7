"""A grid of runs, flagfiles x seeds: every cell trained once, by one runner or by several on several machines.

OUT/STEM/seedN is the run of the flagfile STEM.cfg with the seed N, OUT/STEM/seedN.log what its training said, and
OUT/STEM/seedN.lock who is or was at it, see `locks`. Seed by seed, so that a grid that is cut short has whole seeds.
"""

import contextlib
import csv
import dataclasses
import glob
import os
import time

from keras_alexnet import config as configs
from keras_alexnet import files
from keras_alexnet import rundir
from keras_alexnet.errors import RunError, UsageError, printable
from keras_alexnet.paper import hparams, trainer
from keras_alexnet.training import checkpoints


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of a grid.

    Attributes:
        stem: str, the flagfile's name without its ending.
        seed: int.
        folder: str, the run's.
        argv: tuple of str, the trainer's arguments.
        config: keras_alexnet.config.Config that they are.
    """

    stem: str
    seed: int
    folder: str
    argv: tuple[str, ...]
    config: configs.Config

    @property
    def name(self):
        return f"{self.stem}/seed{self.seed}"

    @property
    def log(self):
        return f"{self.folder}.log"

    @property
    def lock(self):
        return f"{self.folder}.lock"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a grid ended.

    Attributes:
        done: int, cells that are done, whoever trained them.
        failed: dict of Cell -> str, the last line of its log.
        elsewhere: dict of Cell -> str, who has it.
    """

    done: int
    failed: dict
    elsewhere: dict


def folder_of(out, stem, seed):
    """The folder of a run, str."""
    return os.path.join(out, stem, f"seed{seed}")


def cells_of(flagfiles, seeds, out, further=()):
    """The cells of a grid in the order in which they are trained.

    Args:
        flagfiles: sequence of str, paths.
        seeds: sequence of int.
        out: str, the grid's folder.
        further: sequence of str, flags of training that come after each flagfile.

    Returns:
        tuple of Cell.

    Raises:
        UsageError: a flagfile is not there, twice there, or no training's; a run that is there has other flags.
    """
    stems = {}
    for path in flagfiles:
        stem = os.path.splitext(os.path.basename(path))[0]
        if not os.path.isfile(path):
            raise UsageError(f"{path}: there is no such flagfile; further flags are written --NAME=VALUE")
        if stem in stems:
            raise UsageError(f"{path}: {stems[stem]} has the same name, and both runs would be {stem}; rename one")
        stems[stem] = path
    found = []
    for seed in seeds:
        for stem, path in stems.items():
            folder = folder_of(out, stem, seed)
            argv = (f"--flagfile={path}", *further, f"--seed={seed}", f"--model_dir={folder}")
            try:
                config = configs.parse_train(argv, "")
            except UsageError as error:
                raise UsageError(f"{path}: {error}") from None
            found.append(Cell(stem, seed, folder, argv, config))
    for cell in found:
        _check_same(cell)
    return tuple(found)


def history(folder):
    """The history.csv of a run: list of dict of str -> float, one an epoch; empty where there is none.

    Raises:
        RunError: it holds something else.
    """
    path = os.path.join(folder, "history.csv")
    if not os.path.isfile(path):
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        for row in rows:
            row["epoch"], row["top1_error"], row["val_top1_error"], row["val_loss"]  # noqa: B018 (must be there)
    except (ValueError, TypeError, KeyError):
        raise RunError(f"{path}: is no history of a run; the trainer writes it again") from None
    return rows


def epochs_done(folder):
    """Epochs that both the newest checkpoint and the history of a run know of, int; found without TensorFlow."""
    newest = checkpoints.newest(os.path.join(folder, rundir.CHECKPOINTS))
    with contextlib.suppress(RunError):
        return min(checkpoints.place_of(newest)[0], len(history(folder))) if newest else 0
    return 0


def is_done(folder, config):
    """Whether a run has got to its end, bool.

    Args:
        folder: str, the run's, there or not.
        config: keras_alexnet.config.Config that says how far that is.
    """
    epochs = epochs_done(folder)
    if not epochs or epochs >= config.training.epochs or config.training.lr_policy != "plateau":
        return epochs >= config.training.epochs
    with contextlib.suppress(RunError, UsageError):
        return rundir.progress_of(os.path.join(folder, rundir.CHECKPOINTS, f"epoch-{epochs}")).get("finished", False)
    return False


def run(cells, train=trainer.in_a_process, say=print):
    """Trains what is not done and nobody else is at, each cell once; a cell that fails does not keep the others.

    Args:
        cells: sequence of Cell.
        train: function of (arguments, log, lock) -> exit code, see `trainer`.
        say: function of a line, about what happens.

    Returns:
        Outcome.

    Raises:
        KeyboardInterrupt: after Ctrl-C or a signal to end; the trainer has ended and its run can be taken up again.
    """
    out = os.path.dirname(os.path.dirname(cells[0].folder)) or "."
    for cell in cells:
        os.makedirs(os.path.dirname(cell.folder), exist_ok=True)
    done = [cell for cell in cells if is_done(cell.folder, cell.config)]
    say(f"{out}: {len(cells)} runs, {len(done)} done")
    hparams.write_experiment(out, [*(cell.config for cell in cells), *_others(out, cells)])
    for cell in done:
        _write_hparams(cell)
    failed, seconds, left = {}, [], [cell for cell in cells if cell not in done]
    with trainer.ended_by_signals():
        while (taken := _next(left)) is not None:
            cell, lock = taken
            started = time.perf_counter()
            with lock:
                failure = _train(cell, lock, train)
            seconds.append(time.perf_counter() - started)
            if failure:
                failed[cell] = failure
            left = [each for each in left if each != cell and not is_done(each.folder, each.config)]
            say(_line(cell, failure, len(cells), len(left), seconds))
    done = [cell for cell in cells if cell not in failed and is_done(cell.folder, cell.config)]
    for cell in done:  # another runner's too
        _write_hparams(cell)
    elsewhere = {cell: files.owner(cell.lock) for cell in cells if cell not in done and cell not in failed}
    return Outcome(len(done), failed, elsewhere)


def _next(cells):
    """The first cell that is free and not done, and its lock; None where there is none."""
    for cell in cells:
        lock = files.acquire(cell.lock)
        if lock is None:
            continue
        # It may have been done by another since one last looked.
        if not is_done(cell.folder, cell.config):
            return cell, lock
        lock.close()
    return None


def _train(cell, lock, train):
    """Trains a cell; returns why it failed, or an empty str."""
    code = train(cell.argv, cell.log, lock)
    if code:
        return _last_line(cell.log) or f"exit code {code}"
    if not is_done(cell.folder, cell.config):
        return f"ended after {epochs_done(cell.folder)} of {cell.config.training.epochs} epochs"
    _write_hparams(cell)
    return ""


def _write_hparams(cell):
    """Writes a done cell's HParams, unless they are there and as new as its history."""
    path = hparams.path_of(cell.folder)
    if os.path.isfile(path) and os.path.getmtime(path) >= os.path.getmtime(os.path.join(cell.folder, "history.csv")):
        return
    hparams.write_run(cell.folder, cell.name, cell.config, history(cell.folder)[-1])


def _others(out, cells):
    """The configs of further runs in a grid's folder: other seeds, or another runner's flagfiles."""
    own, found = {cell.folder for cell in cells}, []
    for path in sorted(glob.glob(os.path.join(glob.escape(out), "*", "seed*", rundir.FLAGS))):
        if os.path.dirname(path) not in own:
            with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
                found.append(configs.read_run(file.read()))
    return found


def _check_same(cell):
    """A run that is there has to be the one that is asked for, were it only to be passed over."""
    if not rundir.is_run(cell.folder) or not rundir.has_checkpoint(cell.folder):
        return
    path = os.path.join(cell.folder, rundir.FLAGS)
    try:
        with open(path, encoding="utf-8") as file:
            changed = configs.changed_flags(cell.config, file.read())
    except ValueError as error:
        raise UsageError(f"{path}: is not what a run was trained with ({error}); name another folder") from None
    if changed:
        raise UsageError(f"{cell.folder}: holds a run with other flags: {', '.join(changed)}; name another folder")


def _line(cell, failure, total, left, seconds):
    """What is said after a cell, str."""
    place = f"{total - left}/{total} {cell.name}"
    if failure:
        how = f"FAILED: {failure}"
    else:
        last = history(cell.folder)[-1]
        how = f"validation top-1 error {last['val_top1_error']:.2f} %, {seconds[-1] / 60:.1f} min"
    minutes = left * sum(seconds) / len(seconds) / 60
    return f"{place}: {how}" + (f"; {left} left, about {minutes:.0f} min if none is another's" if left else "")


def _last_line(path):
    """The last line of a log with something in it, str."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((printable(line.strip())[:300] for line in reversed(lines) if line.strip()), "")
