"""Compares the answers of an exported model with stored ones; needs TensorFlow only, and runs in any of its versions.

    python tools/check_export.py RUN/export/1 --reference=answers.json --write IMAGE...     # where it was exported
    python check_export.py EXPORT --reference=answers.json                                  # in another environment

The JSON holds the image files and the answers to them. Two loaders are tried: TensorFlow 2's, and that of sessions,
which TensorFlow Serving uses. The exit code is 1 where a number differs by more than --tolerance, or a class by name.
"""

import argparse
import base64
import contextlib
import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

with contextlib.suppress(ImportError):
    import tensorflow_addons  # noqa: F401 (to load the model beside it)

SIGNATURES = ("serving_default", "features")
PACKAGES = ("keras", "tensorflow", "tensorflow-addons", "tensorflow-cpu", "tensorflow_cpu")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", help="the folder of an exported version")
    parser.add_argument("--reference", required=True, help="the JSON file of images and answers")
    parser.add_argument("--write", nargs="+", metavar="IMAGE", help="write the file, for these JPEG or PNG images")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="of a number (default: %(default)g)")
    options = parser.parse_args(argv)
    try:
        if options.write:
            write(options.export, options.reference, options.write)
            return 0
        differences = check(options.export, options.reference)
    except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        print(f"check_export: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        return 2
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    for name, difference in differences.items():
        print(f"{name:<30}  largest difference {difference:.1e}")
    return int(not all(each <= options.tolerance for each in differences.values()))  # nan is too much


def write(export, path, images):
    """Writes the reference: image files in base64, and what the export answers to all of them in one batch."""
    contents = [Path(image).read_bytes() for image in images]
    images = [base64.b64encode(each).decode() for each in contents]
    content = {"versions": versions(), "images": images, "answers": load(export, contents)}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, default=np.ndarray.tolist)


def check(export, path):
    """The largest difference from the reference, by loader and output, dict of str -> float; of class names 0 or 1."""
    with open(path, encoding="utf-8") as file:
        reference = json.load(file)
    contents, found = [base64.b64decode(each) for each in reference["images"]], {}
    for loader in (load, load_in_session):
        answers = loader(export, contents)
        for signature, outputs in reference["answers"].items():
            for name, expected in outputs.items():
                given, expected = answers[signature][name], np.array(expected)
                distance = given != expected if name == "classes" else np.abs(given - expected.astype(np.float32))
                found[f"{loader.__name__}: {name}"] = float(distance.max())
    return found


def load(export, contents):
    """Answers to image files by `tf.saved_model.load`: dict of signature -> dict of output -> np.ndarray."""
    signatures, files = tf.saved_model.load(export).signatures, tf.constant(contents)
    return {name: _plain(signatures[name](image_bytes=files)) for name in SIGNATURES}


def load_in_session(export, contents):
    """The same by the loader of sessions, whose twin in C++ TensorFlow Serving runs."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph, answers = tf.compat.v1.saved_model.loader.load(session, [tf.saved_model.SERVING], export), {}
        for name in SIGNATURES:
            signature = graph.signature_def[name]
            fetches = {key: info.name for key, info in signature.outputs.items()}
            answers[name] = _plain(session.run(fetches, {signature.inputs["image_bytes"].name: contents}))
    return answers


def versions():
    """The installed versions of what matters here: dict of str -> str."""
    installed = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    return {name: version for name, version in sorted(installed.items()) if name in PACKAGES}


def _plain(outputs):
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    return {name: np.char.decode(each.astype("S")) if each.dtype == object else each for name, each in arrays.items()}


if __name__ == "__main__":
    sys.exit(main())
