import json
import shutil

import pytest

from keras_alexnet import AlexNet, card
from tests.runs import call, history, refusal


def test_a_card_tells_what_the_run_is(tiny_run, small_images, tmp_path):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("export", "logs"))
    (run / "curves.png").touch()
    (run / "class_names.txt").write_text("a|b\n<script>\n[x](http://e) `*\\\n")
    code, text, _ = call(card, run)
    _, front, body = text.split("---\n", 2)
    front, last = yaml.safe_load(front), history(run)[-1]
    assert (code, front["library_name"], front["pipeline_tag"]) == (0, "keras", "image-classification")
    assert "license" not in front  # the user's
    (result,) = front["model-index"][0]["results"]
    found = {each["type"]: each["value"] for each in result["metrics"]}
    assert found["accuracy"] == pytest.approx(1 - float(last["val_top1_error"]) / 100, abs=1e-5)
    assert found["top_5_accuracy"] == pytest.approx(1 - float(last["val_top5_error"]) / 100, abs=1e-5)
    # 6 kernels in 55x55 places, 6 maps of 6x6 to 256 units and to 3 classes, with their biases.
    parameters, products = 11 * 11 * 3 * 6 + 6 * 6 * 6 * 256 + 256 * 3, 55 * 55 * 363 * 6 + 216 * 256 + 256 * 3
    assert f"| parameters | {parameters + 6 + 256 + 3:,}, 0.2 MB in float32 |" in body
    assert f"| operations of an image | {2 * products:.3g} (" in body
    classes = r"a\|b, &lt;script&gt;, \[x\](http://e) \`\*\\"
    for words in (
        f"| data | {small_images.name}, 18 training images, 3 classes |",
        f"| classes | {classes} |",
        f"| top-1 error, top-5 error | {float(last['val_top1_error']):.2f} %, 0.00 %: validation set, center view |",
        "the central square is resized to 256x256",
        "![curves.png](../curves.png)",
    ):
        assert words in body
    # An export writes the same text, which had neither the figure nor the files of other runtimes then.
    written = (tiny_run / "export" / "README.md").read_text(encoding="utf-8")
    names = "blue_disk, red_square, striped_red_disk"
    assert written == text[: text.index("\n## Figures")].replace(classes, names)
    quantization = {"images": 9, "before": {"top1_error": 50.0}, "after": {"top1_error": 51.25}}
    parity = {"runtime": "keras 3.15.1", "largest_probability_difference": 2e-4}
    (run / "keras_int8" / "12").mkdir(parents=True)
    content = {"bytes": 1_500_000, "parity": parity, "quantization": quantization}
    (run / "keras_int8" / "12" / "metadata.json").write_text(json.dumps(content))
    row = "| keras_int8/12 | 1.5 MB | keras 3.15.1 | 0.0002 | 51.25 % (float32: 50.00 %), 9 images |"
    assert row in call(card, run)[1].splitlines()
    content = {"bytes": 9, "parity": parity, "epochs": 1, "measured": [{"top1_error": 62.5}]}
    (run / "keras_int8" / "12" / "metadata.json").write_text(json.dumps(content))
    assert call(card, run)[1].count("| 62.50 %, of the run after epoch 1 |") == 1


def test_operations_of_the_whole_network():
    """By the sizes of section 3.5: kernels times places, then the dense layers."""
    convolutions = 55**2 * 11**2 * 3 * 96 + 27**2 * 5**2 * 48 * 256
    convolutions += 13**2 * 9 * (256 * 384 + 192 * 384 + 192 * 256)
    products = convolutions + 9216 * 4096 + 4096 * 4096 + 4096 * 1000
    layers = AlexNet(devices=()).layers
    assert sum(card.operations(layer) for layer in layers if hasattr(layer, "kernel")) == 2 * products == 1_448_813_632


def test_what_has_no_card(tmp_path):
    assert refusal(card) == "name one run's folder, not 0"
    assert refusal(card, tmp_path) == f"{tmp_path}: is not a run (its flags.cfg is missing)"
