"""Networks of keras.applications and keras-hub are backbones: any size, any bands, names that never change."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from rsseg_tf.backbones import keras_applications, keras_hub
from rsseg_tf.backbones.keras_applications import application_names, tensors_of
from rsseg_tf.build import build_backbone, build_model
from rsseg_tf.config.named_weights import CAFFE, application_normalisation
from rsseg_tf.config.zoo import KerasApplications, KerasHub
from rsseg_tf.errors import ConfigError, WeightsError
from rsseg_tf.segmentors import unet
from rsseg_tf.weights.presets import is_hub_preset, with_preset
from rsseg_tf.weights.pretrained import backbone_part, load_pretrained
from tests.fixtures.configs import tiny_config

APPLICATIONS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "MobileNetV2": ({"alpha": 0.35}, {"c1": 48, "c2": 48, "c3": 96, "c4": 192, "c5": 1280}),
    "MobileNetV3Small": ({"alpha": 0.5}, {"c1": 16, "c2": 40, "c3": 64, "c4": 144, "c5": 288}),
    "VGG16": ({}, {"c1": 128, "c2": 256, "c3": 512, "c4": 512, "c5": 512}),
}
DINO = {"patch_size": 16, "num_layers": 4, "hidden_dim": 16, "num_heads": 2, "intermediate_dim": 32}
HUB: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "windows": ("DINOV3Backbone", DINO, ["c2", "c3", "c4", "c5"]),
    "windows that are scaled": (
        "DINOV2Backbone",
        {**DINO, "patch_size": 14, "position_embedding_shape": [70, 70, 3]},
        ["c2", "c3", "c4", "c5"],
    ),
    "any size": ("DenseNetBackbone", {"stackwise_num_repeats": [1, 1, 1, 1]}, ["c2", "c3", "c4", "c5"]),
}


def _image(*size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, *size, 5)).astype("float32")


def _sizes(backbone: keras.Model, *size: int) -> dict[str, tuple[int, ...]]:
    features = backbone(_image(*size), training=False)
    assert all(np.isfinite(feature).all() for feature in features.values())
    return {name: tuple(feature.shape[1:3]) for name, feature in features.items()}


def _expected(backbone: keras.Model, height: int, width: int) -> dict[str, tuple[int, int]]:
    strides = {name: 2 ** int(name[1:]) for name in backbone.output}
    return {name: (-(-height // stride), -(-width // stride)) for name, stride in strides.items()}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications(name: str) -> None:
    options, channels = APPLICATIONS[name]
    backbone = keras_applications(model=name, options=options, in_channels=5)
    assert {key: feature.shape[-1] for key, feature in backbone.output.items()} == channels
    for size in ((64, 96), (33, 47), (1, 1)):
        assert _sizes(backbone, *size) == _expected(backbone, *size)
    again = keras_applications(model=name, options=options, in_channels=5)
    assert [weight.path for weight in again.weights] == [weight.path for weight in backbone.weights]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["InceptionV3", "NASNetMobile", "Xception", "ConvNeXtTiny", "EfficientNetV2B0"])
def test_applications_of_every_kind(name: str) -> None:
    backbone = keras_applications(model=name, in_channels=5)
    assert list(backbone.output)[-1] == "c5" and len(backbone.output) >= 4
    # Networks without padding give slightly smaller maps.
    for size in ((64, 96), (33, 47)):
        for key, found in _sizes(backbone, *size).items():
            assert all(0 < a <= b for a, b in zip(found, _expected(backbone, *size)[key], strict=True))
    again = keras_applications(model=name, in_channels=5)
    assert [weight.path for weight in again.weights] == [weight.path for weight in backbone.weights]


def test_there_is_no_such_application() -> None:
    with pytest.raises(ConfigError, match="no model 'MobilNetV2'. Did you mean 'MobileNetV2'"):
        keras_applications(model="MobilNetV2")
    with pytest.raises(ConfigError, match="MobileNetV2 does not take the options"):
        keras_applications(model="MobileNetV2", options={"alfa": 1})


def test_the_features_are_those_of_the_network_itself() -> None:
    network = keras.applications.MobileNetV2(alpha=0.35, include_top=False, weights=None, input_shape=(96, 64, 3))
    for weight in network.weights:
        weight.assign(np.random.default_rng(1).uniform(0.2, 1, weight.shape) / max(1, np.prod(weight.shape[:-1])))
    backbone = keras_applications(model="MobileNetV2", options={"alpha": 0.35})
    tensors = tensors_of(network, backbone)
    assert tensors.keys() == {weight.path for weight in backbone.weights}
    for weight in backbone.weights:
        weight.assign(tensors[weight.path])
    image = np.random.default_rng(0).normal(size=(1, 96, 64, 3)).astype("float32")
    expected = np.asarray(network(image, training=False))
    np.testing.assert_allclose(backbone(image, training=False)["c5"], expected, atol=1e-5 * np.abs(expected).max())


def black_and_white(name: str) -> np.ndarray:
    """Returns what a network's first convolution sees of a black and of a white pixel, (2, 3), red first."""
    build = getattr(keras.applications, name)
    module: Any = inspect.getmodule(build)
    pixels = np.stack([np.zeros((1, 1, 3)), np.full((1, 1, 3), 255.0)]).astype("float32")
    scaled = np.asarray(module.preprocess_input(pixels.copy()))
    if name in SCALE_THEMSELVES:
        network = build(include_top=False, weights=None, input_shape=(64, 64, 3))
        for layer in network.layers[:6]:
            for part in getattr(layer, "layers", [layer]):
                if isinstance(part, keras.layers.Rescaling | keras.layers.Normalization):
                    scaled = np.asarray(part(scaled))
    return scaled[:, 0, 0]


