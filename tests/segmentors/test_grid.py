"""Every segmentor on every backbone of the zoo's table: a new row of either kind is among them by itself.

Backbones are narrow where `tests.fixtures.backbones.narrow` has a form of them, and those that have the same form count
as one network. `RSSEG_TF_GRID=all` in the environment runs what runs on a sample on all pairs.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest
import tensorflow as tf
from pydantic import TypeAdapter

from rsseg_tf.build import build_backbone, build_model, builder_of
from rsseg_tf.config import zoo
from rsseg_tf.errors import ConfigError
from rsseg_tf.export import ExportOptions, export_model, load_trained
from rsseg_tf.export.tiles import random_tiles
from rsseg_tf.manifest import Quantization
from rsseg_tf.predictors import open_predictor
from rsseg_tf.rasters.windows import Size
from tests.fixtures.backbones import narrow
from tests.fixtures.checkpoints import lively, saved
from tests.fixtures.configs import replace_builder, tiny_config

PAGE = Path(__file__).parents[2] / "docs" / "pairs.md"
ALL = os.environ.get("RSSEG_TF_GRID") == "all"
_BANDS, _CLASSES, _SIZE = 5, 3, (67, 93)
# They are built from a model or code of one's own, or on other packages.
_NOT_WALKED = ("c2fnet", "custom", "keras_applications", "keras_hub", "keras_model")
# Beginnings of the paths of weights that no output depends on, as in the original.
_UNUSED = {"upernet": ("conv_last",), "danet": ("pam_classifier",)}
_EXPORTED = (
    ("unet", "efficientnet_lite0"),
    ("fpn", "efficientnet_b0"),
    ("segformer", "mit_b0"),
    ("unet", "convnext_tiny"),
    ("fpn", "resnet18_v1c"),
)

Pair = tuple[str, str]


def _rows(kind: type[zoo.Row]) -> dict[str, type[zoo.Row]]:
    """Returns the rows of a kind by name, those below other rows among them."""
    found: dict[str, type[zoo.Row]] = {}
    for row in kind.__subclasses__():
        if "name" in row.__annotations__:
            found |= dict.fromkeys(get_args(row.model_fields["name"].annotation), row)
        found |= _rows(row)
    return {name: row for name, row in found.items() if name not in _NOT_WALKED}


SEGMENTORS, BACKBONES = _rows(zoo.ModelSection), _rows(zoo.BackboneSection)
PAIRS: list[Pair] = [(segmentor, backbone) for segmentor in SEGMENTORS for backbone in BACKBONES]


def _options(pair: Pair, **of_backbone: Any) -> dict[str, Any]:
    """Returns the section `model` of a config, with 8 channels wherever channels can be told."""
    segmentor, backbone = pair
    narrowed = {
        name: [8] * len(field.default) if isinstance(field.default, tuple) else 8
        for name, field in SEGMENTORS[segmentor].model_fields.items()
        if name.endswith("channels")
    }
    rest = {"drop_path": 0.0} if "drop_path" in BACKBONES[backbone].model_fields else {}  # it leaves out gradients
    return {"name": segmentor, "backbone": {"name": backbone, **rest, **of_backbone}, **narrowed}


def _section(pair: Pair) -> Any:
    return TypeAdapter(zoo.Model).validate_json(json.dumps(_options(pair)))


def _network(backbone: str) -> str:
    """Returns the first backbone of the table that has the same narrow form."""
    form = repr(narrow(backbone))
    return backbone if form == "None" else next(name for name in BACKBONES if repr(narrow(name)) == form)


NETWORKS = list(dict.fromkeys(map(_network, BACKBONES)))


@pytest.fixture
def narrow_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, row in BACKBONES.items():
        if form := narrow(name):
            replace_builder(monkeypatch, row.built_by.format(name=name), form)


def _build(pair: Pair, backbone: keras.Model | None = None) -> keras.Model:
    section = _section(pair)
    on = backbone or build_backbone(section.backbone, in_channels=_BANDS)
    return builder_of(section)(on, num_classes=_CLASSES, **section.builder_options())


# === What can be built ===


def _refusals() -> Iterator[tuple[Pair, str]]:
    """Builds all pairs and gives those that are refused, with the message."""
    for network in NETWORKS:
        backbone = build_backbone(_section((next(iter(SEGMENTORS)), network)).backbone, in_channels=_BANDS)
        for segmentor in SEGMENTORS:
            try:
                model = _build((segmentor, network), backbone)
            except ConfigError as error:
                for name in BACKBONES:
                    if _network(name) == network:
                        yield (segmentor, name), str(error).replace(f"'{backbone.name}'", "'NAME'")
            else:
                assert model.input_shape == (None, None, None, _BANDS)
                assert model.output["main"].shape == (None, None, None, _CLASSES)


def _table(refusals: dict[Pair, str]) -> str:
    """Returns the lines of the table of what is refused."""
    lines: dict[tuple[str, str], list[str]] = {}
    for (segmentor, backbone), reason in refusals.items():
        lines.setdefault((segmentor, reason), []).append(f"`{backbone}`")
    return "".join(
        f"| `{segmentor}` | {', '.join(names)} | {reason} |\n" for (segmentor, reason), names in lines.items()
    )


@pytest.mark.usefixtures("narrow_backbones")
def test_every_pair_is_built_or_stands_in_the_table_of_what_is_refused() -> None:
    expected = _table(dict(_refusals()))
    found = PAGE.read_text("utf-8").partition("| --- | --- | --- |\n")[2].partition("\n\n")[0].rstrip("\n") + "\n"
    assert found == expected, f"the table of {PAGE.name} has to be:\n{expected}"


def test_the_table_is_walked_whole() -> None:
    assert {"fcn", "unet", "fpn", "segformer", "lraspp"} <= set(SEGMENTORS)
    assert {"resnet50", "resnet18_v1c", "mit_b0", "convnext_tiny", "efficientnet_b4", "hrnet_w48"} <= set(BACKBONES)
    assert not set(_NOT_WALKED) & (set(SEGMENTORS) | set(BACKBONES))


@pytest.mark.slow
def test_narrow_backbones_have_the_features_of_the_real_ones() -> None:
    image = tf.TensorSpec((1, *_SIZE, _BANDS), tf.float32)
    for name in BACKBONES if ALL else NETWORKS:
        if form := narrow(name):
            section = _section(("fcn", name)).backbone
            options = section.builder_options()
            sizes = []
            for model in (form(in_channels=_BANDS, **options), build_backbone(section, in_channels=_BANDS)):
                traced = tf.function(model).get_concrete_function(image).structured_outputs
                sizes.append({feature: tuple(spec.shape)[1:3] for feature, spec in traced.items()})
            assert sizes[0] == sizes[1], name


# === What the models compute ===


def _sample(seed: int = 7) -> list[Pair]:
    """Returns pairs in which each segmentor and each network is at least once; all that are built for `ALL`."""
    refused = {pair for pair in PAIRS if _is_in_the_table(pair)}
    if ALL:
        return [
            (segmentor, network)
            for segmentor in SEGMENTORS
            for network in NETWORKS
            if (segmentor, network) not in refused
        ]
    order = random.Random(seed)
    segmentors, networks = list(SEGMENTORS), list(NETWORKS)
    order.shuffle(segmentors)
    order.shuffle(networks)
    pairs: list[Pair] = []
    while segmentors or networks:
        network = networks.pop() if networks else order.choice(NETWORKS)
        free = [name for name in segmentors or SEGMENTORS if (name, network) not in refused]
        if not free:
            continue
        segmentor = free[0] if segmentors else order.choice(free)
        if segmentors:
            segmentors.remove(segmentor)
        pairs.append((segmentor, network))
    return pairs


@cache
def _page() -> str:
    return PAGE.read_text("utf-8")


def _is_in_the_table(pair: Pair) -> bool:
    segmentor, backbone = pair
    return any(line.startswith(f"| `{segmentor}` |") and f"`{backbone}`" in line for line in _page().splitlines())


def _ids(pair: Pair) -> str:
    return "-".join(pair)


def test_the_sample_has_everything_once() -> None:
    assert {segmentor for segmentor, _ in _sample()} == set(SEGMENTORS)
    assert {network for _, network in _sample()} == set(NETWORKS)


@pytest.mark.usefixtures("narrow_backbones")
@pytest.mark.parametrize("pair", _sample(), ids=_ids)
def test_five_bands_and_odd_sides(tmp_path: Path, pair: Pair) -> None:
    model = lively(_build(pair))
    for variable in model.trainable_variables:
        if variable.name == "gamma" and variable.shape == (1,):  # of DANet's attention, 0 at first
            variable.assign([0.5])
    image = np.random.default_rng(0).normal(size=(2, *_SIZE, _BANDS)).astype("float32")
    _check_gradients(model, image, _UNUSED.get(pair[0], ()))
    logits = np.asarray(model(image, training=False)["main"])
    assert logits.shape == (2, *_SIZE, _CLASSES) and np.isfinite(logits).all() and logits.std() > 0
    model.save_weights(path := tmp_path / "one.weights.h5")
    again = _build(pair)
    assert [variable.path for variable in again.weights] == [variable.path for variable in model.weights]
    again.load_weights(path)
    np.testing.assert_array_equal(np.asarray(again(image, training=False)["main"]), logits)


def _check_gradients(model: keras.Model, image: np.ndarray, unused: tuple[str, ...]) -> None:
    weights = np.random.default_rng(1).normal(size=(*image.shape[:3], 1)).astype("float32")
    with tf.GradientTape() as tape:
        outputs = keras.tree.flatten(model(image, training=True))
        loss = sum(tf.reduce_mean(output**2 * weights[:, : output.shape[1], : output.shape[2]]) for output in outputs)
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert (gradient is None) == variable.path.startswith(unused or ("-",)), variable.path
        if gradient is not None:
            assert np.isfinite(gradient).all(), variable.path
            # A bias before a normalisation has none but for rounding.
            assert variable.name in ("bias", "gamma", "beta") or np.abs(gradient).max() > 0, variable.path


# === What comes out of the formats ===


def _settled(model: keras.Model, pixels: np.ndarray) -> keras.Model:
    """Makes running statistics those of pictures; without, values of weights of noise die away with depth."""
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
    model(pixels.astype("float32") / 127.5 - 1, training=True)
    for layer in norms:  # a channel that is all but constant would blow up rounding
        layer.moving_variance.assign(np.maximum(layer.moving_variance.numpy(), 0.01))
    return model


@pytest.mark.slow
@pytest.mark.usefixtures("narrow_backbones")
@pytest.mark.parametrize("pair", _sample() if ALL else _EXPORTED, ids=_ids)
def test_every_format_gives_the_logits(tmp_path: Path, pair: Pair) -> None:
    pytest.importorskip("tf2onnx", reason="extra onnx is not installed")
    pytest.importorskip("ai_edge_litert", reason="extra tflite is not installed")
    heads = {head: {"name": "cross_entropy"} for head in _build(pair).output}
    if "contrast" in heads:
        heads["contrast"] = {"name": "pixel_contrast"}
    config = tiny_config(tmp_path, f"model={_options(pair)}", f"loss={heads}".replace("'", ""))
    pictures = partial(random_tiles, config.dataset.spec)
    model = _settled(lively(build_model(config)), pictures(Size(64, 64), 16))
    trained = load_trained(saved(model, config, tmp_path), config)
    exported = export_model(trained, tmp_path / "out", ExportOptions(("savedmodel", "onnx", "tflite")))
    assert exported.folder is not None
    # The last is smaller than the steps in which attention makes its keys coarser.
    images = [pictures(Size(*size), 2) for size in ((64, 64), _SIZE, (20, 9))]
    expected_of = [trained.predict(image) for image in images]
    for artifact in exported.manifest.artifacts:
        predict = open_predictor(exported.folder / artifact.path).predict
        for image, expected in zip(images, expected_of, strict=True):
            atol = 5e-5 * np.abs(expected).max()
            np.testing.assert_allclose(predict(image), expected, atol=atol, err_msg=artifact.name)
    # Pictures that are compared are among those of the calibration: values beyond what it saw are clipped.
    image = pictures(Size(64, 64), 8)
    # 16 bits for what attention and GELU compute; depthwise convolutions with weights of noise overflow in them.
    quantizations: tuple[Quantization, ...] = (
        ("int8", "int16x8") if pair[1] in ("mit_b0", "convnext_tiny") else ("int8",)
    )
    options = ExportOptions(("tflite",), quantizations, Size(64, 64), list(image))
    quantized = export_model(trained, tmp_path / "quantized", options)
    assert quantized.folder is not None
    expected = trained.predict(image)
    for artifact in quantized.manifest.artifacts:
        logits = open_predictor(quantized.folder / artifact.path).predict(image)
        assert np.abs(logits - expected).mean() <= 0.5 * expected.std(), artifact.name
