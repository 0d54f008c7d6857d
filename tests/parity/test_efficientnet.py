"""EfficientNets compute what timm's do, on values that follow from names (`efficientnet/generate.py`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest

from rsseg_tf.backbones import efficientnet_b0, efficientnet_b2, efficientnet_lite0, efficientnet_lite2
from rsseg_tf.weights import assign_weights, efficientnet_names
from tests.parity import detinit

pytestmark = pytest.mark.parity

FOLDER = Path(__file__).parent / "efficientnet"
SIZE = (97, 131)
MODELS: dict[str, Callable[..., keras.Model]] = {
    "efficientnet_lite0": efficientnet_lite0,
    "efficientnet_lite2": efficientnet_lite2,
    # Timm's own; its `tf_*` are as TensorFlow's.
    "efficientnet_b0": partial(efficientnet_b0, padding="symmetric", epsilon=1e-5),
    "efficientnet_b2": partial(efficientnet_b2, padding="symmetric", epsilon=1e-5),
}


@pytest.mark.parametrize("name", MODELS)
def test_features(name: str) -> None:
    model = MODELS[name]()
    shapes = {variable.path: tuple(variable.shape) for variable in model.weights}
    names = efficientnet_names(shapes)
    tensors = {}
    for tensor, path in names.items():
        shape = shapes[path]
        if len(shape) == 4:
            shape = (shape[2], 1, *shape[:2]) if "_depthwise/" in path else (shape[3], shape[2], *shape[:2])
        tensors[tensor] = detinit.weight(tensor, shape)
    assign_weights(model, tensors, names)
    features = model(detinit.image("eval", 1, *SIZE), training=False)
    with np.load(FOLDER / f"{name}.npz") as expected:
        assert expected.keys() == features.keys()
        for key, theirs in expected.items():
            step = 3 * {"c1": 4, "c2": 2}.get(key, 1)
            # Every third (or sixth, or twelfth) pixel of every eighth channel.
            ours = np.asarray(features[key])[:, ::3, ::3, ::8][:, :: step // 3, :: step // 3]
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() <= 1e-4 * theirs.std(), key
