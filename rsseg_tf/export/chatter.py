"""Keeps converters quiet: their C++ parts write what they are doing to standard error, whatever the log level."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_chatter"]


@contextmanager
def without_chatter() -> Iterator[None]:
    """Drops what this process writes to standard error; Python's exceptions come through."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
