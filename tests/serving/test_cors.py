"""Pages of other origins: refused unless named, with and without a preflight, and from a real page."""

from __future__ import annotations

import functools
import http.client
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.errors import ConfigError
from tests.fixtures.browser import CHROMIUM, browser
from tests.fixtures.http import Server
from tests.fixtures.models import pixels, reference

from rsseg_tf.serving.server import ServerOptions  # isort: skip

PREDICT = "/v1/models/tiny:predict"
OURS, OTHER = "https://maps.example.org", "https://other.example.org"
BODY = json.dumps({"instances": [{"pixels": pixels(1)[0].tolist()}]})


@pytest.fixture(scope="module")
def open_server(exported: Path) -> Iterator[Server]:
    with Server(exported, options=ServerOptions(rest_port=0, grpc_port=0, cors_origins=(OURS,))) as running:
        yield running


def answer(server: Server, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, dict]:
    """Returns status and headers, whose names are in lower case."""
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def preflight(server: Server, origin: str, **headers: str) -> tuple[int, dict]:
    """Asks as a browser does before it sends JSON to another origin."""
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type"}
    return answer(server, "OPTIONS", PREDICT, Origin=origin, **asked | headers)


def test_by_default_no_page_of_another_origin_reads_an_answer(server: Server) -> None:
    status, headers = preflight(server, OURS)
    assert status == 405 and not [name for name in headers if name.startswith("access-control")]
    status, headers = answer(server, "POST", PREDICT, BODY, Origin=OURS)
    assert status == 200 and not [name for name in headers if name.startswith("access-control")]


def test_a_named_origin_may_ask(open_server: Server) -> None:
    status, headers = preflight(open_server, OURS, Access_Control_Request_Private_Network="true")
    assert status == 200 and headers["access-control-allow-origin"] == OURS
    assert headers["access-control-allow-methods"] == "GET, POST"
    assert "Content-Type" in headers["access-control-allow-headers"]
    assert headers["access-control-allow-private-network"] == "true"
    assert "access-control-allow-credentials" not in headers
    status, headers = answer(open_server, "POST", PREDICT, BODY, Origin=OURS)
    assert (status, headers["access-control-allow-origin"], headers["vary"]) == (200, OURS, "Origin")


def test_errors_are_told_to_a_named_origin_too(open_server: Server) -> None:
    for path, body, expected in (
        (PREDICT, "no JSON", 400),
        ("/nothing", BODY, 404),
        (PREDICT.replace("tiny", "x"), BODY, 404),
    ):
        status, headers = answer(open_server, "POST", path, body, Origin=OURS)
        assert (status, headers["access-control-allow-origin"]) == (expected, OURS)


def test_another_origin_may_not(open_server: Server) -> None:
    for origin in (OTHER, f"{OURS}.evil.example", "null", OURS.replace("https", "http")):
        status, headers = preflight(open_server, origin)
        assert status == 400 and "access-control-allow-origin" not in headers
        _, headers = answer(open_server, "POST", PREDICT, BODY, Origin=origin)
        assert "access-control-allow-origin" not in headers


def test_other_methods_and_headers_are_refused(open_server: Server) -> None:
    assert preflight(open_server, OURS, Access_Control_Request_Method="DELETE")[0] == 400
    assert preflight(open_server, OURS, Access_Control_Request_Headers="x-other")[0] == 400


def test_a_star_lets_every_page_ask(exported: Path) -> None:
    with Server(exported, options=ServerOptions(rest_port=0, grpc_port=0, cors_origins=("*",))) as server:
        status, headers = preflight(server, "null")
        assert (status, headers["access-control-allow-origin"]) == (200, "*")


@pytest.mark.parametrize(
    "origin",
    ["", "example.org", "https://example.org/", "https://example.org/map", "ftp://x", "null", "https://Example.org"]
    + ["https://a b", "https://example.org:443", "http://x:80", "http://x:", "https://user@x", "**"],
)
def test_what_no_browser_would_send_is_refused(origin: str) -> None:
    with pytest.raises(ConfigError, match="An origin is http:// or https://"):
        ServerOptions(cors_origins=(origin,))


def test_origins_have_ports_and_addresses() -> None:
    ServerOptions(cors_origins=("http://localhost:3000", "http://[::1]:8080", "https://x:80", "http://x:8080", "*"))


@contextmanager
def page(folder: Path) -> Iterator[str]:
    """Serves a folder on a port of its own, and so from an origin of its own."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_page_in_a_browser_asks_where_its_origin_is_named(server: Server, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<!doctype html><title>map</title>", "utf-8")
    ask = """fetch("http://127.0.0.1:{port}{path}", {{method: "POST", headers: {{"Content-Type": "application/json"}},
        body: JSON.stringify({body})}}).then(answer => answer.json()).catch(error => String(error))"""
    with page(tmp_path / "site") as origin, browser(tmp_path) as tab:
        options = ServerOptions(rest_port=0, grpc_port=0, cors_origins=(origin,))
        tab.open(f"{origin}/index.html")
        tab.wait("document.title === 'map'")
        with Server(exported, options=options) as named:
            found = tab.run(ask.format(port=named.rest_port, path=PREDICT, body=BODY))
        refused = tab.run(ask.format(port=server.rest_port, path=PREDICT, body=BODY))
    assert np.array_equal([one["class_map"] for one in found["predictions"]], reference(pixels(1)).argmax(-1))
    assert refused == "TypeError: Failed to fetch"
