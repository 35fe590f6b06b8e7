"""Clients of TensorFlow Serving, by REST (`http://`, `https://`) or gRPC (`grpc://`), and of a local exported model.

    client = open_client("http://localhost:8501/v1/models/alexnet")
    answer = client.predict([open("image.jpg", "rb").read()])     # {"classes": (1, 5), "scores": (1, 5), ...}

All three have the same methods, which any number of threads may call. The REST client needs no TensorFlow.
"""

import base64
import json
import os
import random
import re
import time
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import numpy as np
import requests
import urllib3

from keras_alexnet import rundir
from keras_alexnet.errors import RunError, UsageError, brief, brief_message, printable, reading

MODEL = "alexnet"  # name of the served model if the address has none
REST_PORT, GRPC_PORT = 8501, 8500  # of TensorFlow Serving
_CONNECTIONS = 256  # kept open
_MAX_ANSWER = 2**26  # bytes; the features of a thousand images take less
_PATH = re.compile(r"/?(?:v1/models/)?(?P<model>[^/:]*)(?:/versions/(?P<version>[0-9]{1,19}))?/?")
# HTTP and gRPC statuses.
_TEMPORARY = (408, 429, 502, 503, 504, "UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED", "DEADLINE_EXCEEDED")
_REFUSED = (400, "INVALID_ARGUMENT", "FAILED_PRECONDITION")
_CONNECTION_FAILED = re.compile(
    r"(Connection refused|Name or service not known|Connection reset|[A-Z][a-z ]+timed out|Remote end closed)"
)


class RefusedError(RunError):
    """The request is invalid or too large; a request with fewer of its files may succeed."""


class _TemporaryError(Exception):
    """A failure after which a retry may succeed. Args: reason, str; seconds to wait as the server asks, or None."""


def open_client(target, deadline=30.0, retries=3):
    """A client of a served or an exported model.

    Args:
        target: str, `http://HOST[:8501][/v1/models/NAME[/versions/N]]`, `https://...`,
            `grpc://HOST[:8500][/NAME[/versions/N]]`, or the folder of an export or of a run. NAME: alexnet by default.
        deadline: float, seconds for a request to a server, retries included.
        retries: int, how often a request is repeated when the server cannot be reached or is overloaded.

    Returns an object with `close()` and `predict(files, signature="serving_default")`: list of bytes -> dict of
    np.ndarray with one row per file: classes (B, 5) of str, scores and probabilities float32; or features float32.
    `predict` raises RefusedError for a bad file or a request that is too large, UsageError for a wrong signature, and
    RunError for a failure of the server.

    Raises UsageError or ArgumentError where the target is invalid or `tensorflow-serving-api` is missing.
    """
    if "://" not in target:
        return FolderClient(target)
    return (GrpcClient if target.startswith("grpc://") else RestClient)(target, deadline, retries)


class FolderClient:
    """An exported model or a run, loaded into this process."""

    def __init__(self, folder):
        if not (rundir.is_run(folder) or rundir.is_export(folder)):
            raise UsageError(f"--model={printable(folder)}: {_instead_of(folder)}")
        rundir.check_path(rundir.located(folder), "model")
        with reading(folder):
            from keras_alexnet.serving import signatures  # TensorFlow takes seconds; the REST client does not need it

            self._tf, self._signatures = signatures.tf, signatures.load(folder)

    def predict(self, files, signature="serving_default"):
        """See `open_client`."""
        function = self._signatures.get(signature)
        takes = self._tf.nest.flatten(function.structured_input_signature) if function else []
        if [(each.name, each.dtype) for each in takes] != [("image_bytes", self._tf.string)]:
            names = ", ".join(sorted(self._signatures))
            raise UsageError(f"--signature={signature}: the model has {names}; give a signature of image files")
        try:
            outputs = function(image_bytes=self._tf.constant(files, self._tf.string))
        except self._tf.errors.InvalidArgumentError as error:
            raise RefusedError(brief(error)) from None
        return _checked({name: value.numpy() for name, value in outputs.items()}, len(files), "the model")

    def close(self):
        """Does nothing: no connection is open."""


