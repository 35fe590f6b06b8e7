"""The classes of ImageNet: their names by WordNet id, and the labels of the validation images of 2012.

The labels are in the development kit, if there is one, and else in a list that comes with TensorFlow Datasets.
"""

import collections
import csv
import gzip
import importlib.util
import io
import re
import tarfile
from pathlib import Path

import numpy as np

from keras_alexnet.data.tar_index import TRAIN_ARCHIVE, VAL_ARCHIVE, VAL_IMAGE
from keras_alexnet.errors import UsageError

KIT_ARCHIVE = "ILSVRC2012_devkit_t12.tar.gz"

_CLASSES_FILE = Path(__file__).with_name("imagenet_classes.csv")
_WORDNET_ID = re.compile(r"n[0-9]{8}")
_KIT_LABELS = re.compile(r"([^/]+/)?data/ILSVRC2012_validation_ground_truth\.txt")
_KIT_CLASSES = re.compile(r"([^/]+/)?data/meta\.mat")
_KIT_BYTES = 2**26  # unpacked; the official kit has a few million


def classes():
    """The thousand classes in the order of their labels: list of (WordNet id, word); crane and maillot occur twice."""
    with open(_CLASSES_FILE, encoding="utf-8", newline="") as file:
        return [(row["wnid"], row["name"]) for row in csv.DictReader(file)]


def class_names(ids, words):
    """One name for each WordNet id, no two of them equal."""
    known = dict(classes())
    names = [known.get(wordnet_id) or words.get(wordnet_id) or wordnet_id for wordnet_id in ids]
    counts = collections.Counter(names)
    if any(count > 1 for count in counts.values()):
        # Two birds and machines named crane, two swimsuits named maillot.
        pairs = zip(names, ids, strict=True)
        names = [f"{name} ({wordnet_id})" if counts[name] > 1 else name for name, wordnet_id in pairs]
    if len(set(names)) < len(names):
        # A kit's word that looks like one of these.
        names = [f"{name} ({wordnet_id})" for name, wordnet_id in zip(names, ids, strict=True)]
    return tuple(names)


def val_labels(data_dir, names, numbered, labels):
    """Labels of validation images.

    Args:
        data_dir: str, for messages.
        names: sequence of str.
        numbered: sequence of str, WordNet ids of image 1, 2, ...
        labels: {WordNet id: label}.

    Returns:
        list of int.
    """
    found = []
    for name in names:
        number = int(VAL_IMAGE.fullmatch(name)[1])
        if not 1 <= number <= len(numbered):
            raise UsageError(
                f"--data_dir={data_dir}: {VAL_ARCHIVE}: {name} has no label, there are {len(numbered)}; "
                "fetch the archive and its kit again"
            )
        wordnet_id = numbered[number - 1]
        if wordnet_id not in labels:
            raise UsageError(
                f"--data_dir={data_dir}: {VAL_ARCHIVE}: {name} is of class {wordnet_id}, which {TRAIN_ARCHIVE} does "
                "not have; fetch them again"
            )
        found.append(labels[wordnet_id])
    return found


def packaged_labels(data_dir):
    """WordNet ids of validation images 1, 2, ..., from the installed TensorFlow Datasets; it is not imported."""
    spec = importlib.util.find_spec("tensorflow_datasets")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "datasets", "imagenet2012", "validation_labels.txt")
        if path.is_file():
            return path.read_text(encoding="utf-8").split()
    raise UsageError(
        f"--data_dir={data_dir}: the installed tensorflow-datasets has no labels of validation images; fetch "
        f"{KIT_ARCHIVE} from https://image-net.org/download-images and put it beside {VAL_ARCHIVE}"
    )


def read_kit(data_dir, path):
    """What the development kit says.

    Returns:
        list of str, WordNet ids of validation images 1, 2, ...; {WordNet id: str, the first of its words}.
    """
    said = f"--data_dir={data_dir}: {KIT_ARCHIVE}"
    away = "or move it away: labels that ship with tensorflow-datasets are used then"
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UsageError(
            f"{said} is read with scipy, which is not installed; pip install 'keras-alexnet[imagenet]', {away}"
        ) from None
    try:
        truth, meta = _kit_files(path)
        synsets = np.atleast_1d(loadmat(io.BytesIO(meta), variable_names=["synsets"], squeeze_me=True)["synsets"])
        # The kit knows inner nodes of the tree too, which are no classes.
        leaves = [synset for synset in synsets if int(synset["num_children"]) == 0]
        unknown = [str(synset["WNID"]) for synset in leaves if not _WORDNET_ID.fullmatch(str(synset["WNID"]))]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no WordNet id")
        ids = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in leaves}
        numbered = [ids[int(number)] for number in truth.decode("ascii").split()]
        words = {str(synset["WNID"]): str(synset["words"]).partition(",")[0].strip() for synset in leaves}
    except Exception as error:
        # Three formats of others in one another, each with errors of its own.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UsageError(f"{said} cannot be read ({reason}); fetch it again, {away}") from None
    return numbered, {wordnet_id: word for wordnet_id, word in words.items() if word.isprintable()}


def _kit_files(path):
    """(labels of the validation images, classes): bytes. Nothing is written; what it unpacks to is bounded."""
    with gzip.open(path) as file:
        content = file.read(_KIT_BYTES + 1)
    if len(content) > _KIT_BYTES:
        raise ValueError(f"more than {_KIT_BYTES >> 20} MB")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        # A sparse one could grow beyond the bound.
        members = [member for member in tar if member.isreg() and not member.issparse()]
        found = []
        for pattern in (_KIT_LABELS, _KIT_CLASSES):
            member = next((each for each in members if pattern.fullmatch(each.name.removeprefix("./"))), None)
            if member is None:
                raise ValueError(f"no {pattern.pattern.rpartition('/')[2]}".replace("\\", ""))
            found.append(tar.extractfile(member).read())
    return found
