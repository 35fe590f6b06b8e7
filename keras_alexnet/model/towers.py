"""Section 3.2: which device a tower's layers live on."""

import functools

import tensorflow as tf

from keras_alexnet.errors import UsageError


def choose_devices(names, towers):
    """The devices of the towers, made where they are logical CPUs and checked.

    Args:
        names: tuple of one or two names such as "GPU:0", or None for what is there: two GPUs if there are two.
        towers: int, 1 or 2.

    Returns:
        tuple of `towers` names, or () where nothing is pinned and TensorFlow places everything itself.

    Raises:
        UsageError: a device is not there; the message lists those that are.
    """
    if names is None:
        gpus = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
        return tuple(gpus[:2]) if towers == 2 and len(gpus) >= 2 else ()
    cpus = 1 + max((int(name.split(":")[1]) for name in names if name.startswith("CPU:")), default=0)
    if 1 < cpus <= 8:
        _make_logical_cpus(cpus)
    present = [
        device.name.removeprefix("/device:")
        for kind in ("CPU", "GPU")
        for device in tf.config.list_logical_devices(kind)
    ]
    for name in names:
        if name not in present:
            raise UsageError(f"--devices={','.join(names)}: there is no {name}; present: {', '.join(present)}")
    return tuple(names) if len(names) == towers else (names[0],) * towers


def pin(layer, device):
    """Makes a layer build its variables and run its forward operations on a device; returns the layer.

    The layer stays what it is: its configuration, and so a saved model, does not know the device.

    Args:
        layer: keras.layers.Layer, not built yet.
        device: name such as "GPU:1", or None to leave the layer alone.
    """
    if device is None:
        return layer
    layer.build = _under(device, layer.build)
    layer.call = _under(device, layer.call)
    return layer


def _under(device, function):
    @functools.wraps(function)
    def on_device(*args, **kwargs):
        with tf.device(device):
            return function(*args, **kwargs)

    return on_device


def _make_logical_cpus(count):
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError:
        # The runtime is up already: what it has is what there is, and the caller checks that.
        return
