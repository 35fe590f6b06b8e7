"""Image files -> their five best classes, from an exported model or a server.

    python -m keras_alexnet.predict --model=RUN/export/1 IMAGE...
    python -m keras_alexnet.predict --model=http://localhost:8501/v1/models/alexnet --format=jsonl IMAGE...
    python -m keras_alexnet.predict --model=grpc://localhost:8500/alexnet IMAGE...

A file that is not an image does not keep the others from being classified; the exit code is 1 then.
"""

import collections
import concurrent.futures
import dataclasses
import json
import os
import sys
import threading

from keras_alexnet import flags
from keras_alexnet.cli import hidden_library_messages, run_command, start_tensorflow
from keras_alexnet.errors import RunError, UsageError, printable
from keras_alexnet.flags import flag
from keras_alexnet.serving import client as clients


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


MAX_BYTES = 2**29  # of a file: 134 million pixels, which is what is decoded, take 400 MB uncompressed


def main(argv):
    """Prints one file a block (`--format=table`) or a line (`--format=jsonl`), in the order that was given."""
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
    client = clients.open_client(config.model, config.deadline, config.retries)
    failed = []
    with hidden_library_messages():
        settings = (config.signature, config.batch_size, config.parallel)
        for path, answer in predict(client, config.images, *settings):
            if isinstance(answer, RunError):
                failed.append(f"{printable(path)}: {printable(str(answer))}")
            elif config.format == "table" and "classes" not in answer:
                raise UsageError(f"--signature={config.signature}: has no classes for a table; add --format=jsonl")
            print((_as_json if config.format == "jsonl" else _as_block)(path, answer), flush=True)
    if failed:
        more = f" (and {len(failed) - 1} more of {len(config.images)})" if len(failed) > 1 else ""
        raise RunError(failed[0] + more)


def predict(client, paths, signature="serving_default", batch_size=8, parallel=4):
    """Classifies files, several in a request and several requests at a time.

    Args:
        client: see `keras_alexnet.serving.client.open_client`.
        paths: sequence of str, JPEG or PNG files.
        signature: str, one that takes image files.
        batch_size: int, files of a request.
        parallel: int, requests at a time.

    Yields:
        (path, dict of np.ndarray: classes (5,) and scores (5,), probabilities (classes,), or features; or a RunError
        that says what is wrong with the file), in the order that was given.

    Raises:
        RunError: the server or its answer is at fault, and not a file.
        UsageError: there is no such signature.
    """
    batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    slots, ended = threading.Semaphore(parallel), threading.Event()

    def classify(batch, future):
        with slots:
            try:
                future.set_result(None if ended.is_set() else _classify(client, batch, signature))
            except BaseException as error:
                future.set_exception(error)

    def started(batch):
        """The future of the answers; its thread ends with the process, as an executor's does not."""
        future = concurrent.futures.Future()
        threading.Thread(target=classify, args=(batch, future), daemon=True).start()
        return future

    # Only so many ahead of what is used: not all answers are in memory.
    waiting = collections.deque()
    try:
        for batch in batches:
            waiting.append((batch, started(batch)))
            if len(waiting) >= 2 * parallel:
                yield from zip(waiting[0][0], waiting[0][1].result(), strict=True)
                waiting.popleft()
        for first, future in waiting:
            yield from zip(first, future.result(), strict=True)
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
            contents[path] = _content(path)
        except RunError as error:
            answers[path] = error
    answers |= _answers(client, list(contents.items()), signature)
    return [answers[path] for path in paths]


def _content(path):
    """The bytes of a file that is not too large for an image."""
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise RunError(f"has {os.path.getsize(path):,} bytes; at most {MAX_BYTES:,} are read")
        with open(path, "rb") as file:
            return file.read(MAX_BYTES)
    except OSError as error:
        raise RunError(f"cannot be read ({error.strerror})") from None


def _answers(client, files, signature):
    """{path: answer or RunError} of (path, bytes): of all at once, or where the request is refused, of each half."""
    if not files:
        return {}
    try:
        outputs = client.predict([content for _, content in files], signature)
    except clients.RefusedError as error:
        if len(files) == 1:
            return {files[0][0]: error}
        half = len(files) // 2
        return _answers(client, files[:half], signature) | _answers(client, files[half:], signature)
    return {path: {name: value[row] for name, value in outputs.items()} for row, (path, _) in enumerate(files)}


def _as_json(path, answer):
    if isinstance(answer, RunError):
        shown = {"error": str(answer)}
    else:
        # The five best are enough to read; all probabilities are in the server's answers.
        shown = {name: value.tolist() for name, value in answer.items() if name != "probabilities"}
    return json.dumps({"file": path, **shown}, allow_nan=False)


def _as_block(path, answer):
    if isinstance(answer, RunError):
        rows = [f"  error: {printable(str(answer))}"]
    else:
        pairs = zip(answer["classes"], answer["scores"], strict=True)
        rows = [f"  {100 * score:6.2f} %  {printable(name)}" for name, score in pairs]
    return "\n".join([printable(path), *rows])


if __name__ == "__main__":
    sys.exit(run_command("predict", main, sys.argv[1:]))
