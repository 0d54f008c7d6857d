"""Encoded images in a graph, against the readers of this package."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import tensorflow as tf
from rasterio.io import MemoryFile

from rsseg_tf.export.decode import decode_pixels
from rsseg_tf.rasters.images import read_image, write_image
from tests.fixtures.tiffs import tiff

RNG = np.random.default_rng(0)
DECODERS = {
    (bands, dtype): tf.function(
        lambda data, bands=bands, dtype=dtype: decode_pixels(data, bands=bands, dtype=dtype),
        input_signature=[tf.TensorSpec((), tf.string)],
    )
    for bands in (1, 3, 5)
    for dtype in ("uint8", "float32")
}


def decode(data: bytes, bands: int = 3, dtype: str = "uint8") -> np.ndarray:
    result: np.ndarray = DECODERS[bands, dtype](tf.constant(data)).numpy()
    assert result.dtype == dtype
    return result


def image(*shape: int, dtype: str = "uint8") -> np.ndarray:
    limits = {"uint8": (0, 256), "uint16": (0, 65536), "int16": (-32768, 32768), "float32": (-1e4, 1e4)}
    return RNG.uniform(*limits[dtype], shape).astype(dtype)


LAYOUTS: dict[str, dict[str, object]] = {
    "one strip or more": {},
    "strips of seven rows": {"blockysize": 7},
    "planar": {"interleave": "band"},
    "tiles": {"tiled": True, "blockxsize": 16, "blockysize": 32},
    "planar tiles": {"tiled": True, "blockxsize": 16, "blockysize": 16, "interleave": "band"},
    "big endian": {"ENDIANNESS": "BIG"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bands", [1, 5])
@pytest.mark.parametrize(
    ("stored", "dtype"),
    [("uint8", "uint8"), ("uint8", "float32"), ("uint16", "float32"), ("int16", "float32"), ("float32", "float32")],
)
def test_tiffs(layout: str, bands: int, stored: str, dtype: str) -> None:
    pixels = image(37, 53, bands, dtype=stored)
    np.testing.assert_array_equal(decode(tiff(pixels, **LAYOUTS[layout]), bands, dtype), pixels)


def test_an_alpha_band_is_dropped() -> None:
    pixels = image(9, 11, 4)
    np.testing.assert_array_equal(decode(tiff(pixels, photometric="RGB", alpha="YES")), pixels[..., :3])
    png = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA))[1].tobytes()
    np.testing.assert_array_equal(decode(png), pixels[..., :3])


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_pictures_are_read_as_from_disk(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / name, cv2.resize(image(4, 5, 3), (40, 32), interpolation=cv2.INTER_CUBIC))
    np.testing.assert_array_equal(decode((tmp_path / name).read_bytes()), read_image(tmp_path / name))


def test_a_png_of_sixteen_bits_keeps_its_values(tmp_path: Path) -> None:
    for dtype in ("uint16", "uint8"):
        pixels = image(8, 9, 3, dtype=dtype)
        write_image(tmp_path / "a.png", pixels)
        np.testing.assert_array_equal(decode((tmp_path / "a.png").read_bytes(), 3, "float32"), pixels)


RGB = image(9, 11, 3)
DEEP = cv2.imencode(".png", RGB.astype(np.uint16))[1].tobytes()


def claiming(data: bytes, tag: int, *, count: int | None = None, value: int | None = None) -> bytes:
    """Changes an entry of a little-endian TIFF's directory."""
    start = int.from_bytes(data[4:8], "little") + 2
    entry = next(at for at in range(start, len(data), 12) if int.from_bytes(data[at : at + 2], "little") == tag)
    changed = bytearray(data)
    for at, number in ((entry + 4, count), (entry + 8, value)):
        if number is not None:
            changed[at : at + 4] = number.to_bytes(4, "little")
    return bytes(changed)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        # claims that would take gigabytes: 60000 columns and rows, two thousand million strips
        (claiming(claiming(tiff(RGB), 256, value=60000), 257, value=60000), "shorter than its pixels"),
        (claiming(tiff(RGB), 273, count=2**31 - 1), "is not in|out of bounds"),
        (claiming(tiff(RGB), 258, count=2**31 - 1), "is not in|out of bounds"),
        (tiff(RGB, compress="deflate"), "must not be compressed"),
        (tiff(image(9, 11, 2)), "needs 3 bands; the TIFF has"),
        (tiff(image(9, 11, 4), photometric="RGB", alpha="NO"), "needs 3 bands; the TIFF has"),
        (tiff(RGB.astype("uint16")), "do not fit uint8"),
        (tiff(RGB)[:-20], "is not in"),
        (b"II*\x00", "is not in"),
        (b"II+\x00" + bytes(90), "Unknown image file format"),
        (b"nothing", "Unknown image file format"),
        (b"", "Unknown image file format|Input is empty"),
        (DEEP, "8 bits per band; the PNG has 16"),
        (cv2.imencode(".png", RGB[..., 0])[1].tobytes(), "needs 3 bands; the image has"),
    ],
)
def test_what_cannot_be_decoded_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decode(data)


def test_a_palette_is_refused() -> None:
    with MemoryFile() as file:
        with file.open(driver="GTiff", height=4, width=4, count=1, dtype="uint8", photometric="palette") as target:
            target.write_colormap(1, {0: (1, 2, 3), 1: (4, 5, 6)})
            target.write(np.zeros((1, 4, 4), np.uint8))
        data = bytes(file.read())
    with pytest.raises(tf.errors.InvalidArgumentError, match="must not have a palette"):
        decode(data, bands=1)


def test_rasterio_is_the_writer() -> None:
    """The layouts above are what they claim to be."""
    with MemoryFile(tiff(image(37, 53, 5), **LAYOUTS["planar tiles"])) as file, file.open() as source:
        assert source.profile["tiled"] and source.block_shapes[0] == (16, 16)
        assert source.interleaving == rasterio.enums.Interleaving.band
    assert tiff(RGB, ENDIANNESS="BIG")[:2] == b"MM"
