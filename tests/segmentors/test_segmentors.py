"""What every segmentor promises. A new one adds a line to `_SEGMENTORS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.backbones import hrnet, resnet, resnet_vd
from rsseg_tf.errors import ConfigError
from rsseg_tf.losses import cross_entropy
from rsseg_tf.segmentors import deeplabv3plus, fcn

_CLASSES = 5


def _resnet() -> keras.Model:
    return resnet((1, 1, 1, 1), (4, 4, 8, 8), bottleneck=True)


def _resnet_vd() -> keras.Model:
    return resnet_vd((1, 1, 1, 1), (4, 4, 8, 8), bottleneck=True)


def _hrnet() -> keras.Model:
    return hrnet(2, stem_width=4, modules=(1, 1, 1), blocks=1)


def _deeplabv3plus(backbone: keras.Model) -> keras.Model:
    return deeplabv3plus(
        backbone,
        num_classes=_CLASSES,
        aspp_rates=(1, 2, 3),
        aspp_channels=8,
        decoder_channels=8,
        low_level_channels=4,
    )


# Name -> builder and names of its outputs, "main" first.
_SEGMENTORS: dict[str, tuple[Callable[[], keras.Model], tuple[str, ...]]] = {
    "fcn_resnet": (lambda: fcn(_resnet(), num_classes=_CLASSES), ("main",)),
    "fcn_hrnet": (lambda: fcn(_hrnet(), num_classes=_CLASSES, channels=8), ("main",)),
    "deeplabv3plus_resnet": (lambda: _deeplabv3plus(_resnet()), ("main",)),
    "deeplabv3plus_resnet_vd": (lambda: _deeplabv3plus(_resnet_vd()), ("main",)),
}


@pytest.fixture(params=_SEGMENTORS)
def build(request: pytest.FixtureRequest) -> Callable[[], keras.Model]:
    return _SEGMENTORS[request.param][0]


@pytest.fixture
def mixed_bfloat16() -> Iterator[None]:
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


def _image(*size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")


def _lively(model: keras.Model) -> keras.Model:
    """Gives all kernels an ordinary size: the initial ones of FCN and HRNet make logits and gradients almost 0."""
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            variable.assign(keras.random.normal(variable.shape, stddev=np.prod(variable.shape[:3]) ** -0.5, seed=1))
    return model


@pytest.mark.parametrize("name", _SEGMENTORS)
def test_outputs(name: str) -> None:
    build, outputs = _SEGMENTORS[name]
    model = build()
    assert tuple(model.output) == outputs
    assert model.output["main"].shape == (None, None, None, _CLASSES)
    assert {keras.backend.standardize_dtype(output.dtype) for output in model.output.values()} == {"float32"}


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (1, 1)])
def test_logits_have_the_size_of_the_image(build: Callable[[], keras.Model], size: tuple[int, int]) -> None:
    logits = build()(_image(*size), training=False)["main"]
    assert logits.shape == (2, *size, _CLASSES)
    assert np.isfinite(logits).all()


def test_sizes_may_be_unknown_in_a_graph(build: Callable[[], keras.Model]) -> None:
    model = _lively(build())
    call = tf.function(
        lambda image: model(image, training=False)["main"],
        input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)],
    )
    for size in [(32, 48), (33, 47)]:
        image = _image(*size)
        logits = np.asarray(model(image, training=False)["main"])
        np.testing.assert_allclose(np.asarray(call(image)), logits, atol=1e-4 * logits.std())


def test_every_variable_gets_a_gradient(build: Callable[[], keras.Model]) -> None:
    model = _lively(build())
    labels = np.random.default_rng(1).integers(0, _CLASSES, (2, 64, 64))
    with tf.GradientTape() as tape:
        outputs = model(_image(64, 64), training=True)
        loss = sum(cross_entropy(logits, labels, ignore_index=255) for logits in outputs.values())
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all(), variable.path
        assert np.abs(gradient).max() > 0, variable.path


def test_saved_model_is_the_same(build: Callable[[], keras.Model], tmp_path: Path) -> None:
    model = _lively(build())
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    image = _image(33, 47)
    np.testing.assert_array_equal(
        np.asarray(loaded(image, training=False)["main"]), np.asarray(model(image, training=False)["main"])
    )
    assert [weight.path for weight in loaded.weights] == [weight.path for weight in model.weights]


def test_layer_names_do_not_depend_on_what_was_built_before(build: Callable[[], keras.Model]) -> None:
    assert [layer.name for layer in build().layers] == [layer.name for layer in build().layers]


@pytest.mark.usefixtures("mixed_bfloat16")
@pytest.mark.parametrize("training", [False, True])
def test_mixed_precision_gives_float32(build: Callable[[], keras.Model], training: bool) -> None:
    model = build()
    logits = model(_image(64, 64), training=training)["main"]
    assert model.get_layer("stage1_block1_conv1").compute_dtype == "bfloat16"
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert np.isfinite(logits).all()


def test_training_lowers_the_loss(build: Callable[[], keras.Model]) -> None:
    keras.utils.set_random_seed(0)
    model = build()
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    image = _image(32, 32)
    labels = (image[..., 0] > 0).astype("int32")
    losses: list[float] = []
    for _ in range(8):
        with tf.GradientTape() as tape:
            loss = cross_entropy(model(image, training=True)["main"], labels, ignore_index=255)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, [variable.value for variable in variables]), variables)
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]


def test_segmentor_shares_the_backbone() -> None:
    backbone = _resnet()
    model = fcn(backbone, num_classes=_CLASSES)
    shared = {id(weight) for weight in model.weights}
    assert all(id(weight) in shared for weight in backbone.weights)


def test_fcn_takes_the_deepest_features_and_their_channels() -> None:
    model = fcn(_resnet(), num_classes=_CLASSES)
    assert model.get_layer("head_conv").kernel.shape == (1, 1, 32, 32)


def test_a_backbone_without_the_features_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"deeplabv3plus needs features c2 and a deeper one.*'hrnet' has c2"):
        _deeplabv3plus(_hrnet())
    image = keras.Input((None, None, 3))
    nameless = keras.Model(image, {"logits": keras.layers.Conv2D(2, 1)(image)}, name="nameless")
    with pytest.raises(ConfigError, match="fcn needs features named c2 to c5; backbone 'nameless'"):
        fcn(nameless, num_classes=_CLASSES)


def test_rates_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="aspp_rates must be integers of at least 1"):
        deeplabv3plus(_resnet(), num_classes=_CLASSES, aspp_rates=(0, 6))


def test_align_corners_reaches_every_resize() -> None:
    models: list[Any] = [
        fcn(_resnet(), num_classes=_CLASSES, align_corners=True),
        deeplabv3plus(_resnet(), num_classes=_CLASSES, aspp_channels=4, align_corners=True),
    ]
    for model in models:
        resizes = [layer for layer in model.layers if hasattr(layer, "align_corners")]
        assert resizes and all(layer.align_corners for layer in resizes)
