"""Reads files that may be missing, damaged, or built to fill memory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rsseg_tf.errors import DataError
from rsseg_tf.files.paths import StrPath, readable_name

__all__ = ["read_bytes", "read_json"]


def read_bytes(path: Path, count: int = -1, *, at_end: bool = False) -> bytes:
    """Reads a file, or at most `count` bytes of its beginning or its end.

    Raises:
        DataError: When it does not exist or cannot be read.
    """
    try:
        with path.open("rb") as file:
            if at_end:
                file.seek(-min(count, path.stat().st_size), os.SEEK_END)
            return file.read(count)
    except FileNotFoundError as error:
        raise DataError(f"{readable_name(path)} does not exist. Check the path and the root folder.") from error
    except OSError as error:
        raise DataError(f"{readable_name(path)} cannot be read: {error.strerror or error}.") from error


def read_json(path: StrPath, most_bytes: int = 2**28) -> Any:
    """Reads a JSON file.

    Args:
        path: The file.
        most_bytes: A larger file is refused before it is parsed.

    Raises:
        OSError: When it cannot be read.
        ValueError: When it is not JSON, too large, or nested deeper than Python follows.
    """
    path = Path(path)
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes} bytes")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("its lists are nested too deeply") from None
