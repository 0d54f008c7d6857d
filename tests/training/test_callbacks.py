from __future__ import annotations

import errno
import io
import os
import re
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console
from tensorboard.backend.event_processing import plugin_event_accumulator

from rsseg_tf.training import callbacks
from rsseg_tf.training.callbacks import ConsoleLog, TensorBoardLog, format_duration

TRAIN = {
    "epoch": 2.0, "lr": 0.00999, "loss": 1.23456, "loss_main": 1.23456, "batch_cost": 0.5, "reader_cost": 0.001,
    "ips": 8.0,
}  # fmt: skip
EVAL = {
    "step": 10.0, "images": 3.0, "miou": 0.641, "acc": 0.9, "kappa": 0.8, "dice": 0.7, "iou/road": 0.5,
    "protocol": "stitched (2 scenes)", "best_miou": 0.65, "best_step": 5.0,
    "pictures": [np.zeros((4, 12, 3), np.uint8)],
}  # fmt: skip


def test_log_lines_have_the_known_shape() -> None:
    text = io.StringIO()
    log = ConsoleLog(80000, console=Console(file=text, width=40))
    log.on_train_begin()
    log.on_train_batch_end(10, TRAIN)
    log.on_test_end(EVAL)
    log.on_train_end()
    lines = [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in text.getvalue().splitlines() if line]
    assert lines == [
        "[TRAIN] epoch: 2, iter: 10/80000, loss: 1.2346, lr: 0.009990, batch_cost: 0.5000, reader_cost: 0.00100, "
        "ips: 8.0000 samples/sec | ETA 11:06:35",
        "[EVAL] #Images: 3 mIoU: 0.6410 Acc: 0.9000 Kappa: 0.8000 Dice: 0.7000 Protocol: stitched (2 scenes)",
        "[EVAL] The model with the best validation mIoU (0.6500) was saved at iter 5.",
    ]


def test_durations() -> None:
    assert [format_duration(s) for s in (0, 59.9, 3661, 360000)] == ["00:00:00", "00:00:59", "01:01:01", "100:00:00"]


def test_tensorboard_gets_scalars_and_pictures_under_the_known_names(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path / "tb")
    log.on_train_begin()
    assert not (tmp_path / "tb").exists()
    log.on_train_batch_end(10, TRAIN)
    log.on_test_end(EVAL)
    log.on_train_end()
    (file,) = (tmp_path / "tb").iterdir()
    found: dict[str, int] = {}
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            found[value.tag] = event.step
    assert found == dict.fromkeys(
        ["Train/lr", "Train/loss", "Train/loss_main", "Train/batch_cost", "Train/reader_cost", "Train/ips"]
        + [
            "Evaluate/mIoU",
            "Evaluate/Acc",
            "Evaluate/Kappa",
            "Evaluate/Dice",
            "Evaluate/IoU/road",
            "Evaluate/sample_0",
        ],
        10,
    )


def test_a_console_that_cannot_be_written_costs_no_training(capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk under a log file; then it has room again."""
    callbacks._warn_once.cache_clear()

    class Disk(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(text)

    disk = Disk()
    log = ConsoleLog(80000, console=Console(file=disk, width=40))
    log.on_train_begin({"step": 0})
    log.on_train_batch_end(10, TRAIN)
    log.on_test_end(EVAL)
    disk.full = False
    log.on_train_batch_end(20, TRAIN)
    log.on_train_end()
    assert "iter: 20/80000" in disk.getvalue()
    assert capsys.readouterr().err == (
        "[WARNING] The log cannot be written: No space left on device; training goes on.\n"
    ), "told once"


def test_a_closed_pipe_costs_no_training(capsys: pytest.CaptureFixture[str]) -> None:
    """Rich would end the process."""
    callbacks._warn_once.cache_clear()

    class Pipe(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

        def fileno(self) -> int:
            return os.open(os.devnull, os.O_WRONLY)

    log = ConsoleLog(80000, console=Console(file=Pipe()))
    with mock.patch("os.dup2"):
        log.on_train_batch_end(10, TRAIN)
    assert "The log cannot be written" in capsys.readouterr().err


def test_a_tensorboard_folder_that_cannot_be_written_costs_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks._warn_once.cache_clear()
    (tmp_path / "tb").write_text("a file")
    log = TensorBoardLog(tmp_path / "tb")
    log.on_train_begin({"step": 0})
    log.on_train_batch_end(10, TRAIN)
    log.on_test_end(EVAL)
    assert "tb cannot be written: " in capsys.readouterr().err
    (tmp_path / "tb").unlink()
    log.on_train_batch_end(20, TRAIN)
    log.on_train_end()
    assert len(list((tmp_path / "tb").iterdir())) == 1, "it is tried again"


def test_a_resumed_run_has_each_step_once_in_tensorboard(tmp_path: Path) -> None:
    """Steps 3 and 4 were logged before the kill, and are trained again."""
    for begun, steps in ((0, (1, 2, 3, 4)), (2, (3, 4, 5))):
        log = TensorBoardLog(tmp_path / "tb")
        log.on_train_begin({"step": begun})
        for step in steps:
            log.on_train_batch_end(step, TRAIN | {"loss": step + 10.0 * begun})
        log.on_train_end()
        time.sleep(1.1)  # event files are read in the order of the seconds in their names
    events = plugin_event_accumulator.EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    losses = events.Tensors("Train/loss")
    assert [event.step for event in losses] == [1, 2, 3, 4, 5]
    assert [float(tf.make_ndarray(event.tensor_proto)) for event in losses] == [1, 2, 23, 24, 25]
