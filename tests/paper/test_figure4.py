"""Figure 4: bars, marks, neighbors and shares, held against NumPy."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from keras_alexnet import evaluate
from keras_alexnet.cli import run_command
from keras_alexnet.data.decoding import decode_center
from keras_alexnet.paper import examples, figure4, panels, results

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra figures)")


def run(*argv):
    return run_command("figure4", figure4.main, [str(each) for each in argv])


@pytest.fixture(scope="module")
def flags(run_of_three_epochs, small_pictures):
    return [f"--model_dir={run_of_three_epochs}", f"--data_dir={small_pictures}"]


@pytest.fixture(scope="module")
def measured(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figure4")
    assert run(*flags, f"--results_dir={folder}", "--pictures=4", "--neighbors=3") == 0
    return folder


@pytest.fixture(scope="module")
def values(measured):
    return results.read(str(measured), "figure4")["values"]


@pytest.fixture(scope="module")
def model(run_of_three_epochs):
    return evaluate.open_model(str(run_of_three_epochs))


@pytest.fixture(scope="module")
def described(model, small_pictures):
    """Of each split, picture by picture: path below the folder, class, probabilities, features, pixels."""
    found = {}
    for split in ("train", "val"):
        rows = []
        for path in sorted((small_pictures / split).glob("*/*.jpg")):
            contents = path.read_bytes()
            square = decode_center(contents).numpy()
            rows.append(
                {
                    "file": path.relative_to(small_pictures).as_posix(),
                    "class_name": path.parent.name,
                    "probabilities": model.served.center_view(square[None, 16:240, 16:240]).numpy()[0],
                    "features": model.served.extract_features(np.array([contents]))["features"].numpy()[0],
                    # 256 / 32 = 8: the mean of blocks of 8x8.
                    "pixels": square.astype(np.float64).reshape(32, 8, 32, 8, 3).mean(axis=(1, 3)),
                }
            )
        found[split] = rows
    return found


def far(a, b, what):
    return float(np.sqrt(((a[what].astype(np.float64) - b[what].astype(np.float64)) ** 2).sum()))


def nearest(query, rows, what, count):
    return sorted(rows, key=lambda row: far(query, row, what))[:count]


def test_predictions_are_the_network_s(values, described, model):
    by_file = {row["file"]: row for row in described["val"]}
    assert len({row["file"] for row in values["predictions"]}) == 4
    wrong = []
    for row in values["predictions"]:
        own = by_file[row["file"]]
        assert row["class_name"] == own["class_name"]
        names = [each["class_name"] for each in row["best"]]
        # As many bars as there are classes.
        assert names == [model.class_names[place] for place in np.argsort(-own["probabilities"])] and len(names) == 3
        np.testing.assert_allclose(
            [each["probability"] for each in row["best"]], np.sort(own["probabilities"])[::-1], rtol=1e-4
        )
        true = model.class_names.index(own["class_name"])
        assert row["true_probability"] == pytest.approx(float(own["probabilities"][true]), rel=1e-4)
        wrong.append(names[0] != own["class_name"])
    assert values["shown"]["pictures"] == 4 and values["shown"]["top1_error"] == pytest.approx(25 * sum(wrong))
    wrong = [model.class_names[row["probabilities"].argmax()] != row["class_name"] for row in described["val"]]
    assert values["split"]["pictures"] == 9
    assert values["split"]["top1_error"] == pytest.approx(100 * np.mean(wrong), abs=1e-4)


def test_neighbors_are_the_nearest_in_the_last_hidden_layer(values, described):
    by_file = {row["file"]: row for row in described["val"] + described["train"]}
    assert len(values["rows"]) == 5 and values["neighbors"] == 3
    hits = []
    for row in values["rows"]:
        query = by_file[row["file"]]
        expected = nearest(query, described["train"], "features", 3)
        assert [each["file"] for each in row["neighbors"]] == [each["file"] for each in expected]
        assert [each["class_name"] for each in row["neighbors"]] == [each["class_name"] for each in expected]
        for each, other in zip(row["neighbors"], expected, strict=True):
            assert each["distance"] == pytest.approx(far(query, other, "features"), rel=1e-3)
            assert each["pixel_distance"] == pytest.approx(far(query, other, "pixels"), rel=1e-3)
            closer = [far(query, one, "pixels") < far(query, other, "pixels") for one in described["train"]]
            assert each["pixel_rank"] == 1 + sum(closer)
            hits.append(other["class_name"] == query["class_name"])
    assert values["shown_shares"][1] == pytest.approx(np.mean(hits))


def test_shares_of_the_whole_split(values, described):
    train, val = described["train"], described["val"]
    for what in ("features", "pixels"):
        hits = np.array(
            [[each["class_name"] == query["class_name"] for each in nearest(query, train, what, 3)] for query in val]
        )
        assert values["shares"][what] == pytest.approx([hits[:, 0].mean(), hits.mean()])
    assert values["shares"]["chance"] == pytest.approx([1 / 3] * 2)
    ranks = []
    for query in val:
        (first,) = nearest(query, train, "features", 1)
        ranks.append(1 + sum(far(query, one, "pixels") < far(query, first, "pixels") for one in train))
    assert values["pixel_ranks"]["median"] == np.median(ranks)
    assert values["pixel_ranks"]["among_neighbors"] == pytest.approx(np.mean([rank <= 3 for rank in ranks]))


def test_distances_in_parts(monkeypatch):
    monkeypatch.setattr(examples, "_ROWS", 4)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 5)), rng.normal(size=(9, 5)).astype(np.float32)
    expected = [[np.linalg.norm(x - y) for y in b] for x in a]
    np.testing.assert_allclose(examples.distances(a, b), expected, rtol=1e-6)


def test_what_is_written(measured, values, capsys):
    about = results.read(str(measured), "figure4")
    assert [each["file"] for each in about["pictures"]] == ["figure4_predictions.png", "figure4_neighbors.png"]
    assert f"top-1 {values['split']['top1_error']:.1f} %" in about["pictures"][0]["shows"]
    assert "the paper chose by hand" in about["pictures"][0]["shows"]
    for each in about["pictures"]:
        with Image.open(measured / each["file"]) as image:
            assert image.format == "PNG" and 300 < image.width <= 800
    for table in figure4.tables(values):
        assert all(len(row) == len(table.columns) for row in table.rows)
    errors, shares, ranks = figure4.tables(values)
    # Among three classes every answer is one of the best five.
    assert errors.rows[1] == ("all of val", "9", f"{values['split']['top1_error']:.1f}", "-")
    assert shares.rows[-1] == ("chance", "33.3", "33.3")
    assert len(ranks.rows) == 6 and ranks.rows[0][1].endswith(" of 3")


def test_the_verdict_follows_the_figures(values):
    assert figure4.verdict(None) == results.NOT_RUN
    good = json.loads(json.dumps(values))
    good["features_against_pixels"] = {"difference": 0.3, "standard_error": 0.1}
    good["pixel_ranks"] = {"median": 7.0, "among_neighbors": 0.2}
    assert figure4.verdict(good).startswith("Holds")
    for change in ({"difference": 0.3, "standard_error": 0.2}, {"difference": 0.3, "standard_error": None}):
        assert figure4.verdict({**good, "features_against_pixels": change}).startswith("Cannot be told")
    close = {**good, "pixel_ranks": {"median": 1.0, "among_neighbors": 0.9}}
    assert figure4.verdict(close).startswith("Does not hold")
    for table in figure4.tables(None):
        assert all(len(row) == len(table.columns) and set(row[1:]) == {results.NOT_RUN} for row in table.rows)


def test_the_seed_draws(flags, values, measured, tmp_path):
    def drawn(*more):
        assert run(*flags, f"--results_dir={tmp_path}", "--neighbors=3", *more) == 0
        found = results.read(str(tmp_path), "figure4")["values"]
        return [[row["file"] for row in found[part]] for part in ("predictions", "rows")], found

    shutil.copytree(measured / "retrieval", tmp_path / "retrieval")
    before = [[row["file"] for row in values[part]] for part in ("predictions", "rows")]
    again, _ = drawn("--pictures=4")
    assert again == before
    for name in ("figure4_predictions.png", "figure4_neighbors.png"):
        assert (tmp_path / name).read_bytes() == (measured / name).read_bytes()
    (left, right), found = drawn("--pictures=4", "--only=errors", "--queries=2")
    # The right panel's draw is its own.
    assert right == [row["file"] for row in found["rows"]] and len(right) == 2
    assert all(row["best"][0]["class_name"] != row["class_name"] for row in found["predictions"])
    assert found["shown"]["top1_error"] == 100
    other, _ = drawn("--pictures=4", "--seed=7")
    assert other != before


def colored(png, color):
    """Where a picture has a color, bool (rows, columns)."""
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    wanted = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)])
    return np.abs(pixels - wanted).max(axis=2) <= 4


def predicted(true, *probabilities):
    best = [{"class_name": f"class {place}", "probability": each} for place, each in enumerate(probabilities)]
    return {"class_name": true, "true_probability": 0.01, "best": best}


def black(count, size):
    return np.zeros((count, size, size, 3), np.uint8)


def test_bars_are_as_long_as_probabilities():
    png = panels.predictions([predicted("class 1", 0.8, 0.15, 0.05)], black(1, panels.THUMBNAIL))
    own, others = colored(png, panels.TRUE), colored(png, panels.OTHER)
    # Of 312 columns 80 are for the number.
    columns = np.flatnonzero(own.any(axis=0))
    assert columns.max() - columns.min() + 1 == pytest.approx(0.15 * 232, abs=2)
    columns = np.flatnonzero(others.any(axis=0))
    assert columns.max() - columns.min() + 1 == pytest.approx(0.8 * 232, abs=2)
    # The true one is the second.
    rows = np.flatnonzero(own.any(axis=1))
    above = others[: rows.min()].any(axis=1).sum()
    assert above == pytest.approx(22, abs=2) and others[rows.max() + 1 :].any()
    with Image.open(io.BytesIO(png)) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_a_true_class_without_a_bar_is_said(monkeypatch):
    said = []
    real = panels._text
    monkeypatch.setattr(panels, "_text", lambda *parts, **more: said.append((parts[3], more)) or real(*parts, **more))
    png = panels.predictions(
        [predicted("elsewhere", 0.6, 0.4), predicted("class 0", 0.6, 0.4)], black(2, panels.THUMBNAIL)
    )
    assert colored(png, panels.TRUE).any()
    heads = [(text, more["ending"]) for text, more in said if "ending" in more]
    assert heads == [("elsewhere", " (1.0 %)"), ("class 0", "")]
    # What marks the true one without color.
    bold = [text for text, more in said if more.get("weight") == "bold" and "ending" not in more]
    assert bold == ["✓ class 0", "60.0 %"]
    png = panels.predictions([predicted("elsewhere", 0.6, 0.4)], black(1, panels.THUMBNAIL))
    assert not colored(png, panels.TRUE).any()


def test_neighbors_of_other_classes_are_framed(monkeypatch):
    said = []
    real = panels._text
    monkeypatch.setattr(panels, "_text", lambda *parts, **more: said.append(parts[3]) or real(*parts, **more))
    rows = [{"class_name": "a", "neighbors": [{"class_name": name} for name in each]} for each in ("aab", "bba")]
    png = panels.neighbors(rows, black(8, panels.SMALL))
    assert said == ["a", "✓", "✓", "✗ b", "a", "✗ b", "✗ b", "✓"]
    red = colored(png, panels.WRONG)
    framed = [[], []]
    for row in range(2):
        for column in range(3):
            left, top = 8 + (column + 1) * (panels.SMALL + 8) + 16, 8 + row * (panels.SMALL + 32)
            # The upper edge of a frame.
            framed[row].append(bool(red[top - 3 : top + 2, left + 20 : left + 80].any(axis=0).all()))
    assert framed == [[False, False, True], [True, True, False]]


def test_long_names_and_signs_fit(recwarn):
    rows = [predicted("class $0$ of " + "very " * 20 + "long names", 0.5, 0.5)]
    rows[0]["best"][0]["class_name"] = rows[0]["class_name"]
    with Image.open(io.BytesIO(panels.predictions(rows, black(1, panels.THUMBNAIL)))) as image:
        outside = np.asarray(image.convert("L"))[panels.THUMBNAIL + 10 :, [0, 1, 2, -1, -2, -3]]
    assert (outside == 255).all()


def test_ids_of_imagenet_are_shown_in_words():
    row = {
        "file": "val/n01440764/1.jpg",
        "class_name": "n01440764",
        "best": [{"class_name": "ro\nse", "probability": 1}],
    }
    (shown,) = figure4._in_words([row])
    assert shown == {**row, "class_name": "tench", "best": [{"class_name": "ro\\nse", "probability": 1}]}


def test_pictures_stay_small():
    """Noise is the largest that there is."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (8, panels.THUMBNAIL, panels.THUMBNAIL, 3), np.uint8)
    assert len(panels.predictions([predicted("class 0", 0.4, 0.3, 0.2, 0.06, 0.04)] * 8, noise)) < 400_000
    noise = rng.integers(0, 256, (35, panels.SMALL, panels.SMALL, 3), np.uint8)
    rows = [{"class_name": "a", "neighbors": [{"class_name": "b"}] * 6}] * 5
    assert len(panels.neighbors(rows, noise)) < 400_000


