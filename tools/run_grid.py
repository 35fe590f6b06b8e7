"""Trains a grid of runs: any flagfiles with any seeds.

    python tools/run_grid.py flags/ablations/*.cfg --seeds=2012,2013,2014 --out=GRID --data_dir=PHOTOS

The run of flags/NAME.cfg with the seed N is GRID/NAME/seedN; what its training says goes to GRID/NAME/seedN.log. Flags
that are not listed here are training's and go to every run. The same command takes an interrupted grid up again, and
may be given on several machines that share GRID at the same time, on a file system that has locks: each run is trained
by one of them. TensorBoard: `tensorboard --logdir GRID`, HParams.
"""

import sys

from keras_alexnet.cli import run_command
from keras_alexnet.errors import RunError
from keras_alexnet.paper import config, grid


def main(argv):
    settings = config.parse_grid(argv, __doc__)
    cells = grid.cells_of(settings.flagfiles, settings.seeds, settings.out, settings.further)
    outcome = grid.run(cells, say=lambda line: print(line, flush=True))
    for cell, why in outcome.elsewhere.items():
        print(f"{cell.name}: another runner has it ({why})")
    for cell, why in outcome.failed.items():
        print(f"{cell.name}: {why} ({cell.log})", file=sys.stderr)
    print(f"{outcome.done} of {len(cells)} runs are done; tensorboard --logdir {settings.out}")
    if outcome.failed:
        names = ", ".join(cell.name for cell in outcome.failed)
        raise RunError(f"{len(outcome.failed)} of {len(cells)} runs failed: {names}; the same command tries them again")


if __name__ == "__main__":
    sys.exit(run_command("run_grid", main, sys.argv[1:]))
