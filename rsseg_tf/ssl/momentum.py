"""Networks that follow a trained one by a moving average."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from rsseg_tf.ssl.method import BackboneBuilder

__all__ = ["SCOPE", "Follower", "cosine_rate", "follow"]

SCOPE = "key"
"""Beginning of the paths of a follower's weights."""


def cosine_rate(step: Any, steps: int, start: float) -> Any:
    """Returns one minus the momentum, which rises from `start` to 1 along half a cosine wave.

        m = 1 - (1 - start) * (cos(pi * step / steps) + 1) / 2

    The function returns 1 - m, the share of the trained weights, because m itself is rounded near 1.

    Args:
        step: Integer scalar, 0 for the first one.
        steps: Number of steps of the run.
        start: Momentum of the first step.
    """
    # (cos(pi - x) + 1) / 2, without the difference of near values at the end of a run.
    left = ops.cast(steps - step, "float32") / float(steps)
    return (1.0 - start) * ops.square(ops.sin(0.5 * math.pi * left))


class Follower:
    """Moves a network's weights towards those of another one of the same build.

    The network takes no gradients: its weights are not trainable. Its layers are, so that batch normalisation takes
    the statistics of its own batch where the network is called with `training=True`.
    """

    def __init__(self, leader: keras.Model, network: keras.Model, *, statistics: bool = False) -> None:
        """Pairs the weights and makes them equal.

        Args:
            leader: The network to follow; its weights without a counterpart are not followed.
            network: The one that follows, built under `keras.name_scope(SCOPE)`.
            statistics: Whether running means and variances follow too, or are the network's own.
        """
        leaders = {variable.path: variable for variable in leader.weights}
        learns = {variable.path for variable in leader.trainable_variables}
        pairs = [(leaders[own.path.removeprefix(f"{SCOPE}/")], own) for own in network.weights]
        for _, own in pairs:
            own.trainable = False
        self.all_pairs = pairs
        self.pairs = [(source, own) for source, own in pairs if statistics or source.path in learns]
        self.catch_up()

    def catch_up(self) -> None:
        """Makes all weights equal, statistics included."""
        for source, own in self.all_pairs:
            own.assign(source.value)

    def move(self, rate: Any) -> None:
        """Moves every weight by `rate` (a scalar; one minus the momentum) of the distance."""
        for source, own in self.pairs:
            own.assign(own.value + ops.cast(rate, own.dtype) * (source.value - own.value))


def follow(leader: keras.Model, build: BackboneBuilder, *, statistics: bool = False) -> tuple[keras.Model, Follower]:
    """Builds a network of the same kind as `leader`, with equal weights, and its follower.

    Args:
        leader: The network to follow.
        build: Builds another one.
        statistics: As in `Follower`.
    """
    with keras.name_scope(SCOPE):
        network = build()
    return network, Follower(leader, network, statistics=statistics)
