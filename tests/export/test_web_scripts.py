"""The page's own arithmetic, run by Node: reading, places, values and polygons are those of rasterio and of predict."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely.geometry
from rasterio.warp import transform as reproject

from rsseg_tf.assets import asset_dir
from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import ExportError
from rsseg_tf.export.npm import package_members
from rsseg_tf.export.page_packages import GEOTIFF, find_page_packages
from rsseg_tf.rasters.ground import pixel_size
from rsseg_tf.rasters.scenes import open_scene
from rsseg_tf.rasters.windows import Size

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

# What Node lacks of a browser, and what every program below starts with.
START = """
import fs from "node:fs";
globalThis.FileReader = class {
  readAsArrayBuffer(blob) { blob.arrayBuffer().then((all) => { this.result = all; this.onload(); }); }
};
const input = JSON.parse(fs.readFileSync("input.json"));
const blob = (path) => new Blob([fs.readFileSync(path)]);
const { openTiff } = await import("./geotiff.js");
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Any], Any]:
    """Runs a program beside the page's scripts, with `input`; gives what it puts into `output`."""
    folder = tmp_path_factory.mktemp("scripts")
    try:
        archives = find_page_packages()
    except ExportError as error:
        pytest.skip(str(error))
    for script in (asset_dir("export") / "web").glob("*.js"):
        shutil.copy(script, folder)
    (folder / "vendor").mkdir()
    name = "dist-browser/geotiff.js"
    (folder / "vendor" / "geotiff.js").write_bytes(package_members(archives / GEOTIFF.file, [name])[name])
    (folder / "package.json").write_text('{"type": "module"}', "utf-8")

    def run(program: str, given: Any) -> Any:
        (folder / "input.json").write_text(json.dumps(given), "utf-8")
        end = '\nfs.writeFileSync("output.json", JSON.stringify(output));\n'
        (folder / "run.js").write_text(START + program + end, "utf-8")
        done = subprocess.run(["node", "run.js"], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads((folder / "output.json").read_text("utf-8"))

    return run


def write(path: Path, pixels: np.ndarray, **profile: Any) -> Path:
    height, width, bands = pixels.shape
    profile = {"photometric": "RGB", "height": height, "width": width, "count": bands, "dtype": pixels.dtype} | profile
    with rasterio.open(path, "w", driver="GTiff", **profile) as file:
        file.write(pixels.transpose(2, 0, 1))
    return path


TILED = {"tiled": True, "blockxsize": 32, "blockysize": 16}
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "big": ("uint8", {"BIGTIFF": "YES", "compress": "deflate", "predictor": 2}),
    "big endian": ("uint16", {"ENDIANNESS": "BIG", "compress": "lzw", **TILED}),
    "deep": ("uint16", {"compress": "deflate", "predictor": 2, **TILED}),
    "signed": ("int16", {"compress": "zstd", "interleave": "band"}),
    "grey bands": ("uint16", {"compress": "lerc", "photometric": "MINISBLACK"}),
    "one strip": ("uint8", {"blockysize": 90, "compress": "lzw", "predictor": 2}),
    "sparse": ("uint8", {"SPARSE_OK": True, **TILED}),
}


