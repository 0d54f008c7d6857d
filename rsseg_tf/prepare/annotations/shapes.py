"""Objects of an image as annotation tools store them, and the label that they make together.

Coordinates are pixels from the upper left corner of the image: the centre of its first pixel is (0.5, 0.5). An outline
covers the pixels whose centre lies in it, as in `rasterio.features.rasterize`. COCO's own tools and labelme draw edges
by rules of their own, and differ from this along edges alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize

from rsseg_tf.errors import DataError
from rsseg_tf.rasters.windows import Size

__all__ = ["AnnotatedImage", "Shape", "circle", "decoded_runs", "draw", "expanded", "outline", "rectangle", "stamp"]

_CIRCLE_POINTS = 128
_MOST_POINTS = 10_000_000


@dataclass(frozen=True, eq=False, slots=True)
class Shape:
    """An object: outlines, or runs of pixels, or a small mask.

    Attributes:
        name: Its class; None for pixels that are to be ignored.
        outlines: `(N, 2)` float64 each, x and y; the object is what lies in any of them.
        runs: Lengths of alternating runs outside and inside of the object, down the first column, then the next.
        mask: `(h, w)` bool, True in the object.
        corner: Column and row of the mask's first pixel.
        is_crowd: Whether it stands for a group of objects that were not outlined one by one.
    """

    name: str | None
    outlines: tuple[NDArray[np.float64], ...] = ()
    runs: NDArray[np.int64] | None = None
    mask: NDArray[np.bool_] | None = None
    corner: tuple[int, int] = (0, 0)
    is_crowd: bool = False

    def digest(self) -> bytes:
        """Returns bytes that change with the object."""
        found = hashlib.blake2b(f"{self.name} {self.corner} {self.is_crowd}".encode(), digest_size=16)
        arrays = (*self.outlines, *(array for array in (self.runs, self.mask) if array is not None))
        for array in arrays:
            found.update(f"{array.shape}".encode())
            found.update(np.ascontiguousarray(array).data)
        return found.digest()


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """An image with its objects, before its file is found.

    Attributes:
        file: Its name, as the annotations have it, with `/` between folders.
        source: The file that holds the annotations.
        size: Its height and width, if the annotations tell.
        shapes: The objects; later ones lie on top.
    """

    file: str
    source: Path
    size: Size | None
    shapes: tuple[Shape, ...]

    def digest(self) -> str:
        """Returns a text that changes with the objects."""
        return hashlib.blake2b(b"".join(shape.digest() for shape in self.shapes), digest_size=16).hexdigest()


# === Reading parts of JSON; `what` names the object in errors, as "labels.json: annotation 7" ===


def outline(values: Any, what: str) -> NDArray[np.float64]:
    """Returns the `(N, 2)` points of a polygon from `[x, y, x, y, …]` or `[[x, y], …]`.

    Raises:
        DataError: When these are no numbers, or fewer than three points.
    """
    try:
        points = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{what} has an outline that is no list of numbers. Export the annotations again.") from error
    if points.ndim == 1 and points.size % 2 == 0:
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or len(points) > _MOST_POINTS:
        raise DataError(
            f"{what} has an outline of {np.size(values)} numbers; x and y of at least 3 points are expected. Mend it, "
            "or delete the object."
        )
    if not np.isfinite(points).all() or np.abs(points).max() > 1e9:
        raise DataError(f"{what} has coordinates that are no pixels of an image. Mend it, or delete the object.")
    return points


def rectangle(values: Any, what: str) -> NDArray[np.float64]:
    """Returns the outline of a rectangle from two opposite corners, or from all four."""
    if isinstance(values, Sequence) and len(values) == 2:
        (x0, y0), (x1, y1) = _points(values, what)
        return outline([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], what)
    return outline(values, what)


def circle(values: Any, what: str) -> NDArray[np.float64]:
    """Returns the outline of a circle from its centre and a point on it, as a polygon of 128 corners."""
    (x, y), (on_x, on_y) = _points(values, what)
    radius = math.hypot(on_x - x, on_y - y)
    turns = np.linspace(0, 2 * np.pi, _CIRCLE_POINTS, endpoint=False)
    return outline(np.stack([x + radius * np.cos(turns), y + radius * np.sin(turns)], axis=1), what)


def _points(values: Any, what: str) -> list[list[float]]:
    """Returns two points."""
    try:
        points = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.zeros(0)
    if points.shape != (2, 2) or not np.isfinite(points).all():
        raise DataError(f"{what} needs two points. Mend it, or delete the object.")
    result: list[list[float]] = points.tolist()
    return result


def stamp(text: Any, what: str) -> NDArray[np.bool_]:
    """Returns the mask in a PNG that is written as base64, as labelme stores the results of its assistants.

    Raises:
        DataError: When it is none.
    """
    try:
        data = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
        mask = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    except (TypeError, ValueError, binascii.Error, cv2.error):
        mask = None
    if mask is None:
        raise DataError(f"{what} has a mask that is no PNG in base64. Mend it, or delete the object.")
    result: NDArray[np.bool_] = mask > 0
    return result


def expanded(text: str, what: str) -> list[int]:
    """Returns the lengths of runs in COCO's compressed text.

    A length is a difference to the one before the last, in groups of five bits; the sixth bit of a character says that
    more follow. Source: `rleFrString` of cocoapi, common/maskApi.c.

    Raises:
        DataError: When the text is cut short or holds other characters.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise DataError(f"{what} has run lengths that cannot be read. Export the annotations again.")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise DataError(f"{what} has run lengths that are cut short. Export the annotations again.")
    return runs


