"""TIFFs that are sent to a server."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile

from rsseg_tf.errors import DataError
from rsseg_tf.serving.tiffs import decode_tiff, is_tiff
from tests.fixtures.tiffs import tiff

RNG = np.random.default_rng(0)


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
    "compressed": {"compress": "deflate"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bands", [1, 5])
@pytest.mark.parametrize(
    ("stored", "dtype"),
    [("uint8", "uint8"), ("uint8", "float32"), ("uint16", "float32"), ("int16", "float32"), ("float32", "float32")],
)
def test_tiffs(layout: str, bands: int, stored: str, dtype: str) -> None:
    pixels = image(37, 53, bands, dtype=stored)
    data = tiff(pixels, **LAYOUTS[layout])
    decoded = decode_tiff(data, bands=bands, dtype=dtype)
    assert is_tiff(data) and decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, pixels)


def test_an_alpha_band_is_dropped() -> None:
    pixels = image(9, 11, 4)
    data = tiff(pixels, photometric="RGB", alpha="YES")
    np.testing.assert_array_equal(decode_tiff(data, bands=3, dtype="uint8"), pixels[..., :3])


RGB = image(9, 11, 3)


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
        # a claim that would take gigabytes: 60000 columns and rows
        (claiming(claiming(tiff(RGB), 256, value=60000), 257, value=60000), "cannot be read"),
        (claiming(tiff(RGB), 273, count=2**31 - 1), "cannot be read"),
        (tiff(image(9, 11, 2)), "needs 3 bands; the TIFF has 2"),
        (tiff(image(9, 11, 4), photometric="RGB", alpha="NO"), "needs 3 bands; the TIFF has 4"),
        (tiff(RGB.astype("uint16")), "are uint16, which does not fit the model's uint8"),
        (tiff(RGB)[:-20], "cannot be read"),
        (b"II*\x00", "cannot be read"),
    ],
)
def test_what_cannot_be_decoded_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode_tiff(data, bands=3, dtype="uint8")


def test_a_palette_is_refused() -> None:
    with MemoryFile() as file:
        with file.open(driver="GTiff", height=4, width=4, count=1, dtype="uint8", photometric="palette") as target:
            target.write_colormap(1, {0: (1, 2, 3), 1: (4, 5, 6)})
            target.write(np.zeros((1, 4, 4), np.uint8))
        data = bytes(file.read())
    with pytest.raises(DataError, match="must not have a palette"):
        decode_tiff(data, bands=1, dtype="uint8")


def test_rasterio_is_the_writer() -> None:
    """The layouts above are what they claim to be."""
    with MemoryFile(tiff(image(37, 53, 5), **LAYOUTS["planar tiles"])) as file, file.open() as source:
        assert source.profile["tiled"] and source.block_shapes[0] == (16, 16)
        assert source.interleaving == rasterio.enums.Interleaving.band
    assert tiff(RGB, ENDIANNESS="BIG")[:2] == b"MM"
