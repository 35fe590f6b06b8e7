"""The archives of ImageNet 2012 in miniature: what is found in them, what is read of them, what is refused."""

import dataclasses
import gzip
import io
import os
import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.data import archives, imagenet_labels
from keras_alexnet.data.statistics import compute, survey
from keras_alexnet.errors import RunError, UsageError
from tests.data.conftest import encoded, flat_source, items_of, names_of, photo, refusal

# The classes of the official validation images 1, 2 and 3, so that the list in TensorFlow Datasets fits; by their ids
# they are in the order 1, 3, 2.
IDS = ("n01751748", "n02105855", "n09193705")
NAMES = ("sea_snake", "Shetland_sheepdog", "alp")
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
BAD_NAMES = ("/n_1.JPEG", "../n_1.JPEG", "a/b/n_1.JPEG", "a/../n_1.JPEG", "n\n1.JPEG", "caf\udce9.JPEG", "._n_1.JPEG")


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
    """The bytes of a tar of tars; `more`: further members of it."""
    return tar({f"{name}.tar": tar(files, kind) for name, files in classes.items()} | more, kind)


def write(root, train=None, val=None, kit=None):
    """Writes archives, those of above unless others are given; returns root."""
    root.mkdir(parents=True, exist_ok=True)
    (root / archives.TRAIN_ARCHIVE).write_bytes(train_tar() if train is None else train)
    (root / archives.VAL_ARCHIVE).write_bytes(tar(VAL) if val is None else val)
    if kit is not None:
        (root / archives.KIT_ARCHIVE).write_bytes(kit)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("archives"))


