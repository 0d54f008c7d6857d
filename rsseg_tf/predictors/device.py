"""A model that stays on its devices until its answer is small: logits where they are asked for, else bytes."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from rsseg_tf.predict import require_finite
from rsseg_tf.predict.decoding import labels_and_confidence
from rsseg_tf.predict.model import AS_IT_IS, NOT_FINITE
from rsseg_tf.predict.options import Doubt, View
from rsseg_tf.predictors.search import Search, search_of

__all__ = ["DevicePredictor"]

Forward = Callable[[tf.Tensor], tf.Tensor]
Step = Callable[..., Any]

# Types that go to the device as they are in the file, where a graph makes them float32. Others go as float32.
_SENT_AS_THEY_ARE = frozenset({"uint8", "uint16", "int16"})


class _Kind(NamedTuple):
    """What a graph makes of pixels.

    Attributes:
        views: The views whose mean logits give classes; None for logits.
        confidence: Whether it gives the probabilities of the classes, too.
    """

    views: tuple[View, ...] | None
    confidence: bool = False

    @property
    def options(self) -> list[tf.TensorSpec]:
        """What the graph takes besides the pixels: how to search, and the rest of `Search`'s arguments."""
        types = [tf.bool, tf.float32, tf.uint8, tf.float32] if self.confidence else [tf.bool]
        return [] if self.views is None else [tf.TensorSpec((), dtype) for dtype in types]


