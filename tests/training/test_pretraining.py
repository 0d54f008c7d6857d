"""Pre-training through the loop: resuming, devices, precision, schedules, bad input."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.config import PretrainConfig
from rsseg_tf.errors import ConfigError, DataError, TrainingError
from rsseg_tf.ssl.momentum import cosine_rate
from rsseg_tf.training import TrainResult, pretrain
from rsseg_tf.training.callbacks import CollapseMonitor
from rsseg_tf.training.folder import checkpoints
from rsseg_tf.training.pretraining import _build, rate_of_step, steps_in_all
from tests.fixtures.devices import two_devices
from tests.fixtures.pretraining import METHODS, images, tiny_pretraining, use_tiny_resnet
from tests.fixtures.training import Record, StopAt, assert_equal_weights, weights


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_resnet(monkeypatch)


def run(tmp_path: Path, save_dir: str, method: str, *overrides: str, **options: object) -> TrainResult:
    config = tiny_pretraining(tmp_path, method, *overrides)
    return pretrain(config, tmp_path / save_dir, images(config), **options)  # type: ignore[arg-type]


def assert_equal_training(one: Path, other: Path) -> None:
    with np.load(one / "training.npz") as left, np.load(other / "training.npz") as right:
        for name in left.files:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.slow) if m in ("densecl", "simsiam") else m for m in METHODS]
)
def test_a_resumed_run_equals_a_straight_one(method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The queue has come round once, and the momentum is in the middle of its schedule."""
    straight = run(tmp_path, "straight", method)
    assert (straight.stopped, straight.state.step, straight.state.samples_seen) == ("finished", 6, 24)
    middle = tmp_path / "straight" / "iter_3"
    resumed = run(tmp_path, "resumed", method, resume=middle)
    assert resumed.state == straight.state
    assert "AutoGraph could not" not in caplog.text
    assert_equal_weights(straight.checkpoint, resumed.checkpoint)
    assert_equal_training(straight.checkpoint, resumed.checkpoint)
    before = weights(middle)
    moved = [name for name, value in weights(straight.checkpoint).items() if not np.array_equal(value, before[name])]
    assert any("moving_mean" in name for name in moved)
    if method in ("moco_v2", "densecl", "moco_byol"):
        assert "queue/keys" in moved
    if method in ("moco_v2", "densecl", "pixpro", "moco_byol"):
        assert "key/stem_conv/kernel" in moved and "stem_conv/kernel" in moved


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simsiam", "swav", "moco_byol"])
def test_two_devices_equal_one(method: str, tmp_path: Path) -> None:
    """Statistics, assignments and queues are those of the whole batch: steps differ by rounding alone."""
    overrides = ("train.iters=2", "train.save_interval=1", "views.crop_size=64", "lr_schedule.learning_rate=0.01")
    run(tmp_path, "one", method, *overrides)
    run(tmp_path, "two", method, *overrides, strategy=two_devices())
    first = weights(tmp_path / "one" / "iter_1")
    one, two = (weights(tmp_path / name / "iter_2") for name in ("one", "two"))
    for name, value in one.items():
        size = np.linalg.norm(np.float64(value) - first[name])
        # Variances of four images are differences of near numbers on several devices, but not on one.
        assert np.linalg.norm(np.float64(two[name]) - value) <= 0.02 * size + 1e-4, name