def test_quick(flags, tmp_path):
    assert run(*flags, f"--results_dir={tmp_path}", "--quick") == 0
    about = results.read(str(tmp_path / "quick"), "figure4")
    assert about["quick"] and about["values"]["data"]["index_pictures"] == 12


def test_bad_input(flags, small_pictures, tmp_path, capsys):
    model, data = flags
    here = f"--results_dir={tmp_path}/r"
    one, unknown, empty = tmp_path / "one", tmp_path / "unknown", tmp_path / "empty"
    for split in ("train", "val"):
        shutil.copytree(small_pictures / split / "red_square", one / split / "red_square")
    for split in ("train", "val"):
        shutil.copytree(small_pictures / split, unknown / split)
        (unknown / split / "red_square").rename(unknown / split / "cats")
    (empty / "val").mkdir(parents=True)
    for argv, code, words in (
        ([data, here], 2, "--model_dir is missing"),
        ([model, here], 2, "--data_dir is missing"),
        ([f"--model_dir={tmp_path}", data, here], 2, "is no exported model"),
        ([model, data, here, "--split=test"], 2, "--split=test: there is no folder"),
        ([model, data, here, "--index_split=test"], 2, "--index_split=test: there is no folder"),
        ([model, data, here, "--split=../val"], 2, "--split=../val: give the name"),
        ([model, data, here, "--index_split=val"], 2, "--index_split=val: is --split too"),
        ([model, data, here, "--neighbors=0"], 2, "neighbors"),
        ([model, f"--data_dir={one}", here], 2, "has one class only"),
        ([model, f"--data_dir={unknown}", here], 2, "--split=val: the model does not know 1 of its classes"),
        ([model, f"--data_dir={empty}", here], 2, "neither class folders nor pictures"),
    ):
        assert run(*argv) == code, argv
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words in line, (argv, line)
