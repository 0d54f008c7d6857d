from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from rsseg_tf.datasets import default_palette
from rsseg_tf.doctor import check_data, dataset_from_folder, write_sheet
from rsseg_tf.doctor.sheet import choose_samples
from rsseg_tf.errors import DataError
from rsseg_tf.rasters.images import read_image, write_png
from tests.fixtures.datasets import SIZE, check_config, check_folder, ids, picture, write, write_sound, write_tiff


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_sound(tmp_path / "data")


class Page(HTMLParser):
    """Collects tags and text; sources of pictures are decoded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.pictures: list[np.ndarray] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name == "src":
                match = re.fullmatch(r"data:image/(?:png|jpeg);base64,(.+)", value or "")
                assert match, "the page needs no other file"
                data = np.frombuffer(base64.b64decode(match[1]), np.uint8)
                self.pictures.append(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(axis=-1).any())


def test_a_png_shows_images_labels_and_a_legend(root: Path, tmp_path: Path) -> None:
    write_sheet(tmp_path / "s.png", check_folder(root), count=4)
    sheet = read_image(tmp_path / "s.png")
    for colour in (*default_palette(3), (0, 0, 0)):
        # A field of the legend has 14x14 pixels; a label of 64x64 is enlarged to 224x224.
        assert (sheet == colour).all(axis=-1).sum() > 14 * 14
    assert sheet.shape[1] > 3 * 2 * 224 and sheet.shape[0] > 2 * 224, "three in a row, two rows"


def test_the_same_data_give_the_same_sheet(root: Path, tmp_path: Path) -> None:
    report = check_folder(root)
    for suffix in (".png", ".html"):
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            write_sheet(tmp_path / f"{name}{suffix}", report, count=3, seed=seed)
        a, b, c = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "abc")
        assert a == b != c


def test_a_page_stands_alone_and_names_cannot_break_it(root: Path, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>&'\".png"
    write(root / "images" / "x.png", picture(70)).rename(root / "images" / name)
    (root / "train.txt").write_text(f"images/{name}\tlabels/train_0.png\n")
    (root / "labels.txt").write_text("a<b>\nröad\n&amp;\n", "utf-8")
    write_sheet(tmp_path / "s.html", check_folder(root))
    page = Page((tmp_path / "s.html").read_text("utf-8"))
    assert page.tags.count("figure") == 4 and page.tags.count("img") == 8 == len(page.pictures)
    assert "b" not in page.tags and "script" not in page.tags
    text = "".join(page.words)
    assert name in text and "a<b>" in text and "röad" in text and "&amp;" in text
    assert "http" not in (tmp_path / "s.html").read_text("utf-8")


def test_a_page_shows_the_pixels(root: Path, tmp_path: Path) -> None:
    report = check_folder(root)
    (position,) = choose_samples(report.evidence, 1, 0)
    write_sheet(tmp_path / "s.html", report, count=1)
    image, label = Page((tmp_path / "s.html").read_text("utf-8")).pictures
    palette = np.array([*default_palette(3), *[(0, 0, 0)] * 253], np.uint8)
    sample = report.evidence.samples[position]
    assert sample.label is not None
    wanted = palette[cv2.imread(str(sample.label), cv2.IMREAD_UNCHANGED)]
    np.testing.assert_array_equal(label, cv2.resize(wanted, (320, 320), interpolation=cv2.INTER_NEAREST))
    shrunk = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(shrunk - read_image(sample.image)).mean() < 8


def test_images_alone_bands_and_types_of_any_kind(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a" / "five.tif", picture(1, 40, 90, bands=5).astype(np.uint16) * 40)
    write_tiff(tmp_path / "a" / "one.tif", picture(2, 50, 30, bands=1).astype(np.float32))
    write_sheet(tmp_path / "s.png", check_data(dataset_from_folder(tmp_path / "a", unlabelled=True)))
    assert read_image(tmp_path / "s.png").shape[1] < 3 * 224, "two pictures, no label beside them"


def test_unknown_ids_are_shown_and_named(root: Path, tmp_path: Path) -> None:
    for path in (root / "labels").iterdir():
        write(path, np.where(ids(1) == 2, np.uint16(900), ids(1)))
    write_sheet(tmp_path / "s.html", check_folder(root))
    page = Page((tmp_path / "s.html").read_text("utf-8"))
    assert any(has_colour(picture, (255, 0, 255)) for picture in page.pictures)
    assert "unknown id 900" in "".join(page.words)


def test_splits_without_a_label_and_an_ignored_id_among_the_classes(root: Path, tmp_path: Path) -> None:
    for path in (root / "labels").glob("train_*"):
        path.unlink()
    write_sheet(tmp_path / "s.html", check_folder(root))
    assert "road" in (tmp_path / "s.html").read_text("utf-8")
    (root / "labels.txt").unlink()
    write_sheet(tmp_path / "t.html", check_data(dataset_from_folder(root, ignore_index=0)))
    page = Page((tmp_path / "t.html").read_text("utf-8"))
    colours = [colour for colour in (*default_palette(255)[1:3], (0, 0, 0)) if has_colour(page.pictures[1], colour)]
    assert len(colours) == 3, "ids 1 and 2 have their colours, 0 is black"


def test_each_class_is_shown_if_there_is_room(tmp_path: Path) -> None:
    root = write_sound(tmp_path / "data", train=30, val=1)
    for number in range(30):
        write(root / f"labels/train_{number}.png", np.full((SIZE, SIZE), int(number == 17), np.uint8))
    write(root / "labels/train_23.png", np.full((SIZE, SIZE), 2, np.uint8))
    write(root / "labels/val_0.png", np.zeros((SIZE, SIZE), np.uint8))
    evidence = check_folder(root).evidence
    for seed in range(5):
        chosen = choose_samples(evidence, 3, seed)
        assert {17, 23} <= set(chosen) and len(chosen) == 3 and chosen == sorted(chosen)
    assert choose_samples(evidence, 1, 0) in ([17], [23]), "the rarest class goes first"
    assert len(choose_samples(evidence, 99, 0)) == 31


def test_what_cannot_be_read_is_not_shown(root: Path, tmp_path: Path) -> None:
    (root / "images/train_0.png").write_bytes(b"")
    (root / "labels/train_1.png").unlink()
    write(root / "labels/train_2.png", ids(2, 64, 63))
    report = check_config(root)
    names = {report.evidence.samples[position].image.name for position in choose_samples(report.evidence, 99, 0)}
    assert names == {"train_3.png", "train_4.png", "val_0.png", "val_1.png", "val_2.png"}


def test_a_sheet_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    report = check_folder(root)
    for path, message in (
        (tmp_path / "s.gif", r"is a .png or .html file"),
        (tmp_path / "nowhere" / "s.png", "Cannot write"),
        (tmp_path / "nowhere" / "s.html", "Cannot write"),
    ):
        with pytest.raises(DataError, match=message):
            write_sheet(path, report)
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="No sample of .* can be shown"):
        write_sheet(tmp_path / "s.png", check_folder(root))
    assert [path.name for path in tmp_path.iterdir()] == ["data"], "nothing is left half-written"


@pytest.mark.parametrize("suffix", [".png", ".html"])
def test_a_sheet_replaces_a_sheet_and_no_other_file(root: Path, tmp_path: Path, suffix: str) -> None:
    report = check_folder(root)
    path = tmp_path / f"s{suffix}"
    write_sheet(path, report, count=2)
    first = path.read_bytes()
    write_sheet(path, report, count=3)
    assert path.read_bytes() != first
    write_png(tmp_path / "mine.png", np.zeros((9, 9, 3), np.uint8))
    path.write_bytes((tmp_path / "mine.png").read_bytes())
    before = path.read_bytes()
    with pytest.raises(DataError, match="exists and is no contact sheet"):
        write_sheet(path, report, count=2)
    assert path.read_bytes() == before
