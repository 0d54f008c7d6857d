"""What a server does with a request once it is read, the same for REST and gRPC."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from rsseg_tf.serving.batching import Batcher
from rsseg_tf.serving.limits import BatchOptions, Limits
from rsseg_tf.serving.loaded import LoadedVersion
from rsseg_tf.serving.metrics import OTHER, Metrics
from rsseg_tf.serving.status import Code, RequestError
from rsseg_tf.serving.tensors import check_inputs
from rsseg_tf.serving.versions import Versions, VersionStatus
from rsseg_tf.serving.work import Work

__all__ = ["Service", "Target"]

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Target:
    """Whom a request is for: a model, and at most one of a version and a label."""

    model: str
    version: int | None = None
    label: str | None = None


class Service:
    """Answers requests about one model.

    Args:
        versions: of the model.
        limits: what is accepted.
        batching: how requests are grouped.
    """

    def __init__(self, versions: Versions, limits: Limits, batching: BatchOptions) -> None:
        self.versions = versions
        self.limits = limits
        self.metrics = Metrics()
        self.batcher = Batcher(batching, self.metrics.observe_batch, limits.max_pixels)
        self.metrics.watch(versions, self.batcher)
        self._places = threading.BoundedSemaphore(limits.max_concurrent)
        self._work = Work(limits.max_pixels_in_work)

    @property
    def fault(self) -> str:
        """Why requests cannot be answered or new versions will not come; empty while all is well."""
        if not self.versions.available:
            return "no version of the model is loaded"
        if not self.versions.is_watching:
            return "the thread that looks for new versions has ended"
        if not self.batcher.is_alive:
            return "a thread that computes has ended"
        return ""

    @contextmanager
    def place(self) -> Iterator[None]:
        """Takes one of the places for requests that are computed or wait for it.

        Raises:
            RequestError: when all are taken.
        """
        if not self._places.acquire(blocking=False):
            raise RequestError(
                Code.UNAVAILABLE, f"the server is busy with {self.limits.max_concurrent} requests. Try again later"
            )
        try:
            yield
        finally:
            self._places.release()

    @contextmanager
    def version(self, target: Target) -> Iterator[LoadedVersion]:
        """Holds the version that a request is for.

        Raises:
            RequestError: when there is none.
        """
        self._check_model(target)
        version = self.versions.acquire(target.version, target.label)
        try:
            yield version
        finally:
            version.release()

    def statuses(self, target: Target) -> list[VersionStatus]:
        """Returns the status of the versions that a request is about.

        Raises:
            RequestError: when there are none.
        """
        self._check_model(target)
        return self.versions.statuses(target.version, target.label)

    @contextmanager
    def submit(
        self,
        version: LoadedVersion,
        signature: str,
        inputs: Mapping[str, NDArray],
        outputs: Sequence[str],
        timeout_s: float,
    ) -> Iterator[Future[dict[str, NDArray]]]:
        """Checks a request and queues it; whoever waits for the answer stays within until it has been written out.

        Args:
            version: held by the caller; it is also held until the answer is there.
            signature: its name.
            inputs: a value for each of its inputs.
            outputs: names of outputs to compute; none for all.
            timeout_s: after which the request is dropped.

        Yields:
            The outputs to come.

        Raises:
            RequestError: when it does not suit the signature or the limits, or too much is in work already.
        """
        definition = self.definition(version, signature)
        unknown = sorted(set(outputs) - set(definition.outputs))
        if unknown:
            known = ", ".join(sorted(definition.outputs))
            raise RequestError(Code.INVALID_ARGUMENT, f"output {unknown[0]!r:.100} is unknown; the outputs are {known}")
        names = tuple(sorted(set(outputs) or definition.outputs))
        checked = check_inputs(inputs, definition, self.limits)
        self._work.take(checked.pixels)
        version.acquire()

        def done(_: object = None) -> None:
            version.release()
            self._work.give_back(checked.pixels)

        try:
            answer = self.batcher.submit(
                (version.number, signature, names, checked.alike),
                inputs,
                len(next(iter(inputs.values()))),
                lambda values: version.run(signature, values, names),
                timeout_s,
                checked.pixels,
            )
        except BaseException:
            done()
            raise
        try:
            yield answer
        finally:  # a request that nobody waits for any more may still be computed
            answer.add_done_callback(done)

    def definition(self, version: LoadedVersion, signature: str) -> Any:
        """Returns the `tensorflow.SignatureDef` of a name.

        Raises:
            RequestError: when the model has none of that name.
        """
        if signature not in version.signatures:
            known = ", ".join(sorted(version.signatures))
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f'Serving signature name: "{signature:.100}" not found in signature def; the model has {known}',
            )
        return version.signatures[signature]

    @contextmanager
    def counted(self, api: str) -> Iterator[Callable[[str], None]]:
        """Counts a request, however it ends; the caller tells the signature once it is known to exist."""
        began, known, status = time.monotonic(), OTHER, "UNKNOWN"

        def tell(signature: str) -> None:
            nonlocal known
            known = signature

        try:
            yield tell
            status = "OK"
        except RequestError as error:
            status = error.code.grpc
            raise
        except Exception:
            status = Code.INTERNAL.grpc
            raise
        finally:
            self.metrics.observe_request(api, known, status, time.monotonic() - began)

    def close(self) -> None:
        """Computes what waits, then releases the model."""
        self.batcher.close()
        self.versions.close()

    def _check_model(self, target: Target) -> None:
        if target.model != self.versions.name:
            raise RequestError(
                Code.NOT_FOUND,
                f"Servable not found for request: Latest({target.model!a:.100}); this server has {self.versions.name}",
            )
        if target.version is not None and target.label is not None:
            raise RequestError(Code.INVALID_ARGUMENT, "a request names either a version or a label, not both")
