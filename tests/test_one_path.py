"""One preprocessing path: the same scene gives the same labels, whatever file it is in and whatever runs the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

pytest.importorskip("ai_edge_litert", reason="extra tflite is not installed")
pytest.importorskip("tf2onnx", reason="extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="extra onnx is not installed")

from rsseg_tf.cli import main
from rsseg_tf.errors import ExportError
from rsseg_tf.export import ExportOptions, Page, export_model, find_page_packages, load_trained
from rsseg_tf.manifest import read_manifest
from rsseg_tf.rasters.images import read_label, write_png
from rsseg_tf.rasters.windows import Size
from tests.fixtures.browser import CHROMIUM, browser, open_page, segment, serving
from tests.fixtures.checkpoints import write_checkpoint
from tests.fixtures.configs import use_tiny_backbone
from tests.fixtures.http import Server

from rsseg_tf.serving.server import ServerOptions  # isort: skip

pytestmark = pytest.mark.slow

SIZE = (70, 90)
# The page has windows of a fixed size; all others get the same ones.
TILE = Size(48, 64)
WINDOWS = ("--is_slide", "--crop_size", "64", "48", "--stride", "48", "36")


def scene() -> np.ndarray:
    """Blobs with noise, so that classes have shapes."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (9, 11, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def litertjs() -> Path | None:
    try:
        return find_page_packages() if CHROMIUM else None
    except ExportError:
        return None


@pytest.fixture(autouse=True)
def tiny_backbone() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("one"))[0]


@pytest.fixture(scope="module")
def version(checkpoint: Path, litertjs: Path | None) -> Path:
    formats = ("savedmodel", "tflite", "onnx", *(("web",) if litertjs else ()))
    page = Page(litertjs, "One path") if litertjs else None
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        exported = export_model(
            load_trained(checkpoint), checkpoint.parent / "out", ExportOptions(formats, tile=TILE, page=page)
        )  # fmt: skip
    assert exported.folder is not None
    return exported.folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The scene as PNG, and as GeoTIFF with a place, tiles and compression."""
    folder = tmp_path_factory.mktemp("scenes")
    write_png(folder / "plain.png", scene())
    profile = {"crs": "EPSG:32640", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 2.7e6), "photometric": "RGB"}
    blocks = {"compress": "deflate", "tiled": True, "blockxsize": 32, "blockysize": 16}
    with rasterio.open(
        folder / "placed.tif", "w", driver="GTiff", height=SIZE[0], width=SIZE[1], count=3, dtype="uint8", **profile,
        **blocks,
    ) as file:  # fmt: skip
        file.write(scene().transpose(2, 0, 1))
    return {"png": folder / "plain.png", "geotiff": folder / "placed.tif"}


@pytest.fixture(scope="module")
def expected(checkpoint: Path, images: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """What the checkpoint says about the PNG."""
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        labels = predicted(images["png"], tmp_path_factory.mktemp("expected"), "--model_path", checkpoint)
    shares = np.bincount(labels.ravel(), minlength=2) / labels.size
    assert labels.shape == SIZE and shares.min() > 0.05, "labels of one class would be equal for any model"
    return labels


def predicted(image: Path, folder: Path, *model: str | Path) -> np.ndarray:
    """Runs `rsseg-tf predict` and reads the labels that it wrote."""
    arguments = ["predict", *map(str, model), "--image_path", str(image), "--save_dir", str(folder), *WINDOWS]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return read_label(folder / "pseudo_color_prediction" / f"{image.stem}.png")


@pytest.mark.parametrize("kind", ["png", "geotiff"])
@pytest.mark.parametrize("engine", ["checkpoint", "savedmodel", "tflite", "onnx"])
def test_every_engine_gives_the_labels_of_the_checkpoint(
    engine: str, kind: str, checkpoint: Path, version: Path, images: dict[str, Path], expected: np.ndarray,
    tmp_path: Path,
) -> None:  # fmt: skip
    model = ("--model_path", checkpoint) if engine == "checkpoint" else ("--model_path", version, "--engine", engine)
    labels = predicted(images[kind], tmp_path, *model)
    np.testing.assert_array_equal(labels, expected)
    if kind == "geotiff":
        with rasterio.open(tmp_path / "geotiff_prediction" / "placed.tif") as file:
            np.testing.assert_array_equal(file.read(1), expected)


def test_the_server_gives_the_labels_of_the_checkpoint(
    version: Path, images: dict[str, Path], expected: np.ndarray, tmp_path: Path
) -> None:
    with Server(version.parent, options=ServerOptions(rest_port=0, grpc_port=0)) as server:
        for scheme, port in (("", server.grpc_port), ("http://", server.rest_port)):
            for kind, image in images.items():
                address = f"{scheme}127.0.0.1:{port}"
                folder = tmp_path / f"{kind}-{port}"
                labels = predicted(image, folder, "--server", address, "--model_name", server.name)
                np.testing.assert_array_equal(labels, expected, err_msg=f"{kind} through {address}")


def test_verify_compares_a_server_with_the_export_that_it_serves(version: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(version, other)
    manifest = read_manifest(version)
    origin = manifest.origin.model_copy(update={"weights_sha256": "0" * 64})
    (other / "manifest.json").write_text(manifest.model_copy(update={"origin": origin}).to_json(), "utf-8")
    with Server(version.parent, options=ServerOptions(rest_port=0, grpc_port=0)) as server:
        for address in (f"127.0.0.1:{server.grpc_port}", f"http://127.0.0.1:{server.rest_port}"):
            result = CliRunner().invoke(
                main, ["verify", str(version), "--server", address, "--json", str(tmp_path / "v.json")]
            )
            assert result.exit_code == 0, result.output
            rows = {row["name"]: row for row in json.loads((tmp_path / "v.json").read_text("utf-8"))["models"]}
            row = rows[f"server {address}"]
            assert row["passed"] and row["latency_ms"] > 0
            assert row["tolerance"] == rows["savedmodel"]["tolerance"]
        result = CliRunner().invoke(main, ["verify", str(other), "--server", address, "--model_name", server.name])
        assert result.exit_code == 2 and f"server {address} has other weights than {other}" in result.output
    result = CliRunner().invoke(main, ["verify", str(version), "--model_name", "x"])
    assert result.exit_code == 2 and "--model_name has an effect with --server only" in result.output


def test_the_page_gives_the_labels_of_the_checkpoint(
    litertjs: Path | None, version: Path, images: dict[str, Path], expected: np.ndarray, tmp_path: Path
) -> None:
    if litertjs is None:
        pytest.skip("chromium is not installed, or LiteRT.js is neither in the cache nor can npm fetch it")
    (tmp_path / "downloads").mkdir()
    with serving(version / "web") as address, browser(tmp_path) as tab:
        tab.downloads(tmp_path / "downloads")
        open_page(tab, address)
        for kind, image in images.items():
            np.testing.assert_array_equal(segment(tab, image), expected, err_msg=kind)
