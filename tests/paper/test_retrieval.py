import re
import shutil

import numpy as np
import pytest

from keras_alexnet.paper import experiment, features, retrieval


def run(*argv):
    return experiment.main("retrieval", [str(each) for each in argv])


@pytest.fixture(scope="module", autouse=True)
def few_hidden_units():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "HIDDEN", 64)
        patch.setattr(features, "BATCH", 16)
        yield


@pytest.fixture(scope="module")
def numbers():
    """Features of three kinds of images, as after ReLU, of which two are always 0."""
    rng = np.random.default_rng(0)
    numbers = np.maximum(rng.normal(size=(3, 20))[np.arange(60) % 3] + 0.3 * rng.normal(size=(60, 20)), 0)
    numbers[:, 5:7] = 0
    return numbers.astype(np.float32)


@pytest.mark.parametrize("binary", [False, True])
def test_codes_and_their_error(numbers, binary, tmp_path, monkeypatch):
    path, shown = tmp_path / "coder.npz", []
    coder = features.load_or_train(path, numbers, 16, binary, 12, 1, lambda *done: shown.append(done))
    assert shown == [(epoch, 12) for epoch in range(1, 13)]
    centered = numbers.astype(np.float64) - numbers.mean(axis=0)
    np.testing.assert_allclose(coder.mean, numbers.mean(axis=0), rtol=1e-5, atol=1e-7)
    assert coder.scale == pytest.approx(np.sqrt((centered**2).mean()), rel=1e-5)  # one for all
    codes, expected = coder.encode(numbers), coder.encoder((numbers - coder.mean) / coder.scale).numpy()
    if binary:  # whether the sigmoid is above a half, packed from the highest bit
        expected = (1 / (1 + np.exp(-features.NOISE * expected.astype(np.float64))) > 0.5).astype(np.float32)
        bytes_of = [
            [sum(int(bit) << 7 - n for n, bit in enumerate(row[at : at + 8])) for at in (0, 8)] for row in expected
        ]
        assert codes.tolist() == bytes_of and len(np.unique(codes, axis=0)) > 1 and coder.size == 2
    else:
        np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-5)
        assert (codes.shape, codes.dtype, coder.size) == ((60, 16), np.float32, 64)
    decoded = coder.decoder(expected).numpy().astype(np.float64) * coder.scale + coder.mean
    error = coder.error(numbers)
    assert error == pytest.approx(((numbers - decoded) ** 2).sum() / (centered**2).sum(), rel=1e-4)
    assert error < 0.7  # it has learned: the mean alone would have 1
    # The same seed gives the same; what is kept is not trained again unless the numbers or the settings are others.
    again = features.load_or_train(tmp_path / "again.npz", numbers, 16, binary, 12, 1, lambda *done: None)
    np.testing.assert_array_equal(again.encode(numbers), codes)
    trained = []
    monkeypatch.setattr(features.Coder, "train", lambda self, rows, *given: trained.append((len(rows), *given)))
    kept = features.load_or_train(path, numbers, 16, binary, 12, 1, None)
    np.testing.assert_array_equal(kept.encode(numbers), codes)
    features.load_or_train(path, numbers[1:], 16, binary, 12, 1, None)
    features.load_or_train(path, numbers[1:], 16, binary, 12, 2, None)
    assert trained == [(59, 12, 1, None), (59, 12, 2, None)]


@pytest.fixture(scope="module")
def flags(tiny_run, small_images):
    return [f"--model_dir={tiny_run}", f"--data_dir={small_images}", "--codes=8", "--code_epochs=2"]


@pytest.fixture(scope="module")
def measured(flags, tmp_path_factory):
    folder, trained = tmp_path_factory.mktemp("results"), []
    with pytest.MonkeyPatch.context() as patch:  # nothing below depends on what autoencoders have learned
        patch.setattr(features.Coder, "train", lambda self, rows, *given: trained.append((rows.shape, *given[:2])))
        assert run(*flags, f"--results_dir={folder}", "--timing_rows=50") == 0
    assert trained == [((18, 256), 2, 2012), ((18, 256), 2, 2012), ((18, 3072), 2, 2012)]
    return folder


def split_of(described, split, what):
    """Features or pixels of all images of a split (float32), their classes and their paths."""
    rows = [row for path, row in described.items() if f"/{split}/" in path]
    numbers = np.array([row[what] for row in rows], np.float32)
    return numbers, np.array([row["class_name"] for row in rows]), [row["path"] for row in rows]


def assert_is(row, precision, average):
    assert row["precision"] == pytest.approx(precision.mean(axis=0))
    assert row["mean_average_precision"] == pytest.approx(average.mean())


