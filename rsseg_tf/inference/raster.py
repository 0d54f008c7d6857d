"""Scenes in and labels out: pixels together with where on Earth they lie and where there are none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.rpc import RPC
from rasterio.transform import Affine

from rsseg_tf.datasets.images import atomic_path, read_image
from rsseg_tf.datasets.spec import RGB, DatasetSpec
from rsseg_tf.errors import DataError

__all__ = ["Scene", "read_scene", "write_labels"]

# AREA_OR_POINT decides whether coordinates mean corners or centres of pixels; the date is the only other tag that
# stays true of a label map.
_COPIED_TAGS = ("AREA_OR_POINT", "TIFFTAG_DATETIME")
_TILE = 256


@dataclass(frozen=True, eq=False)
class Scene:
    """An image with its place.

    Attributes:
        path: the file that it was read from.
        pixels: `(H, W, bands)` in the file's dtype, without alpha bands.
        nodata: `(H, W)` bool, True where the file declares that there is no data; None where all pixels are data.
        has_alpha: whether the file had an alpha band (which became `nodata`).
        is_tiff: whether the file is a TIFF, georeferenced or not.
        crs: coordinate reference system, or None.
        transform: from (column, row) to coordinates of the CRS; the identity where there is none.
        gcps: ground control points, instead of a transform.
        gcps_crs: their coordinate reference system.
        rpcs: rational polynomial coefficients, or None.
        tags: metadata that also hold for a label map of the scene.
    """

    path: Path
    pixels: NDArray
    nodata: NDArray[np.bool_] | None = None
    has_alpha: bool = False
    is_tiff: bool = False
    crs: CRS | None = None
    transform: Affine = field(default_factory=Affine.identity)
    gcps: tuple[GroundControlPoint, ...] = ()
    gcps_crs: CRS | None = None
    rpcs: RPC | None = None
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def is_georeferenced(self) -> bool:
        """Whether anything says where the scene lies."""
        placed = self.transform != Affine.identity()
        return self.crs is not None or placed or bool(self.gcps) or self.rpcs is not None

    def without_nodata(self, labels: NDArray[np.uint8], ignore_index: int) -> NDArray[np.uint8]:
        """Returns `labels` `(H, W)` with `ignore_index` where the scene has no data."""
        if self.nodata is None:
            return labels
        return np.where(self.nodata, np.uint8(ignore_index), labels)


def read_scene(path: Path) -> Scene:
    """Reads a PNG, JPEG or TIFF file with all that is known of its place.

    No data is where an alpha band or a mask is 0, where all bands have the declared nodata value, and where a pixel of
    a floating-point file is not finite. A band marked alpha is a mask and no band of the image; the fourth band of a
    PNG always is. Values of declared nodata and values that are not finite are set to 0, because a sentinel such as
    -9999 would otherwise spill over into its neighbours through the network's field of view; pixels under an alpha
    band or a mask stay as stored. PNG and JPEG files are taken to have no place: world files beside them are not read.

    Args:
        path: the file; its kind is told by its first bytes.

    Raises:
        DataError: when the file is missing, damaged, of another kind, or of complex numbers.
    """
    if not _is_tiff(path):
        pixels = read_image(path)
        if pixels.shape[2] != 4:
            return Scene(path, pixels)
        return Scene(path, np.ascontiguousarray(pixels[:, :, :3]), _none_if_all_valid(pixels[:, :, 3] == 0), True)
    try:
        with rasterio.open(path, driver="GTiff") as source:
            return _read_tiff_scene(path, source)
    except (RasterioError, OSError) as error:
        raise DataError(f"{path} is a damaged TIFF file: {error}. Copy or download it again.") from error


def write_labels(
    path: Path,
    labels: NDArray[np.uint8],
    scene: Scene,
    spec: DatasetSpec,
    palette: Sequence[RGB] | None = None,
) -> None:
    """Writes class ids as a GeoTIFF that lies where `scene` lies.

    One uint8 band, tiled, deflate-compressed, BigTIFF where needed, with the palette as colour table and
    `spec.ignore_index` as nodata value; the scene's nodata pixels get that value. CRS, transform, ground control
    points and RPCs are the scene's. GeoTIFF has no place for category names outside a side file, so the class names
    stand in the band's tags: `CLASS_NAMES` (a JSON list) and `CLASS_0`, `CLASS_1`, … The file appears whole or not.

    Args:
        path: the file to write; its folder must exist.
        labels: `(H, W)` uint8, 0..num_classes-1 or the ignored id.
        scene: the scene that was predicted.
        spec: gives class names, ignored id, and the palette.
        palette: other colours for the classes.

    Raises:
        DataError: when size, dtype or values of `labels` do not fit, or the file cannot be written.
    """
    labels = scene.without_nodata(_checked_labels(labels, scene, spec), spec.ignore_index)
    colours = {index: (*colour, 255) for index, colour in enumerate(palette or spec.palette)}
    colours[spec.ignore_index] = (0, 0, 0, 0)
    height, width = scene.size
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": "uint8",
        "nodata": spec.ignore_index,
        "tiled": True,
        "blockxsize": _TILE,
        "blockysize": _TILE,
        "compress": "deflate",
        "BIGTIFF": "IF_SAFER",
    }
    if not scene.gcps:  # a GeoTIFF holds either
        profile |= {"crs": scene.crs, "transform": scene.transform}
    try:
        with atomic_path(path) as temporary, rasterio.open(temporary, "w", **profile) as target:
            if scene.gcps:
                target.gcps = (list(scene.gcps), scene.gcps_crs)
            if scene.rpcs is not None:
                target.rpcs = scene.rpcs
            target.update_tags(**scene.tags)
            names = {f"CLASS_{index}": name for index, name in enumerate(spec.classes)}
            target.update_tags(1, CLASS_NAMES=json.dumps(spec.classes, ensure_ascii=False), **names)
            target.write_colormap(1, colours)  # before the pixels, or the header is already written
            target.write(labels, 1)
    except (RasterioError, OSError) as error:
        raise DataError(f"cannot write {path}: {error}. Check the folder and the free space.") from error


def _is_tiff(path: Path) -> bool:
    """Tells a TIFF by its byte-order mark; a file that cannot be read is left to `read_image` to report."""
    try:
        with path.open("rb") as handle:
            return handle.read(2) in (b"II", b"MM")
    except OSError:
        return False


def _read_tiff_scene(path: Path, source: rasterio.DatasetReader) -> Scene:
    """Reads an open TIFF."""
    data_bands = [
        band
        for band, meaning in zip(source.indexes, source.colorinterp, strict=True)
        if meaning is not ColorInterp.alpha
    ]
    if not data_bands:
        raise DataError(f"{path} has {source.count} band, an alpha band; at least one band of data is needed.")
    pixels = source.read(data_bands)
    if np.iscomplexobj(pixels):
        raise DataError(f"{path} holds {pixels.dtype} values; real numbers are needed. Take their magnitude first.")
    nodata: NDArray[np.bool_] = np.zeros(pixels.shape[1:], bool)
    flags = source.mask_flag_enums
    if any(MaskFlags.all_valid not in flags[band - 1] for band in data_bands):
        nodata |= source.dataset_mask() == 0
    for position, band in enumerate(data_bands):
        if MaskFlags.nodata in flags[band - 1]:
            pixels[position][source.read_masks(band) == 0] = 0
    if np.issubdtype(pixels.dtype, np.floating):
        broken = ~np.isfinite(pixels)
        nodata |= broken.any(axis=0)
        pixels[broken] = 0
    gcps, gcps_crs = source.gcps
    tags = source.tags()
    return Scene(
        path=path,
        pixels=np.ascontiguousarray(pixels.transpose(1, 2, 0)),
        nodata=_none_if_all_valid(nodata),
        has_alpha=len(data_bands) < source.count,
        is_tiff=True,
        crs=source.crs,
        transform=source.transform,
        gcps=tuple(gcps),
        gcps_crs=gcps_crs,
        rpcs=source.rpcs,
        tags={key: tags[key] for key in _COPIED_TAGS if key in tags},
    )


def _none_if_all_valid(nodata: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Returns the mask, or None if it marks nothing."""
    return nodata if nodata.any() else None


def _checked_labels(labels: NDArray[np.uint8], scene: Scene, spec: DatasetSpec) -> NDArray[np.uint8]:
    """Returns `labels` if they are uint8 ids of the spec and of the scene's size; raises `DataError` otherwise."""
    if labels.shape != scene.size or labels.dtype != np.uint8:
        raise DataError(
            f"labels of {scene.path.name} must be {scene.size} uint8; got {labels.shape} {labels.dtype}. "
            "Predict the scene at its own size."
        )
    ids = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    outside = [int(value) for value in ids if value >= spec.num_classes and value != spec.ignore_index]
    if outside:
        raise DataError(
            f"labels of {scene.path.name} hold {outside}; data set '{spec.name}' allows 0..{spec.num_classes - 1} and "
            f"{spec.ignore_index} (ignored). Use the data set that the model was trained on."
        )
    return labels
