"""Rows of benchmark_step.py and of benchmark_checkpoint.py."""

import itertools
import math
import os
import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from harness import resident_peak, seconds, step_turn

from keras_alexnet import AlexNet, card, rundir
from keras_alexnet.cli import quiet_start
from keras_alexnet.config import NetworkConfig
from keras_alexnet.data import pipeline, sources
from keras_alexnet.data.augmentation import Augmentation, Preprocessing
from keras_alexnet.data.statistics import Statistics
from keras_alexnet.model import variants
from keras_alexnet.model.towers import choose_devices
from keras_alexnet.training.checkpoints import Checkpoints
from keras_alexnet.training.monitoring import on_paper
from keras_alexnet.training.optimizer import LossScale, MomentumSGD
from keras_alexnet.training.progress import Progress
from keras_alexnet.training.trainer import Trainer

GPUS = tf.config.list_physical_devices("GPU")

PRODUCT = 4096  # rows and columns of the matrix product


def product(row, settings):
    """The matrix product; its facts are those of the network that every row trains."""
    model = AlexNet(1000, devices=(), width=settings.width)
    square = tf.random.normal((PRODUCT, PRODUCT))

    def multiply():
        return seconds(lambda: float(tf.matmul(square, square)[0, 0]))

    def turn():
        multiply()
        return {"product_gflops": 2 * 2 * PRODUCT**3 / (multiply() + multiply()) / 1e9}

    paper = {name: on_paper(model, settings.batch_size, size) for name, size in (("float32", 4), ("bfloat16", 2))}
    facts = {"parameters": model.count_params(), "gflop_per_image": flop_per_image(model) / 1e9, "paper_mb": paper}
    return facts | {"product_size": PRODUCT}, turn


def random_batch(batch_size, signature):
    """A batch that stays where it is, by the signature of a Trainer: images or crops, 1 for adjustments, and labels."""

    def filled(spec):
        shape = (batch_size, *spec.shape[1:])
        if spec.dtype == tf.float32:
            return tf.random.normal(shape, stddev=60.0) if len(shape) == 4 else tf.ones(shape)
        return tf.cast(tf.random.uniform(shape, maxval=256, dtype=tf.int32), spec.dtype)

    return tf.nest.map_structure(filled, signature)


def start(row, settings):
    """Training steps in TensorFlow, by the name of the row."""
    kind = "GPU" if GPUS else "CPU"
    with quiet_start():
        devices = choose_devices([f"{kind}:{place}" for place in range(2 if row == "two_devices" else 1)], 2)
    signature = tf.TensorSpec((None, 224, 224, 3), tf.float32), tf.TensorSpec((None,), tf.int32)
    with tf.device(devices[0]):
        batch = random_batch(settings.batch_size, signature)
    peak_mb = (lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6) if GPUS else resident_peak()
    if row == "keras":
        model, train_step = plain_keras(settings.width)
    else:
        dtype, pinned = "mixed_bfloat16" if row == "mixed_bfloat16" else "float32", () if row == "unpinned" else devices
        model = AlexNet(1000, devices=pinned, classifier_activation=None, width=settings.width, dtype=dtype, seed=0)
        train_step = Trainer(model, MomentumSGD(), devices[0]).train_step
    return {"parameters": model.count_params()}, step_turn(settings, lambda: float(train_step(*batch)), peak_mb)


def trainer_of(settings, precision, devices=(), loss_scale=False):
    """A Trainer of the network of --variant and --width, two towers, 1000 classes; its batches are as in training."""
    variant = getattr(settings, "variant", "paper")
    network = variants.combined({"variant": variant, "width": settings.width}, {}, "")  # of one tower where it has one
    network = NetworkConfig(**variants.settings_of(network), precision=precision)
    model = rundir.build_model(network, 1000, 0, devices)
    image, mean_image = model.inputs[0], np.zeros((256, 256, 3), np.float32)
    preprocess = Preprocessing(mean_image, image.shape[1], False, devices, image.dtype)
    sgd = LossScale(MomentumSGD()) if loss_scale or precision == "mixed_float16" else MomentumSGD()
    return Trainer(model, sgd, devices[0] if devices else None, None, preprocess)


