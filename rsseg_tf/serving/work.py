"""What a server has in work, summed over requests: refused beyond a bound, and given back to the system when done."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable

from rsseg_tf.serving.status import Code, RequestError

__all__ = ["Work"]

_WORTH_TRIMMING = 1_000_000  # pixels: what is smaller leaves too little behind to look for


class Work:
    """Counts the pixels of requests that wait, are computed, or whose answers are being written.

    Args:
        most: pixels; a request that is alone may have more.
        trim: called when much has been done and nothing is left to do.
    """

    def __init__(self, most: int, trim: Callable[[], object] | None = None) -> None:
        self._most = most
        self._trim = trim or _trim
        self._now = self._since_trim = 0
        self._lock = threading.Lock()

    def take(self, pixels: int) -> None:
        """Adds a request.

        Raises:
            RequestError: when it does not fit beside what is in work.
        """
        with self._lock:
            if self._now and self._now + pixels > self._most:
                raise RequestError(
                    Code.OUT_OF_MEMORY,
                    f"the requests in work have {self._now} pixels, and with this one's {pixels} there would be more "
                    f"than {self._most}. Try again later",
                )
            self._now += pixels
            self._since_trim += pixels

    def give_back(self, pixels: int) -> None:
        """Takes a request out."""
        with self._lock:
            self._now -= pixels
            is_over = self._now == 0 and self._since_trim >= _WORTH_TRIMMING
            if is_over:
                self._since_trim = 0
        if is_over:
            self._trim()


def _libc_trim() -> Callable[[int], int] | None:
    """Returns glibc's `malloc_trim`; None where the C library has none."""
    if sys.platform != "linux":
        return None
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # musl
        return None
    return trim


_MALLOC_TRIM = _libc_trim()


def _trim() -> None:
    """Gives free memory back to the system, which glibc keeps: after some large images that is gigabytes."""
    if _MALLOC_TRIM is not None:
        _MALLOC_TRIM(0)
