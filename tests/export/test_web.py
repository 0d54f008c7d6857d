"""The page: what a person sees in a real browser, and labels equal to Python's."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import math
import os
import re
import shutil
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import rasterio.features
import rasterio.shutil
import rasterio.windows
import shapely.geometry
from click.testing import CliRunner
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.warp import transform as reproject
from rasterio.warp import transform_geom

pytest.importorskip("ai_edge_litert", reason="extra tflite is not installed")

from rsseg_tf.cli import main
from rsseg_tf.errors import ExportError
from rsseg_tf.export import Page, TrainedModel, find_page_packages, load_trained, write_web
from rsseg_tf.predict import predict_labels
from rsseg_tf.predict.pictures import as_rgb
from rsseg_tf.predictors import open_predictor
from rsseg_tf.rasters.images import read_image, read_label, write_png
from rsseg_tf.rasters.scenes import open_scene
from rsseg_tf.rasters.windows import Size
from rsseg_tf.styles.palettes import read_palette
from tests.fixtures.browser import CHROMIUM, Browser, browser, open_page, save, segment, serving, wait_for
from tests.fixtures.checkpoints import write_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
TILE = Size(64, 48)


def scene(height: int, width: int, bands: int = 3) -> np.ndarray:
    """Smooth blobs with noise, so that classes have shapes."""
    rng = np.random.default_rng(height * width)
    coarse = rng.integers(0, 256, (height // 9 + 2, width // 9 + 2, bands)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, bands)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def litertjs() -> Path:
    try:
        return find_page_packages()
    except ExportError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def site(trained: TrainedModel, litertjs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_png(folder / "try.png", scene(70, 90))
    write_web(trained, folder, Page(litertjs, "Bright & dark", folder / "try.png"), tile=TILE)
    return folder / "web"


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves folders by their own serve.py; gives the address."""
    with contextlib.ExitStack() as running:
        yield lambda folder: running.enter_context(serving(folder))


@pytest.fixture(scope="module")
def empty_tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("browser")
    (folder / "downloads").mkdir()
    with browser(folder) as tab:
        tab.downloads(folder / "downloads")
        yield tab


@pytest.fixture
def tab(empty_tab: Browser, site: Path, serve: Callable[[Path], str]) -> Browser:
    """The page, ready."""
    empty_tab.address = empty_tab.address or serve(site)
    open_page(empty_tab, empty_tab.address)
    return empty_tab


def text(tab: Browser, element: str) -> str:
    return str(tab.run(f"document.getElementById({element!r}).innerText"))


def rounded(value: float) -> float:
    """To one decimal, halves up, as browsers do it."""
    return math.floor(value * 10 + 0.5) / 10


def python_pixels(image: Path) -> np.ndarray:
    """What the model sees of an image."""
    with open_scene(image) as opened:
        return opened.read()[0]


def python_labels(site: Path, image: Path) -> np.ndarray:
    """What `rsseg-tf predict --model_path site` gives."""
    model = open_predictor(site)
    with open_scene(image) as opened:
        pixels, nodata = opened.read()
    labels = predict_labels(model.predict, pixels, model.spec, model.options)
    return labels if nodata is None else np.where(nodata, np.uint8(model.spec.ignore_index), labels)


# --- images of all kinds ---


