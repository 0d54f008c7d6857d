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
from tests.recorded.made import CONFIGS, read_picture, read_raster, write_scene

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
    "flip horizontal": (("--aug-eval", "--flip-horizontal"), None),
    "flip vertical": (("--aug-eval", "--flip-vertical"), None),
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
    "bf16": (("--precision", "bf16"), None),
}


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
    names = {"deeplab": list(_EVALUATIONS), "hrnet": ["plain", "windows and scales"]}
    for model in names:
        checkpoint = work.checkpoint(model)
        for name in names[model]:
            for_eval, for_predict = _EVALUATIONS[name]
            report = _evaluated(work, "--model-path", checkpoint, *for_eval)
            entries[f"{model}: {name}"] = report if name == "plain" else _short_report(report)
            if for_predict is None or model == "hrnet":
                continue
            folder = work.new_folder()
            listed = folder.with_suffix(".txt")
            listed.write_text("".join(f"{root / image}\n" for image, _ in images), "utf-8")
            work.run(
                *("predict", "--model-path", checkpoint, "--image-path", listed, "--save-dir", folder, *for_predict)
            )
            matrix = np.zeros((6, 6), np.int64)
            for image, label in images:
                truth = read_picture(root / label)
                (found,) = folder.glob(f"pseudo_color_prediction/**/{Path(image).stem}.png")
                predicted = _ids(found)
                counted = truth != 255
                np.add.at(matrix, (truth[counted], predicted[counted]), 1)
            off = abs(matrix - np.array(report["confusion_matrix"]["counts"]["values"])).sum()
            entries[f"{model}: {name}: counts by which predict differs from eval"] = compare.counts(int(off))
    return entries


def _ids(picture: Path) -> np.ndarray:
    """Returns the class ids of a PNG with a palette."""
    from PIL import Image

    with Image.open(picture) as image:
        assert image.mode == "P", image.mode
        return np.array(image)


def protocols(work: Work) -> Entries:
    """Every protocol of evaluation, on scenes cut into tiles with and without common pixels."""
    from tests.fixtures import downloads

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
        text = CONFIGS["deeplab"].replace("name: synthetic, root: ROOT", f"name: {dataset}, root: {root}")
        config.write_text(text, "utf-8")
        common = ("--model-path", checkpoint, "--config", config)
        for protocol in ("seed", "stitched", "isprs5"):
            report = _evaluated(work, *common, "--protocol", protocol)
            entries[f"{dataset}, {name}: {protocol}"] = _short_report(report) | {"classes": report["classes"]}
        windows = ("--is-slide", "--crop-size", 32, 40, "--stride", 24, 24)
        report = _evaluated(work, *common, "--protocol", "stitched", *windows, "--aug-eval", "--flip-horizontal")
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
            entries[name] = compare.rounded(read_picture(path))
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
_WAYS_OF_HRNET = ("whole", "windows, cosine, scales, rotate90")


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


def products(work: Work) -> Entries:
    """Every kind of file that predict writes beside label maps, and the images that it takes."""
    entries: Entries = {}
    scenes, checkpoint = _scenes(work), work.checkpoint("deeplab")
    listed = work.folder / "listed.txt"
    listed.write_text(f"{scenes}/plain/picture.png\n{scenes}/alpha.tif\n", "utf-8")
    for name, source, options in (
        ("a folder", scenes / "plain", ()),
        ("a list", listed, ("--no-pictures",)),
        ("own colours", scenes / "plain/picture.png", ("--custom-color", *range(10, 190, 10))),
        ("pictures of nodata", scenes / "nodata.tif", ()),
        ("polygons", scenes / "plain/scene.tif", ("--no-pictures", "--vector", "geojson")),
        (
            "simplified polygons",
            scenes / "nodata.tif",
            ("--no-pictures", "--vector", "geojson", "--min-area", 2, "--simplify", 1.5),
        ),
        ("polygons in an area", scenes / "plain/scene.tif", ("--no-pictures", "--vector", "geojson", "--aoi", "AREA")),
    ):
        folder = work.new_folder()
        given = (scenes / "area.geojson" if option == "AREA" else option for option in options)
        work.run("predict", "--model-path", checkpoint, "--image-path", source, "--save-dir", folder, *given)
        entries[name] = _outputs(folder, work)
    return entries


