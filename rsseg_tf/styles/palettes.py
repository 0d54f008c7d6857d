"""Classes with names and colours, from whatever a user has styled in QGIS or stored in a raster."""

from __future__ import annotations

import json
from pathlib import Path

from rsseg_tf.files import StrPath, readable_name
from rsseg_tf.files.reading import read_bytes
from rsseg_tf.rasters.gdal import HEAD_BYTES, open_raster
from rsseg_tf.rasters.headers import PNG_SIGNATURE
from rsseg_tf.rasters.images import png_palette
from rsseg_tf.rasters.scenes import raster_driver
from rsseg_tf.rasters.vrt import require_near_sources
from rsseg_tf.styles.documents import MOST_BYTES
from rsseg_tf.styles.entries import PaletteEntry
from rsseg_tf.styles.layer_styles import read_layer_styles
from rsseg_tf.styles.qml import read_qml
from rsseg_tf.styles.side_files import SideTable, read_side_table, side_file

__all__ = ["read_palette"]

_PACKAGE_START = b"SQLite format 3\0"


def read_palette(path: StrPath, layer: str | None = None) -> list[PaletteEntry]:
    """Reads classes with names and colours.

    Sources, the first that has entries counts, in the order in which QGIS looks for the style of a layer:

    - a `.qml` style: of a paletted raster, of a pseudo-colour raster with exact values, or of a vector layer with
      categories or with rules of one comparison;
    - of a GeoPackage, the style that its table `layer_styles` gives to the layer;
    - `NAME.qml` beside any other file `NAME.tif`, `NAME.geojson`, …;
    - of a raster, the attribute table and the category names in `NAME.tif.aux.xml`, its tags `CLASS_0`, `CLASS_1`, …
      and its colour table. A palette PNG has colours alone.

    Args:
        path: The file.
        layer: Layer of a GeoPackage; may be left out where one layer has a style.

    Returns:
        An entry per class, in the order of the source; empty where nothing is styled. Names are empty where the source
        has none. Fully transparent colours stand for no data and have no entry.

    Raises:
        DataError: When the file is missing, or its style is damaged, hostile, or ambiguous.
    """
    path = Path(path)
    head = read_bytes(path, HEAD_BYTES)
    if path.suffix.lower() == ".qml":
        return read_qml(read_bytes(path, MOST_BYTES + 1), readable_name(path))
    if head.startswith(_PACKAGE_START) and (found := read_layer_styles(path, layer)):
        return found
    style = path.with_suffix(".qml")
    if style.is_file() and (found := read_qml(read_bytes(style, MOST_BYTES + 1), readable_name(style))):
        return found
    if raster_driver(path) is not None:
        return _of_raster(path)
    if head.startswith(PNG_SIGNATURE):
        table = SideTable({}, dict(enumerate((*colour, 255) for colour in png_palette(path) or ())))
        return _merged(_side_table(path), table)
    return []


def _of_raster(path: Path) -> list[PaletteEntry]:
    """Reads what stands in a TIFF or VRT, and in its side file."""
    driver = raster_driver(path)
    if driver == "VRT":
        require_near_sources(path)
    with open_raster(path, driver or "GTiff") as source:
        tags = source.tags(1)
        try:
            colours = source.colormap(1)
        except ValueError:  # it has none
            colours = {}
    names = {int(key[6:]): text for key, text in tags.items() if key.startswith("CLASS_") and key[6:].isdecimal()}
    if not names and "CLASS_NAMES" in tags:
        names = _listed(tags["CLASS_NAMES"])
    return _merged(_side_table(path), SideTable(names, colours))


def _listed(text: str) -> dict[int, str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {index: str(name) for index, name in enumerate(names)} if isinstance(names, list) else {}


def _side_table(path: Path) -> SideTable:
    side = side_file(path)
    return read_side_table(side) if side.is_file() else SideTable({}, {})


def _merged(first: SideTable, second: SideTable) -> list[PaletteEntry]:
    """Joins names and colours of two sources; each counts as a whole where the first has it."""
    names, colours = first.names or second.names, first.colours or second.colours
    if not colours:
        return []
    # A colour table has 256 entries whatever the number of classes.
    values = sorted(value for value in colours if not names or value in names)
    return [
        PaletteEntry(value, names.get(value, ""), (colours[value][0], colours[value][1], colours[value][2]))
        for value in values
        if colours[value][3] > 0
    ]
