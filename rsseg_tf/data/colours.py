"""Changes of brightness, contrast, saturation and hue.

For `uint8` images the results are those of Pillow's `ImageEnhance` and of its HSV mode, to the bit, as PaddleSeg's
`RandomDistort` uses them (`paddleseg/transforms/functional.py`). Brightness and contrast are look-up tables. Saturation
and hue are computed with OpenCV and NumPy, which take a third of the time that Pillow's loops take, and leave Python's
lock to others meanwhile. Tests compare with Pillow over all of 2 ** 24 colours.

For other images, `float32` in their own units, the same changes are made without rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BYTES",
    "Limits",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "change_colours",
]

Limits = tuple[float, float]
Bytes = NDArray[np.uint8]

BYTES: Limits = (0.0, 255.0)
_LUMA = np.array([[0.299, 0.587, 0.114]], np.float32)  # ITU-R BT.601
# Pillow's luma is of whole numbers: these weights, and a half, of 2 ** 16. Products and sums have at most 24 bits, so
# that single precision holds them exactly, in any order.
_WHOLE_LUMA = np.array([[19595, 38470, 7471, 32768]], np.float32) / np.float32(65536)


def change_colours(image: NDArray[Any], changes: Sequence[tuple[str, float]], limits: Limits = BYTES) -> NDArray[Any]:
    """Applies changes one after the other.

    Args:
        image: `(H, W, bands)` uint8, or float32 in any unit.
        changes: Names (`"brightness"`, `"contrast"`, `"saturation"`, `"hue"`), each with its factor; for hue, with the
            shift on a circle of 256 steps.
        limits: Smallest and largest value that a change of a float32 image may give.

    Returns:
        The changed image, of the same type. It may be `image` itself, which is never written to.
    """
    table: Bytes | None = None  # what tables so far make of each value
    for name, value in changes:
        if image.dtype != np.uint8:
            image = _FLOAT_CHANGES[name](image, value, limits)
        elif name == "brightness":
            step = _blend_table(0, value)
            table = step if table is None else step[table]
        else:
            image = image if table is None else _looked_up(image, table)
            # Later tables are merged into this one, so that each pixel is looked up once.
            table = _blend_table(_mean_grey(image), value) if name == "contrast" else None
            if name != "contrast":
                image = adjust_saturation(image, value) if name == "saturation" else adjust_hue(image, value)
    return image if table is None else _looked_up(image, table)


def adjust_brightness(image: NDArray[Any], factor: float, limits: Limits = BYTES) -> NDArray[Any]:
    """Multiplies by `factor`, 0 gives black; see `change_colours` for types."""
    return change_colours(image, [("brightness", factor)], limits)


def adjust_contrast(image: NDArray[Any], factor: float, limits: Limits = BYTES) -> NDArray[Any]:
    """Moves away from the image's mean luma by `factor`; see `change_colours` for types.

    For images of other than three bands the mean of all values stands for the luma.
    """
    return change_colours(image, [("contrast", factor)], limits)


def adjust_saturation(image: NDArray[Any], factor: float, limits: Limits = BYTES) -> NDArray[Any]:
    """Moves away from the pixel's own grey by `factor`; see `change_colours` for types. Needs 3 bands."""
    if image.dtype != np.uint8:
        return _FLOAT_CHANGES["saturation"](image, factor, limits)
    grey = cv2.cvtColor(_grey(image), cv2.COLOR_GRAY2RGB).astype(np.float32)
    mixed = image.astype(np.float32)
    mixed -= grey
    mixed *= np.float32(factor)  # single precision and this order, as in Pillow's Image.blend
    mixed += grey
    if not 0.0 <= factor <= 1.0:
        np.clip(mixed, *BYTES, out=mixed)
    return mixed.astype(np.uint8)


