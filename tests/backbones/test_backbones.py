from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.backbones import (
    convnext,
    convnext_tiny,
    efficientnet,
    efficientnet_b2,
    efficientnet_lite0,
    efficientnet_lite2,
    hrnet,
    mit,
    mit_b0,
    mobilenet_v3,
    mobilenet_v3_large,
    mobilenet_v3_small,
    resnet,
    resnet18,
    resnet18_v1c,
    resnet18_vd,
    resnet50,
    resnet50_vd,
    resnet_vd,
)
from rsseg_tf.errors import ConfigError
from tests.fixtures.backbones import BLOCKS, narrow_mobilenet_v3

_WIDTHS = (4, 4, 8, 8)

_NARROW: dict[str, tuple[Callable[..., keras.Model], dict[str, tuple[int, int]]]] = {
    # Strides and channels of the features.
    "resnet": (
        lambda **options: resnet((1, 1, 2, 1), _WIDTHS, bottleneck=True, **options),
        {"c1": (2, 4), "c2": (4, 16), "c3": (8, 16), "c4": (16, 32), "c5": (32, 32)},
    ),
    "resnet_basic": (
        lambda **options: resnet((1, 2, 1, 1), _WIDTHS, bottleneck=False, **options),
        {"c1": (2, 4), "c2": (4, 4), "c3": (8, 4), "c4": (16, 8), "c5": (32, 8)},
    ),
    "resnet_v1c_8": (
        lambda **options: resnet((1, 1, 2, 2), _WIDTHS, bottleneck=True, deep_stem=True, output_stride=8, **options),
        {"c1": (2, 4), "c2": (4, 16), "c3": (8, 16), "c4": (8, 32), "c5": (8, 32)},
    ),
    "resnet_v1c_basic_16": (
        lambda **options: resnet((1, 1, 1, 2), _WIDTHS, bottleneck=False, deep_stem=True, output_stride=16, **options),
        {"c1": (2, 4), "c2": (4, 4), "c3": (8, 4), "c4": (16, 8), "c5": (16, 8)},
    ),
    "resnet_vd_8": (
        lambda **options: resnet_vd((1, 1, 1, 2), _WIDTHS, bottleneck=True, **options),
        {"c1": (2, 4), "c2": (4, 16), "c3": (8, 16), "c4": (8, 32), "c5": (8, 32)},
    ),
    "resnet_vd_16": (
        lambda **options: resnet_vd((1, 1, 1, 1), _WIDTHS, bottleneck=False, output_stride=16, **options),
        {"c1": (2, 4), "c2": (4, 4), "c3": (8, 4), "c4": (16, 8), "c5": (16, 8)},
    ),
    "resnet_vd_32": (
        lambda **options: resnet_vd((1, 1, 1, 1), _WIDTHS, bottleneck=True, output_stride=32, **options),
        {"c1": (2, 4), "c2": (4, 16), "c3": (8, 16), "c4": (16, 32), "c5": (32, 32)},
    ),
    "convnext": (
        lambda **options: convnext((1, 1, 2, 1), (4, 4, 8, 8), **options),
        {"c2": (4, 4), "c3": (8, 4), "c4": (16, 8), "c5": (32, 8)},
    ),
    "mit": (
        lambda **options: mit((1, 2, 1, 1), (4, 8, 8, 16), heads=(1, 2, 2, 4), **options),
        {"c2": (4, 4), "c3": (8, 8), "c4": (16, 8), "c5": (32, 16)},
    ),
    "mobilenet_v3_8": (
        lambda **options: narrow_mobilenet_v3(output_stride=8, **options),
        {"c1": (2, 4), "c2": (4, 4), "c3": (8, 8), "c4": (8, 8), "c5": (8, 48)},
    ),
    "mobilenet_v3_16": (narrow_mobilenet_v3, {"c1": (2, 4), "c2": (4, 4), "c3": (8, 8), "c4": (16, 8), "c5": (16, 48)}),
    "mobilenet_v3_32": (
        lambda **options: narrow_mobilenet_v3(output_stride=32, reduced_tail=True, **options),
        {"c1": (2, 4), "c2": (4, 4), "c3": (8, 8), "c4": (16, 8), "c5": (32, 24)},
    ),
    "efficientnet": (
        lambda **options: efficientnet(0.25, 0.3, **options),
        {"c1": (2, 8), "c2": (4, 8), "c3": (8, 16), "c4": (16, 32), "c5": (32, 80)},
    ),
    "efficientnet_lite_16": (
        lambda **options: efficientnet(
            0.25, 0.5, lite=True, output_stride=16, first_feature="stem", padding="symmetric", epsilon=1e-5, **options
        ),
        {"c1": (2, 32), "c2": (4, 8), "c3": (8, 16), "c4": (16, 32), "c5": (16, 80)},
    ),
    "efficientnet_lite_8": (
        lambda **options: efficientnet(0.25, 0.3, lite=True, output_stride=8, **options),
        {"c1": (2, 8), "c2": (4, 8), "c3": (8, 16), "c4": (8, 32), "c5": (8, 80)},
    ),
    "hrnet_of_mmsegmentation": (
        lambda **options: hrnet(4, stem_width=8, modules=(1, 1, 1), blocks=1, variant="mmsegmentation", **options),
        {"c1": (2, 8), "c2": (4, 60)},
    ),
    "hrnet_of_timm": (
        lambda **options: hrnet(4, stem_width=8, modules=(1, 1, 1), blocks=1, variant="timm", **options),
        {"c1": (2, 8), "c2": (4, 60)},
    ),
    "hrnet": (
        lambda **options: hrnet(4, stem_width=8, modules=(1, 1, 1), blocks=1, **options),
        {"c1": (2, 8), "c2": (4, 60)},
    ),
}


