"""Random changes to one training sample, each a pure function of (image, label, seed).

Images are `(H, W, bands)` float32 on the scale where `max_value` is 255, whatever their type on disk; labels are
`(H, W)` int32. Seeds are stateless (`(2,)` int32), so that the same seed gives the same result eagerly, inside
`tf.data` and after a resume.

Semantics, constants and order are those of PaddleSeg's `paddleseg/transforms/transforms.py` and `functional.py`, which
the benchmark trains with. PaddleSeg changes colours of 8-bit Pillow images, which hold whole numbers. So results are
truncated to whole numbers here too for 8-bit data (`quantise=True`). Other types keep their fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf

from rsseg_tf.config.schema import Augment
from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.rasters.windows import Size

__all__ = [
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "augment_sample",
    "luma",
    "normalise",
    "pad_and_crop",
    "padding_of",
    "random_distort",
    "random_flip",
    "random_rotate90",
    "random_rotation",
    "random_step_scale",
    "rescale",
    "scale_factors",
    "value_limits",
]

Pair = tuple[tf.Tensor, tf.Tensor]
Limits = tuple[float, float]
Padding = float | tuple[float, ...]

BYTES: Limits = (0.0, 255.0)
_BYTE_PADDING = 127.5  # `im_padding_value` of PaddleSeg's `RandomPaddingCrop`


def value_limits(dtype: np.dtype, max_value: float) -> Limits:
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
    """Returns the padding of images on the scale 0..255: one number, or one for each band.

    Without `augment.image_padding` bytes get 127.5, as in PaddleSeg. Other types get the mean of each band, since 127.5
    may be far from all of their values.
    """
    if augment.image_padding is not None:
        return augment.image_padding
    if dtype == np.uint8:
        return _BYTE_PADDING
    means = tuple(255.0 * mean for mean in spec.mean)
    return means[0] if len(set(means)) == 1 else means


def augment_sample(
    image: tf.Tensor,
    label: tf.Tensor,
    seed: tf.Tensor,
    augment: Augment,
    *,
    ignore_index: int,
    quantise: bool,
    padding: Padding = _BYTE_PADDING,
    limits: Limits = BYTES,
) -> Pair:
    """Applies the whole training chain: scale, pad and crop, flips, rotations, colours.

    Args:
        image: `(H, W, bands)` float32, 0..255.
        label: `(H, W)` int32 class ids.
        seed: `(2,)` int32.
        augment: Ranges and probabilities.
        ignore_index: The id that padded and uncovered pixels get.
        quantise: Whether to truncate colours to whole numbers, as PaddleSeg does for its 8-bit images.
        padding: What the image is padded with, see `padding_of`.
        limits: Smallest and largest value that colour changes may give, see `value_limits`.

    Returns:
        The changed image `(crop height, crop width, bands)` float32 0..255 and label `(crop height, crop width)`.
    """
    seeds = tf.unstack(tf.random.split(seed, 7))
    bands = image.shape[-1]
    image, label = random_step_scale(image, label, seeds[0], augment.scale_range, augment.scale_step)
    image = tf.ensure_shape(image, (None, None, bands))  # tf.cond loses the number of bands
    image, label = pad_and_crop(image, label, seeds[1], augment.crop, image_padding=padding, label_padding=ignore_index)
    image, label = random_flip(image, label, seeds[2], augment.flip_horizontal, axis=1)
    image, label = random_flip(image, label, seeds[3], augment.flip_vertical, axis=0)
    if augment.rotate90:
        image, label = random_rotate90(image, label, seeds[4], augment.rotate90)
    if augment.rotate_degrees:
        image, label = random_rotation(
            image,
            label,
            seeds[5],
            augment.rotate_degrees,
            augment.rotate_probability,
            image_padding=padding,
            label_padding=ignore_index,
        )
    image = random_distort(
        image,
        seeds[6],
        brightness=augment.brightness_range,
        contrast=augment.contrast_range,
        saturation=augment.saturation_range,
        hue=augment.hue_range,
        probability=augment.distort_probability,
        quantise=quantise,
        limits=limits,
    )
    return image, label


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


# === Geometry ===


def scale_factors(scale_range: tuple[float, float], step: float) -> list[float]:
    """Returns the factors that stepped scaling draws from, e.g. 0.5, 0.75, … 2.0."""
    low, high = scale_range
    count = int((high - low) / step + 1)
    return [low + (high - low) * i / (count - 1) for i in range(count)] if count > 1 else [low]


def rescale(image: tf.Tensor, label: tf.Tensor, factor: tf.Tensor) -> Pair:
    """Resizes to `round(factor * size)`: bilinear with half-pixel centres for the image, nearest for the label.

    Nearest takes source pixel `floor(i / factor)` as OpenCV does in PaddleSeg, not the half-pixel rule of `tf.image`.
    """
    size = tf.cast(tf.round(tf.cast(factor, tf.float64) * tf.cast(tf.shape(label), tf.float64)), tf.int32)
    size = tf.maximum(size, 1)
    bands = image.shape[-1]
    image = tf.image.resize(image, size, method="bilinear", antialias=False)
    image.set_shape((None, None, bands))
    label = tf.raw_ops.ResizeNearestNeighbor(images=label[None, ..., None], size=size)[0, ..., 0]
    return image, label


def random_step_scale(
    image: tf.Tensor, label: tf.Tensor, seed: tf.Tensor, scale_range: tuple[float, float], step: float
) -> Pair:
    """Resizes by a factor drawn from `scale_range` in steps (step 0: any factor in the range)."""
    low, high = scale_range
    if low == high == 1.0:
        return image, label
    if step == 0 and low < high:
        factor = tf.random.stateless_uniform((), seed, low, high)
    else:
        factors = scale_factors(scale_range, step) if low < high else [low]
        factor = tf.constant(factors)[tf.random.stateless_uniform((), seed, 0, len(factors), tf.int32)]
    return tf.cond(tf.equal(factor, 1.0), lambda: (image, label), lambda: rescale(image, label, factor))


def pad_and_crop(
    image: tf.Tensor,
    label: tf.Tensor,
    seed: tf.Tensor,
    size: Size,
    *,
    image_padding: Padding,
    label_padding: int,
) -> Pair:
    """Pads at the bottom and right up to `size` where needed, then crops a random window of it."""
    bands = image.shape[-1]
    wanted = tf.constant(size)
    missing = tf.maximum(wanted - tf.shape(label), 0)
    paddings = tf.stack([tf.zeros_like(missing), missing], axis=1)
    around = tf.concat([paddings, [[0, 0]]], 0)
    if isinstance(image_padding, tuple):
        covered = tf.pad(tf.ones_like(image[..., :1]), around)
        image = tf.where(covered > 0, tf.pad(image, around), tf.constant(image_padding, tf.float32))
    else:
        image = tf.pad(image, around, constant_values=image_padding)
    label = tf.pad(label, paddings, constant_values=label_padding)
    room = tf.shape(label) - wanted + 1
    offset = tf.random.stateless_uniform((2,), seed, 0, 2**31 - 1, tf.int32) % room
    y, x = offset[0], offset[1]
    image = image[y : y + size[0], x : x + size[1]]
    label = label[y : y + size[0], x : x + size[1]]
    return tf.ensure_shape(image, (*size, bands)), tf.ensure_shape(label, size)


def random_flip(image: tf.Tensor, label: tf.Tensor, seed: tf.Tensor, probability: float, *, axis: int) -> Pair:
    """Mirrors along `axis` (1: left-right, 0: up-down) with the given probability."""
    if probability == 0:
        return image, label
    flip = tf.random.stateless_uniform((), seed) < probability
    turned = tf.cond(flip, lambda: (tf.reverse(image, [axis]), tf.reverse(label, [axis])), lambda: (image, label))
    return tf.ensure_shape(turned[0], image.shape), tf.ensure_shape(turned[1], label.shape)


def random_rotate90(image: tf.Tensor, label: tf.Tensor, seed: tf.Tensor, probability: float) -> Pair:
    """Turns by 90, 180 or 270 degrees (by 180 only where the crop is not square) with the given probability."""
    draws = tf.random.stateless_uniform((2,), seed)
    square = image.shape[0] == image.shape[1]
    turns = 1 + tf.cast(draws[1] * 3, tf.int32) if square else tf.constant(2)
    shape = image.shape

    def turned() -> Pair:
        return tf.image.rot90(image, turns), tf.image.rot90(label[..., None], turns)[..., 0]

    result = tf.cond(draws[0] < probability, turned, lambda: (image, label))
    return tf.ensure_shape(result[0], shape), tf.ensure_shape(result[1], shape[:2])


def random_rotation(
    image: tf.Tensor,
    label: tf.Tensor,
    seed: tf.Tensor,
    degrees: float,
    probability: float,
    *,
    image_padding: Padding,
    label_padding: int,
) -> Pair:
    """Rotates about the centre by up to `degrees` either way; uncovered pixels get the padding values."""
    draws = tf.random.stateless_uniform((2,), seed)
    angle = (2 * draws[1] - 1) * (degrees * math.pi / 180)
    height, width = tf.unstack(tf.cast(tf.shape(label) - 1, tf.float32) / 2)
    cos, sin = tf.cos(angle), tf.sin(angle)
    # The eight numbers map output to input coordinates; rotation about the centre, no perspective.
    matrix = [cos, -sin, width - cos * width + sin * height, sin, cos, height - sin * width - cos * height, 0.0, 0.0]

    def warp(x: tf.Tensor, method: str, fill: float) -> tf.Tensor:
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=x[None],
            transforms=tf.stack(matrix)[None],
            output_shape=tf.shape(x)[:2],
            fill_value=fill,
            interpolation=method,
            fill_mode="CONSTANT",
        )[0]

    def rotated() -> Pair:
        turned = warp(label[..., None], "NEAREST", float(label_padding))[..., 0]
        if not isinstance(image_padding, tuple):
            return warp(image, "BILINEAR", image_padding), turned
        covered = warp(tf.ones_like(image[..., :1]), "BILINEAR", 0.0)
        fill = tf.constant(image_padding, tf.float32)
        return warp(image, "BILINEAR", 0.0) + (1.0 - covered) * fill, turned

    result = tf.cond(draws[0] < probability, rotated, lambda: (image, label))
    return tf.ensure_shape(result[0], image.shape), tf.ensure_shape(result[1], label.shape)


# === Colour ===


def random_distort(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    probability: float,
    quantise: bool,
    limits: Limits = BYTES,
) -> tf.Tensor:
    """Changes brightness, contrast, saturation and hue in random order, each with the given probability.

    Args:
        image: `(H, W, bands)` float32, 0..255.
        seed: `(2,)` int32.
        brightness: The factor is drawn from 1 ± this.
        contrast: The factor is drawn from 1 ± this.
        saturation: The factor is drawn from 1 ± this; needs 3 bands.
        hue: The shift is drawn from ± this, on a circle of 256 steps; needs 3 bands.
        probability: Probability of each of the four changes.
        quantise: Whether to truncate to whole numbers, as for 8-bit images.
        limits: Smallest and largest value, see `value_limits`.
    """
    if not (brightness or contrast or saturation or hue) or probability == 0:
        return image
    if quantise:
        image = tf.floor(image)
    adjustments: list[tuple[Callable[..., tf.Tensor], float, float]] = [
        (partial(adjust_brightness, limits=limits), 1 - brightness, 1 + brightness),
        (partial(adjust_contrast, limits=limits), 1 - contrast, 1 + contrast),
        (partial(adjust_saturation, limits=limits), 1 - saturation, 1 + saturation),
        (adjust_hue, -hue, hue),
    ]
    used = [row for row, width in zip(adjustments, (brightness, contrast, saturation, hue), strict=True) if width]
    order_seed, chance_seed, value_seed = tf.unstack(tf.random.split(seed, 3))
    order = tf.argsort(tf.random.stateless_uniform((len(used),), order_seed))
    chance = tf.random.stateless_uniform((len(used),), chance_seed)
    value = tf.random.stateless_uniform((len(used),), value_seed)

    def branch(index: int, current: tf.Tensor) -> Callable[[], tf.Tensor]:
        adjust, low, high = used[index]
        return lambda: adjust(current, low + (high - low) * value[index], quantise=quantise)

    for position in range(len(used)):
        chosen = order[position]
        current = image
        image = tf.cond(
            tf.gather(chance, chosen) < probability,
            lambda current=current, chosen=chosen: tf.switch_case(
                chosen, [branch(i, current) for i in range(len(used))]
            ),
            lambda current=current: current,
        )
        image = tf.ensure_shape(image, current.shape)
    return image


def _blend(base: tf.Tensor, image: tf.Tensor, factor: tf.Tensor, quantise: bool, limits: Limits) -> tf.Tensor:
    """Moves from `base` towards `image` and beyond, as Pillow's `Image.blend`: clipped, then truncated."""
    mixed = tf.clip_by_value(base + factor * (image - base), *limits)
    return tf.floor(mixed) if quantise else mixed


