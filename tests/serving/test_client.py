import contextlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.errors import ArgumentError, RunError, UsageError
from keras_alexnet.serving import client as clients

KINDS = ("rest", "grpc")


@pytest.fixture(params=KINDS)
def client(request, server):
    return clients.open_client(getattr(server, request.param), deadline=60)


@pytest.fixture(scope="module")
def local(folder):
    return clients.open_client(folder)


def test_a_server_answers_as_the_model_and_the_folder(client, local, tiny_model, mean, files, center_views):
    for count in (1, 64):
        answer = client.predict(files[:count])
        expected = tf.nn.softmax(tiny_model(center_views[:count] - mean)).numpy()
        np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-3, atol=1e-6)
    expected = local.predict(files)
    assert answer["classes"].tolist() == expected["classes"].tolist()
    np.testing.assert_allclose(answer["scores"], expected["scores"], rtol=1e-3)
    assert answer["probabilities"].dtype == answer["scores"].dtype == np.float32
    # JSON has the features without a name.
    features, expected = (each.predict(files[:2], "features")["features"] for each in (client, local))
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_version_can_be_asked_for(kind, server, files):
    target = getattr(server, kind)
    assert clients.open_client(f"{target}/versions/1").predict(files[:1])
    for other in (f"{target}/versions/9", target.replace("alexnet", "resnet")):
        with pytest.raises(RunError, match="Servable not found"):
            clients.open_client(other).predict(files[:1])


