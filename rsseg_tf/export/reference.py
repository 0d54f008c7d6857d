"""What the Keras model says about a few made-up tiles, kept beside the artifacts to compare them with later."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.errors import ExportError
from rsseg_tf.export.tiles import random_tiles
from rsseg_tf.export.trained import Trained

__all__ = ["REFERENCE_FILE", "Reference", "read_reference", "write_reference"]

REFERENCE_FILE = "reference.npz"

_TILES, _LARGEST_SIDE = 2, 256


class Reference(NamedTuple):
    """Tiles and their logits.

    Attributes:
        pixels: `(N, H, W, bands)` in the dtype that the artifacts take.
        logits: `(N, H, W, classes)` float32 of the Keras model.
    """

    pixels: NDArray
    logits: NDArray[np.float32]


def write_reference(trained: Trained, folder: Path, tile: tuple[int, int] | None) -> None:
    """Runs the Keras model on made-up tiles and writes `reference.npz`.

    Args:
        trained: the model.
        folder: where to write.
        tile: size of the tiles; None for the size that the model was trained with, at most 256x256.
    """
    size = tile or tuple(min(side, _LARGEST_SIDE) for side in trained.manifest.crop_size)
    pixels = random_tiles(trained.spec, (size[0], size[1]), _TILES, dtype=trained.dtype)
    logits = np.concatenate([trained.predict(one[np.newaxis]) for one in pixels])
    np.savez_compressed(folder / REFERENCE_FILE, pixels=pixels, logits=logits)


def read_reference(folder: Path) -> Reference:
    """Reads what `write_reference` wrote.

    Raises:
        ExportError: when it is missing or damaged.
    """
    path = folder / REFERENCE_FILE
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Reference(arrays["pixels"], arrays["logits"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ExportError(f"{path} is missing or damaged: {error}. Export the model again.") from error
