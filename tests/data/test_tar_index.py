"""Walks over the archives of ImageNet 2012: what is listed, what is kept for the next time, what is refused."""

import gzip
import os
import tarfile

import numpy as np
import pytest

from keras_alexnet.data import archives
from keras_alexnet.errors import UsageError
from tests.data.conftest import items_of, refusal
from tests.data.tiny_imagenet import FORMATS, IDS, KIND, TRAIN, VAL, columns_of, tar, train_tar, write

BAD_NAMES = ("/n_1.JPEG", "../n_1.JPEG", "a/b/n_1.JPEG", "a/../n_1.JPEG", "n\n1.JPEG", "caf\udce9.JPEG", "._n_1.JPEG")


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    return archives.open_ilsvrc2012(str(write(tmp_path_factory.mktemp("archives"))))[0]


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
    unknown = [(name, b"x") for name in (*BAD_NAMES, "readme.txt", "n_1.png", "n01751748.tar.JPEG.txt")]
    unknown += [(f"{kind}.JPEG", value) for kind, value in KIND.items()]
    named = [name if name.isprintable() else repr(name) for name, content in unknown if content != KIND["folder"]]
    classes = {name: tar([*files.items(), *unknown] if name == IDS[1] else files) for name, files in TRAIN.items()}
    outer = [
        ("readme.txt", b"hello"),
        ("n00000001.tar", b"no tar" * 200),
        ("n00000002.tar", KIND["link"]),
        ("../n00000003.tar", tar(VAL)),
        ("tools.tar", tar(VAL)),
        *((f"{name}.tar", content) for name, content in classes.items()),
    ]
    images = [*VAL.items(), ("n01440764_1.JPEG", b"x"), ("ILSVRC2012_val_1.JPEG", b"x"), *unknown]
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


def test_progress_is_in_bytes_and_ends(tmp_path):
    folder, reports = write(tmp_path), []
    archives.open_ilsvrc2012(str(folder), progress=lambda *numbers: reports.append(numbers))
    total = sum(os.path.getsize(folder / name) for name in (archives.TRAIN_ARCHIVE, archives.VAL_ARCHIVE))
    assert {whole for _, whole in reports} == {total}
    done = [part for part, _ in reports]
    assert done == sorted(done) and done[-1] == total and len(set(done)) > 4


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
