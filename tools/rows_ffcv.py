"""FFCV's row of benchmark_input.py."""

import os

import numpy as np
from ffcv import fields, loader, transforms, writer
from harness import files_of, resident_peak, speed_turn
from PIL import Image

CROP = 224


class Pixels:
    """Whole images of files: (uint8 (rows, columns, 3), 0)."""

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as opened:
            return np.array(opened.convert("RGB")), 0


def ffcv(row, settings):
    """FFCV on a file of its own with the prepared images: random resized crops, reflection; uint8 batches."""
    images, file = Pixels(files_of("prepared", settings)), os.path.join(settings.work_dir, "ffcv.beton")
    kinds = {"image": fields.RGBImageField("jpg", jpeg_quality=90), "label": fields.IntField()}
    writer.DatasetWriter(file, kinds, num_workers=settings.threads).from_indexed_dataset(images)
    decoded = fields.rgb_image.RandomResizedCropRGBImageDecoder((CROP, CROP))
    pipelines = {
        "image": [decoded, transforms.RandomHorizontalFlip(), transforms.ToTensor()],
        "label": [fields.basics.IntDecoder(), transforms.ToTensor()],
    }
    options = {"order": loader.OrderOption.RANDOM, "os_cache": True, "drop_last": False, "pipelines": pipelines}
    indices, peak_mb = np.tile(np.arange(len(images)), settings.repeats), resident_peak()
    batches = loader.Loader(file, settings.batch_size, settings.threads, indices=indices, **options)
    return {}, speed_turn(len(indices), lambda: sum(len(labels) for _, labels in batches), peak_mb)
