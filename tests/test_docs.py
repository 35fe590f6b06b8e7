import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "BUILD.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(path):
    """The places of a page that links can name."""
    text = path.read_text(encoding="utf-8")
    titles = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall("^#+ (.+)", text, re.M)]
    return {*titles, *re.findall(r'id="([^"]+)"', text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub("```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in [*re.findall(r"\]\(([^)]+)\)", text), *re.findall(r'src="([^"]+)"', text)]:
        name, _, anchor = link.partition("#")
        if not name.startswith("http"):
            target = page.parent / name if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_numbers_are_those_of_the_results():
    text = " ".join((ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8").split())
    rows = json.loads((ROOT / "docs" / "results" / "ablations.json").read_text(encoding="utf-8"))["values"]["rows"]
    half = next(row["difference"] for row in rows if row["name"] == "half_tower")
    assert f"{half['mean']:.2f} points, 95 % interval {half['low']:.2f} to {half['high']:.2f}" in text
