from __future__ import annotations

import base64
import json
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize

from rsseg_tf.cli import main
from rsseg_tf.config import load_config
from rsseg_tf.doctor import check_data, dataset_from_config
from rsseg_tf.errors import ConfigError, DataError
from rsseg_tf.files.lists import read_list
from rsseg_tf.prepare.annotations.files import read_annotations
from rsseg_tf.prepare.annotations.run import AnnotationsOptions, prepare_annotations
from rsseg_tf.prepare.annotations.shapes import Shape, decoded_runs, draw, outline
from rsseg_tf.prepare.output import OwnDataReport
from rsseg_tf.rasters.images import read_image, read_label, write_png
from rsseg_tf.rasters.windows import Size
from tests.fixtures.datasets import at, picture, write, write_tiff

HEIGHT, WIDTH = 40, 48
SQUARE = [4, 4, 14, 4, 14, 14, 4, 14]  # covers the pixels 4..13
OVER = [10, 4, 20, 4, 20, 14, 10, 14]


def box(x0: int, y0: int, x1: int, y1: int) -> list[int]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def images(folder: Path, count: int = 5, **size: int) -> Path:
    for number in range(count):
        shape = {"height": HEIGHT, "width": WIDTH} | size
        write(folder / f"scene{number // 2}_{number}.png", picture(number, **shape))
    return folder


def coco(path: Path, annotations: list[dict[str, Any]], count: int = 5, **changes: Any) -> Path:
    content = {
        "images": [
            {"id": number, "file_name": f"scene{number // 2}_{number}.png", "height": HEIGHT, "width": WIDTH}
            for number in range(count)
        ],
        "categories": [{"id": 7, "name": "road"}, {"id": 3, "name": "building"}, {"id": 9, "name": "unused"}],
        "annotations": [{"id": place, "image_id": 0, **entry} for place, entry in enumerate(annotations)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | changes), "utf-8")
    return path


def labelme(path: Path, shapes: list[dict[str, Any]], **more: Any) -> Path:
    path.write_text(json.dumps({"version": "5.4.1", "shapes": shapes, **more}), "utf-8")
    return path


BUILDING = {"category_id": 3, "segmentation": [SQUARE]}
ROAD = {"category_id": 7, "segmentation": [OVER]}
BOTH = [BUILDING, ROAD, {**ROAD, "image_id": 1}, {**BUILDING, "image_id": 2}, {**BUILDING, "image_id": 4}]


def config_of(report: OwnDataReport) -> Path:
    assert report.config is not None
    return report.config


def prepared(tmp_path: Path, labels: Path | None, *, folder: Path | None = None, **options: Any) -> OwnDataReport:
    folder = folder or images(tmp_path / "images")
    given = AnnotationsOptions(workers=1, trains_on="cpu", **options)
    return prepare_annotations([folder], [labels] if labels else [], tmp_path / "mine", given)


def label_of(tmp_path: Path, name: str) -> np.ndarray:
    [path] = (tmp_path / "mine" / "ann_dir").rglob(f"{name}.png")
    return read_label(path)


# === Drawing ===


def test_a_polygon_covers_the_pixels_whose_centre_lies_in_it() -> None:
    points = outline([1.4, 1.4, 6.6, 1.4, 6.6, 4.6, 1.4, 4.6], "x")
    label = draw([Shape("a", (points,))], Size(8, 9), lambda shape: 3, 0)
    expected = np.zeros((8, 9), np.uint8)
    expected[1:5, 1:7] = 3  # centres at 1.5 .. 4.5 and 1.5 .. 6.5
    np.testing.assert_array_equal(label, expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_outlines_are_drawn_as_scenes_labels_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-5, 45, (rng.integers(3, 9), 2))
    ours = draw([Shape("a", (outline(points.tolist(), "x"),))], Size(40, 40), lambda shape: 1, 0)
    ring = [*points.tolist(), points[0].tolist()]
    theirs = rasterize([({"type": "Polygon", "coordinates": [ring]}, 1)], out_shape=(40, 40), dtype="uint8")
    np.testing.assert_array_equal(ours, theirs)


