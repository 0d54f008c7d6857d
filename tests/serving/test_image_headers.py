from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio

from rsseg_tf.errors import DataError
from rsseg_tf.serving.image_headers import image_size


def encoded(suffix: str, height: int = 23, width: int = 41, *options: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.imencode(suffix, pixels, list(options))[1].tobytes()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".gif"])
def test_the_size_is_what_a_decoder_finds(suffix: str) -> None:
    assert image_size(encoded(suffix)) == (41, 23)


def test_progressive_jpegs_and_other_tiffs_are_read(tmp_path: Path) -> None:
    assert image_size(encoded(".jpg", 23, 41, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)) == (41, 23)
    for options in ({"tiled": True, "blockxsize": 16, "blockysize": 16}, {"ENDIANNESS": "BIG"}, {"interleave": "band"}):
        path = tmp_path / "x.tif"
        with rasterio.open(path, "w", driver="GTiff", width=70, height=30, count=5, dtype="uint16", **options) as file:
            file.write(np.zeros((5, 30, 70), np.uint16))
        assert image_size(path.read_bytes()) == (70, 30)


def test_a_bomb_says_how_large_it_is() -> None:
    data = bytearray(encoded(".png"))
    data[16:24] = struct.pack(">II", 40_000, 50_000)
    assert image_size(bytes(data)) == (40_000, 50_000)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".gif"])
def test_a_cut_or_altered_header_is_an_error_and_nothing_else(suffix: str) -> None:
    data = encoded(suffix)
    for length in range(0, min(len(data), 200)):
        try:
            image_size(data[:length])
        except DataError as error:
            assert str(error)
    rng = np.random.default_rng(3)
    for _ in range(500):
        changed = bytearray(data)
        for at in rng.integers(0, min(len(data), 300), 4):
            changed[at] = rng.integers(256)
        try:
            width, height = image_size(bytes(changed))
            assert width >= 1 and height >= 1
        except DataError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with the bytes nothing"),
        (b"<html>", "must be one of PNG, JPEG"),
        (encoded(".png")[:20], "cut off within its header"),
        (b"\xff\xd8" + b"\xff\xda\x00\x02" * 101, "101 scans"),
        (b"\xff\xd8\xff\xda\x00\x02", "no frame header"),
        (b"\xff\xd8\x00\x00\x00\x00", "no marker"),
        (struct.pack("<2sHIH", b"II", 42, 8, 201), "201 fields"),
        (struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 273, 4, 2**31, 8), "claims 2147483648 values"),
        (struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 256, 4, 1, 7), "7 x 0 pixels"),
    ],
)
def test_what_is_built_to_harm_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        image_size(data)
