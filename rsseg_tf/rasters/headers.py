"""Headers of encoded images: kind, size, type and bands, and whether the file is whole, without decoding it.

No library reports all of this in time. OpenCV fills the rest of a truncated JPEG with grey, and GDAL the rest of a
truncated PNG, without an error. A PNG of 40 kB can hold 40 000 x 40 000 pixels, and decoders allocate them. So these
bytes are read here before any decoder sees the file.

Sources: PNG (ISO/IEC 15948), JPEG (ITU T.81, annex B), TIFF 6.0, GIF89a, and Microsoft's BITMAPINFOHEADER.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rsseg_tf.errors import DataError
from rsseg_tf.rasters.gdal import HEAD_BYTES, damaged, is_vrt

__all__ = [
    "BIGTIFF_SIGNATURES",
    "JPEG_SIGNATURE",
    "PNG_END",
    "PNG_GREY",
    "PNG_PALETTE",
    "PNG_SIGNATURE",
    "TIFF_SIGNATURES",
    "EncodedSize",
    "ImageHeader",
    "check_jpeg",
    "check_jpeg_end",
    "check_png",
    "encoded_size",
    "header_of",
    "ignored_parts",
    "image_kind",
    "png_chunks",
    "png_header",
    "tiff_notes",
]

Bytes = bytes | mmap.mmap

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
JPEG_SIGNATURE = b"\xff\xd8\xff"
TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*")
BIGTIFF_SIGNATURES = (b"II+\x00", b"MM\x00+")

# PNG colour types (PNG specification, table 11.1) and the bands that `read_image` gives for them.
PNG_GREY, _PNG_RGB, PNG_PALETTE, _PNG_GREY_ALPHA, _PNG_RGBA = 0, 2, 3, 4, 6
_RGB_MARKS = ("red", "green", "blue")
_PNG_MARKS = {
    PNG_GREY: ("gray",),
    _PNG_RGB: _RGB_MARKS,
    PNG_PALETTE: _RGB_MARKS,
    _PNG_GREY_ALPHA: ("gray", "gray", "gray", "alpha"),
    _PNG_RGBA: (*_RGB_MARKS, "alpha"),
}

_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15 without DHT, JPG and DAC
_JPEG_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_JPEG_EXIF, _JPEG_SCAN = 0xE1, 0xDA
# A progressive JPEG is refined scan by scan, and each costs a pass over the whole image; real ones have about ten.
_MOST_SCANS = 100

_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_ORIENTATION = 256, 257, 274
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_TIFF_WHOLE = {3: "H", 4: "I"}  # the types of whole numbers, SHORT and LONG
_MOST_TIFF_FIELDS = 200  # real files have ten to thirty
_UPRIGHT = 1

# Decoders keep every frame of a GIF, and every block of its comments, before they give the first frame.
_MOST_GIF_FRAMES = 256
_MOST_GIF_BLOCKS = 4096
_GIF_FRAME, _GIF_EXTENSION, _GIF_END = 0x2C, 0x21, 0x3B

Read = Callable[[int, int], bytes]
"""Returns the bytes from an offset on: at most a count, fewer at the end of the file."""


@dataclass(frozen=True)
class ImageHeader:
    """Size and type of an image, as `read_image` would return it.

    Attributes:
        height: Rows.
        width: Columns.
        bands: Bands; 3 for a palette PNG, whose colours `read_image` looks up (`read_label` gives its indices).
        dtype: NumPy name of the pixel type, such as `"uint8"`.
        marks: The meaning of each band: "red", "alpha", "palette", "undefined" and so on.
        is_jpeg: Whether it is a JPEG.
    """

    height: int
    width: int
    bands: int
    dtype: str
    marks: tuple[str, ...] = field(default=(), compare=False)
    is_jpeg: bool = field(default=False, compare=False)


class EncodedSize(NamedTuple):
    """The size of an encoded image, and the work of decoding it.

    Attributes:
        width: Columns of the decoded image.
        height: Rows of the decoded image.
        pixels: Pixels that a decoder makes on the way: more than width x height where a file has several frames.
    """

    width: int
    height: int
    pixels: int


def image_kind(head: bytes, name: str) -> str:
    """Tells the kind of file by its first `HEAD_BYTES`: `"PNG"`, `"JPEG"`, `"TIFF"` or `"VRT"`.

    Raises:
        DataError: When it is none of them.
    """
    if not head:
        raise DataError(f"{name} is empty (0 bytes); an image is expected. Copy or download it again.")
    if head.startswith(PNG_SIGNATURE):
        return "PNG"
    if head.startswith(JPEG_SIGNATURE):
        return "JPEG"
    if head.startswith((*TIFF_SIGNATURES, *BIGTIFF_SIGNATURES)):
        return "TIFF"
    if is_vrt(head):
        return "VRT"
    raise DataError(f"{name} is not a PNG, JPEG or TIFF file (it starts with {head[:8].hex(' ')}). Convert it to one.")


def header_of(data: Bytes, name: str) -> ImageHeader:
    """Returns the header of a PNG or JPEG; of a PNG, the first 64 bytes are enough.

    Raises:
        DataError: When it is cut short, invalid, or no image at all.
    """
    if image_kind(data[:HEAD_BYTES], name) == "JPEG":
        height, width, components = _jpeg_frame(data, name)
        marks: tuple[str, ...] = ("gray",) if components == 1 else _RGB_MARKS
        return ImageHeader(height, width, len(marks), "uint8", marks, is_jpeg=True)
    height, width, depth, colour = png_header(data, name)
    marks = _PNG_MARKS[colour]
    return ImageHeader(height, width, len(marks), "uint16" if depth == 16 else "uint8", marks)


# === PNG ===


def png_header(data: Bytes, name: str) -> tuple[int, int, int, int]:
    """Returns height, width, bit depth and colour type of a PNG.

    Raises:
        DataError: When it is cut short or invalid.
    """
    # IHDR is always first: 8 bytes of signature, then length (4), type (4), content (13) and checksum (4).
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise damaged(name, "PNG", "its header is cut short")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if colour not in _PNG_MARKS or width == 0 or height == 0:
        raise damaged(name, "PNG", "its header is invalid")
    return height, width, depth, colour


def png_chunks(data: Bytes, name: str, *, check_pixels: bool = True) -> Iterator[tuple[bytes, int, int]]:
    """Yields `(type, first byte of the content, its end)` of each chunk up to IEND, checksums compared.

    Args:
        data: The file.
        name: Name of the file in errors.
        check_pixels: Whether to compare the checksums of chunks of pixels, which whoever decodes them compares too.

    Raises:
        DataError: When the file is cut short or a checksum fails.
    """
    with memoryview(data) as view:
        position, kind = len(PNG_SIGNATURE), b""
        while kind != b"IEND":
            start = position + 8
            end = start + int.from_bytes(view[position : position + 4], "big")  # at most 4 GiB, so it may pass the file
            if end + 4 > len(view):
                raise damaged(name, "PNG", f"it is cut short at {len(view)} bytes, before its end marker")
            kind = bytes(view[position + 4 : start])
            checked = check_pixels or kind != b"IDAT"
            if checked and zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
                raise damaged(name, "PNG", f"a checksum fails at byte {position}")
            yield kind, start, end
            position = end + 4


def check_png(data: Bytes, name: str) -> ImageHeader:
    """Checks a whole PNG file for completeness and its checksums, without decoding it.

    Raises:
        DataError: When it is cut short or damaged.
    """
    header = header_of(data, name)
    for _ in png_chunks(data, name):
        pass
    return header


# === JPEG ===


def check_jpeg(data: Bytes, name: str) -> ImageHeader:
    """Checks that a whole JPEG file is there: an end marker follows the pixels.

    Raises:
        DataError: When it is cut short or damaged.
    """
    check_jpeg_end(data, name)
    return header_of(data, name)


def check_jpeg_end(data: Bytes, name: str) -> None:
    """Raises unless an end-of-image marker follows the pixels (one in an embedded thumbnail does not count)."""
    scan = 0  # the last segment that `_jpeg_segments` gives
    for _, position in _jpeg_segments(data, name):
        scan = position
    if data.rfind(b"\xff\xd9", scan) < 0:
        raise damaged(name, "JPEG", f"it is cut short at {len(data)} bytes, before its end marker")


def _jpeg_segments(data: Bytes, name: str) -> Iterator[tuple[int, int]]:
    """Yields `(marker, position after its length field)` of each segment up to and with the start of scan."""
    position = 2  # after the start-of-image marker
    while True:
        while data[position : position + 2] == b"\xff\xff":  # fill bytes
            position += 1
        if position + 4 > len(data):
            raise damaged(name, "JPEG", f"it is cut short at {len(data)} bytes, within its header")
        if data[position] != 0xFF:
            raise damaged(name, "JPEG", f"no marker at byte {position}")
        marker = data[position + 1]
        if marker in _JPEG_STANDALONE:
            position += 2
            continue
        yield marker, position + 4
        if marker == _JPEG_SCAN:
            return
        length = int.from_bytes(data[position + 2 : position + 4], "big")  # with its own two bytes
        if length < 2:
            raise damaged(name, "JPEG", f"a segment without a length at byte {position}")
        position += 2 + length


def _jpeg_frame(data: Bytes, name: str) -> tuple[int, int, int]:
    """Returns height, width and number of components."""
    for marker, position in _jpeg_segments(data, name):
        if marker in _JPEG_FRAMES and position + 6 <= len(data):
            # The first byte is the bits of a sample, the others are big-endian.
            _, height, width, components = struct.unpack(">BHHB", data[position : position + 6])
            return height, width, components
    raise damaged(name, "JPEG", "it has no frame header")


# === TIFF and EXIF ===


class _TiffField(NamedTuple):
    """A field of a TIFF's directory: the type and number of its values, and their bytes or their offset."""

    tag: int
    kind: int
    values: int
    content: bytes