def test_a_bad_image_is_refused_by_name_and_the_server_continues(client, files):
    with pytest.raises(clients.RefusedError, match=r"^image_bytes\[1\]: not a JPEG or PNG file"):
        client.predict([files[0], b"no image"])
    with pytest.raises(clients.RefusedError, match="^10000 images in one request; between 1 and 512 are accepted$"):
        client.predict([b""] * 10_000)
    with pytest.raises(UsageError, match='^--signature=nope: Serving signature name: "nope" not found'):
        client.predict(files[:1], "nope")
    with pytest.raises(UsageError, match="^--signature=images: input size does not match signature"):
        client.predict(files[:1], "images")
    assert client.predict(files[:1])["classes"].shape == (1, 5)


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_is_down_or_silent(scheme):
    client = clients.open_client(f"{scheme}://127.0.0.1:{free_port()}", deadline=1, retries=1)
    expected = r"failed 2 times \(.*\); is the server running, and is the address right\?$"
    with pytest.raises(RunError, match=expected) as failed:
        client.predict([b"x"])
    assert "\n" not in str(failed.value)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(RunError, match="no answer within 0.5 s|failed 4 times"):
            clients.open_client(address, deadline=0.5).predict([b"x"])
        if scheme == "grpc":  # close() ends it
            client = clients.open_client(address, deadline=60)
            threading.Timer(0.3, client.close).start()
            with pytest.raises(RunError):
                client.predict([b"x"])
        assert time.monotonic() - started < 10


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers every request with the next of `answers`: (status, bytes, headers)."""

    answers, seen = [], 0

    def do_POST(self):  # noqa: N802
        self.rfile.read(int(self.headers["Content-Length"]))
        status, content, headers = self.answers[min(type(self).seen, len(self.answers) - 1)]
        type(self).seen += 1
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # of a client that reads no more
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def answering():
    """A function of answers -> (address, handler), whose server ends with the test."""
    servers = []

    def start(*answers):
        answers = [(*answer, {})[:3] for answer in answers]
        kind = type("Handler", (Answering,), {"answers": answers, "seen": 0})
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}", kind

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


GOOD = json.dumps({"outputs": {"classes": [["a", "b"]], "scores": [[0.9, 0.1]]}}).encode()


def test_what_may_be_over_soon_is_repeated_and_nothing_else(answering):
    retry_soon = (429, b"{}", {"Retry-After": "soon"})  # nothing that can be read
    address, handler = answering((503, b'{"error": "loading"}'), retry_soon, (200, GOOD))
    assert clients.open_client(address, deadline=1).predict([b"x"])["classes"].tolist() == [["a", "b"]]
    assert handler.seen == 3
    for status, content, words in (
        (400, b'{"error": "image_bytes[0]: not a JPEG"}', r"^image_bytes\[0\]: not a JPEG$"),
        (413, b"", "the request is too large .HTTP status 413"),
        (302, b"", r"redirects to http://127.0.0.1:\d+/else\\x1b\[31mwhere; give the address"),
    ):
        address, handler = answering((status, content, {"Location": "/else\x1b[31mwhere"} if status == 302 else {}))
        with pytest.raises(RunError if status == 302 else clients.RefusedError, match=words):
            clients.open_client(address).predict([b"x"])
        assert handler.seen == 1


def test_a_server_may_say_when_to_ask_again(answering):
    address, handler = answering((503, b"{}", {"Retry-After": "1"}), (200, GOOD))
    started = time.monotonic()
    assert clients.open_client(address, deadline=100).predict([b"x"])
    assert 1 <= time.monotonic() - started < 5
    address, handler = answering((429, b"{}", {"Retry-After": "120"}))
    with pytest.raises(RunError, match="no answer within 30 s .HTTP status 429"):
        clients.open_client(address).predict([b"x"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>hello</html>", r"is not TensorFlow Serving's \(no outputs in JSON\)"),
        (b"[" * 200_000, "no outputs in JSON"),
        (b'{"outputs": {"classes": [["a"], ["b"]], "scores": [[1], [0]]}}', r"to 1 files are <U1, shape \(2, 1\)"),
        (b'{"outputs": {"classes": [["a"]], "scores": [[1, 2]]}}', "different shapes"),
        (b'{"outputs": {"scores": [[1, 2], [3]]}}', "scores in the answer are not a table"),
        (b'{"outputs": {"classes": [["a"]], "scores": [["x"]]}}', "scores in the answer to 1 files are <U1"),
        (b'{"outputs": {"classes": [["a"]], "scores": [[NaN]]}}', "scores in the answer have non-finite numbers"),
        (b'{"outputs": {"classes": [["a"]], "scores": [[1' + b"0" * 400 + b"]]}}", "scores in the answer are not a"),
        (b"x" * 2**19, "the answer is larger than 0 MB"),
    ],
)
def test_answers_of_other_kinds_are_one_line(answering, monkeypatch, content, words):
    monkeypatch.setattr(clients, "_MAX_ANSWER", 2**18)
    address, _ = answering((200, content))
    with pytest.raises(RunError, match=words) as failed:
        clients.open_client(address).predict([b"x"])
    assert not isinstance(failed.value, clients.RefusedError) and "\n" not in str(failed.value)


def test_https_to_a_server_without_it_is_named_at_once(server, files):
    with pytest.raises(RunError, match="SSL.*; is it an http:// address, or its certificate unknown?") as failed:
        clients.open_client(server.rest.replace("http://", "https://")).predict(files[:1])
    assert "times" not in str(failed.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_is_named_and_none_is_used_for_loopback(kind, server, files, monkeypatch):
    proxy = f"http://user:secret@127.0.0.1:{free_port()}"
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, proxy)
    assert clients.open_client(getattr(server, kind)).predict(files[:1])
    target = "http://host.invalid:8501" if kind == "rest" else "grpc://host.invalid:8500"
    with pytest.raises(RunError, match=r"through the proxy 127.0.0.1:\d+\): (failed|no answer)") as failed:
        clients.open_client(target, deadline=1, retries=0).predict(files[:1])
    assert "secret" not in str(failed.value)


def test_addresses():
    for target, parts in {
        "http://host": ("http", "host", None, "alexnet", None, False),
        "https://localhost:80/v1/models/flowers/versions/3": ("https", "localhost", 80, "flowers", "3", True),
        "grpc://[::1]:8500/flowers/versions/2": ("grpc", "[::1]", 8500, "flowers", "2", True),
    }.items():
        found = clients._ServerClient(target, 1, 1)
        assert (found.scheme, found.host, found.port, found.model, found.version, found.is_loopback) == parts
    others = (
        "ftp://h",
        "http://",
        "http://h:http",
        "http://h/v1/models/a:predict",
        "grpc://h/a/b",
        "http://h?a=1",
        f"grpc://h/a/versions/{10**19}",
        f"http://h/v1/models/a/versions/{'1' * 5000}",  # more digits than Python makes a number of
    )
    for target in (*others, "http://user:secret@h"):
        with pytest.raises(UsageError, match="^--model="):
            clients.open_client(target)


def test_folders_without_a_whole_model(tmp_path, folder, local, files):
    with pytest.raises(UsageError, match="--signature=images: the model has features, images, serving_default"):
        local.predict(files[:1], "images")
    for version in ("9", "10", "temp"):
        (tmp_path / "export" / version).mkdir(parents=True)
        (tmp_path / "export" / version / "saved_model.pb").write_bytes(b"no model")
    for target, words in (
        (tmp_path, r"is not an exported model .*did you mean .*export/10\?$"),
        (tmp_path / "export", r"did you mean .*export/10\?$"),
        ("localhost:8501", "for a server, write http://localhost:8501 or grpc://localhost:8501$"),
    ):
        with pytest.raises(UsageError, match=words):
            clients.open_client(str(target))
    shutil.copytree(folder, tmp_path / "a[1]")
    weights = shutil.copytree(folder, tmp_path / "half") / "variables" / "variables.data-00000-of-00001"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    for damaged in ("export/10", "half"):
        with pytest.raises(RunError, match="cannot be read") as failed:
            clients.open_client(str(tmp_path / damaged))
        assert "\n" not in str(failed.value)
    with pytest.raises(ArgumentError, match=r"must not contain \[ \]"):
        clients.open_client(str(tmp_path / "a[1]"))


@pytest.mark.skipif(not shutil.which("tensorflow_model_server"), reason="tensorflow_model_server is not on the PATH")
def test_the_real_server(folder, local, files, tmp_path):
    rest, grpc = free_port(), free_port()
    script = Path(__file__).parents[2] / "tools" / "serving" / "serve.sh"
    environment = {**os.environ, "REST_PORT": str(rest), "GRPC_PORT": str(grpc)}
    command = ["bash", str(script), str(Path(folder).parent), str(tmp_path / "config")]
    expected = local.predict(files[:3])
    with subprocess.Popen(command, env=environment) as process:
        try:
            for target in (f"http://127.0.0.1:{rest}", f"grpc://127.0.0.1:{grpc}"):
                answer = clients.open_client(target, deadline=120, retries=20).predict(files[:3])
                assert answer["classes"].tolist() == expected["classes"].tolist()
                np.testing.assert_allclose(answer["scores"], expected["scores"], rtol=1e-3)
        finally:
            process.terminate()
