"""Sampling in whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsseg_tf.training import train
from tests.fixtures.configs import samples, tiny_config, use_tiny_backbone
from tests.fixtures.devices import two_devices
from tests.fixtures.training import StopAt, assert_equal_weights

SAMPLING = "sampling={classes: [bright], share: 1.0, redraw_ignored: true}"


@pytest.mark.parametrize("devices", [1, 2])
def test_a_resumed_run_draws_the_crops_of_a_straight_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    use_tiny_backbone(monkeypatch)
    strategy = two_devices() if devices == 2 else None
    config = tiny_config(tmp_path, SAMPLING, "train.iters=4", "train.save_interval=2", "augment.crop_size=[16, 16]")
    files = samples(config, "train")
    lines: list[str] = []
    straight = train(config, tmp_path / "straight", files, strategy=strategy, notify=lines.append)
    assert any(line.startswith("Sampling: ") and "of crops hold bright by chance; 100.0 %" in line for line in lines)
    often = tiny_config(tmp_path, *(SAMPLING, "train.iters=4", "train.save_interval=2", "train.log_iters=1"),
        "augment.crop_size=[16, 16]")  # fmt: skip
    train(often, tmp_path / "halves", files, strategy=strategy, callbacks=[StopAt(3)])
    half = tmp_path / "halves" / "iter_3"
    resumed = train(config, tmp_path / "halves", files, strategy=strategy, resume=half)
    assert resumed.state == straight.state
    assert_equal_weights(straight.checkpoint, resumed.checkpoint, tol=1e-6)
