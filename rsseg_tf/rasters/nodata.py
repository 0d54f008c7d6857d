"""The one rule by which training, evaluation, checks and prediction tell data from no data.

A file declares by a nodata value, masks or an alpha band where it has no data. Many files hold undeclared values that
stand for no data: -9999, -32768, -3.4e38, 1e20, or 65535 among reflectances of 0..10000. A network takes such a value
for brightness, and spreads it over its whole field of view.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.spec import DatasetSpec

__all__ = ["FILL_VALUES", "Pixels", "SuspectValues", "ValueRange", "equals_nodata", "without_nodata"]

# Values that programs write where there is no data; each counts only far off the range of the data, see `sentinel`.
FILL_VALUES = (
    -999.0, -9999.0, -99999.0, -999999.0, -32767.0, -32768.0, -2147483647.0, -2147483648.0,
    9999.0, 99999.0, 999999.0, 32767.0, 65535.0, 2147483647.0, 4294967295.0,
)  # fmt: skip
# In widths of the range, 0..max_value. Radar reaches a million times its usual brightness; nothing measured lies ten
# times as far below 0 as the brightest data lie above it.
_FAR_BELOW = 10.0
_FAR_ABOVE = 1e6
# Of files whose range is not known. No physical unit in use gives such values; the fill values 1e20 and -3.4e38 do.
_UNKNOWN_LIMIT = 1e15
_SHOWN_SENTINELS = 3


@dataclass(frozen=True)
class ValueRange:
    """The expected range of the values of each band.

    Attributes:
        low: Smallest expected value of each band.
        high: Largest expected value of each band.
        fill: Value of each band that replaces values that are no data, so that nothing spreads from them.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    fill: tuple[float, ...]

    @classmethod
    def of(cls, spec: DatasetSpec | None, dtype: np.dtype, bands: int, max_value: float | None = None) -> ValueRange:
        """Returns the range of a file of a dataset.

        It is 0..max_value. Where by a band's mean and standard deviation values below 0 or above max_value are ordinary
        (decibels, standard scores), it is three deviations about the mean.

        The fill is 0 for bytes, as for any black border; for other types, where 0 may be far off all data, the mean.

        Args:
            spec: The dataset; None if nothing is known.
            dtype: Type of the pixels.
            bands: Number of bands that are read.
            max_value: Value of the file that stands for the spec's `max_value`; the same if None.
        """
        if spec is None or spec.bands != bands:
            unsigned = dtype.kind in "bu"
            most = float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0 if dtype.kind == "b" else math.inf
            return cls((0.0 if unsigned else -math.inf,) * bands, (most,) * bands, (0.0,) * bands)
        top = spec.max_value if max_value is None else max_value
        pairs = list(zip(spec.mean, spec.std, strict=True))  # in units of max_value
        low = tuple(top * (mean - 3 * std) if mean < std else 0.0 for mean, std in pairs)
        high = tuple(top * max(1.0, mean + 3 * std) if mean + std > 1 else top for mean, std in pairs)
        fill = tuple(0.0 if dtype.kind == "b" or dtype == np.uint8 else top * mean for mean, _ in pairs)
        return cls(low, high, tuple(float(round(value)) for value in fill) if dtype.kind in "iu" else fill)

    def outside(self, values: NDArray, band: int) -> NDArray[np.bool_]:
        """Returns which values lie outside of a band's range; bands count from 0."""
        if math.isinf(self.low[band]):  # nothing is known of a signed or fractional type
            return (values < 0) | (values >= _UNKNOWN_LIMIT)
        return (values < self.low[band]) | (values > self.high[band])

    def holds(self, least: float, most: float) -> bool:
        """Returns whether all values between two are surely data; False for NaN."""
        if math.isinf(min(self.low)):
            return least >= 0 and most < _UNKNOWN_LIMIT
        return max(self.low) <= least and most <= min(self.high)

    def far_below(self, value: float) -> bool:
        """Returns whether a value lies below all bands' ranges by more than their widths."""
        return value < min(2 * low - high for low, high in zip(self.low, self.high, strict=True))

    def sentinel(self, values: NDArray, band: int) -> NDArray[np.bool_] | None:
        """Returns where a band holds undeclared values that stand for no data; None where it holds none.

        These are values further off the range than any measurement, and the usual fill values outside of it: below it,
        or above it by more than its width.
        """
        if values.dtype.kind not in "iuf" or values.dtype.itemsize == 1:  # eight bits have no room for fill values
            return None
        low, high = self.low[band], self.high[band]
        least, most = float(values.min(initial=0)), float(values.max(initial=0))
        if math.isinf(low) or math.isinf(high):
            return self._of_unknown_range(values, least, most)
        width = high - low
        far_below, far_above = low - _FAR_BELOW * width, high + _FAR_ABOVE * width
        if least >= low and most <= high + width:  # as in most bands; then no value needs a closer look
            return None
        found = np.zeros(values.shape, bool)
        if least < far_below:
            found |= values < far_below
        if most > far_above:
            found |= values > far_above
        for fill in FILL_VALUES:
            if least <= fill <= most and (fill < low or fill > high + width):
                found |= values == np.asarray(fill).astype(values.dtype)
        return found if found.any() else None

    @staticmethod
    def _of_unknown_range(values: NDArray, least: float, most: float) -> NDArray[np.bool_] | None:
        """As `sentinel`, for files whose range is not known."""
        if values.dtype.kind == "u" or (least >= 0 and most < _UNKNOWN_LIMIT):
            return None
        found = np.abs(values) >= _UNKNOWN_LIMIT if values.dtype.kind == "f" else np.zeros(values.shape, bool)
        for fill in FILL_VALUES:
            if least <= fill < 0:
                found |= values == np.asarray(fill).astype(values.dtype)
        return found if found.any() else None


