"""The places of images on Earth, and the images that share ground."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rasterio.transform import Affine

from rsseg_tf.errors import DataError
from rsseg_tf.rasters.gdal import Trust, reading
from rsseg_tf.rasters.images import image_header
from rsseg_tf.rasters.opening import open_member
from rsseg_tf.rasters.world_files import ImagePlace, image_place

__all__ = ["Overlap", "Place", "overlaps", "read_place"]

# Edges of neighbouring tiles agree up to rounding, so a shared strip below this part of a pixel is no shared ground.
_TOLERANCE_PIXELS = 0.5
# Without this limit, one scene among tiles would fill the grid with millions of cells.
_CELLS_ALONG_LARGEST = 256


@dataclass(frozen=True, slots=True)
class Place:
    """The box, along the axes of its CRS, that an image covers.

    Attributes:
        crs: The coordinate reference system, as an authority's code or WKT.
        left: Lowest first coordinate.
        bottom: Lowest second coordinate.
        right: Highest first coordinate.
        top: Highest second coordinate.
        pixel: Side of a pixel in units of the CRS; the shorter side where they differ.
    """

    crs: str
    left: float
    bottom: float
    right: float
    top: float
    pixel: float

    @property
    def area(self) -> float:
        """Area of the box in square units of the CRS."""
        return (self.right - self.left) * (self.top - self.bottom)

    def shared_with(self, other: Place) -> float:
        """Returns the area that both cover; 0 where its width or height is below half a pixel."""
        least = _TOLERANCE_PIXELS * min(self.pixel, other.pixel)
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return width * height if self.crs == other.crs and width > least and height > least else 0.0

    def is_at(self, other: Place) -> bool:
        """Tells whether both cover the same box, up to half a pixel."""
        least = _TOLERANCE_PIXELS * max(self.pixel, other.pixel)
        return self.crs == other.crs and self.furthest_edge(other) <= least

    def furthest_edge(self, other: Place) -> float:
        """Returns the largest distance between an edge of this box and the same edge of another in the same CRS."""
        return max(
            abs(self.left - other.left),
            abs(self.bottom - other.bottom),
            abs(self.right - other.right),
            abs(self.top - other.top),
        )


@dataclass(frozen=True, slots=True)
class Overlap:
    """The ground that one image shares with others.

    Attributes:
        image: Key of the image.
        others: Keys of the others; the one with the largest shared area comes first.
        share: Share of the image, 0..1, that the first of them covers.
    """

    image: int
    others: tuple[int, ...]
    share: float


def read_place(path: Path, driver: str = "GTiff") -> Place | None:
    """Reads the place of an image from the file or from files beside it; None without a CRS and a transform.

    Args:
        path: The image.
        driver: GDAL's name of the file format: "GTiff", "VRT", "PNG", "JPEG" and so on.
    """
    try:
        if driver in ("PNG", "JPEG"):
            beside = image_place(path, driver)
            if beside.crs is None or beside.transform == Affine.identity():
                return None  # most images: their headers need not be read
            header = image_header(path)
            return _place(beside, header.width, header.height)
        # Trusted, because its pixels could be read a moment ago.
        with reading(str(path), driver), open_member(path, driver, Trust(vrt_sources=True)).source as source:
            found = ImagePlace(source.crs, source.transform)
            if source.crs is None and driver == "GTiff":
                beside = image_place(path, driver)
                # A transform in the file counts before a world file, as for GDAL.
                own = source.transform != Affine.identity()
                found = ImagePlace(beside.crs, source.transform if own else beside.transform)
            return _place(found, source.width, source.height)
    except DataError:
        return None  # the pixels could be read a moment ago, so only the place is lost


def _place(found: ImagePlace, width: int, height: int) -> Place | None:
    """Returns the box of an image; None without a CRS and a transform."""
    if found.crs is None or found.transform == Affine.identity():
        return None
    a, b, c, d, e, f, *_ = found.transform
    corners = [(x, y) for x in (0, width) for y in (0, height)]  # a transform may rotate
    first, second = [a * x + b * y + c for x, y in corners], [d * x + e * y + f for x, y in corners]
    pixel = min(math.hypot(a, d), math.hypot(b, e))
    return Place(found.crs.to_string(), min(first), min(second), max(first), max(second), pixel)


def overlaps(images: Mapping[int, Place], others: Mapping[int, Place]) -> Iterator[Overlap]:
    """Yields the images that share ground with some of the others.

    A grid with cells as wide as a typical image finds the candidates, so the time grows linearly with the number of
    images.

    Args:
        images: Places by key, in the order of the result.
        others: Places by key.
    """
    if not images or not others:
        return
    sides = [max(place.right - place.left, place.top - place.bottom) for place in (*images.values(), *others.values())]
    # Cells as wide as a typical image: an image covers few cells, and a cell holds few images.
    side = max(median(sides), max(sides) / _CELLS_ALONG_LARGEST)
    grid: defaultdict[tuple[str, int, int], list[int]] = defaultdict(list)
    for key, place in others.items():
        for cell in _cells(place, side):
            grid[cell].append(key)
    for key, place in images.items():
        near = sorted({other for cell in _cells(place, side) for other in grid.get(cell, ())})
        shared = {other: area for other in near if (area := place.shared_with(others[other])) > 0}
        if shared:
            ranked = sorted(shared, key=lambda other: (-shared[other], other))
            yield Overlap(key, tuple(ranked), shared[ranked[0]] / place.area)


def _cells(place: Place, side: float) -> Iterator[tuple[str, int, int]]:
    for column in range(math.floor(place.left / side), math.floor(place.right / side) + 1):
        for row in range(math.floor(place.bottom / side), math.floor(place.top / side) + 1):
            yield place.crs, column, row
