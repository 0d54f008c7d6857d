"""Imports packages that only some commands need, with an error that names the command to install them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType

from rsseg_tf.errors import ExportError

__all__ = ["require", "require_loggers"]


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
            f'Install it with: pip install "rsseg-tf[{extra}]"'
        ) from error


def require_loggers(names: Sequence[str]) -> None:
    """Imports the packages of `train.loggers`, so that a missing one is told before anything else is done.

    Raises:
        ExportError: When one is not installed.
    """
    for name in names:
        if name in ("mlflow", "wandb"):  # the extras have their names
            require(name, name)
