"""The clients against a server of TensorFlow Serving's protocol, against none, and against servers of other kinds."""

import contextlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.serving import client as clients

KINDS = ("rest", "grpc")


@pytest.fixture(params=KINDS)
def client(request, server):
    return clients.open_client(getattr(server, request.param), deadline=60)


@pytest.mark.parametrize("count", [1, 3, 64])
def test_a_server_answers_as_the_model(client, tiny_model, mean, files, center_views, count):
    answer = client.predict(files[:count])
    expected = tf.nn.softmax(tiny_model(center_views[:count] - mean)).numpy()
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-3, atol=1e-6)
    assert answer["classes"].shape == answer["scores"].shape == (count, 5)
    assert answer["probabilities"].dtype == answer["scores"].dtype == np.float32


def test_rest_grpc_and_the_folder_agree(server, folder, files):
    answers = [clients.open_client(target).predict(files[:3]) for target in (server.rest, server.grpc, folder)]
    for answer in answers[1:]:
        assert answer["classes"].tolist() == answers[0]["classes"].tolist()
        np.testing.assert_allclose(answer["scores"], answers[0]["scores"], rtol=1e-3)


def test_features_come_without_a_name_in_json_and_get_one(client, folder, files):
    features = client.predict(files[:2], "features")["features"]
    np.testing.assert_allclose(
        features, clients.open_client(folder).predict(files[:2], "features")["features"], rtol=1e-3, atol=1e-5
    )


def test_many_requests_at_a_time(client, files):
    alone = [client.predict([file])["classes"][0].tolist() for file in files[:16]]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda file: client.predict([file])["classes"][0].tolist(), files[:16]))
    assert together == alone


def test_a_version_can_be_asked_for(server, files):
    for target in (server.rest, server.grpc):
        assert clients.open_client(f"{target}/versions/1").predict(files[:1])
        with pytest.raises(RunError, match="Servable not found"):
            clients.open_client(f"{target}/versions/9").predict(files[:1])
        with pytest.raises(RunError, match="Servable not found"):
            clients.open_client(target.replace("alexnet", "resnet")).predict(files[:1])


def test_a_bad_picture_is_refused_by_name_and_the_server_goes_on(client, files):
    with pytest.raises(clients.RefusedError, match=r"^image_bytes\[1\]: not a JPEG or PNG file"):
        client.predict([files[0], b"no picture"])
    with pytest.raises(clients.RefusedError, match="^10000 images in one request; 1 to 512 are taken$"):
        client.predict([b""] * 10_000)
    with pytest.raises(UsageError, match='^--signature=nope: Serving signature name: "nope" not found'):
        client.predict(files[:1], "nope")
    with pytest.raises(UsageError, match="^--signature=images: input size does not match signature"):
        client.predict(files[:1], "images")
    assert client.predict(files[:1])["classes"].shape == (1, 5)


