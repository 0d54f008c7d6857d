"""Styles of QGIS, `.qml`: read from what users have drawn, written beside results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from rsseg_tf import __version__
from rsseg_tf.datasets.spec import RGB
from rsseg_tf.files import StrPath, atomic_path
from rsseg_tf.styles.documents import add_element, as_text, parse_xml
from rsseg_tf.styles.entries import PaletteEntry

__all__ = ["confidence_qml", "is_ours", "labels_qml", "polygons_qml", "read_qml", "write_qml"]

_MARK = "<!-- Written by rsseg_tf "
_MARK_BYTES = 4096  # within which the mark stands
_QGIS_VERSION = "3.22.0"  # whose form of a style this is; later versions of QGIS convert it

_RAMP: tuple[RGB, ...] = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_COLOUR_OPTIONS = ("color", "line_color", "fill_color", "outline_color")
_DEEPEST_SYMBOL = 5  # a layer of a symbol may hold a symbol
# A rule such as "class" = 'water' or class_id = 3.
_RULE = re.compile(r"""\s*(?:"(?:[^"]|"")+"|\w+)\s*(?:=|is)\s*(?:'((?:[^']|'')*)'|(-?\d+))\s*""", re.IGNORECASE)


# === Reading ===


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


# === Writing ===


def labels_qml(entries: Sequence[PaletteEntry]) -> str:
    """Returns the style of a raster of class ids: an entry of the legend for each class.

    It is whole: a style that QGIS finds beside a raster replaces all that QGIS would take from the raster itself.

    Args:
        entries: The classes, their ids as values.
    """
    root, renderer = _raster("paletted")
    palette = add_element(renderer, "colorPalette")
    for value, name, colour in entries:
        add_element(palette, "paletteEntry", {"value": value, "color": _hex(colour), "label": name, "alpha": 255})
    return _text_of(root)


def confidence_qml() -> str:
    """Returns the style of a raster of probabilities, 0..1: a continuous ramp from dark (0) to light (1).

    The colours (viridis) differ in lightness too, so that everybody and every printer tells them apart.
    """
    root, renderer = _raster("singlebandpseudocolor", classificationMin=0, classificationMax=1)
    shader = {"colorRampType": "INTERPOLATED", "classificationMode": 1, "minimumValue": 0, "maximumValue": 1, "clip": 0}
    parent = add_element(add_element(renderer, "rastershader"), "colorrampshader", shader)
    steps = [(f"{step / (len(_RAMP) - 1):g}", colour) for step, colour in enumerate(_RAMP)]
    stops = ":".join(f"{step};{_comma(colour)}" for step, colour in steps[1:-1])
    ramp = {"color1": _comma(_RAMP[0]), "color2": _comma(_RAMP[-1]), "discrete": 0, "rampType": "gradient"}
    _add_options(add_element(parent, "colorramp", {"type": "gradient", "name": "[source]"}), {**ramp, "stops": stops})
    for step, colour in steps:
        add_element(parent, "item", {"value": step, "color": _hex(colour), "label": step, "alpha": 255})
    return _text_of(root)


def polygons_qml(entries: Sequence[PaletteEntry], field: str) -> str:
    """Returns the style of a layer of polygons: a category for each class.

    Args:
        entries: The classes, what the field has as values.
        field: The field that tells the class.
    """
    root = _root()
    renderer = {"type": "categorizedSymbol", "attr": field, "symbollevels": 0, "enableorderby": 0}
    parent = add_element(root, "renderer-v2", renderer)
    categories, symbols = add_element(parent, "categories"), add_element(parent, "symbols")
    for index, (value, name, colour) in enumerate(entries):
        kind = "integer" if isinstance(value, int) else "string"
        category = {"value": value, "type": kind, "label": name, "symbol": index, "render": "true"}
        add_element(categories, "category", category)
        symbol = {"type": "fill", "name": index, "alpha": 1, "clip_to_extent": 1, "force_rhr": 0}
        layer = {"class": "SimpleFill", "enabled": 1, "locked": 0, "pass": 0}
        # An outline of the same colour closes the seams between neighbours.
        options = {
            "color": _comma(colour), "style": "solid", "outline_color": _comma(colour), "outline_style": "solid",
            "outline_width": 0.1, "outline_width_unit": "MM", "joinstyle": "bevel",
        }  # fmt: skip
        _add_options(add_element(add_element(symbols, "symbol", symbol), "layer", layer), options)
    add_element(root, "layerOpacity", text=1)
    add_element(root, "layerGeometryType", text=2)  # polygons
    return _text_of(root)


def write_qml(path: StrPath, text: str) -> bool:
    """Writes a style, whole or not at all, unless a user's stands there.

    Returns:
        Whether it is written: False where the file has lost the mark, as it does when QGIS saves a style there.

    Raises:
        OSError: When it cannot be written.
    """
    path = Path(path)
    if path.exists() and not is_ours(_start_of(path)):
        return False
    with atomic_path(path) as temporary:
        temporary.write_text(text, "utf-8")
    return True


def is_ours(text: str) -> bool:
    """Tells whether this package wrote a style, and nobody has saved it since."""
    return _MARK in text[:_MARK_BYTES]


def _start_of(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MARK_BYTES).decode("utf-8", "replace")


def _root() -> ElementTree.Element:
    return ElementTree.Element("qgis", {"version": _QGIS_VERSION, "styleCategories": "Symbology"})


def _text_of(root: ElementTree.Element) -> str:
    doctype = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>"
    mark = f"{_MARK}{__version__}, and anew by every prediction while this line stands here. -->"
    return f"{doctype}\n{mark}\n{as_text(root)}"


def _raster(kind: str, **more: object) -> tuple[ElementTree.Element, ElementTree.Element]:
    """Returns the style of a raster, and its renderer to be filled."""
    root = _root()
    pipe = add_element(root, "pipe")
    near = {"zoomedInResamplingMethod": "nearestNeighbour", "zoomedOutResamplingMethod": "nearestNeighbour"}
    add_element(add_element(pipe, "provider"), "resampling", {"enabled": "false", **near, "maxOversampling": 2})
    attributes = {"type": kind, "band": 1, "opacity": 1, "alphaBand": -1, "nodataColor": "", **more}
    renderer = add_element(pipe, "rasterrenderer", attributes)
    add_element(pipe, "brightnesscontrast", {"brightness": 0, "contrast": 0, "gamma": 1})
    add_element(pipe, "rasterresampler", {"maxOversampling": 2})
    add_element(pipe, "resamplingStage", text="resamplingFilter")
    add_element(root, "blendMode", text=0)
    return root, renderer


def _add_options(parent: ElementTree.Element, values: Mapping[str, object]) -> None:
    options = add_element(parent, "Option", {"type": "Map"})
    for name, value in values.items():
        add_element(options, "Option", {"type": "QString", "name": name, "value": value})


def _hex(colour: RGB) -> str:
    return "#" + bytes(colour).hex()


def _comma(colour: RGB) -> str:
    return ",".join(map(str, (*colour, 255)))
