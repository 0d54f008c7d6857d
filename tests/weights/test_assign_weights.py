from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from rsseg_tf.backbones import efficientnet, hrnet, resnet, resnet_vd
from rsseg_tf.errors import WeightsError
from rsseg_tf.segmentors import deeplabv3plus, fcn, lraspp
from rsseg_tf.weights import (
    assign_weights,
    deeplabv3plus_names,
    efficientnet_names,
    fcn_names,
    hrnet_names,
    lraspp_names,
    mobilenet_v3_names,
    resnet_names,
    resnet_vd_names,
)
from tests.fixtures.backbones import narrow_mobilenet_v3

_DEPTHS, _WIDTHS = (2, 1, 2, 1), (4, 4, 8, 8)


Names = Callable[..., dict[str, str]]

# Builder, the names of the backbone, and those of a segmentor on it.
NETWORKS: dict[str, tuple[Callable[[], keras.Model], Names, Names | None]] = {
    "resnet": (lambda: resnet(_DEPTHS, _WIDTHS, bottleneck=True), resnet_names, None),
    "resnet_basic": (lambda: resnet(_DEPTHS, _WIDTHS, bottleneck=False), resnet_names, None),
    "resnet_vd": (lambda: resnet_vd(_DEPTHS, _WIDTHS, bottleneck=True), resnet_vd_names, None),
    "resnet_vd_basic": (lambda: resnet_vd(_DEPTHS, _WIDTHS, bottleneck=False), resnet_vd_names, None),
    "hrnet": (lambda: hrnet(2, stem_width=4, modules=(1, 2, 1), blocks=2), hrnet_names, None),
    "mobilenet_v3": (narrow_mobilenet_v3, mobilenet_v3_names, None),
    "efficientnet": (lambda: efficientnet(0.25, 0.5), efficientnet_names, None),
    "lraspp": (lambda: lraspp(narrow_mobilenet_v3(), num_classes=3), mobilenet_v3_names, lraspp_names),
    "fcn": (lambda: fcn(_narrow(), num_classes=3), resnet_names, fcn_names),
    "deeplabv3plus": (
        lambda: deeplabv3plus(_narrow(), num_classes=3, aspp_rates=(1, 6), aspp_channels=4),
        resnet_names,
        deeplabv3plus_names,
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_names_cover_every_variable_once(network: str) -> None:
    build, backbone_names, segmentor_names = NETWORKS[network]
    paths = [weight.path for weight in build().weights]
    names = backbone_names(paths)
    if segmentor_names is not None:
        names = segmentor_names(paths, names)
    assert sorted(names.values()) == sorted(paths)


def test_names_are_those_of_released_files() -> None:
    """One of each kind, as they stand in the files."""
    hrnet_paths = [weight.path for weight in hrnet(2, stem_width=4, modules=(1, 2, 1), blocks=2).weights]
    names = hrnet_names(hrnet_paths)
    assert names["conv_layer1_1._conv.weight"] == "stem_conv1/kernel"
    module = "st3.stage_st3_2"
    assert names[f"{module}.branches_func.bb_st3_2_branch_layer_3_1.conv2._batch_norm._mean"] == (
        "stage3_module2_branch3_block1_conv2_bn/moving_mean"
    )
    assert names[f"{module}.fuse_func.residual_st3_2_layer_3_1_2._conv.weight"] == (
        "stage3_module2_fuse_1to3_conv2/kernel"
    )
    mobilenet = mobilenet_v3_names([weight.path for weight in narrow_mobilenet_v3().weights])
    # The first block does not expand, the second does not squeeze; the third does both.
    assert mobilenet["features.1.block.0.0.weight"] == "block1_depthwise/kernel"
    assert mobilenet["features.2.block.2.0.weight"] == "block2_project/kernel"
    assert mobilenet["features.3.block.2.fc1.bias"] == "block3_squeeze_conv1/bias"
    assert mobilenet["features.3.block.3.1._mean"] == "block3_project_bn/moving_mean"
    blocks = efficientnet_names([weight.path for weight in efficientnet(0.25, 1.0).weights])
    # All blocks are one list; the first does not expand.
    assert blocks["_bn0._variance"] == "stem_conv_bn/moving_variance"
    assert blocks["_blocks.0._depthwise_conv.weight"] == "stage1_block1_depthwise/kernel"
    assert blocks["_blocks.0._bn1._mean"] == "stage1_block1_depthwise_bn/moving_mean"
    assert blocks["_blocks.4._se_expand.bias"] == "stage3_block2_squeeze_conv2/bias"
    assert blocks["_blocks.15._expand_conv.weight"] == "stage7_block1_expand/kernel"


def _narrow() -> keras.Model:
    return resnet((1, 1, 1, 1), _WIDTHS, bottleneck=True)


def _small() -> keras.Model:
    """A convolution without bias, a depthwise one, and a normalisation."""
    image = keras.Input((None, None, 2))
    x = keras.layers.Conv2D(3, (1, 2), use_bias=False, name="conv")(image)
    x = keras.layers.DepthwiseConv2D((3, 2), name="depthwise")(x)
    return keras.Model(image, keras.layers.BatchNormalization(name="bn")(x), name="small")


_NAMES = {
    "a.weight": "conv/kernel",
    "b.weight": "depthwise/kernel",
    "b.bias": "depthwise/bias",
    "c.weight": "bn/gamma",
    "c.bias": "bn/beta",
    "c._mean": "bn/moving_mean",
    "c._variance": "bn/moving_variance",
}


def _arrays() -> dict[str, np.ndarray]:
    shapes: dict[str, tuple[int, ...]] = {"a.weight": (3, 2, 1, 2), "b.weight": (3, 1, 3, 2)}
    rng = np.random.default_rng(0)
    return {name: rng.random(shapes.get(name, (3,)), "float32") for name in _NAMES}


def _values(model: keras.Model) -> dict[str, np.ndarray]:
    return {weight.path: np.asarray(weight) for weight in model.weights}


def test_every_value_lands_in_its_place() -> None:
    model, arrays = _small(), _arrays()
    assign_weights(model, arrays, _NAMES)
    values = _values(model)
    for y in range(1):
        for x in range(2):
            for i in range(2):
                for o in range(3):
                    assert values["conv/kernel"][y, x, i, o] == arrays["a.weight"][o, i, y, x]
    for y in range(3):
        for x in range(2):
            for c in range(3):
                assert values["depthwise/kernel"][y, x, c, 0] == arrays["b.weight"][c, 0, y, x]
    for name in list(_NAMES)[2:]:
        np.testing.assert_array_equal(values[_NAMES[name]], arrays[name])


def _without(name: str) -> Callable[[dict[str, Any], dict[str, str]], None]:
    return lambda arrays, names: arrays.pop(name)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without("b.bias"), r"1 tensors missing: b\.bias -> depthwise/bias"),
        (lambda arrays, names: arrays.update({"fc.weight": np.ones(3)}), r"1 tensors left over: fc\.weight"),
        (lambda arrays, names: names.pop("c._mean"), "1 variables without a name in the map: bn/moving_mean"),
        (
            lambda arrays, names: arrays.update({"a.weight": np.ones((3, 3, 1, 2))}),
            r"1 shapes that differ: a\.weight \(3, 3, 1, 2\) -> conv/kernel \(1, 2, 2, 3\)",
        ),
        (lambda arrays, names: arrays.update({"c.bias": np.ones(4)}), r"c\.bias \(4,\) -> bn/beta \(3,\)"),
        (
            lambda arrays, names: arrays.update({"c.bias": np.array([1, np.nan, 1])}),
            r"1 tensors with values that are not finite: c\.bias",
        ),
    ],
)
def test_misfits_are_listed_and_nothing_is_assigned(spoil: Callable[..., Any], message: str) -> None:
    model, arrays, names = _small(), _arrays(), dict(_NAMES)
    before = _values(model)
    spoil(arrays, names)
    with pytest.raises(WeightsError, match=f"do not fit model 'small'.*{message}"):
        assign_weights(model, arrays, names)
    for path, value in _values(model).items():
        np.testing.assert_array_equal(value, before[path])


