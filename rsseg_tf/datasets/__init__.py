"""Datasets: one recipe a file, the table of them, the rules for images and labels, and the evaluation protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsseg_tf.datasets.spec import RGB, DatasetSpec, custom_spec, default_palette
from rsseg_tf.moved import moved_name

__all__ = ["RGB", "DatasetSpec", "custom_spec", "default_palette"]

if not TYPE_CHECKING:  # a type checker shall tell wrong names

    def __getattr__(name: str) -> Any:
        return moved_name(__name__, name)
