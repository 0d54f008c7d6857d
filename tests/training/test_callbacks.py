from __future__ import annotations

import errno
import io
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console
from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator

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
    callbacks.warn_once.cache_clear()

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
    callbacks.warn_once.cache_clear()

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
    callbacks.warn_once.cache_clear()
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


def logged(folder: Path) -> list[tuple[int, float]]:
    """Returns step and loss of all points that programs see which read event files; they agree."""
    seen = []
    for module in (plugin_event_accumulator, event_accumulator):
        events = module.EventAccumulator(str(folder))
        events.Reload()
        points = events.Tensors("Train/loss")
        seen.append([(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in points])
    assert seen[0] == seen[1]
    return seen[0]


def log_steps(folder: Path, begun: int, steps: Sequence[int]) -> None:
    """Logs as a run does that begins at a step; its number of hundreds tells the run."""
    log = TensorBoardLog(folder)
    log.on_train_begin({"step": begun})
    for step in steps:
        log.on_train_batch_end(step, TRAIN | {"loss": step + 100.0 * begun})
    log.on_train_end()


def test_a_resumed_run_has_each_step_once_in_tensorboard(tmp_path: Path) -> None:
    """Steps 3 and 4 were logged before the kill, and are trained again; then somebody goes back to step 1.

    Nothing waits between the runs: files of one second are read in no useful order.
    """
    folder = tmp_path / "tb"
    log_steps(folder, 0, (1, 2, 3, 4))
    (first,) = folder.iterdir()
    first.write_bytes(first.read_bytes() + b"cut off by a kill")
    log_steps(folder, 2, (3, 4, 5))
    assert sorted(logged(folder)) == [(1, 1), (2, 2), (3, 203), (4, 204), (5, 205)]
    log_steps(folder, 1, (2, 4))
    assert sorted(logged(folder)) == [(1, 1), (2, 102), (4, 104)]
    # What was left is not lost; TensorBoard reads it under its old name.
    aside = sorted(path for path in folder.iterdir() if "tfevents" not in path.name)
    assert [path.name.split(".")[2] for path in aside] == ["later_than_1", "later_than_1", "later_than_2"]
    (tmp_path / "left").mkdir()
    shutil.copy(aside[2], tmp_path / "left" / aside[2].name.replace("later_than_2", "tfevents"))
    assert logged(tmp_path / "left") == [(3, 3), (4, 4)]


def test_a_running_tensorboard_drops_the_steps_that_are_trained_again(tmp_path: Path) -> None:
    log_steps(tmp_path, 0, (1, 2, 3, 4))
    running = plugin_event_accumulator.EventAccumulator(str(tmp_path))
    running.Reload()
    time.sleep(1.1)  # it reads files in the order of the seconds in their names
    log_steps(tmp_path, 2, (3, 5))
    running.Reload()
    assert [event.step for event in running.Tensors("Train/loss")] == [1, 2, 3, 5]


def test_points_from_before_a_failed_write_stay(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path)
    log.on_train_begin({"step": 0})
    log.on_train_batch_end(1, TRAIN | {"loss": 1.0})
    with mock.patch.object(tf.summary, "scalar", side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):
        log.on_train_batch_end(2, TRAIN)
    log.on_train_batch_end(3, TRAIN | {"loss": 3.0})
    log.on_train_end()
    assert sorted(logged(tmp_path)) == [(1, 1.0), (3, 3.0)]
