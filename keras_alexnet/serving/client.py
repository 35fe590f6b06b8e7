"""Clients of TensorFlow Serving, by REST (`http://`, `https://`) and by gRPC (`grpc://`); and of a model loaded here.

    client = open_client("http://localhost:8501/v1/models/alexnet")
    answer = client.predict([open("photo.jpg", "rb").read()])     # {"classes": (1, 5), "scores": (1, 5), ...}

All three are used alike, from as many threads as one likes. The REST client needs no TensorFlow.
"""

import base64
import concurrent.futures
import glob
import itertools
import json
import os
import random
import re
import threading
import time

import numpy as np

from keras_alexnet.errors import RunError, UsageError, brief, brief_message, reading

DEADLINE = 30.0  # seconds for a request, its repetitions included
RETRIES = 3  # repetitions of a request that failed for the time being
MODEL = "alexnet"  # the name of a served model, where an address gives none
REST_PORT, GRPC_PORT = 8501, 8500  # of TensorFlow Serving
_FIRST = ("classes", "scores")  # the order in which servers send outputs is any
_MOST_PARALLEL = 256  # connections that are kept
_MAX_ANSWER = 2**26  # bytes; the features of a thousand images take less
_PATH = re.compile(r"/?(?:v1/models/)?(?P<model>[^/:]*)(?:/versions/(?P<version>[0-9]+))?/?")


class RefusedError(RunError):
    """The request itself is wrong: a picture, a signature. To repeat it would not help."""


class _TemporaryError(Exception):
    """What may be over when the request is repeated."""


def open_client(target, deadline=DEADLINE, retries=RETRIES):
    """A client of a served or an exported model.

    Args:
        target: str, `http://HOST[:8501][/v1/models/NAME[/versions/N]]`, `https://...`,
            `grpc://HOST[:8500][/NAME[/versions/N]]`, or the folder of an exported model. NAME is alexnet by default.
        deadline: float, seconds for a request, repetitions included; not for a folder.
        retries: int, how often a request is repeated when the server cannot be reached or is overloaded.

    Returns:
        an object with `predict(files, signature="serving_default")`: list of bytes -> dict of np.ndarray, each with one
        row a file: classes (B, 5) of str, scores and probabilities float32; or features float32.

        `predict` raises RefusedError when a file is at fault, UsageError when the signature is, and RunError when the
        server or its answer is. `close()` ends what is under way.

    Raises:
        UsageError: the target is nothing of the kind, or `tensorflow-serving-api` is missing.
    """
    if "://" not in target:
        return FolderClient(target)
    scheme, host, port, model, version = _parse(target)
    kind = GrpcClient if scheme == "grpc" else RestClient
    return kind(target, scheme, host, port, model, version, deadline, retries)


class FolderClient:
    """An exported model, loaded into this process."""

    def __init__(self, folder):
        if not os.path.isfile(os.path.join(folder, "saved_model.pb")):
            below = (
                glob.glob(os.path.join(glob.escape(folder), *up, "*", "saved_model.pb")) for up in ((), ("export",))
            )
            near = "".join(f"; did you mean {os.path.dirname(each)}?" for each in sorted(itertools.chain(*below))[-1:])
            raise UsageError(f"--model={folder}: is no exported model (there is no saved_model.pb in it){near}")
        with reading(folder):
            import tensorflow as tf

            self._model = tf.saved_model.load(folder)

    def predict(self, files, signature="serving_default"):
        """See `open_client`."""
        import tensorflow as tf

        signatures = self._model.signatures
        if signature not in signatures or "image_bytes" not in signatures[signature].structured_input_signature[1]:
            raise UsageError(f"--signature={signature}: the model has {_list_of(signatures)}; give one of image files")
        try:
            outputs = signatures[signature](image_bytes=tf.constant(files, tf.string))
        except tf.errors.InvalidArgumentError as error:
            raise RefusedError(brief(error)) from None
        return _checked({name: value.numpy() for name, value in outputs.items()}, len(files), "the model")

    def close(self):
        """Nothing is under way that would have to be ended."""


