"""Trains a grid of runs: any flagfiles with any seeds.

    python tools/run_grid.py flags/ablations/*.cfg --seeds=2012,2013,2014 --out=GRID --data_dir=PHOTOS

The run of flags/NAME.cfg with the seed N is GRID/NAME/seedN, the output of its training GRID/NAME/seedN.log. Flags that
are not listed below are training's and go to every run. The same command resumes an interrupted grid. It may run on
several machines that share GRID at the same time, on a file system that has locks: each run is trained by one of them.
TensorBoard: `tensorboard --logdir GRID`, HParams.
"""

import dataclasses
import sys

from keras_alexnet import flags
from keras_alexnet.cli import run_command
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.flags import flag
from keras_alexnet.paper import grid

OWN = ("seeds", "out", "h", "help", "helpshort", "helpfull")  # all other flags are training's
BY_THE_GRID = {"seed": "seeds", "model_dir": "out"}


@dataclasses.dataclass(frozen=True)
class GridConfig:
    """Grid."""

    flagfiles: tuple[str, ...] = flag((), "Flagfiles of training.")
    seeds: tuple[int, ...] = flag((2012,), "Every flagfile is trained with each of them.", different=True)
    out: str | None = flag(None, "The grid's folder.", path=True)


def parse(argv):
    """Arguments -> (GridConfig, list of str, the flags of training)."""
    own, further = [], []
    for argument in argv:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("-") and name in BY_THE_GRID:
            raise UsageError(f"{argument}: every run of a grid has its own; give --{BY_THE_GRID[name]}")
        (further if argument.startswith("-") and name not in OWN else own).append(argument)
    settings = flags.parse(GridConfig, own, __doc__, positional="flagfiles")
    flags.required(settings, "out")
    if not settings.flagfiles:
        raise UsageError("no flagfile is given: name one or more, such as flags/ablations/*.cfg")
    return settings, further


def main(argv):
    settings, further = parse(argv)
    cells = grid.cells_of(settings.flagfiles, settings.seeds, settings.out, further)
    failed, elsewhere = grid.run(cells)
    for cell, why in elsewhere.items():
        print(f"{cell.name}: {why}")
    for cell, why in failed.items():
        print(f"{cell.name}: {why} ({cell.log})", file=sys.stderr)
    done = len(cells) - len(failed) - len(elsewhere)
    print(f"{done} of {len(cells)} runs are done; tensorboard --logdir {settings.out}")
    if failed:
        names = ", ".join(cell.name for cell in failed)
        raise RunError(f"{len(failed)} of {len(cells)} runs failed: {names}; the same command tries them again")


if __name__ == "__main__":
    raise SystemExit(run_command("run_grid", main))
