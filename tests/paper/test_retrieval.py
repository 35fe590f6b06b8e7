"""Retrieval: autoencoders, precision from the definition, the nearest to an image, and wrong input."""

import re
import shutil

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra figures)")

from keras_alexnet import evaluation
from keras_alexnet.errors import RunError
from keras_alexnet.paper import experiment, features, retrieval, retrieval_run


def run(*argv):
    return experiment.main(retrieval.EXPERIMENT, [str(each) for each in argv])


@pytest.fixture(scope="module", autouse=True)
def few_hidden_units():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval_run, "HIDDEN", 64)
        patch.setattr(retrieval_run, "BATCH", 16)
        yield


@pytest.fixture(scope="module")
def numbers():
    """Features of three kinds of images, as after ReLU, of which two are always 0."""
    rng = np.random.default_rng(0)
    numbers = np.maximum(rng.normal(size=(3, 20))[np.arange(60) % 3] + 0.3 * rng.normal(size=(60, 20)), 0)
    numbers[:, 5:7] = 0
    return numbers.astype(np.float32)


@pytest.fixture(scope="module")
def coders(numbers, tmp_path_factory):
    """The folder of both kinds of autoencoder, and they: binary -> Coder."""
    folder, shown = tmp_path_factory.mktemp("coders"), []
    kinds = {
        binary: retrieval_run.load_or_train(
            folder / f"{binary}.npz", numbers, 16, binary, 12, 1, lambda *done: shown.append(done)
        )
        for binary in (False, True)
    }
    assert shown == [(epoch, 12) for epoch in range(1, 13)] * 2
    return folder, kinds


def test_bits_are_the_sigmoid_above_a_half_packed_from_the_highest(numbers, coders):
    coder = coders[1][True]
    before = coder.encoder((numbers - coder.mean) / coder.scale).numpy().astype(np.float64)
    above = 1 / (1 + np.exp(-retrieval_run.NOISE * before)) > 0.5
    places = [range(start, start + 8) for start in (0, 8)]
    expected = [[sum(int(row[place]) << (7 - place % 8) for place in byte) for byte in places] for row in above]
    bits = coder.encode(numbers)
    np.testing.assert_array_equal(bits, expected)
    assert (bits.dtype, coder.size) == (np.uint8, 2) and len(np.unique(bits, axis=0)) > 1


@pytest.mark.parametrize("binary", [False, True])
def test_codes_of_standardized_numbers_and_their_error(numbers, coders, binary):
    coder = coders[1][binary]
    centered = numbers.astype(np.float64) - numbers.mean(axis=0)
    np.testing.assert_allclose(coder.mean, numbers.mean(axis=0), rtol=1e-5, atol=1e-7)
    assert coder.scale == pytest.approx(np.sqrt((centered**2).mean()), rel=1e-5)  # one for all
    codes = coder.encode(numbers)
    if binary:
        codes = np.unpackbits(codes, axis=1)
    else:
        assert (codes.shape, codes.dtype, coder.size) == ((60, 16), np.float32, 64)
    decoded = coder.decoder(codes.astype(np.float32)).numpy().astype(np.float64) * coder.scale + coder.mean
    expected = ((numbers - decoded) ** 2).sum() / (centered**2).sum()
    error = coder.error(numbers)
    assert error == pytest.approx(expected, rel=1e-4) and error < 0.7  # it has learned: the mean alone would have 1
    constant = retrieval_run.Coder(8, binary, np.ones((9, 6), np.float32))
    assert constant.scale == 1 and len(constant.encode(np.ones((2, 6), np.float32))) == 2


def test_trained_once_and_to_the_same_numbers(numbers, coders, tmp_path, monkeypatch):
    folder, kinds = coders
    again = retrieval_run.load_or_train(tmp_path / "again.npz", numbers, 16, True, 12, 1, lambda *done: None)
    np.testing.assert_array_equal(again.encode(numbers), kinds[True].encode(numbers))
    trained, path = [], folder / "True.npz"
    monkeypatch.setattr(retrieval_run.Coder, "train", lambda self, rows, *given: trained.append((len(rows), *given)))
    kept = retrieval_run.load_or_train(path, numbers, 16, True, 12, 1, None)
    np.testing.assert_array_equal(kept.encode(numbers), kinds[True].encode(numbers))
    retrieval_run.load_or_train(path, numbers[1:], 16, True, 12, 1, None)  # other numbers
    retrieval_run.load_or_train(path, numbers[1:], 16, True, 12, 2, None)  # another seed
    assert trained == [(59, 12, 1, None), (59, 12, 2, None)]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="True.npz: cannot be read"):
        retrieval_run.load_or_train(path, numbers, 16, True, 2, 3, None)


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


