"""keras-hub's ResNets compute what ours compute with their weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from rsseg_tf.backbones import resnet18, resnet18_vd, resnet50, resnet50_vd
from rsseg_tf.errors import WeightsError
from rsseg_tf.weights.presets import is_preset, preset_tensors, read_preset

HUB_NAMES = {"shortcut": "0", "conv1": "1", "conv2": "2", "conv3": "3"}


def as_hub_names_it(path: str) -> str:
    """The path in keras_hub.models.ResNetBackbone of a weight of ours."""
    layer, kind = path.split("/")
    part = "bn" if layer.endswith("_bn") else "conv"
    layer = layer.removesuffix("_bn")
    if layer.startswith("stem_conv"):
        return f"conv{layer.removeprefix('stem_conv') or '1'}_{part}/{kind}"
    stage, block, conv = layer.split("_")
    return f"stack{int(stage[5:]) - 1}_block{int(block[5:]) - 1}_{HUB_NAMES[conv]}_{part}/{kind}"


class _Weight:
    def __init__(self, path: str, value: np.ndarray) -> None:
        self.path, self.value = path, value

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.value


@pytest.mark.parametrize("build", [resnet18, resnet50, resnet18_vd, resnet50_vd])
def test_names_are_turned_into_ours(build: Callable[[], keras.Model]) -> None:
    ours = {variable.path: variable.numpy() for variable in build().weights}
    theirs = SimpleNamespace(weights=[_Weight(as_hub_names_it(path), value) for path, value in ours.items()])
    tensors = preset_tensors(theirs, "x")
    assert tensors.keys() == ours.keys()
    assert all(tensors[path] is value for path, value in ours.items())


def test_another_network_is_refused() -> None:
    with pytest.raises(WeightsError, match="The preset x is no ResNet of this package: it has a weight block1/kernel"):
        preset_tensors(SimpleNamespace(weights=[_Weight("block1/kernel", np.zeros(1))]), "x")


def test_what_counts_as_a_preset() -> None:
    for name in ("resnet_vd_50_ssld_v2_imagenet", "resnet_50_imagenet", "hf://keras/resnet_vd_50_ssld_v2_imagenet"):
        assert is_preset(name)
    for name in ("resnet50.pdparams", "output/best_model", "https://example.org/resnet_50", "resnet"):
        assert not is_preset(name)


def test_without_keras_hub_or_network_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(WeightsError, match=r'not installed: pip install "\.\[hub\]"'):
        read_preset("resnet_50_imagenet", offline=False)
    with pytest.raises(WeightsError, match="may use the network. Leave --offline out, once"):
        read_preset("resnet_50_imagenet", offline=True)


def test_an_error_of_keras_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> None:
        raise ValueError(f"no\npreset {name}")

    hub = SimpleNamespace(models=SimpleNamespace(Backbone=SimpleNamespace(from_preset=fails)))
    monkeypatch.setitem(sys.modules, "keras_hub", hub)
    with pytest.raises(WeightsError, match="cannot give the preset resnet_50: no preset resnet_50"):
        read_preset("resnet_50", offline=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "depths", "build"),
    [
        ("bottleneck_block_vd", (3, 4, 6, 3), partial(resnet50_vd, output_stride=32)),
        ("bottleneck_block", (3, 4, 6, 3), resnet50),
        ("basic_block_vd", (2, 2, 2, 2), partial(resnet18_vd, output_stride=32)),
    ],
)
def test_features_are_those_of_keras_hub(block: str, depths: tuple[int, ...], build: Callable[[], keras.Model]) -> None:
    keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    deep = block.endswith("_vd")
    theirs = keras_hub.models.ResNetBackbone(
        input_conv_filters=[32, 32, 64] if deep else [64],
        input_conv_kernel_sizes=[3, 3, 3] if deep else [7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=list(depths),
        stackwise_num_strides=[1, 2, 2, 2],
        block_type=block,
        image_shape=(None, None, 3),
    )
    ours, tensors = build(), preset_tensors(theirs, "x")
    for variable in ours.weights:
        variable.assign(tensors[variable.path])
    image = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("float32")
    expected = np.asarray(theirs(image, training=False))
    np.testing.assert_allclose(ours(image, training=False)["c5"], expected, atol=1e-4 * expected.std())
