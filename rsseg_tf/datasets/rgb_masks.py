"""Masks in colours to class ids, by exact match of each pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
    meanings = [*palette, *ignored]
    if len(set(meanings)) != len(meanings) or len(palette) > 255:
        raise DataError(f"{name}: the colours of classes and ignored pixels must differ, 255 classes at most.")
    packed = _pack(mask)
    ids = np.full(packed.shape, ignore_index, np.uint8)
    unknown = np.ones(packed.shape, bool)
    for position, colour in enumerate(meanings):
        here = packed == _pack(np.array(colour, np.uint8))
        if position < len(palette):
            ids[here] = position
        unknown &= ~here
    count = int(np.count_nonzero(unknown))
    if count > off_palette_fraction * unknown.size:
        values, counts = np.unique(packed[unknown], return_counts=True)
        worst = int(values[np.argmax(counts)])
        colour = (worst >> 16, worst >> 8 & 255, worst & 255)
        raise DataError(
            f"{name} has {count} of {unknown.size} pixels in {len(values)} colour{'s' if len(values) != 1 else ''} "
            f"outside the palette, most often {colour} ({counts.max()} times); at most {off_palette_fraction:.4%} is "
            "allowed. Check that this mask belongs to the dataset, or raise off_palette_fraction to ignore them."
        )
    return ids


def _pack(colours: np.ndarray) -> np.ndarray:
    """Packs ``(…, 3)`` uint8 into ``(…)`` uint32 as 0xRRGGBB."""
    wide = colours.astype(np.uint32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