def test_what_is_measured(measured, described):
    found = experiment.read("retrieval", str(measured))
    values = found["values"]
    (vectors, classes, paths), (queries, asked, asked_paths) = described["train"], described["val"]
    precision, average = features.evaluate(vectors, classes, queries, asked)
    assert_is(retrieval.row_of(values, "features", ""), precision, average)
    for each in values["by_class"]:
        own = asked == each["class_name"]
        assert_is(each, precision[own], average[own])
    small = [features.pixel_extractor().extract([path.read_bytes() for path in own]) for own in (paths, asked_paths)]
    assert_is(retrieval.row_of(values, "pixels", ""), *features.evaluate(small[0], classes, small[1], asked))
    assert values["chance"]["precision"] == pytest.approx([1 / 3] * 3) and values["timing_rows"] == 50
    rows = {row["name"]: row for row in values["rows"]}
    sizes = {"pixels 32x32": 3072, "256 numbers": 1024, "real code of 8": 32}
    sizes |= {"binary code of 8 bits": 1, "pixels, binary code of 8 bits": 1}
    assert {name: row["bytes"] for name, row in rows.items()} == sizes
    assert all(row["search_ms"] > 0 and row["search_large_ms"] > 0 for row in rows.values())
    svg = (measured / found["pictures"][0]["file"]).read_text()
    assert "bytes an image" in svg and "binary codes" in svg
    assert (measured / "projector" / "projector_config.pbtxt").exists()
    for table in retrieval.tables(values):
        assert all(len(row) == len(table.columns) for row in table.rows)
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
    monkeypatch.setattr(retrieval_run.Coder, "train", None)
    given = ["--index_split=train", "--query_split=train", "--timing_rows=1", "--noprojector"]
    assert run(*flags, *given, f"--results_dir={tmp_path}") == 0
    found = experiment.read("retrieval", str(tmp_path))
    vectors, classes, _ = described["train"]
    expected = features.evaluate(vectors, classes, vectors, classes, same=True)
    assert_is(retrieval.row_of(found["values"], "features", ""), *expected)
    chance = features.evaluate(np.zeros((18, 1), np.uint8), classes, np.zeros((18, 1), np.uint8), classes, same=True)
    assert_is(found["values"]["chance"], *chance)
    assert chance[0][:, 0] == pytest.approx([5 / 17] * 18) and "each among the others" in found["protocol"]
    assert not (tmp_path / "projector").exists()


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
    with np.load(index) as stored:
        about = np.frombuffer(stored["about"].tobytes().replace(b'"model": "', b'"model": "x'), np.uint8)
        np.savez(index, features=stored["features"], labels=stored["labels"], about=about)
    assert run(flags[0], *given[-4:]) == 2
    assert "i.npz: is of another model than --model_dir" in capsys.readouterr().err


def test_quick(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval_run, "measure", lambda settings: given.append(settings))
    given = []
    assert run(*flags[:2], f"--results_dir={tmp_path}", "--quick") == 0
    (found,) = given
    assert (found.codes, found.code_epochs, found.timing_rows, found.index_split) == ((32,), 2, 1000, "train")


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
        ([model, f"--query={__file__}", f"--index={tmp_path}/none.npz"], "none.npz: there is no such index"),
    ):
        assert run(*argv, f"--results_dir={tmp_path}/r") == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words in line, line
    assert not (tmp_path / "r").exists()


def test_wrong_folders(flags, small_images, tmp_path, capsys, monkeypatch):
    model, data = flags[:2]
    opened = evaluation.open_model(model.removeprefix("--model_dir="))
    monkeypatch.setattr(evaluation, "open_model", lambda folder: opened)
    bad, index, flat = tmp_path / "bad.jpg", tmp_path / "i.npz", tmp_path / "flat"
    bad.write_bytes(b"not an image")
    index.write_bytes(b"\x80\x04N.")
    shutil.copytree(small_images / "val" / "blue_disk", flat)
    query = f"--query={flat / '1.jpg'}"
    for name in ("one", "unknown", "alone"):
        shutil.copytree(small_images, tmp_path / name)
    for name in ("blue_disk", "striped_red_disk"):
        shutil.rmtree(tmp_path / "one" / "train" / name)
    (tmp_path / "unknown" / "val" / "red_square").rename(tmp_path / "unknown" / "val" / "cats")
    for path in (tmp_path / "alone" / "train" / "red_square").glob("*.jpg"):
        path.write_bytes(b"not an image")
    for argv, code, words in (
        ([model, data, "--query_split=test"], 2, "--query_split=test: there is no folder"),
        ([model, f"--data_dir={flat}"], 2, "--index_split=.: .*flat has no class folders"),
        ([model, f"--data_dir={tmp_path}/one"], 2, "--index_split=train: .* has one class only"),
        ([model, f"--data_dir={tmp_path}/unknown"], 2, "--query_split=val: its class 'cats' is not in"),
        ([model, f"--data_dir={tmp_path}/alone"], 2, "no image of 'red_square' is left to be found"),
        ([model, f"--data_dir={flat}", f"--query={bad}"], 2, "bad.jpg: is not a JPEG or PNG file that can be decoded"),
        ([model, data, query, f"--index={index}"], 1, "i.npz: cannot be read"),
    ):
        assert run(*argv, f"--results_dir={tmp_path}/r") == code
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert re.search(words, line), line
    # Classes are not needed for a query.
    assert run(model, f"--data_dir={flat}", f"--results_dir={tmp_path}/r", query) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["0.0000", str(flat / "1.jpg")]
