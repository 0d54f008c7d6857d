from __future__ import annotations

from rsseg_tf.datasets.spec import default_palette
from rsseg_tf.styles import PaletteEntry, class_palette, plain_palette

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_classes_get_the_colours_of_their_names_and_values() -> None:
    entries = [PaletteEntry(1, "Roof", RED), PaletteEntry("road", "", GREEN), PaletteEntry(7, "other", BLUE)]
    assert class_palette(entries, ["road", "roof"]) == (GREEN, RED)
    assert class_palette(entries, ["water", "roof"], {"7": "water"}) == (BLUE, RED)
    assert class_palette(entries, ["water"]) is None and class_palette([], ["roof"]) is None


def test_other_classes_get_other_colours() -> None:
    first = default_palette(1)[0]
    entries = [PaletteEntry(0, "roof", first), PaletteEntry(1, "road", first)]
    palette = class_palette(entries, ["road", "roof", "water"])
    assert palette is not None and first in palette[:2] and len(set(palette)) == 3


def test_names_count_before_values() -> None:
    entries = [PaletteEntry("road", "roof", RED), PaletteEntry("x", "road", GREEN)]
    assert class_palette(entries, ["road", "roof"]) == (GREEN, RED)


def test_background_is_grey_unless_a_style_has_it() -> None:
    grey, *others = plain_palette(["background", "road", "roof"])
    assert grey == (128, 128, 128) and tuple(others) == default_palette(2)
    entries = [PaletteEntry("1", "roof", RED)]
    assert class_palette(entries, ["Background", "roof"]) == ((128, 128, 128), RED)
    assert class_palette([*entries, PaletteEntry("0", "background", BLUE)], ["background", "roof"]) == (BLUE, RED)
    assert class_palette([PaletteEntry("1", "roof", grey)], ["background", "roof"]) == (default_palette(1)[0], grey)
