"""Imports packages that only some commands need, with an error that names the command to install them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType

from rsseg_tf.errors import ExportError

__all__ = ["install_command", "is_installed", "require", "require_loggers"]

_CHECKOUT = Path(__file__).resolve().parents[1]


def install_command(extra: str) -> str:
    """Returns the command that installs one of the package's extras.

    The package is on no index, so `rsseg-tf[extra]` would not be found. In a checkout it is installed from there; what
    was installed from a wheel knows what its extras require, and the command names that.

    Args:
        extra: Such as `onnx`.

    Returns:
        Such as `pip install ".[onnx]"`, or `pip install "tf2onnx<1.18,>=1.17" …`.
    """
    wanted = [] if (_CHECKOUT / "setup.py").is_file() else _requirements(extra)
    return " ".join(["pip install", *(f'"{one}"' for one in wanted or [f".[{extra}]"])])


def is_installed(package: str) -> bool:
    """Returns whether a package is installed, by its metadata: nothing of it is imported."""
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def require(module: str, extra: str) -> ModuleType:
    """Imports a module that one of the package's extras installs.

    Args:
        module: Full name, such as `ai_edge_litert.interpreter`.
        extra: The extra of `rsseg-tf` that installs it.

    Raises:
        ExportError: When it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise ExportError(
            f"The package {package} is needed for this and is not installed: {error}. "
            f"Install it with: {install_command(extra)}",
            code="missing-extra",
        ) from error


def require_loggers(names: Sequence[str]) -> None:
    """Imports the packages of `train.loggers`, so that a missing one is told before anything else is done.

    Raises:
        ExportError: When one is not installed.
    """
    for name in names:
        if name in ("mlflow", "wandb"):  # the extras have their names
            require(name, name)


def _requirements(extra: str) -> list[str]:
    """Returns what an extra of the installed package requires; nothing where the package is not installed."""
    try:
        found = metadata.requires("rsseg-tf") or []
    except metadata.PackageNotFoundError:
        return []
    of_extra = re.compile(rf"""(.+?)\s*;\s*extra\s*==\s*["']{re.escape(extra)}["']""")
    return [match[1] for match in map(of_extra.fullmatch, found) if match]
