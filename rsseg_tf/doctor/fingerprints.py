"""Finds equal pictures whose bytes differ: encoded again, brightened, mirrored or turned.

Three steps narrow the candidates down:

1. A hash of 63 signs of low frequencies (a perceptual hash as in Zauner, Implementation and Benchmarking of Perceptual
   Image Hash Functions, 2010, but with signs instead of comparisons with the median). Mirroring an image changes the
   signs of known coefficients, and turning it transposes them, so that all eight positions follow from one hash.
2. A search by parts of the hash (Norouzi et al., Fast Search in Hamming Space with Multi-Index Hashing, CVPR 2012).
3. A comparison of thumbnails, with and without their coarse shades, which many tiles of sea or field have in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_DISTANCE", "Fingerprint", "NearPair", "fingerprint", "near_pairs", "same_picture"]

MAX_DISTANCE = 11
"""Largest allowed distance; the time of a search grows steeply with the distance."""

_SIDE = 32  # of a thumbnail, in cells
_FREQUENCIES = 8
# A cell of one value, outside of the scaled shades -127..127; black borders of scenes must not make tiles equal.
_EMPTY = -128
_LEAST_CELLS = 64  # a sixteenth of the thumbnail; correlations over fewer cells are chance

# Measured on the 576 tiles of the Dubai set. Different tiles reach 0.958 and 0.68. Copies as JPEG of quality 30, with
# noise, at half size, with gamma 1.6, contrast 0.6 or 30 grey levels brighter reach at least 0.928 and 0.92.
_LEAST_CORRELATION = 0.9
_LEAST_DETAIL = 0.8
_LEAST_COMMON = 0.5  # share of the cells with content in one thumbnail that have content in both

_PARTS = 4
_PART_BITS = 16
_BLOCK = 1 << 21  # candidates looked at in one go
_BATCH = 2048  # thumbnails compared in one go

# (transposed, then mirrored top-bottom, then left-right), and its name in findings.
_TURNS: dict[tuple[bool, bool, bool], str] = {
    (False, False, False): "",
    (False, False, True): "mirrored left to right",
    (False, True, False): "mirrored top to bottom",
    (False, True, True): "turned by 180 degrees",
    (True, False, False): "mirrored along the diagonal",
    (True, False, True): "turned by 90 degrees",
    (True, True, False): "turned by 90 degrees",
    (True, True, True): "mirrored along the diagonal",
}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The features of a picture that stay when it is encoded again or brightened.

    Attributes:
        bits: Signs of its low frequencies: 8 bytes, row by row; the first bit is always 0.
        cells: Thumbnail: 32x32 bytes, int8; -128 where all pixels have one value.
    """

    bits: bytes
    cells: bytes


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two equal pictures.

    Attributes:
        first: Position of one.
        second: Position of the other; greater than `first`.
        distance: Number of bits in which their hashes differ.
        turn: The mirroring or turn of the second, in words; empty if there is none.
    """

    first: int
    second: int
    distance: int
    turn: str


def fingerprint(image: NDArray, absent: NDArray[np.bool_] | None = None) -> Fingerprint | None:
    """Returns the fingerprint of a picture.

    Args:
        image: `(H, W, C)` of a real type.
        absent: `(H, W)`, True for pixels that are no data.

    Returns:
        None for a picture without enough content: smaller than 32 pixels, or with content in fewer than 64 of its
        32x32 cells.
    """
    if min(image.shape[:2]) < _SIDE:
        return None
    grey = _grey(image)
    known = np.isfinite(grey) if absent is None else np.isfinite(grey) & ~absent
    if not known.any():
        return None
    if not known.all():  # the mean becomes 0 below, where the shades are centred
        grey[~known] = grey[known].mean(dtype=np.float64)
    # Cells with content: some pixel in them differs from its right or lower neighbour.
    corner = grey[:-1, :-1]
    edges = ((corner != grey[:-1, 1:]) | (corner != grey[1:, :-1])).astype(np.float32)
    content = cv2.resize(edges, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) > 0
    # (32, 32) mean shades.
    shades = cv2.resize(_centred(grey), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    spread = float(shades.std())
    if int(content.sum()) < _LEAST_CELLS or not spread > 0:
        return None
    # Clipping keeps a few bright roofs from deciding all signs.
    frequencies = cv2.dct(np.clip(shades - shades.mean(), -spread, spread))[:_FREQUENCIES, :_FREQUENCIES]
    signs = frequencies > 0
    signs[0, 0] = False  # the mean, which brightness changes
    # The thumbnail as int8, scaled to its largest shade.
    inside = np.where(content, shades - shades[content].mean(), 0)
    scaled = np.rint(inside * (127 / max(float(np.abs(inside).max()), 1e-30)))
    cells = np.where(content, scaled, _EMPTY).astype(np.int8)
    return Fingerprint(np.packbits(signs).tobytes(), cells.tobytes())


def near_pairs(prints: Sequence[Fingerprint], distance: int) -> Iterator[NearPair]:
    """Yields the pairs of pictures that are equal in one of eight positions.

    Args:
        prints: Fingerprints of all pictures.
        distance: Number of the 63 bits in which two hashes may differ, 0..`MAX_DISTANCE`. All pairs within it are
            candidates; the comparison of thumbnails decides.
    """
    if len(prints) < 2:
        return
    bits = np.frombuffer(b"".join(one.bits for one in prints), np.uint8).reshape(-1, _FREQUENCIES)
    cells = np.frombuffer(b"".join(one.cells for one in prints), np.int8).reshape(-1, _SIDE, _SIDE)
    hashes = _packed(bits)
    for turn, name in _TURNS.items():
        for first, second, apart in _close(hashes, _packed(_turned_bits(bits, turn)), distance):
            for start in range(0, len(first), _BATCH):
                part = slice(start, start + _BATCH)
                same = same_picture(cells[first[part]], _turned(cells[second[part]], turn))
                for one, other, differing in zip(
                    first[part][same].tolist(), second[part][same].tolist(), apart[part][same].tolist(), strict=True
                ):
                    yield NearPair(one, other, differing, name)


def same_picture(cells: NDArray[np.int8], others: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Tells which pairs of thumbnails show the same picture.

    In these pairs both the shades and the details (shades minus coarse shades) correlate over the cells that have
    content in both thumbnails.

    Args:
        cells: `(N, 32, 32)` int8.
        others: `(N, 32, 32)` int8.

    Returns:
        `(N,)` bool.
    """
    both = (cells != _EMPTY) & (others != _EMPTY)
    either = (cells != _EMPTY) | (others != _EMPTY)
    # Two tiles at the border of one scene share their black part; what they show may still differ.
    common = both.sum(axis=(1, 2))
    enough = (common >= _LEAST_CELLS) & (common >= _LEAST_COMMON * either.sum(axis=(1, 2)))
    weights = both.astype(np.float32)
    # Empty cells become 0 and leave the sums.
    one, two = cells * weights, others * weights
    around = np.maximum(_box_sum(weights), 1)
    whole = _correlation(one, two, weights)
    detail = _correlation(one - _box_sum(one) / around, two - _box_sum(two) / around, weights)
    return enough & (whole >= _LEAST_CORRELATION) & (detail >= _LEAST_DETAIL)


