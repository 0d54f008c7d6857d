"""What the training tiles of a dataset hold: bands, type and range of pixels, pixels of each class, size on the ground.

Pixels without data, and pixels whose label is ignored, count nowhere: training does not learn from them.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.rules import check_label_ids, check_same_size, check_type, ids_of, label_of
from rsseg_tf.datasets.spec import DatasetSpec, custom_spec
from rsseg_tf.errors import DataError
from rsseg_tf.files import readable_name
from rsseg_tf.files.lists import Sample
from rsseg_tf.files.parallel import in_processes
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust
from rsseg_tf.rasters.ground import pixel_size
from rsseg_tf.rasters.images import read_label
from rsseg_tf.rasters.nodata import FILL_VALUES, Pixels
from rsseg_tf.rasters.scenes import Scene, open_scene, read_pixels, scene_header
from rsseg_tf.rasters.statistics import Moments, look_at_band
from rsseg_tf.rasters.windows import Size

__all__ = ["TileStatistics", "measure_tiles"]

_CHUNK = 32  # tiles that a worker looks at in one go
_SHARE_ABOVE = 0.001  # of a tile's values may lie above max_value
_BYTES = 255.0
_LEAST_OF_WORDS = 256.0  # whole numbers of more than 8 bits that reach no further would be bytes
_SAME_GROUND = 0.02  # by which sizes of pixels on the ground may differ

Result = TypeVar("Result")


@dataclass(frozen=True)
class TileStatistics:
    """What the training tiles hold.

    Attributes:
        tiles: How many there are.
        bands: Bands of each.
        dtype: NumPy name of the pixels' type.
        shortest: Shortest side of any tile, in pixels.
        longest: Longest side of any tile, in pixels.
        side: Median of the tiles' shorter sides, in pixels.
        max_value: Pixel value that is to become 1.0, see `measure_tiles`.
        moments: Of each band, in the unit of the files.
        pixels: Pixels with data of each class.
        left_out: Pixels without data or with an ignored label.
        ground_resolution: Side of a pixel on the ground in metres; None where it is unknown or not the same for all.
    """

    tiles: int
    bands: int
    dtype: str
    shortest: int
    longest: int
    side: int
    max_value: float
    moments: tuple[Moments, ...]
    pixels: tuple[int, ...]
    left_out: int
    ground_resolution: float | None

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each band, in units of `max_value`."""
        return tuple(band.mean / self.max_value for band in self.moments)

    @property
    def std(self) -> tuple[float, ...]:
        """Deviation of each band, in units of `max_value`."""
        return tuple(band.std / self.max_value for band in self.moments)

    @property
    def goes_below_zero(self) -> bool:
        """Whether any value is negative."""
        return any(band.low < 0 for band in self.moments)


class _Tile(NamedTuple):
    """What one tile holds."""

    size: tuple[int, int]
    moments: tuple[Moments, ...]
    counts: tuple[int, ...]
    left_out: int
    ground: float | None


def measure_tiles(
    samples: Sequence[Sample],
    classes: Sequence[str],
    *,
    ignore_index: int = 255,
    trust: Trust = TRUSTING_NOBODY,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TileStatistics:
    """Looks at every training tile, one at a time in each process.

    `max_value` is 255 for images of bytes. For other types it is the highest 99.9th percentile of any tile, of all its
    bands together and without signs, rounded up to two digits, and at least 256 for whole numbers. A usual fill value
    (65535, 9999 …) more than twice as high as all other values counts as no data, as it does in training. Values above
    `max_value` stay what they are: it is a unit, no limit.

    Args:
        samples: The tiles with their labels.
        classes: Names of the classes, by id.
        ignore_index: Label value of ignored pixels.
        trust: Limits for files and for the sources of a VRT.
        workers: Processes; None takes one for each core. Several need a program whose main module may be imported.
        progress: Called with the number of looks done and of all.

    Raises:
        DataError: When a file is missing or damaged, tiles differ in bands or type, a label does not fit its image or
            the classes, or no pixel has a class.
    """
    first = scene_header(samples[0].image, trust=trust).read
    spec = custom_spec("tiles", classes, ignore_index=ignore_index, bands=first.bands)
    is_bytes = first.dtype in ("uint8", "bool")
    chunks = [samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK)]
    whole = len(samples) * (1 if is_bytes else 2)
    processes = workers or os.cpu_count() or 1
    done = 0

    def looks(look: Callable[..., Result]) -> Iterator[Result]:
        nonlocal done
        work = functools.partial(_each, look=look, spec=spec, first=(samples[0], first.dtype), trust=trust)
        for found in in_processes(work, chunks, processes):
            for one in found:
                if isinstance(one, DataError):
                    raise one
                done += 1
                if progress is not None:
                    progress(done, whole)
                yield one

    if not is_bytes:
        top = _max_value(list(looks(_high_values)), np.dtype(first.dtype))
        spec = custom_spec("tiles", classes, ignore_index=ignore_index, bands=first.bands, max_value=top)
    tiles = list(looks(_whole_tile))
    counts = np.array([tile.counts for tile in tiles], np.int64).sum(axis=0)
    if not counts.sum():
        raise DataError(
            f"None of the {len(tiles)} training tiles has a pixel with data and a class; the first is "
            f"{readable_name(samples[0].image)}. Check the labels, or lower the nodata value of the images."
        )
    sides = [min(tile.size) for tile in tiles]
    return TileStatistics(
        tiles=len(tiles),
        bands=first.bands,
        dtype=first.dtype,
        shortest=min(sides),
        longest=max(max(tile.size) for tile in tiles),
        side=int(median(sides)),
        max_value=spec.max_value,
        moments=tuple(Moments.joined(tile.moments[band] for tile in tiles) for band in range(first.bands)),
        pixels=tuple(counts.tolist()),
        left_out=sum(tile.left_out for tile in tiles),
        ground_resolution=_common([tile.ground for tile in tiles]),
    )


