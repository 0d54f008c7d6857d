"""What is recorded, area by area. A name says what the command was given; a remark in brackets says what is odd."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tests.recorded import compare
from tests.recorded.made import read_raster, write_scene

if TYPE_CHECKING:
    from tests.recorded.record import Work

Entries = dict[str, Any]

_SLIDE = ("--is-slide", "--crop-size", 64, 48, "--stride", 40, 32)


def help_texts(work: Work) -> Entries:
    """`--help` of the program and of each command and sub-command."""
    import click

    from rsseg_tf.cli.main import main

    def walk(command: click.Command, path: tuple[str, ...]) -> Entries:
        texts = {" ".join(("rsseg-tf", *path)): work.run(*path, "--help")}
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                texts |= walk(inner, (*path, name))
        return texts

    return walk(main, ())


# Options of eval, and the options of predict that should give the same.
_EVALUATIONS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...] | None]] = {
    "plain": ((), ()),
    "scales": (("--aug-eval", "--scales", 0.75, 1.0, 1.5), ("--aug-pred", "--scales", 0.75, 1.0, 1.5)),
    "flips": (
        ("--aug-eval", "--flip-horizontal", "--flip-vertical"),
        ("--aug-pred", "--flip-horizontal", "--flip-vertical"),
    ),
    "flip horizontal": (("--aug-eval", "--flip-horizontal"), ("--aug-pred", "--flip-horizontal")),
    "flip vertical": (("--aug-eval", "--flip-vertical"), ("--aug-pred", "--flip-vertical")),
    "windows": (_SLIDE, _SLIDE),
    "windows and flips": (
        (*_SLIDE, "--aug-eval", "--flip-horizontal"),
        (*_SLIDE, "--aug-pred", "--flip-horizontal"),
    ),
    "windows and scales": (
        (*_SLIDE, "--aug-eval", "--scales", 0.75, 1.25),
        (*_SLIDE, "--aug-pred", "--scales", 0.75, 1.25),
    ),
    "windows, scales and flips": (
        (*_SLIDE, "--aug-eval", "--scales", 0.5, 1.0, "--flip-horizontal", "--flip-vertical"),
        (*_SLIDE, "--aug-pred", "--scales", 0.5, 1.0, "--flip-horizontal", "--flip-vertical"),
    ),
    "config's eval section": (
        (
            *("--set", "eval.is_slide=true", "--set", "eval.crop_size=[48, 64]", "--set", "eval.stride=[32, 40]"),
            *("--set", "eval.flip_vertical=true"),
        ),
        None,
    ),
    "bf16": (("--precision", "bf16"), ("--precision", "bf16")),
}


# Where predict cuts windows first and eval augments first, so that they give different pixels.
_ODD = ("windows and flips", "windows and scales", "windows, scales and flips")


def _evaluated(work: Work, *arguments: Any) -> Entries:
    """Runs eval and returns its report, with the matrix as counts."""
    folder = work.new_folder()
    work.run("eval", "--save-dir", folder, *arguments)
    report = json.loads((folder / "eval.json").read_text("utf-8"))
    report.pop("model_path")
    report.pop("absent_class_policy")  # its wording is free
    report["protocol"].pop("description")
    report["engine"] = None if report["engine"] is None else str(report["engine"])
    matrix = report["confusion_matrix"]
    matrix["counts"] = compare.counts(matrix["counts"])
    report["counted_pixels"] = compare.counts(report["counted_pixels"])
    report["ignored_pixels"] = compare.counts(report["ignored_pixels"])
    report["classes"] = {entry.pop("name"): entry for entry in report["classes"]}
    for entry in report["classes"].values():
        entry["label_pixels"] = compare.counts(entry["label_pixels"])
        entry["prediction_pixels"] = compare.counts(entry["prediction_pixels"])
    return dict(report)


def _short_report(report: Entries) -> Entries:
    """Leaves the figures of single classes out, which follow from the matrix."""
    return {name: value for name, value in report.items() if name != "classes"}


def evaluation(work: Work) -> Entries:
    """Evaluation's reports and matrices by every option, and how far predict's pixels are from them."""
    entries: Entries = {}
    root = work.pairs
    images = [line.split() for line in (root / "val.txt").read_text("utf-8").splitlines()]
    names = {"deeplab": list(_EVALUATIONS), "hrnet": ["plain", "flips", "windows", "windows and scales"]}
    for model in names:
        checkpoint = work.checkpoint(model)
        for name in names[model]:
            for_eval, for_predict = _EVALUATIONS[name]
            report = _evaluated(work, "--model-path", checkpoint, *for_eval)
            entries[f"{model}: {name}"] = report if name == "plain" else _short_report(report)
            if for_predict is None or (model == "hrnet" and name != "windows and scales"):
                continue
            folder = work.new_folder()
            listed = folder.with_suffix(".txt")
            listed.write_text("".join(f"{root / image}\n" for image, _ in images), "utf-8")
            work.run(
                *("predict", "--model-path", checkpoint, "--image-path", listed, "--save-dir", folder, *for_predict)
            )
            matrix = np.zeros((6, 6), np.int64)
            for image, label in images:
                truth = cv2.imread(str(root / label), cv2.IMREAD_UNCHANGED)
                (found,) = folder.glob(f"pseudo_color_prediction/**/{Path(image).stem}.png")
                predicted = _ids(found)
                counted = truth != 255
                np.add.at(matrix, (truth[counted], predicted[counted]), 1)
            off = abs(matrix - np.array(report["confusion_matrix"]["counts"]["values"])).sum()
            remark = " (odd: should be 0)" if name in _ODD else ""
            entries[f"{model}: {name}: counts by which predict differs from eval{remark}"] = compare.counts(int(off))
    return entries


def _ids(picture: Path) -> np.ndarray:
    """Returns the class ids of a PNG with a palette."""
    from PIL import Image

    with Image.open(picture) as image:
        assert image.mode == "P", image.mode
        return np.array(image)


_ISPRS_CONFIG = """\
dataset: {name: NAME, root: ROOT}
model:
  name: deeplabv3plus
  backbone: {name: resnet18_vd, output_stride: 32}
  aspp_rates: [1, 2, 3]
  aspp_channels: 16
  decoder_channels: 16
  low_level_channels: 8