@pytest.fixture(params=_NARROW)
def narrow(request: pytest.FixtureRequest) -> Any:
    return _NARROW[request.param]


@pytest.mark.parametrize("size", [(64, 64), (49, 67)])
def test_feature_shapes(narrow: Any, size: tuple[int, int]) -> None:
    build, expected = narrow
    model = build()
    features = model(np.zeros((2, *size, 3), "float32"), training=False)
    assert features.keys() == expected.keys()
    for name, (stride, channels) in expected.items():
        assert features[name].shape == (2, -(-size[0] // stride), -(-size[1] // stride), channels), name
        assert model.output[name].shape[-1] == channels


def test_input_channels(narrow: Any) -> None:
    build, _ = narrow
    model = build(in_channels=5)
    assert model.input.shape == (None, None, None, 5)
    assert model(np.zeros((1, 32, 32, 5), "float32"))["c2"].shape[1:3] == (8, 8)


def test_every_variable_gets_a_gradient(narrow: Any) -> None:
    build, _ = narrow
    keras.utils.set_random_seed(0)  # stochastic depth may leave a whole branch out
    model = build()
    # At initialisation the kernels of HRNet are so small that gradients nearly vanish; ordinary ones show more.
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            variable.assign(keras.random.normal(variable.shape, stddev=np.prod(variable.shape[:3]) ** -0.5, seed=1))
    image = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    with tf.GradientTape() as tape:
        features = model(image, training=True)
        loss = sum(tf.reduce_mean(feature**2) for feature in features.values())
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None and np.abs(gradient).max() > 0, variable.path


def test_names_are_unique_and_plain(narrow: Any) -> None:
    build, _ = narrow
    names = [layer.name for layer in build().layers]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "/" in name or name != name.lower()]
    # A second model in the same process has the same names: none was made unique by a counter.
    assert names == [layer.name for layer in build().layers]


def test_same_seed_same_weights(narrow: Any) -> None:
    build, _ = narrow
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        weights.append(build().get_weights())
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)


def test_initial_kernels_differ_between_layers() -> None:
    model = resnet((2, 1, 1, 1), _WIDTHS, bottleneck=True)
    first = model.get_layer("stage1_block1_conv2").kernel
    second = model.get_layer("stage1_block2_conv2").kernel
    assert np.abs(np.asarray(first) - np.asarray(second)).max() > 0.01


