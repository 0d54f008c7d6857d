"""Scenes: pixels read part by part, with where on Earth they lie and where there are none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.rpc import RPC
from rasterio.transform import Affine

from rsseg_tf.datasets.images import read_image
from rsseg_tf.datasets.tiling import Window
from rsseg_tf.errors import DataError
from rsseg_tf.files import StrPath

__all__ = ["Scene", "open_scene", "raster_driver"]

# AREA_OR_POINT decides whether coordinates mean corners or centres of pixels; the date is the only other tag that
# stays true of a label map.
_COPIED_TAGS = ("AREA_OR_POINT", "TIFFTAG_DATETIME")
_VRT_START = b"<VRTDataset"


@dataclass(frozen=True, eq=False)
class Scene:
    """An image with its place; pixels are read on demand.

    Attributes:
        path: the file.
        size: (height, width) in pixels.
        dtype: type of the pixels as stored.
        bands: the bands that are read, counted from 1 as GDAL counts them.
        has_alpha: whether the file has an alpha band (which is a mask, and no band of the image).
        is_raster: whether the file is a TIFF or VRT, georeferenced or not.
        descriptions: names of `bands`, "" where the file has none.
        crs: coordinate reference system, or None.
        transform: from (column, row) to coordinates of the CRS; the identity where there is none.
        gcps: ground control points, instead of a transform.
        gcps_crs: their coordinate reference system.
        rpcs: rational polynomial coefficients, or None.
        tags: metadata that also hold for a label map of the scene.
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
    _source: rasterio.DatasetReader | NDArray | None = field(default=None, repr=False)

    @property
    def is_georeferenced(self) -> bool:
        """Whether anything says where the scene lies."""
        return self.crs is not None or self.transform != Affine.identity() or bool(self.gcps) or self.rpcs is not None

    def read(
        self, window: Window | None = None, size: tuple[int, int] | None = None
    ) -> tuple[NDArray, NDArray[np.bool_] | None]:
        """Reads pixels and where there are none.

        No data is where an alpha band or a mask is 0, where all bands have the declared nodata value, and where a
        pixel of a floating-point file is not finite. Values of declared nodata and values that are not finite are set
        to 0, because a sentinel such as -9999 would otherwise spill over into its neighbours through the network's
        field of view; pixels under an alpha band or a mask stay as stored.

        Args:
            window: the part to read, within the scene; all of it by default.
            size: (height, width) to reduce the part to, for a preview.

        Returns:
            `(H, W, bands)` in the file's dtype, and `(H, W)` bool, True where there is no data; None for the latter
            where all pixels are data.

        Raises:
            DataError: when the file is damaged.
        """
        part = window or Window(0, 0, *self.size)
        if isinstance(self._source, np.ndarray):
            pixels, nodata = _part_of_array(self._source, part, self.bands, self.has_alpha, size)
        else:
            try:
                pixels, nodata = _part_of_raster(self._source, part, self.bands, size)
            except (RasterioError, OSError) as error:
                raise _damaged(self.path, error) from error
        return pixels, nodata if nodata.any() else None


@contextlib.contextmanager
def open_scene(path: StrPath, bands: Sequence[int] | None = None, names: Sequence[str] = ()) -> Iterator[Scene]:
    """Opens a PNG, JPEG, TIFF or VRT file.

    A band marked alpha is a mask and no band of the image; the fourth band of a PNG always is. PNG and JPEG files are
    decoded at once, and taken to have no place: world files beside them are not read.

    Args:
        path: the file; its kind is told by its first bytes.
        bands: the bands to read and their order, from 1. By default those called `names`, if the file has them all;
            otherwise all that are not alpha.
        names: what the wanted bands are called; capitals do not matter.

    Raises:
        DataError: when the file is missing, damaged, of another kind, of complex numbers, or lacks one of `bands`.
    """
    path = Path(path)
    driver = raster_driver(path)
    if driver is None:
        pixels = read_image(path)
        has_alpha = pixels.shape[2] == 4
        chosen = _chosen(path, range(1, pixels.shape[2] + 1 - has_alpha), pixels.shape[2], bands)
        yield Scene(path, (pixels.shape[0], pixels.shape[1]), pixels.dtype, chosen, has_alpha, _source=pixels)
        return
    with contextlib.ExitStack() as stack:
        try:
            source = stack.enter_context(rasterio.open(path, driver=driver))
        except (RasterioError, OSError) as error:
            raise _damaged(path, error, driver) from error
        yield _describe(path, source, bands, names)


def raster_driver(path: Path) -> str | None:
    """Returns the GDAL driver for a TIFF, told by its byte-order mark, or a VRT, by its first tag; None for others."""
    try:
        with path.open("rb") as handle:
            head = handle.read(len(_VRT_START))
    except OSError:
        return None
    if head[:2] in (b"II", b"MM"):
        return "GTiff"
    return "VRT" if head == _VRT_START else None


def _damaged(path: Path, error: Exception, driver: str = "GTiff") -> DataError:
    kind = {"GTiff": "TIFF", "VRT": "VRT"}[driver]
    return DataError(f"{path} is a damaged {kind} file: {str(error).rstrip('.')}. Copy or download it again.")


