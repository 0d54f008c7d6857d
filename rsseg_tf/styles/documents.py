"""XML that strangers may have written, and text for XML of our own."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from rsseg_tf.errors import DataError, reason

__all__ = ["MOST_BYTES", "attributes", "escape", "parse_xml", "quoteattr"]

MOST_BYTES = 16 * 2**20
"""Largest document; a style of a thousand classes takes about two."""

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


def attributes(values: dict[str, object]) -> str:
    """Returns attributes as they stand in a tag: ` name="value"` each."""
    return "".join(f" {name}={quoteattr(str(value))}" for name, value in values.items())


def _refused(name: str, why: str) -> DataError:
    return DataError(f"{name} is not read: {why}. Save the style anew in QGIS.")
