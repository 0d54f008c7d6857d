from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest
from pydantic import BaseModel

from rsseg_tf.build import POLICIES, build_backbone, build_losses, build_model, builder_of
from rsseg_tf.config import Config
from rsseg_tf.config.schema import Train
from rsseg_tf.config.zoo import Backbone, CustomRow, HRNet, Loss, Method, Mixed, Model, ResNet, ResNetVd, Row
from rsseg_tf.errors import ConfigError
from rsseg_tf.losses import cross_entropy
from tests.fixtures.configs import replace_builder, tiny_config, use_tiny_backbone


def rows(union: Any) -> list[type[Row]]:
    """Returns the rows of a union but those without a builder of ours: `custom`, and `mixed`, a sum of others."""
    members = get_args(get_args(union)[0])
    return [row for row in members if not issubclass(row, CustomRow | Mixed)]


def names(section: type[BaseModel]) -> tuple[str, ...]:
    return get_args(section.model_fields["name"].annotation)


KINDS: dict[str, Any] = {"backbone": Backbone, "segmentor": Model, "loss": Loss, "method": Method}
SECTIONS = [
    pytest.param(section, name, kind, id=f"{kind}-{name}")
    for kind, union in KINDS.items()
    for section in rows(union)
    for name in names(section)
]


def builder(section: type[Row], name: str) -> Callable[..., Any]:
    """Returns the builder of a row, whose other fields do not matter to it."""
    return builder_of(section.model_construct(name=name))


def parameters_of(section: type[Row], name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(builder(section, name)).parameters)


# === Rows and builders agree ===


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_stands_in_one_row_only(kind: str) -> None:
    allowed = [name for row in rows(KINDS[kind]) for name in names(row)]
    assert len(allowed) == len(set(allowed)) >= 6


def test_every_precision_of_the_schema_has_a_policy() -> None:
    assert set(get_args(Train.model_fields["precision"].annotation)) == set(POLICIES)


@pytest.mark.parametrize(("section", "name", "kind"), SECTIONS)
def test_fields_are_options_of_the_builder_with_the_same_defaults(section: type[Row], name: str, kind: str) -> None:
    parameters = parameters_of(section, name)
    fields = {field: info for field, info in section.model_fields.items() if field not in section.own}
    unknown = fields.keys() - parameters.keys()
    assert not unknown, f"{name} takes no {unknown}"
    for field, info in fields.items():
        assert parameters[field].kind is inspect.Parameter.KEYWORD_ONLY or kind == "loss"
        default = inspect.Parameter.empty if info.is_required() else info.default
        assert default == parameters[field].default, f"{name}.{field}"


@pytest.mark.parametrize(("section", "name", "kind"), SECTIONS)
def test_what_the_builder_needs_beyond_the_fields_is_given_by_build(section: type[Row], name: str, kind: str) -> None:
    needed = {
        parameter.name
        for parameter in parameters_of(section, name).values()
        if parameter.default is inspect.Parameter.empty and parameter.name not in section.model_fields
    }
    # `num_classes` is a field too, for an agreement with the dataset, and `build` gives the dataset's.
    given = {
        "backbone": {"in_channels"},
        "segmentor": {"small_classes"},
        "loss": {"logits", "outputs", "labels", "ignore_index", "seed"},
        "method": {"build_backbone", "steps"},
    }
    assert needed <= given[kind]


@pytest.mark.parametrize(("section", "name", "kind"), SECTIONS)
def test_a_builder_is_named_as_in_the_config(section: type[Row], name: str, kind: str) -> None:
    """So no row can point to its neighbour's function."""
    assert builder(section, name).__name__.lower().replace("_", "") == name.replace("_", "")


# Files of these are of a family (`rsseg_tf.weights.families`), or come with the library that the network is from.
WITHOUT_NAMES = {
    *("mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5", "convnext_tiny", "keras_applications", "keras_hub"),
    *("fpn", "segformer", "keras_model"),
}


