from __future__ import annotations

import math

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
    grey, *others = plain_palette(["background", "kind 1", "kind 2"])
    assert grey == (128, 128, 128) and tuple(others) == default_palette(2)
    entries = [PaletteEntry("1", "roof", RED)]
    assert class_palette(entries, ["Background", "roof"]) == ((128, 128, 128), RED)
    assert class_palette([*entries, PaletteEntry("0", "background", BLUE)], ["background", "roof"]) == (BLUE, RED)
    assert class_palette([PaletteEntry("1", "roof", grey)], ["background", "roof"]) == (default_palette(1)[0], grey)


def test_classes_with_usual_names_have_the_colours_of_maps() -> None:
    water, trees, low, other, again = plain_palette(["Water", "trees", "low_vegetation", "antenna", "river"])
    assert water == (58, 120, 206) and trees == (38, 135, 62) and low == (134, 190, 84)
    assert other in default_palette(255) and again in default_palette(255) and other != again
    assert min(math.dist(other, known) for known in (water, trees, low)) >= 60
    assert plain_palette(["Land (unpaved area)", "grass"]) == ((189, 168, 122), low)
    assert plain_palette(["treehouse", "seam"]) == default_palette(2)  # words, not parts of them
    entries = [PaletteEntry("1", "roof", water)]  # a style that has the colour keeps it
    palette = class_palette(entries, ["roof", "water"])
    assert palette is not None and palette[0] == water != palette[1]


def test_any_number_of_classes_has_different_colours() -> None:
    for count in (20, 255):
        assert len(set(plain_palette(["water", "tree", *map(str, range(count - 2))]))) == count
