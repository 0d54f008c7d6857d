"""The losses as objects for Keras's `compile` and `fit`: `(y_true, y_pred)`, written into and read from model files.

    model.compile("adam", loss={"main": CrossEntropyLoss(), "aux": DiceLoss()}, loss_weights={"main": 1.0, "aux": 0.4})

Their numbers are those of the functions, which the training loop uses. Over several devices of a
`tf.distribute.Strategy` they are normalised by the labelled pixels of the whole batch, as in the loop.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import keras
from keras import ops

from rsseg_tf.errors import ConfigError
from rsseg_tf.losses.cross_entropy import cross_entropy
from rsseg_tf.losses.dice import dice
from rsseg_tf.losses.focal import focal
from rsseg_tf.losses.lovasz import lovasz_softmax
from rsseg_tf.losses.ohem import ohem_cross_entropy
from rsseg_tf.losses.pixel_contrast import pixel_contrast
from rsseg_tf.plugins import import_plugin
from rsseg_tf.segmentors.c2fnet import window_labels

__all__ = [
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "FunctionLoss",
    "KerasLoss",
    "LovaszSoftmaxLoss",
    "MixedLoss",
    "OhemCrossEntropyLoss",
    "PixelContrastLoss",
    "WindowLoss",
]

_registered = keras.saving.register_keras_serializable(package="rsseg_tf")


class KerasLoss(keras.losses.Loss):
    """Base of these objects: a function of what a head gives and of labels.

    A loss is one number for a batch, normalised by the pixels that count. Those that are a mean over pixels (cross
    entropy, OHEM, focal, and mixtures of them) take a `sample_weight`, of images or of pixels. The mean is then a
    weighted one: a pixel of weight 2 counts as two, one of weight 0 as ignored, and equal weights change nothing. All
    others take none: weigh classes by `class_weights`, and leave pixels out by `ignore_index`.
    """

    def __init__(self, function: Callable[..., Any], name: str, **options: Any) -> None:
        """Keeps the function.

        Args:
            function: Takes a head's output, labels (B, H, W) and `mean`, as those of `rsseg_tf.losses` do.
            name: Name in logs.
            **options: Its other arguments, which `get_config` returns.
        """
        super().__init__(name=name, dtype="float32")
        self._function, self._options = function, options

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Returns the loss of a batch, a float32 scalar.

        Args:
            y_true: Labels (B, H, W) or (B, H, W, 1), class ids or `ignore_index`; any number type.
            y_pred: What the head gives: logits (B, H, W, C), or a dict of tensors for heads that have several; the
                labels may then be a dict of the same labels under the same keys.
            sample_weight: Weights of images (B,) or (B, 1), or of pixels (B, H, W) or (B, H, W, 1), at least 0; None
                for 1 everywhere.

        Raises:
            ConfigError: For a `sample_weight` of another shape, or of a loss that is no mean over pixels.
        """
        if sample_weight is None:
            return super().__call__(y_true, y_pred)
        if not self.weighs_pixels:
            raise ConfigError(
                f"The loss '{self.name}' takes no sample_weight: it is no mean over pixels. Weigh classes by "
                "class_weights of the loss, and leave pixels out by ignore_index."
            )
        return super().__call__(_Weighted(y_true, sample_weight), y_pred)

    @property
    def weighs_pixels(self) -> bool:
        """Whether it takes a `sample_weight`: its function has an argument `pixel_weights`."""
        return "pixel_weights" in inspect.signature(self._function).parameters

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of a batch, (1,) float32; see `__call__`."""
        # Keras divides by the number of devices what has elements to average over, and a scalar has none for it.
        return ops.reshape(self.value(y_true, y_pred), (1,))

    def value(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of a batch, a float32 scalar; see `__call__`."""
        given = dict(self._options)
        if isinstance(y_true, _Weighted):
            y_true, sample_weight = y_true
            given["pixel_weights"] = _pixel_weights(sample_weight, _labels(y_true))
        return self._function(y_pred, _labels(y_true), mean=mean_over_devices, **given)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"name": self.name, **self._options}


class _Weighted(NamedTuple):
    """Labels and weights on their way through Keras's loss, which turns both into tensors."""

    y_true: Any
    sample_weight: Any


def _pixel_weights(sample_weight: Any, labels: Any) -> Any:
    """Returns weights (B, H, W) float32 of weights as Keras takes them.

    Raises:
        ConfigError: For weights that are neither those of images nor of pixels.
    """
    weights = ops.cast(sample_weight, "float32")
    # TensorFlow knows no rank after a `fit` with weights of images and one with weights of pixels.
    if getattr(weights.shape, "rank", 1) is None:
        batch, *sides = ops.shape(labels)
        of_images = ops.equal(ops.size(weights), batch)
        weights = ops.reshape(weights, (batch, *(ops.where(of_images, 1, side) for side in sides)))
    elif weights.shape[3:] == (1,):
        weights = ops.squeeze(weights, axis=-1)
    elif len(weights.shape) == 1 or weights.shape[1:] == (1,):
        weights = ops.reshape(weights, (-1, 1, 1))
    elif len(weights.shape) != 3:
        raise ConfigError(
            f"A sample_weight has the shape (B,) for images or (B, H, W) for pixels; got {tuple(weights.shape)} for "
            f"labels {tuple(labels.shape)}."
        )
    return weights * ops.ones_like(labels, dtype="float32")


