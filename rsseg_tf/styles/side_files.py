"""The side file of a raster, `NAME.tif.aux.xml`: names and colours of classes as GDAL and QGIS read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rsseg_tf.files import SIDE_SUFFIX, StrPath, readable_name
from rsseg_tf.files.reading import read_bytes
from rsseg_tf.styles.documents import MOST_BYTES, add_element, as_text, parse_xml
from rsseg_tf.styles.entries import PaletteEntry

__all__ = ["RGBA", "SideTable", "read_side_table", "side_file", "with_side_table"]

RGBA = tuple[int, int, int, int]

# GDAL's `GDALRATFieldUsage` by number; newer versions write names beside them.
_NAME, _MIN, _MAX, _MIN_MAX, _RED, _GREEN, _BLUE, _ALPHA = 2, 3, 4, 5, 6, 7, 8, 9


# Names as QGIS gives them; numbers of GDAL's `GDALRATFieldType` (whole number 0, text 2) and usage.
_COLUMNS = (
    ("Value", 0, _MIN_MAX), ("Class", 2, _NAME), ("Red", 0, _RED), ("Green", 0, _GREEN), ("Blue", 0, _BLUE),
    ("Alpha", 0, _ALPHA),
)  # fmt: skip


@dataclass(frozen=True)
class SideTable:
    """What a raster says of its values.

    Attributes:
        names: Name of each value.
        colours: Red, green, blue and alpha of each value, 0..255.
    """

    names: dict[int, str]
    colours: dict[int, RGBA]


def side_file(path: StrPath) -> Path:
    """Returns the path of a raster's side file."""
    path = Path(path)
    return path.with_name(path.name + SIDE_SUFFIX)


def read_side_table(side: Path) -> SideTable:
    """Reads the attribute table of the first band, and the category names where the table has no names.

    Raises:
        DataError: When the file is damaged or hostile; see `parse_xml`.
    """
    root = parse_xml(read_bytes(side, MOST_BYTES + 1), readable_name(side))
    band = next((band for band in root.iter("PAMRasterBand") if band.get("band") == "1"), None)
    if band is None:
        return SideTable({}, {})
    table = band.find("GDALRasterAttributeTable")
    names, colours = ({}, {}) if table is None else _of_table(table)
    categories = band.find("CategoryNames")
    if not names and categories is not None:
        names = {index: text for index, one in enumerate(categories.findall("Category")) if (text := one.text or "")}
    return SideTable(names, colours)


def _of_table(table: ElementTree.Element) -> tuple[dict[int, str], dict[int, RGBA]]:
    """Reads names and colours of an attribute table by the usage of its columns."""
    columns = {_whole(field.findtext("Usage")): index for index, field in enumerate(table.findall("FieldDefn"))}
    at = columns.get(_MIN_MAX, columns.get(_MIN))
    names: dict[int, str] = {}
    colours: dict[int, RGBA] = {}
    for number, row in enumerate(table.findall("Row")):
        cells = [cell.text or "" for cell in row.findall("F")]
        value = number if at is None else _whole(cells[at] if at < len(cells) else None)
        if value is None:
            continue

        def cell(usage: int, cells: list[str] = cells) -> str | None:
            column = columns.get(usage)
            return cells[column] if column is not None and column < len(cells) else None

        if name := cell(_NAME):
            names[value] = name
        red, green, blue = (_whole(cell(usage)) for usage in (_RED, _GREEN, _BLUE))
        if red is not None and green is not None and blue is not None:
            alpha = _whole(cell(_ALPHA))
            found = (red, green, blue, 255 if alpha is None else alpha)
            if all(0 <= part <= 255 for part in found):
                colours[value] = found
    return names, colours


def _whole(text: str | None) -> int | None:
    """Returns a whole number, which GDAL may have written as a fraction; None for other texts."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return int(number) if abs(number) < 2**31 and number == int(number) else None


def with_side_table(text: str, entries: Sequence[PaletteEntry]) -> str:
    """Returns a side file with an attribute table and category names of the first band; its other content stays.

    Older programs know category names alone, one for each value from 0; newer ones take the table, which has rows for
    the classes alone.

    Args:
        text: The side file so far; may be empty.
        entries: The classes, their ids as values.

    Raises:
        DataError: When the side file is damaged.
    """
    root = parse_xml((text or "<PAMDataset/>").encode(), "a side file of GDAL")
    band = next((band for band in root.findall("PAMRasterBand") if band.get("band") == "1"), None)
    if band is None:
        band = add_element(root, "PAMRasterBand", {"band": 1})
    for element in [*band.findall("CategoryNames"), *band.findall("GDALRasterAttributeTable")]:
        band.remove(element)
    names = {int(entry.value): entry.name for entry in entries}
    categories = add_element(band, "CategoryNames")
    for value in range(max(names) + 1):
        add_element(categories, "Category", text=names.get(value, ""))
    table = add_element(band, "GDALRasterAttributeTable", {"tableType": "thematic"})
    for index, (name, kind, usage) in enumerate(_COLUMNS):
        column = add_element(table, "FieldDefn", {"index": index})
        for tag, content in (("Name", name), ("Type", kind), ("Usage", usage)):
            add_element(column, tag, text=content)
    for index, entry in enumerate(entries):
        row = add_element(table, "Row", {"index": index})
        for cell in (entry.value, entry.name, *entry.colour, 255):
            add_element(row, "F", text=cell)
    return as_text(root)
