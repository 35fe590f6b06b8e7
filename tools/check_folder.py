"""What is in a folder of images, before training on it: classes, sizes, copies, what cannot be read, orientation.

    python tools/check_folder.py IMAGES [--val_fraction=0.2]

Copies are files of the same size and first 64 kB. Nothing is written.
"""

import collections
import contextlib
import dataclasses
import os

from PIL import Image

from keras_alexnet.cli import Table, hidden_library_messages, run_command, start_tensorflow
from keras_alexnet.data import sources
from keras_alexnet.errors import UsageError, printable
from keras_alexnet.flags import flag, parse

NAMED = 10  # files of a kind that are named


@dataclasses.dataclass(frozen=True)
class CheckConfig:
    """Check."""

    folders: tuple[str, ...] = flag((), "One folder, as --data_dir of --dataset=folder.")
    val_fraction: float | None = flag(None, "As in training.", above=0.0, below=1.0)
    split_seed: int = flag(2012, "As in training.", low=0)


def main(argv):
    config = parse(CheckConfig, argv, __doc__, positional="folders")
    if len(config.folders) != 1:
        raise UsageError("name one folder of images")
    both = sources.open_folder(os.path.expanduser(config.folders[0]), config.val_fraction, config.split_seed)
    start_tensorflow()
    from keras_alexnet import datasets  # TensorFlow, which a wrong folder does not wait for

    with hidden_library_messages():
        bad = datasets.find_bad_files(*both)
    print(*report(config.folders[0], both, bad), sep="\n")


def report(folder, both, bad):
    """Lines about the (training, validation) sources; `bad`: the names of the files of each that cannot be decoded."""
    facts = [source.facts() for source in both]
    rows = [
        (printable(name), *(str(source.labels.count(label)) for source in both))
        for label, name in enumerate(both[0].class_names)
    ]
    rows.append(("all", *(str(source.count) for source in both)))
    yield Table("", ("class", *(source.name for source in both)), rows).as_text()
    yield ""
    shorter = sorted(filter(None, (_shorter_side(source, file) for source in both for file in source.files)))
    sizes = sorted(size for source in both for size in source.sizes)
    if shorter:
        below = sum(side < 256 for side in shorter)
        yield (
            f"size: {sizes[0] / 1000:.1f} to {sizes[-1] / 1000:.1f} kB; shorter side {shorter[0]} to {shorter[-1]} "
            f"pixels, median {shorter[len(shorter) // 2]}; {below} below 256, which are enlarged"
        )
    turned = collections.Counter(each.orientation for own in facts for each in own if each.orientation > 1)
    kinds = ", ".join(f"{count} of {orientation}" for orientation, count in sorted(turned.items()))
    yield f"EXIF orientation: {turned.total()} images are not stored upright" + f" ({kinds})" * bool(turned)
    copies, above = collections.defaultdict(list), os.path.expanduser(folder)
    for source, own in zip(both, facts, strict=True):
        for file, label, each in zip(source.files, source.labels, own, strict=True):
            copies[each.digest].append((source.name, os.path.relpath(os.path.join(source.root, file), above), label))
    copies = [each for digest, each in copies.items() if digest and len(each) > 1]
    across = [each for each in copies if len({split for split, _, _ in each}) > 1]
    other_class = [each for each in copies if len({label for _, _, label in each}) > 1]
    for title, groups in (
        ("copies of one image", copies),
        ("copies in both splits, which make the validation error too low", across),
        ("copies in several classes, of which one at most is right", other_class),
    ):
        yield from _named(title, [" = ".join(path for _, path, _ in each) for each in groups])
    names = [(source, name) for source, own in zip(both, bad, strict=True) for name in (*source.other_files, *own)]
    others = [
        f"{os.path.relpath(os.path.join(source.root, name), above)} ({source.reason(name) or 'not an image'})"
        for source, name in names
    ]
    yield from _named("files that are not read", others)


def _shorter_side(source, file):
    # Files that are not images have errors of all kinds, and are reported.
    with contextlib.suppress(Exception), Image.open(os.path.join(source.root, file)) as image:
        return min(image.size)


def _named(title, lines):
    yield f"{title}: {len(lines) or 'none'}"
    yield from (f"    {printable(line)}" for line in lines[:NAMED])
    if len(lines) > NAMED:
        yield f"    and {len(lines) - NAMED} more"


if __name__ == "__main__":
    raise SystemExit(run_command("check_folder", main))
