"""Facts about one image and its label: their own problems, and what the comparison of all samples needs.

Each file is decoded once. The facts take about three KiB, so that those of all samples fit into memory and travel
between processes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.spec import RGB, DatasetSpec
from rsseg_tf.doctor.findings import first_values, shortened
from rsseg_tf.doctor.fingerprints import Fingerprint, fingerprint
from rsseg_tf.doctor.places import Place, read_place
from rsseg_tf.errors import DataError, reason
from rsseg_tf.files.lists import Sample
from rsseg_tf.files.parallel import in_processes
from rsseg_tf.files.walking import is_file
from rsseg_tf.rasters.gdal import HEAD_BYTES, TRUSTING_NOBODY, PixelTypeError, Trust
from rsseg_tf.rasters.headers import image_kind
from rsseg_tf.rasters.images import png_palette, read_label, tiff_losses
from rsseg_tf.rasters.inspection import share_without_data
from rsseg_tf.rasters.opening import raster_driver
from rsseg_tf.rasters.scenes import Pixels, read_pixels
from rsseg_tf.rasters.statistics import Moments, look_at_band

__all__ = ["ImageFacts", "LabelFacts", "Problem", "SampleFacts", "inspect_sample", "inspect_samples"]

_CHUNK = 16  # samples that a worker inspects in one go
_SHOWN_VALUES = 3
_VALUES_OF_AN_IMAGE = 4096  # for its median; sorting all values would take longer than reading them
_SHOWN_COLOURS = 32  # no dataset here has more classes; pictures have thousands of colours
_DIGEST_BYTES = 16  # 128 bits: no two of a billion different images collide


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of one sample: a code of `KINDS`, the file, and a sentence without the file's name."""

    code: str
    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts about an image whose pixels could be read.

    Attributes:
        height: Rows.
        width: Columns.
        bands: Bands.
        dtype: NumPy name of the pixel type.
        digest: Equal for images with equal pixels, also in different file formats.
        moments: Of each band.
        middle: The median of some of its values.
        above: Number of values above `max_value` in all bands.
        fingerprint: None for a picture without enough content to compare it.
        place: Its place on Earth; None where unknown.
    """

    height: int
    width: int
    bands: int
    dtype: str
    digest: bytes
    moments: tuple[Moments, ...]
    middle: float
    above: int
    fingerprint: Fingerprint | None
    place: Place | None

    @property
    def is_constant(self) -> bool:
        """Whether each band has one value at most."""
        return all(band.low >= band.high for band in self.moments)


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """Facts about a label whose ids could be read.

    Attributes:
        height: Rows.
        width: Columns.
        counts: Pixels of each id that occurs.
        digest: Equal for labels with equal ids.
        colours: The colours of the ids that occur, in a palette PNG.
    """

    height: int
    width: int
    counts: dict[int, int]
    digest: bytes
    colours: dict[int, RGB]


@dataclass(frozen=True, slots=True)
class SampleFacts:
    """Facts about a sample.

    Attributes:
        image: The image; None where it could not be read.
        label: The label; None where there is none or it could not be read.
        problems: Problems of the two files.
        mask_colours: The colours of a label that is a mask in few colours.
        unseen: Share of the labelled pixels, 0..1, where the image has no data.
    """

    image: ImageFacts | None
    label: LabelFacts | None
    problems: tuple[Problem, ...]
    mask_colours: tuple[RGB, ...] = ()
    unseen: float = 0.0


def inspect_samples(
    samples: Sequence[Sample],
    *,
    spec: DatasetSpec | None = None,
    ignore_index: int = 255,
    trust: Trust = TRUSTING_NOBODY,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[SampleFacts]:
    """Returns the facts about all samples, in their order.

    Args:
        samples: The samples.
        spec: The dataset; None where unknown.
        ignore_index: Label value of ignored pixels.
        trust: Limits for files and for the sources of a VRT.
        workers: Number of processes; 1 works in this one.
        progress: Called with the number of samples done and of all.

    Raises:
        DataError: When a worker process was killed.
    """
    chunks = [(start, samples[start : start + _CHUNK]) for start in range(0, len(samples), _CHUNK)]
    found: dict[int, list[SampleFacts]] = {}
    done = 0
    work = functools.partial(_inspect_chunk, spec=spec, ignore_index=ignore_index, trust=trust)
    for start, facts in in_processes(work, chunks, workers):
        found[start] = facts
        done += len(facts)
        if progress is not None:
            progress(done, len(samples))
    return [facts for start in sorted(found) for facts in found[start]]


def _inspect_chunk(
    chunk: tuple[int, Sequence[Sample]], *, spec: DatasetSpec | None, ignore_index: int, trust: Trust
) -> tuple[int, list[SampleFacts]]:
    start, samples = chunk
    return start, [inspect_sample(sample, spec=spec, ignore_index=ignore_index, trust=trust) for sample in samples]


def inspect_sample(
    sample: Sample, *, spec: DatasetSpec | None = None, ignore_index: int = 255, trust: Trust = TRUSTING_NOBODY
) -> SampleFacts:
    """Returns the facts about one sample; its problems are among them and raise nothing.

    Args:
        sample: The image, and its label or None.
        spec: The dataset, which defines bands and values; None where unknown.
        ignore_index: Label value of ignored pixels.
        trust: Limits for files and for the sources of a VRT.
    """
    problems: list[Problem] = []
    image = label = None
    colours: tuple[RGB, ...] = ()
    label_place = nodata = None
    unseen = 0.0
    if _exists(sample.image, problems):
        with _whatever_is_wrong(sample.image, problems):
            image, nodata = _inspect_image(sample.image, spec, trust, problems)
    if sample.label is not None and _exists(sample.label, problems):
        with _whatever_is_wrong(sample.label, problems):
            ids, colours = _read_ids(sample.label, trust, problems)
            if ids is not None:
                label = _label_facts(ids, png_palette(sample.label) or ())
                label_place = _place_of(sample.label)
                unseen = share_without_data(ids, nodata, ignore_index)
    if image and label and (image.height, image.width) != (label.height, label.width):
        sizes = f"is {image.width}x{image.height} pixels, its label {label.width}x{label.height}"
        problems.append(Problem("size-mismatch", sample.image, sizes))
    elif image and image.place and label_place and not image.place.is_at(label_place):
        problems.append(Problem("misplaced-label", sample.image, _displacement(image.place, label_place)))
    return SampleFacts(image, label, tuple(problems), colours, unseen)


@contextlib.contextmanager
def _whatever_is_wrong(path: Path, problems: list[Problem]) -> Iterator[None]:
    """Turns an error of any type into a problem of the file: one file must not end the check of all."""
    try:
        yield
    except Exception as error:
        problems.append(Problem("file-unreadable", path, f"cannot be read: {reason(error)}"))


def _exists(path: Path, problems: list[Problem]) -> bool:
    if is_file(path):
        return True
    problems.append(Problem("file-missing", path, "is a folder" if os.path.isdir(path) else "does not exist"))
    return False


# --- images -------------------------------------------------------------------------------------------------------


def _inspect_image(
    path: Path, spec: DatasetSpec | None, trust: Trust, problems: list[Problem]
) -> tuple[ImageFacts | None, NDArray[np.bool_] | None]:
    """Returns the facts about an image and its nodata mask; adds its problems to the list."""
    try:
        read = _read(path, spec, trust)
    except DataError as error:
        code = "pixel-type" if isinstance(error, PixelTypeError) else "file-unreadable"
        problems.append(Problem(code, path, _without_path(str(error), path)))
        return None, None
    pixels, limit = read.values, spec.max_value if spec else None
    looks = [look_at_band(pixels[:, :, band], _left_out(read, band), limit) for band in range(pixels.shape[2])]
    moments = tuple(look.moments for look in looks)
    broken = read.broken + sum(look.broken for look in looks)
    problems += [Problem("image-reading", path, note) for note in read.notes]
    if broken:
        problems.append(Problem("not-finite", path, f"holds {broken} NaN or infinite values"))
    if read.sentinels:
        shown = ", ".join(f"{value:.9g} {count} times" for value, count in read.sentinels[:_SHOWN_VALUES])
        problems.append(Problem("nodata-values", path, f"holds {shown} and does not declare it as nodata"))
    facts = ImageFacts(
        height=pixels.shape[0],
        width=pixels.shape[1],
        bands=pixels.shape[2],
        dtype=str(pixels.dtype),
        digest=_digest(pixels),
        moments=moments,
        middle=_middle(read),
        above=sum(look.above for look in looks),
        fingerprint=fingerprint(pixels, read.nodata),
        place=_place_of(path),
    )
    if facts.is_constant:
        value = f"has the value {first_values([f'{band.low:g}' for band in moments])} in all pixels"
        has_data = any(band.count for band in moments)
        problems.append(Problem("constant-image", path, value if has_data else "holds no data at all"))
    return facts, read.nodata


def _read(path: Path, spec: DatasetSpec | None, trust: Trust) -> Pixels:
    """Reads an image for a dataset; an image with other bands, which is a finding of its own, is read as it is."""
    try:
        return read_pixels(path, spec, trust=trust)
    except DataError:  # other bands than the spec has, or a damaged file, which raises again below
        if spec is None:
            raise
        return read_pixels(path, None, trust=trust)


def _left_out(read: Pixels, band: int) -> NDArray[np.bool_] | None:
    """Returns the mask of a band's values that are no data."""
    if read.replaced is None:
        return read.nodata
    return read.replaced[:, :, band] if read.nodata is None else read.replaced[:, :, band] | read.nodata


