"""The bands of several rasters read as one image, those on other grids brought to the finest one.

The grid of a stack is that of the member with the smallest pixels on the ground; of equals, the first. It keeps its
extent. Members on the same grid are read as they are. All others are resampled, bilinear or nearest, from the pixels
that are data. A pixel that a member does not cover, or masks, is no data. A declared nodata value counts as in a file
that holds all the bands: the pixel is no data where all bands have it (see `Scene.read`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from rsseg_tf.errors import DataError
from rsseg_tf.files import readable_name
from rsseg_tf.files.reading import read_bytes
from rsseg_tf.rasters.gdal import (
    HEAD_BYTES,
    RASTER_ERRORS,
    Trust,
    damaged,
    marks_of,
    opened_raster,
    reading,
    require_small_blocks,
)
from rsseg_tf.rasters.ground import move, pixel_size, transformed
from rsseg_tf.rasters.headers import check_jpeg, check_png, image_kind
from rsseg_tf.rasters.opening import open_member, raster_driver
from rsseg_tf.rasters.part_reading import RasterPart, read_part
from rsseg_tf.rasters.remote import network, unreachable
from rsseg_tf.rasters.sources import Member, RemoteRaster, Stack
from rsseg_tf.rasters.windows import Size, Window
from rsseg_tf.rasters.world_files import RasterPlace, image_place, raster_place

__all__ = ["StackReader", "opened_stack"]

_FINER = 0.98
"""Pixels are smaller than others if they have less than this part of their area; projections stretch equal ones."""
_SAME_PIXELS = 1e-3
"""Places that differ by a smaller part of a pixel are the same."""
_TOLERANCE_PIXELS = 0.01  # of the transformation between two systems; rasterio takes no 0
_SOME_PLANE = "EPSG:3857"
"""Stands for the system that all members have in common where none names it."""
_EDGE_POINTS = 33
"""Points along each side of a member, whose outline need not be straight on another grid."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """A member that is open.

    Attributes:
        member: What it is.
        driver: GDAL's name of its kind.
        file: The open raster.
        place: Where it lies.
        reader: The raster on the stack's grid: `file` itself, or a view of it.
        bands: Its bands that count, from 1 in `reader`.
        alpha: Its mask, a band of `reader`.
        outline: Corners of what it covers, `(n, 2)` columns and rows of the stack's grid; None where a mask tells.
    """

    member: Member
    driver: str
    file: rasterio.DatasetReader
    place: RasterPlace
    reader: rasterio.DatasetReader
    bands: tuple[int, ...]
    alpha: int | None
    outline: NDArray[np.float64] | None = None

    @property
    def size(self) -> Size:
        return Size(*self.file.shape)

    @property
    def has_transform(self) -> bool:
        return self.place.get("transform", Affine.identity()) != Affine.identity()

    def read(self, part: Window, bands: Sequence[int], dtype: np.dtype, size: Size | None) -> RasterPart:
        """Reads bands of the stack's grid; pixels outside of the member are masked."""
        found = read_part(self.reader, part, bands, alpha=self.alpha, dtype=dtype, size=size)
        if self.outline is None:
            return found
        height, width = found.bands.shape[1:]
        wide, high = (part.x1 - part.x0) / width, (part.y1 - part.y0) / height
        to_part = Affine(wide, 0.0, part.x0, 0.0, high, part.y0)
        shape = {"type": "Polygon", "coordinates": [self.outline.tolist()]}
        outside = rasterize([shape], (height, width), fill=1, default_value=0, transform=to_part, dtype="uint8") == 1
        return found._replace(masked=outside if found.masked is None else found.masked | outside)


