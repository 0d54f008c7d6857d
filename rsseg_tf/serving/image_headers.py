"""The size of an encoded image from its header: what a decoder would allocate, before it does.

A PNG of 40 kB can hold 40 000 x 40 000 pixels, and decoders believe it. So servers read the few bytes that say how
large an image is, and refuse before decoding. Formats are those that `rsseg_tf.export.decode` knows.

Sources: PNG (ISO/IEC 15948), JPEG (ITU T.81, annex B), TIFF 6.0, GIF89a, and Microsoft's BITMAPINFOHEADER.
"""

from __future__ import annotations

import struct

from rsseg_tf.errors import DataError

__all__ = ["image_size"]

_FORMATS = "PNG, JPEG, BMP, GIF and TIFF"
# A progressive JPEG is refined scan by scan, and each costs a pass over the whole image; real ones have about ten.
_MOST_SCANS = 100
_SCAN = b"\xff\xda"
_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # JPEG markers without a length
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those that begin a frame, and so give its size
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_MOST_TIFF_FIELDS = 200


def image_size(data: bytes) -> tuple[int, int]:
    """Returns (width, height) of an encoded image without decoding it.

    Raises:
        DataError: when it is none of the known formats, ends within its header, or its header is built to exhaust a
            decoder.
    """
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            size = _png(data)
        elif data[:2] == b"\xff\xd8":
            size = _jpeg(data)
        elif data[:4] in (b"II*\x00", b"MM\x00*"):
            size = _tiff(data)
        elif data[:6] in (b"GIF87a", b"GIF89a"):
            size = struct.unpack_from("<HH", data, 6)
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
    if min(size) < 1:
        raise DataError(f"the image says that it is {size[0]} x {size[1]} pixels; it is damaged")
    return size


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
        if tag in sizes:
            (sizes[tag],) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, entry + 8)
    return sizes[256], sizes[257]
