"""Images and scenes: which bands of a file are the image, which pixels are data, and where they lie on Earth.

Training, evaluation, checks, export and prediction all read images here, so that a file means the same to each.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import MaskFlags, Resampling
from rasterio.rpc import RPC
from rasterio.transform import Affine

from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import DataError, reason
from rsseg_tf.files import readable_name
from rsseg_tf.rasters.gdal import (
    HEAD_BYTES,
    RASTER_ERRORS,
    TRUSTING_NOBODY,
    Trust,
    damaged,
    is_vrt,
    marks_of,
    open_raster,
    opened_raster,
    pixel_type,
    reading,
    require_bytes,
    require_small_blocks,
)
from rsseg_tf.rasters.headers import ImageHeader, tiff_notes
from rsseg_tf.rasters.images import plain_header, read_decoded
from rsseg_tf.rasters.ranges import ValueRange
from rsseg_tf.rasters.vrt import require_near_sources, require_plain_sides
from rsseg_tf.rasters.windows import Window
from rsseg_tf.rasters.world_files import ImagePlace, image_place

__all__ = ["Pixels", "Scene", "SceneHeader", "open_scene", "raster_driver", "read_pixels", "scene_header"]

# AREA_OR_POINT decides whether coordinates mean corners or centres of pixels; the date is the only other tag that
# stays true of a label map.
_COPIED_TAGS = ("AREA_OR_POINT", "TIFFTAG_DATETIME")
_COLOURS = ("red", "green", "blue")


@dataclass(frozen=True, eq=False)
class Pixels:
    """What was read of an image.

    Attributes:
        values: `(H, W, bands)` in the file's type. Values that stand for no data are replaced, see `Scene.read`.
        nodata: `(H, W)`, True where a pixel is no data; None where all are.
        replaced: `(H, W, bands)`, True where a value was replaced; None where none was.
        broken: How many values were not finite.
        declared: How many values were the declared nodata value, or masked in one band.
        sentinels: Values that stand for no data although nothing declares them, and how often each occurs.
        lowest: Smallest value that is left, where types have values below 0; 0 otherwise.
        notes: What a user should know of how the file was read, each a phrase that follows the file's name.
        value_notes: The same of its values.
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


class SceneHeader(NamedTuple):
    """What a look at an image without its pixels tells.

    Attributes:
        read: Size, bands and type as they will be read.
        notes: What a user should know of how it is read.
        may_lack_data: Whether the file declares a nodata value, a mask or an alpha band.
    """

    read: ImageHeader
    notes: tuple[str, ...]
    may_lack_data: bool


@dataclass
class _Met:
    """What reading a scene has met so far."""

    sentinels: Counter[float] = field(default_factory=Counter)
    lowest: float = 0.0


