"""Section 5: the update rule."""

import keras
import tensorflow as tf

from keras_alexnet.errors import ArgumentError


@keras.saving.register_keras_serializable("keras_alexnet")
class MomentumSGD(keras.optimizers.Optimizer):
    """v <- momentum v - weight_decay rate w - rate g;  w <- w + v.  Biases are not decayed.

    Section 5 of the paper and `src/weights.cu` of the release. The decay enters the velocity, unlike Keras' own
    `weight_decay`, which shrinks the weights separately. A multiplier of 0 freezes a variable, as in the release: its
    velocity no longer moves it. A variable is a bias when its name contains "bias", as Keras' layers name theirs.

    Args:
        learning_rate: float >= 0, learning rate of the kernels.
        momentum: float, 0 <= momentum < 1.
        weight_decay: float >= 0, for kernels.
        bias_learning_rate_multiplier: float >= 0, learning rate of the biases over that of the kernels.
        layer_learning_rate_multipliers: optional dict, start of a layer's name -> float >= 0, a further factor for the
            layers whose name starts so; the longest start counts. `set_multiplier` changes it while training.
        layer_weight_decays: optional dict, likewise, the decay of kernels in place of `weight_decay`.

    Raises ValueError where a number is out of its range.
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=0.0005,
        bias_learning_rate_multiplier=1.0,
        layer_learning_rate_multipliers=None,
        layer_weight_decays=None,
        name="momentum_sgd",
        **kwargs,
    ):
        # Keras' weight_decay is another rule (see above), so the base class gets none.
        kwargs.pop("weight_decay", None)
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        if not 0 <= momentum < 1:
            raise ArgumentError("momentum", momentum, "must be at least 0 and below 1")
        multipliers = {"bias": bias_learning_rate_multiplier, **(layer_learning_rate_multipliers or {})}
        decays = {"weight_decay": weight_decay, **(layer_weight_decays or {})}
        for label, value in [*decays.items(), *multipliers.items()]:
            if not value >= 0:
                raise ArgumentError(label, value, "must not be negative")
        self.momentum, self.kernel_decay = momentum, weight_decay
        self.layer_decays = dict(layer_weight_decays or {})
        self._multipliers = {
            label: keras.Variable(value, dtype="float32", trainable=False, name=f"{label}_multiplier")
            for label, value in multipliers.items()
        }

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.velocities = []
        for variable in variables:
            with tf.device(variable.value.device):
                self.velocities.append(self.add_variable_from_reference(variable, "velocity"))
        layers = [label for label in self._multipliers if label != "bias"]
        self._labels, self._decays = [], []  # of each variable: labels of its multipliers, and decay
        for variable in variables:
            is_bias = "bias" in variable.name
            self._labels.append(["bias"] * is_bias + _longest_start(layers, variable))
            decays = [self.layer_decays[label] for label in _longest_start(self.layer_decays, variable)]
            self._decays.append(0.0 if is_bias else [*decays, self.kernel_decay][0])

    def set_multiplier(self, label, value):
        """Sets the factor of a layer named at construction, or of "bias". Raises KeyError for another."""
        self._multipliers[label].assign(value)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        velocity, labels, decay = self.velocities[index], self._labels[index], self._decays[index]
        # Where the variable is, so that neither it nor its gradient travels.
        with tf.device(variable.device):
            # One velocity holds both terms: m v - rate (g + decay w) = m v - decay rate w - rate g.
            gradient = tf.cast(gradient, variable.dtype)
            if decay:
                gradient += decay * variable
            rate = tf.cast(learning_rate, variable.dtype)
            if not labels:
                tf.raw_ops.ResourceApplyKerasMomentum(
                    var=variable.handle, accum=velocity.value.handle, lr=rate, grad=gradient, momentum=self.momentum
                )
                return
            for label in labels:
                rate *= tf.cast(self._multipliers[label].value, variable.dtype)
            before = velocity.value
            after = tf.where(rate > 0, self.momentum * before - rate * gradient, before)
            self.assign(velocity, after)
            self.assign_add(variable, tf.where(rate > 0, after, 0.0))

    def _all_reduce_sum_gradients(self, grads_and_vars):
        # With one replica there is nothing to sum; Keras would gather all gradients on one device for it.
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return grads_and_vars
        return super()._all_reduce_sum_gradients(grads_and_vars)

    def get_config(self):
        config = super().get_config()
        multipliers = {label: float(variable.numpy()) for label, variable in self._multipliers.items()}
        return {
            **config,
            "momentum": self.momentum,
            "weight_decay": self.kernel_decay,
            "bias_learning_rate_multiplier": multipliers.pop("bias"),
            "layer_learning_rate_multipliers": multipliers,
            "layer_weight_decays": self.layer_decays,
        }


@keras.saving.register_keras_serializable("keras_alexnet")
class LossScale(keras.optimizers.LossScaleOptimizer):
    """Keras' dynamic loss scaling for float16, with each gradient checked and divided on its own device.

    Keras leaves the device to TensorFlow: a tower's gradients would cross to the other device and back.
    """

    def __init__(self, inner_optimizer, name="loss_scale", **kwargs):
        super().__init__(inner_optimizer, name=name, **kwargs)

    def check_finite(self, grads):
        given = [gradient for gradient in grads if gradient is not None]
        return tf.reduce_all(_each_on_its_device(lambda g: tf.reduce_all(tf.math.is_finite(g)), given))

    def _stateful_handle_finite_grads(self, grads, trainable_variables):
        unscaled = _each_on_its_device(lambda g: g / tf.cast(self.dynamic_scale.value, g.dtype), grads)
        self.inner_optimizer.apply(unscaled, trainable_variables)
        steps = self.step_counter.value + 1
        grow = steps >= self.dynamic_growth_steps
        self.step_counter.assign(tf.where(grow, tf.zeros_like(steps), steps))
        self.dynamic_scale.assign(self.dynamic_scale.value * tf.where(grow, 2.0, 1.0))


def _each_on_its_device(function, tensors):
    """The results; None for None, which is the gradient of what the loss does not depend on."""
    results = []
    for tensor in tensors:
        with tf.device(getattr(tensor, "device", None)), tf.name_scope("loss_scale"):
            results.append(None if tensor is None else function(tensor))
    return results


def _longest_start(labels, variable):
    """The longest of the labels that the name of a variable's layer starts with, in a list that is empty for none."""
    layer = getattr(variable, "path", variable.name).split("/")[-2:][0]  # the last but one part of its path
    return sorted((label for label in labels if layer.startswith(label)), key=len)[-1:]
