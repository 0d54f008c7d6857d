"""What is written for a page, and what is refused; no browser is needed."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("ai_edge_litert", reason="extra tflite is not installed")

from rsseg_tf.assets import asset_dir
from rsseg_tf.cli import main
from rsseg_tf.errors import DataError, ExportError
from rsseg_tf.export import Page, TrainedModel, find_page_packages, load_trained, verify, write_web
from rsseg_tf.export.page_packages import PACKAGES, write_page_packages
from rsseg_tf.export.web import windowed
from rsseg_tf.manifest import read_manifest
from rsseg_tf.rasters.images import write_png
from rsseg_tf.rasters.windows import Size
from tests.fixtures.checkpoints import write_checkpoint

PNG = np.zeros((20, 30, 3), np.uint8)


@pytest.fixture(scope="module")
def litertjs() -> Path:
    try:
        return find_page_packages()
    except ExportError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_the_command_publishes_a_page_that_is_verified(checkpoint: Path, litertjs: Path, tmp_path: Path) -> None:
    write_png(tmp_path / "Some Image.PNG", PNG)
    options = ["--format", "web", "--quantize", "dynamic", "--web_sample", str(tmp_path / "Some Image.PNG")]
    options += ["--litertjs", str(litertjs), "--web_title", "Roofs"]
    result = CliRunner().invoke(main, ["export", str(checkpoint), "-o", str(tmp_path / "out"), *options])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out" / "1"
    assert f"Open the page: python {folder / 'web' / 'serve.py'}" in result.output
    (artifact,) = read_manifest(folder).artifacts
    assert (artifact.format, artifact.path, artifact.tile) == ("web", "web/model_dynamic.tflite", (32, 32))
    files = {path.relative_to(folder).as_posix() for path in (folder / "web").rglob("*") if path.is_file()}
    assert set(artifact.sha256) == files
    needed = {"index.html", "app.js", "sample.png", "LICENSE", "vendor/NOTICE.txt", "vendor/litert.js", "serve.py"}
    needed |= {"vendor/geotiff.js", "vendor/geotiff-LICENSE.txt"}
    assert {f"web/{name}" for name in needed} < files
    assert json.loads((folder / "web" / "page.json").read_text("utf-8")) == {
        "title": "Roofs",
        "sample": "sample.png",
        "urls": False,
    }
    assert all(result.passed for result in verify(folder))
    (folder / "web" / "app.js").write_text("", "utf-8")
    with pytest.raises(ExportError, match=r"app\.js is missing or is not what was exported"):
        verify(folder)


def test_the_windows_of_the_config_are_kept_if_they_fit(trained: TrainedModel) -> None:
    windows = {"is_slide": True, "crop_size": (48, 64), "stride": (16, 24), "flip_vertical": True}
    inference = trained.manifest.inference.model_copy(update=windows)
    asking = dataclasses.replace(trained, manifest=trained.manifest.model_copy(update={"inference": inference}))
    for tile, stride in ((Size(64, 48), (16, 24)), (Size(32, 48), (36, 24))):
        found = windowed(asking, tile).manifest.inference
        assert (found.crop_size, found.stride) == (tile.width_height, stride)
        assert not found.flip_vertical  # the page has no augmentation


def test_a_page_shows_three_bands(litertjs: Path, tmp_path: Path) -> None:
    many = "dataset={name: custom, root: data, classes: [dark, bright], bands: 4}"
    checkpoint, _ = write_checkpoint(tmp_path, many, "augment.saturation_range=0", "augment.hue_range=0")
    with pytest.raises(ExportError, match=r"3 bands of 8 or 16 bits\. This model takes 4 bands of 0\.\.255"):
        write_web(load_trained(checkpoint), tmp_path / "out", Page(litertjs))
    assert not (tmp_path / "out").exists()


def test_what_the_runtime_cannot_run_is_refused(trained: TrainedModel, litertjs: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="use --quantize float32, float16, dynamic or int8"):
        write_web(trained, tmp_path, Page(litertjs), "int16x8")


def test_a_sample_must_be_what_the_page_reads(trained: TrainedModel, litertjs: Path, tmp_path: Path) -> None:
    write_png(tmp_path / "grey.png", PNG[:, :, 0])
    with pytest.raises(ExportError, match="has 1 bands of uint8"):
        write_web(trained, tmp_path, Page(litertjs, sample=tmp_path / "grey.png"))
    with pytest.raises(DataError, match="does not exist"):
        write_web(trained, tmp_path, Page(litertjs, sample=tmp_path / "none.png"))


def policy(folder: Path) -> str:
    html = (folder / "web" / "index.html").read_text("utf-8")
    return re.findall(r"connect-src ([^;]*);", html)[0]


def test_a_page_reads_from_its_own_folder_unless_servers_are_named(
    trained: TrainedModel, litertjs: Path, tmp_path: Path
) -> None:
    write_web(trained, tmp_path / "strict", Page(litertjs))
    assert policy(tmp_path / "strict") == "'self' data:"
    urls = ("https://data.example.org", "http://localhost:8001")
    write_web(trained, tmp_path / "open", Page(litertjs, urls=urls))
    assert policy(tmp_path / "open") == "'self' data: https://data.example.org http://localhost:8001"
    assert json.loads((tmp_path / "open" / "web" / "page.json").read_text("utf-8"))["urls"] is True


@pytest.mark.parametrize(
    "origin", ["*", "http:", "https://a.org/files", "https://a.org; script-src *", "a.org", "blob:"]
)
def test_only_origins_are_named(trained: TrainedModel, litertjs: Path, tmp_path: Path, origin: str) -> None:
    with pytest.raises(ExportError, match="--web_urls takes origins"):
        write_web(trained, tmp_path / "out", Page(litertjs, urls=(origin,)))
    assert not (tmp_path / "out").exists()


def test_what_was_fetched_is_checked(litertjs: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=rf"has no {PACKAGES[0].file}.*npm pack .*geotiff@{PACKAGES[2].version}"):
        find_page_packages(tmp_path)
    for package in PACKAGES:
        shutil.copy(litertjs / package.file, tmp_path)
    assert find_page_packages(tmp_path) == tmp_path
    with (tmp_path / PACKAGES[1].file).open("ab") as file:
        file.write(b"?")
    with pytest.raises(ExportError, match=r"is not @litertjs/wasm-utils .* SHA-512 differs"):
        find_page_packages(tmp_path)
    (tmp_path / PACKAGES[0].file).write_bytes(b"no archive")
    with pytest.raises(ExportError, match="cannot be used"):
        write_page_packages(tmp_path, tmp_path / "vendor")


def test_without_npm_or_network_it_says_how_to_fetch_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSSEG_TF_CACHE", str(tmp_path))
    monkeypatch.setenv("RSSEG_TF_OFFLINE", "1")
    with pytest.raises(ExportError, match=r"the network is off.*--litertjs FOLDER"):
        find_page_packages()
    monkeypatch.setenv("RSSEG_TF_OFFLINE", "0")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExportError, match="npm is not installed"):
        find_page_packages()
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'npm error code E404' >&2\nexit 1\n", "utf-8")
    (tmp_path / "npm").chmod(0o755)
    with pytest.raises(ExportError, match="npm could not fetch .* npm error code E404"):
        find_page_packages()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--web_title", "Roofs"], "--web_title is for a page; add web to --format."),
        (["--web_urls", "https:"], "--web_urls is for a page; add web to --format."),
        (["--format", "web", "--litertjs", "nowhere"], "nowhere has no litertjs-core"),
        (["--format", "web", "--quantize", "float32,dynamic"], "A page runs one model"),
    ],
)
def test_the_command_refuses_what_has_no_effect(
    checkpoint: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    result = CliRunner().invoke(main, ["export", str(checkpoint), "-o", str(tmp_path / "out"), *arguments])
    assert result.exit_code == 2
    assert words in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize(("value", "said"), [("1", "1 1"), ("NaN", "not finite"), ("-Infinity", "not finite")])
def test_the_page_refuses_values_that_are_not_finite(tmp_path: Path, value: str, said: str) -> None:
    page = asset_dir("export") / "web"
    for name in ("tiling.js", "errors.js"):
        shutil.copy(page / name, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "run.js").write_text(f"""
import {{ Blender, plan }} from "./tiling.js";
const windows = plan(1, 2, [1, 2], [1, 2]);
const blender = new Blender(1, 2, windows, 2);
blender.add(new Float32Array([0, 1, 0, {value}]), 2, 0);
try {{ blender.finishRow(0); console.log([...blender.labels].join(" ")); }}
catch (error) {{ console.log(error.constructor.name, error.message); }}
""")
    result = subprocess.run(["node", "run.js"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert said in result.stdout and ("Unreadable" in result.stdout) == (value != "1")
