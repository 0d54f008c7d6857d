from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from numpy.typing import DTypeLike
from rasterio import Affine

from rsseg_tf.errors import DataError
from rsseg_tf.rasters.images import decode_image, image_header, png_palette, read_image, read_label, write_png

RNG = np.random.default_rng(7)
PALETTE = ((226, 169, 41), (132, 41, 246), (110, 193, 228))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def make_png(rows: list[bytes], width: int, depth: int, colour: int, extra: bytes = b"") -> bytes:
    """A PNG by hand, so that nothing of the code under test takes part."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def write_tiff(path: Path, bands: np.ndarray, **options: Any) -> None:
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype, **options
    ) as file:
        file.write(bands)


def picture(height: int = 40, width: int = 60, bands: int = 3, dtype: DTypeLike = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, (height, width, bands)).astype(dtype)


def smooth_jpeg(progressive: bool = False, exif: bytes = b"") -> bytes:
    image = cv2.GaussianBlur(picture(200, 300), (0, 0), 3)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)])[1].tobytes()
    return data[:2] + exif + data[2:]


# --- reading images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_round_trip(tmp_path: Path, bands: int, dtype: DTypeLike) -> None:
    image = picture(bands=bands, dtype=dtype)
    write_png(tmp_path / "a.png", image)
    back = read_image(tmp_path / "a.png")
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, image)
    header = image_header(tmp_path / "a.png")
    assert (header.height, header.width, header.bands, header.dtype) == (40, 60, bands, np.dtype(dtype).name)


def test_png_is_red_first(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(make_png([bytes([255, 10, 20])], 1, 8, 2))
    assert read_image(tmp_path / "red.png").tolist() == [[[255, 10, 20]]]


def test_jpeg_is_red_first(tmp_path: Path) -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 2] = 250  # OpenCV writes blue first
    cv2.imwrite(str(tmp_path / "red.jpg"), image)
    red, green, blue = read_image(tmp_path / "red.jpg")[8, 8]
    assert red > 240
    assert green < 10
    assert blue < 10


def test_grey_jpeg_has_one_band(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.jpg"), np.full((8, 9), 100, np.uint8))
    assert read_image(tmp_path / "grey.jpg").shape == (8, 9, 1)
    assert image_header(tmp_path / "grey.jpg").bands == 1


def test_palette_png_gives_its_colours(tmp_path: Path) -> None:
    write_png(tmp_path / "p.png", np.array([[0, 1], [2, 255]], np.uint8), PALETTE)
    assert read_image(tmp_path / "p.png").tolist() == [
        [[226, 169, 41], [132, 41, 246]],
        [[110, 193, 228], [255, 255, 255]],
    ]
    assert image_header(tmp_path / "p.png").bands == 3


@pytest.mark.parametrize(
    ("depth", "colour", "row", "extra"),
    [
        (8, 2, bytes(range(12)), chunk(b"tRNS", struct.pack(">HHH", 0, 1, 2))),
        (8, 3, bytes(4), chunk(b"PLTE", bytes(range(6))) + chunk(b"tRNS", b"\0")),
        (8, 4, bytes(8), b""),
        (1, 0, bytes(1), b""),
    ],
    ids=["rgb with transparent colour", "palette with transparency", "grey with alpha", "one bit"],
)
def test_header_agrees_with_pixels_for_rare_png(
    tmp_path: Path, depth: int, colour: int, row: bytes, extra: bytes
) -> None:
    (tmp_path / "a.png").write_bytes(make_png([row, row], 4, depth, colour, extra))
    header = image_header(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (header.height, header.width, header.bands)


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHH", 1, 0x112, 3, 1, 6, 0) + bytes(4)
    exif = b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\0\0" + tiff
    data = smooth_jpeg(exif=exif)
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (300, 200, 3)  # the tag is real
    (tmp_path / "turned.jpg").write_bytes(data)
    assert read_image(tmp_path / "turned.jpg").shape == (200, 300, 3)
    header = image_header(tmp_path / "turned.jpg")
    assert (header.height, header.width) == (200, 300)


@pytest.mark.parametrize(("bands", "dtype"), [(1, "uint8"), (3, "uint8"), (4, "uint16"), (7, "int16"), (13, "float32")])
def test_tiff_as_stored(tmp_path: Path, bands: int, dtype: str) -> None:
    image = RNG.integers(-5 if dtype in ("int16", "float32") else 0, 200, (bands, 33, 21)).astype(dtype)
    write_tiff(tmp_path / "a.tif", image, crs="EPSG:32640", transform=Affine(0.3, 0, 5e5, 0, -0.3, 2.7e6))
    back = read_image(tmp_path / "a.tif")
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, image.transpose(1, 2, 0))
    header = image_header(tmp_path / "a.tif")
    assert (header.height, header.width, header.bands, header.dtype) == (33, 21, bands, dtype)


def test_kind_is_told_by_content(tmp_path: Path) -> None:
    (tmp_path / "really_jpeg.png").write_bytes(smooth_jpeg())
    assert read_image(tmp_path / "really_jpeg.png").shape == (200, 300, 3)
    assert image_header(tmp_path / "really_jpeg.png").width == 300


def test_threads(tmp_path: Path) -> None:
    image = picture(64, 64)
    write_png(tmp_path / "a.png", image)
    write_tiff(tmp_path / "a.tif", image.transpose(2, 0, 1))
    with ThreadPoolExecutor(4) as pool:
        for back in pool.map(read_image, [tmp_path / "a.png", tmp_path / "a.tif"] * 20):
            np.testing.assert_array_equal(back, image)


# --- damaged files -------------------------------------------------------------------------------------------------

CUTS = [1, 7, 20, 40, 0.1, 0.5, 0.9, 0.99, -13, -3, -1]


def cut(data: bytes, where: float) -> bytes:
    return data[: int(where * len(data))] if isinstance(where, float) else data[:where]


@pytest.mark.parametrize("where", CUTS)
@pytest.mark.parametrize("reader", [read_image, read_label])
def test_truncated_png(tmp_path: Path, where: float, reader: Callable[..., Any]) -> None:
    write_png(tmp_path / "whole.png", picture(bands=1))
    reader(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes(cut((tmp_path / "whole.png").read_bytes(), where))
    with pytest.raises(DataError, match=r"cut\.png"):
        reader(tmp_path / "cut.png")


@pytest.mark.parametrize("where", [*CUTS, 0.02])
@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpeg(tmp_path: Path, where: float, progressive: bool) -> None:
    thumbnail = smooth_jpeg()[:60] + b"\xff\xd9"  # an end marker within the header must not be taken for the end
    exif = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    data = smooth_jpeg(progressive, exif)
    (tmp_path / "whole.jpg").write_bytes(data)
    read_image(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes(cut(data, where))
    with pytest.raises(DataError, match=r"cut\.jpg"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("where", [3, 8, 100, 0.1, 0.5, 0.9, 0.99, -1])
@pytest.mark.parametrize("options", [{}, {"compress": "deflate", "tiled": True, "blockxsize": 64, "blockysize": 64}])
def test_truncated_tiff(tmp_path: Path, where: float, options: dict[str, bool | int | str]) -> None:
    write_tiff(tmp_path / "whole.tif", picture(300, 300).transpose(2, 0, 1), **options)
    (tmp_path / "cut.tif").write_bytes(cut((tmp_path / "whole.tif").read_bytes(), where))
    with pytest.raises(DataError, match=r"cut\.tif"):
        read_image(tmp_path / "cut.tif")


def test_flipped_bit_in_png(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", picture())
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png is a damaged PNG file: a checksum fails"):
        read_image(tmp_path / "a.png")


def test_png_with_too_few_rows(tmp_path: Path) -> None:
    data = make_png([bytes(4)] * 2, 4, 8, 0)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 20, 8, 0, 0, 0, 0))
    (tmp_path / "short.png").write_bytes(data[:8] + header + data[33:])
    with pytest.raises(DataError, match=r"short\.png is a damaged PNG file"):
        read_image(tmp_path / "short.png")


def test_trailing_bytes_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(smooth_jpeg() + b"camera notes")
    assert read_image(tmp_path / "a.jpg").shape == (200, 300, 3)


@pytest.mark.parametrize("reader", [read_image, read_label, image_header])
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"", "is empty"), (b"GIF89a....", "is not a PNG, JPEG or TIFF file")],
)
def test_no_image_at_all(tmp_path: Path, reader: Callable[..., Any], content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.png {message}"):
        reader(tmp_path / "a.png")


@pytest.mark.parametrize("reader", [read_image, read_label, image_header])
def test_folder_in_place_of_a_file(tmp_path: Path, reader: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        reader(tmp_path)


@pytest.mark.parametrize("data", [b"II*\0" + bytes(60), b"\xff\xd8\xff\xe0\0\x10" + bytes(14) + b"\xff\xd9\0\0"])
def test_header_of_damaged_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.img").write_bytes(data)
    with pytest.raises(DataError, match=r"bad\.img is a damaged"):
        image_header(tmp_path / "bad.img")


def test_decode_image_refuses_tiff() -> None:
    with pytest.raises(DataError, match=r"member\.tif is a TIFF file"):
        decode_image(b"II*\0" + bytes(30), "member.tif")


# --- labels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", [0, 3], ids=["grey", "palette"])
def test_label_png_gives_stored_values(tmp_path: Path, depth: int, colour: int) -> None:
    values = [1, 0] * 4 if depth == 1 else [3, 1, 2, 0, 1, 1, 2, 3]
    packed = int("".join(f"{value:0{depth}b}" for value in values), 2).to_bytes(depth, "big")
    extra = chunk(b"PLTE", bytes(range(90, 90 + 3 * min(2**depth, 4)))) if colour == 3 else b""
    (tmp_path / "l.png").write_bytes(make_png([packed] * 3, 8, depth, colour, extra))
    label = read_label(tmp_path / "l.png")
    assert label.dtype == np.uint8
    assert label.tolist() == [values] * 3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_label_round_trip(tmp_path: Path, dtype: DTypeLike) -> None:
    label = picture(bands=1, dtype=dtype)[:, :, 0]
    write_png(tmp_path / "l.png", label)
    back = read_label(tmp_path / "l.png")
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, label)


def test_indexed_label_round_trip_and_readable_by_gdal(tmp_path: Path) -> None:
    label = RNG.choice(np.array([0, 1, 2, 255], np.uint8), (37, 53))
    write_png(tmp_path / "l.png", label, PALETTE)
    np.testing.assert_array_equal(read_label(tmp_path / "l.png"), label)
    with rasterio.open(tmp_path / "l.png") as file:
        assert file.count == 1
        np.testing.assert_array_equal(file.read(1), label)
        assert file.colormap(1)[1][:3] == PALETTE[1]


def test_the_palette_of_a_label(tmp_path: Path) -> None:
    label = RNG.integers(0, 3, (5, 6), np.uint8)
    write_png(tmp_path / "a.png", label, PALETTE)
    assert (png_palette(tmp_path / "a.png") or ())[:3] == PALETTE
    write_png(tmp_path / "b.png", label)
    (tmp_path / "c.jpg").write_bytes(cv2.imencode(".jpg", label)[1].tobytes())
    assert png_palette(tmp_path / "b.png") is None and png_palette(tmp_path / "c.jpg") is None
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(DataError, match="a damaged PNG file: it is cut short"):
        png_palette(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("dtype", "expected"), [("uint8", "uint8"), ("uint16", "uint16"), ("int16", "uint16"), ("int32", "uint16")]
)
def test_label_tiff(tmp_path: Path, dtype: str, expected: str) -> None:
    write_tiff(tmp_path / "l.tif", np.array([[[0, 1], [2, 250]]], dtype))
    label = read_label(tmp_path / "l.tif")
    assert label.dtype == expected
    assert label.tolist() == [[0, 1], [2, 250]]


@pytest.mark.parametrize(("value", "dtype"), [(-1, "int16"), (70000, "int32"), (1.0, "float32")])
def test_label_tiff_with_impossible_ids(tmp_path: Path, value: float, dtype: str) -> None:
    write_tiff(tmp_path / "l.tif", np.full((1, 2, 2), value, dtype))
    with pytest.raises(DataError, match=r"l\.tif holds .*class ids must"):
        read_label(tmp_path / "l.tif")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_rgb_mask_is_refused_with_a_remedy(tmp_path: Path, suffix: str) -> None:
    mask = picture()
    if suffix == "png":
        write_png(tmp_path / "m.png", mask)
    else:
        write_tiff(tmp_path / "m.tif", mask.transpose(2, 0, 1))
    with pytest.raises(
        DataError, match=r"is an RGB mask \(H,W,3\).*Convert it with rsseg_tf\.datasets\.label_codings\.rgb_to_ids"
    ):
        read_label(tmp_path / f"m.{suffix}")


def test_rgba_and_jpeg_labels_are_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "m.png", picture(bands=4))
    with pytest.raises(DataError, match="is a label of 4 bands"):
        read_label(tmp_path / "m.png")
    (tmp_path / "m.jpg").write_bytes(smooth_jpeg())
    with pytest.raises(DataError, match="is a JPEG label"):
        read_label(tmp_path / "m.jpg")


# --- writing -------------------------------------------------------------------------------------------------------


def test_write_png_is_deterministic_and_leaves_nothing_behind(tmp_path: Path) -> None:
    image = picture()
    write_png(tmp_path / "a.png", image)
    first = (tmp_path / "a.png").read_bytes()
    write_png(tmp_path / "a.png", image)
    assert (tmp_path / "a.png").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("array", "palette"),
    [
        (np.zeros((4, 4, 2), np.uint8), None),
        (np.zeros((4, 4), np.float32), None),
        (np.zeros((0, 4), np.uint8), None),
        (np.zeros(4, np.uint8), None),
        (np.zeros((4, 4), np.uint16), PALETTE),
        (np.zeros((4, 4, 3), np.uint8), PALETTE),
        (np.zeros((4, 4), np.uint8), ()),
    ],
)
def test_write_png_refuses(tmp_path: Path, array: np.ndarray, palette: tuple[tuple[int, int, int], ...] | None) -> None:
    with pytest.raises(DataError, match="PNG"):
        write_png(tmp_path / "a.png", array, palette)
    assert list(tmp_path.iterdir()) == []


def test_write_png_without_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot write .*a\.png: No such file"):
        write_png(tmp_path / "absent" / "a.png", picture())
