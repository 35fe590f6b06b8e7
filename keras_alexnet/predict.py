"""Image files -> their five best classes, from an exported model or a server.

    python -m keras_alexnet.predict --model=RUN/export/1 IMAGE...
    python -m keras_alexnet.predict --model=http://localhost:8501/v1/models/alexnet --format=jsonl IMAGE...
    python -m keras_alexnet.predict --model=grpc://localhost:8500/alexnet IMAGE...

A file that is not an image does not keep the others from being classified; the exit code is 1 then.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import os
import sys
import threading

from keras_alexnet import flags
from keras_alexnet.cli import hidden_library_messages, run_command, start_tensorflow
from keras_alexnet.data.sources import conversion
from keras_alexnet.errors import RunError, UsageError, printable
from keras_alexnet.flags import flag
from keras_alexnet.serving import client as clients

MAX_BYTES = 2**29  # of a file: 134 million pixels, which is what is decoded, take 400 MB uncompressed


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Prediction."""

    model: str | None = flag(
        None,
        "An exported model's folder, such as RUN/export/1, or a server: http://HOST:8501/v1/models/NAME or "
        "grpc://HOST:8500/NAME.",
        path=True,
    )
    images: tuple[str, ...] = flag((), "JPEG or PNG files.")
    format: str = flag("table", "jsonl: a line of JSON for each file.", choices=("table", "jsonl"))
    signature: str = flag("serving_default", "serving_default, or features with --format=jsonl.")
    batch_size: int = flag(8, "Files of a request.", low=1, high=512)
    parallel: int = flag(4, "Requests at a time.", low=1, high=256)
    deadline: float = flag(30.0, "Seconds for a request, its repetitions included.", low=0.001)
    retries: int = flag(3, "Repetitions when the server cannot be reached or is overloaded.", low=0, high=20)


def main(argv):
    config = flags.parse(PredictConfig, argv, __doc__, positional="images")
    flags.required(config, "model")
    if not config.images:
        raise UsageError("no image is given: name one or more JPEG or PNG files after the flags")
    for path in config.images:
        if not os.path.isfile(path):
            what = "is not a regular file" if os.path.exists(path) else "there is no such file"
            what = "is a folder; name the files in it" if os.path.isdir(path) else what
            raise UsageError(f"{printable(path)}: {what}")
    if not config.model.startswith("http"):
        start_tensorflow()
    client, failed = clients.open_client(config.model, config.deadline, config.retries), []
    with hidden_library_messages():
        for path, answer in predict(client, config.images, config.signature, config.batch_size, config.parallel):
            if isinstance(answer, RunError):
                failed.append(f"{printable(path)}: {printable(str(answer))}")
            elif config.format == "table" and "classes" not in answer:
                raise UsageError(f"--signature={config.signature}: has no classes for a table; add --format=jsonl")
            print((_as_json if config.format == "jsonl" else _as_block)(path, answer), flush=True)
    if failed:
        more = f" (and {len(failed) - 1} more of {len(config.images)})" if len(failed) > 1 else ""
        raise RunError(failed[0] + more)


def predict(client, paths, signature="serving_default", batch_size=8, parallel=4):
    """Classifies JPEG or PNG files, `batch_size` in a request and `parallel` requests at a time.

    Args:
        client: see `keras_alexnet.serving.client.open_client`.
        paths: sequence of str.
        signature: str, one that takes image files.

    Yields:
        (path, dict of np.ndarray: classes (5,) and scores (5,), probabilities (classes,), or features; or a RunError
        that says what is wrong with the file), in the order that was given.

    Raises RunError where the server is at fault and not a file, and UsageError where the signature is missing.
    """
    slots, ended = threading.Semaphore(parallel), threading.Event()

    def start(place):
        """(files of a request, the future of their answers); its thread ends with the process, unlike an executor's."""
        batch, future = paths[place : place + batch_size], concurrent.futures.Future()

        def work():
            with slots:
                try:
                    future.set_result(None if ended.is_set() else _classify(client, batch, signature))
                except BaseException as error:
                    future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        return batch, future

    started, waiting = map(start, range(0, len(paths), batch_size)), collections.deque()
    try:
        # Only so many ahead of what is used: not all answers are in memory.
        waiting.extend(itertools.islice(started, 2 * parallel))
        while waiting:
            yield from zip(waiting[0][0], waiting[0][1].result(), strict=True)
            waiting.popleft()
            waiting.extend(itertools.islice(started, 1))
    except BaseException:
        ended.set()
        client.close()
        # What is under way locally ends soon; a server is not waited for, whose threads end with the process.
        concurrent.futures.wait([future for _, future in waiting], timeout=2)
        raise


def _classify(client, paths, signature):
    """One answer or RunError for each file of a request."""
    contents, answers = {}, {}
    for path in dict.fromkeys(paths):
        try:
            size = os.path.getsize(path)
            if size > MAX_BYTES:
                answers[path] = RunError(f"has {size:,} bytes; at most {MAX_BYTES:,} are read")
                continue
            with open(path, "rb") as file:
                contents[path] = file.read(MAX_BYTES)
        except OSError as error:
            answers[path] = RunError(f"cannot be read ({error.strerror})")
    answers |= _answers(client, contents, signature)
    return [answers[path] for path in paths]


def _answers(client, contents, signature):
    """{path: answer or RunError} of {path: bytes}: of all at once, or where the request is refused, of each half."""
    paths = list(contents)
    try:
        outputs = client.predict(list(contents.values()), signature) if paths else {}
    except clients.RefusedError as error:
        if len(paths) == 1:
            return {paths[0]: RunError(conversion(contents[paths[0]][:16], paths[0]) or str(error))}
        middle, items = len(paths) // 2, list(contents.items())
        first, second = (_answers(client, dict(half), signature) for half in (items[:middle], items[middle:]))
        return first | second
    return {path: {name: value[row] for name, value in outputs.items()} for row, path in enumerate(paths)}


def _as_json(path, answer):
    if isinstance(answer, RunError):
        return json.dumps({"file": path, "error": str(answer)})
    # The five best are enough to read; all probabilities are in the server's answers.
    shown = {name: value.tolist() for name, value in answer.items() if name != "probabilities"}
    return json.dumps({"file": path, **shown}, allow_nan=False)


def _as_block(path, answer):
    if isinstance(answer, RunError):
        return f"{printable(path)}\n  error: {printable(str(answer))}"
    pairs = zip(answer["classes"], answer["scores"], strict=True)
    return "\n".join([printable(path), *(f"  {100 * score:6.2f} %  {printable(name)}" for name, score in pairs)])


if __name__ == "__main__":
    sys.exit(run_command("predict", main, sys.argv[1:]))