@pytest.mark.slow
@pytest.mark.parametrize("method", ["moco_v2", "densecl"])
def test_methods_with_split_keys_run_on_two_devices(method: str, tmp_path: Path) -> None:
    record = Record()
    strategy = two_devices()
    overrides = ("train.iters=2", "train.total_batch_size=8", "method.key_bn=split", "method.key_bn_splits=2")
    result = run(tmp_path, "two", method, *overrides, strategy=strategy, callbacks=[record])
    arrays = weights(result.checkpoint)
    assert int(arrays["queue/pointer"]) == 0 and record.steps[2]["spread"] > 0
    np.testing.assert_allclose(np.linalg.norm(arrays["queue/keys"], axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize(("method", "precision"), [("moco_v2", "bf16"), ("pixpro", "fp16")])
def test_mixed_precision_keeps_weights_and_queues_in_float32(method: str, precision: str, tmp_path: Path) -> None:
    record = Record()
    result = run(tmp_path, "out", method, f"train.precision={precision}", "train.iters=2", callbacks=[record])
    assert all(np.isfinite(value) for value in record.steps[2].values())
    assert {str(value.dtype) for value in weights(result.checkpoint).values()} <= {"float32", "int32"}


def test_the_checkpoints_momentum_encoder_follows_exactly(tmp_path: Path) -> None:
    """After the first step it still is what the encoder was; after the second it has moved by the schedule's share."""
    run(tmp_path, "out", "pixpro", "train.save_interval=1", "train.iters=2")
    first, second = weights(tmp_path / "out" / "iter_1"), weights(tmp_path / "out" / "iter_2")
    rate = float(cosine_rate(1, 2, 0.99))
    for name in ("stem_conv/kernel", "projector_fc2/kernel"):
        key, online = first[f"key/{name}"], first[name]
        assert not np.array_equal(key, online)
        np.testing.assert_allclose(second[f"key/{name}"], key + rate * (online - key), atol=1e-7)


def test_gradients_are_limited(tmp_path: Path) -> None:
    """The first step of SGD at rate 1 is the gradient."""
    config = config_of(
        tmp_path,
        "optimizer={name: sgd, weight_decay: 0.0, clip_norm: 0.02}",
        "lr_schedule.learning_rate=1.0",
        "train.iters=1",
    )
    method, _ = _build(config, 1, 12, tf.distribute.get_strategy(), None, offline=True, notify=print)
    start = {variable.path: variable.numpy() for variable in method.trainable_variables}
    moved = weights(pretrain(config, tmp_path / "out", images(config)).checkpoint)
    change = sum(np.sum(np.square(moved[name] - value, dtype=np.float64)) for name, value in start.items())
    assert np.sqrt(change) == pytest.approx(0.02, rel=1e-3)


def test_a_pre_trained_backbone_is_what_a_run_starts_from(tmp_path: Path) -> None:
    first = run(tmp_path, "first", "simsiam", "train.iters=1")
    lines: list[str] = []
    slow = ("lr_schedule.learning_rate=1e-30", "optimizer.weight_decay=0.0", "train.iters=1")
    second = run(tmp_path, "second", "moco_v2", *slow, f"backbone.pretrained={first.checkpoint}", notify=lines.append)
    before, after = weights(first.checkpoint), weights(second.checkpoint)
    for name in ("stem_conv/kernel", "stage4_block1_conv1_bn/gamma"):
        np.testing.assert_array_equal(before[name], after[name])
        np.testing.assert_array_equal(before[name], after[f"key/{name}"])
    assert lines[0].startswith("backbone: ") and " tensors from " in lines[0]


def test_images_of_other_bands_train_and_say_what_is_left_out(tmp_path: Path) -> None:
    import cv2

    (tmp_path / "images").mkdir()
    for i in range(4):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), np.full((40, 40), 60 * i, np.uint8))
    lines: list[str] = []
    run(tmp_path, "out", "simsiam", "dataset.bands=1", "train.iters=1", notify=lines.append)
    assert lines == [
        "views: saturation, hue, grayscale need RGB and are left out, because the images have 1 band; all other "
        "changes stay."
    ]


# === Schedules ===


def config_of(tmp_path: Path, *overrides: str) -> PretrainConfig:
    return tiny_pretraining(tmp_path, "simsiam", *overrides)


def test_rates_scale_with_the_batch_and_warm_up_over_epochs(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        "lr_schedule={name: cosine, learning_rate: 1.0, end_lr: 0.1, warmup_start_lr: 0.2, warmup_epochs: 2, "
        "base_batch_size: 8}",
    )  # batch 4: half of all rates; 12 images: 3 steps an epoch
    rates = [rate_of_step(step, config, 16, 12) for step in (0, 3, 6, 11, 16)]
    assert rates == pytest.approx([0.1, 0.3, 0.5, (0.5 + 0.05) / 2, 0.05])


def test_rates_may_change_with_epochs_only(tmp_path: Path) -> None:
    config = config_of(tmp_path, "lr_schedule={name: cosine, learning_rate: 1.0, by_epoch: true}")
    rates = [rate_of_step(step, config, 12, 12) for step in range(12)]
    assert rates[0] == rates[1] == rates[2] == 1.0
    assert rates[3] == rates[5] == pytest.approx(0.5 * (1 + np.cos(np.pi / 4)))
    assert len(set(rates)) == 4
    odd = [rate_of_step(step, config, 25, 10) for step in range(25)]  # 2.5 steps an epoch
    assert len(set(odd)) == 10 and odd == sorted(odd, reverse=True)


