"""What commands print and write: output that outlives closed pipes and full disks, notes, tables, JSON reports."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from rich.table import Table

    from rsseg_tf.prepare.output import OwnDataReport, PrepareReport

__all__ = [
    "load_tensorflow",
    "lost_output",
    "make_output_safe",
    "narrow_table",
    "print_errors_alone",
    "print_note",
    "print_own_data",
    "print_prepared",
    "progress_line",
    "say",
    "write_json",
]

_MIN_COLUMNS = 80  # tables lose text in fewer

_write_errors: list[OSError] = []
_errors_alone = False


def print_errors_alone() -> None:
    """Drops lines, notes and progress from here on: another process of the same run prints them."""
    global _errors_alone
    _errors_alone = True


def say(line: str) -> None:
    """Prints a line about finished work; a full disk under a log file, or a closed terminal, is no error."""
    if not _errors_alone:
        with contextlib.suppress(OSError):
            click.echo(line)


def print_note(line: str) -> None:
    """Prints a note on standard error."""
    if not _errors_alone:
        click.echo(f"Note: {line}", err=True)


def narrow_table(title: str) -> Table:
    """Returns an empty table without lines between its columns, for many columns in 80 characters."""
    from rich import box
    from rich.table import Table

    return Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def print_prepared(report: PrepareReport) -> None:
    """Prints the counts of a prepared dataset as a table."""
    from rich.console import Console
    from rich.table import Table

    if report.left_out:
        print_note(f"{report.left_out}.")
    ending = " (already there, nothing to do)" if report.up_to_date else ""
    table = Table(title=f"{report.name}: {report.output}{ending}")
    for column in ("split", "scenes", "tiles", "off-palette pixels"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, split in report.splits.items():
        table.add_row(name, str(split.scenes), str(split.tiles), f"{split.off_palette_pixels:,}")
    Console().print(table)


def print_own_data(result: OwnDataReport) -> None:
    """Prints what became of a user's own data, and the command that trains on them."""
    for note in result.notes:
        print_note(note)
    print_prepared(result.report)
    if result.config is not None:
        click.echo(f"Train with: rsseg-tf train --config {shlex.quote(str(result.config))} --do_eval")


@contextlib.contextmanager
def progress_line(description: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a progress line on standard error while the block runs.

    Yields:
        A function to call with (items done, items in all).
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    console = Console(stderr=True, quiet=_errors_alone)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def write_json(path: Path, value: dict[str, Any], *, err: bool = False) -> None:
    """Writes JSON whole or not at all, and prints the file's name.

    Args:
        path: The file.
        value: What to write.
        err: Whether to print the name on standard error.

    Raises:
        ConfigError: When it cannot be written.
    """
    from rsseg_tf.errors import ConfigError
    from rsseg_tf.files import atomic_path

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. Choose another place: --output.") from error
    click.echo(f"Written: {path}", err=err)


def load_tensorflow() -> None:
    """Imports TensorFlow and lets it look for devices, without its complaints on a machine without an NVIDIA driver.

    Its C++ core prints several lines about a missing GPU before any log level applies. Where there is a driver nothing
    is hidden: there these lines may matter.
    """
    from rsseg_tf.environment import has_nvidia_driver, muted_stderr

    if has_nvidia_driver() or sys.platform != "linux":
        return
    with muted_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()


# === Standard output and error ===


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