def png_file(
    pixels: np.ndarray, colour: int, *, depth: int = 8, interlaced: bool = False, palette: bytes = b""
) -> bytes:
    """Encodes (H, W, channels) samples with all five filters in turn, which OpenCV does not."""
    height, width, channels = pixels.shape
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b""
    for x, y, dx, dy in passes:
        part = pixels[y::dy, x::dx]
        above = None
        for index, samples in enumerate(part if part.size else ()):
            row = samples.ravel()
            if depth < 8:
                bits = np.unpackbits(row[:, np.newaxis], axis=1)[:, -depth:]
                row = np.packbits(bits.ravel())
            raw += filtered(row.astype(np.int64), above, index % 5, max(1, channels * depth // 8))
            above = row.astype(np.int64)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))]
    chunks += [(b"gAMA", struct.pack(">I", 100000)), (b"PLTE", palette)] if palette else []
    packed = zlib.compress(raw)
    chunks += [(b"IDAT", packed[:50]), (b"IDAT", packed[50:]), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def filtered(row: np.ndarray, above: np.ndarray | None, kind: int, step: int) -> bytes:
    up = np.zeros_like(row) if above is None else above
    left, corner = (np.concatenate([np.zeros(step, np.int64), line[:-step]])[: len(row)] for line in (row, up))
    estimate = left + up - corner
    distances = np.abs(np.stack([left, up, corner]) - estimate)
    paeth = np.choose(distances.argmin(0), [left, up, corner])
    predicted = [0 * row, left, up, (left + up) // 2, paeth][kind]
    return bytes([kind]) + ((row - predicted) % 256).astype(np.uint8).tobytes()


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + jpeg[2:]


def write_jpeg(path: Path, *flags: int) -> None:
    """A photograph that says it lies on its side, and that its colours are odd."""
    jpeg = cv2.imencode(".jpg", scene(101, 77), flags)[1].tobytes()
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    profile = b"ICC_PROFILE\0\1\1" + bytes(128)
    path.write_bytes(with_segment(with_segment(jpeg, 0xE2, profile), 0xE1, b"Exif\0\0" + tiff))


def write_tiff(path: Path, pixels: np.ndarray, **profile: object) -> None:
    height, width, bands = pixels.shape
    profile = {"photometric": "RGB", "height": height, "width": width, "count": bands, "dtype": "uint8"} | profile
    with rasterio.open(path, "w", driver="GTiff", **profile) as file:
        file.write(pixels.transpose(2, 0, 1))


def nodata_scene() -> np.ndarray:
    pixels = scene(70, 61)
    pixels[20:40, 10:30] = 7
    return pixels


def saturated_scene() -> np.ndarray:
    """White roofs: the declared value for no data in one band, in all of them at the border alone."""
    pixels = scene(70, 61)
    pixels[20:40, 10:30, 0] = 255
    pixels[:, :4] = 255
    return pixels


def alpha_scene() -> np.ndarray:
    pixels = scene(90, 75, 4)
    pixels[10:60, 20:50, 3] = 0
    return pixels


PALETTE = np.random.default_rng(5).integers(0, 256, 48, dtype=np.uint8).tobytes()
UTM = {"crs": "EPSG:32640", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 2.7e6)}
IMAGES: dict[str, Callable[[Path], object]] = {
    "many_windows.png": lambda path: write_png(path, scene(173, 211)),
    "smaller_than_a_window.png": lambda path: write_png(path, scene(11, 13)),
    "one_row.png": lambda path: write_png(path, scene(1, 120)),
    "narrow.png": lambda path: write_png(path, scene(40, 200)),
    "alpha.png": lambda path: write_png(path, alpha_scene()),
    "filters.png": lambda path: path.write_bytes(png_file(scene(66, 50), 2)),
    "interlaced.png": lambda path: path.write_bytes(png_file(scene(67, 53), 2, interlaced=True)),
    "palette.png": lambda path: path.write_bytes(
        png_file(scene(67, 53, 1) >> 4, 3, depth=4, interlaced=True, palette=PALETTE)
    ),
    "baseline.jpg": lambda path: write_jpeg(path, cv2.IMWRITE_JPEG_QUALITY, 70),
    "progressive.jpg": lambda path: write_jpeg(path, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "plain.tif": lambda path: write_tiff(path, scene(70, 61)),
    "nodata.tif": lambda path: write_tiff(path, nodata_scene(), nodata=7, compress="deflate", interleave="pixel"),
    "saturated.tif": lambda path: write_tiff(path, saturated_scene(), nodata=255),
    "tiled.tif": lambda path: write_tiff(
        path, scene(150, 140), compress="lzw", predictor=2, tiled=True, blockxsize=64, blockysize=48,
        interleave="pixel", **UTM,
    ),
    "planar.tif": lambda path: write_tiff(path, scene(150, 40), compress="lzw", interleave="band"),
    "big.tif": lambda path: write_tiff(path, scene(80, 61), BIGTIFF="YES", compress="deflate", predictor=2),
    "big_endian.tif": lambda path: write_tiff(
        path, scene(150, 140), ENDIANNESS="BIG", tiled=True, blockxsize=16, blockysize=16, interleave="pixel"
    ),
    "zstd.tif": lambda path: write_tiff(path, scene(80, 61), compress="zstd"),
    "packbits.tif": lambda path: write_tiff(path, scene(80, 61), compress="packbits"),
    "alpha.tif": lambda path: write_tiff(path, alpha_scene(), alpha="yes", compress="deflate"),
    "jpeg_rgb.tif": lambda path: write_tiff(path, scene(90, 80), compress="jpeg", interleave="pixel"),
    "jpeg_planar.tif": lambda path: write_tiff(path, scene(90, 80), compress="jpeg", interleave="band"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_labels_are_those_of_python(tab: Browser, site: Path, tmp_path: Path, name: str) -> None:
    image = tmp_path / name
    IMAGES[name](image)
    labels = segment(tab, image, drop=name.startswith("many"))
    expected = python_labels(site, image)
    np.testing.assert_array_equal(labels, expected)
    if labels.shape[0] > 60:
        assert np.unique(expected).size >= 2
    np.testing.assert_array_equal(invisible(tab, image), python_pixels(image))


def invisible(tab: Browser, image: Path) -> np.ndarray:
    """Saves an overlay that cannot be seen: the image, as the page shows it."""
    tab.run("(() => { const e = document.getElementById('opacity'); e.value = 0; e.oninput(); })()")
    return read_image(save(tab, image, "overlay"))


def test_jpeg_with_coarse_colours_and_a_mask_inside_of_a_cog(tab: Browser, tmp_path: Path) -> None:
    """The browser and Pillow have one decoder; GDAL in rasterio's wheels spreads coarse colours in another way."""
    plain, image = tmp_path / "plain.tif", tmp_path / "jpeg.tif"
    mask = np.full((150, 140), 255, np.uint8)
    mask[20:90, 30:80] = 0
    write_tiff(plain, scene(150, 140), **UTM)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(plain, "r+") as file:
        file.write_mask(mask)
    rasterio.shutil.copy(plain, image, driver="COG", compress="JPEG")
    with rasterio.open(image) as file:
        assert file.profile["photometric"] == "ycbcr"
    labels = segment(tab, image)
    np.testing.assert_array_equal(labels == 255, mask == 0)
    with Image.open(image) as opened:
        np.testing.assert_array_equal(invisible(tab, image), np.array(opened.convert("RGB")))


# --- 16 bits ---


def deep_scene(top: int) -> np.ndarray:
    """Values of 16 bits, up to about `top`, with a corner without data."""
    pixels = (scene(90, 75).astype(np.float64) * top / 255).astype(np.uint16)
    pixels[:20, :30] = 0
    return pixels


def test_16_bits_need_the_value_of_full_brightness(tab: Browser, site: Path, tmp_path: Path) -> None:
    image = tmp_path / "deep.tif"
    write_tiff(image, deep_scene(2000), dtype="uint16", nodata=0, compress="deflate", predictor=2)
    tab.choose("#file", image)
    tab.wait("document.body.dataset.state === 'opened'")
    assert "16 bits" in text(tab, "full-text")
    assert tab.run("document.getElementById('segment').disabled") is True
    tab.run("(() => { const e = document.getElementById('full'); e.value = '2047'; e.oninput(); })()")
    tab.click("#segment")
    tab.wait("document.body.dataset.state === 'result'")
    labels = read_label(save(tab, image, "labels"))
    options = ["predict", "--model_path", str(site), "--image_path", str(image), "--save_dir", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*options, "--max_value", "2047"])
    assert result.exit_code == 0, result.output
    (written,) = (tmp_path / "out").rglob("deep.tif")
    with rasterio.open(written) as file:
        np.testing.assert_array_equal(labels, file.read(1))
    assert (labels == 255).any()
    with open_scene(image) as opened:
        pixels, nodata = opened.read()
    shown = invisible(tab, image)
    assert nodata is not None
    expected = as_rgb(pixels, open_predictor(site).spec, nodata)
    assert np.abs(shown.astype(int) - expected)[~nodata].max() <= 1  # percentiles are rounded to float32 there


def test_a_model_of_16_bits_takes_them_as_they_are(
    empty_tab: Browser, litertjs: Path, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    deep = "dataset={name: custom, root: data, classes: [dark, bright], max_value: 2000}"
    checkpoint, _ = write_checkpoint(tmp_path, deep, "augment.saturation_range=0", "augment.hue_range=0")
    write_web(load_trained(checkpoint), tmp_path / "site", Page(litertjs), tile=TILE)
    site, image = tmp_path / "site" / "web", tmp_path / "deep.tif"
    pixels = deep_scene(2000)
    pixels[30:40, 20:30] = 65535  # stands for no data, though the file does not say it
    write_tiff(image, pixels, dtype="uint16", nodata=0)
    open_page(empty_tab, serve(site))
    labels = segment(empty_tab, image)
    assert empty_tab.run("document.getElementById('full-field').checkVisibility()") is False
    with open_scene(image, spec=open_predictor(site).spec) as opened:
        values, nodata = opened.read()
    model = open_predictor(site)
    expected = predict_labels(model.predict, values, model.spec, model.options)
    assert nodata is not None and nodata[35, 25]
    np.testing.assert_array_equal(labels, np.where(nodata, 255, expected))


# --- the size of pixels on the ground ---


def placed(path: Path, crs: str | None, a: float, b: float, c: float, d: float, e: float, f: float) -> None:
    write_tiff(path, scene(40, 60), crs=crs, transform=rasterio.Affine(a, b, c, d, e, f))


def with_tie_points(path: Path) -> None:
    """Four corners and no transform."""
    corners = [(row, column) for row in (0, 40) for column in (0, 60)]
    points = [GroundControlPoint(row, column, 5e5 + 0.25 * column, 5e6 - 0.25 * row) for row, column in corners]
    write_tiff(path, scene(40, 60), gcps=points, crs="EPSG:32632")


# Name -> how it is written, what the page says of its pixels; computed on the ellipsoid of WGS 84.
GROUND: dict[str, tuple[Callable[[Path], object], str]] = {
    "utm.tif": (lambda path: placed(path, "EPSG:32632", 0.3, 0, 5e5, 0, -0.3, 5e6), "0.3 m per pixel"),
    "turned.tif": (lambda path: placed(path, "EPSG:32632", 0.4, 0.3, 5e5, 0.3, -0.4, 5e6), "0.5 m per pixel"),
    "ties.tif": (with_tie_points, "0.25 m per pixel"),
    "feet.tif": (lambda path: placed(path, "EPSG:2263", 1, 0, 9e5, 0, -1, 2e5), "0.305 m per pixel"),
    "kampala.tif": (
        lambda path: placed(path, "EPSG:3857", 0.0746, 0, 3627000, 0, -0.0746, 35000), "0.0746 × 0.0741 m per pixel",
    ),
    "mercator.tif": (lambda path: placed(path, "EPSG:3857", 0.5, 0, 1e6, 0, -0.5, 6.6e6), "0.316 m per pixel"),
    "ellipsoidal.tif": (lambda path: placed(path, "EPSG:3395", 0.5, 0, 1e6, 0, -0.5, 6.6e6), "0.315 m per pixel"),
    "own mercator.tif": (
        lambda path: placed(path, "+proj=merc +lat_ts=40 +y_0=1000 +datum=WGS84", 0.5, 0, 1e6, 0, -0.5, 5e6),
        "0.415 m per pixel",
    ),
    "degrees.tif": (lambda path: placed(path, "EPSG:4326", 1e-5, 0, 10, 0, -1e-5, 50), "0.717 × 1.11 m per pixel"),
    "gons.tif": (lambda path: placed(path, "EPSG:4807", 1e-5, 0, 1, 0, -1e-5, 50), "0.71 × 1 m per pixel"),
    "polar.tif": (lambda path: placed(path, "EPSG:3031", 10, 0, 5e5, 0, -10, 5e5), "size of a pixel unknown"),
    "no place.tif": (lambda path: write_tiff(path, scene(40, 60)), "size of a pixel unknown"),
    "photo.jpg": (lambda path: write_jpeg(path), "size of a pixel unknown"),
}  # fmt: skip


def test_pixels_have_the_size_that_the_file_says(tab: Browser, tmp_path: Path) -> None:
    for name, (write, words) in GROUND.items():
        write(tmp_path / name)
        tab.choose("#file", tmp_path / name)
        tab.wait(f"document.getElementById('file-name').textContent === {name!r}")
        tab.wait("document.body.dataset.state === 'opened'")
        assert words in text(tab, "file-facts"), name
        assert tab.run("document.getElementById('gsd-field').hidden") is ("unknown" not in words), name


AREAS = {
    "kampala": ("EPSG:3857", (0.0746, 0, 3627000, 0, -0.0746, 35000)),
    "tall": ("EPSG:4326", (0.5, 0, 10, 0, -0.5, 72)),  # its rows differ: 0.31 to 0.62 of the equator's length
    "utm": ("EPSG:32632", (0.3, 0, 5e5, 0, -0.3, 5e6)),
}


@pytest.mark.parametrize("name", AREAS)
def test_areas_are_those_on_the_ground(tab: Browser, tmp_path: Path, name: str) -> None:
    crs, terms = AREAS[name]
    image = tmp_path / f"{name}.tif"
    placed(image, crs, *terms)
    labels = segment(tab, image)
    found = [float(one.replace(",", "")) for one in re.findall(r"([\d,.]+)\s(?:m²|ha|km²)", text(tab, "legend"))]
    unit = {"kampala": 1.0, "tall": 1e6, "utm": 1.0}[name]
    across, _, left, _, down, top = terms
    x = left + across * np.array([0, 60, 60, 0])
    y = top + down * np.array([0, 0, 40, 40])
    x, y = map(np.array, reproject(crs, "EPSG:6933", x, y))  # a cylinder that is true to area
    total = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert sum(found) * unit == pytest.approx(total, rel=0.005)
    _, edges = map(np.array, reproject(crs, "EPSG:6933", np.full(41, left), top + down * np.arange(41)))
    weights = np.abs(np.diff(edges))[:, np.newaxis] * np.ones(60)
    expected = np.bincount(labels.ravel(), weights.ravel(), 2) / weights.sum() * total
    np.testing.assert_allclose(sorted(np.array(found) * unit), sorted(expected), rtol=0.01)


def test_areas_of_an_image_without_a_place(tab: Browser, tmp_path: Path) -> None:
    image = tmp_path / "plain.png"
    write_png(image, scene(40, 60))
    labels = segment(tab, image)
    counts = sorted(np.bincount(labels.ravel(), minlength=2))[::-1]
    assert [f"{count:,} px" in text(tab, "legend") for count in counts] == [True, True]
    assert "m²" not in text(tab, "legend")
    tab.run("(() => { const e = document.getElementById('gsd'); e.value = '0.5'; e.oninput(); })()")
    assert [f"{rounded(count / 4):,.1f} m²".replace(".0 ", " ") in text(tab, "legend") for count in counts] == [
        True
    ] * 2


# --- what is saved with its place ---


def rasterized(path: Path, like: rasterio.DatasetReader) -> np.ndarray:
    """Burns polygons into the grid of a raster; 255 where none lies."""
    features = json.loads(path.read_text("utf-8"))["features"]
    shapes = [
        (transform_geom("EPSG:4326", like.crs, one["geometry"]), one["properties"]["class_id"]) for one in features
    ]
    grid = {"out_shape": like.shape, "transform": like.transform, "fill": 255, "dtype": "uint8"}
    return rasterio.features.rasterize(shapes, **grid)


@pytest.mark.parametrize("crs", ["EPSG:32640", "EPSG:3857", "EPSG:4326"])
def test_maps_and_polygons_lie_where_the_image_lies(tab: Browser, site: Path, tmp_path: Path, crs: str) -> None:
    image = tmp_path / "scene.tif"
    step = 1e-5 if crs == "EPSG:4326" else 0.5
    corner = (55.5, 24.5) if crs == "EPSG:4326" else (5e5, 2.7e6)
    affine = rasterio.Affine(step, 0, corner[0], 0, -step, corner[1])
    write_tiff(image, nodata_scene(), nodata=7, crs=crs, transform=affine)
    labels = segment(tab, image)
    spec = open_predictor(site).spec
    with rasterio.open(save(tab, image, "geotiff")) as saved:
        np.testing.assert_array_equal(saved.read(1), labels)
        assert (saved.crs, saved.nodata, saved.dtypes) == (rasterio.CRS.from_string(crs), 255, ("uint8",))
        assert saved.transform.almost_equals(affine, 1e-12)
        assert [saved.colormap(1)[index][:3] for index in range(2)] == [tuple(one) for one in spec.palette]
        assert json.loads(saved.tags(1)["CLASS_NAMES"]) == ["dark", "bright"]
        polygons = save(tab, image, "geojson")
        for name in ("labels", "polygons"):
            tab.click(f"#style-{name}")
            style = wait_for(tab.folder / f"scene_{name}.qml")
            assert [entry.name for entry in read_palette(style)] == ["dark", "bright"]
            assert [entry.colour for entry in read_palette(style)] == list(spec.palette)
            style.unlink()
        np.testing.assert_array_equal(rasterized(polygons, saved), labels)
        features = json.loads(polygons.read_text("utf-8"))["features"]
    counts = np.bincount(labels.ravel(), minlength=256)
    for index, name in enumerate(spec.classes):
        of_class = [one["properties"] for one in features if one["properties"]["class"] == name]
        assert sum(one["pixels"] for one in of_class) == counts[index]
        if crs == "EPSG:32640":
            assert sum(one["area_m2"] for one in of_class) == pytest.approx(counts[index] / 4)
    assert all(shapely.geometry.shape(one["geometry"]).is_valid for one in features)


def test_an_image_without_a_place_is_saved_without_one(tab: Browser, tmp_path: Path) -> None:
    write_png(tmp_path / "plain.png", scene(40, 60))
    segment(tab, tmp_path / "plain.png")
    for name in ("geotiff", "geojson"):
        assert tab.run(f"document.getElementById('save-{name}').checkVisibility()") is False


# --- large images, and images by address ---


def cog(path: Path, size: int) -> np.ndarray:
    pixels = scene(size, size)
    write_tiff(path.with_suffix(".first.tif"), pixels, **UTM)
    rasterio.shutil.copy(
        path.with_suffix(".first.tif"),
        path,
        driver="COG",
        compress="DEFLATE",
        blocksize=128,
        overview_resampling="average",
    )
    return pixels


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Answers requests for ranges of files, to pages of any server; counts the bytes."""

    sent = 0

    def log_message(self, *arguments: object) -> None:
        pass

    def do_OPTIONS(self) -> None:
        self.send_response(204)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Allow-Headers", "*")
        self.end_headers()

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = content[first : last + 1]
        type(self).sent += len(part)
        self.send_response(206)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Expose-Headers", "Content-Range")
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


def small_limit(site: Path, folder: Path) -> Path:
    """A copy of a page that takes 0.04 megapixels at once."""
    shutil.copytree(site, folder)
    script = (folder / "images.js").read_text("utf-8")
    limit = "(navigator.deviceMemory ?? 8) <= 4 ? 36 : 100"
    assert limit in script
    (folder / "images.js").write_text(script.replace(limit, "0.04"), "utf-8")
    return folder


def test_a_cog_by_address_is_read_in_parts(
    empty_tab: Browser, trained: TrainedModel, litertjs: Path, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    image = tmp_path / "files" / "large.tif"
    image.parent.mkdir()
    pixels = cog(image, 700)
    handler = functools.partial(Ranges, directory=str(image.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        origin = f"http://127.0.0.1:{server.server_port}"
        write_web(trained, tmp_path / "site", Page(litertjs, urls=(origin,)), tile=TILE)
        tab = empty_tab
        open_page(tab, serve(small_limit(tmp_path / "site" / "web", tmp_path / "small")))
        tab.run(f"document.getElementById('address').value = '{origin}/large.tif'")
        tab.click("#open-address")
        tab.wait("document.body.dataset.state === 'opened'")
        assert text(tab, "file-facts").startswith("175 × 175 pixels · 2 m per pixel")
        assert "700 × 700 pixels, at 1/4 of its size" in text(tab, "part-text")
        overview_bytes, Ranges.sent = Ranges.sent, 0
        tab.click("#segment")
        tab.wait("document.body.dataset.state === 'result'")
        with rasterio.open(image, overview_level=1) as level, rasterio.open(save(tab, image, "geotiff")) as saved:
            assert saved.bounds == pytest.approx(level.bounds)
            np.testing.assert_array_equal(invisible(tab, image), level.read().transpose(1, 2, 0))
        tab.click("#read-part")
        tab.wait("document.body.dataset.state === 'opened'")
        assert "0.5 m per pixel" in text(tab, "file-facts")
        tab.click("#segment")
        tab.wait("document.body.dataset.state === 'result'")
        with rasterio.open(save(tab, image, "geotiff")) as saved:
            window = rasterio.windows.from_bounds(*saved.bounds, UTM["transform"]).round_offsets()
            top, left = int(window.row_off), int(window.col_off)
            height, width = saved.shape
        assert 30000 < height * width <= 40000 and top > 0 and left > 0
        np.testing.assert_array_equal(invisible(tab, image), pixels[top : top + height, left : left + width])
        assert overview_bytes < 0.6 * image.stat().st_size
        tab.click("#read-whole")
        tab.wait("document.body.dataset.state === 'opened'")
        assert "175 × 175" in text(tab, "file-facts")
        server.shutdown()


def test_a_large_file_without_overviews_is_shown_with_pixels_left_out(
    empty_tab: Browser, site: Path, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    open_page(empty_tab, serve(small_limit(site, tmp_path / "small")))
    image = tmp_path / "large.tif"
    pixels = scene(500, 450)
    write_tiff(image, pixels, **UTM)
    assert segment(empty_tab, image).shape == (167, 150)
    np.testing.assert_array_equal(invisible(empty_tab, image), pixels[::3, ::3])
    assert "1.5 m per pixel" in text(empty_tab, "file-facts")


# --- the page ---


def test_what_a_person_sees(tab: Browser, site: Path, tmp_path: Path) -> None:
    assert text(tab, "title") == "Bright & dark"
    assert "2 classes" in text(tab, "subtitle")
    assert tab.run("crossOriginIsolated") is True
    assert (text(tab, "engine-threads") != "") == ((os.cpu_count() or 1) > 1)
    assert text(tab, "keys").split() == ["dark", "bright"]
    image = tmp_path / "placed.tif"
    IMAGES["tiled.tif"](image)
    labels = segment(tab, image)
    assert "0.5 m per pixel" in text(tab, "file-facts")
    shares = np.bincount(labels.ravel(), minlength=2) / labels.size
    legend = text(tab, "legend")
    for name, share in zip(("dark", "bright"), shares, strict=True):
        assert name in legend
        assert f"{rounded(100 * share):.1f} %" in legend
        assert f"{rounded(share * labels.size * 0.25):,.1f} m²".replace(".0 ", " ") in legend
    tab.click("#legend li:first-child input")  # the larger class is switched off
    picture = read_image(save(tab, image, "overlay")).astype(float)
    pixels, palette = read_image(image).astype(float), np.array(open_predictor(site).spec.palette, float)
    shown = (labels != shares.argmax())[..., np.newaxis]
    expected = np.where(shown, 0.45 * pixels + 0.55 * palette[labels], pixels)
    assert np.abs(picture - expected).max() <= 0.5 + 1e-9
    assert tab.complaints("error", "warning") == []


def test_the_sample_is_one_click_away(tab: Browser, site: Path) -> None:
    tab.click("#sample")
    tab.wait("document.body.dataset.state === 'opened'")
    tab.click("#segment")
    tab.wait("document.body.dataset.state === 'result'")
    image = site / "sample.png"
    np.testing.assert_array_equal(read_label(save(tab, image, "labels")), python_labels(site, image))


def test_a_run_can_be_cancelled_and_repeated(tab: Browser, tmp_path: Path) -> None:
    image = tmp_path / "large.png"
    write_png(image, scene(500, 500))
    tab.choose("#file", image)
    tab.wait("document.body.dataset.state === 'opened'")
    tab.click("#segment")
    tab.wait("document.getElementById('progress').value > 0")
    tab.click("#cancel")
    tab.wait("document.body.dataset.state === 'opened'")
    assert "Cancelled" in text(tab, "file-facts")
    assert tab.run("document.getElementById('save-card').checkVisibility()") is False
    assert segment(tab, tmp_path / "large.png").shape == (500, 500)


def test_keys_are_enough(tab: Browser) -> None:
    for key in ("Tab", "Tab", "Enter"):  # to "Use the sample"
        tab.press(key)
    tab.wait("document.body.dataset.state === 'opened'")
    tab.press("Enter")
    tab.wait("document.body.dataset.state === 'result'")
    unnamed = tab.run(
        "[...document.querySelectorAll('button, input, canvas, progress')].filter(e => e.checkVisibility() && "
        "!(e.innerText || e.ariaLabel || e.labels?.length || e.getAttribute('aria-labelledby'))).map(e => e.id)"
    )
    assert unnamed == []


def test_nothing_is_sent_elsewhere_not_even_by_the_worker(tab: Browser) -> None:
    seen = []

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(204)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ask = f"fetch('http://127.0.0.1:{server.server_port}/', {{mode: 'no-cors'}})"
        ask += ".then(() => 'sent', () => 'refused')"
        worker = f"{ask}.then(postMessage)"
        from_worker = f"new Worker(URL.createObjectURL(new Blob([{worker!r}])))"
        assert tab.run(ask) == "refused"
        assert tab.run(f"new Promise(done => {{ {from_worker}.onmessage = e => done(e.data); }})") == "refused"
        server.shutdown()
    assert seen == []


def grey_png(path: Path) -> None:
    write_png(path, scene(9, 9)[:, :, 0])


def cut_png(path: Path) -> None:
    write_png(path, scene(50, 50))
    path.write_bytes(path.read_bytes()[:-30])


def changed_png(path: Path) -> None:
    write_png(path, scene(50, 50))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def huge_png(path: Path) -> None:
    write_png(path, scene(9, 9))
    content = path.read_bytes()
    path.write_bytes(content[:16] + struct.pack(">II", 40000, 30000) + content[24:])


def tiff_file(*entries: tuple[int, int, int, int], size: int = 2000) -> bytes:
    """A TIFF of one directory: (tag, type, count, value or offset); 3 is uint16, 4 uint32."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (b"II*\0" + struct.pack("<I", 8) + directory + bytes(4)).ljust(size, b"\0")


def hostile_tiff(width: int = 16, height: int = 16, *more: tuple[int, int, int, int], kind: int = 4) -> bytes:
    first = [(256, kind, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 2)]
    return tiff_file(*first, *more, (277, 3, 1, 3))


STRIP = ((273, 4, 1, 500), (278, 4, 1, 16), (279, 4, 1, 768))
TILE_TAGS = ((324, 4, 1, 500), (325, 4, 1, 768))


def odd_depth_png(path: Path) -> None:
    write_png(path, scene(9, 9))
    content = bytearray(path.read_bytes())
    content[24] = 3
    path.write_bytes(content)


def cut_jpeg(path: Path) -> None:
    path.write_bytes(cv2.imencode(".jpg", scene(50, 50))[1].tobytes()[:-40])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "notes.txt": (lambda path: path.write_text("no image"), "not supported"),
    "empty.png": (lambda path: path.write_bytes(b""), "empty"),
    "grey.png": (grey_png, "three bands"),
    "deep.png": (lambda path: write_png(path, scene(9, 9).astype(np.uint16) * 200), "16 bits"),
    "cut.png": (cut_png, "cut short"),
    "changed.png": (changed_png, "checksum"),
    "huge.png": (huge_png, "1200 megapixels"),
    "cut.jpg": (cut_jpeg, "cut short"),
    "grey.jpg": (lambda path: cv2.imwrite(str(path), scene(9, 9)[:, :, 0]), "grey"),
    "fractions.tif": (lambda path: write_tiff(path, scene(9, 9), dtype="float32"), "fractions of 32 bits"),
    "five.tif": (lambda path: write_tiff(path, scene(9, 9, 5), photometric="MINISBLACK"), "5 bands"),
    "lzma.tif": (lambda path: write_tiff(path, scene(9, 9), compress="lzma"), "LZW or deflate"),
    "cut.tif": (lambda path: path.write_bytes(b"II*\0\xff\xff\0\0"), "cut short"),
    "width 0.tif": (lambda path: path.write_bytes(hostile_tiff(0, 16, *STRIP)), "header is invalid"),
    "height 0.tif": (lambda path: path.write_bytes(hostile_tiff(16, 0, *STRIP)), "header is invalid"),
    "width of letters.tif": (lambda path: path.write_bytes(hostile_tiff(65, 16, *STRIP, kind=2)), "header is invalid"),
    "huge.tif": (
        lambda path: path.write_bytes(hostile_tiff(4000000000, 4000000000, *STRIP)),
        "blocks are invalid",
    ),
    "no strips.tif": (lambda path: path.write_bytes(hostile_tiff()), "blocks of pixels are missing"),
    "strips of 0 rows.tif": (
        lambda path: path.write_bytes(hostile_tiff(16, 16, *STRIP[::2], (278, 4, 1, 0))),
        "blocks are invalid",
    ),
    "strip outside.tif": (
        lambda path: path.write_bytes(hostile_tiff(16, 16, (273, 4, 1, 4000000000), *STRIP[1:])),
        "cut short",
    ),
    "tiles of 0.tif": (
        lambda path: path.write_bytes(hostile_tiff(16, 16, (322, 4, 1, 0), (323, 4, 1, 16), *TILE_TAGS)),
        "blocks are invalid",
    ),
    "huge tiles.tif": (
        lambda path: path.write_bytes(hostile_tiff(16, 16, (322, 4, 1, 1 << 31), (323, 4, 1, 1 << 31), *TILE_TAGS)),
        "blocks are invalid",
    ),
    "long header.tif": (
        lambda path: path.write_bytes(hostile_tiff(16, 16, *STRIP, (339, 1, 100000, 0)).ljust(200000, b"\0")),
        "header is invalid",
    ),
    "depth 3.png": (odd_depth_png, "header is invalid"),
}


def test_images_that_cannot_be_used_are_refused_in_plain_words(tab: Browser, tmp_path: Path) -> None:
    for name, (write, words) in BAD.items():
        image = tmp_path / name
        write(image)
        tab.run("document.getElementById('error-text').textContent = ''")
        tab.choose("#file", image)
        tab.wait("document.getElementById('error-text').textContent !== ''")
        assert words in text(tab, "error-text"), name
        assert text(tab, "error-title") == "This image cannot be used"
    long = tmp_path / "long.png"  # longer than canvases are
    write_png(long, np.zeros((1, 70000, 3), np.uint8))
    tab.choose("#file", long)
    tab.wait("document.body.dataset.state === 'opened'")
    assert "70000 × 1 pixels" in text(tab, "file-facts")
    good = tmp_path / "good.png"
    write_png(good, scene(30, 30))
    assert segment(tab, good).shape == (30, 30)  # still alive, and the error is gone
    assert tab.run("document.getElementById('error').hidden") is True


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("model_float32.tflite", lambda content: content[:-1] + b"?", "is not the file that was exported"),
        ("manifest.json", None, "manifest.json is missing"),
        ("manifest.json", lambda content: content[:99], "manifest.json is damaged"),
        ("vendor/litert.js", None, "litert.js"),
    ],
    ids=["model changed", "manifest missing", "manifest damaged", "runtime missing"],
)
def test_a_page_that_is_not_whole_says_so(
    empty_tab: Browser,
    site: Path,
    serve: Callable[[Path], str],
    tmp_path: Path,
    file: str,
    change: Callable[[bytes], bytes] | None,
    words: str,
) -> None:
    shutil.copytree(site, tmp_path / "web")
    path = tmp_path / "web" / file
    path.write_bytes(change(path.read_bytes())) if change else path.unlink()
    open_page(empty_tab, serve(tmp_path / "web"))
    assert words in text(empty_tab, "error-text")
    assert text(empty_tab, "engine-text") == "Not running"


def test_any_web_server_does(empty_tab: Browser, site: Path, tmp_path: Path) -> None:
    """One without the headers for threads, such as `python -m http.server`."""
    handler = type("Handler", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: handler(*arguments, directory=str(site))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        open_page(empty_tab, f"http://localhost:{server.server_port}/")
        assert empty_tab.run("crossOriginIsolated") is False
        assert (text(empty_tab, "engine-text"), text(empty_tab, "engine-threads")) == ("Ready", "")
        image = tmp_path / "plain.png"
        write_png(image, scene(120, 130))
        np.testing.assert_array_equal(segment(empty_tab, image), python_labels(site, image))
        server.shutdown()


def test_opened_as_a_file_it_says_what_to_do(empty_tab: Browser, site: Path) -> None:
    open_page(empty_tab, (site / "index.html").as_uri())
    assert "python serve.py" in text(empty_tab, "error-text")
