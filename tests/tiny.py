"""A tiny dataset and a tiny model, so that whole runs take seconds."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from rsseg_tf.backbones import resnet_vd
from rsseg_tf.config import Config, load_config
from rsseg_tf.files.lists import Sample, read_list

CONFIG = """\
dataset: {name: custom, root: ROOT, classes: [dark, bright]}
model: {name: fcn, backbone: {name: resnet18_vd, output_stride: 16}, channels: 8}
augment: {crop_size: [32, 32], scale_range: [0.75, 1.25]}
data: {workers: 2}
lr_schedule: {name: poly, learning_rate: 0.05}
train: {iters: 6, batch_size: 4, log_iters: 2, save_interval: 3, seed: 3}
"""


def write_dataset(root: Path, *, train: int = 6, val: int = 2, size: int = 40) -> Path:
    """Writes squares, bright on dark; the label says which is which."""
    rng = np.random.default_rng(1)
    for split, count in (("train", train), ("val", val)):
        lines = []
        for i in range(count):
            label = np.zeros((size, size), np.uint8)
            y, x = rng.integers(0, size // 2, 2)
            label[y : y + size // 2, x : x + size // 2] = 1
            image = (label[..., None] * 120 + rng.integers(20, 80, (size, size, 3))).astype(np.uint8)
            label[0, :3] = 255
            for name, pixels in ((f"{split}_{i}.png", image), (f"{split}_{i}_label.png", label)):
                root.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / name), pixels)
            lines.append(f"{split}_{i}.png {split}_{i}_label.png")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return root


def write_config(path: Path, root: Path) -> Path:
    path.write_text(CONFIG.replace("ROOT", str(root)), "utf-8")
    return path


def tiny_config(tmp_path: Path, *overrides: str) -> Config:
    """Returns the tiny config over the tiny dataset, written on the first call."""
    root = tmp_path / "data"
    if not root.exists():
        write_dataset(root)
    return load_config(write_config(tmp_path / "tiny.yml", root), overrides)


def samples(config: Config, split: str) -> tuple[Sample, ...]:
    root = Path(config.dataset.root)
    return read_list(root / f"{split}.txt", root)


def use_tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `resnet18_vd` a network of a few thousand weights for this test."""

    def tiny(**options: object) -> object:
        return resnet_vd((1, 1, 1, 1), (4, 4, 8, 8), bottleneck=False, **options)  # type: ignore[arg-type]

    replace_builder(monkeypatch, "rsseg_tf.backbones.resnet_vd:resnet18_vd", tiny)


def replace_builder(monkeypatch: pytest.MonkeyPatch, path: str, builder: Callable[..., object]) -> None:
    """Puts another builder in the place of one of ours, `module:function` as in `rsseg_tf.config.zoo`."""
    module, _, name = path.partition(":")
    monkeypatch.setattr(importlib.import_module(module), name, builder)
