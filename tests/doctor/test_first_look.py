"""What a start says of a dataset: in the words of the check, before anything is done."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.cli.output import CONSOLE
from rsseg_tf.config import Config, load_config, load_pretrain_config
from rsseg_tf.doctor import KINDS
from rsseg_tf.errors import ConfigError, DataError
from rsseg_tf.library import samples as library
from rsseg_tf.rasters.windows import Size
from tests.fixtures.datasets import SIZE, check_config, ids, picture, write, write_config, write_sound, write_tiff

checked_samples = partial(library.checked_samples, listener=CONSOLE)  # as the commands call them
checked_images = partial(library.checked_images, listener=CONSOLE)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RSSEG_TF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_sound(tmp_path / "data", train=3, val=2)


def config_of(root: Path, *overrides: str) -> Config:
    return load_config(write_config(root), overrides)


def relabel(root: Path, change: Callable[[np.ndarray], np.ndarray], only: str = "") -> None:
    for path in (root / "labels").glob(f"{only}*.png"):
        write(path, change(ids(int(path.stem[-1]))))


def as_tiffs(root: Path, change: Callable[[np.ndarray], np.ndarray], **profile: object) -> None:
    for path in sorted((root / "images").iterdir()):
        write_tiff(path, change(picture(int(path.stem[-1]))), **profile)  # the kind of a file is told by its bytes


def said(root: Path, capsys: pytest.CaptureFixture[str], *splits: str, overrides: tuple[str, ...] = ()) -> str:
    checked_samples(config_of(root, *overrides), *(splits or ("train", "val")))  # type: ignore[arg-type]
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.strip()


def test_a_sound_dataset_starts_without_a_word(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, val = checked_samples(config_of(root), "train", "val", crop_size=Size(48, 64))
    assert (len(train), len(val)) == (3, 2)
    assert capsys.readouterr().err.strip() == ""


@pytest.mark.parametrize(
    ("spoil", "message", "remedy_of"),
    [
        (
            lambda r: relabel(r, lambda label: np.where(label == 1, 255, 0).astype(np.uint8)),
            "All labels of train and val together hold 0 and 255 alone",
            "label-0-255",
        ),
        (
            lambda r: relabel(r, lambda label: np.where(label == 1, 1, 255).astype(np.uint8), "train"),
            r"The labels of train hold class 1 \(roof\) and nothing else but the ignored id",
            "one-class",
        ),
        (
            lambda r: relabel(r, lambda label: np.full_like(label, 255), "train"),
            "The labels of train hold no class and nothing else but the ignored id",
            "one-class",
        ),
        (
            lambda r: as_tiffs(r, lambda pixels: pixels.astype(np.uint16) * 40),
            r"The images are uint16 \(0\.\.65535\); max_value is 255",
            "value-range",
        ),
        (
            lambda r: as_tiffs(r, lambda pixels: (pixels / 255).astype(np.float32)),
            r"The images are float32 with values around 0\.\d+ and up to 1; max_value is 255",
            "value-range",
        ),
    ],
)
def test_what_makes_training_meaningless_ends_it(
    root: Path, spoil: Callable[[Path], object], message: str, remedy_of: str
) -> None:
    spoil(root)
    with pytest.raises(DataError, match=message) as caught:
        checked_samples(config_of(root), "train", "val")
    assert KINDS[remedy_of].remedy in str(caught.value)
    report = check_config(root)
    assert remedy_of in {finding.code for finding in report.findings}, "the check calls it the same"


def test_a_mask_of_another_grey_is_named_with_its_remedy(root: Path) -> None:
    relabel(root, lambda label: np.where(label == 1, 128, 0).astype(np.uint8))
    with pytest.raises(DataError, match="0 and 128 alone look like a black-and-white mask: write class ids instead"):
        checked_samples(config_of(root), "train")


def test_evaluation_goes_on_where_training_would_not(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    relabel(root, lambda label: np.where(label == 1, 255, 0).astype(np.uint8), "val")
    assert said(root, capsys, "val").startswith("Note: All labels of val together hold 0 and 255 alone. Write class")


def test_what_else_was_found_is_noted_once_for_each_kind(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bright = picture(0).astype(np.uint16) * 20
    as_tiffs(root, lambda pixels: pixels.astype(np.uint16))
    for number in (0, 1):
        write_tiff(root / f"images/train_{number}.png", bright)
    relabel(root, lambda label: np.minimum(label, 1), "val")
    write(root / "labels/train_2.png", np.full((SIZE, SIZE), 255, np.uint8))
    with (root / "val.txt").open("a") as file:
        file.write("images/train_0.png labels/train_0.png\nimages/train_1.png labels/train_1.png\n")
    lines = said(root, capsys, overrides=("dataset.max_value=3000.0",)).splitlines()
    assert [line.split(". ")[0].removeprefix("Note: ") for line in lines][-2:] == [
        "labels/train_2.png holds the ignored id 255 alone",
        "images/train_0.png stands in train and val (1 more of the kind)",
    ]
    assert lines[0].startswith("Note: images/train_0.png reaches ")
    assert "% of its values are above max_value 3000 (3 more of the kind). Set dataset.max_value" in lines[0]


def test_links_to_one_file_are_a_leak(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = root / "images/val_0.png"
    image.unlink()
    os.link(root / "images/train_1.png", image)
    assert "images/train_1.png and images/val_0.png hold the same pixels and stand in train and val" in said(
        root, capsys
    )


def test_evaluation_knows_the_training_list_by_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (root / "val.txt").open("a") as file:
        file.write("images/train_0.png labels/train_0.png\n")
    assert "images/train_0.png stands in train and val. Remove" in said(root, capsys, "val")
    (root / "train.txt").unlink()
    assert said(root, capsys, "val") == ""


def test_labels_where_the_image_has_no_data_are_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def hole(pixels: np.ndarray) -> np.ndarray:
        pixels = np.maximum(pixels, 1)
        pixels[:16] = 0
        return pixels

    as_tiffs(root, hole, nodata=0)
    text = said(root, capsys)
    assert "images/train_0.png has no data in 25.0% of the pixels that its label gives a class (4 more of" in text
    report = check_config(root)
    found = [finding for finding in report.findings if finding.code == "label-on-nodata"]
    assert len(found) == 5 and found[0].message.endswith(
        "has no data in 25.0% of the pixels that its label gives a class"
    )


def test_an_undeclared_sentinel_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def hole(pixels: np.ndarray) -> np.ndarray:
        pixels = pixels.astype(np.float32)
        pixels[:4] = -9999
        return pixels

    as_tiffs(root, hole)
    assert "images/train_0.png holds -9999 and does not declare it as nodata (4 more of the kind)." in said(
        root, capsys
    )


def test_small_images_are_told_to_training_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked_samples(config_of(root), "train", crop_size=Size(48, 65))
    assert "images/train_0.png is 64x64 pixels; training crops to 65x48 (2 more of the kind)" in capsys.readouterr().err
    assert said(root, capsys) == ""


@pytest.mark.parametrize(
    "loss",
    [
        "{name: cross_entropy, class_weights: [1, 0, 0]}",
        "{name: mixed, losses: [{name: dice, class_weights: [1, 0, 0]}]}",
    ],
)
def test_weights_that_are_0_for_all_classes_that_occur_are_refused(root: Path, loss: str) -> None:
    relabel(root, lambda label: np.where(label == 0, 1, label).astype(np.uint8), "train")
    config = config_of(root, f"loss={{main: {loss}}}")
    with pytest.raises(ConfigError, match=r"loss\.main\.class_weights are 0 for all classes .* \(roof, road\)"):
        checked_samples(config, "train")


def test_missing_files_are_counted_and_the_first_is_named(root: Path) -> None:
    (root / "images/train_1.png").unlink()
    (root / "labels/train_2.png").unlink()
    with pytest.raises(DataError, match=r"train\.txt names 2 missing files; the first is .*train_1\.png \(line 2\)"):
        checked_samples(config_of(root), "train")


def test_pre_training_hears_of_values_too(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    as_tiffs(root, lambda pixels: pixels.astype(np.uint16) * 40)
    (root / "images/scene.jp2").write_bytes(b"x")
    config = root / "ssl.yml"
    config.write_text(
        f"dataset: {{name: images, root: {root}/images}}\n"
        "backbone: {name: resnet18}\nmethod: {name: simsiam, dim: 8, predictor_hidden: 8}\n"
    )
    with pytest.raises(
        DataError, match=r"The images are uint16 \(0\.\.65535\); max_value is 255\. Set dataset\.max_value"
    ):
        checked_images(load_pretrain_config(str(config), []))
    assert "left out: files of other formats (1 .jp2;" in capsys.readouterr().err
