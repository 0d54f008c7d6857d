"""What becomes of the exceptions of libraries: one line with the cause, and the file that it is about."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from rsseg_tf.errors import DataError, NotFiniteError, ServingError, naming, reason


def raised(function: Callable[..., Any]) -> Exception:
    with pytest.raises(Exception) as caught:  # whatever it is
        function()
    return caught.value


@tf.function
def in_a_graph(x: tf.Tensor) -> tf.Tensor:
    return tf.debugging.check_numerics(tf.math.log(x), "logits are not finite")


def test_the_preamble_of_a_graph_is_left_out() -> None:
    error = raised(lambda: in_a_graph(tf.constant(-1.0)))
    assert "Graph execution error:" in str(error) and "Detected at node" in str(error)
    assert reason(error) == "InvalidArgumentError: logits are not finite : Tensor had NaN values"


def test_so_are_names_of_operations() -> None:
    assert reason(raised(lambda: tf.io.decode_image(b"abc"))).startswith(
        "InvalidArgumentError: Unknown image file format"
    )
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        node = tf.debugging.check_numerics(tf.math.log(tf.compat.v1.placeholder_with_default(-1.0, [])), "bad")
        error = raised(lambda: session.run(node))
    assert reason(error) == "InvalidArgumentError: bad : Tensor had NaN values"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 root error(s) found.\n  (0) INTERNAL: it is bad\n\t [[{{node a}}]]\n  (1) INTERNAL: it too", "it is bad"),
        ("Exception encountered when calling F():\n\n\x1b[1mtoo deep\x1b[0m\n\nArguments received by F:", "too deep"),
        ("In file included from a.h:\n  File not found", "In file included from a.h: File not found"),
        ("Node b fails\n\nOriginal stack trace for 'b':\n  File \"x.py\", line 1", "Node b fails"),
    ],
)  # fmt: skip
def test_other_forms(text: str, expected: str) -> None:
    assert reason(ValueError(text)) == f"ValueError: {expected}"


def test_the_file_is_named_once() -> None:
    with pytest.raises(DataError, match=r"^a\.tif cannot be used: TypeError: complex\. Repair it"), naming("a.tif"):
        raise TypeError("complex")
    with pytest.raises(ServingError, match=r"^a\.tif: busy$"), naming("a.tif"):
        raise ServingError("busy")
    with pytest.raises(DataError, match=r"^b\.png is cut$"), naming("a.tif", "b.png"):
        raise DataError("b.png is cut")
    with pytest.raises(KeyboardInterrupt), naming("a.tif"):
        raise KeyboardInterrupt


def test_an_error_with_an_index_can_be_sent_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(NotFiniteError("no number", 3)))
    assert str(error) == "no number" and error.index == 3
