"""The report: what is on it, whatever the results' folder holds, and how a browser shows it."""

import base64
import html.parser
import io
import json
import re
import subprocess
import sys
import types
import xml.etree.ElementTree

import pytest
from PIL import Image

from keras_alexnet.cli import run_command
from keras_alexnet.paper import figure1, markdown, page, report, results, sections
from tests.paper import browser

ABOUT = {
    "protocol": "CIFAR-10, as it is", "command": "python -m keras_alexnet.paper.figure1 --seed=7", "quick": False,
    "keras_alexnet": "0.1.0", "commit": "abc1234", "date": "2012-12-03", "device": "a GTX 580",
}  # fmt: skip
FIGURE1 = {
    "relu": {"best_rate": 0.004, "epochs": [5.2], "trials": []},
    "tanh": {"best_rate": 0.002, "epochs": [26.0], "trials": []},
    "target_error": 25.0,
    "factor": 5.0,
}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="460.8pt" height="300pt"><text y="20">{}</text></svg>'
NASTY = "<script>alert(1)</script>&\"'|`*[x](http://e.org)\u202e\x1b[31m\n"
VOID = {"meta", "link", "img", "br", "hr"}


def put(folder, name, values, pictures=(), **changed):
    """A JSON as a command leaves it."""
    listed = [{"file": file, "shows": shows} for file, shows in pictures]
    about = {"name": name, **ABOUT, "pictures": listed, "values": values, **changed}
    (folder / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")


def png(width, height):
    file = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert("RGB").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def wide(monkeypatch):
    """A command whose table and pictures are wider than a phone, and whose texts are out to do harm."""
    module = types.ModuleType("keras_alexnet.paper.wide")
    columns = ("", "paper", "release", "ours", *(f"a rather long column number {each}" for each in range(9)))
    module.TITLE, module.CLAIM = "Table 9: " + NASTY, "Wide tables are 100 % wide; not so here (section 9)."
    module.COMMAND = "python -m keras_alexnet.paper.wide --data_dir=" + "long/" * 40
    module.COST = "nothing"
    module.verdict = lambda values: f"Holds: {NASTY}" if values else results.NOT_RUN
    module.tables = lambda values: [
        results.Table(
            "Width", columns, (("one", "1", "-", values["text"] if values else "not run", *"123456789"),), NASTY
        )
    ]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(report, "NAMES", ("figure1", "cifar10_lrn", "wide"))
    return module


@pytest.fixture
def folder(tmp_path, wide):
    """Results: one run with an SVG, one not run, one trial with a PNG wider than any page and a lost picture."""
    (tmp_path / "figure1.svg").write_text(SVG.format("training error"))
    put(tmp_path, "figure1", FIGURE1, [("figure1.svg", "Training error by epoch.")])
    (tmp_path / "wide-1.png").write_bytes(png(1600, 300))
    put(tmp_path, "wide", {"text": NASTY}, [("wide-1.png", NASTY), ("lost.png", "What is gone.")], quick=True)
    return tmp_path


def make(folder, *more):
    assert run_command("report", report.main, [f"--results_dir={folder}", *more]) == 0
    return (folder / "report.html").read_text(encoding="utf-8")


class Page(html.parser.HTMLParser):
    """The facts of a page; unbalanced tags are an error at once."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def of(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def picture_of(source):
    """An img's source -> "PNG" or "SVG"; anything but a whole picture inside the page is an error."""
    head, data = source.split(",", 1)
    data = base64.b64decode(data, validate=True)
    if head == "data:image/svg+xml;base64":
        assert xml.etree.ElementTree.fromstring(data).tag == "{http://www.w3.org/2000/svg}svg"
        return "SVG"
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image.format


def check_structure(text):
    """What holds of every page."""
    found = Page(text)
    for attrs in found.of("img"):
        assert picture_of(attrs["src"]) and attrs["alt"].strip()
    assert len(set(found.ids)) == len(found.ids)
    links = [attrs["href"] for attrs in found.of("a")]
    assert links and all(link.startswith("#") and link[1:] in found.ids for link in links)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in found.tags}
    for tag, attrs in found.tags:
        assert not [name for name in attrs if name.startswith("on")]
        fetched = [attrs[name] for name in ("src", "href", "srcset", "poster", "data") if name in attrs and tag != "a"]
        assert all(address.startswith("data:") for address in fetched), (tag, fetched)
    assert not re.search(r"url\(|@import", text)
    assert len(found.of("h1")) == 1
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    return found


