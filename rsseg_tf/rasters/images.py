"""Reading and writing of images and labels: PNG and JPEG through OpenCV, TIFF through rasterio.

The first bytes of a file decide its kind, not its name. PNG and JPEG files are checked for completeness before they are
decoded, see `headers` for the reason. All functions are safe to call from several threads.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine

from rsseg_tf.datasets.spec import RGB
from rsseg_tf.errors import DataError
from rsseg_tf.files import SIDE_SUFFIX, StrPath, readable_name
from rsseg_tf.files.reading import read_bytes
from rsseg_tf.files.walking import JPEG_SUFFIXES, TIFF_SUFFIXES
from rsseg_tf.files.writing import output_file
from rsseg_tf.rasters.formats import foreign_driver, is_foreign
from rsseg_tf.rasters.gdal import (
    HEAD_BYTES,
    RASTER_ERRORS,
    TRUSTING_NOBODY,
    Trust,
    damaged,
    lossy_compression,
    marks_of,
    open_raster,
    pixel_type,
    reading,
    require_bytes,
    require_small_blocks,
)
from rsseg_tf.rasters.headers import (
    PNG_END,
    PNG_GREY,
    PNG_PALETTE,
    PNG_SIGNATURE,
    ImageHeader,
    check_jpeg,
    check_jpeg_end,
    check_png,
    header_of,
    ignored_parts,
    image_kind,
    png_chunks,
    png_header,
)
from rsseg_tf.rasters.opening import open_member

__all__ = [
    "decode_image",
    "image_header",
    "plain_header",
    "png_palette",
    "read_decoded",
    "read_image",
    "read_label",
    "require_end",
    "tiff_losses",
    "write_image",
    "write_png",
]

_LARGE_BYTES = 64 * 2**20  # of pixels; above it colours are reordered by blocks of rows
_CHUNKS_BEFORE_PIXELS = 65536  # bytes in which a PNG has all chunks that come before its pixels


def read_image(path: StrPath) -> np.ndarray:
    """Reads an image with all its bands.

    PNG and JPEG come in red, green, blue (alpha) order; a palette PNG is turned into its colours; grey with alpha
    becomes four bands; transparency by colour (tRNS) and the EXIF orientation are ignored, because labels do not
    follow them. TIFF comes as stored.

    Args:
        path: A PNG, JPEG or TIFF file.

    Returns:
        `(H, W, C)` array in the file's own dtype; C is 1 for grey images.

    Raises:
        DataError: When the file is missing, cut short, damaged or of another kind.
    """
    path = Path(path)
    if image_kind(read_bytes(path, HEAD_BYTES), readable_name(path)) == "TIFF":
        return np.ascontiguousarray(_read_tiff(path).transpose(1, 2, 0))
    return decode_image(read_bytes(path), readable_name(path))


def read_decoded(path: Path, trust: Trust = TRUSTING_NOBODY) -> tuple[np.ndarray, ImageHeader, tuple[str, ...]]:
    """Reads a PNG or JPEG as `read_image` does, if it is not too large.

    Args:
        path: The file.
        trust: Limits for the size of the decoded image.

    Returns:
        `(H, W, C)` pixels, the header, and notes on parts of the file that are not followed (see `ignored_parts`).

    Raises:
        DataError: As `read_image`; when the decoded pixels would take more memory than is allowed.
    """
    data, name = read_bytes(path), readable_name(path)
    header = header_of(data, name)
    require_bytes(name, (header.height, header.width, header.bands), header.dtype, trust)
    return decode_image(data, name), header, ignored_parts(data, is_jpeg=header.is_jpeg)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes the bytes of a PNG or JPEG file as `read_image` does, for members of an archive.

    Args:
        data: The whole file.
        name: Name of the file in errors.

    Returns:
        `(H, W, C)` uint8 or uint16 array, red first.

    Raises:
        DataError: When the data are cut short, damaged or of another kind (TIFF included).
    """
    kind = image_kind(data, name)
    if kind == "PNG":
        image = _decode_png(data, name)
    elif kind == "JPEG":
        check_jpeg_end(data, name)
        image = _decode(data, kind, name)
    else:
        raise DataError(f"{name} is a {kind} file; PNG or JPEG is expected here. Convert it to PNG.")
    if image.ndim == 2:
        return image[:, :, np.newaxis]
    order = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
    if image.nbytes <= _LARGE_BYTES:
        return cv2.cvtColor(image, order)
    rows = max(1, _LARGE_BYTES // image[0].nbytes)
    for start in range(0, image.shape[0], rows):  # in place, so that a large image is held once
        image[start : start + rows] = cv2.cvtColor(image[start : start + rows], order)
    return image


def read_label(path: StrPath, trust: Trust = TRUSTING_NOBODY) -> np.ndarray:
    """Reads the class ids of a single-band PNG or TIFF.

    A palette PNG gives its indices, not its colours, and a grey PNG of 1, 2 or 4 bits its stored values (OpenCV
    would stretch them to 0..255).

    Args:
        path: A PNG or TIFF file.
        trust: Limits for the size of the decoded image.

    Returns:
        `(H, W)` array of uint8 or uint16.

    Raises:
        DataError: When the file is missing or damaged, has more than one band (a mask in colours), is compressed with
            losses, holds values that are no ids, or is too large.
    """
    path = Path(path)
    name = readable_name(path)
    kind = image_kind(read_bytes(path, HEAD_BYTES), name)
    if kind == "JPEG":
        raise DataError(f"{name} is a JPEG label; its compression changes class ids. Export the labels as PNG or TIFF.")
    if kind == "VRT":
        raise DataError(f"{name} is a VRT; labels are read from PNG and TIFF files. Convert it to one.")
    if kind == "PNG":
        data = read_bytes(path)
        header = header_of(data, name)
        require_bytes(name, (header.height, header.width, header.bands), header.dtype, trust)
        return _decode_png_label(data, name)
    return _as_ids(_read_tiff(path, trust, label=True)[0], name)


def png_palette(path: Path) -> tuple[RGB, ...] | None:
    """Reads the colours of a palette PNG, in the order of its indices.

    Returns:
        The colours; None for a PNG without a palette, and for files of other kinds.

    Raises:
        DataError: When the file is missing, of no known kind, or a damaged PNG.
    """
    data, name = read_bytes(path), readable_name(path)
    if image_kind(data[:HEAD_BYTES], name) != "PNG" or png_header(data, name)[3] != PNG_PALETTE:
        return None
    for kind, start, end in png_chunks(data, name):
        if kind == b"PLTE":
            values = list(data[start:end])
            return tuple(zip(values[0::3], values[1::3], values[2::3], strict=False))
    return None


def image_header(path: StrPath) -> ImageHeader:
    """Reads size and type of an image without decoding its pixels.

    Args:
        path: A PNG, JPEG or TIFF file.

    Raises:
        DataError: When the file is missing, of another kind, or cut off within its header.
    """
    path = Path(path)
    name = readable_name(path)
    kind = image_kind(read_bytes(path, HEAD_BYTES), name)
    if kind == "VRT":
        raise DataError(f"{name} is a VRT; a PNG, JPEG or TIFF is expected here. Convert it to one.")
    if kind != "TIFF":
        return plain_header(path)[0]
    with open_raster(path, "GTiff") as source:
        return ImageHeader(source.height, source.width, source.count, source.dtypes[0], marks_of(source))


def plain_header(path: Path) -> tuple[ImageHeader, tuple[str, ...]]:
    """Returns the header of a PNG or JPEG, and notes on parts that are not followed; see `ignored_parts`.

    Raises:
        DataError: As `image_header`; when it is neither.
    """
    name = readable_name(path)
    head = read_bytes(path, _CHUNKS_BEFORE_PIXELS)
    kind = image_kind(head[:HEAD_BYTES], name)
    if kind not in ("PNG", "JPEG"):
        raise DataError(f"{name} is a {kind} file; PNG or JPEG is expected here. Convert it to PNG.")
    data = head if kind == "PNG" else read_bytes(path)  # profiles and thumbnails may precede its header
    return header_of(data, name), ignored_parts(data, is_jpeg=kind == "JPEG")


def require_end(path: Path) -> None:
    """Raises DataError when an image is cut short, judged by the end of the file; at most the last pixel is decoded.

    Args:
        path: An image of any format; a VRT and a Zarr store, whose pixels are in other files, are not checked.
    """
    if path.is_dir():
        return
    name = readable_name(path)
    head = read_bytes(path, HEAD_BYTES)
    driver = foreign_driver(path, head) if is_foreign(head) else None
    kind = driver or image_kind(head, name)
    if kind == "PNG":
        if read_bytes(path, len(PNG_END), at_end=True) != PNG_END:  # something may follow the end
            check_png(read_bytes(path), name)
    elif kind == "JPEG":
        check_jpeg(read_bytes(path), name)
    elif kind != "VRT":
        # What the file may lead to was looked at when its header was read.
        opened = open_member(path, driver or "GTiff", Trust(vrt_sources=True))
        with opened.source as source, reading(name, opened.driver):
            last = ((source.height - 1, source.height), (source.width - 1, source.width))
            source.read(source.count, window=last)  # most writers put this block at the end of the file


def write_png(path: StrPath, array: np.ndarray, palette: Sequence[RGB] | None = None, *, side: str = "") -> None:
    """Writes a PNG so that readers see the old file or the whole new one, never a part.

    The same array gives the same bytes.

    Args:
        path: The file to write; its folder must exist.
        array: `(H, W)` uint8 ids when `palette` is given; otherwise `(H, W)`, `(H, W, 1)`, `(H, W, 3)` RGB or
            `(H, W, 4)` RGBA in uint8 or uint16.
        palette: RGB colours of the ids 0, 1, …; ids beyond the palette show as black, id 255 as white.
        side: Text of the `.aux.xml` beside it, such as that of `side_text`; empty for none.

    Raises:
        DataError: When the array has another shape or type, or the file cannot be written.
    """
    path = Path(path)
    _write_bytes(path, _encode_png(array) if palette is None else _encode_indexed_png(array, palette), side)


def write_image(
    path: StrPath,
    array: np.ndarray,
    *,
    jpeg_quality: int = 95,
    crs: CRS | None = None,
    transform: Affine | None = None,
) -> None:
    """Writes an image in the format that its suffix names, whole or not at all.

    Args:
        path: `.png`, `.jpg` or `.tif`; its folder must exist.
        array: `(H, W, C)`. PNG takes 1, 3 or 4 bands of uint8 or uint16, JPEG 1 or 3 of uint8, TIFF any.
        jpeg_quality: 1..100.
        crs: Coordinate reference system; of the formats, TIFF alone keeps it.
        transform: From (column, row) to coordinates of the CRS; None where there is none.

    Raises:
        DataError: When the format cannot hold the array, or the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".png":
        write_png(path, array)
    elif suffix in JPEG_SUFFIXES:
        if array.ndim != 3 or array.shape[2] not in (1, 3) or array.dtype != np.uint8 or not array.size:
            raise DataError(
                f"A JPEG holds (H, W, 1) or (H, W, 3) in uint8; got {array.shape} {array.dtype}. Write it as TIFF."
            )
        pixels = array if array.shape[2] == 1 else cv2.cvtColor(array, cv2.COLOR_RGB2BGR)
        _write_bytes(path, _encoded(".jpg", pixels, "JPEG", [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]))
    elif suffix in TIFF_SUFFIXES:
        height, width, bands = array.shape
        profile = {"height": height, "width": width, "count": bands, "dtype": array.dtype, "compress": "deflate"}
        profile |= {"crs": crs} | ({} if transform is None else {"transform": transform})
        with output_file(path, RASTER_ERRORS) as temporary:
            with rasterio.open(temporary, "w", driver="GTiff", **profile) as file:
                file.write(array.transpose(2, 0, 1))
    else:
        raise DataError(f"{path} names no format that can be written; .png, .jpg or .tif are.")


def _write_bytes(path: Path, data: bytes, side: str = "") -> None:
    with output_file(path) as temporary:
        temporary.write_bytes(data)
        if side:
            temporary.with_name(temporary.name + SIDE_SUFFIX).write_text(side, encoding="utf-8")


def _encoded(suffix: str, pixels: np.ndarray, kind: str, settings: Sequence[int] = ()) -> bytes:
    ok, data = cv2.imencode(suffix, pixels, settings)
    if not ok:
        raise DataError(f"OpenCV cannot encode an array of {pixels.shape} {pixels.dtype} as {kind}.")
    return data.tobytes()


def _decode(data: bytes, kind: str, name: str) -> np.ndarray:
    """Decodes PNG or JPEG bytes as stored: `(H, W)`, or `(H, W, 3 | 4)` with blue first."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise damaged(name, kind, error.err or "OpenCV cannot decode it") from error
    if image is None:
        raise damaged(name, kind, "its pixels cannot be decoded")
    return image


# === PNG ===


def _decode_png(data: bytes, name: str, *, as_grey: bool = False) -> np.ndarray:
    """Decodes a PNG by the rules of `_plain_png`."""
    plain = _plain_png(data, name, as_grey=as_grey)
    try:
        return _decode(plain, "PNG", name)
    except DataError:
        check_png(data, name)  # says where a checksum fails, which OpenCV compares and does not tell
        raise


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _plain_png(data: bytes, name: str, *, as_grey: bool = False) -> bytes:
    """Checks a PNG but for its pixels, and rebuilds it from the chunks that hold them.

    Without tRNS, gAMA and eXIf every decoder gives the stored values.

    Args:
        data: The file.
        name: Name of the file in errors.
        as_grey: Declare palette indices to be grey values, so that the decoder gives the indices.
    """
    png_header(data, name)
    kept = {b"IHDR", b"IDAT", b"IEND"} | (set() if as_grey else {b"PLTE"})
    # Runs of chunks that stay, with their own lengths and checksums: a file may have hundreds.
    runs = [[0, len(PNG_SIGNATURE)]]
    for kind, start, end in png_chunks(data, name, check_pixels=False):
        if kind in kept:
            if runs[-1][1] != start - 8:
                runs.append([start - 8, start - 8])
            runs[-1][1] = end + 4
    if not as_grey:
        # The file itself where nothing is dropped, which is the rule.
        return data if runs == [[0, len(data)]] else b"".join(data[start:end] for start, end in runs)
    rest = b"".join(data[start:end] for start, end in runs)
    # The header is the first chunk; byte 9 of its 13 is the colour type.
    header = rest[16:25] + bytes([PNG_GREY]) + rest[26:29]
    return PNG_SIGNATURE + _png_chunk(b"IHDR", header) + rest[33:]


def _decode_png_label(data: bytes, name: str) -> np.ndarray:
    """Decodes palette indices or grey values: `(H, W)` uint8 or uint16."""
    _, _, depth, colour = png_header(data, name)
    _check_single_band(1 if colour == PNG_PALETTE else header_of(data, name).bands, name)
    label = _decode_png(data, name, as_grey=colour == PNG_PALETTE)
    if depth < 8:  # the decoder stretches 0..2**depth-1 to 0..255; this division is exact
        label //= 255 // (2**depth - 1)
    return label


def _encode_indexed_png(array: np.ndarray, palette: Sequence[RGB]) -> bytes:
    """Encodes `(H, W)` uint8 ids with a palette; OpenCV can neither write nor keep one."""
    if array.ndim != 2 or array.dtype != np.uint8 or array.size == 0:
        raise DataError(
            f"An indexed PNG needs a non-empty (H, W) uint8 array; got {array.shape} {array.dtype}. Pass class ids."
        )
    if not 1 <= len(palette) <= 256:
        raise DataError(f"A PNG palette holds 1 to 256 colours; got {len(palette)}.")
    colours = np.zeros((256, 3), np.uint8)
    colours[255] = 255  # usually the ignored id
    colours[: len(palette)] = palette
    height, width = array.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row starts with its filter type, 0 = none
    rows[:, 1:] = array
    # Depth and colour type, then compression, filter and interlacing, for which 0 is the only or the plain method.
    header = struct.pack(">IIBBBBB", width, height, 8, PNG_PALETTE, 0, 0, 0)
    return b"".join(
        (
            PNG_SIGNATURE,
            _png_chunk(b"IHDR", header),
            _png_chunk(b"PLTE", colours.tobytes()),
            _png_chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)),
            _png_chunk(b"IEND", b""),
        )
    )


