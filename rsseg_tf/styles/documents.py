"""XML: what strangers may have written, and our own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from rsseg_tf.errors import DataError, reason

__all__ = ["MOST_BYTES", "add_element", "as_text", "parse_xml"]

MOST_BYTES = 16 * 2**20
"""Largest document; a style of a thousand classes takes about two."""

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NONE: Mapping[str, object] = MappingProxyType({})
_DEEPEST = 100  # QGIS nests about twenty


def parse_xml(data: bytes, name: str) -> ElementTree.Element:
    """Parses a document in bounded memory.

    A document type is allowed, as QGIS writes one; it is never fetched, and it may declare nothing. So there are no
    entities but those of XML itself, which could name files or grow without end.

    Args:
        data: The document.
        name: What it is, for errors.

    Returns:
        Its root.

    Raises:
        DataError: When it is damaged, too large, nested too deeply, or declares anything.
    """
    if len(data) > MOST_BYTES:
        raise _refused(name, f"it has more than {MOST_BYTES // 2**20} MiB")
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    depth = 0

    def start(tag: str, attrib: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise _refused(name, f"its elements are nested more than {_DEEPEST} deep")
        builder.start(tag, attrib)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def doctype(root: str, system: str | None, public: str | None, has_declarations: Any) -> None:
        if has_declarations:
            raise _refused(name, "its document type declares entities or elements, in which anything can be hidden")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, doctype
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the last two for unknown encodings
        raise DataError(f"{name} is damaged XML: {reason(error)}. Save the style again.") from error
    return builder.close()


def add_element(
    parent: ElementTree.Element, tag: str, attributes: Mapping[str, object] = _NONE, text: object = ""
) -> ElementTree.Element:
    """Adds an element; characters that XML has no way to write are replaced."""
    clean = {name: _clean(value) for name, value in attributes.items()}
    element = ElementTree.SubElement(parent, tag, clean)
    element.text = _clean(text) or None
    return element


def as_text(root: ElementTree.Element) -> str:
    """Returns a document as text with an element per line."""
    ElementTree.indent(root)
    return ElementTree.tostring(root, "unicode") + "\n"


def _clean(value: object) -> str:
    return _NOT_IN_XML.sub("\ufffd", str(value))


def _refused(name: str, why: str) -> DataError:
    return DataError(f"{name} is not read: {why}. Save the style anew in QGIS.")
