"""Scenes: images with their place on Earth, read by the bands that are the image and the pixels that are data.

Training, evaluation, checks, export and prediction all read images here, so that a file means the same to each.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, cast

import cv2
import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.rpc import RPC
from rasterio.transform import Affine

from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import DataError
from rsseg_tf.files import StrPath, readable_name
from rsseg_tf.rasters.bands import choose_bands
from rsseg_tf.rasters.gdal import (
    RASTER_ERRORS,
    TRUSTING_NOBODY,
    Trust,
    damaged,
    marks_of,
    pixel_type,
    reading,
    require_bytes,
    require_small_blocks,
)
from rsseg_tf.rasters.headers import ImageHeader, tiff_notes
from rsseg_tf.rasters.images import plain_header, read_decoded
from rsseg_tf.rasters.nodata import Pixels, SuspectValues, ValueRange, without_nodata
from rsseg_tf.rasters.opening import open_member, raster_driver
from rsseg_tf.rasters.part_reading import interleaved, read_part
from rsseg_tf.rasters.remote import network, unreachable
from rsseg_tf.rasters.sources import FileVariable, Member, RemoteRaster, Source, Stack, named_source
from rsseg_tf.rasters.stacks import StackReader, opened_stack
from rsseg_tf.rasters.windows import Size, Window
from rsseg_tf.rasters.world_files import ImagePlace, image_place, raster_place

__all__ = [
    "DOUBTFUL_ALPHA",
    "Pixels",
    "Scene",
    "SceneHeader",
    "open_scene",
    "raster_driver",
    "read_pixels",
    "scene_header",
]

# AREA_OR_POINT decides whether coordinates mean corners or centres of pixels; the date is the only other tag that
# stays true of a label map.
_COPIED_TAGS = ("AREA_OR_POINT", "TIFFTAG_DATETIME")
DOUBTFUL_ALPHA = "marked alpha and so taken for a mask, but its values vary as those of an image do"
"""What is said of a band that is `Scene.doubtful_alpha`."""
_LOOKED_AT = 512  # side of the part in the middle of a scene by which its alpha band is judged


class SceneHeader(NamedTuple):
    """Size, bands and type of an image, without its pixels.

    Attributes:
        read: Size, bands and type as `read_pixels` gives them.
        notes: Notes for the user about how it is read, phrases that follow its name.
        may_lack_data: Whether the file declares a nodata value, a mask or an alpha band.
    """

    read: ImageHeader
    notes: tuple[str, ...]
    may_lack_data: bool


@dataclass(frozen=True, eq=False)
class Scene:
    """An image with its place; pixels are read on demand.

    Attributes:
        path: The file, or another source (see `sources`).
        size: Height and width in pixels.
        dtype: Type of the pixels as stored.
        bands: The bands that are read, counted from 1 as GDAL counts them.
        has_alpha: Whether a band marked alpha is a mask, and no band of the image.
        is_raster: Whether it is anything but a PNG or JPEG, georeferenced or not.
        descriptions: Names of `bands`, "" where the file has none.
        crs: Coordinate reference system, or None.
        transform: From (column, row) to coordinates of the CRS; the identity where there is none.
        gcps: Ground control points, instead of a transform.
        gcps_crs: Their coordinate reference system.
        rpcs: Rational polynomial coefficients, or None.
        tags: Metadata that also hold for a label map of the scene.
        acquired: When the image was taken, in the file's own spelling; else when the file says it was made, or None.
        place_note: The description of the place that could not be used, and the reason, in one line; else None.
    """

    path: Source
    size: Size
    dtype: np.dtype
    bands: tuple[int, ...]
    has_alpha: bool = False
    is_raster: bool = False
    descriptions: tuple[str, ...] = ()
    crs: CRS | None = None
    transform: Affine = field(default_factory=Affine.identity)
    gcps: tuple[GroundControlPoint, ...] = ()
    gcps_crs: CRS | None = None
    rpcs: RPC | None = None
    tags: dict[str, str] = field(default_factory=dict)
    acquired: str | None = None
    place_note: str | None = None
    _source: rasterio.DatasetReader | StackReader | NDArray | None = field(default=None, repr=False)
    _driver: str = "GTiff"
    _alpha: int | None = None
    _range: ValueRange | None = None
    _notes: tuple[str, ...] = ()
    _suspects: SuspectValues = field(default_factory=SuspectValues, repr=False)

    @property
    def is_georeferenced(self) -> bool:
        """Whether the scene's place is known."""
        return self.crs is not None or self.transform != Affine.identity() or bool(self.gcps) or self.rpcs is not None

    @property
    def may_lack_data(self) -> bool:
        """Whether the file declares a nodata value, a mask or an alpha band."""
        if self._alpha is not None or not isinstance(self._source, rasterio.DatasetReader | StackReader):
            return self._alpha is not None
        flags = self._source.mask_flag_enums
        return any(flags[band - 1] != [MaskFlags.all_valid] for band in self.bands)

    @property
    def doubtful_alpha(self) -> int | None:
        """The band that is taken for a mask because it is marked alpha, but varies as an image does; else None.

        Writers mark the fourth of four bands alpha by default, near infrared as well. A mask is empty or full nearly
        everywhere. Judged by the middle of the scene.
        """
        if self._alpha is None or not isinstance(self._source, rasterio.DatasetReader):
            return None
        y0, x0 = (max(0, (length - _LOOKED_AT) // 2) for length in self.size)
        y1, x1 = min(y0 + _LOOKED_AT, self.size.height), min(x0 + _LOOKED_AT, self.size.width)
        with self._reading():
            values = self._source.read(self._alpha, window=((y0, y1), (x0, x1)))
        between = float(((values > values.min()) & (values < values.max())).mean())
        return self._alpha if between > 0.5 else None

    @property
    def nodata_values(self) -> tuple[float | None, ...]:
        """The value of each band that the file declares to stand for no data, None where it declares none."""
        if not isinstance(self._source, rasterio.DatasetReader | StackReader):
            return (None,) * len(self.bands)
        return tuple(self._source.nodatavals[band - 1] for band in self.bands)

    @property
    def dated_crs(self) -> str | None:
        """The CRS as GDAL's XML element, if its coordinates hold for an epoch (a year, with a fraction); else None."""
        if self.crs is None or not isinstance(self._source, rasterio.DatasetReader | StackReader):
            return None
        grid = self._source.grid if isinstance(self._source, StackReader) else None
        placed, driver = (self.path, self._driver) if grid is None else (grid.member, grid.driver)
        # rasterio knows no epochs, but GDAL writes them into a description of the file. It is opened once more, because
        # another thread may be reading from this handle, and GDAL's handles are not safe to share.
        description = f"/vsimem/{uuid.uuid4()}.vrt"
        try:
            # Trusted, because it was looked at when it was opened first.
            with open_member(cast("Member", placed), driver, Trust(vrt_sources=True)).source as own:
                rasterio.shutil.copy(own, description, driver="VRT")
                with rasterio.open(description, driver="VRT") as source:
                    text = " ".join(source.tags(ns="xml:VRT").values())
                rasterio.shutil.delete(description, driver="VRT")
        except (DataError, *RASTER_ERRORS):
            return None
        # As text: the element goes into another XML file of GDAL's unchanged.
        found = re.search(r'<SRS[^>]*\scoordinateEpoch="[0-9.]+".*?</SRS>', text, re.DOTALL)
        return None if found is None else found[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the file is read, and on suspicious values of the parts that were read so far."""
        return (*self._notes, *self._suspects.notes(self._expected))

    @property
    def _expected(self) -> ValueRange:
        return self._range or ValueRange.of(None, self.dtype, len(self.bands))

    def read(self, window: Window | None = None, size: Size | None = None) -> tuple[NDArray, NDArray[np.bool_] | None]:
        """Reads pixels and where there are none.

        A pixel is no data

        - if its alpha band or mask is 0;
        - if all its bands hold a value that stands for no data: the declared one, or one that can be nothing else, such
          as -9999 among reflectances (see `ValueRange.sentinel`);
        - if one of its bands is not finite.

        Values that are not finite, and those that stand for no data and lie outside of the band's range, are replaced
        (see `ValueRange.of`). They would otherwise spill over into their neighbours through the network's field of
        view. A declared nodata value within the range, such as 0 or 255 of bytes, stays where other bands hold data: it
        may be a white roof. Pixels under an alpha band or a mask stay as stored.

        Args:
            window: The part to read, within the scene; all of it by default.
            size: Size to which the part is reduced, for a preview.

        Returns:
            `(H, W, bands)` in the file's dtype, and `(H, W)` bool, True where there is no data; None for the latter
            where all pixels are data.

        Raises:
            DataError: When the file is damaged.
        """
        pixels = self.look(window, size)
        return pixels.values, pixels.nodata

    def stored(self, window: Window | None = None) -> tuple[NDArray, NDArray[np.bool_] | None]:
        """As `read`, with all values as they are stored, those that stand for no data too."""
        values, masked, absent = self._part(window or Window(0, 0, *self.size), None)
        return values, without_nodata(values.copy(), masked, absent, self._expected).nodata

    def look(self, window: Window | None = None, size: Size | None = None) -> Pixels:
        """As `read`, with counts and notes on the values."""
        stored, masked, absent = self._part(window or Window(0, 0, *self.size), size)
        pixels = without_nodata(stored, masked, absent, self._expected)
        if size is None:  # a preview holds averages, which are no values of the file
            self._suspects.add(pixels)
        return pixels

    def _part(
        self, part: Window, size: Size | None
    ) -> tuple[NDArray, NDArray[np.bool_] | None, list[NDArray[np.bool_] | None]]:
        """Returns the pixels of a part as stored, those masked for all bands, and those that each band declares."""
        if isinstance(self._source, np.ndarray):
            return *_part_of_array(self._source, part, self.bands, self._alpha, size), [None] * len(self.bands)
        if isinstance(self._source, StackReader):
            found = self._source.read_part(part, self.bands, self.dtype, size)
        else:
            with self._reading():
                found = read_part(self._source, part, self.bands, alpha=self._alpha, dtype=self.dtype, size=size)
        return interleaved(found.bands), found.masked, found.absent

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Turns the errors of reading into `DataError`."""
        remote = isinstance(self.path, RemoteRaster)
        try:
            with network() if remote else contextlib.nullcontext():
                yield
        except RASTER_ERRORS as error:
            if isinstance(self.path, RemoteRaster):
                raise unreachable(self.path, error) from error
            raise damaged(readable_name(str(self.path)), self._driver, error) from error


@contextlib.contextmanager
def open_scene(
    path: StrPath | Source,
    bands: Sequence[int] | None = None,
    spec: DatasetSpec | None = None,
    *,
    max_value: float | None = None,
    trust: Trust = TRUSTING_NOBODY,
    repeat_grey: bool = False,
    placed: bool = True,
) -> Iterator[Scene]:
    """Opens a raster: a file, a variable of a file, an address, or a stack of these.

    See `choose_bands` for the bands that are the image. PNG and JPEG files are decoded at once; their place is read
    from files beside them, see `image_place`. All other formats are read by GDAL part by part.

    Args:
        path: The source, or a text that names it (see `rsseg_tf.rasters.sources.named_source`); the first bytes of a
            file decide its kind.
        bands: The bands to read and their order, from 1.
        spec: The dataset that the image is read for; by default all bands that are not alpha are read.
        max_value: Value of the file that stands for the spec's `max_value`, where it is another.
        trust: Limits for files and for the sources of a VRT.
        repeat_grey: Read the one band of a grey image three times where the spec has three bands.
        placed: Whether to find out where the image lies.

    Raises:
        DataError: When the file is missing, damaged, of another kind, too large, of complex numbers, or lacks bands;
            when a server cannot be reached; when a stack cannot be aligned.
    """
    wanted = _Wanted(bands, spec, max_value, repeat_grey)
    if not isinstance(path, Path | FileVariable | RemoteRaster | Stack):
        path = named_source(path)
    if isinstance(path, Stack):
        with opened_stack(path, trust) as stack:
            scene = _describe(path, stack, stack.grid.driver, wanted)
            yield replace(scene, _notes=(*scene._notes, *stack.notes()), **(stack.grid.place if placed else {}))
        return
    driver = raster_driver(path, trust) if isinstance(path, Path) else None
    if isinstance(path, Path) and driver is None:
        yield _decoded_scene(path, wanted, trust, placed=placed)
        return
    opened = open_member(path, driver, trust)
    with opened.source as source:
        name = readable_name(str(path))
        with reading(name, opened.driver):
            scene = _describe(path, source, opened.driver, wanted)
            if placed:
                file = path if isinstance(path, Path) else None
                scene = replace(scene, **raster_place(file, source, opened.driver))
            require_small_blocks(name, source, str(scene.dtype), trust)
        yield scene  # outside of `reading`: errors of the caller's block are the caller's


class _Wanted(NamedTuple):
    """What a scene is opened for; see `open_scene`."""

    bands: Sequence[int] | None
    spec: DatasetSpec | None
    max_value: float | None
    repeat_grey: bool


def _decoded_scene(path: Path, wanted: _Wanted, trust: Trust, *, placed: bool) -> Scene:
    """Decodes a PNG or JPEG."""
    name, spec = readable_name(path), wanted.spec
    stored, header, notes = read_decoded(path, trust)
    chosen = choose_bands(name, header.marks, ("",) * len(header.marks), wanted.bands, spec, wanted.repeat_grey)
    place = image_place(path, "JPEG" if header.is_jpeg else "PNG") if placed else ImagePlace()
    return Scene(
        path,
        Size(*stored.shape[:2]),
        stored.dtype,
        chosen.bands,
        chosen.alpha is not None,
        crs=place.crs,
        transform=place.transform,
        place_note=place.note,
        _source=stored,
        _alpha=chosen.alpha,
        _range=ValueRange.of(spec, stored.dtype, len(chosen.bands), wanted.max_value),
        _notes=(*chosen.notes, *notes),
    )


def read_pixels(
    path: Source, spec: DatasetSpec | None = None, *, trust: Trust = TRUSTING_NOBODY, repeat_grey: bool = False
) -> Pixels:
    """Reads a whole image by the rules of `open_scene` and `Scene.read`.

    Args:
        path: The source, see `open_scene`.
        spec: The dataset that it is read for.
        trust: Limits for files and for the sources of a VRT.
        repeat_grey: As in `open_scene`.

    Raises:
        DataError: As `open_scene`; when it is too large.
    """
    with open_scene(path, None, spec, trust=trust, repeat_grey=repeat_grey, placed=False) as scene:
        _require_whole(scene, trust)
        pixels = scene.look()
        return replace(pixels, notes=scene.notes[: len(scene._notes)], value_notes=scene._suspects.sentinel_notes())


def scene_header(
    path: Source, spec: DatasetSpec | None = None, *, trust: Trust = TRUSTING_NOBODY, repeat_grey: bool = False
) -> SceneHeader:
    """Returns size, bands and type of an image as `read_pixels` would give it, and notes, without decoding pixels.

    Raises:
        DataError: As `read_pixels`, for what the header shows.
    """
    if isinstance(path, Path) and raster_driver(path, trust) is None:
        name, (header, notes) = readable_name(path), plain_header(path)
        # Of all bands in the file, since a PNG or JPEG is decoded before bands are chosen.
        require_bytes(name, (header.height, header.width, header.bands), header.dtype, trust)
        chosen = choose_bands(name, header.marks, ("",) * len(header.marks), None, spec, repeat_grey)
        read = ImageHeader(header.height, header.width, len(chosen.bands), header.dtype)
        return SceneHeader(read, (*chosen.notes, *notes), chosen.alpha is not None)
    with open_scene(path, None, spec, trust=trust, repeat_grey=repeat_grey, placed=False) as scene:
        _require_whole(scene, trust)
        read = ImageHeader(*scene.size, len(scene.bands), str(scene.dtype))
        return SceneHeader(read, scene.notes, scene.may_lack_data)


def _require_whole(scene: Scene, trust: Trust) -> None:
    """Raises `DataError` when a scene is too large to be read as a whole."""
    shape = (*scene.size, len(scene.bands))
    require_bytes(readable_name(str(scene.path)), shape, str(scene.dtype), trust)


def _describe(path: Source, source: rasterio.DatasetReader | StackReader, driver: str, wanted: _Wanted) -> Scene:
    """Returns an open raster as a scene."""
    name = readable_name(str(path))
    descriptions = tuple(text or "" for text in source.descriptions)
    # Subdatasets of a TIFF are its pages; GDAL opens the first one.
    marks = source.marks if isinstance(source, StackReader) else marks_of(source)
    pages = len(source.subdatasets) if driver == "GTiff" else 0
    notes = [f"has {pages} pages; the first is read"] if pages > 1 else []
    spec = wanted.spec
    try:
        chosen = choose_bands(name, marks, descriptions, wanted.bands, spec, wanted.repeat_grey)
    except DataError as error:
        raise (type(error)(f"{error} It {notes[0]}.", code=error.code) if notes else error) from error
    dtype = pixel_type(source, chosen.bands, name)
    if driver not in ("GTiff", "VRT") and not isinstance(source, StackReader) and set(source.scales) != {1.0}:
        notes.append(f"is read as stored: its scale of {source.scales[0]:g} is not applied")
    notes += [*chosen.notes, *(tiff_notes(path) if isinstance(path, Path) and path.is_file() else ())]
    tags = source.tags()
    return Scene(
        path=path,
        size=Size(*source.shape),
        dtype=dtype,
        bands=chosen.bands,
        has_alpha=chosen.alpha is not None,
        is_raster=True,
        descriptions=tuple(descriptions[band - 1] for band in chosen.bands),
        tags={key: tags[key] for key in _COPIED_TAGS if key in tags},
        acquired=source.tags(ns="IMAGERY").get("ACQUISITIONDATETIME") or tags.get("TIFFTAG_DATETIME"),
        _source=source,
        _driver=driver,
        _alpha=chosen.alpha,
        _range=ValueRange.of(spec, dtype, len(chosen.bands), wanted.max_value),
        _notes=tuple(notes),
    )


# === Pixels ===


def _part_of_array(
    array: NDArray, part: Window, bands: Sequence[int], alpha: int | None, size: Size | None
) -> tuple[NDArray, NDArray[np.bool_] | None]:
    """Cuts a part out of `(H, W, bands)`."""
    cut = array[part.y0 : part.y1, part.x0 : part.x1]
    masked = None if alpha is None else cut[:, :, alpha - 1] == 0
    in_order = tuple(bands) == tuple(range(1, array.shape[2] + 1))
    pixels = np.ascontiguousarray(cut if in_order else cut[:, :, [band - 1 for band in bands]])
    if size is None or size == pixels.shape[:2]:
        return pixels, masked
    reduced = cv2.resize(pixels, size.width_height, interpolation=cv2.INTER_AREA).reshape(*size, len(bands))
    if masked is not None:  # nearest, because a mask has no values between
        masked = cv2.resize(masked.astype(np.uint8), size.width_height, interpolation=cv2.INTER_NEAREST).astype(bool)
    return reduced, masked