@pytest.mark.parametrize(("section", "name", "kind"), SECTIONS)
def test_released_weights_have_names(section: type[Row], name: str, kind: str) -> None:
    """Losses and methods have no files; every backbone and segmentor of the benchmark, and torchvision's, has."""
    assert (section.weight_names is not None) == (kind in ("backbone", "segmentor") and name not in WITHOUT_NAMES)
    if section.weight_names is not None:
        module, _, function = section.weight_names.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


# === Options reach the builders ===


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Puts in place of all backbones one that keeps its options."""
    kept: list[dict[str, Any]] = []

    def builder(**options: Any) -> keras.Model:
        kept.append(options)
        image = keras.Input((None, None, options["in_channels"]))
        return keras.Model(image, {"c2": keras.layers.Conv2D(4, 1, strides=4)(image)})

    for row in rows(Backbone):
        for name in names(row):
            replace_builder(monkeypatch, row.built_by.format(name=name), builder)
    return kept


def test_the_options_of_a_backbone_reach_its_builder(calls: list[dict[str, Any]]) -> None:
    build_backbone(ResNetVd(name="resnet50_vd", output_stride=16, multi_grid=(1, 2, 4)))
    build_backbone(ResNet(name="resnet50"), in_channels=4)
    build_backbone(HRNet(name="hrnet_w18", variant="mmsegmentation"), in_channels=1)
    assert calls == [
        {"in_channels": 3, "output_stride": 16, "multi_grid": (1, 2, 4)},
        {"in_channels": 4, "output_stride": 32},
        {"in_channels": 1, "variant": "mmsegmentation"},
    ]


def test_the_options_of_a_segmentor_reach_its_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    kept: dict[str, Any] = {}

    def builder(backbone: keras.Model, **options: Any) -> keras.Model:
        kept.update(options, backbone=backbone.name)
        return keras.Model(backbone.input, {"main": backbone.output["c5"]})

    replace_builder(monkeypatch, "rsseg_tf.segmentors.fcn:fcn", builder)
    build_model(tiny_config(tmp_path, "model.channels=5", "model.align_corners=true"))
    assert kept == {"backbone": "plain", "num_classes": 2, "channels": 5, "align_corners": True}


# === The model ===


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)


@pytest.mark.usefixtures("tiny")
def test_bands_and_classes_come_from_the_dataset(tmp_path: Path) -> None:
    model = build_model(
        tiny_config(
            tmp_path, "dataset.bands=5", "dataset.classes=[a, b, c]",
            "augment.saturation_range=0.0", "augment.hue_range=0.0",
        )
    )  # fmt: skip
    assert model.input_shape == (None, None, None, 5)
    assert {head: logits.shape for head, logits in model.output.items()} == {"main": (None, None, None, 3)}
    assert model(np.zeros((1, 32, 32, 5), np.float32))["main"].shape == (1, 32, 32, 3)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("loss", "configured"),
    [
        ("{main: {name: cross_entropy}, aux: {name: cross_entropy, weight: 0.4}}", "aux, main"),
        ("{aux: {name: cross_entropy}}", "aux"),
    ],
)
def test_a_loss_for_a_head_that_the_model_lacks_is_refused(tmp_path: Path, loss: str, configured: str) -> None:
    # The tiny config says nothing about losses, so that `loss` is all there is.
    config = tiny_config(tmp_path, f"loss={loss}")
    with pytest.raises(
        ConfigError,
        match=rf"loss names the heads {configured}, but fcn has the heads main; write one loss for each",
    ):
        build_model(config)


@pytest.fixture
def policy() -> Iterator[str]:
    """A policy other than Keras's own, so that a return to the default shows."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield "mixed_bfloat16"
    keras.config.set_dtype_policy(before)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("precision", "compute"), [("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16")])