def test_pixels_are_those_of_rasterio(node: Callable[[str, Any], Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    written = {}
    for name, (dtype, options) in FILES.items():
        limits = np.iinfo(dtype)
        pixels = rng.integers(limits.min, limits.max, (90, 75, 3), endpoint=True).astype(dtype)
        if name == "sparse":
            pixels[:] = 0
        written[name] = write(tmp_path / f"{name}.tif", pixels, **options)
    program = """
const output = {};
for (const [name, path] of Object.entries(input)) {
  const tiff = await openTiff(blob(path));
  const whole = await tiff.whole(1e6), part = await tiff.part({ left: 10, top: 20, width: 40, height: 30 }, 1e6);
  const signs = (image) => Array.from(image.signed ? new Int16Array(image.pixels.buffer) : image.pixels);
  output[name] = { whole: signs(whole), part: signs(part), bits: whole.bits, third: signs(await tiff.whole(800)) };
}
"""
    found = node(program, {name: str(path) for name, path in written.items()})
    for name, path in written.items():
        with rasterio.open(path) as file:
            pixels = file.read().transpose(1, 2, 0)
        assert found[name]["bits"] == 8 * pixels.itemsize, name
        np.testing.assert_array_equal(np.reshape(found[name]["whole"], pixels.shape), pixels, err_msg=name)
        np.testing.assert_array_equal(np.reshape(found[name]["part"], (30, 40, 3)), pixels[20:50, 10:50], err_msg=name)
        np.testing.assert_array_equal(np.reshape(found[name]["third"], (30, 25, 3)), pixels[::3, ::3], err_msg=name)


# CRS, and the corner and the step of pixels there.
PLACES = {
    "equator": ("EPSG:3857", 3.6e6, 3.9e4, 0.5),
    "mercator at 60": ("EPSG:3857", 1e6, 8.4e6, 0.5),
    "mercator at 75.5": ("EPSG:3857", 1e6, 13.2e6, 0.5),  # a pixel covers a sixteenth of its area on the map
    "world mercator": ("EPSG:3395", 1e6, 6.6e6, 0.5),
    "degrees": ("EPSG:4326", 10, 50, 1e-5),
    "degrees north": ("EPSG:4326", -20, 80, 1e-5),
    "utm north": ("EPSG:32636", 4.2e5, 4e4, 0.3),
    "utm south": ("EPSG:32750", 4.2e5, 9.5e6, 0.3),
    "etrs": ("EPSG:25832", 6.9e5, 5.3e6, 0.2),
    "nad83": ("EPSG:26917", 6e5, 4.8e6, 1),
    "gda94": ("EPSG:28355", 3.2e5, 5.8e6, 1),
    "sirgas": ("EPSG:31983", 3.3e5, 7.39e6, 1),
    "own transverse": ("+proj=tmerc +lat_0=1 +lon_0=32 +k=0.9999 +x_0=1000 +y_0=5 +datum=WGS84", 2e5, 5e4, 1),
    "own mercator": ("+proj=merc +lat_ts=40 +lon_0=5 +y_0=1000 +datum=WGS84", 1e5, 5e6, 1),
    "lambert": ("EPSG:2154", 6.5e5, 6.8e6, 0.2),
    "feet": ("EPSG:2263", 9.8e5, 2e5, 1),
    "swiss": ("EPSG:2056", 2.6e6, 1.2e6, 0.1),
}
NO_DEGREES = {"lambert", "feet", "swiss"}  # a datum or a projection that the page leaves to other programs


def test_places_and_metres_are_those_of_the_file(node: Callable[[str, Any], Any], tmp_path: Path) -> None:
    paths = {}
    for name, (crs, x, y, step) in PLACES.items():
        affine = rasterio.Affine(step, 0, x, 0, -step, y)
        paths[name] = str(write(tmp_path / f"{name}.tif", np.zeros((40, 60, 3), np.uint8), crs=crs, transform=affine))
    turned = rasterio.Affine(0.4, 0.3, 4e5, 0.3, -0.4, 5e6)
    paths["turned"] = str(
        write(tmp_path / "turned.tif", np.zeros((40, 60, 3), np.uint8), crs="EPSG:32632", transform=turned)
    )
    with rasterio.open(paths["utm north"]) as file:
        affine, crs = file.transform, file.crs
    point = write(tmp_path / "point.tif", np.zeros((40, 60, 3), np.uint8), crs=crs, transform=affine)
    with rasterio.open(point, "r+") as file:
        file.update_tags(AREA_OR_POINT="Point")
    paths["point"] = str(point)
    program = """
const { groundOf } = await import("./ground.js");
const { degreesOf } = await import("./degrees.js");
const output = {};
for (const [name, path] of Object.entries(input)) {
  const { place, width, height } = await (await openTiff(blob(path))).whole(1e6);
  const { across, down } = groundOf(place, width, height);
  const [a, b, c, d, e, f] = place.transform;
  output[name] = { across, down, corner: degreesOf(place.keys)?.(a * 60 + b * 40 + c, d * 60 + e * 40 + f) ?? null };
}
"""
    found = node(program, paths)
    for name, path in paths.items():
        with rasterio.open(path) as file:
            size, affine, crs = Size(*file.shape), file.transform, file.crs
            x, y = affine @ (60, 40) if hasattr(affine, "__matmul__") else affine * (60, 40)
        expected = pixel_size(size, affine, crs)
        assert expected is not None
        # UTM and its like are taken for true to the ground: up to 0.2 % off at the edge of a zone.
        assert (found[name]["down"], found[name]["across"]) == pytest.approx(expected, rel=3e-3), name
        if name in NO_DEGREES:
            assert found[name]["corner"] is None, name
            continue
        longitude, latitude = reproject(crs, "EPSG:4326", [x], [y])
        assert found[name]["corner"] == pytest.approx([longitude[0], latitude[0]], abs=2e-9), name
    assert found["mercator at 75.5"]["across"] == pytest.approx(0.5 / 4, rel=0.01)


def test_values_are_judged_as_predict_judges_them(node: Callable[[str, Any], Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    cases = {
        "declared": ("uint16", 0, None, 10000.0),
        "sentinel": ("uint16", None, 65535, 10000.0),
        "negative": ("int16", -32768, -9999, 10000.0),
        "bytes": ("uint8", 255, None, 255.0),
    }
    spec = DatasetSpec("x", ("a", "b"), ((0, 0, 0), (9, 9, 9)), mean=(0.3, 0.31, 0.29), std=(0.1, 0.4, 0.2))
    given, expected = {}, {}
    for name, (dtype, nodata, sentinel, full) in cases.items():
        pixels = rng.integers(0, 255 if dtype == "uint8" else 10000, (30, 40, 3)).astype(dtype)
        pixels[:5] = 0 if nodata is None else nodata
        pixels[5:8, :, 1] = 0 if nodata is None else nodata
        if sentinel is not None:
            pixels[10:14] = pixels[15:17, :, 2] = sentinel
        path = write(tmp_path / f"{name}.tif", pixels, nodata=nodata)
        given[name] = {"path": str(path), "full": full}
        with open_scene(path, spec=spec, max_value=full) as scene:
            values, none = scene.read()
        scaled = values * np.float32(spec.max_value / full)
        expected[name] = scaled, np.zeros(pixels.shape[:2], bool) if none is None else none
    program = """
const { tablesOf } = await import("./values.js");
const output = {};
const dataset = { max_value: 255, mean: [0.3, 0.31, 0.29], std: [0.1, 0.4, 0.2] };
for (const [name, { path, full }] of Object.entries(input)) {
  const image = await (await openTiff(blob(path))).whole(1e6);
  const { inputs, absent } = tablesOf(image, dataset, full, false);
  const none = [];
  for (let i = 0; i < image.pixels.length; i += 3) {
    none.push([0, 1, 2].every((band) => absent[band][image.pixels[i + band]]));
  }
  output[name] = { none, values: Array.from(image.pixels, (stored, i) => inputs ? inputs[i % 3][stored] : stored) };
}
"""
    found = node(program, given)
    for name, (values, none) in expected.items():
        np.testing.assert_array_equal(np.reshape(found[name]["values"], values.shape), values, err_msg=name)
        np.testing.assert_array_equal(np.reshape(found[name]["none"], none.shape), none, err_msg=name)
        assert none.any()


def test_polygons_run_on_across_the_date_line(node: Callable[[str, Any], Any]) -> None:
    program = """
const { regions, encodeGeoJson } = await import("./polygons.js");
const { degreesOf } = await import("./degrees.js");
const utm = degreesOf({ 1024: 1, 3072: 32660 });
const file = (transform, degrees) =>
  encodeGeoJson(regions(2, 1, new Uint8Array(2), () => true, () => 1), ["a"], transform, degrees, "px").text();
const output = [await file([1, 0, 200, 0, -1, 5], (x, y) => [x, y]), await file([2e5, 0, 7e5, 0, -1, 5], utm)];
"""
    east = [
        [corner[0] for corner in json.loads(text)["features"][0]["geometry"]["coordinates"][0]]
        for text in node(program, None)
    ]
    assert (min(east[0]), max(east[0])) == (-160, -158)
    assert 178 < min(east[1]) < 180 < max(east[1]) < 183


def test_polygons_cover_each_region_once(node: Callable[[str, Any], Any]) -> None:
    rng = np.random.default_rng(7)
    coarse = cv2.resize(rng.integers(0, 4, (9, 12)).astype(np.uint8), (48, 36), interpolation=cv2.INTER_NEAREST)
    ring = np.zeros((7, 8), np.uint8)
    ring[1:6, 1:6] = 1
    ring[2, 2] = ring[3, 3] = ring[4, 2] = 2  # holes that touch at corners, and one at the rim
    ring[1, 5] = 0
    images = [rng.integers(0, 3, (20, 25)).astype(np.uint8), coarse, ring, np.zeros((1, 5), np.uint8)]
    given = [{"width": one.shape[1], "height": one.shape[0], "labels": one.ravel().tolist()} for one in images]
    program = """
const { regions, encodeGeoJson } = await import("./polygons.js");
const output = [];
for (const { width, height, labels } of input) {
  const found = regions(width, height, Uint8Array.from(labels), (id) => id !== 3, (row) => row + 1);
  const file = encodeGeoJson(found, ["a", "b", "c"], [1, 0, 0, 0, -1, 0], (x, y) => [x, y], "px");
  output.push(JSON.parse(await file.text()).features);
}
"""
    for labels, features in zip(images, node(program, given), strict=True):
        height, width = labels.shape
        drawn = np.full(labels.shape, 3, np.uint8)
        count = 0
        for index in range(3):
            count += cv2.connectedComponents((labels == index).astype(np.uint8), connectivity=4)[0] - 1
        assert len(features) == count
        for feature in features:
            polygon = shapely.geometry.shape(feature["geometry"])
            assert polygon.is_valid and polygon.exterior.is_ccw
            assert polygon.area == feature["properties"]["pixels"]
            mask = rasterio.features.rasterize(
                [(polygon, 1)], out_shape=(height, width), transform=rasterio.Affine(1, 0, 0, 0, -1, 0), dtype="uint8"
            )
            drawn[mask == 1] = feature["properties"]["class_id"]
            assert feature["properties"]["area_px"] == (mask * np.arange(1, height + 1)[:, np.newaxis]).sum()
        np.testing.assert_array_equal(drawn, labels)
