from __future__ import annotations

import gc
import json
import weakref
from collections import Counter
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.layers import (
    AdaptiveAveragePooling,
    BatchNorm,
    HalvingMaxPool,
    ResizeLike,
    average_pool_ceil,
    conv_bn,
    kernel_initializer,
    max_pool_3x3,
    separable_conv_bn_relu,
    shared_constant,
)
from rsseg_tf.layers.resize import _interpolation_weights
from tests.fixtures.golden import GOLDEN

needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="the golden files are not beside the checkout (shared/golden)"
)


@pytest.fixture(scope="module")
def pieces() -> dict[str, np.ndarray]:
    """Arrays of the original, as NHWC."""
    with np.load(GOLDEN / "pieces.npz") as file:
        return {name: file[name].transpose(0, 2, 3, 1) for name in file if file[name].ndim == 4}


def _resize(x: np.ndarray, size: tuple[int, int], *, align_corners: bool, half_pixel: bool = True) -> np.ndarray:
    reference = np.zeros((1, *size, 1), "float32")
    layer = ResizeLike(align_corners=align_corners, half_pixel_centers=half_pixel)
    return keras.ops.convert_to_numpy(layer(x, reference))


# --- resize ---


@needs_golden
@pytest.mark.parity
@pytest.mark.parametrize("size", [(13, 20), (4, 5)])
@pytest.mark.parametrize(("align_corners", "half_pixel"), [(False, True), (True, True), (False, False)])
def test_resize_equals_original(
    pieces: dict[str, np.ndarray], size: tuple[int, int], align_corners: bool, half_pixel: bool
) -> None:
    expected = pieces[f"interp_bilinear_ac{int(align_corners)}_am{int(not half_pixel)}_{size[0]}x{size[1]}"]
    resized = _resize(pieces["fn_x"], size, align_corners=align_corners, half_pixel=half_pixel)
    np.testing.assert_allclose(resized, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(13, 20), (4, 5), (1, 1), (7, 9)])
@pytest.mark.parametrize(("align_corners", "half_pixel"), [(False, True), (True, False), (False, False)])
def test_generic_resize_equals_tensorflow(size: tuple[int, int], align_corners: bool, half_pixel: bool) -> None:
    """The weights used on other backends give what TensorFlow's kernel gives."""
    x = np.random.default_rng(0).normal(size=(1, 7, 9, 2)).astype("float32")
    rows, columns = (
        np.asarray(_interpolation_weights(old, new, align_corners=align_corners, half_pixel=half_pixel))
        for old, new in zip((7, 9), size, strict=True)
    )
    expected = _resize(x, size, align_corners=align_corners, half_pixel=half_pixel)
    np.testing.assert_allclose(np.einsum("Hh,bhwc,Ww->bHWc", rows, x, columns), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(14, 18), (13, 17)])
def test_a_factor_is_a_step_of_its_own(size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=(1, 7, 9, 2)).astype("float32")
    layer = ResizeLike(factor=2)
    in_two_steps = _resize(_resize(x, (14, 18), align_corners=False), size, align_corners=False)
    unknown = [tf.TensorSpec((None, None, None, channels), tf.float32) for channels in (2, 1)]
    for call in (layer, tf.function(layer, input_signature=unknown)):
        np.testing.assert_allclose(call(x, np.zeros((1, *size, 1), "float32")), in_two_steps, atol=1e-6)
    same = np.abs(_resize(x, size, align_corners=False) - in_two_steps).max() < 1e-6
    assert same == (size == (14, 18))
    with pytest.raises(ValueError, match="factor must be at least 1; got 0"):
        ResizeLike(factor=0)