def test_precision_is_the_type_of_activations_and_ends_with_the_model(
    tmp_path: Path, policy: str, precision: str, compute: str
) -> None:
    model = build_model(tiny_config(tmp_path), precision=precision)
    assert keras.config.dtype_policy().name == policy
    convolution = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    assert convolution.compute_dtype == compute
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert model.output["main"].dtype == "float32"


def test_precision_is_restored_after_an_error_too(tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**options: Any) -> keras.Model:
        raise ConfigError("no such model")

    replace_builder(monkeypatch, "rsseg_tf.backbones.resnet_vd:resnet18_vd", fails)
    with pytest.raises(ConfigError, match="no such model"):
        build_model(tiny_config(tmp_path), precision="fp16")
    assert keras.config.dtype_policy().name == policy


# === The losses ===


def reference_loss(
    logits: np.ndarray, labels: np.ndarray, ignore_index: int, class_weights: tuple[float, ...]
) -> float:
    total = weights = 0.0
    for row, label in zip(logits.reshape(-1, logits.shape[-1]), labels.ravel(), strict=True):
        if label != ignore_index:
            weight = class_weights[label]
            total -= weight * (row[label] - np.log(np.exp(row).sum()))
            weights += weight
    return total / weights


@pytest.mark.parametrize("class_weights", [None, (0.5, 3.0)])
def test_weights_and_the_ignored_id_reach_the_loss(tmp_path: Path, class_weights: tuple[float, float] | None) -> None:
    shown = "null" if class_weights is None else list(class_weights)
    config = tiny_config(
        tmp_path,
        f"loss={{main: {{name: cross_entropy, weight: 0.7, class_weights: {shown}}}}}",
        "dataset.ignore_index=9",
    )
    losses = build_losses(config)
    assert list(losses) == ["main"]
    loss, weight = losses["main"]
    assert weight == 0.7
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 5, 2)).astype(np.float32)
    labels = rng.choice(np.array([0, 1, 9], np.int32), (2, 4, 5))
    expected = reference_loss(logits.astype(np.float64), labels, 9, class_weights or (1.0, 1.0))
    assert float(loss(logits, labels)) == pytest.approx(expected, rel=1e-5)


def test_each_head_has_its_own_options(tmp_path: Path) -> None:
    """A closure over the loop's variable would give all heads the options of the last."""
    config = tiny_config(
        tmp_path,
        "loss={main: {name: cross_entropy, class_weights: [1.0, 5.0]}, aux: {name: cross_entropy, weight: 0.4}}",
    )
    losses = build_losses(config)
    assert {head: weight for head, (_, weight) in losses.items()} == {"main": 1.0, "aux": 0.4}
    logits = np.random.default_rng(0).normal(size=(1, 3, 3, 2)).astype(np.float32)
    labels = np.arange(9, dtype=np.int32).reshape(1, 3, 3) % 2
    weighted, plain = (float(losses[head][0](logits, labels)) for head in ("main", "aux"))
    assert weighted == pytest.approx(reference_loss(logits, labels, 255, (1.0, 5.0)), rel=1e-5)
    assert plain == pytest.approx(reference_loss(logits, labels, 255, (1.0, 1.0)), rel=1e-5)
    assert weighted != pytest.approx(plain, rel=1e-3)


def test_the_mean_over_devices_reaches_the_loss(tmp_path: Path) -> None:
    config: Config = tiny_config(tmp_path)
    logits = np.zeros((1, 2, 2, 2), np.float32)
    labels = np.array([[[0, 1], [255, 255]]], np.int32)
    loss, _ = build_losses(config)["main"]
    halves = float(loss(logits, labels, mean=lambda weights: keras.ops.mean(weights) / 2))
    assert halves == pytest.approx(2 * float(loss(logits, labels)), rel=1e-5)
    assert halves == pytest.approx(
        float(cross_entropy(logits, labels, ignore_index=255, mean=lambda weights: keras.ops.mean(weights) / 2))
    )
