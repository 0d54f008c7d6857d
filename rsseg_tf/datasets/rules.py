"""The rules for the images and labels of a dataset, and the messages about those that break them.

Training, evaluation, prediction and the data checks share these rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from rsseg_tf.datasets.spec import DatasetSpec, unknown_ids
from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import Sample

__all__ = [
    "check_label_ids",
    "check_same_size",
    "check_type",
    "ids_of",
    "label_of",
    "looks_like_a_mask",
    "mask_words",
    "misfit",
]

_BYTES = 255
_SHOWN_IDS = 8


def misfit(dtype: np.dtype, max_value: float, largest: float, middle: float) -> str:
    """Describes pixels whose type or values contradict `max_value`; returns an empty text for others.

    For whole numbers the type decides: 8 bits use their full range, and more bits may use a part of it, but not 255 of
    65,536 values. For other types the values decide.

    Args:
        dtype: Type of the pixels.
        max_value: Pixel value that becomes 1.0.
        largest: The largest known value.
        middle: The median of the known values.
    """
    if np.issubdtype(dtype, np.integer):
        top = int(np.iinfo(dtype).max)
        fits = 1 < max_value <= top and (top == _BYTES or max_value > _BYTES)
        return "" if fits else f"{dtype} (0..{top})"
    fits = not (0 < largest <= 1 < max_value) and middle <= max_value
    return "" if fits else f"{dtype} with values around {middle:.4g} and up to {largest:.4g}"


def label_of(sample: Sample) -> Path:
    """Returns the label of a sample.

    Raises:
        DataError: When it has none.
    """
    if sample.label is None:
        raise DataError(f"{sample.image} has no label beside it in the list; write 'image label' on each line.")
    return sample.label


def check_type(path: Path, dtype: np.dtype, first: Path, first_dtype: np.dtype) -> None:
    """Raises DataError unless an image has the type of the first one."""
    if dtype != first_dtype:
        raise DataError(
            f"{path} is {dtype}, but {first} is {first_dtype}; all images of a dataset must have one type. "
            "Convert one of them."
        )


def check_same_size(sample: Sample, image_size: Sequence[int], label_size: Sequence[int]) -> None:
    """Raises DataError unless image and label have the same (height, width)."""
    if tuple(image_size) != tuple(label_size):
        raise DataError(
            f"{sample.image} is {image_size[1]}x{image_size[0]} pixels, but its label {sample.label} is "
            f"{label_size[1]}x{label_size[0]}; both must have one size."
        )


def ids_of(label: np.ndarray) -> tuple[int, ...]:
    """Returns the ids that occur in a label, in order."""
    if label.dtype == np.uint8:  # ten times as fast as counting with NumPy
        return tuple(np.flatnonzero(cv2.calcHist([np.ascontiguousarray(label)], [0], None, [256], [0, 256])).tolist())
    return tuple(np.flatnonzero(np.bincount(label.ravel())).tolist())


def check_label_ids(present: Sequence[int], path: Path, spec: DatasetSpec) -> None:
    """Raises DataError when a label holds an id that is neither a class nor the ignored one.

    Args:
        present: The ids that occur in it.
        path: The label.
        spec: The dataset.
    """
    wrong = unknown_ids(present, spec.num_classes, spec.ignore_index)
    if wrong:
        shown = ", ".join(map(str, wrong[:_SHOWN_IDS])) + (", …" if len(wrong) > _SHOWN_IDS else "")
        remedy = (
            f"{mask_words(present)}: write class ids instead."
            if looks_like_a_mask(present, spec.num_classes)
            else "Correct the label, or the class list of the dataset."
        )
        raise DataError(
            f"{path} holds the ids {shown}; the dataset '{spec.name}' allows 0..{spec.num_classes - 1} and "
            f"{spec.ignore_index} (ignored). {remedy}",
            code="label-values",
        )


def looks_like_a_mask(present: Iterable[int], num_classes: int | None) -> bool:
    """Tells whether ids are those of a mask from a paint program: 0 and one other value, which is no class.

    Args:
        present: The ids that occur.
        num_classes: Number of classes; None where unknown, and then the other value is 255.
    """
    ids = set(present)
    least = _BYTES if num_classes is None else num_classes
    return len(ids) == 2 and 0 in ids and max(ids) >= least


def mask_words(present: Iterable[int]) -> str:
    """Returns the words for ids that `looks_like_a_mask`."""
    return f"0 and {max(present)} alone look like a black-and-white mask"