def test_dilation_replaces_stride_and_multiplies_with_the_grid() -> None:
    model = resnet_vd((1, 1, 2, 3), _WIDTHS, bottleneck=True, output_stride=8, multi_grid=(1, 2, 4))
    rates = {
        name: model.get_layer(f"{name}_conv2").dilation_rate[0]
        for name in (
            "stage2_block1",
            "stage3_block1",
            "stage3_block2",
            "stage4_block1",
            "stage4_block2",
            "stage4_block3",
        )
    }
    assert list(rates.values()) == [1, 2, 2, 4, 8, 16]
    at_16 = resnet_vd((1, 1, 1, 2), _WIDTHS, bottleneck=True, output_stride=16, multi_grid=(1, 2))
    assert at_16.get_layer("stage4_block2_conv2").dilation_rate == (4, 4)
    assert at_16.get_layer("stage3_block1_conv2").strides == (2, 2)


@pytest.mark.parametrize("bottleneck", [True, False])
def test_the_first_block_of_a_dilated_stage_has_the_dilation_of_the_stage_before(bottleneck: bool) -> None:
    model = resnet((1, 1, 2, 2), _WIDTHS, bottleneck=bottleneck, output_stride=8)
    dilated, other = ("conv2", "conv1") if bottleneck else ("conv1", "conv2")
    names = ("stage2_block1", "stage3_block1", "stage3_block2", "stage4_block1", "stage4_block2")
    assert [model.get_layer(f"{name}_{dilated}").dilation_rate[0] for name in names] == [1, 1, 2, 2, 4]
    assert {model.get_layer(f"{name}_{other}").dilation_rate for name in names} == {(1, 1)}
    assert [model.get_layer(f"{name}_{dilated}").strides[0] for name in names] == [2, 1, 1, 1, 1]


def test_mobilenet_dilates_its_last_blocks() -> None:
    for output_stride, expected in {32: [1, 1, 1], 16: [1, 2, 2], 8: [2, 4, 4]}.items():
        model = narrow_mobilenet_v3(output_stride=output_stride)
        layers = [model.get_layer(f"block{number}_depthwise") for number in (5, 6, 7)]
        assert [layer.dilation_rate[0] for layer in layers] == expected
        assert [layer.strides[0] for layer in layers] == [1 if rate > 1 else 2 for rate in expected[:2]] + [1]
        # The stride that is left out gives no block a shortcut: weights mean the same at any output stride.
        shortcuts = [layer.name for layer in model.layers if layer.name.endswith("_add")]
        assert shortcuts == ["block1_add", "block4_add", "block7_add"]


def test_mobilenet_takes_its_features_from_the_first_blocks_of_a_stride() -> None:
    model = narrow_mobilenet_v3()
    # Block 4 has the stride of block 3.
    c3 = model.get_layer("block3_project_bn").output
    assert model.output["c3"] is c3 and model.get_layer("block4_expand").input is c3


def test_efficientnet_dilates_its_last_blocks() -> None:
    for output_stride, expected in {32: [1, 1, 1, 1, 1], 16: [1, 1, 2, 2, 2], 8: [2, 2, 4, 4, 4]}.items():
        model = efficientnet(0.25, 0.5, output_stride=output_stride)
        names = ("stage4_block1", "stage4_block2", "stage6_block1", "stage6_block2", "stage7_block1")
        layers = [model.get_layer(f"{name}_depthwise") for name in names]
        assert [layer.dilation_rate[0] for layer in layers] == expected
        assert [layer.strides[0] for layer in layers] == [
            2 if number in (0, 2) and rate == 1 else 1 for number, rate in enumerate(expected)
        ]


