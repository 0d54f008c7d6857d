"""Pictures of predictions for people: colours, overlays, and panels with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.spec import RGB, DatasetSpec
from rsseg_tf.errors import DataError

__all__ = [
    "IGNORED_COLOUR",
    "OVERLAY_WEIGHT",
    "as_rgb",
    "colour_table",
    "colourise",
    "legend",
    "montage",
    "overlay",
    "resized",
    "titled",
]

IGNORED_COLOUR: RGB = (0, 0, 0)
OVERLAY_WEIGHT = 0.6
"""Share of the image in an overlay, as in PaddleSeg (`paddleseg/utils/visualize.py`)."""

_STRETCH_PERCENTILES = (2.0, 98.0)  # a few glints or dead pixels must not set the range
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_SCALE = 0.5
_INK = (32, 32, 32)
_GAP = 12
_LINE = 24


def colour_table(
    palette: Sequence[RGB], *, ignore_index: int = 255, ignored_colour: RGB = IGNORED_COLOUR
) -> tuple[RGB, ...]:
    """Returns 256 RGB colours: the palette, the ignored id's colour, and black elsewhere.

    Raises:
        DataError: When the palette is longer than 256 colours.
    """
    if len(palette) > 256:
        raise DataError(f"a palette for eight-bit ids has at most 256 colours; got {len(palette)}. Merge classes.")
    table: list[RGB] = [(0, 0, 0)] * 256
    table[: len(palette)] = palette
    table[ignore_index] = ignored_colour
    return tuple(table)


def colourise(
    labels: NDArray[np.uint8],
    palette: Sequence[RGB],
    *,
    ignore_index: int = 255,
    ignored_colour: RGB = IGNORED_COLOUR,
) -> NDArray[np.uint8]:
    """Returns `(H, W, 3)` uint8 RGB colours of `(H, W)` uint8 class ids.

    Raises:
        DataError: When `labels` have another shape or type, or an id that is neither in the palette nor ignored.
    """
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise DataError(f"labels to colour must be (H, W) uint8; got {labels.shape} {labels.dtype}. Pass class ids.")
    if labels.size:
        ids = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
        outside = [int(value) for value in ids if value >= len(palette) and value != ignore_index]
        if outside:
            raise DataError(
                f"labels hold {outside}, for which there is no colour: the palette has {len(palette)} and the ignored "
                f"id is {ignore_index}. Pass a longer palette or the right ignored id."
            )
    table = colour_table(palette, ignore_index=ignore_index, ignored_colour=ignored_colour)
    return np.array(table, np.uint8)[labels]


def overlay(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    palette: Sequence[RGB],
    *,
    weight: float = OVERLAY_WEIGHT,
    ignore_index: int = 255,
) -> NDArray[np.uint8]:
    """Lays class colours over a picture: `weight * image + (1 - weight) * colour`.

    Pixels with the ignored id show the picture alone (PaddleSeg darkens or tints them with its colour of id 255).

    Args:
        image: `(H, W, 3)` uint8 RGB.
        labels: `(H, W)` uint8 class ids.
        palette: RGB colour of each class.
        weight: Share of the image, 0..1.
        ignore_index: Id of pixels without a class.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        DataError: When sizes differ, the weight is not in 0..1, or an id has no colour.
    """
    _check_picture(image, labels.shape)
    if not 0 <= weight <= 1:
        raise DataError(f"the image's weight in an overlay must be in 0..1; got {weight}. 0.6 is usual.")
    colours = colourise(labels, palette, ignore_index=ignore_index)
    blended = cv2.addWeighted(image, weight, colours, 1 - weight, 0)
    return np.where((labels == ignore_index)[:, :, np.newaxis], image, blended)


def as_rgb(pixels: NDArray, spec: DatasetSpec, nodata: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Shows an image of any bands and dtype.

    The bands are `spec.rgb_bands`. uint8 is shown as it is; other types are stretched band by band from the 2nd to
    the 98th percentile of the pixels that are data, because 11-bit or reflectance values look black otherwise.

    Args:
        pixels: `(H, W, bands)`.
        spec: Names the bands to show.
        nodata: `(H, W)` bool; pixels shown black and left out of the percentiles.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        DataError: When the image lacks a band that is to be shown.
    """
    if pixels.ndim != 3 or max(spec.rgb_bands) >= pixels.shape[2]:
        raise DataError(
            f"dataset '{spec.name}' shows bands {list(spec.rgb_bands)} (from 0); got an array of shape "
            f"{pixels.shape}. Set rgb_bands to bands that the image has."
        )
    shown = [pixels[:, :, band] for band in spec.rgb_bands]
    if pixels.dtype != np.uint8:
        shown = [_stretch(band, nodata) for band in shown]
    picture = np.stack(shown * 3 if len(shown) == 1 else shown, axis=-1)
    if nodata is not None:
        picture[nodata] = 0
    return picture


