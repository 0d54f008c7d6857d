"""Dynamic batching: requests that come at the same time are computed together.

The rules are those of TensorFlow Serving's batching: requests with equal sizes wait together until their batch is full
or its first member has waited for `batch_timeout_micros`; a queue that is full refuses. One thing is better here: where
a batch fails because of one member, the others are computed without it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.serving.limits import BatchOptions
from rsseg_tf.serving.status import Code, RequestError

__all__ = ["Batcher"]

Arrays = Mapping[str, NDArray]
Run = Callable[[Arrays], dict[str, NDArray]]


@dataclass
class _Waiting:
    """A request in the queue."""

    inputs: Arrays
    rows: int
    pixels: int
    run: Run
    deadline: float
    since: float = field(default_factory=time.monotonic)
    answer: Future[dict[str, NDArray]] = field(default_factory=Future)

    @property
    def is_wanted(self) -> bool:
        """Marks the request as running and returns True, unless its sender gave up."""
        if time.monotonic() > self.deadline:
            self.answer.cancel()
        return self.answer.set_running_or_notify_cancel()


class Batcher:
    """Runs requests in threads, those of one group together.

    Args:
        options: Sizes and times.
        observe: Called with the number of images of each run.
        most_pixels: Most pixels of requests that are computed together; one that has more is computed alone.
    """

    def __init__(
        self,
        options: BatchOptions,
        observe: Callable[[int], None] = lambda rows: None,
        most_pixels: float = math.inf,
    ) -> None:
        self.options = options
        self._most_pixels = most_pixels
        self._observe = observe
        self._groups: OrderedDict[Hashable, deque[_Waiting]] = OrderedDict()
        self._rows = 0
        self._running = True
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{i}", daemon=True)
            for i in range(options.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Number of images in the queue."""
        return self._rows

    @property
    def is_alive(self) -> bool:
        """Whether every thread that computes is there."""
        return all(thread.is_alive() for thread in self._threads)

    def submit(
        self, group: Hashable, inputs: Arrays, rows: int, run: Run, timeout_s: float, pixels: int = 0
    ) -> Future[dict[str, NDArray]]:
        """Queues a request.

        Args:
            group: Requests of equal groups may be computed together; their `run` must do the same.
            inputs: Arrays whose first axis counts images.
            rows: The number of images.
            run: Computes outputs for inputs of any number of images.
            timeout_s: A request that waited longer is dropped.
            pixels: Sum over all images.

        Returns:
            The outputs to come; cancelled when the request was dropped.

        Raises:
            RequestError: When the queue is full, or the server is stopping.
        """
        waiting = _Waiting(inputs, rows, pixels, run, time.monotonic() + timeout_s)
        with self._changed:
            if not self._running:
                raise RequestError(Code.UNAVAILABLE, "the server is stopping")
            most = self.options.max_enqueued_batches * self.options.max_batch_size
            # A request larger than the queue is taken while that is empty; else it could never be answered.
            if self._rows and self._rows + rows > most:
                raise RequestError(
                    Code.UNAVAILABLE,
                    f"the queue is full: {self._rows} images wait, at most {most} may. Try again later",
                )
            self._groups.setdefault(group, deque()).append(waiting)
            self._rows += rows
            self._changed.notify()  # one thread is enough: it takes the batch or waits until it is due
        return waiting.answer

    def close(self) -> None:
        """Computes what waits, then stops the threads."""
        with self._changed:
            self._running = False
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                batch = self._next()
                while batch is None:
                    if not self._running and not self._groups:
                        return
                    self._changed.wait(self._patience())
                    batch = self._next()
            self._run_wanted(batch)
            del batch  # a waiting thread must not keep its last batch in memory

    def _run_wanted(self, batch: list[_Waiting]) -> None:
        """Computes the requests of a batch that are still wanted; no error ends the thread."""
        wanted: list[_Waiting] = []
        try:
            wanted = [waiting for waiting in batch if waiting.is_wanted]
            if wanted:
                self._run(wanted)
        except BaseException as error:  # the senders that wait must get it, and later requests must be answered
            for waiting in wanted:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)

    def _next(self) -> list[_Waiting] | None:
        """Takes a batch that is full or has waited long enough; the one that waits longest first."""
        now, timeout = time.monotonic(), self.options.batch_timeout_micros / 1e6
        ready = [
            (group, queue)
            for group, queue in self._groups.items()
            if not self._running
            or now >= queue[0].since + timeout
            or sum(waiting.rows for waiting in queue) >= self.options.max_batch_size
            or sum(waiting.pixels for waiting in queue) >= self._most_pixels
        ]
        if not ready:
            return None
        # By age among groups, so that a busy group cannot keep the others waiting.
        group, queue = min(ready, key=lambda item: item[1][0].since)
        batch = [queue.popleft()]
        rows, pixels = batch[0].rows, batch[0].pixels
        while (
            queue
            and rows + queue[0].rows <= self.options.max_batch_size
            and pixels + queue[0].pixels <= self._most_pixels
        ):
            batch.append(queue.popleft())
            rows += batch[-1].rows
            pixels += batch[-1].pixels
        if not queue:
            del self._groups[group]
        self._rows -= rows
        return batch

    def _patience(self) -> float | None:
        """Returns in how many seconds the next batch is due; None where nothing waits."""
        if not self._groups:
            return None
        first = min(queue[0].since for queue in self._groups.values())
        return max(0.0, first + self.options.batch_timeout_micros / 1e6 - time.monotonic())

    def _run(self, batch: list[_Waiting]) -> None:
        """Computes requests together and gives each its share."""
        self._observe(sum(waiting.rows for waiting in batch))
        try:
            outputs = _joined(batch)
        except RequestError as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for waiting in batch:  # one of them caused the error
                self._run([waiting])
            return
        start = 0
        for waiting in batch:
            rows = slice(start, start + waiting.rows)
            waiting.answer.set_result({name: value[rows] for name, value in outputs.items()})
            start += waiting.rows


def _joined(batch: list[_Waiting]) -> dict[str, NDArray]:
    """Runs a batch and checks that its outputs can be divided among the requests."""
    inputs = batch[0].inputs
    if len(batch) > 1:
        inputs = {name: np.concatenate([waiting.inputs[name] for waiting in batch]) for name in inputs}
    outputs = batch[0].run(inputs)
    rows = sum(waiting.rows for waiting in batch)
    wrong = sorted(name for name, value in outputs.items() if value.shape[:1] != (rows,))
    if wrong:
        raise RequestError(Code.INTERNAL, f"output {wrong[0]} has another number of images than the request")
    return outputs
