"""A scene through the model: read, predict, blend and write at the same time, in bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import ConfigError
from rsseg_tf.files.parallel import ahead
from rsseg_tf.predict.blending import Block
from rsseg_tf.predict.decoding import PROBABILITY_NODATA, Product, decode, products
from rsseg_tf.predict.engine import LabelBlock, Tiling, label_model, predict_blocks, predict_label_blocks
from rsseg_tf.predict.model import Predict, require_classes
from rsseg_tf.predict.options import OutputOptions
from rsseg_tf.predict.settings import PredictionSettings
from rsseg_tf.predict.writing import BLOCK, SceneWriter
from rsseg_tf.rasters.area import Wanted
from rsseg_tf.rasters.scenes import Scene
from rsseg_tf.rasters.windows import Window

__all__ = ["predict_scene", "split_into_strips"]

_QUEUE = 2
"""Batches that wait between two stages."""


def predict_scene(
    scene: Scene,
    model: Predict,
    settings: PredictionSettings,
    tiling: Tiling,
    writer: SceneWriter,
    *,
    wanted: Wanted | None = None,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Predicts a scene strip by strip and gives the rows to `writer`.

    Reading, predicting, and blending with decoding each run ahead of the next stage in a thread of their own. Writing,
    the last stage, has threads that pack blocks.

    Args:
        scene: What to predict.
        model: See `Predict`.
        settings: The model's dataset, augmentation and batch size, and what is computed.
        tiling: The windows.
        writer: Takes finished rows; knows the strips.
        wanted: Which pixels to predict; all by default. Pixels without data never are.
        advance: Called with the number of pixels that were finished.

    Raises:
        DataError: When the scene is damaged, the model's answer does not fit, or a file cannot be written.
        NotFiniteError: When a logit is NaN or infinite.
    """
    plan = tiling.plan
    height = scene.size.height
    most_rows = max(plan.rows.next_start(row) - start for row, start in enumerate(plan.rows.starts))
    for index, (left, right) in enumerate(writer.strips):
        done = writer.start_strip(index, most_rows)
        if advance is not None and done:
            advance(done * (right - left))
        if done >= height:
            continue
        rows = range(plan.rows.touching(done, height)[0], len(plan.rows.starts))
        columns = plan.columns.touching(left, right)
        windows = [(plan.columns.starts[column], plan.columns.end(column)) for column in columns]
        pixels = _RowBuffer(scene, windows, wanted)
        decoded = _blocks_to_store(pixels, model, settings, tiling, (rows, columns))
        with contextlib.closing(decoded), contextlib.closing(ahead(decoded, _QUEUE)) as ready:
            for block in ready:
                writer.put(block.top, block.left, block.planes)
                if block.ends_row:
                    bottom = block.top + block.planes["labels"].shape[1]
                    writer.end_rows(bottom)
                    if advance is not None and bottom > done:
                        advance((bottom - max(block.top, done)) * (right - left))


@dataclass(frozen=True)
class _DecodedBlock:
    """What is stored of a block: `(bands, rows, columns)` per product, and its place in the scene."""

    top: int
    left: int
    planes: dict[Product, NDArray[np.uint8]]
    ends_row: bool


def _blocks_to_store(
    pixels: _RowBuffer, model: Predict, settings: PredictionSettings, tiling: Tiling, part: tuple[range, range]
) -> Generator[_DecodedBlock, None, None]:
    """Yields the blocks of some windows as they are stored. Logits are fetched only where something is made of them."""
    spec, options, output = settings.spec, settings.options, settings.output
    how: dict[str, Any] = {"part": part, "stage": lambda batches: ahead(batches, _QUEUE)}
    confidence = output.needs_confidence_alone
    if not output.probabilities and label_model(model, spec, options, tiling, confidence=confidence) is not None:
        how["doubt"] = output.doubt(options.temperature) if confidence else None
        return _labelled_blocks(predict_label_blocks(pixels, model, spec, options, tiling, **how), spec, output)
    checked = require_classes(model, spec)
    return _decoded_blocks(predict_blocks(pixels, checked, spec.num_classes, options, tiling, **how), settings)


def _labelled_blocks(
    blocks: Generator[tuple[LabelBlock, NDArray[np.bool_]], None, None], spec: DatasetSpec, output: OutputOptions
) -> Generator[_DecodedBlock, None, None]:
    """Yields each block as it is stored."""
    unwanted = {"labels": spec.ignore_index, "confidence": PROBABILITY_NODATA}
    with contextlib.closing(blocks):
        for block, mask in blocks:
            # With --min_confidence alone, the confidence is known and not stored.
            stored = {
                product: np.where(mask, plane, np.uint8(unwanted[product]))[np.newaxis]
                for product, plane in zip(products(output, spec.num_classes), block.planes, strict=False)
            }
            yield _DecodedBlock(block.top, block.left, stored, block.ends_row)


def _decoded_blocks(
    blocks: Generator[tuple[Block, NDArray[np.bool_]], None, None], settings: PredictionSettings
) -> Generator[_DecodedBlock, None, None]:
    """Yields each block as it is stored; its logits are valid only until the next one is taken."""
    with contextlib.closing(blocks):
        for block, mask in blocks:
            yield _DecodedBlock(block.top, block.left, _decoded(block.logits, mask, settings), block.ends_row)


def _decoded(
    logits: NDArray, mask: NDArray[np.bool_], settings: PredictionSettings
) -> dict[Product, NDArray[np.uint8]]:
    """Decodes a block; nothing is computed where nothing is wanted."""
    spec, output = settings.spec, settings.output
    if mask.any():
        return decode(logits, mask, spec, output, settings.options.temperature)
    return {
        product: np.full((bands, *mask.shape), spec.ignore_index if product == "labels" else 255, np.uint8)
        for product, bands in products(output, spec.num_classes).items()
    }


