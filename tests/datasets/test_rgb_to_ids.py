from __future__ import annotations

import numpy as np
import pytest

from rsseg_tf.datasets.label_codings import rgb_to_ids
from rsseg_tf.errors import DataError

PALETTE = ((226, 169, 41), (132, 41, 246), (0, 0, 1))
GREY = (155, 155, 155)


def mask_of(*colours: tuple[int, int, int]) -> np.ndarray:
    return np.array([colours], np.uint8)


def test_ids_and_ignored() -> None:
    ids = rgb_to_ids(mask_of(PALETTE[1], GREY, PALETTE[0], PALETTE[2]), PALETTE, ignored=[GREY])
    assert ids.dtype == np.uint8
    assert ids.tolist() == [[1, 255, 0, 2]]


def test_other_ignore_index() -> None:
    assert rgb_to_ids(mask_of(GREY), PALETTE, ignored=[GREY], ignore_index=9).tolist() == [[9]]


def test_a_colour_that_differs_by_one_or_in_order_is_unknown() -> None:
    for colour in ((226, 169, 42), (41, 169, 226), (1, 0, 0)):
        with pytest.raises(DataError, match="outside the palette"):
            rgb_to_ids(mask_of(colour), PALETTE)


def test_names_file_colour_and_count() -> None:
    mask = mask_of(PALETTE[0], (1, 2, 3), (1, 2, 3), (4, 5, 6))
    with pytest.raises(DataError, match=r"m\.png has 3 of 4 pixels in 2 colours .*often \(1, 2, 3\) \(2 times\)"):
        rgb_to_ids(mask, PALETTE, name="m.png")


def test_fraction_is_a_limit() -> None:
    mask = mask_of(*[PALETTE[0]] * 9, (1, 2, 3))
    assert rgb_to_ids(mask, PALETTE, off_palette_fraction=0.1).tolist() == [[0] * 9 + [255]]
    with pytest.raises(DataError, match="1 of 10 pixels"):
        rgb_to_ids(mask, PALETTE, off_palette_fraction=0.0999)


@pytest.mark.parametrize(
    "mask", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.uint16)]
)
def test_refuses_other_arrays(mask: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"a mask in colours is \(H, W, 3\) uint8"):
        rgb_to_ids(mask, PALETTE)


def test_refuses_a_colour_with_two_meanings() -> None:
    with pytest.raises(DataError, match="must differ"):
        rgb_to_ids(mask_of(GREY), PALETTE, ignored=[PALETTE[0]])
