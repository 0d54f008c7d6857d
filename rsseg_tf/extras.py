"""Packages that only some commands need: imported when they are, with an error that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from rsseg_tf.errors import ExportError

__all__ = ["require"]


def require(module: str, extra: str) -> ModuleType:
    """Imports a module that one of the package's extras installs.

    Args:
        module: full name, such as `ai_edge_litert.interpreter`.
        extra: the extra of `rsseg-tf` that brings it.

    Raises:
        ExportError: when it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise ExportError(
            f"The package {package} is needed for this and is not installed: {error}. "
            f'Install it with: pip install "rsseg-tf[{extra}]"'
        ) from error
