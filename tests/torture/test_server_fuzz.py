"""A part of the bench on every run; `RSSEG_TF_TORTURE` says how many requests of each kind instead."""

from __future__ import annotations

import os

import pytest

from tests.torture.figures import asked, require_all_survived

for _module in ("grpc", "tensorflow_serving", "uvicorn", "starlette", "prometheus_client", "grpc_health", "orjson"):
    pytest.importorskip(_module, reason="the extra `serving` is not installed")


@pytest.mark.slow
def test_a_server_survives_what_nobody_should_send() -> None:
    from tests.torture.server_fuzz import run

    require_all_survived(run(int(os.environ.get("RSSEG_TF_TORTURE_SEED", "0")), asked(200)))
