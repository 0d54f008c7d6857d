"""Each kind of flaw is found, under its code and with its files, and nothing else is."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio

from rsseg_tf.config import load_config
from rsseg_tf.config.zoo import CrossEntropy
from rsseg_tf.datasets.isprs import POTSDAM
from rsseg_tf.doctor import KINDS, check_data, dataset_from_config, dataset_from_folder
from rsseg_tf.errors import DataError
from rsseg_tf.prepare.synthetic import generate_synthetic
from rsseg_tf.rasters.images import write_png
from tests.fixtures.datasets import (
    CLASSES,
    SIZE,
    at,
    check_config,
    check_folder,
    codes,
    ids,
    picture,
    write,
    write_sound,
    write_tiff,
)

IMAGE, LABEL, VAL_IMAGE, VAL_LABEL = (
    "images/train_1.png",
    "labels/train_1.png",
    "images/val_0.png",
    "labels/val_0.png",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_sound(tmp_path / "data")


def append(root: Path, line: str, split: str = "train") -> None:
    with (root / f"{split}.txt").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def cut_short(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def relabel(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes all labels."""
    for path in (root / "labels").iterdir():
        write(path, change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))


def as_tiffs(root: Path, change: Callable[[np.ndarray], np.ndarray], **profile: object) -> None:
    """Replaces all images by TIFFs."""
    for path in sorted((root / "images").iterdir()):
        pixels = cv2.imread(str(path))[..., ::-1]
        path.unlink()
        write_tiff(path.with_suffix(".tif"), change(pixels), **profile)
    for split in ("train", "val"):
        text = (root / f"{split}.txt").read_text("utf-8")
        (root / f"{split}.txt").write_text(re.sub(r"(images/\w+)\.png", r"\1.tif", text), "utf-8")


def replace_image(root: Path, name: str, pixels: np.ndarray, **profile: object) -> None:
    """Makes one image a TIFF under its old name; the kind of a file is told by its bytes."""
    write_tiff(root / "x.tif", pixels, **profile).rename(root / name)


def mark(path: Path, *colours: str) -> None:
    """Marks the bands of a TIFF."""
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [rasterio.enums.ColorInterp[colour] for colour in colours]


