"""Backbones with weights of torchvision, timm and torchgeo compute what those do (`timm/generate.py`).

The values go the way of a downloaded file: recognised by their names, and loaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsseg_tf.build import build_backbone
from rsseg_tf.config.zoo import Backbone, EfficientNet, HRNet, ResNet, ResNetV1c, ResNetVd
from rsseg_tf.errors import WeightsError
from rsseg_tf.weights.families import recognise
from rsseg_tf.weights.pretrained import LoadReport, backbone_part, load_part
from rsseg_tf.weights.tensors import TensorFile
from tests.parity import detinit

pytestmark = pytest.mark.parity

FOLDER = Path(__file__).parent / "timm"
OTHERS = os.environ.get("RSSEG_TF_TIMM")
FILES = sorted(FOLDER.glob("*.npz")) + (sorted(Path(OTHERS).glob("*.npz")) if OTHERS else [])


def row_of(stem: str) -> Backbone:
    """Returns the backbone for a file of `generate.py`, such as timm_tf_efficientnet_b1."""
    network = stem.partition("_")[2]
    if network.startswith("hrnet"):
        return HRNet(name=network.replace("_v2", ""), variant="timm")  # type: ignore[arg-type]  # one of the names
    if network.startswith("resnet"):
        kinds: dict[str, tuple[Any, str]] = {"c": (ResNetV1c, "_v1c"), "d": (ResNetVd, "_vd")}
        kind, suffix = kinds.get(network[-1], (ResNet, ""))
        row: Backbone = kind(name=network.rstrip("cd") + suffix, output_stride=32)
        return row
    options = {} if network.startswith("tf_") else {"padding": "symmetric", "epsilon": 1e-5}
    return EfficientNet(name=network.removeprefix("tf_"), **options)  # type: ignore[arg-type]  # one of the names


def expected_of(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the tensors of a network, and what was written of it."""
    with np.load(file) as stored:
        facts = dict(stored)
    tensors = {}
    for name, sizes in map(str.split, facts.pop("tensors")):
        known = name.replace("running_mean", "_mean").replace("running_var", "_variance")
        shape = tuple(int(size) for size in sizes.split(","))
        tensors[name] = detinit.weight(known, shape, str(facts["prefix"]))
    return tensors, facts


def load(model: Any, row: Backbone, tensors: dict[str, np.ndarray]) -> LoadReport:
    part = backbone_part(row, [variable.path for variable in model.weights])
    return load_part(model, part, TensorFile("a file", "torch", "", tensors))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_features(file: Path) -> None:
    tensors, facts = expected_of(file)
    row, bands = row_of(file.stem), int(facts["bands"])
    model = build_backbone(row, in_channels=bands)
    report = load(model, row, tensors)
    made = 5 if row.name == "resnet18_vd" else 0  # an identity, see below
    assert report.tensors == len(model.weights) - made
    assert not any(name.startswith(("layer", "blocks", "stage", "conv1")) for name in report.skipped)
    pixels = detinit.image(f"{facts['prefix']}timm", bands, *map(int, facts["size"]))[..., 0]
    features = model(pixels.transpose(1, 2, 0)[None], training=False)
    assert sorted(features) == sorted(key for key in facts if key[0] == "c" and "_" not in key)
    for key, ours in features.items():
        step = {"c1": 12, "c2": 6}.get(key, 3)
        difference = np.abs(np.asarray(ours)[:, ::step, ::step, ::8] - facts[key]).max()
        assert difference <= 1e-4 * facts[f"{key}_spread"], key


# === Files that need a look ===


def tensors_of(name: str) -> dict[str, np.ndarray]:
    return expected_of(FOLDER / f"{name}.npz")[0]


@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("torchvision_resnet50", "ResNet-50"),
        ("timm_resnet18d", "ResNet-18-D"),
        ("torchgeo_resnet18", "ResNet-18"),
        ("torchvision_efficientnet_b0", "EfficientNet-B0"),
        ("timm_tf_efficientnet_b1", "EfficientNet-B1"),
        ("timm_tf_efficientnet_lite0", "EfficientNet-Lite0"),
        ("timm_efficientnet_lite2", "EfficientNet-Lite2"),
    ],
)
def test_a_file_is_recognised_and_described(name: str, described: str) -> None:
    tensors = tensors_of(name)
    family = recognise(tensors)
    assert family is not None and family.name == "torchvision or timm"
    assert family.describe(tensors) == described


def test_a_shortcut_that_timm_has_not_changes_nothing() -> None:
    tensors, row = tensors_of("timm_resnet18d"), ResNetVd(name="resnet18_vd", output_stride=32)
    model = build_backbone(row)
    load(model, row, tensors)
    given = np.random.default_rng(1).normal(size=(1, 3, 3, 64)).astype(np.float32)
    shortcut = model.get_layer("stage1_block1_shortcut_bn")(model.get_layer("stage1_block1_shortcut")(given))
    np.testing.assert_allclose(shortcut, given, rtol=1e-6, atol=1e-6)
    with pytest.raises(WeightsError, match=r"5 tensors missing: layer2.0.downsample.1.weight"):
        load(model, row, {name: a for name, a in tensors.items() if not name.startswith("layer2.0.downsample")})


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("torchvision_resnet50", ResNet(name="resnet18"), "which is resnet18: it holds ResNet-50, as torchvision or"),
        ("timm_resnet18d", ResNet(name="resnet18"), "which is resnet18: it holds ResNet-18-D, as torchvision or timm"),
        ("timm_tf_efficientnet_b1", EfficientNet(name="efficientnet_b2"), "efficientnet_b2: it holds EfficientNet-B1"),
        (
            "torchvision_efficientnet_b0",
            EfficientNet(name="efficientnet_b0"),
            "torchvision computes efficientnet_b0 in another way than padding same with epsilon 0.001 does. Write into "
            "the section of the backbone padding: symmetric and epsilon: 1e-05.",
        ),
        (
            "timm_tf_efficientnet_b1",
            EfficientNet(name="efficientnet_b1", padding="symmetric"),
            r"padding: symmetric and epsilon: 1e-05 or, of weights from TensorFlow \(tf_\*\), padding: same and epsil",
        ),
        (
            "timm_hrnet_w18_small_v2",
            HRNet(name="hrnet_w18_small"),
            "variant paddleseg does. Write model.backbone.varia",
        ),
    ],
)
def test_a_wrong_guess_is_one_line(name: str, row: Backbone, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as error:
        load(build_backbone(row), row, tensors_of(name))
    assert "\n" not in str(error.value)


def test_layers_that_ours_has_not_are_an_error() -> None:
    row = ResNet(name="resnet18")
    tensors = {**tensors_of("torchgeo_resnet18"), "layer1.0.se.fc1.weight": np.zeros((4, 64, 1, 1), np.float32)}
    with pytest.raises(WeightsError, match="it holds ResNet-18 with 1 tensors in its stages that have no place here"):
        load(build_backbone(row, in_channels=13), row, tensors)


def test_whose_an_efficientnet_is_has_to_be_known() -> None:
    row = EfficientNet(name="efficientnet_b1")
    report = load(build_backbone(row), row, tensors_of("timm_tf_efficientnet_b1"))
    (note,) = report.notes
    assert "the config has padding: same and epsilon: 0.001, which TensorFlow's (tf_*) want; timm's own want" in note