@dataclass(frozen=True, eq=False)
class StackReader:
    """An open stack; has of a rasterio dataset what scenes look at.

    Attributes:
        layers: Its members.
        grid: The member whose grid it has.
        source_bands: For each band of the stack, its layer and its band there.
    """

    layers: tuple[_Layer, ...]
    grid: _Layer
    source_bands: tuple[tuple[_Layer, int], ...]

    subdatasets = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.grid.file.shape

    @property
    def count(self) -> int:
        """Number of bands."""
        return len(self.source_bands)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Type of each band."""
        return tuple(layer.reader.dtypes[band - 1] for layer, band in self.source_bands)

    @property
    def nodatavals(self) -> tuple[float | None, ...]:
        """Declared nodata value of each band, or None."""
        return tuple(layer.file.nodatavals[band - 1] for layer, band in self.source_bands)

    @property
    def descriptions(self) -> tuple[str, ...]:
        """Names of the bands; the name of its file for a band that is alone there and has none."""
        names = []
        for layer, band in self.source_bands:
            given = layer.file.descriptions[band - 1] or ""
            names.append(given or (layer.member.stem if len(layer.bands) == 1 else ""))
        return tuple(names)

    @property
    def marks(self) -> tuple[str, ...]:
        """The mark of each band, as `marks_of` gives them for a file."""
        return tuple(marks_of(layer.file)[band - 1] for layer, band in self.source_bands)

    @property
    def mask_flag_enums(self) -> tuple[list[MaskFlags], ...]:
        """How pixels of each band are masked, as for a rasterio dataset."""
        covered = [MaskFlags.per_dataset]
        return tuple(
            covered if layer.outline is not None else layer.reader.mask_flag_enums[band - 1]
            for layer, band in self.source_bands
        )

    def tags(self, ns: str | None = None) -> dict[str, str]:
        """Returns the tags of the member whose grid the stack has, of the file or of a namespace."""
        tags: dict[str, str] = self.grid.file.tags(ns=ns)
        return tags

    def notes(self) -> tuple[str, ...]:
        """Returns phrases on what was resampled, which follow the stack's name."""
        moved = [layer.member for layer in self.layers if layer.reader is not layer.file]
        if not moved:
            return ()
        names = ", ".join(member.name for member in moved[:3]) + (f" and {len(moved) - 3} more" * (len(moved) > 3))
        return (
            f"has the grid of {self.grid.member.name}; {names} {'is' if len(moved) == 1 else 'are'} resampled to it",
        )

    def read_part(self, part: Window, bands: Sequence[int], dtype: np.dtype, size: Size | None) -> RasterPart:
        """Reads a part of some bands, each member once; see `part_reading.read_part`.

        Raises:
            DataError: When a member is damaged or cannot be reached.
        """
        stored: list[NDArray] = [np.empty(0)] * len(bands)
        absent: list[NDArray[np.bool_] | None] = [None] * len(bands)
        masked = None
        for layer in self.layers:
            places = [place for place, band in enumerate(bands) if self.source_bands[band - 1][0] is layer]
            if not places:
                continue
            try:
                with network() if isinstance(layer.member, RemoteRaster) else contextlib.nullcontext():
                    found = layer.read(part, [self.source_bands[bands[place] - 1][1] for place in places], dtype, size)
            except RASTER_ERRORS as error:
                raise _unreadable(layer.member, layer.driver, error) from error
            for place, plane, missing in zip(places, found.bands, found.absent, strict=True):
                stored[place], absent[place] = plane, missing
            if found.masked is not None:
                masked = found.masked if masked is None else masked | found.masked
        return RasterPart(np.stack([plane.astype(dtype, copy=False) for plane in stored]), masked, absent)


@contextlib.contextmanager
def opened_stack(stack: Stack, trust: Trust) -> Iterator[StackReader]:
    """Opens the members of a stack and brings them to one grid.

    Args:
        stack: The members, and how they are resampled.
        trust: Limits for files and for the sources of a VRT.

    Raises:
        DataError: When a member cannot be read, or cannot be aligned: it has no place, or lies elsewhere.
    """
    with contextlib.ExitStack() as opened:
        layers = [_open_layer(member, trust, opened) for member in stack.members]
        grid = _finest(stack, layers)
        aligned = tuple(_aligned(layer, grid, stack, opened) for layer in layers)
        reference = aligned[layers.index(grid)]
        bands = tuple((layer, band) for layer in aligned for band in layer.bands)
        yield StackReader(aligned, reference, bands)


def _open_layer(member: Member, trust: Trust, opened: contextlib.ExitStack) -> _Layer:
    """Opens a member on its own grid."""
    driver = raster_driver(member, trust) if isinstance(member, Path) else None
    name = readable_name(str(member))
    if isinstance(member, Path) and driver is None:
        # PNG and JPEG through GDAL, which reads parts; they are checked for completeness first, which GDAL does not.
        kind = image_kind(read_bytes(member, HEAD_BYTES), name)
        driver = "PNG" if kind == "PNG" else "JPEG"
        (check_png if kind == "PNG" else check_jpeg)(read_bytes(member), name)
        file = opened.enter_context(opened_raster(member, driver, name))
        beside = image_place(member, driver)
        place: RasterPlace = {"crs": beside.crs, "transform": beside.transform, "place_note": beside.note}
    else:
        source, driver = open_member(member, driver, trust)
        file = opened.enter_context(source)
        with reading(name, driver):
            place = raster_place(member if isinstance(member, Path) else None, file, driver)
    marks = marks_of(file)
    with reading(name, driver):
        require_small_blocks(name, file, str(np.result_type(*_real(file, name))), trust)
    alpha = next((band for band in file.indexes if marks[band - 1] == "alpha"), None) if file.count > 1 else None
    bands = tuple(band for band in file.indexes if band != alpha)
    return _Layer(member, driver, file, place, file, bands, alpha)


def _real(file: rasterio.DatasetReader, name: str) -> list[str]:
    """Returns the types of a raster's bands, bytes for complex ones, which are refused when they are read."""
    return [dtype if not dtype.startswith("complex") else "uint8" for dtype in file.dtypes]


