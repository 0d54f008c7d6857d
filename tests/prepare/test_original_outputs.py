"""The tiles that the original's own scripts wrote for generated archives: names, sizes and pixels, one by one."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest

from rsseg_tf.rasters.images import read_image, read_label
from tests.fixtures.downloads import prepare

SHARED = Path(__file__).parents[3] / "shared"
EXPECTED = SHARED / "golden" / "prepare_expected.json"
GENERATOR = SHARED / "tools" / "make_archives.py"

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        not (EXPECTED.is_file() and GENERATOR.is_file()), reason="needs the original's outputs beside the checkout"
    ),
]


def test_all_tiles_equal_those_of_the_original(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    module_spec = importlib.util.spec_from_file_location("make_archives", GENERATOR)
    assert module_spec is not None and module_spec.loader is not None
    generator = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(generator)
    for name in ("potsdam", "vaihingen", "isaid"):
        getattr(generator, name)(str(tmp_path / "download" / name))
    prepare("potsdam", tmp_path / "download/potsdam", tmp_path / "out/potsdam")
    prepare("vaihingen", tmp_path / "download/vaihingen", tmp_path / "out/vaihingen")
    prepare("isaid", tmp_path / "download/isaid", tmp_path / "out/isaid")
    written = {}
    for path in (tmp_path / "out").rglob("*.png"):
        pixels = (read_label if "ann_dir" in path.parts else read_image)(path)
        written[path.relative_to(tmp_path / "out").as_posix()] = {
            "shape": list(pixels.shape), "sha256_pixels": hashlib.sha256(pixels.tobytes()).hexdigest(),
        }  # fmt: skip
    expected = json.loads(EXPECTED.read_text())
    assert len(expected) == 90
    assert written == expected
