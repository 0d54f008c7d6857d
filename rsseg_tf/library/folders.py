"""Folders and reports that results go to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsseg_tf.errors import ConfigError
from rsseg_tf.files import atomic_path

__all__ = ["check_file_place", "check_save_dir", "make_file_place", "write_report"]


def check_save_dir(folder: Path) -> None:
    """Checks before the work that results can be written to a folder; the folder is not made.

    Raises:
        ConfigError: When a file has its name or that of a folder above it, or nothing may be written there.
    """
    is_file = os.path.lexists(folder) and not folder.is_dir()
    if why := "it is a file" if is_file else _obstacle(folder):
        raise ConfigError(f"--save_dir {folder} cannot be written: {why}. Choose another folder.", code="not-written")


def check_file_place(path: Path) -> None:
    """Checks before the work that a file can be written; neither it nor its folder is made.

    Raises:
        ConfigError: When it is a folder, a file has the name of a folder above it, or nothing may be written there.
    """
    if why := "it is a folder" if path.is_dir() else _obstacle(path.absolute().parent):
        raise ConfigError(f"{path} cannot be written: {why}. Choose another place.", code="not-written")


def make_file_place(path: Path) -> None:
    """Makes the folder of a file before the work whose result it is, after the checks of `check_file_place`.

    Raises:
        ConfigError: When the file cannot be written there.
    """
    check_file_place(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}. Choose another place.", code="not-written"
        ) from error


def _obstacle(folder: Path) -> str | None:
    """Returns why nothing can be written to a folder, which need not be there; None if something can."""
    place = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if place.is_dir():
        return None if os.access(place, os.W_OK) else f"nothing may be written in {place}"
    return f"{place} is a file"


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
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}. Choose another place: --output.", code="not-written"
        ) from error
