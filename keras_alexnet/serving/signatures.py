"""What an exported model answers: pictures as they are stored, prepared floats, or features.

The decoding and the center view are the ones of validation, in the graph: a served photograph gives the numbers that
evaluation saw.
"""

import keras
import tensorflow as tf

from keras_alexnet.data.decoding import decode_center

BEST = 5


class ServedModel(tf.Module):
    """A network with its preprocessing and its labels; `signatures()` is what a SavedModel of it serves.

    Args:
        model: keras.Model, images -> logits, whose last layer of weights is fc8.
        class_names: sequence of str, one per class.
        mean: float32 (size, size, 3), what is subtracted from a center view.
    """

    def __init__(self, model, class_names, mean):
        super().__init__(name="alexnet")
        hidden = next(layer for layer in model.layers if layer.name == "fc8").input
        self.network = keras.Model(model.input, [model.output, hidden])
        self.class_names = tf.constant(class_names)
        self.mean = tf.constant(mean, tf.float32)
        self.size = int(mean.shape[0])

    def signatures(self):
        """dict of name -> concrete function, with `serving_default`, `images` and `features`."""
        files = tf.TensorSpec((None,), tf.string, name="image_bytes")
        images = tf.TensorSpec((None, self.size, self.size, 3), tf.float32, name="images")
        return {
            "serving_default": tf.function(self.classify_files).get_concrete_function(files),
            "images": tf.function(self.classify_images).get_concrete_function(images),
            "features": tf.function(self.describe_files).get_concrete_function(files),
        }

    def classify_files(self, image_bytes):
        """JPEG or PNG files, string (B,) -> the answers of `classify_images`."""
        return self.classify_images(self._prepared(image_bytes))

    def classify_images(self, images):
        """Center views as the network takes them, float32 (B, size, size, 3), RGB, 0..255 minus the mean.

        Returns:
            classes: string (B, 5), best first (all of them where there are fewer); scores: float32 (B, 5), their
            probabilities; probabilities: float32 (B, classes).
        """
        probabilities = tf.nn.softmax(self.network(images, training=False)[0])
        scores, indices = tf.math.top_k(probabilities, min(BEST, self.class_names.shape[0]))
        return {
            "classes": tf.gather(self.class_names, indices),
            "scores": scores,
            "probabilities": probabilities,
        }

    def describe_files(self, image_bytes):
        """JPEG or PNG files, string (B,) -> features: float32 (B, 4096), the last hidden layer."""
        return {"features": tf.cast(self.network(self._prepared(image_bytes), training=False)[1], tf.float32)}

    def _prepared(self, image_bytes):
        views = tf.map_fn(
            lambda file: decode_center(file, self.size),
            image_bytes,
            fn_output_signature=tf.TensorSpec((self.size, self.size, 3), tf.uint8),
        )
        return tf.cast(views, tf.float32) - self.mean
