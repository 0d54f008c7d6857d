"""A small dataset in which nothing is wrong, for tests that spoil one thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from rasterio.transform import Affine

from rsseg_tf.config import load_config
from rsseg_tf.doctor import Report, check_data, target_from_config, target_from_folder

SIZE = 64
CLASSES = ("ground", "roof", "road")
CONFIG = """\
dataset: {name: custom, root: ROOT, classes: [ground, roof, road]}
model: {name: fcn, backbone: {name: resnet18_vd}}
augment: {crop_size: [64, 48]}
"""


def picture(seed: int, height: int = SIZE, width: int = SIZE, bands: int = 3) -> np.ndarray:
    """Returns ``(H, W, bands)`` uint8: coarse shades, finer ones, and noise, as aerial images have."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, bands), np.float32)
    for cells, strength in ((4, 40), (16, 30)):
        coarse = rng.normal(0, strength, (cells, cells, bands)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, bands)
    return np.clip(120 + total + rng.normal(0, 6, total.shape), 0, 255).astype(np.uint8)


def ids(seed: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """Returns ``(H, W)`` uint8 with all three classes, and some ignored pixels."""
    coarse = np.random.default_rng(seed).integers(0, 3, (8, 8)).astype(np.uint8)
    coarse[0, :3] = 0, 1, 2
    label = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
    label[-1, :5] = 255
    return label


def write(path: Path, pixels: np.ndarray) -> Path:
    """Writes red, green, blue or ids as the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = pixels[..., ::-1] if pixels.ndim == 3 and pixels.shape[2] == 3 else pixels
    assert cv2.imwrite(str(path), np.ascontiguousarray(stored))
    return path


def write_tiff(path: Path, pixels: np.ndarray, **profile: Any) -> Path:
    """Writes ``(H, W, C)`` or ``(H, W)`` as stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    height, width, count = bands.shape
    shape = {"height": height, "width": width, "count": count, "dtype": bands.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **profile) as file:
        file.write(bands.transpose(2, 0, 1))
    return path


def at(left: float, top: float, crs: str = "EPSG:32640", pixel: float = 0.5) -> dict[str, Any]:
    """Returns what `write_tiff` needs to place an image."""
    return {"crs": crs, "transform": Affine(pixel, 0, left, 0, -pixel, top)}


def write_sound(root: Path, train: int = 5, val: int = 3) -> Path:
    """Writes a dataset without a flaw: images/, labels/, train.txt, val.txt, labels.txt."""
    for split, count, first in (("train", train, 0), ("val", val, 100)):
        for number in range(count):
            write(root / "images" / f"{split}_{number}.png", picture(first + number))
            write(root / "labels" / f"{split}_{number}.png", ids(first + number))
        lines = [f"images/{split}_{number}.png labels/{split}_{number}.png\n" for number in range(count)]
        (root / f"{split}.txt").write_text("".join(lines), "utf-8")
    (root / "labels.txt").write_text("".join(f"{name}\n" for name in CLASSES), "utf-8")
    return root


def write_config(root: Path, *, name: str = "c.yml") -> Path:
    path = root / name
    path.write_text(CONFIG.replace("ROOT", str(root)), "utf-8")
    return path


def check_config(root: Path, *overrides: str, **options: Any) -> Report:
    """Checks a folder by a config that describes it."""
    config = load_config(write_config(root), overrides)
    return check_data(target_from_config(config, "c.yml"), **options)


def check_folder(root: Path, **options: Any) -> Report:
    return check_data(target_from_folder(root), **options)


def codes(report: Report) -> list[str]:
    return [finding.code for finding in report.findings]
