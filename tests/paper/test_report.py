import base64
import html
import io
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from PIL import Image

from keras_alexnet.cli import run_command
from keras_alexnet.paper import experiment, report
from keras_alexnet.paper.experiment import Table, Verdict

ABOUT = {
    "protocol": "all of it", "command": "python -m keras_alexnet.paper.line --seed=7", "quick": False,
    "keras_alexnet": "0.1.0", "commit": "abc1234", "date": "2012-12-03", "device": "a GTX_580",
}  # fmt: skip
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="460pt" height="300pt"><text y="20">{}</text></svg>'
NASTY = "<script>alert(1)</script>&\"'|`*[x](http://e.org) $5 ~ 3"
COLUMNS = ("", "paper", "release", "ours", *(f"a rather long column number {each}" for each in range(9)))


def about(name):
    return types.SimpleNamespace(
        TITLE=f"Figure of {name}",
        CLAIM="Wide tables are 100 % wide; not so here (section 9).",
        COST="80 minutes",
        COMMAND=f"python -m keras_alexnet.paper.{name} --data_dir={'long/' * 40}",
        tables=lambda values: [Table("Width", COLUMNS, [("one", "1", "-", values["text"], *"123456789")], "a note")],
        verdict=lambda values: Verdict("holds", values["text"]),
        REFERENCE=[Table("Known", ("", "paper", "ours"), [("error", "18", "not run")])],
    )


def put(folder, name, text="5.0", figures=(), **changed):
    """A JSON as a command leaves it."""
    listed = [{"file": file, "shows": shows} for file, shows in figures]
    content = {"name": name, **ABOUT, "pictures": listed, "values": {"text": text}, **changed}
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Results: one run with an SVG, one not run, one trial with a PNG wider than any page and a lost figure."""
    experiments = {name: about(name) for name in ("line", "untried", "wide")}
    monkeypatch.setattr(experiment, "NAMES", tuple(experiments))
    monkeypatch.setattr(experiment, "load", experiments.get)
    (tmp_path / "line.svg").write_text(SVG.format("training error"))
    put(tmp_path, "line", figures=[("line.svg", "Training error by epoch.")])
    Image.radial_gradient("L").resize((1600, 300)).convert("RGB").save(tmp_path / "wide 1.png")
    put(tmp_path, "wide", NASTY, [("wide 1.png", NASTY), ("lost.png", "What is gone.")], quick=True)
    return tmp_path


def make(folder, *more):
    assert run_command("report", report.main, [f"--results_dir={folder}", *more]) == 0
    return (folder / "report.html").read_text(encoding="utf-8")


def visible(text):
    """The text of a page, of which this holds: it contains what it shows, runs nothing and fetches nothing."""
    ids, links = (re.findall(rf'{name}="([^"]+)"', text) for name in ("id", "<a href"))
    assert len(set(ids)) == len(ids) and links and all(link[0] == "#" and link[1:] in ids for link in links)
    assert not re.search(r"<(script|iframe|object|embed|form|base)\b|<[^>]* on\w+=|url\(|@import", text)
    assert all(each.startswith("data:") for each in re.findall(r'(?:src|<link[^>]* href)="([^"]+)"', text))
    assert "default-src 'none'" in text
    return html.unescape(re.sub("<[^>]+>", "", text[text.index("<body>") :]))


def test_page(folder, capsys):
    text = make(folder)
    shown = visible(text)
    svg, png, lost = (each.partition(",") for each in re.findall(r'<img[^>]*src="([^"]+)"', text))
    assert svg[0] == "data:image/svg+xml;base64" and base64.b64decode(svg[2]) == (folder / "line.svg").read_bytes()
    assert png[0] == "data:image/png;base64" and Image.open(io.BytesIO(base64.b64decode(png[2]))).width == 1600
    assert lost[2] == ""
    for words in ("abc1234", "2012-12-03", "a GTX_580", "all of it", "keras_alexnet 0.1.0", "--seed=7", "Holds: 5.0."):
        assert words in shown, words
    assert '<kbd class="holds">holds</kbd></h2>' in text
    # What was not run has its command, its cost and the numbers of others.
    not_run = text[text.index('id="untried"') : text.index('id="wide"')]
    assert "paper.untried --data_dir" in not_run and "80 minutes" in not_run and "<td>18</td>" in not_run
    assert "<em>not run</em>" in not_run and "Verdict:</strong> not run" in not_run
    # A trial says so in the summary and at its head; texts are texts.
    assert shown.count("Nothing can be told of a quick trial.") == 2 and report.TRIAL in shown
    assert shown.count(NASTY) >= 3 and "lost.png: is missing" in shown
    printed = capsys.readouterr()
    assert re.search(r"^line +Holds: 5.0.$", printed.out, re.M) and re.search(r"^untried +not run$", printed.out, re.M)
    assert str(folder / "report.html") in printed.out
    assert printed.err == "wide: lost.png: is missing; run the command again\n"
    assert make(folder) == text and not list(folder.glob(".writing*"))


def test_markdown(folder):
    path = folder / "docs" / "RESULTS.md"
    make(folder, f"--markdown={path}")
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"^!\[.*\]\((.+)\)$", text, re.M)
    assert links == ["../line.svg", "../wide%201.png", "../lost.png"]
    assert text.count('<a id="line"></a>') == 1 and "[Figure of line](#line)" in text
    assert "| error | 18 | *not run* |" in text and "| one | 1 | – | 5.0 |" in text and "- commit: abc1234" in text
    assert "Wide tables are 100 % wide |" in text  # the claim's first part, in the summary
    assert not re.search(r"<(?!a id=|/a>|/?kbd)", text)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


@pytest.mark.parametrize("contents", ["{", json.dumps({**ABOUT, "pictures": [], "values": {"another": 1}})])
def test_damaged_result(folder, capsys, contents):
    (folder / "line.json").write_text(contents)
    shown = visible(make(folder))
    assert "line.json: " in shown and "paper.line --data_dir" in shown  # how to run it again
    assert "line.json" in capsys.readouterr().err


def test_bad_flags(folder, capsys):
    for flag, words in (
        ("--out=results.json", "--out=results.json: must be a file that ends in .html"),
        (f"--out={folder}/line.svg/x.html", "cannot be created"),
        (f"--results_dir={folder}/line.svg", "is not a folder"),
    ):
        assert run_command("report", report.main, [f"--results_dir={folder}", flag]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


def test_nothing_run_without_tensorflow(tmp_path):
    code = (
        "import sys\nfrom keras_alexnet.paper import report\nreport.main(sys.argv[1:])\n"
        "print(sorted({'tensorflow', 'keras', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, f"--results_dir={tmp_path}", "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and not run.stderr and run.stdout.splitlines()[-1] == "[]"
    text = (tmp_path / "quick" / "report.html").read_text(encoding="utf-8")
    assert re.findall('id="([^"]+)"', text) == experiment.NAMES
    for name in experiment.NAMES:
        assert re.search(rf"^{name} +not run$", run.stdout, re.M)


def test_the_committed_page_is_that_of_the_committed_results():
    sections = [report.section_of(name, "docs/results") for name in experiment.NAMES]
    assert report.document(sections, ".") == Path("docs/results/README.md").read_text(encoding="utf-8")
