from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.config.pretrain import LARSSection
from rsseg_tf.config.schema import SGD, AdamW, CosineSchedule, PolySchedule
from rsseg_tf.training.optimizers import LARS, MomentumSGD, build_optimizer
from rsseg_tf.training.schedules import learning_rate
from tests.fixtures.devices import two_devices
from tests.fixtures.golden import GOLDEN, needs_golden


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


def test_momentum_sgd_moves_a_variable_by_one_operation_as_several_would() -> None:
    rng = np.random.default_rng(0)
    weight, *gradients = (rng.normal(size=(3, 3, 16, 16)).astype(np.float32) for _ in range(4))
    variable = keras.Variable(weight, name="w")
    optimizer = MomentumSGD(0.05, momentum=0.9)
    optimizer.build([variable])
    step = tf.function(lambda gradient: optimizer.apply([gradient], [variable]), autograph=False)
    expected, velocity = tf.constant(weight), tf.zeros_like(weight)
    for gradient in map(tf.constant, gradients):
        step(gradient)
        velocity = 0.9 * velocity + gradient
        expected = expected - 0.05 * velocity
    np.testing.assert_array_equal(variable.numpy(), expected)
    # The other assignment counts steps. Each operation between velocity and variable would hold an array of their size.
    operations = step.get_concrete_function(gradients[0]).graph.get_operations()
    large = [operation for operation in operations for output in operation.outputs if output.shape == weight.shape]
    assert {operation.type for operation in large} <= {"Placeholder", "Identity", "IdentityN", "ReadVariableOp"}


@pytest.mark.parametrize(("l2", "most"), [(0.0, 3), (5e-4, 6)])
def test_momentum_sgd_adds_few_operations_for_a_variable(l2: float, most: int) -> None:
    """A large network has a thousand variables, and each operation takes kilobytes beside what it computes."""

    def operations(count: int) -> int:
        variables = [keras.Variable([[1.0, 2.0]], name=f"w{index}") for index in range(count)]
        optimizer = MomentumSGD(0.05, momentum=0.9, l2=l2)
        optimizer.build(variables)
        gradient = tf.ones((1, 2))
        step = tf.function(lambda gradient: optimizer.apply([gradient] * count, variables), autograph=False)
        return len(step.get_concrete_function(gradient).graph.get_operations())

    # The variable and its velocity come in, the update, and for decay a look at the variable, a product and a sum.
    assert operations(5) - operations(4) == most


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


# === LARS and constant rates ===


def sine(shape: tuple[int, ...], a: float) -> np.ndarray:
    """The made-up values that the reference numbers belong to: sin(a * n + a / 10), C order."""
    return np.sin(a * np.arange(np.prod(shape)) + 0.1 * a).reshape(shape)


def two_steps(optimizer: keras.optimizers.Optimizer, *variables: keras.Variable) -> None:
    optimizer.build(variables)
    for rate, a in ((0.5, 1.3), (0.25, 1.4)):
        optimizer.learning_rate = rate
        optimizer.apply([keras.ops.convert_to_tensor(sine(v.shape, a), v.dtype) for v in variables], variables)


@pytest.mark.parametrize(
    ("variant", "change"), [("pixpro", -9.7555820e-4), ("larc", -9.7547345e-4), ("paddle", -1.19764382e-3)]
)
def test_lars_equals_the_reference_numbers(variant: str, change: float) -> None:
    start = sine((3, 4), 0.7)
    variable = keras.Variable(start, dtype="float64")
    two_steps(LARS(0.0, variant=variant, momentum=0.9, l2=1e-4), variable)  # type: ignore[arg-type]
    assert variable.numpy()[0, 1] - start[0, 1] == pytest.approx(change, rel=1e-6)


@pytest.mark.parametrize("variant", ["pixpro", "larc", "paddle"])
def test_lars_leaves_vectors_alone_unless_told(variant: str) -> None:
    start, rates = sine((5,), 0.7), (0.5, 0.25)
    plain = keras.Variable(start, dtype="float64")
    two_steps(LARS(0.0, variant=variant, l2=1e-2), plain)  # type: ignore[arg-type]
    first, second = sine((5,), 1.3), sine((5,), 1.4)
    if variant == "paddle":  # the rate lies inside of the velocity
        expected = start - rates[0] * first - (0.9 * rates[0] * first + rates[1] * second)
    else:
        expected = start - rates[0] * first - rates[1] * (0.9 * first + second)
    np.testing.assert_allclose(plain.numpy(), expected, rtol=1e-9)
    adapted = keras.Variable(start, dtype="float64")
    two_steps(LARS(0.0, variant=variant, l2=1e-2, exclude_1d=False), adapted)  # type: ignore[arg-type]
    assert np.abs(adapted.numpy() - start).max() < 0.01 * np.abs(plain.numpy() - start).max()


