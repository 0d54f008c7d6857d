"""HTTP connections with deadlines: a client that dawdles is cut off, however it goes about it."""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["connection_class"]

_GRACE_S = 1.0  # between the last words to a slow client and the end


def connection_class(timeout_s: float) -> type[H11Protocol]:
    """Returns uvicorn's HTTP/1.1 connection with a deadline for whole requests, and one for reading answers.

    uvicorn itself waits without end for a request that has begun, and for a client that does not read.
    """

    class Connection(H11Protocol):
        """See `connection_class`."""

        _deadline: asyncio.TimerHandle | None = None
        _drained: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._deadline = self.loop.call_later(timeout_s, self._tell_slow_sender)

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
            self._last_words("400 Bad Request", "the request is not HTTP/1.1, or its header is too large")

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
