"""Writes the training step as XLA has it, for machines with XLA (JAX) and without TensorFlow.

    python tools/export_xla.py OUT [--batch_size=128,1024] [--precision=float32,mixed_bfloat16]

PRECISION-BATCH.hlo in the folder OUT is the step as a serialized HloModuleProto: forward, backward, update and dropout.
Its parameters are the batch and all variables. PRECISION-BATCH.alias is the first line of its text, whose
input_output_alias says which output is which parameter of the next step: {OUTPUT}: (PARAMETER, ...).
"""

import dataclasses
import os
import sys

from keras_alexnet import flags
from keras_alexnet.cli import quiet_start, run_command
from keras_alexnet.config import PRECISIONS
from keras_alexnet.errors import ArgumentError, UsageError
from keras_alexnet.files import atomic_write
from keras_alexnet.flags import flag
from keras_alexnet.model.variants import VARIANTS, Network

with quiet_start():
    import tensorflow as tf

    from keras_alexnet import AlexNet
    from keras_alexnet.training.optimizer import LossScale, MomentumSGD
    from keras_alexnet.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Settings:
    """The export of training steps."""

    out: tuple[str, ...] = flag((), "The folder for the files; made if it is missing.")
    batch_size: tuple[int, ...] = flag((128, 1024), "Images of a step; several make several files.")
    precision: tuple[str, ...] = flag(("float32", "mixed_bfloat16"), f"Some of {', '.join(PRECISIONS)}.")
    width: float = flag(1.0, "Factor on the units of every layer.")
    variant: str = flag("release2012", "The network.", choices=tuple(VARIANTS))

    def __post_init__(self):
        if len(self.out) != 1:
            raise UsageError(f"name one folder for the files, not {len(self.out)}")
        if not self.batch_size or 0 in self.batch_size:
            raise ArgumentError("batch_size", ",".join(map(str, self.batch_size)), "must be numbers of images from 1")
        if not self.precision or not set(self.precision) <= set(PRECISIONS):
            raise ArgumentError("precision", ",".join(self.precision), f"must be some of {', '.join(PRECISIONS)}")
        Network(width=self.width)


def main(argv):
    settings = flags.parse(Settings, argv, __doc__, positional="out")
    os.makedirs(settings.out[0], exist_ok=True)
    for precision in settings.precision:
        model = AlexNet(
            1000,
            settings.variant,
            devices=(),
            classifier_activation=None,
            width=settings.width,
            dtype=precision,
            seed=0,
        )
        trainer = Trainer(model, LossScale(MomentumSGD()) if precision == "mixed_float16" else MomentumSGD())
        for batch_size in settings.batch_size:
            stem = os.path.join(settings.out[0], f"{precision}-{batch_size}")
            module, text = compiled(trainer, batch_size)
            with atomic_write(f"{stem}.hlo", "wb") as file:
                file.write(module)
            with atomic_write(f"{stem}.alias") as file:
                file.write(text.partition("\n")[0] + "\n")
            print(f"{stem}.hlo, {len(module) / 1e6:.1f} MB, and its .alias", flush=True)


def compiled(trainer, batch_size):
    """The step of a Trainer for one batch size before XLA's own optimizations: (HloModuleProto as bytes, its text)."""
    signature = list(trainer.train_step.input_signature)
    specs = [
        tf.TensorSpec([batch_size if length is None else length for length in spec.shape], spec.dtype)
        for spec in tf.nest.flatten(signature)
    ]

    # Flat arguments, since specs are only taken for arguments that are specs.
    @tf.function(jit_compile=True)
    def step(*arguments):
        return trainer._train_step(*tf.nest.pack_sequence_as(signature, arguments))

    representation = step.experimental_get_compiler_ir(*specs)
    return representation("hlo_serialized"), representation("hlo")


if __name__ == "__main__":
    sys.exit(run_command("export_xla", main, sys.argv[1:]))
