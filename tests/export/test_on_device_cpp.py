"""The C++ example, built with CMake against the library that OpenVINO's wheel brings."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from rsseg_tf.assets import asset_dir
from rsseg_tf.export import TrainedModel, write_onnx, write_openvino
from rsseg_tf.predict import predict_labels
from rsseg_tf.predictors import open_predictor
from rsseg_tf.rasters.images import read_label, write_png
from rsseg_tf.rasters.windows import Size
from tests.fixtures.checkpoints import pixels

pytest.importorskip("tf2onnx", reason="extra onnx is not installed")
SOURCE = asset_dir("export") / "on_device" / "cpp"
FOUND = importlib.util.find_spec("openvino")
CMAKE = Path((FOUND.submodule_search_locations or [""])[0]) / "cmake" if FOUND else None

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CMAKE is None or not CMAKE.is_dir(), reason="extra openvino is not installed, with its C++ library"
    ),
    pytest.mark.skipif(
        not (shutil.which("cmake") and shutil.which("c++")), reason="cmake or a C++ compiler is missing"
    ),
]
TILE = Size(32, 48)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("cpp")
    configured = subprocess.run(
        ["cmake", "-S", str(SOURCE), "-B", str(build), f"-DOpenVINO_DIR={CMAKE}", "-DCMAKE_CXX_FLAGS=-Werror"],
        capture_output=True,
        text=True,
    )
    if configured.returncode and "Could NOT find PNG" in configured.stderr:
        pytest.skip("libpng is not installed with its headers")
    assert configured.returncode == 0, configured.stderr
    built = subprocess.run(["cmake", "--build", str(build)], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return build / "segment"


@pytest.fixture(scope="module")
def models(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[Size | None, Path]:
    """Folders with the same model as ONNX and OpenVINO files, for any size and for one."""
    folders: dict[Size | None, Path] = {}
    for tile in (None, TILE):
        folders[tile] = tmp_path_factory.mktemp("models")
        write_openvino(
            trained, folders[tile], folders[tile] / write_onnx(trained, folders[tile], tile=tile).path, tile=tile
        )
    return folders


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("file", ["model.onnx", "model_openvino.xml"])
@pytest.mark.parametrize("size", [(101, 77), (20, 90), (9, 11)])
@pytest.mark.parametrize("tile", [None, TILE], ids=["any size", "one size"])
def test_it_gives_the_labels_of_predict(
    program: Path, models: dict[Size | None, Path], tmp_path: Path, tile: Size | None, size: tuple[int, int], file: str
) -> None:
    image = pixels(*size)[0]
    write_png(tmp_path / "image.png", image)
    done = run(program, models[tile] / file, tmp_path / "image.png", tmp_path / "labels.png", "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert " %  class " in done.stdout
    opened = open_predictor(models[tile] / file)  # ONNX Runtime runs the ONNX file here
    options = opened.options if tile is None else opened.options.with_blend("mean")
    expected = predict_labels(opened.predict, image, opened.spec, options)
    assert len(np.unique(expected)) > 1 or size == (9, 11)
    np.testing.assert_array_equal(read_label(tmp_path / "labels.png"), expected)


def test_a_stride_can_be_given(program: Path, models: dict[Size | None, Path], tmp_path: Path) -> None:
    image = pixels(101, 77)[0]
    write_png(tmp_path / "image.png", image)
    stride = Size(10, 20)
    places = [models[TILE] / "model.onnx", tmp_path / "image.png", tmp_path / "labels.png"]
    assert run(program, *places, "--stride", *stride).returncode == 0
    opened = open_predictor(places[0])
    options = replace(opened.options.with_blend("mean"), stride=stride)
    np.testing.assert_array_equal(
        read_label(tmp_path / "labels.png"), predict_labels(opened.predict, image, opened.spec, options)
    )


def test_what_goes_wrong_is_one_line(program: Path, models: dict[Size | None, Path], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.zeros((8, 8), np.uint8))
    cv2.imwrite(str(tmp_path / "deep.png"), np.zeros((8, 8, 3), np.uint16))
    (tmp_path / "broken.png").write_bytes(b"nothing")
    model = models[None] / "model.onnx"
    for arguments, code, message in (
        ([model], 2, "usage: segment"),
        ([model, tmp_path / "none.png", "x.png"], 1, "cannot be read"),
        ([model, tmp_path / "broken.png", "x.png"], 1, "Error: "),
        ([model, tmp_path / "grey.png", "x.png"], 1, "three bands of 8 bits"),
        ([model, tmp_path / "deep.png", "x.png"], 1, "three bands of 8 bits"),
    ):
        done = run(program, *arguments)
        assert done.returncode == code and message in done.stderr, done
        assert len(done.stderr.splitlines()) == 1
