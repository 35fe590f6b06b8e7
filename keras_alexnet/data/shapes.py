"""The built-in image set "shapes": ten drawn classes to train on with nothing downloaded.

A class is one combination of a color, a form and a texture. Each of the three is the only difference between several
pairs of classes, so a network has to use all of them. The object is inside the central square, where no crop cuts it.
"""

import colorsys
import json
import math
import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from keras_alexnet.files import progress_bar

CLASS_NAMES = (
    *("blue_disk", "blue_square", "dotted_blue_square", "dotted_blue_star", "red_disk", "red_square", "red_star"),
    *("striped_blue_disk", "striped_red_disk", "striped_red_square"),
)
INFO = "shapes.json"
DEFAULTS = (200, 50, 2012)  # training and validation images of a class, and the seed, as of the flags

_FORMAT = 1  # to be raised when the same seed gives other images, so that an older set is not taken for a new one
_QUALITY = 90
_SIDE = (200, 480)  # pixels, both inclusive
_ASPECT = (0.6, 1.6)  # width / height
_EXTENT = (0.5, 0.75)  # longer side of the object's bounding box, as a share of the image's shorter side
_MARGIN = 0.085  # free along the central square's border, as a share of the shorter side; 8 % when rounded to pixels
_TURN = math.radians(20)
_SUPERSAMPLING = 2
_HUES = {"red": (-0.03, 0.03), "blue": (0.59, 0.67)}  # as shares of the full circle


def draw(class_name, seed):
    """Draws one image of a class; each seed, int >= 0, gives another. Raises ValueError for other arguments.

    Returns a PIL.Image.Image, RGB, each side 200 to 480 pixels, width / height from 0.6 to 1.6. The object lies inside
    the central square, at least 8 % of the shorter side away from its border.
    """
    if class_name not in CLASS_NAMES:
        raise ValueError(f"unknown class {class_name!r}; the classes are {', '.join(CLASS_NAMES)}")
    rng = np.random.default_rng([seed, CLASS_NAMES.index(class_name)])
    *texture, color, form = class_name.split("_")
    image = _background(rng)
    _add_clutter(image, rng)
    _add_object(image, texture[0] if texture else "plain", color, form, rng)
    return _expose(image, rng)


def make(directory, train_per_class, val_per_class, seed):
    """Draws a whole set as `directory/train/CLASS/00000.jpg` and `directory/val/CLASS/00000.jpg`, and so on.

    A folder of that name is always complete. The same arguments give the same images; no image's seed is shared by
    training and validation, nor by two sets. Returns False where `directory` holds exactly this set already, else True.
    Raises FileExistsError where it holds anything else.
    """
    info = {"format": _FORMAT, "seed": seed, "train_per_class": train_per_class, "val_per_class": val_per_class}
    info["classes"] = list(CLASS_NAMES)
    target = Path(directory).resolve()  # since a link cannot be replaced by a folder
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        try:
            found = json.loads((target / INFO).read_text(encoding="utf-8"))
            what = f"another shapes set ({', '.join(f'{key} {found[key]}' for key in info if key != 'classes')})"
        except (OSError, ValueError, KeyError, TypeError):
            found, what = None, "something that is not a shapes set"
        if found != info:
            raise FileExistsError(f"{target} holds {what}; delete it or choose another folder")
        return False
    draft = target.parent / f".{target.name}-{secrets.token_hex(8)}"
    draft.mkdir(parents=True)
    try:
        _write(draft, info, progress_bar(f"drawing shapes into {directory}"))
        os.rename(draft, target)  # also over an empty folder
    except OSError:
        if not (target / INFO).is_file():
            raise
        return make(directory, train_per_class, val_per_class, seed)  # another process was faster
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return True


