"""Classifies image files with an exported model or a server, and prints the five best classes of each.

    python -m keras_alexnet.predict --model=imagenette IMAGE...          # comes with the package: ten classes
    python -m keras_alexnet.predict --model=RUN/export/1 IMAGE...
    python -m keras_alexnet.predict --model=http://localhost:8501/v1/models/alexnet --format=jsonl IMAGE...
    python -m keras_alexnet.predict --model=grpc://localhost:8500/alexnet IMAGE...

A file that is not an image makes the exit code 1; the other files are classified all the same.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import os
import threading

from keras_alexnet.cli import hidden_library_messages, run_command, start_tensorflow
from keras_alexnet.data import imagenet
from keras_alexnet.data.sources import conversion
from keras_alexnet.errors import RunError, UsageError, printable
from keras_alexnet.flags import flag, parse, required
from keras_alexnet.serving import client as clients

MAX_BYTES = 2**29  # of a file: the largest image that is decoded, 134 million pixels, takes 400 MB uncompressed


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Prediction."""

    model: str | None = flag(
        None,
        "The folder of an exported model, such as RUN/export/1, or of a run; imagenette, which comes with the package; "
        "or a server: http://HOST:8501/v1/models/NAME or grpc://HOST:8500/NAME.",
        path=True,
    )
    images: tuple[str, ...] = flag((), "JPEG or PNG files.")
    format: str = flag("table", "table, or jsonl: a line of JSON for each file.", choices=("table", "jsonl"))
    signature: str = flag("serving_default", "serving_default, or features with --format=jsonl.")
    batch_size: int = flag(8, "Files in a request.", low=1, high=512)
    parallel: int = flag(4, "Requests at the same time.", low=1, high=256)
    deadline: float = flag(30.0, "Seconds for a request, repetitions included.", low=0.001)
    retries: int = flag(3, "Repetitions when the server cannot be reached or is overloaded.", low=0, high=20)


def main(argv):
    config = parse(PredictConfig, argv, __doc__, positional="images")
    required(config, "model")
    check_files(config.images)
    if not config.model.startswith(("http://", "https://")):
        start_tensorflow()
    client, failed = clients.open_client(config.model, config.deadline, config.retries), []
    with hidden_library_messages():
        for path, answer in predict(client, config.images, config.signature, config.batch_size, config.parallel):
            if isinstance(answer, RunError):
                failed.append(f"{printable(path)}: {printable(str(answer))}")
            elif config.format == "table" and "classes" not in answer:
                raise UsageError(f"--signature={config.signature}: returns no classes; add --format=jsonl")
            print((_as_json if config.format == "jsonl" else _as_block)(path, answer))
    if failed:
        more = f" (and {len(failed) - 1} more of {len(config.images)})" if len(failed) > 1 else ""
        raise RunError(failed[0] + more)


def check_files(paths):
    """Raises UsageError unless there are paths and all are those of files."""
    if not paths:
        raise UsageError("no image is given: name one or more JPEG or PNG files after the flags")
    for path in paths:
        if not os.path.isfile(path):
            what = "is not a regular file" if os.path.exists(path) else "there is no such file"
            what = "is a folder; name the files in it" if os.path.isdir(path) else what
            raise UsageError(f"{printable(path)}: {what}")


def predict(client, paths, signature="serving_default", batch_size=8, parallel=4):
    """Classifies JPEG or PNG files, `batch_size` in a request and `parallel` requests at the same time.

    The client is one of `serving.client.open_client`, `paths` a sequence of str, and the signature one of image files.
    Yields, for each path in order, (path, dict of np.ndarray) with classes (5,), scores (5,) and probabilities
    (classes,), or with features; or (path, RunError that says what is wrong with the file).

    Raises RunError where the server fails, and UsageError where the signature is missing.
    """
    slots, ended = threading.Semaphore(parallel), threading.Event()

    def start(first):
        """(paths of a request, future of the answers). Daemon threads, unlike an executor's, end with the process."""
        batch, future = paths[first : first + batch_size], concurrent.futures.Future()

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
        # Few requests run ahead of the caller, so that not all answers are in memory.
        waiting.extend(itertools.islice(started, 2 * parallel))
        while waiting:
            yield from zip(waiting[0][0], waiting[0][1].result(), strict=True)
            waiting.popleft()
            waiting.extend(itertools.islice(started, 1))
    except BaseException:
        ended.set()
        client.close()
        # Local predictions end soon. Threads that wait for a server end with the process.
        concurrent.futures.wait([future for _, future in waiting], timeout=2)
        raise


def _classify(client, paths, signature):
    """The answer or RunError for each file of a request, list."""
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
    """Answers by path, dict of answer or RunError; a refused request is repeated with each half of its files."""
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
    # The probabilities of all classes would be too much to read.
    shown = {name: value.tolist() for name, value in answer.items() if name != "probabilities"}
    return json.dumps({"file": path, **shown}, allow_nan=False)


def _as_block(path, answer):
    if isinstance(answer, RunError):
        return f"{printable(path)}\n  error: {printable(str(answer))}"
    pairs = zip(map(imagenet.word, answer["classes"]), answer["scores"], strict=True)
    return "\n".join([printable(path), *(f"  {100 * score:6.2f} %  {printable(name)}" for name, score in pairs)])


if __name__ == "__main__":
    raise SystemExit(run_command("predict", main))
