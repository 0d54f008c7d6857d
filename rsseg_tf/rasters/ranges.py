"""Which values are data: the one rule that training, evaluation, checks and prediction share.

A file says in its nodata value, masks and alpha band where it has no data. Many files hold values that stand for no
data and say nothing: -9999, -32768, -3.4e38, 1e20, or 65535 among reflectances of 0..10000. A network takes such
a value for brightness, and spreads it over its whole field of view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.spec import DatasetSpec

__all__ = ["ValueRange"]

# Values that programs write where there is no data. Each is one only far off the range of the data; see `sentinel`.
_FILL_VALUES = (
    -999.0, -9999.0, -99999.0, -999999.0, -32767.0, -32768.0, -2147483647.0, -2147483648.0,
    9999.0, 99999.0, 999999.0, 32767.0, 65535.0, 2147483647.0, 4294967295.0,
)  # fmt: skip
# In widths of the range, 0..max_value. Radar reaches a million times its usual brightness; nothing measured lies ten
# times as far below 0 as the brightest data lie above it.
_FAR_BELOW = 10.0
_FAR_ABOVE = 1e6
# Of files that nobody says the range of.
_UNKNOWN_LIMIT = 1e15


@dataclass(frozen=True)
class ValueRange:
    """Where the values of each band are expected.

    Attributes:
        low: Smallest value that is expected of each band.
        high: Largest one.
        fill: What stands in for values that are no data, so that nothing spreads from them.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    fill: tuple[float, ...]

    @classmethod
    def of(cls, spec: DatasetSpec | None, dtype: np.dtype, bands: int, max_value: float | None = None) -> ValueRange:
        """Returns the range of a file of a dataset.

        It is 0..max_value; where mean and standard deviation of a band say that values below 0 or above max_value are
        ordinary (decibels, standard scores), three deviations about the mean.

        The fill is 0 for bytes, as for any black border; for other types, where 0 may be far off all data, the mean.

        Args:
            spec: The dataset; None if nothing is known.
            dtype: The pixels' type.
            bands: How many bands are read.
            max_value: Value of the file that stands for the spec's `max_value`; the same if None.
        """
        if spec is None or spec.bands != bands:
            unsigned = dtype.kind in "bu"
            most = float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0 if dtype.kind == "b" else math.inf
            return cls((0.0 if unsigned else -math.inf,) * bands, (most,) * bands, (0.0,) * bands)
        top = spec.max_value if max_value is None else max_value
        pairs = list(zip(spec.mean, spec.std, strict=True))
        low = tuple(top * (mean - 3 * std) if mean < std else 0.0 for mean, std in pairs)
        high = tuple(top * max(1.0, mean + 3 * std) if mean + std > 1 else top for mean, std in pairs)
        fill = tuple(0.0 if dtype.kind == "b" or dtype == np.uint8 else top * mean for mean, _ in pairs)
        return cls(low, high, tuple(float(round(value)) for value in fill) if dtype.kind in "iu" else fill)

    def outside(self, values: NDArray, band: int) -> NDArray[np.bool_]:
        """Tells which values, declared to be no data, lie outside of a band's range (from 0)."""
        if math.isinf(self.low[band]):  # nothing is known of a signed or fractional type
            return (values < 0) | (values >= _UNKNOWN_LIMIT)
        return (values < self.low[band]) | (values > self.high[band])

    def holds(self, least: float, most: float) -> bool:
        """Tells whether all values between two are surely data; not so for NaN."""
        if math.isinf(min(self.low)):
            return least >= 0 and most < _UNKNOWN_LIMIT
        return max(self.low) <= least and most <= min(self.high)

    def far_below(self, value: float) -> bool:
        """Tells whether a value lies below all bands' ranges by more than they are wide."""
        return value < min(2 * low - high for low, high in zip(self.low, self.high, strict=True))

    def sentinel(self, values: NDArray, band: int) -> NDArray[np.bool_] | None:
        """Tells which values of a band stand for no data although nothing declares them; None where none can.

        That are values further off the range than any measurement, and the usual fill values outside of it: below it,
        or above it by more than its width.
        """
        if values.dtype.kind not in "iuf" or values.dtype.itemsize == 1:
            return None
        low, high = self.low[band], self.high[band]
        least, most = float(values.min(initial=0)), float(values.max(initial=0))
        if math.isinf(low) or math.isinf(high):
            return self._of_unknown_range(values, least, most)
        width = high - low
        far_below, far_above = low - _FAR_BELOW * width, high + _FAR_ABOVE * width
        if least >= low and most <= high + width:
            return None
        found = np.zeros(values.shape, bool)
        if least < far_below:
            found |= values < far_below
        if most > far_above:
            found |= values > far_above
        for fill in _FILL_VALUES:
            if least <= fill <= most and (fill < low or fill > high + width):
                found |= values == np.asarray(fill).astype(values.dtype)
        return found if found.any() else None

    @staticmethod
    def _of_unknown_range(values: NDArray, least: float, most: float) -> NDArray[np.bool_] | None:
        """As `sentinel`, where nothing says how far data reach."""
        if values.dtype.kind == "u" or (least >= 0 and most < _UNKNOWN_LIMIT):
            return None
        found = np.abs(values) >= _UNKNOWN_LIMIT if values.dtype.kind == "f" else np.zeros(values.shape, bool)
        for fill in _FILL_VALUES:
            if least <= fill < 0:
                found |= values == np.asarray(fill).astype(values.dtype)
        return found if found.any() else None