def _middle(read: Pixels) -> float:
    """Returns the median of some values that are data; 0 where there are none."""
    data = read.values if read.nodata is None else read.values[~read.nodata]
    flat = data.reshape(-1)
    some = flat[:: max(1, flat.size // _VALUES_OF_AN_IMAGE)].astype(np.float64)
    return float(np.median(some)) if some.size else 0.0


def _digest(pixels: NDArray) -> bytes:
    digest = hashlib.blake2b(f"{pixels.shape} {pixels.dtype.str}".encode(), digest_size=_DIGEST_BYTES)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


# --- labels -------------------------------------------------------------------------------------------------------


def _read_ids(path: Path, trust: Trust, problems: list[Problem]) -> tuple[NDArray | None, tuple[RGB, ...]]:
    """Returns the ids; otherwise adds the problem to the list and returns the colours of a mask in few colours."""
    try:
        return read_label(path, trust), ()
    except DataError as error:
        refused = _without_path(str(error), path)
    try:
        kind = _kind_of(path)
        # Losses come first: they explain wrong values, bands and colours.
        if kind == "JPEG":
            problems.append(Problem("label-jpeg", path, "is a JPEG file"))
            return None, ()
        if lossy := tiff_losses(path) if kind == "TIFF" else "":
            problems.append(Problem("label-jpeg", path, f"is compressed with losses ({lossy})"))
            return None, ()
        pixels = read_pixels(path, None, trust=trust).values
    except (DataError, OSError):
        problems.append(Problem("file-unreadable", path, refused))
        return None, ()
    if pixels.shape[2] == 1:
        problems.append(Problem("label-values", path, refused))
        return None, ()
    message, colours = _describe_mask(pixels)
    problems.append(Problem("label-bands", path, message))
    return None, colours


def _describe_mask(pixels: NDArray) -> tuple[str, tuple[RGB, ...]]:
    """Describes a label with several bands, and returns its colours if they are few."""
    count = pixels.shape[2]
    if (pixels == pixels[:, :, :1]).all():  # ids that a program saved as a grey RGB image
        return f"has {count} equal bands; keep one of them, if it holds class ids", ()
    if count not in (3, 4) or pixels.dtype != np.uint8:
        return f"has {count} bands of {pixels.dtype}", ()
    channels = pixels.reshape(-1, count)[:, :3].astype(np.uint32)
    # One number a colour: `unique` over rows of three is slower.
    packed = np.unique(channels[:, 0] << 16 | channels[:, 1] << 8 | channels[:, 2]).tolist()
    if len(packed) > _SHOWN_COLOURS:
        return f"has {count} bands and {len(packed)} colours", ()
    colours = tuple((value >> 16, value >> 8 & 255, value & 255) for value in packed)
    return f"has {count} bands and the colours {', '.join(map(str, colours))}", colours


def _label_facts(ids: NDArray, palette: Sequence[RGB]) -> LabelFacts:
    counts = np.bincount(ids.ravel())  # at most 65,536 entries, since ids have at most 16 bits
    present = np.flatnonzero(counts)
    # Ids of 8 and of 16 bits must give one digest.
    narrow = ids.astype(np.uint8) if ids.dtype != np.uint8 and present[-1] < 256 else ids
    return LabelFacts(
        height=ids.shape[0],
        width=ids.shape[1],
        counts=dict(zip(present.tolist(), counts[present].tolist(), strict=True)),
        digest=_digest(narrow),
        colours={value: palette[value] for value in present.tolist() if value < len(palette)},
    )


# --- both ---------------------------------------------------------------------------------------------------------


def _kind_of(path: Path) -> str:
    with path.open("rb") as handle:
        return image_kind(handle.read(HEAD_BYTES), str(path))


def _place_of(path: Path) -> Place | None:
    return read_place(path, raster_driver(path, Trust(vrt_sources=True)) or _kind_of(path))


def _displacement(image: Place, label: Place) -> str:
    if image.crs != label.crs:
        return f"is in {shortened(image.crs, 40)}, its label in {shortened(label.crs, 40)}"
    return f"and its label have edges up to {image.furthest_edge(label) / image.pixel:.1f} pixels apart"


def _without_path(message: str, path: Path) -> str:
    """Returns the first sentence of an error, which leaves the remedy out, without the name of the file."""
    first = message.removeprefix(f"{path} ").split(". ")[0]
    return first.rstrip(".").replace(str(path) + os.sep, "").replace(str(path), "the file")
