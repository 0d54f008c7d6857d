"""What one image leaves on the disk: its place in every file, no product lost with another, nothing half-written."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from filelock import FileLock
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rasterio.transform import Affine

from rsseg_tf.errors import DataError
from rsseg_tf.files import replace_file
from rsseg_tf.predict import OutputOptions, SceneOptions
from rsseg_tf.predict.writing import SceneWriter, _check_written, _rows_of
from rsseg_tf.rasters.scenes import open_scene
from tests.fixtures.scenes import (
    COSINE,
    SPEC,
    TILES,
    Stopped,
    hidden_files,
    lopsided,
    noise,
    pointwise,
    predict_files,
    predict_one,
    read_band,
    stopping_after,
    write_scene,
)

pyogrio = pytest.importorskip("pyogrio", reason="the extra `vector` is not installed")

EVERYTHING = OutputOptions(confidence=True, probabilities=True, vector="gpkg")
ROTATED = "+proj=ob_tran +o_proj=longlat +lon_0=-162 +o_lat_p=39.25 +o_lon_p=180 +R=6371229"
DEGREES = Affine(1e-3, 0, 1, 0, -1e-3, 1)
METRES = Affine(0.5, 0, 500000, 0, -0.5, 5400000)


# --- places -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cog", [False, True])
@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (ROTATED, DEGREES),
        (f"{ROTATED} +to_meter=0.0174532925199433", DEGREES),
        ("+proj=eqearth +datum=WGS84", DEGREES),
        ("+proj=lcca +lat_0=35 +datum=WGS84", DEGREES),
        ('LOCAL_CS["site",UNIT["metre",1]]', METRES),
        ("EPSG:7415", METRES),
        ("EPSG:4979", DEGREES),
        ("EPSG:32633", Affine(0.5, 0, 500000, 0, 0.5, 5400000)),  # south up
        ("EPSG:32633", Affine(0.4, 0.3, 500000, 0.3, -0.4, 5400000)),
        (None, METRES),
    ],
)
def test_a_place_survives_in_every_raster(tmp_path: Path, crs: str | None, transform: Affine, cog: bool) -> None:
    crs = None if crs is None else CRS.from_user_input(crs)
    path = write_scene(tmp_path / "a.tif", noise(20, 30), crs=crs, transform=transform)
    output = OutputOptions(confidence=True, probabilities=True, cog=cog, pictures=False)
    result = predict_one(path, tmp_path / "out", COSINE, output=output)
    for product in (result.files["geotiff"], result.files["confidence"], result.files["probabilities"]):
        with rasterio.open(path) as one, rasterio.open(product) as other:
            assert other.crs == one.crs and other.transform == one.transform
    assert hidden_files(tmp_path / "out") == []


@pytest.mark.parametrize("crs", ["EPSG:9000", "EPSG:32633", "EPSG:3035", "EPSG:7665", "+proj=eqearth +datum=WGS84"])
@pytest.mark.parametrize("cog", [False, True])
def test_the_epoch_of_coordinates_survives(tmp_path: Path, crs: str, cog: bool) -> None:
    path = write_scene(tmp_path / "plain.tif", noise(20, 30), crs=crs, transform=DEGREES)
    rasterio.shutil.copy(path, tmp_path / "a.vrt", driver="VRT")
    text = (tmp_path / "a.vrt").read_text().replace("<SRS ", '<SRS coordinateEpoch="2021.3" ')
    (tmp_path / "a.vrt").write_text(text)
    rasterio.shutil.copy(tmp_path / "a.vrt", tmp_path / "a.tif", driver="GTiff")
    output = OutputOptions(cog=cog, confidence=True)
    result = predict_one(tmp_path / "a.tif", tmp_path / "out", COSINE, output=output)
    for product in ("geotiff", "confidence"):
        with open_scene(tmp_path / "a.tif") as one, open_scene(result.files[product]) as other:
            assert 'coordinateEpoch="2021.3"' in (one.dated_crs or "") and one.dated_crs == other.dated_crs
            assert one.crs == other.crs and one.transform == other.transform
    with open_scene(path) as scene:
        assert scene.dated_crs is None
    assert hidden_files(tmp_path / "out") == []


def test_a_place_survives_a_resumed_run(tmp_path: Path, every_row_is_saved: None) -> None:
    crs = CRS.from_proj4(ROTATED)
    path = write_scene(tmp_path / "a.tif", noise(900, 100), crs=crs, transform=DEGREES)
    with pytest.raises(Stopped):
        predict_files([path], stopping_after(28), SPEC, tmp_path / "out", TILES)
    assert any(name.endswith(".aux.xml") for name in hidden_files(tmp_path / "out"))
    result = predict_one(path, tmp_path / "out", TILES, scenes=SceneOptions(resume=True))
    with rasterio.open(path) as one, rasterio.open(result.files["geotiff"]) as other:
        assert other.crs == one.crs
    assert hidden_files(tmp_path / "out") == []
    with pytest.raises(Stopped):
        predict_files([path], stopping_after(28), SPEC, tmp_path / "again", TILES)
    predict_one(write_scene(path, noise(20, 30)), tmp_path / "again", TILES)
    assert hidden_files(tmp_path / "again") == [], "what was begun goes with its side file"


POINTS = [GroundControlPoint(r, c, 10.0 + c, 50.0 - r, 0.0, str(r + c)) for r, c in ((0, 0), (0, 30), (20, 30))]


@pytest.mark.parametrize("crs", [None, "EPSG:4326"])
def test_tie_points_are_kept_with_and_without_a_crs_and_polygons_are_in_pixels(tmp_path: Path, crs: str | None) -> None:
    path = write_scene(tmp_path / "a.tif", noise(20, 30), crs=None, transform=None)
    with rasterio.open(path, "r+") as target:
        target.gcps = (POINTS, CRS() if crs is None else CRS.from_user_input(crs))
    result = predict_one(path, tmp_path / "out", COSINE, output=OutputOptions(vector="gpkg"))
    with rasterio.open(result.files["geotiff"]) as labels:
        assert len(labels.gcps[0]) == 3 and labels.gcps[1] == (None if crs is None else CRS.from_user_input(crs))
    assert "lies by control points alone, so polygons and areas are in pixels" in (result.note or "")
    meta, _, _, columns = pyogrio.raw.read(result.files["vector"], layer="a")
    assert "area_px" in meta["fields"] and meta["crs"] is None
    assert columns[2].sum() == 600


@pytest.mark.parametrize(
    ("profile", "note"),
    [
        ({"crs": None, "transform": None}, "no CRS and no transform, so polygons and areas are in pixels"),
        ({"transform": None}, "a CRS, but no transform, so polygons and areas are in pixels"),
        ({"crs": None}, "no CRS, so polygons are in its own units and areas in pixels"),
        ({"crs": 'LOCAL_CS["site",UNIT["metre",1]]'}, "areas are those of its own plane, in metre"),
        ({"crs": None, "transform": None, "rpcs": RPC(
            0, 1, 0, 1, [1.0] * 20, [1.0] * 20, 0, 1, 0, 1, [1.0] * 20, [1.0] * 20, 0, 1)},
         "lies by RPCs alone, so polygons and areas are in pixels"),
        ({}, None),
    ],
)  # fmt: skip
def test_polygons_off_the_map_never_come_without_a_note(
    tmp_path: Path, profile: dict[str, Any], note: str | None
) -> None:
    path = write_scene(tmp_path / "a.tif", noise(20, 30), **profile)
    result = predict_one(path, tmp_path / "out", COSINE, output=OutputOptions(vector="geojson", pictures=False))
    assert result.note is None if note is None else note in (result.note or "")
    assert predict_one(path, tmp_path / "out", COSINE).note is None, "without polygons there is nothing to say"


def test_a_picture_with_a_world_file_is_a_scene(tmp_path: Path) -> None:
    pixels = noise(20, 30).transpose(1, 2, 0)
    path = tmp_path / "ortho.png"
    path.write_bytes(cv2.imencode(".png", np.ascontiguousarray(pixels[:, :, ::-1]))[1].tobytes())
    plain = predict_one(path, tmp_path / "plain", COSINE, output=OutputOptions(vector="gpkg"))
    assert "geotiff" not in plain.files and "polygons and areas are in pixels" in (plain.note or "")
    (tmp_path / "ortho.pgw").write_text("0.5\n0\n0\n-0.5\n500000.25\n5399999.75\n")
    (tmp_path / "ortho.prj").write_text(CRS.from_epsg(32633).to_wkt())
    result = predict_one(path, tmp_path / "out", COSINE, output=OutputOptions(vector="gpkg"))
    with rasterio.open(result.files["geotiff"]) as labels:
        assert labels.crs == CRS.from_epsg(32633) and labels.transform == METRES
    meta, _, _, columns = pyogrio.raw.read(result.files["vector"], layer="ortho")
    assert meta["crs"] == "EPSG:32633" and columns[2].sum() == pytest.approx(150) and result.note is None
    (tmp_path / "ortho.pgw").write_text("damaged")
    assert "ortho.pgw beside it is no world file" in (predict_one(path, tmp_path / "out", COSINE).note or "")


# --- one product fails -------------------------------------------------------------------------------------------


def failing(*_: object, **__: object) -> None:
    raise ValueError("something of which nobody has thought")


@pytest.mark.parametrize(
    ("broken", "missing"),
    [
        ("rsseg_tf.predict.image.write_polygons", {"vector"}),
        ("rsseg_tf.predict.image.write_png", {"pseudo_color"}),
        ("rsseg_tf.predict.image._write_picture", {"overlay"}),
        ("rsseg_tf.predict.image._labels_to_show", {"pseudo_color", "overlay"}),
    ],
)
def test_a_product_that_fails_costs_none_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, missing: set[str]
) -> None:
    path = write_scene(tmp_path / "a.jpg", noise(20, 30))  # a TIFF, told by its first bytes; its overlay is a JPEG
    with monkeypatch.context() as patch:
        patch.setattr(broken, failing)
        (result,) = predict_files([path], pointwise, SPEC, tmp_path / "out", COSINE, output=EVERYTHING)
    everything = {"pseudo_color", "overlay", "geotiff", "confidence", "probabilities", "vector"}
    assert (
        not result.ok
        and "something of which nobody has thought" in (result.error or "")
        and "\n" not in (result.error or "")
    )
    assert set(result.files) == everything - missing and all(file.is_file() for file in result.files.values())
    assert hidden_files(tmp_path / "out") == []
    scenes = SceneOptions(resume=True)
    assert set(predict_one(path, tmp_path / "out", COSINE, output=EVERYTHING, scenes=scenes).files) == everything


@pytest.mark.parametrize("cog", [False, True])
def test_what_is_missing_of_a_large_scene_is_made_without_predicting_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_row_is_saved: None, cog: bool
) -> None:
    path = write_scene(tmp_path / "a.tif", noise(600, 100))
    output = OutputOptions(confidence=True, probabilities=True, vector="gpkg", cog=cog)
    whole = predict_one(path, tmp_path / "whole", TILES, output=output)
    from rsseg_tf.predict import writing

    real: Callable[..., Any] = writing._make_cog if cog else replace_file

    def full_for_confidence(file: Any, *arguments: Any, **keywords: Any) -> Any:
        target = file.path if cog else arguments[0]
        if target.parent.name == "confidence_prediction":
            raise OSError(28, "No space left on device")
        return real(file, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "_make_cog" if cog else "replace_file", full_for_confidence)
        patch.setattr("rsseg_tf.predict.image.write_polygons", failing)
        (result,) = predict_files([path], lopsided, SPEC, tmp_path / "out", TILES, output=output)
    assert "No space left on device" in (result.error or "") and "nobody has thought" in (result.error or "")
    assert set(result.files) == {"geotiff", "probabilities", "pseudo_color", "overlay"}

    def never(batch: np.ndarray) -> NoReturn:
        raise AssertionError("predicted again")

    scenes = SceneOptions(resume=True)
    result = predict_one(path, tmp_path / "out", TILES, predict=never, output=output, scenes=scenes)
    for name, file in whole.files.items():
        if file.suffix == ".tif":
            with rasterio.open(file) as one, rasterio.open(result.files[name]) as other:
                np.testing.assert_array_equal(one.read(), other.read())
    assert len(pyogrio.raw.read(result.files["vector"], layer="a")[2]) == len(
        pyogrio.raw.read(whole.files["vector"], layer="a")[2]
    )
    assert hidden_files(tmp_path / "out") == []


def test_a_raster_that_is_no_longer_the_one_of_the_journal_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_row_is_saved: None
) -> None:
    path = write_scene(tmp_path / "a.tif", noise(600, 100))
    output = OutputOptions(confidence=True, vector="gpkg")
    with monkeypatch.context() as patch:
        patch.setattr("rsseg_tf.predict.image.write_polygons", failing)
        (result,) = predict_files([path], pointwise, SPEC, tmp_path / "out", TILES, output=output)
    before = read_band(result.files["geotiff"])
    write_scene(result.files["geotiff"], np.zeros((1, 600, 100), np.uint8))
    result = predict_one(path, tmp_path / "out", TILES, predict=pointwise, output=output,
                         scenes=SceneOptions(resume=True))  # fmt: skip
    np.testing.assert_array_equal(read_band(result.files["geotiff"]), before)


def test_a_partial_file_that_a_full_disk_has_broken_is_begun_anew(tmp_path: Path, every_row_is_saved: None) -> None:
    path = write_scene(tmp_path / "a.tif", noise(900, 100))
    whole = predict_one(path, tmp_path / "whole", TILES)
    with pytest.raises(Stopped):
        predict_files([path], stopping_after(28), SPEC, tmp_path / "out", TILES)
    partial = tmp_path / "out" / "geotiff_prediction" / ".a.partial.tif"
    partial.write_bytes(partial.read_bytes()[:4])
    result = predict_one(path, tmp_path / "out", TILES, scenes=SceneOptions(resume=True))
    np.testing.assert_array_equal(read_band(result.files["geotiff"]), read_band(whole.files["geotiff"]))


def test_rows_that_are_not_on_the_disk_are_told(tmp_path: Path) -> None:
    """GDAL closes a file without a word when the disk is full."""
    path = write_scene(tmp_path / "a.tif", noise(20, 30))
    with rasterio.open(path) as source:
        written = list(_rows_of(source))
    _check_written(path, written)
    with pytest.raises(OSError, match="not on the disk"):
        _check_written(path, [dataclasses.replace(written[0], sums=(0, *written[0].sums[1:]))])
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(OSError, match="not on the disk"):
        _check_written(path, written)


def test_rows_in_the_middle_that_are_not_on_the_disk_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that pack report no failed write, and later rows may find room again."""
    write, calls = SceneWriter._write, []

    def damaged(writer: SceneWriter, rows: int) -> None:
        write(writer, rows)
        calls.append(rows)
        if len(calls) == 2:
            window = ((writer._top, writer._top + rows), writer.strips[0])
            writer._open["labels"].write(np.full((1, rows, 100), 9, np.uint8), window=window)

    monkeypatch.setattr(SceneWriter, "_write", damaged)
    path = write_scene(tmp_path / "a.tif", noise(900, 100))
    (result,) = predict_files([path], lopsided, SPEC, tmp_path / "out", TILES)
    assert len(calls) > 2
    assert re.search(r"cannot write .*a\.tif: what was written is not on the disk", str(result.error))
    assert not list((tmp_path / "out").rglob("a.tif"))


