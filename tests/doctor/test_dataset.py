"""What is checked: configs, prepared folders, lists, and folders whose files are paired by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.config import load_config
from rsseg_tf.doctor import CheckedDataset, check_data, dataset_from_config, dataset_from_folder
from rsseg_tf.errors import DataError
from rsseg_tf.prepare.synthetic import generate_synthetic
from tests.fixtures.datasets import check_folder, codes, ids, picture, write, write_config, write_sound, write_tiff
from tests.fixtures.downloads import prepare
from tests.fixtures.formats import write_as, write_zarr


def write_pairs(root: Path, pairs: dict[str, str], first: int = 0) -> Path:
    """Writes an image and a label for each pair of names; empty names are left out."""
    for number, (image, label) in enumerate(pairs.items(), first):
        if image and not image.startswith("-"):
            write(root / image, picture(number))
        if label:
            write(root / label, ids(number))
    return root


def pairs_of(dataset: CheckedDataset, split: str) -> dict[str, str | None]:
    (found,) = (part for part in dataset.splits if part.name == split)
    root = dataset.root
    return {
        str(sample.image.relative_to(root)): str(sample.label.relative_to(root)) if sample.label else None
        for sample in found.samples
    }


# === Configs and prepared folders ===


def test_a_config_says_lists_classes_and_the_crop(tmp_path: Path) -> None:
    root = write_sound(tmp_path)
    (root / "val.txt").rename(root / "other.txt")
    config = load_config(write_config(root), ["dataset.val_list=other.txt", "dataset.ignore_index=9"])
    dataset = dataset_from_config(config, "c.yml")
    assert [(split.name, len(split.samples), split.labelled) for split in dataset.splits] == [
        ("train", 5, True), ("val", 3, True)
    ]  # fmt: skip
    assert dataset.crop_size == (48, 64) and dataset.expected.ignore_index == 9 and dataset.expected.spec
    assert dataset.findings == () and dataset.source == "c.yml"


def test_a_config_whose_root_is_missing_says_how_to_get_the_data(tmp_path: Path) -> None:
    config = load_config(write_config(write_sound(tmp_path)), [f"dataset.root={tmp_path / 'nowhere'}"])
    with pytest.raises(DataError, match=r"nowhere \(dataset.root of c.yml\) does not exist. Set dataset.root"):
        dataset_from_config(config, "c.yml")
    shipped = load_config("fcn/fcn_hrnet_w18_potsdam_512x512_80k.yml", [f"dataset.root={tmp_path / 'nowhere'}"])
    with pytest.raises(DataError, match="rsseg-tf prepare potsdam"):
        dataset_from_config(shipped, "x")


def test_a_config_beside_a_description_that_is_damaged(tmp_path: Path) -> None:
    root = write_sound(tmp_path)
    (root / "dataset.json").write_text("{}")
    dataset = dataset_from_config(load_config(write_config(root)), "c.yml")
    assert [finding.code for finding in dataset.findings] == ["spec-differs"]


def test_a_prepared_folder_is_described_by_itself(tmp_path: Path) -> None:
    generate_synthetic(tmp_path / "s", scenes_train=2, scenes_val=1, size=64)
    dataset = dataset_from_folder(tmp_path / "s")
    assert dataset.expected.name == "synthetic" and dataset.expected.spec and dataset.crop_size is None
    assert [(split.name, len(split.samples)) for split in dataset.splits] == [("train", 2), ("val", 1)]
    (tmp_path / "s" / "test.txt").write_text("img_dir/val/scene_018.tif\n")
    assert [(split.name, split.labelled) for split in dataset_from_folder(tmp_path / "s").splits][2] == ("test", False)
    for option in ({"num_classes": 3}, {"ignore_index": 9}):
        with pytest.raises(DataError, match="stand in its dataset.json"):
            dataset_from_folder(tmp_path / "s", **option)  # type: ignore[arg-type]


def test_a_prepared_folder_without_labels(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "raw" / f"{number}.png", picture(number))
    prepare("images", tmp_path / "raw", tmp_path / "out", tile_size=64, image_format="png")
    shutil.copy(tmp_path / "out/img_dir/train/0_0_0.png", tmp_path / "out/img_dir/train/1_0_0.png")
    report = check_folder(tmp_path / "out")
    assert codes(report) == ["duplicate-image"] and not report.dataset.labelled
    assert report.class_weights == {} and report.splits[0].classes == ()


def test_a_description_of_someone_else_is_refused(tmp_path: Path) -> None:
    root = write_sound(tmp_path)
    (root / "dataset.json").write_text(json.dumps({"title": "mine"}))
    with pytest.raises(DataError, match="does not describe a dataset prepared by rsseg_tf"):
        dataset_from_folder(root)


# === Lists ===


def test_lists_without_a_description_take_the_classes_from_labels_txt(tmp_path: Path) -> None:
    root = write_sound(tmp_path)
    write(root / "labels/train_0.png", np.where(ids(0) == 2, 4, ids(0)))
    assert codes(check_folder(root)) == ["label-out-of-range"]
    (root / "labels.txt").unlink()
    report = check_folder(root)
    assert codes(report) == [] and [entry.name for entry in report.splits[0].classes] == list("0124")
    assert report.class_weights == {}, "ids with gaps are no classes"
    write(root / "labels/train_0.png", ids(0))
    assert len(check_folder(root).class_weights["inverse_log"]) == 3
    write(root / "labels/train_0.png", np.where(ids(0) == 2, 4, ids(0)))
    assert codes(check_data(dataset_from_folder(root, num_classes=3))) == ["label-out-of-range"]


def test_ids_beyond_eight_bits_are_wrong_whatever_the_classes(tmp_path: Path) -> None:
    root = write_sound(tmp_path)
    (root / "labels.txt").unlink()
    write(root / "labels/train_0.png", np.where(ids(0) == 2, np.uint16(300), ids(0)))
    report = check_folder(root)
    assert codes(report) == ["label-out-of-range"] and "0..255 and 255 are allowed" in report.findings[0].message


def test_no_weights_are_suggested_where_an_ignored_id_lies_among_the_classes(tmp_path: Path) -> None:
    root = write_sound(tmp_path)
    (root / "labels.txt").unlink()
    report = check_data(dataset_from_folder(root, ignore_index=0))
    assert report.class_weights == {} and report.splits[0].ignored_pixels > 0


def test_images_unlike_the_others_are_found_without_a_spec(tmp_path: Path) -> None:
    root = write_sound(tmp_path)
    sound = check_folder(root).splits[0].moments
    write_tiff(root / "images/extra.png", picture(0, bands=5))
    with (root / "train.txt").open("a") as file:
        file.write("images/extra.png labels/train_0.png\n")
    report = check_folder(root)
    assert codes(report) == ["band-count", "label-reused"]
    assert "has 5 bands; most images have 3" in report.findings[0].message
    assert report.splits[0].moments == sound, "statistics are those of the images that are alike"


def test_the_highest_value_stands_for_1_where_nothing_says_what_does(tmp_path: Path) -> None:
    root = write_sound(tmp_path)
    for path in (root / "images").iterdir():
        write(path, picture(int(path.stem[-1])).astype(np.uint16) * 16)
    report = check_folder(root)
    assert report.max_value == max(
        band.high for facts in report.evidence.facts if facts.image for band in facts.image.moments
    )
    assert max(band.high for split in report.splits for band in split.moments) == 1


def test_a_list_without_labels_is_wrong_unless_asked_for(tmp_path: Path) -> None:
    root = write_sound(tmp_path)
    (root / "train.txt").write_text("images/train_0.png\nimages/train_1.png\n")
    assert codes(check_folder(root)).count("list-columns") == 2
    report = check_data(dataset_from_folder(root, unlabelled=True))
    assert codes(report) == [] and [split.samples for split in report.splits] == [2, 3]


def test_absolute_paths_tabs_comments_and_line_ends_of_windows_are_fine(tmp_path: Path) -> None:
    root = write_sound(tmp_path)
    write(root / "my images" / "a b.png", picture(70))
    write(root / "my labels" / "ü.png", ids(70))
    text = (
        f"# mine\r\n\r\nmy images/a b.png\tmy labels/ü.png\r\n{root}/images/train_0.png {root}/labels/train_0.png\r\n"
    )
    (root / "train.txt").write_bytes(text.encode("utf-8-sig"))
    report = check_folder(root)
    assert codes(report) == [] and report.splits[0].labels == 2


def test_a_test_list_may_have_labels_or_not(tmp_path: Path) -> None:
    root = write_sound(tmp_path)
    (root / "test.txt").write_text("images/train_0.png\n")
    report = check_folder(root)
    assert codes(report) == ["leak-same-pixels"] and report.findings[0].splits == ("train", "test")
    (root / "test.txt").write_text("images/train_0.png labels/train_0.png\n")
    assert [split.labelled for split in check_folder(root).splits] == [True, True, True]


def test_without_validation_nothing_can_be_said_about_leaks(tmp_path: Path) -> None:
    root = write_sound(tmp_path)
    (root / "val.txt").unlink()
    report = check_folder(root)
    assert codes(report) == ["no-validation"] and "has no split named val, only train" in report.findings[0].message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 4}, "labels.txt names 3 classes; got 4"),
        ({"ignore_index": 2}, "The ignored id 2 is also a class"),
        ({"num_classes": 3, "unlabelled": True}, "have no classes"),
    ],
)
def test_options_that_contradict_the_folder(tmp_path: Path, options: dict[str, object], message: str) -> None:
    root = write_sound(tmp_path)
    with pytest.raises(DataError, match=message):
        dataset_from_folder(root, **options)  # type: ignore[arg-type]


def test_labels_txt_must_be_text_and_name_something(tmp_path: Path) -> None:
    root = write_sound(tmp_path)
    (root / "labels.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="labels.txt cannot be read"):
        dataset_from_folder(root)
    (root / "labels.txt").write_bytes(b"\n")
    with pytest.raises(DataError, match="1 to 255 classes; got 0"):
        dataset_from_folder(root)


# === Folders ===

LAYOUTS = {
    "img_dir and ann_dir": {
        "img_dir/train/a.png": "ann_dir/train/a.png", "img_dir/train/b.png": "ann_dir/train/b.png",
        "img_dir/val/c.png": "ann_dir/val/c.png",
    },
    "splits outside": {
        "Train/images/a.png": "Train/masks/a.png", "Train/images/deep/b.png": "Train/masks/deep/b.png",
        "validation/images/c.png": "validation/masks/c.png",
    },
    "endings": {
        "images/train/P0000.png": "labels/train/P0000_instance_color_RGB.png",
        "images/train/top_2_10_RGB.png": "labels/train/top_2_10_label_noBoundary.png",
        "images/val/x_rgb.png": "labels/val/x_rgb_label.png",
    },
    "other suffixes": {
        "imgs/train/a.JPG": "GT/train/a.png", "imgs/train/b.tif": "GT/train/b.png", "imgs/val/c.jpeg": "GT/val/C.png",
    },
    "side by side": {
        "train/a.png": "train/a_label.png", "train/b.png": "train/b-mask.png", "val/c.png": "val/c_gt.png",
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_known_layouts_are_paired_by_name(tmp_path: Path, layout: str) -> None:
    pairs = LAYOUTS[layout]
    dataset = dataset_from_folder(write_pairs(tmp_path, pairs))
    assert dataset.findings == ()
    assert pairs_of(dataset, "train") | pairs_of(dataset, "val") == pairs
    assert len(pairs_of(dataset, "train")) == 2


@pytest.mark.parametrize(("images", "labels"), [("images", "masks"), (".", "."), ("Images", "annotations")])
def test_a_folder_without_splits_is_one_split(tmp_path: Path, images: str, labels: str) -> None:
    pairs = {str(Path(images, f"{name}.png")): str(Path(labels, f"{name}_mask.png")) for name in "ab"}
    report = check_folder(write_pairs(tmp_path, pairs))
    assert codes(report) == ["no-validation"] and pairs_of(report.dataset, "all") == pairs


def test_what_has_no_counterpart_is_named(tmp_path: Path) -> None:
    write_pairs(
        tmp_path,
        {
            "images/train/a.png": "labels/train/a.png", "images/train/b.png": "", "-": "labels/train/c.png",
            "images/val/d.png": "labels/val/d.png",
        },
    )  # fmt: skip
    report = check_folder(tmp_path)
    assert [(finding.code, finding.splits, finding.files) for finding in report.findings] == [
        ("image-without-label", ("train",), ("images/train/b.png",)),
        ("label-without-image", ("train",), ("labels/train/c.png",)),
    ]


def test_names_that_could_mean_two_files_are_not_guessed(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"images/train/a.png": "labels/train/a_label.png", "images/val/b.png": "labels/val/b.png"})
    write(tmp_path / "labels/train/a_mask.png", ids(3))
    report = check_folder(tmp_path)
    empty, ambiguous = report.findings
    assert (empty.code, empty.splits) == ("list-empty", ("train",))
    files = ("labels/train/a_label.png", "labels/train/a_mask.png")
    assert (ambiguous.code, ambiguous.files) == ("pair-ambiguous", files)
    shutil.copy(tmp_path / "labels/train/a_mask.png", tmp_path / "labels/train/a.png")
    assert codes(check_folder(tmp_path)) == ["label-without-image"] * 2, "the very same name goes first"


def test_a_split_of_images_or_of_labels_alone(tmp_path: Path) -> None:
    write_pairs(
        tmp_path, {"images/train/a.png": "labels/train/a.png", "images/val/b.png": "", "-": "labels/test/c.png"}
    )
    report = check_folder(tmp_path)
    assert [(finding.code, finding.splits) for finding in report.findings] == [
        ("list-empty", ("val",)), ("list-empty", ("test",)), ("image-without-label", ("val",)),
        ("label-without-image", ("test",)),
    ]  # fmt: skip
    (tmp_path / "labels/test/c.png").unlink()
    (tmp_path / "labels/test").rmdir()
    write(tmp_path / "images/test/c.png", picture(9))
    write(tmp_path / "labels/val/b.png", ids(9))
    report = check_folder(tmp_path)
    assert codes(report) == [] and not report.splits[2].labelled, "a test set has its images alone"


def test_images_alone_must_be_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "some" / "a.png", picture(1))
    write(tmp_path / "b.png", picture(1)[::-1])
    with pytest.raises(DataError, match="holds 2 images and nothing that looks like labels.*--unlabelled"):
        dataset_from_folder(tmp_path)
    report = check_data(dataset_from_folder(tmp_path, unlabelled=True))
    assert codes(report) == ["near-duplicate"] and not report.dataset.labelled
    (tmp_path / "some").rename(tmp_path / "images")
    with pytest.raises(DataError, match="images has no folder of labels beside it"):
        dataset_from_folder(tmp_path)


def test_linked_folders_are_looked_into(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_pairs(root, LAYOUTS["img_dir and ann_dir"])
    (root / "img_dir/train").rename(tmp_path / "store")
    (root / "img_dir/train").symlink_to("../../store")
    assert codes(check_folder(root)) == []


def test_what_may_be_an_image_and_is_left_out_is_told_in_one_finding(tmp_path: Path) -> None:
    write_pairs(tmp_path, LAYOUTS["img_dir and ann_dir"])
    images = tmp_path / "img_dir/train"
    for name in ("a.ecw", "b.ecw", "c.SID", ".d.tif"):
        (images / name).write_bytes(b"x")
    (images / "gone.tif").symlink_to("nowhere.tif")
    (images / "loop").symlink_to("../train")
    (finding,) = check_folder(tmp_path).findings
    assert (finding.code, finding.splits) == ("left-out", ("train",))
    assert finding.message == (
        "left out: files of other formats (2 .ecw, 1 .sid; convert them to TIFF or PNG); "
        "img_dir/train/gone.tif (the link leads nowhere); "
        "img_dir/train/loop (the link leads back to a folder that it lies in); img_dir/train/.d.tif (hidden)"
    )


def test_hidden_files_and_other_files_are_not_looked_at(tmp_path: Path) -> None:
    write_pairs(tmp_path, LAYOUTS["img_dir and ann_dir"])
    for name in ("._a.png", ".cache/x.png", "notes.txt", "a.tfw"):
        (tmp_path / "img_dir/train" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "img_dir/train" / name).write_text("no image")
    assert codes(check_folder(tmp_path)) == []


def test_folders_that_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        dataset_from_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no .jpeg, .jpg, .png, .tif, .tiff files"):
        dataset_from_folder(tmp_path)
    for name in ("images", "imgs"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="has both images and imgs"):
        dataset_from_folder(tmp_path)


def test_jpeg_2000_and_zarr_are_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for number in range(4):
        bands = rng.integers(1, 255, (3, 40, 50)).astype(np.uint8)
        if number % 2:
            write_zarr(tmp_path / f"images/{number}.zarr", {"image": bands})
        else:
            write_as(tmp_path / f"images/{number}.jp2", "JP2OpenJPEG", bands, QUALITY="100", REVERSIBLE="YES")
        write(tmp_path / f"labels/{number}.png", rng.integers(0, 2, (40, 50)).astype(np.uint8))
    report = check_folder(tmp_path)
    assert codes(report) == ["no-validation"] and len(report.dataset.splits[0].samples) == 4
