"""Changes of files as cut copies, bad disks and people with bad intent make them; equal seeds make equal changes."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

__all__ = ["mutated"]

_LARGEST_PART = 4096
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_TEXTS = (
    *(b"\x00", b"\x07", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n\n", b"\t", b'"', b"'", b"../", b"/", b"${x}", b"*a"),
    *(b"[" * 3000, b"{" * 3000, b"(" * 3000, b"9" * 5000, b"-1", b"1e999", b"NaN", b"null", b"true", b"[]", b"{}"),
    *(b"<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/x'>]>", b"&e;", b"\xed\xa0\x80", "ä😀".encode(), b" " * 9000),
)  # fmt: skip

Change = Callable[[bytearray, random.Random, bytes], None]


def mutated(sound: bytes, other: bytes, rng: random.Random) -> bytes:
    """Returns a file with one to four changes; now and then something else altogether.

    Args:
        sound: a file that is read without complaint.
        other: one of another kind, of which parts are taken.
        rng: chooses.
    """
    if rng.random() < 0.03:
        return rng.choice([b"", other, rng.randbytes(rng.randrange(1, 300)), sound * 2, sound[:1]])
    data = bytearray(sound)
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 4])):
        rng.choice(_CHANGES)(data, rng, other)
    return bytes(data)


def _place(data: bytearray, rng: random.Random) -> int:
    """Headers decide more than pixels do, so half of all changes are near the beginning or the end."""
    size = len(data) + 1
    near = min(size, 256)
    return rng.choice([rng.randrange(near), size - 1 - rng.randrange(near), rng.randrange(size), rng.randrange(size)])


def _part(data: bytearray | bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return bytes(data[start : start + rng.randrange(1, min(_LARGEST_PART, len(data) + 1) + 1)])


def _flip(data: bytearray, rng: random.Random, other: bytes) -> None:
    for _ in range(rng.choice([1, 1, 8])):
        if data:
            data[min(_place(data, rng), len(data) - 1)] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random, other: bytes) -> None:
    if data:
        data[min(_place(data, rng), len(data) - 1)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])


def _cut(data: bytearray, rng: random.Random, other: bytes) -> None:
    del data[_place(data, rng) :]


def _remove(data: bytearray, rng: random.Random, other: bytes) -> None:
    at = _place(data, rng)
    del data[at : at + rng.randrange(1, 65)]


def _repeat(data: bytearray, rng: random.Random, other: bytes) -> None:
    at = _place(data, rng)
    data[at:at] = _part(data, rng) * rng.choice([1, 1, 2, 50])


def _overwrite(data: bytearray, rng: random.Random, other: bytes) -> None:
    at, part = _place(data, rng), _part(data, rng)
    data[at : at + len(part)] = part


def _splice(data: bytearray, rng: random.Random, other: bytes) -> None:
    at, part = _place(data, rng), _part(other, rng)
    data[at : at + rng.choice([0, len(part)])] = part


def _inflate(data: bytearray, rng: random.Random, other: bytes) -> None:
    """Writes an extreme number where a length, size, offset or count may be."""
    size = rng.choice([1, 2, 4, 8])
    number = rng.choice([edge for edge in _EDGES if edge < 256**size])
    at = _place(data, rng)
    data[at : at + size] = number.to_bytes(size, rng.choice(["little", "big"]))


def _zero(data: bytearray, rng: random.Random, other: bytes) -> None:
    at = _place(data, rng)
    count = min(rng.choice([4, 64, 512]), max(0, len(data) - at))
    data[at : at + count] = bytes(count)


def _text(data: bytearray, rng: random.Random, other: bytes) -> None:
    at = _place(data, rng)
    data[at:at] = rng.choice(_TEXTS)


def _number(data: bytearray, rng: random.Random, other: bytes) -> None:
    """Replaces a number that is written as text, as in XML, JSON, YAML and WKT."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(data[:100_000])))
    if found:
        match = rng.choice(found)
        new = rng.choice([b"-1", b"0", b"1e9", b"99999999999", b"1e308", b"nan", b"9" * 400, b"", b"x", b"2147483648"])
        data[match.start() : match.end()] = new


_CHANGES: tuple[Change, ...] = (
    *(_flip, _flip, _set, _set, _cut, _remove, _repeat, _overwrite, _splice),
    *(_inflate, _inflate, _zero, _text, _number, _number),
)
