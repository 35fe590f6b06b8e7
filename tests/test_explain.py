import base64
import html
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from keras_alexnet import AlexNet, explain, load_image, preprocess_input
from keras_alexnet.data import shapes
from tests.runs import call, refusal

NASTY = "<b>$x&\"'.jpg"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / NASTY
    shapes.draw("red_square", 5).save(path, "JPEG")
    return path


def test_page_of_a_run(run_of_three_epochs, image, tmp_path):
    argv = [f"--model_dir={run_of_three_epochs}", "--sample=6", "--class_name=red_square", f"--out={tmp_path / 'out'}"]
    code, shown, _ = call(explain, *argv, image)
    assert code == 0
    page = (tmp_path / "out" / "explain.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|iframe|object|embed|form|base|b)\b|<[^>]* on\w+=|url\(|@import", page)
    assert "default-src 'none'" in page and page.count(f"<h2>{html.escape(NASTY)}</h2>") == 1
    sources = re.findall(r'<img [^>]*src="data:image/png;base64,([^"]+)"', page)
    files = {path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert {base64.b64decode(source) for source in sources} == files
    assert page.count('src="') == page.count("<img ") == len(sources)
    # The image's: crop, three of Grad-CAM, occlusion, two normalizations and five layers of two towers; then the run's.
    assert len(sources) == (5 + 2 * 2 + 5 * 2) + 1 + 5 * 2 * explain.UNITS
    text = html.unescape(page).replace("\xa0", " ")
    model = AlexNet(weights=run_of_three_epochs)
    pixels = load_image(image, run=run_of_three_epochs)
    inputs = preprocess_input(pixels, run=run_of_three_epochs)
    probability = model(inputs[None]).numpy()[0].max()
    assert f"<span>{100 * probability:.1f} %</span>" in text and f"{NASTY}: " in shown
    assert "speaks for red_square" in text and "The probability of red_square is" in text
    found = explain.summary(model)
    assert "0 of 6 filters of conv1 are dead" in text and f"{100 * found['aliasing']:.1f} % of the energy" in shown
    assert "Of 6 images of the set" in text and "conv5, tower 1, map " in text
    crop = Image.open(io.BytesIO(base64.b64decode(sources[0])))
    np.testing.assert_array_equal(np.asarray(crop), pixels)


def test_a_run_with_one_tower_and_one_convolution(tiny_run, image, tmp_path):
    argv = [f"--model_dir={tiny_run}", "--sample=0", f"--out={tmp_path}"]
    assert call(explain, *argv, image)[0] == 0
    text = (tmp_path / "explain.html").read_text(encoding="utf-8")
    assert "tower" not in re.sub("First tower or half", "", text) and "What conv1 answers to" not in text


def test_functions_are_here_too():
    assert explain.grad_cam.__module__ == "keras_alexnet.model.explanations" and callable(explain.conv1_grid)
    with pytest.raises(AttributeError, match="no_such"):
        _ = explain.no_such


def test_brightness_over_an_image():
    pixels = np.full((8, 8, 3), 100, np.uint8)
    heat, middles = np.array([[0.0, 2.0], [0.0, 2.0]]), [np.array([2, 6])] * 2
    found = explain.overlay(pixels, heat, middles, 2.0).astype(int)
    assert np.all(found == found[:1]) and np.all(np.diff(found.sum(-1)[0]) >= 0)
    np.testing.assert_array_equal(found[0, [0, 7]], [[45, 45, 47], [184, 184, 150]])


@pytest.mark.parametrize(
    ("argv", "words", "code"),
    [
        (["{image}"], "--model_dir is missing", 2),
        (["--model_dir={run}"], "no image is given", 2),
        (["--model_dir={tmp}", "{image}"], "is not a run", 2),
        (["--model_dir={run}", "--class_name=tulip", "{image}"], "--class_name=tulip: is not one of the run's 3 cl", 2),
        (["--model_dir={run}", "--out={image}/x", "{image}"], "cannot be created", 2),
        (["--model_dir={run}", "--data_dir=nowhere", "--out={tmp}/o", "{image}"], "--data_dir=nowhere: is not a f", 2),
        (["--model_dir={run}", "--out={tmp}/o", "{tmp}/bad.jpg"], "bad.jpg: a GIF image; only JPEG and PNG", 1),
    ],
)
def test_wrong_usage(argv, words, code, tiny_run, image, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"GIF89a")
    path = shutil.copy(image, tmp_path / "image.jpg")
    assert words in refusal(explain, *(each.format(run=tiny_run, tmp=tmp_path, image=path) for each in argv), code=code)
