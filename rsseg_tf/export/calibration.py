"""Which images are fit to calibrate with: those whose activations are like those of the others.

Whole numbers of 8 bits cover the range from the smallest to the largest activation that was seen. A few images that a
network answers with activations a hundred times as large as usual, as black borders without data can be, leave the
others two or three values of the 256.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.export.flatbuffer import activations
from rsseg_tf.extras import require

__all__ = ["typical_images"]

_LARGEST_RATIO = 8.0  # to the middle image; at the bound 8 bits are 5 for the others
_SHARE = 0.25  # of the activations that must be beyond it


def typical_images(model: bytes, images: Sequence[NDArray]) -> list[int]:
    """Returns which images to calibrate with.

    Left out is an image for which a quarter of all activations reach more than eight times as far as for the middle
    image. What such images show is clipped later, to the range of the others.

    Args:
        model: a TFLite file in float32.
        images: `(1, H, W, bands)` float32, as the file takes them.

    Returns:
        Indices in rising order; at least half of the images.
    """
    reach = _largest_activations(model, images)
    middle = np.median(reach, axis=0)
    ratio = reach[:, middle > 0] / middle[middle > 0]
    beyond = (ratio > _LARGEST_RATIO).mean(axis=1) if ratio.size else np.zeros(len(images))
    # With few images the middle one may be no guide: never more than half.
    order = np.argsort(beyond, kind="stable")
    fit = set(order[: (len(images) + 1) // 2]) | set(np.flatnonzero(beyond <= _SHARE))
    return sorted(int(index) for index in fit)


def _largest_activations(model: bytes, images: Sequence[NDArray]) -> NDArray[np.float64]:
    """Returns the largest absolute value `(images, activations)` of each tensor that an operator gives."""
    litert = require("ai_edge_litert.interpreter", "tflite")
    interpreter = litert.Interpreter(
        model_content=model,
        num_threads=os.cpu_count() or 1,
        experimental_preserve_all_tensors=True,
        # A delegate computes several operators at once, and keeps what is between them.
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    (entry,) = interpreter.get_input_details()
    indices = activations(model)
    rows = []
    for image in images:
        interpreter.resize_tensor_input(entry["index"], image.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], image)
        interpreter.invoke()
        rows.append([np.abs(interpreter.get_tensor(index)).max(initial=0) for index in indices])
    return np.array(rows, np.float64)
