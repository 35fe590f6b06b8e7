"""Prepares a set of images once: 256x256 records that are read at the speed of the decoder, and their statistics.

    python tools/prepare_dataset.py --source=ilsvrc2012 --data_dir=DOWNLOADS --out=DATA/imagenet256
    python tools/prepare_dataset.py --source=folder --data_dir=IMAGES --out=DATA/images256
    python tools/prepare_dataset.py --source=tf_flowers --out=DATA/flowers256
    python tools/prepare_dataset.py --check --out=DATA/images256

ilsvrc2012: the two official archives, not unpacked. folder: DATA_DIR/CLASS/*.jpg, or train and val in it.
All else is the name of a TensorFlow Datasets set. The same command resumes an interrupted preparation. Train with
--dataset=records --data_dir=OUT. With --beam, flags that are not listed here are Apache Beam's: --runner=FlinkRunner.
"""

import dataclasses
import functools

from keras_alexnet import flags
from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.config import DataConfig
from keras_alexnet.data import imagenet, sources
from keras_alexnet.errors import ArgumentError, UsageError, printable
from keras_alexnet.flags import flag

NAMED = 5  # files left out that are named on the screen; all of them are in the manifest


@dataclasses.dataclass(frozen=True)
class PrepareConfig(sources.Settings):
    """Preparation."""

    source: str | None = flag(None, "ilsvrc2012, folder, or the name of a TensorFlow Datasets set.")
    data_dir: str | None = flag(None, "Where the source is; of TensorFlow Datasets its data folder.", path=True)
    out: str | None = flag(None, "The folder to prepare: new, empty, or one that was interrupted.", path=True)
    train_split: str | None = flag(None, "TensorFlow Datasets: as in training.")
    val_split: str | None = flag(None, "TensorFlow Datasets: as in training.")
    val_fraction: float | None = flag(None, "folder: as in training.", above=0.0, below=1.0)
    split_seed: int = flag(2012, "folder: as in training.", low=0)
    threads: int | None = flag(None, "Images at a time (default: one per core; with --beam 1 a worker).", low=0)
    beam: bool = flag(False, "Run as an Apache Beam pipeline (extra `beam`).")
    check: bool = flag(False, "Compare a prepared folder with its checksums.")


def main(argv):
    config, beam_options = parse(argv)
    start_tensorflow()
    from keras_alexnet.data import prepare, records  # need TensorFlow, which a wrong flag does not wait for

    if config.check:
        records.check_files(config.out, records.read_manifest(config.out), shards_too=True)
        print(f"{config.out}: every file is as it was prepared")
        return
    opener = functools.partial(open_source, config, prepare.claim(config.out))
    write = {"write": prepare.beam_writer(opener, beam_options)} if config.beam else {}
    train, val = opener()
    if config.source == "ilsvrc2012":
        imagenet.note_counts(train, val)
    threads = int(config.beam) if config.threads is None else config.threads
    show(prepare.prepare(train, val, config.out, config, threads=threads, **write), (train, val), config.out)


def parse(argv):
    """Flags -> (PrepareConfig, list of Beam's options). Raises UsageError or ArgumentError."""
    names = {"flagfile", *(each.lstrip("-") for each in flags.HELP)}
    names |= {field.name for field in dataclasses.fields(PrepareConfig)}
    own, rest, target = [], [], None
    for argument in argv:
        if argument.startswith("-"):
            name = argument.lstrip("-").partition("=")[0]
            target = own if name in names or name.removeprefix("no") in names else rest
        (own if target is None else target).append(argument)
    config = flags.parse(PrepareConfig, own, __doc__)
    if rest and not config.beam:
        raise UsageError(f"{rest[0]}: is not a flag; see --help (Beam's need --beam)")
    if config.source in ("records", "shapes"):
        raise ArgumentError("source", config.source, "must be ilsvrc2012, folder, or a name of TensorFlow Datasets")
    local = config.source in ("ilsvrc2012", "folder")
    for name in ["out", *["source"] * (not config.check), *["data_dir"] * (local and not config.check)]:
        flags.required(config, name)
    if config.val_fraction and config.source != "folder" and not config.check:
        raise ArgumentError("val_fraction", config.val_fraction, "is for --source=folder; others have two splits")
    if config.source == "folder" and not config.check and sources.is_inside(config.out, config.data_dir):
        raise ArgumentError("out", config.out, "is inside the images of --data_dir; name another folder")
    for name in ("train_split", "val_split"):
        if getattr(config, name) and local:
            raise ArgumentError(name, getattr(config, name), f"--source={config.source} has its own two splits")
    return config, rest


def open_source(config, work):
    """The sources that the flags name: (train, val). Beam's workers call it again."""
    if config.source == "ilsvrc2012":
        return imagenet.open_ilsvrc2012(config.data_dir, work, config.orientation)
    names = ("data_dir", "train_split", "val_split", "val_fraction", "split_seed", "orientation")
    return sources.open_training(DataConfig(dataset=config.source, **{name: getattr(config, name) for name in names}))


def show(report, sources, out):
    for (split, facts), source in zip(report.manifest["splits"].items(), sources, strict=True):
        megabytes = sum(shard["bytes"] for shard in facts["shards"]) / 1e6
        left_out = {each["name"]: each["reason"] for each in facts["skipped"]} | dict.fromkeys(facts["other_files"], "")
        print(
            f"{split + ':':<12}{facts['images']:>10,} images of {len(report.manifest['class_names'])} classes, "
            f"{len(facts['shards'])} shards, {megabytes:,.1f} MB; {len(left_out)} files left out"
        )
        for name, reason in list(left_out.items())[:NAMED]:
            print(f"{'':<12}{printable(name)}: {printable(reason or source.reason(name) or 'is not read')}")
        if len(left_out) > NAMED:
            print(f"{'':<12}and {len(left_out) - NAMED} more, all of them in {out}/manifest.json")
    speed = f"{report.handled:,} images in {report.seconds:,.1f} s, {report.handled / report.seconds:,.0f} images/s"
    print(f"this run:   {speed}" if report.handled else f"{out} was prepared already; nothing was left to do")
    print(f"train with: --dataset=records --data_dir={out}")


if __name__ == "__main__":
    raise SystemExit(run_command("prepare_dataset", main))
