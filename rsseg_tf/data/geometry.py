"""Scaling, cropping and turning of an image and its label, each `(H, W, bands)` and `(H, W)`.

Scaling is OpenCV's, as in PaddleSeg: bilinear with half-pixel centres for the image, in float32, and the source pixel
`floor(i / factor)` for the label. Only a part of the scaled image is computed, and it equals that part of the whole to
the bit.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rsseg_tf.rasters.windows import Size, Window

__all__ = [
    "Padding",
    "mirrored",
    "padded",
    "rotated",
    "rotated_label",
    "scale_factors",
    "scaled_label",
    "scaled_part",
    "scaled_size",
    "turn_of",
    "turned",
    "turned_label",
]

Padding = float | tuple[float, ...]
"""What lies outside of an image: one number, or one for each band."""

_MOST_BANDS = 128  # of an image of OpenCV 5
_MOST_FILLED = 4  # bands for which OpenCV takes a colour


def scale_factors(scale_range: tuple[float, float], step: float) -> list[float]:
    """Returns the factors that stepped scaling draws from, e.g. 0.5, 0.75, … 2.0."""
    low, high = scale_range
    count = int((high - low) / step + 1)
    return [low + (high - low) * i / (count - 1) for i in range(count)] if count > 1 else [low]


def scaled_size(size: tuple[int, int], factor: float) -> Size:
    """Returns a size times a factor, rounded half to even as in PaddleSeg; at least one pixel."""
    return Size(*(max(round(factor * side), 1) for side in size))


def scaled_part(image: NDArray[Any], size: Size, part: Window) -> NDArray[np.float32]:
    """Returns a part of an image that is scaled to `size`, as `(rows, columns, bands)` float32."""
    rows = _span(image.shape[0], size.height, part.y0, part.y1)
    columns = _span(image.shape[1], size.width, part.x0, part.x1)
    source = image[rows.first : rows.end, columns.first : columns.end].astype(np.float32)
    y, x = part.y0 - rows.scaled_first, part.x0 - columns.scaled_first
    height, width = part.y1 - part.y0, part.x1 - part.x0
    pieces = []
    for bands in _band_groups(source, _MOST_BANDS):
        scaled = cv2.resize(bands, (columns.scaled, rows.scaled), interpolation=cv2.INTER_LINEAR)
        pieces.append(scaled[y : y + height, x : x + width].reshape(height, width, bands.shape[2]))
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=2)


class _Span(NamedTuple):
    """A part of an axis that is scaled as it is within the whole.

    Attributes:
        first: The first stored pixel.
        end: After the last stored pixel.
        scaled_first: The place of its first scaled pixel within the whole.
        scaled: The number of its scaled pixels.
    """

    first: int
    end: int
    scaled_first: int
    scaled: int


def _span(stored: int, scaled: int, start: int, end: int) -> _Span:
    """Returns the part of `stored` pixels that is enough for those from `start` to `end` of the `scaled` ones.

    Scaling repeats after a period: 4 stored pixels give 5 scaled ones with a factor of 1.25. A part of whole periods is
    scaled by the very ratio of the whole, where others differ in the last bit. OpenCV computes places in limited
    precision from the first pixel on. They are the same from a later pixel on where they are exact: where the numbers
    of a period are powers of two, as with factors of 2 and 0.5.
    """
    periods = math.gcd(stored, scaled)
    period, stride = scaled // periods, stored // periods
    exact = (period * stride).bit_count() == 1
    # One more on each side, so that the border of the part is that of the whole or is not seen.
    first = max(start // period - 1, 0) if exact else 0
    last = min(-(-end // period) + 1, periods)
    return _Span(first * stride, last * stride, first * period, (last - first) * period)


def scaled_label(label: NDArray[Any], size: Size, part: Window) -> NDArray[Any]:
    """Returns a part of a label that is scaled to `size`, of the same type."""
    rows, columns = (
        np.minimum((np.arange(start, end) * (1.0 / (scaled / stored))).astype(np.intp), stored - 1)
        for start, end, scaled, stored in (
            (part.y0, part.y1, size.height, label.shape[0]),
            (part.x0, part.x1, size.width, label.shape[1]),
        )
    )
    return label.take(rows, axis=0).take(columns, axis=1)


def padded(pixels: NDArray[Any], size: Size, padding: Padding) -> NDArray[Any]:
    """Returns pixels of that size: padded at the bottom and right where they are fewer, always a copy.

    Args:
        pixels: `(H, W, bands)` or `(H, W)`, at most of `size`.
        size: Rows and columns of the result.
        padding: The value outside.
    """
    height, width = pixels.shape[:2]
    result = np.empty((*size, *pixels.shape[2:]), pixels.dtype)
    result[:height, :width] = pixels
    for outside in (result[height:], result[:height, width:]):
        outside[...] = np.asarray(padding).astype(pixels.dtype)
    return result


def mirrored(pixels: NDArray[Any], axis: int) -> NDArray[Any]:
    """Mirrors along an axis (1: left-right, 0: up-down); always a copy."""
    if pixels.ndim == 3 and pixels.shape[2] > _MOST_FILLED:
        return np.ascontiguousarray(np.flip(pixels, axis))
    return cv2.flip(pixels, axis).reshape(pixels.shape)


def turn_of(size: Size, degrees: float) -> tuple[NDArray[np.float64], Size]:
    """Returns how PaddleSeg's RandomRotation turns an image, which grows until nothing of it is lost.

    Args:
        size: Of the image.
        degrees: Against the clock where positive.

    Returns:
        The matrix `(2, 3)` from a place (x, y, 1) in the image to its place (x, y) in the turned one, and the size of
        that.
    """
    height, width = size
    centre = (width // 2, height // 2)
    matrix = np.asarray(cv2.getRotationMatrix2D(centre, degrees, 1.0))
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    grown = Size(int(height * cos + width * sin), int(height * sin + width * cos))
    matrix[0, 2] += grown.width / 2 - centre[0]
    matrix[1, 2] += grown.height / 2 - centre[1]
    return matrix, grown


def turned(image: NDArray[np.float32], degrees: float, padding: Padding) -> NDArray[np.float32]:
    """Turns a whole image `(H, W, bands)` float32 as `turn_of` says, bilinearly; what it does not cover is padded."""
    turn = turn_of(Size(*image.shape[:2]), degrees)
    return _band_by_band(image, turn, padding)


def turned_label(label: NDArray[Any], degrees: float, padding: int) -> NDArray[Any]:
    """Turns a label as `turned` does its image, by nearest pixels."""
    return _warped(label, turn_of(Size(*label.shape), degrees), cv2.INTER_NEAREST, [padding])


def rotated(image: NDArray[np.float32], degrees: float, padding: Padding) -> NDArray[np.float32]:
    """Rotates about the centre, bilinearly; uncovered pixels get the padding, and pixels at the border a share of it.

    Args:
        image: `(H, W, bands)` float32.
        degrees: Against the clock where positive.
        padding: The value outside.
    """
    return _band_by_band(image, _turn_in_place(image.shape, degrees), padding)


def rotated_label(label: NDArray[Any], degrees: float, padding: int) -> NDArray[Any]:
    """Rotates a label as `rotated` does its image, by nearest pixels."""
    return _warped(label, _turn_in_place(label.shape, degrees), cv2.INTER_NEAREST, [padding])


_Turn = tuple[NDArray[np.float64], Size]
"""A matrix and a size, see `turn_of`."""


def _turn_in_place(shape: tuple[int, ...], degrees: float) -> _Turn:
    centre = ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    return np.asarray(cv2.getRotationMatrix2D(centre, degrees, 1.0)), Size(shape[0], shape[1])


def _band_by_band(image: NDArray[np.float32], turn: _Turn, padding: Padding) -> NDArray[np.float32]:
    fills = np.broadcast_to(np.asarray(padding, np.float64), image.shape[2])
    pieces = [
        _warped(bands, turn, cv2.INTER_LINEAR, fills[start : start + _MOST_FILLED].tolist())
        for start, bands in zip(range(0, image.shape[2], _MOST_FILLED), _band_groups(image, _MOST_FILLED), strict=True)
    ]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=2)


def _warped(pixels: NDArray[Any], turn: _Turn, interpolation: int, fill: list[float]) -> NDArray[Any]:
    matrix, size = turn
    found = cv2.warpAffine(
        np.ascontiguousarray(pixels),
        matrix,
        (size.width, size.height),
        flags=interpolation,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=fill,
    )
    return found.reshape((*size, *pixels.shape[2:]))


def _band_groups(image: NDArray[Any], most: int) -> list[NDArray[Any]]:
    """Splits `(H, W, bands)` into groups that OpenCV takes."""
    bands = image.shape[2]
    if bands <= most:
        return [image]
    return [np.ascontiguousarray(image[..., start : start + most]) for start in range(0, bands, most)]