def luma(images: tf.Tensor, *, quantise: bool = False) -> tf.Tensor:
    """Returns `(..., 1)` ITU-R BT.601 luma; the mean of the bands for images of other than three bands.

    Args:
        images: `(..., bands)` float32, 0..255.
        quantise: Whether to compute in Pillow's fixed-point arithmetic, as `Image.convert("L")` does.
    """
    if images.shape[-1] != 3:
        return tf.reduce_mean(images, axis=-1, keepdims=True)
    if not quantise:
        return tf.reduce_sum(images * tf.constant([0.299, 0.587, 0.114]), axis=-1, keepdims=True)
    # Pillow's weights: 0.299, 0.587 and 0.114 times 2 ** 16, rounded so that their sum is 2 ** 16.
    whole = tf.cast(images, tf.int32)
    total = tf.reduce_sum(whole * tf.constant([19595, 38470, 7471]), axis=-1, keepdims=True)
    return tf.cast(tf.bitwise.right_shift(total + 0x8000, 16), tf.float32)


def adjust_brightness(image: tf.Tensor, factor: tf.Tensor, *, quantise: bool, limits: Limits = BYTES) -> tf.Tensor:
    """Multiplies by `factor` (0 gives black); image 0..255."""
    return _blend(tf.zeros((), tf.float32), image, factor, quantise, limits)