def _listing(folder: Path) -> Entries:
    """Returns hashes of the decoded pixels of a prepared folder's images and the contents of its other files."""
    tiles: Entries = {}
    others: Entries = {}
    for path in sorted(path for path in folder.rglob("[!.]*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix in (".png", ".tif"):
            tiles[name] = compare.array_sha(read_raster(path))
        elif path.suffix == ".jpg":
            tiles[name] = compare.rounded(read_raster(path))
        elif path.suffix == ".json":
            others[name] = json.loads(path.read_text("utf-8"))
            others[name].pop("version", None)  # of the package, which a release changes
        else:
            others[name] = path.read_text("utf-8")
    lossless = {name: value for name, value in tiles.items() if isinstance(value, str)}
    if len(lossless) > 8:  # one hash a folder; a few tiles to see which kind of thing changed
        groups: dict[str, dict[str, str]] = {}
        for name, value in lossless.items():
            groups.setdefault(name.rpartition("/")[0], {})[name] = value
        tiles = {name: value for name, value in tiles.items() if name not in lossless}
        for group, members in groups.items():
            tiles[group] = {"tiles": len(members), "all": compare.sha(json.dumps(members).encode())}
            tiles[group] |= dict(list(members.items())[:2])
    return {"tiles": tiles, **others}


def prepared(work: Work) -> Entries:
    """Tiles, masks, lists and descriptions that prepare makes of tiny downloads."""
    from tests.fixtures import downloads

    downloads.potsdam(work.folder / "potsdam")
    downloads.vaihingen(work.folder / "vaihingen")
    downloads.isaid(work.folder / "isaid")
    downloads.loveda(work.folder / "loveda")
    _dubai(work.folder / "dubai")
    for number, name in enumerate(("farm/a", "lake/a", "b")):
        image, _ = downloads.scene(number, 40 + number, 50, 4)
        path = work.folder / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(downloads.encoded(image, ".png"))
    many, _ = downloads.scene(9, 30, 40, 4)
    write_scene(work.folder / "images/bands.tif", np.concatenate([many, many], 2).astype(np.uint16) * 7)
    for name in ("train/images/P0001", "test/images/P0002", "train/masks/P0001_instance_color_RGB"):
        path = work.folder / "dota" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(downloads.encoded(downloads.scene(len(name), 30, 40, 4)[0], ".png"))
    entries: Entries = {}
    runs: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("potsdam", ("--tile-size", 32)),
        ("potsdam", ("--tile-size", 32, "--protocol", "overlap")),
        ("vaihingen", ("--tile-size", 32)),
        ("vaihingen", ("--tile-size", 40, "--protocol", "overlap", "--overlap", 10, "--splits", "val")),
        ("isaid", ("--tile-size", 32, "--overlap", 12)),
        ("loveda", ("--tile-size", 16,)),
        ("loveda", ()),
        ("dubai", ("--tile-size", 16,)),
        ("dubai", ("--tile-size", 16, "--overlap", 4)),
        ("images", ("--tile-size", 24, "--image-format", "png")),
        ("images", ("--tile-size", 24, "--overlap", 6, "--image-format", "tif")),
        ("million_aid", ("--tile-size", 32,)),
        ("dota", ("--tile-size", 16, "--overlap", 4, "--image-format", "png")),
    )  # fmt: skip
    for dataset, options in runs:
        folder = work.new_folder()
        source = work.folder / ("images/farm" if dataset == "million_aid" else dataset)
        work.run("prepare", dataset, source, "-o", folder, "--workers", 1, *options)
        entries[" ".join((dataset, *map(str, options)))] = _listing(folder)
    # Painted with real numbers, so that other machines may paint otherwise.
    synthetic = _listing(work.synthetic)
    synthetic["tiles"] = compare.rounded(json.dumps(synthetic["tiles"]).encode())
    synthetic["dataset.json"] = compare.rounded(json.dumps(synthetic["dataset.json"]).encode())
    return entries | {"synthetic": synthetic}


def _dubai(root: Path) -> None:
    """Writes a tiny Dubai: JPEG images and masks in the colours of its README."""
    colours = np.array(
        [[226, 169, 41], [132, 41, 246], [110, 193, 228], [60, 16, 152], [254, 221, 58], [155, 155, 155]], np.uint8
    )
    for tile, part in ((1, 1), (1, 2), (4, 1), (8, 9)):
        rng = np.random.default_rng(100 * tile + part)
        ids = rng.integers(0, len(colours), (20, 27))
        for kind, suffix, pixels in (
            ("images", ".jpg", rng.integers(0, 255, (20, 27, 3)).astype(np.uint8)),
            ("masks", ".png", colours[ids][..., ::-1]),
        ):
            path = root / kind / f"tile{tile}_{part:03d}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)


def _arrays(path: Path) -> Entries:
    """Returns names, shapes and types of the arrays in a file, but no values."""
    with np.load(path) as file:
        names = {name: f"{list(file[name].shape)} {file[name].dtype}" for name in file.files}
    some = list(names.items())
    return {"number": len(names), "all": compare.sha(json.dumps(names).encode()), "some": dict(some[:4] + some[-4:])}


def _checkpoint(folder: Path, root: Path) -> Entries:
    import yaml

    entries: Entries = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".npz":
            entries[name] = _arrays(path)
        elif path.name == "state.json":
            state = json.loads(path.read_text("utf-8"))
            entries[name] = state | {"best_miou": "a number" if state["best_miou"] >= 0 else state["best_miou"]}
        elif path.suffix == ".yml":
            entries[name] = yaml.safe_load(path.read_text("utf-8").replace(str(root), "ROOT"))
        else:
            entries[name] = "a file"
    return entries


def checkpoints(work: Work) -> Entries:
    """Files, names, shapes, states and configs of checkpoints, of training and of pre-training."""

    entries: Entries = {}
    config, output = work.folder / "tiny.yml", work.folder / "output"
    config.write_text(CONFIGS["deeplab"].replace("ROOT", str(work.pairs)), "utf-8")
    settings = ("--set", "lr_schedule.learning_rate=0.01", "--batch-size", 2, "--seed", 3, "--save-interval", 1)
    work.run("train", "--config", config, "--save-dir", output, "--iters", 1, "--do-eval", *settings)
    entries["files of a run"] = sorted(path.name for path in output.iterdir())
    entries["train: iter_1"] = _checkpoint(output / "iter_1", work.pairs)
    entries["train: best_model"] = _checkpoint(output / "best_model", work.pairs)
    resumed = ("--resume-model", output / "iter_1", "--iters", 2)
    work.run("train", "--config", config, "--save-dir", output, *resumed, *settings)
    entries["train: resumed, iter_2: state.json"] = _checkpoint(output / "iter_2", work.pairs)["state.json"]
    return entries


_EXPORTED = "export/1"
# Runtimes whose integers differ between machines may flip more pixels.
_FILES = ("model_float32.tflite", "model_dynamic.tflite", "model_int8.tflite", "model.onnx")


def _manifest(path: Path) -> Entries:
    """Returns a manifest without what differs from run to run."""
    manifest = json.loads(path.read_text("utf-8"))
    origin = manifest["origin"]
    for name in ("checkpoint", "exported", "weights_sha256", "config_sha256"):
        origin[name] = f"{len(str(origin[name]).split('/')[-1])} characters" if name != "exported" else "a date"
    origin["versions"] = sorted(origin["versions"])
    for artifact in manifest["artifacts"]:
        artifact["sha256"] = sorted(artifact["sha256"])
        for tensor in (artifact["input"], *artifact["outputs"]):
            tensor["scale"] = compare.close(np.array(tensor["scale"]), 1e-3)
            tensor["zero_point"] = compare.close(np.array(tensor["zero_point"]), 1.5)
            tensor.pop("meaning")  # its wording is free
    return dict(manifest)


def _tile(work: Work) -> np.ndarray:
    return read_raster(work.synthetic / "img_dir/val/scene_001.tif")[40:104, 30:94]


def exported(work: Work) -> Entries:
    """Files and manifests of an export, what each runtime answers, and predict and eval with each engine."""
    import onnxruntime
    import tensorflow as tf

    entries: Entries = {}
    checkpoint, folder = work.checkpoint("deeplab"), work.folder / _EXPORTED
    formats = ("--format", "savedmodel,tflite,onnx", "--quantize", "float32,dynamic,int8")
    work.run("export", checkpoint, "-o", folder.parent, *formats, "--tile", 64, 64, "--calibration-count", 2)
    entries["files"] = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    entries["manifest.json"] = _manifest(folder / "manifest.json")
    entries["assets/manifest.json"] = _manifest(folder / "assets/manifest.json")
    entries["reference.npz"] = _arrays(folder / "reference.npz")
    tile = _tile(work)[np.newaxis]
    opened = tf.saved_model.load(str(folder))
    for name in sorted(opened.signatures):
        if name in ("manifest", "predict_bytes"):
            continue
        answer = opened.signatures[name](pixels=tf.constant(tile))
        entries[f"SavedModel: {name}"] = {key: _answer(value.numpy()) for key, value in sorted(answer.items())}
    for name in _FILES:
        path = folder / name
        if path.suffix == ".onnx":
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            names = [output.name for output in session.get_outputs()]
            answers = dict(zip(names, session.run(names, {session.get_inputs()[0].name: tile}), strict=True))
        else:
            answers = _tflite(path, tile)
        entries[name] = {key: _answer(value) for key, value in sorted(answers.items())}
    scene = _scenes(work) / "plain/scene.tif"
    for name in (".", *_FILES):
        target = work.new_folder()
        common = ("--model-path", folder / name, "--image-path", scene, "--save-dir", target)
        work.run("predict", *common, *_QUICK, *(("--aug-pred", "--flip-horizontal") if name == "model.onnx" else ()))
        entries[f"predict with {name}"] = _outputs(target, work)
        if name in ("model.onnx", "model_int8.tflite"):
            report = _evaluated(work, "--model-path", folder / name, *_SLIDE[:2], 64, 64, "--stride", 48, 48)
            entries[f"eval with {name}"] = _short_report(report)
    target = work.new_folder()
    named = ("--model-path", folder, "--engine", "onnx", "--image-path", scene, "--save-dir", target)
    work.run("predict", *named, "--no-pictures")
    entries["predict with the folder, --engine onnx (windows of the fixed tile)"] = _outputs(target, work)
    return entries


def _answer(value: np.ndarray) -> Entries:
    """Stores one output of a model: class ids or numbers."""
    value = np.asarray(value)
    if value.dtype == np.uint8 and value.max() < 6:
        return compare.labels(value[0])
    return compare.close(value, 0.02 * max(1.0, float(np.ptp(value.astype(float)))))


def _tflite(path: Path, tile: np.ndarray) -> dict[str, np.ndarray]:
    """Runs a TFLite file by its signature."""
    import contextlib
    import os

    from ai_edge_litert.interpreter import Interpreter

    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        runner = Interpreter(str(path)).get_signature_runner()
    details = runner.get_input_details()
    (name,) = details
    return dict(runner(**{name: tile.astype(details[name]["dtype"])}))


def configs(work: Work) -> Entries:
    """The resolved text of every shipped config, and names and shapes of the weights of every kind of model."""
    import yaml

    from rsseg_tf import build_model, load_config

    entries: Entries = {}
    names = work.run("config", "list").split()
    for name in names:
        shown = yaml.safe_load(work.run("config", "show", name))
        # A hash for each section, so that a difference says where it is.
        sections = {
            section: compare.sha(json.dumps(value, sort_keys=True).encode()) for section, value in shown.items()
        }
        entries[name] = " ".join(f"{section}={value[:6]}" for section, value in sorted(sections.items()))
    entries["list"] = names
    entries["a whole config"] = yaml.safe_load(work.run("config", "show", "fcn/fcn_hrnet_w18_dubai_512x512_80k.yml"))
    seen: set[str] = set()
    for name in names:
        if "/pretrain/" in name:
            continue
        config = load_config(name)
        backbone = config.model.backbone
        assert backbone is not None
        parts = {config.model.name, backbone.name}
        if parts <= seen:
            continue
        seen |= parts
        kind = f"{config.model.name} on {backbone.name}"
        weights = [f"{weight.path} {list(weight.shape)}" for weight in build_model(config).weights]
        # In alphabetical order: files find weights by their names.
        entries[f"weights of {kind}"] = {
            "number": len(weights),
            "all": compare.sha("\n".join(sorted(weights)).encode()),
        }
    return entries


class _Served:
    """`rsseg-tf serve` in a process of its own, until the end of a `with` block."""

    def __init__(self, folder: Path) -> None:
        import socket
        import subprocess
        import sys

        ports = []
        for _ in range(2):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                ports.append(free.getsockname()[1])
        self.rest_port, self.grpc_port = ports
        command = [sys.executable, "-m", "rsseg_tf.cli", "serve", str(folder), "--model-name", "recorded"]
        command += ["--rest-port", str(ports[0]), "--grpc-port", str(ports[1]), "--label", "stable=1"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> _Served:
        import time

        for _ in range(240):
            time.sleep(0.5)
            assert self._process.poll() is None, "the server has ended"
            try:
                status, told = self.rest("/v1/models/recorded")
            except OSError:
                continue
            if status == 200 and told["model_version_status"][0]["state"] == "AVAILABLE":
                return self
        raise RuntimeError("the server did not start")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def rest(self, path: str, body: Any = None) -> tuple[int, Any]:
        """Returns status and JSON of a GET or, with a body, a POST."""
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", self.rest_port, timeout=60)
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request("GET" if body is None else "POST", path, data)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


def served(work: Work) -> Entries:
    """The embedded server's answers over REST and gRPC, its error lines, and predict through it."""
    import base64

    entries: Entries = {}
    folder = work.folder / "export"
    work.run("export", work.checkpoint("deeplab"), "-o", folder, "--format", "savedmodel")
    tile = _tile(work)[:32, :48]
    png = base64.b64encode(cv2.imencode(".png", tile[..., ::-1])[1].tobytes()).decode()
    pixels = tile.tolist()
    base = "/v1/models/recorded"
    with _Served(folder) as server:
        for path in (base, f"{base}/versions/1", f"{base}/labels/stable", f"{base}/metadata", "/healthz", "/readyz"):
            entries[f"GET {path}"] = list(server.rest(path))
        for name, place, body in (
            ("rows", "", {"instances": [{"pixels": pixels}, {"pixels": pixels}]}),
            ("plain rows", "/versions/1", {"instances": [pixels]}),
            ("columns", "/labels/stable", {"inputs": {"pixels": [pixels]}}),
            ("probabilities", "", {"signature_name": "probabilities", "instances": [pixels]}),
            ("logits", "", {"signature_name": "logits", "inputs": [pixels]}),
            ("encoded image", "", {"signature_name": "predict_bytes", "instances": [{"b64": png}]}),
        ):
            entries[f"POST {name}"] = _rest_answer(*server.rest(f"{base}{place}:predict", body))
        refused: tuple[tuple[str, str, Any], ...] = (
            ("another model", "/v1/models/other:predict", {"instances": [pixels]}),
            ("another version", f"{base}/versions/9:predict", {"instances": [pixels]}),
            ("another label", f"{base}/labels/canary:predict", {"instances": [pixels]}),
            ("no JSON", f"{base}:predict", b"{"),
            ("no instances", f"{base}:predict", {}),
            ("another signature", f"{base}:predict", {"signature_name": "none", "instances": [pixels]}),
            ("another input", f"{base}:predict", {"inputs": {"image": [pixels]}}),
            ("too few dimensions", f"{base}:predict", {"instances": [1, 2]}),
            ("ragged", f"{base}:predict", {"instances": [[[1, 2, 3]], [[1, 2]]]}),
            ("text", f"{base}:predict", {"instances": [[[["a", "b", "c"]]]]}),
            ("out of range", f"{base}:predict", {"instances": [[[[1, 2, 300]]]]}),
            ("too many bands", f"{base}:predict", {"instances": [[[[1, 2, 3, 4]]]]}),
            ("no image", f"{base}:predict", {"signature_name": "predict_bytes", "instances": [{"b64": "AAAA"}]}),
            ("another place", "/v1/nothing", None),
            ("GET of predict", f"{base}:predict", None),
            ("another model's status", "/v1/models/other", None),
        )
        for name, path, body in refused:
            entries[f"error: {name}"] = list(server.rest(path, body))
        entries |= _grpc_answers(server, tile)
        scene = _scenes(work) / "plain/scene.tif"
        for name, address, options in (
            ("gRPC", f"127.0.0.1:{server.grpc_port}", ()),
            ("gRPC, windows, flip", f"127.0.0.1:{server.grpc_port}", (*_SLIDE, "--aug-pred", "--flip-horizontal")),
            ("REST, cosine windows", f"http://127.0.0.1:{server.rest_port}", (*_SLIDE, "--blend", "cosine")),
        ):
            target = work.new_folder()
            common = ("--model-name", "recorded", "--image-path", scene, "--save-dir", target)
            work.run("predict", "--server", address, *common, *_QUICK, *options)
            entries[f"predict by {name}"] = _outputs(target, work)
    return entries


def _rest_answer(status: int, told: Any) -> Entries:
    """Stores an answer: status, keys, and class ids or numbers."""
    answers = told.get("predictions", told.get("outputs")) if status == 200 else None
    if answers is None:
        return {"status": status, "answer": told}
    entry: Entries = {"status": status, "keys": sorted(told)}
    if isinstance(answers, dict):
        entry["named"] = {name: _answer_in_json(value) for name, value in sorted(answers.items())}
    elif isinstance(answers[0], dict) and "b64" not in answers[0]:
        entry["rows"] = [{name: _answer_in_json([row[name]]) for name in sorted(row)} for row in answers]
    else:
        entry["values"] = _answer_in_json(answers)
    return entry


def _answer_in_json(value: Any) -> Any:
    import base64

    if isinstance(value[0], dict):
        image = cv2.imdecode(np.frombuffer(base64.b64decode(value[0]["b64"]), np.uint8), cv2.IMREAD_UNCHANGED)
        return {"b64": compare.labels(np.asarray(image))}
    array = np.array(value)
    return _answer(array.astype(np.uint8) if array.dtype.kind == "i" else array)


def _grpc_answers(server: _Served, tile: np.ndarray) -> Entries:
    import grpc
    import tensorflow as tf
    from google.protobuf.json_format import MessageToDict
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    entries: Entries = {}
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for name, signature, pixels, wanted in (
            ("recorded", "", tile[np.newaxis], ()),
            ("recorded", "logits", tile[np.newaxis], ()),
            ("recorded", "serving_default", tile[np.newaxis], ("class_map",)),
            ("other", "", tile[np.newaxis], ()),
            ("recorded", "none", tile[np.newaxis], ()),
            ("recorded", "", tile, ()),
            ("recorded", "", tile[np.newaxis].astype(np.float32), ()),
            ("recorded", "", tile[np.newaxis], ("nothing",)),
        ):
            request = predict_pb2.PredictRequest(output_filter=wanted)
            request.model_spec.name, request.model_spec.signature_name = name, signature
            request.inputs["pixels"].CopyFrom(tf.make_tensor_proto(pixels))
            key = f"gRPC Predict: {name} {signature or '-'} {list(pixels.shape)} {pixels.dtype} {list(wanted)}"
            try:
                response = stub.Predict(request, timeout=60)
            except grpc.RpcError as error:
                entries[key] = [error.code().name, error.details()]
                continue
            outputs = {output: _answer(tf.make_ndarray(value)) for output, value in sorted(response.outputs.items())}
            entries[key] = {"spec": MessageToDict(response.model_spec), "outputs": outputs}
        about = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        about.model_spec.name = "recorded"
        metadata = stub.GetModelMetadata(about, timeout=60)
        entries["gRPC GetModelMetadata"] = {
            "spec": MessageToDict(metadata.model_spec),
            "fields": {name: value.type_url for name, value in metadata.metadata.items()},
        }
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "recorded"
        told = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status, timeout=60)
        entries["gRPC GetModelStatus"] = MessageToDict(told)
    return entries


def real_scenes(work: Work) -> Entries:
    """Label maps of crops of real scenes, where `shared/data` lies beside the checkout; empty elsewhere."""
    entries: Entries = {}
    if not DATA.is_dir():
        return entries
    import rasterio
    from rasterio.windows import Window

    folder = work.folder / "real"
    folder.mkdir()
    crops = (
        ("scenes/oam_kampala_3072x2048_rgb.tif", Window(1000, 800, 144, 112)),
        ("scenes/pix4d_alpha_nodata_rgba_epsg32750.tif", Window(20, 20, 128, 144)),
    )
    for source, window in crops:
        with rasterio.open(DATA / source) as file:
            profile = file.profile | {"height": window.height, "width": window.width, "tiled": False}
            profile["transform"] = file.window_transform(window)
            for name in ("blockxsize", "blockysize"):
                profile.pop(name)
            with rasterio.open(folder / Path(source).name, "w", **profile) as crop:
                crop.write(file.read(window=window))
                crop.colorinterp = file.colorinterp
    image = read_picture(DATA / "dubai/images/tile1_001.jpg")
    cv2.imwrite(str(folder / "tile1_001.png"), image[200:320, 300:420])
    for model, options in (
        ("deeplab", ()),
        ("deeplab", (*_SLIDE, *_AUGMENTED, "--flip-horizontal")),
        ("hrnet", ()),
    ):
        target = work.new_folder()
        common = ("--model-path", work.checkpoint(model), "--image-path", folder, "--save-dir", target)
        work.run("predict", *common, "--confidence", *options)
        outputs = _outputs(target, work)
        # The pictures of GeoTIFFs repeat what these say.
        kept = {name: entry for name, entry in outputs.items() if "pseudo" not in name or "tile" in name}
        entries[f"{model} {' '.join(map(str, options))}".strip()] = kept
    return entries


DATA = Path(__file__).resolve().parents[3] / "shared/data"

AREAS: dict[str, Callable[[Work], Entries]] = {
    "help": help_texts,
    "eval": evaluation,
    "protocols": protocols,
    "predict": predictions,
    "products": products,
    "prepare": prepared,
    "checkpoint": checkpoints,
    "export": exported,
    "configs": configs,
    "serve": served,
    "real": real_scenes,
}
