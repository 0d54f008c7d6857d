"""Limits on slow HTTP clients and on doubtful requests, which uvicorn does not have.

uvicorn waits without end for a request that has begun, and for a client that does not read its answer. Two layers
end that: `connection_factory` wraps uvicorn's connections in timers, and `WholeRequests` is ASGI middleware that reads
bodies in time. How lines end is left to uvicorn's parser.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from rsseg_tf.serving.status import Code, RequestError

__all__ = ["WholeRequests", "connection_factory", "json_response"]

_STATE = "connection"  # key under which a request finds its connection in the ASGI scope
_GRACE_S = 1.0  # between the last words to a client and the end


def json_response(content: Any, status: int = 200) -> Response:
    """Returns a response as TensorFlow Serving writes them."""
    return Response(json.dumps(content, indent=1).encode(), status, media_type="application/json")


def connection_factory(timeout_s: float, most_connections: int) -> Callable[..., asyncio.Protocol]:
    """Returns a value for `http` of `uvicorn.Config`: connections with timers.

    Args:
        timeout_s: Longest time for a request to arrive, and for a client to read.
        most_connections: Connections at the same time; one more gets status 503 and is closed.
    """
    connections: set[_Connection] = set()

    def connect(**uvicorn_arguments: Any) -> asyncio.Protocol:
        return _Connection(timeout_s, most_connections, connections, uvicorn_arguments)

    return connect


class _Connection(asyncio.Protocol):
    """Hands everything on to uvicorn's connection; ends it when a timer runs out."""

    def __init__(
        self, timeout_s: float, most: int, connections: set[_Connection], uvicorn_arguments: MutableMapping[str, Any]
    ) -> None:
        self._timeout_s = timeout_s
        self._most = most
        self._connections = connections
        # uvicorn copies `app_state` into the scope of each request.
        app_state = {**uvicorn_arguments.pop("app_state"), _STATE: self}
        self._uvicorn = H11Protocol(app_state=app_state, **uvicorn_arguments)
        self._loop = asyncio.get_running_loop()
        self._requests = 0  # with the application; more than one where requests are sent ahead of answers
        self._header_timer: asyncio.TimerHandle | None = None
        self._reading_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._connections.add(self)
        self._uvicorn.connection_made(transport)
        if len(self._connections) > self._most:
            self._end("503 Service Unavailable", f"the server has {self._most} connections already")
        else:
            self._expect_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        for timer in (self._header_timer, self._reading_timer):
            if timer is not None:
                timer.cancel()
        self._uvicorn.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._uvicorn.data_received(data)

    def eof_received(self) -> None:
        self._uvicorn.eof_received()

    def pause_writing(self) -> None:
        self._uvicorn.pause_writing()
        # asyncio calls this when its buffer is full, so when the client has not read for a while.
        self._reading_timer = self._loop.call_later(self._timeout_s, self._transport.abort)

    def resume_writing(self) -> None:
        self._uvicorn.resume_writing()
        if self._reading_timer is not None:
            self._reading_timer.cancel()

    def request_began(self) -> float:
        """Takes note of a complete header; returns the loop's time at which the body must be complete too."""
        self._requests += 1
        if self._header_timer is None:  # the request was sent ahead of the last answer
            return self._loop.time() + self._timeout_s
        deadline = self._header_timer.when()
        self._header_timer.cancel()
        self._header_timer = None
        return deadline

    def request_ended(self) -> None:
        """Takes note of an answer; the next header must come in time."""
        self._requests -= 1
        if not self._requests and not self._transport.is_closing():
            self._expect_header()

    def _expect_header(self) -> None:
        message = f"the request did not arrive within {self._timeout_s:g} seconds"
        self._header_timer = self._loop.call_later(self._timeout_s, self._end, "408 Request Timeout", message)

    def _end(self, status: str, message: str) -> None:
        """Sends an error between two answers and closes the connection."""
        if self._transport.is_closing():
            return
        body = json.dumps({"error": message})
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._transport.write(f"{head}Connection: close\r\n\r\n{body}".encode())
        self._transport.close()
        self._loop.call_later(_GRACE_S, self._transport.abort)


class WholeRequests:
    """Middleware after which a request is read to its end, in time, or its connection is closed.

    A request with two lengths is refused: a proxy could take for its body what this server takes for the next request
    (RFC 9112, sections 6.1 and 6.3).

    Args:
        app: The application.
        timeout_s: Longest time for a request to arrive.
    """

    def __init__(self, app: ASGIApp, timeout_s: float) -> None:
        self._app = app
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        connection: _Connection = scope["state"][_STATE]
        deadline = connection.request_began()
        try:
            await self._answer(scope, receive, send, deadline)
        finally:
            connection.request_ended()

    async def _answer(self, scope: Scope, receive: Receive, send: Send, deadline: float) -> None:
        # Two different values of Content-Length never come here: uvicorn's parser refuses them.
        names = dict(scope["headers"])
        is_chunked = b"transfer-encoding" in names
        is_unread = is_chunked or names.get(b"content-length", b"0") != b"0"

        async def receive_in_time() -> Message:
            nonlocal is_unread
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise RequestError(
                    Code.TIMED_OUT_READING, f"the request did not arrive within {self._timeout_s:g} seconds"
                ) from None
            is_unread = is_unread and bool(message.get("more_body"))
            return message

        async def send_and_close(message: Message) -> None:
            if is_unread and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            elif is_unread and not message.get("more_body"):
                # The refused request is still arriving. To close now would make the client lose the answer; to read on
                # would let it send without end. So the connection stays open for a moment.
                await send({**message, "more_body": True})
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_GRACE_S):
                        while (await receive()).get("more_body"):
                            pass
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        if is_chunked and (b"content-length" in names or scope["http_version"] < "1.1"):
            refusal = "the request must give its length once; chunks are for HTTP/1.1"
            response = json_response({"error": refusal}, Code.INVALID_ARGUMENT.http)
            await response(scope, receive_in_time, send_and_close)
        else:
            await self._app(scope, receive_in_time, send_and_close)