class _TiffDirectory(NamedTuple):
    """The first directory of a TIFF: byte order, number of fields that it announces, and fields that are there."""

    order: str
    announced: int
    fields: list[_TiffField]

    def value(self, found: _TiffField) -> int | None:
        """Returns the first of a field's whole numbers that stand in the field itself; None for other types."""
        code = _TIFF_WHOLE.get(found.kind)
        return None if code is None else int(struct.unpack_from(self.order + code, found.content)[0])


def _tiff_directory(read: Read) -> _TiffDirectory:
    """Reads the first directory of a TIFF, or of EXIF data, which is one; BigTIFF and anything else have no fields."""
    head = read(0, 8)
    order = dict(zip(TIFF_SIGNATURES, "<>", strict=True)).get(head[:4], "")
    if not order or len(head) < 8:
        return _TiffDirectory("<", 0, [])
    # Only the first directory counts: readers take the others for pages or reduced images.
    (offset,) = struct.unpack_from(order + "I", head, 4)
    (count,) = struct.unpack(order + "H", read(offset, 2).ljust(2, b"\0"))
    entries = read(offset + 2, 12 * count)
    whole = entries[: len(entries) // 12 * 12]
    return _TiffDirectory(order, count, [_TiffField(*entry) for entry in struct.iter_unpack(order + "HHI4s", whole)])


def tiff_notes(path: Path) -> tuple[str, ...]:
    """Names the part of a TIFF that is not followed, its orientation; empty for other files."""
    with path.open("rb") as handle:

        def read(offset: int, count: int) -> bytes:
            handle.seek(offset)
            return handle.read(count)

        return _orientation_notes(read)


def _orientation_notes(read: Read) -> tuple[str, ...]:
    directory = _tiff_directory(read)
    found = next((found for found in directory.fields if found.tag == _TIFF_ORIENTATION), None)
    orientation = None if found is None or (found.kind, found.values) != (3, 1) else directory.value(found)
    if orientation is None or not _UPRIGHT < orientation <= 8:
        return ()
    return (f"has orientation {orientation}, which is not followed: rows and columns are taken as stored",)


def ignored_parts(data: bytes, *, is_jpeg: bool) -> tuple[str, ...]:
    """Names the parts of a PNG or JPEG that are not followed: a camera's orientation, and transparency by colour.

    Args:
        data: The file, or its beginning.
        is_jpeg: Whether it is a JPEG.

    Returns:
        Phrases that follow the file's name.
    """
    notes: list[str] = []
    exif = b""
    if is_jpeg:
        for marker, position in _jpeg_segments(data, ""):
            if marker == _JPEG_EXIF and data[position : position + 6] == b"Exif\x00\x00":
                exif = data[position + 6 : position - 2 + int.from_bytes(data[position - 2 : position], "big")]
                break
    else:
        position = len(PNG_SIGNATURE)
        while (kind := data[position + 4 : position + 8]) not in (b"", b"IDAT"):  # no checksums: decoding checks them
            end = position + 8 + int.from_bytes(data[position : position + 4], "big")
            if kind == b"tRNS":
                notes.append("has transparency by colour (tRNS), which is not followed: write an alpha band instead")
            if kind == b"eXIf":
                exif = data[position + 8 : end]
            position = end + 4
    return (*notes, *_orientation_notes(lambda offset, count: exif[offset : offset + count]))


# === What a decoder would allocate ===


def encoded_size(data: bytes) -> EncodedSize:
    """Returns the size of an encoded image without decoding it, so that a server can refuse it before.

    Raises:
        DataError: When it is none of PNG, JPEG, BMP, GIF and TIFF (no decoder may see a file of unknown size), ends
            within its header, or its header is built to exhaust a decoder.
    """
    name = "the image"
    try:
        if data[:6] in (b"GIF87a", b"GIF89a"):
            return _gif_size(data)
        if data.startswith(PNG_SIGNATURE):
            height, width, _, _ = png_header(data, name)
        elif data.startswith(JPEG_SIGNATURE):
            if (scans := data.count(b"\xff\xda")) > _MOST_SCANS:
                raise DataError(f"the JPEG has {scans} scans; at most {_MOST_SCANS} are decoded. Save it anew.")
            height, width, _ = _jpeg_frame(data, name)
        elif data.startswith(TIFF_SIGNATURES):
            height, width = _tiff_size(data)
        elif data[:2] == b"BM":
            # BITMAPINFOHEADER follows the 14 bytes of the file header. A negative height means rows from the top.
            width, height = map(abs, struct.unpack_from("<ii", data, 18))
        else:
            start = data[:8].hex(" ") or "nothing"
            raise DataError(
                f"an encoded image must be one of PNG, JPEG, BMP, GIF and TIFF; it begins with the bytes {start}."
            )
    except (struct.error, IndexError) as error:
        raise DataError(
            f"the image is cut off within its header: it has {len(data)} bytes. Send the file whole."
        ) from error
    return _checked_size(width, height, [(width, height)])


def _checked_size(width: int, height: int, frames: list[tuple[int, int]]) -> EncodedSize:
    """Returns the size of an image whose decoder makes `frames`, (width, height) each."""
    empty = next((size for size in ((width, height), *frames) if min(size) < 1), None)
    if empty is not None:
        raise DataError(f"the image claims to be {empty[0]} x {empty[1]} pixels; it is damaged.")
    return EncodedSize(width, height, sum(columns * rows for columns, rows in frames))


def _tiff_size(data: bytes) -> tuple[int, int]:
    """Returns (height, width)."""
    directory = _tiff_directory(lambda offset, count: data[offset : offset + count])
    if directory.announced > _MOST_TIFF_FIELDS:
        raise DataError(
            f"the TIFF has {directory.announced} fields; at most {_MOST_TIFF_FIELDS} are read. Save it anew."
        )
    if not directory.announced or len(directory.fields) < directory.announced:
        raise IndexError("the directory is cut off")
    sizes: dict[int, int] = {}
    for found in directory.fields:
        # A field that claims more values than the file has bytes makes a decoder allocate them all.
        if found.values * _TIFF_SIZES.get(found.kind, 1) > len(data):
            raise DataError(
                f"field {found.tag} of the TIFF claims {found.values} values, more than the file holds; it is damaged."
            )
        if found.tag in (_TIFF_WIDTH, _TIFF_HEIGHT):
            value = directory.value(found)
            if value is None:
                raise DataError(
                    f"field {found.tag} of the TIFF, its width or height, is no whole number; it is damaged."
                )
            if not sizes.get(found.tag):  # of two fields of one number decoders take the first
                sizes[found.tag] = value
    return sizes.get(_TIFF_HEIGHT, 0), sizes.get(_TIFF_WIDTH, 0)


def _gif_size(data: bytes) -> EncodedSize:
    """Walks through all blocks: each frame has a size of its own, which the screen's at the beginning does not bound.

    The decoded image is as wide as the widest frame and as high as the highest.
    """
    at = 13 + _gif_colours(data[10])  # after signature (6), screen (7, its flags at byte 10) and the table of colours
    frames: list[tuple[int, int]] = []
    blocks = 0
    while (kind := data[at]) != _GIF_END:
        if kind == _GIF_FRAME:
            frames.append(struct.unpack_from("<HH", data, at + 5))
            # The frame's mark and descriptor (10, its flags last), its table of colours, the code size of LZW (1).
            at += 10 + _gif_colours(data[at + 9]) + 1
        elif kind == _GIF_EXTENSION:
            at += 2  # the mark and the kind of extension
        else:
            raise DataError(f"the GIF has a block of the unknown kind {kind}; it is damaged.")
        # Frames and extensions end with blocks, each with its length in front; a length of 0 ends them.
        while length := data[at]:
            at += 1 + length
            blocks += kind == _GIF_EXTENSION
        at += 1
        if len(frames) > _MOST_GIF_FRAMES or blocks > _MOST_GIF_BLOCKS:
            raise DataError(
                f"the GIF has more than {_MOST_GIF_FRAMES} frames or {_MOST_GIF_BLOCKS} blocks of comments. Send its "
                "first frame as a PNG."
            )
    if not frames:
        raise DataError("the GIF has no frame; it is damaged.")
    return _checked_size(max(width for width, _ in frames), max(height for _, height in frames), frames)


def _gif_colours(flags: int) -> int:
    """Returns the bytes of the table of colours that the flags of a GIF's screen or frame announce."""
    # Three bytes for each of 2 to 256 colours; the highest bit tells whether there is a table.
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