def palette_label(root: Path) -> None:
    """A label whose palette has the colours of Potsdam in another order, so that its ids are wrong."""
    palette = [*[(1, 2, 3)] * 30, *POTSDAM.palette[:4]]
    label = np.repeat(np.array([30, 31, 32, 33], np.uint8), SIZE * SIZE // 4).reshape(SIZE, SIZE)
    write_png(root / LABEL, label, palette)


def rgb_masks(root: Path) -> None:
    palette = np.array([*POTSDAM.palette[:3], (0, 0, 0)], np.uint8)
    relabel(root, lambda label: palette[np.minimum(label, 3)])


@dataclass(frozen=True)
class Case:
    """A flaw: how to make it, the findings' codes, and of the first: splits, files, message."""

    spoil: Callable[[Path], object]
    codes: tuple[str, ...]
    splits: tuple[str, ...]
    files: tuple[str, ...]
    message: str
    overrides: tuple[str, ...] = field(default=())


T, V = ("train",), ("val",)
BOTH = ("train", "val")
CASES: dict[str, Case] = {
    "list-missing": Case(lambda r: (r / "val.txt").unlink(), ("list-missing",), V, ("val.txt",), "does not exist"),
    "list-unreadable": Case(
        lambda r: (r / "val.txt").write_bytes(b"images/\xff.png x\n"), ("list-unreadable",), V, ("val.txt",),
        "is not UTF-8 text",
    ),
    "list-empty": Case(
        lambda r: (r / "val.txt").write_text("\n# nothing\n"), ("list-empty",), V, ("val.txt",), "names no sample"
    ),
    "list-columns": Case(
        lambda r: append(r, "my images/a.png labels/a.png"), ("list-columns",), T, ("train.txt",), "line 6: 3 columns"
    ),
    "list-columns, one": Case(
        lambda r: append(r, "images/train_0.png"), ("list-columns",), T, ("train.txt",), "line 6: 1 column$"
    ),
    "list-repeated": Case(
        lambda r: append(r, f"{IMAGE} {LABEL}"), ("list-repeated",), T, ("train.txt",), f"lines 2, 6: {IMAGE}"
    ),
    "file-missing": Case(lambda r: (r / IMAGE).unlink(), ("file-missing",), T, (IMAGE,), f"{IMAGE} does not exist"),
    "file-missing, label": Case(lambda r: (r / LABEL).unlink(), ("file-missing",), T, (LABEL,), "does not exist"),
    "file-missing, folder": Case(
        lambda r: ((r / IMAGE).unlink(), (r / IMAGE).mkdir()), ("file-missing",), T, (IMAGE,), "is a folder"
    ),
    "file-missing, other suffix": Case(
        lambda r: (r / IMAGE).rename(r / "images" / "Train_1.tif"), ("file-missing",), T, (IMAGE,),
        "does not exist; there is Train_1.tif",
    ),
    "file-missing, backslash": Case(
        lambda r: (r / "val.txt").write_text(
            (r / "val.txt").read_text().replace("images/val_0", "images\\gone\\val_0"), "utf-8"
        ),
        ("file-missing",), V, ("images\\gone\\val_0.png",), r"paths are written with /, not \\",
    ),
    "label-reused": Case(
        lambda r: (write(r / "images/extra.png", picture(50)), append(r, f"images/extra.png {LABEL}")),
        ("label-reused",), T, (LABEL, IMAGE, "images/extra.png"), f"{LABEL} stands beside {IMAGE} and images/extra.png",
    ),
    "spec-differs": Case(
        lambda r: (r / "dataset.json").write_text(
            json.dumps({
                "written_by": "rsseg_tf", "name": "x", "classes": ["a", "b"], "palette": [[1, 2, 3], [4, 5, 6]],
                "ignore_index": 255, "bands": 3, "rgb_bands": [0, 1, 2], "max_value": 255.0, "mean": [0.5] * 3,
                "std": [0.5] * 3, "small_classes": [], "source": "",
            })
        ),
        ("spec-differs",), (), ("dataset.json",), "classes is ground, roof, road in the config, a, b in dataset.json",
    ),
    "file-unreadable": Case(
        lambda r: cut_short(r / IMAGE, 20), ("file-unreadable",), T, (IMAGE,), "is a damaged PNG file: it is cut short"
    ),
    "file-unreadable, label": Case(
        lambda r: cut_short(r / LABEL, 20), ("file-unreadable",), T, (LABEL,), "is a damaged PNG file"
    ),
    "file-unreadable, JPEG": Case(
        lambda r: (write(r / "x.jpg", picture(1)).rename(r / IMAGE), cut_short(r / IMAGE, 300)),
        ("file-unreadable",), T, (IMAGE,), "is a damaged JPEG file: it is cut short",
    ),
    "file-unreadable, TIFF": Case(
        lambda r: (replace_image(r, IMAGE, picture(1)), cut_short(r / IMAGE, 5000)),
        ("file-unreadable",), T, (IMAGE,), "is a damaged TIFF file",
    ),
    "file-unreadable, empty": Case(
        lambda r: (r / LABEL).write_bytes(b""), ("file-unreadable",), T, (LABEL,), r"is empty \(0 bytes\)"
    ),
    "file-unreadable, text": Case(
        lambda r: (r / IMAGE).write_text("no image"), ("file-unreadable",), T, (IMAGE,), "is not a PNG, JPEG or TIFF"
    ),
    "band-count": Case(
        lambda r: replace_image(r, IMAGE, picture(1, bands=5)), ("band-count",), T, (IMAGE,),
        "has 5 bands; 3 are expected",
    ),
    "band-count, grey": Case(
        lambda r: write(r / IMAGE, picture(1)[..., 0]), ("band-count",), T, (IMAGE,), "has 1 band; 3 are expected"
    ),
    "pixel-type": Case(
        lambda r: write(r / VAL_IMAGE, picture(100).astype(np.uint16)), ("pixel-type",), V, (VAL_IMAGE,),
        "is uint16; most images are uint8",
    ),
    "pixel-type, complex": Case(
        lambda r: replace_image(r, IMAGE, picture(1).astype(np.complex64)), ("pixel-type",), T, (IMAGE,),
        "holds complex64 values; real numbers are needed",
    ),
    "image-reading": Case(
        lambda r: (replace_image(r, IMAGE, picture(1)), mark(r / IMAGE, "blue", "green", "red")), ("image-reading",), T,
        (IMAGE,), "its bands are marked blue, green, red, those of 'data' are not known by name",
    ),
    "not-finite": Case(
        lambda r: (
            as_tiffs(r, lambda pixels: pixels.astype(np.float32)),
            write_tiff(r / "images/train_1.tif", np.where(picture(1) > 200, np.float32(np.nan), picture(1))),
        ),
        ("not-finite", "label-on-nodata"), T, ("images/train_1.tif",), r"holds \d+ NaN or infinite values",
    ),
    "nodata-values": Case(
        lambda r: (
            as_tiffs(r, lambda pixels: pixels.astype(np.float32)),
            write_tiff(
                r / "images/train_1.tif",
                np.where(np.arange(SIZE)[:, None, None] < 9, np.float32(1e20), picture(1)),
            ),
        ),
        ("nodata-values", "label-on-nodata"), T, ("images/train_1.tif",),
        rf"holds 1\.00000002e\+20 {9 * SIZE * 3} times and does not",
    ),
    "nodata-values, far below": Case(
        lambda r: (
            as_tiffs(r, lambda pixels: pixels.astype(np.int16)),
            write_tiff(
                r / "images/train_1.tif", np.where(np.arange(SIZE)[:, None, None] < 9, np.int16(-777), picture(1))
            ),
        ),
        ("nodata-values",), T, ("images/train_1.tif",), "reaches -777, further below 0 than max_value 300 is above",
        ("dataset.max_value=300.0",),
    ),
    "value-range": Case(
        lambda r: as_tiffs(r, lambda pixels: pixels.astype(np.uint16) * 40),
        ("value-range",) + ("above-max-value",) * 8, BOTH, (),
        r"the images are uint16 \(0\.\.65535\); max_value is 255",
    ),
    "value-range, real numbers": Case(
        lambda r: as_tiffs(r, lambda pixels: (pixels / 255).astype(np.float32)), ("value-range",), BOTH, (),
        r"the images are float32 with values around 0\.4\d+ and up to 1; max_value is 255",
    ),
    "above-max-value": Case(
        lambda r: as_tiffs(r, lambda pixels: pixels.astype(np.uint16) * 40), ("above-max-value",) * 8, T,
        ("images/train_0.tif",), r"reaches \d+; \d\d\.\d% of its values are above max_value 5000",
        ("dataset.max_value=5000.0",),
    ),
    "below-max-value": Case(
        lambda r: as_tiffs(r, lambda pixels: pixels // 16), ("below-max-value",), BOTH, (),
        r"the highest value of all 8 images is 15; max_value is 255",
    ),
    "normalisation": Case(
        lambda r: None, ("normalisation",) * 3, (), (), r"band 0 .* that is \d.\d\d and \d",
        ("dataset.mean=[0.1, 0.1, 0.1]", "dataset.std=[0.05, 0.05, 0.05]"),
    ),
    "constant-image": Case(
        lambda r: [write(r / f"images/train_{n}.png", np.full((SIZE, SIZE, 3), 7, np.uint8)) for n in (1, 2)],
        ("constant-image",) * 2, T, (IMAGE,), "has the value 7, 7, 7 in all pixels",
    ),
    "constant-image, no data": Case(
        lambda r: replace_image(r, IMAGE, np.zeros((SIZE, SIZE, 3), np.uint8), nodata=0),
        ("constant-image", "label-on-nodata"), T, (IMAGE,), "holds no data at all",
    ),
    "small-image": Case(
        lambda r: [
            (write(r / f"images/{name}.png", picture(9, 47, 64)), write(r / f"labels/{name}.png", ids(9, 47, 64)))
            for name in ("train_1",)
        ],
        ("small-image",), T, (IMAGE,), "is 64x47 pixels; training crops to 64x48",
    ),
    "label-jpeg": Case(
        lambda r: write(r / "x.jpg", ids(1)).rename(r / LABEL), ("label-jpeg",), T, (LABEL,), "is a JPEG file"
    ),
    "label-bands": Case(
        lambda r: write(r / LABEL, np.dstack([ids(1), ids(2), ids(3)])), ("label-bands",), T, (LABEL,),
        r"has 3 bands and the colours \(0, 0, 0\), ",
    ),
    "label-bands, many colours": Case(
        lambda r: write(r / LABEL, picture(4)), ("label-bands",), T, (LABEL,), r"has 3 bands and \d+ colours"
    ),
    "label-bands, equal": Case(
        lambda r: write(r / LABEL, np.dstack([ids(1)] * 3)), ("label-bands",), T, (LABEL,),
        "has 3 equal bands; keep one of them",
    ),
    "label-colours": Case(
        rgb_masks, ("label-bands",) * 8 + ("label-colours",), T, ("labels/train_0.png",),
        r"the colours \(0, 0, 0\), \(0, 0, 255\), \(0, 255, 255\), \(255, 255, 255\)",
    ),
    "label-colours, palette": Case(
        palette_label, ("label-out-of-range", "label-colours"), T, (LABEL,), "holds the ids 30, 31, 32, 33"
    ),
    "label-values": Case(
        lambda r: write_tiff(r / "x.tif", ids(1).astype(np.float32)).rename(r / LABEL), ("label-values",), T, (LABEL,),
        "holds float32 values; class ids must be whole numbers",
    ),
    "label-values, negative": Case(
        lambda r: write_tiff(r / "x.tif", ids(1).astype(np.int16) - 1).rename(r / LABEL), ("label-values",), T,
        (LABEL,), r"holds values -1\.\.254",
    ),
    "label-0-255": Case(
        lambda r: relabel(r, lambda label: np.where(label == 1, 255, 0).astype(np.uint8)), ("label-0-255",) * 8, T,
        ("labels/train_0.png",), r"holds 255 in \d+\.\d% of its pixels, else 0",
    ),
    "label-0-255, another grey": Case(
        lambda r: relabel(r, lambda label: np.where(label == 1, 128, 0).astype(np.uint8)), ("label-0-255",) * 8, T,
        ("labels/train_0.png",), r"holds 128 in \d+\.\d% of its pixels, else 0",
    ),
    "one-class": Case(
        lambda r: [write(r / f"labels/train_{n}.png", np.where(ids(n) == 255, 255, 1)) for n in range(5)],
        ("one-class",), T, (), r"the labels of train hold class 1 \(roof\) and nothing else but the ignored id",
    ),
    "one-class, none": Case(
        lambda r: relabel(r, lambda label: np.full_like(label, 255)),
        ("one-class",) + ("all-ignored",) * 8 + ("class-absent",) * 3, T, (),
        "the labels of train hold no class and nothing else",
    ),
    "label-0-255, one label": Case(
        lambda r: (
            relabel(r, lambda label: np.where(label == 255, 9, label).astype(np.uint8)),
            write(r / LABEL, (ids(1) == 1) * np.uint8(255)),
        ),
        ("label-out-of-range",), T, (LABEL,),
        "0 and 255 alone look like a black-and-white mask", ("dataset.ignore_index=9",),
    ),
    "label-on-nodata": Case(
        lambda r: replace_image(
            r, IMAGE, np.where(np.arange(SIZE)[:, None, None] < 16, np.uint8(0), np.maximum(picture(1), 1)), nodata=0
        ),
        ("label-on-nodata",), T, (IMAGE,), "has no data in 25.0% of the pixels that its label gives a class",
    ),
    "label-out-of-range": Case(
        lambda r: write(r / VAL_LABEL, np.where(ids(100) == 2, 7, ids(100))), ("label-out-of-range",), V, (VAL_LABEL,),
        r"holds the id 7 in \d+ pixels; 0\.\.2 and 255 are allowed",
    ),
    "label-out-of-range, 16 bits": Case(
        lambda r: write(r / LABEL, np.where(ids(1) == 2, np.uint16(256), ids(1))), ("label-out-of-range",), T,
        (LABEL,), "holds the id 256 in",
    ),
    "palette-conflict": Case(
        lambda r: [
            write_png(r / f"labels/train_{number}.png", ids(number), palette)
            for number, palette in ((1, [(1, 1, 1), (2, 2, 2), (3, 3, 3)]), (2, [(1, 1, 1), (9, 9, 9), (3, 3, 3)]))
        ],
        ("palette-conflict",), (), (LABEL, "labels/train_2.png"),
        r"id 1 is \(2, 2, 2\) in labels/train_1.png and \(9, 9, 9\) in labels/train_2.png",
    ),
    "palette-conflict, with the dataset": Case(
        lambda r: write_png(r / LABEL, ids(1), [(0, 0, 0), (0, 0, 255), (0, 255, 0)]),
        ("palette-conflict",) * 2, (), (LABEL,), r"id 1 has the colour of class 2 \(road\) in labels/train_1.png",
        ("dataset.palette=[[0, 0, 0], [0, 255, 0], [0, 0, 255]]",),
    ),
    "ids-shifted": Case(
        lambda r: relabel(r, lambda label: np.where(label < 255, label + 1, 255).astype(np.uint8)),
        ("label-out-of-range",) * 8 + ("ids-shifted", "class-absent"), T, ("labels/train_0.png",), "holds the id 3",
    ),
    "size-mismatch": Case(
        lambda r: write(r / LABEL, ids(1, 64, 63)), ("size-mismatch",), T, (IMAGE, LABEL),
        f"{IMAGE} is 64x64 pixels, its label 63x64",
    ),
    "misplaced-label": Case(
        lambda r: (
            replace_image(r, IMAGE, picture(1), **at(100, 200)), replace_image(r, LABEL, ids(1), **at(100, 216)),
        ),
        ("misplaced-label",), T, (IMAGE, LABEL), "and its label have edges up to 32.0 pixels apart",
    ),
    "misplaced-label, CRS": Case(
        lambda r: (
            replace_image(r, IMAGE, picture(1), **at(100, 200)),
            replace_image(r, LABEL, ids(1), **at(100, 200, "EPSG:3857")),
        ),
        ("misplaced-label",), T, (IMAGE, LABEL), "is in EPSG:32640, its label in EPSG:3857",
    ),
    "all-ignored": Case(
        lambda r: write(r / LABEL, np.full((SIZE, SIZE), 255, np.uint8)), ("all-ignored",), T, (LABEL,),
        "holds the ignored id 255 alone",
    ),
    "class-absent": Case(
        lambda r: [write(r / f"labels/val_{n}.png", np.minimum(ids(n), 1)) for n in range(3)], ("class-absent",), V, (),
        r"class 2 \(road\) does not occur in val",
    ),
    "duplicate-image": Case(
        lambda r: (
            replace_image(r, "images/train_3.png", picture(1)), shutil.copy(r / LABEL, r / "labels/train_3.png")
        ),
        ("duplicate-image",), T, (IMAGE, "images/train_3.png"), f"{IMAGE} and images/train_3.png hold the same pixels",
    ),
    "label-conflict": Case(
        lambda r: append(r, f"{IMAGE} labels/train_2.png"), ("label-conflict", "label-reused"), T,
        (IMAGE, LABEL, "labels/train_2.png"), f"{IMAGE} has different labels: {LABEL} and labels/train_2.png",
    ),
    "near-duplicate": Case(
        lambda r: write(r / "images/train_3.png", picture(1)[:, ::-1]), ("near-duplicate",), T,
        (IMAGE, "images/train_3.png"), r"show the same picture, mirrored left to right \(0 bits of the hash differ\)",
    ),
    "leak-same-pixels": Case(
        lambda r: [shutil.copy(r / f"{f}/train_1.png", r / f"{f}/val_0.png") for f in ("images", "labels")],
        ("leak-same-pixels",), BOTH, (IMAGE, VAL_IMAGE), f"{IMAGE} and {VAL_IMAGE} hold the same pixels and stand in",
    ),
    "leak-same-pixels, one file": Case(
        lambda r: append(r, f"{IMAGE} {LABEL}", "val"), ("leak-same-pixels",), BOTH, (IMAGE,),
        f"{IMAGE} stands in train and val",
    ),
    "leak-near-duplicate": Case(
        lambda r: write(r / VAL_IMAGE, np.rot90(picture(1))), ("leak-near-duplicate",), BOTH, (IMAGE, VAL_IMAGE),
        "show the same picture, turned by 90 degrees .*, in train and val",
    ),
    "leak-overlap": Case(
        lambda r: (
            replace_image(r, IMAGE, picture(1), **at(100, 200)),
            replace_image(r, VAL_IMAGE, picture(100), **at(116, 200)),
        ),
        ("leak-overlap",), BOTH, (VAL_IMAGE, IMAGE), f"{VAL_IMAGE} shares 50 % of its ground with {IMAGE} of train",
    ),
}  # fmt: skip
# Those of folders without lists: see test_targets.py.
ELSEWHERE = {"left-out", "image-without-label", "label-without-image", "pair-ambiguous", "no-validation"}


def test_a_sound_dataset_has_no_findings(root: Path) -> None:
    report = check_config(root)
    assert codes(report) == []
    assert [(split.name, split.samples, split.images, split.labels) for split in report.splits] == [
        ("train", 5, 5, 5), ("val", 3, 3, 3)
    ]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_flaw_is_found_and_nothing_else(root: Path, case: str) -> None:
    wanted = CASES[case]
    wanted.spoil(root)
    report = check_config(root, *wanted.overrides)
    assert codes(report) == list(wanted.codes), [finding.message for finding in report.findings]
    first = report.findings[0]
    assert (first.splits, first.files) == (wanted.splits, wanted.files)
    assert re.search(wanted.message, first.message), first.message


def test_every_kind_of_finding_has_a_case() -> None:
    assert {code for case in CASES.values() for code in case.codes} | ELSEWHERE == set(KINDS)


# === What looks alike and is sound ===


def test_constant_images_are_no_duplicates_of_each_other_nor_leaks(root: Path) -> None:
    for name in ("train_1", "train_2", "val_0"):
        write(root / "images" / f"{name}.png", np.zeros((SIZE, SIZE, 3), np.uint8))
    assert set(codes(check_config(root))) == {"constant-image"}


def test_0_and_255_in_some_labels_are_a_class_and_ignored_pixels(root: Path) -> None:
    write(root / LABEL, np.where(ids(1) == 0, 0, 255).astype(np.uint8))
    assert codes(check_config(root)) == []


def test_neighbouring_tiles_share_no_ground(root: Path) -> None:
    for number, name in enumerate(("train_1", "train_2", "val_0", "val_1")):
        left = 1e6 / 3 + number * SIZE * 0.1  # edges that rounding does not keep equal
        replace_image(root, f"images/{name}.png", picture(60 + number), **at(left, 200, pixel=0.1))
    assert codes(check_config(root)) == []


def test_the_same_ground_in_one_split_or_another_crs_is_no_leak(root: Path) -> None:
    places = {"train_1": "EPSG:32640", "train_2": "EPSG:32640", "val_0": "EPSG:3857"}
    for number, (name, crs) in enumerate(places.items()):
        replace_image(root, f"images/{name}.png", picture(60 + number), **at(100, 200, crs))
    assert codes(check_config(root)) == []


def test_tiles_without_a_crs_are_not_compared_by_place(root: Path) -> None:
    as_tiffs(root, lambda pixels: pixels)
    assert codes(check_config(root)) == []


def test_a_few_values_above_the_limit_are_no_finding(root: Path) -> None:
    as_tiffs(root, lambda pixels: pixels.astype(np.uint16))
    bright = picture(1).astype(np.uint16)
    bright[:2, :10] = 4000
    write_tiff(root / "images/train_1.tif", bright)
    assert codes(check_config(root, "dataset.max_value=300.0")) == []


def test_a_set_of_one_class_may_hold_0_and_255_alone(root: Path) -> None:
    relabel(root, lambda label: np.where(label == 1, 255, 0).astype(np.uint8))
    (root / "labels.txt").write_text("field\n")
    assert codes(check_folder(root)) == []


# === More about some kinds ===


def test_all_flaws_are_found_at_once_errors_first(root: Path) -> None:
    (root / LABEL).unlink()
    cut_short(root / VAL_IMAGE, 20)
    append(root, "one")
    append(root, f"{IMAGE} {LABEL}")
    write(root / "images/train_3.png", picture(2)[::-1])
    write(root / "labels/train_4.png", np.full((SIZE, SIZE), 255, np.uint8))
    report = check_config(root)
    assert codes(report) == [
        "list-columns", "file-missing", "file-unreadable", "all-ignored", "list-repeated", "near-duplicate"
    ]  # fmt: skip
    assert [report.count("error"), report.count("warning"), report.count("note")] == [3, 1, 2]


def test_shifted_ids_are_told_from_a_class_too_many(root: Path) -> None:
    relabel(root, lambda label: np.where(label < 255, label + 1, 0).astype(np.uint8))
    messages = [finding.message for finding in check_config(root).findings if finding.code == "ids-shifted"]
    assert messages == ["labels hold the ids 0 to 3, one more than there are classes (3); 0 may mean 'no label'"]
    relabel(root, lambda label: np.where(label == 3, 8, label).astype(np.uint8))
    assert "ids-shifted" not in codes(check_config(root)), "id 8 is not explained by a shift"


def test_the_dataset_behind_the_colours_of_masks_is_named(root: Path) -> None:
    rgb_masks(root)
    assert check_config(root).findings[-1].message == "the colours of the masks are those of potsdam or vaihingen"
    palette_label(root)
    write_sound(root)
    palette_label(root)
    assert (
        check_config(root)
        .findings[-1]
        .message.startswith(f"{LABEL} is a palette PNG; the colours of its ids are those of potsdam or vaihingen")
    )


def test_black_and_white_masks_name_no_dataset(root: Path) -> None:
    relabel(root, lambda label: np.array([(0, 0, 0), (255, 255, 255)], np.uint8)[np.minimum(label, 1)])
    assert set(codes(check_config(root))) == {"label-bands"}


def test_a_group_of_copies_is_one_finding(root: Path) -> None:
    for number in range(1, 5):
        write(root / "images" / f"train_{number}.png", picture(1))
        write(root / "labels" / f"train_{number}.png", ids(1))
    (finding,) = check_config(root).findings
    assert len(finding.files) == 4 and "images/train_3.png and 1 more hold the same pixels" in finding.message


def test_a_copy_of_a_copy_leaks_with_its_group(root: Path) -> None:
    """A mirrored image in val, whose original stands twice in train."""
    write(root / "images/train_3.png", picture(1))
    shutil.copy(root / LABEL, root / "labels/train_3.png")
    write(root / VAL_IMAGE, picture(1)[::-1])
    leak, duplicate = check_config(root).findings
    assert (leak.code, leak.files) == ("leak-near-duplicate", (IMAGE, "images/train_3.png", VAL_IMAGE))
    assert duplicate.code == "duplicate-image"


def test_a_list_may_name_a_sample_often_and_counts_say_so(root: Path) -> None:
    for _ in range(3):
        append(root, f"{IMAGE} {LABEL}")
    report = check_config(root)
    assert codes(report) == ["list-repeated"] and report.splits[0].samples == 8
    usual = check_config(write_sound(root)).splits[0]
    again = ids(1)
    for entry, before in zip(report.splits[0].classes, usual.classes, strict=True):
        assert entry.pixels == before.pixels + 3 * int((again == entry.id).sum())
        assert entry.images == before.images + 3


def test_findings_can_be_left_out(root: Path) -> None:
    write(root / VAL_IMAGE, picture(1)[:, ::-1])
    assert codes(check_config(root, leave_out=["leak-near-duplicate"])) == []
    assert codes(check_config(root, leave_out=["near-duplicate"])) == ["leak-near-duplicate"]
    assert codes(check_config(root, leave_out=["leak-near-duplicate", "near-duplicate"])) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"near": 12}, r"near must lie in 0\.\.11"),
        ({"workers": 0}, "workers be at least 1"),
        ({"leave_out": ["small-images"]}, "no kind of finding 'small-images'. Did you mean 'small-image'?"),
    ],
)
def test_impossible_options_are_refused(root: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_config(root, **options)


# === Numbers ===


def test_counts_statistics_and_weights_are_those_of_the_files(root: Path) -> None:
    report = check_config(root)
    images = np.stack([picture(number) for number in range(5)])
    labels = np.stack([ids(number) for number in range(5)])
    train = report.splits[0]
    assert [entry.pixels for entry in train.classes] == [int((labels == value).sum()) for value in range(3)]
    assert [entry.name for entry in train.classes] == list(CLASSES)
    assert train.ignored_pixels == 25 and train.unknown_pixels == 0
    assert (train.sizes, train.bands, train.dtypes) == ({"64x64": 5}, {3: 5}, {"uint8": 5})
    for band, moments in enumerate(train.moments):
        values = images[..., band] / 255
        assert math.isclose(moments.mean, values.mean(), rel_tol=1e-9)
        assert math.isclose(moments.std, values.std(), rel_tol=1e-9)
        assert (moments.low, moments.high) == pytest.approx((values.min(), values.max()))
    shares = np.array([(labels == value).sum() for value in range(3)]) / (labels != 255).sum()
    assert report.class_weights["inverse_log"] == pytest.approx(1 / np.log(1.02 + shares), rel=1e-3)
    # Each label holds all classes, so that the images around a class are all images.
    assert report.class_weights["median_frequency"] == pytest.approx(np.median(shares) / shares, rel=1e-3)


def test_suggested_weights_fit_into_a_config(root: Path) -> None:
    report = check_config(root)
    for weights in report.class_weights.values():
        setting = f"loss={{main: {{name: cross_entropy, class_weights: {list(weights)}}}}}"
        config = load_config(root / "c.yml", [setting])
        loss = config.loss["main"]
        assert isinstance(loss, CrossEntropy) and loss.class_weights == weights
    mean = [round(band.mean, 4) for band in report.splits[0].moments]
    load_config(root / "c.yml", [f"dataset.mean={mean}"])


def test_several_processes_find_the_same(root: Path) -> None:
    write_sound(root, train=40)  # more than one chunk
    cut_short(root / "images/train_20.png", 20)
    write(root / "images/train_33.png", picture(2)[:, ::-1])
    calls: list[tuple[int, int]] = []
    one = check_config(root, workers=1)
    two = check_config(root, workers=2, progress=lambda done, total: calls.append((done, total)))
    assert one.to_json() == two.to_json()
    assert codes(one) == ["file-unreadable", "near-duplicate"]
    assert calls[-1] == (43, 43) and sorted(calls) == calls


def test_the_original_files_are_not_touched(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    check_folder(root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_prepared_dataset_of_the_package_has_no_errors(tmp_path: Path) -> None:
    generate_synthetic(tmp_path / "scenes", scenes_train=3, scenes_val=2, size=64)
    report = check_data(dataset_from_folder(tmp_path / "scenes"))
    assert report.count("error") == 0 and report.dataset.expected.name == "synthetic"
    config = load_config(
        "deeplabv3plus/deeplabv3plus_resnet18_vd_synthetic_256x256_quick.yml",
        [f"dataset.root={tmp_path / 'scenes'}", "augment.crop_size=[64, 64]"],
    )
    same = check_data(dataset_from_config(config, "quick"))
    assert same.findings == report.findings and same.splits == report.splits
