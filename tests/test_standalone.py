import io
import re
import runpy
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_alexnet import standalone
from keras_alexnet.data.decoding import decode_center
from keras_alexnet.standalone import center_view
from tests.data.test_decoding import KINDS, QUICKLY, SIZES, encoded, photo


@pytest.mark.parametrize("size, resize", [(224, "shorter_side"), (227, "stretch")])
def test_the_pixels_are_those_of_the_graph_to_the_bit(size, resize):
    contents = {name: data for name, (data, _) in KINDS.items()}
    for shape in SIZES:
        contents |= {f"{kind} {shape}": encoded(photo(*shape), kind, **QUICKLY[kind]) for kind in QUICKLY}
    for name, data in contents.items():
        expected = decode_center(tf.constant(data), size, resize)
        np.testing.assert_array_equal(center_view(io.BytesIO(data), size, resize), expected, name)


def test_other_files_are_refused():
    with pytest.raises(OSError):
        center_view(io.BytesIO(b"GIF89a no image"))


def test_a_runtime_that_is_missing_is_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "metadata.json").write_text('{"shown_names": []}')
    (tmp_path / "model.onnx").touch()
    script = shutil.copy(standalone.__file__, tmp_path / "predict.py")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(sys, "argv", [str(script), "x.jpg"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "predict: onnxruntime is missing: pip install onnxruntime\n"
    for name in ("model.onnx", "metadata.json"):
        (tmp_path / name).unlink()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        assert ended.value.code == 2
        assert re.search(rf"predict: .*{name}.* is missing: copy the whole folder$", capsys.readouterr().err)


@pytest.mark.parametrize("code", range(1, 9))
def test_an_orientation_is_applied_as_in_the_graph(code):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = code
    pixels = np.random.default_rng(0).integers(0, 256, (290, 411, 3), np.uint8)
    # Pillow asks XMP where EXIF has no orientation; the graph does not.
    Image.fromarray(pixels).save(file, "JPEG", exif=exif if code > 1 else b"", xmp=b'tiff:Orientation="6"')
    for orientation in ("apply", "ignore"):
        expected = decode_center(tf.constant(file.getvalue()), 224, orientation=orientation).numpy()
        np.testing.assert_array_equal(center_view(io.BytesIO(file.getvalue()), orientation=orientation), expected)
