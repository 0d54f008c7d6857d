"""Windows over a scene and the rolling sum that blends them.

A plan is the product of two axes: each window is a row of windows times a column of windows, and its weight at a pixel
the product of two numbers. So the sum of all weights at a pixel is a product as well and is never stored.

Windows arrive row by row, left to right. While a row of windows goes by, the pixels left of the next window will get
nothing more from this row, and above the next row nothing more at all: they leave as blocks. What lies below is carried
to the next row. Held are one window and, for the whole width, only the rows in which two rows of windows overlap. Each
pixel adds its windows up in the order of the plan, as a sum over the whole scene would, so that both agree to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.errors import DataError
from rsseg_tf.rasters.windows import Size, sliding_windows

__all__ = ["Axis", "Blend", "Block", "Plan", "Windows", "blend_blocks", "make_plan"]

Blend = Literal["mean", "cosine"]
"""How windows are weighted: all alike, or with a raised cosine that falls off towards the window's border."""


@dataclass(frozen=True)
class Axis:
    """Windows along one axis of a scene.

    Attributes:
        size: Pixels of the scene.
        window: Pixels of a window; where a window exceeds the scene, the rest is padding.
        starts: First pixel of each window, rising; together the windows cover the scene.
        blend: How the windows are weighted.
    """

    size: int
    window: int
    starts: tuple[int, ...]
    blend: Blend

    def end(self, index: int) -> int:
        """Returns the pixel after the last one of window `index` that lies in the scene."""
        return min(self.starts[index] + self.window, self.size)

    def next_start(self, index: int) -> int:
        """Returns the first pixel that windows after `index` touch; the scene's end if there are none."""
        return self.starts[index + 1] if index + 1 < len(self.starts) else self.size

    @cached_property
    def profile(self) -> NDArray[np.float64]:
        """Weights along a window, `(window,)`, all above 0."""
        if self.blend == "mean" or len(self.starts) == 1:
            return np.ones(self.window)
        # The half pixel keeps the raised cosine above 0 at both ends, so that a border pixel which only one window
        # covers still has a weight to be divided by.
        return 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(self.window) + 0.5) / self.window)

    def weights(self, index: int) -> NDArray[np.float64]:
        """Returns the weights of window `index` at its pixels of the scene."""
        return self.profile[: self.end(index) - self.starts[index]]

    @cached_property
    def total(self) -> NDArray[np.float64]:
        """Sum of the weights of all windows at each pixel, `(size,)`."""
        total = np.zeros(self.size)
        for index, start in enumerate(self.starts):
            total[start : self.end(index)] += self.weights(index)
        return total

    def touching(self, first: int, last: int) -> range:
        """Returns the windows that touch pixels first..last-1."""
        indices = [index for index, start in enumerate(self.starts) if start < last and self.end(index) > first]
        return range(indices[0], indices[-1] + 1)

    @cached_property
    def overlap(self) -> int:
        """The largest number of pixels that one window shares with the windows after it."""
        return max(max(self.end(index) - self.next_start(index), 0) for index in range(len(self.starts)))


@dataclass(frozen=True)
class Plan:
    """All windows of a scene: every window of `rows` with every window of `columns`."""

    rows: Axis
    columns: Axis

    @property
    def accumulator(self) -> np.dtype:
        """Type that logits are summed in.

        Means are summed in float64, as PaddleSeg does; with 16 classes a scene 40,000 pixels wide would need
        twice the memory, hence float32 for blended windows, whose sum has few terms.
        """
        return np.dtype(np.float64 if self.rows.blend == "mean" else np.float32)


@dataclass(frozen=True)
class Block:
    """Blended logits of a part of a scene, finished.

    Attributes:
        top: First row in the scene.
        left: First column in the scene.
        logits: `(rows, columns, classes)`; valid until the next block is taken.
        ends_row: Whether it is the last block of its rows.
    """

    top: int
    left: int
    logits: NDArray
    ends_row: bool


def make_plan(size: Size, window: Size, stride: Size, blend: Blend, *, pad: bool | None = None) -> Plan:
    """Covers a scene with windows.

    With "mean", windows lie as in PaddleSeg: `stride` apart, the last one shifted back to the border, and a
    scene smaller than a window is one window of its own size. With "cosine" they are spread evenly, at most `stride`
    apart, so that all overlaps are alike; a smaller scene is padded to one window.

    Args:
        size: Size of the scene.
        window: Size of a window.
        stride: The largest step, 1..window.
        blend: The weights, see `Blend`.
        pad: Whether smaller scenes are padded; by default as `blend` has it.

    Raises:
        DataError: When the scene has no pixel or sizes are not 1 <= stride <= window.
    """
    padded = blend == "cosine" if pad is None else pad
    axes = []
    for length, whole, step in zip(size, window, stride, strict=True):
        if length < 1 or not 1 <= step <= whole:
            raise DataError(
                f"a scene of {length} pixels cannot be covered by windows of {whole} with a stride of {step}; the "
                "stride must lie in 1..window, or pixels would be left out."
            )
        inside = min(whole, length)
        if blend == "mean" or inside < whole:
            starts = tuple(part.y0 for part in sliding_windows(length, 1, (inside, 1), (min(step, inside), 1)))
        else:
            count = math.ceil((length - whole) / step) + 1
            starts = tuple(round(index * (length - whole) / max(count - 1, 1)) for index in range(count))
        axes.append(Axis(length, whole if padded else inside, starts, blend))
    return Plan(*axes)


