"""Photographs -> their five best classes, from an exported model or a server.

    python -m keras_alexnet.predict --model=RUN/export/1 PHOTO...
    python -m keras_alexnet.predict --model=http://localhost:8501/v1/models/alexnet --format=jsonl PHOTO...
    python -m keras_alexnet.predict --model=grpc://localhost:8500/alexnet PHOTO...

A file that is no picture does not keep the others from being classified; the exit code is 1 then.
"""

import collections
import concurrent.futures
import dataclasses
import json
import os
import sys

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


def main(argv):
    """Prints one photograph a block (`--format=table`) or a line (`--format=jsonl`), in the order that was given."""
    config = flags.parse(PredictConfig, argv, __doc__, positional="images")
    flags.required(config, "model")
    if not config.images:
        raise UsageError("no image is given: name one or more JPEG or PNG files after the flags")
    for photograph in config.images:
        if not os.path.isfile(photograph):
            what = "is a folder; name the files in it" if os.path.isdir(photograph) else "there is no such file"
            raise UsageError(f"{photograph}: {what}")
    if not config.model.startswith("http"):
        start_tensorflow()
    client = clients.open_client(config.model, config.deadline, config.retries)
    failed = []
    with hidden_library_messages():
        settings = (config.signature, config.batch_size, config.parallel)
        for photograph, answer in predict(client, config.images, *settings):
            if isinstance(answer, RunError):
                failed.append(f"{printable(photograph)}: {answer}")
            elif config.format == "table" and "classes" not in answer:
                raise UsageError(f"--signature={config.signature}: has no classes for a table; add --format=jsonl")
            print((_as_json if config.format == "jsonl" else _as_block)(photograph, answer), flush=True)
    if failed:
        more = f" (and {len(failed) - 1} more of {len(config.images)})" if len(failed) > 1 else ""
        raise RunError(failed[0] + more)


def predict(client, photographs, signature="serving_default", batch_size=8, parallel=4):
    """Classifies files, several in a request and several requests at a time.

    Args:
        client: see `keras_alexnet.serving.client.open_client`.
        photographs: sequence of str, JPEG or PNG files.
        signature: str, one that takes image files.
        batch_size: int, files of a request.
        parallel: int, requests at a time.

    Yields:
        (file, dict of np.ndarray: classes (5,) and scores (5,), probabilities (classes,), or features; or a RunError
        that says what is wrong with the file), in the order that was given.

    Raises:
        RunError: the server or its answer is at fault, and not a file.
        UsageError: there is no such signature.
    """
    batches = [photographs[start : start + batch_size] for start in range(0, len(photographs), batch_size)]
    pool = concurrent.futures.ThreadPoolExecutor(parallel)
    # Only so many ahead of what is used: ten thousand photographs are not to be in memory.
    waiting = collections.deque()
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(_classify, client, batch, signature)))
            if len(waiting) >= 2 * parallel:
                first, future = waiting.popleft()
                yield from zip(first, future.result(), strict=True)
        for first, future in waiting:
            yield from zip(first, future.result(), strict=True)
    except BaseException:
        client.close()  # else an interruption from the keyboard would wait for answers that nobody wants
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _classify(client, batch, signature):
    """One answer or RunError for each file of a batch."""
    contents, answers = [], [None] * len(batch)
    for place, photograph in enumerate(batch):
        try:
            with open(photograph, "rb") as file:
                contents.append((place, file.read()))
        except OSError as error:
            answers[place] = RunError(f"cannot be read ({error.strerror})")
    for place, answer in _answers(client, contents, signature):
        answers[place] = answer
    return answers


def _answers(client, contents, signature):
    """(place, answer) of (place, bytes): together, or where one of them is refused each by itself."""
    if not contents:
        return []
    try:
        together = client.predict([file for _, file in contents], signature)
    except clients.RefusedError as error:
        if len(contents) == 1:
            return [(contents[0][0], error)]
        return [found for each in contents for found in _answers(client, [each], signature)]
    return [(place, {name: value[row] for name, value in together.items()}) for row, (place, _) in enumerate(contents)]


def _as_json(photograph, answer):
    if isinstance(answer, RunError):
        said = {"error": str(answer)}
    else:
        # The five best are enough to read; who wants all probabilities asks the server.
        said = {name: value.tolist() for name, value in answer.items() if name != "probabilities"}
    return json.dumps({"file": photograph, **said}, allow_nan=False)


def _as_block(photograph, answer):
    if isinstance(answer, RunError):
        rows = [f"  error: {printable(str(answer))}"]
    else:
        pairs = zip(answer["classes"], answer["scores"], strict=True)
        rows = [f"  {100 * score:6.2f} %  {printable(name)}" for name, score in pairs]
    return "\n".join([printable(photograph), *rows])


if __name__ == "__main__":
    sys.exit(run_command("predict", main, sys.argv[1:]))
