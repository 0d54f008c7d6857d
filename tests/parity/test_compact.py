"""The models compute what the original computes, shown by what lies in this folder (`make_compact.py`).

Where the full outputs are present, `test_benchmark_models.py` compares more of them; one model is compared here then.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from rsseg_tf.weights import assign_weights
from tests.fixtures.golden import GOLDEN
from tests.parity import detinit
from tests.parity.cases import CASES, count

pytestmark = [pytest.mark.parity, pytest.mark.slow]

COMPACT = Path(__file__).parent / "compact"
FACTS: dict[str, dict[str, Any]] = json.loads((COMPACT / "facts.json").read_text("utf-8"))
ALWAYS = "fcn_hrnet_w18"


def _tensors(model: keras.Model, names: dict[str, str]) -> dict[str, np.ndarray]:
    """Returns the values that follow from the original's names; shapes from our variables."""
    shapes = {variable.path: tuple(variable.shape) for variable in model.weights}
    tensors = {}
    for name, path in names.items():
        shape = shapes[path]
        if len(shape) == 4:  # depthwise kernels are (height, width, channels, 1)
            last = shape[2:] if path.endswith("_depthwise/kernel") else shape[:1:-1]
            shape = (*last, *shape[:2])
        tensors[name] = detinit.weight(name, shape)
    return tensors


@pytest.fixture(scope="module", params=CASES)
def built(request: pytest.FixtureRequest) -> Iterator[tuple[str, keras.Model]]:
    name = request.param
    if GOLDEN.is_dir() and name != ALWAYS:
        pytest.skip("the full outputs are compared instead (test_benchmark_models.py)")
    case = CASES[name]
    model = case.segmentor(case.backbone(), num_classes=FACTS[name]["num_classes"])
    names = case.tensor_names(model)
    assign_weights(model, _tensors(model, names), names)
    yield name, model
    keras.backend.clear_session()
    gc.collect()


def test_every_model_has_its_outputs_here() -> None:
    assert FACTS.keys() == CASES.keys()
    assert {path.stem for path in COMPACT.glob("*.npz")} == CASES.keys()


def test_parameter_counts(built: tuple[str, keras.Model]) -> None:
    name, model = built
    assert count(model.trainable_weights) == FACTS[name]["trainable"]
    assert count(model.weights) == FACTS[name]["state_values"]


def test_logits(built: tuple[str, keras.Model]) -> None:
    name, model = built
    logits = keras.ops.convert_to_numpy(model(detinit.image("eval_97x131", 1, 97, 131), training=False)["main"])
    with np.load(COMPACT / f"{name}.npz") as stored:
        expected, argmax = stored["logits"].transpose(0, 2, 3, 1), stored["argmax"]
    assert np.abs(logits[:, ::8, ::8] - expected).max() <= 1e-4 * FACTS[name]["std"]
    assert (logits.argmax(-1) == argmax).mean() >= 0.9999


def test_losses_of_the_first_step(built: tuple[str, keras.Model]) -> None:
    name, model = built
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout | keras.layers.SpatialDropout2D):
            layer.rate = 0.0
    label = detinit.label("train", 2, 128, 128, FACTS[name]["num_classes"])
    outputs = model(detinit.image("train", 2, 128, 128), training=True)
    losses = [float(weight * loss(outputs[head], label)) for head, loss, weight in CASES[name].losses]
    assert losses == pytest.approx(FACTS[name]["loss_list"], rel=2e-5)
    assert sum(losses) == pytest.approx(FACTS[name]["loss"], rel=1e-5)
