"""Lists the commands that repeat the figures and tables of the paper."""

from keras_alexnet.__main__ import show
from keras_alexnet.cli import run_command
from keras_alexnet.paper import experiment


def main(argv):
    commands = {name: experiment.load(name).TITLE for name in experiment.NAMES}
    show("keras_alexnet.paper", {**commands, "report": "all of them on one page"}, argv)


if __name__ == "__main__":
    raise SystemExit(run_command("keras_alexnet.paper", main))
