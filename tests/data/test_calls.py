"""Scripts that end while datasets of theirs prepare elements."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.configs import tiny_config

SCRIPT = """
import sys, time
from rsseg_tf.config import load_config
from rsseg_tf.config.pretrain import Images, Views
from rsseg_tf.data.fit import training_dataset, validation_dataset
from rsseg_tf.data.reader import ImageReader, SampleReader
from rsseg_tf.data.views import view_batches
from rsseg_tf.files.lists import Sample, read_list

def slow(image, label, seed):
    time.sleep(0.02)  # so that calls are surely under way at the end
    return image, label

config = load_config(sys.argv[1])
root = config.dataset.root
images = tuple(Sample(sample.image, None) for sample in read_list(f"{root}/train.txt", root))
datasets = [
    training_dataset(config, augmentation=slow),
    validation_dataset(config),
    view_batches(ImageReader(images, Images(name="images", root="").spec), Views(crop_size=16), batch_size=4, seed=0),
]
iterators = [iter(dataset) for dataset in datasets]
print([type(next(iterator)).__name__ for iterator in iterators], flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("end", "code"), [("", 0), ("raise ValueError('its own')", 1)], ids=["end", "error"])
def test_a_script_ends_while_iterators_are_alive(tmp_path: Path, end: str, code: int) -> None:
    tiny_config(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + end + "\n", "utf-8")
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "tiny.yml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (result.returncode, result.stdout) == (code, "['tuple', 'tuple', 'dict']\n"), result.stderr[-3000:]
    assert result.stderr.count("Traceback") == code
