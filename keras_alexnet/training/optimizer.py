"""The update rule of section 5, and loss scaling for float16."""

import functools

import keras
import tensorflow as tf

from keras_alexnet.errors import ArgumentError


@keras.saving.register_keras_serializable("keras_alexnet")
class MomentumSGD(keras.optimizers.Optimizer):
    """v <- momentum v - weight_decay rate w - rate g;  w <- w + v.  Biases are not decayed.

    See section 5 of the paper and `src/weights.cu` of the release. The decay enters the velocity, whereas Keras' own
    `weight_decay` shrinks the weights separately. As in the release, a multiplier of 0 freezes a variable: its velocity
    no longer moves it. Biases are the variables with "bias" in their names, as in Keras' layers.

    Args:
        learning_rate: float >= 0, learning rate of the kernels.
        momentum: float, 0 <= momentum < 1.
        weight_decay: float >= 0, for kernels.
        bias_learning_rate_multiplier: float >= 0, learning rate of the biases relative to that of the kernels.
        layer_learning_rate_multipliers: optional dict, prefix of layer names -> float >= 0, a further factor for these
            layers; the longest matching prefix counts. `set_multiplier` changes factors during training.
        layer_weight_decays: optional dict, prefix of layer names -> float >= 0, which replaces `weight_decay`.

    Raises ValueError where a number is out of range.
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
        # Keras' weight_decay is another rule (see above) and is not passed to the base class.
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
        # Set while a step is traced: bool tensor (), False keeps all variables and velocities as they are.
        self.condition = None
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
        self._labels, self._decays = [], []  # for each variable: labels of its multipliers, decay
        for variable in variables:
            is_bias = "bias" in variable.name
            self._labels.append(["bias"] * is_bias + _longest_prefix(layers, variable))
            decays = [self.layer_decays[label] for label in _longest_prefix(self.layer_decays, variable)]
            self._decays.append(0.0 if is_bias else [*decays, self.kernel_decay][0])

    def set_multiplier(self, label, value):
        """Sets the factor of a prefix given at construction, or of "bias". Raises KeyError for others."""
        self._multipliers[label].assign(value)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        velocity, labels, decay = self.velocities[index], self._labels[index], self._decays[index]
        # On the device of the variable, so that neither it nor its gradient is copied.
        with tf.device(variable.device):
            gradient = tf.cast(gradient, variable.dtype)
            if decay:
                gradient += decay * variable
            rate = tf.cast(learning_rate, variable.dtype)
            if not labels:
                inputs = variable.handle, velocity.value.handle, rate, gradient
                if self.condition is None:
                    _apply_momentum(self.momentum, *inputs)
                else:
                    _apply_if(self.condition, self.momentum, inputs)
                return
            for label in labels:
                rate *= tf.cast(self._multipliers[label].value, variable.dtype)
            moves = rate > 0 if self.condition is None else (rate > 0) & self.condition
            before = velocity.value
            after = tf.where(moves, self.momentum * before - rate * gradient, before)
            self.assign(velocity, after)
            self.assign_add(variable, tf.where(moves, after, 0.0))

    def _all_reduce_sum_gradients(self, grads_and_vars):
        # Keras would gather all gradients on one device, even if there is one replica and nothing to sum.
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
    """Keras' dynamic loss scaling for float16, which checks and divides each gradient on its own device.

    Keras leaves the choice to TensorFlow, which copies a tower's gradients to the other device and back.
    """

    def __init__(self, inner_optimizer, name="loss_scale", **kwargs):
        super().__init__(inner_optimizer, name=name, **kwargs)

    def check_finite(self, grads):
        grads = [gradient for gradient in grads if gradient is not None]
        return tf.reduce_all(_each_on_its_device(lambda g: tf.reduce_all(tf.math.is_finite(g)), grads))

    def _stateful_handle_finite_grads(self, grads, trainable_variables):
        unscaled = _each_on_its_device(lambda g: g / tf.cast(self.dynamic_scale.value, g.dtype), grads)
        self.inner_optimizer.apply(unscaled, trainable_variables)
        steps = self.step_counter.value + 1
        grow = steps >= self.dynamic_growth_steps
        self.step_counter.assign(tf.where(grow, tf.zeros_like(steps), steps))
        self.dynamic_scale.assign(self.dynamic_scale.value * tf.where(grow, 2.0, 1.0))


def _apply_momentum(momentum, variable, velocity, rate, gradient):
    tf.raw_ops.ResourceApplyKerasMomentum(var=variable, accum=velocity, lr=rate, grad=gradient, momentum=momentum)


def _apply_if(condition, momentum, inputs):
    """`_apply_momentum` where a condition holds. `tf.cond` would make the two devices wait for each other."""
    specs = [tf.TensorSpec(each.shape, each.dtype) for each in inputs]
    update = tf.function(functools.partial(_apply_momentum, momentum)).get_concrete_function(*specs)
    keep = tf.function(lambda *inputs: None).get_concrete_function(*specs)
    tf.raw_ops.If(cond=condition, input=inputs, Tout=[], then_branch=update, else_branch=keep)


def _each_on_its_device(function, tensors):
    """The results of a function, list; None for None, the gradient of a variable that the loss does not depend on."""
    results = []
    for tensor in tensors:
        with tf.device(getattr(tensor, "device", None)), tf.name_scope("loss_scale"):
            results.append(None if tensor is None else function(tensor))
    return results


def _longest_prefix(labels, variable):
    """A list of the longest label that the name of the variable's layer starts with; empty without such a label."""
    layer = getattr(variable, "path", variable.name).split("/")[-2:][0]  # second-to-last part of the path
    return sorted((label for label in labels if layer.startswith(label)), key=len)[-1:]
