"""From logits to class ids."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rsseg_tf.predict.decoding import largest_class
from rsseg_tf.predict.model import class_planes


def logits_of(height: int, width: int, classes: int) -> NDArray[np.float32]:
    """Returns logits with many ties, both zeros and numbers near the limits."""
    rng = np.random.default_rng(height * width + classes)
    values = np.array([-3e38, -1.5, -0.0, 0.0, 0.5, 2.0, 3e38], np.float32)
    return rng.choice(values, (height, width, classes))


@pytest.mark.parametrize("classes", [1, 2, 6, 16, 70, 256])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (40, 1000), (3, 40_000)])
def test_the_largest_class_is_that_of_numpy(size: tuple[int, int], classes: int) -> None:
    logits = logits_of(*size, classes)
    expected = logits.argmax(axis=-1)
    in_planes = np.ascontiguousarray(logits.transpose(2, 0, 1)).transpose(1, 2, 0)
    for layout in (logits, in_planes, in_planes.astype(np.float64), logits[:, ::-1][:, ::-1]):
        labels = largest_class(layout)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 1, 1), (4, 9, 70), (6, 2, 1)])
def test_planes_hold_the_logits(shape: tuple[int, int, int], dtype: type) -> None:
    logits: NDArray = np.random.default_rng(0).normal(size=shape).astype(dtype)
    expected = logits.transpose(2, 0, 1)
    np.testing.assert_array_equal(class_planes(logits), expected)
    out: NDArray = np.empty(expected.shape, dtype)
    assert class_planes(logits, out) is out
    np.testing.assert_array_equal(out, expected)
    part = logits[1:, 1:]  # rows that do not lie side by side in memory
    np.testing.assert_array_equal(class_planes(part), part.transpose(2, 0, 1))
    planes = np.ascontiguousarray(expected)
    assert np.shares_memory(class_planes(planes.transpose(1, 2, 0)), planes)
