"""Two processes train one model: as one process with the same batch does, and with one end."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.checkpoint import read_state
from rsseg_tf.training import pretrain, train
from rsseg_tf.training.folder import checkpoints
from tests.fixtures.configs import samples, tiny_config, use_tiny_backbone
from tests.fixtures.devices import two_devices
from tests.fixtures.pretraining import images, tiny_pretraining, use_tiny_resnet
from tests.fixtures.training import Record, StopAt, assert_equal_weights, training
from tests.fixtures.workers import Pair

OFTEN = ("train.save_interval=3", "train.log_iters=1", "train.keep_checkpoint_max=1000", "train.iters=100000")
SWITCHES = ("train.ema=0.9", "optimizer.accumulate_steps=2", "model.freeze_backbone=true")


@pytest.fixture(autouse=True)
def tiny_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    use_tiny_resnet(monkeypatch)


def options(*overrides: str) -> list[str]:
    return [part for one in overrides for part in ("--set", one)]


@pytest.mark.slow
def test_two_workers_equal_one_and_survive_a_kill(tmp_path: Path) -> None:
    """First with what changes a step, until one is killed; then without, resuming, until one is told to stop."""
    config = tiny_config(tmp_path, *OFTEN)
    data = samples(config, "train"), samples(config, "val")
    out = tmp_path / "out"
    command = ["train", "--config", str(tmp_path / "tiny.yml"), "--batch_size", "2", *options(*OFTEN)]
    with Pair(tmp_path, *command, *options(*SWITCHES), "--do_eval", "--save_dir", str(out), name="killed") as pair:
        pair.wait_for("iter: 8/100000")
        pair.processes[1].kill()
        assert pair.wait(0, timeout_s=60) == 2
        assert pair.said(1) == "", "one worker alone writes the log"
        # Before its log, it says that it waits for the other one, and that the backbone keeps random weights.
        _, note, error = [line for line in pair.said(0).splitlines() if line and not line.startswith("20")]
        assert note.startswith("model.freeze_backbone keeps the backbone as it was built")
        assert error.startswith("Error: Worker 1 of this run has ended or cannot be reached, so this one ends too")
        assert "The last checkpoint is of step " in error and "go on with --resume_model" in error
    last = checkpoints(out)[-1]
    assert not (out / ".lock").exists() and read_state(last).step >= 6

    # As two devices of one process, each of which has a worker's rows of each part of a batch.
    record, switched = Record(), tiny_config(tmp_path, *OFTEN, *SWITCHES, "train.batch_size=2")
    train(switched, tmp_path / "switched", *data, strategy=two_devices(), callbacks=[record, StopAt(6)])
    assert_equal_weights(out / "iter_6", tmp_path / "switched" / "iter_6", tol=1e-6)
    left, right = training(out / "iter_6"), training(tmp_path / "switched" / "iter_6")
    assert left.keys() == right.keys() and any(name.startswith("weights/") for name in left)
    for name, value in left.items():
        np.testing.assert_allclose(value, right[name], rtol=0, atol=1e-6, err_msg=name)
    assert read_state(out / "iter_6") == read_state(tmp_path / "switched" / "iter_6")
    assert read_state(out / "iter_6").samples_seen == 6 * 2 * 2 * 2
    (line,) = [line for line in pair.said(0).splitlines() if "iter: 6/" in line]
    assert f"loss: {record.steps[6]['loss']:.4f}" in line
    scores = [line for line in pair.said(0).splitlines() if "[EVAL] #Images: 2" in line]
    assert [f"mIoU: {row['miou']:.4f}" in line for row, line in zip(record.evaluations, scores, strict=False)] == [
        True
    ] * 2

    # Two go on with what one has begun, until one of them is told to stop.
    train(config, tmp_path / "one", data[0], callbacks=[StopAt(6)])
    begun, both = tmp_path / "one" / "iter_3", tmp_path / "both"
    with Pair(tmp_path, *command, "--resume_model", str(begun), "--save_dir", str(both), name="stopped") as pair:
        pair.wait_for("iter: 8/100000")
        pair.processes[1].send_signal(signal.SIGTERM)
        assert pair.wait_for_both() == [0, 0], pair.said(0) + pair.said(1)
        assert pair.said(1) == ""
    stopped = checkpoints(both)[-1]
    assert f"Stopped by a signal at iter {read_state(stopped).step}" in pair.said(0)

    # One goes on with what two have done, to the same step.
    assert_equal_weights(both / "iter_6", tmp_path / "one" / "iter_6", tol=1e-6)
    train(config, tmp_path / "alone", data[0], resume=both / "iter_6", callbacks=[StopAt(read_state(stopped).step)])
    assert_equal_weights(stopped, tmp_path / "alone" / stopped.name, tol=1e-6)


@pytest.mark.slow
def test_two_workers_pretrain_as_one(tmp_path: Path) -> None:
    """As one with two devices: statistics, and the assignments and queues of SwAV, are those of the whole batch."""
    overrides = ("train.iters=3", "train.save_interval=1", "views.crop_size=64", "lr_schedule.learning_rate=0.01")
    config = tiny_pretraining(tmp_path, "swav", *overrides)
    pretrain(config, tmp_path / "one", images(config), strategy=two_devices())
    command = ["pretrain", "--config", str(tmp_path / "swav.yml"), *options(*overrides)]
    with Pair(tmp_path, *command, "--save_dir", str(tmp_path / "two"), name="pretrain") as pair:
        assert pair.wait_for_both() == [0, 0], pair.said(0) + pair.said(1)
        assert pair.said(1) == "" and "[MONITOR] epoch: 1" in pair.said(0)
    # Each step makes rounding grow: normalising few images moves outputs, which the queues hold, further than weights.
    for step, tol in (("iter_1", 1e-5), ("iter_3", 2e-4)):
        assert_equal_weights(tmp_path / "one" / step, tmp_path / "two" / step, tol=tol)
