"""The one way from an image to its logits: windows, test-time augmentation and the blend around a model.

`predict` writes what `eval` counts, because both ask `make_tiling` how an image is predicted and `predict_blocks` to do
it. There are two orders:

- An image of up to `WHOLE_PIXELS` is predicted as PaddleSeg's develop branch does (`paddleseg/core/infer.py`): the
  whole image is scaled, windows slide over the scaled image, and logits, not probabilities, are averaged over windows,
  scales and flips. (PaddleSeg 2.7 sums softmax outputs instead, and resizes the image that the scale before resized.)
- A larger image is cut into windows first, and each window is scaled. PaddleSeg holds logits and counts of a whole
  scene in float64: 19 GB for 20 000 x 20 000 pixels and six classes. Here a pixel leaves the sum as soon as no later
  window touches it (see `blending`).

Without augmentation both orders are the same, and windows are always the outer loop.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import DataError, NotFiniteError
from rsseg_tf.predict.blending import Block, Plan, Windows, blend_blocks, make_plan
from rsseg_tf.predict.decoding import labels_and_confidence, largest_class
from rsseg_tf.predict.model import (
    ConfidenceModel,
    LabelModel,
    Predict,
    call_model,
    class_planes,
    require_classes,
    resize_bilinear,
    wrong_shape,
)
from rsseg_tf.predict.options import Doubt, InferenceOptions, View
from rsseg_tf.rasters.windows import Size

__all__ = [
    "WHOLE_PIXELS",
    "LabelBlock",
    "LogitPart",
    "PixelRows",
    "Tiling",
    "augmented_logits",
    "label_model",
    "make_tiling",
    "predict_blocks",
    "predict_label_blocks",
    "predict_labels",
    "predict_logits",
    "predict_many_labels",
    "predict_many_logits",
    "predict_parts",
    "slide_logits",
]

_TILES_OF_A_PART = 9
"""An image of more tiles, and of more pixels per wanted one, is not predicted whole for an area of interest."""
WHOLE_PIXELS = 2048 * 2048
"""Images up to this size are scaled as a whole, and predicted in one piece where no windows are asked for."""


@dataclass(frozen=True)
class Tiling:
    """How an image is cut and what the model sees of it.

    Attributes:
        plan: The outer windows, in pixels of the image.
        seen: Size that each window is resampled to before it is predicted; the window's own size unless the model's
            ground sampling distance is to be matched.
        inner: Windows that slide over each scaled image; None where the outer windows are all there are.
        value_scale: Factor that brings pixel values to the model's units.
    """

    plan: Plan
    seen: Size
    inner: Windows | None = None
    value_scale: float = 1.0

    @property
    def window(self) -> Size:
        """Size of an outer window in pixels of the image."""
        return Size(self.plan.rows.window, self.plan.columns.window)

    @property
    def is_whole(self) -> bool:
        """Whether one outer window is all of the image."""
        return len(self.plan.rows.starts) * len(self.plan.columns.starts) == 1

    @property
    def summary(self) -> str:
        """The windows that the model is given, and their blend: `512x512 cosine`."""
        if self.inner is not None:
            return f"{self.inner.size} {self.inner.blend}"
        return f"{self.window} {self.plan.rows.blend}"


def make_tiling(
    size: Size,
    options: InferenceOptions,
    *,
    zoom: tuple[float, float] = (1.0, 1.0),
    value_scale: float = 1.0,
    part: Size | None = None,
) -> Tiling:
    """Decides how an image is predicted. Nothing but the arguments counts, so that all commands decide alike.

    Args:
        size: Size of the image.
        options: Windows and the model's tile. Where no windows are asked for, an image of up to `WHOLE_PIXELS` is
            predicted whole, and a larger one by blended windows of the tile's size.
        zoom: Pixels of the model per pixel of the image, downwards and to the right.
        value_scale: See `Tiling`.
        part: Size of the part that is wanted, where not all is. For a small part of an image of many tiles, the image
            is neither read nor predicted whole.
    """
    seen = size.scaled(*zoom)
    fits = max(seen.pixels, size.pixels) <= WHOLE_PIXELS
    if part is not None and size.pixels > _TILES_OF_A_PART * max(part.pixels, options.tile.pixels):
        fits = False
    windows = options.windows(fits=fits)
    if windows is None or (fits and options.is_augmented):
        return Tiling(make_plan(size, size, size, "mean"), seen, windows, value_scale)
    # What becomes the model's window; rounding it to pixels of the image changes the scale by less than one of them.
    back = 1 / zoom[0], 1 / zoom[1]
    window, stride = windows.size.scaled(*back), windows.stride.scaled(*back)
    stride = Size(min(stride.height, window.height), min(stride.width, window.width))
    plan = make_plan(size, window, stride, windows.blend, pad=windows.padded)
    inside = Size(plan.rows.window, plan.columns.window)
    # Of an image that is smaller than a window and not padded, the model sees the image alone.
    reduced = inside.scaled(*zoom)
    seen = Size(
        windows.size.height if inside.height == window.height else reduced.height,
        windows.size.width if inside.width == window.width else reduced.width,
    )
    return Tiling(plan, seen, None, value_scale)


# === Images in memory ===


def predict_logits(
    model: Predict, pixels: NDArray, spec: DatasetSpec, options: InferenceOptions
) -> NDArray[np.float32]:
    """Predicts an image in memory.

    Args:
        model: See `Predict`.
        pixels: `(H, W, bands)` in the file's dtype.
        spec: The dataset that the model was trained for.
        options: Windows and augmentation.

    Returns:
        `(H, W, num_classes)` float32 logits.

    Raises:
        DataError: When bands, classes or the shape of the model's answer do not fit, or a scale leaves no pixel.
        NotFiniteError: When a logit is NaN or infinite.
    """
    return predict_many_logits(model, [pixels], spec, options)[0]


def predict_labels(model: Predict, pixels: NDArray, spec: DatasetSpec, options: InferenceOptions) -> NDArray[np.uint8]:
    """Predicts the class of each pixel of an image in memory; with windows, its logits are never held in full.

    Args:
        model: See `Predict`.
        pixels: `(H, W, bands)` in the file's dtype.
        spec: The dataset that the model was trained for.
        options: Windows and augmentation.

    Returns:
        `(H, W)` uint8: the class of the largest logit, the lowest id on a tie.

    Raises:
        DataError: As `predict_logits`.
        NotFiniteError: As `predict_logits`.
    """
    return predict_many_labels(model, [pixels], spec, options)[0]


def predict_many_logits(
    model: Predict, images: Sequence[NDArray], spec: DatasetSpec, options: InferenceOptions
) -> list[NDArray[np.float32]]:
    """Predicts images of one size and type; where no windows are needed, in one call of the model.

    Args:
        model: See `Predict`.
        images: `(H, W, bands)` each.
        spec: As `predict_logits`.
        options: As `predict_logits`.

    Returns:
        The logits of each image, see `predict_logits`.

    Raises:
        DataError: As `predict_logits`.
        NotFiniteError: As `predict_logits`; `index` is the image.
    """
    results = [np.empty((*pixels.shape[:2], spec.num_classes), np.float32) for pixels in images]
    for part in predict_parts(model, images, spec, options):
        part.of(results[part.index])[...] = part.logits
    return results


@dataclass(frozen=True)
class LogitPart:
    """Logits of a part of an image.

    Attributes:
        index: Which of the images.
        top: First row in the image.
        left: First column in the image.
        logits: `(rows, columns, classes)` float32, valid until the next part is taken.
    """

    index: int
    top: int
    left: int
    logits: NDArray[np.float32]

    def of(self, whole: NDArray) -> NDArray:
        """Returns the same part of an array `(H, W, ...)` of the image's size, as a view."""
        return _part_of(whole, self.top, self.left, self.logits)


