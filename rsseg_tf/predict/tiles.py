"""Models that take images of one size only, used on images of any size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.errors import NotFiniteError
from rsseg_tf.predict.blending import Windows
from rsseg_tf.predict.engine import slide_logits
from rsseg_tf.predict.model import Predict
from rsseg_tf.predict.options import usual_stride
from rsseg_tf.rasters.windows import Size

__all__ = ["any_size"]


def any_size(predict: Predict, tile: Size, classes: int) -> Predict:
    """Returns a predict callable for images of any size over one for images of the size `tile`.

    Smaller images are extended by reflection, downwards and to the right, and the logits cut back; larger ones are
    predicted by windows of the tile's size that overlap by a quarter, whose logits are averaged.

    `InferenceOptions.fixed_tile` makes the engine cut images into such windows itself, so that their logits need not
    be held in full. What is left to do here are windows that somebody asked for in another size, or that were scaled.

    Args:
        predict: The model; takes `(B, *tile, bands)`.
        tile: The size.
        classes: Number of the model's classes.
    """
    windows = Windows(tile, usual_stride(tile), "mean", padded=True)

    def predict_any(pixels: NDArray) -> NDArray[np.float32]:
        rows, columns = pixels.shape[1:3]
        if rows <= tile.height and columns <= tile.width:
            extra = ((0, 0), (0, tile.height - rows), (0, tile.width - columns), (0, 0))
            padded = np.pad(pixels, extra, mode="reflect") if (rows, columns) != tile else pixels
            return predict(padded)[:, :rows, :columns]
        answers = []
        for index, image in enumerate(pixels):
            try:
                answers.append(slide_logits(predict, image, classes, windows))
            except NotFiniteError as error:
                raise NotFiniteError(str(error), index) from error
        return np.stack(answers)

    return predict_any