def test_resize_keeps_dtype_or_gives_that_of_its_policy() -> None:
    x = keras.ops.ones((1, 2, 2, 1), "bfloat16")
    reference = keras.ops.ones((1, 4, 4, 1), "bfloat16")
    assert keras.backend.standardize_dtype(ResizeLike(dtype="mixed_bfloat16")(x, reference).dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(ResizeLike(dtype="float32")(x, reference).dtype) == "float32"


# --- pooling ---


@needs_golden
@pytest.mark.parity
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_adaptive_pooling_equals_original(pieces: dict[str, np.ndarray], bins: int) -> None:
    pooled = keras.ops.convert_to_numpy(AdaptiveAveragePooling(bins)(pieces["fn_x"]))
    np.testing.assert_allclose(pooled, pieces[f"adaptive_avg_{bins}"], atol=1e-6)


@pytest.mark.parametrize("bins", [1, 3, 6])
@pytest.mark.parametrize("size", [(4, 4), (7, 9)])
def test_adaptive_pooling_equals_definition(bins: int, size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    expected = np.empty((2, bins, bins, 3), "float32")
    for i in range(bins):
        for j in range(bins):
            rows = slice(i * size[0] // bins, -(-(i + 1) * size[0] // bins))
            columns = slice(j * size[1] // bins, -(-(j + 1) * size[1] // bins))
            expected[:, i, j] = x[:, rows, columns].mean((1, 2))
    np.testing.assert_allclose(np.asarray(AdaptiveAveragePooling(bins)(x)), expected, atol=1e-6)


def test_adaptive_pooling_refuses_no_bins() -> None:
    with pytest.raises(ValueError, match="at least 1; got 0"):
        AdaptiveAveragePooling(0)


@needs_golden
@pytest.mark.parity
def test_pooling_at_borders_equals_original(pieces: dict[str, np.ndarray]) -> None:
    x = pieces["fn_x"]
    np.testing.assert_allclose(np.asarray(average_pool_ceil(x, name="mean")), pieces["avgpool2_ceil"], atol=1e-6)
    # Our maximum pads with zeros: shifted so that all values are positive it is the original's.
    maximum = np.asarray(max_pool_3x3(x + 2, name="max")) - 2
    np.testing.assert_allclose(maximum, pieces["maxpool3s2p1"], atol=1e-6)


# --- convolutions ---


@needs_golden
@pytest.mark.parity
@pytest.mark.parametrize(
    ("size", "strides", "dilation", "padding", "stored"),
    [
        ((7, 9), 2, 1, "same", "conv_same_s2_7x9"),
        ((7, 9), 2, 1, "symmetric", "conv_pad1_s2_7x9"),
        ((6, 8), 2, 1, "same", "conv_same_s2_6x8"),
        ((6, 8), 2, 1, "symmetric", "conv_pad1_s2_6x8"),
    ],
)
def test_padding_equals_original(
    pieces: dict[str, np.ndarray], size: tuple[int, int], strides: int, dilation: int, padding: Any, stored: str
) -> None:
    image = keras.Input((None, None, 2))
    model = keras.Model(image, conv_bn(image, 3, 3, strides=strides, dilation=dilation, padding=padding, name="conv"))
    with np.load(GOLDEN / "pieces.npz") as file:
        model.get_layer("conv").kernel.assign(file["fn_w"].transpose(2, 3, 1, 0))
    convolved = model(pieces["fn_x"][:, : size[0], : size[1]], training=False) * np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(np.asarray(convolved), pieces[stored], atol=1e-5)


def test_default_kernels_have_the_originals_variance() -> None:
    ordinary = np.asarray(kernel_initializer()((3, 3, 64, 256)))
    assert ordinary.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    assert np.abs(ordinary).max() > 3.5 * ordinary.std()  # Not truncated at two standard deviations.
    # A depthwise kernel counts all the channels of its layer.
    depthwise = np.asarray(kernel_initializer()((3, 3, 4096, 1)))
    assert depthwise.std() == pytest.approx(np.sqrt(2 / (9 * 4096)), rel=0.02)
    assert np.asarray(kernel_initializer(0.001)((3, 3, 64, 256))).std() == pytest.approx(0.001, rel=0.02)


def test_separable_block_has_no_relu_between_its_convolutions() -> None:
    image = keras.Input((None, None, 2))
    model = keras.Model(image, separable_conv_bn_relu(image, 4, 3, dilation=2, name="block"))
    assert [layer.name for layer in model.layers[1:]] == [
        "block_depthwise",
        "block_depthwise_bn",
        "block_pointwise",
        "block_pointwise_bn",
        "block_pointwise_relu",
    ]
    assert model.get_layer("block_depthwise").use_bias
    assert model.get_layer("block_pointwise").use_bias


# --- batch normalisation ---


def _literal_batch_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, ...]:
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta, 0.1 * mean, 0.9 + 0.1 * variance


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 2, 1, 3), (4, 1, 1, 3)])
def test_batch_norm_in_training(shape: tuple[int, ...], in_graph: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 3.0, shape).astype("float32")
    gamma, beta = rng.normal(size=(2, 3)).astype("float32")
    layer = BatchNorm()
    layer.build(shape)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    call = tf.function(layer) if in_graph else layer
    y = call(tf.constant(x), training=True)
    expected, mean, variance = _literal_batch_norm(x.astype("float64"), gamma, beta)
    np.testing.assert_allclose(np.asarray(y), expected, atol=2e-5)
    np.testing.assert_allclose(np.asarray(layer.moving_mean), mean, rtol=1e-5, atol=1e-6)
    # Biased: the mean of squares, not multiplied by n / (n - 1).
    np.testing.assert_allclose(np.asarray(layer.moving_variance), variance, rtol=1e-5)