def test_page(folder, capsys):
    text = make(folder)
    found = check_structure(text)
    assert [picture_of(attrs["src"]) for attrs in found.of("img")] == ["SVG", "PNG"]
    assert [(each["width"], each["height"]) for each in found.of("img")] == [("614", "400"), ("1600", "300")]
    assert {"summary", "figure1", "cifar10_lrn", "wide"} <= set(found.ids)
    said = "\n".join(found.texts)
    for fact in ("abc1234", "2012-12-03", "a GTX 580", "CIFAR-10, as it is", "keras_alexnet 0.1.0"):
        assert fact in said
    assert "--seed=7" in said and "Holds, with one seed: ReLU is faster, 5.0 times" in said
    # What was not run has its command and its cost, and what the release says of it.
    not_run = text[text.index('<section id="cifar10_lrn">') : text.index('<section id="wide">')]
    assert "--dataset=cifar10" in not_run and "80 minutes" in not_run and ">18<" in not_run
    assert 'class="ours absent short">not run<' in not_run
    # A trial says so in the summary, at its head, and at each table.
    trial = text[text.index('<section id="wide">') :]
    assert trial.count(">quick trial<") == 2 and page.TRIAL_SAYS in trial
    assert "lost.png" in trial and "No such file" in trial
    printed = capsys.readouterr()
    assert re.search(r"figure1 +run +Holds", printed.out) and re.search(r"wide +quick trial +Nothing", printed.out)
    assert re.search(r"cifar10_lrn +not run", printed.out) and str(folder / "report.html") in printed.out
    assert printed.err == "wide: lost.png: cannot be read (No such file or directory); run the command again\n"
    assert "\x1b" not in printed.out


def test_texts_are_texts(folder):
    text = make(folder, f"--markdown={folder / 'README.md'}")
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text)
    written = (folder / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<(?!a id=|/a>)", written) and not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", written)


def test_same_results_same_page(folder):
    assert make(folder) == make(folder)
    assert not [file.name for file in folder.iterdir() if file.name.startswith(".writing")]


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ("{", "is no result"),
        ("[1]", "lacks protocol"),
        ("\udcff", "is no result"),
        ("[" * 100_000, "cannot be read"),
        (json.dumps({**ABOUT, "pictures": [], "values": {"another": 1}}), "cannot be read ('factor')"),
        (json.dumps({**ABOUT, "pictures": [], "values": None}), "its values are none"),
        (json.dumps({**ABOUT, "pictures": [{}], "values": FIGURE1}), "cannot be read ('file')"),
        (json.dumps({**ABOUT, "pictures": [], "values": FIGURE1, "date": 3}), "is to be a text: 3"),
    ],
)
def test_damaged_result(folder, capsys, contents, words):
    (folder / "figure1.json").write_text(contents, encoding="utf-8", errors="surrogateescape")
    text = make(folder)
    check_structure(text)
    damaged = text[text.index('<section id="figure1">') : text.index('<section id="cifar10_lrn">')]
    assert words in "".join(Page(damaged).texts) and "cannot be read</span>" in damaged
    assert figure1.COMMAND.split()[-1] in damaged and ">6<" in damaged  # how to run it, and the paper's number
    assert "figure1.json" in capsys.readouterr().err
    assert "<img" in text  # of the others


@pytest.mark.parametrize(
    ("file", "contents", "words"),
    [
        ("a.svg", b"", "neither a whole PNG nor a whole SVG"),
        ("a.svg", b"<svg><g></svg>", "neither"),
        ("a.svg", b"<svg/>", "neither"),
        ("a.png", png(8, 8)[:-9], "neither"),
        ("a.png", b"GIF89a", "neither"),
        ("a.png", png(8, 8) + bytes(5_000_001), "is larger than 5 MB"),
        ("../a.png", png(8, 8), "lies outside the results' folder"),
        ("folder", None, "cannot be read"),
    ],
)
def test_bad_picture(folder, file, contents, words):
    inner = folder / "results"
    (inner / "folder").mkdir(parents=True)
    if contents is not None:
        (inner / file).write_bytes(contents)
    put(inner, "figure1", FIGURE1, [(file, "It.")])
    found = check_structure(make(inner))
    assert words in "".join(found.texts) and not found.of("img")


def test_svg_may_hold_anything(folder):
    """As a picture an SVG runs nothing and fetches nothing, and the page's own policy forbids both."""
    harm = SVG.format("x").replace("<text", '<script>alert(1)</script><image href="http://e.org/"/><text')
    (folder / "figure1.svg").write_text(harm)
    found = check_structure(make(folder))
    assert "default-src 'none'" in found.of("meta")[1]["content"]


def test_markdown(folder):
    where = folder / "docs" / "RESULTS.md"
    make(folder, f"--markdown={where}")
    text = where.read_text(encoding="utf-8")
    links = re.findall(r"^!\[.*\]\((.+)\)$", text, re.M)
    assert links == ["../figure1.svg", "../wide-1.png"] and all((where.parent / link).is_file() for link in links)
    assert text.count('<a id="figure1"></a>') == 1 and "](#figure1)" in text
    assert "| tanh / ReLU | 6 | – | 5.0 |" in text and "*not run*" in text
    assert page.TRIAL_SAYS in text and "commit: abc1234" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1, block


