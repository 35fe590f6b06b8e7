"""Names of ImageNet's classes, and where the labels of its validation images are read."""

import gzip
import io
import sys

import numpy as np
import pytest

from keras_alexnet.data import archives, imagenet_labels
from tests.data.conftest import refusal
from tests.data.tiny_imagenet import IDS, NAMES, TRAIN, VAL, tar, train_tar, write


def test_names_that_two_classes_share(tmp_path):
    ids = ("n02012849", "n03126707", "n03710637", "n03710721", *IDS, "n99999999")
    classes = {name: {"1.JPEG": b"x"} for name in ids}
    source, _ = archives.open_ilsvrc2012(str(write(tmp_path, train_tar(classes))))
    assert dict(zip(source.wordnet_ids, source.class_names, strict=True)) == dict(zip(IDS, NAMES, strict=True)) | {
        "n02012849": "crane (n02012849)",
        "n03126707": "crane (n03126707)",
        "n03710637": "maillot (n03710637)",
        "n03710721": "maillot (n03710721)",
        "n99999999": "n99999999",
    }


def test_packaged_class_names_are_whole():
    # A thousand ids in their order; only two names are not of one class alone.
    with open(imagenet_labels._CLASSES_FILE, encoding="utf-8") as file:
        ids = [line.split(",")[1] for line in file.read().splitlines()[1:]]
    names = imagenet_labels.class_names(ids, {})
    assert len(ids) == len(set(names)) == 1000 and ids == sorted(ids)
    assert sum("(" in name for name in names) == 4
    assert (names[0], names[-1]) == ("tench", "toilet_tissue")


def test_packaged_validation_labels_are_whole():
    labels = imagenet_labels.packaged_labels("x")
    assert len(labels) == 50_000 and len(set(labels)) == 1000
    assert labels[:3] == [IDS[0], IDS[2], IDS[1]]


def test_no_packaged_validation_labels(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(imagenet_labels.importlib.util, "find_spec", lambda _: None)
    line = refusal(capsys, lambda: archives.open_ilsvrc2012(str(write(tmp_path))))
    assert "tensorflow-datasets has no labels" in line and f"fetch {archives.KIT_ARCHIVE}" in line


def meta_of(synsets, **options):
    """The bytes of a meta.mat; synsets: [(ILSVRC2012_ID, WNID, words, num_children)]."""
    savemat = pytest.importorskip("scipy.io").savemat
    fields = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "num_children")]
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": np.array(synsets, fields).reshape(-1, 1)}, **options)
    return buffer.getvalue()


SYNSETS = [
    (3.0, "n01751748", "sea snake", 0.0),
    (2.0, "n02105855", "Shetland sheepdog, Shetland sheep dog, Shetland", 0.0),
    (1.0, "n88888888", "blue newt, Newtus caeruleus", 0.0),
    (4.0, "n99999999", "alp", 0.0),
    (5.0, "n09193705", "alp", 0.0),
    (6.0, "n00001740", "entity", 2.0),
]
TRUTH = b"2\n3\n1\n"
KIT_FOLDER = "ILSVRC2012_devkit_t12/"


def kit_of(meta, truth=TRUTH, folder=KIT_FOLDER):
    files = {
        "readme.txt": b"x",
        "data/ILSVRC2012_validation_ground_truth.txt": truth,
        "data/meta.mat": meta,
    }
    return gzip.compress(tar([(folder + name, content) for name, content in files.items() if content is not None]))


@pytest.mark.parametrize("prefix", ["", "./", KIT_FOLDER, f"./{KIT_FOLDER}"])
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_labels_of_the_kit(tmp_path, prefix, compressed):
    classes = TRAIN | {"n88888888": {"1.JPEG": b"x"}, "n99999999": {"1.JPEG": b"x"}}
    kit = kit_of(meta_of(SYNSETS, do_compression=compressed), folder=prefix)
    source, val = archives.open_ilsvrc2012(str(write(tmp_path, train_tar(classes), kit=kit)))
    assert source.wordnet_ids == (*IDS, "n88888888", "n99999999")
    # A class that is not among the thousand has the kit's name, and where that is taken both have their ids.
    assert source.class_names == (*NAMES[:2], "alp (n09193705)", "blue newt", "alp (n99999999)")
    assert val.labels.tolist() == [1, 0, 3]


