"""The size of an encoded image from its header: what a decoder would allocate, before it does.

A PNG of 40 kB can hold 40 000 x 40 000 pixels, and decoders believe it. So servers read the few bytes that say how
large an image is, and refuse before decoding. Formats are those that `predict_bytes` takes; what is none of
them is refused here, so that no decoder sees a file whose size nobody has read.

Sources: PNG (ISO/IEC 15948), JPEG (ITU T.81, annex B), TIFF 6.0, GIF89a, and Microsoft's BITMAPINFOHEADER.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from rsseg_tf.errors import DataError

__all__ = ["EncodedSize", "encoded_size"]

_FORMATS = "PNG, JPEG, BMP, GIF and TIFF"
# A progressive JPEG is refined scan by scan, and each costs a pass over the whole image; real ones have about ten.
_MOST_SCANS = 100
_SCAN = b"\xff\xda"
_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # JPEG markers without a length
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those that begin a frame, and so give its size
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_MOST_TIFF_FIELDS = 200
_TIFF_WHOLE = (3, 4)  # the types that a width or height may have: SHORT and LONG
# Decoders keep every frame of a GIF, and every block of its comments, before they give the first frame.
_MOST_GIF_FRAMES = 256
_MOST_GIF_BLOCKS = 4096
_GIF_FRAME, _GIF_EXTENSION, _GIF_END = 0x2C, 0x21, 0x3B


class EncodedSize(NamedTuple):
    """What decoding an image takes.

    Attributes:
        width: of the decoded image.
        height: likewise.
        pixels: that a decoder makes on the way: more than width x height where a file has several frames.
    """

    width: int
    height: int
    pixels: int


def encoded_size(data: bytes) -> EncodedSize:
    """Returns the size of an encoded image without decoding it.

    Raises:
        DataError: when it is none of the known formats, ends within its header, or its header is built to exhaust a
            decoder.
    """
    try:
        if data[:6] in (b"GIF87a", b"GIF89a"):
            return _gif(data)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            size = _png(data)
        elif data[:2] == b"\xff\xd8":
            size = _jpeg(data)
        elif data[:4] in (b"II*\x00", b"MM\x00*"):
            size = _tiff(data)
        elif data[:2] == b"BM":
            width, height = struct.unpack_from("<ii", data, 18)
            size = abs(width), abs(height)  # a negative height means rows from the top
        else:
            start = data[:8].hex(" ") or "nothing"
            raise DataError(f"an encoded image must be one of {_FORMATS}; it begins with the bytes {start}")
    except (struct.error, IndexError) as error:
        raise DataError(f"the image is cut off within its header: it has {len(data)} bytes. Send the file whole") from (
            error
        )
    return _checked(size, [size])


def _checked(size: tuple[int, int], parts: list[tuple[int, int]]) -> EncodedSize:
    """Returns the size of an image whose decoder makes `parts`, (width, height) each."""
    empty = next((part for part in (size, *parts) if min(part) < 1), None)
    if empty is not None:
        raise DataError(f"the image says that it is {empty[0]} x {empty[1]} pixels; it is damaged")
    return EncodedSize(*size, sum(width * height for width, height in parts))


def _gif(data: bytes) -> EncodedSize:
    """Walks through all blocks: each frame has a size of its own, which the screen's at the beginning does not bound.

    The decoded image is as wide as the widest frame and as high as the highest.
    """
    at = 13 + _colours(data[10])
    frames: list[tuple[int, int]] = []
    blocks = 0
    while (kind := data[at]) != _GIF_END:
        if kind == _GIF_FRAME:
            frames.append(struct.unpack_from("<HH", data, at + 5))
            at += 10 + _colours(data[at + 9]) + 1  # the last is the size of the code
        elif kind == _GIF_EXTENSION:
            at += 2
        else:
            raise DataError(f"the GIF has a block of the unknown kind {kind}; it is damaged")
        while length := data[at]:
            at += 1 + length
            blocks += kind == _GIF_EXTENSION
        at += 1
        if len(frames) > _MOST_GIF_FRAMES or blocks > _MOST_GIF_BLOCKS:
            raise DataError(
                f"the GIF has more than {_MOST_GIF_FRAMES} frames or {_MOST_GIF_BLOCKS} blocks of comments. Send its "
                "first frame as a PNG"
            )
    if not frames:
        raise DataError("the GIF has no frame; it is damaged")
    return _checked((max(width for width, _ in frames), max(height for _, height in frames)), frames)


def _colours(flags: int) -> int:
    """Returns the bytes of the table of colours that the flags of a GIF's screen or frame announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _png(data: bytes) -> tuple[int, int]:
    kind, width, height = struct.unpack_from(">4sII", data, 12)
    if kind != b"IHDR":
        raise DataError("the PNG does not begin with an IHDR chunk; it is damaged")
    return width, height


def _jpeg(data: bytes) -> tuple[int, int]:
    if data.count(_SCAN) > _MOST_SCANS:
        raise DataError(f"the JPEG has {data.count(_SCAN)} scans; at most {_MOST_SCANS} are decoded. Save it anew")
    at = 2
    while True:
        if data[at] != 0xFF:
            raise DataError("the JPEG has no marker where one must be; it is damaged")
        while data[at] == 0xFF:  # markers may be padded
            at += 1
        marker, at = data[at], at + 1
        if marker in _STANDALONE:
            continue
        (length,) = struct.unpack_from(">H", data, at)
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
        if marker == 0xDA or length < 2:
            raise DataError("the JPEG has no frame header before its pixels; it is damaged")
        at += length


def _tiff(data: bytes) -> tuple[int, int]:
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    if count > _MOST_TIFF_FIELDS:
        raise DataError(f"the TIFF has {count} fields; at most {_MOST_TIFF_FIELDS} are read. Save it anew")
    sizes = {256: 0, 257: 0}
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", data, entry)
        # A field that claims more values than the file has bytes makes a decoder allocate them all.
        if number * _TIFF_SIZES.get(kind, 1) > len(data):
            raise DataError(f"field {tag} of the TIFF claims {number} values, more than the file holds; it is damaged")
        if tag in sizes and kind not in _TIFF_WHOLE:
            raise DataError(f"field {tag} of the TIFF, its width or height, is no whole number; it is damaged")
        if tag in sizes and not sizes[tag]:  # of two fields of one number decoders take the first
            (sizes[tag],) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, entry + 8)
    return sizes[256], sizes[257]
