"""Masks in colours to class ids, by exact match of each pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsseg_tf.datasets.label_codings import ColourCoding, Strangers
from rsseg_tf.datasets.spec import RGB
from rsseg_tf.errors import DataError

__all__ = ["rgb_to_ids"]


def rgb_to_ids(
    mask: np.ndarray,
    palette: Sequence[RGB],
    *,
    ignored: Sequence[RGB] = (),
    ignore_index: int = 255,
    off_palette_fraction: float = 0.0,
    name: str = "the mask",
) -> np.ndarray:
    """Turns a mask in colours into class ids.

    Colours are compared whole, not by a hash in which two of them could meet.

    Args:
        mask: ``(H, W, 3)`` uint8, red first, as from `read_image`.
        palette: The colour of class 0, 1, …; at most 255 of them.
        ignored: Colours that mean "no label".
        ignore_index: Id for the ignored colours, 0..255.
        off_palette_fraction: Share of pixels, 0..1, that may have yet other colours (blurred borders, for example);
            they become `ignore_index` too.
        name: What to call the mask in errors.

    Returns:
        ``(H, W)`` uint8.

    Raises:
        DataError: When the mask has another shape or type, a colour stands for two things, or more pixels than allowed
            have a colour that stands for nothing.
    """
    if mask.ndim != 3 or mask.shape[2] != 3 or mask.dtype != np.uint8 or not mask.size:
        raise DataError(f"{name} is {mask.shape} {mask.dtype}; a mask in colours is (H, W, 3) uint8.")
    coding = ColourCoding(tuple(palette), tuple(ignored), ignore_index)
    ids, unknown = coding.decode(mask)
    Strangers.of(unknown, coding.what).check(name, ids.size, off_palette_fraction)
    return ids
