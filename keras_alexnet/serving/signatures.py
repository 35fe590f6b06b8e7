"""The signatures of an exported model: classify image files, classify preprocessed images, extract features.

Decoding and views are those of validation and evaluation, as a TensorFlow graph. Warm-up requests are saved with the
model, so that the slow first request is not a user's.
"""

import io
import os

import keras
import tensorflow as tf

from keras_alexnet import rundir
from keras_alexnet.data import augmentation, shapes
from keras_alexnet.data.decoding import APPLY, MAX_PIXELS, SHORTER_SIDE, STORED_SIZE, decode_center
from keras_alexnet.model import weights

BEST = 5
MAX_VIEWS = 512  # in one request: more would take gigabytes of memory
WARMUP = os.path.join("assets.extra", "tf_serving_warmup_requests")
WARMUP_BATCHES = (1, 2, 32)  # one image and several are decoded in different branches; 32 is a batch under load
_DECODED_AT_A_TIME = 8  # files of a request that are decoded in parallel


class ServedModel(tf.Module):
    """A network with its preprocessing and class names; `signatures()` are those of its SavedModel.

    Args:
        model: keras.Model of `keras_alexnet.AlexNet`, images -> logits.
        class_names: sequence of str, one per class.
        mean_image: float32 (256, 256, 3), of the training set.
        aligned_mean: bool, whether each view has its own crop of the mean image subtracted rather than the center crop.
        views: 1, classify the center view of an image, or 10, average the probabilities of ten views.
        resize: "shorter_side" or "stretch", how an image file becomes 256x256, see `data.decoding`.
        orientation: "apply" or "ignore", what is done with the EXIF orientation of an image file.

    Attributes:
        weights: dict of "LAYER/kernel" and "LAYER/bias" -> tf.Variable, see `keras_alexnet.model.weights.named`.
        names: function without arguments -> string (classes,), the class names.
        center_view: function of uint8 (B, size, size, 3) -> float32 (B, classes), the probabilities.
        ten_views: function of uint8 (B, 256, 256, 3) -> float32 (B, classes), the mean probabilities of ten views.
    """

    def __init__(
        self, model, class_names, mean_image, aligned_mean=False, views=1, resize=SHORTER_SIDE, orientation=APPLY
    ):
        super().__init__(name="alexnet")
        hidden = next(layer for layer in model.layers if layer.name == "fc8").input
        network = keras.Model(model.input, [model.output, hidden])
        # Expose only tf.Variables to TensorFlow, not the Keras model: the server's session loader cannot restore Keras
        # variables, and exposing both would store each weight twice.
        self.weights = {name: variable.value for name, variable in weights.variables(model).items()}
        self._outputs = lambda images: network(images, training=False)  # logits and the last hidden layer
        self.class_names = tf.constant(class_names)
        self.size = int(model.input_shape[1])
        self.views, self.decoding = views, (resize, orientation)
        # The release subtracts the center of the mean image from every view, without reflecting it.
        mean_image = tf.constant(mean_image, tf.float32)
        self.mean = augmentation.center_crop(mean_image, self.size)
        self.means = augmentation.ten_crops(mean_image, self.size) if aligned_mean else self.mean
        self.names = tf.function(lambda: self.class_names, [])
        self.center_view = tf.function(self._of_center, [_images(self.size, tf.uint8)])
        self.ten_views = tf.function(self._of_ten, [_images(STORED_SIZE, tf.uint8)])

    def signatures(self):
        """The functions `serving_default`, `images` and `features`: dict of name -> tf.function with a signature."""
        files, images = tf.TensorSpec((None,), tf.string, name="image_bytes"), _images(self.size, tf.float32)
        return {
            "serving_default": tf.function(self.classify_files, [files]),
            "images": tf.function(self.classify_images, [images]),
            "features": tf.function(self.extract_features, [files]),
        }

    def classify_files(self, image_bytes):
        """Classifies JPEG or PNG files, string (B,). Returns a dict of tensors:

        classes: string (B, 5), best first (all classes if there are fewer); scores: float32 (B, 5), the probabilities
        of these classes; probabilities: float32 (B, classes).
        """
        if self.views == 1:
            return self._answers(self._of_center(_decoded(image_bytes, self.size, self.decoding)))
        return self._answers(self._of_ten(_decoded(image_bytes, STORED_SIZE, self.decoding, self.views)))

    def classify_images(self, images):
        """Classifies preprocessed images, float32 (B, size, size, 3), RGB 0..255 minus the mean. Returns the same."""
        return self._answers(tf.nn.softmax(self._outputs(_within_bounds(images))[0]))

    def network_outputs(self, images):
        """All that the network gives of preprocessed images: dict of probabilities and features, float32."""
        logits, hidden = self._outputs(images)
        return {"probabilities": tf.nn.softmax(logits), "features": tf.cast(hidden, tf.float32)}

    def extract_features(self, image_bytes):
        """Returns features, float32 (B, 4096), of JPEG or PNG files, string (B,): the last hidden layer's values."""
        images = tf.cast(_decoded(image_bytes, self.size, self.decoding), tf.float32) - self.mean
        return {"features": tf.cast(self._outputs(images)[1], tf.float32)}

    def save(self, folder):
        """Writes the SavedModel, with warm-up requests for every signature in its folder `assets.extra`."""
        tf.saved_model.save(self, folder, signatures=self.signatures())
        os.makedirs(os.path.join(folder, os.path.dirname(WARMUP)), exist_ok=True)
        image = io.BytesIO()  # 500x375 pixels, the usual size of ImageNet's images
        shapes.draw(shapes.CLASS_NAMES[0], 0).resize((500, 375)).save(image, "JPEG", quality=90)
        with tf.io.TFRecordWriter(os.path.join(folder, WARMUP)) as file:
            for batch in WARMUP_BATCHES:
                files = tf.make_tensor_proto([image.getvalue()] * batch)
                views = tf.make_tensor_proto(0.0, tf.float32, (batch, self.size, self.size, 3))  # stored as one value
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


