"""The base of all methods: three phases of a step, and what each returns.

A step of training runs

    method.before_step(step)                     once: momentum encoders move, prototypes are normalised
    outcome = method.objective(batch, ...)       on each device: forward; the caller takes gradients and updates
    method.after_step(step, outcome.memory)      once: queues take in the keys of the whole batch

Variables that do not learn are assigned only before and after the devices' own code, so that all copies get the same
value. A method changes nothing else, so it runs on any Keras backend.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras

from rsseg_tf.errors import ConfigError

__all__ = ["BackboneBuilder", "Batch", "Devices", "Method", "OneDevice", "Outcome", "deepest"]

BackboneBuilder = Callable[[], keras.Model]
Batch = dict[str, Any]
"""`views` (B, 2, H, W, bands) and `affines` (B, 2, 2, 3), float32; with small views also `small_views` (B, N, h, w,
bands). An affine maps a view's coordinates (u, v, 1) to the image's (x, y), both 0..1 from the left and the top."""


@dataclass(frozen=True)
class Outcome:
    """What one device computed.

    Attributes:
        loss: Float32 scalar to minimise, the mean over the device's samples.
        values: Float32 scalars to log: parts of the loss, and monitors of collapse, `spread` at least (see
            `rsseg_tf.ssl.monitors`).
        memory: Tensors of the batch of all devices, for `Method.after_step`.
    """

    loss: Any
    values: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)


class Devices(Protocol):
    """Access to the rows of the other devices."""

    def gather(self, x: Any) -> Any:
        """Returns the rows of all devices one after the other; no gradient goes back."""

    def mine(self, x: Any) -> Any:
        """Returns this device's rows of what `gather` gave."""


class OneDevice:
    """A run on one device."""

    def gather(self, x: Any) -> Any:
        """Returns `x`."""
        return x

    def mine(self, x: Any) -> Any:
        """Returns `x`."""
        return x


class Method(keras.Model):
    """A self-supervised method with its networks and memories; all its weights go into a checkpoint.

    The backbone's weights have the paths that they have in a segmentor, so that `model.backbone.pretrained` finds
    them. Momentum encoders lie under `key/`.

    Attributes:
        backbone: What is trained for others to use.
        constant_rate_paths: Beginnings of the paths of weights whose learning rate does not decay.
    """

    backbone: keras.Model
    constant_rate_paths: tuple[str, ...] = ()

    def restart(self) -> None:
        """Makes momentum encoders equal to what they follow; for after the trained weights were replaced."""

    def before_step(self, step: Any) -> None:
        """Moves momentum encoders; called before the step's forward pass.

        Args:
            step: Int32 scalar, 0 for the first one.
        """
        return  # AutoGraph cannot read a function without a statement

    @abc.abstractmethod
    def objective(self, batch: Batch, *, step: Any, devices: Devices) -> Outcome:
        """Computes the loss of one device's share of the batch.

        Args:
            batch: See `Batch`.
            step: Int32 scalar, 0 for the first one.
            devices: Access to the rows of the other devices.
        """

    def after_step(self, step: Any, memory: dict[str, Any]) -> None:
        """Updates memories, such as queues, from the step's forward pass.

        Args:
            step: Int32 scalar, 0 for the first one.
            memory: `Outcome.memory`.
        """
        return


def deepest(backbone: keras.Model) -> Any:
    """Returns the deepest feature (B, h, w, C) of a backbone.

    Raises:
        ConfigError: When it has no features named "c2", "c3", ….
    """
    names = sorted(name for name in backbone.output if name.startswith("c"))
    if not names:
        raise ConfigError(f"Pre-training needs features named c2 to c5; backbone '{backbone.name}' has none of them.")
    return backbone.output[names[-1]]
