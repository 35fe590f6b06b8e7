import dataclasses
import os
import shutil
import unicodedata

import pytest

from keras_alexnet.config import DataConfig
from keras_alexnet.data import shapes, sources, statistics
from tests.data.conftest import encoded, items_of, photo, refusal, write_folder

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


def test_labels_follow_the_names(folder):
    train, val = sources.open_folder(folder)
    assert (train.name, val.name, train.count, val.count) == ("train", "val", 24, 3)
    assert train.class_names == val.class_names == ("Ant", "bee", "zebra")
    assert train.labels == (0,) * 5 + (1,) * 12 + (2,) * 7
    assert train.files == train.names() == tuple(sorted(train.files)) and train.files[1] == "Ant/01.jpg"
    assert val.files == tuple(f"{name}/only.png" for name in ("Ant", "bee", "zebra"))
    content = [(folder / "train" / name).read_bytes() for name in train.files]
    assert train.sizes == tuple(map(len, content))
    assert items_of(train) == list(zip(train.files, content, train.labels, strict=True))


@pytest.mark.parametrize("name", ["valid", "validation", "test"])
def test_other_names_of_the_validation_folder(tmp_path, name):
    write_folder(tmp_path, {path.replace("val/", f"{name}/"): content for path, content in GOOD.items()})
    assert sources.open_folder(tmp_path)[1].name == name
    write_folder(tmp_path, {"val/a/1.jpg": IMAGE})
    assert [sources.list_split(tmp_path, each).name for each in ("val", name)] == ["val", name]


def test_suffixes_hidden_and_linked_files(tmp_path):
    listed = ["a.JPG", "b.jpeg", "c.PNG", "d.JPEG", "e.png", "f.jpg", "ä b.jpg"]
    files = {f"{split}/cat/{name}": IMAGE for split in ("train", "val") for name in (*listed, ".DS_Store", "._a.jpg")}
    files |= {"train/.cache/x.jpg": IMAGE, "train/readme.txt": b"", "store/one.jpg": IMAGE}
    write_folder(tmp_path, files)
    for link, target in (("train/dog", "store"), ("val/dog", "store"), ("train/cat/g.jpg", "store/one.jpg")):
        (tmp_path / link).symlink_to(tmp_path / target)
    (tmp_path / "train" / "cat" / "more").symlink_to(tmp_path / "store")  # not followed, and named
    source, _ = sources.open_folder(tmp_path)
    assert source.class_names == ("cat", "dog") and source.other_files == ("cat/more",)
    assert source.reason("cat/more") == "a link to a folder" and source.reason("readme.txt") == ""
    assert source.files == (*(f"cat/{name}" for name in sorted([*listed, "g.jpg"])), "dog/one.jpg")


def test_files_that_are_not_read_are_named_with_the_reason(tmp_path):
    more = {"train/a/nested/deep/x.jpg": IMAGE, "train/a/nested/notes.txt": b"x", "train/loose.jpg": IMAGE}
    more |= {"train/a/x.jpg": None, "train/a/empty": None, "train/a/Thumbs.db": b"", "train/b/a.webp": FORMATS["WebP"]}
    write_folder(tmp_path, GOOD | more)
    os.mkfifo(tmp_path / "train" / "b" / "pipe.jpg")
    with open(tmp_path / "train" / "b" / "sparse.png", "wb") as file:
        file.truncate(sources.MAX_FILE_BYTES + 1)
    for place in ("train/a/broken.jpg", "train/class", "val/class"):
        (tmp_path / place).symlink_to(tmp_path / "nowhere")
    (tmp_path / "train" / "loop").symlink_to(tmp_path / "train" / "loop")
    train, val = sources.open_folder(tmp_path)
    assert train.files == ("a/1.jpg", "a/nested/deep/x.jpg", "b/1.jpg") and train.labels == (0, 0, 1)
    assert val.files == ("a/1.jpg", "b/1.jpg") and val.other_files == ("class",)
    webp = f"a WebP image; only JPEG and PNG are read: convert it with `mogrify -format jpg {tmp_path}/train/b/a.webp`"
    assert {name: train.reason(name) for name in train.other_files} == {
        "loose.jpg": "not in a class folder",
        "class": "a broken link",
        "loop": "a broken link",
        "a/Thumbs.db": "",
        "a/broken.jpg": "a broken link",
        "a/nested/notes.txt": "",
        "a/x.jpg": "a folder",
        "b/a.webp": webp,
        "b/pipe.jpg": "not a regular file",
        "b/sparse.png": "too large",
    }
    assert statistics.summarize(train).skipped == ()


