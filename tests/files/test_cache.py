"""Downloads are kept, checked and never half there."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rsseg_tf.errors import WeightsError
from rsseg_tf.files.cache import cache_dir, cached

CONTENT = b"weights" * 1000


class _Server(BaseHTTPRequestHandler):
    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if self.path == "/missing":
            self.send_error(404, "Not Found")
        elif self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:100] if self.path == "/broken" else CONTENT)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("RSSEG_TF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = type("Handler", (_Server,), {"requests": []})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()
    running.server_close()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_downloaded_once(server: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    first = cached(f"{server}/model.pdparams", progress=lambda *state: seen.append(state))
    assert first.read_bytes() == CONTENT and first.name.endswith("-model.pdparams")
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    seen.clear()
    assert cached(f"{server}/model.pdparams", offline=True, progress=lambda *state: seen.append(state)) == first
    assert not seen
    other = cached(f"{server}/other/model.pdparams")
    assert other != first, "files of the same name from other places"
    assert len(files(tmp_path / "cache")) == 4


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing", "could not be downloaded: the server says 404 Not Found"),
        ("/broken", "could not be downloaded: the connection broke after 100 of 7000 bytes|IncompleteRead"),
        ("/elsewhere", "could not be downloaded"),
    ],
)
def test_a_download_that_fails_leaves_nothing(server: str, path: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        cached(server + path)
    assert files(tmp_path / "cache") == []


def test_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSSEG_TF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(WeightsError, match=r"http://127.0.0.1:9/w could not be downloaded: .*name the file instead"):
        cached("http://127.0.0.1:9/w")
    assert files(tmp_path) == []


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_offline_says_where_to_put_the_file(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSSEG_TF_CACHE", str(tmp_path))
    if by == "environment":
        monkeypatch.setenv("RSSEG_TF_OFFLINE", "1")
    url = "https://example.org/models/resnet50.pdparams"
    with pytest.raises(WeightsError, match="is not in the cache and the network is off.* or copy it to ") as error:
        cached(url, offline=by == "argument")
    target = Path(str(error.value).rsplit(" copy it to ", 1)[1].rstrip("."))
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT)
    assert cached(url, offline=True) == target


def test_hashes_are_compared(server: str) -> None:
    url = f"{server}/model.pdparams"
    right = hashlib.sha256(CONTENT).hexdigest()
    path = cached(f"{url}#sha256={right.upper()}")
    with pytest.raises(WeightsError, match=f"hashes to {right}, not to 00ff as required"):
        cached(f"{url}#sha256=00ff")
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match="is not what was downloaded .* any more. Delete it"):
        cached(url)


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {}, "HOME/.cache/rsseg_tf"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/rsseg_tf"),
        ("linux", {"XDG_CACHE_HOME": "/x", "RSSEG_TF_CACHE": "/mine"}, "/mine"),
        ("darwin", {}, "HOME/Library/Caches/rsseg_tf"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/rsseg_tf/Cache"),
        ("win32", {}, "HOME/AppData/Local/rsseg_tf/Cache"),
    ],
)
def test_the_folder_is_where_the_system_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], folder: str
) -> None:
    for name in ("RSSEG_TF_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    assert cache_dir() == Path(folder.replace("HOME", str(Path.home())))