@dataclass(frozen=True)
class Windows:
    """Windows that images of any size are cut into.

    Attributes:
        size: Size of a window.
        stride: The largest step, 1..size.
        blend: The weights, see `Blend`.
        padded: Whether images smaller than a window are padded.
    """

    size: Size
    stride: Size
    blend: Blend
    padded: bool

    def over(self, size: Size) -> Plan:
        """Covers an image of that size with them, see `make_plan`."""
        return make_plan(size, self.size, self.stride, self.blend, pad=self.padded)


def blend_blocks(
    plan: Plan,
    windows: Iterable[tuple[int, int, NDArray[np.float32] | None]],
    classes: int,
    *,
    rows: range | None = None,
    columns: range | None = None,
) -> Iterator[Block]:
    """Adds windows up and yields each pixel once, as soon as no window to come touches it.

    Args:
        plan: Where the windows lie and how they are weighted.
        windows: (row, column, logits) in the plan's order: row by row, from left to right. Logits are
            `(height, width, classes)` of a whole window; padding is cut off. None adds nothing.
        classes: Number of classes.
        rows: The rows of windows that come; all by default.
        columns: The columns of windows that come; all by default.

    Yields:
        Blocks row by row, from left to right, which cover the pixels from the first window of `rows` and `columns` to
        the start of the one after the last. Pixels that no window with logits covers have zeros.
    """
    rows = range(len(plan.rows.starts)) if rows is None else rows
    columns = range(len(plan.columns.starts)) if columns is None else columns
    down, across, dtype = plan.rows, plan.columns, plan.accumulator
    if len(down.starts) == len(across.starts) == 1:  # an image in one piece needs no sums
        logits = next(iter(windows))[2]
        shown = np.zeros((down.size, across.size, classes), np.float32) if logits is None else logits
        yield Block(0, 0, shown[: down.size, : across.size], ends_row=True)
        return
    origin, width = across.starts[columns[0]], across.end(columns[-1]) - across.starts[columns[0]]
    carry = np.zeros((down.overlap, width, classes), dtype)
    shape = (min(down.window, down.size), min(across.window, across.size), classes)
    buffers = [np.zeros(shape, dtype), np.zeros(shape, dtype)]  # a block looks into one while the other is filled
    scratch = np.empty(shape, dtype)
    # All windows have the same weights; one that reaches over the border uses the upper left part of them.
    weights = np.multiply.outer(down.profile, across.profile).astype(dtype)[: shape[0], : shape[1], np.newaxis]
    stream = iter(windows)
    carried = 0  # rows at the top of the next row of windows that already have sums
    for row in rows:
        top, height = down.starts[row], down.end(row) - down.starts[row]
        finished = down.next_start(row) - top
        loaded = origin  # columns before it are in a buffer already
        for column in columns:
            left, right = across.starts[column], across.end(column)
            known, current = loaded - left, buffers[0]
            if known > 0:  # columns that the window before shares with this one
                before = across.starts[column - 1]
                current[:height, :known] = buffers[1][:height, left - before : loaded - before]
            # Columns that are new to this row of windows begin with the sums of the row above, and with zeros below.
            current[:carried, known : right - left] = carry[:carried, loaded - origin : right - origin]
            current[carried:height, known : right - left] = 0
            loaded = right
            _add(current[:height, : right - left], scratch, next(stream), weights, (row, column))
            following = across.next_start(column)
            # Columns up to the next window get nothing more from this row: finished rows leave, others are carried.
            sums = current[:finished, : following - left]
            carry[: height - finished, left - origin : following - origin] = current[
                finished:height, : following - left
            ]
            total = np.multiply.outer(down.total[top : top + finished], across.total[left:following]).astype(dtype)
            # `scratch` is free until the next window, so the quotient needs no memory of its own.
            logits = np.divide(sums, total[:, :, np.newaxis], out=scratch[:finished, : following - left])
            yield Block(top, left, logits, ends_row=column == columns[-1])
            buffers.reverse()
        carried = height - finished


def _add(
    target: NDArray,
    scratch: NDArray,
    item: tuple[int, int, NDArray[np.float32] | None],
    weights: NDArray,
    due: tuple[int, int],
) -> None:
    """Adds the weighted logits of one window to `target`, `(rows, columns, classes)`."""
    row, column, logits = item
    if (row, column) != due:
        raise ValueError(f"window {(row, column)} came where {due} was due; windows must come in the plan's order")
    if logits is None:
        return
    height, width = target.shape[:2]
    weighted = np.multiply(logits[:height, :width], weights[:height, :width], out=scratch[:height, :width])
    np.add(target, weighted, out=target)