@dataclass(frozen=True, eq=False)
class Pixels:
    """The pixels of an image, and notes on how they were read.

    Attributes:
        values: `(H, W, bands)` in the file's type. Values that stand for no data are replaced, see `Scene.read`.
        nodata: `(H, W)`, True where a pixel is no data; None if all pixels are data.
        replaced: `(H, W, bands)`, True where a value was replaced; None if none was.
        broken: Number of values that were not finite.
        declared: Number of values that were the declared nodata value, or masked in one band.
        sentinels: Undeclared values that stand for no data, with the number of times that each occurs.
        lowest: Smallest value that is left, where types have values below 0; 0 otherwise.
        notes: Notes for the user about how the file was read, each a phrase that follows the file's name.
        value_notes: Notes for the user about the file's values, likewise.
    """

    values: NDArray
    nodata: NDArray[np.bool_] | None
    replaced: NDArray[np.bool_] | None = None
    broken: int = 0
    declared: int = 0
    sentinels: tuple[tuple[float, int], ...] = ()
    lowest: float = 0.0
    notes: tuple[str, ...] = ()
    value_notes: tuple[str, ...] = ()


@dataclass
class SuspectValues:
    """Values that a scene's author should perhaps have declared as nodata, of all parts that were read so far.

    Attributes:
        sentinels: Undeclared values that were taken for no data, with the number of times that each was read.
        lowest: The smallest other value; 0 if none is smaller.
    """

    sentinels: Counter[float] = field(default_factory=Counter)
    lowest: float = 0.0

    def add(self, pixels: Pixels) -> None:
        """Takes note of a part."""
        self.sentinels.update(dict(pixels.sentinels))
        self.lowest = min(self.lowest, pixels.lowest)

    def sentinel_notes(self) -> tuple[str, ...]:
        """Returns a phrase that names the sentinels, if there are any."""
        if not self.sentinels:
            return ()
        # Without counts: parts of a scene may be read more than once.
        shown = ", ".join(f"{value:.9g}" for value, _ in self.sentinels.most_common(_SHOWN_SENTINELS))
        more = f" and {len(self.sentinels) - _SHOWN_SENTINELS} more" if len(self.sentinels) > _SHOWN_SENTINELS else ""
        return (f"holds {shown}{more}, taken for no data though the file does not declare it",)

    def notes(self, expected: ValueRange) -> tuple[str, ...]:
        """Returns phrases about the sentinels, and about values that lie too far below the expected range."""
        if not expected.far_below(self.lowest):
            return self.sentinel_notes()
        low = f"reaches {self.lowest:g}, further below 0 than its largest value is above it"
        return (*self.sentinel_notes(), f"{low}; declare it as nodata if it is")