# Models that scale pixels by layers of their own, one of each kind. EfficientNet's has its numbers in its weights.
SCALE_THEMSELVES = ("ConvNeXtTiny", "EfficientNetV2B0", "EfficientNetV2S", "MobileNetV3Small")
BY_FUNCTION = [name for name in application_names() if not name.startswith(("ConvNeXt", "EfficientNet", "MobileNetV3"))]


@pytest.mark.parametrize("name", [*BY_FUNCTION, *(pytest.param(n, marks=pytest.mark.slow) for n in SCALE_THEMSELVES)])
def test_normalisation_is_that_of_the_application(name: str) -> None:
    normalisation = application_normalisation(name)
    expected = (np.array([[0.0], [1.0]]) - normalisation.mean) / normalisation.std
    found = black_and_white(name)
    if normalisation is CAFFE:  # these networks take blue first
        assert not np.allclose(found, expected, atol=1e-2)
        found = found[:, ::-1]
    np.testing.assert_allclose(found, expected, atol=1e-2)


def test_a_config_names_an_application_and_its_images_are_normalised_for_its_weights(tmp_path: Path) -> None:
    model = "model={name: unet, decoder_channels: [8, 8, 4], backbone: {name: keras_applications, model: VGG16%s}}"
    random = tiny_config(tmp_path, model % "")
    assert random.dataset.spec.mean == (0.5, 0.5, 0.5)
    trained = tiny_config(tmp_path, model % ", pretrained: imagenet")
    assert trained.dataset.spec.mean == pytest.approx((0.485, 0.4579, 0.4076), abs=1e-3)
    assert trained.dataset.spec.std == pytest.approx((1 / 255,) * 3)
    with pytest.raises(WeightsError, match="VGG16 may download its weights. Leave --offline out, once."):
        load_pretrained(build_model(random), trained, offline=True)


# === keras-hub ===


@pytest.mark.parametrize("name", HUB)
def test_hub(name: str) -> None:
    pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    architecture, options, features = HUB[name]

    def build() -> keras.Model:
        return keras_hub(architecture=architecture, options=options, image_size=64, in_channels=5)

    backbone = build()
    assert list(backbone.output) == features
    for size in ((64, 128), (33, 47), (1, 1)):
        assert _sizes(backbone, *size) == _expected(backbone, *size)
    assert [weight.path for weight in build().weights] == [weight.path for weight in backbone.weights]
    logits = unet(backbone, num_classes=3, decoder_channels=(4, 4))(_image(33, 47), training=False)["main"]
    assert logits.shape == (2, 33, 47, 3)


