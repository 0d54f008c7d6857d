"""What the Keras model says about a few tiles, kept beside the artifacts to compare them with later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.errors import ExportError
from rsseg_tf.export.tiles import pixel_dtype, random_tiles
from rsseg_tf.export.trained import Trained
from rsseg_tf.files.npz import read_npz
from rsseg_tf.manifest import CALIBRATED, Quantization
from rsseg_tf.predict import Predict
from rsseg_tf.rasters.windows import Size

__all__ = [
    "REFERENCE_FILE",
    "Reference",
    "made_up_reference",
    "read_reference",
    "reference_size",
    "write_reference",
]

REFERENCE_FILE = "reference.npz"

_MADE_UP, _LARGEST_SIDE = 2, 256


class Reference(NamedTuple):
    """Tiles and their logits.

    Attributes:
        pixels: `(N, H, W, bands)` in the dtype that the artifacts take; made-up tiles, then real ones.
        logits: `(N, H, W, classes)` float32 of the Keras model.
        made_up: number of the made-up tiles.
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

    def with_real(self, trained: Trained, tiles: Sequence[NDArray]) -> Reference:
        """Returns the same with more real tiles `(H, W, bands)`, and what the Keras model says of them."""
        if not tiles:
            return self
        pixels = np.stack(tiles).astype(self.pixels.dtype)
        logits = np.concatenate([self.logits, _logits(trained.predict, pixels)])
        return Reference(np.concatenate([self.pixels, pixels]), logits, self.made_up)


def reference_size(trained: Trained, tile: Size | None) -> Size:
    """Returns the size of the tiles: that of the files, or else that of the training, at most 256x256."""
    return tile or Size(*(min(side, _LARGEST_SIDE) for side in trained.manifest.crop_size))


def made_up_reference(predict: Predict, spec: DatasetSpec, size: Size) -> Reference:
    """Runs a model on made-up tiles of `size`, at most 256x256."""
    side = Size(*(min(side, _LARGEST_SIDE) for side in size))
    pixels = random_tiles(spec, side, _MADE_UP, dtype=pixel_dtype(spec))
    return Reference(pixels, _logits(predict, pixels), len(pixels))


def write_reference(trained: Trained, folder: Path, tile: Size | None, real: Sequence[NDArray] = ()) -> None:
    """Runs the Keras model on made-up and on real tiles and writes `reference.npz`.

    Args:
        trained: the model.
        folder: where to write.
        tile: Size of the artifacts; None for any.
        real: tiles of `reference_size`.
    """
    pixels = random_tiles(trained.spec, reference_size(trained, tile), _MADE_UP, dtype=trained.dtype)
    reference = Reference(pixels, _logits(trained.predict, pixels), len(pixels)).with_real(trained, real)
    np.savez_compressed(folder / REFERENCE_FILE, **reference._asdict())


def read_reference(folder: Path) -> Reference:
    """Reads what `write_reference` wrote.

    Raises:
        ExportError: when it is missing or damaged.
    """
    path = folder / REFERENCE_FILE
    try:
        arrays = read_npz(path)
        return Reference(arrays["pixels"], arrays["logits"], int(arrays["made_up"]))
    except (OSError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise ExportError(f"{path} is missing or damaged: {error}. Export the model again.") from error


def _logits(predict: Predict, pixels: NDArray) -> NDArray[np.float32]:
    return np.concatenate([predict(one[np.newaxis]) for one in pixels])
