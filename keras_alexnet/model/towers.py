"""Section 3.2: the devices of the towers, and layers that stay on theirs, forward and backward."""

import functools
import re

import tensorflow as tf

from keras_alexnet.errors import UsageError

# From which compute capability on a GPU has arithmetic and convolutions in a type (NVIDIA's CUDA C++ Programming Guide,
# "Arithmetic Instructions").
CAPABILITY = {"mixed_float16": (5, 3), "mixed_bfloat16": (8, 0)}


def choose_devices(names, towers):
    """The devices of the towers, made where they are logical CPUs and checked.

    Args:
        names: one or two names such as "GPU:0", or None for what is there: two GPUs if there are two.
        towers: int, 1 or 2.

    Returns:
        tuple of one name for each tower, of one name for all, or () where nothing is pinned and TensorFlow places
        everything itself.

    Raises:
        UsageError: a device is not there (the message lists those that are), or named twice, or there are more devices
            than towers.
    """
    if names is None:
        if towers == 1 or not tf.config.list_physical_devices("GPU"):
            return ()  # without asking for logical devices, which settles how many there are
        gpus = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
        return tuple(gpus[:2]) if len(gpus) >= 2 else ()
    names = tuple(name.strip().upper() for name in (names.split(",") if isinstance(names, str) else names))
    for name in names:
        if not re.fullmatch(r"(CPU|GPU):\d{1,3}", name):
            raise UsageError(f"--devices={','.join(names)}: {name!r} is no device; write names such as GPU:0,GPU:1")
    if not 1 <= len(set(names)) == len(names) <= towers:
        raise UsageError(
            f"--devices={','.join(names)}: give one device, or a different one for each tower (towers={towers})"
        )
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
    return names


def check_precision(precision, devices):
    """Whether the devices can compute in a precision.

    Args:
        precision: Keras dtype policy: "float32", "mixed_bfloat16" or "mixed_float16".
        devices: names as `choose_devices` returns them; () for what TensorFlow takes, a GPU where there is one.

    Raises:
        UsageError: one cannot; the message says what it can do.
    """
    if precision not in CAPABILITY:
        return
    gpus = tf.config.list_physical_devices("GPU")
    for name in devices or (("GPU:0",) if gpus else ("CPU:0",)):
        kind, index = name.split(":")
        if kind == "CPU":
            if precision == "mixed_float16":
                raise UsageError(f"--precision={precision}: {name} has no float16; use mixed_bfloat16 or float32")
            continue
        found = tf.config.experimental.get_device_details(gpus[int(index)]).get("compute_capability")
        if found is not None and found < CAPABILITY[precision]:
            needed = "{}.{}".format(*CAPABILITY[precision])
            raise UsageError(
                f"--precision={precision}: {name} has compute capability {found[0]}.{found[1]}, and this needs "
                f"{needed}; use float32"
            )


def pinned(make, name, device):
    """A layer that does all its work on one device: its variables, its forward operations and its gradients.

    A device scope around a call says nothing about the backward pass, which TensorFlow builds later and puts elsewhere.
    Here the layer's gradient is a function of its own that enters the same scope, whatever tape asks for it. The layer
    is the same otherwise: its configuration, and so a saved model, does not know the device.

    Args:
        make: function of a name -> keras.layers.Layer, not built.
        name: str, of the layer.
        device: name such as "GPU:1", or None for an ordinary layer.

    Returns:
        keras.layers.Layer.
    """
    if device is None:
        return make(name)
    with tf.device(device):
        layer = make(name)  # a layer may have variables before it is built, such as states of random numbers
    build, call = layer.build, layer.call

    @functools.wraps(build)
    def build_there(*args, **kwargs):
        with tf.device(device):
            return build(*args, **kwargs)

    @functools.wraps(call)
    def call_there(inputs, **options):
        several = isinstance(inputs, (list, tuple))

        @tf.custom_gradient
        def differentiated(*parts):
            # persistent: the tape that asks may ask more than once, or for a gradient of the gradient
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(parts)
                outputs = call(list(parts) if several else parts[0], **options)

            def gradient(*upstream, variables=()):
                upstream = tf.nest.pack_sequence_as(outputs, upstream)
                with tf.device(device), tf.name_scope(f"gradient_tape/{name}/"):
                    gradients = tape.gradient(outputs, [*parts, *variables], upstream)
                of_parts, of_variables = gradients[: len(parts)], gradients[len(parts) :]
                return (of_parts, of_variables) if variables else of_parts

            return outputs, gradient

        with tf.device(device):  # around the decorated function, which adds operations of its own
            return differentiated(*inputs) if several else differentiated(inputs)

    layer.build, layer.call = build_there, call_there
    return layer


def _make_logical_cpus(count):
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError:
        # The runtime is up already: what it has is what there is, and the caller checks that.
        return