def adjust_contrast(image: tf.Tensor, factor: tf.Tensor, *, quantise: bool, limits: Limits = BYTES) -> tf.Tensor:
    """Moves away from the image's mean luma by `factor`; image 0..255."""
    mean = tf.reduce_mean(luma(image, quantise=quantise))
    return _blend(tf.floor(mean + 0.5) if quantise else mean, image, factor, quantise, limits)


def adjust_saturation(image: tf.Tensor, factor: tf.Tensor, *, quantise: bool, limits: Limits = BYTES) -> tf.Tensor:
    """Moves away from the pixel's own grey by `factor`; image 0..255, 3 bands."""
    return _blend(luma(image, quantise=quantise), image, factor, quantise, limits)


def adjust_hue(image: tf.Tensor, shift: tf.Tensor, *, quantise: bool) -> tf.Tensor:
    """Turns the hue by `shift` steps of a circle of 256; image 0..255, 3 bands.

    With `quantise` hue, saturation and value are whole numbers 0..255 in between, as in Pillow's HSV mode.
    """
    if not quantise:
        return tf.image.adjust_hue(image / 255.0, shift / 256.0) * 255.0
    hue, saturation, value = _rgb_to_hsv255(image)
    # Truncated towards zero, then wrapped around, as NumPy casts a float to uint8 in PaddleSeg.
    shifted = tf.cast(hue + shift, tf.int32) & 255
    return _hsv255_to_rgb(tf.cast(shifted, tf.float32), saturation, value)


