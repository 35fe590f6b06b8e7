"""All figures and tables on one page: what the paper says, what the release says, and what was measured here.

    python -m keras_alexnet.paper.report [--results_dir=results] [--out=RESULTS/report.html] [--markdown=FILE.md]

Reads what the other commands left below RESULTS and runs none of them; with --quick, what their trials left below
RESULTS/quick. The page contains its figures and needs neither network nor script. Experiments that were not run are on
it too, with their commands. With --markdown the same text is written for GitHub, with links to the figures.
"""

import base64
import dataclasses
import html
import io
import mimetypes
import os
import re
import string
import sys
import types
import typing
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import markdown
from PIL import Image

from keras_alexnet.cli import run_command
from keras_alexnet.errors import ArgumentError, RunError, UsageError, reading
from keras_alexnet.files import atomic_write, make_folder
from keras_alexnet.flags import flag, parse
from keras_alexnet.paper import experiment
from keras_alexnet.paper.experiment import NOT_RUN, Table

UNREADABLE = "cannot be read"
TRIAL = "Quick trial. It shows that the command works. Its numbers say nothing about the paper."
TEMPLATE = Path(__file__).with_name("report.html")
TITLE = "The paper's figures and tables"
LEAD = f"""\
# {TITLE}

A. Krizhevsky, I. Sutskever and G. Hinton, “ImageNet Classification with Deep Convolutional Neural Networks”, 2012, \
built again in Keras. Each figure and table comes from one command; this page is what they left.

**paper**: what the paper says; **release**: what the notes and files of the authors' own code of 2012 say; **ours**: \
what was measured here, with protocol, command, commit, date and device below it; **{NOT_RUN}**: not measured; of a \
whole figure or table, the command that would is given; **–**: no such number."""


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Report."""

    out: str | None = flag(None, "The page, .html (default: RESULTS/report.html).", path=True)
    markdown: str | None = flag(
        None, "The same as Markdown, .md, with links to the figures instead of the figures themselves.", path=True
    )

    def __post_init__(self):
        # A typing error must not overwrite a result.
        for name, suffix in (("out", ".html"), ("markdown", ".md")):
            self.check(name, (getattr(self, name) or suffix).endswith(suffix), f"must be a file that ends in {suffix}")


class Section(typing.NamedTuple):
    name: str
    about: types.ModuleType  # the command
    verdict: str
    tables: Sequence[Table]
    result: dict = {}  # the JSON; empty where the command was not run
    problems: Sequence[str] = ()  # what is missing or cannot be read


def main(argv):
    settings = parse(Settings, argv, __doc__)
    folder = os.path.join(settings.results_dir, "quick") if settings.quick else settings.results_dir
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UsageError(f"--results_dir={folder}: is not a folder; name the one that the commands wrote to")
    sections = [section_of(name, folder) for name in experiment.NAMES]
    out = settings.out or os.path.join(folder, "report.html")
    links = os.path.relpath(folder, os.path.dirname(settings.markdown or "") or ".")
    written = [("out", out, page(sections, folder)), ("markdown", settings.markdown, document(sections, links))]
    for name, path, text in written[: 1 + bool(settings.markdown)]:
        make_folder(name, path, os.path.dirname(path) or ".")
        if os.path.isdir(path):
            raise ArgumentError(name, path, "is a folder; name a file")
        with atomic_write(path) as file:
            file.write(text)
    print(Table(TITLE, ("", "verdict"), [(each.name, each.verdict) for each in sections]).as_text())
    for each in sections:
        for problem in each.problems:
            print(f"{each.name}: {problem}", file=sys.stderr)
    print(f"\nreport: {out}" + f"\nMarkdown: {settings.markdown}" * bool(settings.markdown))


def section_of(name, folder):
    """Reads the results of an experiment, Section; what cannot be read is one of its problems."""
    about = experiment.load(name)
    reference = getattr(about, "REFERENCE", ())
    try:
        result = experiment.read(name, folder)
        if result is None:
            return Section(name, about, NOT_RUN, reference)
        # Another version may have written other values.
        with reading(os.path.join(folder, f"{name}.json"), f"{UNREADABLE}; run the command again"):
            verdict, tables = str(about.verdict(result["values"])), about.tables(result["values"])
            files = [figure["file"] for figure in result["pictures"]]
    except RunError as error:
        return Section(name, about, UNREADABLE, reference, problems=(str(error),))
    if result["quick"]:
        verdict = f"Nothing can be told of a quick trial. ({verdict})"
    missing = [file for file in files if not os.path.isfile(os.path.join(folder, file))]
    problems = [f"{file}: is missing; run the command again" for file in missing]
    return Section(name, about, verdict, tables, result, problems)


def document(sections, links):
    """The report as GitHub's Markdown, str; `links` is the folder of the figures as seen from the file."""
    summary, parts = [], []
    for section in sections:
        first = re.split(r"; |\. | \(sections? ", section.about.CLAIM)[0].rstrip(".")
        title = f"[{_escaped(section.about.TITLE)}](#{section.name})"
        summary.append((title, _escaped(first), _escaped(section.verdict)))
        parts += _section(section, links)
    return "\n\n".join([LEAD, _rows(("figure or table", "the paper says", "verdict"), summary), *parts]) + "\n"


