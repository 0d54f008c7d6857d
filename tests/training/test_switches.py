"""Averaged weights, accumulated gradients, frozen and slow backbones, limits of gradients: in whole runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.backbones import mit
from rsseg_tf.build import build_backbone, build_losses, build_model
from rsseg_tf.config import Config
from rsseg_tf.evaluate.evaluation import plan_evaluation
from rsseg_tf.export.trained import load_trained
from rsseg_tf.predict import InferenceOptions
from rsseg_tf.predictors import checkpoint_predictor
from rsseg_tf.training import TrainResult, train
from rsseg_tf.training.segmentation import _build
from rsseg_tf.training.step import AccumulatingTrainStep, TrainStep
from rsseg_tf.weights.pretrained import backbone_paths
from tests.fixtures.configs import replace_builder, samples, tiny_config, use_tiny_backbone
from tests.fixtures.devices import two_devices
from tests.fixtures.training import Record, StopAt, assert_equal_weights, training, weights

ADAMW = "optimizer={name: adamw}"
SHORT = ("train.iters=4", "train.save_interval=2")


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)


def run(tmp_path: Path, save_dir: str, *overrides: str, evaluate: bool = False, **options: Any) -> TrainResult:
    config = tiny_config(tmp_path, *SHORT, *overrides)
    val = samples(config, "val") if evaluate else ()
    return train(config, tmp_path / save_dir, samples(config, "train"), val, **options)


def at_the_start(config: Config) -> dict[str, np.ndarray]:
    """The weights that a run begins with."""
    model, _, _ = _build(config, tf.distribute.get_strategy(), None, offline=True, notify=print)
    return {variable.path: variable.numpy() for variable in model.weights}


def trained(folder: Path) -> dict[str, np.ndarray]:
    """The weights beside the averaged ones."""
    arrays = training(folder)
    return {name.removeprefix("weights/"): arrays[name] for name in arrays if name.startswith("weights/")}


def assert_equal_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray], *, atol: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], rtol=0, atol=atol, err_msg=name)


# === All of them ===


ALL = ("train.ema=0.9", "optimizer.accumulate_steps=2", "optimizer.backbone_lr_factor=0.1", "optimizer.clip_norm=0.5")


@pytest.mark.parametrize(
    "switches",
    [
        (ADAMW, *ALL, "optimizer.exclude_1d=true", "train.precision=fp16"),
        ("train.ema=0.9", "optimizer.accumulate_steps=2", "model.freeze_backbone=true", "train.batch_size=1"),
    ],
    ids=["adamw-fp16", "frozen-sgd"],
)
def test_a_resumed_run_equals_a_straight_one(tmp_path: Path, switches: tuple[str, ...]) -> None:
    """To the bit on several devices: `test_deterministic`, since devices may round their copies differently."""
    straight = run(tmp_path, "straight", *switches)
    run(tmp_path, "halves", *switches, "train.log_iters=1", callbacks=[StopAt(3)])
    resumed = run(tmp_path, "halves", *switches, resume=tmp_path / "halves" / "iter_3")
    assert resumed.state == straight.state
    assert_equal_weights(straight.checkpoint, resumed.checkpoint)
    assert_equal_arrays(training(straight.checkpoint), training(resumed.checkpoint))


def test_two_devices_equal_one(tmp_path: Path) -> None:
    switches = (
        "train.ema=0.9", "optimizer.backbone_lr_factor=0.1", "optimizer.clip_norm=0.5", "train.iters=2",
        "lr_schedule.learning_rate=0.01",
    )  # fmt: skip
    one = run(tmp_path, "one", *switches, "train.batch_size=4")
    two = run(tmp_path, "two", *switches, "train.batch_size=2", strategy=two_devices())
    assert_equal_weights(one.checkpoint, two.checkpoint, tol=2e-5)
    assert_equal_arrays(trained(one.checkpoint), trained(two.checkpoint), atol=2e-5)


def use_plain_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `fcn` two convolutions without batch normalisation, which looks at the batch as a whole."""

    def plain(backbone: keras.Model, *, num_classes: int, **_: Any) -> keras.Model:
        x = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="conv")(backbone.input)
        logits = keras.layers.Conv2D(num_classes, 3, padding="same", dtype="float32", name="head")(x)
        return keras.Model(backbone.input, {"main": logits}, name="fcn")

    replace_builder(monkeypatch, "rsseg_tf.segmentors.fcn:fcn", plain)