# Made by pycocotools 2.0.11, `mask.encode`.
def test_compressed_runs_are_those_of_cocos_tools() -> None:
    small = np.zeros((5, 7), bool)
    small[1:4, 2:6] = True
    small[2, 3] = False
    small[0, 0] = True
    large = np.zeros((400, 3000), bool)
    large[:, 1500:] = True
    large[3, 5] = True
    for mask, text in ((small, "01:2HNO012004"), (large, "cn11\\oWb0omYb0")):
        runs, size = decoded_runs(text, list(mask.shape), "x")
        assert size == mask.shape
        drawn = draw([Shape("a", runs=runs)], Size(*mask.shape), lambda shape: 1, 0)
        np.testing.assert_array_equal(drawn == 1, mask)


@settings(max_examples=60)
@given(text=st.text(max_size=30))
def test_any_text_as_runs_gives_one_line(text: str) -> None:
    with pytest.raises(DataError) as error:
        decoded_runs(text, [3, 10**6 + 7], "x")
    assert "\n" not in str(error.value)


def test_later_objects_lie_on_top_and_crowds_below() -> None:
    first, second = (outline(points, "x") for points in (SQUARE, OVER))
    crowd = Shape("crowd", (outline(box(0, 0, 30, 30), "x"),), is_crowd=True)
    runs, _ = decoded_runs([0, 40 * 12, 40 * 36], [40, 48], "x")  # the first 12 columns
    ids = {"a": 1, "b": 2, "crowd": 3, "runs": 4}
    shapes = [Shape("a", (first,)), Shape("b", (second,)), crowd]
    label = draw(shapes, Size(40, 48), lambda shape: ids[str(shape.name)], 0)
    assert label[5, 5] == 1 and label[5, 12] == 2 and label[1, 1] == 3 and label[35, 1] == 0
    label = draw([*shapes, Shape("runs", runs=runs)], Size(40, 48), lambda shape: ids[str(shape.name)], 0)
    assert label[5, 5] == 4 and label[5, 12] == 2


def test_a_mask_may_reach_beyond_the_image() -> None:
    mask = np.ones((6, 6), bool)
    for corner, covered in (((-2, -3), (3, 4)), ((5, 6), (2, 3))):
        label = draw([Shape("a", mask=mask, corner=corner)], Size(8, 8), lambda shape: 1, 0)
        assert int(label.sum()) == covered[0] * covered[1]


# === COCO ===


def test_a_file_of_coco_becomes_a_dataset(tmp_path: Path) -> None:
    report = prepared(tmp_path, coco(tmp_path / "l.json", BOTH))
    config = load_config(config_of(report))
    assert config.dataset.spec.classes == ("background", "building", "road")  # by the ids of the categories
    assert report.notes == ("No object is of unused, which become no classes.",)
    label = label_of(tmp_path, "scene0_0")
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[4:14, 4:14] = 1
    expected[4:14, 10:20] = 2
    np.testing.assert_array_equal(label, expected)
    assert set(np.unique(label_of(tmp_path, "scene1_3"))) == {0}  # listed and without an object
    root = tmp_path / "mine"
    samples = [*read_list(root / "train.txt", root), *read_list(root / "val.txt", root)]
    assert len(samples) == 5 and len(read_list(root / "val.txt", root)) == 1
    for sample in samples:  # byte by byte
        assert sample.image.read_bytes() == (tmp_path / "images" / sample.image.name).read_bytes()
    findings = check_data(dataset_from_config(config, "mine.yml")).findings
    assert not [finding for finding in findings if finding.severity == "error"]


