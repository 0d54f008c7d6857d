from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from rsseg_tf.errors import DataError
from rsseg_tf.files.parallel import ahead, in_processes, in_threads


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


SCRIPT = """
import os
from rsseg_tf.files.parallel import in_processes
print("begins", flush=True)
{definition}
print(sorted(in_processes({work}, [-1, 2], 2)), __import__("sys").modules["__main__"].__file__ == __file__)
"""


def run_script(path: Path, **parts: str) -> subprocess.CompletedProcess[str]:
    path.write_text(SCRIPT.format(**parts))
    root = Path(__file__).resolve().parents[2]
    environ = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=environ, timeout=60)


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    result = run_script(tmp_path / "script.py", definition="", work="abs")
    assert (result.stdout, result.stderr) == ("begins\n[1, 2] True\n", "")


def test_a_script_whose_function_works_is_told_to_have_a_guard(tmp_path: Path) -> None:
    result = run_script(tmp_path / "script.py", definition="def double(x): return 2 * x", work="double")
    assert result.returncode == 1
    assert 'Put all else of the script under `if __name__ == "__main__":`' in result.stderr


def test_no_more_than_needed_is_under_way(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(50)]
    results = in_processes(touch, paths, 2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(list(tmp_path.iterdir())) < 12, "the rest is left when the consumer stops"


class Squares:
    """Squares numbers; earlier ones take longer, so that they arrive last."""

    def __init__(self, *, wrong: int | None = None, seconds: float = 0.01) -> None:
        self.wrong, self.seconds = wrong, seconds
        self.started: list[int] = []
        self.running = self.most = 0
        self.guard = threading.Lock()

    def __call__(self, number: int) -> int:
        with self.guard:
            self.started.append(number)
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(self.seconds * (4 - number % 4))
        with self.guard:
            self.running -= 1
        return fails(number) if number == self.wrong else number * number


@pytest.mark.parametrize("count", [0, 1, 3, 4, 13])
def test_results_of_threads_come_in_order(count: int) -> None:
    work = Squares()
    assert list(in_threads(work, range(count), 4)) == [number * number for number in range(count)]
    assert sorted(work.started) == list(range(count)), "each is worked on once"


def test_threads_work_side_by_side_while_a_result_is_used_and_on_no_more_than_that() -> None:
    work = Squares(seconds=0.0)
    results = in_threads(work, range(100), 3, under_way=4)
    assert work.started == []
    next(results)
    deadline = time.monotonic() + 30
    while len(work.started) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert sorted(work.started) == [0, 1, 2, 3]
    results.close()  # type: ignore[attr-defined]  # a generator
    slow = Squares()
    list(in_threads(slow, range(12), 4))
    assert 2 <= slow.most <= 4


def test_an_error_of_a_thread_comes_at_its_place() -> None:
    results = in_threads(Squares(wrong=3), range(9), 4)
    assert list(islice(results, 3)) == [0, 1, 4]
    with pytest.raises(DataError, match="number 3"):
        next(results)


class Stream:
    """Yields numbers and counts them; ends with an error where it should."""

    def __init__(self, count: int, *, wrong: int | None = None) -> None:
        self.count, self.wrong, self.taken, self.threads = count, wrong, 0, set[int]()

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.threads.add(threading.get_ident())
            if number == self.wrong:
                raise KeyboardInterrupt
            self.taken += 1
            yield number


def test_another_thread_takes_the_next_items() -> None:
    stream = Stream(100)
    items = ahead(stream, 2)
    assert next(items) == 0
    deadline = time.monotonic() + 30
    while stream.taken < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert stream.taken == 4 and threading.get_ident() not in stream.threads, "one is used, two wait, one is taken"
    assert list(items) == list(range(1, 100)) and len(stream.threads) == 1


def test_items_that_are_none_are_not_lost() -> None:
    assert list(ahead([1, None, 2, *range(20)], 3)) == [1, None, 2, *range(20)]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_short_stream_ends(count: int) -> None:
    assert list(ahead(ahead(Stream(count), 3), 3)) == list(range(count))


def test_an_error_of_a_stream_comes_in_its_turn_whatever_it_is() -> None:
    items = ahead(ahead(Stream(9, wrong=4), 3), 3)
    assert list(islice(items, 4)) == [0, 1, 2, 3]
    with pytest.raises(KeyboardInterrupt):
        next(items)
    assert list(items) == []


def test_a_stream_that_is_closed_is_taken_from_no_more() -> None:
    stream = Stream(1000)
    items = ahead(stream, 1)
    next(items)
    items.close()
    taken, alive = stream.taken, {thread.ident for thread in threading.enumerate()}
    assert not stream.threads & alive and taken <= 4
