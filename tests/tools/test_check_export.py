import json

import numpy as np

from keras_alexnet.data import shapes
from tools import check_export


def test_answers_are_compared_with_stored_ones(folder, tmp_path, capsys):
    images = [tmp_path / f"{number}.jpg" for number in range(2)]
    for number, image in enumerate(images):
        shapes.draw("red_star", number).save(image)
    reference = tmp_path / "answers.json"
    arguments = [str(folder), f"--reference={reference}"]
    assert check_export.main([*arguments, "--write", *map(str, images)]) == 0
    content = json.loads(reference.read_text())
    assert np.shape(content["answers"]["serving_default"]["probabilities"]) == (2, 6)
    assert np.shape(content["answers"]["features"]["features"]) == (2, 256)
    assert check_export.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "tensorflow 2.21" in shown and shown.count("largest difference 0.0e+00") == 8
    # A number, and a name.
    content["answers"]["serving_default"]["probabilities"][1][2] += 1e-3
    reference.write_text(json.dumps(content))
    assert check_export.main(arguments) == 1
    shown = capsys.readouterr().out
    assert "load: probabilities             largest difference 1.0e-03" in shown and "load_in_session: pro" in shown
    content["answers"]["serving_default"]["probabilities"][1][2] = float("nan")
    reference.write_text(json.dumps(content))
    assert check_export.main([*arguments, "--tolerance=1"]) == 1
    content["answers"]["serving_default"]["probabilities"][1][2] = 0.0
    content["answers"]["serving_default"]["classes"][0][0] = "a cat"
    reference.write_text(json.dumps(content))
    assert check_export.main([*arguments, "--tolerance=0.5"]) == 1


def test_what_cannot_be_compared(folder, tmp_path, capsys):
    assert check_export.main([str(folder), f"--reference={tmp_path / 'none.json'}"]) == 2
    for export, image in ((tmp_path, __file__), (folder, tmp_path / "none.jpg"), (folder, __file__)):
        arguments = [str(export), f"--reference={tmp_path / 'a.json'}", "--write", str(image)]
        assert check_export.main(arguments) == 2
    assert capsys.readouterr().err.count("check_export: ") == 4 and not (tmp_path / "a.json").exists()