def predict_parts(
    model: Predict, images: Sequence[NDArray], spec: DatasetSpec, options: InferenceOptions
) -> Iterator[LogitPart]:
    """Predicts images of one size and type; the logits of a large one are never held in full.

    Args:
        model: See `Predict`.
        images: `(H, W, bands)` each.
        spec: As `predict_logits`.
        options: As `predict_logits`.

    Yields:
        The logits of all images, part by part, see `predict_logits`.

    Raises:
        DataError: As `predict_logits`.
        NotFiniteError: As `predict_logits`; `index` is the image.
    """
    tiling = _tiling_in_memory(images, spec, options)
    checked = require_classes(model, spec)
    if _in_one_call(tiling):
        answers = augmented_logits(functools.partial(call_model, checked), np.stack(images), options)
        for index, logits in enumerate(answers):
            yield LogitPart(index, 0, 0, logits.astype(np.float32, copy=False))
        return
    for index, pixels in enumerate(images):
        with _naming_image(index):
            for block, _ in predict_blocks(_Array(pixels), checked, spec.num_classes, options, tiling):
                yield LogitPart(index, block.top, block.left, block.logits.astype(np.float32, copy=False))


def predict_many_labels(
    model: Predict, images: Sequence[NDArray], spec: DatasetSpec, options: InferenceOptions
) -> list[NDArray[np.uint8]]:
    """Predicts the class of each pixel of images of one size and type; without windows, in one call of the model.

    Where no logits must be blended, a `LabelModel` is asked for labels.

    Args:
        model: See `Predict`.
        images: `(H, W, bands)` each.
        spec: As `predict_labels`.
        options: As `predict_labels`.

    Returns:
        The labels of each image, see `predict_labels`.

    Raises:
        DataError: As `predict_labels`.
        NotFiniteError: As `predict_labels`; `index` is the image.
    """
    tiling = _tiling_in_memory(images, spec, options)
    if _in_one_call(tiling):
        batch, found = np.stack(images), label_model(model, spec, options, tiling)
        if found is None:
            return list(_labels_of_logits(model, batch, spec, options)[:, 0])
        return list(_answer_with_labels(found, batch, spec, options)[:, 0])
    results = []
    for index, pixels in enumerate(images):
        labels = np.empty(pixels.shape[:2], np.uint8)
        with _naming_image(index):
            for block, _ in predict_label_blocks(_Array(pixels), model, spec, options, tiling):
                _part_of(labels, block.top, block.left, block.planes[0])[...] = block.planes[0]
        results.append(labels)
    return results


