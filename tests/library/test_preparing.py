"""`prepare`, `prepare_scenes`, `prepare_annotations` and `check_data` as functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import rsseg_tf
from rsseg_tf.cli import main
from rsseg_tf.errors import ConfigError, DataError
from tests.fixtures.configs import write_config, write_dataset

MADE: dict[str, Any] = {"tile_size": 64, "scenes_train": 1, "scenes_val": 1, "seed": 3}


def test_prepare_writes_what_the_command_writes(tmp_path: Path) -> None:
    one, other = tmp_path / "commands" / "made", tmp_path / "functions" / "made"
    options = [text for name, value in MADE.items() for text in (f"--{name}", str(value))]
    result = CliRunner().invoke(main, ["prepare", "synthetic", "-o", str(one), *options])
    assert result.exit_code == 0, result.output
    report = rsseg_tf.prepare("synthetic", output=str(other), **MADE)
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in files)
    assert repr(report) == f"<synthetic in {other}; train: 1 scenes, 1 tiles, val: 1 scenes, 1 tiles>"

    own = rsseg_tf.prepare_scenes(
        str(other / "img_dir" / "train" / "scene_000.tif"),
        str(other / "ann_dir" / "train" / "scene_000.tif"),
        str(tmp_path / "mine"),
        classes=["0=ground", "*=other"],
        tile_size=16,
        split="blocks:0.3",
        buffer=0,
        block=8,
        workers=1,
    )
    assert own.config == tmp_path / "mine" / "mine.yml" and rsseg_tf.load_config(own.config).dataset.root
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="which rsseg_tf did not write") as caught:
        rsseg_tf.prepare("synthetic", output=tmp_path / "mine", **MADE)
    assert caught.value.code == "exists"
    with pytest.raises(DataError, match="has no option labels"):
        rsseg_tf.prepare("synthetic", output=tmp_path / "x", labels="full")


def test_annotations(tmp_path: Path) -> None:
    images = write_dataset(tmp_path / "images", train=3, val=2)
    for label in images.glob("*_label.png"):
        label.unlink()
    for path in images.glob("*.png"):
        shape = {"label": "house", "shape_type": "polygon", "points": [[2, 2], [30, 2], [30, 30]]}
        said = {"imagePath": path.name, "imageWidth": 40, "imageHeight": 40, "shapes": [shape], "version": "5.0.1"}
        path.with_suffix(".json").write_text(json.dumps(said | {"flags": {}, "imageData": None}), "utf-8")
    own = rsseg_tf.prepare_annotations(str(images), tmp_path / "mine", val_share=0.4, workers=1)
    config = rsseg_tf.load_config(str(own.config))
    assert config.dataset.spec.classes[-1] == "house" and "config: " in repr(own)


def test_check_data_of_folder_config_and_mapping(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    (root / "labels.txt").write_text("dark\nbright\n", "utf-8")
    config = write_config(tmp_path / "tiny.yml", root)
    lines: list[str] = []
    report = rsseg_tf.check_data(str(root), workers=1, sheet=str(tmp_path / "sheet.png"), notify=lines.append)
    assert lines == [f"Written: {tmp_path / 'sheet.png'}"] and (tmp_path / "sheet.png").exists()
    assert repr(report).startswith("<Report on ") and "<table>" in report._repr_html_()
    of_config = rsseg_tf.check_data(config, workers=1)
    of_mapping = rsseg_tf.check_data({"base": str(config), "augment": {"crop_size": [64, 64]}}, workers=1)
    assert [split.samples for split in of_config.splits] == [6, 2]
    assert [finding.code for finding in of_config.findings] == []
    assert {finding.code for finding in of_mapping.findings} == {"small-image"}
    assert "small-image" in of_mapping._repr_html_()
    for source, options, message in (
        (root, {"ignore": ["smal-image"]}, "Did you mean 'small-image'?"),
        (root, {"overrides": ["train.iters=3"]}, "is a folder. Leave it out"),
        (config, {"num_classes": 3}, "goes with a folder"),
        (root, {"sheet": tmp_path / "x.gif"}, "--sheet writes"),
    ):
        with pytest.raises(ConfigError) as caught:
            rsseg_tf.check_data(source, **options)
        assert message in str(caught.value)
    with pytest.raises(DataError, match="There is no folder") as missing:
        rsseg_tf.check_data(tmp_path / "nowhere")
    assert missing.value.code == "not-found"
