import os
import stat

import pytest

from keras_alexnet.files import written_aside


def test_a_file_is_whole_and_readable_as_open_would_make_it(tmp_path):
    with written_aside(str(tmp_path / "a.txt")) as file:
        file.write("whole")
        assert not (tmp_path / "a.txt").exists()
    (tmp_path / "b.txt").write_text("as open makes it")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert stat.S_IMODE(os.stat(tmp_path / "a.txt").st_mode) == stat.S_IMODE(os.stat(tmp_path / "b.txt").st_mode)


def test_after_an_exception_the_old_file_is_there_and_nothing_else(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(RuntimeError), written_aside(str(tmp_path / "a.bin"), "wb") as file:
        file.write(b"half")
        raise RuntimeError
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.bin", b"old")]
