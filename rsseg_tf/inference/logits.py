"""From an image to logits: windows and test-time augmentation around a predict callable.

The numbers are those of the original's develop branch (PaddleSeg, `paddleseg/core/infer.py`): logits, not
probabilities, are averaged over overlapping windows, scales and flips. (Its release 2.7 sums softmax outputs instead,
and resizes the image already resized by the scale before.)

The original holds logits and counts of a whole scene in float64: 19 GB for 20 000 x 20 000 pixels and six classes.
Here windows are added up in float64 too, but only in a band as high as one window; a row of pixels leaves the band as
soon as no later window touches it. `predict_labels` turns such rows into class ids at once, so that a scene costs one
byte per pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

import cv2
import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.datasets.tiling import Window, sliding_windows
from rsseg_tf.errors import DataError
from rsseg_tf.inference.options import (
    InferenceOptions,
    check_batch_size,
    check_scales,
    check_window,
    flip_combinations,
)

__all__ = [
    "Predict",
    "augmented_logits",
    "plain_logits",
    "predict_labels",
    "predict_logits",
    "resize_bilinear",
    "slide_logits",
]

Predict = Callable[[NDArray], NDArray[np.float32]]
"""A model: `(B, H, W, bands)` pixels -> `(B, H, W, num_classes)` float32 logits, for any B, H and W.

