"""CIFAR-10 in memory, as the small networks of the paper and of the release were trained on it."""

import dataclasses
import hashlib
import io
import os
from pathlib import Path

import numpy as np

from keras_alexnet.data import shapes, sources
from keras_alexnet.errors import RunError, UsageError

SIZE = 32  # rows and columns
SPLITS = ("train", "test")
QUICK = 20  # images of each class, in a trial run
_DRAWN = (400, 100)  # pictures of the built-in set that stands in for CIFAR-10 in a trial run


@dataclasses.dataclass(frozen=True)
class Images:
    """A training and a test set.

    Attributes:
        description: str, what it is and where it came from.
        class_names: tuple of str.
        images: dict of "train" and "test" -> uint8 (count, 32, 32, 3), RGB.
        labels: dict of "train" and "test" -> int32 (count,).
    """

    description: str
    class_names: tuple[str, ...]
    images: dict
    labels: dict

    def fingerprint(self):
        """A hash of all of it, str."""
        digest = hashlib.sha256("\n".join(self.class_names).encode())
        for split in SPLITS:
            digest.update(np.ascontiguousarray(self.images[split]).tobytes())
            digest.update(np.asarray(self.labels[split], np.int32).tobytes())
        return digest.hexdigest()

    def few(self, count):
        """The first images of each class alone: Images."""
        kept = {
            split: np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))
            for split, labels in self.labels.items()
        }
        return Images(
            f"{self.description}; of each class the first {count} alone",
            self.class_names,
            {split: self.images[split][places] for split, places in kept.items()},
            {split: self.labels[split][places] for split, places in kept.items()},
        )

    def mean_image(self):
        """The mean of the training images by pixel, float32 (32, 32, 3), in 0..255."""
        return self.images["train"].mean(axis=0, dtype=np.float64).astype(np.float32)


def load(dataset, data_dir, progress_bar, few=None):
    """Reads all images, or some.

    Args:
        dataset: "cifar10" of TensorFlow Datasets; "folder", `DATA_DIR/train/CLASS/*` and `DATA_DIR/test/CLASS/*` with
            JPEG or PNG files of 32x32; or "shapes", 500 of the built-in pictures made small, which show that a program
            runs and nothing else.
        data_dir: str or None, as of `keras_alexnet.train`.
        bar: function of a label that makes a progress bar.
        few: None, or how many images of each class are enough, the first ones.

    Returns:
        Images.

    Raises:
        UsageError: there is no such set.
        RunError: a file is no picture of 32x32.
    """
    if dataset == "folder":
        return _of_folder(data_dir, progress_bar, few)
    images = _of_shapes() if dataset == "shapes" else _of_tfds(dataset, data_dir)
    return images.few(few) if few else images


def _of_folder(data_dir, progress_bar, few):
    if not data_dir:
        raise UsageError("--data_dir is missing: --dataset=folder reads DATA_DIR/train/CLASS/*.jpg and DATA_DIR/test")
    found = {split: sources.list_split(Path(data_dir), split) for split in SPLITS}
    if found["train"].class_names != found["test"].class_names:
        raise UsageError(f"--data_dir={data_dir}: train and test hold different classes")
    if len(found["train"].class_names) < 2:
        raise UsageError(f"--data_dir={data_dir}: holds one class; there is nothing to tell apart")
    images, labels = {}, {}
    if few:
        found = {split: _first(source, few) for split, source in found.items()}
    for split, source in found.items():
        show = progress_bar(f"reading {split}")
        images[split] = np.empty((source.count, SIZE, SIZE, 3), np.uint8)
        for index, file in enumerate(source.files):
            images[split][index] = _decoded(os.path.join(source.root, file))
            if index % 100 == 99 or index + 1 == source.count:
                show(index + 1, source.count)
        labels[split] = np.array(source.labels, np.int32)
    kind = "JPEG files" if found["train"].files[0].lower().endswith((".jpg", ".jpeg")) else "files"
    lossy = ", which lose a little against the original pixels" if kind == "JPEG files" else ""
    counts = " / ".join(f"{found[split].count:,}" for split in SPLITS)
    of = f"the first {few} of each class of " if few else ""
    return Images(f"{counts} images of {of}class folders ({kind}{lossy})", found["train"].class_names, images, labels)


def _first(source, count):
    """The first files of each class of a folder."""
    places = [place for label in range(len(source.class_names)) for place in _places(source.labels, label)[:count]]
    kept = {source.files[place] for place in places}
    return source.without([file for file in source.files if file not in kept])


def _places(labels, label):
    return [place for place, own in enumerate(labels) if own == label]


def _decoded(path):
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            if picture.size != (SIZE, SIZE):
                raise RunError(f"{path}: is {picture.size[0]}x{picture.size[1]}; these networks take {SIZE}x{SIZE}")
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise RunError(f"{path}: is no picture that can be read ({error})") from None


def _of_shapes():
    names = shapes.CLASS_NAMES
    images, labels = {}, {}
    for split, count in zip(SPLITS, _DRAWN, strict=True):
        labels[split] = np.arange(count, dtype=np.int32) % len(names)
        images[split] = np.stack(
            [
                np.asarray(shapes.draw(names[label], 10_000 * (split == "test") + index).resize((SIZE, SIZE)))
                for index, label in enumerate(labels[split])
            ]
        )
    counts = " / ".join(map(str, _DRAWN))
    return Images(f"{counts} of the built-in shapes, not CIFAR-10", tuple(names), images, labels)


def _of_tfds(name, data_dir):
    from PIL import Image

    images, labels = {}, {}
    for split in SPLITS:
        try:
            source = sources.open_tfds_split(name, data_dir, split, 1)
        except UsageError as error:
            raise UsageError(
                f"{error}; or give pictures of your own as --dataset=folder --data_dir=DIR, DIR/train/CLASS/* and "
                "DIR/test/CLASS/*"
            ) from None
        loaded = [(file.numpy(), int(label)) for _, file, label in source.items().map(source.loader())]
        files = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file, _ in loaded]
        if any(file.shape != (SIZE, SIZE, 3) for file in files):
            raise UsageError(f"--dataset={name}: its images are not {SIZE}x{SIZE}")
        images[split] = np.stack(files)
        labels[split] = np.array([label for _, label in loaded], np.int32)
    counts = " / ".join(f"{len(labels[split]):,}" for split in SPLITS)
    return Images(f"{counts} images of {name} (TensorFlow Datasets)", tuple(source.class_names), images, labels)
