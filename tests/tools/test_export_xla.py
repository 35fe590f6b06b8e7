import re

import pytest
from tensorflow.compiler.xla.service import hlo_pb2

from keras_alexnet.cli import run_command
from tests.tools.conftest import load_tool


def run(*argv, code=0):
    assert run_command("export_xla", load_tool("export_xla").main, list(map(str, argv))) == code


def test_the_exported_step_takes_its_own_outputs(tmp_path):
    """Every variable that the step changes comes back in the shape in which the next step takes it."""
    run(tmp_path / "new", "--width=0.0625", "--batch_size=2,3", "--precision=mixed_bfloat16")
    assert len(list((tmp_path / "new").iterdir())) == 4
    for batch in (2, 3):
        stem = tmp_path / "new" / f"mixed_bfloat16-{batch}"
        module = hlo_pb2.HloModuleProto.FromString(stem.with_suffix(".hlo").read_bytes())
        shapes = [
            [(each.element_type, tuple(each.dimensions)) for each in part]
            for part in (module.host_program_shape.parameters, module.host_program_shape.result.tuple_shapes)
        ]
        (line,) = stem.with_suffix(".alias").read_text().splitlines()
        alias = {int(output): int(place) for output, place in re.findall(r"\{(\d+)\}: \((\d+), \{\}", line)}
        parameters, outputs = shapes
        # Kernels, biases and velocities of two towers and fc8; four random states; two rates, sums and step number.
        variables = 2 * 2 * 15 + 4 + 4
        assert all(shape[0] == batch for _, shape in parameters[:-variables]) and len(parameters) >= 2 + variables
        # The two rates stay; the loss is new.
        assert len(alias) == len(outputs) - 1 == variables - 2 and outputs[0][1] == ()
        assert all(parameters[place] == outputs[output] for output, place in alias.items())


@pytest.mark.parametrize("variant", ["paper", "owt2014"])
def test_the_step_is_of_any_variant(variant):
    settings = load_tool("export_xla").Settings(variant=variant, width=0.0625)
    layers = load_tool("rows_training").trainer_of(settings, "float32").model.layers
    assert ("conv1_tower1" in [layer.name for layer in layers]) == (variant == "paper")


def test_wrong_usage_is_one_line(tmp_path, capsys):
    for flag, words in (
        ("--batch_size=0", "must be whole numbers from 1"),
        ("--precision=half", "must be some of float32, mixed_bfloat16"),
    ):
        run(tmp_path, flag, code=2)
        error = capsys.readouterr().err
        assert f"{flag}: {words}" in error and error.count("\n") == 1
