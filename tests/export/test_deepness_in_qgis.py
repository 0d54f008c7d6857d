"""A file for Deepness, run by the plugin on a layer of the real QGIS, without a display."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tf2onnx", reason="extra onnx is not installed")

from rsseg_tf.export import TrainedModel, write_deepness
from rsseg_tf.rasters.windows import Size
from tests.fixtures.deepness import deepness_folder
from tests.fixtures.scenes import noise, write_scene

PYTHON = Path("/usr/bin/python3")  # the one that distributions build QGIS for
SCRIPT = Path(__file__).parents[1] / "fixtures" / "deepness_in_qgis.py"


def run_in_qgis(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a script in the Python of QGIS, with OpenCV and ONNX Runtime from here behind its own packages."""
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    environment.pop("PYTHONPATH", None)
    packages = [path for path in sys.path if path.endswith("site-packages")]
    return subprocess.run(
        [PYTHON, *arguments, json.dumps(packages)], env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_labels_of_a_layer(trained: TrainedModel, tmp_path: Path) -> None:
    plugin = deepness_folder()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    asked = "import sys, qgis.core; print('%d.%d' % sys.version_info[:2])"
    found = None
    if PYTHON.is_file() and shutil.which("qgis") is not None:
        found = subprocess.run([PYTHON, "-c", asked], capture_output=True, text=True, timeout=120)
    if found is None or found.returncode or found.stdout.strip() != version:
        pytest.skip(f"QGIS for Python {version} is not installed")
    model = tmp_path / write_deepness(trained, tmp_path, tile=Size(32, 32)).path
    scene = write_scene(tmp_path / "scene.tif", noise(96, 80))
    done = run_in_qgis(SCRIPT, plugin / "src", model, scene, tmp_path / "answer.npz")
    assert done.returncode == 0, done.stderr[-2000:]
    answer = np.load(tmp_path / "answer.npz")
    assert answer["result"].shape == (96, 80) and len(answer["tiles"]) > 6
    logits = trained.predict(answer["tiles"])
    second, first = np.moveaxis(np.sort(logits, -1)[..., -2:], -1, 0)
    decided = first - second > 1e-5
    assert decided.mean() > 0.95
    np.testing.assert_array_equal(answer["labels"][decided], logits.argmax(-1)[decided])
    # The layers of the legend: one for each class, by its name.
    assert sorted(answer["layers"].tolist()) == ["bright", "dark"]
    # Pixels of the map are those of the tiles; the first one begins outside of the scene, where pixels are black.
    top, left = (int((answer["tiles"][0].max(axis=axes) == 0).sum()) for axes in ((1, 2), (0, 2)))
    part = answer["labels"][0][top : top + 20, left : left + 20]
    np.testing.assert_array_equal(answer["result"][:20, :20], part)
