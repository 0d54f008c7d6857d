"""What a server does with a request once it is read, the same for REST and gRPC."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

from numpy.typing import NDArray
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataResponse, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse, ModelVersionStatus

from rsseg_tf.serving.batching import Batcher
from rsseg_tf.serving.limits import BatchOptions, Budget, Limits, Work
from rsseg_tf.serving.metrics import OTHER, Metrics
from rsseg_tf.serving.status import Code, RequestError
from rsseg_tf.serving.tensors import check_inputs
from rsseg_tf.serving.versions import ModelVersion, Versions

__all__ = ["SIGNATURES_FIELD", "ModelAddress", "Service", "answer_budget", "deadline_error"]

SIGNATURES_FIELD = "signature_def"
_ANSWERS_IN_MEMORY = 8  # times the largest answer in JSON
_OK, _UNKNOWN = 0, 2  # of tensorflow.error.Code


@dataclass(frozen=True)
class ModelAddress:
    """The model that a request is for, and at most one of a version and a label."""

    model: str
    version: int | None = None
    label: str | None = None


def answer_budget(limits: Limits) -> Budget:
    """Returns the bound of answers that clients have not read yet, in bytes."""
    return Budget(
        _ANSWERS_IN_MEMORY * limits.max_body_bytes,
        "answers that their clients do not read fill the memory for answers",
    )


class Service:
    """Answers requests about one model.

    Args:
        versions: Versions of the model.
        limits: What is accepted.
        batching: How requests are grouped.
    """

    def __init__(self, versions: Versions, limits: Limits, batching: BatchOptions) -> None:
        self.versions = versions
        self.limits = limits
        self.metrics = Metrics()
        self.batcher = Batcher(batching, self.metrics.observe_batch, limits.max_pixels)
        self.metrics.watch(versions, self.batcher)
        self._slots = threading.BoundedSemaphore(limits.max_concurrent)
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
    def predict_request(self, api: str) -> Iterator[Callable[[str], None]]:
        """Counts a request to predict, however it ends, and keeps one of the slots for such requests meanwhile.

        Args:
            api: `rest` or `grpc`.

        Yields:
            What to call with the signature once it is known to exist.

        Raises:
            RequestError: When all slots are taken.
        """
        began, signature, status = time.monotonic(), OTHER, "UNKNOWN"

        def set_signature(name: str) -> None:
            nonlocal signature
            signature = name

        try:
            if not self._slots.acquire(blocking=False):
                raise RequestError(
                    Code.UNAVAILABLE, f"the server is busy with {self.limits.max_concurrent} requests. Try again later"
                )
            try:
                yield set_signature
            finally:
                self._slots.release()
            status = "OK"
        except RequestError as error:
            status = error.status.grpc
            raise
        except Exception:
            status = Code.INTERNAL.grpc
            raise
        finally:
            self.metrics.observe_request(api, signature, status, time.monotonic() - began)

    @contextmanager
    def version(self, address: ModelAddress) -> Iterator[ModelVersion]:
        """Holds the version that a request is for.

        Raises:
            RequestError: When there is none.
        """
        self._check_model(address)
        version = self.versions.acquire(address.version, address.label)
        try:
            yield version
        finally:
            version.release()

    def status(self, address: ModelAddress) -> GetModelStatusResponse:
        """Returns the status of the versions that a request is about.

        Raises:
            RequestError: When there are none.
        """
        self._check_model(address)
        message = GetModelStatusResponse()
        for status in self.versions.statuses(address.version, address.label):
            entry = message.model_version_status.add(
                version=status.number, state=ModelVersionStatus.State.Value(status.state)
            )
            entry.status.error_code = _UNKNOWN if status.error else _OK
            entry.status.error_message = status.error
        return message

    def metadata(self, address: ModelAddress) -> GetModelMetadataResponse:
        """Returns the signatures of the version that a request is about.

        Raises:
            RequestError: When there is none.
        """
        with self.version(address) as version:
            message = GetModelMetadataResponse()
            message.model_spec.name = address.model
            message.model_spec.version.value = version.number
            signatures = SignatureDefMap()
            for name, definition in version.signatures.items():
                signatures.signature_def[name].CopyFrom(definition)
            message.metadata[SIGNATURES_FIELD].Pack(signatures)
            return message

    @contextmanager
    def submit(
        self,
        version: ModelVersion,
        signature: str,
        inputs: Mapping[str, NDArray],
        outputs: Sequence[str],
        timeout_s: float,
    ) -> Iterator[Future[dict[str, NDArray]]]:
        """Checks a request and queues it; the caller stays within until the answer has been written out.

        Args:
            version: Held by the caller; it is also held until the answer is there.
            signature: Its name.
            inputs: A value for each of its inputs.
            outputs: Names of outputs to compute; none for all.
            timeout_s: After which the request is dropped.

        Yields:
            The outputs to come.

        Raises:
            RequestError: When it does not suit the signature or the limits, or too much is in work already.
        """
        definition = version.definition(signature)
        unknown = sorted(set(outputs) - set(definition.outputs))
        if unknown:
            known = ", ".join(sorted(definition.outputs))
            raise RequestError(Code.INVALID_ARGUMENT, f"output {unknown[0]!r:.100} is unknown; the outputs are {known}")
        names = tuple(sorted(set(outputs) or definition.outputs))
        checked = check_inputs(inputs, definition, self.limits)
        self._work.take(checked.pixels)
        # The caller's hold ends when it gives up, and the computation may go on.
        version.acquire()

        def done(_: object = None) -> None:
            version.release()
            self._work.give_back(checked.pixels)

        try:
            answer = self.batcher.submit(
                # Requests that differ in any of these cannot share one run of the model.
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
        finally:  # the request may still be computed after its sender gave up
            answer.add_done_callback(done)

    def close(self) -> None:
        """Computes what waits, then releases the model."""
        self.batcher.close()
        self.versions.close()

    def _check_model(self, address: ModelAddress) -> None:
        if address.model != self.versions.name:
            raise RequestError(
                Code.NOT_FOUND,
                f"Servable not found for request: Latest({address.model!a:.100}); this server has {self.versions.name}",
            )
        if address.version is not None and address.label is not None:
            raise RequestError(Code.INVALID_ARGUMENT, "a request names either a version or a label, not both")


def deadline_error(timeout_s: float) -> RequestError:
    """Returns the error of a request that was not answered in time."""
    return RequestError(Code.DEADLINE_EXCEEDED, f"no answer within {timeout_s:g} seconds; the server is busy")
