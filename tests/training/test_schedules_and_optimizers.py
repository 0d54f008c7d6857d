from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from rsseg_tf.config.schema import SGD, AdamW, CosineSchedule, PolySchedule
from rsseg_tf.training.optimizers import MomentumSGD, build_optimizer
from rsseg_tf.training.schedules import learning_rate
from tests.golden import GOLDEN, needs_golden


@needs_golden
@pytest.mark.parity
def test_polynomial_decay_equals_the_originals() -> None:
    expected = json.loads((GOLDEN / "pieces.json").read_text())["poly_80000"]
    assert len(expected) >= 8
    for step, rate in expected.items():
        assert learning_rate(int(step), PolySchedule(name="poly"), 80000) == pytest.approx(rate, rel=1e-12, abs=1e-15)


def test_warm_up_rises_linearly_then_decay_runs_to_the_end() -> None:
    poly = PolySchedule(name="poly", learning_rate=1.0, end_lr=0.1, power=1.0, warmup_steps=4, warmup_start_lr=0.2)
    rates = [learning_rate(step, poly, 12) for step in range(14)]
    np.testing.assert_allclose(rates[:5], [0.2, 0.4, 0.6, 0.8, 1.0])
    np.testing.assert_allclose(np.diff(rates[4:13]), -0.9 / 8)
    assert rates[12] == rates[13] == pytest.approx(0.1)
    cosine = CosineSchedule(name="cosine", learning_rate=1.0, end_lr=0.2, warmup_steps=2)
    assert [learning_rate(step, cosine, 10) for step in (0, 1, 2, 6, 10)] == pytest.approx([0.0, 0.5, 1.0, 0.6, 0.2])


def test_a_trial_run_may_be_shorter_than_the_warm_up() -> None:
    poly = PolySchedule(name="poly", learning_rate=1.0, warmup_steps=10)
    assert [learning_rate(step, poly, 3) for step in range(4)] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert learning_rate(10, poly, 10) == 1.0


def test_momentum_sgd_is_the_originals_arithmetic() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 4)).astype(np.float32)
    variable = keras.Variable(weight, name="w")
    optimizer = MomentumSGD(0.0, momentum=0.9, l2=5e-4)
    optimizer.build([variable])
    expected, velocity = weight.astype(np.float64), np.zeros((3, 4))
    for step in range(5):
        gradient = rng.normal(size=(3, 4)).astype(np.float32)
        rate = 0.1 / (step + 1)  # a rate that changes tells apart the two ways of putting it into momentum
        optimizer.learning_rate = rate
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        velocity = 0.9 * velocity + gradient + 5e-4 * expected
        expected = expected - rate * velocity
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_momentum_sgd_can_be_saved_with_a_model() -> None:
    config = MomentumSGD(0.1, momentum=0.8, l2=0.3).get_config()
    again = MomentumSGD.from_config(config)
    assert (again.momentum, again.l2) == (0.8, 0.3)


def test_optimizers_follow_the_config() -> None:
    sgd = build_optimizer(SGD(name="sgd", momentum=0.7, weight_decay=0.2))
    assert isinstance(sgd, MomentumSGD) and (sgd.momentum, sgd.l2) == (0.7, 0.2)
    adamw = build_optimizer(AdamW(name="adamw", beta_2=0.95, weight_decay=0.02))
    assert isinstance(adamw, keras.optimizers.AdamW) and (adamw.beta_2, adamw.weight_decay) == (0.95, 0.02)
    scaled = build_optimizer(SGD(name="sgd"), precision="fp16")
    assert isinstance(scaled, keras.optimizers.LossScaleOptimizer) and scaled.initial_scale == 1024.0
