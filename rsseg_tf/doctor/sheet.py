"""Contact sheets: some pairs of image and label side by side, as a PNG or as a self-contained HTML page."""

from __future__ import annotations

import html
import random
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.spec import MAX_CLASSES, RGB, custom_spec, default_palette
from rsseg_tf.doctor.evidence import Evidence
from rsseg_tf.doctor.report import Report
from rsseg_tf.errors import DataError
from rsseg_tf.files import StrPath
from rsseg_tf.files.writing import output_file
from rsseg_tf.predict.pages import check_page_place, image_tag, page, swatches
from rsseg_tf.predict.pictures import IGNORED_COLOUR, as_rgb, legend, resized, titled
from rsseg_tf.rasters.images import read_label
from rsseg_tf.rasters.scenes import read_pixels

__all__ = ["SHEET_SUFFIXES", "check_sheet_place", "choose_samples", "write_sheet"]

SHEET_SUFFIXES = (".png", ".html")
_MARK = b"rsseg-tf check-data"  # in each sheet, so that no other file is overwritten

_UNKNOWN_COLOUR: RGB = (255, 0, 255)
_SIDE = {".png": 224, ".html": 320}  # of a panel, in pixels
_COLUMNS = 3
_GAP = 16  # between samples, in pixels
_BETWEEN = 4  # between an image and its label
_CAPTION_CHARACTERS = 48  # that fit above an image and its label
_TRIED = 64  # candidates for the sample with most pixels of a class


@dataclass(frozen=True)
class _Panel:
    """One sample as square pictures, with its split, its name and the shares of its classes."""

    split: str
    name: str
    image: NDArray[np.uint8]
    label: NDArray[np.uint8] | None
    shares: tuple[tuple[str, float], ...]


def write_sheet(path: StrPath, report: Report, *, count: int = 12, seed: int = 0) -> None:
    """Writes a contact sheet, whole or not at all.

    Args:
        path: `.png` or `.html`; its folder must exist.
        report: The report on the dataset.
        count: Number of samples to show; all if there are fewer.
        seed: Seed of the choice of samples.

    Raises:
        DataError: When the suffix is another one, no sample can be shown, the path is a file that is no sheet, or the
            file cannot be written.
    """
    path = Path(path)
    check_sheet_place(path)
    suffix = path.suffix.lower()
    if suffix not in SHEET_SUFFIXES or count < 1:
        raise DataError(
            f"A contact sheet is a {' or '.join(SHEET_SUFFIXES)} file of at least 1 sample; got {path} and {count}."
        )
    positions = choose_samples(report.evidence, count, seed)
    if not positions:
        raise DataError(f"No sample of {report.dataset.source} can be shown: mend the errors first.")
    names = report.class_names[:MAX_CLASSES] if report.dataset.labelled else ()
    palette = report.dataset.expected.palette[: len(names)] or default_palette(len(names))
    panels = [_panel(report.evidence, position, palette, names, _SIDE[suffix]) for position in positions]
    entries = _entries(report.evidence, positions, names, palette)
    title = f"{report.dataset.expected.name}: {len(panels)} of {len(report.evidence.samples)} samples"
    if suffix == ".png":
        picture = cv2.cvtColor(_picture(panels, entries, title), cv2.COLOR_RGB2BGR)
        content = _marked(cv2.imencode(".png", picture)[1].tobytes())
    else:
        content = _page(panels, entries, title).encode("utf-8", "backslashreplace")
    with output_file(path) as partial:
        partial.write_bytes(content)


def check_sheet_place(path: Path) -> None:
    """Raises DataError if the path is a file that is no contact sheet; only sheets are overwritten."""
    check_page_place(path, _MARK, "contact sheet")


