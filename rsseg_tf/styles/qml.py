"""Styles of QGIS, `.qml`: read from what users have drawn, written beside results."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from rsseg_tf.datasets.spec import RGB
from rsseg_tf.styles.documents import parse_xml
from rsseg_tf.styles.entries import PaletteEntry

__all__ = ["read_qml"]

_COLOUR_OPTIONS = ("color", "line_color", "fill_color", "outline_color")
_DEEPEST_SYMBOL = 5  # a layer of a symbol may hold a symbol
# A rule such as "class" = 'water' or class_id = 3.
_RULE = re.compile(r"""\s*(?:"(?:[^"]|"")+"|\w+)\s*(?:=|is)\s*(?:'((?:[^']|'')*)'|(-?\d+))\s*""", re.IGNORECASE)


def read_qml(data: bytes, name: str) -> list[PaletteEntry]:
    """Reads the classes of a style; see `read_palette` for the kinds.

    Args:
        data: The document.
        name: What it is, for errors.

    Returns:
        The entries; empty for styles without classes, such as one colour for all or a ramp.

    Raises:
        DataError: When the document is damaged or hostile; see `parse_xml`.
    """
    root = parse_xml(data, name)
    raster = next(root.iter("rasterrenderer"), None)
    if raster is not None:
        return list(_of_raster(raster))
    vector = next(root.iter("renderer-v2"), None)
    return [] if vector is None else list(_of_vector(vector))


def _of_raster(renderer: ElementTree.Element) -> Iterator[PaletteEntry]:
    if renderer.get("type") == "paletted":
        items = renderer.iter("paletteEntry")
    elif any(shader.get("colorRampType") == "EXACT" for shader in renderer.iter("colorrampshader")):
        items = renderer.iter("item")
    else:
        return
    for item in items:
        value, colour = _value(item.get("value", "")), _colour(item.get("color", ""))
        if isinstance(value, int) and colour is not None and item.get("alpha") != "0":
            yield PaletteEntry(value, item.get("label", ""), colour)


def _of_vector(renderer: ElementTree.Element) -> Iterator[PaletteEntry]:
    symbols = {symbol.get("name"): symbol for symbol in renderer.iterfind("symbols/symbol")}
    if renderer.get("type") == "categorizedSymbol":
        for category in renderer.iterfind("categories/category"):
            colour = _symbol_colour(symbols.get(category.get("symbol")))
            # A category may stand for several values.
            values = [one.get("value", "") for one in category.iter("val")] or [category.get("value", "")]
            for text in values:
                if text and text != "NULL" and colour is not None:  # an empty one stands for all other values
                    yield PaletteEntry(_value(text), category.get("label", ""), colour)
    elif renderer.get("type") == "RuleRenderer":
        for rule in renderer.iter("rule"):
            match = _RULE.fullmatch(rule.get("filter", ""))
            colour = _symbol_colour(symbols.get(rule.get("symbol")))
            if match is not None and colour is not None:
                text = match[2] if match[1] is None else match[1].replace("''", "'")
                yield PaletteEntry(_value(text), rule.get("label", ""), colour)


def _symbol_colour(symbol: ElementTree.Element | None, depth: int = 0) -> RGB | None:
    """Returns the colour of a symbol: of the first layer that has one and is drawn."""
    if symbol is None or depth > _DEEPEST_SYMBOL:
        return None
    for layer in symbol.findall("layer"):
        if layer.get("enabled") == "0":
            continue
        options = {option.get("name"): option.get("value", "") for option in layer.iterfind("Option/Option")}
        options |= {prop.get("k"): prop.get("v", "") for prop in layer.findall("prop")}  # before QGIS 3.22
        names: tuple[str, ...] = _COLOUR_OPTIONS
        if options.get("style") == "no":  # an outline alone
            names = ("outline_color",)
        for name in names:
            colour = _colour(options.get(name, ""))
            if colour is not None:
                return colour
        colour = _symbol_colour(layer.find("symbol"), depth + 1)
        if colour is not None:
            return colour
    return None


def _value(text: str) -> int | str:
    """Returns a whole number where the text is one in its shortest form; `007` stays text."""
    return int(text) if re.fullmatch(r"0|-?[1-9]\d{0,17}", text) else text


def _colour(text: str) -> RGB | None:
    """Returns the colour of `#rrggbb`, `#aarrggbb` or `r,g,b,a` with whatever follows; None for others."""
    if match := re.fullmatch(r"#(?:[0-9a-fA-F]{2})?([0-9a-fA-F]{6})", text):
        red, green, blue = bytes.fromhex(match[1])
        return red, green, blue
    match = re.match(r"(\d{1,3}),(\d{1,3}),(\d{1,3})(?:,|$)", text)
    if match is None or max(map(int, match.groups())) > 255:
        return None
    return int(match[1]), int(match[2]), int(match[3])