def test_it_is_done_once(tmp_path: Path) -> None:
    labels = coco(tmp_path / "l.json", BOTH)
    prepared(tmp_path, labels)
    config = tmp_path / "mine" / "mine.yml"
    config.write_text(config.read_text("utf-8").replace("batch_size: 4", "batch_size: 2"), "utf-8")
    folder = tmp_path / "images"
    again = prepared(tmp_path, labels, folder=folder)
    assert again.report.up_to_date and "batch_size: 2" in config.read_text("utf-8")
    assert (
        f"The config {config} describes these data and stays as it was; delete it to have it written anew."
        in again.notes
    )
    changed = prepared(tmp_path, coco(labels, BOTH[1:]), folder=folder)
    assert not changed.report.up_to_date and 1 not in label_of(tmp_path, "scene0_0")
    assert "batch_size: 2" in config.read_text("utf-8")  # it describes these data as well
    config.unlink()  # as if killed before it was written
    last = prepared(tmp_path, labels, folder=folder)
    assert last.report.up_to_date and "batch_size: 4" in config.read_text("utf-8")
    assert not any("stays as it was" in note for note in last.notes)


@pytest.mark.parametrize(("crowd", "expected"), [("class", 1), ("ignore", 255)])
def test_crowds(tmp_path: Path, crowd: str, expected: int) -> None:
    counts = [0, HEIGHT * 30, HEIGHT * (WIDTH - 30)]
    group = {"category_id": 3, "iscrowd": 1, "segmentation": {"counts": counts, "size": [HEIGHT, WIDTH]}}
    prepared(tmp_path, coco(tmp_path / "l.json", [ROAD, group, *BOTH[2:]]), crowd=crowd)
    label = label_of(tmp_path, "scene0_0")
    assert label[30, 5] == expected and label[5, 15] == 2 and label[30, 40] == 0


def test_files_for_training_and_validation(tmp_path: Path) -> None:
    """As some services export it: a folder each, with images of equal names."""
    for name in ("train", "valid"):
        images(tmp_path / "set" / name, 2, height=HEIGHT)
        coco(tmp_path / "set" / name / "_annotations.coco.json", BOTH[:3], count=2)
    write(tmp_path / "set" / "valid" / "scene0_0.png", picture(50, HEIGHT, WIDTH))
    options = AnnotationsOptions(val_labels=(tmp_path / "set" / "valid",), workers=1)
    report = prepare_annotations([tmp_path / "set"], [tmp_path / "set" / "train"], tmp_path / "mine", options)
    assert {name: split.tiles for name, split in report.report.splits.items()} == {"train": 2, "val": 2}
    root = tmp_path / "mine"
    assert (root / "val.txt").read_text("utf-8").splitlines()[
        0
    ] == "img_dir/val/valid/scene0_0.png ann_dir/val/valid/scene0_0.png"
    np.testing.assert_array_equal(read_image(root / "img_dir/val/valid/scene0_0.png"), picture(50, HEIGHT, WIDTH))
    with pytest.raises(DataError, match=r"is an image of both --labels and --val_labels \(2 in all\)"):
        prepare_annotations([tmp_path / "set"], [tmp_path / "set" / "valid"], tmp_path / "other", options)


def test_the_split_depends_on_the_seed_and_keeps_groups_together(tmp_path: Path) -> None:
    folder = images(tmp_path / "images", 20)
    labels = coco(tmp_path / "l.json", [{**BUILDING, "image_id": number} for number in range(20)], count=20)

    def val(**options: Any) -> list[str]:
        prepared(tmp_path, labels, folder=folder, **options)
        root = tmp_path / "mine"
        return [sample.image.stem for sample in read_list(root / "val.txt", root)]

    first = val()
    assert len(first) == 4 and val() == first and val(seed=1) != first and len(val(val_share=0.5)) == 10
    for seed in range(3):
        chosen = val(together="^scene([0-9]+)", seed=seed)
        scenes = {name.split("_")[0] for name in chosen}
        assert len(chosen) == 4 == 2 * len(scenes)


def test_images_are_cut(tmp_path: Path) -> None:
    prepared(tmp_path, coco(tmp_path / "l.json", BOTH), tile_size=32, overlap=16, skip_empty=True)
    root = tmp_path / "mine"
    names = {path.stem for path in (root / "ann_dir").rglob("*.png")}
    assert "scene0_0_0_0" in names and "scene0_0_8_16" in names and "scene1_3_0_0" not in names
    label = label_of(tmp_path, "scene0_0_8_16")
    assert label.shape == (32, 32) and (label[:6, :4] == 2).all() and label[6:].max() == 0
    [image] = (root / "img_dir").rglob("scene0_0_8_16.png")
    np.testing.assert_array_equal(read_image(image), picture(0, HEIGHT, WIDTH)[8:40, 16:48])
    assert load_config(root / "mine.yml").dataset.spec.tile_names == "{stem}_{y0}_{x0}"