def test_a_full_disk_when_the_journal_of_the_run_is_written_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DataError("cannot write .predicted.jsonl: No space left on device")

    monkeypatch.setattr("rsseg_tf.predict.resuming.FinishedJobs.record", full)
    paths = [write_scene(tmp_path / f"{name}.tif", noise(20, 30)) for name in "ab"]
    results = predict_files(paths, pointwise, SPEC, tmp_path / "out", COSINE)
    assert all(result.ok and "a later --resume will do it again" in (result.note or "") for result in results)


def test_the_image_itself_is_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "geotiff_prediction"
    folder.mkdir()
    path = write_scene(folder / "a.tif", noise(20, 30))
    before = path.read_bytes()
    (failed,) = predict_files([path], pointwise, SPEC, tmp_path, COSINE)
    assert "would replace the image itself" in (failed.error or "") and path.read_bytes() == before
    assert hidden_files(tmp_path) == []


# --- what killed runs have left ----------------------------------------------------------------------------------


def test_the_next_run_clears_what_is_its_own_and_no_other(tmp_path: Path) -> None:
    paths = [write_scene(tmp_path / f"{name}.tif", noise(20, 30)) for name in "ab"]
    out = tmp_path / "out"
    vectors, labels = out / "vector_prediction", out / "geotiff_prediction"
    for folder in (vectors, labels, out / "probability_prediction"):
        folder.mkdir(parents=True)
    gone = [
        vectors / ".a.0123456789ab.tmp.gpkg", vectors / ".a.0123456789ab.tmp.gpkg-journal",
        labels / ".a.0123456789ab.tmp.tif", labels / ".a.0123456789ab.tmp.tif.aux.xml",
        labels / ".a.0123456789ab.tmp.tif.ovr.tmp",
        labels / "..a.partial.0123456789ab.tmp.json",
        out / "probability_prediction" / ".a.partial.tif", labels / ".a.partial.tif.aux.xml",
    ]  # fmt: skip
    kept = [vectors / ".b.0123456789ab.tmp.gpkg", vectors / ".other.0123456789ab.tmp.gpkg"]
    for file in (*gone, *kept):
        file.touch()
    with FileLock(labels / ".b.partial.lock"):  # another process predicts b
        results = predict_files(paths, pointwise, SPEC, out, COSINE)
    assert [result.ok for result in results] == [True, False]
    assert not any(file.exists() for file in gone) and all(file.exists() for file in kept)
    predict_files(paths, pointwise, SPEC, out, COSINE)
    assert [file.exists() for file in kept] == [False, True]


def test_names_of_any_length_can_be_predicted_and_resumed(tmp_path: Path, every_row_is_saved: None) -> None:
    path = write_scene(tmp_path / f"{'x' * 240}.tif", noise(600, 70))
    result = predict_one(path, tmp_path / "out", TILES, output=EVERYTHING)
    assert set(result.files) == {"pseudo_color", "overlay", "geotiff", "confidence", "probabilities", "vector"}
    assert hidden_files(tmp_path / "out") == []