Pixels are in the units of the file, 0..max_value, in the file's dtype or, after a resize, in float32; normalisation is
part of the model.
"""

# cv2.resize of OpenCV 5 takes at most 128 channels (OpenCV 4: 512).
_RESIZE_CHANNELS = 128


def resize_bilinear(image: NDArray, height: int, width: int) -> NDArray:
    """Resizes `(H, W, C)` to `(height, width, C)` float32, bilinear with half-pixel centres and no antialiasing.

    Equal to the original's `F.interpolate(mode="bilinear", align_corners=False)`. Any number of channels and any real
    dtype; an image that has the size already is returned as it is.
    """
    if image.shape[:2] == (height, width):
        return image
    parts = []
    for start in range(0, image.shape[2], _RESIZE_CHANNELS):
        part = np.ascontiguousarray(image[:, :, start : start + _RESIZE_CHANNELS], np.float32)
        resized = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
        parts.append(resized.reshape(height, width, part.shape[2]))  # cv2 drops the axis of a single channel
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def plain_logits(predict: Predict, image: NDArray) -> NDArray[np.float32]:
    """Predicts a whole image in one call.

    Args:
        predict: the model.
        image: `(H, W, bands)` pixels, see `Predict`.

    Returns:
        `(H, W, num_classes)` float32.

    Raises:
        DataError: when the image is not `(H, W, bands)`, or the model's answer has the wrong shape.
    """
    _check_image(image)
    return _call(predict, image[np.newaxis])[0]


def slide_logits(
    predict: Predict,
    image: NDArray,
    *,
    crop_size: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int = 1,
) -> NDArray[np.float32]:
    """Predicts overlapping windows and averages their logits where they overlap.

    The last window of a row or column is shifted back to end with the image; an image smaller than the window is one
    window of its own size (no padding), in each direction.

    Args:
        predict: the model.
        image: `(H, W, bands)` pixels, see `Predict`.
        crop_size: (width, height) of a window.
        stride: (width, height) from one window to the next.
        batch_size: windows per call of the model; all windows have one size.

    Returns:
        `(H, W, num_classes)` float32, averaged in float64 like the original's (which stays float64).

    Raises:
        ConfigError: when the sizes are not 1 <= stride <= crop_size.
        DataError: as `plain_logits`.
    """
    bands = [
        band.astype(np.float32)
        for _, band in _slide_bands(predict, image, crop_size=crop_size, stride=stride, batch_size=batch_size)
    ]
    return np.concatenate(bands, axis=0)


def augmented_logits(
    predict: Predict,
    image: NDArray,
    *,
    scales: tuple[float, ...] = (1.0,),
    flip_horizontal: bool = False,
    flip_vertical: bool = False,
    infer: Callable[[Predict, NDArray], NDArray[np.float32]] = plain_logits,
) -> NDArray[np.float32]:
    """Averages the logits of the image resized and flipped, each brought back to the image's size and orientation.

    Args:
        predict: the model.
        image: `(H, W, bands)` pixels, see `Predict`.
        scales: factors of the size; the resized side is `int(side * scale + 0.5)`.
        flip_horizontal: also mirror left-right.
        flip_vertical: also mirror top-bottom (and both, with `flip_horizontal`).
        infer: how one of these images is predicted; `slide_logits` with its sizes bound, for windows.

    Returns:
        `(H, W, num_classes)` float32.

    Raises:
        ConfigError: when a scale is not above 0.
        DataError: when a scale leaves no pixel; as `plain_logits`.
    """
    check_scales(scales)
    _check_image(image)
    height, width = image.shape[:2]
    flips = flip_combinations(flip_horizontal, flip_vertical)
    total: NDArray[np.float32] | None = None
    for scale in scales:
        scaled_height, scaled_width = int(height * scale + 0.5), int(width * scale + 0.5)
        if scaled_height == 0 or scaled_width == 0:
            raise DataError(
                f"scale {scale} makes an image of {height} x {width} pixels vanish; at least 1 x 1 must remain. "
                "Use a larger scale."
            )
        scaled = resize_bilinear(image, scaled_height, scaled_width)
        for flip in flips:
            logits = _flip(infer(predict, np.ascontiguousarray(_flip(scaled, flip))), flip)
            logits = resize_bilinear(logits, height, width)
            # astype copies: the callable may hand out one buffer again and again.
            total = logits.astype(np.float32) if total is None else np.add(total, logits, out=total)
    if total is None:  # check_scales refuses empty scales; this tells the type checker
        raise DataError("no scale was given.")
    total /= len(scales) * len(flips)
    return total


def predict_logits(predict: Predict, image: NDArray, options: InferenceOptions) -> NDArray[np.float32]:
    """Predicts one image as `options` say.

    Args:
        predict: the model.
        image: `(H, W, bands)` pixels, see `Predict`.
        options: windows and augmentation.

    Returns:
        `(H, W, num_classes)` float32 logits.

    Raises:
        DataError: as `plain_logits` and `augmented_logits`.
    """

    def infer(model: Predict, view: NDArray) -> NDArray[np.float32]:
        if options.crop_size is None or options.stride is None:
            return plain_logits(model, view)
        return slide_logits(
            model, view, crop_size=options.crop_size, stride=options.stride, batch_size=options.batch_size
        )

    if not options.is_augmented:
        return infer(predict, image)
    return augmented_logits(
        predict,
        image,
        scales=options.scales,
        flip_horizontal=options.flip_horizontal,
        flip_vertical=options.flip_vertical,
        infer=infer,
    )


def predict_labels(
    predict: Predict, pixels: NDArray, spec: DatasetSpec, options: InferenceOptions
) -> NDArray[np.uint8]:
    """Predicts the class of each pixel of an image as it was read.

    The class is the argmax of `predict_logits(predict, pixels, options)`, the lowest id on a tie. With windows and
    without augmentation the logits are never held in full.

    Args:
        predict: the model.
        pixels: `(H, W, bands)` in the file's dtype.
        spec: the data set that the model was trained for.
        options: windows and augmentation.

    Returns:
        `(H, W)` uint8 class ids.

    Raises:
        DataError: when bands or number of classes do not fit the spec; as `predict_logits`.
    """
    _check_image(pixels)
    if pixels.shape[-1] != spec.bands:
        raise DataError(
            f"the model for data set '{spec.name}' needs {spec.bands} bands; the image has {pixels.shape[-1]}. "
            "Choose the bands that the model was trained with, in its order."
        )

    def model(batch: NDArray) -> NDArray[np.float32]:
        logits = predict(batch)
        if logits.shape[-1] != spec.num_classes:
            raise DataError(
                f"the model gives {logits.shape[-1]} classes, data set '{spec.name}' has {spec.num_classes}. "
                "Use the data set that the model was trained on."
            )
        return logits

    if options.is_augmented or options.crop_size is None or options.stride is None:
        logits = predict_logits(model, pixels, options)
        return logits.argmax(axis=-1).astype(np.uint8)
    labels = np.empty(pixels.shape[:2], np.uint8)
    bands = _slide_bands(
        model,
        pixels,
        crop_size=options.crop_size,
        stride=options.stride,
        batch_size=options.batch_size,
    )
    for top, band in bands:
        # float32, as slide_logits returns, so that both ways agree where two classes are all but equal.
        labels[top : top + len(band)] = band.astype(np.float32).argmax(axis=-1)
    return labels


def _slide_bands(
    predict: Predict,
    image: NDArray,
    *,
    crop_size: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int,
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yields the averaged logits from top to bottom as `(first row, (rows, W, num_classes) float64)`."""
    _check_image(image)
    check_window(crop_size, stride)
    check_batch_size(batch_size)
    height, width = image.shape[:2]
    size = min(crop_size[1], height), min(crop_size[0], width)
    step = min(stride[1], size[0]), min(stride[0], size[1])
    windows = sliding_windows(height, width, size, step)
    rows = [list(row) for _, row in groupby(windows, key=lambda window: window.y0)]
    across = _cover(width, [(window.x0, window.x1) for window in rows[0]])
    down = _cover(height, [(row[0].y0, row[0].y1) for row in rows])
    band: NDArray[np.float64] | None = None  # sums of the rows from `top` on
    top = 0
    for index, row in enumerate(rows):
        for window, logits in _predict_row(predict, image, row, batch_size):
            if band is None:
                band = np.zeros((window.y1 - window.y0, width, logits.shape[-1]), np.float64)
            band[:, window.x0 : window.x1] += logits
        if band is None:
            raise DataError("the image has no window; it must have at least one pixel.")
        next_top = rows[index + 1][0].y0 if index + 1 < len(rows) else height
        done = next_top - top
        counts = down[top:next_top, np.newaxis] * across
        yield top, band[:done] / counts[:, :, np.newaxis]
        band = np.concatenate([band[done:], np.zeros((done, *band.shape[1:]), np.float64)])
        top = next_top


