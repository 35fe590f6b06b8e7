"""Requests that TensorFlow Serving sends itself before it serves a version, so that no user's is the slow first one.

`assets.extra/tf_serving_warmup_requests` is a TFRecord file of `tensorflow.serving.PredictionLog`. Of that protocol a
few nested fields are needed, and they are written here: an export does not depend on `tensorflow-serving-api`, by whose
classes the tests read them again.
"""

import io
import os

import tensorflow as tf

from keras_alexnet.data import shapes

PATH = os.path.join("assets.extra", "tf_serving_warmup_requests")
BATCHES = (1, 2, 32)  # one image is decoded in another branch than several; 32 is a batch under load

# Numbers of fields, from prediction_log.proto, predict.proto and model.proto of TensorFlow Serving 2.21.
_PREDICT_LOG, _REQUEST, _MODEL_SPEC, _INPUTS, _NAME, _SIGNATURE_NAME, _KEY, _VALUE = 6, 1, 1, 2, 1, 3, 1, 2


def write(folder, size):
    """Writes the warm-up requests of every signature into an exported model's folder.

    Args:
        folder: str; its `assets.extra` is made.
        size: int, rows and columns of the network's input.
    """
    os.makedirs(os.path.join(folder, os.path.dirname(PATH)), exist_ok=True)
    image = _image()
    with tf.io.TFRecordWriter(os.path.join(folder, PATH)) as file:
        for batch in BATCHES:
            files = tf.make_tensor_proto([image] * batch)
            file.write(_predict_log("serving_default", "image_bytes", files))
            file.write(_predict_log("features", "image_bytes", files))
            # One number for all of them: a TensorProto repeats its last value.
            zeros = tf.make_tensor_proto(0.0, tf.float32, (batch, size, size, 3))
            file.write(_predict_log("images", "images", zeros))


def _image():
    """A JPEG of 500x375, the usual size of images on ImageNet."""
    file = io.BytesIO()
    shapes.draw(shapes.CLASS_NAMES[0], 0).resize((500, 375)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _predict_log(signature, name, tensor):
    """A serialized PredictionLog of one request, bytes."""
    spec = _field(_NAME, b"alexnet") + _field(_SIGNATURE_NAME, signature.encode())
    value = _field(_KEY, name.encode()) + _field(_VALUE, tensor.SerializeToString())
    return _field(_PREDICT_LOG, _field(_REQUEST, _field(_MODEL_SPEC, spec) + _field(_INPUTS, value)))


def _field(number, content):
    """A field of protocol buffers that is bytes, a text or a message: its tag, its length and itself."""
    length, prefix = len(content), bytearray([number << 3 | 2])
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(prefix) + bytes([length]) + content
