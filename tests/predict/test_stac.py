"""STAC items of predicted scenes."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import Affine

from rsseg_tf import __version__
from rsseg_tf.errors import ConfigError
from rsseg_tf.predict import OutputOptions, PredictionResult, SceneOptions
from tests.fixtures.scenes import (
    COSINE,
    PLACE,
    SPEC,
    noise,
    plan_of,
    pointwise,
    predict_files,
    predict_one,
    write_scene,
)
from tests.fixtures.stac import check_item

STAC = OutputOptions(stac=True, pictures=False, stac_datetime="2024-05-01T10:30:00Z")


def item_of(result: PredictionResult) -> dict[str, Any]:
    assert result.files["stac"].parent.name == "stac_prediction"
    return check_item(result.files["stac"])


def test_place_grid_and_files(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "scene one.tif", noise(40, 50))
    output = OutputOptions(stac=True, confidence=True, probabilities=True, cog=True)
    result = predict_one(path, tmp_path / "out", COSINE, predict=pointwise, output=output)
    item = item_of(result)
    assert item["id"] == "scene one"
    west, south, east, north = item["bbox"]
    assert 116.9 < west < east < 117.1 and -9 < south < north < -8
    properties = item["properties"]
    assert properties["proj:code"] == "EPSG:32750" and properties["proj:shape"] == [40, 50]
    assert properties["proj:transform"] == list(PLACE)[:6] and properties["gsd"] == pytest.approx(0.5, rel=2e-3)
    with rasterio.open(result.files["geotiff"]) as labels:
        assert list(labels.shape) == properties["proj:shape"]
    assert properties["processing:software"] == {"rsseg_tf": __version__}
    assert "Semantic segmentation of scene one.tif, " in properties["processing:lineage"]
    assets = item["assets"]
    assert list(assets) == ["labels", "confidence", "probabilities", "pseudo_color", "overlay"]
    assert assets["labels"]["href"] == "../geotiff_prediction/scene%20one.tif"
    assert assets["labels"]["type"] == "image/tiff; application=geotiff; profile=cloud-optimized"
    assert assets["labels"]["roles"] == ["data", "labels", "labels-raster"] and assets["labels"]["nodata"] == 255
    assert assets["confidence"]["raster:scale"] == pytest.approx(1 / 254)
    assert [band["description"] for band in assets["probabilities"]["bands"]] == list(SPEC.classes)
    assert (assets["overlay"]["type"], assets["overlay"]["roles"]) == ("image/png", ["overview"])


def test_classes_have_the_colours_of_the_run(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(20, 30))
    output = OutputOptions(stac=True, pictures=False, min_confidence=0.6, review_value=200)
    (result,) = predict_files(
        [path], pointwise, SPEC, tmp_path / "out", COSINE, output=output,
        palette=((1, 2, 3), (4, 5, 6), (255, 0, 16)),
    )  # fmt: skip
    classes = item_of(result)["assets"]["labels"]["classification:classes"]
    assert [(one["value"], one["title"], one.get("color_hint"), one.get("nodata")) for one in classes] == [
        (0, "water", "010203", None),
        (1, "road", "040506", None),
        (2, "Straße", "FF0010", None),
        (200, "review", "808080", None),
        (255, "no data", None, True),
    ]


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [
        ("gpkg", "application/geopackage+sqlite3"),
        ("geojson", "application/geo+json"),
        ("fgb", "application/vnd.flatgeobuf"),
        ("parquet", "application/vnd.apache.parquet"),
    ],
)
def test_polygons(tmp_path: Path, kind: str, media_type: str) -> None:
    pytest.importorskip("pyogrio", reason="the extra `vector` is not installed")
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    path = write_scene(tmp_path / "a.tif", noise(20, 30))
    output = OutputOptions(stac=True, pictures=False, vector=str(tmp_path / f"other place/polygons.{kind}"))
    item = item_of(predict_one(path, tmp_path / "out", COSINE, predict=pointwise, output=output))
    vectors = item["assets"]["vectors"]
    assert vectors["href"] == f"../../other%20place/polygons.{kind}" and vectors["type"] == media_type
    assert vectors["roles"] == ["data", "labels", "labels-vector"]


def test_a_place_without_a_code_or_across_the_date_line(tmp_path: Path) -> None:
    sinus = "+proj=sinu +lon_0=10 +datum=WGS84"
    path = write_scene(tmp_path / "a.tif", noise(20, 30), crs=sinus, transform=Affine(100, 0, 0, 0, -100, 0))
    properties = item_of(predict_one(path, tmp_path / "out", COSINE, output=STAC))["properties"]
    assert properties["proj:code"] is None and CRS.from_wkt(properties["proj:wkt2"]) == CRS.from_string(sinus)
    path = write_scene(tmp_path / "b.tif", noise(20, 30), crs="EPSG:32701", transform=Affine(9e3, 0, 1e5, 0, -9e3, 8e6))
    item = item_of(predict_one(path, tmp_path / "out", COSINE, output=STAC))
    assert item["geometry"]["type"] == "MultiPolygon" and item["bbox"][0] > 0 > item["bbox"][2]
    assert item["properties"]["proj:code"] == "EPSG:32701"


def test_images_without_a_place(tmp_path: Path) -> None:
    """No geometry, which a note tells; the grid is still the rasters'."""
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), noise(20, 30).transpose(1, 2, 0))
    output = OutputOptions(stac=True, stac_datetime="2024-05-01")
    result = predict_one(path, tmp_path / "out", COSINE, output=output)
    item = item_of(result)
    assert item["geometry"] is None and "bbox" not in item
    properties = item["properties"]
    assert properties["proj:code"] is None and properties["proj:shape"] == [20, 30]
    assert "proj:transform" not in properties and "gsd" not in properties
    assert list(item["assets"]) == ["pseudo_color", "overlay"]
    assert result.note is not None and "its STAC item has no geometry" in result.note
    path = write_scene(tmp_path / "gcps.tif", noise(20, 30), crs=None, transform=None)
    with rasterio.open(path, "r+") as target:
        target.gcps = (
            [GroundControlPoint(r, c, 10 + c, 50 - r) for r, c in ((0, 0), (0, 9), (9, 0))],
            CRS.from_epsg(4326),
        )
    item = item_of(predict_one(path, tmp_path / "out", COSINE, output=STAC))
    assert item["geometry"] is None and item["properties"]["proj:code"] is None


