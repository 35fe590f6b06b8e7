import base64
import http.client
import re
import threading
import types

import numpy as np
import pytest

from keras_alexnet import evaluation, explore, flags
from keras_alexnet.errors import RunError
from keras_alexnet.evaluation import open_model
from keras_alexnet.paper import retrieval
from tests.browser import Browser
from tests.runs import refusal

WAIT = """new Promise(done => { const look = () => document.getElementById("said").textContent.startsWith("The network")
  ? setTimeout(look, 50) : done([result.innerText, said.textContent]); setTimeout(look, 50); })"""
DROP = """(() => {{ const dataTransfer = new DataTransfer();
  const bytes = Uint8Array.from(atob("{}"), each => each.charCodeAt(0));
  dataTransfer.items.add(new File([bytes], "image.jpg"));
  document.body.dispatchEvent(new DragEvent("drop", {{ bubbles: true, dataTransfer }})); }})()"""


@pytest.fixture(scope="module")
def index(run_of_three_epochs, small_images, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "index.npz"
    query = f"--query={small_images}/val/red_square/0.jpg"
    argv = [f"--model_dir={run_of_three_epochs}", f"--data_dir={small_images}", f"--index={path}", query]
    retrieval.run(flags.parse(retrieval.Settings, argv, ""))
    return path


@pytest.fixture(scope="module")
def served(run_of_three_epochs, index):
    """A server of a run: its explorer and address."""
    explorer = explore.Explorer(explore.ExploreConfig(model=str(run_of_three_epochs), index=str(index)))
    with explore.Server(explorer, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield types.SimpleNamespace(explorer=explorer, port=server.server_port)
        server.shutdown()


def ask(served, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers


def test_in_a_browser(served, small_images, run_of_three_epochs, tmp_path):
    browser, image = Browser(tmp_path), small_images / "val" / "red_square" / "1.jpg"
    try:
        for width in (1280, 390):
            browser.resize(width)
            browser.open(f"http://127.0.0.1:{served.port}/")
            assert browser.run("document.querySelectorAll('#examples button img').length") == 9
            browser.run("document.querySelector('#examples button').click()")
            chosen, said = browser.run(WAIT)
            assert "Grad-CAM" in chosen and "Nearest images" in chosen and said == "What it sees:"
            browser.run(DROP.format(base64.b64encode(image.read_bytes()).decode()))
            dropped, said = browser.run(WAIT)
            model = open_model(str(run_of_three_epochs))
            expected = model.served.classify_files(np.array([image.read_bytes()]))
            best = f"{expected['classes'].numpy()[0, 0].decode()}\n{100 * expected['scores'].numpy()[0, 0]:.1f} %"
            assert best in dropped.replace("\xa0", " ") and said == "What it sees:"
            for words in ("joined", "conv1, tower 1", "norm2", "Normalization off", "Dropout", "Nearest images"):
                assert words in dropped
            assert browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
            browser.run(DROP.format(base64.b64encode(b"RIFF\0\0\0\0WEBPVP8 ").decode()))
            nothing, said = browser.run(WAIT)
            assert not nothing and said.startswith("This is not an image that can be read: a WebP image; only JPEG and")
        # A refused image is an answer that the console shows, too.
        assert all("422" in problem for problem in browser.problems) and len(browser.problems) == 2
        here = f"http://127.0.0.1:{served.port}/"
        assert len(browser.asked) > 8 and all(each.startswith((here, "data:")) for each in browser.asked)
    finally:
        browser.close()


def test_what_a_server_refuses(served):
    port = served.port
    assert ask(served, "GET", "/", Host=f"localhost:{port}")[0] == 200
    assert ask(served, "GET", "/../flags.cfg")[0] == 404
    status, text, _ = ask(served, "GET", "/", Host=f"evil.example:{port}")
    assert status == 403 and text.startswith(f"Open http://127.0.0.1:{port}/ on this machine")
    assert ask(served, "POST", "/explain/0", Origin="http://evil.example")[0] == 403
    for path in ("/explain/9", "/explain/-1", "/explain/../0"):
        assert ask(served, "POST", path)[0] == 404
    for length in ("32000001", "-1", "x"):
        status, text, _ = ask(served, "POST", "/explain", **{"Content-Length": length})
        assert status == 413 and text.startswith("The file has more than 32 MB")
    status, text, headers = ask(served, "POST", "/explain", b"<script>")
    assert status == 422 and text == "This is not an image that can be read: not a JPEG or PNG file."
    assert (
        headers["Content-Type"].startswith("text/plain") and "default-src 'none'" in headers["Content-Security-Policy"]
    )


def test_sets_that_are_not_of_files_give_no_examples(monkeypatch):
    source = types.SimpleNamespace(paths=("a.tfrecord",))  # as records have them
    monkeypatch.setattr(evaluation, "open_set", lambda *given: (source, {}))
    assert explore.example_paths(explore.ExploreConfig(), None) == []


def test_nearest_images_are_those_of_the_index(served, small_images):
    image = small_images / "train" / "blue_disk" / "3.jpg"
    text = served.explorer.answer(image.read_bytes())
    # One image gives other last bits than the batches of the index.
    name, distance = re.findall(r"<figcaption>(\w+) (\d\.\d{4})</figcaption>", text.partition("Of 18 images")[2])[0]
    assert name == "blue_disk" and float(distance) < 0.001


def test_an_exported_model_has_classes_and_nearest_images(run_of_three_epochs, index, small_images):
    config = explore.ExploreConfig(model=str(run_of_three_epochs / "export" / "1"), index=str(index))
    explorer = explore.Explorer(config)
    assert "needs a run, --model=RUN" in explorer.page() and len(explorer.examples) == 9
    text = explorer.answer((small_images / "val" / "red_square" / "0.jpg").read_bytes())
    assert "What the network sees" in text and "Nearest images" in text and "Grad-CAM" not in text
    with pytest.raises(RunError, match="This is not an image that can be read: not a JPEG or PNG file"):
        explorer.answer(b"no image")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "--model is missing"),
        (["--model={tmp}"], "is not an exported model"),
        (["--model={run}", "--examples=nowhere"], "--examples=nowhere: is not a folder"),
        (["--model={run}", "--examples={tmp}"], "holds no JPEG or PNG files"),
        (["--model={run}", "--index=nowhere"], "--index=nowhere: there is no such file"),
        (["--model={run}", "--index={index}"], "is of another model"),
        (["--model={run}", "--port={port}"], "cannot be used (Address already in use)"),
    ],
)
def test_wrong_usage(argv, words, served, tiny_run, index, tmp_path):
    values = {"run": tiny_run, "tmp": tmp_path, "index": index, "port": served.port}
    assert words in refusal(explore, *(each.format(**values) for each in argv))
