"""CIFAR-10 in memory, as the small networks of the paper and of the release were trained on it, and its flags."""

import collections
import dataclasses
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from keras_alexnet import rundir
from keras_alexnet.config import PRECISIONS
from keras_alexnet.data import shapes
from keras_alexnet.errors import RunError, UsageError, reading
from keras_alexnet.files import progress_bar
from keras_alexnet.flags import flag
from keras_alexnet.paper import experiment

SIZE = 32  # rows and columns
POINTS = 5  # of a training curve in an epoch
_QUICK = 20  # images of each class with --quick
_SHAPES = {"train": 400, "test": 100}  # drawn in place of CIFAR-10


@dataclasses.dataclass(frozen=True)
class CifarSettings(experiment.Settings):
    """The flags of every command that trains on CIFAR-10."""

    dataset: str = flag(
        "cifar10",
        "cifar10 of TensorFlow Datasets; folder: 32x32 images in DATA_DIR/train/CLASS/* and DATA_DIR/test/CLASS/* (or "
        "val, or validation); shapes: 500 drawn images, to try the command.",
        choices=("cifar10", "folder", "shapes"),
    )
    data_dir: str | None = flag(None, "As in training.", path=True)
    batch_size: int = flag(128, "Images per update.", low=1)
    precision: str = flag("float32", "Arithmetic, as in training.", choices=PRECISIONS[:2])
    seed: int = flag(2012, "Of weights and order.", low=0)

    def __post_init__(self):
        rundir.check_path(self.results_dir, "results_dir")
        if self.dataset == "folder" and not self.data_dir:
            raise UsageError("--data_dir is missing: --dataset=folder reads DATA_DIR/train/CLASS/* and DATA_DIR/test")


@dataclasses.dataclass(frozen=True)
class Images:
    """A training and a test set; the dicts have the keys "train" and "test"."""

    description: str
    class_names: tuple[str, ...]
    images: dict  # uint8 (count, 32, 32, 3), RGB
    labels: dict  # int32 (count,)


def load(settings):
    """Reads the images that CifarSettings name: Images; with --quick a few of each class.

    Raises:
        UsageError: the set is missing, or its two parts have different classes.
        RunError: a file is not an image of 32x32.
    """
    limit = _QUICK if settings.quick else sys.maxsize
    if settings.dataset == "shapes":
        origin, class_names = "the built-in shapes, not CIFAR-10", shapes.CLASS_NAMES
        parts = {split: _drawn(split, limit) for split in _SHAPES}
    else:
        origin, sources = _open(settings.dataset, settings.data_dir)
        class_names, parts = sources["train"].class_names, {split: _read(sources[split], limit) for split in sources}
    images, labels = ({split: part[place] for split, part in parts.items()} for place in (0, 1))
    counts = " / ".join(f"{len(each):,}" for each in labels.values())
    first = f", the first {limit} of each class" * settings.quick
    return Images(f"{counts} images of {origin}{first}", tuple(class_names), images, labels)


def _drawn(split, limit):
    names = shapes.CLASS_NAMES
    labels = np.arange(min(_SHAPES[split], limit * len(names)), dtype=np.int32) % len(names)
    drawn = [shapes.draw(names[label], 10_000 * (split == "test") + seed) for seed, label in enumerate(labels)]
    return np.stack([np.asarray(image.resize((SIZE, SIZE))) for image in drawn]), labels


def _open(dataset, data_dir):
    """(what it is, dict of split -> source)."""
    from keras_alexnet.data import sources  # may import TensorFlow, which `--help` does not wait for

    if dataset != "folder":
        try:
            found = {split: sources.open_tfds_split(dataset, data_dir, split, 1) for split in ("train", "test")}
        except UsageError as error:
            raise UsageError(f"{error}; or give images of your own: --dataset=folder --data_dir=DIR") from None
        return f"{dataset} (TensorFlow Datasets)", found
    test = next((name for name in ("test", "val", "validation") if Path(data_dir, name).is_dir()), "test")
    found = {split: sources.list_split(Path(data_dir), name) for split, name in (("train", "train"), ("test", test))}
    if found["train"].class_names != found["test"].class_names:
        raise UsageError(f"--data_dir={data_dir}: train and {test} hold different classes")
    if len(found["train"].class_names) < 2:
        raise UsageError(f"--data_dir={data_dir}: holds one class; give two or more")
    is_jpeg = found["train"].files[0].lower().endswith((".jpg", ".jpeg"))
    kind = "JPEG files, which lose a little against the original pixels" if is_jpeg else "files"
    return f"class folders ({kind})", found


def _read(source, limit):
    """The first images of each class of a source, uint8 (count, 32, 32, 3), and their labels."""
    images, labels, kept, show = [], [], collections.Counter(), progress_bar(f"reading {source.name}")
    items = source.items().map(source.loader()).as_numpy_iterator()
    for done, (name, content, label) in enumerate(items, 1):
        if kept[label] < limit:
            kept[label] += 1
            images.append(_decoded(f"{source.name}/{name.decode()}", content))
            labels.append(label)
        show(done, source.count)
    return np.stack(images), np.array(labels, np.int32)


def _decoded(name, content):
    with reading(name), Image.open(io.BytesIO(content)) as image:
        if image.size != (SIZE, SIZE):
            raise RunError(f"{name}: is {image.width}x{image.height}; these networks take {SIZE}x{SIZE}")
        return np.asarray(image.convert("RGB"))
