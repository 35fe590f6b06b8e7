"""Writes the training step as XLA has it, for machines with XLA (JAX) and without TensorFlow.

    python tools/export_xla.py OUT [--batch_size=128,1024] [--precision=float32,mixed_bfloat16]

PRECISION-BATCH.hlo in the folder OUT is the step, forward, backward and update, as a serialized HloModuleProto whose
parameters are the batch and all variables. PRECISION-BATCH.alias is the first line of its text, whose
input_output_alias says which output is which parameter of the next step: {OUTPUT}: (PARAMETER, ...).
"""

import dataclasses
import os

from keras_alexnet.cli import quiet_start, run_command
from keras_alexnet.config import PRECISIONS
from keras_alexnet.errors import UsageError
from keras_alexnet.files import atomic_write
from keras_alexnet.flags import flag, parse
from keras_alexnet.model.variants import VARIANTS

with quiet_start():
    import tensorflow as tf
    from rows_training import trainer_of


@dataclasses.dataclass(frozen=True)
class Settings:
    """The export of training steps."""

    out: tuple[str, ...] = flag((), "The folder for the files; made if it is missing.")
    batch_size: tuple[int, ...] = flag((128, 1024), "Images of a step; several make several files.", low=1)
    precision: tuple[str, ...] = flag(PRECISIONS[:2], f"Some of {', '.join(PRECISIONS)}.", choices=PRECISIONS)
    width: float = flag(1.0, "Factor on the units of every layer.")
    variant: str = flag("release2012", "The network.", choices=tuple(VARIANTS))


def main(argv):
    settings = parse(Settings, argv, __doc__, positional="out")
    if len(settings.out) != 1:
        raise UsageError(f"name one folder for the files, not {len(settings.out)}")
    os.makedirs(settings.out[0], exist_ok=True)
    for precision in settings.precision:
        trainer = trainer_of(settings, precision)
        for batch_size in settings.batch_size:
            for suffix, content in compiled(trainer, batch_size).items():
                path = os.path.join(settings.out[0], f"{precision}-{batch_size}{suffix}")
                with atomic_write(path, "wb") as file:
                    file.write(content)
                print(f"{path}: {len(content):,} bytes")


def compiled(trainer, batch_size):
    """The files of a Trainer's step for one batch size, before XLA's optimizations: {suffix: bytes}."""
    signature = list(trainer.train_step.input_signature)
    flat = [(spec.dtype, [length or batch_size for length in spec.shape]) for spec in tf.nest.flatten(signature)]

    @tf.function(jit_compile=True)
    def step(*arguments):  # flat: specs are not taken within a structure
        return trainer._train_step(*tf.nest.pack_sequence_as(signature, arguments))

    stage = step.experimental_get_compiler_ir(*(tf.TensorSpec(shape, dtype) for dtype, shape in flat))
    return {".hlo": stage("hlo_serialized"), ".alias": stage("hlo").partition("\n")[0].encode()}


if __name__ == "__main__":
    raise SystemExit(run_command("export_xla", main))