def _labels(y_true: Any) -> Any:
    """Returns labels (B, H, W) int32 of what Keras gives: a tensor, or the same one at each leaf of a structure."""
    while isinstance(y_true, Mapping):
        y_true = next(iter(y_true.values()))
    labels = ops.cast(y_true, "int32")
    return ops.squeeze(labels, axis=-1) if len(labels.shape) == 4 else labels


def mean_over_devices(values: Any) -> Any:
    """Returns the mean of `values` over all elements of all devices of TensorFlow's strategy, a scalar.

    On other backends, and outside of a strategy, it is the mean of the values.
    """
    mean = ops.mean(values)
    if keras.config.backend() != "tensorflow":
        return mean
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return mean
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, mean)


@_registered
class CrossEntropyLoss(KerasLoss):
    """Cross entropy of the pixels that have a label; see `rsseg_tf.losses.cross_entropy`."""

    def __init__(
        self,
        *,
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
        name: str = "cross_entropy",
    ) -> None:
        """Prepares the loss.

        Args:
            ignore_index: Label of pixels that do not count.
            class_weights: A weight for each class, or None for 1 everywhere.
            name: Name in logs.
        """
        super().__init__(cross_entropy, name, ignore_index=ignore_index, class_weights=_as_list(class_weights))


@_registered
class OhemCrossEntropyLoss(KerasLoss):
    """Cross entropy of the hard pixels; see `rsseg_tf.losses.ohem_cross_entropy`."""

    def __init__(
        self,
        *,
        ignore_index: int = 255,
        threshold: float = 0.7,
        min_kept: int = 10000,
        name: str = "ohem_cross_entropy",
    ) -> None:
        """Prepares the loss.

        Args:
            ignore_index: Label of pixels that do not count.
            threshold: Probability of the true class below which a pixel is hard, in (0, 1).
            min_kept: Pixels of the batch that are kept at least.
            name: Name in logs.
        """
        super().__init__(
            ohem_cross_entropy, name, ignore_index=ignore_index, threshold=threshold, min_kept=min_kept
        )  # fmt: skip


@_registered
class DiceLoss(KerasLoss):
    """Soft Dice loss; see `rsseg_tf.losses.dice`."""

    def __init__(
        self,
        *,
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
        smooth: float = 1.0,
        name: str = "dice",
    ) -> None:
        """Prepares the loss.

        Args:
            ignore_index: Label of pixels that do not count.
            class_weights: A factor for each class's loss, or None for 1 everywhere.
            smooth: Added above and below the fraction.
            name: Name in logs.
        """
        weights = _as_list(class_weights)
        super().__init__(dice, name, ignore_index=ignore_index, class_weights=weights, smooth=smooth)


@_registered
class FocalLoss(KerasLoss):
    """Focal loss; see `rsseg_tf.losses.focal`."""

    def __init__(self, *, ignore_index: int = 255, alpha: float = 1.0, gamma: float = 2.0, name: str = "focal") -> None:
        """Prepares the loss.

        Args:
            ignore_index: Label of pixels that do not count.
            alpha: Factor of the loss.
            gamma: How much less easy pixels count; 0 is the cross entropy.
            name: Name in logs.
        """
        super().__init__(focal, name, ignore_index=ignore_index, alpha=alpha, gamma=gamma)


@_registered
class LovaszSoftmaxLoss(KerasLoss):
    """Lovász-softmax; see `rsseg_tf.losses.lovasz_softmax`."""

    def __init__(self, *, ignore_index: int = 255, name: str = "lovasz_softmax") -> None:
        """Prepares the loss.

        Args:
            ignore_index: Label of pixels that do not count.
            name: Name in logs.
        """
        super().__init__(lovasz_softmax, name, ignore_index=ignore_index)


@_registered
class PixelContrastLoss(KerasLoss):
    """Contrast of embeddings between classes; see `rsseg_tf.losses.pixel_contrast`."""

    def __init__(
        self,
        *,
        ignore_index: int = 255,
        temperature: float = 0.1,
        base_temperature: float = 0.07,
        max_samples: int = 1024,
        max_views: int = 100,
        seed: int | None = None,
        name: str = "pixel_contrast",
    ) -> None:
        """Prepares the loss.

        Args:
            ignore_index: Label of pixels that do not count.
            temperature: Divides the similarities.
            base_temperature: The loss is scaled by temperature / base_temperature.
            max_samples: Pixels of the batch at most.
            max_views: Pixels of a class in an image at most.
            seed: Determines the choice of pixels. None takes the sum of the batch's labels, so that the choice changes
                from batch to batch and one batch always has the same; the training loop takes the step's number.
            name: Name in logs.
        """
        options = {
            "ignore_index": ignore_index, "temperature": temperature, "base_temperature": base_temperature,
            "max_samples": max_samples, "max_views": max_views, "seed": seed,
        }  # fmt: skip
        super().__init__(_pixel_contrast, name, **options)


