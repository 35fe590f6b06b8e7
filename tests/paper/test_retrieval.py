"""Retrieval: precision from the definition, indexes that are used again, the nearest to an image, and wrong input."""

import re
import shutil

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra figures)")

from keras_alexnet import evaluation
from keras_alexnet.paper import codes, experiment, features, retrieval, search


def run(*argv):
    return experiment.main(retrieval.EXPERIMENT, [str(each) for each in argv])


@pytest.fixture(scope="module")
def flags(tiny_run, small_images):
    return [f"--model_dir={tiny_run}", f"--data_dir={small_images}", "--codes=8", "--code_epochs=2"]


@pytest.fixture(scope="module")
def measured(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    assert run(*flags, f"--results_dir={folder}", "--timing_rows=50") == 0
    return folder


@pytest.fixture(scope="module")
def described(tiny_run, small_images):
    """Of each split: features, classes and paths, file by file."""
    extractor = features.feature_extractor(evaluation.open_model(str(tiny_run)))
    found = {}
    for split in ("train", "val"):
        paths = sorted((small_images / split).glob("*/*.jpg"))
        rows = np.concatenate([extractor.extract([path.read_bytes()]) for path in paths])
        found[split] = rows, np.array([path.parent.name for path in paths]), paths
    return found


def assert_is(row, precision, average):
    assert row["precision"] == pytest.approx(precision.mean(axis=0))
    assert row["mean_average_precision"] == pytest.approx(average.mean())


def test_precision_of_features_pixels_and_classes(measured, described):
    values = experiment.read("retrieval", str(measured))["values"]
    (vectors, classes, paths), (queries, asked, asked_paths) = described["train"], described["val"]
    precision, average = search.evaluate(vectors, classes, queries, asked)
    assert_is(retrieval.row_of(values, "features", ""), precision, average)
    for each in values["by_class"]:
        own = asked == each["class_name"]
        assert_is(each, precision[own], average[own])
    small = [features.pixel_extractor().extract([path.read_bytes() for path in own]) for own in (paths, asked_paths)]
    assert_is(retrieval.row_of(values, "pixels", ""), *search.evaluate(small[0], classes, small[1], asked))
    assert values["chance"]["precision"] == pytest.approx([1 / 3] * 3)


def test_rows_bytes_and_files(measured):
    found = experiment.read("retrieval", str(measured))
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
    assert "bytes an image" in svg and "binary codes" in svg
    assert (measured / "projector" / "projector_config.pbtxt").exists()
    for table in retrieval.tables(found["values"]):
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert "1024 times smaller" in str(retrieval.verdict(found["values"]))


def test_one_split_each_among_the_others(flags, measured, described, tmp_path, monkeypatch):
    # Indexes and autoencoders of the training images are there already, and are used.
    shutil.copytree(measured / "retrieval", tmp_path / "retrieval")
    monkeypatch.setattr(features, "make", None)
    monkeypatch.setattr(codes, "train", None)
    given = ["--index_split=train", "--query_split=train", "--timing_rows=1", "--noprojector"]
    assert run(*flags, *given, f"--results_dir={tmp_path}") == 0
    found = experiment.read("retrieval", str(tmp_path))
    vectors, classes, _ = described["train"]
    expected = search.evaluate(vectors, classes, vectors, classes, same=True)
    assert_is(retrieval.row_of(found["values"], "features", ""), *expected)
    assert "each among the others" in found["protocol"]
    assert not (tmp_path / "projector").exists()


def test_the_verdict_follows_the_figures(measured):
    values = experiment.read("retrieval", str(measured))["values"]
    for difference, error, outcome in (
        (0.3, 0.1, "holds"),
        (-0.3, 0.1, "does not hold"),
        (0.3, 0.2, "cannot be told"),
        (0.3, None, "cannot be told"),
    ):
        gain = {**values["codes_against_pixels"], "difference": difference, "standard_error": error}
        assert retrieval.verdict({**values, "codes_against_pixels": gain}).outcome == outcome


def test_the_nearest_to_an_image(flags, described, tmp_path, capsys):
    rows, classes, paths = described["train"]
    queries, _, asked = described["val"]
    index = tmp_path / "i.npz"
    given = [*flags, f"--results_dir={tmp_path}", f"--index={index}", f"--query={asked[4]}", "--neighbors=4"]
    assert run(*given) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    distances = np.linalg.norm(rows - queries[4], axis=1)
    order = np.argsort(distances)[:4]
    assert [line.split()[1:] for line in lines] == [[classes[place], str(paths[place])] for place in order]
    assert [float(line.split()[0]) for line in lines] == pytest.approx(distances[order], abs=1e-3)
    # The index alone is enough, unless it is another model's.
    assert run(flags[0], *given[-4:]) == 0
    assert capsys.readouterr().out.splitlines() == [head, *lines]
    features.save(features.Index(**{**vars(features.load(str(index))), "model": "other"}), str(index))
    assert run(flags[0], *given[-4:]) == 2
    assert "i.npz: is of another model than --model_dir" in capsys.readouterr().err


def test_an_index_is_computed_again_when_something_changes(flags, small_images, tmp_path, monkeypatch, capsys):
    """Of a folder without classes, which can only be asked with --query."""
    images = tmp_path / "images"
    images.mkdir()
    for number, path in enumerate(sorted((small_images / "train").glob("*/0.jpg"))):
        shutil.copy(path, images / f"{number}.jpg")
    (images / "bad.jpg").write_bytes(b"not an image")
    given = [flags[0], f"--data_dir={images}", f"--results_dir={tmp_path}/r"]
    made, real = [], features.make
    monkeypatch.setattr(features, "make", lambda *parts: made.append(1) or real(*parts))
    assert run(*given, f"--query={images / '1.jpg'}") == 0
    out = capsys.readouterr().out
    assert "1 files left out: bad.jpg: not a JPEG or PNG" in out and "among 3 images" in out
    assert out.splitlines()[-3].split() == ["0.0000", str(images / "1.jpg")]
    assert run(*given, f"--query={images / '1.jpg'}") == 0 and len(made) == 1
    (images / "0.jpg").unlink()
    assert run(*given, f"--query={images / '1.jpg'}") == 0
    out = capsys.readouterr().out
    assert len(made) == 2 and "is of other files and is computed again" in out and "among 2 images" in out
    assert run(*given) == 2
    assert "has no class folders" in capsys.readouterr().err


def test_quick(flags, tmp_path):
    assert run(*flags[:2], f"--results_dir={tmp_path}", "--quick") == 0
    found = experiment.read("retrieval", str(tmp_path / "quick"))
    assert found["quick"] and found["values"]["index"]["pictures"] == 12 and found["values"]["timing_rows"] == 1000
    assert [row["length"] for row in found["values"]["rows"]] == [0, 0, 32, 32, 32]


def test_wrong_flags(flags, tmp_path, capsys):
    model, data = flags[:2]
    for argv, words in (
        ([model], "--data_dir is missing"),
        ([data], "--model_dir is missing"),
        ([model, data, "--query_split=../x"], "--query_split=../x: must be the name of a folder"),
        ([model, data, "--codes=12"], "--codes=12: must be different multiples of 8"),
        ([model, data, "--codes=8,8"], "--codes=8,8"),
        ([model, data, f"--index={tmp_path}/i.txt"], "must end in .npz"),
        ([model, data, f"--index={tmp_path}/i.npz", "--quick"], "--quick takes a few images"),
        ([model, data, f"--query={tmp_path}/none.jpg"], "there is no such file"),
        ([model, data, f"--query={tmp_path}"], "is a folder"),
    ):
        assert run(*argv, f"--results_dir={tmp_path}/r") == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words in line, line
    assert not (tmp_path / "r").exists()


def test_wrong_folders(flags, small_images, tmp_path, capsys):
    model, data = flags[:2]
    bad, index = tmp_path / "bad.jpg", tmp_path / "i.npz"
    bad.write_bytes(b"not an image")
    index.write_bytes(b"\x80\x04N.")
    query = f"--query={next((small_images / 'val').glob('*/*.jpg'))}"
    for name in ("one", "unknown", "alone"):
        shutil.copytree(small_images, tmp_path / name)
    for name in ("blue_disk", "striped_red_disk"):
        shutil.rmtree(tmp_path / "one" / "train" / name)
    (tmp_path / "unknown" / "val" / "red_square").rename(tmp_path / "unknown" / "val" / "cats")
    for path in (tmp_path / "alone" / "train" / "red_square").glob("*.jpg"):
        path.write_bytes(b"not an image")
    for argv, code, words in (
        ([f"--model_dir={tmp_path}", data], 2, "exported model"),
        ([model, data, "--query_split=test"], 2, "--query_split=test: there is no folder"),
        ([model, f"--data_dir={tmp_path}/one"], 2, "--index_split=train: .* has one class only"),
        ([model, f"--data_dir={tmp_path}/unknown"], 2, "--query_split=val: its class 'cats' is not in"),
        ([model, f"--data_dir={tmp_path}/alone"], 2, "no image of 'red_square' is left to be found"),
        ([model, data, f"--query={bad}"], 2, "bad.jpg: is not a JPEG or PNG file that can be decoded"),
        ([model, data, query, f"--index={index}"], 1, "i.npz: cannot be read"),
        ([model, query, f"--index={tmp_path}/none.npz"], 2, "none.npz: there is no such index"),
    ):
        assert run(*argv, f"--results_dir={tmp_path}/r") == code
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert re.search(words, line), line
    # One class is enough for a query.
    assert run(model, f"--data_dir={tmp_path}/one", f"--results_dir={tmp_path}/r", query) == 0
