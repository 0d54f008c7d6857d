"""Pictures that are decoded in a graph, against the readers of this package."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.export.savedmodel import decode_picture
from rsseg_tf.rasters.images import read_image, write_image

RNG = np.random.default_rng(0)
DECODERS = {
    (bands, dtype): tf.function(
        lambda data, bands=bands, dtype=dtype: decode_picture(data, bands=bands, dtype=dtype),
        input_signature=[tf.TensorSpec((), tf.string)],
    )
    for bands in (1, 3)
    for dtype in ("uint8", "float32")
}


def decode(data: bytes, bands: int = 3, dtype: str = "uint8") -> np.ndarray:
    result: np.ndarray = DECODERS[bands, dtype](tf.constant(data)).numpy()
    assert result.dtype == dtype
    return result


def image(*shape: int, dtype: str = "uint8") -> np.ndarray:
    limits = {"uint8": (0, 256), "uint16": (0, 65536), "int16": (-32768, 32768), "float32": (-1e4, 1e4)}
    return RNG.uniform(*limits[dtype], shape).astype(dtype)


def test_an_alpha_band_is_dropped() -> None:
    pixels = image(9, 11, 4)
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


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"II*\x00" + bytes(90), "Unknown image file format"),
        (b"nothing", "Unknown image file format"),
        (b"", "Unknown image file format|Input is empty"),
        (DEEP, "8 bits per band; the PNG has 16"),
        (cv2.imencode(".png", RGB[..., 0])[1].tobytes(), "needs 3 bands; the image has"),
    ],
)
def test_what_cannot_be_decoded_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decode(data)
