import json
import shutil

import numpy as np
import pytest
from PIL import ImageChops

from keras_alexnet.data import shapes
from tests.data.conftest import files_of


def object_mask(complete, class_name, seed, monkeypatch):
    """Which pixels the object changes, found by drawing the same image without it."""
    paint = shapes._add_object
    with monkeypatch.context() as patch:
        # The object is painted on a copy, so that the random numbers drawn after it stay the same.
        patch.setattr(shapes, "_add_object", lambda image, *rest: paint(image.copy(), *rest))
        empty = shapes.draw(class_name, seed)
    return np.asarray(ImageChops.difference(complete, empty)).max(axis=2) > 0


@pytest.mark.parametrize("class_name", shapes.CLASS_NAMES)
def test_drawing(class_name, monkeypatch):
    sizes, (*textures, color, form) = set(), class_name.split("_")
    low, high = {"disk": (0.75, 0.82), "square": (0.6, 1.0), "star": (0.2, 0.5)}[form]
    for seed in range(6):
        image = shapes.draw(class_name, seed)
        assert image.tobytes() == shapes.draw(class_name, seed).tobytes() and image.mode == "RGB"
        assert min(image.size) >= 200 and max(image.size) <= 480 and 0.6 <= image.width / image.height <= 1.6
        sizes.add(image.size)
        # The object is large, well inside the central square, and fills its bounding box as its form does.
        mask = object_mask(image, class_name, seed, monkeypatch)
        short, extents = min(mask.shape), []
        for axis, length in enumerate(mask.shape):
            touched = np.flatnonzero(mask.any(axis=1 - axis))
            border = (length - short) / 2 + 0.08 * short
            assert touched[0] >= border and touched[-1] + 1 <= length - border
            extents.append((touched[-1] + 1 - touched[0]) / short)
        assert 0.45 <= max(extents) <= 0.76
        assert low < mask[np.ix_(mask.any(axis=1), mask.any(axis=0))].mean() <= high
        colors = np.asarray(image).astype(int)
        pale = (np.ptp(colors[mask], axis=1) < 60).mean()
        assert pale < 0.05 if not textures else 0.15 < pale < 0.6
        # No mask here: the object is the only large colorful thing, so counting pixels must be enough.
        redder = colors[..., 0] - colors[..., 2]
        reddish, bluish = (redder > 60).sum(), (redder < -60).sum()
        assert (reddish > 4 * bluish) if color == "red" else (bluish > 4 * reddish)
    assert len(sizes) == 6


def test_a_set_is_complete_repeatable_and_kept(tmp_path):
    target = tmp_path / "new" / "set"
    assert shapes.make(target, 4, 2, 5) is True
    files, places = files_of(target), (("train", range(4)), ("val", range(2)))
    names = [f"{split}/{name}/{n:05d}.jpg" for split, numbers in places for name in shapes.CLASS_NAMES for n in numbers]
    assert set(files) == {*names, "shapes.json"} and len(set(files.values())) == len(files)
    described = {"format": 1, "seed": 5, "train_per_class": 4, "val_per_class": 2, "classes": list(shapes.CLASS_NAMES)}
    assert json.loads(files["shapes.json"]) == described
    assert [path.name for path in target.parent.iterdir()] == ["set"]
    assert shapes.make(str(target), 4, 2, 5) is False
    (tmp_path / "again").mkdir()
    assert shapes.make(tmp_path / "again", 4, 2, 5) is True and files_of(tmp_path / "again") == files
    shapes.make(tmp_path / "other", 4, 2, 6)
    assert not set(files.values()) & set(files_of(tmp_path / "other").values())


def test_another_process_may_be_faster(tmp_path, monkeypatch):
    write = shapes._write

    def late(folder, info, progress):
        monkeypatch.setattr(shapes, "_write", write)
        shapes.make(tmp_path / "set", 1, 1, seed=other)
        write(folder, info, progress)

    for other, folder in ((0, tmp_path / "set"), (3, tmp_path / "else" / ".." / "set")):
        monkeypatch.setattr(shapes, "_write", late)
        if other == 0:
            assert shapes.make(folder, 1, 1, 0) is False
        else:
            shutil.rmtree(tmp_path / "set")
            with pytest.raises(FileExistsError, match="another shapes set"):
                shapes.make(folder, 1, 1, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_what_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="'green_disk'.*blue_disk.*striped_red_square"):
        shapes.draw("green_disk", 0)
    shapes.make(tmp_path / "set", 1, 1, 0)
    for arguments in ((2, 1, 0), (1, 2, 0), (1, 1, 3)):
        with pytest.raises(FileExistsError, match=r"another shapes set \(format 1, seed 0, train_per_class 1, val_per"):
            shapes.make(tmp_path / "set", *arguments)
    for content in ("not json", "[]", "{}"):
        (tmp_path / "set" / "shapes.json").write_text(content)
        with pytest.raises(FileExistsError, match="not a shapes set; delete it or choose another folder"):
            shapes.make(tmp_path / "set", 1, 1, 0)
    # Nothing is left when drawing fails.
    monkeypatch.setattr(shapes, "draw", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        shapes.make(tmp_path / "third", 1, 1, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
