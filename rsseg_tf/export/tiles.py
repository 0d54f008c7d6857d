"""Images to calibrate with and to compare on: made up from a seed, or cut out of real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.errors import ExportError, naming
from rsseg_tf.files import StrPath
from rsseg_tf.files.lists import read_list
from rsseg_tf.predict import resize_bilinear
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust
from rsseg_tf.rasters.scenes import read_pixels
from rsseg_tf.rasters.windows import Size

__all__ = ["calibration_images", "middle_of", "pixel_dtype", "random_tiles", "read_tiles"]

_BLOB = 16  # pixels


def pixel_dtype(spec: DatasetSpec) -> str:
    """Returns what exported models take: bytes where pixels are bytes; float32 holds everything else exactly."""
    return "uint8" if spec.max_value == 255 else "float32"


def random_tiles(spec: DatasetSpec, size: Size, count: int, *, dtype: str = "uint8", seed: int = 0) -> NDArray:
    """Returns `(count, height, width, bands)` pixels: blobs of colour with some noise, the same for the same seed.

    Noise alone would show a network nothing but edges.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    tiles = []
    for _ in range(count):
        coarse = rng.random((height // _BLOB + 2, width // _BLOB + 2, spec.bands), np.float32)
        smooth = resize_bilinear(coarse, height, width)
        noise = rng.normal(0, 0.05, (height, width, spec.bands)).astype(np.float32)
        tiles.append(np.clip(smooth + noise, 0, 1) * np.float32(spec.max_value))
    return np.stack(tiles).astype(dtype)


def middle_of(image: NDArray, size: Size) -> NDArray:
    """Returns the middle of an image `(H, W, bands)` in that size; a smaller one is extended by reflection."""
    down, across = (max(0, wanted - there) for wanted, there in zip(size, image.shape[:2], strict=True))
    image = np.pad(image, ((0, down), (0, across), (0, 0)), mode="reflect")
    top, left = (image.shape[0] - size.height) // 2, (image.shape[1] - size.width) // 2
    return image[top : top + size.height, left : left + size.width]


def read_tiles(paths: Sequence[Path], spec: DatasetSpec, size: Size, trust: Trust = TRUSTING_NOBODY) -> list[NDArray]:
    """Reads images as prediction does and returns the middle of each.

    Raises:
        DataError: when an image cannot be read or has other bands than the model.
    """
    tiles = []
    for path in paths:
        with naming(path):
            tiles.append(middle_of(read_pixels(path, spec, trust=trust).values, size))
    return tiles


def calibration_images(
    list_file: StrPath,
    spec: DatasetSpec,
    size: Size,
    *,
    count: int,
    seed: int = 0,
    trust: Trust = TRUSTING_NOBODY,
) -> list[NDArray]:
    """Reads a random choice of a list's images, the same for the same seed.

    Args:
        list_file: one image per line, with or without its label, relative to the list's folder.
        spec: says how many bands there must be.
        size: What to cut out of the middle.
        count: how many; all where the list has fewer.
        seed: of the choice.
        trust: how large images may be, and what a VRT may name.

    Raises:
        ExportError: when there is no such list.
        DataError: when the list or one of the images is damaged.
    """
    list_file = Path(list_file)
    if not list_file.is_file():
        raise ExportError(
            f"The list of calibration images {list_file} does not exist; a text file with an image per line is needed. "
            "Name it with --calibration."
        )
    samples = read_list(list_file, list_file.parent, labels=False)
    chosen = np.random.default_rng(seed).permutation(len(samples))[:count]
    return read_tiles([samples[i].image for i in sorted(chosen)], spec, size, trust)