def _tiling_in_memory(images: Sequence[NDArray], spec: DatasetSpec, options: InferenceOptions) -> Tiling:
    """Checks images in memory, and decides how they are predicted."""
    pixels = images[0]
    if pixels.ndim != 3 or pixels.size == 0:
        raise DataError(
            f"an image must be (height, width, bands) with at least one pixel; got shape {pixels.shape}. "
            "Add the missing axis, or drop the batch axis."
        )
    if pixels.shape[-1] != spec.bands:
        raise DataError(
            f"the model for dataset '{spec.name}' needs {spec.bands} bands; the image has {pixels.shape[-1]}. "
            "Choose the bands that the model was trained with, in its order."
        )
    return make_tiling(Size(*pixels.shape[:2]), options)


def _in_one_call(tiling: Tiling) -> bool:
    """Whether an image goes to the model as it is, without windows and padding."""
    rows, columns = tiling.plan.rows, tiling.plan.columns
    return tiling.inner is None and tiling.seen == tiling.window == Size(rows.size, columns.size)


@contextlib.contextmanager
def _naming_image(index: int) -> Iterator[None]:
    """Gives the number of the image to an error that has the number of a window."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(str(error), index) from error


def _part_of(whole: NDArray, top: int, left: int, block: NDArray) -> NDArray:
    """Returns the part of an image that a block fills."""
    return whole[top : top + block.shape[0], left : left + block.shape[1]]


# === Labels ===


@dataclass(frozen=True)
class LabelBlock:
    """Labels of a part of an image, and their confidence where it was asked for.

    Attributes:
        top: First row in the image.
        left: First column in the image.
        planes: `(1, rows, columns)` uint8: labels; or `(2, rows, columns)`: also their probability in steps of 1/254.
        ends_row: Whether it is the last block of its rows.
    """

    top: int
    left: int
    planes: NDArray[np.uint8]
    ends_row: bool


def label_model(
    model: Predict, spec: DatasetSpec, options: InferenceOptions, tiling: Tiling, *, confidence: bool = False
) -> LabelModel | None:
    """Returns the model if it can be asked for labels: the same as those of the logits, pixel by pixel.

    Logits are needed where some are averaged: over overlapping windows, over scales, or where windows are resampled.
    Views are averaged by the model.

    Args:
        model: See `Predict`.
        spec: The dataset that the model was trained for.
        options: Augmentation.
        tiling: The windows.
        confidence: Whether it is to be asked for the labels' probabilities, too.
    """
    rows, columns = tiling.plan.rows, tiling.plan.columns
    # A weight other than 1 and the division by it may round two logits to the same.
    apart = rows.overlap == columns.overlap == 0 and rows.blend == "mean"
    if (
        not (tiling.is_whole or apart)
        or tiling.inner is not None
        or tiling.seen != tiling.window
        or options.scales != (1.0,)
    ):
        return None
    # A model with another number of classes is asked for logits, where `require_classes` refuses it.
    kind = ConfidenceModel if confidence else LabelModel
    return model if isinstance(model, kind) and model.num_classes == spec.num_classes else None


def predict_label_blocks(
    image: PixelRows,
    model: Predict,
    spec: DatasetSpec,
    options: InferenceOptions,
    tiling: Tiling,
    *,
    doubt: Doubt | None = None,
    part: tuple[range, range] | None = None,
    stage: Stage = lambda batches: batches,
) -> Generator[tuple[LabelBlock, NDArray[np.bool_]], None, None]:
    """Predicts the labels of an image: as `predict_blocks`, whose logits are used where the model has no labels.

    Args:
        image: As `predict_blocks`.
        model: As `predict_blocks`.
        spec: The dataset that the model was trained for.
        options: As `predict_blocks`.
        tiling: As `predict_blocks`.
        doubt: Which pixels get no class, where the confidence is wanted, too; None for labels alone.
        part: As `predict_blocks`.
        stage: As `predict_blocks`.

    Yields:
        Blocks, and which pixels of each are wanted. Others have meaningless labels.

    Raises:
        DataError: As `predict_blocks`.
        NotFiniteError: As `predict_blocks`.
    """
    found = label_model(model, spec, options, tiling, confidence=doubt is not None)
    if found is None:
        checked = require_classes(model, spec)
        blocks = predict_blocks(image, checked, spec.num_classes, options, tiling, part=part, stage=stage)
        with contextlib.closing(blocks):
            for block, mask in blocks:
                yield LabelBlock(block.top, block.left, _decided(block.logits, doubt), block.ends_row), mask
        return
    plan = tiling.plan
    rows, columns = part or (range(len(plan.rows.starts)), range(len(plan.columns.starts)))
    answer = functools.partial(_answer_with_labels, found, spec=spec, options=options, doubt=doubt)
    masks: dict[int, NDArray[np.bool_]] = {}
    left = plan.columns.starts[columns[0]]
    with contextlib.ExitStack() as stack:
        read = stack.enter_context(contextlib.closing(stage(_read(image, plan, rows, columns, options, masks))))
        predicted = stack.enter_context(contextlib.closing(stage(_answered(read, answer, tiling))))
        for batch in predicted:
            for row, column, index in batch.places:
                y0, x0 = plan.rows.starts[row], plan.columns.starts[column]
                mask = masks[row][:, x0 - left : plan.columns.next_start(column) - left]
                planes = np.zeros((1 if doubt is None else 2, *mask.shape), np.uint8)
                if index is not None and batch.values is not None:
                    planes = batch.values[index][:, : mask.shape[0], : mask.shape[1]]
                ends_row = column == columns[-1]
                yield LabelBlock(y0, x0, planes, ends_row), mask
                if ends_row:
                    del masks[row]


def _decided(logits: NDArray, doubt: Doubt | None) -> NDArray[np.uint8]:
    """Returns the planes of a `LabelBlock` for logits `(H, W, classes)`."""
    # As float32: ids of blended logits, which are float64, then agree with those of whole images.
    logits = logits.astype(np.float32, copy=False)
    return largest_class(logits)[np.newaxis] if doubt is None else labels_and_confidence(logits, doubt)


def _answer_with_labels(
    model: LabelModel, images: NDArray, spec: DatasetSpec, options: InferenceOptions, doubt: Doubt | None = None
) -> NDArray[np.uint8]:
    """Asks a model for the labels of a batch, and for logits where that does not work out.

    Returns:
        `(B, 1 or 2, H, W)`: the planes of a `LabelBlock` of each image.
    """
    if doubt is None:
        labels = model.labels(images, options.views)
        planes = None if labels is None else labels[:, np.newaxis]
    else:
        planes = cast("ConfidenceModel", model).labels_and_confidence(images, options.views, doubt)
    if planes is None:  # the logits tell what is wrong; or nothing is: the sum over the views alone was too large
        return _labels_of_logits(model, images, spec, options, doubt)
    if (len(planes), *planes.shape[2:]) != images.shape[:3]:
        raise wrong_shape(images, planes[:, 0])
    return planes


def _labels_of_logits(
    model: Predict, images: NDArray, spec: DatasetSpec, options: InferenceOptions, doubt: Doubt | None = None
) -> NDArray[np.uint8]:
    """Finds the labels of a batch in its logits; returns as `_answer_with_labels`."""
    checked = functools.partial(call_model, require_classes(model, spec))
    return np.stack([_decided(one, doubt) for one in augmented_logits(checked, images, options)])


# === Blocks of any image ===


class PixelRows(Protocol):
    """Where the pixels of an image come from."""

    def rows(self, top: int, bottom: int) -> tuple[NDArray | None, NDArray[np.bool_]]:
        """Returns pixels `(rows, columns, bands)` and which of them are wanted `(rows, columns)`.

        Pixels may be None where none is wanted. Both bounds never decrease from one call to the next.
        """


@dataclass(frozen=True)
class _Array:
    """An image in memory, all of whose pixels are wanted."""

    pixels: NDArray

    def rows(self, top: int, bottom: int) -> tuple[NDArray, NDArray[np.bool_]]:
        """See `PixelRows`."""
        part = self.pixels[top:bottom]
        return part, np.ones(part.shape[:2], bool)


@dataclass(frozen=True)
class _Batch:
    """Windows in the plan's order.

    Attributes:
        places: (row, column, index in `values`) of each; the index is None for a window without a wanted pixel.
        values: `(B, height, width, ...)`: pixels, later logits or labels; None if all windows are skipped.
    """

    places: list[tuple[int, int, int | None]]
    values: NDArray | None


Stage = Callable[[Generator[_Batch, None, None]], Generator[_Batch, None, None]]
"""Takes what one stage yields to the next, which may be in another thread."""


def predict_blocks(
    image: PixelRows,
    model: Predict,
    classes: int,
    options: InferenceOptions,
    tiling: Tiling,
    *,
    part: tuple[range, range] | None = None,
    stage: Stage = lambda batches: batches,
) -> Generator[tuple[Block, NDArray[np.bool_]], None, None]:
    """Reads, predicts and blends an image.

    Args:
        image: The pixels of the columns that the windows of `part` touch.
        model: See `Predict`.
        classes: Number of its classes.
        options: Augmentation and batch size.
        tiling: The windows.
        part: Rows and columns of windows to predict; all by default.
        stage: Runs reading ahead of predicting, and predicting ahead of blending.

    Yields:
        Blocks as `blend_blocks` gives them, and which pixels of each are wanted. Others have meaningless logits.

    Raises:
        DataError: When the model's answer does not fit, or a scale leaves no pixel.
        NotFiniteError: When a logit is NaN or infinite; the error names the window.
    """
    plan = tiling.plan
    rows, columns = part or (range(len(plan.rows.starts)), range(len(plan.columns.starts)))
    masks: dict[int, NDArray[np.bool_]] = {}  # what is wanted of the rows that each row of windows finishes
    free: list[NDArray[np.float32]] = []
    with contextlib.ExitStack() as stack:
        read = stack.enter_context(contextlib.closing(stage(_read(image, plan, rows, columns, options, masks))))
        predicted = stack.enter_context(
            contextlib.closing(stage(_predict(read, model, classes, options, tiling, free)))
        )
        left, row = plan.columns.starts[columns[0]], rows[0]
        for block in blend_blocks(plan, _one_by_one(predicted, tiling, free), classes, rows=rows, columns=columns):
            yield block, masks[row][:, block.left - left :][:, : block.logits.shape[1]]
            if block.ends_row:
                del masks[row]
                row += 1


def _read(
    image: PixelRows,
    plan: Plan,
    rows: range,
    columns: range,
    options: InferenceOptions,
    masks: dict[int, NDArray[np.bool_]],
) -> Generator[_Batch, None, None]:
    """Yields the pixels of the windows in batches, which go on from one row of windows to the next."""
    first = plan.columns.starts[columns[0]]
    batch = _Batch([], None)
    waiting: list[NDArray] = []
    for row in rows:
        top, bottom = plan.rows.starts[row], plan.rows.end(row)
        pixels, mask = image.rows(top, bottom)
        masks[row] = mask[: plan.rows.next_start(row) - top]
        for column in columns:
            left, right = plan.columns.starts[column] - first, plan.columns.end(column) - first
            if pixels is None or not mask[:, left:right].any():
                batch.places.append((row, column, None))
            else:
                batch.places.append((row, column, len(waiting)))
                waiting.append(_padded(pixels[:, left:right], plan.rows.window, plan.columns.window))
            # Many windows in a row may have no data: their places must not pile up.
            if len(waiting) == options.batch_size or len(batch.places) >= 64 * options.batch_size:
                yield _Batch(batch.places, np.stack(waiting) if waiting else None)
                batch, waiting = _Batch([], None), []
    if batch.places:
        yield _Batch(batch.places, np.stack(waiting) if waiting else None)


def _padded(pixels: NDArray, height: int, width: int) -> NDArray:
    """Pads `(H, W, bands)` to a window by reflection, again and again if the image is smaller than the padding."""
    rows, columns = height - pixels.shape[0], width - pixels.shape[1]
    return np.pad(pixels, ((0, rows), (0, columns), (0, 0)), mode="reflect") if rows or columns else pixels


def _predict(
    batches: Iterator[_Batch],
    model: Predict,
    classes: int,
    options: InferenceOptions,
    tiling: Tiling,
    free: list[NDArray[np.float32]],
) -> Generator[_Batch, None, None]:
    """Yields each batch with the logits of its windows, at the size that the model sees; `free` see `_copied`."""

    def predict(images: NDArray) -> NDArray[np.float32]:
        if tiling.inner is None:
            return call_model(model, images)
        return np.stack([slide_logits(model, image, classes, tiling.inner, options.batch_size) for image in images])

    def answer(images: NDArray) -> NDArray[np.float32]:
        return _copied(augmented_logits(predict, images, options), tiling, free)

    return _answered(batches, answer, tiling)


def _answered(
    batches: Iterator[_Batch], answer: Callable[[NDArray], NDArray], tiling: Tiling
) -> Generator[_Batch, None, None]:
    """Yields each batch with what `answer` has for the pixels that the model sees."""
    for batch in batches:
        pixels = batch.values
        if pixels is None:
            yield batch
            continue
        if tiling.seen != tiling.window:
            pixels = np.stack([_resampled(window, tiling.seen) for window in pixels])
        if tiling.value_scale != 1.0:
            pixels = pixels * np.float32(tiling.value_scale)
        try:
            answers = answer(pixels)
        except NotFiniteError as error:
            raise _placed(error, batch, tiling) from error
        yield _Batch(batch.places, answers)


def _copied(logits: NDArray[np.float32], tiling: Tiling, free: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Returns a copy, since the model may hand out one buffer again and again; in planes where windows are blended.

    Args:
        logits: `(B, H, W, classes)`.
        tiling: Tells whether windows are blended.
        free: Buffers of batches that were blended. New memory would cost more than what is written into it.
    """
    if tiling.is_whole:
        return np.array(logits)
    batch, height, width, classes = logits.shape
    shape = batch, classes, height, width
    planes = free.pop() if free else np.empty(shape, np.float32)
    if planes.shape != shape:
        planes = np.empty(shape, np.float32)
    for one, own in zip(logits, planes, strict=True):
        class_planes(one, own)
    return planes.transpose(0, 2, 3, 1)


