"""The networks of torchvision and pytorchcv with random weights: their files, and what they answer.

    python tests/reference/pytorch.py FOLDER

A process of its own: what these packages import (Triton) and TensorFlow crash in one. It writes NAME.pth and NAME.npz
(pixels, 0..255, and logits) of each network; of `thin`, torchvision's with a quarter of the units, also thin.onnx, and
images.npz: FOLDER/*.jpg as torchvision's own transforms prepare them, and their probabilities.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pytorchcv.model_provider import get_model
from torchvision.models import AlexNet_Weights, alexnet

CLASSES = 12
MEAN, STD = 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])


def with_random_weights(net):
    """Weights that keep the size of activations from layer to layer, and logits of deviation 3."""
    kernels = [each for each in net.parameters() if each.ndim > 1]
    for each in net.parameters():
        torch.nn.init.normal_(each, std=(2 / each[0].numel()) ** 0.5 if each.ndim > 1 else 0.1)
    kernels[-1] *= 3 / net.eval()(torch.randn(2, 3, 224, 224)).std()


def quarter(net):
    for part in (net.features, net.classifier):
        for place, each in enumerate(part):
            if isinstance(each, torch.nn.Conv2d):
                sizes = each.kernel_size, each.stride, each.padding
                part[place] = torch.nn.Conv2d(max(3, each.in_channels // 4), each.out_channels // 4, *sizes)
            elif isinstance(each, torch.nn.Linear):
                outputs = each.out_features // (1 if each is part[-1] else 4)
                part[place] = torch.nn.Linear(each.in_features // 4, outputs)
    return net


def main(folder):
    torch.manual_seed(1)
    torch.set_grad_enabled(False)
    transforms = AlexNet_Weights.IMAGENET1K_V1.transforms()
    images = torch.stack([transforms(Image.open(path)) for path in sorted(folder.glob("*.jpg"))])
    nets = {"torchvision": alexnet(num_classes=CLASSES), "thin": quarter(alexnet(num_classes=CLASSES))}
    nets |= {name: get_model(name, num_classes=CLASSES) for name in ("alexnet", "alexnetb")}
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.float32)
    prepared = torch.tensor((pixels - MEAN) / STD, dtype=torch.float32).permute(0, 3, 1, 2).contiguous()
    for name, net in nets.items():
        with_random_weights(net)
        if name == "thin":
            hidden, last = net.classifier[:-1](net.features(images).flatten(1)), net.classifier[-1]
            # No image's fifth and sixth class may be close together: then any other resizing exchanges them.
            while (last(hidden).sort(descending=True).values[:, 4:6].diff() > -0.3).any():
                torch.nn.init.normal_(last.weight, std=last.weight.std().item())
        torch.save(net.state_dict(), folder / f"{name}.pth")
        np.savez(folder / f"{name}.npz", pixels=pixels, logits=net(prepared).numpy())
    torch.onnx.export(nets["thin"], prepared[:1], str(folder / "thin.onnx"), dynamo=False)
    probabilities = torch.softmax(nets["thin"](images), 1).numpy()
    np.savez(folder / "images.npz", images=images.numpy(), probabilities=probabilities)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
