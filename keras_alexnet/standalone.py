"""Classifies image files with the exported AlexNet beside this file; needs NumPy, Pillow and the runtime of that file.

    python predict.py IMAGE...

    import predict
    images = predict.prepare("image.jpg")[None]        # float32 (B, size, size, 3), RGB, 0..255 minus the mean
    predict.load()(images)["probabilities"]            # float32 (B, classes); "features": the last hidden layer

The runtime is onnxruntime for model.onnx, ai-edge-litert for model.tflite, and keras-alexnet for model.keras. The
pixels are those that the SavedModel of keras_alexnet makes of a JPEG or PNG file.
"""

import errno
import importlib
import json
import os
import sys

import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
SIDE = 256  # rows and columns of an image before its center is cut
EXIF, EXIF_BYTES = b"Exif\0\0", 2**16  # an orientation is read where the first EXIF in so many bytes begins
ORIENTATION = 0x0112  # EXIF's tag; its values are turned upright by reversing rows, reversing columns, transposing
TURNS = {2: (0, 1, 0), 3: (1, 1, 0), 4: (1, 0, 0), 5: (0, 0, 1), 6: (1, 0, 1), 7: (1, 1, 1), 8: (0, 1, 1)}


UNREADABLE = OSError, SyntaxError, ValueError, Image.DecompressionBombError  # what Pillow raises of a broken file


def load(folder=HERE):
    """The network of a folder: function of prepared images -> dict of probabilities and features, np.ndarray."""
    paths = {os.path.join(folder, name): load for name, load in RUNTIMES.items()}
    path = next(filter(os.path.isfile, paths), None)
    if path is None:
        raise FileNotFoundError(errno.ENOENT, "is missing", " or ".join(paths))
    return paths[path](path)


def prepare(path, folder=HERE):
    """An image file -> float32 (size, size, 3), which the network of the folder takes in batches.

    Raises one of UNREADABLE where the file is not such an image.
    """
    with open(os.path.join(folder, "metadata.json"), encoding="utf-8") as file:
        metadata = json.load(file)
    mean = np.load(os.path.join(folder, "mean.npy"), allow_pickle=False)
    options = (metadata[name] for name in ("input_size", "resize", "orientation"))
    return center_view(path, *options).astype(np.float32) - mean


