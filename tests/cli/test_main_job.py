"""The main job through the command line, on tiny data: train, resume, eval, predict."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from rasterio import Affine

from rsseg_tf.cli import main
from rsseg_tf.cli.quickstart import _take_folder
from rsseg_tf.errors import ConfigError
from rsseg_tf.rasters.images import read_label
from tests.fixtures.configs import use_tiny_backbone, write_config, write_dataset


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_tiny_backbone(monkeypatch)
    write_config(tmp_path / "tiny.yml", write_dataset(tmp_path / "data"))
    return tmp_path


def test_train_resume_eval_and_predict(project: Path) -> None:
    out, config = project / "out", project / "tiny.yml"
    common = ("--config", config, "--save_dir", out, "--do_eval", "--save-interval", "2", "--log_iters", "2")
    output = run("train", *common, "--iters", "2")
    assert "[TRAIN] epoch: 2, iter: 2/2, loss: " in output
    assert "[EVAL] #Images: 2 mIoU: " in output
    assert "[EVAL] The model with the best validation mIoU (" in output
    refused = run("train", *common, "--iters", "4", code=2)
    assert "holds iter_2 of an earlier run" in refused
    output = run("train", *common, "--iters", "4", "--resume_model", out / "iter_2")
    assert "iter: 4/4" in output and "iter: 2/4" not in output
    assert sorted(p.name for p in out.iterdir()) == ["best_model", "iter_2", "iter_4", "tensorboard"]
    assert list((out / "tensorboard").glob("events.out.tfevents.*"))

    output = run("eval", "--model_path", out / "best_model", "--save_dir", project / "report")
    report = json.loads((project / "report" / "eval.json").read_text("utf-8"))
    assert f"mIoU: {report['macro']['miou']:.4f}" in output
    assert "dark" in output and "bright" in output
    assert report["ignored_pixels"] == 6 and report["counted_pixels"] == 2 * 1600 - 6
    state = json.loads((out / "best_model" / "state.json").read_text("utf-8"))
    assert report["macro"]["miou"] == pytest.approx(state["best_miou"]), "eval counts what training counted"
    assert report["inference"]["scales"] == [1.0]

    run("eval", "--model_path", out / "best_model", "--aug_eval", "--scales", "0.75", "1.0", "--flip_horizontal")
    report = json.loads((out / "best_model" / "eval.json").read_text("utf-8"))
    assert report["inference"]["scales"] == [0.75, 1.0] and report["inference"]["flip_horizontal"] is True
    run(
        *("eval", "--model_path", out / "best_model", "--is_slide", "--crop_size", "32", "24", "--stride", "16", "16"),
        *("--config", config),
    )
    report = json.loads((out / "best_model" / "eval.json").read_text("utf-8"))
    assert report["inference"]["crop_size"] == [32, 24]

    output = run(
        *("predict", "--model_path", out / "best_model", "--image_path", project / "data" / "val.txt"),
        *("--save_dir", project / "result", "--custom_color", "1", "2", "3", "250", "251", "252"),
    )
    assert "2 of 2 images predicted" in output
    labels = read_label(project / "result" / "pseudo_color_prediction" / "val_0.png")
    assert labels.shape == (40, 40) and set(np.unique(labels)) <= {0, 1}
    colours = cv2.imread(str(project / "result" / "pseudo_color_prediction" / "val_0.png"))[..., ::-1]
    assert {tuple(c) for c in colours.reshape(-1, 3).tolist()} <= {(1, 2, 3), (250, 251, 252)}
    assert (project / "result" / "added_prediction" / "val_0.png").is_file()


def test_predict_keeps_the_coordinates_of_a_geotiff(project: Path) -> None:
    run("train", "--config", project / "tiny.yml", "--save_dir", project / "out", "--iters", "1")
    transform = Affine(0.3, 0.0, 500000.0, 0.0, -0.3, 2800000.0)
    scene = project / "scenes" / "a.tif"
    scene.parent.mkdir()
    options = {"driver": "GTiff", "height": 50, "width": 70, "count": 3, "dtype": "uint8", "crs": "EPSG:32640"}
    with rasterio.open(scene, "w", transform=transform, **options) as file:
        file.write(np.random.default_rng(0).integers(0, 255, (3, 50, 70), dtype=np.uint8))
    (project / "scenes" / "broken.tif").write_bytes(b"II*\0 this is no picture")
    output = run(
        *("predict", "--model_path", project / "out" / "iter_1", "--image_path", project / "scenes"),
        *("--save_dir", project / "result", "--aug_pred", "--flip_vertical"),
        code=1,
    )
    assert "1 of 2 images predicted" in output and "broken.tif" in output
    with rasterio.open(project / "result" / "geotiff_prediction" / "a.tif") as file:
        assert file.crs.to_epsg() == 32640 and file.transform == transform
        assert file.shape == (50, 70) and file.count == 1
        assert file.colormap(1)[1][:3] is not None
        assert "bright" in " ".join(file.tags(1).values())


def test_predict_needs_images(project: Path) -> None:
    run("train", "--config", project / "tiny.yml", "--save_dir", project / "out", "--iters", "1")
    (project / "empty").mkdir()
    for path, message in ((project / "empty", "empty"), (project / "no.png", "no.png")):
        output = run("predict", "--model_path", project / "out" / "iter_1", "--image_path", path, code=2)
        assert message in output and "Traceback" not in output


@pytest.mark.slow
def test_the_quickstart_leaves_a_picture_and_a_report(tmp_path: Path) -> None:
    output = run("quickstart", "-o", tmp_path / "quick", "--iters", "2")
    picture = tmp_path / "quick" / "report" / "overview.png"
    assert f"Picture: {picture}" in output
    assert cv2.imread(str(picture)).shape[0] > 300
    page = tmp_path / "quick" / "report" / "report.html"
    assert f"Report:  {page}\nWith your own image and polygons: rsseg-tf prepare scenes --help\n" in output
    assert "Evaluation: synthetic" in page.read_text("utf-8")
    text = (tmp_path / "quick" / "report" / "README.md").read_text("utf-8")
    assert "synthetic" in text and "rsseg-tf train" in text
    assert sorted(p.suffix for p in (tmp_path / "quick" / "result" / "geotiff_prediction").iterdir()) == (
        [".qml"] * 6 + [".tif"] * 6 + [".xml"] * 6
    )


def test_quickstart_replaces_what_it_made_and_nothing_else(tmp_path: Path) -> None:
    mine = tmp_path / "project" / "model" / "best_model"
    mine.mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds 'model' and was not made by quickstart"):
        _take_folder(tmp_path / "project")
    assert sorted(path.name for path in (tmp_path / "project").iterdir()) == ["model"]
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file cannot be written: File exists"):
        _take_folder(tmp_path / "file")
    _take_folder(tmp_path / "new")
    (tmp_path / "new" / "data").mkdir()
    _take_folder(tmp_path / "new")  # one that was cut short
    (tmp_path / "earlier" / "report").mkdir(parents=True)
    (tmp_path / "earlier" / "report" / "README.md").write_text("# Quickstart report\n", "utf-8")
    _take_folder(tmp_path / "earlier")
