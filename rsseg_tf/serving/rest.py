"""The REST interface of TensorFlow Serving, and pages for health and metrics.

    POST /v1/models/NAME[/versions/N|/labels/LABEL]:predict
    GET  /v1/models/NAME[/versions/N|/labels/LABEL]            status of versions
    GET  /v1/models/NAME[/versions/N|/labels/LABEL]/metadata   signatures
    GET  /healthz                                              200 while the server runs
    GET  /readyz                                               200 while a version answers and new ones would be seen
    GET  /monitoring/prometheus/metrics

Pages of other origins may ask too, where their origins are named (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol).

Errors are `{"error": "…"}` with the HTTP status that TensorFlow Serving gives.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rsseg_tf.serving.http_limits import WholeRequests, json_response
from rsseg_tf.serving.limits import Budget, Limits
from rsseg_tf.serving.service import SIGNATURES_FIELD, ModelAddress, Service, answer_budget, deadline_error
from rsseg_tf.serving.status import Code, RequestError
from rsseg_tf.serving.tensors import Layout, from_json, to_json

__all__ = ["METRICS_PATH", "rest_app"]

METRICS_PATH = "/monitoring/prometheus/metrics"

# JSON grows up to twenty times as Python objects. Two requests at a time bound that; the interpreter's lock would not
# let more run at once anyway.
_JSON_THREADS = 2
_BODIES_IN_MEMORY = 4  # times the largest body
_LARGE_BODY_BYTES = 4 * 2**20  # beyond that one at a time is parsed
_PIECE_BYTES = 256 * 2**10  # of an answer, which go to the connection's buffer at once
_OF_MODEL = ("", "/versions/{version}", "/labels/{label}")


def rest_app(service: Service, metrics_path: str = METRICS_PATH, cors_origins: Collection[str] = ()) -> Starlette:
    """Returns the ASGI application.

    Args:
        service: What answers.
        metrics_path: Path of the metrics.
        cors_origins: Origins such as `https://example.org` whose pages may read answers; `*` for every page.
    """
    rest = _Rest(service)
    routes = []
    for place in _OF_MODEL:
        base = f"/v1/models/{{name}}{place}"
        routes += [
            Route(f"{base}:predict", rest.predict, methods=["POST"]),
            Route(f"{base}:predict", rest.not_predicted, methods=["GET"]),
            Route(f"{base}/metadata", rest.metadata, methods=["GET"]),
            Route(base, rest.status, methods=["GET"]),
        ]
    routes += [
        Route("/healthz", rest.healthz, methods=["GET"]),
        Route("/readyz", rest.readyz, methods=["GET"]),
        Route(metrics_path, rest.metrics, methods=["GET"]),
    ]
    middleware = [Middleware(WholeRequests, timeout_s=service.limits.client_timeout_s)]
    if cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Content-Type"],
                allow_private_network=True,  # who names a page on the web wants it to reach a server on a desk
            )
        )
    return Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={
            RequestError: _answer_request_error,
            HTTPException: _answer_http_error,
            ClientDisconnect: _answer_disconnected,
            Exception: _answer_fault,
        },
    )


class _Rest:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._json = ThreadPoolExecutor(_JSON_THREADS, thread_name_prefix="json")
        self._large = asyncio.Lock()
        self._bodies = _Bodies(service.limits)
        self._answers = answer_budget(service.limits)

    async def predict(self, request: Request) -> Response:
        body = await self._bodies.read(request)
        try:
            with self._service.predict_request("rest") as set_signature:
                content = await self._answer(_address(request), body, set_signature)
        finally:
            self._bodies.forget(body)
        return _Answer(content, self._answers)

    async def _answer(self, address: ModelAddress, body: bytearray, set_signature: Callable[[str], None]) -> bytes:
        service, loop = self._service, asyncio.get_running_loop()
        timeout_s = service.limits.request_timeout_s
        with service.version(address) as version:

            def read() -> tuple[str, Layout, dict[str, NDArray]]:
                # In one function, so that the Python objects, many times as large as the text, are freed at its end.
                parsed = from_json(body, service.limits)
                inputs = version.definition(parsed.signature).inputs
                return parsed.signature, parsed.layout, parsed.arrays(inputs)

            async with self._large if len(body) > _LARGE_BODY_BYTES else contextlib.nullcontext():
                signature, layout, inputs = await loop.run_in_executor(self._json, read)
            self._bodies.forget(body)  # it is arrays now; the request may wait for long
            set_signature(signature)
            with service.submit(version, signature, inputs, (), timeout_s) as answer:
                del inputs
                try:
                    outputs = await asyncio.wait_for(asyncio.wrap_future(answer), timeout_s)
                except (TimeoutError, asyncio.CancelledError) as error:
                    if isinstance(error, asyncio.CancelledError) and not answer.cancelled():
                        raise  # the server is stopping
                    raise deadline_error(timeout_s) from error
                return await loop.run_in_executor(self._json, to_json, outputs, layout, service.limits)

    async def not_predicted(self, request: Request) -> Response:
        line = (
            f"Malformed request: GET {request.url.path!a:.200}; it takes POST with a body of JSON, as curl -d sends it"
        )
        return json_response({"error": line}, 405)

    async def status(self, request: Request) -> Response:
        return json_response(_as_dict(self._service.status(_address(request))))

    async def metadata(self, request: Request) -> Response:
        message = _as_dict(self._service.metadata(_address(request)))
        # TensorFlow Serving leaves out the type of the message.
        message["metadata"][SIGNATURES_FIELD].pop("@type")
        return json_response(message)

    async def healthz(self, request: Request) -> Response:
        return json_response({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        fault = self._service.fault
        status: dict[str, Any] = {"available": self._service.versions.available}
        return JSONResponse(
            status | ({"error": fault} if fault else {}), status_code=Code.UNAVAILABLE.http if fault else 200
        )

    async def metrics(self, request: Request) -> Response:
        return Response(self._service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


class _Answer(Response):
    """An answer that is written piece by piece as its client reads, and counts as long as it is in memory.

    Otherwise unread answers of slow clients would pile up in the buffers of connections, which have no bound.
    """

    media_type = "application/json"

    def __init__(self, content: bytes, budget: Budget) -> None:
        super().__init__(b"")
        self.headers["content-length"] = str(len(content))
        self._content: bytes | None = content
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        content, self._content = self._content or b"", None  # freed at the end of this call, not of the request
        with self._budget.holding(len(content)):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for start in range(0, len(content), _PIECE_BYTES):
                piece = content[start : start + _PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Bodies:
    """Reads bodies of requests, and bounds what all of them take in memory."""

    def __init__(self, limits: Limits) -> None:
        self._most = limits.max_body_bytes
        self._budget = Budget(
            _BODIES_IN_MEMORY * limits.max_body_bytes,
            "other requests fill the memory for bodies. Try again later",
            Code.UNAVAILABLE,
        )

    async def read(self, request: Request) -> bytearray:
        """Reads a body; the caller calls `forget` afterwards.

        Raises:
            RequestError: When it is too large, encoded, or there is no memory left for it.
        """
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestError(Code.UNSUPPORTED_MEDIA, "the body must not be compressed; leave out Content-Encoding")
        # What is declared is refused at once; what is not, when too much has come.
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._most:
            raise self._too_large()
        body = bytearray()
        try:
            async for chunk in request.stream():
                if len(body) + len(chunk) > self._most:
                    raise self._too_large()
                self._budget.take(len(chunk))
                body += chunk
        except (RequestError, ClientDisconnect):
            self.forget(body)
            raise
        return body

    def forget(self, body: bytearray) -> None:
        """Gives back the memory of a body."""
        self._budget.give_back(len(body))
        body.clear()

    def _too_large(self) -> RequestError:
        return RequestError(
            Code.TOO_LARGE, f"the body is larger than {self._most} bytes. Send smaller images, or use gRPC."
        )


def _address(request: Request) -> ModelAddress:
    parameters = request.path_params
    version = parameters.get("version")
    if version is None:
        return ModelAddress(parameters["name"], label=parameters.get("label"))
    # Up to 19 digits: more are no number of 64 bits, and Python takes long to convert thousands.
    if not (version.isascii() and version.isdecimal() and len(version) <= 19):
        raise RequestError(Code.INVALID_ARGUMENT, f"a version is a whole number; got {version!a:.100}")
    return ModelAddress(parameters["name"], int(version))


def _as_dict(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


async def _answer_request_error(request: Request, error: Exception) -> Response:
    code = error.status.http if isinstance(error, RequestError) else Code.INTERNAL.http
    return json_response({"error": str(error)}, code)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else Code.INTERNAL.http
    line = f"Malformed request: {request.method} {request.url.path!a:.200}"
    return json_response({"error": line if status in (404, 405) else str(error)}, status)


async def _answer_disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=Code.INVALID_ARGUMENT.http)


async def _answer_fault(request: Request, error: Exception) -> Response:
    return json_response({"error": f"the server failed: {type(error).__name__}"}, Code.INTERNAL.http)