def _placed(error: NotFiniteError, batch: _Batch, tiling: Tiling) -> NotFiniteError:
    """Returns the error with the place of its window, where there are several."""
    if tiling.is_whole:
        return error
    row, column = next(place[:2] for place in batch.places if place[2] == error.index)
    plan = tiling.plan
    top, left = plan.rows.starts[row], plan.columns.starts[column]
    return NotFiniteError(f"in the window at row {top}, column {left}: {error}", error.index)


def _resampled(window: NDArray, size: Size) -> NDArray:
    """Resizes `(H, W, bands)`: areas are averaged where it shrinks (nothing aliases), bilinear where it grows."""
    if size.height > window.shape[0] or size.width > window.shape[1]:
        return resize_bilinear(window, *size)
    bands = [
        cv2.resize(np.ascontiguousarray(band, np.float32), size.width_height, interpolation=cv2.INTER_AREA)
        for band in np.moveaxis(window, -1, 0)
    ]
    return np.stack(bands, axis=-1)


def _one_by_one(
    batches: Iterator[_Batch], tiling: Tiling, free: list[NDArray[np.float32]]
) -> Iterator[tuple[int, int, NDArray[np.float32] | None]]:
    """Yields the windows with their logits in pixels of the image; `free` see `_copied`."""
    for batch in batches:
        for row, column, index in batch.places:
            if index is None or batch.values is None:
                yield row, column, None
            else:
                yield row, column, resize_bilinear(batch.values[index], *tiling.window)
        if batch.values is not None and not tiling.is_whole:
            free.append(batch.values.transpose(0, 3, 1, 2))


