"""What an exported model answers, to image files, to prepared floats, and with features.

The decoding and the views are those of validation and evaluation, in the graph. With the model go warm-up requests, so
that no user's request is the slow first one.
"""

import io
import os

import keras
import tensorflow as tf

from keras_alexnet.data import augmentation, shapes
from keras_alexnet.data.decoding import MAX_PIXELS, SHORTER_SIDE, STORED_SIZE, decode_center
from keras_alexnet.model import weights

BEST = 5
MAX_VIEWS = 512  # of one request: more would take gigabytes for as long as it runs
WARMUP = os.path.join("assets.extra", "tf_serving_warmup_requests")
WARMUP_BATCHES = (1, 2, 32)  # one image is decoded in another branch than several; 32 is a batch under load
_DECODED_AT_A_TIME = 8  # files of a request, on as many cores as there are


class ServedModel(tf.Module):
    """A network with its preprocessing and its labels; `signatures()` is what a SavedModel of it serves.

    Args:
        model: keras.Model of `keras_alexnet.AlexNet`, images -> logits.
        class_names: sequence of str, one per class.
        mean_image: float32 (256, 256, 3), the training set's.
        aligned_mean: bool, the part of the mean image under a view is subtracted from it, and not the center.
        views: 1, the center view answers for an image, or 10, the mean probabilities of its ten views.
        resize: "shorter_side" or "stretch", how an image file becomes 256x256, see `data.decoding`.

    Attributes:
        weights: dict of "LAYER/kernel" and "LAYER/bias" -> tf.Variable, as of `keras_alexnet.model.weights.named`.
        names: function of nothing -> string (classes,), the class names.
        center_view: function of uint8 (B, size, size, 3) -> float32 (B, classes), the probabilities.
        ten_views: function of uint8 (B, 256, 256, 3) -> the same, averaged over ten views.
    """

    def __init__(self, model, class_names, mean_image, aligned_mean=False, views=1, resize=SHORTER_SIDE):
        super().__init__(name="alexnet")
        if views not in augmentation.VIEWS:
            raise ValueError(f"views must be 1 or 10. Received: views={views}")
        hidden = next(layer for layer in model.layers if layer.name == "fc8").input
        network = keras.Model(model.input, [model.output, hidden])
        # TensorFlow sees the module's variables and not Keras' model: the loader for sessions, which is the server's,
        # does not restore a Keras variable; and seen in both ways each would be stored twice.
        self.weights = {name: variable.value for name, variable in weights.variables(model).items()}
        self._outputs = lambda images: network(images, training=False)  # logits and the last hidden layer
        self.class_names = tf.constant(class_names)
        self.size = int(model.input_shape[1])
        self.views, self.resize = views, resize
        # The release subtracts the center of the mean from every view and does not reflect it.
        mean_image = tf.constant(mean_image, tf.float32)
        self.mean = augmentation.center_crop(mean_image, self.size)
        self.means = augmentation.ten_crops(mean_image, self.size) if aligned_mean else self.mean
        self.names = tf.function(lambda: self.class_names, [])
        self.center_view = tf.function(self._of_center, [_images(self.size, tf.uint8)])
        self.ten_views = tf.function(self._of_ten, [_images(STORED_SIZE, tf.uint8)])

    def signatures(self):
        """dict of name -> tf.function with a signature, with `serving_default`, `images` and `features`."""
        files, images = tf.TensorSpec((None,), tf.string, name="image_bytes"), _images(self.size, tf.float32)
        return {
            "serving_default": tf.function(self.classify_files, [files]),
            "images": tf.function(self.classify_images, [images]),
            "features": tf.function(self.extract_features, [files]),
        }

    def classify_files(self, image_bytes):
        """JPEG or PNG files, string (B,) -> answers.

        classes: string (B, 5), best first (all of them where there are fewer); scores: float32 (B, 5), their
        probabilities; probabilities: float32 (B, classes).
        """
        if self.views == 1:
            return self._answers(self._of_center(_decoded(image_bytes, self.size, self.resize)))
        return self._answers(self._of_ten(_decoded(image_bytes, STORED_SIZE, self.resize, self.views)))

    def classify_images(self, images):
        """Views as the network takes them, float32 (B, size, size, 3), RGB, 0..255 minus the mean -> answers."""
        return self._answers(tf.nn.softmax(self._outputs(_within_bounds(images))[0]))

    def extract_features(self, image_bytes):
        """JPEG or PNG files, string (B,) -> features: float32 (B, 4096), the last hidden layer, of the center view."""
        images = tf.cast(_decoded(image_bytes, self.size, self.resize), tf.float32) - self.mean
        return {"features": tf.cast(self._outputs(images)[1], tf.float32)}

    def save(self, folder):
        """Writes the SavedModel and, into its `assets.extra`, the warm-up requests of every signature."""
        tf.saved_model.save(self, folder, signatures=self.signatures())
        os.makedirs(os.path.join(folder, os.path.dirname(WARMUP)), exist_ok=True)
        image = io.BytesIO()  # of 500x375, the usual size of images on ImageNet
        shapes.draw(shapes.CLASS_NAMES[0], 0).resize((500, 375)).save(image, "JPEG", quality=90)
        with tf.io.TFRecordWriter(os.path.join(folder, WARMUP)) as file:
            for batch in WARMUP_BATCHES:
                files = tf.make_tensor_proto([image.getvalue()] * batch)
                views = tf.make_tensor_proto(0.0, tf.float32, (batch, self.size, self.size, 3))  # one value for all
                file.write(_predict_log("serving_default", "image_bytes", files))
                file.write(_predict_log("features", "image_bytes", files))
                file.write(_predict_log("images", "images", views))

    def _answers(self, probabilities):
        scores, indices = tf.math.top_k(probabilities, min(BEST, self.class_names.shape[0]))
        return {"classes": tf.gather(self.class_names, indices), "scores": scores, "probabilities": probabilities}

    def _of_center(self, images):
        return tf.nn.softmax(self._outputs(tf.cast(images, tf.float32) - self.mean)[0])

    def _of_ten(self, images):
        views = tf.cast(augmentation.ten_crops(images, self.size), tf.float32) - self.means
        logits = self._outputs(tf.reshape(views, (-1, self.size, self.size, 3)))[0]
        probabilities = tf.reshape(tf.nn.softmax(logits), (-1, 10, logits.shape[-1]))
        return tf.reduce_mean(probabilities, axis=1)


