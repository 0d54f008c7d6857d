"""C2FNet computes what the original computes, wherever the original is defined.

The original's three limits show in the golden files: it zeroes what lies beyond the last whole window of 128 pixels,
counts ignored labels as "no small object", and knows iSAID's classes only. The first two are told apart here; the
limits that are lifted have their tests in ``tests/segmentors/test_c2fnet.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.backbones import hrnet_w18
from rsseg_tf.losses import cross_entropy
from rsseg_tf.segmentors import c2fnet, fcn
from rsseg_tf.segmentors.c2fnet import window_labels
from rsseg_tf.weights import assign_weights, c2fnet_names, fcn_names, hrnet_names
from tests.fixtures.golden import GOLDEN, needs_golden
from tests.parity import detinit

pytestmark = [pytest.mark.parity, pytest.mark.slow, needs_golden]

SMALL_CLASSES = (1, 8, 9, 10, 11, 14, 15)  # of iSAID


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return dict(json.loads((GOLDEN / "c2fnet_fcn.json").read_text()))


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "c2fnet_fcn.npz") as file:
        return dict(file)


def names_of(segmentor_names: Callable[..., dict[str, str]], model: keras.Model, prefix: str) -> dict[str, str]:
    """PaddleSeg's names of the tensors of a model whose paths begin with a prefix."""
    paths = [variable.path.removeprefix(prefix) for variable in model.weights]
    return {name: prefix + path for name, path in segmentor_names(paths, hrnet_names(paths)).items()}


@pytest.fixture(scope="module")
def names(model: keras.Model) -> dict[str, str]:
    return names_of(c2fnet_names, model.get_layer("refine").fine, "fine/")


@pytest.fixture(scope="module")
def model(expected: dict[str, Any]) -> keras.Model:
    """C2FNet with an FCN as coarse model, both on HRNet-W18, as `c2fnet_fcn` of the original."""
    with keras.name_scope("coarse"):
        coarse = fcn(hrnet_w18(), num_classes=16)
    with keras.name_scope("fine"):
        backbone = hrnet_w18()
    coarse_state = json.loads((GOLDEN / "fcn_hrnet_w18.json").read_text())["state"]
    assign_weights(coarse, _weights(coarse_state), names_of(fcn_names, coarse, "coarse/"))
    model = c2fnet(backbone, coarse=coarse, num_classes=16, small_classes=SMALL_CLASSES)
    fine = model.get_layer("refine").fine
    assign_weights(fine, _weights(expected["state"]), names_of(c2fnet_names, fine, "fine/"))
    return model


def _weights(state: list[Any]) -> dict[str, np.ndarray]:
    return {name: detinit.weight(name, tuple(shape)) for name, shape, _ in state}


def heatmap(key: str, count: int, height: int, width: int) -> np.ndarray:
    """(count, height, width, 16) float32 coarse logits that favour the background at the top."""
    logits = detinit.uniform(key, (count, 16, height, width), -2, 2)
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
    logits[:, 0] += (4.0 * (1 - 0.8 * y - 0.2 * x * x)).astype(np.float32)
    return logits.transpose(0, 2, 3, 1)


def check(actual: Any, checksum: dict[str, Any], tolerance: float) -> None:
    """Compares with mean, deviation, extremes and the first and last values of a tensor in the original's layout."""
    actual = np.asarray(actual, np.float64)
    assert list(actual.shape) == checksum["shape"]
    for statistic in ("mean", "std", "min", "max"):
        assert getattr(actual, statistic)() == pytest.approx(checksum[statistic], abs=tolerance), statistic
    np.testing.assert_allclose(actual.ravel()[:4], checksum["first"], atol=tolerance)
    np.testing.assert_allclose(actual.ravel()[-4:], checksum["last"], atol=tolerance)


def test_parameter_counts(model: keras.Model, expected: dict[str, Any]) -> None:
    def count(weights: list[Any]) -> int:
        return sum(int(np.prod(weight.shape)) for weight in weights)

    assert count(model.trainable_weights) == expected["trainable"]
    assert count(model.weights) == expected["state_values"] + expected["coarse_state_values"]


