"""STAC items with the Machine Learning Model extension (MLM): one for each artifact of a version.

    stac/savedmodel.json, stac/onnx.json, stac/tflite_int8.json, ...

An item describes one input and one set of outputs (`mlm:input`, `mlm:output`), and artifacts differ in both: in sizes,
types, order of the axes. See https://github.com/stac-extensions/mlm, version 1.5.2.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rsseg_tf.config import Config
from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.export.trained import TrainedModel
from rsseg_tf.export.web import WEB_FOLDER
from rsseg_tf.manifest import DEEPNESS_SCALE, MANIFEST_FILE, Artifact, Format, Tensor
from rsseg_tf.stac import asset, class_objects, item, write_item

__all__ = ["STAC_FOLDER", "model_item", "write_model_items"]

STAC_FOLDER = "stac"

_TASK = "semantic-segmentation"
_SHA256_MULTIHASH = "1220"  # the code of SHA-256, and its length in bytes
_SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")


class _Kind(NamedTuple):
    """What a format is to the extension: framework, its Python package, what writes the file, the file's type."""

    framework: str
    package: str
    written_by: str
    media_type: str


_KINDS: dict[Format, _Kind] = {
    "savedmodel": _Kind(
        "TensorFlow", "tensorflow", "tf.saved_model.save", "application/octet-stream; framework=tensorflow"
    ),
    "tflite": _Kind(
        "TensorFlow Lite", "tensorflow", "tf.lite.TFLiteConverter", "application/octet-stream; framework=tflite"
    ),
    "onnx": _Kind("ONNX", "onnx", "onnx.save", "application/octet-stream; framework=onnx"),
    "openvino": _Kind("OpenVINO", "openvino", "openvino.save_model", "application/xml; framework=openvino"),
}
_KINDS |= {"web": _KINDS["tflite"], "deepness": _KINDS["onnx"]}


def write_model_items(trained: TrainedModel, folder: Path, artifacts: Sequence[Artifact]) -> None:
    """Writes `stac/` into a version's folder, an item for each artifact.

    Args:
        trained: The model.
        folder: The version's folder, with all its files.
        artifacts: Its artifacts, with their checksums.
    """
    target = folder / STAC_FOLDER
    target.mkdir()
    for artifact in artifacts:
        write_item(target / f"{artifact.name.replace(' ', '_')}.json", model_item(trained, folder, artifact))


def model_item(trained: TrainedModel, folder: Path, artifact: Artifact) -> dict[str, Any]:
    """Returns the item of an artifact.

    It has no geometry: where images look like those of the training is not known. Its `datetime` is that of the export,
    which the extension allows for models.

    Args:
        trained: The model.
        folder: The version's folder; addresses are relative to its subfolder `stac`.
        artifact: The artifact, with its checksums.
    """
    manifest, spec = trained.manifest, trained.spec
    kind = _KINDS[artifact.format]
    version = _version_of(kind.package)
    exported = manifest.origin.exported.replace("+00:00", "Z")
    pretrained = None if trained.config is None else _pretrained(trained.config)
    name = _name(f"{manifest.model} {spec.name} {artifact.name}")
    properties: dict[str, Any] = {
        "title": f"{manifest.model} for {spec.name}, as {artifact.name}",
        "description": f"Semantic segmentation of images into {', '.join(spec.classes)}.",
        "datetime": exported,
        "created": exported,
        **({} if spec.gsd is None else {"gsd": spec.gsd}),
        "bands": [{"name": band} for band in _bands(spec)],
        "mlm:name": name,
        "mlm:architecture": manifest.model,
        "mlm:tasks": [_TASK],
        "mlm:framework": kind.framework,
        **({} if version is None else {"mlm:framework_version": version}),
        "mlm:total_parameters": int(trained.model.count_params()),
        "mlm:pretrained": pretrained is not None,
        "mlm:pretrained_source": pretrained,
        # Any device that the framework runs on will do.
        "mlm:accelerator": None,
        "mlm:accelerator_constrained": False,
        "mlm:hyperparameters": _hyperparameters(trained, artifact),
        "mlm:input": [_input(spec, artifact)],
        "mlm:output": [_output(spec, tensor, artifact) for tensor in artifact.outputs],
    }
    identifier = f"{name.replace(' ', '_')}_{manifest.origin.weights_sha256[:12]}"
    return item(identifier, properties, _assets(trained, folder, artifact, kind))


