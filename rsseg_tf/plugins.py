"""Code of a user's own that a config names, such as `builder: my_models:my_net`.

A config may come with somebody else's checkpoint, so a config alone never makes this package import a module. The user
allows modules by the environment variable RSSEG_TF_PLUGINS: their names, or the paths of .py files, separated as in
PATH. What is allowed works in every command and in every process that it starts.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from rsseg_tf.errors import ConfigError, did_you_mean, reason

__all__ = ["PLUGINS_VARIABLE", "import_allowed", "import_plugin"]

PLUGINS_VARIABLE = "RSSEG_TF_PLUGINS"


def import_plugin(path: str, where: str) -> Callable[..., Any]:
    """Returns a function of a module that the user allows.

    Args:
        path: `module:function`, as a config names it.
        where: The key of the config, for messages.

    Raises:
        ConfigError: When the module is not allowed or cannot be imported, or has no such function.
    """
    name, _, function = path.partition(":")
    allowed, entry = _allowed(name)
    if entry is None:
        raise ConfigError(
            f"{where} is {path}, code that is not part of rsseg_tf; it runs only if you allow it, and "
            f"{PLUGINS_VARIABLE} {f'is {allowed}' if allowed else 'is not set'}. If you trust that code, set "
            f"{PLUGINS_VARIABLE}={name}, or to the path of its .py file."
        )
    try:
        module = _import(name, entry)
    except Exception as error:  # a module may raise anything while it is imported
        raise ConfigError(
            f"{where} is {path}, but {name} cannot be imported: {reason(error)}. Install its package, put its folder "
            f"on PYTHONPATH, or name the path of its .py file in {PLUGINS_VARIABLE}."
        ) from error
    found = getattr(module, function, None)
    if not callable(found):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(
            f"{where} is {path}, but {name} has no function {function}.{did_you_mean(function, public)} It has "
            f"{', '.join(public) or 'none'}."
        )
    return found


def import_allowed(name: str) -> bool:
    """Imports a module if the user allows it, for what the module registers with Keras.

    Returns:
        Whether it is allowed.

    Raises:
        ConfigError: When it is allowed and cannot be imported.
    """
    _, entry = _allowed(name)
    if entry is None:
        return False
    try:
        _import(name, entry)
    except Exception as error:  # a module may raise anything while it is imported
        raise ConfigError(
            f"The module {name}, which {PLUGINS_VARIABLE} allows, cannot be imported: {reason(error)}. Install its "
            f"package, put its folder on PYTHONPATH, or name the path of its .py file in {PLUGINS_VARIABLE}."
        ) from error
    return True


def _allowed(name: str) -> tuple[str, str | None]:
    """Returns the variable's value, and its entry that allows a module."""
    allowed = os.environ.get(PLUGINS_VARIABLE, "")
    entries = [entry for entry in allowed.split(os.pathsep) if entry]
    return allowed, next((entry for entry in entries if _covers(entry, name)), None)


def _import(name: str, entry: str) -> ModuleType:
    return _import_file(Path(entry), name) if entry.endswith(".py") else importlib.import_module(name)


def _covers(entry: str, module: str) -> bool:
    """Whether an entry of the variable allows a module: a file its own, a package all that lie in it."""
    if entry.endswith(".py"):
        return Path(entry).stem == module
    return module == entry or module.startswith(f"{entry}.")


def _import_file(path: Path, name: str) -> ModuleType:
    path = path.resolve()
    if (known := sys.modules.get(name)) is not None:
        if getattr(known, "__file__", None) != str(path):
            raise ImportError(f"another module is called {name}; rename {path}")
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
