"""One request to a model server, over gRPC or REST; both against TensorFlow Serving and `rsseg-tf serve`."""

from __future__ import annotations

import base64
import http.client
import re
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import grpc
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from rsseg_tf.errors import ConfigError, ServingError
from rsseg_tf.serving.tensors import dump, dump_array, parse

__all__ = [
    "Address",
    "GrpcTransport",
    "RefusedError",
    "RestTransport",
    "RetryableError",
    "Transport",
    "netloc",
    "open_transport",
]

_FORM = re.compile(r"(?:(?P<scheme>grpc|http)://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):(?P<port>\d{1,5})/?")
_RETRYABLE_GRPC = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,  # by a server that stops; we cancel nothing
}
_RETRYABLE_HTTP = {408, 429, 502, 503, 504}
_TOO_LARGE = "larger than"  # in gRPC's error for a message over a limit, which another try does not help
_MOST_ANSWER_BYTES = 2**31 - 1  # gRPC keeps the limit in a signed number of 32 bits


class Address(NamedTuple):
    """Address of a server, and the interface that it has there.

    Attributes:
        api: `grpc` or `rest`.
        host: Without the brackets of an IPv6 address.
        port: 1..65535.
    """

    api: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads `HOST:PORT`, `grpc://HOST:PORT` or `http://HOST:PORT`.

        Raises:
            ConfigError: When it is none of them.
        """
        match = _FORM.fullmatch(text)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise ConfigError(
                f"A server is named as HOST:PORT for gRPC or http://HOST:PORT for REST; got {text!r:.200}. TensorFlow "
                "Serving's usual ports are 8500 for gRPC and 8501 for REST. For TLS put a proxy in between."
            )
        api = "rest" if match["scheme"] == "http" else "grpc"
        return cls(api, match["host"].strip("[]"), int(match["port"]))

    @property
    def netloc(self) -> str:
        """`HOST:PORT`, with brackets around an IPv6 address."""
        return netloc(self.host, self.port)


def netloc(host: str, port: int) -> str:
    """Returns `HOST:PORT`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class RetryableError(ServingError):
    """A failure that may be over soon: the server is busy, starting, or gone for a moment."""


class RefusedError(ServingError):
    """The server will not answer this request, however often it is sent."""


class Transport(Protocol):
    """Sends requests; several threads may at once."""

    def predict(self, signature: str, inputs: Mapping[str, NDArray], output: str, timeout_s: float) -> NDArray:
        """Runs a signature and returns one output.

        Raises:
            RetryableError: When the server cannot be reached, is busy, or does not answer in time.
            RefusedError: When it refuses the request.
            ServingError: When the answer is not one of a model server.
        """

    def input_dtype(self, signature: str, name: str, timeout_s: float) -> str:
        """Returns the dtype that an input must have, as NumPy names it.

        Raises:
            ServingError: As `predict`; also when the model has no such signature or input.
        """

    def statuses(self, timeout_s: float) -> list[tuple[int, str]]:
        """Returns number and state of each version.

        Raises:
            ServingError: As `predict`.
        """

    def close(self) -> None:
        """Ends the connections."""


def open_transport(address: Address, model: str) -> Transport:
    """Returns the transport for an address; nothing is sent yet.

    Args:
        address: Address of the server.
        model: Name of the model there.
    """
    return GrpcTransport(address, model) if address.api == "grpc" else RestTransport(address, model)


