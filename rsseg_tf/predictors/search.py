"""The most probable class of each pixel, found in a graph, so that eight bits of a pixel leave the device."""

from __future__ import annotations

import functools
import operator
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tensorflow as tf

from rsseg_tf.predict.decoding import PROBABILITY_STEPS
from rsseg_tf.predict.model import NOT_FINITE

__all__ = ["Search", "largest_classes", "search_of"]

Rival = TypeVar("Rival")

_CHUNK = 2**16
"""Pixels that one call takes: the search is compiled for one shape, whatever sizes images have."""

_OFTEN, _OWN_SHAPES = 8, 4
"""From the 8th call with a number of pixels on, the search is compiled for it, for at most 4 numbers.

Compiling takes as long as some hundred calls by chunks lose; each shape keeps its code in memory.
"""


class Search:
    """Finds the class of the largest mean logit, and its probability where that is wanted; from `search_of`.

    TensorFlow's own search over the last axis takes longer on a CPU than NumPy's. The one here is compiled by XLA: it
    reads the logits once, and finds along the way whether they are numbers. Compiled, a sum also keeps its order, which
    TensorFlow's graphs change.
    """

    def __init__(self, num_classes: int, views: int, confidence: bool) -> None:
        """Makes the functions, which are compiled when they are first run.

        Args:
            num_classes: At most 255.
            views: Logits of each pixel, whose mean is looked at.
            confidence: Whether the probability is wanted.
        """
        self._num_classes = num_classes
        self._types = (tf.uint8, tf.uint8, tf.bool) if confidence else (tf.uint8,)
        find = functools.partial(_most_probable if confidence else _largest, views)
        doubt = [tf.TensorSpec((), dtype) for dtype in (tf.float32, tf.uint8, tf.float32)] if confidence else []

        def compiled(pixels: int | None) -> Any:
            signature = [tf.TensorSpec((pixels, num_classes), tf.float32)] * views + doubt
            return tf.function(find, jit_compile=True, input_signature=signature, autograph=False)

        self._chunk, self._any = compiled(_CHUNK), compiled(None)
        self._calls: Counter[int] = Counter()
        self._own: set[int] = set()
        self._lock = threading.Lock()

    def is_frequent(self, pixels: int) -> bool:
        """Counts a call with so many pixels; returns whether the search may be compiled for them."""
        with self._lock:
            self._calls[pixels] += 1
            if self._calls[pixels] >= _OFTEN and len(self._own) < _OWN_SHAPES:
                self._own.add(pixels)
            return pixels in self._own

    def __call__(self, logits: Sequence[tf.Tensor], at_once: tf.Tensor, *doubt: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Searches, in a graph.

        Args:
            logits: `(B, H, W, num_classes)` float32 of each view, turned back.
            at_once: Scalar bool: whether one call takes all pixels, see `is_frequent`.
            doubt: With confidence: the least probability that a class needs, float32; what stands for a class where
                it is smaller, uint8; what logits are multiplied by before they become probabilities, float32.

        Returns:
            For each pixel `(B * H * W,)`: the class, uint8, the lowest id on a tie. Without confidence `NOT_FINITE`
            where a mean is NaN or infinite. With confidence also its probability in steps of 1/254, uint8, and whether
            class or probability are unsure, bool: a mean is not finite, or so near to a border that rounding decides.
        """
        flat = [tf.reshape(one, (-1, self._num_classes)) for one in logits]
        found = tf.cond(at_once, lambda: _as_tuple(self._any(*flat, *doubt)), lambda: self._by_chunks(flat, doubt))
        return _as_tuple(found)

    def _by_chunks(self, flat: list[tf.Tensor], doubt: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        count = tf.shape(flat[0])[0]
        chunks = count // _CHUNK

        def write(found: Sequence[tf.TensorArray], index: tf.Tensor, parts: list[tf.Tensor]) -> list[tf.TensorArray]:
            answers = _as_tuple(self._chunk(*parts, *doubt))
            return [array.write(index, answer) for array, answer in zip(found, answers, strict=True)]

        def step(index: tf.Tensor, *found: tf.TensorArray) -> tuple[Any, ...]:
            # A slice of whole rows is no copy.
            parts = [tf.slice(one, (index * _CHUNK, 0), (_CHUNK, self._num_classes)) for one in flat]
            return index + 1, *write(found, index, parts)

        arrays = [tf.TensorArray(dtype, size=chunks + 1, element_shape=(_CHUNK,)) for dtype in self._types]
        _, *found = tf.while_loop(lambda index, *_: index < chunks, step, (tf.constant(0), *arrays))
        padding = (0, (chunks + 1) * _CHUNK - count), (0, 0)
        rest = [tf.pad(one[chunks * _CHUNK :], padding) for one in flat]
        found = write(found, chunks, [tf.ensure_shape(one, (_CHUNK, self._num_classes)) for one in rest])
        return tuple(array.concat()[:count] for array in found)


@functools.cache
def search_of(num_classes: int, views: int, confidence: bool = False) -> Search:
    """Returns the search of that kind; all models of a process share it, and what was compiled for it."""
    return Search(num_classes, views, confidence)


def largest_classes(logits: Sequence[tf.Tensor], num_classes: int, *, at_once: bool = False) -> tf.Tensor:
    """Finds the largest logit of each pixel; in a graph, or eagerly.

    Args:
        logits: `(B, H, W, num_classes)` float32 of each view, turned back; their mean is looked at.
        num_classes: At most 255.
        at_once: Whether one call takes all pixels.

    Returns:
        `(B, H, W)` uint8: the class, the lowest id on a tie; `NOT_FINITE` where a mean is NaN or infinite.
    """
    (found,) = search_of(num_classes, len(logits))(logits, tf.constant(at_once))
    return tf.reshape(found, tf.shape(logits[0])[:3])


# === Compiled ===


def _largest(views: int, *logits: tf.Tensor) -> tf.Tensor:
    """Returns the classes of logits `(N, classes)`; see `Search`."""
    values = _mean(views, logits)
    _, ids = _winners(values)
    return tf.where(_finite(values), tf.cast(ids, tf.uint8), tf.constant(NOT_FINITE, tf.uint8))


def _most_probable(views: int, *given: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns classes, stored probabilities and what is unsure of logits `(N, classes)` and a doubt; see `Search`.

    Exponentials differ from NumPy's in their last bits, and so do sums of them in another order. Both come within 3 ulp
    and half an ulp for each addition; what this may change is unsure.
    """
    *logits, least, instead, sharpness = given
    values = _mean(views, logits)
    top, ids = _winners(values)
    confidence = 1 / _in_pairs(operator.add, [tf.exp((value - top) * sharpness) for value in values])
    scaled = confidence * PROBABILITY_STEPS
    error = (len(values) / 8 + 16) * 2.0**-23  # relative; the confidence is at most 1
    unsure = tf.abs(scaled - tf.floor(scaled) - 0.5) < PROBABILITY_STEPS * error
    unsure |= (tf.abs(confidence - least) < error) | ~_finite(values)
    classes = tf.where(confidence < least, instead, tf.cast(ids, tf.uint8))
    return classes, tf.cast(tf.round(scaled), tf.uint8), unsure


def _mean(views: int, logits: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the mean logit of each class, `(N,)`."""
    total = functools.reduce(operator.add, logits)
    return list(tf.unstack(total / views if views > 1 else total, axis=-1))


def _finite(values: list[tf.Tensor]) -> tf.Tensor:
    return functools.reduce(tf.logical_and, map(tf.math.is_finite, values))


def _winners(values: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the largest value of each pixel and its place, the first on a tie."""
    return _in_pairs(_winner, [(value, tf.fill(tf.shape(value), index)) for index, value in enumerate(values)])


def _winner(left: tuple[tf.Tensor, tf.Tensor], right: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    # Of equal ones the left, whose id is lower, wins.
    is_right = right[0] > left[0]
    return tf.where(is_right, right[0], left[0]), tf.where(is_right, right[1], left[1])


def _in_pairs(merge: Callable[[Rival, Rival], Rival], items: list[Rival]) -> Rival:
    """Merges neighbours in pairs, and the results again, until one is left."""
    while len(items) > 1:
        pairs = zip(items[::2], items[1::2], strict=False)
        last = items[-1:] if len(items) % 2 else []
        items = [merge(left, right) for left, right in pairs] + last
    return items[0]


def _as_tuple(found: Any) -> tuple[tf.Tensor, ...]:
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)