def test_the_published_rest_paths(server, files):
    with urllib.request.urlopen(server.rest) as response:
        assert json.load(response)["model_version_status"][0]["state"] == "AVAILABLE"
    with urllib.request.urlopen(f"{server.rest}/metadata") as response:
        metadata = json.load(response)
    assert set(metadata["metadata"]["signature_def"]["signatureDef"]) >= {"serving_default", "images", "features"}


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_is_down(scheme):
    client = clients.open_client(f"{scheme}://127.0.0.1:{free_port()}", deadline=20, retries=1)
    with pytest.raises(
        RunError, match=r"failed 2 times \(.*\); is the server running, and this its address\?$"
    ) as failed:
        client.predict([b"x"])
    assert "\n" not in str(failed.value)


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers every request with the next of `answers`: (status, bytes, seconds to wait before)."""

    answers, seen = [], 0

    def do_POST(self):  # noqa: N802
        self.rfile.read(int(self.headers["Content-Length"]))
        status, content, wait = self.answers[min(type(self).seen, len(self.answers) - 1)]
        type(self).seen += 1
        time.sleep(wait)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # of a client that waits no longer
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def answering():
    """A function of answers -> (address, handler), whose server ends with the test."""
    servers = []

    def start(*answers):
        kind = type("Handler", (Answering,), {"answers": answers, "seen": 0})
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}", kind

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


GOOD = json.dumps({"outputs": {"classes": [["a", "b"]], "scores": [[0.9, 0.1]]}}).encode()


def test_what_is_over_soon_is_repeated(answering):
    address, handler = answering((503, b'{"error": "loading"}', 0), (429, b"{}", 0), (200, GOOD, 0))
    assert clients.open_client(address).predict([b"x"])["classes"].tolist() == [["a", "b"]]
    assert handler.seen == 3


def test_repetitions_have_a_limit(answering):
    address, handler = answering((503, b'{"error": "still loading"}', 0))
    with pytest.raises(RunError, match=r"failed 3 times \(still loading\)"):
        clients.open_client(address, retries=2).predict([b"x"])
    assert handler.seen == 3


def test_what_is_wrong_is_not_repeated(answering):
    address, handler = answering((400, b'{"error": "image_bytes[0]: not a JPEG"}', 0))
    with pytest.raises(clients.RefusedError, match=r"^image_bytes\[0\]: not a JPEG$"):
        clients.open_client(address).predict([b"x"])
    assert handler.seen == 1


def test_a_slow_server_meets_the_deadline(answering):
    address, _ = answering((200, GOOD, 30))
    started = time.monotonic()
    with pytest.raises(RunError, match=r"no answer within 0.5 s"):
        clients.open_client(address, deadline=0.5).predict([b"x"])
    assert time.monotonic() - started < 5


DRIPS = {
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-More: 1\r\n"),
    "letters of a header": (b"HTTP/1.1 200 OK\r\nX-", b"x"),
    "a body": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" "),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "promises": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.fixture
def dripping():
    """A function of what comes first and what comes ten times a second from then on -> an address."""
    stop, sockets = threading.Event(), []

    def serve(listening, first, drop):
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(2**16)
            connection.sendall(first)
            while not stop.wait(0.1):
                connection.sendall(drop)

    def start(first, drop):
        listening = socket.create_server(("127.0.0.1", 0))
        sockets.append(listening)
        threading.Thread(target=serve, args=(listening, first, drop), daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    stop.set()
    for listening in sockets:
        listening.close()


@pytest.mark.parametrize("kind", DRIPS)
def test_a_server_that_drips_meets_the_deadline(dripping, kind):
    client = clients.open_client(dripping(*DRIPS[kind]), deadline=1, retries=0)
    started = time.monotonic()
    with pytest.raises(RunError, match="no answer|failed 1 times") as failed:
        client.predict([b"x"])
    assert time.monotonic() - started < 5 and "\n" not in str(failed.value)


def test_a_client_that_is_closed_waits_no_longer(dripping):
    client = clients.open_client(dripping(*DRIPS["a body"]), deadline=60)
    threading.Timer(0.3, client.close).start()
    started = time.monotonic()
    with pytest.raises(RunError, match="the client was closed"):
        client.predict([b"x"])
    assert time.monotonic() - started < 10


def test_a_grpc_client_that_is_closed_waits_no_longer():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = clients.open_client(f"grpc://127.0.0.1:{silent.getsockname()[1]}", deadline=60)
        threading.Timer(0.3, client.close).start()
        started = time.monotonic()
        with pytest.raises(RunError):
            client.predict([b"x"])
        assert time.monotonic() - started < 10


def test_a_slow_grpc_server_meets_the_deadline():
    with socket.socket() as silent:  # takes the connection and never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = clients.open_client(f"grpc://127.0.0.1:{silent.getsockname()[1]}", deadline=0.5)
        with pytest.raises(RunError, match="no answer within 0.5 s|failed 4 times"):
            client.predict([b"x"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>hello</html>", r"something else than TensorFlow Serving does \(no JSON\)"),
        (b"\xff\xfe\x00", r"\(no JSON\)"),
        (b"[1, 2]", r"\(no outputs\)"),
        (b'{"predictions": []}', r"\(no outputs\)"),
        (b'{"outputs": {}}', "without a single output"),
        (b'{"outputs": {"classes": [["a"], ["b"]], "scores": [[1], [0]]}}', r"classes of shape \(2, 1\) to 1 files"),
        (b'{"outputs": {"classes": [["a"]], "scores": [[1, 2]]}}', "different shapes"),
        (b'{"outputs": {"scores": [[1, 2], [3]]}}', "scores that are no table|scores of shape"),
        (b'{"outputs": 7}', "of shape"),
        (b'{"outputs": {"classes": [[]], "scores": [[]]}}', "of shape"),
        (b'{"outputs": {"classes": [["a"]], "scores": [["x"]]}}', "scores that are not all numbers"),
        (b'{"outputs": {"classes": [["a"]], "scores": [[null]]}}', "scores that are not all numbers"),
        (b'{"outputs": {"classes": [["a"]], "scores": [[true]]}}', "scores that are not all numbers"),
        (b'{"outputs": {"classes": [["a"]], "scores": [[NaN]]}}', "scores that are not all numbers"),
        (b'{"outputs": {"classes": [["a"]], "scores": [[1' + b"0" * 400 + b"]]}}", "scores that are not all numbers"),
        (b'{"outputs": {"classes": [[null]], "scores": [[1]]}}', "classes that are no texts"),
        (b'{"outputs": {"classes": [[7]], "scores": [[1]]}}', "classes that are no texts"),
        (b'{"outputs": {"classes": [[["a"]]], "scores": [[[1]]]}}', "of shape"),
        (b"[" * 200_000, r"\(no JSON\)"),
    ],
)
def test_garbage_is_called_so(answering, content, words):
    address, _ = answering((200, content, 0))
    with pytest.raises(RunError, match=words) as failed:
        clients.open_client(address).predict([b"x"])
    assert not isinstance(failed.value, clients.RefusedError) and "\n" not in str(failed.value)


def test_an_answer_without_end_is_cut(answering, monkeypatch):
    monkeypatch.setattr(clients, "_MAX_ANSWER", 2**20)
    address, _ = answering((200, b"x" * 2**22, 0))
    with pytest.raises(RunError, match="the answer is larger than 1 MB"):
        clients.open_client(address).predict([b"x"])


def test_redirections_are_not_followed(answering):
    address, _ = answering((302, b"", 0))
    with pytest.raises(RunError, match="HTTP status 302"):
        clients.open_client(address).predict([b"x"])


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("http://host", ("http", "host", None, "alexnet", None)),
        ("http://host:80/v1/models/flowers/versions/3", ("http", "host", 80, "flowers", "3")),
        ("https://host/v1/models/flowers/", ("https", "host", None, "flowers", None)),
        ("grpc://[::1]:8500/flowers/versions/2", ("grpc", "[::1]", 8500, "flowers", "2")),
    ],
)
def test_addresses(target, parts):
    assert clients._parse(target) == parts


@pytest.mark.parametrize(
    "target",
    [
        "ftp://host",
        "http://",
        "http://host:http",
        "http://host/v1/models/a:predict",
        "grpc://host/a/b",
        "http://host?a=1",
        "http://user:secret@host",
    ],
)
def test_what_is_no_address(target):
    with pytest.raises(UsageError, match="^--model="):
        clients.open_client(target)


def test_what_is_no_folder_of_a_model(tmp_path):
    with pytest.raises(UsageError, match=r"is no exported model \(there is no saved_model.pb in it\)"):
        clients.open_client(str(tmp_path))
    (tmp_path / "saved_model.pb").write_bytes(b"no model")
    with pytest.raises(RunError, match="cannot be read"):
        clients.open_client(str(tmp_path))


def test_a_folder_that_was_half_copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "1")
    weights = tmp_path / "1" / "variables" / "variables.data-00000-of-00001"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(RunError, match="cannot be read") as failed:
        clients.open_client(str(tmp_path / "1"))
    assert "\n" not in str(failed.value)


def test_a_folder_knows_its_signatures(folder, files):
    with pytest.raises(UsageError, match="--signature=images: the model has features, images, serving_default"):
        clients.open_client(folder).predict(files[:1], "images")


@pytest.mark.skipif(not shutil.which("tensorflow_model_server"), reason="tensorflow_model_server is not on the PATH")
def test_the_real_server(folder, files, tmp_path):
    rest, grpc = free_port(), free_port()
    script = Path(__file__).parents[2] / "tools" / "serving" / "serve.sh"
    environment = {**os.environ, "REST_PORT": str(rest), "GRPC_PORT": str(grpc)}
    command = ["bash", str(script), str(Path(folder).parent), str(tmp_path / "config")]
    with subprocess.Popen(command, env=environment) as process:
        try:
            targets = (f"http://127.0.0.1:{rest}", f"grpc://127.0.0.1:{grpc}")
            answers = [clients.open_client(each, deadline=120, retries=20).predict(files[:3]) for each in targets]
            expected = clients.open_client(folder).predict(files[:3])
            for answer in answers:
                assert answer["classes"].tolist() == expected["classes"].tolist()
                np.testing.assert_allclose(answer["scores"], expected["scores"], rtol=1e-3)
            for each in targets:
                with pytest.raises(clients.RefusedError, match=r"image_bytes\[1\]"):
                    clients.open_client(each).predict([files[0], b"no picture"])
        finally:
            process.terminate()