def test_a_place_and_nodata_stay(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(1, 900, (40, 48, 4)).astype(np.uint16)
    pixels[:6, :6] = 0
    for number in range(2):
        write_tiff(tmp_path / "images" / f"scene0_{number}.tif", pixels, nodata=0, **at(500_000 + 40 * number, 0))
    files = [{"id": number, "file_name": f"scene0_{number}.tif"} for number in range(2)]
    labels = coco(tmp_path / "l.json", BOTH[:3], images=files)
    prepared(tmp_path, labels, folder=tmp_path / "images", tile_size=24)
    config = load_config(tmp_path / "mine" / "mine.yml")
    assert config.dataset.spec.bands == 4 and config.dataset.spec.gsd == pytest.approx(0.5, rel=5e-4)
    label = label_of(tmp_path, "scene0_0_0_0")
    assert (label[:6, :6] == 255).all() and label[5, 8] == 1
    [image] = (tmp_path / "mine" / "img_dir").rglob("scene0_0_0_24.tif")
    with rasterio.open(image) as file:
        assert file.transform.c == 500_000 + 24 * 0.5 and file.crs.to_epsg() == 32640


@pytest.mark.parametrize("is_mask", [False, True])
def test_a_band_that_is_marked_alpha_and_is_no_mask_is_told(tmp_path: Path, is_mask: bool) -> None:
    for number in range(2):
        pixels = np.random.default_rng(number).integers(1, 255, (HEIGHT, WIDTH, 4), dtype=np.uint8)
        if is_mask:
            pixels[..., 3] = 255
        write_tiff(tmp_path / "four" / f"{number}.tif", pixels, photometric="RGB", alpha="YES")
    named = [{"id": n, "file_name": f"{n}.tif", "height": HEIGHT, "width": WIDTH} for n in range(2)]
    labels = coco(tmp_path / "labels.json", [BUILDING, {**ROAD, "image_id": 1}], images=named)
    told = [note for note in prepared(tmp_path, labels, folder=tmp_path / "four").notes if "marked alpha" in note]
    assert len(told) == (0 if is_mask else 1)
    assert all(note.startswith("Band 4 of ") and "-colorinterp_4 undefined" in note for note in told)


def test_grey_images_among_coloured_ones_are_repeated(tmp_path: Path) -> None:
    folder = images(tmp_path / "images")
    write_png(folder / "scene0_1.png", picture(1, HEIGHT, WIDTH)[..., 0])
    prepared(tmp_path, coco(tmp_path / "l.json", BOTH), folder=folder)
    [path] = (tmp_path / "mine" / "img_dir").rglob("scene0_1.png")
    np.testing.assert_array_equal(read_image(path), np.repeat(picture(1, HEIGHT, WIDTH)[..., :1], 3, axis=2))


def test_images_in_a_zip_file(tmp_path: Path) -> None:
    folder = images(tmp_path / "images")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"all/{path.name}")
    report = prepared(tmp_path, coco(tmp_path / "l.json", BOTH), folder=tmp_path / "images.zip")
    assert report.report.splits["train"].tiles == 4


def test_one_polygon_in_other_lists_and_classes_with_numbers(tmp_path: Path) -> None:
    """As solaris writes COCO: one list of numbers, and classes called 1.0."""
    pairs = np.array(SQUARE).reshape(-1, 2).tolist()
    for segmentation in (SQUARE, pairs, [SQUARE], [pairs]):
        labels = coco(
            tmp_path / "l.json",
            [{"category_id": 3, "segmentation": segmentation}],
            categories=[{"id": 3, "name": 1.0}],
        )
        read = read_annotations([labels])
        assert read.classes == ("1",)
        [shape] = read.images[0].shapes
        np.testing.assert_array_equal(shape.outlines[0], pairs)


# === labelme ===