@pytest.mark.parametrize("variant", ["pixpro", "larc", "paddle"])
def test_lars_takes_plain_steps_where_a_norm_is_zero(variant: str) -> None:
    weight = keras.Variable(np.zeros((2, 2)), dtype="float64")
    optimizer = LARS(0.1, variant=variant)  # type: ignore[arg-type]
    optimizer.build([weight])
    optimizer.apply([keras.ops.ones((2, 2), "float64")], [weight])
    np.testing.assert_allclose(weight.numpy(), -0.1, rtol=1e-6)
    optimizer.apply([keras.ops.zeros((2, 2), "float64")], [weight])
    assert np.isfinite(weight.numpy()).all()


@pytest.mark.parametrize(
    "section", [SGD(name="sgd"), AdamW(name="adamw", weight_decay=0.1), LARSSection(name="lars", variant="larc")]
)
def test_some_weights_keep_their_rate(section: SGD | AdamW | LARSSection) -> None:
    with keras.name_scope("predictor_fc1"):
        kept = keras.Variable(sine((3, 4), 0.7), dtype="float64", name="kernel")
    moved = keras.Variable(sine((3, 4), 0.7), dtype="float64", name="kernel")
    optimizer = build_optimizer(section, constant_paths=["predictor_"], constant_rate=0.5)
    optimizer.build([kept, moved])
    optimizer.learning_rate = 0.05
    gradient = keras.ops.convert_to_tensor(sine((3, 4), 1.3))
    optimizer.apply([gradient, gradient], [kept, moved])
    ratio = (kept.numpy() - sine((3, 4), 0.7)) / (moved.numpy() - sine((3, 4), 0.7))
    np.testing.assert_allclose(ratio, 10.0, rtol=1e-6)
    config = optimizer.get_config()
    assert type(optimizer).from_config(config).get_config() == config


# === Slow backbones and limits of gradients ===


def with_path(scope: str, shape: tuple[int, ...] = (3, 4)) -> keras.Variable:
    with keras.name_scope(scope):
        return keras.Variable(sine(shape, 0.7), dtype="float64", name="kernel")


@pytest.mark.parametrize("section", [SGD(name="sgd"), AdamW(name="adamw", weight_decay=0.1)])
def test_the_backbone_learns_more_slowly(section: SGD | AdamW) -> None:
    """Decay included, which in AdamW follows the rate too."""
    section = section.model_copy(update={"backbone_lr_factor": 0.1})
    start, backbone, head = sine((3, 4), 0.7), with_path("stem_conv"), with_path("head_conv")
    optimizer = build_optimizer(section, backbone_paths=[backbone.path])
    two_steps(optimizer, backbone, head)
    change, whole = backbone.numpy() - start, head.numpy() - start
    # Decay acts on weights that have moved by different amounts, so that the ratio is not exact after two steps.
    np.testing.assert_allclose(change / whole, 0.1, rtol=0.05)
    config = optimizer.get_config()
    assert type(optimizer).from_config(config).get_config() == config
    same = with_path("stem_conv")
    two_steps(build_optimizer(section, backbone_paths=["fine/stem_conv/kernel"]), same)
    assert np.array_equal(same.numpy(), head.numpy()), "a path of another model"


@pytest.mark.parametrize("section", [SGD(name="sgd", weight_decay=0.1), AdamW(name="adamw", weight_decay=0.1)])
def test_vectors_can_be_spared_the_decay(section: SGD | AdamW) -> None:
    def trained(**options: float) -> tuple[np.ndarray, np.ndarray]:
        kernel, bias = with_path("conv"), with_path("conv", (4,))
        optimizer = build_optimizer(section.model_copy(update=options))
        optimizer.build([kernel, bias])
        optimizer.learning_rate = 0.05
        optimizer.apply([keras.ops.ones((3, 4), "float64"), keras.ops.ones((4,), "float64")], [kernel, bias])
        config = optimizer.get_config()
        assert type(optimizer).from_config(config).get_config() == config
        return kernel.numpy(), bias.numpy()

    plain, spared, without = trained(), trained(exclude_1d=True), trained(weight_decay=0.0)
    np.testing.assert_array_equal(spared[0], plain[0])
    np.testing.assert_array_equal(spared[1], without[1])
    assert np.abs(plain[1] - without[1]).max() > 1e-4


