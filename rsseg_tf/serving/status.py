"""How a request ends: the status codes of gRPC and HTTP, side by side as TensorFlow Serving maps them."""

from __future__ import annotations

from enum import Enum

from rsseg_tf.errors import ServingError

__all__ = ["Code", "RequestError"]


class Code(Enum):
    """A kind of failure: its HTTP status, and the name of its gRPC status."""

    INVALID_ARGUMENT = (400, "INVALID_ARGUMENT")
    NOT_FOUND = (404, "NOT_FOUND")
    TIMED_OUT_READING = (408, "DEADLINE_EXCEEDED")
    TOO_LARGE = (413, "RESOURCE_EXHAUSTED")
    UNSUPPORTED_MEDIA = (415, "INVALID_ARGUMENT")
    OUT_OF_MEMORY = (429, "RESOURCE_EXHAUSTED")
    INTERNAL = (500, "INTERNAL")
    UNAVAILABLE = (503, "UNAVAILABLE")
    DEADLINE_EXCEEDED = (504, "DEADLINE_EXCEEDED")

    @property
    def http(self) -> int:
        """The HTTP status."""
        return self.value[0]

    @property
    def grpc(self) -> str:
        """The name of the gRPC status."""
        return self.value[1]


class RequestError(ServingError):
    """A request that cannot be answered.

    Attributes:
        status: What its sender gets.
    """

    def __init__(self, status: Code, message: str) -> None:
        super().__init__(message)
        self.status = status
