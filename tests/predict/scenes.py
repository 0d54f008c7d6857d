"""Scenes, a model with a neighbourhood, and the blend of a whole scene in memory, for the tests of scene prediction."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import rasterio
from rasterio.transform import Affine

from rsseg_tf.datasets.spec import custom_spec
from rsseg_tf.predict import InferenceOptions, OutputOptions, SceneOptions, predict_paths
from rsseg_tf.predict.blending import make_plan
from rsseg_tf.predict.streaming import make_tiling
from rsseg_tf.rasters.scenes import open_scene

SPEC = custom_spec("toy", ("water", "road", "Straße"), ((0, 0, 255), (90, 90, 90), (255, 255, 0)))
PLACE = Affine(0.5, 0.0, 500000.25, 0.0, -0.5, 9050677.5)
COSINE = InferenceOptions(is_slide=True, crop_size=(16, 12), stride=(11, 7), blend="cosine", batch_size=3)


def lopsided(batch):
    """Logits that depend on the window's place: cumulative sums from its top left corner, as float32."""
    weights = np.array([[1.0, -2.0, 0.5], [0.3, 0.8, -1.0], [-1.5, 0.1, 2.0]], np.float32) / 255
    logits = (batch[..., :3].astype(np.float32) @ weights).cumsum(axis=1).cumsum(axis=2)
    return (logits / (batch.shape[1] * batch.shape[2])).astype(np.float32)


def pointwise(batch):
    """Logits that depend on the pixel alone."""
    weights = np.array([[1.0, -2.0, 0.5], [0.3, 0.8, -1.0], [-1.5, 0.1, 2.0]], np.float32) / 20
    return batch[..., :3].astype(np.float32) @ weights


def noise(height, width, bands=3, seed=0, dtype=np.uint8):
    """Smooth random pixels, `(bands, H, W)`, so that classes form regions."""
    rng = np.random.default_rng(seed)
    small = rng.integers(1, 256, (-(-height // 6) + 1, -(-width // 6) + 1, bands)).astype(np.float32)
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, bands)
    return np.clip(large, 1, 255).astype(dtype).transpose(2, 0, 1)


def write_scene(path: Path, bands, **profile):
    """Writes `(bands, H, W)` as a GeoTIFF in UTM."""
    count, height, width = bands.shape
    mask = profile.pop("mask", None)
    settings = {"crs": "EPSG:32750", "transform": PLACE, **profile}
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", **shape, **settings) as target,
    ):
        target.write(bands)
        if mask is not None:
            target.write_mask(mask)
    return path


def predict_one(path: Path, save_dir: Path, options, *, predict=lopsided, spec=SPEC, scenes=None, output=None):
    """Predicts one scene and returns what became of it; it must not fail."""
    (result,) = predict_paths(
        [path], predict, spec, save_dir, options, scenes=scenes or SceneOptions(), output=output or OutputOptions()
    )
    assert result.ok, result.error
    return result


def read_band(path: Path, band=1):
    with rasterio.open(path) as source:
        return source.read(band)


def blend_in_memory(pixels, predict, plan):
    """Blends the windows of a plan over the whole scene: `(H, W, classes)` in the plan's accumulator type."""
    height, width = pixels.shape[:2]
    rows, columns = plan.rows, plan.columns
    total = None
    for r, y in enumerate(rows.starts):
        for c, x in enumerate(columns.starts):
            window = pixels[y : rows.end(r), x : columns.end(c)]
            padding = (0, rows.window - window.shape[0]), (0, columns.window - window.shape[1]), (0, 0)
            logits = predict(np.pad(window, padding, mode="reflect")[np.newaxis])[0]
            if total is None:
                total = np.zeros((height, width, logits.shape[-1]), plan.accumulator)
            weights = np.multiply.outer(rows.weights(r), columns.weights(c)).astype(plan.accumulator)
            part = logits[: window.shape[0], : window.shape[1]] * weights[:, :, np.newaxis]
            total[y : rows.end(r), x : columns.end(c)] += part
    return total / np.multiply.outer(rows.total, columns.total)[:, :, np.newaxis].astype(plan.accumulator)


def reference(path: Path, options, predict=lopsided, scenes=None):
    """Returns the logits of a scene file as the in-memory blend has them."""
    with open_scene(path) as scene:
        pixels, _ = scene.read()
        tiling = make_tiling(scene.size, options, scenes or SceneOptions())
    return blend_in_memory(pixels, predict, tiling.plan)


__all__ = [
    "COSINE",
    "PLACE",
    "SPEC",
    "blend_in_memory",
    "lopsided",
    "make_plan",
    "noise",
    "pointwise",
    "predict_one",
    "read_band",
    "reference",
    "write_scene",
]
