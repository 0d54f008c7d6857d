"""The models compute what the original computes, on weights that follow from names (shared/golden beside the checkout).

Tolerances come from the original's own sensitivity to a perturbation of its input by 2e-6.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import detinit
import keras
import numpy as np
import pytest

from rsseg_tf.backbones import hrnet_w18, resnet50, resnet50_vd
from rsseg_tf.losses import cross_entropy
from rsseg_tf.segmentors import deeplabv3plus, fcn
from rsseg_tf.weights import (
    assign_weights,
    deeplabv3plus_names,
    fcn_names,
    hrnet_names,
    resnet_names,
    resnet_vd_names,
)

_GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"

pytestmark = [
    pytest.mark.parity,
    pytest.mark.slow,
    pytest.mark.skipif(not _GOLDEN.is_dir(), reason="the golden files are not beside the checkout (shared/golden)"),
]


def _vd() -> keras.Model:
    return resnet50_vd(output_stride=8, multi_grid=(1, 2, 4))


_CASES: dict[str, tuple[Callable[[], keras.Model], dict[str, str], Any, Any]] = {
    "fcn_hrnet_w18": (hrnet_w18, hrnet_names(), fcn, fcn_names),
    "fcn_resnet50": (resnet50, resnet_names(), fcn, fcn_names),
    "fcn_resnet50_vd": (_vd, resnet_vd_names(), fcn, fcn_names),
    "deeplabv3p_resnet50": (resnet50, resnet_names(), deeplabv3plus, deeplabv3plus_names),
    "deeplabv3p_resnet50_vd": (_vd, resnet_vd_names(), deeplabv3plus, deeplabv3plus_names),
}


class Case(NamedTuple):
    expected: dict[str, Any]
    arrays: dict[str, np.ndarray]
    backbone: keras.Model
    model: keras.Model


@pytest.fixture(scope="module", params=_CASES)
def case(request: pytest.FixtureRequest) -> Case:
    build_backbone, backbone_names, build, names = _CASES[request.param]
    expected = json.loads((_GOLDEN / f"{request.param}.json").read_text())
    with np.load(_GOLDEN / f"{request.param}.npz") as file:
        arrays = dict(file)
    backbone = build_backbone()
    model = build(backbone, num_classes=expected["num_classes"])
    assign_weights(
        model,
        {name: detinit.weight(name, tuple(shape)) for name, shape, _ in expected["state"]},
        names(backbone_names),
    )
    return Case(expected, arrays, backbone, model)


def _count(variables: list[Any]) -> int:
    return sum(int(np.prod(variable.shape)) for variable in variables)


def test_parameter_counts(case: Case) -> None:
    assert _count(case.model.trainable_weights) == case.expected["trainable"]
    assert _count(case.model.weights) == case.expected["state_values"]


@pytest.mark.parametrize(("height", "width", "step", "stored"), [(128, 128, 1, "out0"), (97, 131, 2, "out0_s2")])
def test_logits(case: Case, height: int, width: int, step: int, stored: str) -> None:
    key = f"eval_{height}x{width}"
    image = detinit.image(key, 1, height, width)
    logits = keras.ops.convert_to_numpy(case.model(image, training=False)["main"])
    expected = case.arrays[f"{key}_{stored}"].transpose(0, 2, 3, 1)

    assert logits.shape == (1, height, width, case.expected["num_classes"])
    difference = np.abs(logits[:, ::step, ::step] - expected).max()
    assert difference <= 1e-4 * expected.std()
    assert (logits.argmax(-1) == case.arrays[f"{key}_argmax"]).mean() >= 0.9999


def test_backbone_features(case: Case) -> None:
    features = case.backbone(detinit.image("eval_128x128", 1, 128, 128), training=False)
    expected = case.expected["eval"]["eval_128x128"]["backbone"]
    assert len(features) == len(expected)
    for name, checksum in zip(sorted(features), expected, strict=True):
        feature = keras.ops.convert_to_numpy(features[name]).transpose(0, 3, 1, 2).astype(np.float64)
        assert list(feature.shape) == checksum["shape"], name
        tolerance = 1e-4 * checksum["std"]
        for statistic in ("mean", "std", "min", "max"):
            assert getattr(feature, statistic)() == pytest.approx(checksum[statistic], abs=tolerance), name
        np.testing.assert_allclose(feature.ravel()[:4], checksum["first"], atol=tolerance)
        np.testing.assert_allclose(feature.ravel()[-4:], checksum["last"], atol=tolerance)


def test_training_loss(case: Case) -> None:
    """Loss of the first step: batch statistics are used, and dropout is off as in the golden run."""
    for layer in case.model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    logits = case.model(detinit.image("train", 2, 128, 128), training=True)["main"]
    label = detinit.label("train", 2, 128, 128, case.expected["num_classes"])
    loss = float(cross_entropy(logits, label, ignore_index=255))
    assert loss == pytest.approx(case.expected["train"]["steps"][0]["loss"], rel=1e-5)
