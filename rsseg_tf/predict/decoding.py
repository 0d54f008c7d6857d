"""From blended logits to what is stored: class ids, confidence, probabilities, all in eight bits."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import ConfigError
from rsseg_tf.predict.model import class_planes
from rsseg_tf.predict.options import Doubt, OutputOptions

__all__ = [
    "PROBABILITY_NODATA",
    "PROBABILITY_STEPS",
    "Product",
    "check_review_value",
    "decode",
    "labels_and_confidence",
    "largest_class",
    "products",
]

Product = Literal["labels", "confidence", "probabilities"]

PROBABILITY_STEPS = 254
"""The stored value of probability 1.0; 255 is left for pixels without data."""
PROBABILITY_NODATA = 255

_PIXELS_AT_A_TIME = 2**15
_MOST_COMPARED = 32
"""Classes beyond which bringing the logits of each together takes longer than `argmax`."""


def products(output: OutputOptions, num_classes: int) -> dict[Product, int]:
    """Returns the products of a scene and their numbers of bands. Polygons need the confidence too."""
    result: dict[Product, int] = {"labels": 1}
    if output.confidence or output.vector is not None:
        result["confidence"] = 1
    if output.probabilities:
        result["probabilities"] = num_classes
    return result


def check_review_value(output: OutputOptions, spec: DatasetSpec) -> None:
    """Raises `ConfigError` when the value of doubtful pixels already means something else."""
    value = output.review_value
    if output.min_confidence is None or spec.num_classes <= value != spec.ignore_index:
        return
    taken = f"class '{spec.classes[value]}'" if value < spec.num_classes else "pixels without data"
    raise ConfigError(
        f"--review_value {value} already stands for {taken}; take one in {spec.num_classes}..255 other than "
        f"{spec.ignore_index}."
    )


def decode(
    logits: NDArray, wanted: NDArray[np.bool_], spec: DatasetSpec, output: OutputOptions, temperature: float = 1.0
) -> dict[Product, NDArray[np.uint8]]:
    """Turns blended logits into what is stored.

    Probabilities are the softmax of the blended logits, divided by the temperature, so that the class is always the
    most probable one.

    Args:
        logits: `(H, W, classes)`.
        wanted: `(H, W)`, False where a pixel gets no class: no data, or outside of the area of interest.
        spec: The dataset, for the ignored id.
        output: Which products are asked for.
        temperature: See `InferenceOptions`.

    Returns:
        `(bands, H, W)` uint8 for each of `products`: the class id of the largest logit, the lowest on a tie; its
        probability in steps of 1/254; those of all classes likewise. Unwanted pixels are the ignored id, or 255.
    """
    logits = logits.astype(np.float32, copy=False)  # ids then agree with those of whole images, which are float32
    result: dict[Product, NDArray[np.uint8]] = {}
    if output.needs_probabilities:
        labels, confidence, exponentials, total = _weighed(logits, output.doubt(temperature))
        result["labels"] = labels[np.newaxis]
        if output.confidence or output.vector is not None:
            result["confidence"] = _stored(confidence)[np.newaxis]
        if output.probabilities:
            exponentials /= total[:, :, np.newaxis]
            result["probabilities"] = _stored(exponentials.transpose(2, 0, 1))
    else:
        result["labels"] = largest_class(logits)[np.newaxis]
    if not wanted.all():
        for name, bands in result.items():
            bands[:, ~wanted] = spec.ignore_index if name == "labels" else PROBABILITY_NODATA
    return result


def labels_and_confidence(logits: NDArray[np.float32], doubt: Doubt) -> NDArray[np.uint8]:
    """Returns what `decode` has as labels and as confidence.

    Args:
        logits: `(H, W, classes)`.
        doubt: The temperature, and which pixels get no class.

    Returns:
        `(2, H, W)` uint8: class ids, and their probabilities in steps of 1/254.
    """
    labels, confidence, *_ = _weighed(logits, doubt)
    return np.stack([labels, _stored(confidence)])


def _weighed(
    logits: NDArray[np.float32], doubt: Doubt
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Returns labels and their probabilities `(H, W)`; what those of all classes are proportional to, and its sum."""
    labels = largest_class(logits)
    logits = np.ascontiguousarray(logits)  # NumPy sums the classes in another order where they lie in planes
    # Less the largest logit, which changes no probability, no exponential overflows.
    exponentials = logits - logits.max(axis=-1, keepdims=True)
    if doubt.temperature != 1:
        exponentials *= doubt.sharpness
    np.exp(exponentials, out=exponentials)
    total = exponentials.sum(axis=-1)
    confidence = 1 / total  # the largest exponential is 1
    labels[confidence < np.float32(doubt.below)] = doubt.value  # compared before rounding to steps of 1/254
    return labels, confidence, exponentials, total


def largest_class(logits: NDArray) -> NDArray[np.uint8]:
    """Returns the class of the largest logit of each pixel, the lowest id on a tie.

    Equal to `logits.argmax(axis=-1)` for numbers that are finite, in a tenth of the time: NumPy's own goes through the
    classes of one pixel after the other.

    Args:
        logits: `(H, W, classes)`, at most 256 classes.

    Returns:
        `(H, W)` uint8.
    """
    height, width, classes = logits.shape
    if classes > _MOST_COMPARED and logits.flags.c_contiguous:
        return logits.argmax(axis=-1).astype(np.uint8)
    labels = np.zeros((height, width), np.uint8)
    # A few rows at a time, so that what is compared stays in the processor's cache.
    step = max(1, _PIXELS_AT_A_TIME // max(1, width))
    for top in range(0, height, step):
        part, ids = class_planes(logits[top : top + step]), labels[top : top + step]
        largest, larger = part[0].copy(), np.empty(ids.shape, bool)
        candidate = larger.view(np.uint8)
        for index in range(1, classes):
            np.greater(part[index], largest, out=larger)
            np.maximum(part[index], largest, out=largest)
            # Ids rise from class to class, so that the larger one of two is the newer.
            np.multiply(candidate, np.uint8(index), out=candidate)
            np.maximum(ids, candidate, out=ids)
    return labels


def _stored(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(probability * PROBABILITY_STEPS).astype(np.uint8)
