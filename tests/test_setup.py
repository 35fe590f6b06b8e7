import ast
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from keras_alexnet import __version__

ROOT = Path(__file__).parents[1]
CALL = next(node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if getattr(node, "keywords", None))
LISTS = [each for each in CALL.keywords if each.arg.endswith(("_requires", "_require", "_data"))]
GIVEN = {each.arg: ast.literal_eval(each.value) for each in LISTS}
ALWAYS, OPTIONAL = GIVEN["install_requires"], GIVEN["extras_require"]
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = [line for line in LINES if line and not line.startswith("#")]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_files_that_are_not_modules_are_installed():
    patterns = [f"{name.replace('.', '/')}/{each}" for name, given in GIVEN["package_data"].items() for each in given]
    found = [[path for path in ROOT.glob(pattern) if path.is_file()] for pattern in patterns]
    installed = {path.relative_to(ROOT).as_posix() for paths in found for path in paths}
    present = (path for path in (ROOT / "keras_alexnet").rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert all(found) and {path.relative_to(ROOT).as_posix() for path in present if path.suffix != ".py"} == installed


def test_requirements_have_both_bounds_and_the_same_ones_everywhere():
    found = {}
    for requirement in map(Requirement, [*ALWAYS, *(each for extra in OPTIONAL.values() for each in extra)]):
        bounds = {each.operator: Version(each.version) for each in requirement.specifier}
        assert set(bounds) == {">=", "<"} and bounds[">="] < bounds["<"], requirement
        assert found.setdefault((requirement.name, str(requirement.marker)), bounds) == bounds, requirement


def test_the_constraints_are_exact_and_hold_each_requirement_within_its_bounds():
    assert [pin for pin in PINS if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin)] == []
    pins = {canonical(name): Version(version) for name, version in (pin.split("==") for pin in PINS)}
    assert len(pins) == len(PINS) and "keras-alexnet" not in pins
    for requirement in map(Requirement, [*ALWAYS, *OPTIONAL["test"]]):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.11"}):
            assert pins[canonical(requirement.name)] in requirement.specifier, requirement


def test_the_citation_is_of_this_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