def test_windows_that_are_whole_are_seen_by_themselves() -> None:
    pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    backbone = keras_hub(architecture="DINOV3Backbone", options=DINO, image_size=64, in_channels=5)
    image = _image(64, 128)
    whole = backbone(image, training=False)["c4"]
    parts = [backbone(part, training=False)["c4"] for part in (image[:, :, :64], image[:, :, 64:])]
    np.testing.assert_allclose(whole, np.concatenate(parts, axis=2), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "DINOV3Backbon"}, "no backbone 'DINOV3Backbon' .*Did you mean 'DINOV3Backbone'"),
        ({"architecture": "DINOV3Backbone", "options": {"patch": 1}}, "DINOV3Backbone does not take the options"),
        ({"architecture": "DINOV3Backbone", "image_size": 100}, "image_size must be a multiple of 32; got 100"),
        ({"architecture": None}, "has no `architecture`. Training looks it up in the preset"),
    ],
)
def test_what_hub_does_not_have(options: dict[str, Any], message: str) -> None:
    pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    with pytest.raises(ConfigError, match=message):
        keras_hub(**options)


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """A preset as keras-hub writes it: a network, and how its images are scaled."""
    hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    folder = tmp_path / "preset"
    hub.models.DINOV3Backbone(**DINO, image_shape=(64, 64, 3)).save_to_preset(str(folder))
    converter = hub.layers.DINOV3ImageConverter(
        image_size=(64, 64), scale=[1 / 255 / 0.25] * 3, offset=[-0.4 / 0.25] * 3
    )
    converter.save_to_preset(str(folder))
    return folder


def test_a_preset_gives_architecture_weights_and_normalisation(tmp_path: Path, preset: Path) -> None:
    hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    backbone = f"{{name: keras_hub, image_size: 64, pretrained: {preset}}}"
    model = f"model={{name: unet, decoder_channels: [8, 8, 8], backbone: {backbone}}}"
    config = with_preset(tiny_config(tmp_path, model))
    section = config.model.backbone
    assert isinstance(section, KerasHub) and section.architecture == "DINOV3Backbone"
    assert section.options["hidden_dim"] == 16 and "image_shape" not in section.options
    assert config.dataset.spec.mean == pytest.approx((0.4,) * 3)
    assert config.dataset.spec.std == pytest.approx((0.25,) * 3)
    built = build_model(config)
    (report,) = load_pretrained(built, config)
    theirs = {weight.path: np.asarray(weight) for weight in hub.models.Backbone.from_preset(str(preset)).weights}
    ours = {weight.path: np.asarray(weight) for weight in built.weights}
    assert report.skipped == ("layernorm/gamma", "layernorm/beta")  # behind the last feature
    assert report.tensors == len(theirs) - 2
    for path, value in theirs.items():
        path = path.removeprefix("dinov3_backbone_")  # the preset's own name
        if not path.startswith("layernorm/"):
            np.testing.assert_array_equal(ours[path], value, err_msg=path)
    # What makes a pyramid of the tokens is new: it is no part of the backbone, and trained where that is frozen.
    assert not any(path.startswith("neck_") for path in backbone_part(section, list(ours)).paths)
    assert any(path.startswith("neck_") for path in ours)


def test_a_preset_of_another_architecture_is_refused(tmp_path: Path, preset: Path) -> None:
    options = "{patch_size: 16, num_layers: 4, hidden_dim: 16, num_heads: 2, intermediate_dim: 32}"
    backbone = (
        f"{{name: keras_hub, architecture: DINOV2Backbone, options: {options}, pretrained: {preset}, image_size: 64}}"
    )
    config = tiny_config(tmp_path, f"model={{name: unet, decoder_channels: [8, 8, 8], backbone: {backbone}}}")
    with pytest.raises(WeightsError, match="is a DINOV3Backbone of .*, and the backbone a DINOV2Backbone"):
        load_pretrained(build_model(config), config)


def test_what_counts_as_a_preset_for_hub(tmp_path: Path, preset: Path) -> None:
    assert is_hub_preset("dinov3_vit_large_sat493m") and is_hub_preset(str(preset))
    assert not is_hub_preset(str(tmp_path)) and not is_hub_preset("https://example.org/x")
    with pytest.raises(ValueError, match="needs `preset: NAME`"):
        KerasHub(name="keras_hub")


def _built(section: KerasApplications) -> Callable[[], keras.Model]:
    return lambda: build_backbone(section, in_channels=2)


def test_rows_build(tmp_path: Path) -> None:
    section = KerasApplications(name="keras_applications", model="MobileNetV2", options={"alpha": 0.35})
    assert section.label == "mobilenetv2" and _built(section)().input_shape == (None, None, None, 2)