@dataclass(frozen=True, eq=False)
class Scene:
    """An image with its place; pixels are read on demand.

    Attributes:
        path: the file.
        size: (height, width) in pixels.
        dtype: type of the pixels as stored.
        bands: the bands that are read, counted from 1 as GDAL counts them.
        has_alpha: whether a band marked alpha is a mask, and no band of the image.
        is_raster: whether the file is a TIFF or VRT, georeferenced or not.
        descriptions: names of `bands`, "" where the file has none.
        crs: coordinate reference system, or None.
        transform: from (column, row) to coordinates of the CRS; the identity where there is none.
        gcps: ground control points, instead of a transform.
        gcps_crs: their coordinate reference system.
        rpcs: rational polynomial coefficients, or None.
        tags: metadata that also hold for a label map of the scene.
        place_note: what should say where the scene lies and could not be used, in one line; None if there is nothing.
    """

    path: Path
    size: tuple[int, int]
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
    place_note: str | None = None
    _source: rasterio.DatasetReader | NDArray | None = field(default=None, repr=False)
    _driver: str = "GTiff"
    _alpha: int | None = None
    _range: ValueRange | None = None
    _notes: tuple[str, ...] = ()
    _met: _Met = field(default_factory=_Met, repr=False)

    @property
    def is_georeferenced(self) -> bool:
        """Whether anything says where the scene lies."""
        return self.crs is not None or self.transform != Affine.identity() or bool(self.gcps) or self.rpcs is not None

    @property
    def may_lack_data(self) -> bool:
        """Whether the file declares a nodata value, a mask or an alpha band."""
        if self._alpha is not None or not isinstance(self._source, rasterio.DatasetReader):
            return self._alpha is not None
        flags = [self._source.mask_flag_enums[band - 1] for band in self.bands]
        return any(found != [MaskFlags.all_valid] for found in flags)

    @property
    def dated_crs(self) -> str | None:
        """The CRS as GDAL's XML element, if its coordinates hold for an epoch (a year, with a fraction); else None."""
        if self.crs is None or not isinstance(self._source, rasterio.DatasetReader):
            return None
        # rasterio knows no epochs, but GDAL writes them into a description of the file. It is opened once more, because
        # another thread may be reading from this handle, and GDAL's handles are not safe to share.
        description = f"/vsimem/{uuid.uuid4()}.vrt"
        try:
            with open_raster(self.path, self._driver) as own:
                rasterio.shutil.copy(own, description, driver="VRT")
                with rasterio.open(description, driver="VRT") as source:
                    text = " ".join(source.tags(ns="xml:VRT").values())
                rasterio.shutil.delete(description, driver="VRT")
        except DataError:
            return None
        found = re.search(r'<SRS[^>]*\scoordinateEpoch="[0-9.]+".*?</SRS>', text, re.DOTALL)
        return None if found is None else found[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the file is read; of its values, what was met so far."""
        return (*self._notes, *_value_notes(self._met, self._expected))

    @property
    def _expected(self) -> ValueRange:
        return self._range or ValueRange.of(None, self.dtype, len(self.bands))

    def read(
        self, window: Window | None = None, size: tuple[int, int] | None = None
    ) -> tuple[NDArray, NDArray[np.bool_] | None]:
        """Reads pixels and where there are none.

        No data is a pixel

        - whose alpha band or mask is 0;
        - all of whose bands hold a value that stands for no data: the declared one, or one that can be nothing else,
          such as -9999 among bytes (see `ValueRange.sentinel`);
        - one of whose bands is not finite.

        Values that are not finite, and those that stand for no data and lie outside of the band's range, are replaced
        (see `ValueRange.of`), because they would otherwise spill over into their neighbours through the network's field
        of view. A declared nodata value within the range, such as 0 or 255 of bytes, stays where other bands hold data:
        it may be a white roof. Pixels under an alpha band or a mask stay as stored.

        Args:
            window: the part to read, within the scene; all of it by default.
            size: (height, width) to reduce the part to, for a preview.

        Returns:
            `(H, W, bands)` in the file's dtype, and `(H, W)` bool, True where there is no data; None for the latter
            where all pixels are data.

        Raises:
            DataError: when the file is damaged.
        """
        pixels = self.look(window, size)
        return pixels.values, pixels.nodata

    def look(self, window: Window | None = None, size: tuple[int, int] | None = None) -> Pixels:
        """As `read`, with what was found."""
        part = window or Window(0, 0, *self.size)
        if isinstance(self._source, np.ndarray):
            stored, masked = _part_of_array(self._source, part, self.bands, self._alpha, size)
            absent: list[NDArray[np.bool_] | None] = [None] * len(self.bands)
        else:
            try:
                stored, masked, absent = _part_of_raster(self._source, part, self, size)
            except RASTER_ERRORS as error:
                raise damaged(readable_name(self.path), self._driver, error) from error
        pixels = _only_data(stored, masked, absent, self._expected)
        if size is None:
            self._met.sentinels.update(dict(pixels.sentinels))
            self._met.lowest = min(self._met.lowest, pixels.lowest)
        return pixels


@contextlib.contextmanager
def open_scene(
    path: Path,
    bands: Sequence[int] | None = None,
    spec: DatasetSpec | None = None,
    *,
    max_value: float | None = None,
    trust: Trust = TRUSTING_NOBODY,
    max_block: int | None = None,
    repeat_grey: bool = False,
    placed: bool = True,
) -> Iterator[Scene]:
    """Opens a PNG, JPEG, TIFF or VRT file.

    The bands of the image are, in this order: those asked for; those described as the spec's bands are called; those
    marked as they are called (red, green, blue, nir); all that are not marked alpha, if that is as many as the spec
    has; or else all. An alpha band that is not among them is a mask. PNG and JPEG files are decoded at once; where they
    lie is told by files beside them, see `image_place`.

    Args:
        path: the file; its kind is told by its first bytes.
        bands: the bands to read and their order, from 1.
        spec: the dataset that the image is read for; by default all bands that are not alpha are read.
        max_value: value of the file that stands for the spec's `max_value`, where it is another.
        trust: how large a PNG or JPEG may be, and what a VRT may name.
        max_block: bytes that a block of a TIFF, which is decoded at once, may take; as many as an image if None.
        repeat_grey: read the one band of a grey image three times where the spec has three bands.
        placed: whether to find out where the image lies.

    Raises:
        DataError: when the file is missing, damaged, of another kind, too large, of complex numbers, or lacks bands.
    """
    driver = raster_driver(path)
    name = readable_name(path)
    if driver is None:
        stored, header, notes = read_decoded(path, trust)
        chosen = _choose(name, header.marks, ("",) * len(header.marks), bands, spec, repeat_grey)
        place = image_place(path, "JPEG" if header.is_jpeg else "PNG") if placed else ImagePlace()
        yield Scene(
            path,
            (stored.shape[0], stored.shape[1]),
            stored.dtype,
            chosen.bands,
            chosen.alpha is not None,
            crs=place.crs,
            transform=place.transform,
            place_note=place.note,
            _source=stored,
            _alpha=chosen.alpha,
            _range=ValueRange.of(spec, stored.dtype, len(chosen.bands), max_value),
            _notes=(*chosen.notes, *notes),
        )
        return
    if not trust.vrt_sources:
        require_plain_sides(path)
        if driver == "VRT":
            require_near_sources(path)
    with opened_raster(path, driver) as source:
        with reading(name, driver):
            scene = _describe(path, source, driver, bands, spec, max_value, repeat_grey)
            if placed:
                scene = replace(scene, **_place_of(path, source, driver))
            limit = trust.max_bytes if max_block is None else max_block
            require_small_blocks(name, source, str(scene.dtype), replace(trust, max_bytes=limit))
        yield scene


def read_pixels(
    path: Path, spec: DatasetSpec | None = None, *, trust: Trust = TRUSTING_NOBODY, repeat_grey: bool = False
) -> Pixels:
    """Reads a whole image as `open_scene` and `Scene.read` say.

    Args:
        path: A PNG, JPEG, TIFF or VRT file.
        spec: The dataset that it is read for.
        trust: How large it may be, and what a VRT may name.
        repeat_grey: As in `open_scene`.

    Raises:
        DataError: As `open_scene`; when it is too large.
    """
    with open_scene(path, None, spec, trust=trust, repeat_grey=repeat_grey, placed=False) as scene:
        _require_whole(scene, trust)
        pixels = scene.look()
        return replace(pixels, notes=scene.notes[: len(scene._notes)], value_notes=_sentinel_notes(scene._met))


def scene_header(
    path: Path, spec: DatasetSpec | None = None, *, trust: Trust = TRUSTING_NOBODY, repeat_grey: bool = False
) -> SceneHeader:
    """Returns size, bands and type of an image as `read_pixels` would give it, and notes, without decoding pixels.

    Raises:
        DataError: As `read_pixels`, as far as a look at the header can tell.
    """
    if raster_driver(path) is None:
        header, notes = plain_header(path)
        shape = header.height, header.width, header.bands
        require_bytes(readable_name(path), shape, header.dtype, trust)
        chosen = _choose(readable_name(path), header.marks, ("",) * len(header.marks), None, spec, repeat_grey)
        read = ImageHeader(header.height, header.width, len(chosen.bands), header.dtype)
        return SceneHeader(read, (*chosen.notes, *notes), chosen.alpha is not None)
    with open_scene(path, None, spec, trust=trust, repeat_grey=repeat_grey, placed=False) as scene:
        _require_whole(scene, trust)
        read = ImageHeader(*scene.size, len(scene.bands), str(scene.dtype))
        return SceneHeader(read, scene.notes, scene.may_lack_data)


def raster_driver(path: Path) -> str | None:
    """Returns the GDAL driver for a TIFF, told by its byte-order mark, or a VRT, by its first tag; None for others."""
    try:
        with path.open("rb") as handle:
            head = handle.read(HEAD_BYTES)
    except OSError:
        return None
    if head[:2] in (b"II", b"MM"):
        return "GTiff"
    return "VRT" if is_vrt(head) else None


def _require_whole(scene: Scene, trust: Trust) -> None:
    """Raises `DataError` when a scene is too large to be read as a whole."""
    shape = (*scene.size, len(scene.bands))
    require_bytes(readable_name(scene.path), shape, str(scene.dtype), trust)


def _describe(
    path: Path,
    source: rasterio.DatasetReader,
    driver: str,
    bands: Sequence[int] | None,
    spec: DatasetSpec | None,
    max_value: float | None,
    repeat_grey: bool,
) -> Scene:
    """Returns an open raster as a scene."""
    name = readable_name(path)
    descriptions = tuple(text or "" for text in source.descriptions)
    marks, pages = marks_of(source), len(source.subdatasets)
    notes = [f"has {pages} pages; the first is read"] if pages > 1 else []
    try:
        chosen = _choose(name, marks, descriptions, bands, spec, repeat_grey)
    except DataError as error:
        raise (DataError(f"{error} It {notes[0]}.") if notes else error) from error
    dtype = pixel_type(source, chosen.bands, name)
    notes += [*chosen.notes, *tiff_notes(path)]
    tags = source.tags()
    return Scene(
        path=path,
        size=source.shape,
        dtype=dtype,
        bands=chosen.bands,
        has_alpha=chosen.alpha is not None,
        is_raster=True,
        descriptions=tuple(descriptions[band - 1] for band in chosen.bands),
        tags={key: tags[key] for key in _COPIED_TAGS if key in tags},
        _source=source,
        _driver=driver,
        _alpha=chosen.alpha,
        _range=ValueRange.of(spec, dtype, len(chosen.bands), max_value),
        _notes=tuple(notes),
    )


def _place_of(path: Path, source: rasterio.DatasetReader, driver: str) -> dict[str, Any]:
    """Returns the fields of a scene that say where a raster lies.

    What cannot be understood is left out and noted, since the pixels are sound without it.
    """
    try:
        crs, transform, (gcps, gcps_crs), rpcs = source.crs, source.transform, source.gcps, source.rpcs
    except (*RASTER_ERRORS, ValueError, LookupError) as error:
        return {"place_note": f"its place on Earth cannot be read ({reason(error)}), so results have none"}
    note = None
    if crs is None and not gcps and driver == "GTiff":
        beside = image_place(path, driver)
        crs, transform = beside.crs, beside.transform if transform == Affine.identity() else transform
        note = beside.note
    return {
        "crs": crs,
        "transform": transform,
        "gcps": tuple(gcps),
        "gcps_crs": gcps_crs,
        "rpcs": rpcs,
        "place_note": note,
    }


# --- bands ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Choice:
    """The bands that are the image, the one that is its mask (all from 1), and what to say about them."""

    bands: tuple[int, ...]
    alpha: int | None
    notes: tuple[str, ...] = ()


def _choose(
    name: str,
    marks: Sequence[str],
    descriptions: Sequence[str],
    bands: Sequence[int] | None,
    spec: DatasetSpec | None,
    repeat_grey: bool = False,
) -> _Choice:
    """Chooses the bands of a file, as `open_scene` says.

    Args:
        name: what to call the file.
        marks: how it marks its bands.
        descriptions: what it calls them, "" for nothing.
        bands: what the user asked for.
        spec: the dataset that the image is read for.
        repeat_grey: read the one band of a grey image three times where the spec has three.

    Raises:
        DataError: when a band is missing, or their number is not the spec's.
    """
    count = len(marks)
    alpha = [band for band in range(1, count + 1) if marks[band - 1] == "alpha"]
    data = [band for band in range(1, count + 1) if band not in alpha]
    if bands is not None:
        missing = [band for band in bands if band > count]
        if missing:
            raise DataError(
                f"{name} has no band {missing[0]} to read; its bands are {_listed(range(1, count + 1))}. "
                "Choose among them."
            )
        return _with_mask(bands, alpha)
    if not data and (spec is None or spec.bands != count):
        raise DataError(f"{name} has {count} band, an alpha band; at least one band of data is needed.")
    if spec is None:
        return _with_mask(data, alpha)
    if spec.band_names and (named := _called(spec.band_names, descriptions)):
        return _with_mask(named, alpha)
    if list(marks) == ["gray", "gray", "gray", "alpha"] and spec.bands < 3:  # grey with alpha, as it is decoded
        return _with_mask(
            (1, 4)[: spec.bands], alpha, ("has an alpha band, which is taken as data",) * (spec.bands == 2)
        )
    by_marks, notes = _by_marks(marks, data, spec)
    if by_marks:
        return _with_mask(by_marks, alpha, notes)
    if len(data) == spec.bands:
        return _with_mask(data, alpha, notes)
    if repeat_grey and (len(data), spec.bands) == (1, 3) and "palette" not in marks:
        return _with_mask((data[0],) * 3, alpha, notes)
    if count == spec.bands:
        shown = f"band {_listed(alpha)} is marked alpha and taken as data, because {spec.bands} bands are needed"
        return _with_mask(range(1, count + 1), alpha, (*notes, shown))
    raise DataError(_wrong_count(name, marks, len(data), spec))


def _with_mask(bands: Sequence[int], alpha: Sequence[int], notes: Sequence[str] = ()) -> _Choice:
    """Makes the first alpha band that is not read as data the mask."""
    masks = [band for band in alpha if band not in bands]
    return _Choice(tuple(bands), masks[0] if masks else None, tuple(notes))


def _called(names: Sequence[str], found: Sequence[str]) -> tuple[int, ...]:
    """Returns the bands with some names, whatever their capitals; none unless each name occurs, and once."""
    places = [[band for band, text in enumerate(found, 1) if text.casefold() == name.casefold()] for name in names]
    return tuple(place[0] for place in places) if all(len(place) == 1 for place in places) else ()


def _by_marks(marks: Sequence[str], data: Sequence[int], spec: DatasetSpec) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Returns the bands that are marked as the spec's are called, or none; and a note where marks say another order.

    Red, green, blue in the first three bands is what writers mark without being asked, whatever the bands hold, so that
    it changes no order.
    """
    colours = [mark for mark in marks if mark not in ("alpha", "undefined", "gray", "palette")]
    by_default = tuple(marks[:3]) == _COLOURS
    found = _called(spec.band_names, marks) if spec.band_names else ()
    stored = tuple(data[: spec.bands])
    if found and (found == stored or not by_default):
        moved = f"bands {_listed(found)} are read, marked {', '.join(spec.band_names)}" if found != tuple(data) else ""
        return found, (moved,) if moved else ()
    if not colours or (by_default and not found):
        return (), ()
    wanted = ", ".join(spec.band_names) if spec.band_names else "not known by name (dataset.band_names)"
    if len(data) == spec.bands and (found or not by_default):
        marked = ", ".join(marks[band - 1] for band in data)
        return (), (f"its bands are marked {marked}, those of '{spec.name}' are {wanted}: taken in the file's order",)
    return (), ()


def _wrong_count(name: str, marks: Sequence[str], data: int, spec: DatasetSpec) -> str:
    """Returns the message for a file with another number of bands than the spec."""
    plural = "s" if data != 1 else ""
    beside = " beside its alpha band, which is a mask" if data < len(marks) else ""
    if "palette" in marks:
        beside += ", which holds indices into a colour table (palette)"
        remedy = "Expand it to colours first (gdal_translate -expand rgb)."
    else:
        remedy = (
            "Set dataset.bands (name: custom), or write images with those bands alone; predict chooses with --bands."
        )
    return f"{name} has {data} band{plural}{beside}, but the dataset '{spec.name}' has {spec.bands}. {remedy}"


def _listed(bands: Sequence[int]) -> str:
    return ", ".join(map(str, bands))


# --- pixels -----------------------------------------------------------------------------------------------------------


def _part_of_array(
    array: NDArray, part: Window, bands: Sequence[int], alpha: int | None, size: tuple[int, int] | None
) -> tuple[NDArray, NDArray[np.bool_] | None]:
    """Cuts a part out of `(H, W, bands)`."""
    cut = array[part.y0 : part.y1, part.x0 : part.x1]
    masked = None if alpha is None else cut[:, :, alpha - 1] == 0
    in_order = tuple(bands) == tuple(range(1, array.shape[2] + 1))
    pixels = np.ascontiguousarray(cut if in_order else cut[:, :, [band - 1 for band in bands]])
    if size is None or size == pixels.shape[:2]:
        return pixels, masked
    reduced = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA).reshape(*size, len(bands))
    if masked is not None:
        masked = cv2.resize(masked.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
    return reduced, masked


def _part_of_raster(
    source: rasterio.DatasetReader, part: Window, scene: Scene, size: tuple[int, int] | None
) -> tuple[NDArray, NDArray[np.bool_] | None, list[NDArray[np.bool_] | None]]:
    """Reads a part of an open raster: pixels, what alpha or mask leave out, and what each band declares absent."""
    window = ((part.y0, part.y1), (part.x0, part.x1))
    shape = size or (part.y1 - part.y0, part.x1 - part.x0)
    bands = scene.bands
    how = {"window": window, "resampling": Resampling.average}
    if len({source.dtypes[band - 1] for band in bands}) == 1:
        stored = source.read(bands, out_shape=(len(bands), *shape), **how)
    else:  # rasterio reads bands of one type at a time
        stored = np.stack([source.read(band, out_shape=shape, **how).astype(scene.dtype) for band in bands])
    flags = [source.mask_flag_enums[band - 1] for band in bands]
    masked = None
    if scene._alpha is not None:
        masked = source.read(scene._alpha, window=window, out_shape=shape) == 0
    elif any(MaskFlags.per_dataset in found and MaskFlags.alpha not in found for found in flags):
        masked = source.dataset_mask(window=window, out_shape=shape) == 0
    absent = []
    for position, band in enumerate(bands):
        # Compared by value: read_masks would read the pixels again, and warns of an alpha band beside a nodata value.
        here = _equal(stored[position], source.nodatavals[band - 1])
        if not flags[position]:  # a mask of this band alone
            own = source.read_masks(band, window=window, out_shape=shape) == 0
            here = own if here is None else here | own
        absent.append(here)
    return np.ascontiguousarray(stored.transpose(1, 2, 0)), masked, absent


def _only_data(
    stored: NDArray,
    masked: NDArray[np.bool_] | None,
    absent: Sequence[NDArray[np.bool_] | None],
    expected: ValueRange,
) -> Pixels:
    """Tells data from what is none, and replaces what would spill over.

    Args:
        stored: `(H, W, bands)` as the file has them; may be changed in place unless it is a view.
        masked: `(H, W)`, True where an alpha band or a mask leaves a pixel out.
        absent: of each band, True where the file declares a value to be no data.
        expected: where values are expected.
    """
    # One pass over all values says of most files that nothing has to be looked for in them.
    least = most = 0.0
    if stored.dtype.itemsize > 1 or stored.dtype.kind == "i":
        least, most = float(stored.min(initial=0)), float(stored.max(initial=0))
    if all(here is None for here in absent) and (stored.dtype.itemsize == 1 or expected.holds(least, most)):
        return Pixels(stored, masked if masked is not None and masked.any() else None, lowest=least)
    none = np.zeros(stored.shape[:2], bool)
    nodata = none.copy() if masked is None else masked.copy()
    replaced: NDArray[np.bool_] | None = None
    missing, broken, declared = ~none, 0, 0
    sentinels: Counter[float] = Counter()

    def fill(where: NDArray[np.bool_], band: int) -> None:
        nonlocal stored, replaced
        if replaced is None:
            replaced = np.zeros(stored.shape, bool)
            stored = stored if stored.base is None else stored.copy()  # a decoded image is read more than once
        replaced[:, :, band] |= where
        stored[:, :, band][where] = expected.fill[band]

    for band in range(stored.shape[2]):
        values = stored[:, :, band]
        declares = absent[band]
        here = declares
        if stored.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
            broken += int((~finite).sum())
            nodata |= ~finite
            here = ~finite if here is None else here | ~finite
            fill(~finite, band)
        if declares is not None:
            declared += int(declares.sum())
            outside = declares & expected.outside(stored[:, :, band], band)
            if outside.any():
                fill(outside, band)
        found = expected.sentinel(stored[:, :, band], band)
        if found is not None:
            uniques, counts = np.unique(stored[:, :, band][found], return_counts=True)
            sentinels.update(dict(zip(uniques.tolist(), counts.tolist(), strict=True)))
            here = found if here is None else here | found
            fill(found, band)
        missing &= none if here is None else here
    nodata |= missing
    return Pixels(
        stored,
        nodata if nodata.any() else None,
        replaced,
        broken,
        declared,
        tuple(sorted(sentinels.items())),
        lowest=float(stored.min(initial=0)) if stored.dtype.kind in "if" else 0.0,
    )


def _equal(pixels: NDArray, value: float | None) -> NDArray[np.bool_] | None:
    """Tells where pixels have the declared nodata value; None where none can have it.

    NaN is left to the test for values that are not finite.
    """
    if value is None or np.isnan(value):
        return None
    if pixels.dtype.kind in "iu":
        limits = np.iinfo(pixels.dtype)
        if not (np.isfinite(value) and value == int(value) and limits.min <= value <= limits.max):
            return None
    with np.errstate(over="ignore"):
        equal: NDArray[np.bool_] = pixels == np.asarray(value).astype(pixels.dtype)
    return equal if equal.any() else None


_SHOWN_SENTINELS = 3


def _sentinel_notes(met: _Met) -> tuple[str, ...]:
    """Says which undeclared values were taken to be no data."""
    if not met.sentinels:
        return ()
    # Without counts: parts of a scene may be read more than once.
    shown = ", ".join(f"{value:.9g}" for value, _ in met.sentinels.most_common(_SHOWN_SENTINELS))
    more = f" and {len(met.sentinels) - _SHOWN_SENTINELS} more" if len(met.sentinels) > _SHOWN_SENTINELS else ""
    return (f"holds {shown}{more}, taken for no data though the file does not declare it",)


def _value_notes(met: _Met, expected: ValueRange) -> tuple[str, ...]:
    """Says which undeclared values were taken to be no data, and which perhaps should have been."""
    if not expected.far_below(met.lowest):
        return _sentinel_notes(met)
    low = f"reaches {met.lowest:g}, further below 0 than its largest value is above it; declare it as nodata if it is"
    return (*_sentinel_notes(met), low)