def test_files_of_labelme_become_a_dataset(tmp_path: Path) -> None:
    folder = images(tmp_path / "images", 4)
    stamp = np.zeros((5, 4), np.uint8)
    stamp[1:, 1:] = 255
    png = base64.b64encode(cv2.imencode(".png", stamp)[1].tobytes()).decode()
    pairs = np.array(SQUARE).reshape(-1, 2).tolist()
    shapes = [
        {"label": "roof", "points": pairs, "shape_type": "polygon"},
        {"label": "car", "points": [[30, 6], [34, 2]], "shape_type": "rectangle"},
        {"label": "Tree", "points": [[30, 30], [36, 30]], "shape_type": "circle"},
        {"label": "roof", "points": [[2, 30], [5, 34]], "shape_type": "mask", "mask": png},
        {"label": "__ignore__", "points": np.array(OVER).reshape(-1, 2).tolist()},
        {"label": "_background_", "points": np.array(box(4, 4, 6, 6)).reshape(-1, 2).tolist()},
        {"label": "wire", "points": [[0, 0], [9, 9]], "shape_type": "line"},
    ]
    labelme(folder / "scene0_0.json", shapes, imagePath="..\\pictures\\scene0_0.png", imageHeight=40, imageWidth=48)
    labelme(folder / "scene0_1.json", shapes[:1])  # as files like labelme's: the image has the name of the file
    labelme(folder / "scene1_2.json", shapes[1:2], imagePath="scene1_2.png", imageHeight=None)
    report = prepared(tmp_path, None, folder=folder)
    assert load_config(config_of(report)).dataset.spec.classes == ("background", "Tree", "car", "roof")
    assert "Points and lines, which have no area: 1 left out." in report.notes
    assert "Images without annotations: 1 left out, such as images/scene1_3.png." in report.notes
    label = label_of(tmp_path, "scene0_0")
    assert label[5, 8] == 3 and label[5, 12] == 255 and label[4, 4] == 0  # roof, ignored, background on top
    assert (label[2:6, 30:34] == 2).all() and label[6, 30] == 0
    assert abs(int((label == 1).sum()) - np.pi * 36) < 6
    assert label[30, 2] == 0 and label[31, 3] == 3 and label[34, 5] == 3
    assert (label_of(tmp_path, "scene0_1")[4:14, 4:14] == 3).all()


def test_files_of_isat_become_a_dataset(tmp_path: Path) -> None:
    folder = images(tmp_path / "images", 2)
    low, high = ({"category": name, "segmentation": np.array(points).reshape(-1, 2).tolist(), "layer": layer}
                 for name, points, layer in (("roof", SQUARE, 1.0), ("road", OVER, 2.0)))  # fmt: skip
    hole = {"category": "__background__", "segmentation": [[4, 4], [6, 4], [6, 6], [4, 6]], "layer": 3}
    for number in range(2):
        info = {"name": f"scene0_{number}.png", "width": WIDTH, "height": HEIGHT, "description": "ISAT"}
        content = {"info": info, "objects": [hole, high, low]}
        (folder / f"scene0_{number}.json").write_text(json.dumps(content), "utf-8")
    report = prepared(tmp_path, None, folder=folder)
    assert load_config(config_of(report)).dataset.spec.classes == ("background", "road", "roof")
    label = label_of(tmp_path, "scene0_0")
    assert label[8, 12] == 1 and label[8, 6] == 2 and label[5, 5] == 0
    low["layer"] = "top"
    (folder / "scene0_0.json").write_text(json.dumps({"objects": [low]}), "utf-8")
    with pytest.raises(DataError, match=r"scene0_0\.json: object 1 has the layer 'top'; a number is expected"):
        read_annotations([folder])


# === Classes, colours ===


