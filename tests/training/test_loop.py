from __future__ import annotations

import errno
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import keras
import numpy as np
import pytest

import rsseg_tf.checkpoint as checkpoint_module
import rsseg_tf.training.folder as folder_module
from rsseg_tf.checkpoint import read_state
from rsseg_tf.config import Config
from rsseg_tf.errors import ConfigError, DataError, TrainingError, WeightsError
from rsseg_tf.evaluate.evaluation import Evaluation
from rsseg_tf.files import atomic_path
from rsseg_tf.files.lists import Sample
from rsseg_tf.training import TrainResult, segmentation, train
from rsseg_tf.training.folder import checkpoints
from rsseg_tf.training.workers import WorkerLostError, Workers
from tests.fixtures.configs import samples, tiny_config, use_tiny_backbone
from tests.fixtures.devices import two_devices
from tests.fixtures.training import Record, StopAt, assert_equal_weights, weights


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)


def run(tmp_path: Path, save_dir: str, *overrides: str, evaluate: bool = False, **options: object) -> TrainResult:
    config = tiny_config(tmp_path, *overrides)
    val = samples(config, "val") if evaluate else ()
    return train(config, tmp_path / save_dir, samples(config, "train"), val, **options)  # type: ignore[arg-type]


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
    run(tmp_path, "halves", *extra, callbacks=[StopAt(4)])
    assert [p.name for p in checkpoints(tmp_path / "halves")] == ["iter_3", "iter_4"]
    resumed = run(tmp_path, "halves", *extra, resume=tmp_path / "halves" / "iter_4")
    assert resumed.state.samples_seen == straight.state.samples_seen
    assert_equal_weights(straight.checkpoint, resumed.checkpoint)
    with np.load(straight.checkpoint / "training.npz") as one, np.load(resumed.checkpoint / "training.npz") as other:
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


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
    assert_equal_weights(one.checkpoint, two.checkpoint, tol=2e-5)


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
    ) as caught:
        train(config, tmp_path / "out", train_samples)
    assert caught.value.code == "label-values"


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


# === Nothing is lost ===


def break_image(config: Config) -> Path:
    """Cuts a validation image off within its pixels."""
    path = samples(config, "val")[1].image
    path.write_bytes(path.read_bytes()[:-40])
    return path


def test_a_cut_validation_image_is_found_before_the_first_step(tmp_path: Path) -> None:
    config, record = tiny_config(tmp_path), Record()
    path = break_image(config)
    with pytest.raises(DataError, match=re.escape(str(path))):
        run(tmp_path, "out", evaluate=True, callbacks=[record])
    assert not record.steps and not (tmp_path / "out").exists()


def test_a_validation_image_that_breaks_later_costs_no_step(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)

    class Break(keras.callbacks.Callback):
        def on_test_begin(self, logs: object = None) -> None:
            break_image(config)

    path = samples(config, "val")[1].image
    whole = path.read_bytes()
    straight = run(tmp_path, "straight", evaluate=True)
    kept = tmp_path / "out" / "iter_3"
    with pytest.raises(DataError, match=rf"val_1\.png.* is kept: go on with --resume_model {re.escape(str(kept))}\.$"):
        run(tmp_path, "out", evaluate=True, callbacks=[Break()])
    assert checkpoints(tmp_path / "out") == [kept] and read_state(kept).to_evaluate
    path.write_bytes(whole)
    record = Record()
    resumed = run(tmp_path, "out", evaluate=True, resume=kept, callbacks=[record])
    assert [row["step"] for row in record.evaluations] == [3, 6], "the evaluation that failed comes first"
    assert resumed.state == straight.state
    assert_equal_weights(straight.checkpoint, resumed.checkpoint)
    assert_equal_weights(tmp_path / "straight" / "best_model", tmp_path / "out" / "best_model")


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_test_begin", "on_test_end"])
def test_an_error_in_a_callback_costs_no_step(hook: str, tmp_path: Path) -> None:
    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            self.fail("on_train_batch_end")

        def on_test_begin(self, logs: object = None) -> None:
            self.fail("on_test_begin")

        def on_test_end(self, logs: object = None) -> None:
            self.fail("on_test_end")

        def fail(self, name: str) -> None:
            if name == hook:
                raise ValueError("of a user")

    with pytest.raises(ValueError, match="of a user"):
        run(tmp_path, "out", evaluate=True, callbacks=[Fail()])
    step = 2 if hook == "on_train_batch_end" else 3
    assert [path.name for path in checkpoints(tmp_path / "out")] == [f"iter_{step}"]


