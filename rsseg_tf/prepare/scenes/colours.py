"""Names and colours of classes, from the styles that QGIS keeps with the labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rsseg_tf.datasets.spec import RGB
from rsseg_tf.errors import DataError
from rsseg_tf.prepare.scenes.classes import IGNORED_ID, ClassTable, value_text
from rsseg_tf.styles import PaletteEntry, class_palette, plain_palette, read_palette

__all__ = ["Style", "names_of", "palette_of", "read_styles"]

Style = dict[str, tuple[str, RGB]]
"""Name, empty where the style has none, and colour of each value of the labels."""


def read_styles(paths: Sequence[Path], layer: str | None, chosen: Path | None) -> tuple[Style, list[str]]:
    """Reads the styles of files of labels.

    Args:
        paths: The files.
        layer: The layer of a file of several.
        chosen: A file with a style that is to be used instead.

    Returns:
        The first entry of each value, and notes on styles that were not used.

    Raises:
        DataError: When the chosen style cannot be read or holds no classes.
    """
    found: Style = {}
    notes: list[str] = []
    for path in paths if chosen is None else [chosen]:
        try:
            entries = read_palette(path, layer if chosen is None else None)
        except DataError as error:
            if chosen is not None:
                raise
            notes.append(f"The style of {path} is not used: {error}")
            continue
        for value, name, colour in entries:
            text = value_text(value)
            if text is not None:
                found.setdefault(text, (name.strip(), colour))
    if chosen is not None and not found:
        raise DataError(f"{chosen} holds no style with a colour for each class. Leave --style out, or style the layer.")
    return found, notes


def names_of(style: Style, values: Sequence[str]) -> dict[str, str]:
    """Returns the names that a style gives to values that are numbers; none unless it names each of them."""
    names = {value: style[value][0] for value in values if value in style and style[value][0]}
    if len(names) < len(values) or not all(value.lstrip("-").isdecimal() for value in values):
        return {}
    return names


def palette_of(style: Style, table: ClassTable) -> tuple[RGB, ...]:
    """Returns the colours of the classes: those of the style, others where it has none or one twice."""
    values = {value: table.names[number] for value, number in table.ids.items() if number != IGNORED_ID}
    entries = [PaletteEntry(value, name, colour) for value, (name, colour) in style.items()]
    return class_palette(entries, table.names, values) or plain_palette(table.names)