def _finest(stack: Stack, layers: Sequence[_Layer]) -> _Layer:
    """Returns the member whose grid the stack has."""
    first = layers[0]
    with_place = [layer for layer in layers if layer.has_transform]
    if not with_place:
        if other := next((layer for layer in layers if layer.size != first.size), None):
            raise DataError(
                f"{other.member} is {other.size} pixels and {first.member} {first.size}; neither has a transform, by "
                "which they could be aligned. Georeference them, or bring them to one size."
            )
        return first
    if lost := next((layer for layer in layers if not layer.has_transform), None):
        raise DataError(
            f"{lost.member} has no transform, but {with_place[0].member} has one; bands of a stack are aligned by "
            "their places. Georeference it (or warp it, if it has control points), or leave it out."
        )
    if other := next(
        (layer for layer in layers if (layer.place.get("crs") is None) != (first.place.get("crs") is None)), None
    ):
        named, unnamed = (first, other) if other.place.get("crs") is None else (other, first)
        raise DataError(
            f"{unnamed.member} has no CRS, but {named.member} has one; bands of a stack are aligned by their places. "
            "Give it its CRS (gdal_edit.py -a_srs), or leave it out."
        )
    finest = first
    for layer in layers[1:]:
        if _pixel_area(layer) < _pixel_area(finest) * _FINER:
            finest = layer
    return finest


def _pixel_area(layer: _Layer) -> float:
    transform, crs = layer.place["transform"], layer.place.get("crs")
    sides = pixel_size(layer.size, transform, crs)
    if sides is None:
        return abs(transform.a * transform.e - transform.b * transform.d)
    return sides[0] * sides[1]


def _aligned(layer: _Layer, grid: _Layer, stack: Stack, opened: contextlib.ExitStack) -> _Layer:
    """Returns a member on the stack's grid."""
    if layer is grid or not layer.has_transform or _is_same_grid(layer, grid):
        return layer
    outline = _outline(layer, grid)
    height, width = grid.size
    apart = outline is not None and (
        (outline.max(axis=0) <= 0).any() or (outline.min(axis=0) >= np.array([width, height])).any()
    )
    if outline is None or apart:
        raise DataError(
            f"{layer.member} does not cover any of {grid.member}, whose grid the stack has. Name files of one place."
        )
    masked = any(flags != [MaskFlags.nodata] for flags in layer.file.mask_flag_enums)
    options: dict[str, Any] = {}
    if layer.alpha is None and masked:
        options["add_alpha"] = True  # tells where the member lies, and where its own mask is 0
    try:
        view = WarpedVRT(
            layer.file,
            src_crs=layer.place.get("crs") or _SOME_PLANE,
            src_transform=layer.place["transform"],
            crs=grid.place.get("crs") or _SOME_PLANE,
            transform=grid.place["transform"],
            width=width,
            height=height,
            resampling=Resampling[stack.resampling],
            tolerance=_TOLERANCE_PIXELS,
            **options,
        )
    except (*RASTER_ERRORS, ValueError) as error:
        raise _unreadable(layer.member, layer.driver, error) from error
    opened.enter_context(view)
    alpha = layer.file.count + 1 if options else layer.alpha
    shown = ColorInterp.alpha in view.colorinterp
    return _Layer(
        layer.member, layer.driver, layer.file, layer.place, view, layer.bands, alpha, None if shown else outline
    )


def _is_same_grid(layer: _Layer, grid: _Layer) -> bool:
    """Tells whether pixels of two rasters are the same pixels on the ground."""
    if layer.size != grid.size or layer.place.get("crs") != grid.place.get("crs"):
        return False
    height, width = grid.size
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)], np.float64)
    there = move(move(corners, layer.place["transform"]), ~grid.place["transform"])
    return bool(np.abs(there - corners).max() < _SAME_PIXELS)


def _outline(layer: _Layer, grid: _Layer) -> NDArray[np.float64] | None:
    """Returns the edge of a raster in pixels of another, `(n, 2)`; None if it has no place there."""
    height, width = layer.size
    along = np.linspace(0, 1, _EDGE_POINTS)[:-1]
    zero, one = np.zeros_like(along), np.ones_like(along)
    edge = np.concatenate([(along, zero), (one, along), (1 - along, one), (zero, 1 - along)], axis=1).T
    points = move(edge * (width, height), layer.place["transform"])
    crs, target = layer.place.get("crs"), grid.place.get("crs")
    if crs is not None and target is not None and crs != target:
        points = transformed(points, crs, target)
    points = points[np.isfinite(points).all(axis=1)]
    return move(points, ~grid.place["transform"]) if len(points) > 2 else None


def _unreadable(member: Member, driver: str, error: BaseException) -> DataError:
    """Returns the error for a member that cannot be read."""
    if isinstance(member, RemoteRaster):
        return unreachable(member, error)
    return damaged(readable_name(str(member)), driver, error)