def _describe(path: Path, source: rasterio.DatasetReader, bands: Sequence[int] | None, names: Sequence[str]) -> Scene:
    """Returns an open raster as a scene."""
    data_bands = [
        band
        for band, meaning in zip(source.indexes, source.colorinterp, strict=True)
        if meaning is not ColorInterp.alpha
    ]
    if not data_bands:
        raise DataError(f"{path} has {source.count} band, an alpha band; at least one band of data is needed.")
    called = {(source.descriptions[band - 1] or "").casefold(): band for band in data_bands}
    if bands is None and names and all(name.casefold() in called for name in names):
        bands = [called[name.casefold()] for name in names]
    chosen = _chosen(path, data_bands, source.count, bands)
    dtype = np.result_type(*(source.dtypes[band - 1] for band in chosen))
    if np.issubdtype(dtype, np.complexfloating):
        raise DataError(f"{path} holds {dtype} values; real numbers are needed. Take their magnitude first.")
    gcps, gcps_crs = source.gcps
    tags = source.tags()
    return Scene(
        path=path,
        size=source.shape,
        dtype=dtype,
        bands=chosen,
        has_alpha=len(data_bands) < source.count,
        is_raster=True,
        descriptions=tuple(source.descriptions[band - 1] or "" for band in chosen),
        crs=source.crs,
        transform=source.transform,
        gcps=tuple(gcps),
        gcps_crs=gcps_crs,
        rpcs=source.rpcs,
        tags={key: tags[key] for key in _COPIED_TAGS if key in tags},
        _source=source,
    )


def _chosen(path: Path, data_bands: Sequence[int], count: int, bands: Sequence[int] | None) -> tuple[int, ...]:
    """Returns the bands to read; raises `DataError` for one that is no data band of the file."""
    if bands is None:
        return tuple(data_bands)
    missing = [band for band in bands if band not in data_bands]
    if missing:
        alpha = " (an alpha band is a mask, not data)" if len(data_bands) < count else ""
        raise DataError(
            f"{path} has no band {missing[0]} to read; its bands of data are {', '.join(map(str, data_bands))}{alpha}. "
            "Choose among them."
        )
    return tuple(bands)


def _part_of_array(
    array: NDArray, part: Window, bands: Sequence[int], has_alpha: bool, size: tuple[int, int] | None
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Cuts a part out of `(H, W, bands)`."""
    cut = array[part.y0 : part.y1, part.x0 : part.x1]
    nodata = cut[:, :, 3] == 0 if has_alpha else np.zeros(cut.shape[:2], bool)
    pixels = np.ascontiguousarray(cut[:, :, [band - 1 for band in bands]])
    if size is None or size == pixels.shape[:2]:
        return pixels, nodata
    reduced = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA).reshape(*size, len(bands))
    mask = cv2.resize(nodata.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
    return reduced, mask.astype(bool)


def _part_of_raster(
    source: rasterio.DatasetReader, part: Window, bands: Sequence[int], size: tuple[int, int] | None
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Reads a part of an open raster."""
    window = ((part.y0, part.y1), (part.x0, part.x1))
    shape = size or (part.y1 - part.y0, part.x1 - part.x0)
    pixels = source.read(bands, window=window, out_shape=(len(bands), *shape), resampling=Resampling.average)
    nodata: NDArray[np.bool_] = np.zeros(shape, bool)
    alpha = [band for band in source.indexes if source.colorinterp[band - 1] is ColorInterp.alpha]
    if alpha:
        nodata |= source.read(alpha[0], window=window, out_shape=shape) == 0
    elif any(MaskFlags.per_dataset in source.mask_flag_enums[band - 1] for band in bands):
        nodata |= source.dataset_mask(window=window, out_shape=shape) == 0
    # Compared by value: read_masks would read the pixels again, and warns of an alpha band beside a nodata value.
    missing = np.ones(shape, bool)
    for position, band in enumerate(bands):
        here = _equal(pixels[position], source.nodatavals[band - 1])
        pixels[position][here] = 0
        missing &= here
    nodata |= missing
    if np.issubdtype(pixels.dtype, np.floating):
        broken = ~np.isfinite(pixels)
        if broken.any():
            nodata |= broken.any(axis=0)
            pixels[broken] = 0
    return np.ascontiguousarray(pixels.transpose(1, 2, 0)), nodata


def _equal(pixels: NDArray, value: float | None) -> NDArray[np.bool_]:
    """Tells where pixels have the declared nodata value; NaN is left to the test for values that are not finite."""
    if np.issubdtype(pixels.dtype, np.integer) and value is not None:
        limits = np.iinfo(pixels.dtype)
        if not (np.isfinite(value) and value == int(value) and limits.min <= value <= limits.max):
            value = None
    if value is None:
        return np.zeros(pixels.shape, bool)
    equal: NDArray[np.bool_] = pixels == np.asarray(value).astype(pixels.dtype)
    return equal