def test_classes_are_named_and_ordered(tmp_path: Path) -> None:
    labels = coco(tmp_path / "l.json", BOTH)
    report = prepared(tmp_path, labels, classes=("road=ignore", "building=house"))
    assert load_config(config_of(report)).dataset.spec.classes == ("background", "house")
    assert label_of(tmp_path, "scene0_0")[5, 15] == 255
    with pytest.raises(DataError, match="holds 'building', which --classes does not name; it names 'road'"):
        prepared(tmp_path, labels, classes=("road",))
    report = prepared(tmp_path, labels, background="ignore")
    assert load_config(config_of(report)).dataset.spec.classes == ("building", "road")
    assert "no label covers" in config_of(report).read_text("utf-8")
    assert not list((tmp_path / "mine").rglob("scene1_3.png"))  # nothing to learn from


def test_colours_come_from_a_style(tmp_path: Path) -> None:
    style = '<qgis><pipe><rasterrenderer type="paletted"><colorPalette>'
    style += '<paletteEntry value="1" color="#ff0000" label="Building" alpha="255"/>'
    style += '<paletteEntry value="2" color="#00ff00" label="other" alpha="255"/>'
    (tmp_path / "s.qml").write_text(style + "</colorPalette></rasterrenderer></pipe></qgis>", "utf-8")
    labels = coco(tmp_path / "l.json", BOTH)
    report = prepared(tmp_path, labels, style=tmp_path / "s.qml")
    spec = load_config(config_of(report)).dataset.spec
    assert spec.palette[1] == (255, 0, 0) and len({*spec.palette}) == 3 and (0, 255, 0) not in spec.palette
    (tmp_path / "s.qml").write_text((tmp_path / "s.qml").read_text("utf-8").replace("Building", "lake"), "utf-8")
    with pytest.raises(DataError, match=r"s\.qml has no colour for any of the classes background, building, road"):
        prepared(tmp_path, labels, style=tmp_path / "s.qml")