def test_adamw_is_kerass_to_the_bit() -> None:
    ours, kerass = (keras.Variable(sine((3, 4), 0.7), dtype="float32") for _ in range(2))
    two_steps(build_optimizer(AdamW(name="adamw", weight_decay=0.3)), ours)
    two_steps(keras.optimizers.AdamW(0.0, weight_decay=0.3), kerass)
    assert np.array_equal(ours.numpy(), kerass.numpy())


def changes(optimizer: keras.optimizers.Optimizer, *gradients: list[float]) -> list[np.ndarray]:
    """Returns what one step at rate 1 takes off the variables."""
    variables = [keras.Variable(np.zeros(len(g)), dtype="float32") for g in gradients]
    optimizer.build(variables)
    optimizer.learning_rate = 1.0
    scaled = [keras.ops.convert_to_tensor(g, "float32") * optimizer.scale_loss(1.0) for g in gradients]
    optimizer.apply(scaled, variables)
    return [-variable.numpy() for variable in variables]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_gradients_are_limited(precision: str) -> None:
    """All variables by one factor, after the scale of the loss is taken off."""

    def limited(**limits: float) -> list[np.ndarray]:
        section = SGD(name="sgd", weight_decay=0.0, **limits)  # type: ignore[arg-type]
        return changes(build_optimizer(section, precision=precision), [3.0, 0.0], [0.0, -12.0, 4.0])  # norm 13

    one, other = limited(clip_norm=6.5)
    np.testing.assert_allclose(one, [1.5, 0.0], rtol=1e-6)
    np.testing.assert_allclose(other, [0.0, -6.0, 2.0], rtol=1e-6)
    one, other = limited(clip_norm=13.5)
    assert one.tolist() == [3.0, 0.0] and other.tolist() == [0.0, -12.0, 4.0], "unchanged to the bit"
    one, other = limited(clip_value=3.5)
    assert one.tolist() == [3.0, 0.0] and other.tolist() == [0.0, -3.5, 3.5]
    one, other = limited(clip_value=3.0, clip_norm=27**0.5 / 2)
    np.testing.assert_allclose(other, [0.0, -1.5, 1.5], rtol=1e-6)


@pytest.mark.parametrize("section", [AdamW(name="adamw"), LARSSection(name="lars", variant="larc")])
def test_every_optimizer_has_limits(section: AdamW | LARSSection) -> None:
    (free,) = changes(build_optimizer(section), [3.0, 4.0])
    (limited,) = changes(build_optimizer(section.model_copy(update={"clip_norm": 1e-9})), [3.0, 4.0])
    assert np.abs(limited).max() < 0.1 * np.abs(free).max()


def step_on_two_devices(
    section: SGD, first: float, second: float, *, precision: str = "fp32"
) -> tuple[np.ndarray, keras.optimizers.Optimizer]:
    """Takes a step from zeros at rate 1 with these gradients, and returns what it takes off the variable."""
    strategy = two_devices()
    with strategy.scope():
        variable = keras.Variable(np.zeros(4), dtype="float32")
        optimizer = build_optimizer(section, precision=precision)
        optimizer.build([variable])
        optimizer.learning_rate = 1.0

    @tf.function
    def step() -> None:
        def replica() -> None:
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            optimizer.apply([tf.where(number == 0, first, second) * tf.ones(4)], [variable])

        strategy.run(replica)

    step()
    return -variable.numpy(), optimizer


@pytest.mark.parametrize(("second", "expected"), [(-4.0, 0.0), (4.0, 1.0)])
def test_the_norm_is_that_of_all_devices_together(second: float, expected: float) -> None:
    """Two opposite gradients have no sum, whatever their norms; the sum of two equal ones is limited once."""
    change, _ = step_on_two_devices(SGD(name="sgd", weight_decay=0.0, clip_norm=2.0), 4.0, second)
    np.testing.assert_allclose(change, expected)


def test_an_overflow_on_any_device_skips_the_step() -> None:
    change, optimizer = step_on_two_devices(SGD(name="sgd"), 1.0, np.inf, precision="fp16")
    assert change.tolist() == [0.0] * 4
    assert optimizer.dynamic_scale.numpy() == 512.0 and optimizer.iterations.numpy() == 0