def _grey(image: NDArray) -> NDArray:
    """Returns a new `(H, W)` array: luma as uint8 for eight-bit RGB, else the sum of the bands as float32."""
    if image.shape[2] == 3 and image.dtype == np.uint8:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    with np.errstate(over="ignore", invalid="ignore"):  # values beyond float32 count as no data
        total = image[:, :, 0].astype(np.float32)
        for band in range(1, image.shape[2]):
            total += image[:, :, band].astype(np.float32)
    return total


def _centred(grey: NDArray) -> NDArray[np.float32]:
    """Subtracts the mean, and scales all but bytes to -1..1, which float32 can hold."""
    centred = grey - np.float32(grey.mean(dtype=np.float64))
    return centred if grey.dtype == np.uint8 else centred / max(float(np.abs(centred).max()), 1e-30)


# --- the search ---------------------------------------------------------------------------------------------------


def _packed(bits: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Returns `(N, 8)` bytes as `(N,)` numbers."""
    return np.ascontiguousarray(bits).view(np.uint64).ravel()


def _turned_bits(bits: NDArray[np.uint8], turn: tuple[bool, bool, bool]) -> NDArray[np.uint8]:
    """Returns the hashes of the turned pictures: turning transposes the signs, mirroring negates odd frequencies."""
    transposed, upside_down, left_right = turn
    signs = np.unpackbits(bits, axis=1).reshape(-1, _FREQUENCIES, _FREQUENCIES)
    if transposed:
        signs = signs.transpose(0, 2, 1)
    negated = np.zeros((_FREQUENCIES, _FREQUENCIES), np.uint8)
    if upside_down:
        negated[1::2] ^= 1
    if left_right:
        negated[:, 1::2] ^= 1
    return np.packbits((signs ^ negated).reshape(len(bits), -1), axis=1)


def _turned(cells: NDArray[np.int8], turn: tuple[bool, bool, bool]) -> NDArray[np.int8]:
    transposed, upside_down, left_right = turn
    if transposed:
        cells = cells.transpose(0, 2, 1)
    if upside_down:
        cells = cells[:, ::-1]
    return cells[:, :, ::-1] if left_right else cells


def _close(
    hashes: NDArray[np.uint64], turned: NDArray[np.uint64], distance: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Yields the pairs i < j with at most `distance` different bits between hash i and the turned hash j.

    At least one of the four parts of such a pair differs in at most a quarter of these bits. So the hashes are sorted
    by each part and looked up by all values that near. The function yields arrays of i, j and the distance.
    """
    count = len(hashes)
    # Values to combine with a part by XOR: all patterns with at most a quarter of the distance set.
    masks = [value for value in range(1 << _PART_BITS) if value.bit_count() <= distance // _PARTS]
    found: list[NDArray[np.int64]] = []
    # (parts, N) numbers of 16 bits, as int64 so that the additions below do not overflow.
    own_parts, other_parts = (
        whole.view(np.uint16).reshape(count, _PARTS).T.astype(np.int64) for whole in (hashes, turned)
    )
    for own, other in zip(own_parts, other_parts, strict=True):
        # starts[v] is the first place in `order` whose part is v or above.
        order = np.argsort(own, kind="stable")
        starts = np.searchsorted(own[order], np.arange((1 << _PART_BITS) + 1))
        for mask in masks:
            wanted = other ^ mask
            lengths = starts[wanted + 1] - starts[wanted]
            for block in _blocks(lengths):
                # Expands the ranges order[starts[w]:starts[w + 1]] of all wanted values into pairs.
                second = np.repeat(np.arange(block.start, block.stop), lengths[block])
                offsets = np.arange(len(second)) - np.repeat(np.cumsum(lengths[block]) - lengths[block], lengths[block])
                first = order[np.repeat(starts[wanted[block]], lengths[block]) + offsets]
                near = (first < second) & (np.bitwise_count(hashes[first] ^ turned[second]) <= distance)
                if near.any():
                    found.append(first[near] * count + second[near])
    if found:  # `unique`, because a pair may be near in several parts
        first, second = np.divmod(np.unique(np.concatenate(found)), count)
        yield first, second, np.bitwise_count(hashes[first] ^ turned[second]).astype(np.int64)


def _blocks(lengths: NDArray[np.int64]) -> Iterator[slice]:
    """Cuts a sequence of lengths into runs with a bounded sum; one length above the bound is a run of its own."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _BLOCK, side="right")))
        if ends[stop - 1] > done:
            yield slice(start, stop)
        start = stop


# --- the comparison -----------------------------------------------------------------------------------------------


def _correlation(
    one: NDArray[np.float32], two: NDArray[np.float32], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Returns Pearson's correlation of `(N, 32, 32)` over the cells of weight 1; 0 where one of them is flat."""
    axes = (1, 2)
    count = np.maximum(weights.sum(axis=axes, keepdims=True), 1)
    one = (one - (one * weights).sum(axis=axes, keepdims=True) / count) * weights
    two = (two - (two * weights).sum(axis=axes, keepdims=True) / count) * weights
    scale = np.sqrt((one * one).sum(axis=axes) * (two * two).sum(axis=axes))
    return (one * two).sum(axis=axes) / np.maximum(scale, 1e-6)


def _box_sum(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the sums over the 5x5 cells around each; cells outside count 0."""
    for axis in (1, 2):
        padding = [(0, 0)] * 3
        padding[axis] = (2, 2)
        padded = np.pad(values, padding)
        values = sum(np.take(padded, range(shift, shift + _SIDE), axis) for shift in range(5))  # type: ignore[assignment]
    return values
