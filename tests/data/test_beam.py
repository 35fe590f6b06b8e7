"""Preparation by Apache Beam's direct runner: the same bytes as on one machine."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest

from keras_alexnet.data import sources
from keras_alexnet.data.preparation import Settings, prepare
from keras_alexnet.errors import UsageError
from tests.data.test_preparation import BAD, GOOD, STRANGE, files_of, pictures, write_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    bad = {f"newt/{name}": data for name, (data, _) in BAD.items()} | {f"cat/{name}": d for name, d in STRANGE.items()}
    write_folder(root / "train", pictures("train", 10) | bad)
    write_folder(root / "val", pictures("val", 5))
    return root


# In a process of its own: the runner opens connections, which tests here do not, and threads that outlive it.
SCRIPT = """
import functools, sys
from keras_alexnet.data import beam, preparation, sources
opener = functools.partial(sources.open_folder, sys.argv[1])
settings = preparation.Settings(shard_images=4, encoding=sys.argv[3])
write = beam.writer(opener, sys.argv[4:])
report = preparation.prepare(*opener(), sys.argv[2], settings, write=write, progress=lambda done, total: print(done))
print(report.handled)
"""


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_the_same_records_and_statistics(folder, tmp_path, encoding):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed")
    command = [sys.executable, "-c", SCRIPT, str(folder), str(tmp_path / "beam"), encoding, "--runner=DirectRunner"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    train, val = sources.open_folder(str(folder))
    total = train.count + val.count
    assert done.stdout.split() == [str(train.count), str(total), str(total)]
    prepare(train, val, str(tmp_path / "alone"), Settings(shard_images=4, encoding=encoding))
    assert files_of(tmp_path / "beam") == files_of(tmp_path / "alone")


def test_options_that_nobody_knows(folder):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed")
    from keras_alexnet.data import beam

    opener = functools.partial(sources.open_folder, str(folder))
    with pytest.raises(UsageError, match="--shard_imges: is neither an option of this program nor one of Beam's"):
        beam.writer(opener, ["--shard_imges=4"])


def test_without_beam(monkeypatch):
    from keras_alexnet.data import beam

    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UsageError, match=r"--beam: needs Apache Beam: pip install 'keras-alexnet\[beam\]'"):
        beam.writer(None, [])


def test_a_worker_that_finds_other_files(folder, tmp_path):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed")
    for split in ("train", "val"):
        write_folder(tmp_path / "other" / split, {f"{name}/a.jpg": GOOD for name in ("cat", "newt", "wolf")})
    script = SCRIPT.replace("*opener()", f"*sources.open_folder({str(tmp_path / 'other')!r})")
    script = script.replace("report =", "from keras_alexnet.cli import run_command\nrun = lambda argv:").replace(
        "print(report.handled)", 'sys.exit(run_command("prepare_dataset", run, []))'
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(tmp_path / "out"), "jpeg"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("prepare_dataset: Apache Beam: ")]
    assert "a worker finds other files there than the program that started it" in said
