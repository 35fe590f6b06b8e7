"""The report as one HTML page: pictures inside, no script, no network; for desk, phone and paper, light and dark."""

import base64
import html
import re

from keras_alexnet.paper.sections import NOT_RUN, RUN, TRIAL, UNREADABLE

TITLE = "The paper's figures and tables"
LEAD = (
    "A. Krizhevsky, I. Sutskever and G. Hinton, “ImageNet Classification with Deep Convolutional Neural Networks”, "
    "2012, built again in Keras. Each figure and table comes from one command; this page is what they left."
)
LEGEND = (
    ("paper", "what the paper says"),
    ("release", "what the notes and files of the authors' own code of 2012 say"),
    ("ours", "what was measured here, with protocol, command, commit, date and device below it"),
    (NOT_RUN, "not measured; the command that would is given"),
    ("–", "no such number"),
)
TRIAL_SAYS = "Quick trial. It shows that the command works. Its numbers say nothing about the paper."
# Nothing is fetched and nothing is run, whatever a result may hold.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1d1f21; --quiet: #5d6167; --line: #dcdcd8; --box: #f4f4f1;
  --link: #1f4f8f; --warn: #8a4b00; --warn-box: #fdf3e2; }
@media (prefers-color-scheme: dark) { :root { --paper: #17191b; --ink: #e3e2de; --quiet: #a2a6ab; --line: #34373a;
  --box: #202326; --link: #9dc1f0; --warn: #f0b866; --warn-box: #2c2416; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-padding-top: 1rem; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 50rem; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.55 Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.25; font-weight: 600; text-wrap: balance; }
h1 { margin: 0 0 .75rem; font-size: 1.9rem; }
h2 { margin: 0 0 .75rem; font-size: 1.4rem; }
h3 { margin: 1.75rem 0 .5rem; font-size: 1.0625rem; }
p { margin: .75rem 0; }
a { color: var(--link); text-underline-offset: .15em; text-decoration-thickness: 1px; }
section { margin-top: 3.25rem; padding-top: 1.75rem; border-top: 1px solid var(--line); }
nav, table, dl, .state, figcaption, .note { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
nav { margin-top: 2rem; font-size: .9375rem; }
nav h2 { margin-bottom: .25rem; font-size: .9375rem; }
nav ol { margin: 0; padding: 0; list-style: none; columns: 2; column-gap: 2rem; }
nav li { break-inside: avoid; }
nav a { display: block; padding: .3rem 0; text-decoration: none; }
nav a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; min-width: 100%; font-size: .9375rem; line-height: 1.45;
  font-variant-numeric: tabular-nums; }
th, td { padding: .45rem 1.25rem .45rem 0; text-align: left; vertical-align: top; font-weight: 400;
  border-bottom: 1px solid var(--line); }
tr > :last-child { padding-right: 0; }
thead th, thead td { color: var(--quiet); font-size: .875rem; vertical-align: bottom; border-color: var(--quiet); }
tbody th { min-width: 7rem; }
.ours { font-weight: 600; }
.absent, tbody .absent { color: var(--quiet); font-style: italic; font-weight: 400; }
.short { white-space: nowrap; }
.note, figcaption { color: var(--quiet); font-size: .875rem; line-height: 1.5; }
.state { display: inline-block; padding: .05rem .5rem; border: 1px solid currentColor; border-radius: .25rem;
  color: var(--quiet); font-size: .8125rem; font-weight: 400; line-height: 1.5; white-space: nowrap;
  vertical-align: .2em; }
.state.run { color: var(--ink); }
.state.trial, .state.unreadable { color: var(--warn); font-weight: 600; }
.warning { padding: .6rem .9rem; border-left: 4px solid var(--warn); background: var(--warn-box); color: var(--warn);
  font-weight: 600; }
figure { margin: 1.75rem 0; }
figure img { display: block; width: auto; max-width: 100%; height: auto; }
.card { overflow-x: auto; padding: .75rem; background: #fff; border: 1px solid var(--line); border-radius: .25rem; }
.card img { margin: 0 auto; }
figcaption { margin-top: .5rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem 1.25rem; margin: 1.75rem 0 0;
  font-size: .875rem; line-height: 1.5; }
dt { color: var(--quiet); }
dd { margin: 0; }
pre { margin: 0; padding: .65rem .9rem; overflow-x: auto; white-space: pre-wrap; background: var(--box);
  border-radius: .25rem; font: .8125rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre span { white-space: pre; }
@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem 3rem; font-size: 1rem; }
  h1 { font-size: 1.6rem; }
  nav ol { columns: 1; }
  nav a { padding: .5rem 0; }
  dl { display: block; }
  dd { margin: 0 0 .6rem; }
  .card { margin: 0 -1rem; padding: .25rem; border-width: 1px 0; border-radius: 0; }
  .card img { min-width: var(--least, 0); }
  /* The summary is read from top to bottom: a row is a paragraph. */
  #summary table, #summary tbody, #summary tr, #summary td, #summary tbody th { display: block; padding-right: 0; }
  #summary thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  #summary td, #summary tbody th { border: 0; padding: .15rem 0; }
  #summary tr { padding: .75rem 0; border-bottom: 1px solid var(--line); }
  #summary tbody th { font-weight: 600; }
  #summary td:empty { display: none; }
  th, td { padding-right: .9rem; }
  /* So is every other table with numbers of ours: they would stand beyond the edge. */
  .stacked table, .stacked tbody, .stacked tr, .stacked td, .stacked tbody th { display: block; padding-right: 0; }
  .stacked thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .stacked td, .stacked tbody th { border: 0; padding: .1rem 0; }
  .stacked tr { padding: .6rem 0; border-bottom: 1px solid var(--line); }
  .stacked tbody th { font-weight: 600; }
  .stacked .short { white-space: normal; }
  .stacked td::before { content: attr(data-column) ": "; color: var(--quiet); font-style: normal; font-weight: 400; }
}
@media (min-width: 75rem) {
  body { display: grid; grid-template-columns: 14rem minmax(0, 50rem); column-gap: 4rem; max-width: 71rem; }
  header, main { grid-column: 2; }
  nav { grid-column: 1; grid-row: 1 / span 2; position: sticky; top: 2rem; align-self: start; margin: .4rem 0 0;
    max-height: calc(100vh - 4rem); overflow-y: auto; }
  nav ol { columns: 1; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --quiet: #444; --line: #bbb; --box: #f4f4f4; --link: #000;
    --warn: #000; --warn-box: #fff; }
  body { display: block; max-width: none; padding: 0; font-size: 10.5pt; }
  nav { display: none; }
  section { margin-top: 1.5rem; padding-top: 1rem; }
  figure, tr, pre, .warning { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll, .card { overflow: visible; }
  pre span { white-space: pre-wrap; overflow-wrap: anywhere; }
}
"""


def page(sections):
    """The whole page.

    Args:
        sections: list of sections.Section.

    Returns:
        str, HTML; the same sections always give the same text.
    """
    entries = [("summary", "Summary"), *((section.name, section.title) for section in sections)]
    contents = "\n".join(f'<li><a href="#{name}">{_text(title)}</a></li>' for name, title in entries)
    legend = "; ".join(f"<b>{_text(name)}</b>: {_text(meaning)}" for name, meaning in LEGEND)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>keras_alexnet: {_text(TITLE.lower())}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{_text(TITLE)}</h1>
<p>{_text(LEAD)}</p>
<p class="note">{legend}.</p>
</header>
<nav aria-label="Contents">
<h2>Contents</h2>
<ol>
{contents}
</ol>
</nav>
<main>
{_summary(sections)}
{"".join(map(_section, sections))}</main>
</body>
</html>
"""


def _summary(sections):
    rows = "\n".join(
        f'<tr role="row"><th role="rowheader" scope="row">'
        f'<a href="#{section.name}">{_text(section.title)}</a></th>'
        f'<td role="cell">{_text(section.short_claim)}</td>'
        # Where the verdict is no more than the state, that is enough.
        f'<td role="cell">{"" if section.verdict == section.state else _verdict(section)}</td>'
        f'<td role="cell">{_state(section)}</td></tr>'
        for section in sections
    )
    # The roles are the elements' own; they are written because the phone's layout would take them away.
    columns = ("Figure or table", "The paper says", "Verdict", "State")
    head = "".join(f'<th role="columnheader" scope="col">{name}</th>' for name in columns)
    return f"""<section id="summary">
<h2>Summary</h2>
<table role="table">
<thead role="rowgroup"><tr role="row">{head}</tr></thead>
<tbody role="rowgroup">
{rows}
</tbody>
</table>
</section>"""


def _section(section):
    lines = [
        f'<section id="{section.name}">',
        f"<h2>{_text(section.title)} {_state(section)}</h2>",
        f"<p><b>The paper:</b> {_text(section.claim)}</p>",
    ]
    if section.state == TRIAL:
        lines.append(f'<p class="warning">{_text(TRIAL_SAYS)}</p>')
    if section.problem:
        lines.append(f'<p class="warning">{_text(section.problem)}</p>')
    elif section.facts:
        lines.append(f"<p><b>Verdict:</b> {_verdict(section)}</p>")
    lines += [_table(f"{section.name}-{place}", table, section) for place, table in enumerate(section.tables, 1)]
    lines += [_figure(picture, section.title) for picture in section.pictures]
    command = f"<pre><code>{_command(section.command)}</code></pre>"
    facts = [(name, _text(text)) for name, text in section.facts]
    facts.insert(1, ("command" if section.facts else "to run it", command))
    lines += [
        "<dl>",
        *(f"<dt>{name.capitalize()}</dt><dd>{text}</dd>" for name, text in facts),
        f"<dt>Cost</dt><dd>{_text(section.cost)}</dd>",
        "</dl>",
        "</section>\n",
    ]
    return "\n".join(lines)


def verdict(section):
    """The verdict, with what a trial's is worth, str."""
    return f"Nothing can be told of a quick trial ({section.verdict})" if section.state == TRIAL else section.verdict


def _verdict(section):
    text = _text(verdict(section))
    return text if section.state == RUN else f'<span class="absent">{text}</span>'


def _state(section):
    kind = {RUN: "run", TRIAL: "trial", UNREADABLE: "unreadable"}.get(section.state, "absent")
    return f'<span class="state {kind}">{_text(section.state)}</span>'


def _text(text):
    # A number and its sign stay in one line.
    return html.escape(re.sub(r"(?<=\d) %", "\u00a0%", text))


def _command(text):
    # Its lines end between arguments and not inside of one.
    return " ".join(f"<span>{html.escape(word)}</span>" for word in text.split(" "))


def _table(identity, table, section):
    trial = ' <span class="state trial">quick trial</span>' if section.state == TRIAL else ""
    head = "".join(_head(name) for name in table.columns)
    # The roles are the elements' own; they are written because the phone's layout would take them away.
    rows = "\n".join(
        f'<tr role="row"><th role="rowheader" scope="row">{_text(row[0])}</th>'
        f"{''.join(map(_cell, row[1:], table.columns[1:]))}</tr>"
        for row in table.rows
    )
    note = f'\n<p class="note">{_text(table.note)}</p>' if table.note else ""
    # The box can be scrolled from the keyboard.
    return f"""<h3 id="{identity}">{_text(table.title)}{trial}</h3>
<div class="scroll stacked" role="region" tabindex="0" aria-labelledby="{identity}">
<table role="table">
<thead role="rowgroup"><tr role="row">{head}</tr></thead>
<tbody role="rowgroup">
{rows}
</tbody>
</table>
</div>{note}"""


def _head(name):
    return f'<th role="columnheader" scope="col">{_text(name)}</th>' if name else '<td role="cell"></td>'


def _cell(text, column):
    absent = text == "-" or text.startswith(NOT_RUN)
    kinds = ["ours"] * column.startswith("ours") + ["absent"] * absent
    if len(text) <= 24 and (absent or re.match(r"[-+−]?\d", text)):
        kinds.append("short")
    marked = f' class="{" ".join(kinds)}"' if kinds else ""
    label = html.escape(column, quote=True)
    return f'<td role="cell" data-column="{label}"{marked}>{_text("–" if text == "-" else text)}</td>'


def _figure(picture, title):
    caption = _text(picture.shows)
    if picture.problem:
        return f'<p class="warning">{_text(picture.file)} ({caption}): {_text(picture.problem)}</p>'
    size = ""
    if picture.size:
        width, height = picture.size
        # On a phone a wide picture is scrolled in its card rather than shrunk until nobody can read it.
        size = f' width="{width}" height="{height}" style="--least: {0.55 * width:.0f}px"'
    source = f"data:{picture.media};base64,{base64.b64encode(picture.data).decode()}"
    alternative = _text(f"{title}. {picture.shows}")
    return f"""<figure>
<div class="card"><img src="{source}" alt="{alternative}"{size}></div>
<figcaption>{caption}</figcaption>
</figure>"""
