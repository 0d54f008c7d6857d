"""Standard output and error that never cost the work: closed pipes, full disks, missing descriptors, any locale."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, TextIO

__all__ = ["endure_streams", "lost_output", "make_output_safe"]

_NARROWEST = 80  # columns, below which tables would lose what they say

_lost: list[OSError] = []


def endure_streams() -> None:
    """Makes standard output and error go on where nobody takes them any more.

    With `rsseg-tf export ... | head -1` the pipe closes early, and with `> log` the disk may be full. An error then
    came out of whatever was writing a line, such as an export in the middle of its files, and was taken for an error of
    theirs. From now on what cannot be written is dropped and the work goes on; `lost_output` tells of it in the end.

    A descriptor that was closed from the beginning (`2>&-`) is opened on the null device: otherwise the next file that
    anybody opens would get its number, and with it what libraries print there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
    sys.stdout = _enduring(sys.stdout, 1)
    sys.stderr = _enduring(sys.stderr, 2)


def make_output_safe() -> None:
    """Lets standard output and errors take any text, and tables have a width that they can be read in.

    Letters that the locale's encoding lacks, and bytes of file names that are no text, come as backslash sequences.
    `COLUMNS` of 0, or below what tables need, is what programs set that know of no terminal.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    columns = os.environ.get("COLUMNS", "")
    if columns and not (columns.isdigit() and int(columns) > 0):
        del os.environ["COLUMNS"]
    elif columns and int(columns) < _NARROWEST:
        os.environ["COLUMNS"] = str(_NARROWEST)


def lost_output() -> str:
    """Returns why standard output could not be written in full; nothing where it was, or where its reader left."""
    return next((error.strerror or str(error) for error in _lost if not isinstance(error, BrokenPipeError)), "")


class _Enduring(io.FileIO):
    """A descriptor whose failures to write are remembered, and then everything goes to the null device."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BlockingIOError:
            raise
        except OSError as error:
            if self.fileno() == 1:
                _lost.append(error)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(data).nbytes


def _enduring(stream: TextIO | None, number: int) -> TextIO:
    """Returns the same stream over `_Enduring`; one that is not the process's own, as in tests, stays as it is."""
    encoding, errors = "utf-8", "backslashreplace"
    if stream is not None:
        try:
            if stream.fileno() != number or isinstance(getattr(stream.buffer, "raw", None), _Enduring):
                return stream
        except (OSError, ValueError, AttributeError):
            return stream
        encoding, errors = stream.encoding, stream.errors or "strict"
        with contextlib.suppress(OSError):
            stream.flush()
    raw = _Enduring(number, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=True)
