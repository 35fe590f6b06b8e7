import json
import re
import shutil

import numpy as np
import pytest

pytest.importorskip("faiss", reason="faiss is not installed (extra retrieval)")
pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra figures)")

from keras_alexnet import evaluate
from keras_alexnet.cli import run_command
from keras_alexnet.paper import codes, config, features, results, retrieval


def run(*argv):
    return run_command("retrieval", retrieval.main, list(argv))


@pytest.fixture(scope="module")
def flags(run_of_three_epochs, small_pictures):
    return [f"--model_dir={run_of_three_epochs}", f"--data_dir={small_pictures}", "--codes=8", "--code_epochs=2"]


@pytest.fixture(scope="module")
def measured(flags, tmp_path_factory):
    """Everything of the tiny run, once."""
    folder = tmp_path_factory.mktemp("results")
    assert run(*flags, f"--results_dir={folder}", "--timing_rows=50") == 0
    return folder


def described(model_dir, root):
    """Features and labels of a split, file by file."""
    describe = features.feature_extractor(evaluate.open_model(str(model_dir)))
    paths = sorted(root.glob("*/*.jpg"))
    rows = np.concatenate([describe([path.read_bytes()]) for path in paths])
    return rows.astype(np.float64), [path.parent.name for path in paths], paths


def from_the_definition(rows, classes, queries, asked, same=False):
    """Mean precision at 1, 5 and 10, and mean average precision, in plain loops."""
    precisions, averages = [], []
    for number, (query, wanted) in enumerate(zip(queries, asked, strict=True)):
        distances = [
            (np.sqrt(((row - query) ** 2).sum()), own == wanted)
            for place, (row, own) in enumerate(zip(rows, classes, strict=True))
            if not (same and place == number)
        ]
        relevant = [own for _, own in sorted(distances, key=lambda pair: pair[0])]
        precisions.append([sum(relevant[:at]) / at for at in (1, 5, 10)])
        hits = [place for place, own in enumerate(relevant, 1) if own]
        averages.append(np.mean([sum(relevant[:place]) / place for place in hits]))
    return np.mean(precisions, axis=0), np.mean(averages)


def test_figures_from_the_definition(measured, run_of_three_epochs, small_pictures):
    values = results.read(str(measured), "retrieval")["values"]
    rows, classes, _ = described(run_of_three_epochs, small_pictures / "train")
    queries, asked, _ = described(run_of_three_epochs, small_pictures / "val")
    precision, average = from_the_definition(rows, classes, queries, asked)
    (own,) = [row for row in values["rows"] if row["kind"] == "features" and not row["coded"]]
    assert own["precision"] == pytest.approx(precision)
    assert own["mean_average_precision"] == pytest.approx(average)
    for each in values["by_class"]:
        places = [place for place, name in enumerate(asked) if name == each["class_name"]]
        precision, average = from_the_definition(rows, classes, queries[places], [asked[place] for place in places])
        assert each["precision"] == pytest.approx(precision) and each["pictures"] == 3
        assert each["mean_average_precision"] == pytest.approx(average)
    assert values["chance"]["precision"] == pytest.approx([1 / 3] * 3)


def test_rows_bytes_and_files(measured):
    found = results.read(str(measured), "retrieval")
    rows = {row["name"]: row for row in found["values"]["rows"]}
    assert {name: row["bytes"] for name, row in rows.items()} == {
        "pixels 32x32": 3072,
        "256 numbers": 1024,
        "real code of 8": 32,
        "binary code of 8 bits": 1,
        "pixels, binary code of 8 bits": 1,
    }
    assert all(row["search_ms"] > 0 and row["search_large_ms"] > 0 for row in rows.values())
    assert found["values"]["timing_rows"] == 50
    assert [picture["file"] for picture in found["pictures"]] == ["retrieval.svg"]
    svg = (measured / "retrieval.svg").read_text()
    assert "bytes a picture" in svg and "binary codes" in svg
    assert (measured / "projector" / "projector_config.pbtxt").exists()
    for table in retrieval.tables(found["values"]):
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert "1024 times smaller" in retrieval.verdict(found["values"])


