"""Runs tiny models on Keras's JAX backend; a process of its own, since a process has one backend.

    KERAS_BACKEND=jax python -m tests.on_jax FOLDER

The folder holds `<name>.npz` with weights and `main`, what TensorFlow gives. Prints a line for each model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from rsseg_tf import backbones, losses, segmentors, ssl
from rsseg_tf.ssl.contrast import info_nce
from rsseg_tf.ssl.swav import sinkhorn
from tests.narrow import narrow_mobilenet_v3

CLASSES = 4
IMAGE = np.random.default_rng(0).normal(size=(2, 40, 33, 3)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, CLASSES, (2, 40, 33)).astype(np.int32)


def _resnet() -> keras.Model:
    return backbones.resnet((1, 1, 1, 1), (4, 4, 8, 8), bottleneck=True)


def _resnet_vd() -> keras.Model:
    return backbones.resnet_vd((1, 1, 1, 1), (4, 4, 8, 8), bottleneck=True)


def _hrnet() -> keras.Model:
    return backbones.hrnet(2, stem_width=4, modules=(1, 1, 1), blocks=1)


def _c2fnet() -> keras.Model:
    with keras.name_scope("coarse"):
        coarse = segmentors.fcn(_hrnet(), num_classes=CLASSES)
    with keras.name_scope("fine"):
        backbone = _hrnet()
    return segmentors.c2fnet(backbone, coarse=coarse, num_classes=CLASSES, small_classes=(1, 3), window_size=16)


MODELS: dict[str, Callable[[], keras.Model]] = {
    "fcn": lambda: segmentors.fcn(_hrnet(), num_classes=CLASSES),
    "deeplabv3plus": lambda: segmentors.deeplabv3plus(_resnet_vd(), num_classes=CLASSES, aspp_rates=(1, 2)),
    "pspnet": lambda: segmentors.pspnet(_resnet(), num_classes=CLASSES, pyramid_channels=8),
    "upernet": lambda: segmentors.upernet(_resnet_vd(), num_classes=CLASSES, channels=8),
    "danet": lambda: segmentors.danet(_resnet(), num_classes=CLASSES),
    "ocrnet": lambda: segmentors.ocrnet(_resnet(), num_classes=CLASSES, ocr_channels=8, key_channels=4),
    "hrnet_contrast": lambda: segmentors.hrnet_contrast(_hrnet(), num_classes=CLASSES, projection_channels=6),
    "lraspp": lambda: segmentors.lraspp(narrow_mobilenet_v3(), num_classes=CLASSES, channels=8),
    "c2fnet": _c2fnet,
}


def forward(model: keras.Model) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(model(IMAGE, training=False)["main"]))


def loss_values() -> dict[str, float]:
    """The value of every loss on made-up outputs."""
    logits = np.random.default_rng(2).normal(size=(2, 40, 33, CLASSES)).astype(np.float32)
    embedding = logits / np.linalg.norm(logits, axis=-1, keepdims=True)
    outputs = {"logits": logits, "embedding": embedding}
    per_pixel: tuple[Any, ...] = (losses.cross_entropy, losses.dice, losses.focal, losses.lovasz_softmax)
    values = {loss.__name__: loss(logits, LABELS, ignore_index=0) for loss in per_pixel}
    values["ohem"] = losses.ohem_cross_entropy(logits, LABELS, ignore_index=0, min_kept=100)
    values["contrast"] = losses.pixel_contrast(outputs, LABELS, ignore_index=0, seed=3)
    rows = embedding[0, :6, 0]
    values["info_nce"] = info_nce(rows, embedding[1, :6, 0], embedding[1, :, 1], temperature=0.2)
    values["sinkhorn"] = keras.ops.max(sinkhorn(rows))
    return {name: float(value) for name, value in values.items()}


METHODS: dict[str, Callable[[], ssl.Method]] = {
    "moco_v2": lambda: ssl.MoCoV2(_resnet, dim=6, queue_size=8, key_bn_splits=2),
    "densecl": lambda: ssl.DenseCL(_resnet, dim=6, queue_size=8, key_bn_splits=2),
    "simsiam": lambda: ssl.SimSiam(_resnet, dim=12, predictor_hidden=4),
    "swav": lambda: ssl.SwAV(_resnet, dim=6, hidden=8, prototypes=7, queue_size=4),
    "pixpro": lambda: ssl.PixPro(_resnet, steps=10, dim=6, hidden=8, instance_weight=0.5),
    "moco_byol": lambda: ssl.MoCoBYOL(_resnet, steps=10, dim=6, hidden=8, queue_size=16),
}


def pretraining_losses(name: str) -> list[float]:
    """Two steps of a method without an optimizer, so that queues and momentum encoders have moved."""
    method, found = METHODS[name](), []
    views = np.random.default_rng(4).normal(size=(4, 2, 64, 64, 3)).astype(np.float32)
    affines = np.tile(np.array([[0.6, 0, 0.1], [0, 0.6, 0.2]], np.float32), (4, 2, 1, 1))
    batch = {"views": keras.ops.convert_to_tensor(views), "affines": keras.ops.convert_to_tensor(affines)}
    for i in (0, 1):
        step = keras.ops.convert_to_tensor(i, "int32")
        method.before_step(step)
        outcome = method.objective(batch, step=step, devices=ssl.OneDevice())
        method.after_step(step, outcome.memory)
        found.append(float(outcome.loss))
    return found


def main(folder: Path) -> None:
    assert keras.backend.backend() == "jax"
    for name, build in MODELS.items():
        model = build()
        with np.load(folder / f"{name}.npz") as arrays:
            for variable in model.weights:
                variable.assign(arrays[variable.path])
            expected = arrays["main"]
        difference = np.abs(forward(model) - expected).max() / expected.std()
        assert difference < 1e-4, (name, difference)
        print(f"{name}: {difference:.1e}")
    with np.load(folder / "losses.npz") as arrays:
        for name, value in loss_values().items():
            assert abs(value - arrays[name]) <= 1e-4 * abs(arrays[name]), (name, value, arrays[name])
    for name in METHODS:
        assert np.isfinite(pretraining_losses(name)).all(), name
    assert "tensorflow" not in sys.modules
    print("all of it without TensorFlow")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
