"""A scene through the model: read, predict, blend and write at the same time, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import ConfigError, DataError, NotFiniteError
from rsseg_tf.files.ahead import ahead
from rsseg_tf.predict.blending import Plan, blend_blocks, make_plan
from rsseg_tf.predict.decoding import decode, products
from rsseg_tf.predict.logits import Predict, augmented_logits, in_window, resize_bilinear
from rsseg_tf.predict.options import InferenceOptions, OutputOptions, SceneOptions
from rsseg_tf.predict.writing import BLOCK, SceneWriter
from rsseg_tf.rasters.scenes import Scene
from rsseg_tf.rasters.windows import Window

__all__ = ["WHOLE_PIXELS", "Tiling", "Wanted", "make_tiling", "predict_scene", "split_into_strips"]

WHOLE_PIXELS = 2048 * 2048
"""Images up to this size are predicted in one piece where nobody asks for windows, as the original does."""

Wanted = Callable[[Window], NDArray[np.bool_] | None]
"""Tells which pixels of a part of the scene are to be predicted, `(H, W)`; None for all."""

_QUEUE = 2
"""Batches that wait between two stages."""


@dataclass(frozen=True)
class Tiling:
    """How a scene is cut and what the model sees of it.

    Attributes:
        plan: the windows, in pixels of the scene.
        seen: (height, width) that each window is resampled to before it is predicted; that of `plan` if the scene has
            the model's ground sampling distance or nobody asked for it.
    """

    plan: Plan
    seen: tuple[int, int]

    @property
    def window(self) -> tuple[int, int]:
        """(height, width) of a window in pixels of the scene."""
        return self.plan.rows.window, self.plan.columns.window


def make_tiling(
    size: tuple[int, int],
    options: InferenceOptions,
    scene_options: SceneOptions,
    pixel_size: tuple[float, float] | None = None,
) -> Tiling:
    """Decides how a scene is cut.

    Args:
        size: (height, width) of the scene.
        options: windows, if somebody asks for them. Otherwise an image of up to `WHOLE_PIXELS` is one window, and a
            larger one is cut into blended windows of the model's tile, which overlap by a quarter.
        scene_options: the tile, and whether to resample.
        pixel_size: (height, width) of a pixel on the ground, in metres.

    Raises:
        ConfigError: when the ground sampling distance is to be matched and the scene has none.
    """
    zoom = (1.0, 1.0)
    if scene_options.match_gsd and scene_options.model_gsd is not None:
        if pixel_size is None:
            raise ConfigError(
                "--match_gsd needs scenes whose pixels have a size on the ground; this one has no CRS and transform, "
                f"the model has {scene_options.model_gsd} m. Georeference the scene, or leave --match_gsd out."
            )
        zoom = pixel_size[0] / scene_options.model_gsd, pixel_size[1] / scene_options.model_gsd
    whole = _scaled(size, zoom)
    if options.crop_size is not None and options.stride is not None:
        seen, step, blend = options.crop_size[::-1], options.stride[::-1], options.blend
    elif max(whole[0] * whole[1], size[0] * size[1]) <= WHOLE_PIXELS and not scene_options.fixed_tile:
        return Tiling(make_plan(size, size, size, "mean"), whole)
    else:
        seen, blend = scene_options.tile[::-1], "cosine"
        step = max(seen[0] * 3 // 4, 1), max(seen[1] * 3 // 4, 1)
    # What becomes the model's window; rounding it to pixels of the scene changes the scale by less than one of them.
    back = 1 / zoom[0], 1 / zoom[1]
    window, stride = _scaled(seen, back), _scaled(step, back)
    stride = min(stride[0], window[0]), min(stride[1], window[1])
    plan = make_plan(size, window, stride, blend, pad=True if scene_options.fixed_tile else None)
    inside = plan.rows.window, plan.columns.window
    # Of a scene that is smaller than a window and not padded, the model sees the scene alone.
    reduced = _scaled(inside, zoom)
    sides = [side if inside[axis] == window[axis] else reduced[axis] for axis, side in enumerate(seen)]
    return Tiling(plan, (sides[0], sides[1]))


def _scaled(size: tuple[int, int], factors: tuple[float, float]) -> tuple[int, int]:
    """Returns a size times two factors, rounded half up; at least one pixel."""
    return max(int(size[0] * factors[0] + 0.5), 1), max(int(size[1] * factors[1] + 0.5), 1)


_Places = list[tuple[int, int, int | None]]
_Predicted = tuple[_Places, NDArray[np.float32] | None]


@dataclass(frozen=True)
class _Batch:
    """Windows in the plan's order; those without a wanted pixel have no place in `pixels`.

    Attributes:
        places: (row, column, index in `pixels` or None) of each.
        pixels: `(B, height, width, bands)`, or None if all are skipped.
    """

    places: _Places
    pixels: NDArray | None


def predict_scene(
    scene: Scene,
    predict: Predict,
    spec: DatasetSpec,
    options: InferenceOptions,
    output: OutputOptions,
    tiling: Tiling,
    writer: SceneWriter,
    strips: tuple[tuple[int, int], ...],
    *,
    wanted: Wanted | None = None,
    value_scale: float = 1.0,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Predicts a scene strip by strip and gives the rows to `writer`.

    Reading runs ahead of predicting, and predicting ahead of blending and writing, each in a thread of its own.

    Args:
        scene: what to predict.
        predict: the model.
        spec: its data set.
        options: augmentation and batch size.
        output: what is computed.
        tiling: the windows.
        writer: takes finished rows.
        strips: first and last-plus-one column of each strip.
        wanted: which pixels to predict; all by default. Pixels without data never are.
        value_scale: factor on pixel values.
        advance: called with the number of pixels that were finished.

    Raises:
        DataError: when the scene is damaged, the model's answer does not fit, or a file cannot be written.
    """
    plan = tiling.plan
    height = scene.size[0]
    for index, (left, right) in enumerate(strips):
        most_rows = max(plan.rows.next_start(row) - start for row, start in enumerate(plan.rows.starts))
        done = writer.start_strip(index, most_rows)
        if advance is not None and done:
            advance(done * (right - left))
        if done >= height:
            continue
        rows = range(plan.rows.touching(done, height)[0], len(plan.rows.starts))
        columns = plan.columns.touching(left, right)
        masks: dict[int, NDArray[np.bool_]] = {}  # what is wanted of the rows that each row of windows finishes
        reading = ahead(_read(scene, plan, rows, columns, options.batch_size, wanted, masks), _QUEUE)
        predicting = ahead(_predicted(reading, predict, spec, options, tiling, value_scale), _QUEUE)
        try:
            windows = _upsampled(predicting, tiling)
            origin = plan.columns.starts[columns[0]]
            row = rows[0]
            for block in blend_blocks(plan, windows, spec.num_classes, rows=rows, columns=columns):
                block_rows, block_columns = block.logits.shape[:2]
                at = block.left - origin
                mask = masks[row][:, at : at + block_columns]
                writer.put(block.top, block.left, _decoded(block.logits, mask, spec, output))
                if block.ends_row:
                    del masks[row]
                    row += 1
                    bottom = block.top + block_rows
                    writer.end_rows(bottom)
                    if advance is not None and bottom > done:
                        advance((bottom - max(block.top, done)) * (right - left))
        finally:
            predicting.close()
            reading.close()


