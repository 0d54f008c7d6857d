"""A model that stays on its devices until its answer is small: logits where they are asked for, else class ids."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from rsseg_tf.predict import require_finite
from rsseg_tf.predict.model import AS_IT_IS, NOT_FINITE
from rsseg_tf.predict.options import View

__all__ = ["DevicePredictor", "largest_classes"]

Forward = Callable[[tf.Tensor], tf.Tensor]
Step = Callable[[tf.Tensor], tf.Tensor]

_CHUNK = 2**16
"""Pixels that one call of the compiled search takes: it is compiled for one shape, whatever sizes images have."""

# Types that go to the device as they are in the file, where a graph makes them float32. Others go as float32.
_SENT_AS_THEY_ARE = frozenset({"uint8", "uint16", "int16"})


class DevicePredictor:
    """A predict callable over a function of tensors, with labels; see `rsseg_tf.predict.model.LabelModel`.

    Attributes:
        devices: Devices that share the images of a batch.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        bands: int,
        name: str = "the model",
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        """Takes the model; it is traced at the first call for each type of pixels.

        Args:
            forward: `(B, H, W, bands)` float32 pixels in the file's units to `(B, H, W, classes)` logits.
            bands: Number of bands.
            name: What to call the model in errors.
            strategy: The devices that hold the model's weights; None for one device.
        """
        self.devices = 1
        if strategy is not None and strategy.num_replicas_in_sync > 1:
            self.devices = len(strategy.extended.worker_devices)  # of this worker
        self._bands, self._name = bands, name
        self._strategy: Any = strategy
        self._functions: dict[tuple[str, tuple[View, ...] | None], Any] = {}
        self._forward = tf.function(forward, input_signature=[tf.TensorSpec((None, None, None, bands), tf.float32)])

    @functools.cached_property
    def num_classes(self) -> int:
        """Number of classes, as the graph has it."""
        return int(self._forward.get_concrete_function().output_shapes[-1])

    @functools.cached_property
    def _is_float32(self) -> bool:
        return bool(self._forward.get_concrete_function().output_dtypes == tf.float32)

    def __call__(self, pixels: NDArray) -> NDArray[np.float32]:
        """Returns the logits; see `Predict`.

        Raises:
            NotFiniteError: When a logit is NaN or infinite.
        """
        return require_finite(self._run(pixels, None), pixels, self._name)

    def labels(self, pixels: NDArray, views: Sequence[View] = (AS_IT_IS,)) -> NDArray[np.uint8] | None:
        """Returns the class of the largest logit of each pixel; see `LabelModel`."""
        if len(views) > 1 and not self._is_float32:
            return None  # logits of narrow types are rounded after each addition, which a compiled sum is not
        found = self._run(pixels, tuple(views))
        return None if (found == NOT_FINITE).any() else found

    def _run(self, pixels: NDArray, views: tuple[View, ...] | None) -> NDArray:
        """Runs the function of that kind on the devices, each on a part of the images."""
        if pixels.dtype.name not in _SENT_AS_THEY_ARE:
            pixels = pixels.astype(np.float32, copy=False)
        function = self._function(pixels.dtype.name, views)
        if self.devices == 1 or len(pixels) == 1:
            return function(tf.constant(pixels)).numpy()
        parts = [part for part in np.array_split(pixels, self.devices) if len(part)]
        # Devices without an image repeat the first one, and what they answer is dropped.
        given = [*parts, *[pixels[:1]] * (self.devices - len(parts))]
        values = self._strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(given[context.replica_id_in_sync_group % self.devices])
        )
        answers = self._strategy.experimental_local_results(self._spread(pixels.dtype.name, views)(values))
        return np.concatenate([answer.numpy() for answer in answers[: len(parts)]])

    def _function(self, dtype: str, views: tuple[View, ...] | None) -> Any:
        """Returns the graph for pixels of a type: to logits, or to classes after the views."""
        if (dtype, views) not in self._functions:
            signature = [tf.TensorSpec((None, None, None, self._bands), dtype)]
            self._functions[dtype, views] = tf.function(self._step(views), input_signature=signature, autograph=False)
        return self._functions[dtype, views]

    def _step(self, views: tuple[View, ...] | None) -> Step:
        return self._logits if views is None else functools.partial(self._classes, views)

    def _spread(self, dtype: str, views: tuple[View, ...] | None) -> Any:
        """Returns the same over all devices."""
        key = f"{dtype} on all devices", views
        if key not in self._functions:
            step, strategy = self._step(views), self._strategy

            def run(values: Any) -> Any:
                return strategy.run(step, args=(values,))

            self._functions[key] = tf.function(run, reduce_retracing=True, autograph=False)
        return self._functions[key]

    def _logits(self, pixels: tf.Tensor) -> tf.Tensor:
        return self._forward(tf.cast(pixels, tf.float32))

    def _classes(self, views: tuple[View, ...], pixels: tf.Tensor) -> tf.Tensor:
        pixels = tf.cast(pixels, tf.float32)
        turned = [_turn_back(self._forward(_turn(pixels, view)), view) for view in views]
        return largest_classes([tf.cast(logits, tf.float32) for logits in turned], self.num_classes)