class _ServerClient:
    """Base class of the server clients: parses the address, repeats requests, and is the address as text."""

    def __init__(self, target, deadline, retries):
        self._target, self._deadline, self._retries, self._proxy = target, deadline, retries, None
        try:
            parts = urlsplit(target)
            host, self.port = parts.hostname, parts.port
        except ValueError as error:
            raise UsageError(f"--model={target}: {error}") from None
        path = _PATH.fullmatch(parts.path)
        is_known = parts.scheme in ("http", "https", "grpc") and path and int(path["version"] or 0) < 2**63
        if not is_known or not host or parts.query or parts.fragment or parts.username is not None:
            examples = "http://HOST:8501/v1/models/alexnet or grpc://HOST:8500/alexnet"
            problem = f"is not the address of a model; write {examples}, optionally followed by /versions/N"
            raise UsageError(f"--model={target}: {problem}")
        self.scheme, self.host = parts.scheme, f"[{host}]" if ":" in host else host
        self.model, self.version = path["model"] or MODEL, path["version"]
        self.is_loopback = re.fullmatch(r"127\.[0-9.]+|(0*:)+0*1|(.+\.)?localhost", host) is not None

    def __str__(self):
        # The password of the proxy is left out; requests to loopback use no proxy.
        proxy = "" if self.is_loopback else (self._proxy or "").rpartition("@")[2]
        return self._target + (f" (through the proxy {proxy})" if proxy else "")

    def predict(self, files, signature="serving_default"):
        """See `open_client`. After a _TemporaryError, the client pauses and retries.

        Pauses double and add up to half of the deadline, so that a server can restart meanwhile, unless the server asks
        for a pause. (urllib3's Retry has no deadline for all attempts.)
        """
        request, end = self._request(files, signature), time.monotonic() + self._deadline
        for number in range(self._retries + 1):
            try:
                outputs = self._send(request, signature, max(0.001, end - time.monotonic()))
                return _checked(outputs, len(files), self)
            except _TemporaryError as error:
                reason, asked = error.args
                share = 2**number / max(1, 2**self._retries - 1) * random.uniform(0.7, 1)  # not all clients at once
                pause = max(0.1, self._deadline / 2 * share) if asked is None else asked
                late = time.monotonic() + (pause if number < self._retries else 0) >= end
                if late or number == self._retries:
                    what = f"no answer within {self._deadline:g} s" if late else f"failed {self._retries + 1} times"
                    hint = "is the server running, and is the address right?"
                    raise RunError(f"{self}: {what} ({reason}); {hint}") from None
                time.sleep(pause)

    def _error(self, status, said, signature, retry_after=""):
        """The exception for an HTTP or gRPC status, the server's message, and the header Retry-After."""
        said = _short(brief_message(str(said)))
        if status == 413 or "larger than max" in said:
            return RefusedError(f"the request is too large ({said})")
        if status in _TEMPORARY:
            return _TemporaryError(said, float(retry_after) if retry_after.isdecimal() else None)
        if status in _REFUSED and re.search(r"\b[Ss]ignature\b", said):
            return UsageError(f"--signature={signature}: {said}")
        return RefusedError(said) if status in _REFUSED else RunError(f"{self}: {said}")