def _decoded(logits: NDArray, mask: NDArray[np.bool_], spec: DatasetSpec, output: OutputOptions) -> dict:
    """Decodes a block; nothing is computed where nothing is wanted."""
    if mask.any():
        return decode(logits, mask, spec, output)
    shape = mask.shape
    return {
        product: np.full((bands, *shape), spec.ignore_index if product == "labels" else 255, np.uint8)
        for product, bands in products(output, spec.num_classes).items()
    }


def _read(
    scene: Scene,
    plan: Plan,
    rows: range,
    columns: range,
    batch_size: int,
    wanted: Wanted | None,
    masks: dict[int, NDArray[np.bool_]],
) -> Iterator[_Batch]:
    """Yields the windows in batches; each row of the scene is read once."""
    x0, x1 = plan.columns.starts[columns[0]], plan.columns.end(columns[-1])
    places: _Places = []
    waiting: list[NDArray] = []
    buffer = _RowBuffer(scene, x0, x1, wanted)
    for row in rows:
        top, bottom = plan.rows.starts[row], plan.rows.end(row)
        pixels, mask = buffer.rows(top, bottom)
        masks[row] = mask[: plan.rows.next_start(row) - top]
        for column in columns:
            left, right = plan.columns.starts[column] - x0, plan.columns.end(column) - x0
            if pixels is None or not mask[:, left:right].any():
                places.append((row, column, None))
            else:
                places.append((row, column, len(waiting)))
                waiting.append(_padded(pixels[:, left:right], plan.rows.window, plan.columns.window))
            if len(waiting) == batch_size or len(places) >= 64 * batch_size:
                yield _Batch(places, np.stack(waiting) if waiting else None)
                places, waiting = [], []
    if places:
        yield _Batch(places, np.stack(waiting) if waiting else None)


