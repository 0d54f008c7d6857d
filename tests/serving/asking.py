"""Requests as programs make them that know nothing of this package."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

grpc = pytest.importorskip("grpc", reason="the extra `serving` is not installed")
for _module in ("tensorflow_serving", "uvicorn", "starlette", "prometheus_client", "grpc_health"):
    pytest.importorskip(_module, reason="the extra `serving` is not installed")

from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc  # noqa: E402

from rsseg_tf.serving.server import Server  # noqa: E402


def rest(server: Server, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Returns status and JSON; `body` is sent as it is where it is bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request("POST", path, data, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        content = response.read()
        return response.status, json.loads(content)
    finally:
        connection.close()


def raw(server: Server, data: bytes, *, timeout_s: float = 30.0) -> bytes:
    """Sends bytes and returns all that comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=timeout_s) as connection:
        connection.sendall(data)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def request_of(
    inputs: dict[str, Any], signature: str = "", model: str = "tiny", outputs: Sequence[str] = ()
) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def ask(server: Server, request: predict_pb2.PredictRequest, timeout_s: float = 60.0) -> dict[str, np.ndarray]:
    """Asks over gRPC with the client that comes with TensorFlow Serving."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(request, timeout=timeout_s)
    return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}