def _encode_png(array: np.ndarray) -> bytes:
    """Encodes grey, RGB or RGBA of 8 or 16 bits."""
    bands = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or bands not in (1, 3, 4) or array.dtype not in (np.uint8, np.uint16) or not array.size:
        raise DataError(
            f"A PNG holds (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) in uint8 or uint16; got {array.shape} "
            f"{array.dtype}. Write other arrays as TIFF."
        )
    if bands > 1:
        array = cv2.cvtColor(array, cv2.COLOR_RGBA2BGRA if bands == 4 else cv2.COLOR_RGB2BGR)
    return _encoded(".png", array, "PNG")


# === TIFF and labels ===


def _read_tiff(path: Path, trust: Trust = TRUSTING_NOBODY, *, label: bool = False) -> np.ndarray:
    """Reads all bands `(C, H, W)`; of a label, which must have one, without losses."""
    name = readable_name(path)
    with open_raster(path, "GTiff") as source:
        if label:
            _check_single_band(source.count, name)
            if compression := lossy_compression(source):
                raise DataError(
                    f"{name} is a label compressed with losses ({compression}), which change class ids. Export the "
                    "labels as PNG, or as TIFF with DEFLATE, LZW or no compression."
                )
        dtype = pixel_type(source, tuple(source.indexes), name)
        # A header of a few bytes may claim any size, and memory is allocated before the missing data show.
        require_bytes(name, (source.height, source.width, source.count), str(dtype), trust)
        require_small_blocks(name, source, str(dtype), trust)
        return source.read()