def test_markdown_in_the_same_folder():
    section = sections.Section(
        "x", "X", "A claim", "much", sections.RUN, "echo ```", "Holds.", (),
        (sections.Picture("a b/c.png", "It.", "image/png", b"x"),),
    )  # fmt: skip
    text = markdown.document([section], "docs/results/README.md", "docs/results")
    assert "](a%20b/c.png)" in text and "````sh\necho ```\n````" in text


def test_short_claim():
    claims = [section.short_claim for section in sections.collect("nowhere", ("figure1", "cifar10_lrn"))]
    assert claims[0].endswith("than the same network with tanh") and claims[1].endswith("on CIFAR-10")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--out=results.json", "--out=results.json: is to be a file that ends in .html"),
        ("--markdown=README", "--markdown=README: is to be a file that ends in .md"),
        ("--out={0}/file/x.html", "cannot be written"),
        ("--out={0}/folder.html", "cannot be written"),
        ("--results_dir={0}/file", "is no folder"),
    ],
)
def test_bad_flags(folder, capsys, flag, words):
    (folder / "file").write_text("")
    (folder / "folder.html").mkdir()
    assert run_command("report", report.main, [f"--results_dir={folder}", flag.format(folder)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_nothing_run_without_tensorflow(tmp_path):
    """All commands, in a process of its own: a page full of "not run", soon, and without what is slow to import."""
    program = (
        "import sys\nfrom keras_alexnet.cli import run_command\nfrom keras_alexnet.paper import report\n"
        "code = run_command('report', report.main, sys.argv[1:])\n"
        "print(sorted({'tensorflow', 'keras', 'matplotlib', 'sklearn', 'torch'} & set(sys.modules)))\nsys.exit(code)"
    )
    command = [sys.executable, "-c", program, f"--results_dir={tmp_path / 'none'}", "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[]" and not run.stderr
    found = check_structure((tmp_path / "none" / "quick" / "report.html").read_text(encoding="utf-8"))
    assert [each for each in found.ids if "-" not in each] == ["summary", *report.NAMES]
    assert not found.of("img") and found.texts.count("To run it") == len(report.NAMES)
    for name in report.NAMES:
        assert re.search(rf"^{name} +not run +not run$", run.stdout, re.M)


@pytest.fixture(scope="module")
def chromium():
    path = browser.find()
    if path is None:
        pytest.skip(f"none of {', '.join(browser.NAMES)} is on the PATH")
    with browser.open_browser(path) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (360, 740)], ids=["desktop", "phone"])
def test_in_a_browser(folder, chromium, size, dark):
    make(folder)
    chromium.load((folder / "report.html").as_uri(), *size, dark=dark)
    assert chromium.value("[innerWidth, innerHeight]") == list(size)
    shown = chromium.value("[...document.images].map(each => [each.naturalWidth, each.complete, each.width])")
    assert [each[:2] for each in shown] == [[614, True], [1600, True]] and all(each[2] > 300 for each in shown)
    # Within the page at a desk; on a phone no smaller than can be read, and scrolled in its card.
    assert shown[1][2] == (880 if size[0] < 600 else pytest.approx(776, abs=30))
    assert chromium.value("document.documentElement.scrollWidth") <= size[0]
    # What is wider than the page is scrolled in its own box; on a phone a row is a paragraph, and nothing is beside it.
    widest = chromium.value("Math.max(...[...document.querySelectorAll('.scroll')].map(each => each.scrollWidth))")
    assert widest <= 360 if size[0] < 600 else widest > 900
    cells = "[...document.querySelectorAll('.stacked td')].map(each => getComputedStyle(each, '::before').content)"
    assert ("ours" in str(chromium.value(cells))) == (size[0] < 600)
    beyond = "[...document.querySelectorAll('h1, h2, h3, p, dl, pre, figure, .scroll, .card')].map(each => each.{})"
    assert max(chromium.value(beyond.format("getBoundingClientRect().right"))) <= size[0]
    assert min(chromium.value(beyond.format("getBoundingClientRect().left"))) >= 0
    page_color = chromium.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", page_color)[:3])) < 200) == dark
    assert chromium.value("getComputedStyle(document.querySelector('.card')).backgroundColor") == "rgb(255, 255, 255)"
    assert chromium.said == []
    assert [url for url in chromium.requests if not url.startswith("data:")] == [(folder / "report.html").as_uri()]


def test_the_browser_tells(tmp_path, chromium):
    """The test above can fail: a page with a script's error, a lost picture and a line that is too wide."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!DOCTYPE html><meta name=viewport content='width=device-width'><p style='width: 2000px'>x<img src=lost.png>"
        "<script>console.warn('w'); undefined_name()</script>"
    )
    chromium.load(bad.as_uri(), 360, 740)
    assert chromium.value("document.documentElement.scrollWidth") > 360
    assert chromium.value("document.images[0].naturalWidth") == 0
    assert len(chromium.requests) == 2 and chromium.requests[1].endswith("lost.png")
    assert "undefined_name" in str(chromium.said) and "'w'" in str(chromium.said)
