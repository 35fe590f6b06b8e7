"""Where the images are in the two archives of ILSVRC2012: one walk over their headers, kept for the next time.

A tar holds its files whole and one after the other, also those of a tar inside it, so that the place of each in the
outer file is all that is needed to read it. Headers are bytes of others: what they claim is checked before it is used.
"""

import contextlib
import dataclasses
import os
import re
import tarfile

import numpy as np

from keras_alexnet.errors import UsageError
from keras_alexnet.files import atomic_write

TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
VAL_ARCHIVE = "ILSVRC2012_img_val.tar"
VAL_IMAGE = re.compile(r"ILSVRC2012_val_([0-9]{8})\.jpe?g", re.IGNORECASE)

_CLASS_ARCHIVE = re.compile(r"(n[0-9]{8})\.tar")
_TRAIN_IMAGE = re.compile(r".+\.jpe?g", re.IGNORECASE)
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")  # how gzip, bzip2, xz and zstd begin
_BLOCK = 512  # bytes; tar pads to whole ones and ends with one of zeros
_HEADER_BYTES = 2**20  # more than any honest header has; tarfile reads what a header claims in one piece
_PADDING_BYTES = 2**20  # behind the end of a tar: GNU tar fills up to 10 KiB, other programs to a tape's record
_INDEX_FORMAT = 1  # to be raised whenever another index is made of the same archives
_REPORT_STEP = 1000  # members


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a walk finds in an archive: names, tuple of str; places, int64 (names, 2), offset and size; others."""

    names: tuple[str, ...]
    places: np.ndarray
    others: tuple[str, ...]


class _Window:
    """A stretch of an open file that is read as a file of its own, never beyond its end. What tarfile asks for."""

    def __init__(self, descriptor, start, size):
        self.descriptor, self.start, self.size = descriptor, start, size
        self.came_short = False  # whether a read ever met the end
        self._position = 0

    def tell(self):
        return self._position

    def seek(self, position):
        self._position = position

    def read(self, size):
        if not 0 <= size <= _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        there = max(0, min(size, self.size - self._position))
        content = os.pread(self.descriptor, there, self.start + self._position)
        self._position += len(content)
        self.came_short |= len(content) < size
        return content

    def of(self, member):
        """The window of a member's data, as far as it is there."""
        size = min(member.size, self.size - member.offset_data)
        return _Window(self.descriptor, self.start + member.offset_data, size)


class _NotATarError(Exception):
    """What stands at the beginning is no header."""


