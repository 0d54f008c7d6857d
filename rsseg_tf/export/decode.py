"""Decoding of encoded images inside of a TensorFlow graph: PNG, JPEG, BMP, GIF and uncompressed TIFF.

TensorFlow decodes no TIFF. What satellites and GIS tools send most simply, a baseline TIFF without compression, needs
no decoder: its header says where each pixel's bytes lie, and gathering them is a matter of a few operations. So servers
that know nothing of us can take such files. Compressed ones and BigTIFF are refused with a message.

Source of the field numbers: TIFF Revision 6.0, Adobe, 1992.
"""

from __future__ import annotations

import tensorflow as tf

__all__ = ["decode_pixels"]

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_PNG_DEPTH = 24  # the byte with the bit depth: the IHDR chunk comes first
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIPS = 256, 257, 258, 259, 262, 273
_SAMPLES, _ROWS_PER_STRIP, _PLANAR = 277, 278, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 322, 323, 324, 338, 339
_FIELDS = (
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIPS, _SAMPLES, _ROWS_PER_STRIP, _PLANAR),
    *(_TILE_WIDTH, _TILE_HEIGHT, _TILES, _EXTRA_SAMPLES, _SAMPLE_FORMAT),
)
_SHORT, _LONG = 3, 4
_PALETTE_COLOURS = 3
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3


def decode_pixels(data: tf.Tensor, *, bands: int, dtype: str) -> tf.Tensor:
    """Decodes one image.

    Args:
        data: scalar string: a PNG, JPEG, BMP or GIF (first frame), or a TIFF that is neither compressed nor Big nor a
            palette: strips or tiles, chunky or planar, of either byte order.
        bands: how many the image must have; an alpha band beyond them is dropped.
        dtype: `uint8`: images of 8 bits only. `float32`: PNGs of 8 or 16 bits, TIFFs of 8 or 16 bits with or without
            sign and of 32-bit floating point, with their values as stored.

    Returns:
        `(H, W, bands)` of `dtype`. At run time the graph fails with a message for anything else.
    """
    mark = tf.strings.substr(data, 0, 4)
    is_tiff = tf.reduce_any(tf.equal(mark, [b"II*\x00", b"MM\x00*"]))
    pixels = tf.cond(is_tiff, lambda: _tiff(data, bands, dtype), lambda: _picture(data, bands, dtype))
    pixels.set_shape((None, None, bands))
    return pixels


def _require(condition: tf.Tensor, message: str, *values: tf.Tensor) -> tf.Operation:
    return tf.debugging.Assert(condition, [message, *values])


