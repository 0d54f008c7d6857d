"""STAC items of exported versions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

pytest.importorskip("tf2onnx", reason="extra onnx is not installed")
pytest.importorskip("ai_edge_litert", reason="extra tflite is not installed")
from rsseg_tf.export import ExportOptions, TrainedModel, export_model, verify
from rsseg_tf.export.stac import model_item, write_model_items
from rsseg_tf.export.tiles import random_tiles
from rsseg_tf.manifest import Format, Manifest, file_sha256, read_manifest
from rsseg_tf.predictors import open_predictor
from rsseg_tf.rasters.windows import Size
from tests.fixtures.stac import check_item

NAMES = ("deepness", "onnx", "savedmodel", "tflite_float32", "tflite_int8")


@pytest.fixture(scope="module")
def version(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    formats: tuple[Format, ...] = ("savedmodel", "onnx", "tflite", "deepness")
    calibration = list(random_tiles(trained.spec, Size(32, 32), 2))
    options = ExportOptions(formats, ("float32", "int8"), Size(32, 32), calibration)
    folder = export_model(trained, tmp_path_factory.mktemp("stac") / "out", options).folder
    assert folder is not None
    return folder


def test_each_artifact_has_a_valid_item(version: Path) -> None:
    assert sorted(path.stem for path in (version / "stac").iterdir()) == sorted(NAMES)
    identifiers = {check_item(version / "stac" / f"{name}.json")["id"] for name in NAMES}
    assert len(identifiers) == len(NAMES)


def test_the_folder_disturbs_no_reader_of_the_version(version: Path) -> None:
    assert open_predictor(version).kind == "savedmodel" == open_predictor(version.parent).kind
    assert all(one.passed for one in verify(version) if one.name != "tflite int8")


@pytest.mark.parametrize(
    ("name", "framework", "shape", "axes", "dtype", "scaling"),
    [
        ("savedmodel", "TensorFlow", [-1, -1, -1, 3], ["batch", "height", "width", "bands"], "uint8", None),
        ("onnx", "ONNX", [-1, 32, 32, 3], ["batch", "height", "width", "bands"], "uint8", None),
        ("tflite_int8", "TensorFlow Lite", [1, 32, 32, 3], ["batch", "height", "width", "bands"], "uint8", None),
        (
            *("deepness", "ONNX", [-1, 3, 32, 32], ["batch", "bands", "height", "width"], "float32"),
            [{"type": "scale", "value": 255.0}],
        ),
    ],
)
def test_inputs_are_those_of_the_file(
    version: Path, name: str, framework: str, shape: list[int], axes: list[str], dtype: str, scaling: object
) -> None:
    item = check_item(version / "stac" / f"{name}.json")
    properties = item["properties"]
    assert properties["mlm:framework"] == framework and properties["mlm:tasks"] == ["semantic-segmentation"]
    (found,) = properties["mlm:input"]
    assert found["input"] == {"shape": shape, "dim_order": axes, "data_type": dtype}
    assert found["value_scaling"] == scaling and found["bands"] == [one["name"] for one in properties["bands"]]
    assert found["resize_type"] == (None if -1 in shape[1:] else "crop")
    assert properties["mlm:accelerator"] is None and properties["mlm:accelerator_constrained"] is False


def test_outputs_and_classes(version: Path, trained: TrainedModel) -> None:
    outputs = {one["name"]: one for one in check_item(version / "stac" / "onnx.json")["properties"]["mlm:output"]}
    assert list(outputs) == ["class_map", "confidence", "logits"]
    assert outputs["class_map"]["result"]["dim_order"] == ["batch", "height", "width"]
    assert outputs["logits"]["result"] == {
        "shape": [-1, 32, 32, 2], "dim_order": ["batch", "height", "width", "class"], "data_type": "float32",
    }  # fmt: skip
    assert "classification:classes" not in outputs["confidence"]
    classes = outputs["logits"]["classification:classes"]
    assert [(one["value"], one["name"]) for one in classes] == [(0, "dark"), (1, "bright")]
    assert [one["color_hint"] for one in classes] == ["{:02X}{:02X}{:02X}".format(*rgb) for rgb in trained.spec.palette]
    (found,) = check_item(version / "stac" / "deepness.json")["properties"]["mlm:output"]
    assert found["result"]["dim_order"] == ["batch", "class", "height", "width"]


def test_what_the_model_is(version: Path, trained: TrainedModel) -> None:
    item = check_item(version / "stac" / "savedmodel.json")
    properties = item["properties"]
    assert properties["mlm:architecture"] == "fcn_resnet18_vd" and properties["gsd" if trained.spec.gsd else "bands"]
    assert properties["mlm:total_parameters"] == trained.model.count_params() > 0
    assert properties["mlm:pretrained"] is False and properties["mlm:pretrained_source"] is None
    assert properties["mlm:hyperparameters"]["iterations"] == 7
    assert properties["mlm:hyperparameters"]["normalisation_std"] == [0.5, 0.5, 0.5]
    assert properties["datetime"] == read_manifest(version).origin.exported.replace("+00:00", "Z")
    assert item["geometry"] is None


def test_files_and_checksums(version: Path) -> None:
    assets = check_item(version / "stac" / "savedmodel.json")["assets"]
    assert list(assets) == ["model", "weights_0", "weights_1", "manifest", "config"]
    model = assets["model"]
    assert model["href"] == "../saved_model.pb" and "mlm:model" in model["roles"]
    assert model["file:checksum"] == "1220" + file_sha256(version / "saved_model.pb")
    assert model["file:size"] == (version / "saved_model.pb").stat().st_size
    assert assets["weights_0"]["href"].startswith("../variables/variables.data")
    assert [one["href"] for one in check_item(version / "stac" / "onnx.json")["assets"].values()] == [
        "../model.onnx", "../manifest.json", "../config.yml",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "path", "more", "framework", "assets"),
    [
        ("web", "web/model_float32.tflite", ["web/index.html"], "TensorFlow Lite", ["model", "page"]),
        ("openvino", "model_openvino.xml", ["model_openvino.bin"], "OpenVINO", ["model", "weights"]),
    ],
)
def test_pages_and_openvino(
    trained: TrainedModel, version: Path, tmp_path: Path, kind: Format, path: str, more: list[str], framework: str,
    assets: list[str],
) -> None:  # fmt: skip
    """What needs more than is installed everywhere, from files that are made up."""
    for name in (path, *more, "manifest.json", "config.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, "utf-8")
    (tflite,) = (one for one in read_manifest(version).artifacts if one.name == "tflite float32")
    sums = {name: file_sha256(tmp_path / name) for name in (path, *more)}
    artifact = tflite.model_copy(update={"format": kind, "path": path, "sha256": sums})
    model, _ = changed(trained, version)
    write_model_items(model, tmp_path, [artifact])
    item = check_item(tmp_path / "stac" / f"{kind}.json")
    assert item["properties"]["mlm:framework"] == framework
    assert list(item["assets"]) == [*assets, "manifest", "config"]
    assert item["assets"][assets[1]]["file:checksum"] == "1220" + sums[more[0]]


def changed(trained: TrainedModel, version: Path, **dataset: object) -> tuple[TrainedModel, Manifest]:
    manifest = read_manifest(version)
    config = trained.config
    assert config is not None
    if dataset:
        section = config.dataset.model_copy(update=dataset)
        config = config.model_copy(update={"dataset": section})
    return dataclasses.replace(trained, config=config, manifest=manifest), manifest


def test_names_of_any_language(trained: TrainedModel, version: Path) -> None:
    model, manifest = changed(trained, version, classes=("Straße / Weg", "水"), name="custom")
    item = model_item(model, version, manifest.artifacts[0])
    (classes, *_) = [
        one["classification:classes"] for one in item["properties"]["mlm:output"] if "classification:classes" in one
    ]
    assert [(one["name"], one["description"]) for one in classes] == [
        ("Stra_e_Weg", "Straße / Weg"),
        ("class_1", "水"),
    ]
    path = version / "stac" / "names.json"
    path.write_text(json.dumps(item), "utf-8")
    try:
        check_item(path)
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("/home/someone/secret/ssl/best_backbone", "ssl/best_backbone"),
        ("imagenet", "imagenet"),
        ("https://example.org/a/b/c/weights.pdparams", "https://example.org/a/b/c/weights.pdparams"),
    ],
)
def test_pretrained_weights_are_named_without_the_machine(
    trained: TrainedModel, version: Path, given: str, said: str
) -> None:
    model, manifest = changed(trained, version)
    assert model.config is not None and model.config.model.backbone is not None
    backbone = model.config.model.backbone.model_copy(update={"pretrained": given})
    section = model.config.model.model_copy(update={"backbone": backbone})
    model = dataclasses.replace(model, config=model.config.model_copy(update={"model": section}))
    properties = model_item(model, version, manifest.artifacts[0])["properties"]
    assert properties["mlm:pretrained"] is True and properties["mlm:pretrained_source"] == said


@pytest.mark.parametrize(
    "spoil",
    [
        lambda item: item.pop("id"),
        lambda item: item["assets"]["model"].update(href="../nowhere.onnx"),
        lambda item: item["stac_extensions"].pop(),
        lambda item: item["properties"]["mlm:output"][0]["classification:classes"][0].update(color_hint="red"),
        lambda item: item.update(bbox=[0, 0, 1, 1]),
    ],
)
def test_the_check_itself_can_fail(version: Path, spoil: object) -> None:
    item = json.loads((version / "stac" / "onnx.json").read_text("utf-8"))
    assert callable(spoil)
    spoil(item)
    path = version / "stac" / "spoiled.json"
    path.write_text(json.dumps(item), "utf-8")
    try:
        with pytest.raises((AssertionError, KeyError)):
            check_item(path)
    finally:
        path.unlink()
