"""Rows of benchmark_serving.py. A turn measures lists of milliseconds."""

import concurrent.futures
import io
import math
import time
from pathlib import Path

from harness import seconds

from keras_alexnet.cli import hidden_library_messages, quiet_start
from keras_alexnet.errors import RunError, brief

STARTED = time.perf_counter()
with quiet_start():
    import tensorflow as tf

    IMPORTED = time.perf_counter()
    from keras_alexnet.data import shapes
    from keras_alexnet.data.decoding import decode_center
    from keras_alexnet.serving.client import open_client

LEAST_CALLS = 40  # of files in a batch
VIEWS = 120  # of one call where ten views are compared with the center view


def images_of(settings):
    """The contents of the files, list of bytes; a drawn image without files. Raises RunError of what is no image."""
    file = io.BytesIO()
    shapes.draw("red_disk", 0).resize((500, 375)).save(file, "JPEG", quality=92)
    found = [Path(path).read_bytes() for path in settings.images]
    for path, content in zip(settings.images, found, strict=True):
        try:
            with hidden_library_messages():
                decode_center(content)
        except tf.errors.OpError as error:
            raise RunError(f"{path}: {brief(error)}") from None
    return found or [file.getvalue()]


def load(settings):
    """The exported model, and the rows and columns of its input."""
    served = tf.saved_model.load(settings.model)
    return served, served.signatures["images"].structured_input_signature[1]["images"].shape[1]


def milliseconds(functions, count):
    """How long calls take that take turns: dict of name -> list of float. A function takes the number of its call."""
    found = {name: [] for name in functions}
    for number in range(-1, count):
        for name, function in functions.items():
            spent = seconds(function, number)
            if number >= 0:  # the first call of each is not counted
                found[name].append(1000 * spent)
    return found


def loading(row, settings):
    """What a fresh process spends: milliseconds by kind, as facts."""
    image = tf.constant(images_of(settings)[:1])
    started = time.perf_counter()
    served, _ = load(settings)
    loaded = time.perf_counter()
    served.signatures["serving_default"](image_bytes=image)
    spent = {"import": IMPORTED - STARTED, "load": loaded - started, "first_answer": time.perf_counter() - loaded}
    return {name: 1000 * value for name, value in spent.items()}, dict


def calls(row, settings):
    """The signatures, the network alone and decoding alone, for "batch N" files."""
    batch, (served, size), images = int(row.split()[1]), load(settings), images_of(settings)
    files = [tf.constant([images[(first + n) % len(images)] for n in range(batch)]) for first in range(len(images))]

    @tf.function
    def decode(image_bytes):
        if batch == 1:
            return decode_center(image_bytes[0], size)[None]
        return tf.map_fn(lambda file: decode_center(file, size), image_bytes, fn_output_signature=tf.uint8)

    batches = [(each, tf.cast(decode(each), tf.float32)) for each in files]
    of_batch = {
        "serving": lambda files, _: served.signatures["serving_default"](image_bytes=files),
        "network": lambda _, views: served.signatures["images"](images=views),
        "decode": lambda files, _: decode(files),
    }
    functions = {name: lambda n, call=call: call(*batches[n % len(batches)]) for name, call in of_batch.items()}
    count = math.ceil(max(LEAST_CALLS, settings.repeats // batch) / settings.rounds)
    milliseconds(functions, 4)  # the first calls build what later ones use
    facts = {"images": len(images), "bytes": sum(map(len, images)) / len(images)}
    return facts, lambda: milliseconds(functions, count)


def ten_views(row, settings):
    """An image by its ten views and by its center view, both in batches of VIEWS views."""
    served, size = load(settings)
    pixels = tf.cast(tf.random.uniform((VIEWS, 256, 256, 3), maxval=256, dtype=tf.int32), tf.uint8)
    functions = {
        "ten": lambda _: served.ten_views(pixels[: VIEWS // 10]),
        "center": lambda _: served.center_view(pixels[:, 16 : 16 + size, 16 : 16 + size]),
    }
    images = {"ten": VIEWS // 10, "center": VIEWS}
    return {}, lambda: {name: [t / images[name] for t in found] for name, found in milliseconds(functions, 2).items()}


def server(row, settings):
    """Requests of one file each to a server: alone, and so many at a time; and images a second."""
    images, client = images_of(settings), open_client(settings.server)

    def ask(number):
        return 1000 * seconds(client.predict, [images[number % len(images)]])

    def turn():
        found, count = {}, math.ceil(settings.repeats / settings.rounds)
        for name, threads in (("alone", 1), ("together", settings.parallel)):
            with concurrent.futures.ThreadPoolExecutor(threads) as pool:
                started = time.perf_counter()
                found[name] = list(pool.map(ask, range(count)))
                found[f"{name}_speed"] = [count / (time.perf_counter() - started)]
        return found

    ask(0)
    return {}, turn
