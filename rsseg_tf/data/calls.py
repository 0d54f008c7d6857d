"""Python functions inside a dataset of TensorFlow, and how they end with the interpreter.

An iterator prepares elements ahead, in threads of TensorFlow. Where a script ends while one is alive, as a global or in
the frames of an error, Python takes its lock for good before it frees the iterator: a thread that then calls Python
never returns, and the process hangs or aborts. So no call may begin or be under way at that time.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["call_python"]

_QUIET_S = 0.05  # without a new call: buffers are full then, for TensorFlow begins the next one at once
_LONGEST_S = 10.0  # a thread that still takes elements must not keep the process alive


def call_python(
    function: Callable[..., Sequence[Any]], inputs: Sequence[tf.Tensor], types: Sequence[tf.DType]
) -> list[tf.Tensor]:
    """Returns what a function of NumPy arrays makes of an element's tensors.

    Args:
        function: Takes one array for each input, and returns a sequence of arrays. It must be a function of these
            alone, which TensorFlow may call again or not at all.
        inputs: Tensors of the element.
        types: Of what the function returns.

    Returns:
        One tensor of unknown shape for each type. Once the interpreter ends, when nobody asks for them any more, they
        are zeros.
    """
    return list(tf.numpy_function(_Call(function), inputs, types, stateful=False))


class _Exit:
    """Counts the calls under way, and waits for them when the interpreter ends."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.under_way = 0
        self.was_called = False
        self.has_begun = False

    def wait(self) -> None:
        """Returns when no call is under way, and none has begun for a while."""
        end = time.monotonic() + _LONGEST_S
        with self.changed:
            self.has_begun = True
            while self.was_called and (self.under_way or self.changed.wait(_QUIET_S)) and time.monotonic() < end:
                self.changed.wait_for(lambda: not self.under_way, _LONGEST_S)


_EXIT = _Exit()
atexit.register(_EXIT.wait)


class _Call:
    """A function that is not called any more once the interpreter ends."""

    def __init__(self, function: Callable[..., Sequence[Any]]) -> None:
        self._function = function
        self._forms: list[tuple[tuple[int, ...], np.dtype]] = []  # shapes and types of what it returned last

    def __call__(self, *arguments: Any) -> Sequence[Any]:
        with _EXIT.changed:
            _EXIT.under_way += 1
            _EXIT.was_called = True
            _EXIT.changed.notify_all()
        try:
            if _EXIT.has_begun and self._forms:
                return [np.zeros(shape, dtype) for shape, dtype in self._forms]
            results = self._function(*arguments)
            self._forms = [(np.shape(result), np.asarray(result).dtype) for result in results]
            return results
        finally:
            with _EXIT.changed:
                _EXIT.under_way -= 1
                _EXIT.changed.notify_all()