def _marked(png: bytes) -> bytes:
    """Adds a text chunk with the mark behind the header of a PNG file (33 bytes)."""
    chunk = b"tEXt" + b"Software\0" + _MARK
    return png[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def choose_samples(evidence: Evidence, count: int, seed: int) -> list[int]:
    """Chooses samples at random so that each class is shown if there is room, the rarest first.

    Args:
        evidence: Facts about the dataset.
        count: Number of samples.
        seed: Seed of the choice.

    Returns:
        Positions of samples whose image and label could be read and have one size, in rising order.
    """
    labelled = evidence.dataset.labelled
    usable = [
        position
        for position, facts in enumerate(evidence.facts)
        if facts.image
        and (not labelled or facts.label)
        and not any(problem.code == "size-mismatch" for problem in facts.problems)
    ]
    random.Random(seed).shuffle(usable)
    counts = {position: label.counts if (label := evidence.facts[position].label) else {} for position in usable}
    holders = Counter(value for found in counts.values() for value in found)
    chosen: list[int] = []
    for value in sorted(holders, key=lambda value: (holders[value], value)):
        if len(chosen) < count and not any(value in counts[position] for position in chosen):
            # The sample with most pixels of the class shows it best; the bound keeps large datasets quick.
            able = [position for position in usable if value in counts[position]][:_TRIED]
            chosen.append(max(able, key=lambda position: counts[position][value]))
    rest = [position for position in usable if position not in chosen]
    return sorted((chosen + rest)[:count])


def _panel(evidence: Evidence, position: int, palette: Sequence[RGB], names: Sequence[str], side: int) -> _Panel:
    """Reads a sample and fits it into squares."""
    expected, sample = evidence.dataset.expected, evidence.samples[position]
    facts_of_image = evidence.facts[position].image
    spec = expected.spec if expected.spec and facts_of_image and expected.spec.bands == facts_of_image.bands else None
    read = read_pixels(sample.image, spec, trust=evidence.dataset.trust)
    shown = spec or custom_spec(expected.name, ("any",), bands=read.values.shape[2])
    picture = as_rgb(read.values, shown, read.nodata)
    label = None
    shares: tuple[tuple[str, float], ...] = ()
    facts = evidence.facts[position].label
    if sample.label is not None and facts is not None:
        label = _square(_coloured(read_label(sample.label), palette, expected.ignore_index), side, smooth=False)
        total = sum(facts.counts.values())
        ranked = sorted(facts.counts.items(), key=lambda entry: (-entry[1], entry[0]))
        shares = tuple((_id_name(value, names, expected.ignore_index), count / total) for value, count in ranked)
    split = "+".join(evidence.splits_of([position]))
    return _Panel(split, evidence.name(sample.image), _square(picture, side, smooth=True), label, shares)


def _id_name(value: int, names: Sequence[str], ignore_index: int) -> str:
    if value == ignore_index:
        return "ignored"
    return names[value] if value < len(names) else f"unknown id {value}"


def _coloured(ids: NDArray, palette: Sequence[RGB], ignore_index: int) -> NDArray[np.uint8]:
    """Returns the colours of ids; unknown ids have a colour of their own."""
    table = np.full((257, 3), _UNKNOWN_COLOUR, np.uint8)
    table[: len(palette)] = palette or np.zeros((0, 3), np.uint8)
    table[ignore_index] = IGNORED_COLOUR
    return table[np.minimum(ids.astype(np.uint16), 256)]


def _square(picture: NDArray[np.uint8], side: int, *, smooth: bool) -> NDArray[np.uint8]:
    """Fits a picture into a white square."""
    fitted = resized(picture, side, smooth=smooth)
    height, width = fitted.shape[:2]
    square = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = fitted
    return square


def _entries(
    evidence: Evidence, positions: Sequence[int], names: Sequence[str], palette: Sequence[RGB]
) -> list[tuple[str, RGB]]:
    """Returns names and colours for the legend: all classes, and the other ids that are shown."""
    ignored = evidence.dataset.expected.ignore_index
    present = {value for position in positions if (found := evidence.facts[position].label) for value in found.counts}
    entries = list(zip(names, palette, strict=True))
    if ignored in present:
        entries.append(("ignored", IGNORED_COLOUR))
    if any(value >= len(names) and value != ignored for value in present):
        entries.append(("unknown id", _UNKNOWN_COLOUR))
    return entries


# --- PNG ----------------------------------------------------------------------------------------------------------


def _picture(panels: Sequence[_Panel], entries: Sequence[tuple[str, RGB]], title: str) -> NDArray[np.uint8]:
    """Arranges the panels in rows between a title and a legend."""
    cells = [_cell(panel) for panel in panels]
    height, width = cells[0].shape[:2]
    columns = min(_COLUMNS, len(cells))
    blank = np.full((height, width, 3), 255, np.uint8)
    cells += [blank] * (-len(cells) % columns)
    margin = ((0, _GAP), (_GAP, 0), (0, 0))
    rows = [
        np.concatenate([np.pad(cell, margin, constant_values=255) for cell in cells[start : start + columns]], axis=1)
        for start in range(0, len(cells), columns)
    ]
    grid = np.pad(np.concatenate(rows, axis=0), ((0, 0), (0, _GAP), (0, 0)), constant_values=255)
    body = np.pad(titled(_ascii(title), grid[:, _GAP:]), ((0, 0), (_GAP, 0), (0, 0)), constant_values=255)
    if not entries:
        return body
    return np.concatenate([body, legend([(_ascii(name), colour) for name, colour in entries], body.shape[1])], axis=0)


def _cell(panel: _Panel) -> NDArray[np.uint8]:
    """Draws image and label side by side below their name; a long name loses its beginning."""
    between = np.full((panel.image.shape[0], _BETWEEN, 3), 255, np.uint8)
    pictures = panel.image if panel.label is None else np.concatenate([panel.image, between, panel.label], axis=1)
    most = _CAPTION_CHARACTERS * pictures.shape[1] // (2 * _SIDE[".png"])
    room = most - len(panel.split) - 2
    name = panel.name if len(panel.name) <= room else "..." + panel.name[len(panel.name) - room + 3 :]
    return titled(_ascii(f"{panel.split}: {name}"), pictures)


def _ascii(text: str) -> str:
    """Replaces characters that OpenCV cannot draw."""
    return text.encode("ascii", "replace").decode()


# --- HTML ---------------------------------------------------------------------------------------------------------


def _page(panels: Sequence[_Panel], entries: Sequence[tuple[str, RGB]], title: str) -> str:
    figures = "\n".join(_figure(panel) for panel in panels)
    return page(title, f"{swatches(entries)}\n<main>\n{figures}\n</main>", generator=_MARK.decode())


def _figure(panel: _Panel) -> str:
    pictures = image_tag(panel.image, "image")
    if panel.label is not None:
        pictures += image_tag(panel.label, "label", smooth=False)
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in panel.shares)
    caption = f"{html.escape(panel.split)}: {html.escape(panel.name)}<br><small>{html.escape(shares)}</small>"
    return f"<figure><div>{pictures}</div><figcaption>{caption}</figcaption></figure>"