def _predict_row(
    predict: Predict, image: NDArray, row: list[Window], batch_size: int
) -> Iterator[tuple[Window, NDArray[np.float32]]]:
    """Predicts windows of one size, `batch_size` at a time."""
    for start in range(0, len(row), batch_size):
        windows = row[start : start + batch_size]
        batch = np.stack([image[window.y0 : window.y1, window.x0 : window.x1] for window in windows])
        yield from zip(windows, _call(predict, batch), strict=True)


def _cover(length: int, spans: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Counts for each position of an axis how many spans cover it, `(length,)`."""
    counts = np.zeros(length, np.int64)
    for start, end in spans:
        counts[start:end] += 1
    return counts


def _flip(image: NDArray, flip: tuple[bool, bool]) -> NDArray:
    """Mirrors `(H, W, C)` by (horizontal, vertical)."""
    horizontal, vertical = flip
    return image[:: -1 if vertical else 1, :: -1 if horizontal else 1]


def _check_image(image: NDArray) -> None:
    """Raises `DataError` unless `image` is `(H, W, bands)` with at least one pixel."""
    if image.ndim != 3 or image.size == 0:
        raise DataError(
            f"an image must be (height, width, bands) with at least one pixel; got shape {image.shape}. "
            "Add the missing axis, or drop the batch axis."
        )


def _call(predict: Predict, batch: NDArray) -> NDArray[np.float32]:
    """Calls the model and checks that its answer has the batch's size."""
    logits = predict(batch)
    if logits.ndim != 4 or logits.shape[:3] != batch.shape[:3]:
        raise DataError(
            f"the model must answer a batch of {batch.shape} with {(*batch.shape[:3], 'classes')}; got "
            f"{logits.shape}. Export the logits of the main head at the size of the input."
        )
    return logits