def _write(folder, info, progress):
    total, done = len(CLASS_NAMES) * (info["train_per_class"] + info["val_per_class"]), 0

    def save(class_name, seed, path):
        draw(class_name, seed).save(path, quality=_QUALITY)

    # Pillow drops the interpreter lock while it scales and encodes, so threads save a fifth of the time.
    with ThreadPoolExecutor() as pool:
        # Seeds of images are even for training, odd for validation, and in another range for each seed of a set.
        for part, first in (("train", 0), ("val", 1)):
            start = (info["seed"] << 32) + first
            seeds = range(start, start + 2 * info[f"{part}_per_class"], 2)
            for class_name in CLASS_NAMES:
                class_folder = folder / part / class_name
                class_folder.mkdir(parents=True)
                paths = [class_folder / f"{index:05d}.jpg" for index in range(len(seeds))]
                for _ in pool.map(save, repeat(class_name), seeds, paths):
                    done += 1
                    progress(done, total)
    (folder / INFO).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def _rgb(hue, saturation, value):
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _background(rng):
    """An image of random size, filled with a gradient between two grayish colors."""
    width = int(rng.integers(_SIDE[0], _SIDE[1] + 1))
    lowest = math.ceil(max(_SIDE[0], width / _ASPECT[1]))
    highest = math.floor(min(_SIDE[1], width / _ASPECT[0]))
    height = int(rng.integers(lowest, highest + 1))
    start, end = (np.array(_rgb(rng.uniform(), rng.uniform(0, 0.2), rng.uniform(0.25, 0.85))) for _ in range(2))
    x, y = rng.normal(size=2)
    # A linear gradient is given by its four corners; enlarging them is the cheapest way to draw it.
    share = 0.5 + 0.5 * np.add.outer((-y, y), (-x, x)) / (abs(x) + abs(y))
    corners = start + share[..., None] * (end - start)
    image = Image.fromarray(corners.round().astype(np.uint8))
    return image.resize((width, height), Image.Resampling.BILINEAR, box=(0.5, 0.5, 1.5, 1.5))


def _add_clutter(image, rng):
    """Scatters small lines, blobs and polygons, each within a square of 12 % of the shorter side."""
    pen = ImageDraw.Draw(image)
    count = int(rng.integers(16, 41))
    sizes = rng.uniform(0.05, 0.115, size=(count, 1)) * min(image.size)
    corners = rng.uniform(size=(count, 2)) * image.size - sizes / 2
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


def _add_object(image, texture, color, form, rng):
    """Draws the object that makes the class, turned a little, at a random place of the central square."""
    size = np.array(image.size)
    short = size.min()
    fill = _rgb(rng.uniform(*_HUES[color]), rng.uniform(0.75, 1), rng.uniform(0.65, 0.95))
    extent = rng.uniform(*_EXTENT) * short
    angle = rng.uniform(-_TURN, _TURN)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    outline = _outline(form) @ turn
    outline *= extent / np.ptp(outline, axis=0).max()
    box = np.ptp(outline, axis=0)
    room = (1 - 2 * _MARGIN) * short - box
    place = (size - short) / 2 + _MARGIN * short + rng.uniform(size=2) * room
    # Pillow draws hard edges, so the masks are drawn larger and reduced; of the object's box alone, for speed.
    mask_size = tuple(_SUPERSAMPLING * math.floor(side) for side in box)
    center = -outline.min(axis=0)
    mask = Image.new("L", mask_size)
    _fill_polygon(mask, center + outline)
    at = tuple(math.floor(side) for side in place)
    image.paste(fill, at, mask.reduce(_SUPERSAMPLING))
    if texture != "plain":
        marks = Image.new("L", mask_size)
        (_stripes if texture == "striped" else _dots)(marks, center, turn, extent, rng)
        # The rim stays plain, which keeps the form clear on a background as pale as the marks.
        inside = Image.new("L", mask_size)
        _fill_polygon(inside, center + 0.88 * outline)
        pale = _rgb(rng.uniform(), rng.uniform(0, 0.1), rng.uniform(0.9, 1))
        image.paste(pale, at, ImageChops.darker(marks, inside).reduce(_SUPERSAMPLING))


def _fill_polygon(mask, points):
    ImageDraw.Draw(mask).polygon((_SUPERSAMPLING * points).ravel().tolist(), fill=255)


def _outline(form):
    """The corners of a disk, square or star around the origin, float64 (N, 2)."""
    if form == "square":
        return np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    if form == "disk":
        angles = np.linspace(0, 2 * math.pi, 96, endpoint=False)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
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


def _expose(image, rng):
    # Random bytes take far less time than normal deviates, and after JPEG encoding nobody sees the difference.
    grain = np.frombuffer(rng.bytes(image.width * image.height), np.uint8) >> 4
    grain = Image.fromarray(grain.reshape(image.height, image.width)).convert("RGB")
    brightness = rng.uniform(0.75, 1.15)
    return ImageChops.add(image, grain, scale=1 / brightness, offset=-8)
