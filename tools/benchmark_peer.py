"""torchvision's AlexNet, trained in PyTorch on the images of a run for as many epochs: the errors and times of both.

    python tools/benchmark_peer.py --model_dir=RUN --data_dir=data/imagenette          # about as long as RUN, or longer

The recipe is that of torchvision's references/classification for alexnet: SGD of 0.01 with momentum 0.9 and decay 1e-4,
divided by ten after each third of the epochs (30 and 60 of 90); random resized crops of 224 and reflections, bilinear;
tests by the center 224 of 256. It has 32 images on each of eight devices; here a step has 32.
"""

import dataclasses
import os
import time

import harness
from tqdm import tqdm

from keras_alexnet import rundir
from keras_alexnet.cli import run_command
from keras_alexnet.errors import RunError, UsageError, optional, reading
from keras_alexnet.files import progress_bar, read_json
from keras_alexnet.flags import flag, parse, required

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the recipe, in 0..1


@dataclasses.dataclass(frozen=True)
class Settings(harness.Report):
    """The benchmark of a trained network."""

    model_dir: str | None = flag(None, "A finished run's folder.", path=True)
    data_dir: str | None = flag(None, "Its images, DATA_DIR/train/CLASS/* and DATA_DIR/val/CLASS/*.", path=True)
    batch_size: int = flag(32, "Images of a step.", low=1)
    precision: str = flag(
        "auto", "bfloat16 is PyTorch's autocast; auto: that of the run.", choices=("auto", "float32", "bfloat16")
    )
    workers: int = flag(2, "Processes that read images.", low=1, high=256)
    seed: int = flag(0, "Seed of weights, order, crops and dropout.", low=0)


def main(argv):
    settings = parse(Settings, argv, __doc__)
    folder = rundir.located(required(settings, "model_dir"))
    rundir.check_run(folder)
    train, test = (images(settings, split) for split in ("train", "val"))
    config, names, history = rundir.read_config(folder), rundir.read_class_names(folder), rundir.read_history(folder)
    if not history:
        raise UsageError(f"{folder}: has no epoch in its {rundir.HISTORY}; name a run that was trained here")
    with reading(folder):
        ours = [(row["val_top1_error"], len(train) / row["images_per_second"]) for row in history]
        device = read_json(os.path.join(folder, rundir.PROVENANCE))[0]["device"]
        counts = read_json(os.path.join(folder, rundir.VALIDATION))["label_counts"]
    if {tuple(train.classes), tuple(test.classes)} != {names} or len(test) != sum(counts):
        raise UsageError(f"--data_dir={settings.data_dir}: holds other images than those of the run")
    if settings.precision == "auto":
        own = "bfloat16" if "bfloat16" in config.network.precision else "float32"
        settings = dataclasses.replace(settings, precision=own)
    network, batch_size = config.network, config.training.batch_size
    about = f"{network.variant}, width {network.width:g}, batches of {batch_size}, {network.precision}; {device}"
    found = {"keras_alexnet": ours, "torchvision": fit(settings, train, test, len(ours))}
    rows = {name: {"error": each[-1][0], "minutes": sum(row[1] for row in each) / 60} for name, each in found.items()}
    notes = {"keras_alexnet": about, "torchvision": f"alexnet, batches of {settings.batch_size}, {settings.precision}"}
    columns = {"top-1 error, %": ("error", ".2f"), "minutes": ("minutes", ".1f")}
    shown = [(name, row, notes[name]) for name, row in rows.items()]
    lines = harness.table(f"after {len(ours)} epochs", columns, shown)
    note = f"Center views of {len(test)} images; minutes: of training, without tests; ours when the run was trained."
    report = {**dataclasses.asdict(settings), "run": about, "rows": rows, "history": found}
    harness.publish(report, [*lines, "", note], settings.json)


def images(settings, split):
    """The images of DATA_DIR/SPLIT as torchvision reads and, for train, augments them: torchvision ImageFolder."""
    transforms = optional("torchvision.transforms", "parity")
    if split == "train":
        views = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    else:
        views = [transforms.Resize(256), transforms.CenterCrop(224)]
    views += [transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
    folder = os.path.join(required(settings, "data_dir"), split)
    with reading(f"--data_dir={settings.data_dir}", "must hold train/CLASS/* and val/CLASS/*", UsageError):
        return optional("torchvision.datasets", "parity").ImageFolder(folder, transforms.Compose(views))


def fit(settings, train, test, epochs):
    """Trains torchvision's AlexNet: list of (top-1 error in percent, seconds of training) for each epoch."""
    torch, models = optional("torch", "parity"), optional("torchvision.models", "parity")
    torch.manual_seed(settings.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = models.alexnet(num_classes=len(train.classes)).to(device, memory_format=torch.channels_last)
    # channels_last and fused, which change nothing but the speed: 45 images/s became 53 on two cores, by bfloat16.
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, -(-epochs // 3), 0.1)
    options = {"batch_size": settings.batch_size, "num_workers": settings.workers, "persistent_workers": True}
    loaders = [torch.utils.data.DataLoader(each, shuffle=each is train, **options) for each in (train, test)]
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16")
    found, show = [], progress_bar("torchvision", "epochs")
    for _ in range(epochs):
        started = time.perf_counter()
        model.train()
        for pictures, labels in loaders[0]:
            optimizer.zero_grad(set_to_none=True)
            with autocast:
                loss = torch.nn.functional.cross_entropy(model(pictures.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
        if not torch.isfinite(loss):
            raise RunError("torchvision's network has diverged")
        schedule.step()
        seconds, right = time.perf_counter() - started, 0
        model.eval()
        with torch.inference_mode(), autocast:
            for pictures, labels in loaders[1]:
                right += int((model(pictures.to(device)).argmax(1).cpu() == labels).sum())
        found.append((100 * (1 - right / len(test)), seconds))
        show(len(found), epochs)
        tqdm.write(f"epoch {len(found)}: top-1 error {found[-1][0]:.2f} %, {seconds:.0f} s")
    return found


if __name__ == "__main__":
    raise SystemExit(run_command("benchmark_peer", main))
