"""How the masks of a dataset encode the classes: in colours, or in ids of their own."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from rsseg_tf.datasets.spec import RGB
from rsseg_tf.errors import DataError

__all__ = ["ColourCoding", "IdCoding", "LabelCoding", "OffPalette", "rgb_to_ids"]

_UNKNOWN = 256  # in the tables, beside the ids 0..255


@dataclass(frozen=True)
class OffPalette:
    """Pixels of a mask whose colour or value stands for no class.

    Attributes:
        pixels: How many there are.
        kinds: How many different colours or values they have.
        worst: The commonest of these, and how many pixels have it.
        what: `"colour"` or `"value"`.
    """

    pixels: int = 0
    kinds: int = 0
    worst: tuple[str, int] = ("", 0)
    what: str = "colour"

    @classmethod
    def of(cls, counts: Counter[object], what: str) -> OffPalette:
        """Sums up how often each unknown colour or value occurs."""
        if not counts:
            return cls(what=what)
        (worst, most), *_ = counts.most_common(1)
        return cls(counts.total(), len(counts), (str(worst), most), what)

    def check(self, name: str, pixels: int, allowed: float) -> None:
        """Raises DataError when they exceed the share `allowed` of the `pixels` of the mask `name`."""
        if self.pixels <= allowed * pixels:
            return
        raise DataError(
            f"{name} has {self.pixels} of {pixels} pixels in {self.kinds} {self.what}{'s' if self.kinds != 1 else ''} "
            f"outside the palette, most often {self.worst[0]} ({self.worst[1]} times); at most {allowed:.4%} is "
            "allowed. Check that this mask belongs to the dataset, or raise off_palette_fraction to ignore them."
        )


@dataclass(frozen=True)
class ColourCoding:
    """Masks in colours. Colours are compared whole, not by a hash in which two of them could meet.

    Attributes:
        palette: The colour of class 0, 1, …; at most 255 of them.
        ignored: Colours that mean "no label".
        ignore_index: Id of ignored and unknown pixels, 0..255.

    Raises:
        DataError: When a colour stands for two things, or there are too many.
    """

    palette: tuple[RGB, ...]
    ignored: tuple[RGB, ...] = ()
    ignore_index: int = 255

    def __post_init__(self) -> None:
        meanings = [*self.palette, *self.ignored]
        if len(set(meanings)) != len(meanings) or len(self.palette) > 255:
            raise DataError("The colours of classes and ignored pixels must differ, 255 classes at most.")

    bands = 3
    what = "colour"

    def decode(self, rows: np.ndarray) -> tuple[np.ndarray, Counter[object]]:
        """Returns the ids `(H, W)` uint8 of `(H, W, 3)` uint8 rows, and how often each unknown colour occurs."""
        packed = cv2.cvtColor(rows, cv2.COLOR_RGB2RGBA).view("<u4")[..., 0] & 0xFFFFFF  # 0xBBGGRR
        ids = _colour_table(self)[packed]
        unknown = _count(packed, ids)
        colours: Counter[object] = Counter(
            {(value & 255, value >> 8 & 255, value >> 16): count for value, count in unknown.items()}
        )
        return _as_bytes(ids, self.ignore_index), colours


@dataclass(frozen=True)
class IdCoding:
    """Masks in one band whose values are not the ids of the spec.

    Attributes:
        ids: `(value, id)` for each value that may occur.
        ignore_index: Id of all other values, 0..255.
    """

    ids: tuple[tuple[int, int], ...]
    ignore_index: int = 255

    bands = 1
    what = "value"

    def decode(self, rows: np.ndarray) -> tuple[np.ndarray, Counter[object]]:
        """Returns the ids `(H, W)` uint8 of `(H, W, 1)` uint8 rows, and how often each unknown value occurs."""
        table = np.full(256, _UNKNOWN, np.uint16)
        for value, number in self.ids:
            table[value] = number
        ids = table[rows[..., 0]]
        return _as_bytes(ids, self.ignore_index), Counter(_count(rows[..., 0], ids))


LabelCoding = ColourCoding | IdCoding


@functools.lru_cache(maxsize=4)
def _colour_table(coding: ColourCoding) -> np.ndarray:
    """Returns ids by packed colour, 32 MiB: one look-up per pixel, however many classes there are."""
    table = np.full(1 << 24, _UNKNOWN, np.uint16)
    for position, (red, green, blue) in enumerate((*coding.palette, *coding.ignored)):
        table[red | green << 8 | blue << 16] = position if position < len(coding.palette) else coding.ignore_index
    return table


def _count(values: np.ndarray, ids: np.ndarray) -> dict[int, int]:
    """Counts the values whose id is unknown."""
    unknown = ids == _UNKNOWN
    if not unknown.any():
        return {}
    return dict(zip(*(array.tolist() for array in np.unique(values[unknown], return_counts=True)), strict=True))


def _as_bytes(ids: np.ndarray, ignore_index: int) -> np.ndarray:
    """Returns uint8 ids, unknown ones ignored."""
    return np.where(ids == _UNKNOWN, ignore_index, ids).astype(np.uint8)


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

    Args:
        mask: `(H, W, 3)` uint8, red first, as from `read_image`.
        palette: The colour of class 0, 1, …; at most 255 of them.
        ignored: Colours that mean "no label".
        ignore_index: Id for the ignored colours, 0..255.
        off_palette_fraction: Share of pixels, 0..1, that may have yet other colours (blurred borders, for example);
            they become `ignore_index` too.
        name: What to call the mask in errors.

    Returns:
        `(H, W)` uint8.

    Raises:
        DataError: When the mask has another shape or type, a colour stands for two things, or more pixels than allowed
            are off the palette.
    """
    if mask.ndim != 3 or mask.shape[2] != 3 or mask.dtype != np.uint8 or not mask.size:
        raise DataError(f"{name} is {mask.shape} {mask.dtype}; a mask in colours is (H, W, 3) uint8.")
    coding = ColourCoding(tuple(palette), tuple(ignored), ignore_index)
    ids, unknown = coding.decode(mask)
    OffPalette.of(unknown, coding.what).check(name, ids.size, off_palette_fraction)
    return ids
