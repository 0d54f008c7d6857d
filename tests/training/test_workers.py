"""Two processes train one model: as one process with the same batch does, and with one end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from rsseg_tf.checkpoint import read_state
from rsseg_tf.training import pretrain, train
from rsseg_tf.training.folder import checkpoints
from tests.fixtures.configs import samples, tiny_config, use_tiny_backbone
from tests.fixtures.devices import two_devices
from tests.fixtures.pretraining import images, tiny_pretraining, use_tiny_resnet
from tests.fixtures.training import Record, StopAt, assert_equal_weights
from tests.fixtures.workers import Pair

OFTEN = ("train.save_interval=3", "train.log_iters=1", "train.keep_checkpoint_max=1000", "train.iters=100000")


@pytest.fixture(autouse=True)
def tiny_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    use_tiny_resnet(monkeypatch)


def options(*overrides: str) -> list[str]:
    return [part for one in overrides for part in ("--set", one)]


@pytest.mark.slow
def test_two_workers_equal_one_and_survive_a_kill(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, *OFTEN)
    data = samples(config, "train"), samples(config, "val")
    out = tmp_path / "out"
    command = ["train", "--config", str(tmp_path / "tiny.yml"), *options(*OFTEN), "--do_eval"]
    with Pair(tmp_path, *command, "--batch_size", "2", "--save_dir", str(out), name="killed") as pair:
        pair.wait_for("iter: 8/100000")
        pair.processes[1].kill()
        assert pair.wait(0, timeout_s=60) == 2
        assert pair.said(1) == "", "one worker alone writes the log"
        _, error = [line for line in pair.said(0).splitlines() if line and not line.startswith("20")]
        assert error.startswith("Error: Worker 1 of this run has ended or cannot be reached, so this one ends too")
        assert "The last checkpoint is of step " in error or "go on with --resume_model" in error
    last = checkpoints(out)[-1]
    assert not (out / ".lock").exists() and read_state(last).step >= 6

    record = Record()
    train(config, tmp_path / "one", *data, callbacks=[record, StopAt(6)])
    assert_equal_weights(out / "iter_6", tmp_path / "one" / "iter_6", atol=1e-6)
    assert read_state(out / "iter_6") == read_state(tmp_path / "one" / "iter_6")
    (line,) = [line for line in pair.said(0).splitlines() if "iter: 6/" in line]
    assert f"loss: {record.steps[6]['loss']:.4f}" in line
    scores = [line for line in pair.said(0).splitlines() if "[EVAL] #Images: 2" in line]
    assert [f"mIoU: {row['miou']:.4f}" in line for row, line in zip(record.evaluations, scores, strict=False)] == [
        True
    ] * 2

    # With two again, from there, until one of them is told to stop.
    both = tmp_path / "both"
    command += ["--batch_size", "2", "--resume_model", str(out / "iter_6"), "--save_dir", str(both)]
    with Pair(tmp_path, *command, name="stopped") as pair:
        pair.wait_for("iter: 8/100000")
        pair.processes[1].send_signal(signal.SIGTERM)
        assert pair.wait_for_both() == [0, 0], pair.said(0) + pair.said(1)
        assert pair.said(1) == ""
    stopped = checkpoints(both)[-1]
    assert f"Stopped by a signal at iter {read_state(stopped).step}" in pair.said(0)

    # With one, from there, to the same step.
    train(config, tmp_path / "alone", data[0], resume=out / "iter_6", callbacks=[StopAt(read_state(stopped).step)])
    assert_equal_weights(stopped, tmp_path / "alone" / stopped.name, atol=1e-6)


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
    assert_equal_weights(tmp_path / "one" / "iter_1", tmp_path / "two" / "iter_1", atol=1e-6)
    assert_equal_weights(tmp_path / "one" / "iter_3", tmp_path / "two" / "iter_3", atol=1e-5)
