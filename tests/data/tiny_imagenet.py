"""The archives of ImageNet 2012 in miniature, for the tests of what reads them."""

import io
import tarfile

from keras_alexnet.data import imagenet as archives
from tests.data.conftest import encoded, photo

# The classes of the official validation images 1, 2 and 3, so that the list in TensorFlow Datasets fits; by their ids
# they are in the order 1, 3, 2.
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


def columns_of(source):
    return source.files, source.labels.tolist(), source.offsets.tolist(), source.sizes.tolist(), source.other_files
