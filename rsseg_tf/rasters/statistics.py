"""Mean, deviation and range of the bands of images, without the pixels that are no data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["BandLook", "Moments", "look_at_band"]

_BLOCK_PIXELS = 1 << 20  # 8 MiB as float64


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean, deviation and range of the values of one band.

    Attributes:
        count: Number of finite values that are data.
        mean: Their mean; 0 if there are none.
        squares: Sum of their squared differences from the mean.
        low: The lowest; infinity if there are none.
        high: The highest; minus infinity if there are none.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    @property
    def std(self) -> float:
        """Standard deviation of the population."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    @staticmethod
    def joined(parts: Iterable[Moments]) -> Moments:
        """Returns the moments of all values together; the last bits depend on the order of the parts."""
        total = Moments()
        for part in parts:
            count = total.count + part.count
            if not part.count:
                continue
            shift = part.mean - total.mean
            # Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.
            total = Moments(
                count,
                total.mean + shift * part.count / count,
                total.squares + part.squares + shift * shift * total.count * part.count / count,
                min(total.low, part.low),
                max(total.high, part.high),
            )
        return total

    def scaled(self, factor: float) -> Moments:
        """Returns the moments of all values times a positive factor."""
        return Moments(self.count, self.mean * factor, self.squares * factor**2, self.low * factor, self.high * factor)


class BandLook(NamedTuple):
    """Statistics of one band.

    Attributes:
        moments: Moments of its values.
        broken: Number of values that are not finite in float32.
        above: Number of values above the limit.
    """

    moments: Moments
    broken: int = 0
    above: int = 0


def look_at_band(band: NDArray, absent: NDArray[np.bool_] | None, limit: float | None) -> BandLook:
    """Computes the statistics of one band.

    Args:
        band: `(H, W)` of a real type.
        absent: `(H, W)`, True where there is no data; None where all values are data.
        limit: Values above it are counted; None counts none.
    """
    # A histogram of 16 bits has at most 65,536 entries; wider types need the values themselves.
    narrow = band.dtype.kind in "bui" and band.dtype.itemsize <= 2
    look = _from_histogram if narrow else _from_values
    rows = max(1, _BLOCK_PIXELS // max(1, band.shape[1]))
    parts = []
    for start in range(0, band.shape[0], rows):  # block by block: counting takes eight bytes a value
        block = band[start : start + rows]
        parts.append(look(block.ravel() if absent is None else block[~absent[start : start + rows]], limit))
    return BandLook(
        Moments.joined([part.moments for part in parts if part.moments.count]),
        sum(part.broken for part in parts),
        sum(part.above for part in parts),
    )


def _from_values(stored: NDArray, limit: float | None) -> BandLook:
    """Computes the statistics of values of any type."""
    values = stored.astype(np.float64)
    finite = np.abs(values) <= np.finfo(np.float32).max  # False for NaN; training computes in float32
    broken = values.size - int(finite.sum())
    values = values[finite]
    if not values.size:
        return BandLook(Moments(), broken)
    mean = float(values.mean())
    # Two passes: the difference of sums of squares would lose the digits of values far from 0.
    squares = float(((values - mean) ** 2).sum())
    above = int((values > limit).sum()) if limit is not None else 0
    return BandLook(Moments(values.size, mean, squares, float(values.min()), float(values.max())), broken, above)


def _from_histogram(stored: NDArray, limit: float | None) -> BandLook:
    """As `_from_values`, for whole numbers of at most 16 bits: exact, and faster."""
    if not stored.size:
        return BandLook(Moments())
    lowest = 0 if stored.dtype.kind in "bu" else int(stored.min())
    counts = np.bincount(stored if not lowest else stored.astype(np.int32) - lowest)
    values = np.arange(lowest, lowest + counts.size, dtype=np.float64)
    count = int(counts.sum())
    mean = float(counts @ values) / count
    squares = float(counts @ (values - mean) ** 2)
    present = values[counts > 0]
    above = int(counts[values > limit].sum()) if limit is not None else 0
    return BandLook(Moments(count, mean, squares, float(present[0]), float(present[-1])), above=above)
