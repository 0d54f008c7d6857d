"""Windows over a scene and the rolling sum that blends them.

A plan is the product of two axes: each window is a row of windows times a column of windows, and its weight at a pixel
the product of two numbers. So the sum of all weights at a pixel is a product as well and is never stored.

Windows arrive row by row, left to right. While a row of windows goes by, the pixels left of the next window will get
nothing more from this row, and above the next row nothing more at all: they leave as blocks. What lies below is carried
to the next row. Held are one window and, for the whole width, only the rows in which two rows of windows overlap. Each
pixel adds its windows up in the order of the plan, as a sum over the whole scene would, so that both agree to the bit.

Sums lie in memory plane by plane, one for each class: NumPy then works on long rows of numbers, which takes a fifth of
the time that rows of a few classes take.
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
from rsseg_tf.predict.model import class_planes
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
    down, across = plan.rows, plan.columns
    if len(down.starts) == len(across.starts) == 1:  # an image in one piece needs no sums
        logits = next(iter(windows))[2]
        shown = np.zeros((down.size, across.size, classes), np.float32) if logits is None else logits
        yield Block(0, 0, shown[: down.size, : across.size], ends_row=True)
        return
    sums, stream = _RollingSums(plan, classes, rows, columns), iter(windows)
    for row in rows:
        for column in columns:
            came_row, came_column, logits = next(stream)
            if (came_row, came_column) != (row, column):
                raise ValueError(
                    f"window {(came_row, came_column)} came where {(row, column)} was due; windows must come in the "
                    "plan's order"
                )
            yield sums.add(row, column, logits)


class _RollingSums:
    """What windows have added up to so far, of the pixels that later windows touch."""

    def __init__(self, plan: Plan, classes: int, rows: range, columns: range) -> None:
        down, across, dtype = plan.rows, plan.columns, plan.accumulator
        self._plan, self._columns = plan, columns
        self._origin = across.starts[columns[0]]
        height, width = min(down.window, down.size), min(across.window, across.size)
        # All windows have the same weights; one that reaches over the border uses the upper left part of them.
        self._weights = np.multiply.outer(down.profile, across.profile).astype(dtype)[:height, :width]
        self._carry = np.zeros((classes, down.overlap, across.end(columns[-1]) - self._origin), dtype)
        self._carried = 0  # rows at the top of the current row of windows that have sums from the row above
        self._current, self._before = np.empty((2, classes, height, width), dtype)
        self._blended = np.empty(classes * height * width, dtype)

    def add(self, row: int, column: int, logits: NDArray[np.float32] | None) -> Block:
        """Adds a window, and returns the pixels that no later window touches."""
        down, across = self._plan.rows, self._plan.columns
        top, bottom, next_top = down.starts[row], down.end(row), down.next_start(row)
        left, right, next_left = across.starts[column], across.end(column), across.next_start(column)
        height, width, rows, columns = bottom - top, right - left, next_top - top, next_left - left
        first = column == self._columns[0]
        # Columns that the window before shares with this one, and where they begin in it.
        shift = 0 if first else left - across.starts[column - 1]
        known = 0 if first else across.end(column - 1) - left
        carried, at = self._carried, left - self._origin
        weights = self._weights[:height, :width]
        # Without gaps between the rows, so that they need not be copied to be compared.
        blended = self._blended[: len(self._carry) * rows * columns].reshape(-1, rows, columns)
        planes = None if logits is None else class_planes(logits)
        total = np.multiply.outer(down.total[top:next_top], across.total[left:next_left]).astype(weights.dtype)
        # One plane after the other, since one fits into the processor's cache and all may not.
        for index, (sums, before, carry) in enumerate(zip(self._current, self._before, self._carry, strict=True)):
            if planes is None:
                sums[:height, :width] = 0
            else:  # of whole rows where the window is whole: NumPy takes twice as long for parts of them
                np.multiply(planes[index, :height, :width], weights, out=sums[:height, :width])
            sums[:height, :known] += before[:height, shift : shift + known]
            # Columns that are new to this row of windows go on from the row above.
            sums[:carried, known:width] += carry[:carried, at + known : at + width]
            # Columns up to the next window get nothing more from this row: finished rows leave, others are carried.
            carry[: height - rows, at : at + columns] = sums[rows:height, :columns]
            np.divide(sums[:rows, :columns], total, out=blended[index])
        self._current, self._before = self._before, self._current
        ends_row = column == self._columns[-1]
        if ends_row:
            self._carried = height - rows
        return Block(top, left, blended.transpose(1, 2, 0), ends_row)
