"""Positions of the windows that cut a large image into tiles of one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rsseg_tf.errors import DataError

__all__ = ["Size", "Window", "sliding_windows", "windows"]


class Size(NamedTuple):
    """Rows and columns, in pixels."""

    height: int
    width: int

    @classmethod
    def from_width_height(cls, sides: Sequence[int]) -> Size:
        """Returns the size that PaddleSeg's options, and so configs and command lines, spell as width and height."""
        width, height = sides
        return cls(height, width)

    @property
    def width_height(self) -> tuple[int, int]:
        """The sides as PaddleSeg and OpenCV spell them."""
        return self.width, self.height

    @property
    def pixels(self) -> int:
        """The number of pixels."""
        return self.height * self.width

    def scaled(self, down: float, across: float) -> Size:
        """Returns the size times two factors, rounded half up; at least one pixel."""
        return Size(max(int(self.height * down + 0.5), 1), max(int(self.width * across + 0.5), 1))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class Window(NamedTuple):
    """Rows `y0..y1-1` and columns `x0..x1-1` of an image, in pixels."""

    y0: int
    x0: int
    y1: int
    x1: int


def sliding_windows(height: int, width: int, window: tuple[int, int], stride: tuple[int, int]) -> list[Window]:
    """Covers an image with windows of one size; the last of a row or column is shifted back to end at the border.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        window: Rows and columns of a window; at most those of the image, so pad smaller images first.
        stride: Steps downwards and to the right, 1 up to the window's size, so that no pixel is left out.

    Returns:
        The windows row by row, each within the image, none twice, together covering every pixel.

    Raises:
        DataError: When a size is not positive, the window exceeds the image, or the stride exceeds the window.
    """
    rows = _starts(height, window[0], stride[0], "rows")
    columns = _starts(width, window[1], stride[1], "columns")
    return [Window(y0, x0, y0 + window[0], x0 + window[1]) for y0 in rows for x0 in columns]


def windows(height: int, width: int, tile: int, overlap: int = 0) -> list[Window]:
    """Covers an image with square tiles that share `overlap` pixels with the next one.

    Args:
        height: Rows of the image, at least `tile`.
        width: Columns of the image, at least `tile`.
        tile: Side of a tile in pixels.
        overlap: Pixels shared by neighbours, 0 up to `tile - 1`; the last ones share more.

    Raises:
        DataError: As `sliding_windows`, and when the overlap is negative or leaves no step.
    """
    if tile < 1:
        raise DataError(f"The tile size is {tile} pixels; at least 1 is needed. 512 is usual.")
    if not 0 <= overlap < tile:
        raise DataError(f"The overlap is {overlap} pixels for tiles of {tile}; it must lie in 0..{tile - 1}.")
    return sliding_windows(height, width, (tile, tile), (tile - overlap, tile - overlap))


def _starts(size: int, window: int, stride: int, axis: str) -> list[int]:
    """First pixels of the windows along one axis."""
    if window < 1 or not 1 <= stride <= window:
        raise DataError(
            f"A window of {window} {axis} with a stride of {stride} is not possible; the window must be at least 1 and "
            "the stride between 1 and the window, or pixels would be left out."
        )
    if window > size:
        raise DataError(
            f"A window of {window} {axis} does not fit into an image of {size}. Pad the image or use a smaller window."
        )
    starts = list(range(0, size - window, stride))
    return [*starts, size - window]
