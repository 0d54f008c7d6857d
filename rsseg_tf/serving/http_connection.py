"""HTTP connections with deadlines and without doubt about where a request ends.

A client that dawdles is cut off, however it goes about it. A request whose end two programs could see in different
places, such as a proxy and this server, is refused, because what one takes for its body is the next request to the
other (RFC 9112, sections 2.2, 6.1, 6.3 and 11.2).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from h11._receivebuffer import ReceiveBuffer
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["connection_class"]

_MOST_HEADER_BYTES = 16 * 2**10
_GRACE_S = 1.0  # between the last words to a slow client and the end


class _StrictLines(ReceiveBuffer):
    """Lines of headers and trailers end in CR LF; h11 takes LF alone too."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Returns the lines up to the first empty one; None while that has not come."""
        before = bytes(self._data)
        lines = super().maybe_extract_lines()
        if lines is not None:
            head = before[: len(before) - len(self._data)]
            if head.count(b"\n") != head.count(b"\r\n") or head.count(b"\r") != head.count(b"\r\n"):
                raise h11.RemoteProtocolError("lines must end in CR LF")
        return lines


class _StrictConnection(h11.Connection):
    """Refuses what h11 tolerates: two lengths of one body, chunks before HTTP/1.1, fields after the body."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._receive_buffer = _StrictLines()

    def next_event(self) -> Any:
        """Returns the next event; see `h11.Connection`."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = [name for name, _ in event.headers]
            if b"transfer-encoding" in names and (b"content-length" in names or event.http_version < b"1.1"):
                self._refuse("a request gives its length once: Content-Length, or Transfer-Encoding in HTTP/1.1")
        if isinstance(event, h11.EndOfMessage) and event.headers:
            self._refuse("no fields are taken after the body")
        return event

    def _refuse(self, why: str) -> None:
        self._process_error(self.their_role)
        raise h11.RemoteProtocolError(why)


def connection_class(timeout_s: float, most_connections: int) -> type[H11Protocol]:
    """Returns uvicorn's HTTP/1.1 connection with a deadline for whole requests, and one for reading answers.

    uvicorn itself waits without end for a request that has begun, and for a client that does not read.

    Args:
        timeout_s: for either.
        most_connections: open at the same time; one more is closed at once.
    """

    class Connection(H11Protocol):
        """See `connection_class`."""

        _deadline: asyncio.TimerHandle | None = None
        _drained: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.conn = _StrictConnection(h11.SERVER, self.config.h11_max_incomplete_event_size or _MOST_HEADER_BYTES)
            self._deadline = self.loop.call_later(timeout_s, self._tell_slow_sender)
            if len(self.connections) > most_connections:
                self._last_words("503 Service Unavailable", f"the server has {most_connections} connections already")

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._deadline, self._drained):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            is_cut_short = self.cycle.more_body
            super().on_response_complete()  # may begin with a next request that has arrived already
            if self._deadline is not None:
                self._deadline.cancel()
            if self.transport.is_closing():
                return
            if is_cut_short:
                # A refused request is still arriving. To close now would make the client lose our answer; to read on
                # for as long as it pleases to send is what it may want. So: no more answers, and a moment to read.
                self.transport.write_eof()
                self._deadline = self.loop.call_later(_GRACE_S, self.transport.abort)
            else:
                self._deadline = self.loop.call_later(timeout_s, self._tell_slow_sender)

        def pause_writing(self) -> None:
            self.flow.pause_writing()
            self._drained = self.loop.call_later(timeout_s, self.transport.abort)

        def resume_writing(self) -> None:
            self.flow.resume_writing()
            if self._drained is not None:
                self._drained.cancel()
                self._drained = None

        def send_400_response(self, msg: str) -> None:
            self._last_words(
                "400 Bad Request",
                "the request is not HTTP/1.1 whose lines end in CR LF and whose length is given once, or its header is "
                "too large",
            )

        def _tell_slow_sender(self) -> None:
            cycle = self.cycle  # of the last request, while the next one trickles in
            if cycle is not None and not cycle.response_complete and not cycle.more_body:
                return  # all of it is here, and we are the slow ones
            self._last_words("408 Request Timeout", f"the request did not arrive within {timeout_s:g} seconds")

        def _last_words(self, status: str, message: str) -> None:
            if self.transport.is_closing():
                return
            if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
                body = json.dumps({"error": message})
                head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                self.transport.write(f"{head}Connection: close\r\n\r\n{body}".encode())
            self.transport.close()
            self.loop.call_later(_GRACE_S, self.transport.abort)

    return Connection
