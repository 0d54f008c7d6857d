"""Equal runs give equal bits where that is asked for, on as many cores as there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from rsseg_tf.errors import ConfigError
from rsseg_tf.training import make_deterministic

ROOT = Path(__file__).resolve().parents[2]
# The settings hold for a whole process, so the runs have one of their own. The network is a real one: the smaller it
# is, the rarer do operations side by side change places.
SCRIPT = """
import sys
from pathlib import Path
import pytest
from rsseg_tf.training import pretrain, train
from tests.tiny import samples, tiny_config
from tests.tiny_ssl import images, tiny_pretraining
from tests.training.test_loop import assert_equal_weights

folder, kind = Path(sys.argv[1]), sys.argv[2]

def run(name, resume=None):
    often = ("train.deterministic=true", "train.save_interval=2")
    if kind == "train":
        config = tiny_config(folder, "train.iters=4", "augment.crop_size=[96, 96]", *often)
        return train(config, folder / name, samples(config, "train"), resume=resume).checkpoint
    config = tiny_pretraining(folder, kind, "train.iters=4", *often)
    return pretrain(config, folder / name, images(config), resume=resume).checkpoint

first = run("one")
assert_equal_weights(first, run("other"))
assert_equal_weights(first, run("resumed", folder / "one" / "iter_2"))
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["train", "moco_v2"])
def test_equal_runs_give_equal_bits(kind: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, "utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), kind],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip().endswith("equal"), done.stderr[-3000:]


def test_it_must_be_asked_for_before_tensorflow_works() -> None:
    tf.constant(1) + 1
    if tf.config.threading.get_inter_op_parallelism_threads() == 1:
        pytest.skip("operations run one after the other here")
    with pytest.raises(ConfigError, match="TensorFlow has begun to work in this process"):
        make_deterministic()
