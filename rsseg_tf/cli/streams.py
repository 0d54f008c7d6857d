"""Standard output and error that outlive closed pipes and full disks; imports nothing, for `rsseg-tf --help`."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, TextIO

__all__ = ["lost_output", "make_output_safe"]

_MIN_COLUMNS = 80  # tables lose text in fewer

_write_errors: list[OSError] = []


def make_output_safe() -> None:
    """Lets a command finish whatever happens to standard output and error, and print any text.

    With `rsseg-tf export ... | head -1` the pipe closes early, and with `> log` the disk may be full. An error in a
    line of output would then end an export in the middle of its files. So output that cannot be written is dropped;
    `lost_output` returns the reason at the end.

    Letters that the locale's encoding lacks, and bytes of file names that are no text, become backslash sequences.
    `COLUMNS` may be 0 or too small where there is no terminal; it becomes wide enough for tables.
    """
    _open_closed_descriptors()
    sys.stdout = _dropping_unwritable(sys.stdout, 1)
    sys.stderr = _dropping_unwritable(sys.stderr, 2)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    columns = os.environ.get("COLUMNS", "")
    if columns and not (columns.isdigit() and int(columns) > 0):
        del os.environ["COLUMNS"]
    elif columns and int(columns) < _MIN_COLUMNS:
        os.environ["COLUMNS"] = str(_MIN_COLUMNS)


def lost_output() -> str:
    """Returns why standard output could not be written in full; empty if it was, or if its reader closed the pipe."""
    errors = (error for error in _write_errors if not isinstance(error, BrokenPipeError))
    return next((error.strerror or str(error) for error in errors), "")


def _open_closed_descriptors() -> None:
    """Opens the standard descriptors that the caller closed (`2>&-`) on the null device.

    Otherwise the next file to be opened would get such a number, and with it what libraries print there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)


class _DroppingFile(io.FileIO):
    """A descriptor that goes to the null device after its first failed write, which is remembered."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BlockingIOError:  # a pipe that has no room for now is not lost
            raise
        except OSError as error:
            if self.fileno() == 1:
                _write_errors.append(error)
            # In place of the descriptor, so that what C libraries and child processes print is dropped too.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(data).nbytes


def _dropping_unwritable(stream: TextIO | None, number: int) -> TextIO:
    """Returns the stream on top of `_DroppingFile`; one that is not the process's own, as in tests, stays as it is."""
    encoding, errors = "utf-8", "backslashreplace"
    if stream is not None:
        try:
            if stream.fileno() != number or isinstance(getattr(stream.buffer, "raw", None), _DroppingFile):
                return stream
        except (OSError, ValueError, AttributeError):
            return stream
        encoding, errors = stream.encoding, stream.errors or "strict"
        with contextlib.suppress(OSError):
            stream.flush()
    raw = _DroppingFile(number, "w", closefd=False)  # the descriptor stays open for C libraries
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=True)