def test_all_problems_are_told_at_once_and_long_lists_are_cut() -> None:
    arrays = {f"other{index}.weight": np.ones(1) for index in range(8)}
    with pytest.raises(WeightsError) as caught:
        assign_weights(_small(), arrays, _NAMES)
    assert "7 tensors missing" in str(caught.value)
    assert "8 tensors left over: other0.weight" in str(caught.value)
    assert "other4.weight, and 3 more" in str(caught.value)


def test_skips() -> None:
    model, arrays = _small(), _arrays()
    before = _values(model)["conv/kernel"]
    arrays["fc.weight"] = np.ones(3)
    arrays["a.weight"] = np.ones((9, 9, 1, 1))
    assign_weights(model, arrays, _NAMES, skip_arrays=["fc.weight", "a.weight"], skip_variables=["conv/kernel"])
    np.testing.assert_array_equal(_values(model)["conv/kernel"], before)
    np.testing.assert_array_equal(_values(model)["bn/beta"], arrays["c.bias"])


@pytest.mark.parametrize("option", ["skip_arrays", "skip_variables"])
def test_a_skip_that_matches_nothing_is_an_error(option: str) -> None:
    with pytest.raises(WeightsError, match="to skip that do not exist: typo"):
        assign_weights(_small(), _arrays(), _NAMES, **{option: ["typo"]})


def test_backbone_of_a_segmentor_alone() -> None:
    backbone = _narrow()
    model = fcn(backbone, num_classes=3)
    head = np.asarray(model.get_layer("head_conv").kernel)
    names = resnet_names([weight.path for weight in backbone.weights])
    shapes = {weight.path: tuple(weight.shape) for weight in backbone.weights}
    arrays = {
        name: np.full([shapes[path][i] for i in ((3, 2, 0, 1) if len(shapes[path]) == 4 else (0,))], 0.5)
        for name, path in names.items()
    }
    assign_weights(backbone, arrays, names)
    assert float(np.asarray(model.get_layer("stem_conv").kernel).min()) == 0.5
    np.testing.assert_array_equal(np.asarray(model.get_layer("head_conv").kernel), head)