def adjust_hue(image: NDArray[Any], shift: float) -> NDArray[Any]:
    """Turns the hue by `shift` steps of a circle of 256; see `change_colours` for types. Needs 3 bands.

    Hue, saturation and value of bytes are whole numbers 0..255 in between, as in Pillow's HSV mode.
    """
    if image.dtype != np.uint8:
        return _turn_hue(image, shift, BYTES)
    hue, saturation, value = _hue_saturation_value(image)
    # Truncated towards zero, then wrapped around, as NumPy casts a float to uint8 in PaddleSeg.
    turned = (np.arange(256) + shift).astype(np.int64) & 255
    return _rgb(cv2.LUT(hue, turned.astype(np.uint8)), saturation, value)


# === Bytes ===


def _grey(image: Bytes) -> Bytes:
    """Returns Pillow's luma `(H, W)`, as of its `Image.convert("L")`."""
    return cv2.transform(image.astype(np.float32), _WHOLE_LUMA).astype(np.uint8)


def _mean_grey(image: Bytes) -> int:
    """Returns the whole number that Pillow's `ImageEnhance.Contrast` moves away from."""
    grey = _grey(image) if image.shape[2] == 3 else image.reshape(image.shape[0], -1)
    return int(cv2.sumElems(grey)[0] / grey.size + 0.5)


def _blend_table(base: int, factor: float) -> Bytes:
    """Returns what Pillow's `Image.blend` makes of each byte: from `base` by `factor`, clipped, then truncated."""
    value = np.arange(256, dtype=np.float32)
    mixed = np.float32(base) + np.float32(factor) * (value - np.float32(base))
    return np.clip(mixed, *BYTES).astype(np.uint8)


def _looked_up(image: Bytes, table: Bytes) -> Bytes:
    # As one band: OpenCV takes at most 128.
    return cv2.LUT(image.reshape(image.shape[0], -1), table).reshape(image.shape)


def _hue_saturation_value(image: Bytes) -> tuple[Bytes, NDArray[np.float32], Bytes]:
    """Returns hue 0..255, saturation as a share of 0..1 in steps of 1/255, and value 0..255; each `(H, W)`."""
    red, green, blue = cv2.split(image)
    low, high = cv2.min(red, green), cv2.max(red, green)
    value, least = cv2.max(high, blue), cv2.min(low, blue)
    middle = cv2.max(low, cv2.min(high, blue))
    span = cv2.subtract(value, least)
    order = cv2.bitwise_or(
        cv2.compare(red, green, cv2.CMP_GE) & _RED_GREEN,
        cv2.bitwise_or(
            cv2.compare(green, blue, cv2.CMP_GE) & _GREEN_BLUE, cv2.compare(blue, red, cv2.CMP_GE) & _BLUE_RED
        ),
    )
    hues, saturations = _hue_tables()
    # Places in the tables: bytes side by side, which are one whole number of 32 or 16 bits.
    place = cv2.merge([cv2.subtract(value, middle), span, order, np.zeros_like(order)]).view("<u4")[..., 0]
    hue = hues.take(place, mode="clip")
    return hue, saturations.take(cv2.merge([span, value]).view("<u2")[..., 0], mode="clip"), value


def _rgb(hue: Bytes, saturation: NDArray[np.float32], value: Bytes) -> Bytes:
    """Returns `(H, W, 3)` from hue, saturation and value as `_hue_saturation_value` gives them."""
    bands = []
    for depths in _circle():  # each band is `value * (1 - depth * saturation)`, rounded half up
        band = np.asarray(cv2.LUT(hue, depths))
        band *= saturation
        np.subtract(np.float32(1), band, out=band)
        band *= value
        band += np.float32(0.5)
        bands.append(band.astype(np.uint8))
    return cv2.merge(bands)


# Bits of an order of the bands: which is at least as large as which.
_RED_GREEN, _GREEN_BLUE, _BLUE_RED = 1, 2, 4


