"""STAC items of results: where a scene lies, when it was taken, and what was written about it.

Version 1.1.0 of the specification, with the extensions projection, classification, raster and processing. The item's
`datetime` is the first of these that is known:

1. the time that the user states, see `rsseg_tf.stac.moment_fields`;
2. the time of acquisition that the image states, see `Scene.acquired`;
3. the time of the prediction, with a note to the user.

An item has a geometry if the scene has a CRS and a transform that lead to WGS 84; see `rsseg_tf.stac.footprint`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.transform import Affine

from rsseg_tf import __version__
from rsseg_tf.errors import DataError
from rsseg_tf.predict.decoding import PROBABILITY_NODATA, PROBABILITY_STEPS
from rsseg_tf.predict.settings import PredictionSettings
from rsseg_tf.predict.styling import class_entries
from rsseg_tf.rasters.ground import pixel_size
from rsseg_tf.rasters.images import image_header
from rsseg_tf.rasters.scenes import Scene
from rsseg_tf.stac import asset, class_objects, footprint, item, moment_fields, spelled, write_item

__all__ = ["item_notes", "result_item", "write_result_item"]

_GEOTIFF = "image/tiff; application=geotiff"
_VECTORS = {
    ".gpkg": "application/geopackage+sqlite3",
    ".geojson": "application/geo+json",
    ".fgb": "application/vnd.flatgeobuf",
    ".parquet": "application/vnd.apache.parquet",
}
_PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


def _acquired(scene: Scene) -> str | None:
    """Returns when an image was taken, as it states it; None where it states nothing that can be a time.

    GDAL writes `2020-06-01 10:11:12`, TIFF `2020:06:01 10:11:12`, both without a zone; they count as UTC.
    """
    text = (scene.acquired or "").strip()
    text = re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return spelled(moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC))


def item_notes(scene: Scene, settings: PredictionSettings) -> list[str]:
    """Returns what a user must know about a scene's item, each in one line."""
    notes = []
    if footprint(scene.size, scene.transform, scene.crs) is None:
        notes.append("its STAC item has no geometry, because the image has no place in longitude and latitude")
    if settings.output.stac_datetime is None and _acquired(scene) is None:
        notes.append("its STAC item is dated by the prediction; state when the image was taken with --stac_datetime")
    return notes


def write_result_item(
    path: Path,
    scene: Scene,
    settings: PredictionSettings,
    files: Mapping[str, Path],
    provenance: Mapping[str, str],
) -> None:
    """Writes the item of a scene; see `result_item`.

    Raises:
        DataError: When there is no file to describe.
        OSError: When it cannot be written.
    """
    if not files:
        raise DataError("no result was written that a STAC item could describe. Leave --no_pictures out.")
    write_item(path, result_item(path, scene, settings, files, provenance))


def result_item(
    path: Path,
    scene: Scene,
    settings: PredictionSettings,
    files: Mapping[str, Path],
    provenance: Mapping[str, str],
) -> dict[str, Any]:
    """Returns the item of a scene.

    Args:
        path: Where it will lie; addresses of files are relative to its folder.
        scene: The scene.
        settings: Settings of the run.
        files: The written files, as in `PredictionResult.files`.
        provenance: Tags of the rasters: SOURCE, DATASET, WINDOWS, and MODEL if it is known.
    """
    now = spelled(datetime.now(UTC))
    stated, acquired = settings.output.stac_datetime, _acquired(scene)
    moment = moment_fields(stated) if stated is not None else {"datetime": acquired or now}
    side = pixel_size(scene.size, scene.transform, scene.crs)
    by = f" by {provenance['MODEL']}" if "MODEL" in provenance else ""
    properties = {
        "title": f"{provenance['SOURCE']}: classes of {provenance['DATASET']}",
        **moment,
        "created": now,
        # Nine digits are more than the size is known to.
        **({} if side is None else {"gsd": float(f"{max(side):.9g}")}),
        **_projection(scene),
        "processing:level": "L4",
        "processing:lineage": f"Semantic segmentation of {provenance['SOURCE']}{by}, {provenance['WINDOWS']}",
        "processing:software": {"rsseg_tf": __version__},
    }
    place = footprint(scene.size, scene.transform, scene.crs)
    identifier = "_".join(path.relative_to(settings.save_dir).with_suffix("").parts[1:])  # without the results' folder
    return item(identifier, properties, _assets(path.parent, scene, settings, files), place=place)


