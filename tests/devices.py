"""Two virtual CPUs that stand in for two GPUs; `conftest` makes them."""

from __future__ import annotations

import functools

import tensorflow as tf


@functools.cache
def two_devices() -> tf.distribute.MirroredStrategy:
    """One strategy for the whole process: another one would begin to number its collectives anew, and TensorFlow
    remembers the shapes that belong to the numbers."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
