"""The report as GitHub's Markdown; pictures are linked, relative to the file."""

import os
import re
import urllib.parse

from keras_alexnet.paper import page
from keras_alexnet.paper.sections import NOT_RUN, TRIAL


def document(sections, path, results_dir):
    """The whole file.

    Args:
        sections: list of sections.Section.
        path: str, where the file will be.
        results_dir: str, where the pictures are.

    Returns:
        str, Markdown.
    """
    to_pictures = os.path.relpath(results_dir, os.path.dirname(path) or ".").replace(os.sep, "/")
    legend = "; ".join(f"**{name}**: {meaning}" for name, meaning in page.LEGEND)
    head = [f"# {page.TITLE}", _escaped(page.LEAD), f"{legend}."]
    parts = [*head, _summary(sections), *(_section(section, to_pictures) for section in sections)]
    return "\n\n".join(parts) + "\n"


def _summary(sections):
    rows = [
        (f"[{_escaped(section.title)}](#{section.name})", *map(_escaped, (section.short_claim, page.verdict(section))),
         section.state)
        for section in sections
    ]  # fmt: skip
    return _rows(("figure or table", "the paper says", "verdict", "state"), rows)


def _section(section, to_pictures):
    # GitHub makes a heading's anchor of its words; this one stays when they change.
    parts = [
        f'<a id="{section.name}"></a>',
        f"## {_escaped(section.title)}",
        f"**The paper:** {_escaped(section.claim)}",
    ]
    if section.state == TRIAL:
        parts.append(f"> **{page.TRIAL_SAYS}**")
    if section.problem:
        parts.append(f"> **{_escaped(section.problem)}**")
    elif section.facts:
        parts.append(f"**Verdict:** {_escaped(page.verdict(section))}")
    else:
        parts.append(f"**{section.state.capitalize()}.**")
    for table in section.tables:
        parts += [
            f"**{_escaped(table.title)}**",
            _rows(map(_escaped, table.columns), [map(_cell, row) for row in table.rows]),
            *([_escaped(table.note)] if table.note else []),
        ]
    for picture in section.pictures:
        if picture.problem:
            parts.append(f"> **{_escaped(f'{picture.file} ({picture.shows}): {picture.problem}')}**")
        else:
            link = urllib.parse.quote(os.path.normpath(f"{to_pictures}/{picture.file}").replace(os.sep, "/"))
            parts += [f"![{_escaped(picture.shows)}]({link})", f"*{_escaped(picture.shows)}*"]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", section.command)), default=0))
    facts = [*section.facts, ("cost", section.cost)]
    parts += [
        f"{fence}sh\n{section.command}\n{fence}",
        "\n".join(f"- {name}: {_escaped(text)}" for name, text in facts),
    ]
    return "\n\n".join(parts)


def _cell(text):
    if text == "-":
        return "–"
    return f"*{_escaped(text)}*" if text.startswith(NOT_RUN) else _escaped(text)


def _rows(columns, rows):
    columns = [name or " " for name in columns]
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escaped(text):
    return re.sub(r"([\\`*_\[\]<>|~$&#])", r"\\\1", text)
