"""Gives the classes of a dataset the colours that a style has for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rsseg_tf.datasets.spec import RGB, default_palette
from rsseg_tf.styles.entries import PaletteEntry

__all__ = ["class_palette", "plain_palette"]

BACKGROUND: RGB = (128, 128, 128)
"""The colour of a class called background for which nothing names one: on a map it covers most of the ground."""


def plain_palette(classes: Sequence[str]) -> tuple[RGB, ...]:
    """Returns one colour a class where no style has any: grey for background, those of `default_palette` for others.

    Args:
        classes: Names of the classes, by id.
    """
    return _filled({}, set(), classes)


def class_palette(
    entries: Sequence[PaletteEntry], classes: Sequence[str], values: Mapping[str, str] | None = None
) -> tuple[RGB, ...] | None:
    """Returns one colour a class, all of them different.

    A class has the colour of the entry with its name, in small or capital letters, or with one of its values. A class
    without an entry, or with a colour that another class has, gets one of `plain_palette` that no entry has.

    Args:
        entries: From `read_palette`.
        classes: Names of the classes, by id.
        values: The class of each value in the labels, where they have values besides their names.

    Returns:
        None when no entry is of any class.
    """
    known = {name.casefold(): name for name in classes}
    known |= {value.casefold(): name for value, name in (values or {}).items() if name in classes}
    found: dict[str, RGB] = {}
    for key in ("name", "value"):  # names count before values
        for entry in entries:
            name = known.get(str(getattr(entry, key)).strip().casefold())
            if name is not None and entry.colour not in found.values():
                found.setdefault(name, entry.colour)
    if not found:
        return None
    return _filled(found, {entry.colour for entry in entries}, classes)


def _filled(found: Mapping[str, RGB], taken: set[RGB], classes: Sequence[str]) -> tuple[RGB, ...]:
    """Returns the colours of the classes; those that were not found get colours that are not taken."""
    spare = (colour for colour in default_palette(255) if colour not in taken)
    colours = dict(found)
    for name in classes:
        if name not in colours:
            grey = name.casefold() == "background" and BACKGROUND not in taken
            colours[name] = BACKGROUND if grey else next(spare)
    return tuple(colours[name] for name in classes)