@functools.cache
def _hue_tables() -> tuple[Bytes, NDArray[np.float32]]:
    """Returns the hue by order, span and middle, and the saturation by value and span, as Pillow computes them.

    Returns:
        `(8 * 256 * 256,)` uint8, at the place `order * 65536 + span * 256 + (value - middle)`, and `(256 * 256,)`
        float32, at the place `value * 256 + span`.
    """
    numbers = np.arange(256, dtype=np.float32)
    span = np.maximum(numbers[:, np.newaxis], 1)
    share = (numbers / span).astype(np.float64)  # of the middle band; those of the others are 0 and 1
    red_max, green_max, blue_max = _RED_GREEN, _GREEN_BLUE, _BLUE_RED  # each alone, or with one other bit
    hues = np.zeros((8, 256, 256), np.uint8)
    hues[red_max | _GREEN_BLUE] = _whole_hue(1.0 - share)
    hues[red_max] = _whole_hue(share - 1.0)
    hues[green_max] = _whole_hue(2.0 + share - 1.0)
    hues[green_max | _BLUE_RED] = _whole_hue(2.0 + 1.0 - share)
    hues[blue_max] = _whole_hue(4.0 + share - 1.0)
    hues[blue_max | _RED_GREEN] = _whole_hue(4.0 + 1.0 - share)
    hues[blue_max | _RED_GREEN][:, 0] = hues[red_max][:, 0]  # where red equals blue, Pillow takes red for the largest
    hues[:, 0] = 0
    value = np.maximum(numbers[:, np.newaxis], 1)
    saturations = np.floor(np.minimum(numbers / value, 1).astype(np.float64) * 255.0).astype(np.float32)
    return hues.ravel(), (saturations / np.float32(255)).ravel()


def _whole_hue(sextants: NDArray[np.float64]) -> Bytes:
    """Returns hues 0..255 from places -1..5 on a circle of six, with Pillow's mix of single and double precision."""
    turns = np.fmod(sextants.astype(np.float32).astype(np.float64) / 6.0 + 1.0, 1.0).astype(np.float32)
    return (turns.astype(np.float64) * 255.0).astype(np.uint8)


@functools.cache
def _circle() -> NDArray[np.float32]:
    """Returns `(3, 256)`: how far each band of a hue lies below the largest one, as a share of the span."""
    places = np.arange(256) * 6.0 / 255.0
    whole = np.floor(places)
    sextants = whole.astype(np.uint8) % 6
    fraction = (places - whole).astype(np.float32).astype(np.float64)
    middle = np.where(sextants % 2, fraction, 1.0 - fraction).astype(np.float32)
    depths = np.ones((3, 256), np.float32)
    # The sextants, from red to magenta, in which a band is the largest, and in which it is the middle one.
    for depth, largest, between in zip(depths, ((0, 5), (1, 2), (3, 4)), ((1, 4), (0, 3), (2, 5)), strict=True):
        depth[np.isin(sextants, largest)] = 0
        np.copyto(depth, middle, where=np.isin(sextants, between))
    return depths


# === Real numbers ===


def _luma(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns `(H, W, 1)`: the luma, or the mean of the bands for images of other than three bands."""
    if image.shape[2] == 3:
        return cv2.transform(image, _LUMA).reshape(*image.shape[:2], 1)
    return np.asarray(image.mean(axis=2, keepdims=True))


def _blend(base: Any, image: NDArray[np.float32], factor: float, limits: Limits) -> NDArray[np.float32]:
    mixed = image - base
    mixed *= np.float32(factor)
    mixed += base
    return np.clip(mixed, *limits, out=mixed)


def _turn_hue(image: NDArray[np.float32], shift: float, limits: Limits) -> NDArray[np.float32]:
    largest = np.float32(np.abs(image).max()) or np.float32(1)  # OpenCV's HSV takes values around 1
    hue, saturation, value = cv2.split(cv2.cvtColor(image / largest, cv2.COLOR_RGB2HSV))
    hue = np.mod(hue + np.float32(shift * 360.0 / 256.0), np.float32(360))
    turned = cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2RGB)
    turned *= largest
    return turned


_FLOAT_CHANGES: dict[str, Callable[[NDArray[np.float32], float, Limits], NDArray[np.float32]]] = {
    "brightness": lambda image, factor, limits: _blend(np.float32(0), image, factor, limits),
    "contrast": lambda image, factor, limits: _blend(
        np.float32(_luma(image).mean(dtype=np.float64)), image, factor, limits
    ),
    "saturation": lambda image, factor, limits: _blend(_luma(image), image, factor, limits),
    "hue": _turn_hue,
}
