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

from rsseg_tf.errors import ServingError, reason
from rsseg_tf.serving.limits import Budget
from rsseg_tf.serving.service import SIGNATURES_FIELD, ModelAddress, Service, answer_budget, deadline_error
from rsseg_tf.serving.status import Code, RequestError
from rsseg_tf.serving.tensors import DEFAULT_SIGNATURE, from_proto
from rsseg_tf.serving.transports import netloc

__all__ = ["rpc_server"]

_SPARE_THREADS = 4  # for questions about health, status and metadata while all places are taken
_HEALTH_POLL_S = 0.2
_MOST_HEALTH_WATCHERS = 2  # half of the spare threads, so that the other questions are answered
_LONGEST_DETAILS = 1000  # headers, where details travel, have little room
_MESSAGES_IN_MEMORY = 4  # times the largest message
_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_LARGE_ANSWER_BYTES = 2**20  # smaller ones cannot fill the memory: the number of calls is bounded


def rpc_server(service: Service, host: str, port: int) -> tuple[grpc.Server, int]:
    """Makes a server that listens on a port, and does not answer before it is started.

    Args:
        service: What answers.
        host: Name or address.
        port: 0 for any free one.

    Returns:
        The server and its port.

    Raises:
        ServingError: When the port cannot be had.
    """
    threads = service.limits.max_concurrent + _SPARE_THREADS
    server = grpc.server(
        futures.ThreadPoolExecutor(threads, thread_name_prefix="grpc"),
        interceptors=[_BoundedRequests(service.limits.max_body_bytes)],
        # gRPC refuses more at once; it would queue them without a bound.
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
    try:
        return server, server.add_insecure_port(netloc(host, port))
    except RuntimeError as error:
        raise ServingError(
            f"The gRPC port {port} of {host} cannot be had; another server may use it. Choose another with "
            "--grpc-port, or 0 for any free one."
        ) from error


@contextmanager
def _errors_as_status(context: grpc.ServicerContext) -> Iterator[None]:
    """Ends a call with the status of the error that is raised within.

    Left to gRPC the status would be UNKNOWN, with a traceback on standard error.
    """
    try:
        yield
    except RequestError as error:
        context.abort(getattr(grpc.StatusCode, error.status.grpc), str(error)[:_LONGEST_DETAILS])
    except Exception as error:
        if not context.is_active():  # the client went away, and the error follows from that
            raise
        context.abort(grpc.StatusCode.INTERNAL, f"the server failed: {reason(error)}")


def _address(spec: Any) -> ModelAddress:
    """Returns the model that a request is for, from its `ModelSpec`."""
    choice = spec.WhichOneof("version_choice")
    return ModelAddress(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


class _BoundedRequests(grpc.ServerInterceptor):
    """Bounds what the messages of all requests to predict take in memory, before they are parsed.

    Args:
        most: Bytes of one message.
    """

    def __init__(self, most: int) -> None:
        self._budget = Budget(
            _MESSAGES_IN_MEMORY * most, "other requests fill the memory for messages. Try again later"
        )

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Returns the handler of a call; the one of Predict takes bytes."""
        handler = continuation(handler_call_details)
        if handler is None or handler_call_details.method != _PREDICT:
            return handler

        # gRPC would parse a message before the bound is checked, so this handler takes bytes.
        def predict(data: bytes, context: grpc.ServicerContext) -> Any:
            with _errors_as_status(context), self._budget.holding(len(data)):
                try:
                    request = handler.request_deserializer(data)
                except Exception as error:
                    raise RequestError(
                        Code.INVALID_ARGUMENT, f"the message is no PredictRequest: {reason(error)}"
                    ) from error
                return handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(predict, None, handler.response_serializer)


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the calls that our signatures have no use for stay unimplemented."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._answers = answer_budget(service.limits)

    def Predict(self, request: Any, context: grpc.ServicerContext) -> predict_pb2.PredictResponse:
        """Runs a signature; `_BoundedRequests` turns its errors into statuses."""
        service = self._service
        signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
        timeout_s = min(service.limits.request_timeout_s, context.time_remaining() or float("inf"))
        with service.predict_request("grpc") as set_signature, service.version(_address(request.model_spec)) as version:
            version.definition(signature)  # raises for an unknown one, whose name the metrics must not hold
            set_signature(signature)
            inputs = {name: from_proto(name, value) for name, value in request.inputs.items()}
            filters = tuple(request.output_filter)
            request.ClearField("inputs")  # they are arrays now
            with service.submit(version, signature, inputs, filters, timeout_s) as answer:
                del inputs
                # A request whose client went away is not computed.
                context.add_callback(answer.cancel)
                try:
                    outputs = answer.result(timeout_s)
                except (futures.TimeoutError, futures.CancelledError) as error:
                    answer.cancel()
                    raise deadline_error(timeout_s) from error
                self._hold_answer(sum(value.nbytes for value in outputs.values()), context)
                response = predict_pb2.PredictResponse()
                response.model_spec.name = request.model_spec.name
                response.model_spec.signature_name = signature
                response.model_spec.version.value = version.number
                for name, value in outputs.items():
                    response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response

    def _hold_answer(self, size: int, context: grpc.ServicerContext) -> None:
        """Counts an answer until its call has ended, and ends a call whose client does not read.

        gRPC keeps an answer until its client has taken it, and waits for that without end.

        Raises:
            RequestError: When there is no room for it.
        """
        if size < _LARGE_ANSWER_BYTES:
            return
        self._answers.take(size)
        timer = threading.Timer(self._service.limits.client_timeout_s, context.cancel)
        timer.daemon = True  # it must not keep the process alive after the server has stopped

        def ended() -> None:
            timer.cancel()
            self._answers.give_back(size)

        timer.start()
        if not context.add_callback(ended):  # it has ended already
            ended()

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Returns the signatures of a model."""
        with _errors_as_status(context):
            fields = set(request.metadata_field)
            if fields != {SIGNATURES_FIELD}:
                raise RequestError(
                    Code.INVALID_ARGUMENT,
                    f"metadata_field must be {SIGNATURES_FIELD}; got {', '.join(sorted(fields))[:100] or 'nothing'}",
                )
            return self._service.metadata(_address(request.model_spec))


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus. The set of models is chosen at the start: HandleReloadConfigRequest stays unimplemented."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Returns the status of versions."""
        with _errors_as_status(context):
            return self._service.status(_address(request.model_spec))


class _Health(health_pb2_grpc.HealthServicer):
    """The standard health service, for the whole server, the model, and the prediction service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._names = {"", service.versions.name, "tensorflow.serving.PredictionService"}
        self._watchers = threading.BoundedSemaphore(_MOST_HEALTH_WATCHERS)

    def _status(self) -> Any:
        status = health_pb2.HealthCheckResponse.ServingStatus
        return status.NOT_SERVING if self._service.fault else status.SERVING

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answers whether requests can be answered."""
        if request.service not in self._names:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=self._status())

    def Watch(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Answers whenever that changes. Each watcher holds a thread, so few are allowed."""
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
