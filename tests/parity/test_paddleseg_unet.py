"""U-Net computes what PaddleSeg's does, on values that follow from names (`paddleseg/generate.py`)."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.backbones import unet_encoder
from rsseg_tf.config.zoo import UNet, UNetEncoder
from rsseg_tf.errors import ConfigError, WeightsError
from rsseg_tf.segmentors import unet
from rsseg_tf.weights.pretrained import LoadReport, Part, load_part
from rsseg_tf.weights.tensors import TensorFile
from tests.parity import detinit
from tests.parity.paddleseg import shapes_of, stored

pytestmark = pytest.mark.parity

CLASSES, SIZE, CHANNELS = 7, (97, 131), (256, 128, 64, 64)
ROW = UNet(name="unet", variant="paddleseg", backbone=UNetEncoder(name="unet_encoder"), decoder_channels=CHANNELS)


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return stored("unet")


@pytest.fixture(scope="module")
def tensors(expected: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    shapes = shapes_of(expected)
    named = {name: "cls." + name[5:] if name.startswith("conv.") else name for name in shapes}
    return {name: detinit.weight(named[name], shape) for name, shape in shapes.items()}


def build(**options: Any) -> keras.Model:
    return unet(unet_encoder(), num_classes=CLASSES, variant="paddleseg", decoder_channels=CHANNELS, **options)


def load(model: keras.Model, row: Any, tensors: dict[str, np.ndarray]) -> LoadReport:
    part = Part("model", row, None, tuple(variable.path for variable in model.weights), whole=True)
    return load_part(model, part, TensorFile("a file", "paddle", "", tensors))


@pytest.mark.parametrize("align_corners", [False, True])
def test_logits(align_corners: bool, expected: dict[str, np.ndarray], tensors: dict[str, np.ndarray]) -> None:
    model = build(align_corners=align_corners)
    report = load(model, ROW, tensors)
    assert report.skipped == () and len(tensors) == len(model.weights) + 2, "the classifier stands there twice"
    logits = np.asarray(model(detinit.image("unet", 1, *SIZE), training=False)["main"])
    key = f"logits align_corners={align_corners}"
    assert np.abs(logits[:, ::3, ::3] - expected[key]).max() <= 1e-4 * expected[f"{key} spread"]


def test_a_step_of_training(expected: dict[str, np.ndarray], tensors: dict[str, np.ndarray]) -> None:
    model = build()
    load(model, ROW, tensors)
    of_logits = detinit.uniform("gradient", (2, CLASSES, *SIZE), -1.0, 1.0).transpose(0, 2, 3, 1)
    with tf.GradientTape() as tape:
        logits = model(detinit.image("train", 2, *SIZE), training=True)["main"]
        total = tf.reduce_sum(logits * of_logits)
    assert np.abs(np.asarray(logits)[:, ::3, ::3] - expected["train"]).max() <= 1e-4 * expected["train spread"]
    variables = {variable.path: variable.value for variable in model.trainable_weights}
    gradients = {path: np.asarray(gradient) for path, gradient in tape.gradient(total, variables).items()}
    ours = {
        "cls.weight": "head_classifier",
        "decode.up_sample_list.0.double_conv.0._conv.weight": "decoder_block1_conv1",
        "encode.down_sample_list.3.2._conv.weight": "stage5_conv2",
        "encode.double_conv.0._conv.weight": "stage1_conv1",
    }
    assert {f"grad {name}" for name in ours} == {name for name in expected if name.startswith("grad ")}
    for name, layer in ours.items():
        gradient, theirs = gradients[f"{layer}/kernel"].transpose(3, 2, 0, 1)[:16, :16], expected[f"grad {name}"]
        # A pixel at the corner of the ReLU may be on its other side, which all gradients before it see.
        assert np.linalg.norm(gradient - theirs) <= 1e-2 * np.linalg.norm(theirs), name


def test_what_does_not_fit_is_said(tensors: dict[str, np.ndarray]) -> None:
    with pytest.raises(
        WeightsError, match="PaddleSeg's names, and model.variant is smp.* Write model.variant: paddleseg"
    ):
        load(build(), ROW.model_copy(update={"variant": "smp"}), tensors)
    with pytest.raises(ConfigError, match="variant of unet must be smp or paddleseg; got torch"):
        unet(unet_encoder(), num_classes=2, variant="torch")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"channels must be integers of at least 1; got \(8, 0\)"):
        unet_encoder(channels=(8, 0))
