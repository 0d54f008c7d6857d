"""Constants that all parts of a graph share."""

from __future__ import annotations

from typing import Any

__all__ = ["shared_constant"]

_ATTRIBUTE = "_rsseg_tf_constants"


def shared_constant(value: float | tuple[float, ...], dtype: Any = "float32") -> Any:
    """Returns a constant of TensorFlow, in a graph the same one to all who ask for the same.

    TensorFlow makes an operation of each number that meets a tensor. In the graph of a training step of hundreds of
    layers these are thousands, all alike, of some kilobytes each.

    Args:
        value: A number, or those of a vector.
        dtype: Its type.
    """
    import tensorflow as tf

    if tf.executing_eagerly():
        return tf.constant(value, dtype)
    graph = tf.compat.v1.get_default_graph()
    constants: dict[Any, Any] | None = getattr(graph, _ATTRIBUTE, None)
    if constants is None:
        constants = {}
        # On the graph itself: they hold it, so that in any other place they would keep it alive.
        setattr(graph, _ATTRIBUTE, constants)
    key = value, tf.as_dtype(dtype)
    if key not in constants:
        with graph.control_dependencies(None):  # what the first who asks waits for is nothing to the others
            constants[key] = tf.constant(value, dtype)
    return constants[key]
