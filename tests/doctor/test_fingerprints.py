"""Copies are found however they were changed; other pictures are not, however alike their shades."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg_tf.doctor.fingerprints import MAX_DISTANCE, Fingerprint, _turned, _turned_bits, fingerprint, near_pairs
from rsseg_tf.rasters.images import read_image
from tests.fixtures.datasets import picture

DUBAI = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "dubai" / "images"


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def shaded(image: np.ndarray, contrast: float, brightness: float) -> np.ndarray:
    return np.clip(image * contrast + brightness, 0, 255).astype(np.uint8)


def half(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


POSITIONS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda image: image,
    lambda image: image[:, ::-1],
    lambda image: image[::-1],
    lambda image: np.rot90(image, 2),
    lambda image: image.transpose(1, 0, 2),
    lambda image: np.rot90(image, 1),
    lambda image: np.rot90(image, 3),
    lambda image: np.rot90(image, 2).transpose(1, 0, 2),
)
NAMES = (
    "", "mirrored left to right", "mirrored top to bottom", "turned by 180 degrees", "mirrored along the diagonal",
    "turned by 90 degrees", "turned by 90 degrees", "mirrored along the diagonal",
)  # fmt: skip


def found(images: list[np.ndarray], distance: int = 7) -> list[tuple[int, int]]:
    prints = [fingerprint(np.ascontiguousarray(image)) for image in images]
    assert None not in prints
    return sorted({(pair.first, pair.second) for pair in near_pairs(prints, distance)})  # type: ignore[arg-type]


# === Copies ===


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    position=st.integers(0, 7),
    quality=st.integers(40, 100),
    contrast=st.floats(0.6, 1.0),
    brightness=st.floats(-20, 40),
    size=st.sampled_from([(96, 96), (80, 130)]),
)
def test_a_copy_is_found_encoded_again_brightened_and_turned(
    seed: int, position: int, quality: int, contrast: float, brightness: float, size: tuple[int, int]
) -> None:
    image = picture(seed, *size)
    copy = POSITIONS[position](shaded(jpeg(image, quality), contrast, brightness))
    others = [picture(seed + number, *size) for number in (1, 2, 3)]
    assert found([others[0], image, others[1], copy, others[2]]) == [(1, 3)]


@pytest.mark.parametrize("position", range(8))
def test_the_position_is_named_and_exact_copies_differ_in_no_bit(position: int) -> None:
    prints = [
        fingerprint(np.ascontiguousarray(POSITIONS[position](picture(3, 96, 96)))),
        fingerprint(picture(3, 96, 96)),
    ]
    (pair,) = near_pairs(prints, 7)  # type: ignore[arg-type]
    assert (pair.first, pair.second, pair.distance, pair.turn) == (0, 1, 0, NAMES[position])


def test_a_copy_of_half_the_size_is_found() -> None:
    assert found([picture(5, 128, 128), picture(6, 128, 128), half(picture(5, 128, 128))]) == [(0, 2)]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.astype(np.uint16) * 257,
        lambda image: image.astype(np.float32) / 255,
        lambda image: image.astype(np.float64) * 1e30,
        lambda image: image.astype(np.int16) - 3000,
    ],
    ids=["uint16", "float32", "huge", "negative"],
)
def test_the_type_of_the_pixels_does_not_matter(change: Callable[[np.ndarray], np.ndarray]) -> None:
    grey = picture(5, 96, 96)[..., :1]
    assert found([change(grey), picture(6, 96, 96)[..., :1], np.ascontiguousarray(grey[::-1])]) == [(0, 2)]


def test_no_data_does_not_matter() -> None:
    image = picture(5, 96, 96).astype(np.float32)
    broken = image.copy()
    broken[:3, :40] = np.nan
    absent = np.zeros((96, 96), bool)
    absent[:3, :40] = True
    sentinel = image.copy()
    sentinel[absent] = -1e6
    prints = [fingerprint(image), fingerprint(broken), fingerprint(sentinel, absent)]
    assert [(pair.first, pair.second) for pair in near_pairs(prints, 7)] == [(0, 1), (0, 2), (1, 2)]  # type: ignore[arg-type]


# === What is no copy ===


def test_crops_of_one_scene_are_no_copies() -> None:
    scene = picture(8, 512, 512)
    crops = [scene[y : y + 128, x : x + 128] for y in range(0, 385, 64) for x in range(0, 385, 64)]
    assert len(crops) == 49 and found(crops, MAX_DISTANCE) == []


def test_shades_in_common_do_not_make_a_copy() -> None:
    """Two fields under the same evening light: the coarse shades are the same, what grows there is not."""
    light = np.linspace(40, 200, 128)[None, :, None] * np.ones((128, 1, 3))
    rng = np.random.default_rng(1)
    fields = [np.clip(light + rng.normal(0, 10, light.shape), 0, 255).astype(np.uint8) for _ in range(6)]
    assert found(fields, MAX_DISTANCE) == []


def test_black_borders_in_common_do_not_make_a_copy() -> None:
    tiles = [picture(number, 128, 128) for number in range(12)]
    for tile in tiles:
        tile[:, :60] = 0
    assert found(tiles, MAX_DISTANCE) == []
    assert found([*tiles, jpeg(tiles[3], 80)]) == [(3, 12)], "while a copy with its border is found"


@pytest.mark.parametrize(
    "image",
    [
        np.full((64, 64, 3), 9, np.uint8),
        np.full((64, 64, 1), np.nan, np.float32),
        picture(1, 31, 200),
        np.pad(picture(1, 12, 12), ((0, 116), (0, 116), (0, 0))),
    ],
    ids=["constant", "not finite", "small", "nearly empty"],
)
def test_pictures_that_cannot_be_told_apart_have_no_fingerprint(image: np.ndarray) -> None:
    assert fingerprint(image) is None


# === The search ===


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), distance=st.integers(0, MAX_DISTANCE))
def test_the_search_finds_what_comparing_all_with_all_finds(seed: int, distance: int) -> None:
    rng = np.random.default_rng(seed)
    cells = fingerprint(picture(1, 96, 96)).cells  # type: ignore[union-attr]  # equal, so that the hash decides
    base = rng.integers(0, 2, (12, 64), np.uint8)
    base[:, 0] = 0
    far = [base]
    for _ in range(4):  # others at distances around the limit
        flips = np.zeros_like(base)
        for row in flips:
            row[rng.choice(np.arange(1, 64), rng.integers(0, distance + 4), replace=False)] = 1
        far.append(base ^ flips)
    bits = np.concatenate(far)
    packed = np.packbits(bits, axis=1)
    prints = [Fingerprint(row.tobytes(), cells) for row in packed]
    pairs = {(pair.first, pair.second) for pair in near_pairs(prints, distance) if pair.turn == ""}
    differing = (bits[:, None] != bits[None]).sum(axis=2)
    wanted = {(i, j) for i in range(len(bits)) for j in range(i + 1, len(bits)) if differing[i, j] <= distance}
    assert pairs == wanted


@pytest.mark.parametrize("turn", [(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)])
def test_turning_the_hash_is_turning_the_picture(turn: tuple[bool, bool, bool]) -> None:
    image = picture(7, 128, 128)
    turned = np.ascontiguousarray(_turned(image.transpose(2, 0, 1), turn).transpose(1, 2, 0))
    direct, plain = fingerprint(turned), fingerprint(image)
    assert direct is not None and plain is not None
    bits = _turned_bits(np.frombuffer(plain.bits, np.uint8)[None], turn)
    assert (np.unpackbits(bits) != np.unpackbits(np.frombuffer(direct.bits, np.uint8))).sum() <= 1
    assert _turned_bits(np.zeros((1, 8), np.uint8), turn)[0, 0] < 128, "the first bit stays out of it"


def test_many_hashes_that_are_alike_fit_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsseg_tf.doctor.fingerprints._BLOCK", 7)
    one = fingerprint(picture(1, 96, 96))
    assert one is not None
    pairs = [(pair.first, pair.second) for pair in near_pairs([one] * 9, 7) if pair.turn == ""]
    assert pairs == [(i, j) for i in range(9) for j in range(i + 1, 9)]


def test_one_picture_or_none_has_no_pairs() -> None:
    assert list(near_pairs([], 7)) == []
    assert list(near_pairs([fingerprint(picture(1, 96, 96))], 7)) == []  # type: ignore[list-item]


# === Real images ===


@pytest.mark.skipif(not DUBAI.is_dir(), reason="needs the Dubai scenes beside the checkout (../shared/data/dubai)")
def test_copies_of_real_tiles_are_found_and_no_others() -> None:
    tiles = [read_image(path)[:448, :448] for path in sorted(DUBAI.glob("*.jpg"))[::3]]
    copies = [
        np.ascontiguousarray(POSITIONS[number % 8](shaded(jpeg(tile, 50), 0.9, 15)))
        for number, tile in enumerate(tiles)
    ]
    wanted = {(number, number + len(tiles)) for number in range(len(tiles))}
    pairs = set(found([*tiles, *copies]))
    assert pairs <= wanted and len(pairs) >= 0.95 * len(wanted)
