"""Section 5: the update rule."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("keras_alexnet")
class MomentumSGD(keras.optimizers.Optimizer):
    """v <- momentum v - weight_decay rate w - rate g;  w <- w + v.  Biases are not decayed.

    Section 5 of the paper and `src/weights.cu` of the release. The decay enters the velocity, times the rate, unlike
    Keras' own `weight_decay`, which shrinks the weights beside it. What has a multiplier of 0 is not touched at all, as
    in the release: its velocity does not carry it on.

    A variable is a bias when its name contains "bias", as Keras' layers name theirs.

    Args:
        learning_rate: float >= 0, rate of the kernels.
        momentum: float, 0 <= momentum < 1.
        weight_decay: float >= 0, for kernels.
        bias_learning_rate_multiplier: float >= 0, rate of the biases over that of the kernels.
        layer_learning_rate_multipliers: optional dict, start of a layer's name -> float >= 0, a further factor for
            the kernels and biases of the layers whose name starts so; the longest start counts. Factors can be
            changed while training by `set_multiplier`; their names are fixed here.
        name: str.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=0.0005,
        bias_learning_rate_multiplier=1.0,
        layer_learning_rate_multipliers=None,
        name="momentum_sgd",
        **kwargs,
    ):
        # Keras' weight_decay is another rule (see above), so the base class gets none.
        kwargs.pop("weight_decay", None)
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1. Received: momentum={momentum}")
        multipliers = {"bias": bias_learning_rate_multiplier, **(layer_learning_rate_multipliers or {})}
        for label, value in {"weight_decay": weight_decay, **multipliers}.items():
            if not value >= 0:
                raise ValueError(f"{label} must not be negative. Received: {value}")
        self.momentum, self.kernel_decay = momentum, weight_decay
        self._multipliers = {
            label: keras.Variable(value, dtype="float32", trainable=False, name=f"{label}_multiplier")
            for label, value in multipliers.items()
        }

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity")
        self._labels = [self._labels_of(variable) for variable in variables]

    def _labels_of(self, variable):
        """The labels of the multipliers that a variable has."""
        layer = _layer_of(variable)
        layers = [label for label in self._multipliers if label != "bias" and layer.startswith(label)]
        return [*(["bias"] if "bias" in variable.name else []), *sorted(layers, key=len)[-1:]]

    def set_multiplier(self, label, value):
        """Sets the factor of a layer named at construction, or of "bias". Raises KeyError for another."""
        self._multipliers[label].assign(value)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        velocity = self.velocities[index]
        labels = self._labels[index]
        rate = tf.cast(learning_rate, variable.dtype)
        for label in labels:
            rate *= tf.cast(self._multipliers[label].value, variable.dtype)
        gradient = tf.cast(gradient, variable.dtype)
        decay = 0.0 if "bias" in labels else self.kernel_decay

        def update():
            # One velocity holds both terms: m v - rate (g + decay w) = m v - decay rate w - rate g.
            step = gradient + decay * variable if decay else gradient
            self.assign(velocity, self.momentum * velocity.value - rate * step)
            self.assign_add(variable, velocity.value)
            return tf.constant(0)  # tf.cond wants a value

        if labels:
            tf.cond(rate > 0, update, lambda: tf.constant(0))
        else:
            update()

    def get_config(self):
        config = super().get_config()
        multipliers = {label: float(variable.numpy()) for label, variable in self._multipliers.items()}
        return {
            **config,
            "momentum": self.momentum,
            "weight_decay": self.kernel_decay,
            "bias_learning_rate_multiplier": multipliers.pop("bias"),
            "layer_learning_rate_multipliers": multipliers,
        }


def _layer_of(variable):
    """The name of the layer that owns a variable: the last but one part of its path."""
    return getattr(variable, "path", variable.name).split("/")[-2:][0]
