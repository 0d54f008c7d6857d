"""Whole scenes, from file to file: equal to the blend in memory, in any strips, at any edge, with or without data."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import threading
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC
from rasterio.transform import Affine

from rsseg_tf.errors import ConfigError
from rsseg_tf.predict import InferenceOptions, OutputOptions, SceneOptions
from rsseg_tf.predict.blending import make_plan
from rsseg_tf.predict.decoding import decode
from rsseg_tf.predict.engine import make_tiling
from rsseg_tf.predict.options import parse_memory
from rsseg_tf.predict.settings import PredictionSettings
from rsseg_tf.predict.streaming import split_into_strips
from rsseg_tf.rasters.scenes import open_scene
from rsseg_tf.rasters.windows import Size
from rsseg_tf.styles import side_file
from tests.fixtures.scenes import (
    COSINE,
    PLACE,
    SPEC,
    lopsided,
    noise,
    pointwise,
    predict_files,
    predict_one,
    read_band,
    reference,
    write_scene,
)

ALL_OUTPUTS = OutputOptions(confidence=True, probabilities=True)

# --- equal to the blend in memory --------------------------------------------------------------------------------


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, int], InferenceOptions]:
    size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    window = Size(draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    stride = Size(draw(st.integers(1, window.height)), draw(st.integers(1, window.width)))
    blend: Any = draw(st.sampled_from(["mean", "cosine"]))
    return size, InferenceOptions(
        is_slide=True, crop_size=window, stride=stride, blend=blend, batch_size=draw(st.integers(1, 5))
    )


@settings(max_examples=30)
@given(case=cases())
def test_streamed_equals_in_memory_to_the_bit(
    case: tuple[tuple[int, int], InferenceOptions], tmp_path_factory: pytest.TempPathFactory
) -> None:
    (height, width), options = case
    folder = tmp_path_factory.mktemp("scene")
    path = write_scene(folder / "a.tif", noise(height, width))
    result = predict_one(path, folder / "out", options, output=ALL_OUTPUTS)
    logits = reference(path, options)
    expected = decode(logits, np.ones((height, width), bool), SPEC, ALL_OUTPUTS)
    np.testing.assert_array_equal(read_band(result.files["geotiff"]), expected["labels"][0])
    np.testing.assert_array_equal(read_band(result.files["confidence"]), expected["confidence"][0])
    with rasterio.open(result.files["probabilities"]) as source:
        np.testing.assert_array_equal(source.read(), expected["probabilities"])


def test_strips_of_columns_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_scene(tmp_path / "a.tif", noise(90, 1100))
    options = InferenceOptions(is_slide=True, crop_size=Size(32, 64), stride=Size(24, 48), blend="cosine", batch_size=2)
    whole = predict_one(path, tmp_path / "whole", options, output=ALL_OUTPUTS)
    strips = ((0, 512), (512, 768), (768, 1100))
    monkeypatch.setattr("rsseg_tf.predict.image.split_into_strips", lambda *_: strips)
    cut = predict_one(path, tmp_path / "cut", options, output=ALL_OUTPUTS)
    for product in ("geotiff", "confidence", "probabilities"):
        with rasterio.open(whole.files[product]) as one, rasterio.open(cut.files[product]) as other:
            np.testing.assert_array_equal(one.read(), other.read())


def test_memory_decides_on_strips_and_refuses_what_cannot_work(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(64, 6000))
    options = InferenceOptions(is_slide=True, crop_size=Size(64, 64), stride=Size(48, 48), blend="cosine")
    with open_scene(path) as scene:
        tiling = make_tiling(scene.size, options)

        def strips(memory: str) -> tuple[Any, ...]:
            scenes = SceneOptions(max_memory=parse_memory(memory))
            return split_into_strips(scene, PredictionSettings(SPEC, tmp_path, options, scenes), tiling)

        assert strips("2G") == ((0, 6000),)
        few, many = strips("4M"), strips("3M")
        assert 1 < len(few) < len(many)
        for cut in (few, many):
            assert cut[0][0] == 0 and cut[-1][1] == 6000
            assert all(one[1] == other[0] and one[1] % 256 == 0 for one, other in itertools.pairwise(cut))
        with pytest.raises(
            ConfigError, match=r"--max_memory of 1M is too little for a\.tif .* at least (\d+)M"
        ) as error:
            strips("1M")
        least = str(error.value).split("at least ")[1].split(" ")[0]
        assert strips(least)[-1][1] == 6000, "what the message promises is enough"
    with pytest.raises(ConfigError, match="max_memory must be a number with K, M, G or T; got 'lots'"):
        parse_memory("lots")
    assert parse_memory("1.5GiB") == 1.5 * 2**30 and parse_memory("2048") == 2048 and parse_memory("3 mb") == 3 * 2**20


def test_an_image_is_whole_up_to_a_size_and_windows_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    tiling = make_tiling(Size(2048, 2048), InferenceOptions(tile=Size(256, 512)))
    assert tiling.window == (2048, 2048) and tiling.plan.rows.starts == (0,)
    tiling = make_tiling(Size(2049, 2048), InferenceOptions(tile=Size(256, 512)))
    assert tiling.window == (256, 512) and tiling.plan.rows.blend == "cosine"
    assert tiling.plan.columns.starts == (0, 384, 768, 1152, 1536)
    tiling = make_tiling(Size(30, 600), InferenceOptions(tile=Size(256, 512), fixed_tile=True))
    assert tiling.window == (256, 512) and tiling.plan.rows.starts == (0,), "a fixed tile is padded"


# --- edges -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (5, 5), (12, 16), (13, 17), (3, 40)])
def test_any_size_is_covered_once(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_scene(tmp_path / "a.tif", noise(*size))
    result = predict_one(path, tmp_path / "out", COSINE, predict=pointwise)
    with open_scene(path) as scene:
        expected = pointwise(scene.read()[0][np.newaxis])[0].argmax(axis=-1)
    np.testing.assert_array_equal(read_band(result.files["geotiff"]), expected)


def test_small_scenes_are_reflected_to_a_whole_window(tmp_path: Path) -> None:
    seen = []

    def spy(batch: np.ndarray) -> np.ndarray:
        seen.append(batch.copy())
        return pointwise(batch)

    bands = noise(5, 3)
    predict_one(write_scene(tmp_path / "a.tif", bands), tmp_path / "out", COSINE, predict=spy)
    (batch,) = seen
    assert batch.shape == (1, 12, 16, 3)
    np.testing.assert_array_equal(batch[0], np.pad(bands.transpose(1, 2, 0), ((0, 7), (0, 13), (0, 0)), mode="reflect"))
    assert batch[0, 5, 0].tolist() == bands[:, 3, 0].tolist()


def test_a_scene_without_data_costs_no_prediction(tmp_path: Path) -> None:
    def never(batch: np.ndarray) -> NoReturn:
        raise AssertionError("the model was asked")

    path = write_scene(tmp_path / "a.tif", np.zeros((3, 40, 40), np.uint8), nodata=0)
    result = predict_one(path, tmp_path / "out", COSINE, predict=never, output=ALL_OUTPUTS)
    assert (read_band(result.files["geotiff"]) == 255).all() and (read_band(result.files["confidence"]) == 255).all()


@pytest.mark.parametrize("kind", ["nodata", "nan", "alpha", "mask"])
def test_no_data_of_the_input_is_no_data_of_the_output(tmp_path: Path, kind: str) -> None:
    missing = noise(60, 70, 1, seed=3)[0] < 90
    bands = np.maximum(noise(60, 70, 3), 1)
    profile: dict[str, Any] = {}
    if kind == "nodata":
        bands[:, missing] = 0
        profile = {"nodata": 0}
    elif kind == "nan":
        bands = bands.astype(np.float32)
        bands[:, missing] = np.nan
    elif kind == "alpha":
        bands = np.concatenate([bands, np.where(missing, 0, 255).astype(np.uint8)[np.newaxis]])
        profile = {"photometric": "RGB", "alpha": "yes"}
    else:
        profile = {"mask": np.where(missing, 0, 255).astype(np.uint8)}
    path = write_scene(tmp_path / "a.tif", bands, **profile)
    result = predict_one(path, tmp_path / "out", COSINE, output=ALL_OUTPUTS)
    for product in ("geotiff", "confidence", "probabilities"):
        with rasterio.open(result.files[product]) as source:
            np.testing.assert_array_equal(source.read_masks(1) == 0, missing)
    assert set(np.unique(read_band(result.files["geotiff"])[~missing])) <= {0, 1, 2}


# --- what is written -------------------------------------------------------------------------------------------


def test_the_label_map_says_where_and_what_it_is(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(300, 280))
    with rasterio.open(path, "r+") as source:
        source.update_tags(AREA_OR_POINT="Point", SECRET="not copied")
    result = predict_one(path, tmp_path / "out", COSINE, scenes=SceneOptions(model="m1"))
    with rasterio.open(result.files["geotiff"]) as labels:
        assert labels.crs.to_epsg() == 32750 and labels.transform == PLACE and labels.nodata == 255
        assert labels.dtypes == ("uint8",) and labels.profile["compress"] == "deflate" and labels.profile["tiled"]
        assert labels.block_shapes == [(256, 256)] and labels.colorinterp == (ColorInterp.palette,)
        colours = labels.colormap(1)
        assert [colours[0], colours[2], colours[255]] == [(0, 0, 255, 255), (255, 255, 0, 255), (0, 0, 0, 0)]
        assert json.loads(labels.tags(1)["CLASS_NAMES"]) == ["water", "road", "Straße"]
        assert labels.tags(1)["CLASS_2"] == "Straße"
        tags = labels.tags()
        assert tags["AREA_OR_POINT"] == "Point" and "SECRET" not in tags
        assert tags["TIFFTAG_SOFTWARE"].startswith("rsseg_tf ") and tags["SOURCE"] == "a.tif" and tags["MODEL"] == "m1"
        assert tags["WINDOWS"] == "16x12 cosine"
    assert not [file for file in (tmp_path / "out").rglob(".*") if file.name != ".predicted.jsonl"]
    # All that says where it lies is in the map itself.
    assert [element.tag for element in ElementTree.parse(side_file(result.files["geotiff"])).getroot()] == [
        "PAMRasterBand"
    ]


@pytest.mark.parametrize("cog", [False, True])
def test_control_points_are_kept(tmp_path: Path, cog: bool) -> None:
    points = [GroundControlPoint(r, c, 10.0 + c, 50.0 - r, 0.0, str(r + c)) for r, c in ((0, 0), (0, 30), (20, 30))]
    path = write_scene(tmp_path / "a.tif", noise(20, 30), crs=None, transform=None)
    with rasterio.open(path, "r+") as target:
        target.gcps = (points, rasterio.crs.CRS.from_epsg(4326))
    with open_scene(path) as scene:
        assert scene.is_georeferenced and len(scene.gcps) == 3
    result = predict_one(path, tmp_path / "out", COSINE, output=OutputOptions(cog=cog))
    with rasterio.open(result.files["geotiff"]) as labels:
        kept, crs = labels.gcps
        assert crs.to_epsg() == 4326
        assert [(p.row, p.col, p.x, p.y) for p in kept] == [(p.row, p.col, p.x, p.y) for p in points]


def test_rpcs_are_kept(tmp_path: Path) -> None:
    rpcs = RPC(
        height_off=10.0,
        height_scale=500.0,
        lat_off=50.0,
        lat_scale=0.1,
        line_den_coeff=[1.0] + [0.0] * 19,
        line_num_coeff=[0.0, 0.0, -1.0] + [0.0] * 17,
        line_off=10.0,
        line_scale=10.0,
        long_off=8.0,
        long_scale=0.1,
        samp_den_coeff=[1.0] + [0.0] * 19,
        samp_num_coeff=[0.0, 1.0] + [0.0] * 18,
        samp_off=15.0,
        samp_scale=15.0,
        err_bias=None,
        err_rand=None,
    )
    path = write_scene(tmp_path / "a.tif", noise(20, 30), crs=None, transform=None, rpcs=rpcs)
    result = predict_one(path, tmp_path / "out", COSINE)
    with rasterio.open(result.files["geotiff"]) as labels:
        assert labels.rpcs is not None
        assert labels.rpcs.lat_off == 50.0 and labels.rpcs.line_num_coeff == rpcs.line_num_coeff
    # All that says where it lies is in the map itself.
    assert [element.tag for element in ElementTree.parse(side_file(result.files["geotiff"])).getroot()] == [
        "PAMRasterBand"
    ]


def test_a_cog_has_overviews_and_the_same_pixels(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(700, 600))
    options = InferenceOptions(is_slide=True, crop_size=Size(256, 256), stride=Size(192, 192), blend="cosine")
    plain = predict_one(path, tmp_path / "plain", options, output=ALL_OUTPUTS)
    output = OutputOptions(cog=True, confidence=True, probabilities=True)
    cog = predict_one(path, tmp_path / "cog", options, output=output)
    for product in ("geotiff", "confidence", "probabilities"):
        with rasterio.open(plain.files[product]) as one, rasterio.open(cog.files[product]) as other:
            assert other.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and other.overviews(1) == [2]
            np.testing.assert_array_equal(one.read(), other.read())
            assert (one.crs, one.transform, one.nodata, one.scales) == (
                other.crs,
                other.transform,
                other.nodata,
                other.scales,
            )
            assert one.tags(1).items() <= other.tags(1).items() and one.descriptions == other.descriptions
            if product == "geotiff":
                assert one.colormap(1) == other.colormap(1)
                assert set(np.unique(other.read(1, out_shape=(350, 300)))) <= {0, 1, 2}, "classes are not mixed"


def test_probabilities_are_the_softmax_and_confidence_is_their_largest(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(40, 50))
    result = predict_one(path, tmp_path / "out", COSINE, predict=pointwise, output=ALL_OUTPUTS)
    logits = reference(path, COSINE, pointwise)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    with rasterio.open(result.files["probabilities"]) as source:
        assert source.descriptions == SPEC.classes and source.nodata == 255
        np.testing.assert_allclose(source.scales, 1 / 254)
        stored = source.read() * source.scales[0]
    np.testing.assert_allclose(stored, softmax.transpose(2, 0, 1), atol=0.5 / 254 + 1e-6)
    np.testing.assert_allclose(read_band(result.files["confidence"]) / 254, softmax.max(axis=-1), atol=0.5 / 254 + 1e-6)


def test_doubtful_pixels_get_the_review_value(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(40, 50))
    output = OutputOptions(min_confidence=0.8, review_value=77)
    result = predict_one(path, tmp_path / "out", COSINE, predict=pointwise, output=output)
    logits = reference(path, COSINE, pointwise)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    doubtful = softmax.max(axis=-1) < np.float32(0.8)
    assert 0 < doubtful.sum() < doubtful.size
    np.testing.assert_array_equal(
        read_band(result.files["geotiff"]), np.where(doubtful, 77, logits.astype(np.float32).argmax(axis=-1))
    )
    with rasterio.open(result.files["geotiff"]) as labels:
        assert labels.colormap(1)[77] == (128, 128, 128, 255) and labels.tags(1)["REVIEW_VALUE"] == "77"
    for value, taken in ((1, "class 'road'"), (255, "pixels without data")):
        with pytest.raises(ConfigError, match=f"--review_value {value} already stands for {taken}"):
            output = OutputOptions(min_confidence=0.8, review_value=value)
            predict_files([path], pointwise, SPEC, tmp_path / "no", COSINE, output=output)


def test_huge_pictures_are_reduced_and_rasters_are_not(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(400, 300))
    options = InferenceOptions(is_slide=True, crop_size=Size(32, 32), stride=Size(24, 24), blend="cosine")
    result = predict_one(path, tmp_path / "out", options, scenes=SceneOptions(max_memory=2**20))
    assert read_band(result.files["geotiff"]).shape == (400, 300)
    assert read_band(result.files["overlay"]).shape == read_band(result.files["pseudo_color"]).shape == (133, 100)
    result = predict_one(path, tmp_path / "none", options, output=OutputOptions(pictures=False))
    assert list(result.files) == ["geotiff"] and not list((tmp_path / "none").rglob("*.png"))


# --- input -----------------------------------------------------------------------------------------------------


def test_bands_are_chosen_and_ordered(tmp_path: Path) -> None:
    bands = noise(20, 30, 5)
    path = write_scene(tmp_path / "a.tif", bands)
    result = predict_one(path, tmp_path / "out", COSINE, scenes=SceneOptions(bands=(5, 1, 3)))
    same = write_scene(tmp_path / "b.tif", bands[[4, 0, 2]])
    np.testing.assert_array_equal(
        read_band(result.files["geotiff"]), read_band(predict_one(same, tmp_path / "o", COSINE).files["geotiff"])
    )
    (failed,) = predict_files([path], lopsided, SPEC, tmp_path / "no", COSINE)
    assert "has 5 bands, but the dataset 'toy' has 3. Choose 3 of its bands with --bands" in (failed.error or "")
    assert "dataset.bands" not in (failed.error or ""), "the remedy of training"
    (failed,) = predict_files([write_scene(tmp_path / "c.tif", bands[:2])], lopsided, SPEC, tmp_path / "no", COSINE)
    assert "has 2 bands, but the dataset 'toy' has 3. Name an image with all of them" in (failed.error or "")
    (failed,) = predict_files([path], lopsided, SPEC, tmp_path / "no", COSINE, scenes=SceneOptions(bands=(1, 2, 9)))
    assert "no band 9 to read; its bands are 1, 2, 3, 4, 5" in (failed.error or "")
    with pytest.raises(ConfigError, match="counted from 1"):
        SceneOptions(bands=(0, 1, 2))


def test_bands_are_found_by_the_names_that_the_model_knows(tmp_path: Path) -> None:
    bands = noise(20, 30, 4)
    path = write_scene(tmp_path / "a.tif", bands)
    with rasterio.open(path, "r+") as scene:
        scene.descriptions = ("Blue", "Green", "Red", "NIR")
    spec = dataclasses.replace(SPEC, band_names=("red", "green", "blue"))
    result = predict_one(path, tmp_path / "out", COSINE, spec=spec)
    same = write_scene(tmp_path / "b.tif", bands[[2, 1, 0]])
    np.testing.assert_array_equal(
        read_band(result.files["geotiff"]), read_band(predict_one(same, tmp_path / "o", COSINE).files["geotiff"])
    )


@pytest.mark.parametrize(
    ("dtype", "scale", "message"),
    [
        (np.uint16, 1, r"trained on values 0\.\.255; .* holds uint16 \(0\.\.65535\)"),
        (np.float32, 1 / 256, r"trained on values 0\.\.255; .* holds float32 with values around 0\.\d+ and up to 0\.9"),
        (np.float32, 16, r"trained on values 0\.\.255; .* holds float32 with values around \d+ and up to \d+"),
    ],
)
def test_values_of_another_scale_are_refused_until_they_are_explained(
    tmp_path: Path, dtype: DTypeLike, scale: float, message: str
) -> None:
    bands = noise(20, 30)
    path = write_scene(tmp_path / "a.tif", (bands.astype(np.float64) * scale).astype(dtype))
    (failed,) = predict_files([path], lopsided, SPEC, tmp_path / "no", COSINE)
    assert re.search(message, str(failed.error))
    result = predict_one(path, tmp_path / "out", COSINE, scenes=SceneOptions(max_value=255 * scale))
    same = predict_one(write_scene(tmp_path / "b.tif", bands), tmp_path / "same", COSINE)
    np.testing.assert_array_equal(read_band(result.files["geotiff"]), read_band(same.files["geotiff"]))


@pytest.mark.parametrize("zoom", [0.5, 2.0, 1.7])
def test_the_models_sampling_distance_is_matched_on_the_scenes_own_grid(tmp_path: Path, zoom: float) -> None:
    """A scene of squares, sampled finer or coarser, gives the model pixels of its own size and comes back as it was."""
    seen = []

    def spy(batch: np.ndarray) -> np.ndarray:
        seen.append(batch.shape[1:3])
        return pointwise(batch)

    place = Affine(0.4, 0.0, 500000.0, 0.0, -0.4, 9000000.0)
    values = np.kron(np.random.default_rng(0).integers(0, 2, (8, 10)), np.ones((12, 12), int))
    bands = np.array([(250, 10, 10), (10, 10, 250)], np.uint8)[values].transpose(2, 0, 1)
    path = write_scene(tmp_path / "a.tif", bands, transform=place)
    with open_scene(path) as scene:
        size = scene.size
    scenes = SceneOptions(match_gsd=True, model_gsd=0.4 / zoom)
    options = InferenceOptions(is_slide=True, crop_size=Size(32, 40), stride=Size(24, 30), blend="cosine")
    result = predict_one(path, tmp_path / "out", options, predict=spy, scenes=scenes)
    assert set(seen) == {(32, 40)}, "windows are pixels of the model"
    labels = read_band(result.files["geotiff"])
    assert labels.shape == size
    expected = np.where(values == 1, pointwise(np.array([[[[10, 10, 250]]]], np.uint8)).argmax(), 0)
    inner = np.ones(12, bool)
    inner[[0, 1, 2, -3, -2, -1]] = False
    away_from_edges = np.tile(inner, 8)[:, None] & np.tile(inner, 10)
    assert (labels == expected)[away_from_edges].all() and (labels == expected).mean() > 0.9
    whole = predict_one(path, tmp_path / "whole", InferenceOptions(), predict=spy, scenes=scenes)
    assert seen[-1] == (round(96 * zoom), round(120 * zoom)) and read_band(whole.files["geotiff"]).shape == size


def test_pixels_of_another_size_than_in_training_are_told(tmp_path: Path) -> None:
    place = Affine(0.4, 0.0, 500000.0, 0.0, -0.4, 9000000.0)
    path = write_scene(tmp_path / "a.tif", noise(20, 30), transform=place)
    options = InferenceOptions()
    for model_gsd, told in ((1.6, True), (0.1, True), (0.5, False), (0.3, False)):
        scenes = SceneOptions(model_gsd=model_gsd)
        note = predict_one(path, tmp_path / f"{model_gsd}", options, predict=pointwise, scenes=scenes).note or ""
        expected = f"its pixels have 0.4 m on the ground, and those of the training had {model_gsd} m, so its objects"
        assert note.startswith(expected) if told else note == ""
    scenes = SceneOptions(match_gsd=True, model_gsd=1.6)
    assert predict_one(path, tmp_path / "matched", options, predict=pointwise, scenes=scenes).note is None


def test_a_sampling_distance_that_nobody_knows_is_an_error(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(20, 30), crs=None, transform=None)
    with pytest.raises(ConfigError, match=r"dataset 'toy' states none. Give it with --model_gsd"):
        predict_files([path], lopsided, SPEC, tmp_path / "out", COSINE, scenes=SceneOptions(match_gsd=True))
    scenes = SceneOptions(match_gsd=True, model_gsd=0.3)
    (failed,) = predict_files([path], lopsided, SPEC, tmp_path / "out", COSINE, scenes=scenes)
    assert "no CRS and transform" in (failed.error or "") and "0.3 m" in (failed.error or "")


def test_augmentation_happens_window_by_window_where_an_image_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsseg_tf.predict.engine.WHOLE_PIXELS", 30 * 40 - 1)
    path = write_scene(tmp_path / "a.tif", noise(30, 40))
    options = InferenceOptions(
        is_slide=True,
        crop_size=Size(12, 16),
        stride=Size(7, 11),
        blend="cosine",
        flip_horizontal=True,
        rotate90=True,
        scales=(0.75, 1.0),
        batch_size=4,
    )
    shapes = set()

    def spy(batch: np.ndarray) -> np.ndarray:
        shapes.add(batch.shape[1:3])
        return pointwise(batch)

    result = predict_one(path, tmp_path / "out", options, predict=spy, output=ALL_OUTPUTS)
    assert shapes == {(12, 16), (16, 12), (9, 12), (12, 9)}
    plain = predict_one(path, tmp_path / "plain", COSINE, predict=pointwise, output=ALL_OUTPUTS)
    assert (read_band(result.files["geotiff"]) == read_band(plain.files["geotiff"])).mean() > 0.95


# --- threads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["model", "writer"])
def test_an_error_in_any_stage_ends_the_scene_and_its_threads(
    tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fails_later(batch: np.ndarray) -> np.ndarray:
        calls.append(1)
        if stage == "model" and len(calls) == 3:
            raise OSError("the model is gone")
        return lopsided(batch)

    if stage == "writer":

        def full(*_: object) -> None:
            raise OSError("the disk is full")

        monkeypatch.setattr("rsseg_tf.predict.writing.SceneWriter.put", full)
    before = threading.active_count()
    path = write_scene(tmp_path / "a.tif", noise(60, 60))
    (failed,) = predict_files([path], fails_later, SPEC, tmp_path / "out", COSINE)
    assert failed.error in ("the model is gone", "the disk is full")
    assert threading.active_count() == before
    assert not [file for file in (tmp_path / "out").rglob("*") if file.is_file()]


def test_a_plan_of_one_window_keeps_the_logits_as_they_are() -> None:
    plan = make_plan(Size(5, 6), Size(5, 6), Size(5, 6), "cosine")
    assert (plan.rows.profile == 1).all() and (plan.columns.total == 1).all()