# === Averaged weights ===


def test_the_average_follows_the_weights_and_leaves_them_alone(tmp_path: Path) -> None:
    often = ("train.iters=3", "train.save_interval=1", "train.keep_checkpoint_max=9")
    plain = run(tmp_path, "plain", *often)
    averaged = run(tmp_path, "averaged", *often, "train.ema=0.28")
    assert_equal_arrays(trained(averaged.checkpoint), weights(plain.checkpoint))
    folders = [tmp_path / "averaged" / f"iter_{step}" for step in (1, 2, 3)]
    averages = [at_the_start(tiny_config(tmp_path)), *map(weights, folders)]
    # The first two are those of the warm-up.
    for folder, before, after, rate in zip(folders, averages, averages[1:], (9 / 11, 9 / 12, 0.72), strict=False):
        expected = {name: old + rate * (trained(folder)[name] - old) for name, old in before.items()}
        assert_equal_arrays(expected, after, atol=1e-6)
    moved = [name for name, old in averages[0].items() if not np.allclose(old, averages[-1][name], atol=1e-6)]
    assert any("moving_variance" in name for name in moved) and any("kernel" in name for name in moved)


def test_averaged_weights_are_what_is_evaluated_kept_as_best_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_plain_convolutions(monkeypatch)
    record, plain = Record(), Record()
    quick = ("train.iters=2", "lr_schedule.learning_rate=0.3")
    result = run(tmp_path, "out", *quick, "train.ema=0.9", evaluate=True, callbacks=[record])
    run(tmp_path, "plain", *quick, evaluate=True, callbacks=[plain])
    assert_equal_weights(tmp_path / "out" / "best_model", result.checkpoint)
    config = tiny_config(tmp_path, *quick)

    def miou(folder: Path) -> float:
        evaluation = plan_evaluation(config, samples(config, "val"))
        return evaluation.run(checkpoint_predictor(folder, config), InferenceOptions.of(config)).miou

    assert record.evaluations[0]["miou"] == miou(result.checkpoint) == miou(tmp_path / "out" / "best_model")
    exported = load_trained(tmp_path / "out" / "best_model").model
    assert_equal_arrays({v.path: v.numpy() for v in exported.weights}, weights(result.checkpoint))
    assert plain.evaluations[0]["miou"] != record.evaluations[0]["miou"], "or this test proves nothing"


def test_the_average_begins_or_ends_where_a_run_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_plain_convolutions(monkeypatch)
    straight = run(tmp_path, "straight")
    middle = tmp_path / "straight" / "iter_2"
    begun = run(tmp_path, "begun", "train.ema=0.9", resume=middle)
    assert_equal_arrays(trained(begun.checkpoint), weights(straight.checkpoint))
    assert any(not np.array_equal(value, weights(middle)[name]) for name, value in weights(begun.checkpoint).items())
    run(tmp_path, "averaged", "train.ema=0.9", callbacks=[StopAt(2)])
    assert any(
        not np.array_equal(value, weights(middle)[name])
        for name, value in weights(tmp_path / "averaged" / "iter_2").items()
    )
    ended = run(tmp_path, "ended", resume=tmp_path / "averaged" / "iter_2")
    assert_equal_weights(ended.checkpoint, straight.checkpoint)
    assert not trained(ended.checkpoint)


# === Accumulated gradients ===