class _RowBuffer:
    """The rows of a strip that the current row of windows needs; what the last one had is not read again."""

    def __init__(self, scene: Scene, x0: int, x1: int, wanted: Wanted | None) -> None:
        self._scene, self._x0, self._x1, self._wanted = scene, x0, x1, wanted
        self._top = self._bottom = 0
        self._pixels = np.empty((0, x1 - x0, len(scene.bands)), scene.dtype)
        self._data = np.empty((0, x1 - x0), bool)

    def rows(self, top: int, bottom: int) -> tuple[NDArray | None, NDArray[np.bool_]]:
        """Returns pixels `(rows, columns, bands)` and where they are wanted `(rows, columns)`.

        Pixels are None, and nothing is read, where none is wanted.
        """
        asked = None if self._wanted is None else self._wanted(Window(top, self._x0, bottom, self._x1))
        if asked is not None and not asked.any():
            return None, asked
        kept = self._bottom - top if self._top <= top < self._bottom else 0
        pixels, nodata = self._scene.read(Window(top + kept, self._x0, bottom, self._x1))
        data: NDArray[np.bool_] = np.ones(pixels.shape[:2], bool) if nodata is None else ~nodata
        if kept:
            start = top - self._top
            pixels = np.concatenate([self._pixels[start:], pixels])
            data = np.concatenate([self._data[start:], data])
        self._top, self._bottom, self._pixels, self._data = top, bottom, pixels, data
        return pixels, data if asked is None else asked & data


def _padded(pixels: NDArray, height: int, width: int) -> NDArray:
    """Pads `(H, W, bands)` to a window by reflection, again and again if the scene is smaller than the padding."""
    rows, columns = height - pixels.shape[0], width - pixels.shape[1]
    return np.pad(pixels, ((0, rows), (0, columns), (0, 0)), mode="reflect") if rows or columns else pixels


def _predicted(
    batches: Iterator[_Batch],
    predict: Predict,
    spec: DatasetSpec,
    options: InferenceOptions,
    tiling: Tiling,
    value_scale: float,
) -> Iterator[_Predicted]:
    """Yields the places of each batch with their logits at the size that the model sees."""
    for batch in batches:
        if batch.pixels is None:
            yield batch.places, None
            continue
        pixels = batch.pixels
        if tiling.seen != tiling.window:
            pixels = np.stack([_resampled(window, tiling.seen) for window in pixels])
        if value_scale != 1.0:
            pixels = pixels * np.float32(value_scale)
        try:
            logits = augmented_logits(predict, pixels, options)
        except NotFiniteError as error:
            raise _placed(error, batch.places, tiling.plan) from error
        if logits.shape[-1] != spec.num_classes:
            raise DataError(
                f"the model gives {logits.shape[-1]} classes, data set '{spec.name}' has {spec.num_classes}. "
                "Use the data set that the model was trained on."
            )
        yield batch.places, np.array(logits)  # a copy: the callable may hand out one buffer again and again