def without_nodata(
    stored: NDArray,
    masked: NDArray[np.bool_] | None,
    absent: Sequence[NDArray[np.bool_] | None],
    expected: ValueRange,
) -> Pixels:
    """Separates data from no data, and replaces values that would spill over into their neighbours.

    Args:
        stored: `(H, W, bands)` as the file has them; may be changed in place unless it is a view.
        masked: `(H, W)`, True where an alpha band or a mask leaves a pixel out.
        absent: Of each band, True where the file declares a value to be no data.
        expected: The expected range of values.
    """
    # Most files hold nothing suspicious, which one pass over the values shows.
    least = most = 0.0
    if stored.dtype.itemsize > 1 or stored.dtype.kind == "i":
        least, most = float(stored.min(initial=0)), float(stored.max(initial=0))
    if all(here is None for here in absent) and (stored.dtype.itemsize == 1 or expected.holds(least, most)):
        return Pixels(stored, masked if masked is not None and masked.any() else None, lowest=least)
    stored = stored if stored.base is None else stored.copy()  # a decoded image is read more than once
    nodata = np.zeros(stored.shape[:2], bool) if masked is None else masked.copy()
    replaced = np.zeros(stored.shape, bool)
    # A pixel is no data if no band has data there; one band without it may be a sound dark or saturated value.
    in_no_band = np.ones(stored.shape[:2], bool)
    broken = declared = 0
    sentinels: Counter[float] = Counter()
    for band, declares in enumerate(absent):
        values = stored[:, :, band]
        here = np.zeros(values.shape, bool) if declares is None else declares.copy()

        def replace_where(where: NDArray[np.bool_], band: int = band) -> None:
            replaced[:, :, band] |= where
            stored[:, :, band][where] = expected.fill[band]

        if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
            broken += int((~finite).sum())
            nodata |= ~finite  # one band is enough: the others are seldom sound where one is not finite
            here |= ~finite
            replace_where(~finite)
        if declares is not None:
            declared += int(declares.sum())
            # A declared value within the range, such as 0 or 255, stays: a white roof has it too.
            replace_where(declares & expected.outside(values, band))
        found = expected.sentinel(values, band)
        if found is not None:
            uniques, counts = np.unique(values[found], return_counts=True)
            sentinels.update(dict(zip(uniques.tolist(), counts.tolist(), strict=True)))
            here |= found
            replace_where(found)
        in_no_band &= here
    nodata |= in_no_band
    return Pixels(
        stored,
        nodata if nodata.any() else None,
        replaced if replaced.any() else None,
        broken,
        declared,
        tuple(sorted(sentinels.items())),
        lowest=float(stored.min(initial=0)) if stored.dtype.kind in "if" else 0.0,
    )


def equals_nodata(pixels: NDArray, value: float | None) -> NDArray[np.bool_] | None:
    """Returns where pixels have the declared nodata value; None where no pixel has it.

    A nodata value of NaN is ignored: values that are not finite are found without it.
    """
    if value is None or np.isnan(value):
        return None
    if pixels.dtype.kind in "iu":
        limits = np.iinfo(pixels.dtype)
        if not (np.isfinite(value) and value == int(value) and limits.min <= value <= limits.max):
            return None
    # Compared in the type of the pixels: a file declares a decimal text, which a float32 need not hold exactly.
    with np.errstate(over="ignore"):
        equal: NDArray[np.bool_] = pixels == np.asarray(value).astype(pixels.dtype)
    return equal if equal.any() else None
