"""Runs one stage of a pipeline ahead of the next, in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")

_POLL_S = 0.1


def ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Yields the items in order while a thread already takes the next ones, at most `depth` of them.

    An error of `items` is raised here, in its turn. When the generator is closed or fails, the thread stops after the
    item that it is at, and is waited for.

    Args:
        items: What the thread iterates over.
        depth: Items that may wait, at least 1.
    """
    waiting: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: T | None, error: BaseException | None) -> bool:
        while not stop.is_set():
            try:
                waiting.put((item, error), timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def take() -> None:
        try:
            for item in items:
                if not put(item, None):
                    return
        except BaseException as error:  # it is raised again by the thread that waits for the items
            put(None, error)
        else:
            put(None, StopIteration())

    thread = threading.Thread(target=take, name="rsseg-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]  # an item comes without an error
    finally:
        stop.set()
        thread.join()
