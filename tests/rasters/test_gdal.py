"""Opening files: names that libraries take for something else, damage, sizes, and compressions that lose."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from rsseg_tf.datasets import custom_spec
from rsseg_tf.doctor import inspect_sample
from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import Sample
from rsseg_tf.rasters.gdal import Trust
from rsseg_tf.rasters.images import read_image, read_label, write_png
from rsseg_tf.rasters.scenes import open_scene, read_pixels, scene_header

PIXELS = np.random.default_rng(0).integers(1, 255, (3, 16, 16)).astype(np.uint8)
SPEC = custom_spec("toy", ("a", "b"))


def write_tiff(path: Path, bands: np.ndarray = PIXELS, **profile: Any) -> Path:
    shape = {"count": bands.shape[0], "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    with rasterio.open(path, "w", driver="GTiff", **{**shape, **profile}) as target:
        target.write(bands)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "-x.tif", "(x.tif", "{x}.tif", "a!b.tif", "a;b.tif", "a?b.tif", "a#b.tif", "a%20b.tif", "[x].tif", " x.tif",
        "file:x.tif", "zip:x.tif", "zip+file:x.tif", "http:x.tif", "s3:x.tif", "GTIFF_DIR:1:x.tif", "MEM:x.tif",
        "a\nb.tif",
    ],
)  # fmt: skip
def test_a_name_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_tiff(tmp_path / "plain").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(read_pixels(Path(name), SPEC).values, PIXELS.transpose(1, 2, 0))
    np.testing.assert_array_equal(read_image(Path(name)), PIXELS.transpose(1, 2, 0))


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = tmp_path / b"\xff.tif".decode("utf-8", "surrogateescape")
    write_tiff(tmp_path / "plain").rename(name)
    for read in (read_pixels, read_image, scene_header):
        with pytest.raises(DataError, match=r"\\xff\.tif has a name that is not UTF-8, which GDAL needs\. Rename it"):
            read(name)


@pytest.mark.parametrize("dtype", ["complex_int16", "complex64", "complex128"])
def test_complex_numbers_are_refused(tmp_path: Path, dtype: str) -> None:
    path = write_tiff(tmp_path / "a.tif", np.ones((3, 4, 4), np.complex64), dtype=dtype)
    for read in (read_pixels, read_image, scene_header):
        with pytest.raises(DataError, match=rf"a\.tif holds {dtype} values; real numbers are needed"):
            read(path)


def test_a_place_that_cannot_be_read_costs_the_place_alone(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", crs="EPSG:32633", transform=rasterio.Affine(1, 0, 5e5, 0, -1, 5e6))
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        tag, _, count, value = struct.unpack_from("<HHII", data, entry)
        if tag == 34735:  # the geographic keys
            for word in range(4, count):
                struct.pack_into("<H", data, value + 2 * word, 0xFFFF)
    path.write_bytes(data)
    with open_scene(path, spec=SPEC) as scene:
        np.testing.assert_array_equal(scene.read()[0], PIXELS.transpose(1, 2, 0))


# --- compressions that lose ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "named"),
    [
        ({"compress": "jpeg"}, "JPEG"),
        ({"compress": "jpeg", "jpeg_quality": 100}, "JPEG"),
        ({"compress": "lerc", "max_z_error": 1}, "LERC with errors up to 1"),
        ({"compress": "lerc_deflate", "max_z_error": 0.6}, "LERC_DEFLATE with errors up to 0.6"),
        ({"compress": "lerc_zstd", "max_z_error": 2}, "LERC_ZSTD with errors up to 2"),
    ],
)
def test_labels_compressed_with_losses_are_refused_and_reported(
    tmp_path: Path, profile: dict[str, Any], named: str
) -> None:
    label = write_tiff(tmp_path / "label.tif", PIXELS[:1] % 2, **profile)
    with pytest.raises(DataError, match=rf"label\.tif is a label compressed with losses \({named}\)"):
        read_label(label)
    write_png(tmp_path / "a.png", PIXELS.transpose(1, 2, 0).copy())
    (problem,) = inspect_sample(Sample(tmp_path / "a.png", label)).problems
    assert problem.code == "label-jpeg" and f"losses ({named})" in problem.message


@pytest.mark.parametrize(
    "profile", [{"compress": name} for name in ("deflate", "lzw", "packbits", "zstd", "lzma", "lerc", "lerc_zstd")]
)
def test_labels_compressed_without_losses_are_read(tmp_path: Path, profile: dict[str, Any]) -> None:
    ids = PIXELS[:1] % 2
    np.testing.assert_array_equal(read_label(write_tiff(tmp_path / "label.tif", ids, **profile)), ids[0])


# --- sizes --------------------------------------------------------------------------------------------------------


def huge_png(path: Path, side: int) -> Path:
    """Writes a PNG of few bytes that says, and holds, many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


def test_an_image_that_is_too_large_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    png = huge_png(tmp_path / "a.png", 20_000)
    tiff = tmp_path / "a.tif"
    with rasterio.open(
        tiff, "w", driver="GTiff", height=20_000, width=20_000, count=3, dtype="uint8", SPARSE_OK="TRUE", tiled=True
    ):
        pass
    assert tiff.stat().st_size < 500_000
    for path in (png, tiff):
        for read in (read_pixels, scene_header):
            with pytest.raises(DataError, match=r"20000 x 20000 pixels of 3 x uint8, which are 1,144 MiB .* 1,024 MiB"):
                read(path, SPEC)
        problems = inspect_sample(Sample(path, None), spec=SPEC).problems
        assert [problem.code for problem in problems] == ["file-unreadable"]
    assert scene_header(tiff, SPEC, trust=Trust(2**31))[0].width == 20_000
    with pytest.raises(DataError, match="1,144 MiB"):
        read_label(write_huge_label(tmp_path / "label.tif"))


def test_a_block_larger_than_its_image_is_refused(tmp_path: Path) -> None:
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=32, width=32, count=1, dtype="uint8", SPARSE_OK="TRUE",
        tiled=True, blockxsize=40_000, blockysize=40_000, compress="deflate",
    ):  # fmt: skip
        pass
    for read in (read_pixels, read_label, read_image):
        with pytest.raises(DataError, match=r"a block of .*a\.tif claims to hold 40000 x 40000 pixels"):
            read(tmp_path / "a.tif")


def write_huge_label(path: Path) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=20_000, width=60_000, count=1, dtype="uint8", SPARSE_OK="TRUE", tiled=True
    ):
        pass
    return path


def test_prediction_counts_what_is_decoded_at_once_against_its_memory(tmp_path: Path) -> None:
    from rsseg_tf.predict import InferenceOptions, OutputOptions, SceneOptions
    from tests.fixtures.scenes import predict_files

    paths = [huge_png(tmp_path / "a.png", 12_000), tmp_path / "strip.tif"]
    with rasterio.open(
        paths[1], "w", driver="GTiff", height=12_000, width=12_000, count=3, dtype="uint8", SPARSE_OK="TRUE",
        tiled=True, blockxsize=12_000, blockysize=12_000, interleave="pixel",
    ):  # fmt: skip
        pass
    options = SceneOptions(max_memory=500 * 2**20)
    results = predict_files(
        paths, lambda batch: batch[..., :2].astype(np.float32), SPEC, tmp_path / "out", InferenceOptions(),
        scenes=options, output=OutputOptions(pictures=False),
    )  # fmt: skip
    for result in results:
        assert "MiB are allowed. Convert it to a tiled GeoTIFF" in str(result.error)