class RestClient(_ServerClient):
    """A client of TensorFlow Serving's REST API: sends files as base64 in its columnar JSON format."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        version = f"/versions/{self.version}" if self.version else ""
        address = f"{self.scheme}://{self.host}:{self.port or REST_PORT}"
        self._url = f"{address}/v1/models/{self.model}{version}:predict"
        self._session = requests.Session()  # keeps connections open for parallel requests
        self._session.mount(f"{self.scheme}://", requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS))
        self._proxies = dict.fromkeys(("http", "https", "all")) if self.is_loopback else None
        self._proxy = requests.utils.select_proxy(self._url, requests.utils.get_environ_proxies(self._url))

    def close(self):
        self._session.close()

    def _request(self, files, signature):
        encoded = [{"b64": base64.b64encode(file).decode("ascii")} for file in files]
        return json.dumps({"signature_name": signature, "inputs": {"image_bytes": encoded}}).encode("ascii")

    def _send(self, request, signature, seconds):
        options = {"headers": {"Content-Type": "application/json"}, "timeout": seconds, "proxies": self._proxies}
        try:
            with self._session.post(self._url, request, **options, stream=True, allow_redirects=False) as response:
                content = response.raw.read(_MAX_ANSWER + 1, decode_content=True)
        except requests.exceptions.SSLError as error:
            if "EOF" in str(error):
                raise _TemporaryError("the TLS connection was closed", None) from None
            raise RunError(f"{self}: {_short(error)}; is it an http:// address, or its certificate unknown?") from None
        except (requests.Timeout, requests.ConnectionError, urllib3.exceptions.HTTPError) as error:
            reason = _CONNECTION_FAILED.search(str(error))  # leaves out the objects that the message names
            raise _TemporaryError(reason[1] if reason else "no complete HTTP response", None) from None
        except (requests.RequestException, OSError) as error:
            raise RunError(f"{self}: {_short(error)}") from None
        if len(content) > _MAX_ANSWER:
            raise RunError(f"{self}: the answer is larger than {_MAX_ANSWER >> 20} MB")
        if response.is_redirect:
            location = _short(printable(urljoin(self._url, response.headers["Location"])))
            raise RunError(f"{self}: redirects to {location}; give the address of the server itself")
        try:
            answer = dict(json.loads(content))
        except (ValueError, TypeError, RecursionError):  # undecodable bytes are a ValueError too
            answer = {}
        if response.status_code != 200:
            said = answer.get("error") or f"HTTP status {response.status_code} {response.reason}"
            raise self._error(response.status_code, said, signature, response.headers.get("Retry-After", ""))
        outputs = answer.get("outputs")
        if outputs is None:
            raise RunError(f"{self}: the answer is not TensorFlow Serving's (no outputs in JSON)")
        # The server leaves out the name of an output that is the only one.
        return outputs if isinstance(outputs, dict) else {signature: outputs}


class GrpcClient(_ServerClient):
    """A client of TensorFlow Serving's gRPC API, which needs the extra `serving`."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # errors are raised, so gRPC need not log them
        try:
            import grpc
            import tensorflow as tf
            from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
        except ImportError:
            remedy = "pip install 'keras-alexnet[serving]', or give an http:// address"
            raise UsageError(f"--model={self}: gRPC needs tensorflow-serving-api; {remedy}") from None
        self._grpc, self._tf, self._new_request = grpc, tf, predict_pb2.PredictRequest
        self._proxy = next(filter(None, map(os.environ.get, ("grpc_proxy", "https_proxy", "http_proxy"))), None)
        options = {
            "grpc.max_receive_message_length": _MAX_ANSWER,
            "grpc.max_send_message_length": -1,
            "grpc.enable_retries": 0,  # `predict` retries
            "grpc.enable_http_proxy": 0 if self.is_loopback else 1,
        }
        self._channel = grpc.insecure_channel(f"{self.host}:{self.port or GRPC_PORT}", options=list(options.items()))
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def close(self):
        """Closes the channel: pending requests of all threads raise RunError."""
        self._channel.close()

    def _request(self, files, signature):
        request = self._new_request()
        request.model_spec.name, request.model_spec.signature_name = self.model, signature
        if self.version:
            request.model_spec.version.value = int(self.version)
        request.inputs["image_bytes"].CopyFrom(self._tf.make_tensor_proto(files, self._tf.string, (len(files),)))
        return request

    def _send(self, request, signature, seconds):
        try:
            answer = self._stub.Predict(request, timeout=seconds)
        except ValueError as error:  # the channel is closed
            raise RunError(f"{self}: {_short(error)}") from None
        except self._grpc.RpcError as error:
            raise self._error(error.code().name, error.details() or "", signature) from None
        try:
            return {name: self._tf.make_ndarray(value) for name, value in answer.outputs.items()}
        except (TypeError, ValueError) as error:
            raise RunError(f"{self}: an output is not a tensor ({_short(error)})") from None


def _instead_of(folder):
    """The problem of a folder without a model, and what to write instead, str."""
    if re.fullmatch(r"[^/\\]+:\d+(/.*)?", folder):
        return f"is not a folder; for a server, write http://{folder} or grpc://{folder}"
    files = [file for above in ("", "export/") for file in Path(folder).glob(f"{above}*/saved_model.pb")]
    versions = [file.parent for file in files if file.parent.name.isdigit()]
    newest = max(versions, key=lambda path: int(path.name), default=None)
    hint = f"; did you mean {printable(str(newest))}?" if newest else ""
    return f"is not an exported model (its saved_model.pb is missing){hint}"


def _checked(outputs, count, source):
    """Arrays with one row per file: classes are text, other outputs float32. Raises RunError of anything else."""
    if not outputs:
        raise RunError(f"{source}: the answer has no outputs")
    arrays = {}
    # Servers send outputs in arbitrary order.
    for name in sorted(outputs, key=lambda name: (name not in ("classes", "scores"), name)):
        try:
            array = np.asarray(outputs[name])
            if array.dtype == object:  # bytes
                array = np.array([text.decode(errors="replace") for text in array.ravel()]).reshape(array.shape)
        except (ValueError, AttributeError):
            raise RunError(f"{source}: {name} in the answer are not a table of text or numbers") from None
        is_table = array.ndim == 2 and len(array) == count and array.shape[1]
        if not is_table or array.dtype.kind not in ("U" if name == "classes" else "fiu"):
            raise RunError(f"{source}: {name} in the answer to {count} files are {array.dtype}, shape {array.shape}")
        if name != "classes" and not np.isfinite(array).all():
            raise RunError(f"{source}: {name} in the answer have non-finite numbers")
        arrays[name] = array if name == "classes" else array.astype(np.float32)
    if "classes" in arrays and ("scores" not in arrays or arrays["classes"].shape != arrays["scores"].shape):
        raise RunError(f"{source}: classes and scores in the answer are of different shapes")
    return arrays


def _short(text):
    line = " ".join(str(text).split())
    return line if len(line) <= 300 else f"{line[:300]} ..."