def _each(
    samples: Sequence[Sample],
    look: Callable[[Sample, DatasetSpec, tuple[Sample, str], Trust], Result],
    spec: DatasetSpec,
    first: tuple[Sample, str],
    trust: Trust,
) -> list[Result | DataError]:
    """Looks at some tiles; stops at the first that is wrong."""
    found: list[Result | DataError] = []
    for sample in samples:
        try:
            found.append(look(sample, spec, first, trust))
        except DataError as error:
            return [*found, DataError(str(error))]  # without its cause, which may not travel between processes
    return found


def _used(
    sample: Sample, pixels: Pixels, spec: DatasetSpec, first: tuple[Sample, str], trust: Trust
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Returns the label of a tile, and where it has a class and the image has data."""
    image = sample.image
    check_type(image, pixels.values.dtype, first[0].image, np.dtype(first[1]))
    if pixels.values.shape[2] != spec.bands:
        raise DataError(
            f"{image} has {pixels.values.shape[2]} bands, but {first[0].image} has {spec.bands}; all images of a "
            "dataset must have the same. Select the bands of one of them."
        )
    label = read_label(label_of(sample), trust)
    check_same_size(sample, pixels.values.shape[:2], label.shape)
    check_label_ids(ids_of(label), label_of(sample), spec)
    used = label != spec.ignore_index
    if pixels.nodata is not None:
        used &= ~pixels.nodata
    return label, used


def _high_values(
    sample: Sample, spec: DatasetSpec, first: tuple[Sample, str], trust: Trust
) -> tuple[float, float] | None:
    """Returns the 99.9th percentiles of a tile's values without signs: of all, and without the usual fill values."""
    pixels = read_pixels(sample.image, None, trust=trust)
    _, used = _used(sample, pixels, spec, first, trust)
    values = pixels.values[used].ravel()
    if pixels.replaced is not None:
        values = values[~pixels.replaced[used].ravel()]
    if not values.size:
        return None
    sizes = np.abs(values.astype(np.float64))
    sound = sizes[~np.isin(values, FILL_VALUES)]
    return _percentile(sizes), _percentile(sound) if sound.size else 0.0


def _percentile(values: NDArray[np.float64]) -> float:
    place = min(values.size - 1, math.ceil(values.size * (1 - _SHARE_ABOVE)))
    return float(np.partition(values, place)[place])


def _max_value(looks: Sequence[tuple[float, float] | None], dtype: np.dtype) -> float:
    """Returns `max_value` from the percentiles of all tiles; 1 for images of zeros."""
    found = [look for look in looks if look is not None]
    of_all, of_sound = (max((look[place] for look in found), default=0.0) for place in (0, 1))
    # As `ValueRange.sentinel`: a fill value far above the range is no data.
    fill = of_all > 2 * of_sound > 0 and of_all in map(abs, FILL_VALUES)
    top = _rounded_up(of_sound if fill else of_all)
    if dtype.kind in "iu":
        return min(max(top, _LEAST_OF_WORDS), float(np.iinfo(dtype).max))
    return top or 1.0


def _rounded_up(value: float) -> float:
    """Rounds up to two digits."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(round(value / unit, 6)) * unit:.2g}")


def _whole_tile(sample: Sample, spec: DatasetSpec, first: tuple[Sample, str], trust: Trust) -> _Tile:
    """Returns the statistics of one tile."""
    with open_scene(sample.image, None, spec, trust=trust) as scene:
        pixels = scene.look()
        ground = _ground(scene)
    label, used = _used(sample, pixels, spec, first, trust)
    absent = ~used
    looks = []
    for band in range(spec.bands):
        here = absent if pixels.replaced is None else absent | pixels.replaced[:, :, band]
        looks.append(look_at_band(pixels.values[:, :, band], here if here.any() else None, None).moments)
    counts = np.bincount(label[used], minlength=spec.num_classes)[: spec.num_classes]
    return _Tile(Size(*label.shape), tuple(looks), tuple(counts.tolist()), int(np.count_nonzero(absent)), ground)


def _ground(scene: Scene) -> float | None:
    """Returns the side of a pixel on the ground, as prediction measures that of the scenes it gets."""
    sides = pixel_size(scene.size, scene.transform, scene.crs)
    return None if sides is None else math.sqrt(sides[0] * sides[1])


def _common(sides: Sequence[float | None]) -> float | None:
    """Returns the median of the sizes on the ground, with six digits; None where one is unknown or they differ."""
    known = [side for side in sides if side is not None]
    if not known or len(known) < len(sides):
        return None
    middle = median(known)
    if max(known) - min(known) > _SAME_GROUND * middle:
        return None
    return float(f"{middle:.6g}")
