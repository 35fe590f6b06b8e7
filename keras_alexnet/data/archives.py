"""The two official archives of ILSVRC2012 as image sources, read where they are; nothing is unpacked.

After one walk over their headers (`keras_alexnet.data.tar_index`) an image is one read at its place in the archive, by
any thread, process or machine. Archives are opened without TensorFlow.
"""

import collections
import concurrent.futures
import dataclasses
import errno
import hashlib
import os

import numpy as np

from keras_alexnet.data import imagenet_labels, orders, tar_index
from keras_alexnet.data.imagenet_labels import KIT_ARCHIVE
from keras_alexnet.data.tar_index import TRAIN_ARCHIVE, VAL_ARCHIVE
from keras_alexnet.errors import UsageError

FOLDERS = ("", os.path.join("downloads", "manual"))  # below data_dir; the second is where TensorFlow Datasets looks
OFFICIAL_COUNTS = (1_281_167, 1_000, 50_000)  # training images, their classes, validation images

_CHUNK = 64  # images read, and handed to TensorFlow, at a time
_CHUNKS_AHEAD = 2
_READERS = 8  # threads; one disk is busy with fewer, storage on a network is not


@dataclasses.dataclass(frozen=True, eq=False)
class ArchiveSource:
    """Image files inside a tar archive. Methods as FolderSource.

    Two sources are equal only if they are the same object: `fingerprint` tells whether they hold the same.

    Attributes:
        name: str, for messages.
        path: str, the archive.
        class_names: tuple of str, in the order of the labels.
        wordnet_ids: tuple of str, likewise.
        files: tuple of str; for training `n01440764/n01440764_10026.JPEG`, in the order of the labels and then of the
            names; for validation `ILSVRC2012_val_00000001.JPEG`, in the order of the names.
        labels: int32 (files,).
        offsets: int64 (files,), bytes from the beginning of the archive.
        sizes: int64 (files,), bytes.
        other_files: tuple of str, members that are not expected there; not read.
        stored, label_counts: as of FolderSource.
    """

    name: str
    path: str
    class_names: tuple[str, ...]
    wordnet_ids: tuple[str, ...]
    files: tuple[str, ...]
    labels: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    other_files: tuple[str, ...] = ()
    stored: str = ""
    label_counts: tuple[int, ...] = ()

    @property
    def count(self):
        return len(self.files)

    def names(self):
        """The names of all files, in order."""
        return self.files

    def fingerprint(self):
        """A hash of the ids of all classes and of the names, sizes and labels of all files, str."""
        columns = zip(self.files, self.sizes.tolist(), self.labels.tolist(), strict=True)
        files = [f"{file} {size} {label}" for file, size, label in columns]
        return hashlib.sha256("\n".join([*self.wordnet_ids, "", *files]).encode()).hexdigest()

    def check_readable(self, name):
        """Reads a file's bytes, whatever they are. Raises OSError when that fails."""
        with tar_index.opened(self.path) as descriptor:
            self._read(descriptor, self.files.index(name))

    def without(self, names):
        """The same source without these files."""
        names = frozenset(names)
        kept = [index for index, file in enumerate(self.files) if file not in names]
        columns = {name: getattr(self, name)[kept] for name in ("labels", "offsets", "sizes")}
        return dataclasses.replace(self, files=tuple(self.files[index] for index in kept), **columns)

    def name_of(self, name, *_):
        """The name of an item of `items`, str."""
        return bytes(name.numpy()).decode()

    def items(self, order=None, start=0):
        """The files, already read, or what was wrong.

        Args:
            order: None for the order of the names, or a sequence of int that seeds a permutation of all files.
            start: int, how many to leave out at the beginning: nothing of them is read.

        Returns:
            tf.data.Dataset of (name: string, bytes: string, label: int32, failure: string, empty where there was none),
            scalars.
        """
        import tensorflow as tf

        indices = orders.indices(self.count, order, start)
        columns = [tf.TensorSpec([None], dtype) for dtype in (tf.string, tf.string, tf.int32, tf.string)]
        # Failures travel with their images: an exception in the generator would take all later images along where
        # errors are ignored, as they are in the passes before training.
        chunks = tf.data.Dataset.from_generator(lambda: self._chunks(indices), output_signature=tuple(columns))
        return chunks.unbatch()

    def loader(self):
        """A function of the parts of an item -> (name, bytes, label), scalars: string, string, int32; of the graph."""
        import tensorflow as tf

        def load(name, image_bytes, label, failure):
            with tf.control_dependencies([tf.raw_ops.Assert(condition=tf.equal(failure, ""), data=[failure])]):
                return name, tf.identity(image_bytes), label

        return load

    def _chunks(self, indices):
        """(names, bytes, labels, failures) of `_CHUNK` files at a time, read ahead by threads."""
        with tar_index.opened(self.path) as descriptor:
            pool = concurrent.futures.ThreadPoolExecutor(_READERS)
            try:
                ahead = collections.deque()
                for first in range(0, len(indices), _CHUNK):
                    chunk = indices[first : first + _CHUNK].tolist()
                    ahead.append((chunk, [pool.submit(self._try_to_read, descriptor, index) for index in chunk]))
                    if len(ahead) > _CHUNKS_AHEAD:
                        yield self._chunk(*ahead.popleft())
                while ahead:
                    yield self._chunk(*ahead.popleft())
            finally:
                # An iterator may be dropped at any chunk; the descriptor must outlive the last read.
                pool.shutdown(cancel_futures=True)

    def _chunk(self, indices, reads):
        contents, failures = zip(*(read.result() for read in reads), strict=True)
        names = [self.files[index].encode() for index in indices]
        # Arrays of objects, because NumPy's own strings would lose zeros at the end of an image.
        names, contents, failures = (np.array(column, object) for column in (names, contents, failures))
        return names, contents, self.labels[indices], failures

    def _try_to_read(self, descriptor, index):
        """(bytes, b""), or (b"", what is wrong)."""
        try:
            return self._read(descriptor, index), b""
        except OSError as error:
            return b"", f"{self.path}: {self.files[index]} cannot be read ({error.strerror})".encode()

    def _read(self, descriptor, index):
        size = int(self.sizes[index])
        content = os.pread(descriptor, size, int(self.offsets[index]))
        if len(content) != size:
            raise OSError(errno.EIO, "the archive has changed: it ends before this file does", self.path)
        return content


