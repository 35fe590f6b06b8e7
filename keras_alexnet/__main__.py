"""Lists the commands of the package."""

from keras_alexnet.cli import run_command
from keras_alexnet.errors import UsageError

COMMANDS = {
    "train": "train a network and export it",
    "evaluate": "top-1 and top-5 error of runs or exported models",
    "export": "write a run as a SavedModel, or for ONNX, LiteRT and Keras",
    "card": "describe a run in Markdown, for a model hub",
    "predict": "classify images with an exported model or a server",
    "explain": "what a run sees in images: feature maps, Grad-CAM, occlusion, deconvnet",
    "explore": "the same on a page of this machine, for images that are dropped on it",
    "paper": "list the commands that repeat the figures and tables of the paper",
}


def main(argv):
    show("keras_alexnet", COMMANDS, argv)


def show(package, commands, argv):
    """Prints the commands of a package, dict of name -> str. Raises UsageError of arguments other than --help."""
    if argv and argv[0] not in ("-h", "--help"):
        raise UsageError(f"{argv[0]}: is unexpected; a command is python -m {package}.{next(iter(commands))}")
    for name, text in commands.items():
        print(f"python -m {package}.{name:<{max(map(len, commands))}}  {text}")


if __name__ == "__main__":
    raise SystemExit(run_command("keras_alexnet", main))