def test_efficientnet_pads_each_stride_as_it_is_told() -> None:
    # As networks made for images of 260 pixels, with the sides 260, 130, 65, 33 and 17.
    model = efficientnet(0.25, 0.5, padding=("same", "same", "symmetric", "symmetric", "symmetric"))
    padded = [layer.name for layer in model.layers if isinstance(layer, keras.layers.ZeroPadding2D)]
    assert padded == [f"stage{number}_block1_depthwise_pad" for number in (3, 4, 6)]


def test_the_finest_features_are_the_last_of_stride_2() -> None:
    last = {
        "stem_conv_relu": resnet((1, 1, 1, 1), _WIDTHS, bottleneck=True),
        "stem_conv3_relu": resnet_vd((1, 1, 1, 1), _WIDTHS, bottleneck=True),
        "stem_conv1_relu": hrnet(2, stem_width=4, modules=(1, 1, 1), blocks=1),
        "block1_add": narrow_mobilenet_v3(),
        "stem_conv_hard_silu": mobilenet_v3_small(),
    }
    for name, model in last.items():
        assert model.output["c1"] is model.get_layer(name).output
        assert next(iter(model.output)) == "c1"


def test_a_reduced_tail_keeps_what_comes_before() -> None:
    whole, reduced = (
        {weight.path: tuple(weight.shape) for weight in narrow_mobilenet_v3(reduced_tail=halved).weights}
        for halved in (False, True)
    )
    different = {path.split("/")[0] for path in whole if whole[path] != reduced[path]}
    assert different == {
        "block6_project", "block6_project_bn", "block7_expand", "block7_expand_bn", "block7_depthwise",
        "block7_depthwise_bn", "block7_squeeze_conv1", "block7_squeeze_conv2", "block7_project", "block7_project_bn",
        "last_conv", "last_conv_bn",
    }  # fmt: skip
    assert (reduced["block7_expand/kernel"], reduced["last_conv/kernel"]) == ((1, 1, 4, 8), (1, 1, 4, 24))


def test_depthwise_kernels_start_as_large_as_their_taps_want() -> None:
    model = mobilenet_v3_large()
    for name, taps in {"block14_depthwise": 25, "block9_depthwise": 9, "block14_project": 160}.items():
        assert np.std(model.get_layer(name).kernel) == pytest.approx((2 / taps) ** 0.5, rel=0.05)


def test_attention_of_a_mix_transformer_sees_every_pixel() -> None:
    model = mit((1, 1, 1, 1), (4, 8, 8, 16), heads=(1, 2, 2, 4))
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            variable.assign(keras.random.normal(variable.shape, stddev=np.prod(variable.shape[:3]) ** -0.5, seed=1))
    image = np.random.default_rng(0).normal(size=(1, 96, 96, 3)).astype("float32")
    changed = image.copy()
    changed[:, -8:, -8:] += 1
    difference = np.abs(model(changed)["c2"] - model(image)["c2"]).max(axis=(0, -1))
    assert difference[0, 0] > 1e-6  # convolutions alone reach about ten pixels


def test_stochastic_depth_grows_with_depth_and_leaves_images_out_whole() -> None:
    model = mit((2, 2, 1, 1), (4, 4, 4, 4), heads=(1, 1, 1, 1), drop_path=0.5)
    rates = [layer.rate for layer in model.layers if layer.name.endswith("attention_drop")]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4, 0.5])
    assert [layer.rate for layer in model.layers if layer.name.endswith("mlp_drop")] == rates
    layer = model.get_layer("stage4_block1_mlp_drop")
    kept = np.asarray(layer(np.ones((64, 2, 3, 4), "float32"), training=True))
    assert set(np.unique(kept)) == {0.0, 2.0}
    assert (kept == kept[:, :1, :1, :1]).all() and 10 < (kept[:, 0, 0, 0] == 0).sum() < 54
    layer.trainable = False
    np.testing.assert_array_equal(layer(np.ones((8, 2, 3, 4), "float32"), training=True), 1)
    assert not [layer for layer in mit_b0(drop_path=0).layers if layer.name.endswith("_drop")]