def of_run(run, views=1, network=None):
    """The network of a rundir.Run with its preprocessing: ServedModel; `network` as of `rundir.build`."""
    data, mean_image = run.config.data, run.statistics.mean_image
    ways = data.mean_subtraction == "aligned", views, data.resize, data.served_orientation
    return ServedModel(rundir.build(run, network), run.class_names, mean_image, *ways)


def load(folder):
    """The signatures of an exported model, or those that a run's would have: dict of name -> tf function."""
    if not rundir.is_run(folder):
        return tf.saved_model.load(folder).signatures
    functions = of_run(rundir.open_run(folder)).signatures()
    return {name: function.get_concrete_function() for name, function in functions.items()}


def _predict_log(signature, name, tensor):
    """One request as a serialized PredictionLog of TensorFlow Serving, bytes, without `tensorflow-serving-api`."""

    def field(number, content):
        """A field of a protocol buffer: tag, length and bytes."""
        length, prefix = len(content), bytearray([number << 3 | 2])
        while length > 0x7F:
            prefix.append(length & 0x7F | 0x80)
            length >>= 7
        return bytes([*prefix, length]) + content

    # Field numbers from model.proto, predict.proto and prediction_log.proto of TensorFlow Serving 2.21.
    model_spec = field(1, field(1, b"alexnet") + field(3, signature.encode()))
    inputs = field(2, field(1, name.encode()) + field(2, tensor.SerializeToString()))
    return field(6, field(1, model_spec + inputs))


def _images(size, dtype):
    return tf.TensorSpec((None, size, size, 3), dtype, name="images")


def _decoded(image_bytes, size, decoding, views=1):
    """Decodes JPEG or PNG files, string (B,), and returns their centers, uint8 (B, size, size, 3).

    The graph raises InvalidArgumentError with the indices of the files that are not images.
    """
    image_bytes = _within_bounds(image_bytes, views)

    def several():
        # A graph loop would fail at the first bad file, without its index.
        count = tf.size(image_bytes, out_type=tf.int64)
        decoded = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes)).map(
            lambda index, file: (index, decode_center(file, size, *decoding)), _DECODED_AT_A_TIME, deterministic=True
        )
        options = tf.data.Options()
        options.autotune.enabled = False  # the autotuning thread may sleep for a minute while the request waits for it
        # Batch what was decoded, plus a sentinel row, so that get_single_element has a batch even if no file was.
        sentinel = tf.data.Dataset.from_tensors((tf.constant(-1, tf.int64), tf.zeros((size, size, 3), tf.uint8)))
        batch = decoded.ignore_errors().concatenate(sentinel).batch(count + 1).with_options(options)
        indices, images = batch.get_single_element()
        missing = tf.sets.difference(tf.range(count)[None], indices[None]).values
        numbers = tf.strings.reduce_join(tf.strings.as_string(missing), separator=", ")
        problem = f"]: not a JPEG or PNG file that can be decoded, or more than {MAX_PIXELS:,} pixels"
        message = tf.strings.join(["image_bytes[", numbers, problem])
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(tf.size(missing), 0), [message])]):
            return images[:-1]

    # For one image, setting up a dataset would take as long as decoding the image.
    is_one = tf.equal(tf.size(image_bytes), 1)
    images = tf.cond(is_one, lambda: decode_center(image_bytes[0], size, *decoding)[None], several)
    return tf.ensure_shape(images, (None, size, size, 3))


def _within_bounds(batch, views=1):
    """Returns the same tensor; the graph fails if a request is empty or too large."""
    limit, count = MAX_VIEWS // views, tf.shape(batch)[0]
    message = [tf.strings.as_string(count), f" images in one request; between 1 and {limit} are accepted"]
    with tf.control_dependencies([tf.debugging.Assert((count >= 1) & (count <= limit), [tf.strings.join(message)])]):
        return tf.identity(batch)