def montage(
    image: NDArray[np.uint8],
    label: NDArray[np.uint8] | None,
    prediction: NDArray[np.uint8],
    classes: Sequence[str],
    palette: Sequence[RGB],
    *,
    ignore_index: int = 255,
    panel_side: int = 512,
) -> NDArray[np.uint8]:
    """Puts image, label (if there is one) and prediction side by side over a legend of the classes.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        label: `(H, W)` uint8 class ids, or None.
        prediction: `(H, W)` uint8 class ids.
        classes: Class names.
        palette: RGB colour of each class.
        ignore_index: Id of pixels without a class; it enters the legend where it occurs.
        panel_side: Longer side of each panel in pixels, at least 64; pictures are resized to it.

    Returns:
        `(height, width, 3)` uint8 RGB on white; `write_png` stores it.

    Raises:
        DataError: When sizes differ, or classes and palette differ in number.
    """
    if len(classes) != len(palette) or panel_side < 64:
        raise DataError(
            f"a montage needs one colour per class and panel_side of at least 64; got {len(classes)} classes, "
            f"{len(palette)} colours and panel_side {panel_side}."
        )
    panels = [("image", image)]
    for title, ids in (("label", label), ("prediction", prediction)):
        if ids is not None:
            _check_picture(image, ids.shape)
            panels.append((title, colourise(ids, palette, ignore_index=ignore_index)))
    parts = [titled(title, resized(picture, panel_side, smooth=title == "image")) for title, picture in panels]
    gap = np.full((parts[0].shape[0], _GAP, 3), 255, np.uint8)
    row = np.concatenate([piece for part in parts for piece in (gap, part)] + [gap], axis=1)
    entries = list(zip(classes, palette, strict=True))
    if any(ids is not None and (ids == ignore_index).any() for ids in (label, prediction)):
        entries.append(("ignored", IGNORED_COLOUR))
    return np.concatenate([row, legend(entries, row.shape[1])], axis=0)


def _check_picture(image: NDArray[np.uint8], size: tuple[int, ...]) -> None:
    """Raises `DataError` unless `image` is `(H, W, 3)` uint8 and `size` is its (H, W)."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.shape[:2] != size:
        raise DataError(
            f"a picture must be (H, W, 3) uint8 of its labels' size; got {image.shape} {image.dtype} for labels "
            f"{size}. Use as_rgb(), and labels at the image's own size."
        )


def _stretch(band: NDArray, nodata: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """Maps the 2nd..98th percentile of `(H, W)` to 0..255; a band of one value becomes 0."""
    values = band.astype(np.float32)
    counted = np.isfinite(values) if nodata is None else np.isfinite(values) & ~nodata
    if not counted.any():
        return np.zeros(band.shape, np.uint8)
    low, high = np.percentile(values[counted], _STRETCH_PERCENTILES)
    scaled = (np.where(counted, values, low) - low) * (255.0 / max(high - low, 1e-12))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def resized(picture: NDArray[np.uint8], side: int, *, smooth: bool) -> NDArray[np.uint8]:
    """Resizes so that the longer side is `side`; class colours are not mixed."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    method = cv2.INTER_NEAREST
    if smooth:  # the mean over an area avoids aliasing where pixels are lost
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, size, interpolation=method)


def titled(title: str, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Puts a line with `title` above a picture."""
    line = np.full((_LINE + 6, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(line, title, (2, _LINE - 4), _FONT, _FONT_SCALE, _INK, 1, cv2.LINE_AA)
    return np.concatenate([line, picture], axis=0)


def legend(entries: Sequence[tuple[str, RGB]], width: int) -> NDArray[np.uint8]:
    """Draws colour fields with names, in as many lines as a width of `width` pixels needs."""
    box = 14
    places: list[tuple[int, int]] = []
    x, line = _GAP, 0
    for name, _ in entries:
        needed = box + 6 + cv2.getTextSize(name, _FONT, _FONT_SCALE, 1)[0][0] + 2 * _GAP
        if x > _GAP and x + needed > width:
            x, line = _GAP, line + 1
        places.append((x, line))
        x += needed
    # The height is known only when all entries have their places.
    strip = np.full(((line + 1) * _LINE + _GAP, width, 3), 255, np.uint8)
    for (name, colour), (left, row) in zip(entries, places, strict=True):
        top = row * _LINE + _GAP // 2
        corner = (left + box, top + box)
        cv2.rectangle(strip, (left, top), corner, tuple(map(int, colour)), cv2.FILLED)
        cv2.rectangle(strip, (left, top), corner, _INK, 1)  # without an outline white could not be seen
        cv2.putText(strip, name, (left + box + 6, top + box - 2), _FONT, _FONT_SCALE, _INK, 1, cv2.LINE_AA)
    return strip
