"""How many images a second each way of reading delivers, next to the JPEG decoder alone, Keras' loader and PyTorch's.

    python tools/benchmark_input.py --data_dir=IMAGES                     # 1,000 images, 2 cores: about 9 minutes
    python tools/benchmark_input.py --data_dir=IMAGES --rows=decode,direct --json=input.json --device_rate=3000

IMAGES holds class folders, or train/CLASS/ as in training. The images are prepared once at the start. Each row is a
process of its own; they take turns, each reads all images `--repeats` times, and a ratio is the median of the rounds'
ratios. PyTorch belongs to the extra `benchmark`; FFCV is compiled against OpenCV and libjpeg-turbo. Rows without their
library are left out.
"""

import dataclasses
import math
import os
import tempfile

import harness

from keras_alexnet.cli import run_command
from keras_alexnet.errors import ArgumentError
from keras_alexnet.flags import flag, parse, required

ROWS = {
    "decode": "limit: files read and decoded whole, nothing else",
    "direct": "original files -> training batches",
    "keras": "Keras: image_dataset_from_directory, random crop and flip",
    "torch": "PyTorch: DataLoader and Pillow, resize, random crop and flip, mean and color",
    "preparation": "original files -> prepared JPEG records and statistics",
    "decode_prepared": "limit: the prepared JPEGs as files, read and decoded whole",
    "records": "prepared JPEG records -> training batches",
    "torch_prepared": "PyTorch: DataLoader and Pillow on the prepared JPEGs",
    "ffcv": "FFCV: its own file of the prepared JPEGs, random resized crop and flip, uint8",
    "yuv420": "prepared records of luma and halved color -> training batches",
    "raw": "prepared raw records -> training batches",
}
COMPARED = {
    **dict.fromkeys(("keras", "torch", "preparation"), {"of_limit": "decode"}),
    "direct": {"of_limit": "decode", "of_keras": "keras", "of_torch": "torch"},
    "records": {"of_limit": "decode_prepared", "of_torch_prepared": "torch_prepared", "of_ffcv": "ffcv"},
    **dict.fromkeys(("torch_prepared", "ffcv"), {"of_limit": "decode_prepared"}),
    **dict.fromkeys(("yuv420", "raw"), {"of_limit": "decode_prepared", "of_records": "records"}),
}
# From storage, an image.
READ = {"direct": "original_kb", "records": "prepared_kb", "yuv420": "yuv420_kb", "raw": "raw_kb"}


@dataclasses.dataclass(frozen=True)
class Settings(harness.Settings):
    """The benchmark of reading."""

    data_dir: str | None = flag(None, "Class folders of JPEG files, or a folder whose train/ holds them.", path=True)
    rows: tuple[str, ...] = flag((), f"Some of {', '.join(ROWS)}; all if left out.")
    images: int = flag(1000, "At most so many images, spread over all.", low=1)
    repeats: int = flag(10, "Passes over the images in a turn.", low=1)
    batch_size: int = flag(128, "Images of a batch.", low=1)
    threads: int = flag(os.cpu_count(), "Threads of each row; one per core if left out.", low=1)
    device_rate: float = flag(0.0, "Images a second that a device trains, to see what that takes; 0 for none.", low=0)
    work_dir: str | None = flag(None, "For the prepared images meanwhile; the system's if left out.", path=True)


def main(argv):
    settings = parse(Settings, argv, __doc__)
    for name, folder in (("data_dir", required(settings, "data_dir")), ("work_dir", settings.work_dir or ".")):
        if not os.path.isdir(folder):
            raise ArgumentError(name, folder, "there is no such folder")
    rows, missing = harness.choose_rows(settings.rows, ROWS, list(ROWS))
    functions = {"torch": "rows_torch.batches", "torch_prepared": "rows_torch.batches", "ffcv": "rows_ffcv.ffcv"}
    starts = {row: functions.get(row, "rows_input.start") for row in rows}
    # So many threads for operations of TensorFlow, and as many for the parts of one.
    os.environ |= dict.fromkeys(("TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS"), str(settings.threads))
    with tempfile.TemporaryDirectory(dir=settings.work_dir, prefix="benchmark-") as folder:
        working = dataclasses.replace(settings, work_dir=folder)
        facts, _ = harness.interleave({"images": "rows_input.lay_out"}, working, 0)
        # The first round is not counted: files come into memory, graphs are built and compiled.
        _, turns = harness.interleave(starts, working, settings.rounds + 1)
    report = {"machine": harness.machine(), **dataclasses.asdict(settings), **facts["images"]}
    report["rows"] = harness.summary({row: its_turns[1:] for row, its_turns in turns.items()}, COMPARED)
    if settings.device_rate:
        # What lets a device never wait, if all cores do as well as those measured.
        report["needed"], rate = {}, settings.device_rate
        for row in [row for row in READ if row in report["rows"]]:
            cores = math.ceil(rate * settings.threads / report["rows"][row]["images_per_second"])
            report["needed"][row] = {"cores": cores, "megabytes_per_second": rate * report[READ[row]] / 1e3}
    harness.publish(report, as_text(report, missing), settings.json)


def as_text(report, missing):
    """The report as a table, list of str."""
    columns = {"img/s": ("images_per_second", ".0f"), "of limit": ("of_limit", ".2f"), "peak MB": ("peak_mb", ".0f")}
    rows = []
    for row, figures in report["rows"].items():
        peers = [f"{figures[name]:.2f} of {name[3:]}" for name in figures if name[:3] == "of_" and name != "of_limit"]
        rows.append((row, figures, ROWS[row] + (f" ({', '.join(peers)})" if peers else "")))
    lines = [
        f"{report['images']} images of {report['size']} (median), {report['original_kb']:.0f} kB each; prepared "
        f"{report['prepared_kb']:.0f} kB, raw {report['raw_kb']:.0f} kB. Batches of {report['batch_size']}, "
        f"{report['threads']} threads, median of {report['rounds']} rounds of {report['repeats']} passes. "
        f"{report['machine']['device']}",
        "",
        *harness.table("row", columns, rows + [(row, {}, why) for row, why in missing.items()]),
        "",
        "Limit: decode for rows that begin with original files, decode_prepared for the others. Batches: crops of 224, "
        "uint8, which are reflected on the device; the peers reflect here, and PyTorch's are float32 with color noise. "
        "Peak: resident memory of the row's process beyond its start.",
    ]
    if "needed" in report:
        rate = f"For a device that trains {report['device_rate']:g} images a second, in proportion to the above:"
        columns = {"cores of this kind": ("cores", "d"), "MB/s read": ("megabytes_per_second", ".0f")}
        lines += ["", rate, *harness.table("row", columns, [(row, need, "") for row, need in report["needed"].items()])]
    return lines


if __name__ == "__main__":
    raise SystemExit(run_command("benchmark_input", main))