def _turn(images: tf.Tensor, view: View) -> tf.Tensor:
    """Turns `(B, H, W, C)`, see `View`; as the engine turns arrays."""
    transposed, vertical, horizontal = view
    turned = tf.transpose(images, (0, 2, 1, 3)) if transposed else images
    return _flip(turned, vertical, horizontal)


def _turn_back(images: tf.Tensor, view: View) -> tf.Tensor:
    """Undoes `_turn`."""
    transposed, vertical, horizontal = view
    flipped = _flip(images, vertical, horizontal)
    return tf.transpose(flipped, (0, 2, 1, 3)) if transposed else flipped


def _flip(images: tf.Tensor, vertical: bool, horizontal: bool) -> tf.Tensor:
    axes = [1] * vertical + [2] * horizontal
    return tf.reverse(images, axes) if axes else images


def largest_classes(logits: Sequence[tf.Tensor], num_classes: int) -> tf.Tensor:
    """Finds the largest logit of each pixel, in a graph.

    TensorFlow's own search over the last axis takes longer on a CPU than NumPy's. The one here is compiled by XLA: it
    reads the logits once, and finds along the way whether they are numbers. Compiled, a sum also keeps its order, which
    TensorFlow's graphs change.

    Args:
        logits: `(B, H, W, num_classes)` float32 of each view, turned back; their mean is looked at.
        num_classes: At most 255.

    Returns:
        `(B, H, W)` uint8: the class, the lowest id on a tie; `NOT_FINITE` where a mean is NaN or infinite.
    """
    search = _compiled_search(num_classes, len(logits))
    flat = [tf.reshape(one, (-1, num_classes)) for one in logits]
    count = tf.shape(flat[0])[0]
    chunks = count // _CHUNK
    found = tf.TensorArray(tf.uint8, size=chunks + 1, element_shape=(_CHUNK,))

    def step(index: tf.Tensor, found: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        # A slice of whole rows is no copy.
        parts = [tf.slice(one, (index * _CHUNK, 0), (_CHUNK, num_classes)) for one in flat]
        return index + 1, found.write(index, search(*parts))

    _, found = tf.while_loop(lambda index, _: index < chunks, step, (0, found))
    padding = (0, (chunks + 1) * _CHUNK - count), (0, 0)
    rest = [tf.ensure_shape(tf.pad(one[chunks * _CHUNK :], padding), (_CHUNK, num_classes)) for one in flat]
    found = found.write(chunks, search(*rest))
    return tf.reshape(found.concat()[:count], tf.shape(logits[0])[:3])


@functools.cache
def _compiled_search(num_classes: int, views: int) -> Any:
    """Returns the search among the logits of `_CHUNK` pixels, `(_CHUNK, num_classes)` for each view."""

    @tf.function(jit_compile=True, input_signature=[tf.TensorSpec((_CHUNK, num_classes), tf.float32)] * views)
    def search(*logits: tf.Tensor) -> tf.Tensor:
        mean = functools.reduce(operator.add, logits)
        values = tf.unstack(mean / views if views > 1 else mean, axis=-1)
        finite = functools.reduce(tf.logical_and, map(tf.math.is_finite, values))
        # Neighbours are compared in pairs, and the winners again: of equal ones the left, whose id is lower, wins.
        rivals = [(value, tf.fill(tf.shape(value), index)) for index, value in enumerate(values)]
        while len(rivals) > 1:
            pairs = zip(rivals[::2], rivals[1::2], strict=False)
            last = rivals[-1:] if len(rivals) % 2 else []
            rivals = [_winner(left, right) for left, right in pairs] + last
        return tf.where(finite, tf.cast(rivals[0][1], tf.uint8), tf.constant(NOT_FINITE, tf.uint8))

    return search


def _winner(left: tuple[tf.Tensor, tf.Tensor], right: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    is_right = right[0] > left[0]
    return tf.where(is_right, right[0], left[0]), tf.where(is_right, right[1], left[1])