def _predict_log(signature, name, tensor):
    """One request as a serialized PredictionLog of TensorFlow Serving, bytes, without `tensorflow-serving-api`."""

    def field(number, content):
        """A field of protocol buffers: its tag, its length and its bytes."""
        length, prefix = len(content), bytearray([number << 3 | 2])
        while length > 0x7F:
            prefix.append(length & 0x7F | 0x80)
            length >>= 7
        return bytes([*prefix, length]) + content

    # Numbers of fields from model.proto, predict.proto and prediction_log.proto of TensorFlow Serving 2.21.
    model_spec = field(1, field(1, b"alexnet") + field(3, signature.encode()))
    inputs = field(2, field(1, name.encode()) + field(2, tensor.SerializeToString()))
    return field(6, field(1, model_spec + inputs))


def _images(size, dtype):
    return tf.TensorSpec((None, size, size, 3), dtype, name="images")


def _decoded(image_bytes, size, resize, views=1):
    """JPEG or PNG files, string (B,) -> their centers, uint8 (B, size, size, 3).

    The graph fails with InvalidArgumentError that names the places of files that are not images.
    """
    image_bytes = _within_bounds(image_bytes, views)

    def several():
        # A loop of the graph would end at the first error without naming the file's place.
        count = tf.size(image_bytes, out_type=tf.int64)
        decoded = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes)).map(
            lambda index, file: (index, decode_center(file, size, resize)), _DECODED_AT_A_TIME, deterministic=True
        )
        options = tf.data.Options()
        options.autotune.enabled = False  # its thread may sleep for a minute while the request waits for it
        # A batch of what could be decoded; the additional row at the end makes it a batch where nothing could.
        end = tf.data.Dataset.from_tensors((tf.constant(-1, tf.int64), tf.zeros((size, size, 3), tf.uint8)))
        batch = decoded.ignore_errors().concatenate(end).batch(count + 1).with_options(options)
        indices, images = batch.get_single_element()
        missing = tf.sets.difference(tf.range(count)[None], indices[None]).values
        places = tf.strings.reduce_join(tf.strings.as_string(missing), separator=", ")
        problem = f"]: not a JPEG or PNG file that can be decoded, or more than {MAX_PIXELS:,} pixels"
        words = tf.strings.join(["image_bytes[", places, problem])
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(tf.size(missing), 0), [words])]):
            return images[:-1]

    # For one image, a dataset would take as long to set up as to decode the image.
    is_one = tf.equal(tf.size(image_bytes), 1)
    images = tf.cond(is_one, lambda: decode_center(image_bytes[0], size, resize)[None], several)
    return tf.ensure_shape(images, (None, size, size, 3))


def _within_bounds(batch, views=1):
    """The same tensor; the graph fails where a request holds nothing or too much."""
    limit, count = MAX_VIEWS // views, tf.shape(batch)[0]
    words = tf.strings.join([tf.strings.as_string(count), f" images in one request; 1 to {limit} are taken"])
    with tf.control_dependencies([tf.debugging.Assert((count >= 1) & (count <= limit), [words])]):
        return tf.identity(batch)