FORMATS = {
    "GIF": encoded(photo(8, 8), "GIF"),
    "BMP": encoded(photo(8, 8), "BMP"),
    "TIFF": encoded(photo(8, 8), "TIFF"),
    "TIFF, big-endian": b"MM\0*\0\0\0\x08",
    "WebP": encoded(photo(8, 8), "WEBP"),
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0",
    "HEIC": b"\0\0\0\x1cftypheic\0\0\0\0",
    "HEIC, general": b"\0\0\0\x1cftypmif1\0\0\0\0",
    "": b"BMW is a car, not an image",
    "JPEG": IMAGE,
    "PNG": encoded(photo(8, 8), "PNG"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_other_formats_are_named(kind):
    said = f"a {kind.partition(',')[0]} image; only JPEG and PNG are read: convert it with `mogrify -format jpg x.jpg`"
    assert sources.conversion(FORMATS[kind][:16], "x.jpg") == ("" if kind in ("", "JPEG", "PNG") else said)


MISSING = "is missing; it holds one folder per class"
DIFFER = "train and val hold different classes"
COMPOSED = {
    f"{split}/{unicodedata.normalize(form, 'café')}/1.jpg": IMAGE for split, form in (("train", "NFC"), ("val", "NFD"))
}
# (What of GOOD is left out, what is added, where None is an empty folder; what the message has to say.)
WRONG_FOLDERS = {
    "nothing": (["train", "val"], {}, "{root} holds no class folders"),
    "no_train": (["train"], {}, f"the folder {{root}}/train {MISSING}"),
    "no_val": (
        ["val"],
        {"val": b""},
        f"the folder {{root}}/val (or valid, validation, test) {MISSING}; or, in training and preparing, give "
        "--val_fraction=0.2 to take a part of train",
    ),
    "one_class": (
        ["train", "val"],
        {"all/a/1.jpg": IMAGE},
        "{root} holds one class folder, all; name the folder of all",
    ),
    "only_files": (["val"], {"val/1.jpg": IMAGE, "val/.a/1.jpg": IMAGE}, "{root}/val holds no class folders"),
    "empty_class": ([], {"train/c": None}, "{root}/train/c holds no images (.jpg, .jpeg, .png)"),
    "other_images": (
        [],
        {"val/c/1.gif": FORMATS["GIF"]},
        "{root}/val/c holds no images (.jpg, .jpeg, .png); c/1.gif is a GIF image; only JPEG and PNG are read: convert "
        "it with `mogrify -format jpg {root}/val/c/1.gif`",
    ),
    "more_in_train": ([], {f"train/{name}/1.jpg": IMAGE for name in "cd"}, f"{DIFFER} (only in train: c, d)"),
    "both_differ": (["val/b"], {"val/c\x1b/1.jpg": IMAGE}, f"{DIFFER} (only in train: b; only in val: c\\x1b)"),
    "composed": (
        [],
        COMPOSED,
        f"{DIFFER} (only in train: café; only in val: cafe\u0301; these look the same but are spelled with other "
        "Unicode characters, NFC and NFD: rename them)",
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


def test_shapes_are_drawn_once_and_named_by_their_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = dataclasses.replace(DataConfig(), dataset="shapes", shapes_train=4, shapes_val=1, shapes_seed=7)
    train, val = sources.open_training(data)
    assert train.class_names == val.class_names == shapes.CLASS_NAMES and (train.count, val.count) == (40, 10)
    assert os.listdir("data") == ["shapes-4x1-seed7"] and sources.open_training(data) == (train, val)
    # The quickstart's own set, which a smaller trial does not block, and a folder that is named.
    assert sources.shapes_folder(DataConfig(dataset="shapes")) == os.path.join("data", "shapes")
    shutil.move("data/shapes-4x1-seed7", "mine")
    data = dataclasses.replace(data, data_dir="mine")
    assert sources.open_training(data)[0].files == train.files
    data = dataclasses.replace(data, shapes_train=5)
    line = refusal(capsys, lambda: sources.open_training(data))
    assert line.startswith("train: --data_dir=mine: ") and "delete it or choose another folder" in line


def contents(count):
    """So many different files of each of two classes, {path: bytes}."""
    return {f"{name}/{place}.jpg": IMAGE + name.encode() + bytes([place]) for name in "ab" for place in range(count)}


def sides(root, *split):
    """{file: whether it is for validation}"""
    train, val = sources.open_folder(str(root), *split)
    assert train.class_names == val.class_names and not set(train.files) & set(val.files)
    return dict.fromkeys(train.files, False) | dict.fromkeys(val.files, True)


def test_an_unsplit_folder_is_split_by_content(tmp_path, capsys):
    root = write_folder(tmp_path / "images", contents(100))
    first = sides(root)
    counts = [sum(held for file, held in first.items() if file[0] == name) for name in "ab"]
    assert len(first) == 200 and all(10 <= count <= 30 for count in counts)
    assert first != sides(root, None, 7) and 80 <= sum(sides(root, 0.5).values()) <= 120
    # Images that are there stay where they are, other names or not; copies are on the side of the original.
    held, kept = (next(file for file, held in first.items() if held == side) for side in (True, False))
    copies = {f"b/copies/{place}.jpg": (root / file).read_bytes() for place, file in enumerate((held, kept))}
    write_folder(root, {**copies, "a/new.jpg": IMAGE, "b/note.txt": b""})
    (root / held).rename(root / "a" / "renamed.jpg")
    again = sides(root)
    assert again["b/copies/0.jpg"] and not again["b/copies/1.jpg"] and again["a/renamed.jpg"]
    assert all(again[file] == side for file, side in first.items() if file != held)
    train, val = sources.open_training(DataConfig(dataset="folder", data_dir=str(root)))
    line = f"split:      {train.count} images to train on, {val.count} to validate on, chosen by content"
    assert capsys.readouterr().out.startswith(line)
    assert (train.other_files, val.other_files) == (("b/note.txt",), ())
    assert sources.list_split(root, "val") == val and sources.list_split(root, ".").count == 203
    # The same of a training folder, if it is asked for.
    root.rename(tmp_path / "train")
    other, again = sources.open_folder(str(tmp_path), 0.2)
    assert other.root == again.root == str(tmp_path / "train") and again.files == val.files


def test_a_class_of_few_images_has_one_on_each_side_or_is_refused(tmp_path, capsys):
    root = write_folder(tmp_path / "images", contents(2))
    assert sorted(sides(root, 0.01).values()) == [False, False, True, True]
    root = write_folder(tmp_path / "copies", {**contents(2), "a/1.jpg": IMAGE, "a/0.jpg": IMAGE})
    line = refusal(capsys, lambda: sources.open_folder(str(root)))
    assert "class a has too few different images for both sides of the split; add images" in line


@pytest.mark.parametrize("root", sources.ROOTS)
def test_a_run_among_the_images_is_seen(tmp_path, root):
    (tmp_path / root / "train" / "a").mkdir(parents=True)
    assert sources.is_inside(tmp_path / root / "train" / "run", tmp_path)
    assert not sources.is_inside(tmp_path / "run", tmp_path)
