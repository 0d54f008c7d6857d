"""How the masks of a dataset say their classes: in colours, or in ids of their own."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass

import cv2
import numpy as np

from rsseg_tf.datasets.spec import RGB
from rsseg_tf.errors import DataError

__all__ = ["ColourCoding", "IdCoding", "LabelCoding", "Strangers"]

_UNKNOWN = 256  # stands in the tables beside the ids 0..255


@dataclass(frozen=True)
class Strangers:
    """Pixels of a mask whose colour or value means nothing.

    Attributes:
        pixels: How many there are.
        kinds: How many different colours or values they have.
        worst: The commonest of these, and how many pixels have it.
        what: ``"colour"`` or ``"value"``.
    """

    pixels: int = 0
    kinds: int = 0
    worst: tuple[str, int] = ("", 0)
    what: str = "colour"

    @classmethod
    def of(cls, counts: Counter[object], what: str) -> Strangers:
        """Sums up how often each unknown colour or value occurs."""
        if not counts:
            return cls(what=what)
        (worst, most), *_ = counts.most_common(1)
        return cls(counts.total(), len(counts), (str(worst), most), what)

    def check(self, name: str, pixels: int, allowed: float) -> None:
        """Raises DataError when they are more than the share `allowed` of the `pixels` of the mask `name`."""
        if self.pixels <= allowed * pixels:
            return
        raise DataError(
            f"{name} has {self.pixels} of {pixels} pixels in {self.kinds} {self.what}{'s' if self.kinds != 1 else ''} "
            f"outside the palette, most often {self.worst[0]} ({self.worst[1]} times); at most {allowed:.4%} is "
            "allowed. Check that this mask belongs to the dataset, or raise off_palette_fraction to ignore them."
        )


@dataclass(frozen=True)
class ColourCoding:
    """Masks in colours, each pixel matched exactly: no hash in which two colours could meet.

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
        """Returns the ids ``(H, W)`` uint8 of ``(H, W, 3)`` uint8 rows, and how often each unknown colour occurs."""
        packed = cv2.cvtColor(rows, cv2.COLOR_RGB2RGBA).view("<u4")[..., 0] & 0xFFFFFF  # 0xBBGGRR
        ids = _colour_table(self)[packed]
        unknown = _count(packed, ids)
        strangers: Counter[object] = Counter(
            {(value & 255, value >> 8 & 255, value >> 16): count for value, count in unknown.items()}
        )
        return _as_bytes(ids, self.ignore_index), strangers


@dataclass(frozen=True)
class IdCoding:
    """Masks in one band whose values are not our ids.

    Attributes:
        ids: ``(value, id)`` for each value that may occur.
        ignore_index: Id of all other values, 0..255.
    """

    ids: tuple[tuple[int, int], ...]
    ignore_index: int = 255

    bands = 1
    what = "value"

    def decode(self, rows: np.ndarray) -> tuple[np.ndarray, Counter[object]]:
        """Returns the ids ``(H, W)`` uint8 of ``(H, W, 1)`` uint8 rows, and how often each unknown value occurs."""
        table = np.full(256, _UNKNOWN, np.uint16)
        for value, number in self.ids:
            table[value] = number
        ids = table[rows[..., 0]]
        return _as_bytes(ids, self.ignore_index), Counter(_count(rows[..., 0], ids))


LabelCoding = ColourCoding | IdCoding


@functools.lru_cache(maxsize=4)
def _colour_table(coding: ColourCoding) -> np.ndarray:
    """Ids by packed colour, 32 MiB: one look-up per pixel, however many classes there are."""
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
