"""Tiny trained-looking models to export."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from rsseg_tf import build_model
from rsseg_tf.checkpoint import TrainState, save_checkpoint
from rsseg_tf.config import Config
from tests.tiny import tiny_config, use_tiny_backbone


def lively(model: keras.Model) -> keras.Model:
    """Gives all kernels an ordinary size: with the initial ones logits hardly depend on the image."""
    rng = np.random.default_rng(1)
    for variable in model.weights:
        if variable.name == "kernel":
            variable.assign(rng.normal(size=variable.shape) * np.prod(variable.shape[:3]) ** -0.5)
    return model


def write_checkpoint(folder: Path, *overrides: str) -> tuple[Path, Config]:
    """Writes a checkpoint of the tiny model, changed by `overrides`, beside its tiny dataset."""
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        config = tiny_config(folder, *overrides)
        checkpoint = folder / "best_model"
        save_checkpoint(checkpoint, lively(build_model(config)), None, TrainState(step=7), config)
    return checkpoint, config


def pixels(*size: int, bands: int = 3, seed: int = 0) -> np.ndarray:
    """(2, height, width, bands) bytes."""
    return np.random.default_rng(seed).integers(0, 256, (2, *size, bands), dtype=np.uint8)
