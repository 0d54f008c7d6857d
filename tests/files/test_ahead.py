from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from rsseg_tf.files.ahead import ahead


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rsseg-ahead"]


def test_items_come_in_order_and_none_that_are_none_are_lost() -> None:
    assert list(ahead([1, None, 2, *range(20)], 3)) == [1, None, 2, *range(20)]
    assert list(ahead([], 1)) == [] and threads() == []


def test_no_more_items_are_taken_than_may_wait() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    running = ahead(items(), 2)
    assert next(running) == 0
    until = time.monotonic() + 10
    while len(taken) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    assert taken == [0, 1, 2, 3], "one was given, two wait, and one waits for room"
    running.close()
    assert threads() == [], "the thread has ended with the generator"


def test_an_error_comes_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    running = ahead(items(), 5)
    assert next(running) == 1
    with pytest.raises(KeyboardInterrupt):
        next(running)
    assert threads() == []
