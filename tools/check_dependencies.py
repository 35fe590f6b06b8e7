"""Tries the oldest or the newest versions that setup.py allows, in a virtual environment of their own.

    python tools/check_dependencies.py oldest
    python tools/check_dependencies.py newest --tests=tests/test_recipe.py,tests/model

oldest: each dependency at its lower bound. newest: whatever pip finds below the upper bounds. What the dependencies
need themselves is in both cases the newest that they allow. The package is installed from this checkout (editable), the
versions are printed, and `python -m pytest` runs. Exits with 0 if the tests pass, with 1 if they or the installation
fail. Needs a package index, and a few GB of disk in the folder for temporary files.
"""

import argparse
import ast
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from keras_alexnet.cli import run_command
from keras_alexnet.errors import RunError, UsageError

ROOT = Path(__file__).parents[1]
# Of the environment that this is started in; they would get into the trial.
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PIP_CONSTRAINT", "PIP_REQUIREMENT", "PIP_TARGET", "PIP_USER")


def main(argv):
    options = parse(argv)
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    if options.keep:
        try_out(options, options.keep.absolute(), environment)
        return
    with tempfile.TemporaryDirectory(prefix="check_dependencies_") as folder:
        try_out(options, Path(folder), environment)


def parse(argv):
    """Flags -> options. Raises UsageError."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("versions", choices=("oldest", "newest"))
    parser.add_argument("--tests", default="", help="paths for pytest, separated by commas (default: all)")
    parser.add_argument("--extras", default="test", help="of setup.py, separated by commas (default: test)")
    parser.add_argument("--keep", type=Path, help="a new folder for the environment, which then stays")
    options = parser.parse_args(argv)
    options.tests, options.extras = _listed(options.tests), _listed(options.extras)
    for path in options.tests:
        if not (ROOT / path.partition("::")[0]).exists():
            raise UsageError(f"--tests={path}: there is no such file or folder in the checkout")
    known = declared(ROOT / "setup.py")[1]
    for name in options.extras:
        if name not in known:
            raise UsageError(f"--extras={name}: setup.py has {', '.join(sorted(known))}")
    if options.keep and options.keep.exists():
        raise UsageError(f"--keep={options.keep}: is there already; name a new folder")
    return options


def declared(path):
    """What a setup.py asks for, by its text: nothing of it is run.

    Returns:
        (list of str, dict of list of str): `install_requires` and `extras_require`.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setup":
            given = {each.arg: each.value for each in node.keywords}
            return ast.literal_eval(given["install_requires"]), ast.literal_eval(given["extras_require"])
    raise RunError(f"{path}: calls no setup()")


def required(path, extras):
    """The requirements of a setup.py with some extras, list of str; pytest is always among them."""
    always, optional = declared(path)
    tests = optional["test"] if "test" in extras else [each for each in optional["test"] if each.startswith("pytest")]
    return [*always, *(each for name in extras if name != "test" for each in optional[name]), *tests]


def oldest(requirements, environment=None):
    """Requirements at their lower bounds.

    Args:
        requirements: list of str.
        environment: dict of str for the markers, such as {"python_version": "3.10"}; this Python if left out.

    Returns:
        list of str, such as "numpy==2.1"; without what the markers leave out.
    """
    pins = {}
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            lower = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
            if not lower:
                raise RunError(f"setup.py: {requirement} has no lower bound")
            name = requirement.name + (f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else "")
            pins[name] = max([*lower, pins.get(name, lower[0])])
    return [f"{name}=={version}" for name, version in pins.items()]


def try_out(options, folder, environment):
    """Makes the environment in a folder, and runs the tests in it. Raises RunError."""
    requirements = required(ROOT / "setup.py", options.extras)
    package = f"{ROOT}[{','.join(options.extras)}]" if options.extras else str(ROOT)
    wanted = ["--editable", package]
    if options.versions == "oldest":
        wanted += oldest(requirements)
    else:
        wanted += ["--upgrade", "--upgrade-strategy", "eager", *requirements]
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    _run([sys.executable, "-m", "venv", "--upgrade-deps", folder], environment, "the virtual environment was not made")
    pip = [python, "-m", "pip"]
    _run([*pip, "install", *wanted], environment, f"the {options.versions} versions cannot be installed")
    _run([*pip, "check"], environment, f"the {options.versions} versions do not go together")
    print(f"Python {'.'.join(map(str, sys.version_info[:3]))}, the {options.versions} versions:", flush=True)
    _run([*pip, "list", "--format=freeze", "--exclude=keras-alexnet"], environment, "pip does not list the versions")
    _run([python, "-m", "pytest", *options.tests], environment, f"tests fail with the {options.versions} versions")


def _run(command, environment, failure):
    code = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL).returncode
    if code:
        raise RunError(f"{failure} (exit code {code} of {' '.join(map(str, command[1:4]))})")


def _listed(text):
    return [each.strip() for each in text.split(",") if each.strip()]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message):
        raise UsageError(message)


if __name__ == "__main__":
    sys.exit(run_command("check_dependencies", main, sys.argv[1:]))