class RestClient:
    """TensorFlow Serving by HTTP and JSON: files go as base64, in the columnar format of its REST API."""

    def __init__(self, target, scheme, host, port, model, version, deadline, retries):
        which = f"/versions/{version}" if version else ""
        self._url = f"{scheme}://{host}:{port or REST_PORT}/v1/models/{model}{which}:predict"
        self._target, self._deadline, self._retries = target, deadline, retries
        self._closed = threading.Event()
        import requests

        self._session = requests.Session()  # keeps connections open; as many as there are requests at a time
        self._session.mount(f"{scheme}://", requests.adapters.HTTPAdapter(pool_maxsize=_MOST_PARALLEL))

    def predict(self, files, signature="serving_default"):
        """See `open_client`."""
        encoded = [{"b64": base64.b64encode(file).decode("ascii")} for file in files]
        body = json.dumps({"signature_name": signature, "inputs": {"image_bytes": encoded}}).encode("ascii")
        answer = _repeated(
            lambda seconds: self._within(body, signature, seconds), self._target, self._deadline, self._retries
        )
        outputs = answer.get("outputs") if isinstance(answer, dict) else None
        if outputs is None:
            raise RunError(f"{self._target}: answers something else than TensorFlow Serving does (no outputs)")
        if not isinstance(outputs, dict):
            outputs = {signature: outputs}  # the server leaves the name of a single output out
        return _checked(outputs, len(files), self._target)

    def close(self):
        """Ends what is under way, whichever thread waits for it, with a RunError."""
        self._closed.set()

    def _within(self, body, signature, seconds):
        """The answer to a request, unless it takes longer.

        The timeout of requests is for each piece that comes: a server that sends a byte now and then would never meet
        it. So a thread of its own waits for the answer, and is given up when the time is over.
        """
        found = concurrent.futures.Future()

        def post():
            try:
                found.set_result(self._post(body, signature, seconds))
            except BaseException as error:
                found.set_exception(error)

        threading.Thread(target=post, daemon=True).start()
        end = time.monotonic() + seconds
        while not self._closed.is_set():
            try:
                return found.result(timeout=max(0, min(0.1, end - time.monotonic())))
            except concurrent.futures.TimeoutError:
                if found.done():
                    continue  # between the two lines
                if time.monotonic() >= end:
                    raise _TemporaryError("no answer in time") from None
        raise RunError(f"{self._target}: the client was closed")

    def _post(self, body, signature, seconds):
        import requests

        end = time.monotonic() + seconds
        try:
            with self._session.post(
                self._url,
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=seconds,
                stream=True,
                allow_redirects=False,
            ) as response:
                content = bytearray()
                for chunk in response.iter_content(2**16):
                    content += chunk
                    if len(content) > _MAX_ANSWER:
                        raise RunError(f"{self._target}: the answer is larger than {_MAX_ANSWER >> 20} MB")
                    if time.monotonic() > end:
                        raise _TemporaryError("no answer in time")
        except requests.Timeout:
            raise _TemporaryError("no answer in time") from None
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            raise _TemporaryError(_reason(error)) from None
        except (requests.RequestException, OSError) as error:
            raise RunError(f"{self._target}: {_short(str(error))}") from None
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):  # undecodable bytes are a ValueError too
            answer = None
        words = answer.get("error") if isinstance(answer, dict) else None
        said = _short(brief_message(str(words))) if words else f"HTTP status {response.status_code} {response.reason}"
        if response.status_code in (408, 429, 502, 503, 504):
            raise _TemporaryError(said)
        if response.status_code == 400:
            raise _refusal(said, signature)
        if response.status_code != 200:
            raise RunError(f"{self._target}: {said}")
        if answer is None:
            raise RunError(f"{self._target}: answers something else than TensorFlow Serving does (no JSON)")
        return answer


class GrpcClient:
    """TensorFlow Serving by gRPC, with its published protocol (extra `serving`)."""

    def __init__(self, target, scheme, host, port, model, version, deadline, retries):
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # errors come back as errors; its log would be on the screen
        try:
            import grpc
            from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
        except ImportError:
            raise UsageError(
                f"--model={target}: gRPC needs tensorflow-serving-api; pip install 'keras-alexnet[serving]', or give "
                "an http:// address"
            ) from None
        self._target, self._deadline, self._retries = target, deadline, retries
        self._request = predict_pb2.PredictRequest
        self._model, self._version = model, version
        self._channel = grpc.insecure_channel(
            f"{host}:{port or GRPC_PORT}",
            options=[
                ("grpc.max_receive_message_length", _MAX_ANSWER),
                ("grpc.max_send_message_length", -1),
                ("grpc.enable_retries", 0),  # they are counted here
            ],
        )
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def predict(self, files, signature="serving_default"):
        """See `open_client`."""
        import tensorflow as tf

        request = self._request()
        request.model_spec.name = self._model
        request.model_spec.signature_name = signature
        if self._version:
            request.model_spec.version.value = int(self._version)
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(files, tf.string, (len(files),)))
        answer = _repeated(
            lambda seconds: self._call(request, signature, seconds), self._target, self._deadline, self._retries
        )
        try:
            outputs = {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}
        except (TypeError, ValueError) as error:
            raise RunError(f"{self._target}: answers what is no tensor ({_short(str(error))})") from None
        return _checked(outputs, len(files), self._target)

    def close(self):
        """Ends what is under way, whichever thread waits for it, with a RunError."""
        self._channel.close()

    def _call(self, request, signature, seconds):
        import grpc

        try:
            return self._stub.Predict(request, timeout=seconds)
        except ValueError as error:  # a channel that was closed
            raise RunError(f"{self._target}: {_short(str(error))}") from None
        except grpc.RpcError as error:
            code, said = error.code(), _short(brief_message(error.details() or ""))
            if code in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                grpc.StatusCode.ABORTED,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            ):
                raise _TemporaryError(said) from None
            if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION):
                raise _refusal(said, signature) from None
            raise RunError(f"{self._target}: {code.name}: {said}") from None


