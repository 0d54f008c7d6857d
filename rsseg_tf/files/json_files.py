"""Reads JSON files that may be damaged, or built to fill memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["read_json"]


def read_json(path: Path, most_bytes: int = 2**28) -> Any:
    """Reads a JSON file.

    Args:
        path: The file.
        most_bytes: A larger file is refused before it is parsed.

    Raises:
        OSError: When it cannot be read.
        ValueError: When it is not JSON, too large, or nested deeper than Python follows.
    """
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes} bytes")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("its lists are nested too deeply") from None
