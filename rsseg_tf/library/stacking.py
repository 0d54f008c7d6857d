"""Bands of several files as one image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rsseg_tf.errors import ConfigError
from rsseg_tf.files import several

if TYPE_CHECKING:
    from rsseg_tf.rasters.sources import Stack

__all__ = ["stacked"]


def stacked(members: Sequence[str], resampling: str | None) -> Stack | None:
    """Returns the stack of some files, or None without any.

    Args:
        members: Files, variables or addresses, in the order of their bands.
        resampling: How bands on other grids are resampled; None for bilinear.

    Raises:
        ConfigError: When `resampling` has no effect.
    """
    from rsseg_tf.rasters.sources import stack_of

    if members:
        return stack_of(several(members), resampling or "bilinear")  # type: ignore[arg-type]
    if resampling is not None:
        raise ConfigError("--stack_resampling has an effect with --stack only; add it or leave it out.")
    return None
