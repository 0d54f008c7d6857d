"""CONTRIBUTING's steps for a dataset suffice: in a copy of the package, one file, one row and one config add one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.rasters.images import write_image

ROOT = Path(__file__).parents[1]

FILE = '''"""Toyville from the air, in two classes."""

from __future__ import annotations

import re
from pathlib import Path

from rsseg_tf.datasets.label_codings import ColourCoding
from rsseg_tf.datasets.recipe import Download, Recipe, SourceScene
from rsseg_tf.datasets.spec import YX, DatasetSpec
from rsseg_tf.files.archives import Member

TOYVILLE = DatasetSpec(
    name="toyville", classes=("grass", "house"), palette=((0, 255, 0), (255, 0, 0)), tile_names=YX
)
_FILE = re.compile(r"(train|val)/(image|mask)_([0-9]+)[.]png$")


def _find_scenes(download: Download) -> list[SourceScene]:
    found: dict[str, dict[tuple[str, str], Member]] = {"image": {}, "mask": {}}
    for member in download.members:
        match = _FILE.search(member.path)
        if match is not None and download.wants(match[1]):
            download.enter(found[match[2]], (match[1], match[3]), member, f"the {match[2]} {match[3]}")
    images, masks = found["image"], found["mask"]
    download.check_pairs(images, masks)
    return [SourceScene(*key, images[key], masks[key]) for key in sorted(images)]


TOYVILLE_RECIPE = Recipe(
    TOYVILLE, Path("data/toyville"), find_scenes=_find_scenes, coding=ColourCoding(TOYVILLE.palette), tile_size=32
)
'''
CONFIG = """\
dataset: {name: toyville, root: data/toyville}
augment: {crop_size: [32, 32]}
data: {workers: 1}
"""
EVALUATION = """
import numpy as np
from rsseg_tf.config import load_config
from rsseg_tf.evaluate.evaluation import plan_evaluation
from rsseg_tf.files.lists import read_list
from rsseg_tf.predict import InferenceOptions

changes = ["model={name: fcn, backbone: {name: hrnet_w18}}", "eval.protocol=stitched"]
config = load_config("_base_/toyville.yml", changes)
samples = read_list(config.dataset.root + "/val.txt", config.dataset.root)
evaluation = plan_evaluation(config, samples)


def by_red(images):
    house = np.asarray(images)[..., 0] > 0  # normalised to -1..1
    return np.stack([~house, house], -1).astype(np.float32)


print(evaluation.summary, evaluation.run(by_red, InferenceOptions()).miou)
"""


def add_dataset(copy: Path) -> None:
    """The steps of the paragraph "A dataset" in CONTRIBUTING."""
    datasets = copy / "rsseg_tf" / "datasets"
    (datasets / "toyville.py").write_text(FILE, "utf-8")
    table = (datasets / "table.py").read_text("utf-8")
    for before, after in (
        (
            "from rsseg_tf.datasets.unlabelled",
            "from rsseg_tf.datasets.toyville import TOYVILLE_RECIPE\nfrom rsseg_tf.datasets.unlabelled",
        ),
        ("            VAIHINGEN_RECIPE,\n", "            VAIHINGEN_RECIPE,\n            TOYVILLE_RECIPE,\n"),
    ):
        assert table.count(before) == 1, before
        table = table.replace(before, after)
    (datasets / "table.py").write_text(table, "utf-8")
    (copy / "configs" / "_base_" / "toyville.yml").write_text(CONFIG, "utf-8")


def write_download(folder: Path) -> None:
    colours = np.array([(0, 255, 0), (255, 0, 0)], np.uint8)
    for number, split in enumerate(("train", "val", "val")):
        (folder / split).mkdir(parents=True, exist_ok=True)
        ids = np.random.default_rng(number).integers(0, 2, (40, 50))
        for kind in ("image", "mask"):
            write_image(folder / split / f"{kind}_{number}.png", colours[ids])


@pytest.mark.slow
def test_the_steps_suffice(tmp_path: Path) -> None:
    for name in ("rsseg_tf", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    add_dataset(tmp_path)
    write_download(tmp_path / "download")

    def run(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        result = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    run("-m", "rsseg_tf.cli", "prepare", "toyville", "download")
    assert len((tmp_path / "data/toyville/val.txt").read_text("utf-8").splitlines()) == 2 * 4
    run("-m", "rsseg_tf.cli", "check-data", "data/toyville")
    assert run("-c", EVALUATION).splitlines()[-1] == "stitched (2 scenes) 1.0"
