from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rsseg_tf.errors import DataError
from rsseg_tf.files.processes import in_processes, in_threads


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def fails(number: int) -> int:
    if number == 3:
        raise DataError("number 3")
    return number


def kill_on_3(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def touch(path: Path) -> Path:
    path.touch()
    return path


def test_all_items_come_back() -> None:
    results = list(in_processes(square, range(20), 2))
    assert sorted(result for result, _ in results) == [number * number for number in range(20)]
    assert os.getpid() not in {process for _, process in results}


@pytest.mark.parametrize(("items", "workers"), [(range(5), 1), (range(1), 4), ((), 2)])
def test_little_work_is_done_in_this_process_in_order(items: range, workers: int) -> None:
    assert list(in_processes(square, items, workers)) == [(number * number, os.getpid()) for number in items]


def test_an_error_comes_through() -> None:
    with pytest.raises(DataError, match="number 3"):
        list(in_processes(fails, range(6), 2))


def test_a_killed_process_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"was killed.*fewer --workers \(now 2\); all else is kept\.$"):
        list(in_processes(kill_on_3, range(6), 2, kept="all else is kept"))


def test_no_more_than_needed_is_under_way(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(50)]
    results = in_processes(touch, paths, 2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(list(tmp_path.iterdir())) < 12, "the rest is left when the consumer stops"


def test_threads_give_all_results_in_order() -> None:
    assert list(in_threads(lambda number: number * number, range(20), 3)) == [number * number for number in range(20)]
    assert list(in_threads(fails, [], 2)) == []


def test_threads_stop_at_an_error_or_when_the_consumer_stops(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="number 3"):
        list(in_threads(fails, range(100), 2))
    results = in_threads(touch, (tmp_path / str(number) for number in range(50)), 2)
    assert next(results) == tmp_path / "0"
    results.close()  # type: ignore[attr-defined]
    assert len(list(tmp_path.iterdir())) < 12, "the rest is left"