def test_any_error_in_the_evaluation_is_one_line_after_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no room for logits")

    monkeypatch.setattr(Evaluation, "run", fail)
    with pytest.raises(TrainingError, match=r"at step 3 failed: MemoryError: no room for logits\. What was trained"):
        run(tmp_path, "out", evaluate=True)
    assert [path.name for path in checkpoints(tmp_path / "out")] == ["iter_3"]


def test_a_picture_that_cannot_be_made_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no colours")

    monkeypatch.setattr(segmentation, "overlay", fail)
    record, lines = Record(), list[str]()
    result = run(tmp_path, "out", "train.iters=3", evaluate=True, callbacks=[record], notify=lines.append)
    assert result.stopped == "finished" and record.evaluations[0]["pictures"] == []
    assert len(lines) == 3 and lines[0].startswith("The backbone begins with random weights")
    assert "val_0.png: ValueError: no colours" in lines[1]


def test_a_wrong_training_sample_costs_no_step(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "data.cache_mb=0", "data.workers=1", "train.iters=60", "train.save_interval=100")
    labels = [sample.label for sample in samples(config, "train")]

    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            for label in labels:
                assert label is not None
                with atomic_path(label) as path:  # readers run ahead, and must never see half a file
                    assert cv2.imwrite(str(path), np.full((40, 40), 7, np.uint8))

    with pytest.raises(DataError, match=r"holds the ids 7; .* is kept: go on with --resume_model .*/iter_\d+\.$"):
        train(config, tmp_path / "out", samples(config, "train"), callbacks=[Break()])
    (kept,) = checkpoints(tmp_path / "out")
    assert read_state(kept).step >= 2 and not read_state(kept).to_evaluate