def _pixel_contrast(outputs: Any, labels: Any, *, seed: int | None, **options: Any) -> Any:
    return pixel_contrast(outputs, labels, seed=ops.sum(labels) if seed is None else seed, **options)


@_registered
class MixedLoss(KerasLoss):
    """A weighted sum of losses of the same head."""

    def __init__(
        self, losses: Sequence[KerasLoss], weights: Sequence[float] | None = None, *, name: str = "mixed"
    ) -> None:
        """Prepares the sum.

        Args:
            losses: Losses of this module.
            weights: A factor for each, or None for 1 everywhere.
            name: Name in logs.

        Raises:
            ConfigError: If there is no loss, or not one weight for each.
        """
        factors = [1.0] * len(losses) if weights is None else [float(weight) for weight in weights]
        if not losses or len(factors) != len(losses):
            raise ConfigError(
                f"A mixed loss needs at least one loss and one weight for each; got {len(losses)} losses and "
                f"{len(factors)} weights."
            )
        self.losses, self.weights = tuple(losses), tuple(factors)
        super().__init__(self._sum, name)

    @property
    def weighs_pixels(self) -> bool:
        """Whether all of its losses take a `sample_weight`."""
        return all(loss.weighs_pixels for loss in self.losses)

    def _sum(self, output: Any, labels: Any, *, mean: Callable[[Any], Any], pixel_weights: Any = None) -> Any:
        y_true = labels if pixel_weights is None else _Weighted(labels, pixel_weights)
        return sum(weight * loss.value(y_true, output) for loss, weight in zip(self.losses, self.weights, strict=True))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        losses = [keras.saving.serialize_keras_object(loss) for loss in self.losses]
        return {"name": self.name, "losses": losses, "weights": list(self.weights)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Returns the loss of a `get_config`."""
        losses = [keras.saving.deserialize_keras_object(loss) for loss in config["losses"]]
        return cls(**{**config, "losses": losses})


@_registered
class FunctionLoss(KerasLoss):
    """A loss by the place of its function: one of your own, or one of this package without a class."""

    def __init__(
        self,
        builder: str,
        *,
        ignore_index: int = 255,
        options: Mapping[str, Any] | None = None,
        name: str = "custom",
    ) -> None:
        """Finds the function.

        Args:
            builder: `module:function`, a function of (output, labels, *, ignore_index), and of `mean` and `seed` if it
                needs them; the seed is the sum of the labels. Modules other than this package's must be allowed by
                RSSEG_TF_PLUGINS, see `rsseg_tf.plugins`: a model file alone never makes this package import a module.
            ignore_index: Label of pixels that do not count.
            options: The function's other keyword arguments.
            name: Name in logs.

        Raises:
            ConfigError: When the module is not allowed or cannot be imported, or has no such function.
        """
        module, _, function = builder.partition(":")
        if module.startswith("rsseg_tf.losses."):
            found = getattr(importlib.import_module(module), function)
        else:
            found = import_plugin(builder, "builder")
        parameters = inspect.signature(found).parameters.values()
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        self._wanted = ("mean", "seed") if takes_all else tuple(parameter.name for parameter in parameters)
        self.builder, self.options, self._found = builder, dict(options or {}), found
        super().__init__(self._call_found, name, ignore_index=ignore_index, **self.options)

    @property
    def weighs_pixels(self) -> bool:
        """Whether the function has an argument `pixel_weights`, (B, H, W) float32."""
        return "pixel_weights" in inspect.signature(self._found).parameters

    def _call_found(self, output: Any, labels: Any, *, mean: Callable[[Any], Any], **options: Any) -> Any:
        offered = {"mean": mean, "seed": ops.sum(labels)}
        given = {name: value for name, value in offered.items() if name in self._wanted}
        return self._found(output, labels, **given, **options)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        ignore_index = self._options["ignore_index"]
        return {"name": self.name, "builder": self.builder, "ignore_index": ignore_index, "options": self.options}


@_registered
class WindowLoss(KerasLoss):
    """The loss of c2fnet's fine head, whose labels are cut out of those of the images."""

    def __init__(
        self,
        loss: KerasLoss,
        *,
        window_size: int,
        small_classes: Sequence[int],
        ignore_index: int = 255,
        name: str = "windows",
    ) -> None:
        """Prepares the loss.

        Args:
            loss: What the fine model's logits (N, S, S, 2) are measured by.
            window_size: Side S of a window, as the model has it.
            small_classes: Ids of the classes that the fine model tells from the others.
            ignore_index: Label of pixels that do not count.
            name: Name in logs.
        """
        self.loss = loss
        options = {"window_size": window_size, "small_classes": list(small_classes), "ignore_index": ignore_index}
        super().__init__(self._of_windows, name, **options)

    def _of_windows(self, output: Any, labels: Any, *, mean: Callable[[Any], Any], **options: Any) -> Any:
        # Keras turns all that a model gives into float32 for a loss.
        windows = ops.cast(output["windows"], "int32")
        return self.loss.value(window_labels(labels, windows, **options), output["logits"])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Returns the loss of a `get_config`."""
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


def _as_list(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]