def without_ignored_pixels(tmp_path: Path) -> tuple[str, ...]:
    """Takes the ignored pixels out of the tiny dataset; crops neither scale nor pad, so that none is ignored."""
    config = tiny_config(tmp_path)
    for sample in samples(config, "train"):
        assert sample.label is not None
        label = cv2.imread(str(sample.label), cv2.IMREAD_UNCHANGED)
        label[label == 255] = 0
        cv2.imwrite(str(sample.label), label)
    return ("augment.scale_range=[1.0, 1.0]",)


@pytest.mark.parametrize("optimizer", [(), (ADAMW, "lr_schedule.learning_rate=0.001")], ids=["sgd", "adamw"])
def test_four_batches_of_two_equal_one_of_eight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: tuple[str, ...]
) -> None:
    """Samples, schedule, reports and weights; and so do two devices with two batches of two each."""
    use_plain_convolutions(monkeypatch)
    common = (*without_ignored_pixels(tmp_path), *optimizer, "train.log_iters=1", "train.ema=0.9")
    records = [Record() for _ in range(3)]
    whole = run(tmp_path, "whole", *common, "train.batch_size=8", callbacks=[records[0]])
    small = ("train.batch_size=2", "optimizer.accumulate_steps=4")
    parts = run(tmp_path, "parts", *common, *small, callbacks=[records[1]])
    small = ("train.batch_size=2", "optimizer.accumulate_steps=2")
    shared = run(tmp_path, "shared", *common, *small, strategy=two_devices(), callbacks=[records[2]])
    for result, record in ((parts, records[1]), (shared, records[2])):
        assert result.state == whole.state and result.state.samples_seen == 32
        assert_equal_weights(whole.checkpoint, result.checkpoint, tol=1e-6)
        assert_equal_arrays(trained(whole.checkpoint), trained(result.checkpoint), atol=1e-6)
        for step, row in records[0].steps.items():
            for name in ("lr", "loss", "loss_main", "epoch"):
                assert record.steps[step][name] == pytest.approx(row[name], rel=1e-5), name
    start = at_the_start(tiny_config(tmp_path, *common))
    assert max(np.abs(value - start[name]).max() for name, value in weights(whole.checkpoint).items()) > 1e-3


def test_a_part_is_all_that_the_network_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_plain_convolutions(monkeypatch)
    seen: list[tuple[int, ...]] = []
    forward = TrainStep._forward

    def spy(self: TrainStep, batch: dict[str, Any], step: tf.Tensor) -> Any:
        seen.append(tuple(batch["image"].shape))
        return forward(self, batch, step)

    monkeypatch.setattr(TrainStep, "_forward", spy)
    run(tmp_path, "out", "train.batch_size=2", "optimizer.accumulate_steps=3", "train.iters=1")
    assert seen == [(2, 32, 32, 3)]


