"""Folders as sources: what is listed, what is named and left out, what is refused; the built-in shapes as a set."""

import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import unicodedata
from types import SimpleNamespace

import pytest

from keras_alexnet.config import DataConfig
from keras_alexnet.data import shapes, sources, statistics
from tests.data.conftest import encoded, items_of, names_of, photo, refusal, write_folder

IMAGE = encoded(photo(8, 8))
GOOD = {"train/a/1.jpg": IMAGE, "train/b/1.jpg": IMAGE, "val/a/1.jpg": IMAGE, "val/b/1.jpg": IMAGE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes whose folders and files sort in another order than they are written."""
    files = {}
    for name, count in (("zebra", 7), ("Ant", 5), ("bee", 12)):
        for index in reversed(range(count)):
            files[f"train/{name}/{index:02d}.jpg"] = encoded(photo(8, 8, seed=len(files)))
        files[f"val/{name}/only.png"] = encoded(photo(8, 8, seed=len(files)), "PNG")
    return write_folder(tmp_path_factory.mktemp("folder"), files)


@pytest.fixture(scope="module")
def train(folder):
    return sources.open_folder(folder)[0]


def test_labels_follow_the_names(folder):
    train, val = sources.open_folder(folder)
    assert (train.name, val.name) == ("train", "val")
    assert train.class_names == val.class_names == ("Ant", "bee", "zebra")
    assert (train.count, val.count) == (24, 3)
    assert train.labels == (0,) * 5 + (1,) * 12 + (2,) * 7
    assert train.sizes == tuple((folder / "train" / name).stat().st_size for name in train.files)
    assert train.files[:2] == (os.path.join("Ant", "00.jpg"), os.path.join("Ant", "01.jpg"))
    assert train.files == train.names() == tuple(sorted(train.files))
    assert val.files == tuple(os.path.join(name, "only.png") for name in ("Ant", "bee", "zebra"))
    content = [(folder / "train" / name).read_bytes() for name in train.files]
    assert items_of(train) == list(zip(train.files, content, train.labels, strict=True))
    assert [(spec.shape.rank, spec.dtype.name) for spec in train.items().map(train.loader()).element_spec] == [
        *([(0, "string")] * 2),
        (0, "int32"),
    ]


def test_folders_are_listed_without_tensorflow(folder):
    program = (
        "import sys; from keras_alexnet.data import sources; sources.open_folder(sys.argv[1]);"
        "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True)


@pytest.mark.parametrize("name", ["validation", "test"])
def test_other_names_of_the_validation_folder(tmp_path, name):
    write_folder(tmp_path, {path.replace("val/", f"{name}/"): content for path, content in GOOD.items()})
    _, val = sources.open_folder(tmp_path)
    assert (val.name, val.count) == (name, 2)
    assert sources.find_split_folder(tmp_path, "val") == tmp_path / name
    write_folder(tmp_path, {"val/a/1.jpg": IMAGE})
    assert sources.find_split_folder(tmp_path, "val") == tmp_path / "val"
    assert sources.list_split(tmp_path, name).name == name


def test_suffixes_hidden_and_linked_files(tmp_path):
    listed = ["a.JPG", "b.jpeg", "c.PNG", "d.JPEG", "e.png", "f.jpg", "ä b.jpg"]
    files = {f"{split}/cat/{name}": IMAGE for split in ("train", "val") for name in (*listed, ".DS_Store", "._a.jpg")}
    files |= {"train/.cache/x.jpg": IMAGE, "train/readme.txt": b"", "store/one.jpg": IMAGE}
    write_folder(tmp_path, files)
    (tmp_path / "train" / "dog").symlink_to(tmp_path / "store")
    (tmp_path / "val" / "dog").symlink_to(tmp_path / "store")
    (tmp_path / "train" / "cat" / "g.jpg").symlink_to(tmp_path / "store" / "one.jpg")
    source, _ = sources.open_folder(tmp_path)
    assert source.class_names == ("cat", "dog") and source.other_files == ()
    names = sorted([*listed, "g.jpg"])
    assert source.files == (*(os.path.join("cat", name) for name in names), os.path.join("dog", "one.jpg"))


def test_files_that_are_not_read_are_named_with_the_reason(tmp_path):
    write_folder(tmp_path, GOOD | {"train/a/nested/deep/x.jpg": IMAGE, "train/a/nested/notes.txt": b"x"})
    write_folder(tmp_path, {"train/a/x.jpg": None, "train/a/empty": None, "train/loose.jpg": IMAGE})
    write_folder(tmp_path, {"train/a/Thumbs.db": b"", "train/b/a.webp": b"RIFF\0\0\0\0WEBPVP8 "})
    os.mkfifo(tmp_path / "train" / "b" / "pipe.jpg")
    with open(tmp_path / "train" / "b" / "sparse.png", "wb") as file:
        file.truncate(sources.MAX_FILE_BYTES + 1)
    for place in ("train/a/broken.jpg", "train/class", "val/class"):
        (tmp_path / place).symlink_to(tmp_path / "nowhere")
    train, val = sources.open_folder(tmp_path)
    assert (train.files, val.files) == (("a/1.jpg", "b/1.jpg"),) * 2
    assert val.other_files == ("class",)
    webp = f"a WebP image; only JPEG and PNG are read: convert it with `mogrify -format jpg {tmp_path}/train/b/a.webp`"
    assert {name: train.reason(name) for name in train.other_files} == {
        "loose.jpg": "not in a class folder",
        "class": "a broken link",
        "a/Thumbs.db": "",
        "a/broken.jpg": "a broken link",
        "a/nested/deep/x.jpg": "in a folder inside a class folder",
        "a/nested/notes.txt": "",
        "a/x.jpg": "a folder",
        "b/a.webp": webp,
        "b/pipe.jpg": "not a regular file",
        "b/sparse.png": "too large",
    }
    assert statistics.summarize(train).skipped == ()


def heif(brand):
    return b"\0\0\0\x1cftyp" + brand + b"\0\0\0\0"


FORMATS = {
    "GIF": encoded(photo(8, 8), "GIF"),
    "BMP": encoded(photo(8, 8), "BMP"),
    "TIFF": encoded(photo(8, 8), "TIFF"),
    "TIFF, big-endian": b"MM\0*\0\0\0\x08",
    "WebP": encoded(photo(8, 8), "WEBP"),
    "AVIF": heif(b"avif"),
    "HEIC": heif(b"heic"),
    "HEIC, general": heif(b"mif1"),
    "": b"BMW is a car, not an image",
    "JPEG": IMAGE,
    "PNG": encoded(photo(8, 8), "PNG"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_other_formats_are_named(tmp_path, kind):
    source = sources.FolderSource("train", str(tmp_path), ("a",), ("x.jpg",), (0,), (9,))
    (tmp_path / "x.jpg").write_bytes(FORMATS[kind])
    said = f"a {kind.partition(',')[0]} image; only JPEG and PNG are read: convert it with `mogrify -format jpg "
    assert source.reason("x.jpg") == ("" if kind in ("", "JPEG", "PNG") else f"{said}{tmp_path}/x.jpg`")


# (What of GOOD is left out, what is added, where None is an empty folder; what the message has to say.)
WRONG_FOLDERS = {
    "nothing": (["train", "val"], {}, "the folder {root}/train is missing; it holds one folder per class"),
    "no_val": (
        ["val"],
        {"val": b""},
        "the folder {root}/val (or validation, or test) is missing; it holds one folder per class",
    ),
    "only_files": (["val"], {"val/1.jpg": IMAGE, "val/.a/1.jpg": IMAGE}, "{root}/val holds no class folders"),
    "empty_class": ([], {"train/c": None}, "{root}/train/c holds no images (.jpg, .jpeg, .png)"),
    "other_images": (
        [],
        {"val/c/1.gif": FORMATS["GIF"]},
        "{root}/val/c holds no images (.jpg, .jpeg, .png); c/1.gif is a GIF image; only JPEG and PNG are read: convert "
        "it with `mogrify -format jpg {root}/val/c/1.gif`",
    ),
    "more_in_train": (
        [],
        {"train/d/1.jpg": IMAGE, "train/c/1.jpg": IMAGE},
        "train and val hold different classes (only in train: c, d)",
    ),
    "both_differ": (
        ["val/b"],
        {"val/c\x1b[2J/1.jpg": IMAGE},
        "train and val hold different classes (only in train: b; only in val: c\\x1b[2J)",
    ),
    "composed": (
        [],
        {
            f"{split}/{unicodedata.normalize(form, 'café')}/1.jpg": IMAGE
            for split, form in (("train", "NFC"), ("val", "NFD"))
        },
        "train and val hold different classes (only in train: café; only in val: cafe\u0301; these look the same but "
        "are spelled with other Unicode characters, NFC and NFD: rename them)",
    ),
}


@pytest.mark.parametrize("left_out, added, expected", WRONG_FOLDERS.values(), ids=WRONG_FOLDERS)
def test_wrong_folders(tmp_path, capsys, left_out, added, expected):
    kept = [name for name in GOOD if not any(f"{name}/".startswith(f"{part}/") for part in left_out)]
    root = write_folder(tmp_path, dict.fromkeys(kept, IMAGE) | added)
    line = refusal(capsys, lambda: sources.open_folder(str(root)))
    assert line == f"train: --data_dir={root}: {expected.format(root=root)}"


@pytest.mark.parametrize("separator", ["\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_class_names_with_line_breaks(tmp_path, capsys, separator):
    name = f"two{separator}lines"
    root = write_folder(tmp_path, GOOD | {f"train/{name}/1.jpg": IMAGE, f"val/{name}/1.jpg": IMAGE})
    line = refusal(capsys, lambda: sources.open_folder(str(root)))
    shown = name.encode("unicode_escape").decode()
    assert line == f"train: --data_dir={root}: train: the class name {shown} has a line break in it; rename it"


def test_names_have_to_be_text(tmp_path, capsys):
    root = write_folder(tmp_path, GOOD)
    try:
        (root / "val" / "a" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(IMAGE)
    except OSError:
        pytest.skip("this file system knows no such names")
    line = refusal(capsys, lambda: sources.open_folder(str(root)))
    assert line.startswith(f"train: --data_dir={root}: val/") and "not UTF-8; rename it" in line


def test_permutations(train):
    orders = [items_of(train, order=order) for order in (None, (1, 0), (2, 0), (1, 1), (1, 2), (2, 1))]
    assert orders[1] == items_of(train, order=(1, 0))
    for one, other in itertools.combinations(orders, 2):
        # Of 24 names, two permutations have one in the same place on average; a swap of a few has many more.
        assert sorted(one) == sorted(other) and sum(a == b for a, b in zip(one, other, strict=True)) < 8


def test_start_gives_the_tail_and_reads_nothing_else(folder, train, tmp_path):
    for order in (None, (5, 3)):
        assert items_of(train, order=order, start=10) == items_of(train, order=order)[10:]
        assert items_of(train, order=order, start=24) == []
    # The files of the first 20 places are missing; the tail is given all the same.
    tail = names_of(train, order=(5, 3))[20:]
    write_folder(tmp_path, {name: (folder / "train" / name).read_bytes() for name in tail})
    assert names_of(dataclasses.replace(train, root=str(tmp_path)), order=(5, 3), start=20) == tail


def test_without(train):
    out = (train.files[0], train.files[6], train.files[-1], "no/such.jpg")
    rest = train.without(out)
    assert rest.count == 21 and train.count == 24
    assert rest.class_names == train.class_names and rest.root == train.root
    assert rest.sizes == tuple(train.sizes[train.files.index(name)] for name in rest.files)
    assert items_of(rest) == [item for item in items_of(train) if item[0] not in out]
    assert train.without(()) == train


def test_fingerprint_tells_lists_apart(train):
    renamed = dataclasses.replace(train, files=("Ant/x.jpg", *train.files[1:]))
    other_classes = dataclasses.replace(train, class_names=("Ant", "bee", "zoo"))
    changed = dataclasses.replace(train, sizes=(*train.sizes[:-1], train.sizes[-1] + 1))
    several = (train, renamed, other_classes, changed, train.without(train.files[:1]))
    assert len({source.fingerprint() for source in several}) == 5
    assert train.fingerprint() == dataclasses.replace(train, root="elsewhere").fingerprint()


# Settings.


def settings(**changes):
    defaults = {
        name: getattr(DataConfig(), name)
        for name in ("train_split", "val_split", "shuffle_buffer", "data_dir", "resize")
    }
    defaults |= {f"shapes_{name}": getattr(DataConfig(), f"shapes_{name}") for name in ("train", "val", "seed")}
    return SimpleNamespace(**(defaults | changes))


def test_shapes_are_drawn_once_and_named_by_their_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = settings(dataset="shapes", shapes_train=4, shapes_val=1, shapes_seed=7)
    labels = []
    assert not sources.is_there(data)
    train, val = sources.open_training(data, lambda label: labels.append(label) or (lambda done, total: None))
    assert train.class_names == val.class_names == shapes.CLASS_NAMES and (train.count, val.count) == (40, 10)
    assert labels == ["drawing shapes into data/shapes-4x1-seed7"] and sources.is_there(data)
    assert os.listdir("data") == ["shapes-4x1-seed7"]
    assert sources.open_training(data) == (train, val)
    # The quickstart's own set, which a smaller trial does not block, and a folder that is named.
    default = settings(dataset="shapes")
    assert sources.shapes_folder(default) == os.path.join("data", "shapes")
    assert (default.shapes_train, default.shapes_val, default.shapes_seed) == shapes.DEFAULTS
    shutil.move("data/shapes-4x1-seed7", "mine")
    data.data_dir = "mine"
    assert sources.open_training(data)[0].files == train.files
    data.shapes_train = 5
    line = refusal(capsys, lambda: sources.open_training(data))
    assert line.startswith("train: --data_dir=mine: ") and "delete it or choose another folder" in line
