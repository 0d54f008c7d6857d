"""Random changes to training samples: what is drawn, and what is done with it.

Images are `(H, W, bands)` in the file's own type and unit; labels are `(H, W)`. All that is random about a sample is
drawn first, from numbers of a counter-based generator. What follows is a pure function of image, label and draw.

Semantics, constants and order are those of PaddleSeg's `paddleseg/transforms/transforms.py` and `functional.py`, which
the benchmark trains with. For 8-bit images the results equal PaddleSeg's to the bit: scaling is done in float32, whose
fractions the colour changes cut off.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import tensorflow as tf
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

from rsseg_tf.config.schema import Augment
from rsseg_tf.data.colours import BYTES, Limits, change_colours
from rsseg_tf.data.geometry import (
    Padding,
    mirrored,
    padded,
    rotated,
    rotated_label,
    scale_factors,
    scaled_label,
    scaled_part,
    scaled_size,
    turned,
    turned_label,
)
from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.rasters.windows import Size, Window

__all__ = ["Augmentation", "Draw", "draw_changes", "normalise", "padding_of", "uniform_numbers", "value_limits"]

_BYTE_PADDING = 127.5  # `im_padding_value` of PaddleSeg's `RandomPaddingCrop`
_NUMBERS = 32  # random numbers of a draw, of which some are spare
_COLOURS = ("brightness", "contrast", "saturation", "hue")


# === Values ===


def value_limits(dtype: np.dtype, max_value: float = 255.0) -> Limits:
    """Returns the smallest and largest value that images of a type can hold, on the scale where `max_value` is 255.

    Colour changes clip to these values: 0..255 for bytes, as in PaddleSeg, and the range of the type for other whole
    numbers (reflectance over snow reaches 1.4 times its `max_value`). Real numbers have no limits.
    """
    if dtype == np.uint8 or dtype.kind == "b":
        return BYTES
    if dtype.kind not in "iu":
        return -math.inf, math.inf
    scale = 255.0 / max_value
    return float(np.iinfo(dtype).min) * scale, float(np.iinfo(dtype).max) * scale


def padding_of(augment: Augment, spec: DatasetSpec, dtype: np.dtype) -> Padding:
    """Returns the padding of images in their own unit: one number, or one for each band.

    Without `augment.image_padding` bytes get 127.5 of 255, as in PaddleSeg. Other types get the mean of each band,
    since the middle may be far from all of their values.
    """
    if augment.image_padding is not None or dtype == np.uint8:
        padding = _BYTE_PADDING if augment.image_padding is None else augment.image_padding
        return padding * spec.max_value / BYTES[1]
    means = tuple(mean * spec.max_value for mean in spec.mean)
    return means[0] if len(set(means)) == 1 else means


def normalise(pixels: tf.Tensor, spec: DatasetSpec, *, max_value: float | None = None) -> tf.Tensor:
    """Returns `(pixels / max_value - mean) / std`, band by band; -1..1 with PaddleSeg's mean and std of 0.5.

    Args:
        pixels: `(..., bands)` of any real dtype.
        spec: Gives `mean`, `std` and `max_value`.
        max_value: The value that becomes 1, where pixels were scaled to another range than the spec's.

    Returns:
        float32 of the same shape.
    """
    scaled = tf.cast(pixels, tf.float32) / tf.constant(max_value or spec.max_value, tf.float32)
    return (scaled - tf.constant(spec.mean, tf.float32)) / tf.constant(spec.std, tf.float32)


# === Draws ===


@dataclass(frozen=True)
class Draw:
    """All that is random about a sample.

    Attributes:
        factor: Scale of the sample.
        place: Where the crop lies between the topmost and the lowest place, and between the leftmost and the rightmost
            one: two numbers of 0 to below 1.
        flip_horizontal: Whether to mirror left and right.
        flip_vertical: Whether to mirror up and down.
        quarter_turns: How often to turn by 90 degrees, against the clock.
        degrees: By how much to rotate, against the clock; None for not at all. With `rotate_whole` before the crop.
        colours: Changes of colour in their order, see `rsseg_tf.data.colours.change_colours`.
    """

    factor: float = 1.0
    place: tuple[float, float] = (0.0, 0.0)
    flip_horizontal: bool = False
    flip_vertical: bool = False
    quarter_turns: int = 0
    degrees: float | None = None
    colours: tuple[tuple[str, float], ...] = ()


class _Key(ISeedSequence):
    """A key in the place of a seed: beside a `key` NumPy asks the system for a seed as well, at thrice the cost."""

    def __init__(self, words: tuple[int, int]) -> None:
        self.words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        return np.array(self.words, dtype)


def uniform_numbers(seed: int, position: int) -> Iterator[NDArray[np.float64]]:
    """Yields the random numbers of a position in the stream of samples, an array of 32 for each draw.

    They are Philox's (Salmon et al. 2011), with the key (seed, position): the same whoever asks for them, and when.

    Returns:
        Arrays of numbers from 0 to below 1, without end.
    """
    generator = np.random.Philox(cast(Any, _Key((seed, position))))  # NumPy's annotation names no interface
    while True:
        # As raw bits, which NumPy keeps from version to version; the distributions of its generators may change.
        yield np.asarray(generator.random_raw(_NUMBERS) >> np.uint64(11), np.float64) * np.float64(2.0**-53)


def draw_changes(augment: Augment, numbers: NDArray[np.float64]) -> Draw:
    """Draws the changes of a sample.

    Args:
        augment: Ranges and probabilities.
        numbers: Uniform numbers, see `uniform_numbers`. Each has one use, so that an option moves no other draw.
    """
    n = numbers.tolist()
    low, high = augment.scale_range
    if low == high:
        factor = low
    elif augment.scale_step == 0:
        factor = low + (high - low) * n[0]
    else:
        factors = scale_factors(augment.scale_range, augment.scale_step)
        factor = factors[int(n[0] * len(factors))]
    # A crop that is not square can be turned by 180 degrees alone.
    turns = 1 + int(n[6] * 3) if augment.crop.height == augment.crop.width else 2
    return Draw(
        factor=factor,
        place=(n[1], n[2]),
        flip_horizontal=n[3] < augment.flip_horizontal,
        flip_vertical=n[4] < augment.flip_vertical,
        quarter_turns=turns if n[5] < augment.rotate90 else 0,
        degrees=(2 * n[8] - 1) * augment.rotate_degrees
        if augment.rotate_degrees and n[7] < augment.rotate_probability
        else None,
        colours=_draw_colours(augment, n[9:13], n[13:17], n[17:21]),
    )


def _draw_colours(
    augment: Augment, order: list[float], chance: list[float], place: list[float]
) -> tuple[tuple[str, float], ...]:
    """Draws which colours change, in which order and how far."""
    widths = (augment.brightness_range, augment.contrast_range, augment.saturation_range, augment.hue_range)
    middles = (1.0, 1.0, 1.0, 0.0)
    return tuple(
        (_COLOURS[i], middles[i] + widths[i] * (2 * place[i] - 1))
        for i in sorted(range(4), key=order.__getitem__)
        if widths[i] and chance[i] < augment.distort_probability
    )


# === What is done with a draw ===


class Augmentation:
    """Applies draws to images of one type and to their labels.

    Attributes:
        dtype: Type of the results: uint8 for bytes whose colours change, which holds what PaddleSeg's hold; the
            images' own type where no change gives fractions; float32 else.
    """

    def __init__(self, augment: Augment, spec: DatasetSpec, dtype: np.dtype) -> None:
        """Finds out the type of the results.

        Args:
            augment: The changes.
            spec: Gives unit, means and the ignored id.
            dtype: Type of the images.
        """
        self.augment, self.ignore_index = augment, spec.ignore_index
        self.padding = padding_of(augment, spec, dtype)
        self.limits = value_limits(dtype)
        ranges = (augment.brightness_range, augment.contrast_range, augment.saturation_range, augment.hue_range)
        self._distorts = any(ranges) and augment.distort_probability > 0
        fractions = (
            augment.scale_range != (1.0, 1.0)
            or augment.rotate_degrees > 0
            or self._distorts
            or dtype not in (np.dtype("uint8"), np.dtype("uint16"), np.dtype("int16"))
            or bool(np.any(np.asarray(self.padding).astype(dtype) != np.asarray(self.padding)))
        )
        # In PaddleSeg, colours are changed in 8-bit images of Pillow, which cut off what scaling left behind the point.
        self._truncates = dtype == np.uint8 and self._distorts
        self.dtype = np.dtype(np.uint8 if self._truncates else np.float32) if fractions else dtype

    def image(self, image: NDArray[Any], draw: Draw) -> NDArray[Any]:
        """Returns the changed image `(crop height, crop width, bands)`, an array of its own."""
        size = scaled_size(image.shape[:2], draw.factor)
        first, later = (draw.degrees, None) if self.augment.rotate_whole else (None, draw.degrees)
        if first is None:
            part = self._part(size, draw)
            if size == image.shape[:2]:
                pixels = image[part.y0 : part.y1, part.x0 : part.x1]
            else:
                pixels = scaled_part(image, size, part)
        else:
            whole = image if size == image.shape[:2] else scaled_part(image, size, Window(0, 0, *size))
            pixels = self._cropped(turned(whole.astype(np.float32, copy=False), first, self.padding), draw)
        pixels = pixels.astype(self.dtype if later is None else np.float32, copy=False)
        pixels = self._moved(padded(pixels, self.augment.crop, self.padding), draw)
        if later is not None:
            pixels = rotated(pixels, later, self.padding).astype(self.dtype)
        return change_colours(pixels, draw.colours, self.limits)

    def label(self, label: NDArray[Any], draw: Draw) -> NDArray[Any]:
        """Returns the changed label `(crop height, crop width)` of the same type, an array of its own."""
        size = scaled_size(label.shape, draw.factor)
        first, later = (draw.degrees, None) if self.augment.rotate_whole else (None, draw.degrees)
        if first is None:
            pixels = scaled_label(label, size, self._part(size, draw))
        else:
            whole = scaled_label(label, size, Window(0, 0, *size))
            pixels = self._cropped(turned_label(whole, first, self.ignore_index), draw)
        pixels = self._moved(padded(pixels, self.augment.crop, self.ignore_index), draw)
        return pixels if later is None else rotated_label(pixels, later, self.ignore_index)

    def _cropped(self, pixels: NDArray[Any], draw: Draw) -> NDArray[Any]:
        """Cuts a whole image or label, as far as it reaches."""
        part = self._part(Size(*pixels.shape[:2]), draw)
        return pixels[part.y0 : part.y1, part.x0 : part.x1]

    def _part(self, size: Size, draw: Draw) -> Window:
        """Returns the part of a scaled image that lies in the crop."""
        starts = [
            int(place * (max(whole - wanted, 0) + 1))
            for place, whole, wanted in zip(draw.place, size, self.augment.crop, strict=True)
        ]
        ends = [min(start + side, whole) for start, side, whole in zip(starts, self.augment.crop, size, strict=True)]
        return Window(starts[0], starts[1], ends[0], ends[1])

    def _moved(self, pixels: NDArray[Any], draw: Draw) -> NDArray[Any]:
        """Mirrors and turns."""
        if draw.flip_horizontal:
            pixels = mirrored(pixels, axis=1)
        if draw.flip_vertical:
            pixels = mirrored(pixels, axis=0)
        return np.ascontiguousarray(np.rot90(pixels, draw.quarter_turns)) if draw.quarter_turns else pixels
