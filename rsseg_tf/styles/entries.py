"""What a style says of a class."""

from __future__ import annotations

from typing import NamedTuple

from rsseg_tf.datasets.spec import RGB

__all__ = ["PaletteEntry"]


class PaletteEntry(NamedTuple):
    """A class of a style.

    Attributes:
        value: Its id in a raster, or the value of its field in a vector layer: an `int` where the style has a whole
            number, else text.
        name: What the legend calls it; may be empty.
        colour: Red, green, blue, 0..255.
    """

    value: int | str
    name: str
    colour: RGB
