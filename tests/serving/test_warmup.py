import os

import pytest
import tensorflow as tf

from keras_alexnet.serving import signatures

prediction_log_pb2 = pytest.importorskip(
    "tensorflow_serving.apis.prediction_log_pb2", reason="tensorflow-serving-api is not installed (extra serving)"
)


def test_the_requests_are_what_the_published_protocol_reads(folder):
    records = tf.data.TFRecordDataset(os.path.join(folder, signatures.WARMUP)).as_numpy_iterator()
    seen = set()
    for record in records:
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        assert log.SerializeToString(deterministic=True) == record  # nothing that the protocol does not know
        request = log.predict_log.request
        assert request.model_spec.name == "alexnet"
        ((name, value),) = request.inputs.items()
        value = tf.make_ndarray(value)
        if name == "image_bytes":
            assert tf.io.decode_jpeg(value[0]).shape == (375, 500, 3)
        else:
            assert value.shape[1:] == (224, 224, 3)
        seen.add((request.model_spec.signature_name, name, len(value)))
    assert seen == {
        (signature, name, count)
        for signature, name in (("serving_default", "image_bytes"), ("features", "image_bytes"), ("images", "images"))
        for count in (1, 2, 32)
    }


def test_a_server_runs_them_before_it_serves(server):
    assert server.warmed_up == 9


def test_lengths_of_any_size_are_encoded(tmp_path):
    for length in (0, 127, 128, 16383, 16384, 3_000_000):
        text = "x" * length
        log = prediction_log_pb2.PredictionLog.FromString(
            signatures._predict_log("features", "image_bytes", tf.make_tensor_proto([text]))
        )
        assert tf.make_ndarray(log.predict_log.request.inputs["image_bytes"])[0] == text.encode()