def _assets(trained: TrainedModel, folder: Path, artifact: Artifact, kind: _Kind) -> dict[str, dict[str, Any]]:
    """Returns the files: the model with its weights, and what describes them."""

    def of(name: str, title: str, media_type: str, roles: Sequence[str], **fields: Any) -> dict[str, Any]:
        path = folder / name
        if digest := artifact.sha256.get(name):
            fields |= {"file__size": path.stat().st_size, "file__checksum": _SHA256_MULTIHASH + digest}
        return asset(path, folder / STAC_FOLDER, title, media_type, roles, **fields)

    main = "saved_model.pb" if artifact.format == "savedmodel" else artifact.path
    title = "SavedModel; its folder is the one of this file" if artifact.format == "savedmodel" else "Model"
    roles = ("mlm:model", "mlm:compiled", "model", "data")
    # The extension looks for bands among the properties; the core allows them there only where an asset has them too.
    bands = [{"name": band} for band in _bands(trained.spec)]
    assets = {"model": of(main, title, kind.media_type, roles, mlm__artifact_type=kind.written_by, bands=bands)}
    weights = [name for name in artifact.sha256 if name.startswith("variables/") or name.endswith(".bin")]
    for index, name in enumerate(sorted(weights)):
        key = "weights" if len(weights) == 1 else f"weights_{index}"
        assets[key] = of(name, "Weights", "application/octet-stream", ("mlm:weights", "weights"))
    if artifact.format == "web":
        page = f"{WEB_FOLDER}/index.html"
        assets["page"] = of(page, "Page that runs the model", "text/html", ("mlm:inference-runtime", "runtime"))
    assets["manifest"] = of(MANIFEST_FILE, "Manifest of the version", "application/json", ("metadata",))
    assets["config"] = of("config.yml", "Resolved config of the training", "application/yaml", ("metadata",))
    return assets


def _input(spec: DatasetSpec, artifact: Artifact) -> dict[str, Any]:
    """Returns the `mlm:input`; pixels need no scaling but Deepness's, because files normalise them inside."""
    tensor = artifact.input
    first = artifact.format == "deepness"
    axes = ("batch", "bands", "height", "width") if first else ("batch", "height", "width", "bands")
    return {
        "name": tensor.name,
        "description": f"{tensor.meaning}: each band becomes (pixel / max_value - mean) / std, with the numbers among "
        "the hyperparameters (normalisation_*)",
        "bands": list(_bands(spec)),
        "input": _structure(tensor, axes),
        "value_scaling": [{"type": "scale", "value": DEEPNESS_SCALE}] if first else None,
        # Tiles of a fixed size are cut out, not resized.
        "resize_type": None if artifact.tile is None else "crop",
        "pre_processing_function": None,
    }


def _output(spec: DatasetSpec, tensor: Tensor, artifact: Artifact) -> dict[str, Any]:
    """Returns one `mlm:output`."""
    axes: tuple[str, ...] = ("batch", "height", "width")
    if len(tensor.shape) == 4:
        axes = ("batch", "class", "height", "width") if artifact.format == "deepness" else (*axes, "class")
    meaning = tensor.meaning
    if tensor.scale:
        meaning += f"; the value is {tensor.scale!r} * (stored number - {tensor.zero_point})"
    found: dict[str, Any] = {
        "name": tensor.name,
        "description": meaning,
        "tasks": [_TASK],
        "result": _structure(tensor, axes),
    }
    if tensor.name != "confidence":
        objects = class_objects(dict(enumerate(spec.classes)), dict(enumerate(spec.palette)))
        # The titles of the classification extension are of a later version than the one that MLM refers to.
        found["classification:classes"] = [{k: v for k, v in one.items() if k != "title"} for one in objects]
    return found


def _structure(tensor: Tensor, axes: Sequence[str]) -> dict[str, Any]:
    """Returns shape, axes and type; -1 is any size."""
    shape = [-1 if size is None else size for size in tensor.shape]
    return {"shape": shape, "dim_order": list(axes), "data_type": tensor.dtype}


def _bands(spec: DatasetSpec) -> tuple[str, ...]:
    """Returns the names of the bands."""
    return spec.band_names or tuple(f"band_{index + 1}" for index in range(spec.bands))


def _hyperparameters(trained: TrainedModel, artifact: Artifact) -> dict[str, Any]:
    """Returns what the model was trained with and how it sees pixels; the config has all of it."""
    spec, temperature = trained.spec, trained.manifest.inference.temperature
    return {
        **_training(trained.config, trained.manifest.origin.step),
        "quantization": artifact.quantization,
        **({} if temperature == 1 else {"temperature": temperature}),
        "normalisation_max_value": spec.max_value,
        "normalisation_mean": list(spec.mean),
        "normalisation_std": list(spec.std),
    }


def _training(config: Config | None, step: int) -> dict[str, Any]:
    """Returns what a model was trained with; nothing is known of one that was made without a config."""
    if config is None:
        return {}
    return {
        "iterations": step,
        "batch_size": config.train.batch_size,
        "crop_size": list(config.augment.crop),
        "optimizer": config.optimizer.name,
        "learning_rate": config.lr_schedule.learning_rate,
        "lr_schedule": config.lr_schedule.name,
        "losses": {head: loss.name for head, loss in config.loss.items()},
        "precision": config.train.precision,
        "seed": config.train.seed,
    }


def _pretrained(config: Config) -> str | None:
    """Returns what the training began with; None for random weights."""
    model = config.model
    sources = [model.pretrained, None if model.backbone is None else model.backbone.pretrained]
    named = next((source for source in sources if source is not None), None)
    # A whole path would tell strangers about the machine.
    return named if named is None or "://" in named else "/".join(Path(named).parts[-2:])


def _name(text: str) -> str:
    """Returns a name of the characters that the extension allows: letters of ASCII, digits, `_`, `.`, `-`, spaces."""
    name = re.sub(r"[^a-zA-Z0-9_.\- ]+", "_", text).strip("_.- ")
    return name if re.match("[a-zA-Z]", name) else f"model_{name}"


def _version_of(package: str) -> str | None:
    """Returns the version of an installed package, if it is written as the extension asks for."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return version if _SEMVER.fullmatch(version) else None
