"""A server that speaks TensorFlow Serving's protocol, built on the session loader that the real one uses.

    python tests/serving/model_server.py EXPORT_DIR        # prints {"rest": PORT, "grpc": PORT} when it serves

It loads the highest version, runs its warm-up requests as the real one does, answers Predict by gRPC and by REST in
columns, and ends with its standard input. It cannot import keras_alexnet: what it serves needs nothing but TensorFlow.
The model is `alexnet`; the words of some errors are not TensorFlow Serving's.
"""

import base64
import concurrent.futures
import http.server
import json
import os
import re
import sys
import threading

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

sys.modules["keras_alexnet"] = None

# As http_server.cc maps them.
HTTP_STATUS = {"INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "NOT_FOUND": 404, "UNAVAILABLE": 503}
CODES = {3: "INVALID_ARGUMENT", 9: "FAILED_PRECONDITION", 14: "UNAVAILABLE"}
PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?:predict")


class FailureError(Exception):
    def __init__(self, code, words):
        super().__init__(words)
        self.code = code


class Servable(prediction_service_pb2_grpc.PredictionServiceServicer):
    """One version in a session of its own, and its service by gRPC."""

    def __init__(self, export_dir):
        self.version = max(int(name) for name in os.listdir(export_dir) if name.isdigit())
        folder = os.path.join(export_dir, str(self.version))
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        self.meta_graph = tf.compat.v1.saved_model.loader.load(self.session, ["serve"], folder)
        self.warmed_up = 0
        for record in tf.data.TFRecordDataset(os.path.join(folder, "assets.extra", "tf_serving_warmup_requests")):
            self.predict(prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request)
            self.warmed_up += 1

    def signature(self, spec):
        if spec.name != "alexnet" or (spec.HasField("version") and spec.version.value != self.version):
            words = f"Servable not found for request: Specific({spec.name}, {spec.version.value})"
            raise FailureError("NOT_FOUND", words)
        name = spec.signature_name or "serving_default"
        if name not in self.meta_graph.signature_def:
            raise FailureError("INVALID_ARGUMENT", f'Serving signature name: "{name}" not found in signature def')
        return self.meta_graph.signature_def[name]

    def predict(self, request):
        signature = self.signature(request.model_spec)
        if set(request.inputs) != set(signature.inputs):
            words = f"input size does not match signature: {set(request.inputs)} is not {set(signature.inputs)}"
            raise FailureError("INVALID_ARGUMENT", words)
        feeds = {signature.inputs[name].name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        try:
            return self.session.run({name: info.name for name, info in signature.outputs.items()}, feeds)
        except tf.errors.OpError as error:
            raise FailureError(CODES.get(error.error_code, "INTERNAL"), error.message) from None

    def Predict(self, request, context):  # noqa: N802 (the protocol's name)
        try:
            outputs = self.predict(request)
        except FailureError as failure:
            context.abort(grpc.StatusCode[failure.code], str(failure))
        response = predict_pb2.PredictResponse(model_spec=request.model_spec)
        response.model_spec.version.value = self.version
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response


class Rest(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: else the second waits for the first to be acknowledged
    servable = None

    def do_POST(self):  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model, version = PATH.fullmatch(self.path).groups()
        request = predict_pb2.PredictRequest(model_spec={"name": model, "signature_name": body["signature_name"]})
        if version:
            request.model_spec.version.value = int(version)
        for name, values in body["inputs"].items():
            files = [base64.b64decode(value["b64"], validate=True) for value in values]
            request.inputs[name].CopyFrom(tf.make_tensor_proto(files))
        try:
            outputs = {name: _shown(value) for name, value in self.servable.predict(request).items()}
            # The name of a single output is left out.
            self.answer(200, {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))})
        except FailureError as failure:
            self.answer(HTTP_STATUS.get(failure.code, 500), {"error": str(failure)})

    def answer(self, code, body):
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


def _shown(array):
    return np.vectorize(bytes.decode)(array).tolist() if array.dtype == object else array.tolist()


def main(export_dir):
    Rest.servable = servable = Servable(export_dir)
    options = [("grpc.max_receive_message_length", 2**31 - 1)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servable, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    rest = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rest)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    said = {"rest": rest.server_address[1], "grpc": port, "warmed_up": servable.warmed_up}
    print(json.dumps(said), flush=True)
    sys.stdin.read()  # until whoever started it is gone


if __name__ == "__main__":
    main(sys.argv[1])
