from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

from rsseg_tf.checkpoint import read_state
from rsseg_tf.errors import ConfigError, DataError, TrainingError, WeightsError
from rsseg_tf.training import TrainResult, train
from rsseg_tf.training.loop import checkpoints, prepare_save_dir
from tests.devices import two_devices
from tests.tiny import samples, tiny_config, use_tiny_backbone


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)


class Record(keras.callbacks.Callback):
    """Keeps what the loop reports."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[int, dict[str, float]] = {}
        self.evaluations: list[dict[str, object]] = []
        self.ended = False

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.steps[batch] = dict(logs or {})

    def on_test_end(self, logs: dict[str, object] | None = None) -> None:
        self.evaluations.append(dict(logs or {}))

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self.ended = True


def run(tmp_path: Path, save_dir: str, *overrides: str, evaluate: bool = False, **options: object) -> TrainResult:
    config = tiny_config(tmp_path, *overrides)
    val = samples(config, "val") if evaluate else ()
    return train(config, tmp_path / save_dir, samples(config, "train"), val, **options)  # type: ignore[arg-type]


def weights(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "weights.npz") as archive:
        return dict(archive)


def assert_equal_weights(one: Path, other: Path, *, atol: float = 0.0) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_allclose(value, right[name], rtol=0, atol=atol, err_msg=name)


def test_a_run_writes_checkpoints_and_reports(tmp_path: Path) -> None:
    record = Record()
    result = run(tmp_path, "out", "train.iters=7", "train.keep_checkpoint_max=2", evaluate=True, callbacks=[record])
    assert (result.stopped, result.state.step, result.state.samples_seen) == ("finished", 7, 28)
    assert [path.name for path in checkpoints(tmp_path / "out")] == ["iter_6", "iter_7"]
    assert result.checkpoint == tmp_path / "out" / "iter_7"
    assert sorted(path.name for path in result.checkpoint.iterdir()) == [
        "config.yml", "state.json", "training.npz", "weights.npz",
    ]  # fmt: skip
    assert list(record.steps) == [2, 4, 6]
    assert set(record.steps[2]) == {"epoch", "lr", "loss", "loss_main", "batch_cost", "reader_cost", "ips"}
    assert record.steps[6]["epoch"] == 4  # 24 samples of 6
    assert record.steps[6]["reader_cost"] <= record.steps[6]["batch_cost"]
    assert [row["step"] for row in record.evaluations] == [3, 6, 7]
    best = max(record.evaluations, key=lambda row: row["miou"])  # type: ignore[arg-type, return-value]
    assert result.state.best_miou == best["miou"]
    assert read_state(tmp_path / "out" / "best_model").step == result.state.best_step
    assert len(record.evaluations[0]["pictures"]) == 2  # type: ignore[arg-type]
    assert record.ended


def test_the_loss_falls(tmp_path: Path) -> None:
    record = Record()
    run(
        tmp_path, "out", "train.iters=60", "train.save_interval=60", "lr_schedule.learning_rate=0.3", callbacks=[record]
    )
    assert record.steps[60]["loss"] < 0.75 * record.steps[2]["loss"]


@pytest.mark.parametrize(
    "extra",
    [
        (),
        ("optimizer={name: adamw}", "lr_schedule={name: cosine, learning_rate: 0.01, warmup_steps: 2}"),
        ("train.precision=fp16",),
    ],
    ids=["sgd", "adamw-cosine", "fp16"],
)
def test_a_resumed_run_equals_a_straight_one(tmp_path: Path, extra: tuple[str, ...]) -> None:
    straight = run(tmp_path, "straight", *extra)
    run(tmp_path, "halves", *extra, callbacks=[_StopAt(4)])
    assert [p.name for p in checkpoints(tmp_path / "halves")] == ["iter_3", "iter_4"]
    resumed = run(tmp_path, "halves", *extra, resume=tmp_path / "halves" / "iter_4")
    assert resumed.state.samples_seen == straight.state.samples_seen
    assert_equal_weights(straight.checkpoint, resumed.checkpoint)
    with np.load(straight.checkpoint / "training.npz") as one, np.load(resumed.checkpoint / "training.npz") as other:
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


class _StopAt(keras.callbacks.Callback):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.model.stop_training = batch >= self.step


def test_two_runs_with_one_seed_are_equal_and_another_seed_differs(tmp_path: Path) -> None:
    one = run(tmp_path, "one", "train.iters=3")
    other = run(tmp_path, "other", "train.iters=3", "data.workers=1", "data.cache_mb=0")
    assert_equal_weights(one.checkpoint, other.checkpoint)
    third = run(tmp_path, "third", "train.iters=3", "train.seed=4")
    assert any(not np.array_equal(v, weights(third.checkpoint)[k]) for k, v in weights(one.checkpoint).items())


def test_two_devices_equal_one(tmp_path: Path) -> None:
    one = run(tmp_path, "one", "train.batch_size=4")
    strategy = two_devices()
    two = run(tmp_path, "two", "train.batch_size=2", strategy=strategy)
    assert two.state == one.state
    assert_equal_weights(one.checkpoint, two.checkpoint, atol=2e-5)


def test_bfloat16_activations_keep_float32_weights_and_a_finite_loss(tmp_path: Path) -> None:
    record = Record()
    result = run(tmp_path, "out", "train.precision=bf16", "train.iters=2", callbacks=[record])
    assert np.isfinite(record.steps[2]["loss"])
    assert {str(value.dtype) for value in weights(result.checkpoint).values()} == {"float32"}
    start = run(tmp_path, "fp32", "train.iters=2")
    assert any(not np.array_equal(v, weights(start.checkpoint)[k]) for k, v in weights(result.checkpoint).items())


def test_an_ignored_batch_gives_no_loss_and_no_nan(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "optimizer.weight_decay=0.0")
    for sample in samples(config, "train"):
        cv2.imwrite(str(sample.label), np.full((40, 40), 255, np.uint8))
    record = Record()
    result = run(tmp_path, "out", "optimizer.weight_decay=0.0", callbacks=[record])
    assert {row["loss"] for row in record.steps.values()} == {0.0}
    assert all(np.isfinite(value).all() for value in weights(result.checkpoint).values())


def test_a_loss_that_is_not_finite_names_the_step_and_the_files(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"The loss is (nan|inf) at step [23] .*train_\d\.png, .*train_\d\.png"
    ) as error:
        run(tmp_path, "out", "lr_schedule.learning_rate=1e30", "train.log_iters=5")
    assert str(error.value).count(".png") == 4
    assert checkpoints(tmp_path / "out") == []


def test_early_stopping_counts_evaluations_without_a_better_score(tmp_path: Path) -> None:
    slow = ("lr_schedule.learning_rate=1e-30", "optimizer.weight_decay=0.0", "train.save_interval=1")
    result = run(tmp_path, "out", *slow, "train.early_stop_intervals=2", "train.iters=20", evaluate=True)
    assert result.stopped == "early"
    assert result.state.stale_intervals == 2
    assert result.state.step == result.state.best_step + 2


def test_a_wrong_label_found_while_training_keeps_its_message(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    train_samples = samples(config, "train")
    label = np.zeros((40, 40), np.uint8)
    label[3, 3] = 7
    cv2.imwrite(str(train_samples[2].label), label)
    with pytest.raises(
        DataError, match=r"train_2_label\.png holds the ids 7; the dataset 'data' allows 0\.\.1 and 255"
    ):
        train(config, tmp_path / "out", train_samples)


def test_resuming_needs_steps_to_go_and_a_fitting_checkpoint(tmp_path: Path) -> None:
    result = run(tmp_path, "out", "train.iters=2")
    with pytest.raises(ConfigError, match="is at step 2, and train.iters is 2: nothing is left to do"):
        run(tmp_path, "out", "train.iters=2", resume=result.checkpoint)
    with pytest.raises(WeightsError, match="does not fit the model 'fcn'"):
        run(tmp_path, "out", "model.channels=16", resume=result.checkpoint)
    with pytest.raises(WeightsError, match="The optimizer in .* does not fit"):
        run(tmp_path, "out", "optimizer={name: adamw}", resume=result.checkpoint)
    with pytest.raises(WeightsError, match="is not a checkpoint: it does not exist"):
        run(tmp_path, "out", resume=tmp_path / "nothing")


def test_resuming_does_not_count_later_checkpoints_of_an_abandoned_branch(tmp_path: Path) -> None:
    run(tmp_path, "out", "train.iters=4", "train.save_interval=1")
    run(
        tmp_path, "out", "train.iters=3", "train.save_interval=1", "train.keep_checkpoint_max=1",
        resume=tmp_path / "out" / "iter_2",
    )  # fmt: skip
    assert [p.name for p in checkpoints(tmp_path / "out")] == ["iter_3", "iter_4"]


def test_the_save_dir_is_never_overwritten_by_accident(tmp_path: Path) -> None:
    save_dir = tmp_path / "out"
    prepare_save_dir(save_dir, resume=False, overwrite=False)
    (save_dir / "iter_5").mkdir()
    with pytest.raises(ConfigError, match=r"holds iter_5 of an earlier run\. Go on from it with --resume_model"):
        prepare_save_dir(save_dir, resume=False, overwrite=False)
    prepare_save_dir(save_dir, resume=True, overwrite=False)
    (save_dir / ".iter_6.partial").mkdir()
    prepare_save_dir(save_dir, resume=True, overwrite=False)
    assert [path.name for path in save_dir.iterdir()] == ["iter_5"]
    prepare_save_dir(save_dir, resume=False, overwrite=True)
    assert list(save_dir.iterdir()) == []


def test_an_unwritable_save_dir(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be written"):
        prepare_save_dir(tmp_path / "file" / "out", resume=False, overwrite=False)


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_ends_cleanly(tmp_path: Path) -> None:
    tiny_config(tmp_path)
    command = [
        sys.executable, "-m", "rsseg_tf.cli", "train", "--config", str(tmp_path / "tiny.yml"),
        "--save_dir", str(tmp_path / "out"), "--iters", "100000", "--log_iters", "1", "--save_interval", "90000",
    ]  # fmt: skip
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "iter: 2/100000" in line:
                    process.send_signal(signal.SIGTERM)
                    break
            rest = process.stdout.read()
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    folder = checkpoints(tmp_path / "out")[-1]
    assert f"go on with --resume_model {folder}" in rest
    assert read_state(folder).step == int(folder.name.removeprefix("iter_"))