def _placed(error: NotFiniteError, places: _Places, plan: Plan) -> NotFiniteError:
    """Returns the error with the place of the window that it is about, where there are several."""
    if len(plan.rows.starts) * len(plan.columns.starts) == 1:
        return error
    row, column = next(((row, column) for row, column, index in places if index == error.index), places[0][:2])
    return in_window(error, plan.rows.starts[row], plan.columns.starts[column])


def _upsampled(
    predicted: Iterator[_Predicted], tiling: Tiling
) -> Iterator[tuple[int, int, NDArray[np.float32] | None]]:
    """Yields the windows one by one, with logits in pixels of the scene."""
    for places, logits in predicted:
        for row, column, index in places:
            one = None if index is None or logits is None else resize_bilinear(logits[index], *tiling.window)
            yield row, column, one


def _resampled(window: NDArray, size: tuple[int, int]) -> NDArray:
    """Resizes `(H, W, bands)`: areas are averaged where it shrinks (nothing aliases), bilinear where it grows."""
    if size[0] > window.shape[0] or size[1] > window.shape[1]:
        return resize_bilinear(window, *size)
    bands = [
        cv2.resize(np.ascontiguousarray(window[:, :, band], np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        for band in range(window.shape[2])
    ]
    return np.stack(bands, axis=-1)


def split_into_strips(
    scene: Scene,
    spec: DatasetSpec,
    options: InferenceOptions,
    output: OutputOptions,
    tiling: Tiling,
    max_memory: int,
) -> tuple[tuple[int, int], ...]:
    """Cuts a scene into as few strips of columns as fit into memory.

    Windows that reach over the edge of a strip are predicted for both sides, in the same order, so that strips do not
    change the result.

    Args:
        scene: what is predicted.
        spec: gives the number of classes.
        options: gives the batch size.
        output: what is computed.
        tiling: the windows.
        max_memory: bytes; a part of them is left to GDAL's cache and to pictures.

    Returns:
        First and last-plus-one column of each strip, whole blocks of the output.

    Raises:
        ConfigError: when the narrowest strip does not fit; the least that would is named.
    """
    plan, width = tiling.plan, scene.size[1]
    window_rows, window_columns = tiling.window
    bands, classes = len(scene.bands), spec.num_classes
    window, seen = window_rows * window_columns, tiling.seen[0] * tiling.seen[1]
    window_count = len(plan.rows.starts) * len(plan.columns.starts)
    # Batches wait between the stages, and each stage holds one.
    held = min((2 * _QUEUE + 3) * options.batch_size, window_count)
    fixed = held * (window * bands * scene.dtype.itemsize + seen * classes * 4)
    if options.is_augmented or tiling.seen != tiling.window:
        fixed += 2 * min(options.batch_size, window_count) * seen * (bands + classes) * 4
    fixed += window * (classes * (12 if output.needs_probabilities else 4) + 16)  # while a block is decoded
    if window_count > 1:
        fixed += 3 * window * classes * plan.accumulator.itemsize  # buffers of the blend
    step = max(plan.rows.next_start(row) - start for row, start in enumerate(plan.rows.starts))
    per_column = (
        plan.rows.overlap * classes * plan.accumulator.itemsize
        + 2 * min(window_rows, scene.size[0]) * (bands * scene.dtype.itemsize + 3)
        + (step + BLOCK) * sum(products(output, classes).values())
    )
    available = max_memory * 3 // 4
    columns = int((available - fixed) // per_column)
    if columns >= width:
        return ((0, width),)
    # Windows that reach into a strip from both sides make it wider.
    inner = (columns - 2 * window_columns) // BLOCK * BLOCK
    if inner < BLOCK:
        least = (fixed + per_column * min(width, 2 * window_columns + BLOCK)) * 4 // 3
        raise ConfigError(
            f"--max_memory of {max_memory / 2**20:.0f}M is too little for {scene.path.name} with windows of "
            f"{window_columns} x {window_rows} pixels, {classes} classes and a batch of {options.batch_size}; at least "
            f"{least / 2**20 + 1:.0f}M are needed. Give that, or a smaller --batch_size or --crop_size."
        )
    return tuple((start, min(start + inner, width)) for start in range(0, width, inner))
