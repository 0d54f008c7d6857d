"""The user's scenes: what their headers say, and whether they can be cut together."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio.crs import CRS
from rasterio.transform import Affine

from rsseg_tf.errors import DataError, address_hint, reason
from rsseg_tf.files import SIDE_SUFFIX, readable_name
from rsseg_tf.files.walking import SCENE_SUFFIXES, find_images
from rsseg_tf.rasters.gdal import Trust
from rsseg_tf.rasters.ground import pixel_size
from rsseg_tf.rasters.opening import open_member
from rsseg_tf.rasters.polygon_files import polygon_driver
from rsseg_tf.rasters.scenes import DOUBTFUL_ALPHA, Scene, open_scene, raster_driver
from rsseg_tf.rasters.sources import Source, local_files
from rsseg_tf.rasters.stamps import source_stamp
from rsseg_tf.rasters.windows import Size

__all__ = ["OwnScene", "file_stamp", "read_scenes"]


@dataclass(frozen=True, eq=False)
class OwnScene:
    """A scene that is to be cut, by its header.

    Attributes:
        path: The file, or another source of an image (see `rasters.sources`).
        stem: What the names of its tiles begin with.
        size: Height and width in pixels.
        bands: The bands that are the image, counted from 1.
        dtype: NumPy name of the pixels' type.
        crs: Coordinate reference system.
        transform: From (column, row) to coordinates.
        nodata: The declared value that stands for no data; None where the bands have none or several.
        descriptions: Names of the bands, "" where the file has none.
        ground: Height and width of a pixel on the ground, in metres.
        may_lack_data: Whether the file declares a nodata value, a mask or an alpha band.
        stamp: Changes with the files that hold the scene.
        notes: Notes for the user on how it is read, phrases that follow its name.
    """

    path: Source
    stem: str
    size: Size
    bands: tuple[int, ...]
    dtype: str
    crs: CRS
    transform: Affine
    nodata: float | None
    descriptions: tuple[str, ...]
    ground: tuple[float, float]
    may_lack_data: bool
    stamp: str
    notes: tuple[str, ...] = ()


def read_scenes(
    paths: Sequence[Source], labels: Sequence[Path], trust: Trust, bands: Sequence[int] = ()
) -> tuple[OwnScene, ...]:
    """Reads the headers of scenes.

    Args:
        paths: Files, folders in which all images are scenes, and other sources.
        labels: The files of labels, for the error about scenes and labels that changed places.
        trust: Limits for files and for the sources of a VRT.
        bands: The bands to read and their order, from 1; empty for all that are not alpha.

    Raises:
        DataError: When a scene is missing, no image or without a place, or scenes differ in their bands or type.
    """
    files = _files(paths)
    stems = _stems(files)
    scenes: list[OwnScene] = []
    for path, stem in zip(files, stems, strict=True):
        if isinstance(path, Path) and path.is_file() and polygon_driver(path) is not None:
            images = [label for label in labels if label.is_file() and raster_driver(label) is not None]
            remedy = f"{images[0]}, given by --labels, is an image: swap the two" if images else "Give it by --labels"
            raise DataError(f"{path} holds polygons where a scene, an image, is expected. {remedy}.")
        with open_scene(path, bands or None, trust=trust) as scene:
            scenes.append(_described(path, stem, scene))
        first = scenes[0]
        count, usual = len(scenes[-1].bands), len(first.bands)
        if (count, scenes[-1].dtype) != (usual, first.dtype):
            raise DataError(
                f"{path} has {count} bands of {scenes[-1].dtype}, but {first.path} has {usual} of "
                f"{first.dtype}; all scenes of a dataset need the same. Convert them, or prepare them apart."
            )
    return tuple(scenes)


def file_stamp(files: Sequence[str | Path]) -> str:
    """Returns a digest of names, sizes and times of change of files."""
    facts = []
    for file in sorted(map(str, files)):
        try:
            status = os.stat(file)
        except OSError:  # such as what a VRT names within an archive
            facts.append(file)
        else:
            facts.append(f"{os.path.basename(file)} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(facts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _files(paths: Sequence[Source]) -> list[Source]:
    found: list[Source] = []
    for path in paths:
        if not isinstance(path, Path):
            found.append(path)
        elif path.is_dir() and raster_driver(path) is None:
            inside = sorted(find_images(path, SCENE_SUFFIXES))
            if not inside:
                raise DataError(f"{path} holds no image; {', '.join(SCENE_SUFFIXES)} are read. Check the path.")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"{path} does not exist; a scene is expected. Check the path.{address_hint(path)}")
    if not found:
        raise DataError("No scene was given; name at least one image before --labels.")
    return list(dict.fromkeys(found))


def _stems(files: Sequence[Source]) -> list[str]:
    """Names scenes by their files; those of one name by their folders, too, and at last by numbers."""
    stems = [readable_name(path.stem) for path in files]
    for _ in range(2):
        counts = Counter(stems)
        longer = [f"{_folder(path)}_{path.stem}" for path in files]
        stems = [stem if counts[stem] == 1 else name for stem, name in zip(stems, longer, strict=True)]
    counts = Counter(stems)
    return [stem if counts[stem] == 1 else f"{stem}_{number}" for number, stem in enumerate(stems)]


def _folder(source: Source) -> str:
    """Returns the name of the folder of a source; that of a stack is its first file's."""
    files = local_files(source)
    return files[0].absolute().parent.name if files else "remote"


