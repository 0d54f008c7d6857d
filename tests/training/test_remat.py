"""Activations that are computed twice: the same results, from more operations and less memory."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.backbones import hrnet, resnet_vd
from rsseg_tf.build import build_losses
from rsseg_tf.segmentors import deeplabv3plus, fcn
from rsseg_tf.training import TrainResult, train
from rsseg_tf.training.remat import _cuts_within, rematerialise
from rsseg_tf.training.segmentation import _build
from rsseg_tf.training.step import TrainStep
from tests.fixtures.configs import samples, tiny_config, use_tiny_backbone
from tests.fixtures.devices import two_devices
from tests.fixtures.training import StopAt, assert_equal_weights, weights

CONTRAST = (
    "model={name: hrnet_contrast, backbone: {name: resnet18_vd, output_stride: 16}, projection_channels: 8}",
    "loss={main: {name: cross_entropy}, contrast: {name: pixel_contrast, weight: 0.1}}",
)


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)


def run(tmp_path: Path, save_dir: str, *overrides: str, **options: Any) -> TrainResult:
    config = tiny_config(tmp_path, "train.iters=4", "train.save_interval=2", *overrides)
    return train(config, tmp_path / save_dir, samples(config, "train"), **options)


def small(kind: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    if kind == "hrnet":
        return fcn(hrnet(2, stem_width=4, modules=(1, 1, 1), blocks=1), num_classes=3)
    backbone = resnet_vd((2, 1, 1, 2), (8, 8, 8, 8), bottleneck=True, output_stride=8)
    return deeplabv3plus(backbone, num_classes=3)  # with dropout


def graph_of(model: keras.Model) -> tuple[tf.types.experimental.ConcreteFunction, dict[str, int]]:
    """A forward and a backward pass, and how many operations of each kind it has."""
    variables = [variable.value for variable in model.trainable_variables]

    @tf.function(autograph=False)
    def passes(image: tf.Tensor, target: tf.Tensor) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            loss = tf.reduce_mean((model(image, training=True)["main"] - target) ** 2)
        return loss, tape.gradient(loss, variables)

    shape = (2, 64, 64, 3)
    graph = passes.get_concrete_function(tf.TensorSpec(shape), tf.TensorSpec(shape))
    return graph, collections.Counter(operation.type for operation in graph.graph.get_operations())


@pytest.mark.parametrize("kind", ["hrnet", "deeplabv3plus"])
def test_loss_gradients_and_statistics_are_those_of_a_plain_step(kind: str) -> None:
    image, target = (tf.constant(np.random.default_rng(i).normal(size=(2, 64, 64, 3)), tf.float32) for i in (0, 1))
    results, counts = [], []
    for remat in (False, True):
        model = small(kind)
        paths = [variable.path for variable in model.weights]
        segments = rematerialise(model) if remat else 0
        assert (segments > 4) == remat
        assert [variable.path for variable in model.weights] == paths
        graph, count = graph_of(model)
        loss, gradients = graph(image, target)
        loss, gradients = graph(image, target)  # the second step draws other masks than the first
        state = [variable.numpy() for variable in model.non_trainable_variables]  # statistics, seeds
        results.append((loss, gradients, state, model(image, training=False)["main"]))
        counts.append(count)
    plain, remat_ = results
    np.testing.assert_allclose(plain[0], remat_[0], rtol=1e-6)
    for one, other in zip(plain[1], remat_[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * max(1.0, float(tf.reduce_max(tf.abs(one)))))
    for one, other in zip(plain[2], remat_[2], strict=True):
        # Equal but for the order in which threads add up: a second update would be a tenth of the values.
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(plain[3], remat_[3], rtol=1e-4, atol=1e-6)
    # Most convolutions run twice, no gradient does, and statistics move once.
    assert counts[1]["Conv2D"] > 1.6 * counts[0]["Conv2D"]
    assert counts[1]["Conv2DBackpropFilter"] == counts[0]["Conv2DBackpropFilter"]
    assert counts[1]["AssignVariableOp"] == counts[0]["AssignVariableOp"]


def test_a_segment_is_computed_again_after_all_gradients_of_later_ones() -> None:
    model = small("hrnet")
    rematerialise(model)
    operations = graph_of(model)[0].graph.get_operations()  # in an order in which they can run
    before: dict[str, set[str]] = {}
    for operation in operations:
        makers = {*operation.control_inputs, *(tensor.op for tensor in operation.inputs)}
        before[operation.name] = set().union(*(before[m.name] | {m.name} for m in makers if m.name in before))
    kernels = {operation.name for operation in operations if operation.type == "Conv2DBackpropFilter"}
    waited_for = max(len(before[operation.name] & kernels) for operation in operations if operation.type == "Conv2D")
    # Nothing but the wait ties a convolution to the gradient of another one's kernel.
    assert waited_for > 0.8 * len(kernels)


def test_evaluation_is_not_touched() -> None:
    model = small("hrnet")
    before = model(np.zeros((1, 32, 32, 3), np.float32))["main"]
    rematerialise(model)
    np.testing.assert_array_equal(before, model(np.zeros((1, 32, 32, 3), np.float32))["main"])
    assert rematerialise(model) == 0, "it is cut already"


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(("train.precision=fp16", "train.ema=0.9", "optimizer.accumulate_steps=2"), id="fp16-parts"),
        pytest.param(CONTRAST, id="contrast", marks=pytest.mark.slow),
    ],
)
def test_a_run_equals_one_without_and_is_resumed_exactly(tmp_path: Path, extra: tuple[str, ...]) -> None:
    plain = run(tmp_path, "plain", *extra, "train.iters=1")
    first = run(tmp_path, "first", *extra, "train.iters=1", "train.remat=true")
    # Half-precision gradients of a step are rounded to about three digits.
    assert_equal_weights(plain.checkpoint, first.checkpoint, tol=1e-3 if "train.precision=fp16" in extra else 2e-6)
    straight = run(tmp_path, "straight", *extra, "train.remat=true", "train.log_iters=1")
    run(tmp_path, "halves", *extra, "train.remat=true", "train.log_iters=1", callbacks=[StopAt(3)])
    resumed = run(tmp_path, "halves", *extra, "train.remat=true", resume=tmp_path / "halves" / "iter_3")
    assert_equal_weights(straight.checkpoint, resumed.checkpoint)
    # Without it, from its checkpoint: names are the same.
    run(tmp_path, "without", *extra, resume=tmp_path / "straight" / "iter_2")


def test_two_devices_equal_one(tmp_path: Path) -> None:
    common = ("train.remat=true", "train.iters=2", "lr_schedule.learning_rate=0.01")
    one = run(tmp_path, "one", *common, "train.batch_size=4")
    two = run(tmp_path, "two", *common, "train.batch_size=2", strategy=two_devices())
    assert_equal_weights(one.checkpoint, two.checkpoint, tol=2e-5)


def test_the_fine_model_of_c2fnet_is_cut(tmp_path: Path) -> None:
    coarse = run(tmp_path, "coarse", "train.iters=1").checkpoint
    backbone = "backbone: {name: resnet18_vd, output_stride: 16}"
    section = (
        f"model={{name: c2fnet, {backbone}, window_size: 16, training_stride: 8, windows_per_image: 2, "
        f"coarse: {{name: fcn, {backbone}, channels: 8, pretrained: {coarse}}}}}"
    )
    extra = (section, "loss={fine: {name: cross_entropy}}", "dataset.small_classes=[bright]", "train.iters=1")
    plain = run(tmp_path, "plain", *extra)
    remat = run(tmp_path, "remat", *extra, "train.remat=true")
    assert_equal_weights(plain.checkpoint, remat.checkpoint, tol=2e-6)
    start = weights(coarse)
    assert any(not np.array_equal(v, start[k.removeprefix("fine/")]) for k, v in weights(remat.checkpoint).items()
               if k.removeprefix("fine/") in start)  # fmt: skip


@pytest.mark.parametrize("remat", [False, True])
def test_the_switch_makes_the_step_compute_twice(tmp_path: Path, remat: bool) -> None:
    config = tiny_config(tmp_path, f"train.remat={str(remat).lower()}")
    model, optimizer, _ = _build(config, tf.distribute.get_strategy(), None, offline=True, notify=print)
    step = TrainStep(model, optimizer, build_losses(config), tf.distribute.get_strategy(), config.dataset.spec)
    batch = {"image": tf.zeros((2, 32, 32, 3)), "label": tf.zeros((2, 32, 32), tf.int32)}
    types = [operation.type for operation in step._run.get_concrete_function(batch).graph.get_operations()]
    convolutions = sum(variable.name == "kernel" for variable in model.weights)
    assert (types.count("Conv2D") > 1.5 * convolutions) == remat


def test_cuts_keep_least() -> None:
    # A chain of nodes of sizes 4, 1, 4, 1, 4, 1: small outputs are what segments hand on.
    kept, cuts = _cuts_within([4, 1, 4, 1, 4, 1], [1, 2, 3, 4, 5, 6], [False] * 6, 5)
    assert (cuts, kept) == ([0, 2, 4, 6], 1 + 1 + 5)
    # A node that must be alone.
    _, cuts = _cuts_within([4, 1, 4, 1], [1, 2, 3, 4], [False, False, True, False], 100)
    assert cuts == [0, 2, 3, 4]
