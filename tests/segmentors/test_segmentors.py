"""What every segmentor promises. A new one adds a line to `_SEGMENTORS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.backbones import hrnet, mit, resnet, resnet_vd, unet_encoder
from rsseg_tf.errors import ConfigError
from rsseg_tf.losses import cross_entropy
from rsseg_tf.segmentors import (
    danet,
    deeplabv3plus,
    fcn,
    fpn,
    hrnet_contrast,
    lraspp,
    ocrnet,
    pspnet,
    segformer,
    unet,
    upernet,
)
from tests.fixtures.backbones import narrow_mobilenet_v3

_CLASSES = 5


def _resnet() -> keras.Model:
    return resnet((1, 1, 1, 1), (4, 4, 8, 8), bottleneck=True)


def _resnet_vd() -> keras.Model:
    return resnet_vd((1, 1, 1, 1), (4, 4, 8, 8), bottleneck=True)


def _hrnet() -> keras.Model:
    return hrnet(2, stem_width=4, modules=(1, 1, 1), blocks=1)


def _resnet_v1c() -> keras.Model:
    return resnet((1, 1, 1, 1), (4, 4, 8, 8), bottleneck=False, deep_stem=True, output_stride=8)


def _mit() -> keras.Model:
    return mit((1, 1, 1, 1), (4, 8, 8, 16), heads=(1, 2, 2, 4), drop_path=0.0)


def _deeplabv3plus(backbone: keras.Model, **options: Any) -> keras.Model:
    return deeplabv3plus(
        backbone,
        num_classes=_CLASSES,
        aspp_rates=(1, 2, 3),
        aspp_channels=8,
        decoder_channels=8,
        low_level_channels=4,
        **options,
    )


# Name -> builder and names of its outputs, "main" first.
_SEGMENTORS: dict[str, tuple[Callable[[], keras.Model], tuple[str, ...]]] = {
    "fcn_resnet": (lambda: fcn(_resnet(), num_classes=_CLASSES), ("main",)),
    "fcn_hrnet": (lambda: fcn(_hrnet(), num_classes=_CLASSES, channels=8), ("main",)),
    "deeplabv3plus_resnet": (lambda: _deeplabv3plus(_resnet()), ("main",)),
    "deeplabv3plus_resnet_vd": (lambda: _deeplabv3plus(_resnet_vd()), ("main",)),
    "deeplabv3plus_mobilenet_v3": (lambda: _deeplabv3plus(narrow_mobilenet_v3()), ("main",)),
    "deeplabv3plus_of_mmsegmentation": (
        lambda: _deeplabv3plus(_resnet_v1c(), aux_head=True, variant="mmsegmentation"),
        ("main", "aux"),
    ),
    "upernet_of_mmsegmentation": (
        lambda: upernet(_resnet_v1c(), num_classes=_CLASSES, channels=8, aux_channels=4, variant="mmsegmentation"),
        ("main", "aux"),
    ),
    "pspnet_resnet": (lambda: pspnet(_resnet(), num_classes=_CLASSES, pyramid_channels=8), ("main", "aux")),
    "pspnet_hrnet": (
        lambda: pspnet(_hrnet(), num_classes=_CLASSES, pyramid_channels=8, bin_sizes=(1, 2), aux_head=False),
        ("main",),
    ),
    "upernet_resnet": (lambda: upernet(_resnet(), num_classes=_CLASSES, channels=8), ("main", "aux")),
    "upernet_resnet_vd": (
        lambda: upernet(_resnet_vd(), num_classes=_CLASSES, channels=8, aux_head=False),
        ("main",),
    ),
    "danet_resnet": (lambda: danet(_resnet(), num_classes=_CLASSES), ("main", "cam", "pam", "aux")),
    "ocrnet_resnet": (
        lambda: ocrnet(_resnet(), num_classes=_CLASSES, ocr_channels=8, key_channels=4),
        ("main", "aux"),
    ),
    "ocrnet_of_c2": (
        lambda: ocrnet(_resnet(), num_classes=_CLASSES, features=("c2",), ocr_channels=8, key_channels=4),
        ("main", "aux"),
    ),
    "ocrnet_hrnet": (
        lambda: ocrnet(_hrnet(), num_classes=_CLASSES, ocr_channels=8, key_channels=4),
        ("main", "aux"),
    ),
    "hrnet_contrast": (
        lambda: hrnet_contrast(_hrnet(), num_classes=_CLASSES, projection_channels=6),
        ("main", "contrast"),
    ),
    "contrast_resnet_vd": (lambda: hrnet_contrast(_resnet_vd(), num_classes=_CLASSES), ("main", "contrast")),
    "unet_resnet": (lambda: unet(_resnet(), num_classes=_CLASSES, decoder_channels=(16, 8, 8, 4, 4)), ("main",)),
    "unet_mit": (lambda: unet(_mit(), num_classes=_CLASSES, decoder_channels=(16, 8, 8, 4, 4)), ("main",)),
    "unet_hrnet": (lambda: unet(_hrnet(), num_classes=_CLASSES, decoder_channels=(16, 8, 8, 4)), ("main",)),
    "unet_to_stride_4": (lambda: unet(_resnet(), num_classes=_CLASSES, decoder_channels=(16, 8, 8)), ("main",)),
    "unet_of_paddleseg": (
        lambda: unet(
            unet_encoder(channels=(4, 4, 8, 8, 8)),
            num_classes=_CLASSES,
            variant="paddleseg",
            decoder_channels=(8, 8, 4, 4),
        ),
        ("main",),
    ),
    "fpn_resnet": (
        lambda: fpn(_resnet(), num_classes=_CLASSES, pyramid_channels=8, segmentation_channels=8),
        ("main",),
    ),
    "lraspp_mobilenet_v3": (lambda: lraspp(narrow_mobilenet_v3(), num_classes=_CLASSES, channels=8), ("main",)),
    "segformer_mit": (
        lambda: segformer(mit((1, 1, 1, 1), (4, 4, 8, 8), heads=(1, 1, 2, 2)), num_classes=_CLASSES, channels=8),
        ("main",),
    ),
    "segformer_hrnet": (lambda: segformer(_hrnet(), num_classes=_CLASSES, channels=8), ("main",)),
    "lraspp_resnet_vd": (lambda: lraspp(_resnet_vd(), num_classes=_CLASSES, channels=8), ("main",)),
}
# Beginnings of the paths of weights that no output depends on, as in the original.
_UNUSED = {
    "upernet_resnet": ("conv_last",),
    "danet_resnet": ("pam_classifier",),
    "ocrnet_of_c2": ("stage2", "stage3", "stage4"),
}


@pytest.fixture(params=_SEGMENTORS, scope="module")  # the tests of a segmentor follow each other and share its models
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def build(name: str) -> Callable[[], keras.Model]:
    return _SEGMENTORS[name][0]


@cache
def _built(name: str) -> keras.Model:
    """A segmentor as it is built, for tests that leave it as it is."""
    return _SEGMENTORS[name][0]()


@cache
def _built_lively(name: str) -> keras.Model:
    """A segmentor with kernels of an ordinary size, for tests that leave its trainable weights as they are."""
    model = _lively(_SEGMENTORS[name][0]())
    for variable in model.trainable_variables:
        if variable.name == "gamma" and variable.shape == (1,):  # of DANet's attention, 0 at first
            variable.assign([0.5])
    return model


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


def test_outputs(name: str) -> None:
    model, outputs = _built(name), _SEGMENTORS[name][1]
    assert tuple(model.output) == outputs
    assert model.output["main"].shape == (None, None, None, _CLASSES)
    assert {keras.backend.standardize_dtype(output.dtype) for output in keras.tree.flatten(model.output)} == {"float32"}
    assert {output.shape for head, output in model.output.items() if head != "contrast"} == {
        (None, None, None, _CLASSES)
    }


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (1, 1)])
def test_logits_have_the_size_of_the_image(name: str, size: tuple[int, int]) -> None:
    logits = _built(name)(_image(*size), training=False)["main"]
    assert logits.shape == (2, *size, _CLASSES)
    assert np.isfinite(logits).all()


def test_sizes_may_be_unknown_in_a_graph(name: str) -> None:
    model = _built_lively(name)
    call = tf.function(
        lambda image: model(image, training=False)["main"],
        input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)],
    )
    for size in [(32, 48), (33, 47)]:
        image = _image(*size)
        logits = np.asarray(model(image, training=False)["main"])
        np.testing.assert_allclose(np.asarray(call(image)), logits, atol=1e-4 * logits.std())


def test_every_variable_but_the_unused_gets_a_gradient(name: str) -> None:
    model = _built_lively(name)
    image = _image(64, 64)
    weights = np.random.default_rng(1).normal(size=(2, 64, 64, 5)).astype("float32")
    with tf.GradientTape() as tape:
        outputs = keras.tree.flatten(model(image, training=True))
        loss = sum(
            tf.reduce_mean(output**2 * weights[:, : output.shape[1], : output.shape[2], :1]) for output in outputs
        )
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    without = set()
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        if gradient is None:
            without.add(variable.path)
            continue
        assert np.isfinite(gradient).all(), variable.path
        # A bias before a normalisation has none but for rounding; one value per channel is passed on by the pyramid.
        assert variable.name in ("bias", "gamma", "beta") or np.abs(gradient).max() > 0, variable.path
    unused = _UNUSED.get(name, ())
    assert without == {v.path for v in model.trainable_variables if v.path.startswith(unused or ("-",))}
    assert bool(without) == bool(unused)


@pytest.mark.parametrize("name", _UNUSED)
def test_a_model_of_the_main_output_has_no_unused_weights(name: str) -> None:
    model = _built(name)
    main = keras.Model(model.input, model.output["main"])
    assert any(weight.path.startswith(_UNUSED[name]) for weight in model.weights)
    assert not any(weight.path.startswith(_UNUSED[name]) for weight in main.weights)


def test_saved_model_is_the_same(name: str, tmp_path: Path) -> None:
    model = _built_lively(name)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    image = _image(33, 47)
    np.testing.assert_array_equal(
        np.asarray(loaded(image, training=False)["main"]), np.asarray(model(image, training=False)["main"])
    )
    assert [weight.path for weight in loaded.weights] == [weight.path for weight in model.weights]


def test_layer_names_do_not_depend_on_what_was_built_before(name: str) -> None:
    first, again = _built(name), _SEGMENTORS[name][0]()
    assert [layer.name for layer in first.layers] == [layer.name for layer in again.layers]


@pytest.mark.usefixtures("mixed_bfloat16")
def test_mixed_precision_gives_float32(build: Callable[[], keras.Model]) -> None:
    model = build()
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {layer.compute_dtype for layer in convolutions} == {"bfloat16"}
    for training in (False, True):
        logits = model(_image(64, 64), training=training)["main"]
        assert keras.backend.standardize_dtype(logits.dtype) == "float32"
        assert np.isfinite(logits).all()


def test_training_lowers_the_loss(build: Callable[[], keras.Model]) -> None:
    keras.utils.set_random_seed(0)
    model = build()
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    image = _image(32, 32)
    labels = (image[..., 0] > 0).astype("int32")
    losses: list[float] = []
    for _ in range(5):
        with tf.GradientTape() as tape:
            loss = cross_entropy(model(image, training=True)["main"], labels, ignore_index=255)
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]  # of the main output
        optimizer.apply_gradients(pairs)
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


def test_an_unknown_variant_is_refused() -> None:
    unknown: Any = "mmseg"
    for build in (pspnet, upernet, deeplabv3plus):
        with pytest.raises(
            ConfigError, match=f"variant of {build.__name__} must be paddleseg or mmsegmentation.*; got mmseg"
        ):
            build(_resnet(), num_classes=_CLASSES, variant=unknown)
    with pytest.raises(ConfigError, match="variant must be paddleseg or mmsegmentation or timm; got mmseg"):
        hrnet(2, variant=unknown)


def test_rates_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="aspp_rates must be integers of at least 1"):
        deeplabv3plus(_resnet(), num_classes=_CLASSES, aspp_rates=(0, 6))


def test_align_corners_reaches_every_resize() -> None:
    models: list[Any] = [
        pspnet(_resnet(), num_classes=_CLASSES, pyramid_channels=4, align_corners=True),
        danet(_resnet(), num_classes=_CLASSES, align_corners=True),
        ocrnet(_resnet(), num_classes=_CLASSES, ocr_channels=4, key_channels=4, align_corners=True),
        hrnet_contrast(_resnet(), num_classes=_CLASSES, align_corners=True),
        fcn(_resnet(), num_classes=_CLASSES, align_corners=True),
        deeplabv3plus(_resnet(), num_classes=_CLASSES, aspp_channels=4, align_corners=True),
        lraspp(_resnet(), num_classes=_CLASSES, align_corners=True),
    ]
    for model in models:
        resizes = [layer for layer in model.layers if hasattr(layer, "align_corners")]
        assert resizes and all(layer.align_corners for layer in resizes)


def test_upernet_aligns_corners_between_its_levels_only() -> None:
    for align_corners in (False, True):
        model = upernet(_resnet(), num_classes=_CLASSES, channels=4, align_corners=align_corners)
        resizes = {layer.name: layer.align_corners for layer in model.layers if hasattr(layer, "align_corners")}
        last = {"main": resizes.pop("main"), "aux": resizes.pop("aux")}
        assert last == {"main": align_corners, "aux": align_corners}
        assert len(resizes) == 10 and all(resizes.values())


def test_danet_classifies_pixels_and_channels_with_the_same_weights() -> None:
    model = danet(_resnet(), num_classes=_CLASSES)
    before = model(_image(64, 64), training=False)
    model.get_layer("attention_classifier").bias.assign(np.arange(_CLASSES))
    after = model(_image(64, 64), training=False)
    for head in ("cam", "pam"):
        added = np.asarray(after[head]) - np.asarray(before[head])
        np.testing.assert_allclose(added, np.broadcast_to(np.arange(_CLASSES), added.shape), atol=1e-5)
    for head in ("main", "aux"):
        np.testing.assert_array_equal(after[head], before[head])


def test_ocrnet_takes_the_features_that_are_asked_for() -> None:
    options: dict[str, Any] = {"num_classes": _CLASSES, "ocr_channels": 8, "key_channels": 4}
    by_default = ocrnet(_resnet(), **options)
    assert by_default.get_layer("aux_conv").kernel.shape[2:] == (32, 32), "c4, of as many channels as in the original"
    asked = ocrnet(_resnet(), features=("c2", "c5"), **options)
    assert asked.get_layer("aux_conv").kernel.shape[2] == 16 and asked.get_layer("ocr_conv").kernel.shape[2] == 32
    assert asked(_image(64, 64), training=False)["main"].shape == (2, 64, 64, _CLASSES)
    for features in [(), ("c9",), ("c2", "c3", "c4")]:
        with pytest.raises(ConfigError, match=r"ocrnet needs one or two features of backbone 'resnet'; it has c2, c3"):
            ocrnet(_resnet(), features=features, **options)


def test_features_of_stride_2_are_no_second_feature() -> None:
    options: dict[str, Any] = {"num_classes": _CLASSES, "ocr_channels": 8, "key_channels": 4}
    model = ocrnet(_hrnet(), **options)
    assert model.get_layer("aux_conv").kernel.shape[2] == model.get_layer("ocr_conv").kernel.shape[2] == 30
    image = keras.Input((None, None, 3))
    finest = keras.Model(image, {"c1": keras.layers.Conv2D(4, 3, strides=2, padding="same")(image)}, name="finest")
    assert fcn(finest, num_classes=_CLASSES).get_layer("head_conv").kernel.shape[2] == 4


def test_embeddings_have_length_one() -> None:
    model = _lively(hrnet_contrast(_hrnet(), num_classes=_CLASSES, projection_channels=6))
    contrast = model(_image(33, 47), training=False)["contrast"]
    assert contrast["logits"].shape == (2, 9, 12, _CLASSES) and contrast["embedding"].shape == (2, 9, 12, 6)
    np.testing.assert_allclose(np.linalg.norm(contrast["embedding"], axis=-1), 1.0, atol=1e-5)


def test_features_that_are_missing_are_named() -> None:
    with pytest.raises(ConfigError, match="pspnet needs two features .*'hrnet' has c2.*set aux_head to false"):
        pspnet(_hrnet(), num_classes=_CLASSES)
    with pytest.raises(ConfigError, match="upernet needs the features c2 to c5; backbone 'hrnet' has no c3, c4, c5"):
        upernet(_hrnet(), num_classes=_CLASSES)
    with pytest.raises(ConfigError, match=r"lraspp needs features c3 and a deeper one .*'hrnet' has c2\. Use a mobile"):
        lraspp(_hrnet(), num_classes=_CLASSES)
    with pytest.raises(ConfigError, match=r"bin_sizes must be integers of at least 1; got \(0, 2\)"):
        pspnet(_resnet(), num_classes=_CLASSES, bin_sizes=(0, 2))
    image = keras.Input((None, None, 3))
    nameless = keras.Model(image, {"logits": keras.layers.Conv2D(2, 1)(image)}, name="nameless")
    for build in (danet, hrnet_contrast):
        with pytest.raises(ConfigError, match=f"{build.__name__} needs features named c2 to c5; backbone 'nameless'"):
            build(nameless, num_classes=_CLASSES)


def test_lraspp_gates_its_deep_features_by_the_mean_of_the_image() -> None:
    model = _lively(lraspp(narrow_mobilenet_v3(), num_classes=_CLASSES, channels=8))
    parts = ("head_conv_relu", "head_gate_sigmoid", "head_multiply", "head_low_classifier", "head_classifier")
    inner = keras.Model(model.input, {name: model.get_layer(name).output for name in (*parts, "last_conv_hard_silu")})
    values = {name: np.asarray(value) for name, value in inner(_image(64, 64), training=False).items()}
    kernel = np.asarray(model.get_layer("head_gate").kernel)[0, 0]
    gate = 1 / (1 + np.exp(-values["last_conv_hard_silu"].mean((1, 2)) @ kernel))
    np.testing.assert_allclose(values["head_gate_sigmoid"][:, 0, 0], gate, atol=1e-6)
    np.testing.assert_allclose(values["head_multiply"], values["head_conv_relu"] * gate[:, None, None], atol=1e-6)
    assert values["head_low_classifier"].shape == (2, 8, 8, _CLASSES), "stride 8"
    assert values["head_classifier"].shape == (2, 4, 4, _CLASSES), "stride 16"


@pytest.mark.parametrize("in_channels", [1, 5])
def test_any_number_of_bands(in_channels: int) -> None:
    backbone = resnet((1, 1, 1, 1), (4, 4, 8, 8), bottleneck=True, in_channels=in_channels)
    model = upernet(backbone, num_classes=_CLASSES, channels=4)
    image = np.zeros((1, 40, 40, in_channels), np.float32)
    assert model(image, training=False)["main"].shape == (1, 40, 40, _CLASSES)


@pytest.mark.parametrize(
    "build", [fcn, deeplabv3plus, pspnet, upernet, danet, ocrnet, hrnet_contrast, lraspp], ids=lambda one: one.__name__
)
def test_what_is_no_backbone_is_named(build: Callable[..., keras.Model]) -> None:
    image = keras.Input((None, None, 3))
    single = keras.Model(image, keras.layers.Conv2D(4, 3, padding="same")(image), name="of_my_own")
    two = keras.Model([image, keras.Input((None, None, 3))], {"c2": image, "c3": image, "c4": image, "c5": image})
    with pytest.raises(ConfigError, match=rf"{build.__name__} needs a keras.Model as its backbone; got a function"):
        build(resnet, num_classes=2)
    with pytest.raises(ConfigError, match=rf"{build.__name__} needs a keras.Model as its backbone; got str\."):
        build("resnet50_vd", num_classes=2)
    with pytest.raises(ConfigError, match="output is a dictionary of features .*'of_my_own' gives a single tensor"):
        build(single, num_classes=2)
    with pytest.raises(ConfigError, match="needs a backbone with one input"):
        build(two, num_classes=2)
