"""Names of models, which stand in URLs, configurations and paths."""

from __future__ import annotations

import re

from rsseg_tf.errors import ConfigError

__all__ = ["check_model_name"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def check_model_name(name: str) -> str:
    """Returns a model's name if it can stand in a URL and on disk.

    Raises:
        ConfigError: otherwise.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise ConfigError(
            "A model's name must be 1 to 64 letters, digits, dots, dashes or underscores, and begin with a letter or "
            f"digit; got {name!r:.100}. Choose another with --model-name."
        )
    return name
