"""The bounds of setup.py and the exact versions of constraints.txt."""

import ast
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from keras_alexnet import __version__

ROOT = Path(__file__).parents[1]
CALL = next(node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if getattr(node, "keywords", None))
GIVEN = {
    each.arg: ast.literal_eval(each.value)
    for each in CALL.keywords
    if each.arg.endswith(("_requires", "_require", "_data"))
}
ALWAYS, OPTIONAL = GIVEN["install_requires"], GIVEN["extras_require"]
EVERY = [*ALWAYS, *(each for extra in OPTIONAL.values() for each in extra)]
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = [line for line in LINES if line and not line.startswith("#")]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_files_that_are_not_modules_are_installed():
    installed = {f"{name.replace('.', '/')}/{file}" for name, files in GIVEN["package_data"].items() for file in files}
    present = (path for path in (ROOT / "keras_alexnet").rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert {path.relative_to(ROOT).as_posix() for path in present if path.suffix != ".py"} == installed


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
    requirement, versions = Requirement(text), dict(pin.split("==") for pin in PINS)
    if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.11"}):
        pins = {canonical(name): Version(version) for name, version in versions.items()}
        assert pins[canonical(requirement.name)] in requirement.specifier


def test_the_constraints_are_exact_versions_of_published_packages():
    assert [pin for pin in PINS if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin)] == []
    names = [canonical(pin.split("==")[0]) for pin in PINS]
    assert len(set(names)) == len(names) and "keras-alexnet" not in names


def test_the_citation_is_of_this_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