def test_what_is_measured(measured, described):
    found = experiment.read("retrieval", str(measured))
    values = found["values"]
    for what in ("features", "pixels"):
        (vectors, classes, _), (queries, asked, _) = (split_of(described, split, what) for split in ("train", "val"))
        precision, average = retrieval.evaluate(vectors, classes, queries, asked)
        assert_is(retrieval.row_of(values, what, ""), precision, average)
        for each in values["by_class"] if what == "features" else ():
            own = asked == each["class_name"]
            assert_is(each, precision[own], average[own])
    assert values["chance"]["precision"] == pytest.approx([1 / 3] * 3) and values["timing_rows"] == 50
    rows = {row["name"]: row for row in values["rows"]}
    sizes = {"pixels 32x32": 3072, "256 numbers": 1024, "real code of 8": 32}
    sizes |= {"binary code of 8 bits": 1, "pixels, binary code of 8 bits": 1}
    assert {name: row["bytes"] for name, row in rows.items()} == sizes
    assert all(row["search_ms"] > 0 and row["search_large_ms"] > 0 for row in rows.values())
    svg = (measured / found["pictures"][0]["file"]).read_text()
    assert "bytes an image" in svg and "binary codes" in svg
    assert (measured / "projector" / "projector_config.pbtxt").exists()
    for difference, error, outcome in (
        (0.3, 0.1, "Holds"),
        (-0.3, 0.1, "Does not hold"),
        (0.3, 0.2, "Cannot be told"),
        (0.3, None, "Cannot be told"),
    ):
        gain = {**values["codes_against_pixels"], "difference": difference, "standard_error": error}
        said = str(retrieval.verdict({**values, "codes_against_pixels": gain}))
        assert said.startswith(outcome) and "1024 times smaller" in said


def test_one_split_each_among_the_others(flags, measured, described, tmp_path, monkeypatch):
    # Indexes and autoencoders of the training images are there already, and are used.
    shutil.copytree(measured / "retrieval", tmp_path / "retrieval")
    monkeypatch.setattr(features, "extract_features", None)
    monkeypatch.setattr(features.Coder, "train", None)
    given = ["--index_split=train", "--query_split=train", "--timing_rows=1", "--noprojector"]
    assert run(*flags, *given, f"--results_dir={tmp_path}") == 0
    found = experiment.read("retrieval", str(tmp_path))
    vectors, classes, _ = split_of(described, "train", "features")
    expected = retrieval.evaluate(vectors, classes, vectors, classes, same=True)
    assert_is(retrieval.row_of(found["values"], "features", ""), *expected)
    chance = retrieval.evaluate(np.zeros((18, 1), np.uint8), classes, np.zeros((18, 1), np.uint8), classes, same=True)
    assert_is(found["values"]["chance"], *chance)
    assert chance[0][:, 0] == pytest.approx([5 / 17] * 18) and "each among the others" in found["protocol"]
    assert not (tmp_path / "projector").exists()


def test_the_nearest_to_an_image(flags, described, tmp_path, capsys):
    rows, classes, paths = split_of(described, "train", "features")
    queries, _, asked = split_of(described, "val", "features")
    index = tmp_path / "i.npz"
    given = [*flags, f"--results_dir={tmp_path}", f"--index={index}", f"--query={asked[4]}", "--neighbors=4"]
    assert run(*given) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    distances = np.linalg.norm(rows - queries[4], axis=1)
    order = np.argsort(distances)[:4]
    assert [line.split()[1:] for line in lines] == [[classes[place], paths[place]] for place in order]
    assert [float(line.split()[0]) for line in lines] == pytest.approx(distances[order], abs=1e-3)
    # The index alone is enough, unless it is another model's.
    assert run(flags[0], *given[-4:]) == 0
    assert capsys.readouterr().out.splitlines() == [head, *lines]
    with np.load(index) as stored:
        about = np.frombuffer(stored["about"].tobytes().replace(b'"model": "', b'"model": "x'), np.uint8)
        np.savez(index, features=stored["features"], labels=stored["labels"], about=about)
    assert run(flags[0], *given[-4:]) == 2
    assert "i.npz: is of another model than --model_dir" in capsys.readouterr().err


def test_wrong_folders(flags, small_images, tmp_path, capsys):
    bad, index, flat = tmp_path / "bad.jpg", tmp_path / "i.npz", tmp_path / "flat"
    bad.write_bytes(b"not an image")
    index.write_bytes(b"\x80\x04N.")
    shutil.copytree(small_images / "val" / "blue_disk", flat)
    for name in ("unknown", "alone"):
        shutil.copytree(small_images, tmp_path / name)
    (tmp_path / "unknown" / "val" / "red_square").rename(tmp_path / "unknown" / "val" / "cats")
    for path in (tmp_path / "alone" / "train" / "red_square").glob("*.jpg"):
        path.write_bytes(b"not an image")
    for split in ("train", "test"):
        shutil.copytree(small_images / split.replace("test", "val"), tmp_path / "same" / split)
    given, query = [flags[0], f"--results_dir={tmp_path}/r"], f"--query={flat / '1.jpg'}"
    for folder, more, code, words in (
        (flat, [], 2, "--data_dir=.*flat: .*flat holds no class folders"),
        (tmp_path / "unknown", [], 2, "--query_split=val: its class 'cats' is not in"),
        (tmp_path / "same", ["--index_split=test"], 2, "--query_split=val: holds 9 images of --index_split=test too"),
        (tmp_path / "alone", [], 2, "no image of 'red_square' is left to be found"),
        (flat, [f"--query={bad}"], 2, "bad.jpg: is not a JPEG or PNG file that can be decoded"),
        (small_images, [query, f"--index={index}"], 1, "i.npz: cannot be read"),
    ):
        assert run(*given, f"--data_dir={folder}", *more) == code
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert re.search(words, line)
    # Classes are not needed for a query.
    assert run(*given, f"--data_dir={flat}", query) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["0.0000", str(flat / "1.jpg")]