def test_logits_of_the_whole_pipeline(
    model: keras.Model, expected: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    logits = model(detinit.image("c2f_256", 1, 256, 256), training=False)["main"].numpy().transpose(0, 3, 1, 2)
    tolerance = 1e-4 * float(arrays["out_256_s4"].std())
    np.testing.assert_allclose(logits[:, :, ::4, ::4], arrays["out_256_s4"], rtol=0, atol=tolerance)
    assert (logits.argmax(1) == arrays["out_256_argmax"]).mean() >= 0.9999
    check(logits, expected["eval"]["pipeline_256"]["out"], tolerance)


@pytest.mark.parametrize(
    ("count", "height", "width", "defined"),
    [(2, 256, 256, (256, 256)), (1, 300, 200, (256, 128)), (1, 97, 131, (97, 128))],
)
def test_refinement_of_given_coarse_logits(
    model: keras.Model, arrays: dict[str, np.ndarray], count: int, height: int, width: int, defined: tuple[int, int]
) -> None:
    """`defined` is how far the original's windows reach; from there on it returns zeros."""
    key = f"synthetic_{count}x{height}x{width}"
    coarse = heatmap(key, count, height, width)
    refined = model.get_layer("refine")(detinit.image(key, count, height, width), coarse, training=False)["main"]
    refined = refined.numpy().transpose(0, 3, 1, 2)
    rows, columns = defined
    theirs = arrays[f"{key}_out_s4"][:, :, : -(-rows // 4), : -(-columns // 4)]
    ours = refined[:, :, :rows:4, :columns:4]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * theirs.std())
    # What the original leaves out is refined too: something is added to every pixel of the small classes.
    beyond = np.ones((height, width), bool)
    beyond[:rows, :columns] = False
    added = (refined - coarse.transpose(0, 3, 1, 2))[:, :, beyond]
    assert (added[:, list(SMALL_CLASSES)] > 0).all()
    others = [i for i in range(16) if i not in SMALL_CLASSES]
    assert (added[:, others] == 0).all()


def _train(model: keras.Model, side: int) -> tuple[dict[str, Any], Any, Any, tf.GradientTape]:
    key = f"c2ftrain_{side}x{side}"
    # The original takes ignored pixels for "no small object".
    labels = detinit.label(key, 1, side, side, 16)
    labels = np.where(labels == 255, 0, labels)
    with tf.GradientTape() as tape:
        outputs = model.get_layer("refine")(
            detinit.image(key, 1, side, side), heatmap(key, 1, side, side), training=True
        )["fine"]
        targets = window_labels(
            labels, outputs["windows"], window_size=128, small_classes=SMALL_CLASSES, ignore_index=255
        )
        loss = cross_entropy(outputs["logits"], targets, ignore_index=255)
    return outputs, targets, loss, tape


@pytest.mark.parametrize("side", [160, 288])
def test_training(model: keras.Model, expected: dict[str, Any], names: dict[str, str], side: int) -> None:
    golden = expected["train"][f"c2ftrain_{side}x{side}"]
    before = {weight.path: weight.numpy() for weight in model.weights}
    outputs, targets, loss, tape = _train(model, side)
    weights = {weight.path: weight for weight in model.weights}
    after = {path: weight.numpy() for path, weight in weights.items()}
    for path, value in before.items():  # The model is shared by the tests of this module.
        weights[path].assign(value)

    assert outputs["windows"].shape[0] == golden["k"]
    theirs, their_targets = golden.get("outputs") or golden["train_outputs"]
    check(outputs["logits"].numpy().transpose(0, 3, 1, 2), theirs, 1e-4 * theirs["std"])
    check(targets, their_targets, 1e-6)
    if "loss" in golden:
        assert float(loss) == pytest.approx(golden["loss"], rel=1e-5)
        return
    step = golden["steps"][0]
    assert float(loss) == pytest.approx(step["loss"], rel=1e-5)
    gradients = tape.gradient(loss, [weights[names[name]].value for name in step["grad"]])
    assert len(step["grad"]) >= 8
    for (name, checksum), gradient in zip(step["grad"].items(), gradients, strict=True):
        assert np.abs(gradient.numpy()).mean() == pytest.approx(checksum["absmean"], rel=0.02, abs=1e-7), name
    statistics = [name for name in step["delta"] if name.endswith(("_mean", "_variance"))]
    assert len(statistics) == 4
    for name in statistics:
        update = after[names[name]] - before[names[name]]
        assert np.abs(update).mean() == pytest.approx(step["delta"][name]["absmean"], rel=1e-4), name
    coarse = [path for path in before if path.startswith("coarse/")]
    assert coarse
    assert all(np.array_equal(before[path], after[path]) for path in coarse), "the coarse model is frozen"
