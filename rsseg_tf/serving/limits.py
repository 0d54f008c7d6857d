"""What a server accepts, and how it groups requests."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from rsseg_tf.errors import ConfigError

__all__ = ["BatchOptions", "Limits"]


@dataclass(frozen=True)
class Limits:
    """Bounds that keep a server alive whatever it is sent.

    Attributes:
        max_body_bytes: of one request, and of one answer in JSON.
        max_pixels: height x width, summed over the images of one request; also of encoded images, whose headers are
            read before anything is decoded.
        max_pixels_in_work: the same, summed over all requests that wait, are computed, or whose answers are being
            written; more are refused until some are done. A request alone is always taken. No more than `max_pixels`
            are computed in one run of the model, so that its memory does not grow with the number of requests.
        max_images: of one request.
        max_concurrent: requests that are computed or wait for it; more are refused as unavailable.
        max_connections: open HTTP connections; more are refused.
        client_timeout_s: how long a client may take to send a request, and to read an answer.
        request_timeout_s: how long a request may wait and compute.

    Raises:
        ConfigError: when a value is not above 0.
    """

    max_body_bytes: int = 32 * 2**20
    max_pixels: int = 2048 * 2048
    max_pixels_in_work: int = 4 * 2048 * 2048
    max_images: int = 64
    max_concurrent: int = 32
    max_connections: int = 256
    client_timeout_s: float = 30.0
    request_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{field.name} must be above 0; got {value}. Leave it out for its default.")


@dataclass(frozen=True)
class BatchOptions:
    """Dynamic batching, named as in TensorFlow Serving's batching parameters.

    Attributes:
        max_batch_size: images of one run of the model; 1 turns batching off.
        batch_timeout_micros: how long a batch that is not full waits for company.
        max_enqueued_batches: full batches that may wait; requests beyond them are refused as unavailable.
        num_batch_threads: batches that run at the same time. One computes with all cores, and while it does, the next
            batch fills up; more make smaller batches.

    Raises:
        ConfigError: when a value is out of range.
    """

    max_batch_size: int = 8
    batch_timeout_micros: int = 2000
    max_enqueued_batches: int = 32
    num_batch_threads: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 0 if field.name == "batch_timeout_micros" else 1
            value = getattr(self, field.name)
            if value < least:
                raise ConfigError(f"{field.name} must be at least {least}; got {value}. Leave it out for its default.")
