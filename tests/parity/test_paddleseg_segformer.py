"""SegFormer computes what PaddleSeg's does, on values that follow from names (`paddleseg/generate.py`)."""

from __future__ import annotations

import importlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.build import build_backbone
from rsseg_tf.config.zoo import FCN, MiT, SegFormer
from rsseg_tf.errors import WeightsError
from rsseg_tf.segmentors import segformer
from rsseg_tf.weights.pretrained import LoadReport, Part, backbone_part, load_part
from rsseg_tf.weights.tensors import TensorFile
from tests.parity import detinit
from tests.parity.paddleseg import shapes_of, stored

pytestmark = pytest.mark.parity

B0 = MiT(name="mit_b0", norm_epsilon=1e-6, embed_epsilon=1e-5, drop_path=0.0)
CLASSES, SIZE = 7, (97, 131)


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Value of a tensor in Paddle's layout, in which linear layers are (in, out)."""
    name = name.replace("_variance", "running_var")
    turned = len(shape) == 2
    array = detinit.transformer_weight(name, shape[::-1] if turned else shape)
    return array.T if turned else array


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return stored("segformer_b0")


@pytest.fixture(scope="module")
def tensors(expected: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value(name, shape) for name, shape in shapes_of(expected).items()}


def load(model: keras.Model, row: Any, tensors: dict[str, np.ndarray]) -> LoadReport:
    paths = [variable.path for variable in model.weights]
    whole = isinstance(row, SegFormer | FCN)
    part = Part("model", row, None, tuple(paths), whole=True) if whole else backbone_part(row, paths)
    return load_part(model, part, TensorFile("a file", "paddle", "", tensors))


def assert_close(ours: Any, theirs: np.ndarray, spread: Any, tolerance: float = 1e-4) -> None:
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * spread


def test_the_encoder(expected: dict[str, np.ndarray], tensors: dict[str, np.ndarray]) -> None:
    alone = {name.removeprefix("backbone."): x for name, x in tensors.items() if name.startswith("backbone.")}
    model = build_backbone(B0)
    assert load(model, B0, alone).skipped == ()  # files of the encoder have no prefix
    for name, feature in model(detinit.image("encoders", 1, *SIZE), training=False).items():
        assert_close(feature[:, ::3, ::3, ::8], expected[name], expected[f"{name}_spread"])
    other = build_backbone(B0)
    assert any(name.startswith("linear_") for name in load(other, B0, tensors).skipped)
    for ours, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


def test_logits_and_gradients(expected: dict[str, np.ndarray], tensors: dict[str, np.ndarray]) -> None:
    row = SegFormer(name="segformer", backbone=B0, dropout=0.0)
    model = segformer(build_backbone(B0), num_classes=CLASSES, dropout=0.0, channel_dropout=True)
    report = load(model, row, tensors)
    assert report.skipped == ()
    # The layer that joins the features has four parts, keys and values are two layers here.
    packed = sum(".kv." in name for name in tensors)
    assert report.tensors == len(tensors) + 3 + packed == len(model.weights)
    logits = model(detinit.image("encoders", 1, *SIZE), training=False)["main"]
    assert_close(logits[:, ::3, ::3], expected["logits"], expected["logits_spread"])

    of_logits = detinit.uniform("gradient", (2, CLASSES, *SIZE), -1.0, 1.0).transpose(0, 2, 3, 1)
    with tf.GradientTape() as tape:
        logits = model(detinit.image("train", 2, *SIZE), training=True)["main"]
        total = tf.reduce_sum(logits * of_logits)
    assert_close(logits[:, ::3, ::3], expected["train"], expected["train_spread"])
    variables = {variable.path: variable.value for variable in model.trainable_weights}
    gradients = {path: np.asarray(gradient) for path, gradient in tape.gradient(total, variables).items()}
    fuse = [gradients[f"head_fuse{i}/kernel"][0, 0].T for i in (4, 3, 2, 1)]
    kv = [gradients[f"stage1_block1_attention_{name}/kernel"][0, 0] for name in ("key", "value")]
    ours = {
        "linear_pred.weight": gradients["head_classifier/kernel"].transpose(3, 2, 0, 1),
        "linear_fuse._conv.weight": np.concatenate(fuse, axis=1)[:, :, None, None],
        "backbone.block1.0.attn.kv.weight": np.concatenate(kv, axis=1),
        "backbone.patch_embed1.proj.weight": gradients["stage1_embed/kernel"].transpose(3, 2, 0, 1),
    }
    assert {f"grad {name}" for name in ours} == {name for name in expected if name.startswith("grad ")}
    for name, gradient in ours.items():
        theirs = expected[f"grad {name}"]
        # A pixel at the corner of the ReLU may be on its other side, which all gradients before it see.
        assert np.linalg.norm(gradient[::4, ::4] - theirs) <= 1e-2 * np.linalg.norm(theirs), name


def test_whole_channels_are_dropped() -> None:
    kinds = {
        channels: type(segformer(build_backbone(B0), num_classes=2, channel_dropout=channels).get_layer("head_dropout"))
        for channels in (False, True)
    }
    assert kinds == {False: keras.layers.Dropout, True: keras.layers.SpatialDropout2D}


def test_what_does_not_fit_is_said(tensors: dict[str, np.ndarray]) -> None:
    plain = MiT(name="mit_b0")
    for row, message in (
        (plain, "norm_epsilon of mit_b0 is 1e-05, and .* takes 1e-06"),
        (MiT(name="mit_b0", norm_epsilon=1e-6), "embed_epsilon of mit_b0 is 1e-06, and .* takes 1e-05"),
        (MiT(name="mit_b1", norm_epsilon=1e-6, embed_epsilon=1e-5), "holds SegFormer on MiT-B0, 7 classes, as Paddle"),
    ):
        with pytest.raises(WeightsError, match=message):
            load(build_backbone(plain), row, tensors)


# Parameters of PaddleSeg's encoders, as `generate.py --all` prints them.
@pytest.mark.parametrize(("name", "count"), [("mit_b3", 44_072_128), ("mit_b4", 60_842_688), ("mit_b5", 81_443_008)])
def test_the_large_ones_have_as_many_parameters(name: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    module = importlib.import_module("rsseg_tf.backbones.mit")  # the package has a function of that name

    def record(depths: tuple[int, ...], widths: tuple[int, ...], **_: Any) -> keras.Model:
        built.append((depths, widths))
        return keras.Sequential()

    monkeypatch.setattr(module, "mit", record)
    getattr(module, name)()
    [(depths, widths)] = built
    total, before = 0, 3
    for depth, width, patch, reduction in zip(depths, widths, (7, 3, 3, 3), (8, 4, 2, 1), strict=True):
        norm, linear = 2 * width, width * width + width
        reduced = width * width * reduction**2 + width + norm if reduction > 1 else 0
        mlp = 4 * width * width + 4 * width + 9 * 4 * width + 4 * width + 4 * width * width + width
        total += before * width * patch**2 + width + norm + depth * (2 * norm + 4 * linear + reduced + mlp) + norm
        before = width
    assert total == count
