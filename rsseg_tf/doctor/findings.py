"""The kinds of findings about a dataset, each with its severity and its remedy.

An error stops training or makes its scores misleading. A warning is something to look at before training. A note is
worth knowing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["KINDS", "SEVERITIES", "Finding", "Kind", "Severity", "first_values", "listing", "shortened"]

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The worst first."""


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        severity: One of `SEVERITIES`.
        what: The flaw, in one sentence.
        remedy: The way to fix it.
    """

    severity: Severity
    what: str
    remedy: str


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        # --- lists and pairs
        "list-missing": Kind(
            "error", "A list file does not exist.", "Write it, or set dataset.train_list and dataset.val_list."
        ),
        "list-unreadable": Kind("error", "A list file cannot be read.", "Save it as UTF-8 text."),
        "list-empty": Kind("error", "A list or folder names no sample.", "Each line names an image and its label."),
        "list-columns": Kind(
            "error",
            "A line of a list has a wrong number of columns.",
            "Each line names an image and its label; separate paths that contain spaces by a tab.",
        ),
        "list-repeated": Kind(
            "note", "A sample stands in a list more than once.", "Remove the lines, unless it is to be seen more often."
        ),
        "file-missing": Kind("error", "A file does not exist.", "Paths in lists are relative to the root; check both."),
        "image-without-label": Kind("error", "An image has no label.", "Add the label, or move the image away."),
        "label-without-image": Kind("warning", "A label has no image.", "Add the image, or move the label away."),
        "pair-ambiguous": Kind(
            "error", "Several files could be the other half of a pair.", "Rename them, or write list files."
        ),
        "left-out": Kind(
            "note",
            "Files or folders that may hold images were left out.",
            "Convert or rename them, or mend the links, if they belong to the data.",
        ),
        "label-reused": Kind("warning", "One label file stands beside different images.", "Correct the list."),
        "no-validation": Kind(
            "warning",
            "There is no validation split, so nothing can be said about leaks into it.",
            "Set samples of other places aside for validation.",
        ),
        "spec-differs": Kind(
            "warning",
            "The config and the folder's dataset.json describe different data.",
            "Check dataset.root, or copy the values from dataset.json into the config.",
        ),
        # --- files
        "file-unreadable": Kind(
            "error", "A file is damaged, cut short or no image.", "Copy, download or export it again."
        ),
        # --- images
        "band-count": Kind(
            "error",
            "Images have another number of bands than expected.",
            "Set dataset.bands (name: custom), or write images with the same bands everywhere.",
        ),
        "pixel-type": Kind(
            "error", "Images have another pixel type than the others.", "Convert them; all images must have one type."
        ),
        "image-reading": Kind(
            "note",
            "A part of the image's file is read in a way that may surprise.",
            "Save the image as it is meant if that is not wanted.",
        ),
        "not-finite": Kind(
            "warning",
            "Images hold NaN or infinite values.",
            "These pixels are no data: they count neither in training nor in evaluation. Replace them if they are.",
        ),
        "nodata-values": Kind(
            "warning",
            "Images hold values such as -9999 that stand for no data, far from those of data.",
            "Declare the value as nodata in the files (gdal_edit.py -a_nodata). Those that can be nothing else are "
            "left out all the same; others are taken for brightness.",
        ),
        "value-range": Kind(
            "error",
            "The type or the values of the images cannot be those of dataset.max_value, the value that becomes 1.0.",
            "Set dataset.max_value, such as 10000 for reflectance in 16 bits; save images that hold bytes as uint8.",
        ),
        "above-max-value": Kind(
            "warning",
            "Images hold values above dataset.max_value, which become more than 1.0.",
            "Set dataset.max_value (name: custom) to the highest value that matters, or clip the images.",
        ),
        "below-max-value": Kind(
            "warning",
            "All values lie far below dataset.max_value, so that images look nearly black.",
            "Set dataset.max_value (name: custom) to the highest value that matters.",
        ),
        "normalisation": Kind(
            "warning",
            "A band is far from mean 0 and deviation 1 after normalisation.",
            "Put the measured mean and std into the config's dataset section (name: custom).",
        ),
        "constant-image": Kind(
            "warning", "Images are of one colour or hold no data at all.", "Leave them out of the list."
        ),
        "small-image": Kind(
            "warning",
            "Training images are smaller than augment.crop_size and would be padded.",
            "Set a smaller augment.crop_size, or cut larger tiles.",
        ),
        # --- labels
        "label-jpeg": Kind(
            "error",
            "Labels are compressed with losses (JPEG; also inside a TIFF: JPEG, WebP, LERC), which change class ids.",
            "Export them again from the source, as PNG or as TIFF with DEFLATE or LZW.",
        ),
        "label-bands": Kind(
            "error",
            "Labels have several bands, as masks in colours do; one band of class ids is needed.",
            "Convert them with rsseg_tf.datasets.label_codings.rgb_to_ids, and save them as PNG.",
        ),
        "label-colours": Kind(
            "note",
            "The colours of labels are those of a known dataset.",
            "Let rsseg-tf prepare make the labels, or take the colours from its spec for rgb_to_ids.",
        ),
        "label-values": Kind("error", "Labels hold values that are no ids.", "Save whole numbers 0..255 as uint8."),
        "label-0-255": Kind(
            "error",
            "Labels hold 0 and 255 alone, or 0 and another value that is no class, as black-and-white masks do.",
            "Write class ids instead: 1, not 255, for the object; 255 is for pixels to leave out.",
        ),
        "one-class": Kind(
            "error",
            "All labels together hold one class at most: there is nothing to tell apart, and every score is perfect.",
            "Check what the label values mean, and which of them is the ignored id.",
        ),
        "label-on-nodata": Kind(
            "warning",
            "Labels give a class to pixels where the image has no data.",
            "These pixels count neither in training nor in evaluation, as in prediction, unless dataset.ignore_nodata "
            "is off. Give them the ignored id, or correct the images' nodata value or mask if they are data.",
        ),
        "label-out-of-range": Kind(
            "error",
            "Labels hold ids that are neither a class nor the ignored one.",
            "Correct the labels, or the class list.",
        ),
        "palette-conflict": Kind(
            "warning",
            "The palettes of labels contradict each other or the dataset: one id stands for several colours.",
            "Look at the labels (--sheet). If each has ids of its own, convert their colours with rgb_to_ids.",
        ),
        "ids-shifted": Kind(
            "error",
            "The ids of all labels together look shifted by one.",
            "Subtract 1, and make 0 the ignored id where it means 'no label' (reduce_zero_label elsewhere); or add a "
            "class for 0 in front of the others.",
        ),
        "size-mismatch": Kind("error", "An image and its label have different sizes.", "Cut or resample one of them."),
        "misplaced-label": Kind(
            "warning",
            "An image and its label lie at different places on Earth.",
            "Check that they belong together; warp one of them.",
        ),
        "all-ignored": Kind(
            "warning", "Labels hold the ignored id alone; training learns nothing there.", "Leave them out of the list."
        ),
        "class-absent": Kind(
            "warning",
            "A class does not occur in a split: it cannot be learnt, or its score means nothing.",
            "Split again so that each class occurs on both sides, or remove the class.",
        ),
        # --- duplicates and leaks
        "duplicate-image": Kind(
            "warning", "Images of one split hold the same pixels.", "Remove all but one, unless it is meant."
        ),
        "label-conflict": Kind(
            "error", "The same pixels have different labels.", "Find out which label is right; remove the other."
        ),
        "near-duplicate": Kind(
            "note",
            "Images of one split show the same picture: encoded again, brightened, mirrored or turned.",
            "Remove all but one, unless it is meant.",
        ),
        "leak-same-pixels": Kind(
            "error",
            "The same pixels are in two splits, so that validation sees what training has seen.",
            "Remove them from one split.",
        ),
        "leak-near-duplicate": Kind(
            "error",
            "Two splits show the same picture: encoded again, brightened, mirrored or turned.",
            "Remove it from one split.",
        ),
        "leak-overlap": Kind(
            "error",
            "Georeferenced images of two splits overlap on the ground.",
            "Split by place: no two splits may share ground.",
        ),
    }
)
"""All kinds by their code, in the order of a report; codes do not change between versions."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        code: A key of `KINDS`.
        splits: The splits that it concerns; empty for the dataset as a whole.
        files: The files that it concerns, relative to the root where they lie below it.
        message: The flaw that was found, in one sentence. The kind has the remedy.
    """

    code: str
    splits: tuple[str, ...]
    files: tuple[str, ...]
    message: str

    @property
    def kind(self) -> Kind:
        """The kind that the code names."""
        return KINDS[self.code]

    @property
    def severity(self) -> Severity:
        """The severity of its kind."""
        return KINDS[self.code].severity


def listing(names: Iterable[str], most: int = 3) -> str:
    """Joins names for a sentence: `a, b and c`, or `a, b, c and 4 more`."""
    known = list(names)
    if len(known) > most:
        return f"{', '.join(known[:most])} and {len(known) - most} more"
    return " and ".join(part for part in (", ".join(known[:-1]), known[-1]) if part) if known else "none"


def first_values(values: Sequence[object], most: int = 8) -> str:
    """Joins the first values: `1, 2, 3, …`."""
    return ", ".join(map(str, values[:most])) + (", …" if len(values) > most else "")


def shortened(text: str, most: int) -> str:
    """Cuts a text to a number of characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
