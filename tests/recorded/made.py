"""Models and scenes for the recording: weights that follow from names, small scenes, tiny datasets on disk.

Nothing here needs training, downloads or the package's own way of writing a checkpoint: the files are written by hand
in the format that earlier versions of the package wrote, which must stay readable.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio

from tests.parity.detinit import uniform

CONFIGS = {
    # As the quickstart's model, with narrow heads.
    "deeplab": """\
dataset: {name: synthetic, root: ROOT}
model:
  name: deeplabv3plus
  backbone: {name: resnet18_vd, output_stride: 32}
  aspp_rates: [1, 2, 3]
  aspp_channels: 16
  decoder_channels: 16
  low_level_channels: 8
augment: {crop_size: [64, 64]}
data: {workers: 1}
""",
    "hrnet": """\
dataset: {name: synthetic, root: ROOT}
model: {name: fcn, backbone: {name: hrnet_w18}}
augment: {crop_size: [64, 64]}
data: {workers: 1}
""",
}
# Random weights favour one class everywhere. These factors and offsets of the last layer, once measured on the scenes
# below, spread the logits so that every class is predicted somewhere.
HEADS: dict[str, tuple[float, tuple[float, ...]]] = {
    "deeplab": (5.81, (1.405, 1.496, 12.372, 1.969, 8.646, 0.249)),
    "hrnet": (2.226, (-5.44, 4.592, -14.011, 3.683, 17.215, -4.874)),
}
_CLASSIFIER = re.compile(r"(^|/)(decoder|head)_classifier/(kernel|bias)$")
# What ends a residual branch is small, or values grow with depth.
_ENDS_BRANCH = re.compile(r"(_block\d+_conv[23]|_fuse_\w+)_bn/gamma$")
_RANGES = {"gamma": (0.8, 1.2), "beta": (-0.1, 0.1), "bias": (-0.1, 0.1), "moving_mean": (-0.1, 0.1)}


def weight(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the values of a variable, which follow from its path."""
    kind = path.rsplit("/", 1)[1]
    if kind == "kernel":
        fan_in = shape[0] * shape[1] * (1 if "depthwise" in path else shape[2])
        bound = float(np.sqrt(6.0 / fan_in))
        return uniform(path, shape, -bound, bound)
    if kind == "moving_variance":
        return uniform(path, shape, 0.5, 1.5)
    low, high = (0.15, 0.35) if _ENDS_BRANCH.search(path) else _RANGES[kind]
    return uniform(path, shape, low, high)


def write_checkpoint(folder: Path, name: str, root: Path) -> Path:
    """Writes a checkpoint of the model `name` of `CONFIGS` on the dataset in `root`."""
    from rsseg_tf import build_model, load_config

    folder.mkdir(parents=True)
    (folder / "config.yml").write_text(CONFIGS[name].replace("ROOT", str(root)), "utf-8")
    model = build_model(load_config(folder / "config.yml"))
    factor, offsets = HEADS[name]
    arrays: dict[str, Any] = {}
    for variable in model.weights:
        values = weight(variable.path, tuple(variable.shape))
        if found := _CLASSIFIER.search(variable.path):
            values = values * np.float32(factor) if found[3] == "kernel" else np.array(offsets, np.float32)
        arrays[variable.path] = values
    np.savez(folder / "weights.npz", **arrays)
    state = {"step": 7, "samples_seen": 28, "best_miou": 0.5, "best_step": 7, "stale_intervals": 0}
    (folder / "state.json").write_text(json.dumps(state | {"protocol": "seed", "to_evaluate": False}), "utf-8")
    return folder


def write_scene(path: Path, pixels: np.ndarray, *, gsd: float = 0.3, **profile: Any) -> Path:
    """Writes `(height, width, bands)` as a GeoTIFF in UTM zone 40 north."""
    height, width, bands = pixels.shape
    transform = rasterio.Affine(gsd, 0.0, 500_000.0, 0.0, -gsd, 2_800_000.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {"height": height, "width": width, "count": bands, "dtype": pixels.dtype, "crs": "EPSG:32640"}
    with rasterio.open(path, "w", driver="GTiff", transform=transform, **settings | profile) as file:
        file.write(pixels.transpose(2, 0, 1))
    return path


def read_raster(path: Path) -> np.ndarray:
    """Returns `(height, width, bands)`."""
    with rasterio.open(path) as file:
        return np.ascontiguousarray(file.read().transpose(1, 2, 0))


def write_pairs(root: Path, source: Path) -> Path:
    """Cuts a dataset with images of several sizes from prepared synthetic scenes: root/train.txt, root/val.txt."""
    sizes = {"train": ((64, 64), (72, 96)), "val": ((96, 128), (60, 84), (128, 70))}
    for split, shapes in sizes.items():
        lines = []
        for number, (height, width) in enumerate(shapes):
            stem = f"scene_{number % 2:03d}.tif"
            image = read_raster(source / "img_dir" / split / stem)[-height:, -width:]
            label = read_raster(source / "ann_dir" / split / stem)[-height:, -width:, 0].copy()
            label[:3, :5] = 255
            (root / split).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / split / f"{number}.png"), image[..., ::-1])
            cv2.imwrite(str(root / split / f"{number}_label.png"), label)
            lines.append(f"{split}/{number}.png {split}/{number}_label.png\n")
        (root / f"{split}.txt").write_text("".join(lines), "utf-8")
    return root


def read_picture(path: Path) -> np.ndarray:
    """Returns a PNG or JPEG as OpenCV has it: unchanged, colours from blue to red."""
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
