"""Photographs -> their five best classes, from an exported model.

python -m keras_alexnet.predict --model=RUN/export/1 PHOTO...
"""

import os
import sys

from keras_alexnet import recipe as recipes
from keras_alexnet.errors import RunError, UsageError, run_verb, start_tensorflow


def main(argv):
    """Prints a table: one photograph a block, its best classes with their probabilities in percent."""
    folder, photographs = recipes.parse_predict(argv, __doc__)
    if not os.path.isfile(os.path.join(folder, "saved_model.pb")):
        raise UsageError(f"--model={folder}: is no exported model (there is no saved_model.pb in it)")
    for photograph in photographs:
        if not os.path.isfile(photograph):
            raise UsageError(f"{photograph}: there is no such file")
    start_tensorflow()
    for photograph, classes in predict(folder, photographs):
        print(photograph)
        for name, score in classes:
            print(f"  {100 * score:6.2f} %  {name}")


def predict(folder, photographs):
    """Classifies files one by one.

    Args:
        folder: str, an exported model's folder.
        photographs: list of str, JPEG or PNG files.

    Yields:
        (file, list of (class name, probability in 0..1), best first).

    Raises:
        RunError: a file is no image.
    """
    import tensorflow as tf

    classify = tf.saved_model.load(folder).signatures["serving_default"]
    for photograph in photographs:
        with open(photograph, "rb") as file:
            contents = file.read()
        try:
            answer = classify(image_bytes=tf.constant([contents]))
        except tf.errors.InvalidArgumentError:
            raise RunError(f"{photograph}: is not a JPEG or PNG image that can be decoded") from None
        names = [name.decode() for name in answer["classes"].numpy()[0]]
        yield photograph, list(zip(names, answer["scores"].numpy()[0].tolist(), strict=True))


if __name__ == "__main__":
    sys.exit(run_verb("predict", main, sys.argv[1:]))
