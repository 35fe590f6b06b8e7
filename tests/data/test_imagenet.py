import dataclasses
import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from keras_alexnet.data import imagenet, sources
from keras_alexnet.data.statistics import summarize
from keras_alexnet.errors import RunError, UsageError
from tests.data.conftest import encoded, items_of, photo, refusal, write_folder

# The classes of the official validation images 1, 3 and 2, so that the list in TensorFlow Datasets fits.
IDS = ("n01751748", "n02105855", "n09193705")
NAMES = ("sea_snake", "Shetland_sheepdog", "alp")
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def jpeg(number):
    return encoded(photo(8, 8, seed=number))


# Class tars in the order they are written, which is not that of the ids; neither are the images in that of the names.
TRAIN = {
    wordnet_id: {f"{wordnet_id}_{number}.JPEG": jpeg(number * label) for number in (3, 10, 1)}
    for label, wordnet_id in ((3, IDS[2]), (1, IDS[0]), (2, IDS[1]))
}
VAL = {f"ILSVRC2012_val_{number:08d}.JPEG": jpeg(100 + number) for number in (2, 3, 1)}
KIND = {"link": tarfile.SYMTYPE, "hard_link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE, "folder": tarfile.DIRTYPE}


def tar(files, kind=tarfile.GNU_FORMAT):
    """The bytes of a tar of {name: bytes} or of [(name, bytes, or the type of a member without data)]."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as file:
        for name, content in files.items() if isinstance(files, dict) else files:
            member = tarfile.TarInfo(name)
            if content in KIND.values():
                member.type, member.linkname = content, "elsewhere"
                file.addfile(member)
            else:
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def train_tar(classes=TRAIN, kind=tarfile.GNU_FORMAT, **more):
    return tar({f"{name}.tar": tar(files, kind) for name, files in classes.items()} | more, kind)


def write(root, train=None, val=None, kit=None):
    """Archives, those of above unless others are given; returns root."""
    root.mkdir(parents=True, exist_ok=True)
    (root / imagenet.TRAIN_ARCHIVE).write_bytes(train_tar() if train is None else train)
    (root / imagenet.VAL_ARCHIVE).write_bytes(tar(VAL) if val is None else val)
    if kit is not None:
        (root / imagenet.KIT_ARCHIVE).write_bytes(kit)
    return root


def open_all(root, **options):
    return imagenet.open_ilsvrc2012(str(root), **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("archives"))


@pytest.fixture(scope="module")
def train(folder):
    return open_all(folder)[0]


def test_labels_follow_the_ids(folder, capsys):
    train, val = open_all(folder)
    assert (train.path, val.path) == tuple(str(folder / f"ILSVRC2012_img_{split}.tar") for split in ("train", "val"))
    assert train.wordnet_ids == val.wordnet_ids == IDS and train.class_names == val.class_names == NAMES
    assert train.files == tuple(f"{name}/{name}_{number}.JPEG" for name in IDS for number in (1, 10, 3))
    assert train.names() == train.files and train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert val.files == tuple(sorted(VAL)) and val.labels.tolist() == [0, 2, 1]
    images, classes, val_images = imagenet.OFFICIAL_COUNTS
    official = dataclasses.replace(train, labels=range(images), wordnet_ids=range(classes))
    imagenet.note_counts(official, dataclasses.replace(val, labels=range(val_images)))
    assert not capsys.readouterr().err
    imagenet.note_counts(train, val)
    assert "; these hold 9 training images in 3 classes and 3 validation images\n" in capsys.readouterr().err


@pytest.mark.parametrize("kind", FORMATS.values(), ids=FORMATS)
def test_bytes_are_those_that_went_in(tmp_path, kind):
    # Long names take headers of their own in two of the formats, and a prefix in the third.
    long_name = "é" * 45 if kind == tarfile.USTAR_FORMAT else "é" * 120
    classes = TRAIN | {IDS[0]: TRAIN[IDS[0]] | {f"{'f' * 110}/{long_name}.jpeg": b"no image\0\0"}}
    images = {f"./val/{name}": content for name, content in VAL.items()}
    source, val = open_all(write(tmp_path, train_tar(classes, kind), tar(images, kind)))
    expected = {f"{name}/{file}": content for name, files in TRAIN.items() for file, content in files.items()}
    expected[f"{IDS[0]}/{long_name}.jpeg"] = b"no image\0\0"
    items = items_of(source)
    assert {name: content for name, content, _ in items} == expected
    assert [(name, label) for name, _, label in items] == list(zip(source.files, source.labels.tolist(), strict=True))
    assert [(name, content) for name, content, _ in items_of(val)] == sorted(VAL.items())


def test_start_without_and_fingerprint(train):
    items = items_of(train, order=(5, 3))
    assert items_of(train, order=(5, 3), start=7) == items[7:]
    again = pickle.loads(pickle.dumps(train))  # as for another process
    assert items_of(again, order=(5, 3)) == items and again.fingerprint() == train.fingerprint()
    rest = train.without((train.files[0], train.files[4], "no/such.JPEG"))
    assert items_of(rest) == [item for item in items_of(train) if item[0] in rest.files] and rest.count == 7
    changes = ({"files": ("x.JPEG", *train.files[1:])}, {"sizes": train.sizes + 1}, {"labels": train.labels[::-1]})
    others = [dataclasses.replace(train, **change) for change in (*changes, {"wordnet_ids": ("n1", *IDS[1:])})]
    assert len({source.fingerprint() for source in (train, rest, *others)}) == 6
    elsewhere = dataclasses.replace(train, path="elsewhere", offsets=train.offsets + 512)
    assert elsewhere.fingerprint() == train.fingerprint()


def test_an_archive_that_became_shorter_is_told_from_a_bad_image(tmp_path):
    classes = TRAIN | {IDS[2]: {"broken.JPEG": b"no image", **TRAIN[IDS[2]]}}
    source, _ = open_all(write(tmp_path, train_tar(classes)))
    assert summarize(source).skipped == (f"{IDS[2]}/broken.JPEG",)
    # The archive loses half of the last image but two, and those behind it.
    last = sorted(source.offsets)[-3]
    os.truncate(source.path, last + source.sizes[source.offsets.tolist().index(last)] // 2)
    gone = [name for name in source.files if name.startswith(IDS[1])]
    with pytest.raises(RunError, match=f"train/{IDS[1]}.*cannot be read .*the archive has changed"):
        summarize(source)
    # An error is of one image only, so that a pass which leaves it out finds the others.
    loaded = source.items().map(source.loader()).ignore_errors().as_numpy_iterator()
    assert len(list(loaded)) == source.count - len(gone)


BAD_NAMES = ("/n_1.JPEG", "../n_1.JPEG", "a/b/n_1.JPEG", "a/../n_1.JPEG", "n\n1.JPEG", "caf\udce9.JPEG", "._n_1.JPEG")


def test_other_members_are_named_and_not_read(tmp_path):
    unknown = [(name, b"x") for name in (*BAD_NAMES, "readme.txt", "n_1.png", "n01751748.tar.JPEG.txt")]
    unknown += [(f"{kind}.JPEG", value) for kind, value in KIND.items()]
    named = [name for name, content in unknown if content != KIND["folder"]]
    named[4:6] = ["n\\n1.JPEG", "caf\\udce9.JPEG"]
    # GNU tar's old format for sparse files, in which a map of the data stands in the header itself.
    sparse = bytearray(tar({"sparse.JPEG": b"x" * 512})[:512])
    sparse[156:157] = tarfile.GNUTYPE_SPARSE
    sparse[386:410], sparse[483:495] = b"%011o\0%011o\0" % (4096, 512), b"%011o\0" % 4608
    inner = with_checksum(sparse) + b"x" * 512 + tar([*TRAIN[IDS[1]].items(), *unknown])
    classes = {name: inner if name == IDS[1] else tar(files) for name, files in TRAIN.items()}
    outer = [("readme.txt", b"hello"), ("n00000002.tar", KIND["link"]), ("../n00000003.tar", tar(VAL)), ("t.tar", b"x")]
    outer += [(f"{name}.tar", content) for name, content in classes.items()]
    images = [*VAL.items(), ("n01440764_1.JPEG", b"x"), ("ILSVRC2012_val_1.JPEG", b"x"), *unknown]
    source, val = open_all(write(tmp_path, tar(outer), tar(images)))
    assert (source.count, val.count) == (9, 3)
    others = [*(name for name, _ in outer[:4]), *(f"{IDS[1]}/{name}" for name in ("sparse.JPEG", *named))]
    assert source.other_files == tuple(others)
    assert val.other_files == ("n01440764_1.JPEG", "ILSVRC2012_val_1.JPEG", *named)


def test_index_spares_the_walk(tmp_path, train, monkeypatch):
    root, index, reports = write(tmp_path), tmp_path / "index.json", []
    monkeypatch.setattr(imagenet, "progress_bar", lambda *_: lambda *both: reports.append(both))
    open_all(root, index_folder=str(tmp_path))
    paths = [root / name for name in (imagenet.TRAIN_ARCHIVE, imagenet.VAL_ARCHIVE)]
    total = sum(path.stat().st_size for path in paths)
    assert reports == sorted(reports) and reports[-1] == (total, total) and len(reports) > 3
    for damage in (b"", b"{}", b'{"key": 1}', index.read_bytes()[:-9]):
        index.write_bytes(damage)
        assert items_of(open_all(root, index_folder=str(tmp_path))[0]) == items_of(train)
    for path in paths:
        before = path.stat()
        path.write_bytes(bytes(before.st_size))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    found, _ = open_all(root, index_folder=str(tmp_path))
    assert found.fingerprint() == train.fingerprint() and found.offsets.tolist() == train.offsets.tolist()
    os.utime(paths[1])
    with pytest.raises(UsageError, match="holds no class"):
        open_all(root, index_folder=str(tmp_path))


def with_checksum(header):
    header = bytearray(header)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def with_size(content, number, at=0):
    """A tar in which the header at this place claims another size: bytes for the field, or a number."""
    header = bytearray(content[at : at + 512])
    header[124:136] = number if isinstance(number, bytes) else b"%011o\0" % number
    return content[:at] + with_checksum(header) + content[at + 512 :]


IMAGES = tuple(f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 3))
VAL_FLAT = tar(dict.fromkeys(IMAGES, b"x" * 512))  # members of 1,024 bytes each, header and data, then zeros
DAMAGED = "is compressed, cut short or damaged (%s"
TWICE = tar([(f"{at}{IDS[0]}.tar", tar(TRAIN[IDS[0]])) for at in ("", "x/")])
DAMAGE = {
    "empty": ("val", b"", DAMAGED % "at the beginning: empty file"),
    "gzip": ("val", gzip.compress(VAL_FLAT), DAMAGED % "at the beginning: "),
    "bad_header": ("val", VAL_FLAT[:1024] + b"?" + VAL_FLAT[1025:], DAMAGED % f"after {IMAGES[0]}: its end is missing"),
    "beyond_the_end": ("val", with_size(VAL_FLAT, 2**32, 1024), DAMAGED % f"after {IMAGES[1]}: unexpected end of data"),
    # Taken at its word, this member would end where it begins, and come again for ever.
    "negative_size": ("val", with_size(VAL_FLAT, b"\xff" * 10 + b"\xfc\x00", 1024), DAMAGED % f"after {IMAGES[0]}: "),
    "huge_name": (
        "val",
        VAL_FLAT[:1024] + with_size(tar({"f" * 200: b""}), 2**31) + VAL_FLAT[1024:],
        DAMAGED % f"after {IMAGES[0]}: a header of 2147483648 bytes",
    ),
    "a_hole": ("val", VAL_FLAT[:2048] + bytes(2**21) + VAL_FLAT[2048:], DAMAGED % f"after {IMAGES[1]}: its end is"),
    "no_images": ("val", tar({"a.JPEG": b"x"}), "holds no images"),
    "twice": ("val", tar([(IMAGES[0], b"x"), (f"val/{IMAGES[0]}", b"x")]), f"holds {IMAGES[0]} twice"),
    "class_of_no_bytes": ("train", train_tar(**{"n10000000.tar": b""}), DAMAGED % "at the beginning of n10000000/"),
    "no_class": ("train", tar({"readme.txt": b"x"}), "holds no class (a tar named after its WordNet id"),
    "class_twice": ("train", TWICE, f"holds {IDS[0]}.tar twice"),
}


@pytest.mark.parametrize("split, content, expected", DAMAGE.values(), ids=DAMAGE)
def test_damaged_archives(tmp_path, capsys, split, content, expected):
    root = write(tmp_path / "downloads" / "manual", **{split: content})
    line = refusal(capsys, lambda: open_all(tmp_path, index_folder=str(tmp_path)))
    place = os.path.relpath(root / f"ILSVRC2012_img_{split}.tar", tmp_path)
    assert line.startswith(f"train: --data_dir={tmp_path}: {place}") and expected in line
    assert os.listdir(tmp_path) == ["downloads"]


@pytest.mark.parametrize("kind", FORMATS.values(), ids=FORMATS)
def test_no_archive_is_taken_for_whole_when_it_is_cut(tmp_path, kind):
    # At any multiple of 1,500 before the zeros at the end of the last class and of the whole.
    whole = train_tar(kind=kind)
    root = write(tmp_path, whole)
    for size in range(0, len(whole.rstrip(b"\0")), 1500):
        (root / imagenet.TRAIN_ARCHIVE).write_bytes(whole[:size])
        with pytest.raises(UsageError, match="cut short"):
            open_all(root)


def test_missing_archives(tmp_path, capsys):
    fetch = "here or in downloads/manual; fetch it from https://image-net.org/download-images and do not unpack it"
    for name in (imagenet.TRAIN_ARCHIVE, imagenet.VAL_ARCHIVE):
        line = refusal(capsys, lambda: open_all(tmp_path))
        assert line == f"train: --data_dir={tmp_path}: {name} is missing, {fetch}"
        (tmp_path / name).write_bytes(b"")


def test_names_of_classes():
    ids = list(imagenet.classes())
    names = imagenet.class_names(ids, {})
    assert len(ids) == len(set(names)) == 1000 and ids == sorted(ids)
    assert (names[0], names[-1]) == ("tench", "toilet_tissue")
    twice = ["crane (n02012849)", "crane (n03126707)", "maillot (n03710637)", "maillot (n03710721)"]
    assert sorted(name for name in names if "(" in name) == twice
    words = {"n99999999": "alp", "n77777777": "crane (n02012849)", "n66666666": ""}
    found = imagenet.class_names(("n02012849", "n03126707", "n09193705", *words), words)
    others = ("alp (n09193705)", "alp (n99999999)", "crane (n02012849) (n77777777)", "n66666666")
    assert len(set(found)) == 6 and found[2:] == others
    labels = imagenet._packaged_labels("x")
    assert len(labels) == 50_000 and len(set(labels)) == 1000 and labels[:3] == [IDS[0], IDS[2], IDS[1]]


SYNSETS = [
    (3.0, "n01751748", "sea snake", 0.0),
    (2.0, "n02105855", "Shetland sheepdog, Shetland sheep dog, Shetland", 0.0),
    (1.0, "n88888888", "blue newt, Newtus caeruleus", 0.0),
    (4.0, "n99999999", "two\nlines", 0.0),
    (5.0, "n09193705", "alp", 0.0),
    (6.0, "n00001740", "entity", 2.0),
]


def kit_of(synsets, truth=b"2\n3\n1\n", folder="ILSVRC2012_devkit_t12/"):
    """`synsets`: [(ILSVRC2012_ID, WNID, words, num_children)], or the content of meta.mat."""
    if isinstance(synsets, list):
        fields = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "num_children")]
        buffer = io.BytesIO()
        pytest.importorskip("scipy.io").savemat(buffer, {"synsets": np.array(synsets, fields).reshape(-1, 1)})
        synsets = buffer.getvalue()
    files = {"readme.txt": b"x", "data/ILSVRC2012_validation_ground_truth.txt": truth, "data/meta.mat": synsets}
    return gzip.compress(tar([(folder + name, content) for name, content in files.items() if content is not None]))


@pytest.mark.parametrize("prefix", ["", "./ILSVRC2012_devkit_t12/"])
def test_labels_of_the_kit(tmp_path, prefix):
    classes = TRAIN | {"n88888888": {"1.JPEG": b"x"}, "n99999999": {"1.JPEG": b"x"}}
    source, val = open_all(write(tmp_path, train_tar(classes), kit=kit_of(SYNSETS, folder=prefix)))
    assert source.class_names == (*NAMES, "blue newt", "n99999999") and val.labels.tolist() == [1, 0, 3]


WRONG_KITS = {
    "no_mat": (lambda: kit_of(b"no mat" * 99), "cannot be read"),
    "no_wordnet_id": (lambda: kit_of([*SYNSETS, (7.0, "n\x1b[2J", "x", 0.0)]), "cannot be read (TypeError"),
    "a_bomb": (lambda: gzip.compress(bytes(2**26 + 1)), "cannot be read (ValueError: more than 64 MB)"),
    "too_few": (lambda: kit_of(SYNSETS, b"2\n3\n"), "ILSVRC2012_val_00000003.JPEG has no label, there are 2"),
    "no_such_class": (lambda: kit_of(SYNSETS, b"2\n4\n3\n"), "00000002.JPEG is of class n99999999, which ILSVRC2012"),
}


@pytest.mark.parametrize("kit, expected", WRONG_KITS.values(), ids=WRONG_KITS)
def test_wrong_kits(tmp_path, capsys, kit, expected):
    root = write(tmp_path, kit=kit())
    line = refusal(capsys, lambda: open_all(root))
    assert line.startswith(f"train: --data_dir={root}: ILSVRC2012_") and expected in line


@pytest.mark.parametrize("labels", ["solution", "kit", "packaged"])
def test_unpacked_as_kaggle_and_image_net_leave_it(labels, tmp_path, capsys):
    images = {f"train/{name}/{file}": content for name, files in TRAIN.items() for file, content in files.items()}
    images |= {f"val/{name}": content for name, content in VAL.items()}
    write_folder(tmp_path, {f"ILSVRC/Data/CLS-LOC/{name}": content for name, content in images.items()})
    solution = tmp_path / "LOC_val_solution.csv"
    if labels == "kit":
        (tmp_path / imagenet.KIT_ARCHIVE).write_bytes(kit_of(SYNSETS, b"3\n5\n2\n"))
    elif labels == "solution":
        rows = [f"ILSVRC2012_val_{number:08d},{name} 1 2 3 4 " for number, name in zip((1, 3, 2), IDS, strict=True)]
        solution.write_text("\n".join(["ImageId,PredictionString", *rows]))
    for data_dir in (tmp_path, tmp_path / "ILSVRC", tmp_path / "ILSVRC" / "Data" / "CLS-LOC"):
        train, val = sources.open_folder(str(data_dir))
        assert train.class_names == val.class_names == IDS and train.count == 9
        ids = {file: IDS[label] for file, label in zip(val.files, val.labels, strict=True)}
        assert ids == {f"ILSVRC2012_val_{number:08d}.JPEG": name for number, name in zip((1, 3, 2), IDS, strict=True)}
    if labels == "solution":
        for text, problem in (("ImageId,x\na,b", "is not a table"), ("ImageId,PredictionString", "has no label in")):
            solution.write_text(text)
            assert problem in refusal(capsys, lambda: sources.open_folder(str(tmp_path)))
