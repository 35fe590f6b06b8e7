"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in Keras: the network, its training, its evaluation and its export.

`keras_alexnet.AlexNet(...)` builds the model; `python -m keras_alexnet.train --flagfile=flags/NAME.cfg` trains it.
Names are imported when they are first used, so that `--help` never waits for TensorFlow.
"""

import importlib

import wrapt

__version__ = "0.1.0"

__all__ = ["AlexNet", "__version__", "decode_predictions", "load_image", "preprocess_input"]


def __getattr__(name):
    if name in __all__:
        module = "model.alexnet" if name == "AlexNet" else "applications"
        return getattr(importlib.import_module(f"keras_alexnet.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})


@wrapt.when_imported("keras")
def _register(keras):
    """Makes a .keras file of ours loadable by `import keras, keras_alexnet`, in either order.

    Keras finds classes that are registered, and these register themselves when they are imported: when both packages
    are, and not before, since `import keras_alexnet` alone does not wait for TensorFlow.
    """
    if keras.config.backend() == "tensorflow":
        importlib.import_module("keras_alexnet.model.layers")
        importlib.import_module("keras_alexnet.training.optimizer")