def test_the_rule_of_the_date(tmp_path: Path) -> None:
    plain = OutputOptions(stac=True, pictures=False)
    path = write_scene(tmp_path / "a.tif", noise(20, 30))
    result = predict_one(path, tmp_path / "out", COSINE, output=plain)
    properties = item_of(result)["properties"]
    assert properties["datetime"] == properties["created"]
    assert datetime.now(UTC) - datetime.fromisoformat(properties["created"]) < timedelta(minutes=5)
    assert result.note is not None and "dated by the prediction" in result.note
    with rasterio.open(path, "r+") as target:
        target.update_tags(TIFFTAG_DATETIME="2021:07:08 09:10:11")
    result = predict_one(path, tmp_path / "out", COSINE, output=plain)
    assert item_of(result)["properties"]["datetime"] == "2021-07-08T09:10:11Z" and result.note is None
    with rasterio.open(path, "r+") as target:
        target.update_tags(ns="IMAGERY", ACQUISITIONDATETIME="2020-06-01 10:11:12")
    result = predict_one(path, tmp_path / "out", COSINE, output=plain)
    assert item_of(result)["properties"]["datetime"] == "2020-06-01T10:11:12Z"
    stated = OutputOptions(stac=True, pictures=False, stac_datetime="2024-04-01/2024-06-30")
    properties = item_of(predict_one(path, tmp_path / "out", COSINE, output=stated))["properties"]
    assert properties["datetime"] is None and properties["end_datetime"] == "2024-06-30T23:59:59Z"
    with rasterio.open(path, "r+") as target:
        target.update_tags(ns="IMAGERY", ACQUISITIONDATETIME="soon")
    result = predict_one(path, tmp_path / "out", COSINE, output=plain)
    assert result.note is not None and "dated by the prediction" in result.note


def test_folders_keep_their_structure_and_ids_differ(tmp_path: Path) -> None:
    for name in ("x/a.tif", "y/a.tif"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        write_scene(tmp_path / "in" / name, noise(20, 30))
    paths = [tmp_path / "in/x/a.tif", tmp_path / "in/y/a.tif"]
    plan = plan_of(paths, SPEC, tmp_path / "out", COSINE, base=tmp_path / "in", output=STAC)
    results = [result for _, result in plan.run(pointwise)]
    assert [item_of_nested(result, tmp_path)["id"] for result in results] == ["x_a", "y_a"]


def item_of_nested(result: PredictionResult, folder: Path) -> dict[str, Any]:
    item = check_item(result.files["stac"])
    assert re.fullmatch(r"\.\./\.\./geotiff_prediction/[xy]/a\.tif", item["assets"]["labels"]["href"])
    return item


def test_a_preview_has_a_grid_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsseg_tf.predict.image._PICTURE_BYTES", 2**20)
    monkeypatch.setattr("rsseg_tf.predict.image._PREVIEW_PIXELS", 20 * 25)
    path = write_scene(tmp_path / "a.tif", noise(40, 50))
    output = OutputOptions(stac=True, stac_datetime="2024-05-01")
    scenes = SceneOptions(max_memory=2**21)
    item = item_of(predict_one(path, tmp_path / "out", COSINE, predict=pointwise, output=output, scenes=scenes))
    picture = item["assets"]["overlay"]
    image = cv2.imread(str(tmp_path / "out/added_prediction/a.png"))
    assert image is not None and picture["proj:shape"] == list(image.shape[:2]) != item["properties"]["proj:shape"]
    assert picture["proj:transform"][0] == 0.5 * 50 / image.shape[1] and picture["proj:transform"][2] == PLACE.c


def test_runs_without_items_are_those_of_before(tmp_path: Path) -> None:
    """A journal of a version that knew no items can still be resumed."""
    settings = plan_of([write_scene(tmp_path / "a.tif", noise(20, 30))], SPEC, tmp_path / "out", COSINE).settings
    assert not [name for name in settings.identity() if "stac" in name]


def test_resuming_with_items(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(20, 30))
    resume = SceneOptions(resume=True)
    predict_one(path, tmp_path / "out", COSINE, output=STAC, scenes=resume)
    again = predict_one(path, tmp_path / "out", COSINE, output=STAC, scenes=resume)
    assert again.note == "done by an earlier run" or "earlier run" in str(again.note)
    again.files["stac"].unlink()
    assert item_of(predict_one(path, tmp_path / "out", COSINE, output=STAC, scenes=resume))["id"] == "a"


def test_options_without_effect_or_sense(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--stac_datetime has an effect with --stac only"):
        OutputOptions(stac_datetime="2024-05-01")
    with pytest.raises(ConfigError, match="got 'May'"):
        OutputOptions(stac=True, stac_datetime="May")
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))
    (result,) = predict_files([path], pointwise, SPEC, tmp_path / "out", COSINE, output=STAC)
    assert result.error is not None and "no result was written that a STAC item could describe" in result.error