def _parse(target):
    """(scheme, host, port or None, model, version or None)."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(target)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"--model={target}: {error}") from None
    if parts.scheme not in ("http", "https", "grpc"):
        raise UsageError(f"--model={target}: give http://, https://, grpc:// or the folder of an exported model")
    path = _PATH.fullmatch(parts.path)
    if not host or not path or parts.query or parts.fragment or parts.username is not None:
        example = "grpc://HOST:8500/alexnet" if parts.scheme == "grpc" else "http://HOST:8501/v1/models/alexnet"
        raise UsageError(f"--model={target}: is no address of a model; write {example}, /versions/N behind it or not")
    host = f"[{host}]" if ":" in host else host
    return parts.scheme, host, port, path["model"] or MODEL, path["version"]


def _repeated(attempt, target, deadline, retries):
    """The result of `attempt(seconds left)`, which is repeated a few times after a _TemporaryError."""
    end = time.monotonic() + deadline
    for number in range(retries + 1):
        try:
            return attempt(max(0.001, end - time.monotonic()))
        except _TemporaryError as error:
            # Twice as long each time, and not all clients at once.
            pause = 0.1 * 2**number * random.uniform(0.5, 1.5)
            late = time.monotonic() + pause >= end
            if late or number == retries:
                reason = f"no answer within {deadline:g} s" if late else f"failed {retries + 1} times"
                raise RunError(f"{target}: {reason} ({error}); is the server running, and this its address?") from None
            time.sleep(pause)


def _refusal(said, signature):
    """What a refused request is: a wrong signature is the user's own, all else may be a picture's."""
    if re.search(r"\b[Ss]ignature\b", said):
        return UsageError(f"--signature={signature}: {said}")
    return RefusedError(said)


def _checked(outputs, count, whose):
    """Arrays with one row a file, or RunError: classes are texts, everything else is finite numbers."""
    if not outputs:
        raise RunError(f"{whose}: answers without a single output")
    arrays = {}
    for name in sorted(outputs, key=lambda name: (name not in _FIRST, name)):
        try:
            array = np.asarray(outputs[name])
        except ValueError:
            raise RunError(f"{whose}: answers {name} that are no table") from None
        if array.ndim != 2 or len(array) != count or not array.shape[1]:
            raise RunError(f"{whose}: answers {name} of shape {array.shape} to {count} files")
        if name == "classes":
            texts = [each.decode(errors="replace") if isinstance(each, bytes) else each for each in array.ravel()]
            if not all(isinstance(each, str) for each in texts):
                raise RunError(f"{whose}: answers classes that are no texts")
            arrays[name] = np.array(texts).reshape(array.shape)
        elif array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise RunError(f"{whose}: answers {name} that are not all numbers")
        else:
            arrays[name] = array.astype(np.float32)
    if "classes" in arrays and ("scores" not in arrays or arrays["classes"].shape != arrays["scores"].shape):
        raise RunError(f"{whose}: answers classes and scores of different shapes")
    return arrays


def _reason(error):
    """Why a connection failed, without the objects that stand in its words."""
    match = re.search(
        r"(Connection refused|Name or service not known|Connection reset|[A-Z][a-z ]+timed out|Remote end closed)",
        str(error),
    )
    if match:
        return match[1]
    return "what comes is no HTTP, or ends early"


def _short(text):
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:300]} ..."


def _list_of(names):
    return ", ".join(sorted(names))
