"""Output that no terminal, pipe or locale can end a command by."""

from __future__ import annotations

import os
import sys

__all__ = ["make_output_safe"]

_NARROWEST = 80  # columns, below which tables would lose what they say


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
