"""`rsseg-tf predict` on scenes, through the command line, with a tiny checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from rasterio.transform import Affine

from rsseg_tf.cli import main
from rsseg_tf.library.windowing import windows_note
from rsseg_tf.manifest import Classes, Inference, Manifest, Origin
from rsseg_tf.predict import InferenceOptions
from rsseg_tf.predictors import Predictor
from rsseg_tf.rasters.windows import Size
from tests.fixtures.configs import use_tiny_backbone, write_config, write_dataset
from tests.fixtures.scenes import PLACE, SPEC, noise, read_band, write_scene
from tests.fixtures.stac import check_item

SCENES = Path(__file__).resolve().parents[3] / "shared" / "data" / "scenes"


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        write_config(folder / "tiny.yml", write_dataset(folder / "data"))
        run("train", "--config", folder / "tiny.yml", "--save_dir", folder / "out", "--iters", "2")
    return folder / "out" / "iter_2"


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)


def predict(checkpoint: Path, scene: Path, *more: str | Path, code: int = 0) -> str:
    arguments = ("predict", "--model_path", checkpoint, "--image_path", scene, "--save_dir", scene.parent / "out")
    return run(*arguments, *more, code=code)


def test_everything_that_can_be_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyogrio", reason="the extra `vector` is not installed")
    scene = write_scene(tmp_path / "a.tif", noise(90, 110, 5), nodata=0)
    options = (
        *("--bands", "3", "2", "1", "--blend", "cosine", "--batch_size", "3", "--max_memory", "64M", "--cog"),
        *("--confidence", "--probabilities", "--min_confidence", "0.51", "--review-value", "99"),
        *("--vector", "gpkg", "--min_area", "1", "--simplify", "1"),
        *("--stac", "--stac_datetime", "2024-05-01"),
        *("--aug_pred", "--flip_horizontal", "--rotate90", "--match_gsd", "--model_gsd", "0.4"),
    )
    output = predict(checkpoint, scene, *options)
    assert "1 of 1 images predicted" in output
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert files == [
        ".predicted.jsonl",
        "added_prediction/a.png",
        "confidence_prediction/a.qml",
        "confidence_prediction/a.tif",
        "geotiff_prediction/a.qml",
        "geotiff_prediction/a.tif",
        "geotiff_prediction/a.tif.aux.xml",
        "probability_prediction/a.tif",
        "pseudo_color_prediction/a.png",
        "stac_prediction/a.json",
        "vector_prediction/a.gpkg",
    ]
    item = check_item(tmp_path / "out" / "stac_prediction" / "a.json")
    assert item["properties"]["end_datetime"] == "2024-05-01T23:59:59Z"
    with rasterio.open(tmp_path / "out" / "geotiff_prediction" / "a.tif") as labels:
        assert labels.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and labels.crs.to_epsg() == 32750
        assert labels.tags()["MODEL"].startswith("iter_2 fp32 ") and labels.tags()["WINDOWS"] == "32x32 cosine"
        assert set(np.unique(labels.read(1))) <= {0, 1, 99}
    assert "done by an earlier run" in predict(checkpoint, scene, *options, "--resume")
    refused = predict(checkpoint, scene, "--resume", code=2)
    assert "with another" in refused and "Use the same options to resume" in refused


def test_a_large_image_is_cut_into_blended_windows_of_the_training_size(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsseg_tf.predict.engine.WHOLE_PIXELS", 60 * 60)
    scene = write_scene(tmp_path / "a.tif", noise(90, 110))
    predict(checkpoint, scene)
    with rasterio.open(tmp_path / "out" / "geotiff_prediction" / "a.tif") as labels:
        assert labels.tags()["WINDOWS"] == "32x32 cosine"
    whole = read_band(tmp_path / "out" / "geotiff_prediction" / "a.tif")
    predict(checkpoint, scene, "--blend", "cosine")
    np.testing.assert_array_equal(read_band(tmp_path / "out" / "geotiff_prediction" / "a.tif"), whole)
    predict(checkpoint, scene, "--is_slide", "--crop_size", "40", "24", "--stride", "20", "12")
    with rasterio.open(tmp_path / "out" / "geotiff_prediction" / "a.tif") as labels:
        assert labels.tags()["WINDOWS"] == "40x24 mean"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", "2"), "--workers has an effect with --dask only"),
        (("--dask", "tcp://127.0.0.1:9", "--workers", "2"), "--workers is for --dask local"),
        (("--model_gsd", "0.3"), "--model_gsd has an effect with --match_gsd only"),
        (("--match_gsd",), "dataset 'data' states none. Give it with --model_gsd"),
        (("--review_value", "3"), "--review_value has an effect with --min_confidence only"),
        (("--min_confidence", "0.5", "--review_value", "1"), "already stands for class 'bright'"),
        (("--stac_datetime", "2024-05-01"), "--stac_datetime has an effect with --stac only"),
        (("--stac", "--stac_datetime", "May"), "a time, a day, or two of them with a slash between; got 'May'"),
        (("--vector", "shp"), "vector must be gpkg, geojson, fgb or parquet"),
        (("--simplify", "2"), "--simplify has an effect with --vector only"),
        (("--max_memory", "much"), "max_memory must be a number"),
        (("--rotate90",), "--rotate90 has an effect with --aug_pred only"),
        (("--bands", "0", "1", "2"), "is not in the range x>=1"),
        (("--aoi", "nowhere.gpkg"), "does not exist"),
    ],
)
def test_bad_options(checkpoint: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    output = predict(checkpoint, write_scene(tmp_path / "a.tif", noise(20, 30)), *arguments, code=2)
    assert message in output and "Traceback" not in output
    assert not (tmp_path / "out").exists()


def test_bands_of_several_files_are_one_image(checkpoint: Path, tmp_path: Path) -> None:
    bands = noise(60, 80)
    predict(checkpoint, write_scene(tmp_path / "all.tif", bands))
    expected = read_band(tmp_path / "out/geotiff_prediction/all.tif")
    files = [write_scene(tmp_path / f"B0{band},x.tif", bands[[band]]) for band in range(3)]
    common = ("predict", "--model_path", checkpoint, "--save_dir", tmp_path / "stacked")
    output = run(*common, "--stack", *files)
    assert "1 of 1 images predicted" in output
    np.testing.assert_array_equal(read_band(tmp_path / "stacked/geotiff_prediction/B00,x_stack.tif"), expected)
    assert "done by an earlier run" in run(*common, "--stack", *files, "--resume")
    coarse = write_scene(tmp_path / "B2.tif", bands[[2]][:, ::2, ::2], transform=PLACE @ Affine.scale(2))
    output = run(*common, "--stack", *files[:2], coarse, "--stack-resampling", "nearest")
    assert "has the grid of B00,x.tif; B2.tif is resampled to it" in output
    both = run(*common, "--stack", *files, "--image_path", files[0], code=2)
    assert "--image_path or --stack is needed, one of the two; got both." in both
    assert "got neither" in run(*common, code=2)
    alone = run(*common, "--image_path", files[0], "--stack_resampling", "nearest", code=2)
    assert "--stack_resampling has an effect with --stack only" in alone


def test_an_address_that_is_not_there_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    address = "http://127.0.0.1:9/a.tif"
    output = run("predict", "--model_path", checkpoint, "--image_path", address, "--save_dir", tmp_path, code=1)
    assert f"Error: {address} cannot be read over the network: " in output and "Traceback" not in output


def test_scenes_that_do_not_fit_are_named_with_both_sides(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    folder.mkdir()
    write_scene(folder / "five.tif", noise(20, 30, 5))
    write_scene(folder / "fits.tif", noise(20, 30))
    write_scene(folder / "deep.tif", noise(20, 30).astype(np.uint16) * 40)
    output = predict(checkpoint, folder, code=1)
    assert "1 of 3 images predicted" in output
    assert "five.tif has 5 bands" in output and "has 3." in output
    assert "trained on values 0..255" in output and "deep.tif holds uint16" in output and "--max_value" in output


def test_windows_where_a_checkpoint_would_have_none_are_told() -> None:
    manifest = Manifest(
        model="m", dataset=Classes.of(SPEC), crop_size=Size(64, 96), size_multiple=1, inference=Inference(),
        origin=Origin(checkpoint="c", step=1, weights_sha256="", config_sha256="", exported="", versions={}),
    )  # fmt: skip
    options = InferenceOptions()
    server = Predictor("server", SPEC, lambda batch: batch, options, None, manifest)
    fixed = Predictor("tflite", SPEC, lambda batch: batch, options, Size(32, 48), manifest)
    note = windows_note(server, {})
    assert note is not None and note.startswith(
        "images larger than 96x64 pixels are predicted by windows of that size, because a server"
    )
    note = windows_note(fixed, {"scales": (1.0,)})
    assert note is not None and "48x32 pixels" in note and "because the file takes images of that size only" in note
    asked: dict[str, Any] = {"is_slide": True, "crop_size": (8, 8), "stride": (4, 4)}
    slides = manifest.model_copy(update={"inference": Inference(**asked)})
    for silent, changes in (
        (Predictor("savedmodel", SPEC, lambda batch: batch, options, None, manifest), {}),
        (Predictor("checkpoint", SPEC, lambda batch: batch, options), {}),
        (server, asked),
        (Predictor("server", SPEC, lambda batch: batch, options, None, slides), {}),
    ):
        assert windows_note(silent, changes) is None


def test_help_groups_its_options() -> None:
    output = run("predict", "--help")
    headings = ["Options:", "Rasters:", "Polygons:", "Pictures:", "Scenes:", "Windows and augmentation:", "Engine:"]
    headings += ["Server:", "Catalog:", "Cluster:"]
    places = [output.index(heading) for heading in headings]
    assert places == sorted(places)
    assert output.index("--resume") > output.index("Scenes:") and output.index("--cog") > output.index("Rasters:")


@pytest.mark.slow
def test_the_command_line_on_a_cluster(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real backbone this time: workers know nothing of what a test has replaced."""
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    monkeypatch.undo()
    write_config(tmp_path / "tiny.yml", write_dataset(tmp_path / "data"))
    run("train", "--config", tmp_path / "tiny.yml", "--save_dir", tmp_path / "model", "--iters", "1")
    folder = tmp_path / "scenes"
    folder.mkdir()
    for index, name in enumerate("ab"):
        write_scene(folder / f"{name}.tif", noise(40, 50, seed=index))
    common = ("predict", "--model_path", tmp_path / "model" / "iter_1", "--image_path", folder)
    run(*common, "--save_dir", tmp_path / "here", "--device", "cpu")
    output = run(*common, "--save_dir", tmp_path / "there", "--dask", "local", "--workers", "1", "--device", "cpu")
    assert "2 of 2 images predicted" in output
    for name in "ab":
        np.testing.assert_array_equal(
            read_band(tmp_path / "here" / "geotiff_prediction" / f"{name}.tif"),
            read_band(tmp_path / "there" / "geotiff_prediction" / f"{name}.tif"),
        )


@pytest.mark.parametrize("name", ["oam_kampala_3072x2048_rgb.tif", "pix4d_alpha_nodata_rgba_epsg32750.tif"])
def test_real_scenes_are_overlaid(checkpoint: Path, tmp_path: Path, name: str) -> None:
    if not (SCENES / name).is_file():
        pytest.skip("no scenes beside the checkout")
    arguments = ("predict", "--model_path", checkpoint, "--image_path", SCENES / name, "--save_dir", tmp_path)
    run(*arguments, "--is_slide", "--crop_size", "512", "512", "--stride", "384", "384", "--blend", "cosine")
    with (
        rasterio.open(SCENES / name) as scene,
        rasterio.open(next((tmp_path / "geotiff_prediction").glob("*.tif"))) as made,
    ):
        assert (made.crs, made.transform, made.bounds, made.shape) == (
            scene.crs,
            scene.transform,
            scene.bounds,
            scene.shape,
        )
        np.testing.assert_array_equal(made.dataset_mask() == 0, scene.dataset_mask() == 0)