# === One window ===


def slide_logits(
    model: Predict, image: NDArray, classes: int, windows: Windows, batch_size: int = 1
) -> NDArray[np.float32]:
    """Predicts `(H, W, bands)` by windows; returns the blend of their logits, `(H, W, classes)`."""
    plan = windows.over(Size(*image.shape[:2]))
    tiling = Tiling(plan, Size(plan.rows.window, plan.columns.window))
    result = np.empty((*image.shape[:2], classes), np.float32)
    plain = InferenceOptions(batch_size=batch_size)
    for block, _ in predict_blocks(_Array(image), model, classes, plain, tiling):
        rows, columns = block.logits.shape[:2]
        result[block.top : block.top + rows, block.left : block.left + columns] = block.logits
    return result


def augmented_logits(predict: Predict, images: NDArray, options: InferenceOptions) -> NDArray[np.float32]:
    """Averages the logits of images resized and turned, each brought back to the images' size and orientation.

    Args:
        predict: The model; or what predicts one image by windows, in the same form.
        images: `(B, H, W, bands)` pixels, see `Predict`.
        options: Scales (a resized side is `int(side * scale + 0.5)`), flips and rotations. Windows play no part.

    Returns:
        `(B, H, W, num_classes)` float32.

    Raises:
        DataError: When a scale leaves no pixel, or the model's answer does not fit.
        NotFiniteError: When a logit is NaN or infinite.
    """
    if not options.is_augmented:
        return predict(images)
    height, width = images.shape[1:3]
    total: NDArray[np.float32] | None = None
    for scale in options.scales:
        scaled_height, scaled_width = int(height * scale + 0.5), int(width * scale + 0.5)
        if scaled_height == 0 or scaled_width == 0:
            raise DataError(
                f"scale {scale} makes an image of {height} x {width} pixels vanish; at least 1 x 1 must remain. "
                "Use a larger scale."
            )
        scaled = np.stack([resize_bilinear(image, scaled_height, scaled_width) for image in images])
        for view in options.views:
            turned = np.ascontiguousarray(_turn(scaled, view))
            logits = _turn_back(predict(turned), view)
            logits = np.stack([resize_bilinear(one, height, width) for one in logits])
            # stack copies: the model may hand out one buffer again and again.
            total = logits if total is None else np.add(total, logits, out=total)
    if total is None:  # check_scales refuses empty scales; this tells the type checker
        raise DataError("no scale was given.")
    total /= len(options.scales) * len(options.views)
    return total


def _turn(images: NDArray, view: View) -> NDArray:
    """Turns `(B, H, W, C)`, see `View`."""
    transposed, vertical, horizontal = view
    turned = images.swapaxes(1, 2) if transposed else images
    return turned[:, :: -1 if vertical else 1, :: -1 if horizontal else 1]


def _turn_back(images: NDArray, view: View) -> NDArray:
    """Undoes `_turn`."""
    transposed, vertical, horizontal = view
    flipped = images[:, :: -1 if vertical else 1, :: -1 if horizontal else 1]
    return flipped.swapaxes(1, 2) if transposed else flipped