def plain_keras(width):
    """The two towers as anyone would write them with Keras alone: (model, training step)."""
    layers = keras.layers

    def convolution(x, filters, size=3, **options):
        options = {"padding": "same", "activation": "relu", **options}
        return layers.Conv2D(round(filters * width) // 2, size, **options)(x)

    def normalization(x):
        return layers.Lambda(lambda v: tf.nn.local_response_normalization(v, 2, 2.0, 1e-4, 0.75))(x)

    def pool(x):
        return layers.MaxPooling2D(3, 2)(x)

    def joined(parts):
        return [layers.Concatenate()(parts) for _ in parts]

    def dense(parts):
        units = round(4096 * width) // 2
        return [layers.Dropout(0.5)(layers.Dense(units, activation="relu")(part)) for part in joined(parts)]

    image = keras.Input((224, 224, 3))
    padded = layers.ZeroPadding2D(((0, 3), (0, 3)))(image)
    x = [pool(normalization(convolution(padded, 96, 11, strides=4, padding="valid"))) for _ in range(2)]
    x = [pool(normalization(convolution(part, 256, 5))) for part in x]
    x = [convolution(convolution(part, 384), 384) for part in joined(x)]
    x = [layers.Flatten()(pool(convolution(part, 256))) for part in x]
    model = keras.Model(image, layers.Dense(1000)(layers.Concatenate()(dense(dense(x)))))
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=0.0005)
    optimizer.build(model.trainable_variables)

    @tf.function
    def train_step(images, labels):
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return model, train_step


def flop_per_image(model):
    """Floating-point operations of convolutions and matrix products in a training step, for one image."""
    return sum(flop_of(layer) for layer in model.layers if hasattr(layer, "kernel"))


def flop_of(layer):
    """Those of one layer: forward, the kernel's gradient, and the input's, which layers that see images do without."""
    return card.operations(layer) * (2 if layer.kernel.shape[-2] == 3 else 3)


def checkpoint(row, settings):
    """A turn measures three steps alone, then a checkpoint with steps beside it, then reading it."""
    trainer, epochs = trainer_of(settings, "float32"), itertools.count(1)
    batch = random_batch(settings.batch_size, trainer.signature)
    checkpoints = Checkpoints(os.path.join(settings.folder, row), trainer.variables(), keep=1)

    def step():
        return seconds(lambda: float(trainer.train_step(*batch)))

    def turn():
        alone = statistics.median(step() for _ in range(3))
        started = time.perf_counter()
        held = seconds(lambda: checkpoints.write(Progress(epochs=next(epochs))))
        beside = [step()]  # at least one: it makes the copies
        while checkpoints.writer.is_alive():
            beside.append(step())
        checkpoints.wait()
        found = {"step": alone, "held": held, "written": time.perf_counter() - started}
        found["extra"] = held + sum(beside) - len(beside) * alone
        found["megabytes"] = sum(entry.stat().st_size for entry in os.scandir(checkpoints.folder)) / 1e6
        return {**found, "read": seconds(checkpoints.resume)}

    step(), step()
    return {}, turn


def epoch(row, settings):
    """A turn measures the first batch of an epoch, and the first one in its last tenth."""
    source, _ = sources.open_folder(settings.data_dir)
    known = Statistics(np.zeros((256, 256, 3), np.float32), np.zeros(3), np.eye(3), source.count)
    late = math.ceil(0.9 * math.ceil(source.count / settings.batch_size) - 1) * settings.batch_size
    options = {"size": 224, "batch_size": settings.batch_size, "seed": 1, "epoch": 0}

    def first_batch(start):
        return seconds(lambda: next(iter(pipeline.training(source, known, Augmentation(), start=start, **options))))

    first_batch(0)  # compiles the graphs
    return {}, lambda: {"beginning_batch": first_batch(0), "late_batch": first_batch(late)}