def test_a_full_disk_while_saving_costs_the_new_checkpoint_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = run(tmp_path, "straight", evaluate=True)
    real = checkpoint_module._write_arrays

    def full(path: Path, arrays: dict[str, np.ndarray]) -> None:
        if path.parent.name == ".best_model.partial":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "_write_arrays", full)
        with pytest.raises(WeightsError, match=r"best_model could not be written: No space left on device.*iter_3\.$"):
            run(tmp_path, "out", evaluate=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["iter_3"]
    resumed = run(tmp_path, "out", evaluate=True, resume=tmp_path / "out" / "iter_3")
    assert resumed.state == straight.state
    assert_equal_weights(tmp_path / "straight" / "best_model", tmp_path / "out" / "best_model")


def test_a_checkpoint_that_somebody_removed_does_not_end_the_run(tmp_path: Path) -> None:
    class Remove(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            if batch == 4:
                shutil.rmtree(tmp_path / "out" / "iter_3")

    result = run(tmp_path, "out", "train.keep_checkpoint_max=1", callbacks=[Remove()])
    assert result.stopped == "finished" and [p.name for p in checkpoints(tmp_path / "out")] == ["iter_6"]


def test_a_checkpoint_that_cannot_be_removed_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(folder_module, "discard_folder", refuse)
    lines: list[str] = []
    result = run(tmp_path, "out", "train.keep_checkpoint_max=1", notify=lines.append)
    assert result.stopped == "finished" and [p.name for p in checkpoints(tmp_path / "out")] == ["iter_3", "iter_6"]
    assert lines[1:] == [f"{tmp_path / 'out' / 'iter_3'} could not be removed: Permission denied; training goes on."]


def script_scores(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """Makes the evaluations of a run give these mIoU, one after the other."""
    left = list(scores)

    def scored(*_: object) -> tuple[SimpleNamespace, list[np.ndarray]]:
        return SimpleNamespace(miou=left.pop(0), acc=0.0, kappa=0.0, dice=0.0, classes=(), class_iou=()), []

    monkeypatch.setattr(segmentation, "_evaluate", scored)


def test_resuming_before_the_best_model_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best one lies ahead, on a branch that is left; a worse one of the new branch does not replace it."""
    out, often = tmp_path / "out", ("train.save_interval=1", "train.keep_checkpoint_max=9")
    script_scores(monkeypatch, 0.3, 0.77, 0.81, 0.5)
    straight = run(tmp_path, "out", *often, "train.iters=4", evaluate=True)
    assert (straight.state.best_step, straight.state.stale_intervals) == (3, 1)
    before = weights(out / "best_model")
    lines: list[str] = []
    script_scores(monkeypatch, 0.78)
    worse = run(tmp_path, "out", *often, "train.iters=2", evaluate=True, resume=out / "iter_1", notify=lines.append)
    assert lines == [
        f"{out / 'best_model'} (mIoU 0.8100, iter 3) is better than the best that {out / 'iter_1'} knows; it stays "
        "until a better one is found."
    ]
    assert (worse.state.best_miou, worse.state.best_step, worse.state.stale_intervals) == (0.81, 3, 0)
    assert all(np.array_equal(value, before[name]) for name, value in weights(out / "best_model").items())
    script_scores(monkeypatch, 0.77, 0.81, 0.5)
    again = run(tmp_path, "out", *often, "train.iters=4", evaluate=True, resume=out / "iter_1")
    assert again.state == straight.state, "the same branch once more ends the same"
    assert_equal_weights(out / "best_model", out / "iter_3")
    script_scores(monkeypatch, 0.9)
    better = run(tmp_path, "out", *often, "train.iters=3", evaluate=True, resume=out / "iter_2")
    assert better.state.best_miou == read_state(out / "best_model").best_miou == 0.9


def test_a_kill_between_a_checkpoint_and_the_best_model_costs_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs of before left, which wrote the state first: it claims a best model that is not there."""
    out, often = tmp_path / "out", ("train.save_interval=1", "train.keep_checkpoint_max=9")
    script_scores(monkeypatch, 0.3, 0.77)
    run(tmp_path, "out", *often, "train.iters=2", evaluate=True)
    shutil.rmtree(out / "best_model")
    lines: list[str] = []
    script_scores(monkeypatch, 0.5)
    run(tmp_path, "out", *often, "train.iters=3", evaluate=True, resume=out / "iter_2", notify=lines.append)
    assert "it was made again from" in lines[0] and read_state(out / "best_model").best_miou == 0.77
    assert_equal_weights(out / "best_model", out / "iter_2")
    for folder in (out / "best_model", out / "iter_2", out / "iter_1"):
        shutil.rmtree(folder)
    script_scores(monkeypatch, 0.6)
    lines.clear()
    run(tmp_path, "out", *often, "train.iters=4", evaluate=True, resume=out / "iter_3", notify=lines.append)
    assert "0.7700 at iter 2, is nowhere" in lines[0] and "looked for anew" in lines[0]
    assert read_state(out / "best_model").best_miou == read_state(out / "iter_4").best_miou == 0.6


def test_a_run_from_another_folder_brings_its_best_model(tmp_path: Path) -> None:
    run(tmp_path, "out", "train.iters=3", evaluate=True)
    resumed = run(
        tmp_path, "other", "train.iters=4", "lr_schedule.learning_rate=1e-30", evaluate=True,
        resume=tmp_path / "out" / "iter_3",
    )  # fmt: skip
    assert read_state(tmp_path / "other" / "best_model").step == resumed.state.best_step


# === One run in a folder ===


def test_the_save_dir_is_never_overwritten_by_accident(tmp_path: Path) -> None:
    run(tmp_path, "out", "train.iters=1", evaluate=True)
    state = read_state(tmp_path / "out" / "iter_1")
    with pytest.raises(ConfigError, match=rf"holds iter_1 of an earlier run\. Go on .* {tmp_path}/out/iter_1, choose"):
        run(tmp_path, "out", "train.iters=2")
    assert read_state(tmp_path / "out" / "iter_1") == state
    shutil.rmtree(tmp_path / "out" / "iter_1")
    with pytest.raises(ConfigError, match=r"holds best_model of an earlier run\. Choose another folder, or replace"):
        run(tmp_path, "out", "train.iters=2")


def test_an_earlier_run_goes_when_the_first_checkpoint_of_the_new_one_is_safe(tmp_path: Path) -> None:
    run(tmp_path, "out", "train.iters=4", "train.save_interval=1", evaluate=True)

    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            assert len(checkpoints(tmp_path / "out")) == 4
            self.model.stop_training = True

    with pytest.raises(DataError, match="does not exist"):
        config = tiny_config(tmp_path)
        train(config, tmp_path / "out", [Sample(tmp_path / "no.png", tmp_path / "no.png")], overwrite=True)
    assert len(checkpoints(tmp_path / "out")) == 4
    run(tmp_path, "out", overwrite=True, callbacks=[Fail()])
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["iter_2"]


def test_two_runs_never_write_to_one_folder(tmp_path: Path) -> None:
    class Second(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            for options in ({}, {"overwrite": True}, {"resume": tmp_path / "out" / "iter_3"}):
                with pytest.raises(ConfigError, match=r"Another run writes to --save_dir .*out \(its lock is .*\.lock"):
                    run(tmp_path, "out", **options)
            told.append(batch)

    told: list[int] = []
    run(tmp_path, "out", "train.iters=2", callbacks=[Second()])
    assert told == [2]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["iter_2"], "the lock is gone"


def test_an_unwritable_save_dir(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file/out cannot be written: Not a directory"):
        run(tmp_path, "file/out")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_write_a_checkpoint_and_end_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    tiny_config(tmp_path)
    command = [
        sys.executable, "-m", "rsseg_tf.cli", "train", "--config", str(tmp_path / "tiny.yml"),
        "--save_dir", str(tmp_path / "out"), "--iters", "100000", "--log_iters", "1", "--save_interval", "90000",
    ]  # fmt: skip
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    # Tests that run under nohup would hand on that the signal is ignored, and the run goes on, as it should.
    default = functools.partial(signal.signal, number, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=default) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "iter: 2/100000" in line:
                    process.send_signal(number)
                    break
            rest = process.stdout.read()
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    folder = checkpoints(tmp_path / "out")[-1]
    assert f"go on with --resume_model {folder}" in rest
    assert read_state(folder).step == int(folder.name.removeprefix("iter_"))


@pytest.mark.parametrize("moment", ["after the checkpoint", "before a batch"])
def test_a_lost_worker_is_told_with_the_checkpoint_to_go_on_from(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever call notices first: that is a matter of chance."""
    out, asked = tmp_path / "out", 0

    def any_of_all(workers: Workers, *signs: bool) -> tuple[bool, ...]:
        nonlocal asked
        asked += (out / "iter_3").exists()
        if asked == (1 if moment == "after the checkpoint" else 3):
            raise WorkerLostError("Worker 1 has ended.")
        return signs

    monkeypatch.setattr(Workers, "any", any_of_all)
    with pytest.raises(WorkerLostError) as error:
        run(tmp_path, "out", "train.save_interval=3", "train.iters=9")
    told = f"Worker 1 has ended. The last checkpoint is of step 3: go on with --resume_model {out / 'iter_3'}."
    assert str(error.value) == told