@needs_golden
@pytest.mark.parity
def test_batch_norm_of_a_single_value_equals_original() -> None:
    expected = json.loads((GOLDEN / "pieces.json").read_text())["bn_train_single_value"]
    layer = BatchNorm()
    x = np.asarray(expected["x"], "float32").reshape(1, 1, 1, -1)
    y = layer(x, training=True)
    np.testing.assert_allclose(np.asarray(y).ravel(), expected["y"], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(layer.moving_mean), expected["running_mean"])
    np.testing.assert_allclose(np.asarray(layer.moving_variance), 1.0)


def test_batch_norm_of_pooled_features_in_a_graph_of_unknown_batch_size() -> None:
    layer = BatchNorm()
    call = tf.function(lambda x: layer(x, training=True), input_signature=[tf.TensorSpec((None, 1, 1, 2), tf.float32)])
    np.testing.assert_allclose(np.asarray(call(tf.constant([[[[3.0, -2.0]]]])))[0, 0, 0], [3.0, -2.0], rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(layer.moving_variance), 1.0)
    two = np.asarray(call(tf.constant([[[[3.0, -2.0]]], [[[1.0, 0.0]]]])))
    np.testing.assert_allclose(two[:, 0, 0, 0], [1.0, -1.0], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(layer.moving_mean), [0.2, -0.1], rtol=1e-6)


