"""The steps of CONTRIBUTING suffice: a dataset is added to a copy of the package, and used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.datasets.dubai import DUBAI
from rsseg_tf.rasters.images import write_image

ROOT = Path(__file__).parents[1]

ADAPTER = """
def _prepare_toyville(sources: Sequence[Path], output: Path, options: PrepareOptions) -> PrepareReport:
    return prepare_toyville(_needed("toyville", sources), output, **options.chosen("toyville", _LABELLED))


PREPARERS: Mapping[str, Preparer] = MappingProxyType(
    {
        "toyville": _prepare_toyville,"""
USE = """
import sys
from pathlib import Path
from rsseg_tf.build import build_model
from rsseg_tf.config import load_config
from rsseg_tf.evaluate.evaluation import plan_evaluation
from rsseg_tf.datasets import read_list

changes = ["model={name: fcn, backbone: {name: resnet18}}", "augment.crop_size=[32, 32]"]
config = load_config("_base_/toyville.yml", ["dataset.root=toyville", *changes])
model = build_model(config)
assert model.output["main"].shape[-1] == 5
samples = read_list(Path("toyville/val.txt"), Path("toyville"))
Path("toyville/dataset.json").unlink()  # then the spec says how tiles are named
stitched = config.model_copy(update={"eval": config.eval.model_copy(update={"protocol": "stitched"})})
assert "2 scenes" in plan_evaluation(stitched, samples).summary, plan_evaluation(stitched, samples).summary
print("used")
"""


def edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text("utf-8")
    for before, after in changes:
        assert text.count(before) == 1, (path.name, before)
        text = text.replace(before, after)
    path.write_text(text, "utf-8")


def add_dataset(package: Path) -> None:
    """The steps of "A dataset"; its module is one that there is, under another name."""
    module = (package / "datasets" / "dubai.py").read_text("utf-8")
    for before, after in (("dubai", "toyville"), ("DUBAI", "TOYVILLE"), ("Dubai", "Toyville")):
        module = module.replace(before, after)
    (package / "datasets" / "toyville.py").write_text(module, "utf-8")
    edit(
        package / "datasets" / "preparers.py",
        ("PREPARERS: Mapping[str, Preparer] = MappingProxyType(\n    {", ADAPTER),
        ('        "dubai": Path', '        "toyville": Path("data/toyville"),\n        "dubai": Path'),
        ("for spec in (DUBAI,", "for spec in (TOYVILLE, DUBAI,"),
        (
            "from rsseg_tf.datasets.unlabelled",
            "from rsseg_tf.datasets.toyville import TOYVILLE, prepare_toyville\nfrom rsseg_tf.datasets.unlabelled",
        ),
    )
    edit(package / "config" / "schema.py", ('Literal["dubai", ', 'Literal["dubai", "toyville", '))
    base = (package.parent / "configs" / "_base_" / "dubai.yml").read_text("utf-8")
    (package.parent / "configs" / "_base_" / "toyville.yml").write_text(base.replace("dubai", "toyville"), "utf-8")


def write_scenes(folder: Path) -> None:
    rng = np.random.default_rng(0)
    colours = np.array(DUBAI.palette, np.uint8)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for tile, part in ((1, 1), (4, 1), (4, 2)):
        ids = np.kron(rng.integers(0, 5, (4, 4)), np.ones((16, 16), int))
        write_image(folder / "images" / f"tile{tile}_{part:03d}.png", colours[ids])
        write_image(folder / "masks" / f"tile{tile}_{part:03d}.png", colours[ids])


@pytest.mark.slow
def test_the_steps_suffice(tmp_path: Path) -> None:
    for name in ("rsseg_tf", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    add_dataset(tmp_path / "rsseg_tf")
    write_scenes(tmp_path / "scenes")

    def run(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        result = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    run("-m", "rsseg_tf.cli", "prepare", "toyville", "scenes", "-o", "toyville", "--tile_size", "32")
    assert "tile4_002_32_0" in (tmp_path / "toyville" / "val.txt").read_text("utf-8")
    assert run("-c", USE).splitlines()[-1] == "used"
