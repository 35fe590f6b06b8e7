import io
import json
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageChops

from keras_alexnet.data import shapes

SEEDS = range(6)


def jpeg(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def cues(class_name):
    """Return texture, color and form."""
    *texture, color, form = class_name.split("_")
    return (texture[0] if texture else "plain", color, form)


def pairs_differing_only_in(index):
    return [
        (first, second)
        for first, second in combinations(shapes.CLASS_NAMES, 2)
        if [i for i in range(3) if cues(first)[i] != cues(second)[i]] == [index]
    ]


def object_mask(class_name, seed, monkeypatch):
    """Return which pixels the object changes, found by drawing the same picture without it."""
    complete = shapes.draw(class_name, seed)
    paint = shapes._add_object
    with monkeypatch.context() as patch:
        # The object is painted on a copy, so that the random numbers drawn after it stay the same.
        patch.setattr(shapes, "_add_object", lambda picture, *rest: paint(picture.copy(), *rest))
        empty = shapes.draw(class_name, seed)
    return np.asarray(ImageChops.difference(complete, empty)).max(axis=2) > 0


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_names_are_ten_sorted_combinations():
    assert len(set(shapes.CLASS_NAMES)) == 10
    assert list(shapes.CLASS_NAMES) == sorted(shapes.CLASS_NAMES)
    assert all(name.replace("_", "").isalpha() and name.islower() for name in shapes.CLASS_NAMES)


@pytest.mark.parametrize("index", range(3), ids=("texture", "color", "form"))
def test_each_cue_is_the_only_difference_of_some_pairs(index):
    assert len(pairs_differing_only_in(index)) >= 2


@pytest.mark.parametrize("class_name", shapes.CLASS_NAMES)
def test_same_seed_same_bytes_and_other_seed_other_bytes(class_name):
    assert jpeg(shapes.draw(class_name, 7)) == jpeg(shapes.draw(class_name, 7))
    assert jpeg(shapes.draw(class_name, 7)) != jpeg(shapes.draw(class_name, 8))


@pytest.mark.parametrize("class_name", shapes.CLASS_NAMES)
def test_mode_size_and_aspect(class_name):
    sizes = set()
    for seed in SEEDS:
        picture = shapes.draw(class_name, seed)
        assert picture.mode == "RGB"
        assert min(picture.size) >= 200 and max(picture.size) <= 480
        assert 0.6 <= picture.width / picture.height <= 1.6
        sizes.add(picture.size)
    assert len(sizes) == len(SEEDS)


@pytest.mark.parametrize("class_name", shapes.CLASS_NAMES)
def test_object_is_large_and_well_inside_the_central_square(class_name, monkeypatch):
    for seed in SEEDS:
        mask = object_mask(class_name, seed, monkeypatch)
        short = min(mask.shape)
        extents = []
        for axis, length in enumerate(mask.shape):
            touched = np.flatnonzero(mask.any(axis=1 - axis))
            border = (length - short) / 2 + 0.08 * short
            assert touched[0] >= border and touched[-1] + 1 <= length - border
            extents.append((touched[-1] + 1 - touched[0]) / short)
        assert 0.45 <= max(extents) <= 0.76


@pytest.mark.parametrize("form, low, high", [("disk", 0.75, 0.82), ("square", 0.6, 1.0), ("star", 0.2, 0.5)])
def test_forms_fill_their_bounding_boxes_as_they_should(form, low, high, monkeypatch):
    for class_name in shapes.CLASS_NAMES:
        if cues(class_name)[2] == form:
            mask = object_mask(class_name, 3, monkeypatch)
            box = mask[np.ix_(mask.any(axis=1), mask.any(axis=0))]
            assert low < box.mean() < high


@pytest.mark.parametrize("first, second", pairs_differing_only_in(1))
def test_color_tells_pairs_apart(first, second):
    # No mask here: the object is the only large colorful thing, so counting pixels must be enough.
    for class_name in (first, second):
        for seed in range(20):
            red, _, blue = np.asarray(shapes.draw(class_name, seed)).astype(int).transpose(2, 0, 1)
            reddish, bluish = (red - blue > 60).sum(), (blue - red > 60).sum()
            if cues(class_name)[1] == "red":
                assert reddish > 4 * bluish
            else:
                assert bluish > 4 * reddish


@pytest.mark.parametrize("first, second", pairs_differing_only_in(0))
def test_texture_tells_pairs_apart(first, second, monkeypatch):
    for class_name in (first, second):
        for seed in SEEDS:
            mask = object_mask(class_name, seed, monkeypatch)
            colors = np.asarray(shapes.draw(class_name, seed)).astype(int)[mask]
            pale = (np.ptp(colors, axis=1) < 60).mean()
            assert pale < 0.05 if cues(class_name)[0] == "plain" else 0.15 < pale < 0.6


def test_unknown_class_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'green_disk'.*blue_disk.*striped_red_square"):
        shapes.draw("green_disk", 0)


@pytest.mark.parametrize("seed, error", [(-1, ValueError), (0.5, TypeError)])
def test_bad_seed_is_refused(seed, error):
    with pytest.raises(error):
        shapes.draw("red_disk", seed)


def test_make_writes_a_complete_set(tmp_path):
    calls = []
    target = tmp_path / "new" / "set"
    assert shapes.make(target, 4, 2, 5, progress=lambda *counts: calls.append(counts)) is True
    files = files_of(target)
    expected = {"shapes.json"} | {
        f"{part}/{name}/{index:05d}.jpg"
        for part, count in (("train", 4), ("val", 2))
        for name in shapes.CLASS_NAMES
        for index in range(count)
    }
    assert {name.replace("\\", "/") for name in files} == expected
    assert len(set(files.values())) == len(expected)
    info = json.loads((target / "shapes.json").read_text())
    assert info == {
        "format": 1,
        "seed": 5,
        "train_per_class": 4,
        "val_per_class": 2,
        "classes": list(shapes.CLASS_NAMES),
    }
    assert calls[-1] == (60, 60) and calls == sorted(set(calls))
    assert [path.name for path in target.parent.iterdir()] == ["set"]
    with Image.open(target / "val" / "red_star" / "00001.jpg") as picture:
        assert picture.format == "JPEG" and picture.mode == "RGB"


def test_make_gives_the_same_bytes_again_and_other_bytes_for_another_seed(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        shapes.make(tmp_path / name, 1, 1, seed)
    a, b, c = (files_of(tmp_path / name) for name in "abc")
    assert a == b
    assert not set(a.values()) & set(c.values())


def test_no_picture_seed_is_used_twice(tmp_path, monkeypatch):
    used = []
    blank = Image.new("RGB", (8, 8))

    def note(class_name, seed):
        used.append((class_name, seed))
        return blank

    monkeypatch.setattr(shapes, "draw", note)
    shapes.make(tmp_path / "a", 3, 5, 0)
    shapes.make(tmp_path / "b", 5, 3, 1)
    assert len(used) == len(set(used)) == 160


def test_make_keeps_a_set_it_finds(tmp_path):
    target = tmp_path / "set"
    shapes.make(target, 1, 1, 0)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    assert shapes.make(str(target), 1, 1, 0, progress=pytest.fail) is False
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before


def test_make_accepts_an_empty_folder(tmp_path):
    assert shapes.make(tmp_path / "set", 1, 1, 0) is True
    (tmp_path / "empty").mkdir()
    assert shapes.make(tmp_path / "empty", 1, 1, 0) is True
    assert files_of(tmp_path / "empty") == files_of(tmp_path / "set")


@pytest.mark.parametrize("arguments", [(2, 1, 0), (1, 2, 0), (1, 1, 3)])
def test_make_refuses_another_set(tmp_path, arguments):
    target = tmp_path / "set"
    shapes.make(target, 1, 1, 0)
    before = files_of(target)
    with pytest.raises(FileExistsError) as caught:
        shapes.make(target, *arguments)
    message = str(caught.value)
    assert str(target) in message and "seed 0, train_per_class 1, val_per_class 1" in message
    assert "delete it or choose another folder" in message and "\n" not in message
    assert files_of(target) == before


@pytest.mark.parametrize("content", [None, "not json", "[]", "{}"])
def test_make_refuses_foreign_files(tmp_path, content):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / ("notes.txt" if content is None else "shapes.json")).write_text(content or "mine")
    with pytest.raises(FileExistsError, match="not a shapes set; delete it or choose another folder"):
        shapes.make(tmp_path / "set", 1, 1, 0)
    assert len(files_of(tmp_path / "set")) == 1


def test_make_refuses_a_file(tmp_path):
    (tmp_path / "set").write_text("mine")
    with pytest.raises(FileExistsError, match="not a shapes set"):
        shapes.make(tmp_path / "set", 1, 1, 0)


@pytest.mark.parametrize("arguments", [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_make_refuses_numbers_out_of_range(tmp_path, arguments):
    with pytest.raises(ValueError, match="must be at least"):
        shapes.make(tmp_path / "set", *arguments)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_when_drawing_fails(tmp_path, monkeypatch, error):
    real = shapes.draw

    def fail_late(class_name, seed):
        if class_name == "red_disk":
            raise error("no more ink")
        return real(class_name, seed)

    monkeypatch.setattr(shapes, "draw", fail_late)
    with pytest.raises(error, match="no more ink"):
        shapes.make(tmp_path / "set", 1, 1, 0)
    assert not any(tmp_path.iterdir())


def test_nothing_is_left_when_progress_fails(tmp_path):
    def stop(done, total):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        shapes.make(tmp_path / "set", 3, 3, 0, progress=stop)
    assert not any(tmp_path.iterdir())
