"""What the commands leave behind: written, read back, and where it says it comes from."""

import json
import re

import pytest

import keras_alexnet
from keras_alexnet import provenance
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.paper import results


def test_written_and_read_back(tmp_path):
    values = {"factor": 5.5, "names": ["ä", None], "curve": [{"epoch": 1}]}
    path = results.write(
        str(tmp_path),
        "figure9",
        values,
        protocol="all of it",
        argv=["--data_dir=my photos", "--quick"],
        pictures=[("figure9.svg", "A line.")],
        quick=True,
    )
    assert path == str(tmp_path / "figure9.json") and [file.name for file in tmp_path.iterdir()] == ["figure9.json"]
    found = results.read(str(tmp_path), "figure9")
    assert found["values"] == values and found["quick"] is True and found["protocol"] == "all of it"
    # What a shell takes as it stands.
    assert found["command"] == "python -m keras_alexnet.paper.figure9 '--data_dir=my photos' --quick"
    assert found["pictures"] == [{"file": "figure9.svg", "shows": "A line."}]
    assert found["keras_alexnet"] == keras_alexnet.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    assert found["commit"] == provenance.commit() and found["device"] == provenance.device()


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    (tmp_path / "x.json").write_text("before")
    with pytest.raises(TypeError):
        results.write(str(tmp_path), "x", {"bad": object()}, protocol="", argv=[])
    assert (tmp_path / "x.json").read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_not_run(tmp_path):
    assert results.read(str(tmp_path), "figure9") is None
    assert results.read(str(tmp_path / "nowhere"), "figure9") is None


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"{", "is no result"),
        (b"\xff\xfe", "is no result"),
        (b"[]", "lacks protocol, command"),
        (b'{"protocol": "", "command": "", "commit": "", "date": "", "device": "", "values": {}}', "lacks pictures;"),
    ],
)
def test_damaged(tmp_path, contents, words):
    (tmp_path / "x.json").write_bytes(contents)
    with pytest.raises(RunError, match=words) as caught:
        results.read(str(tmp_path), "x")
    assert "x.json" in str(caught.value) and "run the command again" in str(caught.value)


def test_table_as_text():
    table = results.Table("Errors", ("", "paper", "ours"), (("top-1", "40.7", "not run"), ("a", "-", "1")), "in %")
    lines = ["Errors", "", "       paper  ours", "top-1  40.7   not run", "a      -      1", "(in %)"]
    assert table.as_text().splitlines() == lines
    with pytest.raises((IndexError, ValueError)):
        results.Table("", ("", "paper"), (("top-1",),)).as_text()


def test_folder_for(tmp_path):
    assert results.folder_for(str(tmp_path / "a" / "b")) == str(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--results_dir=.*file: cannot be made"):
        results.folder_for(str(tmp_path / "file"))


def test_say(capsys):
    class Command:
        @staticmethod
        def tables(values):
            return [results.Table("T", ("", "ours"), (("x", str(values["x"])),))]

        @staticmethod
        def verdict(values):
            return f"Holds: {values['x']}."

    results.say(Command, {"x": 3}, "results/x.json")
    assert capsys.readouterr().out.splitlines() == [
        "T",
        "",
        "   ours",
        "x  3",
        "",
        "Holds: 3.",
        "all figures: results/x.json",
    ]


def test_json_is_for_people_too(tmp_path):
    path = results.write(str(tmp_path), "x", {"a": "ä"}, protocol="", argv=[])
    with open(path, encoding="utf-8") as file:
        text = file.read()
    assert "ä" in text and text.count("\n") > 5 and json.loads(text)["values"] == {"a": "ä"}
