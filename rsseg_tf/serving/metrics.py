"""Counters of a server, in the format of Prometheus.

Labels hold only names that the server itself knows, so that clients with made-up names cannot make the page grow.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rsseg_tf.serving.batching import Batcher
from rsseg_tf.serving.versions import Versions

__all__ = ["Metrics"]

# Upper ends of the histograms' buckets.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)
OTHER = "other"
"""Stands for a signature that the model does not have."""


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "rsseg_tf_serving_requests",
            "Requests to predict, by how they ended (names of gRPC statuses).",
            ["api", "signature", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "rsseg_tf_serving_request_seconds",
            "Time from the whole request to the answer, of those that succeeded.",
            ["api", "signature"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._images = Histogram(
            "rsseg_tf_serving_batch_images", "Images in one run of the model.", buckets=_IMAGES, registry=self.registry
        )

    def observe_batch(self, images: int) -> None:
        """Counts one run of the model."""
        self._images.observe(images)

    def observe_request(self, api: str, signature: str, status: str, seconds: float) -> None:
        """Counts one request.

        Args:
            api: `rest` or `grpc`.
            signature: A name that the model has, or `OTHER`.
            status: Name of a gRPC status.
            seconds: From request to answer.
        """
        self._requests.labels(api, signature, status).inc()
        if status == "OK":
            self._seconds.labels(api, signature).observe(seconds)

    def watch(self, versions: Versions, batcher: Batcher) -> None:
        """Adds figures that are measured when the page is read: the queue, and the versions that answer."""
        self.registry.register(_Now(versions, batcher))

    def page(self) -> bytes:
        """Returns the page that Prometheus reads."""
        return generate_latest(self.registry)


class _Now(Collector):
    def __init__(self, versions: Versions, batcher: Batcher) -> None:
        self._versions = versions
        self._batcher = batcher

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("rsseg_tf_serving_queued_images", "Images that wait.", value=self._batcher.waiting)
        states = GaugeMetricFamily(
            "rsseg_tf_serving_version_available", "1 for versions that answer.", labels=["version"]
        )
        for number in self._versions.available:
            states.add_metric([str(number)], 1)
        yield states
