import shutil

import numpy as np
import pytest
from PIL import Image

from keras_alexnet.paper import experiment, figure4


def run(*argv):
    return experiment.main("figure4", [str(each) for each in argv])


@pytest.fixture(scope="module")
def flags(tiny_run, small_images):
    return [f"--model_dir={tiny_run}", f"--data_dir={small_images}", "--neighbors=3"]


@pytest.fixture(scope="module")
def measured(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figure4")
    assert run(*flags, f"--results_dir={folder}", "--pictures=4") == 0
    return folder


@pytest.fixture(scope="module")
def values(measured):
    return experiment.read("figure4", str(measured))["values"]


@pytest.fixture(scope="module")
def found(described, small_images):
    """A function of a file -> its row in `described`, and the rows of train and val."""
    train, val = ([row for path, row in described.items() if f"/{split}/" in path] for split in ("train", "val"))
    return lambda file: described[str(small_images / file)], train, val


def far(a, b, what):
    return float(np.linalg.norm(a[what] - b[what]))


def nearest(query, rows, what):
    return sorted(rows, key=lambda row: far(query, row, what))[:3]


def test_predictions_are_the_network_s(values, found):
    row_of, _, val = found
    assert len({row["file"] for row in values["predictions"]}) == 4
    wrong = []
    for row in values["predictions"]:
        own, shown = row_of(row["file"]), {each["class_name"]: each["probability"] for each in row["best"]}
        # As many bars as there are classes, the most probable first.
        assert shown == pytest.approx(own["probabilities"], rel=1e-4)
        assert list(shown.values()) == sorted(shown.values(), reverse=True)
        assert row["class_name"] == own["class_name"] and row["true_probability"] == shown[own["class_name"]]
        wrong.append(next(iter(shown)) != own["class_name"])
    assert values["shown"]["pictures"] == 4 and values["shown"]["top1_error"] == pytest.approx(25 * sum(wrong))
    wrong = [max(row["probabilities"], key=row["probabilities"].get) != row["class_name"] for row in val]
    assert values["split"]["pictures"] == 9
    assert values["split"]["top1_error"] == pytest.approx(100 * np.mean(wrong), abs=1e-4)


def test_neighbors_are_the_nearest_in_the_last_hidden_layer(values, found):
    row_of, train, val = found
    assert len(values["rows"]) == 5 and values["neighbors"] == 3

    def rank(query, other):
        return 1 + sum(far(query, one, "pixels") < far(query, other, "pixels") for one in train)

    for row in values["rows"]:
        query = row_of(row["file"])
        others = [row_of(each["file"]) for each in row["neighbors"]]
        for each, other, expected in zip(row["neighbors"], others, nearest(query, train, "features"), strict=True):
            assert other is expected and each["class_name"] == other["class_name"]
            assert each["distance"] == pytest.approx(far(query, other, "features"), rel=1e-3)
            assert each["pixel_distance"] == pytest.approx(far(query, other, "pixels"), rel=1e-3)
            assert each["pixel_rank"] == rank(query, other)
    hits = [each["class_name"] == row["class_name"] for row in values["rows"] for each in row["neighbors"]]
    assert values["shown_shares"] == pytest.approx([np.mean(hits[::3]), np.mean(hits)])
    hits = {}
    for what in ("features", "pixels"):
        of_class = [
            [each["class_name"] == query["class_name"] for each in nearest(query, train, what)] for query in val
        ]
        hits[what] = np.array(of_class)
        assert values["shares"][what] == pytest.approx([hits[what][:, 0].mean(), hits[what].mean()])
    gain = hits["features"].mean(axis=1) - hits["pixels"].mean(axis=1)
    expected = {"difference": gain.mean(), "standard_error": gain.std(ddof=1) / 3}
    assert values["features_against_pixels"] == pytest.approx(expected)
    assert values["shares"]["chance"] == pytest.approx([1 / 3] * 2)
    ranks = np.array([rank(query, nearest(query, train, "features")[0]) for query in val])
    expected = {"median": np.median(ranks), "among_neighbors": (ranks <= 3).mean()}
    assert values["pixel_ranks"] == pytest.approx(expected)


def test_what_is_written_and_said(measured, values):
    about = experiment.read("figure4", str(measured))
    assert [each["file"] for each in about["pictures"]] == ["figure4_predictions.png", "figure4_neighbors.png"]
    assert "the paper chose by hand" in about["pictures"][0]["shows"]
    for each in about["pictures"]:
        with Image.open(measured / each["file"]) as image:
            assert (image.format, image.mode) == ("PNG", "RGB") and 300 < image.width <= 820
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    # Among three classes every answer is one of the best five.
    assert figure4.tables(values)[0].rows[1] == ("all of val", "9", f"{values['split']['top1_error']:.1f}", "-")
    for among, outcome in ((0.2, "holds"), (0.9, "does not hold")):
        changed = {"features_against_pixels": {"difference": 0.3, "standard_error": 0.1}}
        changed["pixel_ranks"] = {"median": 7.0, "among_neighbors": among}
        assert figure4.verdict({**values, **changed}).outcome == outcome


def test_a_class_without_letters_has_its_name():
    row = {"class_name": "_", "neighbors": [{"class_name": "a"}]}
    figure = figure4.draw_neighbors([row], np.zeros((2, 8, 8, 3), np.uint8))
    assert [axes.get_xlabel() for axes in figure.axes] == [" ", "✗ a"]


def test_wrong_answers_only(flags, values, measured, tmp_path):
    shutil.copytree(measured / "retrieval", tmp_path / "retrieval")
    assert run(*flags, f"--results_dir={tmp_path}", "--only=errors") == 0
    found = experiment.read("figure4", str(tmp_path))["values"]
    assert found["rows"] == values["rows"] and found["shown"]["top1_error"] == 100
    assert all(row["best"][0]["class_name"] != row["class_name"] for row in found["predictions"])
    name = "figure4_neighbors.png"
    assert (tmp_path / name).read_bytes() == (measured / name).read_bytes()


def test_classes_that_the_model_does_not_know(flags, small_images, tmp_path, capsys):
    for split in ("train", "val"):
        shutil.copytree(small_images / split / "red_square", tmp_path / split / "cats")
        shutil.copytree(small_images / split / "blue_disk", tmp_path / split / "blue_disk")
    assert run(flags[0], f"--data_dir={tmp_path}", f"--results_dir={tmp_path}/r", "--quick") == 2
    assert "--split=val: the model does not know 1 classes of the set" in capsys.readouterr().err