class GrpcTransport:
    """Requests over gRPC. Messages of any size are taken: logits of 512 x 512 pixels exceed gRPC's usual 4 MB."""

    def __init__(self, address: Address, model: str) -> None:
        self._address = address
        self._model = model
        self._channel = grpc.insecure_channel(
            address.netloc,
            options=[
                ("grpc.max_receive_message_length", _MOST_ANSWER_BYTES),
                ("grpc.max_send_message_length", _MOST_ANSWER_BYTES),
                # A server that was restarted must be found again within moments, not minutes.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 2000),
                # A proxy for the web in the environment would take model servers on this network from reach.
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def predict(self, signature: str, inputs: Mapping[str, NDArray], output: str, timeout_s: float) -> NDArray:
        """See `Transport`."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._model
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        request.output_filter.append(output)
        response = self._call(self._prediction.Predict, request, timeout_s)
        if output not in response.outputs:
            raise ServingError(f"{self._address.netloc} answered without the output {output}. Is it another model?")
        return tf.make_ndarray(response.outputs[output])

    def input_dtype(self, signature: str, name: str, timeout_s: float) -> str:
        """See `Transport`."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = self._model
        response = self._call(self._prediction.GetModelMetadata, request, timeout_s)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        if name not in signatures.signature_def[signature].inputs:
            raise _other_model(self._address, self._model, signature, name)
        return str(tf.as_dtype(signatures.signature_def[signature].inputs[name].dtype).name)

    def statuses(self, timeout_s: float) -> list[tuple[int, str]]:
        """See `Transport`."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self._model
        answer = self._call(self._models.GetModelStatus, request, timeout_s)
        state = get_model_status_pb2.ModelVersionStatus.State
        return [(one.version, state.Name(one.state)) for one in answer.model_version_status]

    def close(self) -> None:
        """See `Transport`."""
        self._channel.close()

    def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        try:
            return method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            code, details = error.code(), " ".join((error.details() or "").split())[:500]
            message = f"{self._address.netloc}: {code.name}: {details}"
            exhausted = code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE not in details
            if code in _RETRYABLE_GRPC or exhausted:
                raise RetryableError(message) from error
            raise RefusedError(message) from error


class RestTransport:
    """Requests over REST, in columnar format; each thread keeps a connection."""

    def __init__(self, address: Address, model: str) -> None:
        self._address = address
        self._path = f"/v1/models/{quote(model, safe='')}"
        self._local = threading.local()
        self._open: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def predict(self, signature: str, inputs: Mapping[str, NDArray], output: str, timeout_s: float) -> NDArray:
        """See `Transport`."""
        values = b",".join(b"%s:%s" % (dump(name), _as_json(value)) for name, value in inputs.items())
        body = b'{"signature_name":%s,"inputs":{%s}}' % (dump(signature), values)
        answer = self._call("POST", f"{self._path}:predict", body, timeout_s)
        if "outputs" not in answer:
            raise ServingError(f"{self._address.netloc} answered without outputs. Is it a model server?")
        value = answer["outputs"]
        # Where a signature has one output, the value stands there without a name.
        if isinstance(value, dict) and output in value:
            value = value[output]
        is_text = isinstance(value, list) and bool(value) and isinstance(value[0], str)
        return np.asarray(value, object if is_text else np.float32)

    def input_dtype(self, signature: str, name: str, timeout_s: float) -> str:
        """See `Transport`."""
        answer = self._call("GET", f"{self._path}/metadata", None, timeout_s)
        try:
            signatures = answer["metadata"]["signature_def"]["signature_def"]
            return str(tf.as_dtype(_DTYPES[signatures[signature]["inputs"][name]["dtype"]]).name)
        except (KeyError, TypeError) as error:
            raise _other_model(self._address, self._path, signature, name) from error

    def statuses(self, timeout_s: float) -> list[tuple[int, str]]:
        """See `Transport`."""
        answer = self._call("GET", self._path, None, timeout_s)
        return [(int(one["version"]), str(one["state"])) for one in answer.get("model_version_status", [])]

    def close(self) -> None:
        """See `Transport`."""
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()

    def _connection(self) -> http.client.HTTPConnection:
        # A connection carries one request at a time, so each thread has its own; `close` must find them all.
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._address.host, self._address.port)
            self._local.connection = connection
            with self._lock:
                self._open.append(connection)
        return connection

    def _call(self, method: str, path: str, body: bytes | None, timeout_s: float) -> dict[str, Any]:
        connection = self._connection()
        # The attribute holds for a new connection, `settimeout` for an open one.
        connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            status, content = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out, or cut off
            connection.close()  # the next request opens it again
            raise RetryableError(f"{self._address.netloc}: {type(error).__name__}: {error}") from error
        # A proxy in front may answer 502 or 503 with a page of its own.
        try:
            answer = parse(content)
        except ValueError as error:
            if status in _RETRYABLE_HTTP:
                raise RetryableError(f"{self._address.netloc}: HTTP {status}") from error
            raise ServingError(f"{self._address.netloc}: HTTP {status}, and no JSON. Is it a model server?") from error
        if status != http.HTTPStatus.OK:
            message = str(answer.get("error", "") if isinstance(answer, dict) else "")[:500]
            kind = RetryableError if status in _RETRYABLE_HTTP else RefusedError
            raise kind(f"{self._address.netloc}: HTTP {status}: {message}")
        if not isinstance(answer, dict):
            raise ServingError(f"{self._address.netloc} answered with no JSON object. Is it a model server?")
        return answer


# Names in `tensorflow.DataType` -> names in NumPy.
_DTYPES = {f"DT_{name.upper()}": name for name in ("uint8", "uint16", "int32", "string")} | {
    "DT_FLOAT": "float32",
    "DT_DOUBLE": "float64",
}


def _as_json(value: NDArray) -> bytes:
    """Writes lists of numbers, or of texts, where those are texts and not bytes."""
    if value.dtype != object:
        return dump_array(value)
    return dump([{"b64": base64.b64encode(one).decode()} if isinstance(one, bytes) else one for one in value])


def _other_model(address: Address, model: str, signature: str, name: str) -> ServingError:
    return ServingError(
        f"The model {model} on {address.netloc} has no signature {signature} with an input {name}; it was not exported "
        "by `rsseg-tf export --format savedmodel`."
    )
