"""What a run reports: cross-entropy, top-1 and top-5 error in percent, mean squared error of the probabilities."""

import keras
import tensorflow as tf

NAMES = ("loss", "top1_error", "top5_error", "mean_squared_error")


def top_k_credit(scores, labels, k):
    """How right each answer is among the k best, ties shared as the release shares them.

    Slots are what the classes strictly above the label leave of k; the label gets min(1, slots / classes tied with
    it, itself included), or 0 without a slot (`src/layer_kernels.cu`, kMultiSoftmaxCost).

    Args:
        scores: float (B, classes), larger is better.
        labels: int (B,).
        k: int >= 1.

    Returns:
        float32 (B,), in 0..1.
    """
    label_score = tf.gather(scores, labels, batch_dims=1)[:, None]
    above = tf.reduce_sum(tf.cast(scores > label_score, tf.float32), axis=1)
    tied = tf.reduce_sum(tf.cast(scores == label_score, tf.float32), axis=1)
    # A score that is not a number ties with nothing, itself included, and is never right.
    return tf.clip_by_value(tf.math.divide_no_nan(k - above, tied), 0.0, 1.0)


def per_image(logits, labels):
    """The numbers behind every metric, image by image.

    Args:
        logits: float32 (B, classes).
        labels: int (B,).

    Returns:
        dict of float32 (B,) by the names in NAMES: cross-entropy in nats, errors in percent (0..100), and the mean
        over the classes of the squared difference between probabilities and the one-hot label.
    """
    return {
        "loss": tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits),
        **_errors(logits, tf.nn.softmax(logits), labels),
    }


def of_probabilities(probabilities, labels):
    """As `per_image`, of probabilities: those of an exported model, or the mean of several.

    Args:
        probabilities: float32 (B, classes); a sum of several models' is fine for the two errors.
        labels: int (B,).
    """
    of_label = tf.gather(probabilities, labels, batch_dims=1)
    # A probability too small for float32 is 0; its logarithm is to stay a number.
    loss = -tf.math.log(tf.maximum(of_label, 1e-37))
    return {"loss": loss, **_errors(probabilities, probabilities, labels)}


def _errors(scores, probabilities, labels):
    one_hot = tf.one_hot(labels, tf.shape(scores)[1])
    return {
        "top1_error": 100.0 * (1.0 - top_k_credit(scores, labels, 1)),
        "top5_error": 100.0 * (1.0 - top_k_credit(scores, labels, 5)),
        "mean_squared_error": tf.reduce_mean(tf.square(probabilities - one_hot), axis=1),
    }


class Averages:
    """Running means of `per_image` over a set, one Keras `Mean` a name, so that every image counts the same."""

    def __init__(self):
        self.means = {name: keras.metrics.Mean(name=name) for name in NAMES}

    def update(self, values):
        for name, mean in self.means.items():
            mean.update_state(values[name])

    def result(self):
        """dict of name -> float; nan before the first update."""
        return {name: float(mean.result()) if float(mean.count) else float("nan") for name, mean in self.means.items()}

    def count(self):
        """Images seen, int."""
        return int(self.means["loss"].count)

    def reset(self):
        for mean in self.means.values():
            mean.reset_state()
