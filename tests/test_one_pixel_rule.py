"""One rule for pixels: what a file holds means the same to training, evaluation, the check and prediction.

A matrix of files (types, marks, nodata, masks, order, kinds) goes through every reader.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from rsseg_tf.data import SampleReader
from rsseg_tf.datasets import DatasetSpec, custom_spec
from rsseg_tf.doctor import inspect_sample
from rsseg_tf.errors import DataError
from rsseg_tf.evaluate.evaluation import evaluate
from rsseg_tf.export.tiles import read_tiles
from rsseg_tf.files.lists import Sample
from rsseg_tf.predict import InferenceOptions, OutputOptions
from rsseg_tf.rasters.images import read_label, write_png
from rsseg_tf.rasters.inspection import Inspection
from rsseg_tf.rasters.scenes import open_scene, read_pixels
from rsseg_tf.rasters.windows import Size, Window
from tests.fixtures.scenes import predict_files

SIZE = Size(24, 32)
Make = Callable[[Path], Path]


def picture(bands: int = 3, dtype: str = "uint8", top: int = 200) -> NDArray:
    """Returns `(bands, H, W)` values of 1..top - 1."""
    return np.random.default_rng(bands).integers(1, top, (bands, *SIZE)).astype(dtype)


def write_tiff(path: Path, bands: NDArray, **profile: Any) -> Path:
    marks, names = profile.pop("marks", None), profile.pop("names", None)
    mask = profile.pop("mask", None)
    internal = profile.pop("internal", "YES")
    shape = {"count": bands.shape[0], "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    place = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500000, 0, -0.5, 5400000)}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal),
        rasterio.open(path, "w", driver="GTiff", **{**shape, **place, **profile}) as target,
    ):
        if marks:
            target.colorinterp = [ColorInterp[mark] for mark in marks]
        target.write(bands)
        for band, name in enumerate(names or (), 1):
            target.set_band_description(band, name)
        if mask is not None:
            target.write_mask(mask)
    return path


def spec_of(bands: int = 3, **more: Any) -> DatasetSpec:
    return custom_spec("toy", ("dark", "bright"), bands=bands, **more)


NAMED: dict[str, Any] = {"band_names": ("red", "green", "blue")}
CORNER = np.s_[:4, :5]
DATA = np.where(np.indices(SIZE).sum(0) > 6, 255, 0).astype(np.uint8)


def with_(bands: NDArray, value: float, where: Any = CORNER, band: int | None = None) -> NDArray:
    """Returns bands that hold a value in a part, in one band or in all."""
    changed = bands.copy()
    chosen = changed if band is None else changed[band : band + 1]
    chosen[(slice(None), *where)] = value
    return changed


def corner() -> NDArray[np.bool_]:
    found = np.zeros(SIZE, bool)
    found[CORNER] = True
    return found


def tiff(bands: NDArray, **profile: Any) -> Make:
    return lambda folder: write_tiff(folder / "a.tif", bands, **profile)


def png(bands: NDArray) -> Make:
    def make(folder: Path) -> Path:
        write_png(folder / "a.png", np.ascontiguousarray(bands.transpose(1, 2, 0)))
        return folder / "a.png"

    return make


def jpeg(bands: NDArray) -> Make:
    def make(folder: Path) -> Path:
        cv2.imwrite(str(folder / "a.jpg"), bands.transpose(1, 2, 0)[..., ::-1])
        return folder / "a.jpg"

    return make


def vrt(bands: NDArray, nodata: tuple[float, ...] = (), types: tuple[str, ...] = (), head: str = "") -> Make:
    """Bands of a TIFF as a VRT, with nodata and type of their own."""

    def make(folder: Path) -> Path:
        write_tiff(folder / "source.tif", bands)
        parts = []
        for number in range(1, len(bands) + 1):
            declared = f"<NoDataValue>{nodata[number - 1]}</NoDataValue>" if nodata else ""
            kind = types[number - 1] if types else "Byte"
            parts.append(
                f'<VRTRasterBand dataType="{kind}" band="{number}">{declared}<SimpleSource>'
                f'<SourceFilename relativeToVRT="1">source.tif</SourceFilename><SourceBand>{number}</SourceBand>'
                "</SimpleSource></VRTRasterBand>"
            )
        size = f'rasterXSize="{SIZE[1]}" rasterYSize="{SIZE[0]}"'
        (folder / "a.vrt").write_text(f"{head}<VRTDataset {size}>{''.join(parts)}</VRTDataset>", "utf-8")
        return folder / "a.vrt"

    return make


RGB, RGBN = picture(), picture(4)
WIDE = picture(3, "uint16", 9000)
FLOAT = picture(3, "float32")
REFLECTANCE: dict[str, Any] = {"max_value": 10000.0, "mean": (0.2,) * 3, "std": (0.1,) * 3}

# Each: the file, the spec that it is read for, the values (C, H, W) that are right, and where there is no data.
MATRIX: dict[str, tuple[Make, DatasetSpec, NDArray, NDArray[np.bool_] | None]] = {
    "8 bits": (tiff(RGB), spec_of(), RGB, None),
    "PNG": (png(RGB), spec_of(), RGB, None),
    "VRT": (vrt(RGB), spec_of(), RGB, None),
    "VRT with a declaration": (vrt(RGB, head='\ufeff<?xml version="1.0"?>\n<!-- May -->\n'), spec_of(), RGB, None),
    "VRT of two types": (vrt(RGB, types=("Byte", "UInt16", "Byte")), spec_of(), RGB.astype(np.uint16), None),
    "bands described": (tiff(RGB[::-1], names=("Blue", "Green", "Red")), spec_of(**NAMED), RGB, None),
    "bands marked": (tiff(RGB[::-1], marks=("blue", "green", "red")), spec_of(**NAMED), RGB, None),
    "near infrared first": (
        tiff(RGBN[[3, 2, 1, 0]], marks=("nir", "blue", "green", "red")), spec_of(**NAMED), RGBN[:3], None,
    ),
    "described as numbers": (
        tiff(RGB[::-1], marks=("blue", "green", "red"), names=("Band 1", "Band 2", "Band 3")), spec_of(**NAMED), RGB,
        None,
    ),
    "default marks of another order": (
        tiff(RGB, photometric="RGB"), spec_of(band_names=("blue", "green", "red")), RGB, None,
    ),
    "alpha": (
        tiff(np.concatenate([RGB, DATA[None]]), photometric="RGB", alpha="yes"), spec_of(), RGB, DATA == 0,
    ),
    "alpha of a PNG": (png(np.concatenate([RGB, DATA[None]])), spec_of(), RGB, DATA == 0),
    "fourth band marked alpha": (tiff(RGBN, photometric="RGB", alpha="yes"), spec_of(4), RGBN, None),
    "PNG of four bands": (png(RGBN), spec_of(4), RGBN, None),
    "five bands": (tiff(picture(5)), spec_of(5), picture(5), None),
    "mask inside": (tiff(RGB, mask=DATA), spec_of(), RGB, DATA == 0),
    "mask beside": (tiff(RGB, mask=DATA, internal="NO"), spec_of(), RGB, DATA == 0),
    "nodata 255": (
        tiff(with_(with_(RGB, 255), 255, np.s_[10:20, 10:20], band=0), nodata=255), spec_of(),
        with_(with_(RGB, 255), 255, np.s_[10:20, 10:20], band=0), corner(),
    ),
    "nodata 0": (
        tiff(with_(with_(RGB, 0), 0, np.s_[10:20, 10:20], band=2), nodata=0), spec_of(),
        with_(with_(RGB, 0), 0, np.s_[10:20, 10:20], band=2), corner(),
    ),
    "nodata 65535, saturated": (
        tiff(with_(with_(WIDE, 65535), 65535, np.s_[10:20, 10:20], band=1), nodata=65535),
        spec_of(max_value=65535.0), with_(with_(WIDE, 65535), 65535, np.s_[10:20, 10:20], band=1),
        corner(),
    ),
    "nodata of each band": (
        vrt(np.stack([with_(RGB[i : i + 1], i + 201)[0] for i in range(3)]), nodata=(201, 202, 203)), spec_of(),
        np.stack([with_(RGB[i : i + 1], i + 201)[0] for i in range(3)]), corner(),
    ),
    "nodata that no byte can be": (tiff(FLOAT, nodata=-9999), spec_of(), FLOAT, None),
    "nodata -9999": (
        tiff(with_(with_(FLOAT, -9999), -9999, np.s_[10, 10:12], band=0), nodata=-9999), spec_of(),
        with_(with_(FLOAT, 127.5), 127.5, np.s_[10, 10:12], band=0), corner(),
    ),
    "not a number": (tiff(with_(FLOAT, np.nan, band=1)), spec_of(), with_(FLOAT, 127.5, band=1), corner()),
    **{
        f"undeclared {value:g}": (tiff(with_(FLOAT, value)), spec_of(), with_(FLOAT, 127.5), corner())
        for value in (-9999, -32768, 1e20, float(np.finfo(np.float32).min), 65535, -99999)
    },
    "undeclared 65535 among reflectance": (
        tiff(with_(with_(WIDE, 65535), 65535, np.s_[10, 10:12], band=2)), spec_of(**REFLECTANCE),
        with_(with_(WIDE, 2000), 2000, np.s_[10, 10:12], band=2), corner(),
    ),
    "undeclared -9999 in 16 bits": (
        tiff(with_(WIDE.astype(np.int16), -9999)), spec_of(**REFLECTANCE), with_(WIDE.astype(np.int16), 2000), corner(),
    ),
    "decibels": (
        tiff(-FLOAT / 8), spec_of(max_value=1.0, mean=(-12.0,) * 3, std=(5.0,) * 3), -FLOAT / 8, None,
    ),
    "snow above max_value": (tiff(with_(WIDE, 14000)), spec_of(**REFLECTANCE), with_(WIDE, 14000), None),
}  # fmt: skip


@pytest.fixture(params=MATRIX)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Sample, DatasetSpec, NDArray, NDArray[np.bool_]]:
    make, spec, values, nodata = MATRIX[request.param]
    ids = np.full(SIZE, 1, np.uint8)
    write_png(tmp_path / "label.png", ids)
    none = np.zeros(SIZE, bool) if nodata is None else nodata
    return Sample(make(tmp_path), tmp_path / "label.png"), spec, values.transpose(1, 2, 0), none


def test_all_readers_see_the_same_pixels_and_the_same_nodata(
    case: tuple[Sample, DatasetSpec, NDArray, NDArray[np.bool_]],
) -> None:
    sample, spec, values, nodata = case
    trained, label = SampleReader([sample], spec)(0)
    np.testing.assert_array_equal(trained, values)
    assert trained.dtype == values.dtype
    np.testing.assert_array_equal(label == spec.ignore_index, nodata)
    Inspection([sample], spec).raise_first()

    with open_scene(sample.image, spec=spec) as scene:  # prediction, in parts
        parts = [scene.read(window) for window in _halves()]
    np.testing.assert_array_equal(np.concatenate([pixels for pixels, _ in parts]), values)
    found = [np.zeros(pixels.shape[:2], bool) if none is None else none for pixels, none in parts]
    np.testing.assert_array_equal(np.concatenate(found), nodata)

    (calibrated,) = read_tiles([sample.image], spec, SIZE)
    np.testing.assert_array_equal(calibrated, values)

    facts = inspect_sample(sample, spec=spec)
    assert facts.image is not None and (facts.image.bands, facts.image.dtype) == (spec.bands, str(values.dtype))
    assert not {problem.code for problem in facts.problems} - {"image-reading", "nodata-values", "not-finite"}
    kept = values[~nodata]
    for band, moments in enumerate(facts.image.moments):
        assert moments.low >= kept[:, band].min() - 1e-6 and moments.high <= kept[:, band].max() + 1e-6


def _halves() -> list[Window]:
    return [Window(0, 0, 11, SIZE[1]), Window(11, 0, *SIZE)]


def bright(batch: NDArray) -> NDArray[np.float32]:
    """A model that looks around: bright is what is above 100 in the mean of 5 x 5 pixels and all bands."""
    means = np.stack([cv2.blur(one.astype(np.float32).mean(-1), (5, 5)) for one in batch])
    return np.stack([np.full_like(means, 100), means], -1)


def test_evaluation_counts_what_prediction_labels(tmp_path: Path) -> None:
    """Half the image is nodata that is labelled: prediction masks it, and evaluation does not count it."""
    bands = with_(RGB, 255, np.s_[:12, :])
    image = write_tiff(tmp_path / "a.tif", bands, nodata=255)
    spec = spec_of()
    options = InferenceOptions()
    (result,) = predict_files([image], bright, spec, tmp_path / "out", options, output=OutputOptions(pictures=False))
    assert result.ok and "geotiff" in result.files
    predicted = read_label(result.files["geotiff"])
    assert (predicted[:12] == spec.ignore_index).all() and (predicted[12:] != spec.ignore_index).all()
    write_png(tmp_path / "label.png", np.where(predicted == 255, 0, predicted).astype(np.uint8))
    seen: list[NDArray] = []
    scores = evaluate(
        bright, [Sample(image, tmp_path / "label.png")], spec, options,
        observe=lambda _i, _image, label, prediction: seen.extend((label, prediction)),
    )  # fmt: skip
    assert scores.acc == 1.0 and scores.label_pixels.sum() == 12 * SIZE[1]
    np.testing.assert_array_equal(np.where(seen[0] == 255, 255, seen[1]), predicted)


def test_a_few_sentinels_change_no_other_label(tmp_path: Path) -> None:
    paths = [write_tiff(tmp_path / "clean.tif", FLOAT)]
    for name, value in (("a", -9999.0), ("b", 1e20), ("c", float(np.finfo(np.float32).min))):
        paths.append(write_tiff(tmp_path / f"{name}.tif", with_(FLOAT, value)))
    results = predict_files(
        paths, bright, spec_of(), tmp_path / "out", InferenceOptions(), output=OutputOptions(pictures=False)
    )
    clean, *others = [read_label(result.files["geotiff"]) for result in results if result.ok]
    assert len(others) == 3
    for result, labels in zip(results[1:], others, strict=True):
        assert (labels[CORNER] == 255).all()
        np.testing.assert_array_equal(labels[8:, 8:], clean[8:, 8:])
        assert "taken for no data though the file does not declare it" in str(result.note)


def test_what_a_user_must_know_is_said_alike(tmp_path: Path) -> None:
    alpha = write_tiff(tmp_path / "alpha.tif", RGBN, photometric="RGB", alpha="yes")
    label = tmp_path / "label.png"
    write_png(label, np.ones(SIZE, np.uint8))
    words = "band 4 is marked alpha and taken as data"
    assert [words in line for line in Inspection([Sample(alpha, label)], spec_of(4)).raise_first().notes()] == [True]
    (problem,) = inspect_sample(Sample(alpha, label), spec=spec_of(4)).problems
    assert problem.code == "image-reading" and words in problem.message
    (result,) = predict_files(
        [alpha], bright, spec_of(4), tmp_path / "out", InferenceOptions(), output=OutputOptions(pictures=False)
    )
    assert words in str(result.note)


def exif(orientation: int) -> bytes:
    entry = struct.pack("<HHIHH", 274, 3, 1, orientation, 0)
    return b"II*\x00" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)


def turned_jpeg(folder: Path) -> Path:
    data = jpeg(RGB)(folder).read_bytes()
    segment = b"Exif\x00\x00" + exif(6)
    (folder / "a.jpg").write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:])
    return folder / "a.jpg"


def palette_tiff(folder: Path) -> Path:
    write_tiff(folder / "a.tif", RGB[:1] % 4, photometric="palette")
    with rasterio.open(folder / "a.tif", "r+") as target:
        target.write_colormap(1, {0: (1, 2, 3), 1: (4, 5, 6), 2: (7, 8, 9), 3: (9, 9, 9)})
    return folder / "a.tif"


def test_the_orientation_of_a_camera_is_named(tmp_path: Path) -> None:
    pixels = read_pixels(turned_jpeg(tmp_path), spec_of())
    assert pixels.values.shape == (*SIZE, 3)
    assert pixels.notes == ("has orientation 6, which is not followed: rows and columns are taken as stored",)


def test_pages_are_named(tmp_path: Path) -> None:
    pages = [RGB.transpose(1, 2, 0).copy()] * 3
    assert cv2.imwritemulti(str(tmp_path / "a.tif"), pages)
    assert "has 3 pages; the first is read" in read_pixels(tmp_path / "a.tif", spec_of()).notes
    with pytest.raises(DataError, match=r"has 3 bands, but the dataset 'toy' has 5\..* It has 3 pages"):
        read_pixels(tmp_path / "a.tif", spec_of(5))


def test_a_colour_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 1 band, which holds indices into a colour table.* -expand rgb"):
        read_pixels(palette_tiff(tmp_path), spec_of())


def test_parts_of_a_png_that_overlap_see_the_same_sentinels(tmp_path: Path) -> None:
    path = png(with_(WIDE, 65535))(tmp_path)
    with open_scene(path, spec=spec_of(**REFLECTANCE)) as scene:
        first, second = (scene.look(Window(0, 0, 10, SIZE[1])) for _ in range(2))
    np.testing.assert_array_equal(first.values, second.values)
    assert first.nodata is not None and second.nodata is not None
    np.testing.assert_array_equal(first.nodata, second.nodata)
