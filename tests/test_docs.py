import json
import re
from pathlib import Path

import pytest

from keras_alexnet.data import shapes

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


@pytest.mark.parametrize("page", ["README.md", "docs/explanations.md", "docs/model.md", "docs/serving.md"])
def test_snippets_run(page, run_of_three_epochs, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(run_of_three_epochs)
    (tmp_path / "fresh").mkdir()
    shapes.draw("red_star", 0).resize((300, 256)).save(tmp_path / "fresh" / "red_star_0.jpg")
    shapes.draw("red_star", 0).save(tmp_path / "photograph.jpg")
    monkeypatch.chdir(tmp_path)
    found = re.findall("```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) >= 1
    names = {}
    for snippet in found:
        exec(compile(snippet, page, "exec"), names)


def test_numbers_are_those_of_the_results():
    text = " ".join((ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8").split())
    rows = json.loads((ROOT / "docs" / "results" / "ablations.json").read_text(encoding="utf-8"))["values"]["rows"]
    half = next(row["difference"] for row in rows if row["name"] == "half_tower")
    assert f"{half['mean']:.2f} points, 95 % interval {half['low']:.2f} to {half['high']:.2f}" in text


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    (tmp_path / "flags").symlink_to(ROOT / "flags")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    stored = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    assert all(cell.outputs for cell in stored.cells[4:] if cell.cell_type == "code")
    # Raises an error where a cell does.
    nbclient.NotebookClient(stored, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