class _RowBuffer:
    """The rows of a strip that the current row of windows needs; what the last one had is not read again.

    Args:
        scene: What is read.
        windows: First and last-plus-one column of each window in a row.
        wanted: Which pixels are wanted; None for all.
    """

    def __init__(self, scene: Scene, windows: Sequence[tuple[int, int]], wanted: Wanted | None) -> None:
        self._scene, self._windows, self._wanted = scene, windows, wanted
        self._x0, self._x1 = windows[0][0], windows[-1][1]
        self._top = self._bottom = 0
        self._spans: list[tuple[int, int]] = []
        self._pixels = np.empty((0, self._x1 - self._x0, len(scene.bands)), scene.dtype)
        self._data = np.empty((0, self._x1 - self._x0), bool)

    def rows(self, top: int, bottom: int) -> tuple[NDArray | None, NDArray[np.bool_]]:
        """Returns pixels `(rows, columns, bands)` and where they are wanted `(rows, columns)`.

        Pixels are None, and nothing is read, where none is wanted. Of other rows only the windows with a wanted pixel
        are read; the pixels of others are 0.
        """
        asked = None if self._wanted is None else self._wanted(Window(top, self._x0, bottom, self._x1))
        if asked is not None and not asked.any():
            return None, asked
        spans = self._needed(asked)
        is_known = all(any(x0 <= left and right <= x1 for x0, x1 in self._spans) for left, right in spans)
        kept = self._bottom - top if is_known and self._top <= top < self._bottom else 0
        read = [self._scene.read(Window(top + kept, left, bottom, right)) for left, right in spans]
        pixels, data = self._joined(spans, read, bottom - top - kept)
        if kept:
            start = top - self._top
            pixels = np.concatenate([self._pixels[start:], pixels])
            data = np.concatenate([self._data[start:], data])
        self._top, self._bottom, self._spans, self._pixels, self._data = top, bottom, spans, pixels, data
        return pixels, data if asked is None else asked & data

    def _needed(self, asked: NDArray[np.bool_] | None) -> list[tuple[int, int]]:
        """Returns the columns of the windows with a wanted pixel, first and last-plus-one of each run."""
        if asked is None:
            return [(self._x0, self._x1)]
        columns: NDArray[np.bool_] = np.logical_or.reduce(asked)
        spans: list[tuple[int, int]] = []
        for left, right in self._windows:
            if not columns[left - self._x0 : right - self._x0].any():
                continue
            if spans and left <= spans[-1][1]:
                spans[-1] = spans[-1][0], right
            else:
                spans.append((left, right))
        return spans

    def _joined(
        self,
        spans: Sequence[tuple[int, int]],
        read: Sequence[tuple[NDArray, NDArray[np.bool_] | None]],
        rows: int,
    ) -> tuple[NDArray, NDArray[np.bool_]]:
        """Returns what was read of some columns in all columns of the strip."""
        if spans == [(self._x0, self._x1)]:
            pixels, nodata = read[0]
            return pixels, np.ones(pixels.shape[:2], bool) if nodata is None else ~nodata
        width = self._x1 - self._x0
        everywhere = np.zeros((rows, width, len(self._scene.bands)), self._scene.dtype)
        data = np.zeros((rows, width), bool)
        for (left, right), (pixels, nodata) in zip(spans, read, strict=True):
            everywhere[:, left - self._x0 : right - self._x0] = pixels
            data[:, left - self._x0 : right - self._x0] = True if nodata is None else ~nodata
        return everywhere, data


def split_into_strips(scene: Scene, settings: PredictionSettings, tiling: Tiling) -> tuple[tuple[int, int], ...]:
    """Cuts a scene into as few strips of columns as fit into memory.

    Windows that reach over the edge of a strip are predicted for both sides, in the same order, so that strips do not
    change the result.

    Args:
        scene: What is predicted.
        settings: The classes, the batch size, what is computed, and the memory. GDAL's cache and pictures get a part of
            it.
        tiling: The windows.

    Returns:
        First and last-plus-one column of each strip, whole blocks of the output.

    Raises:
        ConfigError: When the narrowest strip does not fit; the least that would is named.
    """
    options, output, max_memory = settings.options, settings.output, settings.scenes.max_memory
    plan, width = tiling.plan, scene.size.width
    window_rows, window_columns = tiling.window
    bands, classes = len(scene.bands), settings.spec.num_classes
    window, seen = tiling.window.pixels, tiling.seen.pixels
    window_count = len(plan.rows.starts) * len(plan.columns.starts)
    # Batches wait between the stages, and each stage holds one.
    held = min((2 * _QUEUE + 3) * options.batch_size, window_count)
    fixed = held * (window * bands * scene.dtype.itemsize + seen * classes * 4)
    if options.is_augmented or tiling.seen != tiling.window:
        fixed += 2 * min(options.batch_size, window_count) * seen * (bands + classes) * 4
    if tiling.inner is not None:  # logits of the largest scaled image, and the buffers of their blend
        largest = int(seen * max(options.scales) ** 2)
        fixed += largest * classes * 4 + 3 * tiling.inner.size.pixels * classes * 8
    fixed += window * (classes * (12 if output.needs_probabilities else 4) + 16)  # while a block is decoded
    if window_count > 1:
        fixed += 3 * window * classes * plan.accumulator.itemsize  # buffers of the blend
    step = max(plan.rows.next_start(row) - start for row, start in enumerate(plan.rows.starts))
    per_column = (
        plan.rows.overlap * classes * plan.accumulator.itemsize
        + 2 * min(window_rows, scene.size.height) * (bands * scene.dtype.itemsize + 3)
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