def test_not_run():
    assert retrieval.verdict(None) == results.NOT_RUN
    for table in retrieval.tables(None):
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_an_index_is_used_again_until_something_changes(flags, small_pictures, tmp_path, monkeypatch, capsys):
    photos = tmp_path / "photos"
    shutil.copytree(small_pictures / "train", photos)
    query = next((small_pictures / "val").glob("*/*.jpg"))
    given = [flags[0], f"--data_dir={photos}", f"--index={tmp_path}/i.npz", f"--results_dir={tmp_path}/r"]
    asked = []
    real = features.make
    monkeypatch.setattr(features, "make", lambda *parts: asked.append(1) or real(*parts))
    for extracted in (1, 1):
        assert run(*given, f"--query={query}") == 0
        assert len(asked) == extracted
    assert "made anew" not in capsys.readouterr().out
    (photos / "red_square" / "0.jpg").unlink()
    assert run(*given, f"--query={query}") == 0
    out = capsys.readouterr().out
    assert len(asked) == 2 and "is of other files; made anew" in out and "among 17 pictures" in out
    features.save(features.Index(**{**vars(features.load(f"{tmp_path}/i.npz")), "model": "other"}), f"{tmp_path}/i.npz")
    assert run(*given, f"--query={query}") == 0
    assert len(asked) == 3 and "is of another model; made anew" in capsys.readouterr().out


def test_the_nearest_to_a_picture(flags, run_of_three_epochs, small_pictures, tmp_path, capsys):
    rows, classes, paths = described(run_of_three_epochs, small_pictures / "train")
    queries, _, asked = described(run_of_three_epochs, small_pictures / "val")
    given = [*flags, f"--results_dir={tmp_path}", f"--index={tmp_path}/i.npz", f"--query={asked[4]}"]
    assert run(*given, "--neighbors=4") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    distances = np.sqrt(((rows - queries[4]) ** 2).sum(axis=1))
    order = np.argsort(distances)[:4]
    assert [line.split()[1:] for line in lines] == [[classes[place], str(paths[place])] for place in order]
    assert [float(line.split()[0]) for line in lines] == pytest.approx(distances[order], abs=1e-3)
    # The index alone is enough.
    assert run(flags[0], *given[-3:], "--neighbors=4") == 0
    assert capsys.readouterr().out.splitlines() == [head, *lines]


