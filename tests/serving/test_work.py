from __future__ import annotations

import pytest

from rsseg_tf.serving.limits import Work
from rsseg_tf.serving.status import Code, RequestError


def test_the_sum_of_what_is_in_work_is_bounded_and_one_request_alone_is_taken() -> None:
    work = Work(100)
    work.take(60)
    work.take(40)
    with pytest.raises(RequestError, match="have 100 pixels, and with this one's 1 there would be more than 100") as it:
        work.take(1)
    assert it.value.status is Code.OUT_OF_MEMORY
    work.give_back(60)
    work.take(1)
    work.give_back(40)
    work.give_back(1)
    work.take(500)
    with pytest.raises(RequestError):
        work.take(1)


def test_memory_is_given_back_once_much_is_done_and_nothing_is_left() -> None:
    trims: list[int] = []
    work = Work(10_000_000, lambda: trims.append(1))
    work.take(800_000)
    work.give_back(800_000)
    assert not trims
    work.take(300_000)
    work.take(5)
    work.give_back(300_000)
    assert not trims
    work.give_back(5)
    assert trims == [1]
    work.take(5)
    work.give_back(5)
    assert trims == [1]
