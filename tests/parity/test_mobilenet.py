"""MobileNetV3 and LR-ASPP compute what torchvision's do, on values that follow from names (`mobilenet/generate.py`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.backbones import mobilenet_v3_large, mobilenet_v3_small
from rsseg_tf.segmentors import lraspp
from rsseg_tf.weights import assign_weights, lraspp_names, mobilenet_v3_names
from tests.parity import detinit
from tests.parity.cases import count

pytestmark = pytest.mark.parity

FOLDER = Path(__file__).parent / "mobilenet"
FACTS: dict[str, dict[str, Any]] = json.loads((FOLDER / "facts.json").read_text("utf-8"))
CLASSES, SIZE = 7, (97, 131)
# The classifier of ImageNet's 1000 classes that the backbones end with: two dense layers with biases.
CLASSIFIER = {"large": 960 * 1280 + 1280 + 1280 * 1000 + 1000, "small": 576 * 1024 + 1024 + 1024 * 1000 + 1000}
LRASPP: dict[str, Callable[[], keras.Model]] = {
    "lraspp_large": mobilenet_v3_large,
    "lraspp_large_reduced": partial(mobilenet_v3_large, reduced_tail=True),
    "lraspp_small": mobilenet_v3_small,
    "lraspp_small_reduced": partial(mobilenet_v3_small, reduced_tail=True),
}
UNDILATED = {
    "large": partial(mobilenet_v3_large, output_stride=32),
    "small": partial(mobilenet_v3_small, output_stride=32),
}


def paths(model: keras.Model) -> list[str]:
    return [variable.path for variable in model.weights]


def fill(model: keras.Model, names: dict[str, str]) -> None:
    """Sets every variable from torchvision's name for it."""
    shapes = {variable.path: tuple(variable.shape) for variable in model.weights}
    tensors = {}
    for name, path in names.items():
        shape = shapes[path]
        if len(shape) == 4:
            shape = (shape[2], 1, *shape[:2]) if "_depthwise/" in path else (shape[3], shape[2], *shape[:2])
        tensors[name] = detinit.weight(name, shape)
    assign_weights(model, tensors, names)


def assert_close(ours: Any, theirs: np.ndarray, tolerance: float = 1e-4) -> None:
    ours = keras.ops.convert_to_numpy(ours)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * theirs.std()


@pytest.mark.parametrize("name", LRASPP)
def test_lraspp(name: str) -> None:
    model = lraspp(LRASPP[name](), num_classes=CLASSES)
    names = lraspp_names(paths(model), mobilenet_v3_names(paths(model)))
    fill(model, names)
    assert count(model.trainable_weights) == FACTS[name]["trainable"]
    assert count(model.weights) == FACTS[name]["state_values"]
    with np.load(FOLDER / f"{name}.npz") as file:
        expected = dict(file)
    # Before training, which moves the running statistics.
    evaluated = model(detinit.image("eval", 1, *SIZE), training=False)["main"]
    assert_close(evaluated[:, ::8, ::8], expected.pop("eval"))

    gradient_of_logits = detinit.uniform("gradient", (2, CLASSES, *SIZE), -1.0, 1.0).transpose(0, 2, 3, 1)
    with tf.GradientTape() as tape:
        trained = model(detinit.image("train", 2, *SIZE), training=True)["main"]
        value = tf.reduce_sum(trained * gradient_of_logits)
    assert_close(trained[:, ::8, ::8], expected.pop("train"))
    variables = {variable.path: variable.value for variable in model.trainable_weights}
    gradients = tape.gradient(value, {name: variables[names[f"{name}.weight"]] for name in expected})
    assert len(gradients) == 4
    for name, theirs in expected.items():
        ours = keras.ops.convert_to_numpy(gradients[name])
        ours = ours.transpose(2, 3, 0, 1) if "_depthwise/" in names[f"{name}.weight"] else ours.transpose(3, 2, 0, 1)
        assert_close(ours[::8, ::8], theirs, 1e-3)


@pytest.mark.parametrize("name", UNDILATED)
def test_undilated_backbones(name: str) -> None:
    model = UNDILATED[name]()
    fill(model, mobilenet_v3_names(paths(model)))
    assert count(model.trainable_weights) == FACTS[name]["without_classifier"]
    assert count(model.trainable_weights) + CLASSIFIER[name] == FACTS[name]["trainable"]
    assert count(model.weights) + CLASSIFIER[name] == FACTS[name]["state_values"]
    features = model(detinit.image("eval", 1, *SIZE), training=False)
    with np.load(FOLDER / f"{name}.npz") as expected:
        assert expected.keys() == features.keys() - {"c1"}
        for key, theirs in expected.items():
            assert_close(features[key][:, ::2, ::2, ::8], theirs)
