"""Folders and reports that results go to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsseg_tf.errors import ConfigError
from rsseg_tf.files import atomic_path

__all__ = ["check_save_dir", "write_report"]


def check_save_dir(folder: Path) -> None:
    """Checks before the work that results can be written to a folder; the folder is not made.

    Raises:
        ConfigError: When a file has its name or that of a folder above it, or nothing may be written there.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    why = "it is a file" if place == folder else f"{place} is a file"
    if place.is_dir():
        if os.access(place, os.W_OK):
            return
        why = f"nothing may be written in {place}"
    raise ConfigError(f"--save_dir {folder} cannot be written: {why}. Choose another folder.")


def write_report(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON whole or not at all.

    Raises:
        ConfigError: When it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. Choose another place: --output.") from error
