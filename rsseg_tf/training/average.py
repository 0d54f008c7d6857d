"""A moving average of the weights that are trained."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from rsseg_tf.ssl.momentum import Follower

__all__ = ["WeightAverage"]


class WeightAverage:
    """A second model of the same build, whose weights are a moving average of the trained ones.

        average = average + (1 - d) * (weight - average),    d = min(decay, (1 + n) / (10 + n))

    n is the number of the step, 1 for the first one. So the average of a short run does not hold on to the weights that
    it began with (the same rule as in `tf.train.ExponentialMovingAverage`). The running statistics of normalisations
    are averaged too, as PaddleSeg's `--use_ema` and timm's `ModelEma` do: they then belong to averaged weights.
    (torch's `AveragedModel` copies them by default, and recommends to compute them anew.)

    Attributes:
        model: The second model; it is what a run evaluates and keeps as its best.
    """

    def __init__(self, trained: keras.Model, model: keras.Model, decay: float) -> None:
        """Makes the weights of `model` equal to those of `trained`.

        Args:
            trained: What the optimizer changes.
            model: Another one of the same build, on the same devices.
            decay: Share of the average that is kept in a step, above 0 and below 1.
        """
        self.model, self.decay = model, decay
        self._pairs = Follower(trained, model, statistics=True).pairs

    def move(self, steps: Any, strategy: tf.distribute.Strategy) -> None:
        """Takes in the weights after a step; call it outside of `strategy.run`.

        Args:
            steps: Steps taken so far, integer scalar, 1 after the first one.
            strategy: The devices; each averages its own copies.
        """
        # One minus the decay, without the difference of near numbers.
        rate = tf.maximum(1.0 - self.decay, 9.0 / (10.0 + tf.cast(steps, tf.float32)))

        def update(average: tf.Variable, weight: tf.Tensor) -> None:
            average.assign(average + tf.cast(rate, average.dtype) * (weight - average))

        for source, own in self._pairs:
            strategy.extended.update(own.value, update, args=(source.value,), group=False)
