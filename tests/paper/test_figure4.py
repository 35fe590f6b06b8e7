"""Figure 4: bars, marks, neighbors and shares, held against NumPy."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra figures)")

from keras_alexnet import evaluation
from keras_alexnet.data.decoding import decode_center
from keras_alexnet.paper import experiment, features, figure4, figure4_panels, plots


def run(*argv):
    return experiment.main(figure4.EXPERIMENT, [str(each) for each in argv])


@pytest.fixture(scope="module")
def flags(tiny_run, small_images):
    return [f"--model_dir={tiny_run}", f"--data_dir={small_images}"]


@pytest.fixture(scope="module")
def measured(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figure4")
    assert run(*flags, f"--results_dir={folder}", "--pictures=4", "--neighbors=3") == 0
    return folder


@pytest.fixture(scope="module")
def values(measured):
    return experiment.read("figure4", str(measured))["values"]


@pytest.fixture(scope="module")
def model(tiny_run):
    return evaluation.open_model(str(tiny_run))


@pytest.fixture(scope="module")
def described(model, small_images):
    """Of each split, image by image: path below the folder, class, probabilities, features, pixels."""
    found = {}
    for split in ("train", "val"):
        rows = []
        for path in sorted((small_images / split).glob("*/*.jpg")):
            contents = path.read_bytes()
            view = decode_center(contents, 224)[None]
            rows.append(
                {
                    "file": path.relative_to(small_images).as_posix(),
                    "class_name": path.parent.name,
                    "probabilities": model.served.center_view(view).numpy()[0],
                    "features": features.feature_extractor(model).extract([contents])[0],
                    "pixels": features.pixel_extractor().extract([contents])[0],
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
        shown = [each["probability"] for each in row["best"]]
        np.testing.assert_allclose(shown, np.sort(own["probabilities"])[::-1], rtol=1e-4)
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
        for each, other in zip(row["neighbors"], expected, strict=True):
            assert each["class_name"] == other["class_name"]
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


def test_what_is_written(measured, values):
    about = experiment.read("figure4", str(measured))
    assert [each["file"] for each in about["pictures"]] == ["figure4_predictions.png", "figure4_neighbors.png"]
    assert f"top-1 {values['split']['top1_error']:.1f} %" in about["pictures"][0]["shows"]
    assert "the paper chose by hand" in about["pictures"][0]["shows"]
    for each in about["pictures"]:
        with Image.open(measured / each["file"]) as image:
            assert image.format == "PNG" and 300 < image.width <= 820
    tables = figure4.tables(values)
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    errors, shares, ranks = tables
    # Among three classes every answer is one of the best five.
    assert errors.rows[1] == ("all of val", "9", f"{values['split']['top1_error']:.1f}", "-")
    assert shares.rows[-1] == ("chance", "33.3", "33.3")
    assert len(ranks.rows) == 6 and ranks.rows[0][1].endswith(" of 3")


def test_the_verdict_follows_the_figures(values):
    good = json.loads(json.dumps(values))
    good["features_against_pixels"] = {"difference": 0.3, "standard_error": 0.1}
    good["pixel_ranks"] = {"median": 7.0, "among_neighbors": 0.2}
    assert figure4.verdict(good).outcome == "holds"
    for change in ({"difference": 0.3, "standard_error": 0.2}, {"difference": 0.3, "standard_error": None}):
        assert figure4.verdict({**good, "features_against_pixels": change}).outcome == "cannot be told"
    close = {**good, "pixel_ranks": {"median": 1.0, "among_neighbors": 0.9}}
    assert figure4.verdict(close).outcome == "does not hold"


def test_the_seed_draws(flags, values, measured, tmp_path):
    shutil.copytree(measured / "retrieval", tmp_path / "retrieval")

    def drawn(*more):
        assert run(*flags, f"--results_dir={tmp_path}", "--neighbors=3", "--pictures=4", *more) == 0
        found = experiment.read("figure4", str(tmp_path))["values"]
        return [[row["file"] for row in found[part]] for part in ("predictions", "rows")], found

    before = [[row["file"] for row in values[part]] for part in ("predictions", "rows")]
    assert drawn()[0] == before
    for name in ("figure4_predictions.png", "figure4_neighbors.png"):
        assert (tmp_path / name).read_bytes() == (measured / name).read_bytes()
    (_, right), found = drawn("--only=errors", "--queries=2", "--seed=7")
    assert len(right) == 2 and right != before[1][:2]
    assert all(row["best"][0]["class_name"] != row["class_name"] for row in found["predictions"])
    assert found["shown"]["top1_error"] == 100


def predicted(true, *probabilities):
    best = [{"class_name": f"class {place}", "probability": each} for place, each in enumerate(probabilities)]
    return {"class_name": true, "true_probability": 0.01, "best": best}


def noise(count, size):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def texts_of(axes):
    return [each.get_text() for each in axes.texts]


def test_bars_are_as_long_as_probabilities():
    rows = [predicted("class 1", 0.8, 0.15, 0.05), predicted("else $x$ " + "very " * 20 + "long", 0.6, 0.3, 0.1)]
    figure = figure4_panels.draw_predictions(rows, noise(2, 200))
    images, charts = figure.axes[:2], figure.axes[2:]
    assert [bar.get_width() for bar in charts[0].patches] == [0.8, 0.15, 0.05]
    colors = [plots.matplotlib.colors.to_hex(bar.get_facecolor()) for bar in charts[0].patches]
    assert colors == [figure4_panels.OTHER, figure4_panels.TRUE, figure4_panels.OTHER]
    assert texts_of(charts[0])[:4] == ["class 0", "80.0 %", "✓ class 1", "15.0 %"]
    # The probability of a true class that has no bar is never cut off.
    assert images[0].get_title() == "class 1" and images[1].get_title().endswith("… (1.0 %)")
    np.testing.assert_array_equal(images[1].images[0].get_array(), noise(2, 200)[1])


def test_neighbors_of_another_class_are_framed():
    rows = [
        {"class_name": "a", "neighbors": [{"class_name": name} for name in ("a", "a", "b")]},
        {"class_name": "b", "neighbors": [{"class_name": name} for name in ("a", "a very long name", "b")]},
    ]
    axes = np.reshape(figure4_panels.draw_neighbors(rows, noise(8, 100)).axes, (2, 4))
    labels = [[each.get_xlabel() for each in row] for row in axes]
    assert labels == [["a", "✓", "✓", "✗ b"], ["b", "✗ a", "✗ a very lon…", "✓"]]
    framed = [[each.spines["top"].get_visible() for each in row] for row in axes]
    assert framed == [[False, False, False, True], [False, True, True, False]]


def test_panels_stay_small_and_white():
    """Noise is the largest that there is."""
    rows = [{"class_name": "a", "neighbors": [{"class_name": "b"}] * 6}] * 5
    for figure in (
        figure4_panels.draw_predictions([predicted("class 0", 0.4, 0.3, 0.2, 0.06, 0.04)] * 8, noise(8, 200)),
        figure4_panels.draw_neighbors(rows, noise(35, 100)),
    ):
        file = figure4_panels.png(figure)
        assert len(file) < 550_000
        with Image.open(plots.io.BytesIO(file)) as image:
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_ids_of_imagenet_are_shown_in_words():
    best = [{"class_name": "ro\nse", "probability": 1}]
    row = {"file": "val/n01440764/1.jpg", "class_name": "n01440764", "best": best}
    (shown,) = figure4_panels.in_words([row])
    assert shown == {**row, "class_name": "tench", "best": [{"class_name": "ro\\nse", "probability": 1}]}


def test_wrong_input(flags, small_images, tmp_path, capsys):
    model, data = flags
    unknown = tmp_path / "unknown"
    shutil.copytree(small_images, unknown)
    for split in ("train", "val"):
        (unknown / split / "red_square").rename(unknown / split / "cats")
    for argv, words in (
        ([data], "--model_dir is missing"),
        ([model], "--data_dir is missing"),
        ([model, data, "--split=test"], "--split=test: there is no folder"),
        ([model, data, "--split=../val"], "--split=../val: must be the name"),
        ([model, data, "--index_split=val"], "--index_split=val: is --split too"),
        ([model, data, "--neighbors=0"], "neighbors"),
        ([model, f"--data_dir={unknown}"], "--split=val: the model does not know 1 of its classes"),
    ):
        assert run(*argv, f"--results_dir={tmp_path}/r", "--quick") == 2, argv
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words in line, (argv, line)
