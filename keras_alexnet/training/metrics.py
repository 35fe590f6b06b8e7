"""What a run reports: cross-entropy, top-1 and top-5 error in percent, mean squared error of the probabilities."""

import math

import tensorflow as tf

NAMES = ("loss", "top1_error", "top5_error", "mean_squared_error")


def top_k_credit(scores, labels, k):
    """How right each answer is among the k best, ties shared as the release shares them: float32 (B,) in 0..1.

    Slots are what the classes strictly above the label leave of k; the label gets min(1, slots / classes tied with
    it, itself included), or 0 without a slot (`src/layer_kernels.cu`, kMultiSoftmaxCost). Scores are float
    (B, classes), larger is better; labels int (B,).
    """
    label_score = tf.gather(scores, labels, batch_dims=1)[:, None]
    above = tf.reduce_sum(tf.cast(scores > label_score, tf.float32), axis=1)
    tied = tf.reduce_sum(tf.cast(scores == label_score, tf.float32), axis=1)
    # A score that is nan ties with nothing, itself included, and is never right.
    return tf.clip_by_value(tf.math.divide_no_nan(k - above, tied), 0.0, 1.0)


def per_image(logits, labels):
    """The metrics of each image, from logits (B, classes) and labels int (B,): dict of float32 (B,) by NAMES.

    Cross-entropy in nats, errors in percent (0..100), and the mean over the classes of the squared difference between
    probabilities and the one-hot label.
    """
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    return {"loss": loss, **_errors(logits, tf.nn.softmax(logits), labels)}


def of_probabilities(probabilities, labels):
    """As `per_image`, from the probabilities of an exported model or the mean of several models'."""
    of_label = tf.gather(probabilities, labels, batch_dims=1)
    # A probability too small for float32 is 0; its logarithm must stay finite.
    loss = -tf.math.log(tf.maximum(of_label, 1e-37))
    return {"loss": loss, **_errors(probabilities, probabilities, labels)}


def _errors(scores, probabilities, labels):
    one_hot = tf.one_hot(labels, tf.shape(scores)[1])
    return {
        "top1_error": 100.0 * (1.0 - top_k_credit(scores, labels, 1)),
        "top5_error": 100.0 * (1.0 - top_k_credit(scores, labels, 5)),
        "mean_squared_error": tf.reduce_mean(tf.square(probabilities - one_hot), axis=1),
    }


def sums(values, counted):
    """Sums of `per_image` over a batch, and behind them the number of its images: float32 (len(NAMES) + 1,).

    `counted` is float32 (B,), 1 for an image and 0 for what only fills the batch.
    """
    return tf.stack([*(tf.reduce_sum(counted * values[name]) for name in NAMES), tf.reduce_sum(counted)])


class Averages:
    """Running means of `per_image` over a set, so that every image counts the same.

    Keras' `Mean` has a sum in float32, which is not exact enough for an epoch of a million images.
    """

    def __init__(self):
        # Of no strategy: every process has the same sums, and adds to them outside of its replicas.
        self.variable = tf.Variable(tf.zeros(len(NAMES) + 1, tf.float64), trainable=False, name="averages")

    def add(self, sums):
        """Adds a batch's `sums`."""
        self.variable.assign_add(tf.cast(sums, tf.float64))

    def sums(self):
        """dict of name -> float, and "count", the images."""
        return dict(zip((*NAMES, "count"), self.variable.numpy().tolist(), strict=True))

    def result(self):
        """dict of name -> float; nan before the first batch."""
        found = self.sums()
        return {name: found[name] / (found["count"] or math.nan) for name in NAMES}

    def count(self):
        """Images seen, int."""
        return int(self.sums()["count"])

    def reset(self):
        self.variable.assign(tf.zeros_like(self.variable))