def _rgb_to_hsv255(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns hue, saturation and value as whole numbers 0..255, with Pillow's mix of single and double precision."""
    red, green, blue = tf.unstack(image, axis=-1)
    value = tf.reduce_max(image, axis=-1)
    span = value - tf.reduce_min(image, axis=-1)
    from_red, from_green, from_blue = (tf.math.divide_no_nan(value - x, span) for x in (red, green, blue))
    sextant = tf.where(
        tf.equal(red, value),
        from_blue - from_green,
        tf.where(tf.equal(green, value), _single(2.0, from_red, from_blue), _single(4.0, from_green, from_red)),
    )
    turn = tf.math.floormod(tf.cast(sextant, tf.float64) / 6.0 + 1.0, tf.constant(1.0, tf.float64))
    hue = tf.floor(tf.cast(tf.cast(turn, tf.float32), tf.float64) * 255.0)
    saturation = tf.floor(tf.cast(tf.math.divide_no_nan(span, value), tf.float64) * 255.0)
    return tf.where(span > 0, tf.cast(hue, tf.float32), 0.0), tf.cast(saturation, tf.float32), value


def _single(offset: float, plus: tf.Tensor, minus: tf.Tensor) -> tf.Tensor:
    """Returns `offset + plus - minus`, summed in double precision and rounded once."""
    return tf.cast(offset + tf.cast(plus, tf.float64) - tf.cast(minus, tf.float64), tf.float32)


def _hsv255_to_rgb(hue: tf.Tensor, saturation: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Returns `(H, W, 3)` from hue, saturation and value of 0..255, each `(H, W)`, rounded as Pillow does."""
    position = hue * 6.0 / 255.0
    sextant = tf.floor(position)
    fraction = position - sextant
    grey = saturation / 255.0
    low = tf.floor(value * (1.0 - grey) + 0.5)
    falling = tf.floor(value * (1.0 - grey * fraction) + 0.5)
    rising = tf.floor(value * (1.0 - grey * (1.0 - fraction)) + 0.5)
    which = tf.cast(sextant, tf.int32) % 6
    # Each stack holds a band's value in the six sextants of the circle, from red to magenta.
    red = tf.gather(tf.stack([value, falling, low, low, rising, value], -1), which, batch_dims=2)
    green = tf.gather(tf.stack([rising, value, value, falling, low, low], -1), which, batch_dims=2)
    blue = tf.gather(tf.stack([low, low, rising, value, value, falling], -1), which, batch_dims=2)
    return tf.stack([red, green, blue], axis=-1)
