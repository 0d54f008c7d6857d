"""The client that needs `requests` alone, where nothing else can be imported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from rsseg_tf.assets import asset_dir
from rsseg_tf.serving.server import ServerOptions
from tests.fixtures.http import Server
from tests.fixtures.models import SPEC, pixels, reference, write_model

pytest.importorskip("requests", reason="the package requests is not installed")

SCRIPT = asset_dir("serving") / "client_requests.py"
ALONE = ("requests", "urllib3", "certifi", "idna", "charset_normalizer")  # requests, and what comes with it


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `pip install requests` brings into an empty environment."""
    folder = tmp_path_factory.mktemp("packages")
    for name in ALONE:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.submodule_search_locations is not None, name
        (folder / name).symlink_to(spec.submodule_search_locations[0])
    return folder


def run(packages: Path, *arguments: object, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the client, or a line of code, without this environment's packages."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(packages), "NO_PROXY": "*"}
    program = ["-c", code] if code else [str(SCRIPT)]
    command = [sys.executable, "-S", *program, *map(str, arguments)]
    return subprocess.run(command, cwd=packages, env=environment, capture_output=True, text=True, timeout=120)


def test_nothing_but_requests_is_there(packages: Path) -> None:
    for name in ("numpy", "cv2", "PIL", "tensorflow", "rsseg_tf"):
        assert run(packages, code=f"import {name}").returncode != 0, name
    assert run(packages, code="import requests").returncode == 0


@pytest.mark.parametrize("size", [(61, 47), (256, 256)])
def test_an_image_file_becomes_a_png_of_class_ids(
    server: Server, packages: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    image = pixels(1, *size)[0]
    cv2.imwrite(str(tmp_path / "tile.png"), image[..., ::-1])
    url = f"http://127.0.0.1:{server.rest_port}/"
    done = run(packages, tmp_path / "tile.png", "-o", tmp_path / "out.png", "--url", url, "--model-name", "tiny")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Wrote {tmp_path / 'out.png'}\n  0 dark\n  1 grey\n  2 bright\n"
    with Image.open(tmp_path / "out.png") as labels:
        np.testing.assert_array_equal(np.asarray(labels), reference(image[np.newaxis])[0].argmax(-1))
        assert labels.mode == "P"
        assert (labels.getpalette() or [])[:9] == [x for colour in SPEC.palette for x in colour]


def test_what_goes_wrong_is_one_line(server: Server, packages: Path, tmp_path: Path) -> None:
    (tmp_path / "tile.png").write_bytes(b"no image")
    url = f"http://127.0.0.1:{server.rest_port}"
    for arguments, message in (
        ([tmp_path / "none.png"], "No such file"),
        ([tmp_path / "tile.png", "--url", url, "--model-name", "tiny"], "HTTP 400: "),
        ([tmp_path / "tile.png", "--url", url, "--model-name", "other"], "HTTP 404: "),
    ):
        done = run(packages, *arguments)
        assert done.returncode == 1 and done.stderr.startswith("Error: ") and message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "labels.png").exists()


def test_nobody_listening_is_told(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "tile.png").write_bytes(b"")
    done = run(packages, tmp_path / "tile.png", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1 and "ConnectionError. Is the server running there?" in done.stderr


def test_labels_of_a_model_without_a_manifest_are_grey(packages: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "tiny" / "1", with_manifest=False)
    image = pixels(1)[0]
    cv2.imwrite(str(tmp_path / "tile.png"), image[..., ::-1])
    with Server(tmp_path / "tiny", options=ServerOptions(rest_port=0, grpc_port=0)) as server:
        url = f"http://127.0.0.1:{server.rest_port}"
        out = tmp_path / "out.png"
        done = run(packages, tmp_path / "tile.png", "-o", out, "--url", url, "--model-name", "tiny")
    assert (done.returncode, done.stdout) == (0, f"Wrote {out}\n"), done.stderr
    with Image.open(out) as labels:
        assert labels.mode == "L"
        np.testing.assert_array_equal(np.asarray(labels), reference(image[np.newaxis])[0].argmax(-1))
