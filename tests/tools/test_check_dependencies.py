import re
import subprocess
import types
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from keras_alexnet.cli import run_command
from tests.tools.conftest import load_tool

ROOT = Path(__file__).parents[2]
check = load_tool("check_dependencies")
ALWAYS, OPTIONAL = check.declared(ROOT / "setup.py")
EVERY = [*ALWAYS, *(each for extra in OPTIONAL.values() for each in extra)]
NEW = {"python_version": "3.11"}  # what constraints.txt was made on


def constraints():
    """{name: version} of constraints.txt, names as `canonical` has them."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): Version(version) for name, version in pins}


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def applies(requirement, environment=None):
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.mark.parametrize("text", EVERY)
def test_each_requirement_has_both_bounds(text):
    bounds = {each.operator: Version(each.version) for each in Requirement(text).specifier}
    assert set(bounds) == {">=", "<"} and bounds[">="] < bounds["<"]


def test_a_dependency_has_the_same_bounds_wherever_it_stands():
    found = {}
    for requirement in map(Requirement, EVERY):
        found.setdefault((requirement.name, str(requirement.marker)), set()).add(str(requirement.specifier))
    assert {name: bounds for name, bounds in found.items() if len(bounds) > 1} == {}


@pytest.mark.parametrize("text", [*ALWAYS, *OPTIONAL["test"]])
def test_the_constraints_hold_each_requirement_within_its_bounds(text):
    requirement = Requirement(text)
    if applies(requirement, NEW):
        assert constraints()[canonical(requirement.name)] in requirement.specifier


def test_the_constraints_are_exact_versions_of_published_packages():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []
    assert len(constraints()) == len(pins) and "keras-alexnet" not in constraints()
    head = [line for line in lines if line.startswith("#")]
    assert any("pip install -c constraints.txt" in line for line in head) and any(
        "Python 3.11" in line for line in head
    )


def test_the_oldest_versions_are_the_lower_bounds():
    asked = [
        "a>=1.2,<2",
        "b[x]!=3.1,<4,>=3",
        'c>=5; python_version >= "3.11"',
        'c>=4; python_version < "3.11"',
        "a>=1.10",
    ]
    assert check.oldest(asked, {"python_version": "3.12"}) == ["a==1.10", "b[x]==3", "c==5"]
    assert check.oldest(asked, {"python_version": "3.10"}) == ["a==1.10", "b[x]==3", "c==4"]
    with pytest.raises(check.RunError, match="a<2 has no lower bound"):
        check.oldest(["a<2"])


def test_the_oldest_keras_depends_on_the_python():
    pins = {version: check.oldest(ALWAYS, {"python_version": version}) for version in ("3.10", "3.11")}
    assert "keras==3.12.1" in pins["3.10"] and "keras==3.13.2" in pins["3.11"]
    assert "tensorflow==2.21" in pins["3.10"] and len(pins["3.10"]) == len(pins["3.11"]) == len(ALWAYS) - 1


@pytest.mark.parametrize("extras", [["test"], [], ["figures"], ["test", "beam"]])
def test_pytest_is_always_among_what_is_required(extras):
    names = [Requirement(each).name for each in check.required(ROOT / "setup.py", extras)]
    assert names[: len(ALWAYS)] == [Requirement(each).name for each in ALWAYS] and "pytest" in names
    assert ("matplotlib" in names) == (extras != []) and ("apache-beam" in names) == ("test" in extras)


@pytest.fixture
def commands(monkeypatch):
    """The commands that would have been run, lists of str; one with a word of `failing` in it ends with 3."""
    ran = types.SimpleNamespace(commands=[], failing="-")

    def run(command, **options):
        ran.commands.append(command)
        assert options["cwd"] == check.ROOT and "PYTHONPATH" not in options["env"]
        return types.SimpleNamespace(returncode=3 if ran.failing in command else 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    return ran


def test_what_is_run(commands, tmp_path):
    argv = [f"--keep={tmp_path}/new", "--tests=tests/test_recipe.py,tests/tools"]
    assert run_command("check_dependencies", check.main, ["oldest", *argv]) == 0
    assert run_command("check_dependencies", check.main, ["newest", *argv]) == 0
    first, second = commands.commands[:5], commands.commands[5:]
    assert [command[1:4] for command in first] == [
        ["-m", "venv", "--upgrade-deps"],
        ["-m", "pip", "install"],
        ["-m", "pip", "check"],
        ["-m", "pip", "list"],
        ["-m", "pytest", "tests/test_recipe.py"],
    ]
    assert first[1][4:6] == ["--editable", f"{check.ROOT}[test]"] and "tensorflow==2.21" in first[1]
    assert second[1][6:9] == ["--upgrade", "--upgrade-strategy", "eager"] and "tensorflow>=2.21,<2.22" in second[1]
    assert {command[0] for command in first[1:]} == {f"{tmp_path}/new/bin/python"} and first[4][4:] == ["tests/tools"]


@pytest.mark.parametrize(
    ("failing", "line"),
    [
        ("venv", "the virtual environment was not made (exit code 3 of -m venv --upgrade-deps)"),
        ("install", "the oldest versions cannot be installed (exit code 3 of -m pip install)"),
        ("check", "the oldest versions do not go together (exit code 3 of -m pip check)"),
        ("pytest", "tests fail with the oldest versions (exit code 3 of -m pytest)"),
    ],
)
def test_a_failure_is_the_exit_code(failing, line, commands, capsys):
    commands.failing = failing
    assert run_command("check_dependencies", check.main, ["oldest"]) == 1
    assert capsys.readouterr().err == f"check_dependencies: {line}\n"
    assert not Path(commands.commands[0][-1]).exists()


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "the following arguments are required: versions"),
        (["older"], "argument versions: invalid choice: 'older'"),
        (["oldest", "--tests=tests/none.py"], "--tests=tests/none.py: there is no such file or folder in the checkout"),
        (["oldest", "--extras=test,all"], "--extras=all: setup.py has beam, benchmark, cuda"),
        (["newest", "--keep={tmp}"], "--keep={tmp}: is there already; name a new folder"),
        (["newest", "--kept=x"], "unrecognized arguments: --kept=x"),
    ],
)
def test_wrong_usage(argv, line, commands, tmp_path, capsys):
    argv = [each.format(tmp=tmp_path) for each in argv]
    assert run_command("check_dependencies", check.main, argv) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"check_dependencies: {line.format(tmp=tmp_path)}") and said.count("\n") == 1
    assert commands.commands == []