class DevicePredictor:
    """A predict callable over a function of tensors, with labels; see `rsseg_tf.predict.model.ConfidenceModel`.

    Attributes:
        devices: Devices that share the images of a batch.
        keras_model: The model whose tensors these are; None where it is no Keras model.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        bands: int,
        name: str = "the model",
        strategy: tf.distribute.Strategy | None = None,
        keras_model: Any = None,
    ) -> None:
        """Takes the model; it is traced at the first call for each type of pixels.

        Args:
            forward: `(B, H, W, bands)` float32 pixels in the file's units to `(B, H, W, classes)` logits.
            bands: Number of bands.
            name: What to call the model in errors.
            strategy: The devices that hold the model's weights; None for one device.
            keras_model: See above.
        """
        self.keras_model = keras_model
        self.devices = 1
        if strategy is not None and strategy.num_replicas_in_sync > 1:
            self.devices = len(strategy.extended.worker_devices)  # of this worker
        self._bands, self._name = bands, name
        self._strategy: Any = strategy
        self._functions: dict[tuple[str, _Kind], Any] = {}
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
        parts = self._run(pixels, _Kind(None))
        logits = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return require_finite(logits, pixels, self._name)

    def labels(self, pixels: NDArray, views: Sequence[View] = (AS_IT_IS,)) -> NDArray[np.uint8] | None:
        """Returns the class of the largest logit of each pixel; see `LabelModel`."""
        kind = _Kind(tuple(views))
        if not self._may_search(kind):
            return None
        parts = self._run(pixels, kind, self._at_once(kind, pixels))
        found = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return None if (found == NOT_FINITE).any() else found

    def labels_and_confidence(self, pixels: NDArray, views: Sequence[View], doubt: Doubt) -> NDArray[np.uint8] | None:
        """Returns classes and their probabilities; see `ConfidenceModel`.

        Where the last bits of an exponential decide, a pixel's logits come along, and NumPy has the last word.
        """
        kind = _Kind(tuple(views), confidence=True)
        if not self._may_search(kind):
            return None
        values = (doubt.below, tf.float32), (doubt.value, tf.uint8), (doubt.sharpness, tf.float32)
        options = [tf.constant(value, dtype) for value, dtype in values]
        answers = []
        for planes, unsure, logits in self._run(pixels, kind, self._at_once(kind, pixels), *options):
            if not np.isfinite(logits).all():
                return None
            total = functools.reduce(operator.add, logits)
            mean = total / np.float32(len(views)) if len(views) > 1 else total
            answer = planes.copy()
            answer[:, unsure[:, 0], unsure[:, 1], unsure[:, 2]] = labels_and_confidence(mean[np.newaxis], doubt)[:, 0]
            answers.append(answer)
        return np.concatenate(answers, axis=1).swapaxes(0, 1)

    def _may_search(self, kind: _Kind) -> bool:
        # Logits of narrow types are rounded after each addition, which a compiled sum is not.
        return self._is_float32 or len(kind.views or ()) == 1

    def _at_once(self, kind: _Kind, pixels: NDArray) -> tf.Tensor:
        """Whether the search is compiled for this many pixels."""
        return tf.constant(self._search(kind).is_frequent(math.prod(pixels.shape[:3])))

    def _search(self, kind: _Kind) -> Search:
        return search_of(self.num_classes, len(kind.views or ()), kind.confidence)

    def _run(self, pixels: NDArray, kind: _Kind, *options: tf.Tensor) -> list[Any]:
        """Runs the function of that kind on the devices; returns what it has for each one's part of the images."""
        if pixels.dtype.name not in _SENT_AS_THEY_ARE:
            pixels = pixels.astype(np.float32, copy=False)
        if self.devices == 1 or len(pixels) == 1:
            answers = [self._function(pixels.dtype.name, kind)(tf.constant(pixels), *options)]
        else:
            parts = [part for part in np.array_split(pixels, self.devices) if len(part)]
            # Devices without an image repeat the first one, and what they answer is dropped.
            given = [*parts, *[pixels[:1]] * (self.devices - len(parts))]
            values = self._strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(given[context.replica_id_in_sync_group % self.devices])
            )
            answers = self._strategy.experimental_local_results(
                self._spread(pixels.dtype.name, kind)(values, *options)
            )[: len(parts)]
        return [tf.nest.map_structure(lambda tensor: tensor.numpy(), answer) for answer in answers]

    def _function(self, dtype: str, kind: _Kind) -> Any:
        """Returns the graph of a kind for pixels of a type."""
        if (dtype, kind) not in self._functions:
            signature = [tf.TensorSpec((None, None, None, self._bands), dtype), *kind.options]
            self._functions[dtype, kind] = tf.function(self._step(kind), input_signature=signature, autograph=False)
        return self._functions[dtype, kind]

    def _step(self, kind: _Kind) -> Step:
        if kind.views is None:
            return self._logits
        return functools.partial(self._classes_and_confidence if kind.confidence else self._classes, kind)

    def _spread(self, dtype: str, kind: _Kind) -> Any:
        """Returns the same over all devices."""
        key = f"{dtype} on all devices", kind
        if key not in self._functions:
            step, strategy = self._step(kind), self._strategy

            def run(values: Any, *options: tf.Tensor) -> Any:
                return strategy.run(step, args=(values, *options))

            self._functions[key] = tf.function(run, reduce_retracing=True, autograph=False)
        return self._functions[key]

    def _logits(self, pixels: tf.Tensor) -> tf.Tensor:
        return self._forward(tf.cast(pixels, tf.float32))

    def _classes(self, kind: _Kind, pixels: tf.Tensor, at_once: tf.Tensor) -> tf.Tensor:
        logits = self._turned(kind, pixels)
        (found,) = self._search(kind)(logits, at_once)
        return tf.reshape(found, tf.shape(logits[0])[:3])

    def _classes_and_confidence(
        self, kind: _Kind, pixels: tf.Tensor, at_once: tf.Tensor, *doubt: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns planes `(2, B, H, W)`, places of unsure pixels `(N, 3)`, and their logits `(views, N, classes)`."""
        logits = self._turned(kind, pixels)
        *planes, unsure = (tf.reshape(x, tf.shape(logits[0])[:3]) for x in self._search(kind)(logits, at_once, *doubt))
        places = tf.where(unsure)
        return tf.stack(planes), places, tf.stack([tf.gather_nd(one, places) for one in logits])

    def _turned(self, kind: _Kind, pixels: tf.Tensor) -> list[tf.Tensor]:
        """Returns the logits of each view as float32, turned back."""
        pixels, views = tf.cast(pixels, tf.float32), kind.views or ()
        return [tf.cast(_turn_back(self._forward(_turn(pixels, view)), view), tf.float32) for view in views]


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
