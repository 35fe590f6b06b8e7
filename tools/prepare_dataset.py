"""Prepares a set of images once: 256x256 records that are read at the speed of the decoder, and their statistics.

    python tools/prepare_dataset.py --source=ilsvrc2012 --data_dir=DOWNLOADS --out=DATA/imagenet256
    python tools/prepare_dataset.py --source=folder --data_dir=PHOTOS --out=DATA/photos256
    python tools/prepare_dataset.py --source=tf_flowers --out=DATA/flowers256
    python tools/prepare_dataset.py --check --out=DATA/photos256

ilsvrc2012: the two official archives, unopened. folder: DATA_DIR/train/CLASS/*.jpg and DATA_DIR/val/CLASS/*.jpg. All
else is the name of a TensorFlow Datasets set. Interrupted, the same command goes on. Train with --dataset=records
--data_dir=OUT. With --beam, options that are not listed here are Apache Beam's: --runner=FlinkRunner and so on.
"""

import argparse
import functools
import os
import sys

from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.errors import UsageError
from keras_alexnet.files import progress_bar

NAMED = 5  # files left out that are named on the screen; all of them are in the manifest


def main(argv):
    options, beam_options = parse(argv)
    out = os.path.expanduser(options.out)
    start_tensorflow()
    from keras_alexnet.data import preparation

    if options.check:
        preparation.check(out, progress_bar(f"checking {out}", "bytes"))
        print(f"{out}: every file is as it was prepared")
        return
    settings = preparation.Settings(
        options.size, options.encoding, options.quality, options.shard_images, options.seed, options.bad_images
    )
    opener = functools.partial(open_source, options, preparation.claim(out))
    write = {}
    if options.beam:
        from keras_alexnet.data import beam

        write = {"write": beam.writer(opener, beam_options)}
    train, val = opener(
        progress_bar("finding the images in the archives", "bytes") if options.source == "ilsvrc2012" else None
    )
    threads = options.threads if options.threads is not None else int(options.beam)
    report = preparation.prepare(
        train, val, out, settings, threads=threads, progress=progress_bar(f"preparing {out}"), **write
    )
    print(as_text(report, preparation.manifest_of(out), out))


def parse(argv):
    """Flags -> (options, list of Beam's options). Raises UsageError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--source", help="ilsvrc2012, folder, or the name of a TensorFlow Datasets set")
    parser.add_argument("--data_dir", help="where the source is; for TensorFlow Datasets its data folder")
    parser.add_argument("--out", help="the folder to prepare; new, empty, or one that was interrupted")
    parser.add_argument("--train_split", help="TensorFlow Datasets: as in training")
    parser.add_argument("--val_split", help="TensorFlow Datasets: as in training")
    parser.add_argument("--size", type=int, default=256, help="rows and columns (default: 256)")
    parser.add_argument("--encoding", choices=("jpeg", "raw"), default="jpeg", help="raw: numbers, 196 kB an image")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs, 1 to 100 (default: 90)")
    parser.add_argument("--shard_images", type=int, default=2048, help="images of a shard (default: 2048)")
    parser.add_argument("--seed", type=int, default=2012, help="of the order (default: 2012)")
    parser.add_argument("--bad_images", choices=("skip", "fail"), default="skip", help="list what is no image, or stop")
    parser.add_argument("--threads", type=int, help="images at a time (default: one per core; with --beam 1 a worker)")
    parser.add_argument("--beam", action="store_true", help="as an Apache Beam pipeline (extra `beam`)")
    parser.add_argument("--check", action="store_true", help="compare a prepared folder with its checksums")
    options, rest = parser.parse_known_args(argv)
    if not options.out:
        raise UsageError("--out is missing: name the folder to prepare")
    if not options.check and not options.source:
        raise UsageError("--source is missing: give ilsvrc2012, folder, or the name of a TensorFlow Datasets set")
    if options.source in ("ilsvrc2012", "folder") and not options.data_dir:
        raise UsageError(f"--data_dir is missing: --source={options.source} is read from there")
    for name in ("train_split", "val_split"):
        if getattr(options, name) and options.source in ("ilsvrc2012", "folder"):
            raise UsageError(f"--{name}={getattr(options, name)}: --source={options.source} has its own two splits")
    if options.threads is not None and options.threads < 0:
        raise UsageError(f"--threads={options.threads}: give a number of threads, or 0 for one per core")
    if rest and not options.beam:
        raise UsageError(f"{rest[0]}: there is no such option; see --help (Beam's need --beam)")
    return options, rest


def open_source(options, work, progress=None):
    """The sources that the options name: (train, val). Beam's workers call it again."""
    if options.source == "folder":
        from keras_alexnet.data import sources

        return sources.open_folder(os.path.expanduser(options.data_dir))
    if options.source == "ilsvrc2012":
        from keras_alexnet.data import archives

        index = work and os.path.join(work, "index.npz")
        train, val = archives.open_ilsvrc2012(options.data_dir, index, progress)
        note = archives.unofficial(train, val)
        if note and progress:
            print(f"note: {note}", file=sys.stderr)
        return train, val
    from keras_alexnet.data import sources

    return sources.open_tfds(options.source, options.data_dir, options.train_split, options.val_split, 4096)


def as_text(report, manifest, out):
    """The report at the end, str."""
    lines = []
    for split, facts in manifest["splits"].items():
        megabytes = sum(shard["bytes"] for shard in facts["shards"]) / 1e6
        lines.append(
            f"{split + ':':<12}{facts['images']:>10,} images of {len(manifest['class_names'])} classes, "
            f"{len(facts['shards'])} shards, {megabytes:,.1f} MB; {len(facts['skipped'])} files left out"
        )
        for entry in facts["skipped"][:NAMED]:
            lines.append(f"{'':<12}{entry['name']}: {entry['reason']}")
        if len(facts["skipped"]) > NAMED:
            lines.append(f"{'':<12}and {len(facts['skipped']) - NAMED} more, all of them in {out}/manifest.json")
    speed = f"{report.handled:,} images in {report.seconds:,.1f} s, {report.handled / report.seconds:,.0f} images/s"
    lines.append(f"this run:   {speed}" if report.handled else f"{out} was prepared already; nothing was left to do")
    lines.append(f"train with: --dataset=records --data_dir={out}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command("prepare_dataset", main, sys.argv[1:]))
