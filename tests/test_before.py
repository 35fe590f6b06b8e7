"""A run of an earlier version is read, resumed and answers the same.

Commit f694f70 made data_before/before.tar.xz: 22 images, two epochs on them (a checkpoint from within the second one
too), the history after --epochs=3, its evaluation by ten views, its predictions.
"""

import json
import tarfile
from pathlib import Path

import pytest

from keras_alexnet import evaluate, predict, train
from tests.runs import call, history, newest

ARCHIVE = Path(__file__).parent / "data_before" / "before.tar.xz"


@pytest.fixture
def before(tmp_path, monkeypatch):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)  # the paths in its flags are relative
    return tmp_path


@pytest.mark.parametrize("checkpoint", ["epoch-2", "epoch-1-step-2"])
def test_a_run_is_resumed(checkpoint, before):
    if checkpoint != "epoch-2":
        for path in (before / "run" / "checkpoints").glob("epoch-2*"):
            path.unlink()
    assert newest(before / "run").endswith(checkpoint)
    assert "resuming after epoch" in call(train, "--flagfile=run/flags.cfg", "--epochs=3", "--noexport")[1]
    (before / "history.csv").write_bytes((before / "history_of_three_epochs.csv").read_bytes())
    for ours, theirs in zip(history(before / "run"), history(before), strict=True):
        for name in set(theirs) - {"images_per_second"}:
            # To all digits that are written; processors of another kind may round the last one otherwise.
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-5), name


@pytest.mark.parametrize("model", ["run", "run/export/1"])
def test_a_model_is_evaluated(model, before):
    assert call(evaluate, f"--model_dir={model}", "--views=10", "--json=now.json")[0] == 0
    now, then = (json.loads((before / name).read_text()) for name in ("now.json", "evaluation.json"))
    assert now["result"] == pytest.approx(then["result"], rel=1e-6)
    assert now["set"] == then["set"]


def test_an_export_answers(before):
    expected = [json.loads(line) for line in (before / "predictions.jsonl").read_text().splitlines()]
    _, shown, _ = call(predict, "--model=run/export/1", "--format=jsonl", *(answer["file"] for answer in expected))
    for answer, wanted in zip(map(json.loads, shown.splitlines()), expected, strict=True):
        assert answer == {**wanted, "scores": pytest.approx(wanted["scores"], abs=1e-6)}