def test_names_stay_apart_whatever_the_kit_says(tmp_path):
    ids = ("n02012849", "n03126707")
    synsets = [*SYNSETS, (7.0, "n77777777", "crane (n02012849)", 0.0), (8.0, "n66666666", "", 0.0)]
    synsets += [(9.0, "n55555555", "two\nlines", 0.0)]
    classes = {name: {"1.JPEG": b"x"} for name in (*ids, *IDS, "n55555555", "n66666666", "n77777777", "n88888888")}
    root = write(tmp_path, train_tar(classes), kit=kit_of(meta_of(synsets)))
    names = archives.open_ilsvrc2012(str(root))[0].class_names
    assert len(set(names)) == len(classes) and all(name.isprintable() for name in names)


# (The kit's parts, what the message has to say.)
WRONG_KITS = {
    "no_gzip": (lambda: b"no kit", "cannot be read (BadGzipFile"),
    "empty": (lambda: b"", "cannot be read"),
    "cut_short": (lambda: kit_of(meta_of(SYNSETS))[:-200], "cannot be read (EOFError"),
    "no_tar": (lambda: gzip.compress(b"no tar" * 200), "cannot be read (ReadError"),
    "no_labels": (lambda: kit_of(b"", None), "no ILSVRC2012_validation_ground_truth.txt"),
    "no_classes": (lambda: kit_of(None), "no meta.mat"),
    "no_mat": (lambda: kit_of(b"no mat" * 99), "cannot be read"),
    "no_synsets": (lambda: kit_of(meta_of(SYNSETS).replace(b"synsets", b"sunsets")), "cannot be read (KeyError"),
    "no_numbers": (lambda: kit_of(meta_of(SYNSETS), b"2\nthree\n"), "cannot be read (ValueError"),
    "inner_node": (lambda: kit_of(meta_of(SYNSETS), b"2\n6\n"), "cannot be read (KeyError: 6)"),
    "no_wordnet_id": (
        lambda: kit_of(meta_of([*SYNSETS, (7.0, "n\x1b[2J", "x", 0.0)])),
        "cannot be read (ValueError: 'n\\x1b[2J' is no WordNet id)",
    ),
    "a_bomb": (lambda: gzip.compress(bytes(2**26 + 1)), "cannot be read (ValueError: more than 64 MB)"),
    "too_few": (lambda: kit_of(meta_of(SYNSETS), b"2\n3\n"), "ILSVRC2012_val_00000003.JPEG has no label, there are 2"),
    "no_such_class": (
        lambda: kit_of(meta_of(SYNSETS), b"2\n4\n3\n"),
        "ILSVRC2012_val_00000002.JPEG is of class n99999999, which ILSVRC2012_img_train.tar does not have",
    ),
}


@pytest.mark.parametrize("kit, expected", WRONG_KITS.values(), ids=WRONG_KITS)
def test_wrong_kits(tmp_path, capsys, kit, expected):
    pytest.importorskip("scipy.io")
    root = write(tmp_path, kit=kit())
    line = refusal(capsys, lambda: archives.open_ilsvrc2012(str(root)))
    assert line.startswith(f"train: --data_dir={root}: ILSVRC2012_") and expected in line
    if "cannot be read" in line:
        assert line.endswith("or move it away: labels that ship with tensorflow-datasets are used then")


def test_kit_without_scipy(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    line = refusal(capsys, lambda: archives.open_ilsvrc2012(str(write(tmp_path, kit=b"whatever"))))
    assert "pip install 'keras-alexnet[imagenet]', or move it away" in line


@pytest.mark.parametrize("number", [0, 50_001, 99_999_999], ids=str)
def test_image_beyond_the_labels(tmp_path, capsys, number):
    name = f"ILSVRC2012_val_{number:08d}.JPEG"
    line = refusal(capsys, lambda: archives.open_ilsvrc2012(str(write(tmp_path, val=tar(VAL | {name: b"x"})))))
    assert f"{archives.VAL_ARCHIVE}: {name} has no label, there are 50000" in line


def test_image_of_a_missing_class(tmp_path, capsys):
    classes = {name: TRAIN[name] for name in IDS[:2]}
    line = refusal(capsys, lambda: archives.open_ilsvrc2012(str(write(tmp_path, train_tar(classes)))))
    assert f"ILSVRC2012_val_00000002.JPEG is of class {IDS[2]}, which {archives.TRAIN_ARCHIVE} does not have" in line