def tiff_losses(path: Path) -> str:
    """Returns the lossy compression of a TIFF; empty if values are stored exactly.

    Raises:
        DataError: When it cannot be opened.
    """
    with open_raster(path, "GTiff") as source:
        return lossy_compression(source)


def _check_single_band(bands: int, name: str) -> None:
    if bands == 1:
        return
    kind = "an RGB mask (H,W,3)" if bands == 3 else f"a label of {bands} bands"
    raise DataError(
        f"{name} is {kind}; class ids in one band are expected. "
        "Convert it with rsseg_tf.datasets.label_codings.rgb_to_ids, and save it as PNG."
    )


def _as_ids(label: np.ndarray, name: str) -> np.ndarray:
    """Returns uint8 and uint16 as they are, other whole numbers as uint16 if they fit."""
    if label.dtype in (np.uint8, np.uint16):
        return label
    if not np.issubdtype(label.dtype, np.integer):
        raise DataError(f"{name} holds {label.dtype} values; class ids must be whole numbers. Save it as uint8.")
    low, high = int(label.min()), int(label.max())
    if low < 0 or high > 65535:
        raise DataError(
            f"{name} holds values {low}..{high} ({label.dtype}); class ids must lie in 0..65535. "
            "Map negative nodata to the ignore index and save it as uint8."
        )
    return label.astype(np.uint16)
