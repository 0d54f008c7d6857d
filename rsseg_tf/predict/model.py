"""What every model is asked and must answer: a batch of pixels, and finite logits for each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import DataError, NotFiniteError

if TYPE_CHECKING:
    from rsseg_tf.predict.options import Doubt, View

__all__ = [
    "AS_IT_IS",
    "NOT_FINITE",
    "ConfidenceModel",
    "LabelModel",
    "Predict",
    "call_model",
    "class_planes",
    "device_count",
    "require_classes",
    "require_finite",
    "resize_bilinear",
    "wrong_shape",
]

Predict = Callable[[NDArray], NDArray[np.float32]]
"""A model: `(B, H, W, bands)` pixels -> `(B, H, W, num_classes)` float32 logits, for any B, H and W.

Pixels are in the units of the file, 0..max_value, in the file's dtype or, after a resize, in float32; normalisation is
part of the model.
"""

AS_IT_IS: View = (False, False, False)
"""The view that turns nothing."""

NOT_FINITE = 255
"""In place of a class: a logit of the pixel is NaN or infinite. There are at most 255 classes, 0..254."""


@runtime_checkable
class LabelModel(Protocol):
    """A model that can also answer with class ids, so that logits need not leave the device that computed them.

    What takes a `Predict` uses `labels` where a model has it and no logits must be blended; other models are asked for
    logits.

    Attributes:
        num_classes: Number of classes.
        devices: Devices that share the images of a batch, at least 1.
    """

    num_classes: int
    devices: int

    def __call__(self, batch: NDArray, /) -> NDArray[np.float32]:
        """Returns logits, see `Predict`."""

    def labels(self, batch: NDArray, views: Sequence[View] = (AS_IT_IS,)) -> NDArray[np.uint8] | None:
        """Returns the class of the largest logit of each pixel, the lowest id on a tie.

        Args:
            batch: As `Predict` takes it.
            views: How the images are turned; the logits of all, turned back, are averaged in this order.

        Returns:
            `(B, H, W)` uint8; None when a logit is NaN or infinite. The logits themselves then tell more.
        """


@runtime_checkable
class ConfidenceModel(LabelModel, Protocol):
    """A model that can also answer with class ids and their probabilities, two bytes for each pixel."""

    def labels_and_confidence(self, batch: NDArray, views: Sequence[View], doubt: Doubt) -> NDArray[np.uint8] | None:
        """Returns of each image what `decoding.labels_and_confidence` makes of its logits, to the bit.

        Args:
            batch: As `Predict` takes it.
            views: As `labels` takes them.
            doubt: Which pixels get no class.

        Returns:
            `(B, 2, H, W)` uint8: class ids, and their probabilities in steps of 1/254; None as `labels`.
        """


def device_count(predict: Predict) -> int:
    """Returns how many devices share the images of a batch."""
    return predict.devices if isinstance(predict, LabelModel) else 1


# cv2.resize of OpenCV 5 takes at most 128 channels (OpenCV 4: 512).
_RESIZE_CHANNELS = 128


def call_model(predict: Predict, batch: NDArray) -> NDArray[np.float32]:
    """Calls the model and checks its answer: the batch's size, and numbers from which a class follows.

    Raises:
        DataError: When the answer has another size.
        NotFiniteError: When a logit is NaN or infinite.
    """
    logits = predict(batch)
    if logits.ndim != 4 or logits.shape[:3] != batch.shape[:3]:
        raise wrong_shape(batch, logits)
    return require_finite(logits, batch)


def wrong_shape(batch: NDArray, answer: NDArray) -> DataError:
    """Returns the error for an answer that does not have the size of its batch."""
    return DataError(
        f"the model must answer a batch of {batch.shape} with {(*batch.shape[:3], 'classes')}; got "
        f"{answer.shape}. Export the logits of the main head at the size of the input."
    )


def require_classes(predict: Predict, spec: DatasetSpec) -> Predict:
    """Returns `predict` with a check: it raises `DataError` when the model gives another number of classes than `spec`.

    Args:
        predict: The model.
        spec: The dataset that the model should have been trained for.
    """

    def checked(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = predict(batch)
        if logits.shape[-1] != spec.num_classes:
            raise DataError(
                f"the model gives {logits.shape[-1]} classes, dataset '{spec.name}' has {spec.num_classes}. "
                "Use the dataset that the model was trained on."
            )
        return logits

    return checked


def require_finite(logits: NDArray[np.float32], batch: NDArray, model: str = "the model") -> NDArray[np.float32]:
    """Returns logits as they are, if each is a number.

    The largest of values with NaN among them is NaN, and its place is the first: without this check an image would
    come out as class 0 throughout.

    Args:
        logits: `(B, ..., C)`: what the model answered.
        batch: `(B, ...)`: the pixels that it answered to.
        model: What to call it.

    Raises:
        NotFiniteError: When a value is NaN or infinite; `index` is the first image with one.
    """
    if _all_finite(logits):
        return logits
    finite = np.isfinite(logits)
    index = next((i for i, one in enumerate(finite) if not one.all()), 0)
    pixels = np.asarray(batch[index], np.float64)
    where = "x".join(map(str, pixels.shape[1::-1])) + " pixels"
    told = f"{model} gives values that are not finite: {np.count_nonzero(~finite[index])} of {finite[index].size}"
    if not np.isfinite(pixels).all():
        raise NotFiniteError(
            f"{told} for {where}, of which {np.count_nonzero(~np.isfinite(pixels).all(axis=-1))} are NaN or infinite "
            "themselves. Declare them as nodata in the file, or replace them.",
            index,
        )
    raise NotFiniteError(
        f"{told} are NaN or infinite for {where} with values from {pixels.min():g} to {pixels.max():g}. If these are "
        "as in training, the weights are damaged, or their training ran away: use an earlier checkpoint; with "
        "--precision fp16, which overflows above 65504, use bf16 or fp32.",
        index,
    )


def _all_finite(values: NDArray[np.float32]) -> bool:
    """Whether all values are numbers; some at a time, because memory for all answers would cost more than they do."""
    flat = values.ravel()
    finite = np.empty(min(flat.size, 2**17), bool)
    for start in range(0, flat.size, 2**17):
        part = flat[start : start + 2**17]
        if not np.isfinite(part, out=finite[: part.size]).all():
            return False
    return True


def class_planes(logits: NDArray, out: NDArray | None = None) -> NDArray:
    """Returns logits `(H, W, classes)` as planes `(classes, H, W)`, each contiguous in memory.

    NumPy works on planes several times as fast as on rows of a few classes, and OpenCV transposes faster than NumPy.

    Args:
        logits: What the model answered.
        out: Where the planes go; None for a new array, or a view where logits lie in planes already.
    """
    planes = logits.transpose(2, 0, 1)
    if out is None:
        if planes.size == 0 or planes[0].flags.c_contiguous:
            return planes
        out = np.empty(planes.shape, logits.dtype)
    if logits.flags.c_contiguous and logits.dtype == np.float32 and out.flags.c_contiguous:
        classes = logits.shape[2]
        cv2.transpose(logits.reshape(-1, classes), dst=out.reshape(classes, -1))
    else:
        out[:] = planes
    return out


def resize_bilinear(image: NDArray, height: int, width: int) -> NDArray:
    """Resizes `(H, W, C)` to `(height, width, C)` float32, bilinear with half-pixel centres and no antialiasing.

    Equal to PaddleSeg's `F.interpolate(mode="bilinear", align_corners=False)`. Any number of channels and any real
    dtype; an image that has the size already is returned as it is.
    """
    if image.shape[:2] == (height, width):
        return image
    parts = []
    for start in range(0, image.shape[2], _RESIZE_CHANNELS):
        part = np.ascontiguousarray(image[:, :, start : start + _RESIZE_CHANNELS], np.float32)
        resized = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
        parts.append(resized.reshape(height, width, part.shape[2]))  # cv2 drops the axis of a single channel
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
