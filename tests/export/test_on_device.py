"""The on-device example, run in a process where neither this package nor TensorFlow can be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="extra tflite is not installed")

from rsseg_tf.assets import asset_dir
from rsseg_tf.export import TrainedModel, write_tflite
from rsseg_tf.predict import predict_labels
from rsseg_tf.predictors import open_predictor
from rsseg_tf.rasters.images import read_label, write_png
from rsseg_tf.rasters.scenes import open_scene
from rsseg_tf.rasters.windows import Size
from tests.fixtures.checkpoints import pixels

# Modules that are None cannot be imported.
WITHOUT = """
import runpy, sys
sys.modules["rsseg_tf"] = sys.modules["tensorflow"] = None
runpy.run_path({!r}, None, "__main__")
"""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("size", [(101, 77), (20, 90), (9, 11)])
@pytest.mark.parametrize(("quantization", "tile"), [("float32", (32, 48)), ("int8", (32, 48)), ("float32", None)])
def test_it_gives_the_labels_of_predict_with_windows_alike(
    models: dict[object, Path], tmp_path: Path, quantization: str, tile: tuple[int, int] | None, size: tuple[int, int]
) -> None:
    model = models[quantization, tile]
    image = tmp_path / "image.png"
    write_png(image, pixels(*size)[0])
    script = str(asset_dir("export") / "on_device" / "segment.py")
    command = [sys.executable, "-c", WITHOUT.format(script), str(model), str(image), "-o", str(tmp_path / "labels.png")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "%  dark" in result.stdout
    opened = open_predictor(model)
    options = opened.options if tile is None else opened.options.with_blend("mean")
    with open_scene(image) as read:
        expected = predict_labels(opened.predict, read.read()[0], opened.spec, options)
    np.testing.assert_array_equal(read_label(tmp_path / "labels.png"), expected)


def test_a_wrong_file_is_one_line(tmp_path: Path) -> None:
    script = str(asset_dir("export") / "on_device" / "segment.py")
    (tmp_path / "text.tflite").write_text("no model")
    for name in ("nowhere.tflite", "text.tflite"):
        command = [sys.executable, "-c", WITHOUT.format(script), str(tmp_path / name), "image.png"]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert result.returncode == 1 and "is no TFLite file of rsseg-tf export" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def models(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[object, Path]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "any").mkdir()
    images = [pixels(40, 48, seed=seed)[0] for seed in range(3)]
    return {
        ("float32", (32, 48)): folder / write_tflite(trained, folder, tile=Size(32, 48)).path,
        ("int8", (32, 48)): folder / write_tflite(trained, folder, "int8", tile=Size(32, 48), calibration=images).path,
        ("float32", None): folder / "any" / write_tflite(trained, folder / "any").path,
    }
