"""GIFs of any frames, as no encoder would write them: black pixels, packed as tightly as the format can."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

_BITS = 2  # of a colour
_CLEAR = 1 << _BITS


def gif(screen: tuple[int, int], frames: Sequence[tuple[int, int]], *, comments: int = 0) -> bytes:
    """Returns a sound GIF.

    Args:
        screen: (width, height) that its header says.
        frames: (width, height) of each frame.
        comments: blocks of one byte before the frames.
    """
    parts = [b"GIF89a", struct.pack("<HHBBB", *screen, 0x80 | _BITS - 1, 0, 0), bytes(3 * _CLEAR)]
    if comments:
        parts.append(b"\x21\xfe" + b"\x01x" * comments + b"\x00")
    for width, height in frames:
        parts.append(b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + bytes([_BITS]))
        packed = _packed(_codes(width * height))
        parts += [bytes([len(packed[at : at + 255])]) + packed[at : at + 255] for at in range(0, len(packed), 255)]
        parts.append(b"\x00")
    return b"".join([*parts, b"\x3b"])


def _codes(pixels: int) -> Iterator[int]:
    """Yields codes, each of which stands for one pixel more than the one before, until the table is full."""
    while pixels > 0:
        yield _CLEAR
        for run in range(1, 4096 - _CLEAR):
            taken = min(run, pixels)
            if taken:
                yield 0 if taken == 1 else _CLEAR + taken
            pixels -= taken
    yield _CLEAR + 1


def _packed(codes: Iterable[int]) -> bytes:
    """Writes codes with as many bits as a decoder expects at each moment."""
    value = used = 0
    width, following, is_first = _BITS + 1, _CLEAR + 2, True
    out = bytearray()
    for code in codes:
        value |= code << used
        used += width
        while used >= 8:
            out.append(value & 255)
            value >>= 8
            used -= 8
        if code == _CLEAR:
            width, following, is_first = _BITS + 1, _CLEAR + 2, True
        elif is_first:
            is_first = False
        else:
            following += 1
            if following == 1 << width and width < 12:
                width += 1
    out.append(value & 255)
    return bytes(out)
