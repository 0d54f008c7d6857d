"""A folder of tiny images and tiny pre-training, so that whole runs take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest

from rsseg_tf.backbones import resnet
from rsseg_tf.config import PretrainConfig, load_pretrain_config
from rsseg_tf.files.lists import Sample
from rsseg_tf.prepare.unlabelled import list_images
from tests.tiny import replace_builder

DEPTHS, WIDTHS = (1, 1, 1, 1), (4, 4, 8, 8)
CONFIG = """\
dataset: {name: images, root: ROOT}
backbone: {name: resnet18}
method: METHOD
views: {crop_size: 32}
data: {workers: 2}
lr_schedule: {name: cosine, learning_rate: 0.05}
train: {epochs: 2, batch_size: 4, log_iters: 1, save_interval: 3, seed: 3}
"""
METHODS = {
    "moco_v2": "{name: moco_v2, dim: 6, queue_size: 8, key_bn_splits: 2}",
    "densecl": "{name: densecl, dim: 6, queue_size: 8, key_bn: ema_stats}",
    "simsiam": "{name: simsiam, dim: 12, predictor_hidden: 6}",
    "swav": "{name: swav, dim: 6, hidden: 8, prototypes: 7, freeze_prototypes_steps: 1, queue_size: 8}",
    "pixpro": "{name: pixpro, dim: 6, hidden: 8}",
    "moco_byol": "{name: moco_byol, dim: 6, hidden: 8, queue_size: 16}",
}


def write_images(root: Path, count: int = 12, size: int = 40) -> Path:
    """Writes squares and noise in many colours."""
    rng = np.random.default_rng(1)
    (root / "a").mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image = np.full((size, size, 3), rng.integers(0, 256, 3)) + rng.integers(-20, 20, (size, size, 3))
        y, x = rng.integers(0, size // 2, 2)
        image[y : y + size // 2, x : x + size // 2] = rng.integers(0, 256, 3)
        cv2.imwrite(str(root / "a" / f"{i:02d}.png"), np.clip(image, 0, 255).astype(np.uint8))
    return root


def tiny_pretraining(tmp_path: Path, method: str = "moco_v2", *overrides: str) -> PretrainConfig:
    """Returns the tiny config of a method over the folder of images, written on the first call."""
    root = tmp_path / "images"
    if not root.exists():
        write_images(root)
    path = tmp_path / f"{method}.yml"
    path.write_text(CONFIG.replace("ROOT", str(root)).replace("METHOD", METHODS[method]), "utf-8")
    return load_pretrain_config(path, overrides)


def images(config: PretrainConfig) -> tuple[Sample, ...]:
    return list_images(Path(config.dataset.root))


def use_tiny_resnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `resnet18` a network of a few thousand weights for this test."""

    def tiny(**options: Any) -> keras.Model:
        return resnet(DEPTHS, WIDTHS, bottleneck=False, **options)

    replace_builder(monkeypatch, "rsseg_tf.backbones.resnet:resnet18", tiny)
