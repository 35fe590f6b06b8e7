"""Metrics: cross-entropy, top-1 and top-5 error in percent, mean squared error of the probabilities."""

import math

import tensorflow as tf

NAMES = ("loss", "top1_error", "top5_error", "mean_squared_error")


def top_k_credit(scores, labels, k):
    """Whether each label is among the k best classes, ties shared as in the release: float32 (B,) in 0..1.

    Classes with higher scores than the label leave the other slots of k to the classes that tie with the label, itself
    included: its credit is min(1, slots / tied classes), at least 0 (`src/layer_kernels.cu`, kMultiSoftmaxCost). Scores
    are float (B, classes), labels int (B,).
    """
    label_score = tf.gather(scores, labels, batch_dims=1)[:, None]
    above = tf.reduce_sum(tf.cast(scores > label_score, tf.float32), axis=1)
    tied = tf.reduce_sum(tf.cast(scores == label_score, tf.float32), axis=1)
    # A score that is nan does not even tie with itself, and gets no credit.
    return tf.clip_by_value(tf.math.divide_no_nan(k - above, tied), 0.0, 1.0)


def per_image(logits, labels):
    """The metrics of each image from logits (B, classes) and labels int (B,): dict with float32 (B,) for each of NAMES.

    They are the cross-entropy in nats, errors of 0 to 100 percent, and the mean over the classes of the squared
    difference between probabilities and the one-hot label.
    """
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    return {"loss": loss, **_errors(logits, tf.nn.softmax(logits), labels)}


def of_probabilities(probabilities, labels):
    """The same dict as `per_image`, from probabilities (B, classes)."""
    of_label = tf.gather(probabilities, labels, batch_dims=1)
    # A probability that underflows to 0 must have a finite logarithm.
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
    """The sums of `per_image` over a batch, followed by the number of images: float32 (len(NAMES) + 1,).

    `counted` is float32 (B,), 1 for an image and 0 for padding.
    """
    return tf.stack([*(tf.reduce_sum(counted * values[name]) for name in NAMES), tf.reduce_sum(counted)])


def means(now, before=None):
    """The means by name of what was added between two results of `Averages.sums`: dict of float; nan for no image."""
    added = {name: now[name] - (before or {}).get(name, 0.0) for name in (*NAMES, "count")}
    return {name: added[name] / (added["count"] or math.nan) for name in NAMES}


def majority_error(counts):
    """The top-1 error in percent of always giving the most frequent class, float; divided once, as in `means`."""
    return 100.0 * (sum(counts) - max(counts)) / sum(counts)


class Averages:
    """Running means of `per_image` in which every image has the same weight.

    Keras' `Mean` sums in float32, which is not exact enough for an epoch of a million images.
    """

    def __init__(self):
        # Not distributed by a strategy: every process adds the same sums, outside its replicas.
        self.variable = tf.Variable(tf.zeros(len(NAMES) + 1, tf.float64), trainable=False, name="averages")

    def add(self, sums):
        self.variable.assign_add(tf.cast(sums, tf.float64))

    def is_finite_with(self, sums):
        """Whether the loss is finite in all sums added since the last reset and in `sums`: bool tensor ()."""
        return tf.math.is_finite(self.variable[0] + tf.cast(sums[0], tf.float64))

    def sums(self):
        """The sums by name and "count", the number of images: dict of float."""
        return dict(zip((*NAMES, "count"), self.variable.numpy().tolist(), strict=True))

    def result(self):
        """The means by name: dict of float; nan before the first batch."""
        return means(self.sums())

    def count(self):
        return int(self.sums()["count"])

    def reset(self):
        self.variable.assign(tf.zeros_like(self.variable))