def _picture(data: tf.Tensor, bands: int, dtype: str) -> tf.Tensor:
    head = tf.strings.join([tf.strings.substr(data, 0, _PNG_DEPTH + 1), bytes(_PNG_DEPTH + 1)])
    is_png = tf.equal(tf.strings.substr(head, 0, len(_PNG)), _PNG)
    is_deep = tf.logical_and(is_png, tf.equal(tf.strings.substr(head, _PNG_DEPTH, 1), b"\x10"))

    is_jpeg = tf.equal(tf.strings.substr(head, 0, len(_JPEG)), _JPEG)

    def shallow() -> tf.Tensor:
        # TensorFlow's default for JPEG is faster, and up to eight grey levels away from what all other readers give.
        return tf.cond(
            is_jpeg,
            lambda: tf.cast(tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE"), dtype),
            lambda: tf.cast(tf.io.decode_image(data, expand_animations=False), dtype),
        )

    if dtype == "uint8":
        checks = [_require(tf.logical_not(is_deep), "the model takes 8 bits per band; the PNG has 16")]
        with tf.control_dependencies(checks):
            pixels = tf.identity(shallow())
    else:
        pixels = tf.cond(is_deep, lambda: tf.cast(tf.io.decode_png(data, dtype=tf.uint16), dtype), shallow)
    found = tf.shape(pixels)[2]
    with_alpha = tf.logical_and(tf.equal(found, bands + 1), tf.reduce_any(tf.equal(found, [2, 4])))
    fits = tf.logical_or(tf.equal(found, bands), with_alpha)
    with tf.control_dependencies([_require(fits, f"the model needs {bands} bands; the image has", found)]):
        return tf.identity(pixels[:, :, :bands])


class _Header:
    """The first directory of a TIFF.

    It is read without branches, which would make the graph several times as large.
    """

    def __init__(self, data: tf.Tensor) -> None:
        self.raw = tf.io.decode_raw(data, tf.uint8)
        self.big_endian = tf.equal(tf.strings.substr(data, 0, 1), b"M")
        start = self.integers(tf.constant([4]), 4)[0]
        count = self.integers(start[tf.newaxis], 2)[0]
        self.entries = start + 2 + 12 * tf.range(count)
        self.tags = self.integers(self.entries, 2)
        read = tf.reduce_any(tf.equal(self.tags[:, tf.newaxis], _FIELDS), axis=1)
        kinds = self.integers(self.entries + 2, 2)
        whole = tf.logical_or(tf.equal(kinds, _SHORT), tf.equal(kinds, _LONG))
        self.is_sound = tf.reduce_all(tf.logical_or(tf.logical_not(read), whole))

    def integers(self, at: tf.Tensor, size: tf.Tensor | int) -> tf.Tensor:
        """Returns the integers of `size` bytes at positions `(N,)`, as `(N,)` int32."""
        place = tf.range(size)
        parts = tf.gather(self.raw, at[:, tf.newaxis] + tf.where(self.big_endian, size - 1 - place, place))
        return tf.reduce_sum(tf.bitwise.left_shift(tf.cast(parts, tf.int32), 8 * place), axis=1)

    def field(self, tag: int, default: tf.Tensor | int) -> tf.Tensor:
        """Returns all values of a field as `(N,)` int32, or `[default]` where the file has none."""
        match = self.entries[tf.equal(self.tags, tag)][:1]
        present = tf.size(match)
        entry = tf.concat([match, [0]], axis=0)[:1]  # something that can be read where there is no such field
        kind, stored = self.integers(entry + 2, 2)[0], self.integers(entry + 4, 4)[0]
        size = tf.where(tf.equal(kind, _SHORT), 2, 4)
        # A file that claims more values than it has bytes must not make room for them.
        count = tf.clip_by_value(stored, 0, tf.size(self.raw) // size) * present
        start = tf.where(size * count <= 4, entry[0] + 8, self.integers(entry + 8, 4)[0])
        values = self.integers(start + size * tf.range(count), size)
        return tf.concat([values, tf.repeat(tf.cast(default, tf.int32), 1 - present)], axis=0)

    def value(self, tag: int, default: tf.Tensor | int) -> tf.Tensor:
        """Returns the first value of a field as a scalar."""
        return self.field(tag, default)[0]


def _tiff(data: tf.Tensor, bands: int, dtype: str) -> tf.Tensor:
    header = _Header(data)
    height, width, samples = header.value(_HEIGHT, 0), header.value(_WIDTH, 0), header.value(_SAMPLES, 1)
    bits, kinds = header.field(_BITS, 1), header.field(_SAMPLE_FORMAT, _UNSIGNED)
    alpha = tf.reduce_any(tf.equal(header.value(_EXTRA_SAMPLES, 0), [1, 2]))
    fits = tf.logical_or(tf.equal(samples, bands), tf.logical_and(tf.equal(samples, bands + 1), alpha))
    compression, photometric = header.value(_COMPRESSION, 1), header.value(_PHOTOMETRIC, 1)
    checks = [
        _require(header.is_sound, "the TIFF has a field of a type that baseline TIFF does not allow"),
        _require(tf.equal(compression, 1), "the TIFF must not be compressed; its compression is", compression),
        _require(tf.not_equal(photometric, _PALETTE_COLOURS), "the TIFF must not have a palette"),
        _require(fits, f"the model needs {bands} bands; the TIFF has", samples),
        _require(
            _is_allowed(bits, kinds, dtype), f"the TIFF's pixels do not fit {dtype}: bits and format", bits, kinds
        ),
        _require(_is_whole(header, height, width, samples, bits[0]), "the TIFF is shorter than its pixels"),
    ]
    with tf.control_dependencies(checks):
        size = bits[0] // 8
        offsets = _byte_offsets(header, height, width, samples, size)
        parts = tf.gather(header.raw, offsets[..., tf.newaxis] + tf.range(size))
    if dtype == "uint8":
        return parts[:, :, :bands, 0]
    little_endian = tf.cond(header.big_endian, lambda: tf.reverse(parts, [3]), lambda: parts)
    return _as_float(little_endian, kinds[0])[:, :, :bands]


def _is_allowed(bits: tf.Tensor, kinds: tf.Tensor, dtype: str) -> tf.Tensor:
    """Whether all bands are of one type, and of one that `dtype` holds exactly."""
    alike = tf.logical_and(tf.reduce_all(tf.equal(bits, bits[0])), tf.reduce_all(tf.equal(kinds, kinds[0])))
    allowed = [(8, _UNSIGNED)]
    if dtype != "uint8":
        allowed += [(8, _SIGNED), (16, _UNSIGNED), (16, _SIGNED), (32, _FLOAT)]
    found = [tf.logical_and(tf.equal(bits[0], b), tf.equal(kinds[0], k)) for b, k in allowed]
    return tf.logical_and(alike, tf.reduce_any(tf.stack(found)))


def _is_whole(header: _Header, height: tf.Tensor, width: tf.Tensor, samples: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Whether the file has the bytes of its pixels; counted in double precision, which large claims do not overflow."""
    claimed = tf.reduce_prod(tf.cast(tf.stack([height, width, samples, bits // 8]), tf.float64))
    return claimed <= tf.cast(tf.size(header.raw), tf.float64)


def _byte_offsets(
    header: _Header, height: tf.Tensor, width: tf.Tensor, samples: tf.Tensor, size: tf.Tensor
) -> tf.Tensor:
    """Returns where in the file each sample begins, `(H, W, samples)` int32.

    A strip is a tile as wide as the image, so that one rule serves both.
    """
    tiled = tf.reduce_any(tf.equal(header.tags, _TILES))
    tile_width = header.value(_TILE_WIDTH, width)
    # A missing number of rows, or 2^32 - 1, which is -1 here, means that one strip holds all.
    rows = header.value(_ROWS_PER_STRIP, height)
    rows = tf.where(tf.logical_or(rows < 1, rows > height), height, rows)
    tile_height = header.value(_TILE_HEIGHT, rows)
    starts = tf.cond(tiled, lambda: header.field(_TILES, 0), lambda: header.field(_STRIPS, 0))
    across, down = (width + tile_width - 1) // tile_width, (height + tile_height - 1) // tile_height
    y = tf.range(height)[:, tf.newaxis, tf.newaxis]
    x = tf.range(width)[tf.newaxis, :, tf.newaxis]
    sample = tf.range(samples)[tf.newaxis, tf.newaxis, :]
    tile = y // tile_height * across + x // tile_width
    pixel = y % tile_height * tile_width + x % tile_width

    def chunky() -> tf.Tensor:
        return tf.gather(starts, tile) + (pixel * samples + sample) * size

    def planar() -> tf.Tensor:
        return tf.gather(starts, tile + sample * across * down) + pixel * size

    return tf.cond(tf.equal(header.value(_PLANAR, 1), 1), chunky, planar)


def _as_float(parts: tf.Tensor, kind: tf.Tensor) -> tf.Tensor:
    """Turns the bytes of each sample, lowest first, `(H, W, samples, size)`, into `(H, W, samples)` float32."""

    def whole() -> tf.Tensor:
        size = tf.shape(parts)[3]
        value = tf.reduce_sum(tf.bitwise.left_shift(tf.cast(parts, tf.int32), 8 * tf.range(size)), axis=3)
        span = tf.bitwise.left_shift(1, 8 * size)
        negative = tf.logical_and(tf.equal(kind, _SIGNED), value >= span // 2)
        return tf.cast(tf.where(negative, value - span, value), tf.float32)

    def floating() -> tf.Tensor:
        four = tf.reshape(parts, tf.concat([tf.shape(parts)[:3], [4]], axis=0))
        return tf.bitcast(tf.ensure_shape(four, (None, None, None, 4)), tf.float32)

    return tf.cond(tf.equal(kind, _FLOAT), floating, whole)
