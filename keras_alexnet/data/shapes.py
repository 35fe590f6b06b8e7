"""The built-in image set "shapes": ten drawn classes to train on with nothing downloaded.

A class is one combination of a color, a form and a texture. Each of the three is the only difference
between several pairs of classes, so a network has to use all of them. The pictures vary in size, aspect
ratio, brightness and background, and show one large object inside their central square, so that neither
center crops nor random crops with reflection destroy the class.
"""

import colorsys
import json
import math
import operator
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw

CLASS_NAMES: tuple[str, ...] = (
    "blue_disk",
    "blue_square",
    "dotted_blue_square",
    "dotted_blue_star",
    "red_disk",
    "red_square",
    "red_star",
    "striped_blue_disk",
    "striped_red_disk",
    "striped_red_square",
)

# Raise this whenever the same seed gives other pictures, so that an older set is not taken for a new one.
_FORMAT = 1
INFO = "shapes.json"
_QUALITY = 90
_PROGRESS_STEP = 50

_SIDE = (200, 480)  # pixels, both inclusive
_ASPECT = (0.6, 1.6)  # width / height
_EXTENT = (0.5, 0.75)  # longer side of the object's bounding box, as a share of the picture's shorter side
# What the object keeps free along the central square's border, as a share of the shorter side. It is a little
# more than the 8% promised, because places are rounded to pixels.
_MARGIN = 0.085
_TURN = math.radians(20)
_SUPERSAMPLING = 2
_HUES = {"red": (-0.03, 0.03), "blue": (0.59, 0.67)}  # as shares of the full circle


def draw(class_name: str, seed: int) -> Image.Image:
    """Draw one picture of a class.

    The result depends on nothing but the arguments and, in details, the versions of NumPy and Pillow.

    Args:
        class_name: One of `CLASS_NAMES`.
        seed: Integer >= 0. Each seed gives another picture.

    Returns:
        A picture in mode RGB, each side 200 to 480 pixels long, width / height from 0.6 to 1.6. The object
        lies inside the central square, at least 8% of the shorter side away from the square's border.

    Raises:
        ValueError: `class_name` is not in `CLASS_NAMES`, or `seed` is negative.
        TypeError: `seed` is not an integer.
    """
    if class_name not in CLASS_NAMES:
        raise ValueError(f"unknown class {class_name!r}; the classes are {', '.join(CLASS_NAMES)}")
    rng = np.random.default_rng([_natural("seed", seed), CLASS_NAMES.index(class_name)])
    *texture, color, form = class_name.split("_")
    picture = _background(rng)
    _add_clutter(picture, rng)
    _add_object(picture, texture[0] if texture else "plain", color, form, rng)
    return _expose(picture, rng)


