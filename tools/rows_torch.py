"""PyTorch's rows of benchmark_step.py and benchmark_input.py (extra `benchmark`)."""

import os

import numpy as np
import torch
from harness import files_of, resident_peak, speed_turn, step_turn
from PIL import Image
from torch import nn

CROP = 224


class Normalization(nn.LocalResponseNorm):
    """Within each of two groups; PyTorch divides alpha by the size of the window."""

    def forward(self, x):
        return super().forward(x.reshape(2 * x.shape[0], -1, *x.shape[2:])).reshape(x.shape)


def network(width):
    def units(number):
        return round(number * width)

    constants = {"size": 5, "alpha": 5e-4, "beta": 0.75, "k": 2.0}
    return nn.Sequential(
        nn.ZeroPad2d((0, 3, 0, 3)),
        *(nn.Conv2d(3, units(96), 11, stride=4), nn.ReLU(inplace=True), Normalization(**constants), nn.MaxPool2d(3, 2)),
        nn.Conv2d(units(96), units(256), 5, padding=2, groups=2),
        *(nn.ReLU(inplace=True), Normalization(**constants), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(units(256), units(384), 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(units(384), units(384), 3, padding=1, groups=2), nn.ReLU(inplace=True)),
        *(nn.Conv2d(units(384), units(256), 3, padding=1, groups=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        *(nn.Flatten(), nn.Linear(36 * units(256), units(4096)), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        *(nn.Linear(units(4096), units(4096)), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        nn.Linear(units(4096), 1000),
    )


def step(row, settings):
    """Training steps with the same function as AlexNet."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(os.cpu_count())
    images = torch.randn(settings.batch_size, 3, 224, 224, device=device) * 60
    labels = torch.randint(1000, (settings.batch_size,), device=device)
    peak_mb = (lambda: torch.cuda.max_memory_allocated() / 1e6) if device == "cuda" else resident_peak()
    model = network(settings.width).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=0.0005)
    loss_of = nn.CrossEntropyLoss()

    def train():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model(images), labels)
        loss.backward()
        optimizer.step()
        float(loss.detach())

    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters}, step_turn(settings, train, peak_mb)


class Images(torch.utils.data.Dataset):
    """Random crops of files, reflected at random, minus the mean, plus color noise: float32, channels first."""

    def __init__(self, files, mean_image, resize):
        mean = torch.from_numpy(mean_image)[16:240, 16:240]
        self.files, self.mean, self.resize = files, mean.permute(2, 0, 1).contiguous(), resize

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as opened:
            image = opened.convert("RGB")
        if self.resize:
            factor = 256 / min(image.size)
            image = image.resize([max(256, round(side * factor)) for side in image.size], Image.Resampling.BILINEAR)
        left, top = ((side - 256) // 2 + int(torch.randint(33, ())) for side in image.size)
        image = image.crop((left, top, left + CROP, top + CROP))
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float()
        return tensor - self.mean + torch.randn(3, 1, 1), 0


def batches(row, settings):
    """PyTorch's loader with Pillow: the same batches as keras_alexnet's, channels first."""
    torch.set_num_threads(1)
    files = files_of("originals" if row == "torch" else "prepared", settings) * settings.repeats
    mean_image = np.load(os.path.join(settings.work_dir, "jpeg", "statistics.npz"))["mean_image"]
    options = {"batch_size": settings.batch_size, "num_workers": settings.threads, "persistent_workers": True}
    loader = torch.utils.data.DataLoader(Images(files, mean_image, resize=row == "torch"), shuffle=True, **options)
    return {}, speed_turn(len(files), lambda: sum(len(labels) for _, labels in loader), settings.peak_mb)
