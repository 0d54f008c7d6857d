"""Gives the classes of a dataset the colours that a style has for them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from rsseg_tf.datasets.spec import RGB, default_palette
from rsseg_tf.styles.entries import PaletteEntry

__all__ = ["class_palette", "plain_palette"]

_USUAL: dict[str, RGB] = {
    "background": (128, 128, 128),  # on a map it covers most of the ground
    "water river lake pond sea ocean canal": (58, 120, 206),
    "tree forest wood woodland": (38, 135, 62),
    "vegetation grass grassland meadow pasture rangeland shrub": (134, 190, 84),
    "building house roof rooftop": (206, 66, 54),
    "road street highway": (84, 84, 96),
    "car vehicle truck": (250, 217, 46),
    "crop cropland farmland agriculture agricultural field": (214, 140, 70),
    "ground soil bare barren sand land": (189, 168, 122),
}
"""Colours in which maps show what classes are often called, by words of the names; earlier ones count first."""
_NEAR = 60  # of two colours: less than this apart, they would be confused on a map


def plain_palette(classes: Sequence[str]) -> tuple[RGB, ...]:
    """Returns one colour a class where no style has any.

    Water is blue, a tree green and background grey: what a class is called by an English word has the colour in which
    maps show it. Others, and a second class of the kind, have colours of `default_palette` that are not like these.

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
    colours = dict(found)
    for name in classes:
        usual = _usual(name)
        if name not in colours and usual is not None and usual not in taken | set(colours.values()):
            colours[name] = usual
    plain = [colour for colour in default_palette(255) if colour not in taken]
    # Those that are like a colour on the map come last: there may be more classes than colours unlike any.
    spare = iter(sorted(plain, key=lambda colour: any(math.dist(colour, other) < _NEAR for other in colours.values())))
    return tuple(colours[name] if name in colours else next(spare) for name in classes)


def _usual(name: str) -> RGB | None:
    """Returns the colour of `_USUAL` for a name with one of its words, in the singular or with an s."""
    own = set(re.split(r"[\W\d_]+", name.casefold()))
    own |= {word.removesuffix("s") for word in own}
    return next((colour for words, colour in _USUAL.items() if own & set(words.split())), None)