augment: {crop_size: [64, 64]}
data: {workers: 1}
"""


def protocols(work: Work) -> Entries:
    """Every protocol of evaluation, on scenes cut into tiles with and without common pixels."""
    from tests.datasets import downloads

    entries: Entries = {}
    downloads.potsdam(work.folder / "potsdam", size=(110, 150))
    downloads.vaihingen(work.folder / "vaihingen")
    checkpoint = work.checkpoint("deeplab")
    for dataset, name, options in (
        ("potsdam", "seed tiles", ()),
        ("potsdam", "overlapping tiles", ("--protocol", "overlap", "--overlap", 24)),
        ("vaihingen", "seed tiles", ()),
    ):
        root, config = work.new_folder(), work.folder / f"{dataset}.yml"
        work.run("prepare", dataset, work.folder / dataset, "-o", root, "--tile-size", 48, "--workers", 1, *options)
        config.write_text(_ISPRS_CONFIG.replace("NAME", dataset).replace("ROOT", str(root)), "utf-8")
        common = ("--model-path", checkpoint, "--config", config)
        for protocol in ("seed", "stitched", "isprs5"):
            report = _evaluated(work, *common, "--protocol", protocol)
            entries[f"{dataset}, {name}: {protocol}"] = _short_report(report) | {"classes": report["classes"]}
        options = ("--protocol", "stitched", "--is-slide", "--crop-size", 32, 40, "--stride", 24, 24, "--aug-eval")
        report = _evaluated(work, *common, *options, "--flip-horizontal")
        entries[f"{dataset}, {name}: stitched, windows, flip"] = _short_report(report)
    return entries


def _outputs(folder: Path, work: Work) -> Entries:
    """Returns what predict wrote below a folder, file by file."""
    entries: Entries = {}
    for path in sorted(path for path in folder.rglob("[!.]*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        top = name.split("/")[0]
        if path.suffix == ".geojson":
            entries[name] = _features(path)
        elif path.suffix == ".tif":
            entries[name] = _raster(path)
        elif top == "pseudo_color_prediction":
            entries[name] = _palette_picture(path)
        elif path.suffix in (".png", ".jpg"):
            entries[name] = compare.rounded(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
        else:
            entries[name] = f"{path.suffix} file"
    return entries


def _palette_picture(path: Path) -> Entries:
    from PIL import Image

    with Image.open(path) as image:
        palette = image.getpalette()
        ids = np.array(image)
        mode = image.mode
    return {"mode": mode, "palette": None if palette is None else compare.sha(bytes(palette[:768])),
            "ids": compare.labels(ids)}  # fmt: skip


_UNSTABLE = ("TIFFTAG_SOFTWARE", "TIFFTAG_DATETIME")


def _raster(path: Path) -> Entries:
    import rasterio

    with rasterio.open(path) as file:
        pixels = file.read()
        tags = {name: value for name, value in file.tags().items() if name not in _UNSTABLE}
        if "MODEL" in tags:  # ends with a hash of the weights
            tags["MODEL"] = compare.rounded(tags["MODEL"].encode())
        entry: Entries = {
            "dtype": file.dtypes[0],
            "crs": None if file.crs is None else file.crs.to_string(),
            "transform": [round(value, 6) for value in tuple(file.transform)[:6]],
            "nodata": file.nodata,
            "tags": tags,
            "bands": [{"description": file.descriptions[i - 1], **file.tags(i)} for i in file.indexes],
            "structure": {k: str(file.profile.get(k)) for k in ("tiled", "blockxsize", "blockysize", "compress")},
            "overviews": file.overviews(1),
        }
        try:
            entry["colormap"] = compare.sha(repr(sorted(file.colormap(1).items())).encode())
        except ValueError:
            entry["colormap"] = None
    if pixels.dtype == np.uint8 and len(pixels) == 1:
        kind = compare.labels if len(np.unique(pixels)) <= 12 else compare.levels
        entry["pixels"] = kind(pixels[0])
    else:
        entry["pixels"] = compare.close(pixels, 2e-2 * max(1.0, float(np.nanmax(abs(pixels.astype(float))))))
    return entry


def _features(path: Path) -> Entries:
    document = json.loads(path.read_text("utf-8"))
    features = document.pop("features")
    numbers: dict[str, int] = {}
    for feature in features:
        key = json.dumps({k: v for k, v in feature["properties"].items() if isinstance(v, str)})
        numbers[key] = numbers.get(key, 0) + 1
    return {
        "document": {name: value for name, value in document.items() if name != "name"},
        "keys": sorted({name for feature in features for name in feature["properties"]}),
        "polygons": compare.counts(list(numbers.values())),
        "of": list(numbers),
        "text": compare.rounded(json.dumps(features, sort_keys=True).encode()),
    }


def _scenes(work: Work) -> Path:
    """Writes scenes of several kinds; the name says which."""
    folder = work.folder / "scenes"
    if folder.exists():
        return folder
    first = read_raster(work.synthetic / "img_dir/val/scene_000.tif")
    second = read_raster(work.synthetic / "img_dir/val/scene_001.tif")
    scene = first[:96, :128]
    write_scene(folder / "plain/scene.tif", scene)
    cv2.imwrite(str(folder / "plain/picture.png"), second[20:104, 10:80, ::-1])
    (folder / "plain/deep").mkdir()
    cv2.imwrite(str(folder / "plain/deep/photo.png"), second[:70, :64, ::-1])
    holes = np.maximum(scene, 1)
    holes[:30, :40] = 0
    write_scene(folder / "nodata.tif", holes, nodata=0)
    alpha = np.full((96, 128, 1), 255, np.uint8)
    alpha[50:, 90:] = 0
    write_scene(folder / "alpha.tif", np.concatenate([scene, alpha], 2), photometric="RGB", alpha="YES")
    write_scene(folder / "twelve_bits.tif", scene.astype(np.uint16) * 16)
    write_scene(folder / "turned_bands.tif", np.ascontiguousarray(scene[..., ::-1]))
    write_scene(folder / "coarse.tif", second[:80, :100], gsd=0.6)
    # Wider than what is predicted whole.
    wide = np.concatenate([first[:48], second[:48], first[48:96], second[48:96]], 1)
    write_scene(folder / "wide.tif", np.concatenate([wide, wide[:, ::-1], wide[::-1], wide[:, :200]], 1))
    corners = [[500003, 2799997], [500030, 2799995], [500025, 2799980], [500005, 2799975], [500003, 2799997]]
    area = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [corners]}}
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32640"}}
    document = {"type": "FeatureCollection", "crs": crs, "features": [area]}
    (folder / "area.geojson").write_text(json.dumps(document), "utf-8")
    return folder


_QUICK = ("--no-pictures", "--confidence")
_AUGMENTED = ("--aug-pred", "--scales", 0.75, 1.0, 1.25)
# name -> (scene, options); every one with --no-pictures and --confidence.
_WAYS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "whole": ("plain/scene.tif", ()),
    "scales": ("plain/scene.tif", _AUGMENTED),
    "rotate90": ("plain/scene.tif", ("--aug-pred", "--rotate90")),
    "scales, flips, rotate90": (
        "plain/scene.tif",
        (*_AUGMENTED, "--flip-horizontal", "--flip-vertical", "--rotate90"),
    ),
    "windows": ("plain/scene.tif", _SLIDE),
    "windows, batches of 1": ("plain/scene.tif", (*_SLIDE, "--batch-size", 1)),
    "windows, cosine": ("plain/scene.tif", (*_SLIDE, "--blend", "cosine")),
    "windows, batches of 3, flips": (
        "plain/scene.tif",
        (*_SLIDE, "--batch-size", 3, "--aug-pred", "--flip-horizontal", "--flip-vertical"),
    ),
    "windows, cosine, scales, rotate90": (
        "plain/scene.tif",
        (*_SLIDE, "--blend", "cosine", *_AUGMENTED, "--rotate90"),
    ),
    "windows larger than the scene": (
        "plain/scene.tif",
        ("--is-slide", "--crop-size", 160, 120, "--stride", 80, 60),
    ),
    "wide scene": ("wide.tif", ()),
    "wide scene, mean": ("wide.tif", ("--blend", "mean")),
    "wide scene, windows": ("wide.tif", ("--is-slide", "--crop-size", 96, 40, "--stride", 72, 8)),
    "wide scene, scales, flip": ("wide.tif", (*_AUGMENTED, "--flip-horizontal")),
    "nodata": ("nodata.tif", ()),
    "nodata, windows": ("nodata.tif", _SLIDE),
    "alpha": ("alpha.tif", ()),
    "bands": ("turned_bands.tif", ("--bands", 3, 2, 1)),
    "largest value": ("twelve_bits.tif", ("--max-value", 4080)),
    "metres per pixel": ("coarse.tif", ("--match-gsd",)),
    "metres per pixel of a model": ("coarse.tif", ("--match-gsd", "--model-gsd", 0.4, *_SLIDE)),
    "area": ("plain/scene.tif", ("--aoi", "AREA")),
    "doubtful pixels": ("plain/scene.tif", ("--min-confidence", 0.5, "--review-value", 99)),
    "probabilities": ("plain/scene.tif", ("--probabilities",)),
    "cloud optimized": ("plain/scene.tif", ("--cog",)),
    "bf16": ("plain/scene.tif", ("--precision", "bf16")),
}
_WAYS_OF_HRNET = ("whole", "scales, flips, rotate90", "windows", "windows, cosine, scales, rotate90")


def predictions(work: Work) -> Entries:
    """Label maps and confidence by every option that changes them."""
    entries: Entries = {}
    scenes = _scenes(work)
    for model, ways in (("deeplab", tuple(_WAYS)), ("hrnet", _WAYS_OF_HRNET)):
        for name in ways:
            scene, options = _WAYS[name]
            options = tuple(scenes / "area.geojson" if option == "AREA" else option for option in options)
            folder = work.new_folder()
            common = ("--model-path", work.checkpoint(model), "--image-path", scenes / scene, "--save-dir", folder)
            work.run("predict", *common, *_QUICK, *options)
            entries[f"{model}: {name}"] = _outputs(folder, work)
            shutil.rmtree(folder)
    return entries


AREAS: dict[str, Callable[[Work], Entries]] = {
    "help": help_texts,
    "eval": evaluation,
    "protocols": protocols,
    "predict": predictions,
}