# === What is wrong ===


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"image_id": 99}, "annotation 0 has the image_id 99, which the file does not describe"),
        ({"category_id": [1]}, r"annotation 0 has the category_id \[1\], which the file does not describe"),
        ({"segmentation": [[1, 2, 3, 4]]}, "annotation 0 has an outline of 4 numbers; x and y of at least 3 points"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "annotation 0 has an outline of 7 numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, "six"]]}, "annotation 0 has an outline that is no list of numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "annotation 0 has coordinates that are no pixels"),
        ({"segmentation": "polygon"}, "annotation 0 has a 'segmentation' that is neither polygons nor run lengths"),
        ({"segmentation": {"counts": [1, 2], "size": [HEIGHT, WIDTH]}}, "runs of 3 pixels for a size of 40x48"),
        ({"segmentation": {"counts": [-1, 2], "size": [HEIGHT, WIDTH]}}, "needs 'counts' and 'size'"),
        ({"segmentation": {"counts": "a", "size": [HEIGHT, WIDTH]}}, "run lengths that are cut short"),
        ({"segmentation": {"counts": [400], "size": [20, 20]}}, "has runs for an image of .*; its image has"),
        ({"segmentation": []}, r"l\.json holds boxes and no outlines"),
    ],
)
def test_wrong_annotations_of_coco(annotation: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_annotations([coco(tmp_path / "l.json", [BUILDING | annotation])])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "has no list of objects 'images'"),
        ({"categories": [3]}, "has no list of objects 'categories'"),
        ({"categories": [{"id": 3}]}, "category 3 has no text 'name'"),
        ({"categories": [{"id": 3, "name": "a"}] * 2}, "category 3 stands twice"),
        ({"images": [{"id": 1, "file_name": "a.png"}] * 2}, "image 1 stands twice"),
        ({"images": [{"file_name": "a.png"}]}, "image 'number 0' has no id"),
        ({"images": [{"id": 1, "file_name": "a.png", "height": "x", "width": 3}]}, "image 1 has the size 3 x 'x'"),
    ],
)
def test_wrong_files_of_coco(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_annotations([coco(tmp_path / "l.json", [], **changes)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"points": [[1, 2], [3, 4], [5, 6]]}, "shape 1 has no text 'label'"),
        ({"label": "a", "points": [[1, 2], [3, 4]]}, "shape 1 has an outline of 4 numbers"),
        ({"label": "a"}, "shape 1 has an outline that is no list of numbers|shape 1 has an outline of 1 numbers"),
        ({"label": "a", "points": [[1, 2]], "shape_type": "circle"}, "shape 1 needs two points"),
        ({"label": "a", "points": [[1, 2], [3, 4]], "shape_type": "spline"}, "shape 1 is of the type 'spline'"),
        ({"label": "a", "points": [[1, 2], [3, 4]], "shape_type": "mask", "mask": "!"}, "mask that is no PNG"),
    ],
)
def test_wrong_files_of_labelme(shape: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_annotations([labelme(tmp_path / "l.json", [shape])])
    assert "\n" not in str(error.value)


def test_wrong_files(tmp_path: Path) -> None:
    for text, message in (("{", "cannot be read as JSON"), ("[1]", "is not a file of COCO"), ("", "as JSON")):
        (tmp_path / "l.json").write_text(text, "utf-8")
        with pytest.raises(DataError, match=message):
            read_annotations([tmp_path / "l.json"])
    with pytest.raises(DataError, match="does not exist"):
        read_annotations([tmp_path / "none.json"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.json file"):
        read_annotations([tmp_path / "empty"])
    with pytest.raises(DataError, match=r"is of COCO, but .* is of labelme; all must be of one kind"):
        read_annotations([coco(tmp_path / "a.json", []), labelme(tmp_path / "b.json", [])])


def test_images_that_do_not_fit(tmp_path: Path) -> None:
    labels = coco(tmp_path / "l.json", BOTH)
    folder = images(tmp_path / "images")
    write(folder / "scene0_0.png", picture(0, WIDTH, HEIGHT))
    with pytest.raises(DataError, match="is 40x48 pixels; its annotations are of an image of 48x40. It is turned by"):
        prepared(tmp_path, labels, folder=folder)
    write_tiff(folder / "scene0_0.png", np.ones((HEIGHT, WIDTH, 5), np.uint8))
    with pytest.raises(DataError, match=r"scene0_0\.png has 5 bands, most images have 3"):
        prepared(tmp_path, labels, folder=folder)
    (folder / "scene0_0.png").unlink()
    with pytest.raises(DataError, match=r"1 of 5 annotated images are not in the folders; the first is scene0_0\.png"):
        prepared(tmp_path, labels, folder=folder)
    with pytest.raises(DataError, match=r"may be .*scene0_0\.png or .*scene0_0\.png"):
        images(folder / "a"), images(folder / "b")
        prepared(tmp_path, labels, folder=folder)
    with pytest.raises(DataError, match=r"has annotations twice, in .*l\.json"):
        prepare_annotations(
            [images(tmp_path / "c")], [labels, labels], tmp_path / "mine", AnnotationsOptions(workers=1)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_share": 1.0}, "--val_share is 1"),
        ({"overlap": 8}, "--overlap 8 needs tiles"),
        ({"together": "("}, "--together is no regular expression"),
        ({"together": "a", "val_labels": (Path("x"),)}, "--together has no use with --val_labels"),
        ({"skip_empty": True, "background": "ignore"}, "--skip_empty has no use"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        prepared(tmp_path, coco(tmp_path / "l.json", BOTH), **options)


def test_one_image_cannot_be_split(tmp_path: Path) -> None:
    labels = coco(tmp_path / "l.json", BOTH[:2], count=1)
    with pytest.raises(DataError, match="There is one image alone; two are needed"):
        prepared(tmp_path, labels)


# === The command ===


def test_the_command(tmp_path: Path) -> None:
    folder, labels = images(tmp_path / "images"), coco(tmp_path / "l.json", BOTH)
    arguments = ["prepare", "annotations", str(folder), "--labels", str(labels), "-o", str(tmp_path / "mine")]
    result = CliRunner().invoke(main, [*arguments, "--workers", "1", "--trains_on", "gpu"])
    assert result.exit_code == 0, result.output
    assert f"Train with: rsseg-tf train --config {tmp_path / 'mine' / 'mine.yml'} --do_eval" in result.output
    assert "Note: No object is of unused" in result.output
    assert "on a GPU" in (tmp_path / "mine" / "mine.yml").read_text("utf-8")
    labels.write_text("{}", "utf-8")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and "is not a file of COCO" in result.output
