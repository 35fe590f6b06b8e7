import contextlib
import dataclasses
import functools
import importlib
import pkgutil
import string

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from keras_alexnet import config as configs, evaluate, export, flags, paper, predict
from keras_alexnet.errors import ArgumentError, UsageError


@dataclasses.dataclass(frozen=True)
class Group:
    """A group."""

    number: int = flags.flag(3, "A number.", low=1)
    share: float = flags.flag(0.5, "A share.", above=0, below=1)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings."""

    group: Group
    name: str | None = flags.flag(None, "A name.", first=True, path=True)
    views: int = flags.flag(1, "Views.", choices=(1, 10), free=True)
    sizes: tuple[int, ...] = flags.flag((1, 2), "Sizes.")
    shares: tuple[float, ...] = flags.flag((), "Shares.")
    folders: tuple[str, ...] = flags.flag((), "Folders.", many=True, path=True)
    files: tuple[str, ...] = flags.flag((), "Files.")
    quick: bool = flags.flag(False, "A trial.", saved=False)


def parse(*argv):
    return flags.parse(Settings, argv, "usage", positional="files")


def refused(*argv, kind=Settings, positional="files"):
    with pytest.raises(UsageError) as error:
        flags.parse(kind, argv, "usage", positional=positional)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_field_is_a_flag(monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse() == Settings(Group())
    found = parse("--number=5", "a.jpg", "--name", "~/x", "--views=10", "--sizes=3, 4,", "--folders=~", "--folders=b")
    assert found.group.number == 5 and found.files == ("a.jpg",) and found.views == 10 and found.sizes == (3, 4)
    assert (found.name, found.folders) == ("/home/someone/x", ("/home/someone", "b"))
    assert parse("--quick", "--noquick", "--name=").name is None
    texts = flags.as_text(found)
    assert "quick" not in texts and texts["sizes"] == "3,4" and texts["name"] == "/home/someone/x"
    assert flags.changes(parse("--number=1", "--views=10"), parse()) == ["--number=3 (the run has 1)"]
    assert flags.changes(parse(), parse("--name=a")) == ["--name=a (the run has none)"]
    assert flags.required(found, "number") == 5
    with pytest.raises(UsageError, match="--name is missing: give a name."):
        flags.required(parse("--name="), "name")
    with pytest.raises(SystemExit) as end:
        parse("--help")
    shown = capsys.readouterr().out
    assert end.value.code == 0 and shown.startswith("usage\n\nMost used:\n  --name=\n      A name.")
    assert "A group:\n  --number=3\n" in shown and "  --views=1|10 (default: 1)" in shown and "--files" not in shown


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--numbers=3", "'numbers'"),
        ("--number", "number"),
        ("--noquick=3", "--noquick=3 does not take an argument"),
        *((f"--number={number}", f"--number={number}") for number in ("many", 0, 2**31, 10**30)),
        *((f"--share={number}", f"--share={number}: must be a finite number") for number in ("nan", "inf", "-inf")),
        ("--share=0", "--share=0: must be above 0"),
        ("--share=1", "--share=1: must be below 1"),
        ("--views=5", "--views=5: value should be one of <1|10>"),
        ("--sizes=1,x", "--sizes=1,x: must be whole numbers from 0 to 2147483647, separated by commas"),
        (f"--sizes={2**63}", "must be whole numbers from 0 to 2147483647"),
        ("--shares=0.5,nan", "--shares=0.5,nan: must be numbers from 0"),
        ("--name=a\0b", "--name=a\\x00b: must not contain line breaks or null characters"),
        ("--name=a\u2028b", "must not contain line breaks"),
        ("--flagfile=nowhere.cfg", "--flagfile=nowhere.cfg: cannot be read (No such file or directory)"),
    ],
)
def test_a_wrong_flag_is_named_and_where_it_stands(flag, words, tmp_path):
    assert words in refused(flag)
    path = tmp_path / "a.cfg"
    path.write_text(f"# why\n--views=10\n{flag}\n")
    error = refused("--number=2", f"--flagfile={path}")
    assert error.endswith(f"({path}, line 3)") and (words in error or flag == "--number")


def test_flagfiles(tmp_path):
    """A byte order mark is skipped, comments are left out, a later flag wins, files name others."""
    path, other = tmp_path / "a.cfg", tmp_path / "b.cfg"
    path.write_bytes(b"\xef\xbb\xbf# why\r\n--number=7\r\n\r\n// also why\n  --name=a b#c \n")
    other.write_text(f"--flagfile={path}\n--quick\n")
    found = parse("--number=3", f"--flagfile={other}", "--sizes=9")
    assert (found.group.number, found.name, found.quick, found.sizes) == (7, "a b#c", True, (9,))
    assert "unexpected argument 'a.jpg'" in refused("a.jpg", kind=Group, positional=None)
    assert parse("-flagfile", str(other), "--number=1").group.number == 1
    path.write_text(f"--flagfile={path}\n")
    assert "nested too deeply, or include each other" in refused(f"--flagfile={path}")
    quotes, comment = "values in a flagfile must not be quoted", "a comment must be on its own line"
    for line, problem in (("--name='a b'", quotes), ('--name="a b"', quotes), ("--number=7 # seven", comment)):
        path.write_text(f"{line}\n")
        assert refused(f"--flagfile={path}") == f"{line}: {problem} ({path}, line 1)"
    assert "is not UTF-8; rename it" in refused("--name=a\udcfc")
    (tmp_path / "my #1").mkdir()  # a name, not a comment
    path.write_text(f"--name={tmp_path}/my #1\n")
    assert parse(f"--flagfile={path}").name == f"{tmp_path}/my #1"
    path.write_bytes(b"--name=\xff\n")
    assert f"--flagfile={path}: cannot be read (it is not a text file)" in refused(f"--flagfile={path}")


KINDS = [configs.Config, evaluate.EvaluateConfig, export.ExportConfig, predict.PredictConfig]
for module in pkgutil.iter_modules(paper.__path__, "keras_alexnet.paper."):
    with contextlib.suppress(ImportError):  # an optional library is not installed
        found = vars(importlib.import_module(module.name))
        KINDS += [found[name] for name in sorted(found) if name.endswith("Settings")]
PARSERS = {configs.Config: configs.parse_train, evaluate.EvaluateConfig: evaluate.parse_evaluate}
# Values that flags of some kind take or almost take.
WORDS = (
    "", "0", "-1", "2", "1e999", "nan", "0x10", "1_0", "99999999999999999999", "true", "auto", "folder", "shapes",
    "schedule", "GPU:0,GPU:0", "CPU:0,CPU:1,CPU:2", "1:0.1,2:bias=0", "1:x=1e400", "0.3,0.7", "search", "2,1",
    "fc8,conv1", "équipe", "/dev/null", "a\nb", "\x00", "--seed", "=", ",,,", "multi_worker", "mirrored",
)  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_flags_are_settings_or_one_line(data):
    kind = data.draw(st.sampled_from(KINDS))
    parse = PARSERS.get(kind, functools.partial(flags.parse, kind))
    name = st.sampled_from([field for field in flags._fields(kind) if field != "images"])
    value, text = st.sampled_from(WORDS), st.text(alphabet=string.printable, max_size=12)
    argument = st.builds("--{}={}".format, name, value | text) | st.builds("--no{}".format, name) | text
    try:
        found = parse(data.draw(st.lists(argument, max_size=8)), usage="usage")
    except (UsageError, ArgumentError) as error:
        assert str(error).strip()
    except SystemExit as ended:
        assert ended.code == 0  # --help
    else:
        if kind is configs.Config:  # what is taken can be written down and is then taken again
            run = dataclasses.replace(found.run, dry_run=False)
            assert flags.read(kind, flags.as_text(found)) == dataclasses.replace(found, run=run)
