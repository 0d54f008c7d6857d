"""Names and colours of classes beside results: what GDAL and QGIS read, and what stays of a user's own styles."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio

from rsseg_tf.predict import InferenceOptions, OutputOptions, PredictionResult, SceneOptions
from rsseg_tf.predict.styling import add_class_table, class_entries, write_styles
from rsseg_tf.rasters.images import write_png
from rsseg_tf.rasters.polygon_files import read_polygons
from rsseg_tf.styles import read_palette
from tests.fixtures.scenes import (
    COSINE,
    SPEC,
    hidden_files,
    noise,
    pointwise,
    predict_files,
    predict_one,
    read_band,
    write_scene,
)

CLASSES = [(0, "water", (0, 0, 255)), (1, "road", (90, 90, 90)), (2, "Straße", (255, 255, 0))]
REVIEW = (254, "review", (128, 128, 128))
OWN_STYLE = "<qgis><renderer-v2 type='singleSymbol'/></qgis>"


def styles_of(result: PredictionResult) -> dict[str, str]:
    return {name: path.name for name, path in result.styles.items()}


@pytest.mark.parametrize("cog", [False, True])
def test_a_label_map_names_its_classes(tmp_path: Path, cog: bool) -> None:
    path = write_scene(tmp_path / "a.b.tif", noise(20, 30), crs="+proj=eqearth +datum=WGS84")
    output = OutputOptions(cog=cog, confidence=True, min_confidence=0.7, pictures=False)
    result = predict_one(path, tmp_path / "out", COSINE, output=output)
    labels = result.files["geotiff"]
    assert styles_of(result) == {"geotiff": "a.b.qml", "confidence": "a.b.qml"}
    style = result.styles["geotiff"]
    assert style.parent == labels.parent and read_palette(style) == [*CLASSES, REVIEW]
    style.unlink()
    assert read_palette(labels) == [*CLASSES, REVIEW]
    side = labels.with_name("a.b.tif.aux.xml").read_text("utf-8")
    assert side.count("<Category") == 1 + 255 and "<Category>Straße</Category>" in side
    with rasterio.open(path) as one, rasterio.open(labels) as other:  # the CRS shares the side file
        assert one.crs == other.crs
    assert hidden_files(tmp_path / "out") == []


def test_the_colours_of_the_command_line_are_those_of_the_styles(tmp_path: Path) -> None:
    palette = ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    path = write_scene(tmp_path / "a.tif", noise(20, 30))
    (result,) = predict_files([path], pointwise, SPEC, tmp_path / "out", COSINE, palette=palette)
    assert [entry.colour for entry in read_palette(result.styles["geotiff"])] == list(palette)


def test_a_picture_without_a_place_has_no_files_of_names(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", noise(20, 30).transpose(1, 2, 0))
    result = predict_one(tmp_path / "a.png", tmp_path / "out", COSINE)
    files = [file.name for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert result.styles == {} and sorted(files) == [".predicted.jsonl", "a.png", "a.png"]


def test_a_name_without_room_for_a_side_file_has_none(tmp_path: Path) -> None:
    path = write_scene(tmp_path / f"{'x' * 250}.tif", noise(20, 30))
    entries = class_entries(SPEC, SPEC.palette)
    add_class_table(path, entries)
    styles, notes, failed = write_styles({"geotiff": path}, entries)
    assert {file.suffix for file in tmp_path.iterdir()} == {".tif", ".qml"}
    assert styles == {"geotiff": path.with_suffix(".qml")} and not notes and not failed


def test_a_users_style_stays_and_is_told(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(20, 30))
    output = OutputOptions(vector="geojson", confidence=True)
    result = predict_one(path, tmp_path / "out", COSINE, output=output)
    for name in ("geotiff", "vector"):
        result.styles[name].write_text(OWN_STYLE, "utf-8")
    again = predict_one(path, tmp_path / "out", COSINE, output=output)
    assert set(again.styles) == {"confidence"}
    assert all(result.styles[name].read_text("utf-8") == OWN_STYLE for name in ("geotiff", "vector"))
    assert (again.note or "").count("stays as it was saved there; remove it") == 2


def test_a_later_run_makes_missing_styles_without_predicting(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(20, 30))
    result = predict_one(path, tmp_path / "out", COSINE)
    side = result.files["geotiff"].with_name("a.tif.aux.xml")
    before = side.read_text("utf-8")
    side.unlink()
    result.styles["geotiff"].unlink()

    def never(batch: np.ndarray) -> np.ndarray:
        raise AssertionError

    again = predict_one(path, tmp_path / "out", COSINE, predict=never, scenes=SceneOptions(resume=True))
    assert again.note == "done by an earlier run" and again.styles == result.styles
    assert side.read_text("utf-8") == before and read_palette(result.styles["geotiff"]) == CLASSES


def test_a_style_that_cannot_be_written_costs_no_result(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(20, 30))
    (tmp_path / "out/geotiff_prediction/a.qml").mkdir(parents=True)
    (failed,) = predict_files([path], pointwise, SPEC, tmp_path / "out", COSINE)
    assert "a.qml" in (failed.error or "") and failed.files["geotiff"].is_file() and failed.files["overlay"].is_file()


def test_what_a_killed_run_left_of_a_side_file_goes(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(20, 30))
    labels = tmp_path / "out/geotiff_prediction"
    labels.mkdir(parents=True)
    gone = [
        labels / ".a.0123456789ab.tmp.qml", labels / ".a.tif.aux.0123456789ab.tmp.xml",
        labels / "..a.partial.tif.aux.0123456789ab.tmp.xml",
    ]  # fmt: skip
    for file in gone:
        file.touch()
    predict_one(path, tmp_path / "out", COSINE)
    assert hidden_files(tmp_path / "out") == []


# --- GeoPackage -----------------------------------------------------------------------------------------------


def stored(path: Path) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(path)
    try:
        query = "select f_table_name, styleName, useAsDefault, f_geometry_column from layer_styles order by id"
        return database.execute(query).fetchall()
    finally:
        database.close()


def test_a_package_has_the_style_of_its_layer(tmp_path: Path) -> None:
    pyogrio = pytest.importorskip("pyogrio", reason="the extra `vector` is not installed")
    path = write_scene(tmp_path / "a.tif", noise(20, 30))
    project = tmp_path / "project.gpkg"
    for _ in range(2):  # the second time over our own
        result = predict_one(path, tmp_path / "out", COSINE, output=OutputOptions(vector=str(project)))
        assert "vector" not in result.styles and not project.with_suffix(".qml").exists()
        assert stored(project) == [("project", "classes", 1, "geom")]
        assert read_palette(project) == [(name, name, colour) for _, name, colour in CLASSES]
        assert [list(row) for row in pyogrio.list_layers(project)] == [["project", "Polygon"], ["layer_styles", None]]
    pyogrio.raw.write(
        str(project), geometry=np.array([None], object), field_data=[np.array([1])], fields=["a"], layer="roads",
        geometry_type="Polygon", crs="EPSG:32633",
    )  # fmt: skip
    # Styles and layers of a user stay, and the user's default goes before ours.
    with sqlite3.connect(project) as database:
        insert = "insert into layer_styles (f_table_name, styleName, styleQML, useAsDefault) values (?, ?, ?, ?)"
        database.executemany(insert, [("project", "mine", OWN_STYLE, 1), ("roads", "mine", OWN_STYLE, 1)])
    database.close()
    predict_one(path, tmp_path / "out", COSINE, output=OutputOptions(vector=str(project)))
    assert sorted(stored(project))[:2] == [("project", "classes", 0, "geom"), ("project", "mine", 1, None)]
    assert stored(project).count(("roads", "mine", 1, None)) == 1 and len(stored(project)) == 3


def test_a_layer_is_not_called_as_the_table_of_styles(tmp_path: Path) -> None:
    pytest.importorskip("pyogrio", reason="the extra `vector` is not installed")
    path = write_scene(tmp_path / "a.tif", noise(20, 30))
    package = tmp_path / "layer_styles.gpkg"
    predict_one(path, tmp_path / "out", COSINE, output=OutputOptions(vector=str(package)))
    assert stored(package) == [("polygons layer_styles", "classes", 1, "geom")]


def test_a_package_with_styles_is_an_area_of_interest(tmp_path: Path) -> None:
    pytest.importorskip("pyogrio", reason="the extra `vector` is not installed")
    path = write_scene(tmp_path / "a.tif", noise(20, 30))
    result = predict_one(path, tmp_path / "out", COSINE, output=OutputOptions(vector="gpkg"))
    inside = predict_one(path, tmp_path / "inside", COSINE, scenes=SceneOptions(aoi=result.files["vector"]))
    np.testing.assert_array_equal(read_band(inside.files["geotiff"]), read_band(result.files["geotiff"]))
    assert set(read_polygons(result.files["vector"], fields=("class",)).fields["class"]) <= set(SPEC.classes)


def test_polygons_of_a_prediction_are_read_as_labels(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    path = write_scene(tmp_path / "a.tif", noise(20, 30))
    result = predict_one(path, tmp_path / "out", COSINE, output=OutputOptions(vector="parquet"))
    assert set(read_polygons(result.files["vector"], fields=("class",)).fields["class"]) <= set(SPEC.classes)
    assert read_palette(result.files["vector"]) == [(name, name, colour) for _, name, colour in CLASSES]


# --- QGIS -----------------------------------------------------------------------------------------------------

QGIS_PYTHON = Path("/usr/bin/python3")
SCRIPT = Path(__file__).parents[1] / "fixtures/look_in_qgis.py"


def look_in_qgis(folder: Path, *layers: Path) -> list[dict[str, Any]]:
    """Returns what QGIS shows of layers; see the script."""
    folder.mkdir()
    done = subprocess.run(
        [QGIS_PYTHON, "-W", "ignore", SCRIPT, folder, *layers],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def qgis() -> None:
    command = [str(QGIS_PYTHON), "-c", "import qgis.core"]
    if not QGIS_PYTHON.exists() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("QGIS is not installed for /usr/bin/python3 (Debian: qgis, python3-qgis)")


def hexed(colour: tuple[int, int, int]) -> str:
    return "#" + bytes(colour).hex()


def picture(found: dict[str, Any]) -> np.ndarray:
    return cv2.imread(found["picture"])[:, :, ::-1]


@pytest.mark.slow
def test_qgis_shows_names_and_colours(tmp_path: Path, qgis: None) -> None:
    pytest.importorskip("pyogrio", reason="the extra `vector` is not installed")
    scene = write_scene(tmp_path / "a.tif", noise(60, 90))
    options = InferenceOptions()
    runs = {}
    for vector in ("gpkg", "geojson", "fgb"):
        output = OutputOptions(
            vector=vector, cog=vector == "geojson", confidence=True, min_confidence=0.6, pictures=False
        )
        runs[vector] = predict_one(scene, tmp_path / vector, options, predict=pointwise, output=output)
    plain = tmp_path / "plain"  # without the style, names come from the side file
    plain.mkdir()
    for suffix in (".tif", ".tif.aux.xml"):
        (plain / f"a{suffix}").write_bytes((tmp_path / f"gpkg/geotiff_prediction/a{suffix}").read_bytes())
    labels, cog = (runs[name].files["geotiff"] for name in ("gpkg", "geojson"))
    vectors = [runs[name].files["vector"] for name in ("gpkg", "geojson", "fgb")]
    found = look_in_qgis(tmp_path / "seen", labels, cog, plain / "a.tif", runs["gpkg"].files["confidence"], *vectors)
    assert all(one["valid"] for one in found)
    expected = [[name, hexed(colour)] for _, name, colour in [*CLASSES, REVIEW]]
    colours = np.zeros((256, 3), np.uint8)
    for value, _, colour in [*CLASSES, REVIEW]:
        colours[value] = colour
    truth = colours[read_band(labels)]
    assert len(np.unique(read_band(labels))) == 4
    for one in found[:2]:
        assert one["renderer"] == "QgsPalettedRasterRenderer" and one["crs"] == "EPSG:32750"
        assert one["legend"] == expected and one["tree"][-4:] == [name for name, _ in expected]
        np.testing.assert_array_equal(picture(one), truth)
    assert found[2]["legend"][:3] == expected[:3]
    np.testing.assert_array_equal(picture(found[2]), truth)
    confidence = read_band(runs["gpkg"].files["confidence"]) / 254
    assert found[3]["renderer"] == "QgsSingleBandPseudoColorRenderer"
    assert [name for name, _ in found[3]["legend"]] == ["0", "0.25", "0.5", "0.75", "1"]
    ramp = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])
    shown = np.stack([np.interp(confidence, np.linspace(0, 1, 5), band) for band in ramp.T], axis=-1)
    assert np.abs(picture(found[3]) - shown).max() <= 1.5
    for one in found[4:]:
        assert one["renderer"] == "QgsCategorizedSymbolRenderer" and one["legend"] == expected
        seen = cv2.resize(picture(one), (90, 60), interpolation=cv2.INTER_NEAREST)
        # Outlines are drawn over neighbours, and degrees are not square to the scene.
        assert (seen == truth).all(axis=-1).mean() > 0.8
