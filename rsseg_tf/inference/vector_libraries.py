"""The libraries behind polygons, which are an extra."""

from __future__ import annotations

import importlib
from types import ModuleType

from rsseg_tf.errors import ConfigError

__all__ = ["load_vector_libraries"]


def load_vector_libraries(option: str) -> tuple[ModuleType, ModuleType]:
    """Returns the modules shapely and pyogrio.

    Args:
        option: what needs them, for the message.

    Raises:
        ConfigError: when one is not installed.
    """
    try:
        return importlib.import_module("shapely"), importlib.import_module("pyogrio")
    except ImportError as error:
        raise ConfigError(
            f"{option} needs shapely and pyogrio, and {error.name} is not installed: pip install 'rsseg-tf[vector]'"
        ) from error