def test_epochs_count_images(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert steps_in_all(config, 12) == 6 and steps_in_all(config, 13) == 6 and steps_in_all(config, 14) == 7
    assert steps_in_all(config_of(tmp_path, "train.iters=5"), 14) == 5


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_simsiams_predictor_keeps_the_highest_rate_of_the_run(tmp_path: Path, name: str) -> None:
    schedule = "lr_schedule={name: cosine, learning_rate: 0.5, warmup_epochs: 1, base_batch_size: 8}"
    config = config_of(tmp_path, schedule, f"optimizer={{name: {name}}}")
    strategy = tf.distribute.get_strategy()
    method, optimizer = _build(config, 6, 12, strategy, None, offline=True, notify=print)
    kept = {method.trainable_variables[i].path for i in optimizer._constant}
    assert kept == {v.path for v in method.predictor.trainable_variables} and len(kept) == 5
    assert optimizer.constant_rate == 0.25, "half of it, for half the batch"


# === Bad input ===


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        (
            "moco_v2",
            ("train.total_batch_size=6", "method.key_bn=ema_stats"),
            "queue_size is 8, which a batch of 6 samples",
        ),
        ("moco_byol", ("train.total_batch_size=12",), "batch of 12 samples of 2 keys each does not divide"),
        ("swav", ("train.total_batch_size=3",), "queue_size is 8, which a batch of 3"),
        (
            "moco_v2",
            ("method.key_bn_splits=4",),
            "key_bn is split: a device's 4 images are normalised in 4 equal parts",
        ),
        ("simsiam", ("train.total_batch_size=13",), "train.total_batch_size is 13, but there are 12 images"),
    ],
)
def test_batches_that_fit_nothing(method: str, overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, "out", method, *overrides)
    assert checkpoints(tmp_path / "out") == []


def test_devices_must_share_a_batch_equally(tmp_path: Path) -> None:
    strategy = two_devices()
    with pytest.raises(ConfigError, match="train.total_batch_size is 3, .* 2 devices cannot share it"):
        run(tmp_path, "out", "simsiam", "train.total_batch_size=3", strategy=strategy)


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path, "out", "simsiam", "train.iters=1")
    with pytest.raises(ConfigError, match=r"iter_1 is a checkpoint of simsiam, but the config says method moco_v2"):
        run(tmp_path, "out", "moco_v2", resume=result.checkpoint)
    with pytest.raises(ConfigError, match="is at step 1, and the run has 1 steps: nothing is left to do"):
        run(tmp_path, "out", "simsiam", "train.iters=1", resume=result.checkpoint)


def test_an_image_that_turns_out_broken_loses_nothing(tmp_path: Path) -> None:
    config = tiny_pretraining(tmp_path, "simsiam", "data.workers=1")
    paths = [sample.image for sample in images(config)]
    whole = {path: path.read_bytes() for path in paths}

    class Break(keras.callbacks.Callback):
        """Breaks all images after the second step; those that wait in the pipeline may still be used."""

        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            if batch == 2:
                for path in paths:
                    path.write_bytes(whole[path][:-30])

    uncached = tiny_pretraining(tmp_path, "simsiam", "data.workers=1", "data.cache_mb=0", "train.save_interval=100")
    longer = uncached.model_copy(update={"train": uncached.train.model_copy(update={"iters": 60})})
    with pytest.raises(DataError, match=r"\.png.* What was trained before is kept: go on with --resume_model .*iter_"):
        pretrain(longer, tmp_path / "out", images(longer), callbacks=[Break()])
    (kept,) = checkpoints(tmp_path / "out")
    assert int(kept.name[5:]) >= 2
    for path, content in whole.items():
        path.write_bytes(content)
    assert pretrain(longer, tmp_path / "out", images(longer), resume=kept, callbacks=[StopAt(12)]).state.step == 12


def test_a_loss_that_is_not_finite_names_the_files(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"The loss is (nan|inf) at step \d .*\d\d\.png"):
        run(tmp_path, "out", "moco_v2", "lr_schedule.learning_rate=1e30", "train.log_iters=5", "train.epochs=9")


# === Collapse ===


def report(monitor: CollapseMonitor, epochs: list[tuple[int, float]]) -> str:
    lines: list[str] = []
    monitor.write = lines.append
    monitor.set_model(keras.Sequential())
    for step, (epoch, spread) in enumerate(epochs, 1):
        monitor.on_train_batch_end(step, {"epoch": float(epoch), "loss": 1.0, "spread": spread, "lr": 0.1})
    monitor.on_train_end()
    return "\n".join(lines)


def test_each_epoch_is_reported_and_a_collapsed_one_is_called_so() -> None:
    monitor = CollapseMonitor(0.1)
    text = report(monitor, [(1, 0.9), (1, 0.7), (2, 0.05), (2, 0.03), (3, 0.5)])
    assert "[MONITOR] epoch: 1, spread: 0.8000, loss: 1.0000" in text
    assert "[MONITOR] epoch: 2, spread: 0.0400" in text
    assert text.count("[WARNING]") == 1
    assert "[WARNING] epoch 2 looks collapsed: the spread of the projections is 0.0400, below 0.1" in text
    assert monitor.collapsed == 0 and not monitor.has_stopped_the_run


def test_collapsed_epochs_in_a_row_end_the_run() -> None:
    monitor = CollapseMonitor(0.1, stop_after=2)
    report(monitor, [(1, 0.05), (2, 0.5), (3, 0.05), (4, 0.05)])
    assert monitor.has_stopped_the_run and monitor.model.stop_training
