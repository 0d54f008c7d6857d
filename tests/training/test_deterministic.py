"""Equal runs give equal bits where that is asked for, on as many cores as there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from rsseg_tf.errors import ConfigError
from rsseg_tf.training import loop, strategy, train
from tests.fixtures.configs import samples, tiny_config
from tests.fixtures.training import assert_equal_weights

ROOT = Path(__file__).resolve().parents[2]
# The settings hold for a whole process, so the runs have their own: one process with two runs and another with a third,
# because hashes and addresses, on which the order of operations depends, are those of a process. The third run has one
# core and asks for three threads, as another machine might.
SCRIPT = """
import os
import sys
from pathlib import Path
import pytest
import tensorflow as tf
from rsseg_tf.training import make_deterministic, pretrain, train
from tests.fixtures.configs import samples, tiny_config, use_tiny_backbone
import tests.conftest  # makes two devices
from tests.fixtures.devices import two_devices
from tests.fixtures.pretraining import images, tiny_pretraining

SWITCHES = (
    "train.ema=0.9", "train.batch_size=1", "optimizer.accumulate_steps=2", "optimizer.backbone_lr_factor=0.1",
    "optimizer.clip_norm=0.5", "optimizer.clip_value=0.1",
)
folder, kind, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
if names == ["other"]:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    tf.config.threading.set_intra_op_parallelism_threads(3)
make_deterministic()  # before the devices, which start TensorFlow's threads
lines = []
often = ("train.deterministic=true", "train.save_interval=2", "train.iters=4")
for name in names:
    resume = folder / names[0] / "iter_2" if name == "resumed" else None
    if kind in ("train", "switches"):
        # A network whose features are used in many places, so that gradients are added up.
        model = "model={name: deeplabv3plus, backbone: {name: resnet18_vd}}"
        config = tiny_config(folder, model, "augment.crop_size=[96, 96]", *often)
        devices = None
        if kind == "switches":
            use_tiny_backbone(pytest.MonkeyPatch())
            config, devices = tiny_config(folder, *SWITCHES, *often), two_devices()
        data = samples(config, "train")
        train(config, folder / name, data, resume=resume, strategy=devices, notify=lines.append)
    else:
        config = tiny_pretraining(folder, kind, *often)
        pretrain(config, folder / name, images(config), resume=resume, notify=lines.append)
assert not [line for line in lines if not line.startswith("The backbone begins with random weights")], lines
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["train", "switches", "moco_v2"])
def test_equal_runs_give_equal_bits(kind: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, "utf-8")
    for names in (["one", "resumed"], ["other"]):
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path), kind, *names],
            env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    for name in ("resumed", "other"):
        assert_equal_weights(tmp_path / "one" / "iter_4", tmp_path / name / "iter_4")


def test_a_run_that_cannot_have_the_fixed_number_of_threads_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow has run something in this process, and its threads are there."""
    tf.constant(1.0)
    with pytest.raises(RuntimeError, match="cannot be modified after initialization"):
        tf.config.threading.set_intra_op_parallelism_threads(strategy._DETERMINISTIC_THREADS)
    monkeypatch.setattr(loop, "make_deterministic", lambda: False)
    lines: list[str] = []
    config = tiny_config(tmp_path, "train.deterministic=true")
    (tmp_path / "out").write_text("not a folder")
    with pytest.raises(ConfigError, match="cannot be written"):
        train(config, tmp_path / "out", samples(config, "train"), notify=lines.append)
    assert len(lines) == 1 and "keeps its number of threads" in lines[0]


def test_gradients_are_added_in_the_order_in_which_they_come() -> None:
    """1 + 1e8 - 1e8 is 0 in float32, and 1e8 - 1e8 + 1 is 1."""
    summands = [tf.constant([value], tf.float32) for value in (1.0, 1e8, -1e8)]
    assert float(strategy._add_in_order(summands)[0]) == 0.0
    assert float(strategy._add_in_order(summands[::-1])[0]) == 1.0
    assert float(strategy._add_in_order(summands[:2])[0]) == 1e8
