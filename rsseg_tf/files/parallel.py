"""Work in other threads and processes, with few items under way and a clean end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice, repeat
from types import ModuleType
from typing import Any, TypeVar

from rsseg_tf.errors import DataError

__all__ = ["ahead", "in_processes", "in_threads"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_starting = threading.Lock()


def in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, *, kept: str = ""
) -> Iterator[Result]:
    """Yields `work(item)` of all items, as they are ready.

    No more than two items for each process are under way, so that results do not pile up. With one process, or one
    item, all is done in this one, in order. When the consumer stops early, or is interrupted, what is under way is
    finished and the rest left.

    The processes do not run the program's own script again, so that it needs no `if __name__ == "__main__":`, unless
    what they work with is defined there.

    Args:
        work: A function of a module, or a `functools.partial` of one: other processes import it.
        items: What to work on.
        workers: Processes, at least 1.
        kept: Clause of the error about finished work, such as "finished scenes are kept".

    Raises:
        DataError: When a process was killed.
    """
    if min(workers, len(items)) <= 1:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")  # a forked copy of threads in OpenCV and GDAL would hang
    pool = ProcessPoolExecutor(min(workers, len(items)), mp_context=context, initializer=_start_worker)
    needs_script = _is_of_script((work, items[0]))
    start = contextlib.nullcontext if needs_script else _script_held_back
    try:
        waiting = iter(items)
        with _interrupts_held_back(), start():  # processes start here
            running: set[Future[Result]] = {pool.submit(work, item) for item in islice(waiting, 2 * workers)}
        while running:
            ready, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                with _interrupts_held_back(), start():
                    running |= {pool.submit(work, item) for item in islice(waiting, 1)}
                yield future.result()
    except BrokenProcessPool as error:
        if needs_script:
            raise DataError(
                "A worker process ended. Each runs the program's script again, because what it works with is defined "
                'there. Put all else of the script under `if __name__ == "__main__":`, move the definition to a '
                "module, or set workers to 1."
            ) from error
        raise DataError(
            "A worker process was killed, most likely for want of memory. Run the same command again with fewer "
            f"--workers (now {workers}){f'; {kept}' if kept else ''}."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int, *, under_way: int | None = None
) -> Iterator[Result]:
    """Yields `work(item)` of all items in their order.

    When the consumer stops early, what is under way is finished and the rest left.

    Args:
        work: What to do; it may be called from several threads at once.
        items: What to work on.
        workers: Threads, at least 1.
        under_way: Items that are worked on or wait for the consumer, at most; two for each thread if None.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        running: deque[Future[Result]] = deque()
        try:
            while True:
                free = (under_way or 2 * workers) - len(running)
                running.extend(pool.submit(work, item) for item in islice(waiting, free))
                if not running:
                    return
                yield running.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def ahead(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Yields the items in order while a thread already takes the next ones, so that two stages of work overlap.

    An error of `items` is raised here, in its turn.

    Args:
        items: What the thread iterates over.
        depth: Items that wait for the consumer, at most; at least 1.
    """
    # One thread calls `next` again and again, so the items stay in order; `end` stands for those after the last.
    source, end = iter(items), object()
    under_way = depth + 2  # one is used, one is taken
    taken = in_threads(lambda _: next(source, end), repeat(None), workers=1, under_way=under_way)
    with contextlib.closing(taken):  # type: ignore[type-var]  # a generator
        for item in taken:
            if item is end:
                return
            yield item  # type: ignore[misc]  # it is not `end`


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Keeps Ctrl-C from this thread for a moment, and for good from processes that it starts meanwhile.

    A process inherits what is held back; without that, one that is still importing would print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # not on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_of_script(value: Any) -> bool:
    """Whether a value cannot be sent to another process without what the program's script defines."""
    try:
        return b"__main__" in pickle.dumps(value)
    except Exception:  # it cannot be sent at all, which the pool tells
        return True


@contextlib.contextmanager
def _script_held_back() -> Iterator[None]:
    """Keeps processes that start meanwhile from running the program's script, as `spawn` has them do.

    A script without `if __name__ == "__main__":` would start all over in each of them.
    """
    with _starting:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = script


def _start_worker() -> None:
    """Readies a worker: one thread for OpenCV, Ctrl-C left to the parent, and an end when the parent is gone."""
    import cv2

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:  # a parent that was killed shuts no pool down

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
