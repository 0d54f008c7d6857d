"""Names and colours of classes beside results, as QGIS and GDAL read them.

A label map has them twice. Its side file (`NAME.tif.aux.xml`) has an attribute table and category names, which GDAL and
whatever builds on it read. The style (`NAME.qml`), which QGIS applies when it opens the map, is for versions of QGIS
that do not read attribute tables. Confidence has a style with a ramp. Polygons of a GeoPackage have their style in it;
those of other formats have a `NAME.qml`. Pictures have none: they show their colours anyway.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rsseg_tf.datasets.spec import RGB, DatasetSpec
from rsseg_tf.errors import reason
from rsseg_tf.files import atomic_path
from rsseg_tf.styles import (
    PaletteEntry,
    confidence_qml,
    labels_qml,
    polygons_qml,
    side_file,
    with_side_table,
    write_qml,
)

__all__ = ["REVIEW_COLOUR", "REVIEW_NAME", "add_class_table", "class_entries", "layer_qml", "write_styles"]

REVIEW_NAME = "review"
REVIEW_COLOUR: RGB = (128, 128, 128)
"""Name and colour of pixels that are too doubtful for a class."""

_LONGEST_NAME = 255  # bytes that file systems take


def class_entries(spec: DatasetSpec, palette: Sequence[RGB], review_value: int | None = None) -> list[PaletteEntry]:
    """Returns what a label map holds besides pixels without data.

    Args:
        spec: The dataset.
        palette: Colours of its classes.
        review_value: Id of doubtful pixels; None where there are none.
    """
    entries = [PaletteEntry(index, *pair) for index, pair in enumerate(zip(spec.classes, palette, strict=True))]
    if review_value is not None:
        entries.append(PaletteEntry(review_value, REVIEW_NAME, REVIEW_COLOUR))
    return entries


def add_class_table(raster: Path, entries: Sequence[PaletteEntry], *, whole: bool = True) -> None:
    """Writes the classes into the side file of a raster, whose other content stays.

    A raster whose name leaves no room for that of a side file gets none.

    Args:
        raster: The raster.
        entries: The classes.
        whole: Whether the file must be whole or absent after a kill; not needed beside a temporary file.

    Raises:
        OSError: When it cannot be written.
        DataError: When the side file is damaged.
    """
    side = _side_of(raster)
    if side is None:
        return
    text = with_side_table(side.read_text("utf-8") if side.is_file() else "", entries)
    with atomic_path(side) if whole else contextlib.nullcontext(side) as target:
        target.write_text(text, "utf-8")


def _side_of(raster: Path) -> Path | None:
    """Returns the path of a raster's side file; None where it would be longer than names may be."""
    side = side_file(raster)
    return side if len(os.fsencode(side.name)) <= _LONGEST_NAME else None


def layer_qml(entries: Sequence[PaletteEntry]) -> str:
    """Returns the style of the layer that `write_features` writes; its field `class` holds the names."""
    return polygons_qml([entry._replace(value=entry.name) for entry in entries], "class")


def write_styles(
    files: Mapping[str, Path], entries: Sequence[PaletteEntry]
) -> tuple[dict[str, Path], list[str], list[str]]:
    """Writes the styles of results.

    Args:
        files: Results by name, as in `PredictionResult.files`.
        entries: The classes.

    Returns:
        The styles by the names of their results; a note about each style of a user, which stays; and a line about each
        that cannot be written.
    """
    styles: dict[str, Path] = {}
    notes, failed = [], []
    for name, path in files.items():
        if name == "vector" and path.suffix.lower() == ".gpkg":  # its style is in it
            continue
        makers = {"geotiff": labels_qml, "confidence": lambda entries: confidence_qml(), "vector": layer_qml}
        target = path.with_suffix(".qml")
        if name not in makers or target in styles.values():
            continue
        try:
            side = _side_of(path) if name == "geotiff" else None
            if side is not None and not side.is_file():  # removed since
                add_class_table(path, entries)
            if write_qml(target, makers[name](entries)):
                styles[name] = target
            else:
                notes.append(f"{target} stays as it was saved there; remove it for the colours of the classes")
        except OSError as error:
            failed.append(f"cannot write {target}: {reason(error)}")
    return styles, notes, failed
