"""Tiles to calibrate with and to compare on, made up or cut out of real images, and the Keras model's answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.errors import ExportError, naming
from rsseg_tf.files import StrPath
from rsseg_tf.files.lists import read_list
from rsseg_tf.files.npz import read_npz
from rsseg_tf.manifest import CALIBRATED, Quantization
from rsseg_tf.predict import Predict, resize_bilinear
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust
from rsseg_tf.rasters.scenes import read_pixels
from rsseg_tf.rasters.windows import Size

__all__ = [
    "REFERENCE_FILE",
    "Reference",
    "calibration_images",
    "made_up_reference",
    "middle_of",
    "pixel_dtype",
    "random_tiles",
    "read_reference",
    "read_tiles",
    "reference_size",
]

REFERENCE_FILE = "reference.npz"

_BLOB = 16  # pixels
_MADE_UP, _LARGEST_SIDE = 2, 256


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
        DataError: When an image cannot be read or has other bands than the model.
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
        list_file: One image per line, with or without its label, relative to the list's folder.
        spec: Says how many bands there must be.
        size: What to cut out of the middle.
        count: Number of images; all where the list has fewer.
        seed: Seed of the choice.
        trust: How large images may be, and what a VRT may name.

    Raises:
        ExportError: When there is no such list.
        DataError: When the list or one of the images is damaged.
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


class Reference(NamedTuple):
    """Tiles and their logits.

    Attributes:
        pixels: `(N, H, W, bands)` in the dtype that the artifacts take; made-up tiles, then real ones.
        logits: `(N, H, W, classes)` float32 of the Keras model.
        made_up: Number of the made-up tiles.
    """

    pixels: NDArray
    logits: NDArray[np.float32]
    made_up: int

    @property
    def real(self) -> int:
        """Number of the real tiles."""
        return len(self.pixels) - self.made_up

    def suited_to(self, quantization: Quantization) -> Reference:
        """Returns the tiles that files of a quantization can be judged by.

        For ranges that were calibrated on real images these are the real tiles, if there are any: the values that a
        made-up one gives lie partly outside of them.
        """
        if quantization in CALIBRATED and self.real:
            return Reference(self.pixels[self.made_up :], self.logits[self.made_up :], 0)
        return self

    def with_real(self, predict: Predict, tiles: Sequence[NDArray]) -> Reference:
        """Returns the same with more real tiles `(H, W, bands)` and the Keras model's answers to them."""
        if not tiles:
            return self
        pixels = np.stack(tiles).astype(self.pixels.dtype)
        logits = np.concatenate([self.logits, _logits(predict, pixels)])
        return Reference(np.concatenate([self.pixels, pixels]), logits, self.made_up)

    def write(self, folder: Path) -> None:
        """Writes `reference.npz`."""
        np.savez_compressed(folder / REFERENCE_FILE, **self._asdict())


def reference_size(crop_size: Size, tile: Size | None = None) -> Size:
    """Returns the size of the tiles: that of the files, or else that of the training, at most 256x256."""
    return tile or Size(min(crop_size.height, _LARGEST_SIDE), min(crop_size.width, _LARGEST_SIDE))


def made_up_reference(predict: Predict, spec: DatasetSpec, size: Size) -> Reference:
    """Runs the Keras model on made-up tiles of `size`."""
    pixels = random_tiles(spec, size, _MADE_UP, dtype=pixel_dtype(spec))
    return Reference(pixels, _logits(predict, pixels), len(pixels))


def read_reference(folder: Path) -> Reference:
    """Reads what `Reference.write` wrote.

    Raises:
        ExportError: When it is missing or damaged.
    """
    path = folder / REFERENCE_FILE
    try:
        arrays = read_npz(path)
        return Reference(arrays["pixels"], arrays["logits"], int(arrays["made_up"]))
    except (OSError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise ExportError(f"{path} is missing or damaged: {error}. Export the model again.") from error


def _logits(predict: Predict, pixels: NDArray) -> NDArray[np.float32]:
    # One by one, as files with a batch of 1 answer: rounding differs a little between sizes of a batch.
    return np.concatenate([predict(one[np.newaxis]) for one in pixels])
