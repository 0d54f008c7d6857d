"""Models that take images of one size only, used on images of any size."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.errors import NotFiniteError
from rsseg_tf.predict.logits import Predict, slide_logits
from rsseg_tf.predict.options import InferenceOptions

__all__ = ["any_size", "tile_options", "tile_stride"]


def tile_stride(tile: tuple[int, int]) -> tuple[int, int]:
    """Returns three quarters of a tile: the step between windows where none was asked for."""
    return max(1, tile[0] * 3 // 4), max(1, tile[1] * 3 // 4)


def any_size(predict: Predict, tile: tuple[int, int]) -> Predict:
    """Returns a predict callable for images of any size over one for images of the size `tile`.

    Smaller images are extended by reflection, downwards and to the right, and the logits cut back; larger ones are
    predicted by windows of the tile's size that overlap by a quarter, whose logits are averaged.

    Args:
        predict: the model; takes `(B, *tile, bands)`.
        tile: (height, width).
    """
    height, width = tile
    down, across = tile_stride(tile)

    def predict_any(pixels: NDArray) -> NDArray[np.float32]:
        if pixels.shape[1:3] == tile:
            return predict(pixels)
        rows, columns = pixels.shape[1:3]
        extra = ((0, 0), (0, max(0, height - rows)), (0, max(0, width - columns)), (0, 0))
        padded = np.pad(pixels, extra, mode="reflect")
        if padded.shape[1:3] == tile:
            logits = predict(padded)
        else:
            answers = []
            for index, one in enumerate(padded):
                try:
                    answers.append(slide_logits(predict, one, crop_size=(width, height), stride=(across, down)))
                except NotFiniteError as error:
                    raise NotFiniteError(str(error), index) from error
            logits = np.stack(answers)
        return logits[:, :rows, :columns]

    return predict_any


def tile_options(options: InferenceOptions, tile: tuple[int, int] | None) -> InferenceOptions:
    """Returns options that predict windows of the tile's size, unless they ask for windows already.

    `any_size` would do the same inside of each call; here the windows of a scene are known, so that its logits need
    not be held in full.

    Args:
        options: as the user gave them.
        tile: (height, width) that the model needs; None for a model that takes any size.
    """
    if tile is None or options.is_slide:
        return options
    down, across = tile_stride(tile)
    return dataclasses.replace(options, is_slide=True, crop_size=(tile[1], tile[0]), stride=(across, down))