def _projection(scene: Scene) -> dict[str, Any]:
    """Returns the fields of the projection extension, which hold for the rasters.

    A CRS that no authority has a code for is written as WKT 2. Control points are no transform.
    """
    fields: dict[str, Any] = {"proj:code": None}
    if scene.crs is not None and not scene.gcps:
        code = _code(scene.crs)
        fields["proj:code"] = code
        if code is None:
            with contextlib.suppress(CRSError):  # not every CRS can be written so
                fields["proj:wkt2"] = scene.crs.to_wkt(version="WKT2_2019")
    fields["proj:shape"] = list(scene.size)
    if scene.transform != Affine.identity():
        fields["proj:transform"] = list(scene.transform)[:6]
    return fields


def _code(crs: CRS) -> str | None:
    """Returns the code of a CRS, such as `EPSG:32636`, if the authority's system is the very same."""
    try:
        found = crs.to_authority()
        return ":".join(found) if found is not None and CRS.from_authority(*found) == crs else None
    except CRSError:  # an authority that is not in PROJ's data
        return None


def _assets(
    folder: Path, scene: Scene, settings: PredictionSettings, files: Mapping[str, Path]
) -> dict[str, dict[str, Any]]:
    """Returns the written files as assets, rasters first."""
    output, spec = settings.output, settings.spec
    geotiff = f"{_GEOTIFF}; profile=cloud-optimized" if output.cog else _GEOTIFF
    entries = class_entries(spec, settings.colours, None if output.min_confidence is None else output.review_value)
    classes = {int(entry.value): entry.name for entry in entries} | {spec.ignore_index: "no data"}
    named = class_objects(classes, {int(entry.value): entry.colour for entry in entries})
    labels = [one | ({"nodata": True} if one["value"] == spec.ignore_index else {}) for one in named]
    steps = {"data_type": "uint8", "nodata": PROBABILITY_NODATA, "raster__scale": 1 / PROBABILITY_STEPS}
    assets: dict[str, dict[str, Any]] = {}

    def add(key: str, name: str, title: str, media_type: str, roles: tuple[str, ...], **fields: Any) -> None:
        if key in files:
            assets[name] = asset(files[key], folder, title, media_type, roles, **fields)

    add(
        *("geotiff", "labels", "Class ids", geotiff, ("data", "labels", "labels-raster")),
        data_type="uint8",
        nodata=spec.ignore_index,
        classification__classes=labels,
    )
    add("confidence", "confidence", "Probability of the class", geotiff, ("data", "confidence"), **steps)
    bands = [{"name": one["name"], "description": one["title"]} for one in named if one["value"] < spec.num_classes]
    add("probabilities", "probabilities", "Probability of each class", geotiff, ("data",), bands=bands, **steps)
    if "vector" in files:
        media_type = _VECTORS.get(files["vector"].suffix.lower(), "application/octet-stream")
        add("vector", "vectors", "Polygons of the classes", media_type, ("data", "labels", "labels-vector"))
    for key, title, role in (
        ("pseudo_color", "Class ids with the palette, as a picture", "visual"),
        ("overlay", "The image with the classes laid over it", "overview"),
    ):
        if key in files:
            media_type = _PICTURES.get(files[key].suffix.lower(), "application/octet-stream")
            add(key, key, title, media_type, (role,), **_preview(scene, files[key]))
    return assets


def _preview(scene: Scene, picture: Path) -> dict[str, Any]:
    """Returns the grid of a picture of a huge scene, which is reduced; those of the item hold for all others."""
    header = image_header(picture)
    if (header.height, header.width) == scene.size:
        return {}
    down, right = scene.size.height / header.height, scene.size.width / header.width
    a, b, c, d, e, f = list(scene.transform)[:6]
    placed = scene.transform != Affine.identity()
    transform = {"proj__transform": [a * right, b * down, c, d * right, e * down, f]} if placed else {}
    return {"proj__shape": [header.height, header.width], **transform}