def test_a_mix_transformer_takes_images_smaller_than_a_step_of_its_keys() -> None:
    model = mit((1, 1, 1, 1), (4, 8, 8, 16), heads=(1, 2, 2, 4))
    features = tf.function(model)(np.random.default_rng(0).normal(size=(1, 9, 5, 3)).astype("float32"))
    assert [tuple(feature.shape[1:3]) for feature in features.values()] == [(3, 2), (2, 1), (1, 1), (1, 1)]
    assert all(np.isfinite(feature).all() for feature in features.values())


def test_named_builders_are_the_published_networks() -> None:
    # Parameters of torchvision's ResNets without their classifier.
    assert sum(int(np.prod(weight.shape)) for weight in resnet18().trainable_weights) == 11_176_512
    assert sum(int(np.prod(weight.shape)) for weight in resnet50().trainable_weights) == 23_508_032
    # Of SegformerModel in Hugging Face's transformers with its default configuration.
    assert sum(int(np.prod(weight.shape)) for weight in mit_b0().weights) == 3_319_392
    # Those of mmsegmentation's ResNetV1c.
    assert sum(int(np.prod(weight.shape)) for weight in resnet18_v1c().trainable_weights) == 11_195_744
    # Torchvision's 28,589,128 without its classifier and the normalisation before it.
    assert sum(int(np.prod(weight.shape)) for weight in convnext_tiny().weights) == 28_589_128 - 769_000 - 2 * 768
    # Those of timm's EfficientNets without their last convolution and classifier.
    for build, count in (
        (efficientnet_lite0, 2_958_848),
        (efficientnet_lite2, 4_357_952),
        (efficientnet_b2, 7_202_562),
    ):
        assert sum(int(np.prod(weight.shape)) for weight in build().trainable_weights) == count
    assert resnet18_vd().output["c5"].shape[-1] == 512
    assert resnet50_vd(output_stride=16).name == "resnet50_vd"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: resnet50_vd(output_stride=12), "output_stride must be 8, 16 or 32; got 12"),
        (lambda: resnet18_v1c(output_stride=4), "output_stride must be 8, 16 or 32; got 4. 8 is usual"),
        (lambda: resnet50_vd(multi_grid=(1, 2)), "multi_grid must be at least 3 integers"),
        (lambda: resnet50_vd(multi_grid=(1, 0, 1)), "multi_grid must be at least 3 integers of at least 1"),
        (lambda: resnet50_vd(output_stride=32, multi_grid=(2, 2, 2)), "must begin with 1 at output_stride 32"),
        (lambda: resnet_vd((1, 1, 1), bottleneck=True), "depths must be four integers"),
        (lambda: resnet((1, 1, 1, 1), (4, 4, 4), bottleneck=True), "widths must be four integers"),
        (lambda: mobilenet_v3_large(output_stride=4), "output_stride must be 8, 16 or 32; got 4. 16 is usual"),
        (lambda: mobilenet_v3(BLOCKS[:5]), "stride 2 four times, for the strides 4, 8, 16 and 32; got 3 of them"),
        (lambda: mobilenet_v3(BLOCKS, stem_channels=0), "channels of all blocks must be at least 1; got 0"),
        (lambda: convnext((1, 1, 0, 1), (4, 4, 4, 4)), "depths must be four integers of at least 1"),
        (lambda: efficientnet(1, 0), "width, depth and epsilon must be above 0; got 1, 0 and 0.001"),
        (lambda: efficientnet_lite0(output_stride=4), "output_stride must be 8, 16 or 32; got 4. 32 is the network"),
        (lambda: efficientnet_lite0(padding=("same", "symmetric")), "padding must be same or symmetric, or a list"),
        (lambda: mit((1, 1, 1), (4, 4, 4, 4)), "depths must be four integers"),
        (lambda: mit((1, 1, 1, 1), (4, 4, 4, 4)), r"widths must be multiples of heads \(1, 2, 5, 8\)"),
        (lambda: hrnet(0), "width, stem_width and blocks must be at least 1"),
        (lambda: hrnet(4, modules=(1, 1)), "modules must be three integers"),
    ],
)
def test_wrong_arguments(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()