@pytest.fixture(scope="module")
def train(folder):
    return archives.open_ilsvrc2012(str(folder))[0]


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A source of 300 images in 3 classes: several chunks, the last one in part."""
    classes = {
        name: {f"{name}_{number}.JPEG": f"{name} {number}".encode() * 40 for number in range(100)} for name in IDS
    }
    return archives.open_ilsvrc2012(str(write(tmp_path_factory.mktemp("long"), train_tar(classes))))[0]


def columns_of(source):
    return source.files, source.labels.tolist(), source.offsets.tolist(), source.sizes.tolist(), source.other_files


# What is found, and what is read.


def test_labels_follow_the_ids(folder):
    train, val = archives.open_ilsvrc2012(str(folder))
    assert (train.name, val.name) == ("train", "val")
    assert train.path == str(folder / archives.TRAIN_ARCHIVE) and val.path == str(folder / archives.VAL_ARCHIVE)
    assert train.wordnet_ids == val.wordnet_ids == IDS
    assert train.class_names == val.class_names == NAMES
    assert (train.count, val.count) == (9, 3)
    assert train.files == tuple(f"{name}/{name}_{number}.JPEG" for name in IDS for number in (1, 10, 3))
    assert train.names() is train.files
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert val.files == tuple(sorted(VAL))
    assert val.labels.tolist() == [0, 2, 1]
    assert train.other_files == val.other_files == ()
    dtypes = [getattr(train, column).dtype for column in ("labels", "offsets", "sizes")]
    assert dtypes == [np.int32, np.int64, np.int64]


@pytest.mark.parametrize("kind", FORMATS.values(), ids=FORMATS)
def test_bytes_are_those_that_went_in(tmp_path, kind):
    # Long names take headers of their own in two of the formats, and a prefix in the third.
    folder = "f" * 110
    long_name = "é" * 45 if kind == tarfile.USTAR_FORMAT else "é" * 120
    classes = TRAIN | {IDS[0]: TRAIN[IDS[0]] | {f"{folder}/{long_name}.jpeg": b"no image\0\0"}}
    images = {f"{folder}/{name}": content for name, content in VAL.items()}
    source, val = archives.open_ilsvrc2012(str(write(tmp_path, train_tar(classes, kind), tar(images, kind))))
    expected = {f"{name}/{file}": content for name, files in TRAIN.items() for file, content in files.items()}
    expected[f"{IDS[0]}/{long_name}.jpeg"] = b"no image\0\0"
    items = items_of(source)
    assert {name: content for name, content, _ in items} == expected
    assert [(name, label) for name, _, label in items] == list(zip(source.files, source.labels.tolist(), strict=True))
    assert source.sizes.tolist() == [len(expected[name]) for name in source.files]
    assert [(name, content) for name, content, _ in items_of(val)] == sorted(VAL.items())
    with open(source.path, "rb") as file:
        file.seek(source.offsets[4])
        assert file.read(source.sizes[4]) == expected[source.files[4]]


def test_element_types(train):
    assert [
        (spec.shape.rank, spec.dtype.name)
        for spec in train.items(order=(1, 2), start=3).map(train.loader()).element_spec
    ] == [
        (0, "string"),
        (0, "string"),
        (0, "int32"),
    ]


def test_where_tensorflow_datasets_wants_them(tmp_path, folder, monkeypatch):
    write(tmp_path / "downloads" / "manual")
    inner, _ = archives.open_ilsvrc2012(str(tmp_path))
    assert inner.path == str(tmp_path / "downloads" / "manual" / archives.TRAIN_ARCHIVE)
    outer, _ = archives.open_ilsvrc2012(str(write(tmp_path)))
    assert outer.path == str(tmp_path / archives.TRAIN_ARCHIVE)
    assert columns_of(inner) == columns_of(outer)
    monkeypatch.setenv("HOME", str(folder))
    assert archives.open_ilsvrc2012("~")[0].path == str(folder / archives.TRAIN_ARCHIVE)


@pytest.mark.parametrize("prefix", ["", "./", "val/", "./val/"])
def test_members_in_a_folder(tmp_path, train, prefix):
    inner = [(prefix, KIND["folder"])] if prefix else []
    outer = inner + [
        (f"{prefix}{name}.tar", tar(inner + [(prefix + file, content) for file, content in files.items()]))
        for name, files in TRAIN.items()
    ]
    val = tar(inner + [(prefix + name, content) for name, content in VAL.items()])
    source, val = archives.open_ilsvrc2012(str(write(tmp_path, tar(outer), val)))
    assert source.files == train.files and val.files == tuple(sorted(VAL))
    assert source.other_files == val.other_files == ()
    assert items_of(source) == items_of(train)


def test_other_members_are_named_and_not_read(tmp_path):
    strange = [(name, b"x") for name in (*BAD_NAMES, "readme.txt", "n_1.png", "n01751748.tar.JPEG.txt")]
    strange += [(f"{kind}.JPEG", value) for kind, value in KIND.items()]
    named = [name if name.isprintable() else repr(name) for name, content in strange if content != KIND["folder"]]
    classes = {name: tar([*files.items(), *strange] if name == IDS[1] else files) for name, files in TRAIN.items()}
    outer = [
        ("readme.txt", b"hello"),
        ("n00000001.tar", b"no tar" * 200),
        ("n00000002.tar", KIND["link"]),
        ("../n00000003.tar", tar(VAL)),
        ("tools.tar", tar(VAL)),
        *((f"{name}.tar", content) for name, content in classes.items()),
    ]
    images = [*VAL.items(), ("n01440764_1.JPEG", b"x"), ("ILSVRC2012_val_1.JPEG", b"x"), *strange]
    root = write(tmp_path, tar(outer), tar(images))
    source, val = archives.open_ilsvrc2012(str(root), str(tmp_path / "index.npz"))
    assert source.count == 9 and val.count == 3
    assert source.other_files == (*(name for name, _ in outer[:5]), *(f"{IDS[1]}/{name}" for name in named))
    assert val.other_files == ("n01440764_1.JPEG", "ILSVRC2012_val_1.JPEG", *named)
    assert all(name.isprintable() for name in (*source.other_files, *val.other_files))
    again, _ = archives.open_ilsvrc2012(str(root), str(tmp_path / "index.npz"))
    assert columns_of(again) == columns_of(source)


def test_sparse_members_are_not_read(tmp_path):
    # GNU tar's old format, in which a map of the data stands in the header itself.
    header = bytearray(tar({f"{IDS[0]}_7.JPEG": b"x" * 512})[:512])
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0%011o\0" % (4096, 512)
    header[483:495] = b"%011o\0" % 4608
    header = with_checksum(header)
    inner = header + b"x" * 512 + tar(TRAIN[IDS[0]])
    classes = {f"{name}.tar": inner if name == IDS[0] else tar(files) for name, files in TRAIN.items()}
    source, _ = archives.open_ilsvrc2012(str(write(tmp_path, tar(classes))))
    assert source.other_files == (f"{IDS[0]}/{IDS[0]}_7.JPEG",) and source.count == 9


def test_order_is_that_of_folders(tmp_path, long):
    files = {name.replace("/", "_"): b"" for name in long.files}
    folder_names = names_of(flat_source(tmp_path, files), order=(5, 3))
    assert [name.replace("/", "_") for name in names_of(long, order=(5, 3))] == folder_names
    items = items_of(long, order=(5, 3))
    assert sorted(items) == sorted(items_of(long)) and items != items_of(long)
    assert all(content == name[10:-5].replace("_", " ").encode() * 40 for name, content, _ in items)
    assert items_of(long, order=(5, 4)) != items


@pytest.mark.parametrize("order", [None, (5, 3)], ids=["in_order", "permuted"])
@pytest.mark.parametrize("start", [1, 64, 299, 300], ids=str)
def test_start_gives_the_tail(long, order, start):
    assert items_of(long, order=order, start=start) == items_of(long, order=order)[start:]


def test_nothing_is_read_of_what_is_left_out(long, monkeypatch):
    offsets = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, offset: offsets.append(offset) or pread(file, size, offset))
    tail = names_of(long, order=(5, 3), start=280)
    assert sorted(offsets) == sorted(long.offsets[long.files.index(name)] for name in tail)


def test_without(train):
    out = (train.files[0], train.files[4], "no/such.JPEG")
    rest = train.without(out)
    assert (rest.count, train.count) == (7, 9)
    assert (rest.class_names, rest.wordnet_ids, rest.path) == (train.class_names, train.wordnet_ids, train.path)
    assert items_of(rest) == [item for item in items_of(train) if item[0] not in out]
    assert sorted(names_of(rest, order=(1, 1))) == list(rest.files)
    assert columns_of(train.without(())) == columns_of(train)
    assert items_of(train.without(train.files)) == []


def test_fingerprint_tells_lists_apart(train):
    renamed = dataclasses.replace(train, files=("x.JPEG", *train.files[1:]))
    other_ids = dataclasses.replace(train, wordnet_ids=("n00000001", *IDS[1:]))
    changed = dataclasses.replace(train, sizes=train.sizes + 1)
    labeled = dataclasses.replace(train, labels=train.labels[::-1])
    sources = (train, renamed, other_ids, changed, labeled, train.without(train.files[:1]))
    assert len({source.fingerprint() for source in sources}) == 6
    elsewhere = dataclasses.replace(train, path="elsewhere", offsets=train.offsets + 512)
    assert elsewhere.fingerprint() == train.fingerprint()


def test_works_in_another_process(tmp_path, train):
    (tmp_path / "source.pickle").write_bytes(pickle.dumps(train))
    program = (
        "import pickle, sys; source = pickle.load(open(sys.argv[1], 'rb')); assert 'tensorflow' not in sys.modules;"
        "loaded = source.items(order=(1, 0)).map(source.loader());"
        "items = [(n.decode(), d, int(l)) for n, d, l in loaded.as_numpy_iterator()];"
        "pickle.dump((source.fingerprint(), items), open(sys.argv[2], 'wb'))"
    )
    paths = [str(tmp_path / name) for name in ("source.pickle", "items.pickle")]
    subprocess.run([sys.executable, "-c", program, *paths], check=True, capture_output=True, timeout=120)
    assert pickle.loads((tmp_path / "items.pickle").read_bytes()) == (
        train.fingerprint(),
        items_of(train, order=(1, 0)),
    )


def descriptors_of(path):
    there = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return sum(os.path.exists(link) and os.path.realpath(link) == os.path.realpath(path) for link in there)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to see open files")
@pytest.mark.parametrize("taken", [1, 100, 300], ids=str)
def test_the_archive_is_closed_at_the_end(long, taken):
    with open(long.path, "rb"):
        assert descriptors_of(long.path) == 1
    iterator = iter(long.items())
    for _ in range(taken):
        next(iterator)
    if taken == 300:
        assert next(iterator, None) is None
    del iterator
    assert descriptors_of(long.path) == 0


# What changes while it is in use.


@pytest.fixture
def shortened(tmp_path):
    """A source whose archive has lost the second half of image 7 of 9, and those behind it."""
    source, _ = archives.open_ilsvrc2012(str(write(tmp_path)))
    last = sorted(source.offsets)[-3]
    size = source.sizes[source.offsets.tolist().index(last)]
    os.truncate(source.path, last + size // 2)
    return source


def test_an_archive_that_became_shorter(shortened):
    gone = [name for name, offset in zip(shortened.files, shortened.offsets, strict=True) if name.startswith(IDS[1])]
    for name in shortened.files:
        if name in gone:
            with pytest.raises(OSError, match="ends before this file does") as caught:
                shortened.check_readable(name)
            assert caught.value.filename == shortened.path
        else:
            shortened.check_readable(name)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        items_of(shortened)
    assert f"{shortened.path}: {gone[0]} cannot be read (the archive has changed" in caught.value.message
    # An error is of one image only, so that a pass that goes on without it finds the others.
    rest = [name.decode() for name, *_ in shortened.items().map(shortened.loader()).ignore_errors().as_numpy_iterator()]
    assert rest == [name for name in shortened.files if name not in gone]


@pytest.mark.parametrize("pass_over", [compute, survey])
def test_passes_tell_bad_images_from_bad_archives(tmp_path, shortened, pass_over):
    with pytest.raises(RunError, match=f"train/{IDS[1]}.*cannot be read .*the archive has changed"):
        pass_over(shortened)
    classes = TRAIN | {IDS[0]: {"broken.JPEG": b"no image", **TRAIN[IDS[0]]}}
    source, _ = archives.open_ilsvrc2012(str(write(tmp_path / "other", train_tar(classes))))
    assert pass_over(source).skipped == (f"{IDS[0]}/broken.JPEG",)


def test_an_archive_that_is_gone(tmp_path):
    source, _ = archives.open_ilsvrc2012(str(write(tmp_path)))
    os.unlink(source.path)
    with pytest.raises(FileNotFoundError):
        source.check_readable(source.files[0])
    with pytest.raises(tf.errors.OpError, match=archives.TRAIN_ARCHIVE):
        items_of(source)


# The index.


def blank(path):
    """Replaces a file by zeros in a way that its size and times do not show."""
    stat = os.stat(path)
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_index_spares_the_walk(tmp_path):
    root, index = write(tmp_path), str(tmp_path / "index.npz")
    sources = archives.open_ilsvrc2012(str(root), index)
    blank(root / archives.TRAIN_ARCHIVE)
    blank(root / archives.VAL_ARCHIVE)
    reports = []
    again = archives.open_ilsvrc2012(str(root), index, lambda *numbers: reports.append(numbers))
    assert reports == []
    for one, other in zip(sources, again, strict=True):
        assert columns_of(one) == columns_of(other) and one.fingerprint() == other.fingerprint()
        assert [getattr(other, name).dtype for name in ("labels", "offsets", "sizes")] == [np.int32, np.int64, np.int64]
    with pytest.raises(UsageError, match="holds no class"):
        archives.open_ilsvrc2012(str(root))


@pytest.mark.parametrize("archive", [archives.TRAIN_ARCHIVE, archives.VAL_ARCHIVE])
@pytest.mark.parametrize("change", ["size", "time"])
def test_index_of_other_archives_is_made_again(tmp_path, archive, change):
    root, index = write(tmp_path), tmp_path / "index.npz"
    archives.open_ilsvrc2012(str(root), str(index))
    before = index.read_bytes()
    stat = os.stat(root / archive)
    if change == "size":
        with open(root / archive, "ab") as file:
            file.write(bytes(512))
        os.utime(root / archive, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    else:
        os.utime(root / archive, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    reports = []
    archives.open_ilsvrc2012(str(root), str(index), lambda *numbers: reports.append(numbers))
    assert reports and index.read_bytes() != before


def pickled_index(index):
    with np.load(index) as columns:
        np.savez(index, **dict(columns) | {"train_names": np.array(["a"], object)})


def shuffled_index(index):
    with np.load(index) as columns:
        np.savez(index, **dict(columns) | {"val_places": columns["val_places"][1:]})


DAMAGED = {
    "empty": lambda index: index.write_bytes(b""),
    "text": lambda index: index.write_bytes(b"no zip" * 100),
    "half": lambda index: index.write_bytes(index.read_bytes()[: index.stat().st_size // 2]),
    "a_bit": lambda index: index.write_bytes(index.read_bytes().replace(IDS[0].encode(), IDS[1].encode(), 1)),
    "other_arrays": lambda index: np.savez(index, key=np.array("1")),
    "pickled": pickled_index,
    "other_lengths": shuffled_index,
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_damaged_index_is_made_again(tmp_path, train, damage):
    root, index = write(tmp_path), tmp_path / "index.npz"
    archives.open_ilsvrc2012(str(root), str(index))
    damage(index)
    reports = []
    source, _ = archives.open_ilsvrc2012(str(root), str(index), lambda *numbers: reports.append(numbers))
    assert reports and columns_of(source) == columns_of(train)
    blank(root / archives.TRAIN_ARCHIVE)
    assert columns_of(archives.open_ilsvrc2012(str(root), str(index))[0]) == columns_of(train)


def test_progress_is_in_bytes_and_ends(folder):
    reports = []
    archives.open_ilsvrc2012(str(folder), progress=lambda *numbers: reports.append(numbers))
    total = sum(os.path.getsize(folder / name) for name in (archives.TRAIN_ARCHIVE, archives.VAL_ARCHIVE))
    assert {whole for _, whole in reports} == {total}
    done = [part for part, _ in reports]
    assert done == sorted(done) and done[-1] == total and len(set(done)) > 4


# Names and validation labels.


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


def test_no_packaged_validation_labels(folder, capsys, monkeypatch):
    monkeypatch.setattr(imagenet_labels.importlib.util, "find_spec", lambda _: None)
    line = refusal(capsys, lambda: archives.open_ilsvrc2012(str(folder)))
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


def test_unofficial(folder):
    train, val = archives.open_ilsvrc2012(str(folder))
    assert archives.unofficial(train, val) == (
        "the official archives hold 1,281,167 training images in 1,000 classes and 50,000 validation images; "
        "these hold 9 training images in 3 classes and 3 validation images"
    )
    images, classes, val_images = archives.OFFICIAL_COUNTS
    official = dataclasses.replace(train, files=range(images), wordnet_ids=range(classes))
    assert archives.unofficial(official, dataclasses.replace(val, files=range(val_images))) is None


# Archives that are not whole.


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


def flat(files):
    """Members of 1,024 bytes each, header and data, then zeros: places can be told in the head."""
    return tar(dict.fromkeys(files, b"x" * 512))


IMAGES = tuple(f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 3))
VAL_FLAT = flat(IMAGES)
# Class tars of 2 images: headers of the outer tar at 0, 10752 and 21504, since tarfile fills up to 10240.
TRAIN_FLAT = tar({f"{name}.tar": flat((f"{name}_1.JPEG", f"{name}_2.JPEG")) for name in IDS})
NEGATIVE = b"\xff" * 10 + b"\xfc\x00"
HUGE = b"\x80" + b"\x7f" * 11
VAL_DAMAGE = {
    "empty": (b"", "is empty; fetch it again"),
    "in_first_header": (VAL_FLAT[:300], "is cut short at byte 300 (inside its first header); fetch it again"),
    "in_data": (VAL_FLAT[:1536], f"is cut short at byte 1536 (inside {IMAGES[1]}); fetch it again"),
    "in_padding": (
        tar({IMAGES[0]: b"x"})[:600],
        f"is cut short at byte 600 (inside {IMAGES[0]}); fetch it again",
    ),
    "in_a_header": (VAL_FLAT[:2100], f"is cut short at byte 2100 (after {IMAGES[1]}); fetch it again"),
    "before_the_end": (VAL_FLAT[:3072], f"is cut short at byte 3072 (after {IMAGES[2]}); fetch it again"),
    "in_the_end": (VAL_FLAT[:3583], f"is cut short at byte 3583 (after {IMAGES[2]}); fetch it again"),
    "in_a_long_name": (
        tar(dict.fromkeys((IMAGES[0], "f" * 200 + ".JPEG"), b"x"))[:1600],
        f"is cut short at byte 1600 (after {IMAGES[0]}); fetch it again",
    ),
    "no_tar": (b"<!DOCTYPE html>" * 99, "is no tar archive; fetch it again"),
    "gzip": (gzip.compress(VAL_FLAT), "is compressed; unpack the compression, not the tar in it"),
    "xz": (b"\xfd7zXZ\x00" + bytes(600), "is compressed; unpack the compression, not the tar in it"),
    "bad_header": (
        VAL_FLAT[:1024] + b"?" + VAL_FLAT[1025:],
        f"is damaged at byte 1024 (after {IMAGES[0]}); fetch it again",
    ),
    "size_beyond_the_end": (
        with_size(VAL_FLAT, 2**32, 1024),
        f"is cut short at byte 10240 (inside {IMAGES[1]}); fetch it again",
    ),
    "huge_size": (
        with_size(VAL_FLAT, HUGE, 1024),
        f"is cut short at byte 10240 (inside {IMAGES[1]}); fetch it again",
    ),
    # Taken at its word, this member would end where it begins, and come again for ever.
    "negative_size": (
        with_size(VAL_FLAT, NEGATIVE, 1024),
        f"is damaged at byte 1024 (after {IMAGES[0]}); fetch it again",
    ),
    "huge_name": (
        VAL_FLAT[:1024] + with_size(tar({"f" * 200: b""}), 2**31) + VAL_FLAT[1024:],
        f"is damaged at byte 1024 (after {IMAGES[0]}); fetch it again",
    ),
    "a_hole": (
        VAL_FLAT[:2048] + bytes(2**21) + VAL_FLAT[2048:],
        f"is damaged at byte 2048 (after {IMAGES[1]}); fetch it again",
    ),
    "only_a_hole": (bytes(2**21), "is damaged at byte 0 (at its beginning); fetch it again"),
    "no_members": (tar({}), "holds no image named as ILSVRC2012_val_00000001.JPEG is; fetch it again"),
    "no_images": (
        tar({"val/readme.txt": b"x", "a.JPEG": b"x"}),
        "holds no image named as ILSVRC2012_val_00000001.JPEG is; fetch it again",
    ),
    "twice": (VAL_FLAT[:3072] + flat(IMAGES[:1]), f"holds {IMAGES[0]} twice; fetch it again"),
    "in_two_folders": (
        tar([(IMAGES[0], b"x"), (f"val/{IMAGES[0]}", b"x")]),
        f"holds {IMAGES[0]} twice; fetch it again",
    ),
}


@pytest.mark.parametrize("content, expected", VAL_DAMAGE.values(), ids=VAL_DAMAGE)
def test_damaged_flat_archives(tmp_path, capsys, content, expected):
    root = write(tmp_path, val=content)
    line = refusal(capsys, lambda: archives.open_ilsvrc2012(str(root)))
    assert line == f"train: --data_dir={root}: ILSVRC2012_img_val.tar {expected}"


FIRST = f"{IDS[0]}/{IDS[0]}"
TRAIN_DAMAGE = {
    "empty": (b"", " is empty; fetch it again"),
    "gzip": (gzip.compress(TRAIN_FLAT), " is compressed; unpack the compression, not the tar in it"),
    "in_an_image": (TRAIN_FLAT[:2100], f" is cut short at byte 2100 (inside {FIRST}_2.JPEG); fetch it again"),
    "in_an_image_header": (TRAIN_FLAT[:1700], f" is cut short at byte 1700 (after {FIRST}_1.JPEG); fetch it again"),
    "in_a_first_header": (TRAIN_FLAT[:900], f" is cut short at byte 900 (inside {IDS[0]}.tar); fetch it again"),
    "behind_a_header": (TRAIN_FLAT[:512], f" is cut short at byte 512 (inside {IDS[0]}.tar); fetch it again"),
    "behind_the_images": (TRAIN_FLAT[:9000], f" is cut short at byte 9000 (inside {IDS[0]}.tar); fetch it again"),
    "in_a_header": (TRAIN_FLAT[:11000], f" is cut short at byte 11000 (after {IDS[0]}.tar); fetch it again"),
    "before_the_end": (TRAIN_FLAT[:32256], f" is cut short at byte 32256 (after {IDS[2]}.tar); fetch it again"),
    "inner_cut_short": (
        tar({f"{IDS[0]}.tar": flat((f"{IDS[0]}_1.JPEG",))[:1024]}),
        f" is cut short at byte 1536 (after {FIRST}_1.JPEG); fetch it again",
    ),
    "bad_header": (
        TRAIN_FLAT[:10752] + b"?" + TRAIN_FLAT[10753:],
        f" is damaged at byte 10752 (after {IDS[0]}.tar); fetch it again",
    ),
    "bad_image_header": (
        TRAIN_FLAT[:1536] + b"?" + TRAIN_FLAT[1537:],
        f" is damaged at byte 1536 (after {FIRST}_1.JPEG); fetch it again",
    ),
    # An image that claims the next class for itself must not get it.
    "image_beyond_its_tar": (
        with_size(TRAIN_FLAT, 12000, 1536),
        f" is cut short at byte 10752 (inside {FIRST}_2.JPEG); fetch it again",
    ),
    "no_members": (tar({}), " holds no class (a tar named after its WordNet id, such as n01440764.tar)"),
    "flat_images": (tar(VAL), " holds no class (a tar named after its WordNet id, such as n01440764.tar)"),
    "no_inner_tar": (
        tar({f"{IDS[0]}.tar": b"no tar" * 200}),
        " holds no class (a tar named after its WordNet id, such as n01440764.tar)",
    ),
    "empty_class": (
        train_tar(TRAIN | {"n10000000": {}}),
        ": n10000000.tar inside it holds no JPEG file; fetch it again",
    ),
    "class_of_no_bytes": (
        train_tar(**{"n10000000.tar": b""}),
        ": n10000000.tar inside it holds no JPEG file; fetch it again",
    ),
    "class_of_others": (
        train_tar(TRAIN | {"n10000000": {"a.txt": b"x"}}),
        ": n10000000.tar inside it holds no JPEG file; fetch it again",
    ),
    "class_twice": (
        tar([(f"{IDS[0]}.tar", tar(TRAIN[IDS[0]])), (f"train/{IDS[0]}.tar", tar(TRAIN[IDS[1]]))]),
        f" holds {IDS[0]}.tar twice; fetch it again",
    ),
    "image_twice": (
        tar({f"{IDS[0]}.tar": tar([("a.JPEG", b"x"), ("b.JPEG", b"x"), ("a.JPEG", b"x")])}),
        f" holds {IDS[0]}/a.JPEG twice; fetch it again",
    ),
}


@pytest.mark.parametrize("content, expected", TRAIN_DAMAGE.values(), ids=TRAIN_DAMAGE)
def test_damaged_archives_of_archives(tmp_path, capsys, content, expected):
    root = write(tmp_path / "downloads" / "manual", train=content)
    line = refusal(capsys, lambda: archives.open_ilsvrc2012(str(tmp_path), str(tmp_path / "index.npz")))
    place = os.path.join("downloads", "manual", "ILSVRC2012_img_train.tar")
    assert line == f"train: --data_dir={tmp_path}: {place}{expected}"
    assert os.listdir(tmp_path) == ["downloads"] and root.is_dir()


@pytest.mark.parametrize("kind", FORMATS.values(), ids=FORMATS)
def test_no_archive_is_taken_for_whole_when_it_is_cut(tmp_path, kind):
    # At any multiple of 500 before the zeros at the end of the last class and of the whole.
    whole = train_tar(kind=kind)
    root = write(tmp_path, whole)
    data = len(whole.rstrip(b"\0"))
    for size in range(0, data, 500):
        (root / archives.TRAIN_ARCHIVE).write_bytes(whole[:size])
        with pytest.raises(UsageError, match="is cut short" if size else "is empty"):
            archives.open_ilsvrc2012(str(root))


MISSING = {
    "nothing": ((), "there is no ILSVRC2012_img_train.tar in it, nor in its downloads/manual"),
    "no_train": (("val",), "there is no ILSVRC2012_img_train.tar in it, nor in its downloads/manual"),
    "no_val": (("train",), "there is no ILSVRC2012_img_val.tar beside ILSVRC2012_img_train.tar"),
}


@pytest.mark.parametrize("there, expected", MISSING.values(), ids=MISSING)
def test_missing_archives(tmp_path, capsys, there, expected):
    for name in there:
        (tmp_path / f"ILSVRC2012_img_{name}.tar").write_bytes(b"")
    (tmp_path / "downloads" / "manual" / archives.TRAIN_ARCHIVE).mkdir(parents=True)
    line = refusal(capsys, lambda: archives.open_ilsvrc2012(str(tmp_path)))
    remedy = "fetch it from https://image-net.org/download-images and leave it unopened"
    assert line == f"train: --data_dir={tmp_path}: {expected}; {remedy}"


def test_errors_of_the_system_name_the_archive(folder, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(OSError, match="Input/output error") as caught:
        archives.open_ilsvrc2012(str(folder))
    assert caught.value.filename == str(folder / archives.TRAIN_ARCHIVE)
