import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from keras_alexnet import predict
from keras_alexnet.data import shapes
from keras_alexnet.errors import RunError
from keras_alexnet.serving import client as clients
from tests.runs import call, refusal


@pytest.fixture(scope="module")
def paths(files, tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for index, content in enumerate(files[:20]):
        (root / f"{index}.png").write_bytes(content)
    return [str(root / f"{index}.png") for index in range(20)]


@pytest.fixture(scope="module", autouse=True)
def expected(folder, files):
    """The answers for the images; each model is loaded once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clients, "open_client", functools.cache(clients.open_client))
        yield clients.open_client(folder, 30.0, 3).predict(files[:20])


@pytest.mark.parametrize("kind", ["folder", "rest", "grpc"])
def test_lines_of_json_in_the_order_given(request, kind, paths, folder, expected):
    target = folder if kind == "folder" else getattr(request.getfixturevalue("server"), kind)
    code, shown, _ = call(predict, f"--model={target}", "--format=jsonl", "--batch_size=3", "--parallel=2", *paths)
    answers = [json.loads(line) for line in shown.splitlines()]
    assert code == 0 and [answer["file"] for answer in answers] == paths
    assert [answer["classes"] for answer in answers] == expected["classes"].tolist()
    assert answers[5]["scores"] == pytest.approx(expected["scores"][5].tolist(), rel=1e-3)


def test_a_bad_file_keeps_none_of_the_others_from_being_classified(folder, paths, expected, tmp_path):
    bad, sparse = tmp_path / "bad.jpg", tmp_path / "sparse.jpg"
    bad.write_bytes(b"no image")
    with open(sparse, "wb") as file:
        file.truncate(2**40)
    given = [*paths[:3], str(bad), paths[0], str(sparse)]
    code, shown, error = call(predict, f"--model={folder}", *given)
    blocks = [block.splitlines() for block in ("\n" + shown).split("\n/") if block]
    assert code == 1 and [f"/{block[0]}" for block in blocks] == given
    assert [len(block) for block in blocks] == [6, 6, 6, 2, 6, 2] and blocks[3][1] == "  error: not a JPEG or PNG file"
    assert blocks[5][1] == "  error: has 1,099,511,627,776 bytes; at most 536,870,912 are read"
    assert blocks[0] == blocks[4]  # a file that is given twice
    assert blocks[0][1] == f"  {100 * expected['scores'][0, 0]:6.2f} %  {expected['classes'][0, 0]}"
    assert error == f"command: {bad}: not a JPEG or PNG file (and 1 more of 6)\n"


def test_features_in_lines_of_json(folder, paths):
    argv = [f"--model={folder}", "--signature=features", paths[0]]
    assert len(json.loads(call(predict, *argv, "--format=jsonl")[1])["features"]) == 256
    assert "add --format=jsonl" in refusal(predict, *argv)


class FakeClient:
    """Takes up to `most` files in a request and fails in the last of `requests`."""

    def __init__(self, most=100, requests=1000):
        self.sizes, self.closed, self.most, self.requests = [], False, most, requests

    def close(self):
        self.closed = True

    def predict(self, files, signature):
        self.sizes.append(len(files))
        if len(self.sizes) == self.requests:
            raise RunError("the server is gone")
        if len(files) > self.most:
            raise clients.RefusedError("the request is too large")
        return {"classes": np.full((len(files), 1), "a"), "scores": np.ones((len(files), 1))}


def test_the_end_of_a_server_ends_everything(paths):
    client = FakeClient(requests=6)
    with pytest.raises(RunError, match="the server is gone"):
        list(predict.predict(client, paths * 20, batch_size=4, parallel=1))
    assert client.sizes[:6] == [4] * 6 and len(client.sizes) < 12 and client.closed


def test_a_request_that_is_too_large_is_divided(paths):
    client = FakeClient(most=2)
    answers = list(predict.predict(client, paths[:8], batch_size=8, parallel=1))
    assert [path for path, _ in answers] == paths[:8] and all(answer["classes"] == ["a"] for _, answer in answers)
    assert client.sizes == [8, 4, 2, 2, 4, 2, 2] and not client.closed
    alone = list(predict.predict(FakeClient(most=0), paths[:2]))
    assert [str(answer) for _, answer in alone] == ["the request is too large"] * 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["image.jpg"], "--model is missing"),
        (["--model=m"], "no image is given"),
        (["--model=m", "no\x1b[31m\nwhere.jpg"], r"no\x1b[31m\nwhere.jpg: there is no such file"),
        (["--model=m", "{tmp}"], "is a folder; name the files in it"),
        (["--model=m", "{tmp}/pipe"], "pipe: is not a regular file"),
        (["--model={tmp}", "{image}"], "is not an exported model"),
        (["--model=ftp://x", "{image}"], "give http://, https://, grpc:// or the folder"),
    ],
)
def test_wrong_usage(argv, words, paths, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert words in refusal(predict, *(each.format(tmp=tmp_path, image=paths[0]) for each in argv))


def test_on_a_strict_terminal_with_a_truncated_file(folder, files, tmp_path):
    """In a process of its own: a name that is no text of the terminal's, and what libjpeg prints of a bad file."""
    name = os.fsencode(tmp_path) + b"/\xff\nname.png"
    with open(name, "wb") as file:
        file.write(files[0])
    shapes.draw("red_disk", 0).save(tmp_path / "cut.jpg")
    os.truncate(tmp_path / "cut.jpg", 3000)
    command = [sys.executable, "-m", "keras_alexnet.predict", f"--model={folder}", name, str(tmp_path / "cut.jpg")]
    # as a user's, in which nothing has told TensorFlow what to print
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(command, capture_output=True, env={**environment, "PYTHONIOENCODING": "utf-8:strict"})
    lines, errors = (text.decode().splitlines() for text in (done.stdout, done.stderr))
    assert done.returncode == 1 and len(lines) == 8 and "udcff" in lines[0]
    assert len(errors) == 1 and errors[0].startswith(f"predict: {tmp_path / 'cut.jpg'}: "), errors


def test_an_interruption_does_not_wait_for_the_server(paths, default_handlers):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "keras_alexnet.predict", f"--model={address}", "--deadline=300", paths[0]]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            silent.settimeout(60)
            connection, _ = silent.accept()
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130
            assert time.monotonic() - started < 10
            assert process.stderr.read() == "predict: interrupted\n"
            connection.close()
