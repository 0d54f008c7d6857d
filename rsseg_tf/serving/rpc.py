"""The gRPC interface of TensorFlow Serving: prediction, metadata, status, and the standard health service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from rsseg_tf.errors import ServingError
from rsseg_tf.serving.protobufs import SIGNATURES_FIELD, metadata_message, status_message
from rsseg_tf.serving.service import DEFAULT_SIGNATURE, Service, Target
from rsseg_tf.serving.status import Code, RequestError
from rsseg_tf.serving.tensors import from_proto

__all__ = ["rpc_server"]

_SPARE_THREADS = 4  # for questions about health, status and metadata while all places are taken
_HEALTH_POLL_S = 0.2
_MOST_HEALTH_WATCHERS = 2


def rpc_server(service: Service, host: str, port: int) -> tuple[grpc.Server, int]:
    """Makes a server that listens on a port, and does not answer before it is started.

    Args:
        service: what answers.
        host: name or address.
        port: 0 for any free one.

    Returns:
        The server and its port.

    Raises:
        ServingError: when the port cannot be had.
    """
    threads = service.limits.max_concurrent + _SPARE_THREADS
    server = grpc.server(
        futures.ThreadPoolExecutor(threads, thread_name_prefix="grpc"),
        maximum_concurrent_rpcs=2 * threads,
        options=[
            ("grpc.max_receive_message_length", service.limits.max_body_bytes),
            ("grpc.max_send_message_length", -1),  # as TensorFlow Serving; clients have limits of their own
            ("grpc.so_reuseport", 0),  # two servers on one port would take turns
            ("grpc.server_handshake_timeout_ms", int(1000 * service.limits.client_timeout_s)),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_Prediction(service), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Models(service), server)
    health_pb2_grpc.add_HealthServicer_to_server(_Health(service), server)
    address = f"[{host}]" if ":" in host else host
    try:
        return server, server.add_insecure_port(f"{address}:{port}")
    except RuntimeError as error:
        raise ServingError(
            f"The gRPC port {port} of {host} cannot be had; another server may use it. Choose another with "
            "--grpc-port, or 0 for any free one."
        ) from error


@contextmanager
def _told(context: grpc.ServicerContext) -> Iterator[None]:
    """Ends a call with the status of the error that is raised within."""
    try:
        yield
    except RequestError as error:
        context.abort(getattr(grpc.StatusCode, error.code.grpc), str(error))


def _target(spec: Any) -> Target:
    """Returns whom a request is for, from its `ModelSpec`."""
    choice = spec.WhichOneof("version_choice")
    return Target(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the calls that our signatures have no use for stay unimplemented."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def Predict(self, request: Any, context: grpc.ServicerContext) -> predict_pb2.PredictResponse:
        """Runs a signature."""
        with _told(context), self._service.counted("grpc") as tell, self._service.place():
            return self._predict(request, context, tell)

    def _predict(
        self, request: Any, context: grpc.ServicerContext, tell: Callable[[str], None]
    ) -> predict_pb2.PredictResponse:
        service = self._service
        signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
        timeout_s = min(service.limits.request_timeout_s, context.time_remaining() or float("inf"))
        with service.version(_target(request.model_spec)) as version:
            service.definition(version, signature)
            tell(signature)
            inputs = {name: from_proto(name, value) for name, value in request.inputs.items()}
            answer = service.submit(version, signature, inputs, request.output_filter, timeout_s)
            context.add_callback(answer.cancel)
            try:
                outputs = answer.result(timeout_s)
            except (futures.TimeoutError, futures.CancelledError) as error:
                answer.cancel()
                raise RequestError(
                    Code.DEADLINE_EXCEEDED, f"no answer within {timeout_s:g} seconds; the server is busy"
                ) from error
            response = predict_pb2.PredictResponse()
            response.model_spec.name = request.model_spec.name
            response.model_spec.signature_name = signature
            response.model_spec.version.value = version.number
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Returns the signatures of a model."""
        with _told(context):
            fields = set(request.metadata_field)
            if fields != {SIGNATURES_FIELD}:
                raise RequestError(
                    Code.INVALID_ARGUMENT,
                    f"metadata_field must be {SIGNATURES_FIELD}; got {', '.join(sorted(fields))[:100] or 'nothing'}",
                )
            with self._service.version(_target(request.model_spec)) as version:
                return metadata_message(request.model_spec.name, version)


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus. The set of models is chosen at the start: HandleReloadConfigRequest stays unimplemented."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Returns the status of versions."""
        with _told(context):
            return status_message(self._service.statuses(_target(request.model_spec)))


class _Health(health_pb2_grpc.HealthServicer):
    """The standard health service, for the whole server, the model, and the prediction service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._names = {"", service.versions.name, "tensorflow.serving.PredictionService"}
        self._watchers = threading.BoundedSemaphore(_MOST_HEALTH_WATCHERS)

    def _status(self) -> Any:
        status = health_pb2.HealthCheckResponse.ServingStatus
        return status.SERVING if self._service.versions.available else status.NOT_SERVING

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Says whether a version answers."""
        if request.service not in self._names:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=self._status())

    def Watch(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Says so whenever it changes. Each watcher holds a thread, so there may be few."""
        if not self._watchers.acquire(blocking=False):
            context.abort(grpc.StatusCode.UNAVAILABLE, "too many watchers; ask with Check")
        try:
            last = None
            unknown = health_pb2.HealthCheckResponse.ServingStatus.SERVICE_UNKNOWN
            while context.is_active():
                now = self._status() if request.service in self._names else unknown
                if now != last:
                    yield health_pb2.HealthCheckResponse(status=now)
                last = now
                time.sleep(_HEALTH_POLL_S)
        finally:
            self._watchers.release()