def open_ilsvrc2012(data_dir, index_path=None, progress=None):
    """Training and validation images of ImageNet 2012.

    Labels follow the WordNet ids of the training archive's classes. Those of the validation images are in the
    development kit, if it lies beside the archives, and else in a list that comes with TensorFlow Datasets.

    Args:
        data_dir: str, holds the two archives, or has them in downloads/manual.
        index_path: None, or str, a `.npz` in an existing folder: where the places of all images are kept, so that the
            archives are walked through once only.
        progress: optional function of (bytes done, bytes in all), called now and then while the archives are walked
            through.

    Returns:
        (training, validation): ArchiveSource.

    Raises:
        UsageError: an archive is missing, compressed, cut short, damaged or without images; a validation image has no
            label; the kit cannot be read.
        OSError: the operating system cannot read an archive or write the index.
    """
    folder = _folder_of(data_dir)
    paths = [os.path.join(folder, name) for name in (TRAIN_ARCHIVE, VAL_ARCHIVE)]
    kit_path = os.path.join(folder, KIT_ARCHIVE)
    # Before the walk, which takes minutes: what is wrong with the labels is to be said at once.
    if os.path.exists(kit_path):
        numbered, words = imagenet_labels.read_kit(data_dir, kit_path)
    else:
        numbered, words = imagenet_labels.packaged_labels(data_dir), {}
    train, val = tar_index.listings(data_dir, paths, index_path, progress)
    ids = tuple(sorted({name.partition("/")[0] for name in train.names}))
    labels = {wordnet_id: label for label, wordnet_id in enumerate(ids)}
    class_names = imagenet_labels.class_names(ids, words)
    train_labels = [labels[name.partition("/")[0]] for name in train.names]
    val_labels = imagenet_labels.val_labels(data_dir, val.names, numbered, labels)
    return tuple(
        ArchiveSource(
            name=name,
            path=path,
            class_names=class_names,
            wordnet_ids=ids,
            files=listing.names,
            labels=np.array(numbers, np.int32),
            offsets=listing.places[:, 0],
            sizes=listing.places[:, 1],
            other_files=listing.others,
        )
        for name, path, listing, numbers in (
            ("train", paths[0], train, train_labels),
            ("val", paths[1], val, val_labels),
        )
    )


def unofficial(train, val):
    """A sentence on how the numbers of images and classes differ from the official ones, or None."""
    counts = (train.count, len(train.wordnet_ids), val.count)
    if counts == OFFICIAL_COUNTS:
        return None
    texts = [
        f"{images:,} training images in {classes:,} classes and {val_images:,} validation images"
        for images, classes, val_images in (OFFICIAL_COUNTS, counts)
    ]
    return f"the official archives hold {texts[0]}; these hold {texts[1]}"


def _folder_of(data_dir):
    """The folder that holds the two archives."""
    folders = [os.path.join(os.path.expanduser(data_dir), folder) for folder in FOLDERS]
    folder = next((folder for folder in folders if os.path.isfile(os.path.join(folder, TRAIN_ARCHIVE))), None)
    fetch = "fetch it from https://image-net.org/download-images and leave it unopened"
    if folder is None:
        raise UsageError(f"--data_dir={data_dir}: there is no {TRAIN_ARCHIVE} in it, nor in its {FOLDERS[1]}; {fetch}")
    if not os.path.isfile(os.path.join(folder, VAL_ARCHIVE)):
        raise UsageError(f"--data_dir={data_dir}: there is no {VAL_ARCHIVE} beside {TRAIN_ARCHIVE}; {fetch}")
    return folder
