from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError
from typing import NoReturn

import numpy as np
import pytest

from rsseg_tf.serving.batching import Arrays, Batcher
from rsseg_tf.serving.limits import BatchOptions
from rsseg_tf.serving.status import Code, RequestError


def doubled(inputs: Arrays) -> dict[str, np.ndarray]:
    return {"y": 2 * inputs["x"]}


def rows(*values: int) -> dict[str, np.ndarray]:
    return {"x": np.array(values)}


class Gate:
    """Holds runs up until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        self.entered.set()
        assert self.open.wait(30)
        return doubled(inputs)


def options(**values: int) -> BatchOptions:
    return BatchOptions(**{"num_batch_threads": 1, "batch_timeout_micros": 0, **values})


def test_requests_of_a_group_run_together_and_each_gets_its_share() -> None:
    sizes: list[int] = []
    batcher = Batcher(options(max_batch_size=8, batch_timeout_micros=200_000), sizes.append)
    answers = [batcher.submit("a", rows(*range(i + 1)), i + 1, doubled, 10) for i in range(3)]
    other = batcher.submit("b", rows(9), 1, doubled, 10)
    assert [answer.result(10)["y"].tolist() for answer in answers] == [[0], [0, 2], [0, 2, 4]]
    assert other.result(10)["y"].tolist() == [18]
    assert sorted(sizes) == [1, 6]
    batcher.close()


def test_a_full_batch_does_not_wait() -> None:
    batcher = Batcher(options(max_batch_size=2, batch_timeout_micros=60_000_000))
    began = time.monotonic()
    answers = [batcher.submit("a", rows(i), 1, doubled, 100) for i in range(2)]
    assert [answer.result(30)["y"].tolist() for answer in answers] == [[0], [2]]
    assert time.monotonic() - began < 30
    batcher.close()


def test_a_batch_is_never_larger_than_allowed() -> None:
    sizes: list[int] = []
    gate = Gate()
    batcher = Batcher(options(max_batch_size=4, max_enqueued_batches=20), sizes.append)
    first = batcher.submit("gate", rows(0), 1, gate, 10)
    gate.entered.wait(10)
    answers = [batcher.submit("a", rows(i, i), 2, doubled, 10) for i in range(9)]
    large = batcher.submit("a", rows(*range(7)), 7, doubled, 10)  # a single request may be larger: it is its own batch
    gate.open.set()
    assert [answer.result(10)["y"].tolist() for answer in answers] == [[2 * i, 2 * i] for i in range(9)]
    assert len(large.result(10)["y"]) == 7 and first.result(10)
    assert sorted(sizes) == [1, 2, 4, 4, 4, 4, 7]
    batcher.close()


def test_a_full_queue_refuses_and_recovers() -> None:
    gate = Gate()
    batcher = Batcher(options(max_batch_size=1, max_enqueued_batches=2))
    running = batcher.submit("a", rows(0), 1, gate, 10)
    gate.entered.wait(10)
    waiting = [batcher.submit("a", rows(i), 1, gate, 10) for i in range(2)]
    assert batcher.waiting == 2
    with pytest.raises(RequestError, match="the queue is full") as caught:
        batcher.submit("a", rows(0), 1, gate, 10)
    assert caught.value.status is Code.UNAVAILABLE
    gate.open.set()
    for answer in (running, *waiting):
        assert answer.result(10)
    assert batcher.submit("a", rows(5), 1, doubled, 10).result(10)["y"].tolist() == [10]
    batcher.close()


def test_whoever_gave_up_is_not_computed() -> None:
    gate, sizes = Gate(), list[int]()
    batcher = Batcher(options(max_batch_size=4), sizes.append)
    running = batcher.submit("gate", rows(0), 1, gate, 10)
    gate.entered.wait(10)
    cancelled = batcher.submit("a", rows(1), 1, doubled, 10)
    late = batcher.submit("a", rows(2), 1, doubled, 0.01)
    patient = batcher.submit("a", rows(3), 1, doubled, 10)
    assert cancelled.cancel()
    time.sleep(0.05)
    gate.open.set()
    assert patient.result(10)["y"].tolist() == [6]
    with pytest.raises(CancelledError):
        late.result(10)
    assert running.result(10) and sizes == [1, 1]
    batcher.close()


def test_one_bad_request_fails_alone() -> None:
    def picky(inputs: Arrays) -> dict[str, np.ndarray]:
        if (inputs["x"] == 13).any():
            raise RequestError(Code.INVALID_ARGUMENT, "thirteen")
        return doubled(inputs)

    batcher = Batcher(options(max_batch_size=4, batch_timeout_micros=200_000))
    answers = [batcher.submit("a", rows(value), 1, picky, 10) for value in (1, 13, 2)]
    assert [answers[0].result(10)["y"].tolist(), answers[2].result(10)["y"].tolist()] == [[2], [4]]
    with pytest.raises(RequestError, match="thirteen"):
        answers[1].result(10)
    batcher.close()


def test_outputs_that_do_not_count_images_are_an_error_and_the_thread_lives() -> None:
    batcher = Batcher(options(max_batch_size=2, batch_timeout_micros=200_000))
    answers = [batcher.submit("a", rows(i), 1, lambda inputs: {"y": np.zeros(3)}, 10) for i in range(2)]
    for answer in answers:
        with pytest.raises(RequestError, match="another number of images"):
            answer.result(10)

    def fails(inputs: Mapping[str, np.ndarray]) -> NoReturn:
        raise KeyError("x")

    broken = batcher.submit("b", rows(1), 1, fails, 10)
    with pytest.raises(KeyError):
        broken.result(10)
    assert batcher.submit("c", rows(1), 1, doubled, 10).result(10)
    batcher.close()


def test_closing_computes_what_waits_and_refuses_what_comes() -> None:
    batcher = Batcher(options(max_batch_size=8, batch_timeout_micros=60_000_000))
    answer = batcher.submit("a", rows(4), 1, doubled, 100)
    batcher.close()
    assert answer.result(0)["y"].tolist() == [8]
    with pytest.raises(RequestError, match="stopping"):
        batcher.submit("a", rows(4), 1, doubled, 100)


def test_large_requests_are_not_computed_together() -> None:
    sizes: list[int] = []
    batcher = Batcher(options(max_batch_size=8, batch_timeout_micros=200_000), sizes.append, most_pixels=100)
    answers = [batcher.submit("a", rows(i), 1, doubled, 10, pixels) for i, pixels in enumerate((60, 60, 40, 500))]
    assert [answer.result(10)["y"].tolist() for answer in answers] == [[0], [2], [4], [6]]
    assert sorted(sizes) == [1, 1, 2]
    batcher.close()


def test_no_error_ends_the_thread_that_computes() -> None:
    def interrupted(inputs: Arrays) -> dict[str, np.ndarray]:
        raise KeyboardInterrupt

    def observe(count: int) -> None:
        if count == 3:
            raise SystemExit

    batcher = Batcher(options(), observe)
    for values, run, error in ((rows(1), interrupted, KeyboardInterrupt), (rows(1, 2, 3), doubled, SystemExit)):
        with pytest.raises(error):
            batcher.submit("a", values, len(values["x"]), run, 10).result(10)
    assert batcher.is_alive
    assert batcher.submit("a", rows(4), 1, doubled, 10).result(10)["y"].tolist() == [8]
    batcher.close()
    assert not batcher.is_alive