def page(sections, folder):
    """The report as one HTML page, which contains the figures that are in `folder`, str."""
    converter = markdown.Markdown(extensions=["tables", "fenced_code"], output_format="html")
    converter.ESCAPED_CHARS = [*converter.ESCAPED_CHARS, "~", "$", "|"]
    body = converter.convert(document(sections, ".")).replace(" %", "&nbsp;%")
    # Wide tables are scrolled in their own box, by the keyboard too.
    body = body.replace("<table>", '<div class="scroll" role="region" aria-label="table" tabindex="0"><table>')
    body = body.replace("</table>", "</table></div>")
    body = re.sub('src="([^"]+)"', lambda link: _source(os.path.join(folder, urllib.parse.unquote(link[1]))), body)
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(body=body)


def _section(section, links):
    about, result = section.about, section.result
    # GitHub makes a heading's anchor of its words; this one stays when they change.
    yield f'<a id="{section.name}"></a>'
    word = "trial" if result.get("quick") else section.verdict.partition(":")[0].lower()
    # GitHub draws a kbd element as a small box.
    yield f'## {_escaped(about.TITLE)} <kbd class="{word.replace(" ", "-")}">{word}</kbd>'
    yield f"**The paper:** {_escaped(about.CLAIM)}"
    if result.get("quick"):
        yield f"> **{TRIAL}**"
    yield from (f"> **{_escaped(problem)}**" for problem in section.problems)
    yield f"**Verdict:** {_escaped(section.verdict)}"
    for table in section.tables:
        yield f"**{_escaped(table.title)}**"
        rows = [["–" if cell == "-" else _escaped(cell) for cell in row] for row in table.rows]
        rows = [[f"*{cell}*" if cell.startswith(NOT_RUN) else cell for cell in row] for row in rows]
        yield _rows(map(_escaped, table.columns), rows)
        if table.note:
            yield _escaped(table.note)
    for figure in result.get("pictures", ()):
        link = urllib.parse.quote(os.path.normpath(os.path.join(links, figure["file"])).replace(os.sep, "/"))
        yield f"![{_escaped(figure['shows'])}]({link})"
        yield f"*{_escaped(figure['shows'])}*"
    yield f"```sh\n{result.get('command', about.COMMAND)}\n```"
    facts = [(name, result[name]) for name in ("protocol", "commit", "date", "device") if result]
    facts += [("version", f"keras_alexnet {result['keras_alexnet']}")] if result else []
    yield "\n".join(f"- {name}: {_escaped(text)}" for name, text in (*facts, ("cost", about.COST)))


def _rows(columns, rows):
    columns = [name or " " for name in columns]
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escaped(text):
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _source(path):
    """The attributes of an img element that contains a figure, str; on a phone it is not less than half as wide."""
    if not os.path.isfile(path):
        return 'src="data:,"'
    data, kind = Path(path).read_bytes(), mimetypes.guess_type(path)[0]
    points = re.search(rb'<svg[^>]*? width="([\d.]+)pt"', data)
    with reading(path, "is not a figure; run the command again"):
        width = float(points[1]) * 4 / 3 if points else Image.open(io.BytesIO(data)).width
    return f'src="data:{kind};base64,{base64.b64encode(data).decode()}" style="--least: {0.55 * width:.0f}px"'


if __name__ == "__main__":
    raise SystemExit(run_command("report", main))