def test_pictures_without_classes_can_be_asked_about_only(flags, small_pictures, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, path in enumerate(sorted((small_pictures / "train").glob("*/0.jpg"))):
        shutil.copy(path, photos / f"{number}.jpg")
    (photos / "bad.jpg").write_bytes(b"no picture")
    given = [flags[0], f"--data_dir={photos}", f"--results_dir={tmp_path}/r"]
    assert run(*given, f"--query={photos / '1.jpg'}") == 0
    out = capsys.readouterr().out
    assert "1 files left out: bad.jpg: not a JPEG or PNG" in out and "among 3 pictures" in out
    assert out.splitlines()[-3].split() == ["0.0000", str(photos / "1.jpg")]
    assert run(*given) == 2
    assert "has no class folders" in capsys.readouterr().err


def test_one_split_each_among_the_others(flags, measured, run_of_three_epochs, small_pictures, tmp_path, monkeypatch):
    # Indexes and autoencoders of the training pictures are there already, and are used.
    shutil.copytree(measured / "retrieval", tmp_path / "retrieval")
    monkeypatch.setattr(features, "make", None)
    monkeypatch.setattr(codes, "train", None)
    given = ["--index_split=train", "--query_split=train", "--timing_rows=1", "--noprojector"]
    assert run(*flags, *given, f"--results_dir={tmp_path}") == 0
    found = results.read(str(tmp_path), "retrieval")
    rows, classes, _ = described(run_of_three_epochs, small_pictures / "train")
    precision, average = from_the_definition(rows, classes, rows, classes, same=True)
    own = found["values"]["rows"][1]
    assert own["precision"] == pytest.approx(precision) and own["mean_average_precision"] == pytest.approx(average)
    assert "each among the others" in found["protocol"]
    assert not (tmp_path / "projector").exists()


def test_quick(flags, tmp_path, capsys):
    assert run(*flags[:2], f"--results_dir={tmp_path}", "--quick") == 0
    found = results.read(str(tmp_path / "quick"), "retrieval")
    assert found["quick"] and found["values"]["index"]["pictures"] == 12 and found["values"]["timing_rows"] == 1000
    assert "all figures:" in capsys.readouterr().out


def refused(capsys, *argv):
    code = run(*argv)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return code, lines[0]


def test_bad_input(flags, small_pictures, tmp_path, capsys):
    model, data = flags[:2]
    here = f"--results_dir={tmp_path}/r"
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    query = f"--query={next((small_pictures / 'val').glob('*/*.jpg'))}"
    one = tmp_path / "one"
    shutil.copytree(small_pictures / "train" / "red_square", one / "train" / "red_square")
    shutil.copytree(small_pictures / "val", one / "val")
    unknown = tmp_path / "unknown"
    shutil.copytree(small_pictures, unknown)
    (unknown / "val" / "red_square").rename(unknown / "val" / "cats")
    alone = tmp_path / "alone"
    shutil.copytree(small_pictures, alone)
    for path in (alone / "train" / "red_square").glob("*.jpg"):
        path.write_bytes(b"no picture")
    index = tmp_path / "i.npz"
    index.write_bytes(b"\x80\x04N.")
    for argv, code, words in (
        ([model], 2, "--data_dir is missing"),
        ([data], 2, "--model_dir is missing"),
        ([f"--model_dir={tmp_path}", data, here], 2, "is no exported model"),
        ([model, data, here, "--query_split=test"], 2, "--query_split=test: there is no folder"),
        ([model, data, here, "--query_split=../x"], 2, "--query_split=../x: give the name of a folder"),
        ([model, data, here, "--codes=12"], 2, "--codes=12: give different multiples of 8"),
        ([model, data, here, "--codes=8,8"], 2, "--codes=8,8"),
        ([model, data, here, f"--index={tmp_path}/i.txt"], 2, "ends in .npz"),
        ([model, data, here, f"--index={tmp_path}/i.npz", "--quick"], 2, "--quick takes a few pictures"),
        ([model, f"--data_dir={one}", here], 2, "--index_split=train: .* has one class only"),
        ([model, f"--data_dir={unknown}", here], 2, "--query_split=val: its class 'cats' is not in"),
        ([model, f"--data_dir={alone}", here, "--noprojector"], 2, "no picture of 'red_square' is left to be found"),
        ([model, data, here, f"--query={bad}"], 2, "bad.jpg: is no JPEG or PNG file that can be decoded"),
        ([model, data, here, f"--query={tmp_path}/none.jpg"], 2, "there is no such file"),
        ([model, data, here, f"--query={tmp_path}"], 2, "is a folder"),
        ([model, data, here, query, f"--index={index}"], 1, "i.npz: is no index"),
        ([model, here, query, f"--index={tmp_path}/none.npz"], 2, "none.npz: there is no such index"),
    ):
        found = refused(capsys, *argv)
        assert found[0] == code, found
        assert re.search(words, found[1]), found
    assert index.read_bytes() == b"\x80\x04N."
    # One class is enough for a query.
    assert run(model, f"--data_dir={one}", here, query) == 0


def test_an_index_of_a_run_of_another_shape(flags, small_pictures, tmp_path, capsys):
    path = tmp_path / "i.npz"
    wide = features.Index(np.ones((2, 4096), np.float32), ("a", "b"), np.zeros(2, np.int32), ("c",), "photos", "m", "f")
    features.save(wide, str(path))
    query = next((small_pictures / "val").glob("*/*.jpg"))
    code, line = refused(capsys, flags[0], f"--index={path}", f"--query={query}", f"--results_dir={tmp_path}")
    assert code == 2 and "is of another model" in line and "4096 numbers a picture" in line


def test_the_recipe(tmp_path):
    found = config.parse_retrieval(["--model_dir=R", "--data_dir=D", "--codes=64,32"], "")
    assert found.codes == (32, 64) and found.log_dir == "results/projector" and found.timing_rows == 100_000
    assert json.dumps(found.index) == "null"
