"""Names that Keras gives to layers without one."""

from __future__ import annotations

import re

__all__ = ["automatic_name"]


def automatic_name(kind: str) -> str:
    """Returns the name that Keras gives to a layer of a class, but for a number: "re_lu" for "ReLU"."""
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)).lower()