def make(
    directory: str | os.PathLike,
    train_per_class: int,
    val_per_class: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Draw a whole set as `directory/train/CLASS/00000.jpg` and `directory/val/CLASS/00000.jpg`, and so on.

    The pictures are drawn in a temporary folder beside `directory`, which is renamed when all is written:
    a folder of that name is always a complete set. `directory/shapes.json` tells what the set holds. The same
    arguments give the same pictures; no picture seed is shared by training and validation.

    Args:
        directory: Path of the folder to write; missing parents are created.
        train_per_class: Number of training pictures per class, >= 1.
        val_per_class: Number of validation pictures per class, >= 1.
        seed: Integer >= 0. Each seed gives another set, with no picture seed in common.
        progress: None, or a function called now and then as `progress(done, total)` with the number of
            pictures drawn so far and in all; the last call has `done == total`.

    Returns:
        True if the set was drawn, False if `directory` already held exactly this set.

    Raises:
        FileExistsError: `directory` holds anything else, such as a set of another seed or size.
        ValueError: A count is below 1, or `seed` is negative.
        TypeError: A count or `seed` is not an integer.
    """
    info = {
        "format": _FORMAT,
        "seed": _natural("seed", seed),
        "train_per_class": _natural("train_per_class", train_per_class, 1),
        "val_per_class": _natural("val_per_class", val_per_class, 1),
        "classes": list(CLASS_NAMES),
    }
    # The real path, because a link cannot be replaced by a folder and "." has no useful parent.
    target = Path(directory).resolve()
    if _found(target, info):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        # A folder inside, because the temporary one is closed to other users and would stay so.
        draft = workspace / target.name
        draft.mkdir()
        _write(draft, info, progress)
        if target.is_dir():
            target.rmdir()  # It is empty, or the check above had refused it.
        os.rename(draft, target)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    return True


def _natural(name, value, least=0):
    """Return `value` as a plain int, or refuse it if it is below `least`."""
    value = operator.index(value)
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return value


def _found(target, info):
    """Tell whether `target` holds the set `info`; refuse a folder that holds anything else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        present = json.loads((target / INFO).read_text(encoding="utf-8"))
        if present == info:
            return True
        details = ", ".join(f"{key} {present[key]}" for key in info if key != "classes")
        what = f"another shapes set ({details})"
    except (OSError, ValueError, KeyError, TypeError):
        what = "something that is not a shapes set"
    raise FileExistsError(f"{target} holds {what}; delete it or choose another folder")


def _write(folder, info, progress):
    """Write all pictures of a set and its description to an existing empty folder."""
    total = len(CLASS_NAMES) * (info["train_per_class"] + info["val_per_class"])
    done = 0
    # Pillow drops the interpreter lock while it scales and encodes, so threads save a fifth of the time.
    with ThreadPoolExecutor() as pool:
        # Picture seeds are even for training, odd for validation, and in another range for each set seed.
        for part, first in (("train", 0), ("val", 1)):
            start = (info["seed"] << 32) + first
            seeds = range(start, start + 2 * info[f"{part}_per_class"], 2)
            for class_name in CLASS_NAMES:
                class_folder = folder / part / class_name
                class_folder.mkdir(parents=True)
                paths = [class_folder / f"{index:05d}.jpg" for index in range(len(seeds))]
                for _ in pool.map(_save, repeat(class_name), seeds, paths):
                    done += 1
                    if progress is not None and (done % _PROGRESS_STEP == 0 or done == total):
                        progress(done, total)
    (folder / INFO).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def _save(class_name, seed, path):
    draw(class_name, seed).save(path, quality=_QUALITY)


def _rgb(hue, saturation, value):
    """Turn hue, saturation and value, each from 0 to 1, into three integers from 0 to 255."""
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _background(rng):
    """Return a picture of random size filled with a gradient between two grayish colors."""
    width = int(rng.integers(_SIDE[0], _SIDE[1] + 1))
    lowest = math.ceil(max(_SIDE[0], width / _ASPECT[1]))
    highest = math.floor(min(_SIDE[1], width / _ASPECT[0]))
    height = int(rng.integers(lowest, highest + 1))
    start, end = (np.array(_rgb(rng.uniform(), rng.uniform(0, 0.2), rng.uniform(0.25, 0.85))) for _ in range(2))
    x, y = rng.normal(size=2)
    # A linear gradient is fully given by its four corners; stretching them is the cheapest way to draw it.
    share = 0.5 + 0.5 * np.add.outer((-y, y), (-x, x)) / (abs(x) + abs(y))
    corners = start + share[..., None] * (end - start)
    image = Image.fromarray(corners.round().astype(np.uint8))
    return image.resize((width, height), Image.Resampling.BILINEAR, box=(0.5, 0.5, 1.5, 1.5))


def _add_clutter(picture, rng):
    """Scatter small lines, blobs and polygons, each within a square of 12% of the shorter side."""
    pen = ImageDraw.Draw(picture)
    count = int(rng.integers(16, 41))
    sizes = rng.uniform(0.05, 0.115, size=(count, 1)) * min(picture.size)
    corners = rng.uniform(size=(count, 2)) * picture.size - sizes / 2
    points = corners[:, None] + sizes[:, None] * rng.uniform(size=(count, 4, 2))
    boxes = np.hstack([points.min(axis=1), points.max(axis=1)])
    colors = rng.uniform((0, 0.1, 0.2), (1, 0.9, 0.95), size=(count, 3))
    for kind, color, box, corner in zip(rng.integers(3, size=count), colors.tolist(), boxes, points, strict=True):
        fill = _rgb(*color)
        if kind == 0:
            pen.line(corner[:2].ravel().tolist(), fill=fill, width=2)
        elif kind == 1:
            pen.ellipse(box.tolist(), fill=fill)
        else:
            pen.polygon(corner.ravel().tolist(), fill=fill)


def _add_object(picture, texture, color, form, rng):
    """Draw the object that makes the class, turned a little, at a random place of the central square."""
    size = np.array(picture.size)
    short = size.min()
    fill = _rgb(rng.uniform(*_HUES[color]), rng.uniform(0.75, 1), rng.uniform(0.65, 0.95))
    extent = rng.uniform(*_EXTENT) * short
    angle = rng.uniform(-_TURN, _TURN)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    outline = _FORMS[form]() @ turn
    outline *= extent / np.ptp(outline, axis=0).max()
    box = np.ptp(outline, axis=0)
    room = (1 - 2 * _MARGIN) * short - box
    place = (size - short) / 2 + _MARGIN * short + rng.uniform(size=2) * room
    # Pillow draws hard edges, so the masks are drawn larger and shrunk. Only the object's box is, for speed.
    mask_size = tuple(_SUPERSAMPLING * math.floor(side) for side in box)
    center = -outline.min(axis=0)
    mask = Image.new("L", mask_size)
    _fill_polygon(mask, center + outline)
    at = tuple(math.floor(side) for side in place)
    picture.paste(fill, at, mask.reduce(_SUPERSAMPLING))
    if texture != "plain":
        marks = Image.new("L", mask_size)
        _TEXTURES[texture](marks, center, turn, extent, rng)
        # The rim stays plain, which keeps the form clear on a background as pale as the marks.
        inside = Image.new("L", mask_size)
        _fill_polygon(inside, center + 0.88 * outline)
        pale = _rgb(rng.uniform(), rng.uniform(0, 0.1), rng.uniform(0.9, 1))
        picture.paste(pale, at, ImageChops.darker(marks, inside).reduce(_SUPERSAMPLING))


def _fill_polygon(mask, points):
    """Fill a polygon given in picture pixels in a supersampled mask."""
    ImageDraw.Draw(mask).polygon((_SUPERSAMPLING * points).ravel().tolist(), fill=255)


def _disk():
    angles = np.linspace(0, 2 * math.pi, 96, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _square():
    return np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def _star():
    angles = np.arange(10) * math.pi / 5 - math.pi / 2
    radii = np.where(np.arange(10) % 2, 0.45, 1.0)
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _stripes(mask, center, turn, extent, rng):
    period = rng.uniform(0.18, 0.24) * extent
    phase = rng.uniform()
    for step in range(-6, 6):
        top = (step + phase) * period
        bottom = top + 0.5 * period
        band = np.array([[-extent, top], [extent, top], [extent, bottom], [-extent, bottom]])
        _fill_polygon(mask, center + band @ turn)


def _dots(mask, center, turn, extent, rng):
    pen = ImageDraw.Draw(mask)
    period = rng.uniform(0.18, 0.24) * extent
    phase = rng.uniform(size=2)
    radius = 0.32 * period
    for row in range(-5, 5):
        for column in range(-5, 5):
            spot = center + ((row, column) + phase) * period @ turn
            box = _SUPERSAMPLING * np.hstack([spot - radius, spot + radius])
            pen.ellipse(box.tolist(), fill=255)


_FORMS = {"disk": _disk, "square": _square, "star": _star}
_TEXTURES = {"striped": _stripes, "dotted": _dots}


def _expose(picture, rng):
    """Return the picture with grain and another brightness."""
    # Random bytes cost far less than normal deviates, and after JPEG encoding nobody sees the difference.
    grain = np.frombuffer(rng.bytes(picture.width * picture.height), np.uint8) >> 4
    grain = Image.fromarray(grain.reshape(picture.height, picture.width)).convert("RGB")
    brightness = rng.uniform(0.75, 1.15)
    return ImageChops.add(picture, grain, scale=1 / brightness, offset=-8)
