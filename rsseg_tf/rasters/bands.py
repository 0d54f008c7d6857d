"""Which bands of a file are the image, and which is its mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import DataError

__all__ = ["SET_BANDS", "BandChoice", "BandCountError", "choose_bands"]

_COLOURS = ("red", "green", "blue")
SET_BANDS = "Set dataset.bands (name: custom), or write images with those bands alone."


class BandCountError(DataError):
    """A file has another number of bands than its dataset. `predict`, which can choose, replaces `SET_BANDS` in it.

    Attributes:
        available: All bands of the file, alpha too.
    """

    available: int = 0


@dataclass(frozen=True)
class BandChoice:
    """The bands that are the image, the band that is its mask (all counted from 1), and notes for the user."""

    bands: tuple[int, ...]
    alpha: int | None
    notes: tuple[str, ...] = ()


def choose_bands(
    name: str,
    marks: Sequence[str],
    descriptions: Sequence[str],
    bands: Sequence[int] | None,
    spec: DatasetSpec | None,
    repeat_grey: bool = False,
) -> BandChoice:
    """Chooses the bands of a file that are the image.

    The first of these that the file has: the bands that were asked for; those whose descriptions are the spec's band
    names; those marked with these names (red, green, blue, nir); all that are not marked alpha, if the spec has as
    many; all. An alpha band that is not among them is a mask.

    Args:
        name: What to call the file.
        marks: The marks of its bands: "red", "alpha" and so on.
        descriptions: The descriptions of its bands, "" for none.
        bands: The bands that were asked for, if any.
        spec: The dataset that the image is read for.
        repeat_grey: Read the one band of a grey image three times where the spec has three.

    Raises:
        DataError: When a band is missing, or their number is not the spec's.
    """
    count = len(marks)
    alpha = [band for band in range(1, count + 1) if marks[band - 1] == "alpha"]
    data = [band for band in range(1, count + 1) if band not in alpha]
    if bands is not None:
        missing = [band for band in bands if band > count]
        if missing:
            raise DataError(
                f"{name} has no band {missing[0]} to read; its bands are {_numbers(range(1, count + 1))}. "
                "Choose among them."
            )
        return _with_mask(bands, alpha)
    if not data and (spec is None or spec.bands != count):
        raise DataError(f"{name} has {count} band, an alpha band; at least one band of data is needed.")
    if spec is None:
        return _with_mask(data, alpha)
    if spec.band_names and (named := _named(spec.band_names, descriptions)):
        return _with_mask(named, alpha)
    # OpenCV decodes grey with alpha as four bands; a model of one or two bands takes one grey, or grey and alpha.
    if list(marks) == ["gray", "gray", "gray", "alpha"] and spec.bands < 3:
        return _with_mask(
            (1, 4)[: spec.bands], alpha, ("has an alpha band, which is taken as data",) * (spec.bands == 2)
        )
    by_marks, notes = _by_marks(marks, data, spec)
    if by_marks:
        return _with_mask(by_marks, alpha, notes)
    if len(data) == spec.bands:
        return _with_mask(data, alpha, notes)
    if repeat_grey and (len(data), spec.bands) == (1, 3) and "palette" not in marks:
        return _with_mask((data[0],) * 3, alpha, notes)
    # Writers mark the fourth of four bands alpha by default, near infrared as well; the dataset knows better.
    if count == spec.bands:
        shown = f"band {_numbers(alpha)} is marked alpha and taken as data, because {spec.bands} bands are needed"
        return _with_mask(range(1, count + 1), alpha, (*notes, shown))
    raise _wrong_count(name, marks, len(data), spec)


def _with_mask(bands: Sequence[int], alpha: Sequence[int], notes: Sequence[str] = ()) -> BandChoice:
    """Makes the first alpha band that is not read as data the mask."""
    masks = [band for band in alpha if band not in bands]
    return BandChoice(tuple(bands), masks[0] if masks else None, tuple(notes))


def _named(names: Sequence[str], found: Sequence[str]) -> tuple[int, ...]:
    """Returns the bands with some names, in any capitals; none unless each name occurs exactly once."""
    places = [[band for band, text in enumerate(found, 1) if text.casefold() == name.casefold()] for name in names]
    return tuple(place[0] for place in places) if all(len(place) == 1 for place in places) else ()


def _by_marks(marks: Sequence[str], data: Sequence[int], spec: DatasetSpec) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Returns the bands that are marked with the spec's band names, or none; and a note if they are in another order.

    Many writers mark the first three bands red, green and blue whatever these hold. So these marks change no order.
    """
    colours = [mark for mark in marks if mark not in ("alpha", "undefined", "gray", "palette")]
    by_default = tuple(marks[:3]) == _COLOURS
    found = _named(spec.band_names, marks) if spec.band_names else ()
    stored = tuple(data[: spec.bands])
    if found and (found == stored or not by_default):
        moved = f"bands {_numbers(found)} are read, marked {', '.join(spec.band_names)}" if found != tuple(data) else ""
        return found, (moved,) if moved else ()
    if not colours or (by_default and not found):
        return (), ()
    wanted = ", ".join(spec.band_names) if spec.band_names else "not known by name (dataset.band_names)"
    if len(data) == spec.bands and (found or not by_default):
        marked = ", ".join(marks[band - 1] for band in data)
        return (), (f"its bands are marked {marked}, those of '{spec.name}' are {wanted}: taken in the file's order",)
    return (), ()


def _wrong_count(name: str, marks: Sequence[str], data: int, spec: DatasetSpec) -> DataError:
    """Returns the error for a file with another number of bands than the spec."""
    found = f"{name} has {data} band{'s' if data != 1 else ''}"
    if data < len(marks):
        found += " beside its alpha band, which is a mask"
    expected = f"but the dataset '{spec.name}' has {spec.bands}."
    if "palette" in marks:
        found += ", which holds indices into a colour table (palette)"
        return DataError(f"{found}, {expected} Expand it to colours first (gdal_translate -expand rgb).")
    error = BandCountError(f"{found}, {expected} {SET_BANDS}")
    error.available = len(marks)
    return error


def _numbers(bands: Sequence[int]) -> str:
    return ", ".join(map(str, bands))