def decoded_runs(counts: Any, size: Any, what: str) -> tuple[NDArray[np.int64], Size]:
    """Returns the lengths of runs, and the height and width that they cover, from an object of COCO.

    Args:
        counts: A list of lengths, or the compressed text.
        size: Height and width.
        what: Names the object in errors.

    Raises:
        DataError: When they do not cover the size.
    """
    if isinstance(counts, str):
        counts = expanded(counts, what)
    is_size = isinstance(size, Sequence) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    if not is_size or not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise DataError(f"{what} needs 'counts' and 'size' (height, width) of whole numbers. Export it again.")
    if sum(counts) != size[0] * size[1]:
        raise DataError(
            f"{what} has runs of {sum(counts)} pixels for a size of {size[0]}x{size[1]}, which are "
            f"{size[0] * size[1]}. Export the annotations again."
        )
    return np.array(counts, np.int64), Size(size[0], size[1])


# === Drawing ===


def draw(shapes: Sequence[Shape], size: Size, id_of: Callable[[Shape], int], background: int) -> NDArray[np.uint8]:
    """Draws objects on each other; crowds first, then all others, later ones on top.

    Args:
        shapes: The objects.
        size: Height and width of the image.
        id_of: Returns the id of an object's pixels.
        background: Id of pixels that no object covers.

    Returns:
        `(H, W)` ids.
    """
    label = np.full(size, background, np.uint8)
    waiting: list[tuple[dict[str, Any], int]] = []  # outlines in a row are drawn at once

    def finish() -> None:
        if waiting:
            rasterize(waiting, out=label)
            waiting.clear()

    for shape in sorted(shapes, key=lambda shape: not shape.is_crowd):  # keeps the order otherwise
        value = id_of(shape)
        waiting += [(_polygon(points), value) for points in shape.outlines]
        if shape.runs is not None:
            finish()
            inside = np.repeat(np.arange(len(shape.runs)) % 2 == 1, shape.runs)
            label[inside.reshape(size[::-1]).T] = value
        if shape.mask is not None:
            finish()
            _put(label, shape.mask, shape.corner, value)
    finish()
    return label


def _polygon(points: NDArray[np.float64]) -> dict[str, Any]:
    closed = np.concatenate([points, points[:1]])
    return {"type": "Polygon", "coordinates": [closed.tolist()]}


def _put(label: NDArray[np.uint8], mask: NDArray[np.bool_], corner: tuple[int, int], value: int) -> None:
    """Draws a small mask; what lies outside of the image is left out."""
    column, row = corner
    top, left = max(row, 0), max(column, 0)
    part = mask[top - row :, left - column :]
    here = label[top : top + part.shape[0], left : left + part.shape[1]]
    here[part[: here.shape[0], : here.shape[1]]] = value