def test_an_overflow_in_one_part_skips_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale of the loss falls, nothing else changes, and the next step is a whole one."""
    use_plain_convolutions(monkeypatch)
    config = tiny_config(tmp_path, "train.precision=fp16")
    model, optimizer, _ = _build(config, tf.distribute.get_strategy(), None, offline=True, notify=print)
    step = AccumulatingTrainStep(
        model, optimizer, build_losses(config), tf.distribute.get_strategy(), config.dataset.spec, parts=2
    )
    rng = np.random.default_rng(0)
    image = tf.constant(rng.normal(size=(4, 8, 8, 3)), tf.float32)
    batch = {"image": image, "label": tf.zeros((4, 8, 8), tf.int32)}
    spoilt = {**batch, "image": tf.concat([image[:2], image[2:] * np.inf], axis=0)}
    before = [variable.numpy() for variable in model.weights]
    step(spoilt, 0.1)
    assert all(np.array_equal(old, new.numpy()) for old, new in zip(before, model.weights, strict=True))
    assert (optimizer.dynamic_scale.numpy(), optimizer.iterations.numpy()) == (512.0, 0)
    values = step(batch, 0.1)
    assert np.isfinite(float(values["loss"])) and optimizer.iterations.numpy() == 1
    assert not np.array_equal(before[0], model.weights[0].numpy())
    assert all(np.isfinite(variable.numpy()).all() for variable in model.weights)


# === The backbone ===


def paths_of_backbone(config: Config) -> set[str]:
    assert config.model.backbone is not None
    return {variable.path for variable in build_backbone(config.model.backbone).weights}


def test_a_frozen_backbone_stays_equal_to_the_bit(tmp_path: Path) -> None:
    first = run(tmp_path, "first", "train.iters=2")
    pretrained = f"model.backbone.pretrained={first.checkpoint}"
    lines: list[str] = []
    frozen = ("model.freeze_backbone=true", "train.batch_size=2", pretrained)
    result = run(tmp_path, "out", *frozen, notify=lines.append, strategy=two_devices())
    assert len(lines) == 1 and " tensors from " in lines[0]
    backbone = paths_of_backbone(tiny_config(tmp_path))
    before, after = weights(first.checkpoint), weights(result.checkpoint)
    assert len(backbone) > 20 and backbone < after.keys()
    for name in backbone:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    for name in after.keys() - backbone:
        assert not np.array_equal(before[name], after[name]), name
    # The counter, the rate, and a velocity for each weight of the head that learns.
    heads = [name for name in after.keys() - backbone if "moving" not in name]
    assert len(training(result.checkpoint)) == 2 + len(heads)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_backbone_has_no_backward_pass(tmp_path: Path, frozen: bool) -> None:
    config = tiny_config(tmp_path, f"model.freeze_backbone={str(frozen).lower()}")
    lines: list[str] = []
    model, optimizer, _ = _build(config, tf.distribute.get_strategy(), None, offline=True, notify=lines.append)
    beginnings = [line.split(":")[0] for line in lines]
    wanted = "model.freeze_backbone keeps the backbone as it was built" if frozen else "The backbone begins with random"
    assert len(beginnings) == 1 and beginnings[0].startswith(wanted)
    step = TrainStep(model, optimizer, build_losses(config), tf.distribute.get_strategy(), config.dataset.spec)
    batch = {"image": tf.zeros((2, 32, 32, 3)), "label": tf.zeros((2, 32, 32), tf.int32)}
    operations = [operation.type for operation in step._run.get_concrete_function(batch).graph.get_operations()]
    convolutions = sum(variable.name == "kernel" for variable in model.weights)
    assert operations.count("Conv2DBackpropFilter") == (2 if frozen else convolutions) and convolutions > 5
    assert operations.count("FusedBatchNormGradV3") <= (1 if frozen else convolutions)


MIT = "model={name: fcn, channels: 8, backbone: {name: mit_b0, drop_path: 0.5}}"


@pytest.fixture
def narrow_mit(monkeypatch: pytest.MonkeyPatch) -> None:
    """`mit_b0` of a few thousand weights."""
    narrow = partial(mit, (1, 1, 1, 1), (4, 4, 4, 4), heads=(1, 1, 2, 2))
    replace_builder(monkeypatch, "rsseg_tf.backbones.mit:mit_b0", narrow)


@pytest.mark.usefixtures("narrow_mit")
@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_backbone_leaves_nothing_out(tmp_path: Path, frozen: bool) -> None:
    config = tiny_config(tmp_path, MIT, f"model.freeze_backbone={str(frozen).lower()}")
    model, _, _ = _build(config, tf.distribute.get_strategy(), None, offline=True, notify=lambda line: None)
    features = keras.Model(model.input, model.get_layer("stage4_norm").output)
    image = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
    assert np.array_equal(features(image, training=True), features(image, training=False)) == frozen


@pytest.mark.usefixtures("narrow_mit")
def test_stochastic_depth_goes_on_where_it_stopped(tmp_path: Path) -> None:
    switches = (MIT, ADAMW, "train.precision=bf16", "train.remat=true", "train.iters=4")
    straight = run(tmp_path, "straight", *switches)
    run(tmp_path, "halves", *switches, "train.log_iters=1", callbacks=[StopAt(2)])
    resumed = run(tmp_path, "halves", *switches, resume=tmp_path / "halves" / "iter_2")
    assert_equal_weights(straight.checkpoint, resumed.checkpoint)
    without = run(tmp_path, "without", *switches, "model.backbone.drop_path=0")
    name = "stage4_block1_mlp_project/kernel"
    assert not np.array_equal(weights(straight.checkpoint)[name], weights(without.checkpoint)[name])


def test_the_fine_models_backbone_is_that_of_c2fnet(tmp_path: Path) -> None:
    coarse = run(tmp_path, "coarse", "train.iters=1").checkpoint
    backbone = "backbone: {name: resnet18_vd, output_stride: 16}"
    model_section = (
        f"model={{name: c2fnet, {backbone}, freeze_backbone: true, "
        f"coarse: {{name: fcn, {backbone}, channels: 8, pretrained: {coarse}}}}}"
    )
    config = tiny_config(
        tmp_path, model_section, "loss={fine: {name: cross_entropy}}", "dataset.small_classes=[bright]"
    )
    model, optimizer, _ = _build(config, tf.distribute.get_strategy(), None, offline=True, notify=print)
    learning = {variable.path for variable in model.trainable_variables}
    assert all(path.startswith("fine/head_") for path in learning) and len(learning) == 6
    assert len(optimizer.variables) == 2 + 6
    frozen = set(backbone_paths(config, model))
    assert all(path.startswith("fine/") for path in frozen)
    assert {f"fine/{path}" for path in paths_of_backbone(config)} == frozen


@pytest.mark.parametrize("backbone", ["resnet18", "resnet18_vd", "hrnet_w18", "mobilenet_v3_small"])
def test_the_paths_of_a_backbone_are_those_of_its_own_variables(tmp_path: Path, backbone: str) -> None:
    config = tiny_config(tmp_path, f"model={{name: fcn, backbone: {{name: {backbone}}}, channels: 8}}")
    model = build_model(config)
    own = paths_of_backbone(config)
    assert set(backbone_paths(config, model)) == own
    assert {v.path for v in model.weights} - own == {v.path for v in model.weights if v.path.startswith("head_")}


def test_the_backbone_follows_its_share_of_the_rate(tmp_path: Path) -> None:
    one = ("train.iters=1", "train.save_interval=1", ADAMW)
    start = at_the_start(tiny_config(tmp_path))
    moved = weights(run(tmp_path, "full", *one).checkpoint)
    less = weights(run(tmp_path, "slow", *one, "optimizer.backbone_lr_factor=0.25").checkpoint)
    backbone = paths_of_backbone(tiny_config(tmp_path))
    for name in start:
        if name not in backbone or "moving" in name:
            np.testing.assert_array_equal(moved[name], less[name], err_msg=name)
        else:
            np.testing.assert_allclose(less[name] - start[name], 0.25 * (moved[name] - start[name]), atol=2e-7)


# === Limits ===


@pytest.mark.parametrize("case", ["one", "fp16", "two", "parts"])
def test_a_step_is_as_long_as_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """From random weights the gradient is longer than 0.01; a step at rate 1 without decay is the gradient."""
    use_plain_convolutions(monkeypatch)
    once = ("train.iters=1", "optimizer.weight_decay=0.0", "lr_schedule.learning_rate=1.0")
    more = {"fp16": ("train.precision=fp16",), "parts": ("optimizer.accumulate_steps=2",)}.get(case, ())
    options = {"strategy": two_devices()} if case == "two" else {}
    start = at_the_start(tiny_config(tmp_path))
    moved = weights(run(tmp_path, "moved", *once, *more, "optimizer.clip_norm=0.01", **options).checkpoint)
    change = np.sqrt(sum(np.sum(np.square(moved[name] - start[name], dtype=np.float64)) for name in start))
    assert change == pytest.approx(0.01, rel=1e-3)
