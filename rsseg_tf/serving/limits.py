"""What a server accepts, and how it groups requests."""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from rsseg_tf.errors import ConfigError
from rsseg_tf.serving.status import Code, RequestError

__all__ = ["BatchOptions", "Budget", "Limits", "Work"]

_WORTH_TRIMMING = 1_000_000  # pixels: fewer leave too little memory behind


@dataclass(frozen=True)
class Limits:
    """Bounds that keep a server alive whatever it is sent.

    Attributes:
        max_body_bytes: Bytes of one request, and of one answer in JSON.
        max_pixels: Height x width, summed over the images of one request; also of encoded images, whose headers are
            read before anything is decoded.
        max_pixels_in_work: The same, summed over all requests that wait, are computed, or whose answers are being
            written; more are refused until some are done. A request alone is always taken. No more than `max_pixels`
            are computed in one run of the model, so that its memory does not grow with the number of requests.
        max_images: Images of one request.
        max_concurrent: Requests that are computed or wait for it; more are refused as unavailable.
        max_connections: Open HTTP connections; more are refused.
        client_timeout_s: How long a client may take to send a request, and to read an answer.
        request_timeout_s: How long a request may wait and compute.

    Raises:
        ConfigError: When a value is not above 0.
    """

    max_body_bytes: int = 32 * 2**20
    max_pixels: int = 2048 * 2048
    max_pixels_in_work: int = 4 * 2048 * 2048
    max_images: int = 64
    max_concurrent: int = 32
    max_connections: int = 256
    client_timeout_s: float = 30.0
    request_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{field.name} must be above 0; got {value}. Leave it out for its default.")


@dataclass(frozen=True)
class BatchOptions:
    """Dynamic batching, named as in TensorFlow Serving's batching parameters.

    Attributes:
        max_batch_size: Images of one run of the model; 1 turns batching off.
        batch_timeout_micros: How long a batch that is not full waits for company.
        max_enqueued_batches: Full batches that may wait; requests beyond them are refused as unavailable.
        num_batch_threads: Batches that run at the same time. One computes with all cores, and while it does, the next
            batch fills up; more make smaller batches.

    Raises:
        ConfigError: When a value is out of range.
    """

    max_batch_size: int = 8
    batch_timeout_micros: int = 2000
    max_enqueued_batches: int = 32
    num_batch_threads: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 0 if field.name == "batch_timeout_micros" else 1
            value = getattr(self, field.name)
            if value < least:
                raise ConfigError(f"{field.name} must be at least {least}; got {value}. Leave it out for its default.")


class Budget:
    """Bounds what all requests together take, such as bytes of memory. One that is alone is always taken.

    Args:
        most: Bound of the sum.
        refusal: Message for a request that does not fit; may name `{held}`, `{amount}` and `{most}`.
        code: The status of such a request.
    """

    def __init__(self, most: int, refusal: str, code: Code = Code.OUT_OF_MEMORY) -> None:
        self.held = 0
        self._most = most
        self._refusal = refusal
        self._code = code
        self._lock = threading.Lock()

    def take(self, amount: int) -> None:
        """Adds an amount.

        Raises:
            RequestError: When it does not fit beside what is held.
        """
        with self._lock:
            # What is alone is taken even if it is too large, else it could never be answered.
            if self.held and self.held + amount > self._most:
                raise RequestError(self._code, self._refusal.format(held=self.held, amount=amount, most=self._most))
            self.held += amount

    def give_back(self, amount: int) -> None:
        """Takes an amount out."""
        with self._lock:
            self.held -= amount

    @contextmanager
    def holding(self, amount: int) -> Iterator[None]:
        """Holds an amount meanwhile."""
        self.take(amount)
        try:
            yield
        finally:
            self.give_back(amount)


class Work(Budget):
    """Counts the pixels of requests that wait, are computed, or whose answers are being written.

    Args:
        most: Bound of the pixels.
        trim: Called when much has been done and nothing is left to do.
    """

    def __init__(self, most: int, trim: Callable[[], object] | None = None) -> None:
        super().__init__(
            most,
            "the requests in work have {held} pixels, and with this one's {amount} there would be more than {most}. "
            "Try again later",
        )
        self._trim = trim or _trim_memory
        self._done = 0

    def give_back(self, amount: int) -> None:
        """Takes a request out."""
        super().give_back(amount)
        self._done += amount
        # Not while requests run: to look through all memory takes a while and blocks other threads' allocations.
        if not self.held and self._done >= _WORTH_TRIMMING:
            self._done = 0
            self._trim()


def _trim_memory() -> None:
    """Gives free memory back to the system, which glibc keeps: after some large images that is gigabytes."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