@contextlib.contextmanager
def opened(path):
    """A descriptor for reading. An OSError inside the block names the file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(descriptor)


def listings(data_dir, paths, index_path, progress):
    """[Listing] of the two archives, from the index or else from a walk. Arguments as `open_ilsvrc2012`."""
    stats = [os.stat(path) for path in paths]
    archives = zip((TRAIN_ARCHIVE, VAL_ARCHIVE), stats, strict=True)
    key = " ".join([str(_INDEX_FORMAT), *(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in archives)])
    listings = _load_index(index_path, key) if index_path else None
    if listings is not None:
        return listings
    listings, before, total = [], 0, sum(stat.st_size for stat in stats)
    for path, stat, walk in zip(paths, stats, (_walk_train, _walk_val), strict=True):

        def report(position, before=before):
            if progress:
                progress(before + position, total)

        said = f"--data_dir={data_dir}: {os.path.relpath(path, os.path.expanduser(data_dir))}"
        with opened(path) as descriptor:
            listings.append(walk(said, _Window(descriptor, 0, stat.st_size), report))
        report(stat.st_size)
        before += stat.st_size
    if index_path:
        _save_index(index_path, key, listings)
    return listings


def _walk_train(said, window, report):
    """Lists a tar of one tar per class.

    Args:
        said: str, the archive, as messages begin.
        window: _Window of the whole archive.
        report: function of int, bytes done.

    Returns:
        Listing, its names CLASS/FILE, in their order.
    """
    classes, others = {}, []
    for member in _outer_members(said, window):
        name = _file_name(member)
        match = _CLASS_ARCHIVE.fullmatch(name or "")
        if not match:
            others += _other(member)
            continue
        wordnet_id = match[1]
        if wordnet_id in classes:
            raise UsageError(f"{said} holds {name} twice; fetch it again")
        inner, inner_others = window.of(member), []
        try:
            members = _members(said, inner, f"{wordnet_id}/")
            classes[wordnet_id] = _images(said, members, inner, _TRAIN_IMAGE, report, f"{wordnet_id}/", inner_others)
        except _NotATarError:
            if member.size:
                others += _other(member)
                continue
            classes[wordnet_id] = {}
        # A tar that is not all there is answered by `_members`, after its use.
        if not classes[wordnet_id] and inner.size == member.size:
            raise UsageError(f"{said}: {name} inside it holds no JPEG file; fetch it again")
        others += inner_others
        report(inner.start + inner.size)
        # Compact while the rest is walked through: a dictionary of a million places would take half a gigabyte.
        classes[wordnet_id] = _listing(classes[wordnet_id], ())
    if not classes:
        raise UsageError(f"{said} holds no class (a tar named after its WordNet id, such as n01440764.tar)")
    ordered = [classes[wordnet_id] for wordnet_id in sorted(classes)]
    names = tuple(name for listing in ordered for name in listing.names)
    return Listing(names, np.concatenate([listing.places for listing in ordered]), tuple(others))


def _walk_val(said, window, report):
    """Lists a tar of validation images. Arguments and returns as `_walk_train`; the names are FILE."""
    others = []
    found = _images(said, _outer_members(said, window), window, VAL_IMAGE, report, "", others)
    if not found:
        raise UsageError(f"{said} holds no image named as ILSVRC2012_val_00000001.JPEG is; fetch it again")
    return _listing(found, others)


def _images(said, members, window, pattern, report, folder, others):
    """The images of one tar: {folder + name: (offset in the outer file, size)}. Whatever else is in it: `others`."""
    found = {}
    for count, member in enumerate(members):
        if not count % _REPORT_STEP:
            report(window.start + member.offset)
        name = _file_name(member)
        if not name or not pattern.fullmatch(name):
            others += _other(member, folder)
        elif folder + name in found:
            raise UsageError(f"{said} holds {folder}{name} twice; fetch it again")
        else:
            found[folder + name] = window.start + member.offset_data, member.size
    return found


def _listing(found, others):
    names = sorted(found)
    return Listing(tuple(names), np.array([found[name] for name in names], np.int64).reshape(-1, 2), tuple(others))


def _outer_members(said, window):
    """As `_members`, but what is no tar at all is answered here."""
    try:
        yield from _members(said, window)
    except _NotATarError:
        beginning = os.pread(window.descriptor, 8, window.start)
        if not window.size:
            what = "is empty; fetch it again"
        elif beginning.startswith(_COMPRESSED):
            what = "is compressed; unpack the compression, not the tar in it"
        elif window.came_short:
            what = f"is cut short at byte {window.size} (inside its first header); fetch it again"
        else:
            what = "is no tar archive; fetch it again"
        raise UsageError(f"{said} {what}") from None


def _members(said, window, folder=""):
    """The members of a tar, one at a time. One that is cut short is given too; the error follows when it was used.

    Args:
        said: str, the outer archive, as messages begin.
        window: _Window.
        folder: str, before the names of members in messages.

    Yields:
        tarfile.TarInfo, offsets within the window.

    Raises:
        UsageError: the tar is cut short or damaged.
        _NotATarError: it does not begin as one.
    """
    try:
        tar = tarfile.TarFile(fileobj=window, encoding="utf-8")  # which is mode "r:", uncompressed
    except OSError:
        raise
    except Exception:
        # Headers are bytes of others: tarfile has errors of its own for most of what can be wrong in them, not for all.
        raise _NotATarError from None
    place = "at its beginning"
    while True:
        try:
            # Without a first member nothing has moved; Python 3.10 would go to byte -1 then.
            member = tar.next() if tar.offset else None
        except OSError:
            raise
        except Exception:
            raise _broken(said, window, tar.offset, window.came_short, place) from None
        # A list of all members is kept for lookups by name, of which there are none.
        tar.members.clear()
        if member is None:
            break
        if member.size < 0 or tar.offset <= member.offset:
            raise _broken(said, window, member.offset, False, place)
        yield member
        place = f"{folder}{_text(member)}"
        if tar.offset > window.size:
            raise _broken(said, window, tar.offset, True, f"inside {place}")
        place = f"after {place}"
    # tarfile takes everything that is no header for the end.
    window.seek(tar.offset)
    block = window.read(_BLOCK)
    if len(block) < _BLOCK or block.count(0) < _BLOCK:
        raise _broken(said, window, tar.offset, window.came_short, place)
    # A download that was given its full length beforehand has a hole of zeros where something is missing.
    if window.size - tar.offset > _PADDING_BYTES:
        raise _broken(said, window, tar.offset, False, place)


def _broken(said, window, position, cut, place):
    if cut:
        return UsageError(f"{said} is cut short at byte {window.start + window.size} ({place}); fetch it again")
    return UsageError(f"{said} is damaged at byte {window.start + position} ({place}); fetch it again")


def _file_name(member):
    """The name of a regular file without the folder it may be in; None for links, longer paths, hidden or odd names."""
    if not member.isreg() or member.issparse():
        return None
    *folders, file = member.name.removeprefix("./").split("/")
    # Not printable are control characters and surrogates, which stand for bytes that are no UTF-8.
    if len(folders) > 1 or folders in ([""], [".."]) or file.startswith(".") or not member.name.isprintable():
        return None
    return file


def _other(member, folder=""):
    """[name] of a member that is not expected, for messages; [] for a folder."""
    return [] if member.isdir() else [folder + _text(member)]


def _text(member):
    return member.name if member.name.isprintable() else repr(member.name)


def _save_index(path, key, listings):
    """Writes what two walks found, for `_load_index`."""
    columns = {"key": np.array(key)}
    for split, listing in zip(("train", "val"), listings, strict=True):
        columns[f"{split}_places"] = listing.places
        for column in ("names", "others"):
            # One text: NumPy's own strings would be as wide as the longest, four bytes a letter.
            text = "\n".join(getattr(listing, column)).encode()
            columns[f"{split}_{column}"] = np.frombuffer(text, np.uint8)
    with atomic_write(path, "wb") as file:
        np.savez(file, **columns)


def _load_index(path, key):
    """The listings that `_save_index` wrote under this key; None if they are not there, damaged or of others."""
    try:
        with np.load(path, allow_pickle=False) as columns:
            if str(columns["key"]) != key:
                return None
            listings = []
            for split in ("train", "val"):
                texts = [columns[f"{split}_{column}"].tobytes().decode() for column in ("names", "others")]
                names, others = (tuple(text.split("\n")) if text else () for text in texts)
                listings.append(Listing(names, columns[f"{split}_places"], others))
                if listings[-1].places.shape != (len(names), 2):
                    return None
            return listings
    except Exception:
        # A damaged one fails in its zip, an array's header or its text, each with errors of its own; a new one is made.
        return None