def center_view(path, size=224, resize="shorter_side", orientation="apply"):
    """The center of a JPEG or PNG file after resizing, uint8 (size, size, 3), RGB.

    A JPEG is reduced by 2, 4 or 8 while it is decoded and a PNG by the means of whole blocks, as far as SIDE pixels are
    left, then bilinearly. `resize`: "shorter_side" to SIDE pixels, or "stretch" to SIDE x SIDE; `orientation`: "apply"
    or "ignore", what is done with the EXIF orientation of a JPEG.
    """
    with Image.open(path, formats=("JPEG", "PNG")) as image:
        halvings = sum(min(image.size) >= SIDE * factor for factor in (2, 4, 8))
        factor, shape = 2**halvings, np.array(image.size[::-1])
        is_png = image.format == "PNG"
        image.fp.seek(0)
        code = exif_orientation(image.fp.read(EXIF_BYTES)) if orientation == "apply" else 1
        *are_reversed, transposed = TURNS.get(code, (0, 0, 0))
        if not is_png:
            image.draft(None, (SIDE, SIDE))  # libjpeg's own reduction, by the same factor
        reduced = shape // factor if is_png else np.array(image.size[::-1])
        region = reduced if resize == "stretch" else np.full(2, reduced.min())
        margin, enlarged = (SIDE - size) // 2, region < SIDE
        # The window in whole pixels of the file; a direction that is enlarged is taken whole and cut afterwards.
        first = np.where(enlarged, 0, (2 * margin * region + SIDE) // (2 * SIDE))
        count = np.where(enlarged, region, (2 * size * region + SIDE) // (2 * SIDE))
        # Rounded so that the square is that of the upright image.
        row, column = (reduced - region + are_reversed) // 2 + np.minimum(first, region - count)
        rows, columns = count
        blocks = factor if is_png else 1
        box = [blocks * edge for edge in (column, row, column + columns, row + rows)]
        pixels = _rgb(image.crop(box)).reshape(rows, blocks, columns, blocks, 3)
        pixels = pixels.sum((1, 3), dtype=np.float32) / np.float32(blocks**2)
    for axis in (1, 0):
        pixels = _resized(pixels, SIDE if enlarged[axis] else size, axis)
    top, left = np.where(enlarged, margin, 0)
    pixels = (pixels[top : top + size, left : left + size] + np.float32(0.5)).astype(np.uint8)
    pixels = np.flip(pixels, np.flatnonzero(are_reversed))
    return pixels.swapaxes(0, 1) if transposed else pixels


def exif_orientation(head):
    """The EXIF orientation of a JPEG, int 1 to 8, from its first EXIF_BYTES; 1 if it has none. See `data.decoding`."""
    tiff = head.partition(EXIF)[2] + bytes(8)  # as the graph, which needs bytes to look at
    order = "big" if tiff.startswith(b"M") else "little"
    first = int.from_bytes(tiff[4:8], order)
    entries = tiff[first + 2 :][: 12 * int.from_bytes(tiff[first : first + 2], order)]
    for place in range(0, len(entries) - 11, 12):
        if int.from_bytes(entries[place : place + 2], order) == ORIENTATION and head.startswith(b"\xff\xd8"):
            value = int.from_bytes(entries[place + 8 : place + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def _rgb(image):
    """The pixels, uint8 (rows, columns, 3): grey three times, no alpha, the high byte of 16 bits."""
    if image.mode.startswith("I"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    return np.asarray(image.convert("RGB"))


def _resized(pixels, length, axis):
    """Bilinear along an axis, without antialiasing, in the order of float32 operations that TensorFlow has."""
    scale, last = np.float32(pixels.shape[axis]) / np.float32(length), pixels.shape[axis] - 1
    place = (np.arange(length, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    lower = np.floor(place)
    share = (place - lower).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    below, above = (np.clip(each, 0, last).astype(int) for each in (lower, np.ceil(place)))
    start = np.take(pixels, below, axis)
    return start + (np.take(pixels, above, axis) - start) * share


def _onnx(path):
    session = importlib.import_module("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))


def _litert(path):
    runner = importlib.import_module("ai_edge_litert.interpreter").Interpreter(path).get_signature_runner()
    return lambda images: runner(images=images)


def _keras(path):
    importlib.import_module("keras_alexnet")  # registers its layers
    keras = importlib.import_module("keras")
    model = keras.saving.load_model(path)
    network = keras.Model(model.input, {"probabilities": model.output, "features": model.get_layer("fc8").input})
    return lambda images: {name: value.numpy() for name, value in network(images).items()}


RUNTIMES = {"model.onnx": _onnx, "model.tflite": _litert, "model.keras": _keras}


def main(paths):
    if len(paths) == 3 and paths[0] == "--check":  # answers an .npz with an .npz: how an export is compared
        with np.load(paths[1], allow_pickle=False) as given:
            np.savez(paths[2], **load()(given["images"]))
        return
    if not paths:
        print("predict: no image is given: name one or more JPEG or PNG files", file=sys.stderr)
        sys.exit(2)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files that are not UTF-8
    try:
        with open(os.path.join(HERE, "metadata.json"), encoding="utf-8") as file:
            names = json.load(file)["shown_names"]
        network = load()
    except FileNotFoundError as error:
        print(f"predict: {error.filename} is missing: copy the whole folder", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        print(f"predict: {error.name} is missing: pip install {error.name}", file=sys.stderr)
        sys.exit(2)
    for path in paths:
        try:
            scores = network(prepare(path)[None])["probabilities"][0]
        except UNREADABLE as error:
            sys.exit(f"predict: {path}: {error}")
        print(path)
        for label in np.argsort(-scores, kind="stable")[:5]:
            print(f"  {100 * scores[label]:6.2f} %  {names[label]}")


if __name__ == "__main__":
    main(sys.argv[1:])
