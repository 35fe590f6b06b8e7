import functools
import io
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
from keras_alexnet.cli import run_command
from keras_alexnet.data import shapes
from keras_alexnet.errors import RunError
from keras_alexnet.serving import client as clients


@pytest.fixture(scope="module")
def photographs(files, tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for index, content in enumerate(files[:20]):
        (root / f"{index}.png").write_bytes(content)
    return [str(root / f"{index}.png") for index in range(20)]


def run(*argv):
    return run_command("predict", predict.main, list(argv))


def test_the_table(folder, photographs, files, capsys):
    assert run(f"--model={folder}", *photographs[:2]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[6]] == photographs[:2]
    best = clients.open_client(folder).predict(files[:2])
    assert lines[1] == f"  {100 * best['scores'][0, 0]:6.2f} %  {best['classes'][0, 0]}"


@pytest.mark.parametrize("kind", ["folder", "rest", "grpc"])
def test_lines_of_json_in_the_order_given(request, kind, photographs, files, folder, capsys):
    target = folder if kind == "folder" else getattr(request.getfixturevalue("server"), kind)
    assert run(f"--model={target}", "--format=jsonl", "--batch_size=3", "--parallel=2", *photographs) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["file"] for answer in answers] == photographs
    expected = clients.open_client(folder).predict(files[:20])
    assert [answer["classes"] for answer in answers] == expected["classes"].tolist()
    assert answers[5]["scores"] == pytest.approx(expected["scores"][5].tolist(), rel=1e-3)


def test_a_bad_photograph_keeps_none_of_the_others(folder, photographs, tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    given = [*photographs[:3], str(bad), *photographs[3:5], str(empty)]
    assert run(f"--model={folder}", "--format=jsonl", *given) == 1
    captured = capsys.readouterr()
    answers = [json.loads(line) for line in captured.out.splitlines()]
    assert [answer["file"] for answer in answers if "error" not in answer] == photographs[:5]
    assert captured.err == f"predict: {bad}: not a JPEG or PNG file (and 1 more of 7)\n"
    assert run(f"--model={folder}", *given) == 1
    blocks = capsys.readouterr().out
    assert f"{bad}\n  error: not a JPEG or PNG file\n{given[4]}\n" in blocks and f"{empty}\n  error: " in blocks
    assert run(f"--model={folder}", str(bad)) == 1
    assert capsys.readouterr().err == f"predict: {bad}: not a JPEG or PNG file\n"


def test_features_in_lines_of_json(folder, photographs, capsys):
    assert run(f"--model={folder}", "--signature=features", "--format=jsonl", photographs[0]) == 0
    assert len(json.loads(capsys.readouterr().out)["features"]) == 256
    assert run(f"--model={folder}", "--signature=features", photographs[0]) == 2
    assert "add --format=jsonl" in capsys.readouterr().err


class Counting:
    """A client that says how many requests it answers at a time."""

    def __init__(self):
        self.sizes, self.closed = [], False

    def close(self):
        self.closed = True

    def predict(self, files, signature):
        self.sizes.append(len(files))
        if len(self.sizes) == 6:
            raise RunError("the server is gone")
        return {"classes": np.full((len(files), 1), "a"), "scores": np.ones((len(files), 1))}


def test_the_end_of_a_server_ends_everything(photographs):
    client = Counting()
    with pytest.raises(RunError, match="the server is gone"):
        list(predict.predict(client, photographs * 20, batch_size=4, parallel=1))
    assert client.sizes[:6] == [4] * 6 and len(client.sizes) < 12
    assert client.closed


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["photo.jpg"], "--model is missing"),
        (["--model=m"], "no photograph given"),
        (["--model=m", "nowhere.jpg"], "nowhere.jpg: there is no such file"),
        (["--model=m", "{tmp}"], "is a folder; name the files in it"),
        (["--model={tmp}", "{photo}"], "is no exported model"),
        (["--model=ftp://x", "{photo}"], "give http://, https://, grpc:// or the folder"),
        (["--model=m", "--batch_size=0", "{photo}"], "batch_size"),
        (["--model=m", "--deadline=nan", "{photo}"], "--deadline=nan"),
        (["--model=m", "--format=xml", "{photo}"], "format"),
    ],
)
def test_wrong_usage(argv, words, photographs, tmp_path, capsys):
    assert run(*(each.format(tmp=tmp_path, photo=photographs[0]) for each in argv)) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_names_that_are_no_text_of_the_terminals(folder, files, tmp_path):
    """In a process of its own, with a strict terminal."""
    name = os.fsencode(tmp_path) + b"/\xff\nname.png"
    with open(name, "wb") as file:
        file.write(files[0])
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    for form in ("table", "jsonl"):
        command = [sys.executable, "-m", "keras_alexnet.predict", f"--model={folder}", f"--format={form}", name]
        done = subprocess.run(command, capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.decode().splitlines()
        assert len(lines) == (6 if form == "table" else 1) and "udcff" in lines[0]


def test_what_libraries_print_of_bad_pictures_is_not_on_the_screen(folder, tmp_path):
    picture = io.BytesIO()
    shapes.draw("red_disk", 0).save(picture, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(picture.getvalue()[:3000])
    command = [sys.executable, "-m", "keras_alexnet.predict", f"--model={folder}", str(tmp_path / "cut.jpg")]
    # as a user's, in which nothing has told TensorFlow what to print
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"predict: {tmp_path / 'cut.jpg'}: ")


def test_an_interruption_does_not_wait_for_the_server(files, tmp_path):
    (tmp_path / "photo.png").write_bytes(files[0])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "keras_alexnet.predict", f"--model={address}", "--deadline=300"]
        command.append(str(tmp_path / "photo.png"))
        # A shell's background jobs, such as these tests may be one of, hand down that they are not to be interrupted.
        heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
            silent.settimeout(60)
            connection, _ = silent.accept()
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130
            assert time.monotonic() - started < 10
            assert process.stderr.read() == "predict: interrupted\n"
            connection.close()
