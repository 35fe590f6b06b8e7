import os
import stat

import pytest

from keras_alexnet.files import atomic_directory, atomic_write


def test_a_file_is_whole_and_readable_as_open_would_make_it(tmp_path):
    with atomic_write(str(tmp_path / "a.txt")) as file:
        file.write("whole")
        assert not (tmp_path / "a.txt").exists()
    (tmp_path / "b.txt").write_text("as open makes it")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert stat.S_IMODE(os.stat(tmp_path / "a.txt").st_mode) == stat.S_IMODE(os.stat(tmp_path / "b.txt").st_mode)


def test_after_an_exception_the_old_file_is_there_and_nothing_else(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(str(tmp_path / "a.bin"), "wb") as file:
        file.write(b"half")
        raise RuntimeError
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.bin", b"old")]


def test_a_folder_takes_its_place_whole(tmp_path):
    with atomic_directory(str(tmp_path), lambda: str(tmp_path / "1")) as (aside, taken):
        (tmp_path / aside / "a.txt").write_text("whole")
        assert not (tmp_path / "1").exists() and taken.path is None
    assert taken.path == str(tmp_path / "1")
    assert [path.name for path in tmp_path.rglob("*")] == ["1", "a.txt"]
    os.mkdir(tmp_path / "2")
    assert os.stat(tmp_path / "1").st_mode == os.stat(tmp_path / "2").st_mode


def test_a_place_that_is_just_taken_is_left_to_who_took_it(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "other").touch()
    places = iter(["1", "2"])
    with atomic_directory(str(tmp_path), lambda: str(tmp_path / next(places))) as (aside, taken):
        (tmp_path / aside / "own").touch()
    assert taken.path == str(tmp_path / "2")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["1", "2", "other", "own"]


def test_after_an_exception_no_folder_is_there(tmp_path):
    with pytest.raises(RuntimeError), atomic_directory(str(tmp_path), lambda: str(tmp_path / "1")) as (aside, _):
        (tmp_path / aside / "half").touch()
        raise RuntimeError
    assert not list(tmp_path.iterdir())