def _stamp(source: Source) -> str:
    """Returns a digest that changes with a source; of a VRT with the files that it names, too."""
    driver = raster_driver(source) if isinstance(source, Path) and source.is_file() else None
    if not isinstance(source, Path) or not source.is_file():
        return hashlib.sha256(repr(source_stamp(source)).encode()).hexdigest()[:16]
    files = [source, source.with_name(source.name + SIDE_SUFFIX)]
    if driver is not None:
        # Trusted, because it was looked at when the scene was opened.
        with open_member(source, driver, Trust(vrt_sources=True)).source as opened:
            try:
                files = [*files, *opened.files]
            except OSError as error:
                raise DataError(f"{readable_name(source)} cannot be read: {reason(error)}.") from error
    return file_stamp(files)


def _described(path: Source, stem: str, scene: Scene) -> OwnScene:
    name = readable_name(str(path))
    if scene.gcps and scene.transform == Affine.identity():
        raise DataError(f"{name} lies by control points; a scene needs a transform. Warp it first (gdalwarp).")
    if scene.crs is None or scene.transform == Affine.identity():
        lacks = "no CRS" if scene.crs is None else "a CRS but no transform"
        note = f" ({scene.place_note})" if scene.place_note else ""
        raise DataError(
            f"{name} has {lacks}{note}, so no label can be placed in it; a scene says where it lies. Assign the CRS "
            "(gdal_edit -a_srs, in QGIS: Assign Projection)."
        )
    ground = pixel_size(scene.size, scene.transform, scene.crs)
    if ground is None:
        raise DataError(f"{name} lies nowhere on the ground by its CRS and transform. Assign the true CRS.")
    notes = list(scene.notes)
    if (alpha := scene.doubtful_alpha) is not None:
        every = " ".join(map(str, sorted((*scene.bands, alpha))))
        notes.append(f"band {alpha} is {DOUBTFUL_ALPHA}; --bands {every} reads it")
    values = {repr(value): value for value in scene.nodata_values}  # by its text, since NaN equals nothing
    return OwnScene(
        path=path,
        stem=stem,
        size=scene.size,
        bands=scene.bands,
        dtype=str(np.dtype(scene.dtype)),
        crs=scene.crs,
        transform=scene.transform,
        nodata=next(iter(values.values())) if len(values) == 1 else None,
        descriptions=scene.descriptions,
        ground=ground,
        may_lack_data=scene.may_lack_data or scene.has_alpha,
        stamp=_stamp(path),
        notes=tuple(notes),
    )