def test_batch_norm_of_a_single_value_has_the_gradient_of_the_identity() -> None:
    layer = BatchNorm()
    x = tf.constant([[[[0.5, -2.0]]]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    gradient = tape.gradient(y, x)
    np.testing.assert_allclose(np.asarray(gradient), np.ones((1, 1, 1, 2)))


def test_batch_norm_gradients_equal_the_generic_layers() -> None:
    rng = np.random.default_rng(1)
    x = tf.constant(rng.normal(size=(2, 4, 5, 3)).astype("float32"))
    target = tf.constant(rng.normal(size=(2, 4, 5, 3)).astype("float32"))
    gradients = []
    for layer in (BatchNorm(), keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(target * layer(x, training=True))
        gradients.append(tape.gradient(loss, [x, layer.gamma.value, layer.beta.value]))
    for ours, generic in zip(*gradients, strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(generic), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_trains_by_one_operation(dtype: str, affine: bool) -> None:
    layer, shape = BatchNorm(affine=affine, dtype=dtype), (3, 4, 5, 7)
    generic = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, center=affine, scale=affine, dtype=dtype)
    x = tf.cast(np.random.default_rng(0).normal(3.0, 2.0, shape), layer.compute_dtype)
    layer.build(shape)
    call = tf.function(lambda x: layer(x, training=True)).get_concrete_function(x)
    assert [operation.type for operation in call.graph.get_operations()].count("FusedBatchNormV3") == 1
    y, expected = call(x), generic(x, training=True)
    assert y.dtype == expected.dtype
    tolerance = {"float32": 1e-5, "mixed_float16": 2e-3, "mixed_bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(tf.cast(y, "float32"), tf.cast(expected, "float32"), atol=tolerance)
    np.testing.assert_allclose(np.asarray(layer.moving_mean), np.asarray(generic.moving_mean), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(layer.moving_variance), np.asarray(generic.moving_variance), rtol=1e-5)


def test_layers_of_a_graph_share_their_constants() -> None:
    x = tf.ones((2, 4, 4, 3))

    def operations(count: int) -> Counter[str]:
        layers = [BatchNorm() for _ in range(count)]
        for layer in layers:
            layer.build(x.shape)

        @tf.function(autograph=False)
        def call(x: tf.Tensor) -> tf.Tensor:
            for layer in layers:
                x = layer(x, training=True)
            return x

        graph = call.get_concrete_function(x).graph
        return Counter(operation.type for operation in graph.get_operations())

    each = operations(3) - operations(2)
    assert each == {
        "Placeholder": 4, "ReadVariableOp": 4, "AssignVariableOp": 2, "Mul": 5, "AddV2": 2, "FusedBatchNormV3": 1
    }  # fmt: skip


def test_shared_constants_belong_to_one_graph() -> None:
    @tf.function
    def call(x: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.negative(x)]):
            first = shared_constant(2.0)
        assert first is shared_constant(2.0) and not first.op.control_inputs
        assert shared_constant(2.0, "float16") is not first and shared_constant((2.0, 3.0)).shape == (2,)
        return tf.cond(x > 0, lambda: x * shared_constant(2.0), lambda: first)

    assert [float(call(tf.constant(x))) for x in (3.0, -1.0)] == [6.0, 2.0]
    assert float(shared_constant(2.0)) == 2.0
    graph = weakref.ref(call.get_concrete_function(tf.constant(1.0)).graph)
    del call
    gc.collect()
    assert graph() is None


def test_batch_norm_of_unknown_sizes_moves_the_same_statistics() -> None:
    x = tf.constant(np.random.default_rng(0).normal(3.0, 2.0, (2, 3, 2, 4)).astype("float32"))
    moved = []
    for shape in (x.shape, (None, None, None, 4)):
        layer = BatchNorm()
        layer.build(x.shape)
        tf.function(lambda x, layer=layer: layer(x, training=True), input_signature=[tf.TensorSpec(shape)])(x)
        moved.append(np.asarray(layer.moving_variance))
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-6)
    np.testing.assert_allclose(moved[0], 0.9 + 0.1 * np.var(x, axis=(0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize(("training", "trainable"), [(False, True), (True, False)])
def test_batch_norm_with_running_statistics(training: bool, trainable: bool) -> None:
    layer = BatchNorm(trainable=trainable)
    layer.build((None, None, None, 2))
    layer.moving_mean.assign([1.0, -1.0])
    layer.moving_variance.assign([4.0, 0.25])
    y = layer(np.ones((2, 3, 3, 2), "float32"), training=training)
    np.testing.assert_allclose(np.asarray(y)[0, 0, 0], [0.0, 4.0], atol=1e-3)
    np.testing.assert_allclose(np.asarray(layer.moving_mean), [1.0, -1.0])


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (2, 1, 1, 3)])
def test_batch_norm_with_another_epsilon(shape: tuple[int, ...]) -> None:
    layer = BatchNorm(epsilon=0.5)
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 0.5)
    np.testing.assert_allclose(np.asarray(layer(x, training=True)), expected, atol=1e-5)
    layer.moving_mean.assign(np.zeros(3))
    layer.moving_variance.assign(np.ones(3))
    np.testing.assert_allclose(np.asarray(layer(x, training=False)), x / np.sqrt(1.5), rtol=1e-5)


def test_batch_norm_in_mixed_precision_keeps_float32_statistics() -> None:
    layer = BatchNorm(dtype="mixed_bfloat16")
    y = layer(np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32"), training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in layer.weights} == {"float32"}


# --- configuration and dynamic sizes ---


@pytest.mark.parametrize(
    "layer",
    [
        BatchNorm(epsilon=0.1, synchronized=True, trainable=False, name="a", dtype="mixed_bfloat16"),
        AdaptiveAveragePooling(3, name="b", dtype="float32"),
        ResizeLike(align_corners=True, factor=4, name="c", dtype="mixed_bfloat16"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_config_round_trip(layer: Any) -> None:
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(copy) is type(layer)
    assert copy.get_config() == layer.get_config()
    assert copy.dtype_policy.name == layer.dtype_policy.name


def test_symbolic_shapes_are_the_computed_ones() -> None:
    image = keras.Input((None, None, 3))
    small = keras.layers.Conv2D(2, 3, strides=4, padding="same")(image)
    resized = ResizeLike()(small, image)
    pooled = AdaptiveAveragePooling(3)(image)
    assert resized.shape == (None, None, None, 2)
    assert pooled.shape == (None, 3, 3, 3)
    resized, pooled = keras.Model(image, [resized, pooled])(np.zeros((2, 17, 9, 3), "float32"))
    assert resized.shape == (2, 17, 9, 2)
    assert pooled.shape == (2, 3, 3, 3)


def test_sizes_may_be_unknown_in_a_graph() -> None:
    pool, resize = AdaptiveAveragePooling(3), ResizeLike()
    call = tf.function(lambda x: resize(pool(x), x), input_signature=[tf.TensorSpec((None, None, None, 2), tf.float32)])
    for shape in [(1, 5, 8, 2), (2, 16, 3, 2)]:
        x = np.random.default_rng(0).normal(size=shape).astype("float32")
        np.testing.assert_allclose(np.asarray(call(x)), np.asarray(resize(pool(x), x)), atol=1e-6)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 5), (1, 1)])
@pytest.mark.parametrize("fixed", [False, True], ids=["any size", "fixed"])
def test_halving_keeps_the_only_row(size: tuple[int, int], fixed: bool) -> None:
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32) - 5.0  # padding with 0 would show
    image = keras.Input((*size, 3) if fixed else (None, None, 3))
    model = keras.Model(image, HalvingMaxPool()(image))
    assert (
        keras.layers.deserialize(keras.layers.serialize(model.layers[1])).get_config() == model.layers[1].get_config()
    )
    height, width = (max(side // 2, 1) for side in size)
    expected = [[x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2)) for j in range(width)] for i in range(height)]
    np.testing.assert_array_equal(model(x), np.stack([np.stack(row, 1) for row in expected], 1))
