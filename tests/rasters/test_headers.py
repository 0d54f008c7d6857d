from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import tensorflow as tf

from rsseg_tf.errors import DataError
from rsseg_tf.rasters.headers import encoded_size
from tests.fixtures.gifs import gif


def encoded(suffix: str, height: int = 23, width: int = 41, *options: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.imencode(suffix, pixels, list(options))[1].tobytes()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".gif"])
def test_the_size_is_what_a_decoder_finds(suffix: str) -> None:
    assert encoded_size(encoded(suffix))[:2] == (41, 23)


def test_progressive_jpegs_and_other_tiffs_are_read(tmp_path: Path) -> None:
    assert encoded_size(encoded(".jpg", 23, 41, cv2.IMWRITE_JPEG_PROGRESSIVE, 1))[:2] == (41, 23)
    for options in ({"tiled": True, "blockxsize": 16, "blockysize": 16}, {"ENDIANNESS": "BIG"}, {"interleave": "band"}):
        path = tmp_path / "x.tif"
        with rasterio.open(path, "w", driver="GTiff", width=70, height=30, count=5, dtype="uint16", **options) as file:
            file.write(np.zeros((5, 30, 70), np.uint16))
        assert encoded_size(path.read_bytes())[:2] == (70, 30)


@pytest.mark.parametrize(
    ("screen", "frames", "size"),
    [
        ((5, 5), [(5, 5)], (5, 5, 25)),
        ((50, 40), [(5, 7)], (5, 7, 35)),
        ((1, 1), [(400, 7), (3, 9)], (400, 9, 2827)),
        ((1, 1), [(30_000, 30_000)], (30_000, 30_000, 900_000_000)),
        ((8, 8), [(1000, 1000)] * 200, (1000, 1000, 200_000_000)),
    ],
)
def test_every_frame_of_a_gif_counts(
    screen: tuple[int, int], frames: list[tuple[int, int]], size: tuple[int, int, int]
) -> None:
    data = gif(screen, frames[:3], comments=3) if sum(w * h for w, h in frames) < 10_000 else _hollow(screen, frames)
    assert encoded_size(data) == size
    if size[2] < 10_000:
        assert tf.io.decode_image(data, expand_animations=False).shape == (size[1], size[0], 3)


def _hollow(screen: tuple[int, int], frames: list[tuple[int, int]]) -> bytes:
    """A GIF whose frames have no pixels: only what says how large they are."""
    blocks = [b"\x2c" + struct.pack("<HHHHBB", 0, 0, *frame, 0, 2) + b"\x00" for frame in frames]
    return b"GIF89a" + struct.pack("<HHBBB", *screen, 0, 0, 0) + b"".join(blocks) + b"\x3b"


@pytest.mark.parametrize(
    "data",
    [
        cv2.imencode(".webp", np.zeros((8, 8, 3), np.uint8))[1].tobytes(),
        b"GIF88a" + gif((5, 5), [(5, 5)])[6:],
        b"\x00\x00\x00\x1cftypavif" + bytes(100),
        b"II+\x00\x08\x00\x00\x00" + bytes(100),
    ],
    ids=["WebP, which TensorFlow decodes", "another GIF", "AVIF", "BigTIFF"],
)
def test_formats_that_are_not_looked_into_are_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="must be one of PNG, JPEG, BMP, GIF and TIFF"):
        encoded_size(data)


def test_of_two_widths_of_a_tiff_the_first_counts() -> None:
    fields = [(256, 3, 1, 500), (257, 3, 1, 9), (256, 3, 1, 1)]
    data = struct.pack("<2sHIH", b"II", 42, 8, len(fields)) + b"".join(struct.pack("<HHII", *field) for field in fields)
    assert encoded_size(data)[:2] == (500, 9)


def test_a_bomb_says_how_large_it_is() -> None:
    data = bytearray(encoded(".png"))
    data[16:24] = struct.pack(">II", 40_000, 50_000)
    assert encoded_size(bytes(data))[:2] == (40_000, 50_000)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".gif"])
def test_a_cut_or_altered_header_is_an_error_and_nothing_else(suffix: str) -> None:
    data = encoded(suffix)
    for length in range(0, min(len(data), 200)):
        try:
            encoded_size(data[:length])
        except DataError as error:
            assert str(error)
    rng = np.random.default_rng(3)
    for _ in range(500):
        changed = bytearray(data)
        for at in rng.integers(0, min(len(data), 300), 4):
            changed[at] = rng.integers(256)
        try:
            width, height, _ = encoded_size(bytes(changed))
            assert width >= 1 and height >= 1
        except DataError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with the bytes nothing"),
        (b"<html>", "must be one of PNG, JPEG"),
        (encoded(".png")[:20], "its header is cut short"),
        (encoded(".bmp")[:20], "cut off within its header"),
        (b"\xff\xd8" + b"\xff\xda\x00\x02" * 101, "101 scans"),
        (b"\xff\xd8\xff\xda\x00\x02", "no frame header"),
        (b"\xff\xd8\x00\x00\x00\x00", "must be one of PNG, JPEG"),
        (b"\xff\xd8\xff\xe0\x00\x02\x00\x00\x00\x00", "no marker"),
        (b"\xff\xd8\xff\xe0\x00\x00\x00\x00\x00\x00", "without a length"),
        (struct.pack("<2sHIH", b"II", 42, 8, 201), "201 fields"),
        (struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 273, 4, 2**31, 8), "claims 2147483648 values"),
        (struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 256, 4, 1, 7), "7 x 0 pixels"),
        (struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 256, 11, 1, 7), "no whole number"),
        (_hollow((5, 5), [(1, 1)] * 300), "more than 256 frames"),
        (gif((5, 5), [(1, 1)], comments=5000), "4096 blocks of comments"),
        (gif((5, 5), []), "has no frame"),
        (gif((5, 5), [(0, 5)]), "0 x 5 pixels"),
        (gif((5, 5), [(5, 5)])[:-1], "cut off"),
        (gif((5, 5), [(5, 5)])[:-1] + b"\x99", "unknown kind 153"),
    ],
)
def test_what_is_built_to_harm_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encoded_size(data)
