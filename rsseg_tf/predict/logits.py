"""From an image to logits: windows and test-time augmentation around a predict callable.

The numbers are those of the original's develop branch (PaddleSeg, `paddleseg/core/infer.py`): logits, not
probabilities, are averaged over overlapping windows, scales and flips. (Its release 2.7 sums softmax outputs instead,
and resizes the image already resized by the scale before.)

The original holds logits and counts of a whole scene in float64: 19 GB for 20 000 x 20 000 pixels and six classes.
Here windows are added up in float64 too, but a pixel leaves the sum as soon as no later window touches it (see
`blending`). `predict_labels` turns such pixels into class ids at once, so that an image costs one byte per pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice

import cv2
import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import DataError, NotFiniteError
from rsseg_tf.predict.blending import Block, blend_blocks, make_plan
from rsseg_tf.predict.options import InferenceOptions, View, check_batch_size, check_window

__all__ = [
    "Predict",
    "augmented_logits",
    "call_model",
    "in_window",
    "plain_logits",
    "predict_labels",
    "predict_logits",
    "require_classes",
    "require_finite",
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
    return call_model(predict, image[np.newaxis])[0]


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
    result: NDArray[np.float32] | None = None
    for block in _slide_blocks(predict, image, crop_size=crop_size, stride=stride, batch_size=batch_size):
        rows, columns, classes = block.logits.shape
        if result is None:
            result = np.empty((*image.shape[:2], classes), np.float32)
        result[block.top : block.top + rows, block.left : block.left + columns] = block.logits
    if result is None:  # an image has a pixel and so a window; this tells the type checker
        raise DataError("the image has no window; it must have at least one pixel.")
    return result


def augmented_logits(predict: Predict, images: NDArray, options: InferenceOptions) -> NDArray[np.float32]:
    """Averages the logits of images resized and turned, each brought back to the images' size and orientation.

    Args:
        predict: the model; or what predicts one image by windows, in the same form.
        images: `(B, H, W, bands)` pixels, see `Predict`.
        options: scales (a resized side is `int(side * scale + 0.5)`), flips and rotations. Windows play no part.

    Returns:
        `(B, H, W, num_classes)` float32.

    Raises:
        DataError: when a scale leaves no pixel; as `plain_logits`.
    """
    if not options.is_augmented:
        return call_model(predict, images)
    height, width = images.shape[1:3]
    views = options.views
    total: NDArray[np.float32] | None = None
    for scale in options.scales:
        scaled_height, scaled_width = int(height * scale + 0.5), int(width * scale + 0.5)
        if scaled_height == 0 or scaled_width == 0:
            raise DataError(
                f"scale {scale} makes an image of {height} x {width} pixels vanish; at least 1 x 1 must remain. "
                "Use a larger scale."
            )
        scaled = np.stack([resize_bilinear(image, scaled_height, scaled_width) for image in images])
        for view in views:
            turned = np.ascontiguousarray(_turn(scaled, view))
            logits = _turn_back(call_model(predict, turned), view)
            logits = np.stack([resize_bilinear(one, height, width) for one in logits])
            # stack copies: the callable may hand out one buffer again and again.
            total = logits if total is None else np.add(total, logits, out=total)
    if total is None:  # check_scales refuses empty scales; this tells the type checker
        raise DataError("no scale was given.")
    total /= len(options.scales) * len(views)
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
    _check_image(image)

    def infer(views: NDArray) -> NDArray[np.float32]:
        if options.crop_size is None or options.stride is None:
            return call_model(predict, views)
        (view,) = views
        slid = slide_logits(
            predict, view, crop_size=options.crop_size, stride=options.stride, batch_size=options.batch_size
        )
        return slid[np.newaxis]

    return augmented_logits(infer, image[np.newaxis], options)[0]


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
    model = require_classes(predict, spec)
    if options.is_augmented or options.crop_size is None or options.stride is None:
        logits = predict_logits(model, pixels, options)
        return logits.argmax(axis=-1).astype(np.uint8)
    labels = np.empty(pixels.shape[:2], np.uint8)
    for block in _slide_blocks(
        model,
        pixels,
        crop_size=options.crop_size,
        stride=options.stride,
        batch_size=options.batch_size,
    ):
        rows, columns = block.logits.shape[:2]
        # float32, as slide_logits returns, so that both ways agree where two classes are all but equal.
        ids = block.logits.astype(np.float32).argmax(axis=-1)
        labels[block.top : block.top + rows, block.left : block.left + columns] = ids
    return labels


def require_classes(predict: Predict, spec: DatasetSpec) -> Predict:
    """Returns `predict` with a check: it raises `DataError` when the model gives another number of classes than `spec`.

    Args:
        predict: the model.
        spec: the data set that the model should have been trained for.
    """

    def checked(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = predict(batch)
        if logits.shape[-1] != spec.num_classes:
            raise DataError(
                f"the model gives {logits.shape[-1]} classes, data set '{spec.name}' has {spec.num_classes}. "
                "Use the data set that the model was trained on."
            )
        return logits

    return checked


def _slide_blocks(
    predict: Predict,
    image: NDArray,
    *,
    crop_size: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int,
) -> Iterator[Block]:
    """Yields the averaged logits as blocks that cover the image once."""
    _check_image(image)
    check_window(crop_size, stride)
    check_batch_size(batch_size)
    plan = make_plan(image.shape[:2], crop_size[::-1], stride[::-1], "mean")
    places = [
        (row, column, image[y : plan.rows.end(row), x : plan.columns.end(column)])
        for row, y in enumerate(plan.rows.starts)
        for column, x in enumerate(plan.columns.starts)
    ]

    def predicted() -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        # Batches end with their row of windows, as the original's do.
        waiting = iter(places)
        while row := list(islice(waiting, len(plan.columns.starts))):
            for start in range(0, len(row), batch_size):
                part = row[start : start + batch_size]
                try:
                    logits = call_model(predict, np.stack([pixels for _, _, pixels in part]))
                except NotFiniteError as error:
                    at = part[error.index]
                    raise in_window(error, plan.rows.starts[at[0]], plan.columns.starts[at[1]]) from error
                yield from ((place[0], place[1], one) for place, one in zip(part, logits, strict=True))

    windows = predicted()
    first = next(windows)
    yield from blend_blocks(plan, chain([first], windows), first[2].shape[-1])


def _turn(images: NDArray, view: View) -> NDArray:
    """Turns `(B, H, W, C)` as the view says."""
    transposed, vertical, horizontal = view
    turned = images.swapaxes(1, 2) if transposed else images
    return turned[:, :: -1 if vertical else 1, :: -1 if horizontal else 1]


def _turn_back(images: NDArray, view: View) -> NDArray:
    """Undoes `_turn`."""
    transposed, vertical, horizontal = view
    flipped = images[:, :: -1 if vertical else 1, :: -1 if horizontal else 1]
    return flipped.swapaxes(1, 2) if transposed else flipped


def _check_image(image: NDArray) -> None:
    """Raises `DataError` unless `image` is `(H, W, bands)` with at least one pixel."""
    if image.ndim != 3 or image.size == 0:
        raise DataError(
            f"an image must be (height, width, bands) with at least one pixel; got shape {image.shape}. "
            "Add the missing axis, or drop the batch axis."
        )


def call_model(predict: Predict, batch: NDArray) -> NDArray[np.float32]:
    """Calls the model and checks its answer: the batch's size, and numbers from which a class follows.

    Raises:
        DataError: when the answer has another size.
        NotFiniteError: when a logit is NaN or infinite.
    """
    logits = predict(batch)
    if logits.ndim != 4 or logits.shape[:3] != batch.shape[:3]:
        raise DataError(
            f"the model must answer a batch of {batch.shape} with {(*batch.shape[:3], 'classes')}; got "
            f"{logits.shape}. Export the logits of the main head at the size of the input."
        )
    return require_finite(logits, batch)


def require_finite(logits: NDArray[np.float32], batch: NDArray, model: str = "the model") -> NDArray[np.float32]:
    """Returns logits as they are, if each is a number.

    The largest of values with NaN among them is NaN, and its place is the first: without this check an image would
    come out as class 0 throughout.

    Args:
        logits: `(B, ..., C)`: what the model answered.
        batch: `(B, ...)`: the pixels that it answered to.
        model: what to call it.

    Raises:
        NotFiniteError: when a value is NaN or infinite; `index` is the first image with one.
    """
    finite = np.isfinite(logits)
    if finite.all():
        return logits
    index = next((i for i, one in enumerate(finite) if not one.all()), 0)
    pixels = np.asarray(batch[index], np.float64)
    where = "x".join(map(str, pixels.shape[1::-1])) + " pixels"
    told = f"{model} gives values that are not finite: {np.count_nonzero(~finite[index])} of {finite[index].size}"
    if not np.isfinite(pixels).all():
        raise NotFiniteError(
            f"{told} for {where}, of which {np.count_nonzero(~np.isfinite(pixels).all(axis=-1))} are NaN or infinite "
            "themselves. Declare them as nodata in the file, or replace them.",
            index,
        )
    raise NotFiniteError(
        f"{told} are NaN or infinite for {where} with values from {pixels.min():g} to {pixels.max():g}. If these are "
        "as in training, the weights are damaged, or their training ran away: use an earlier checkpoint; with "
        "--precision fp16, which overflows above 65504, use bf16 or fp32.",
        index,
    )


def in_window(error: NotFiniteError, top: int, left: int) -> NotFiniteError:
    """Returns the same error with the place of the window that it is about."""
    return NotFiniteError(f"in the window at row {top}, column {left}: {error}", error.index)
