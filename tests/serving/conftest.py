"""A model of a few weights on disk, and a server for it, shared by the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.models import write_model

if TYPE_CHECKING:
    from rsseg_tf.serving.server import Server


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with one version, which no test changes."""
    folder = tmp_path_factory.mktemp("served") / "tiny"
    folder.mkdir()
    write_model(folder / "1")
    return folder


@pytest.fixture(scope="session")
def server(exported: Path) -> Iterator[Server]:
    """A server with small limits; tests that break their server start their own."""
    from rsseg_tf.serving.limits import BatchOptions, Limits
    from rsseg_tf.serving.server import Server, ServerOptions

    limits = Limits(
        max_body_bytes=4_000_000, max_pixels=200_000, max_images=16, client_timeout_s=1.0, request_timeout_s=30.0
    )
    batching = BatchOptions(max_batch_size=4, batch_timeout_micros=20_000)
    options = ServerOptions(rest_port=0, grpc_port=0, limits=limits, batching=batching, labels={"stable": 1})
    with Server(exported, options=options) as running:
        yield running
