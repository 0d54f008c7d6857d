"""From a path to a predictor: checkpoint, SavedModel, TFLite, ONNX or OpenVINO."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from rsseg_tf.checkpoint import config_file, read_temperature
from rsseg_tf.config import Config, load_config
from rsseg_tf.errors import ConfigError, ExportError, WeightsError, address_hint
from rsseg_tf.files import StrPath
from rsseg_tf.manifest import MANIFEST_FILE, read_manifest
from rsseg_tf.predict import InferenceOptions
from rsseg_tf.predictors.artifacts import Predictor, load_onnx, load_openvino, load_savedmodel, load_tflite
from rsseg_tf.predictors.models import checkpoint_predictor

__all__ = ["Predictor", "find_model", "newest_version", "open_predictor"]

_SAVED_MODEL = "saved_model.pb"
_SUFFIXES = {".tflite": "tflite", ".onnx": "onnx", ".xml": "openvino"}


def open_predictor(
    path: StrPath,
    *,
    config: Config | None = None,
    precision: str = "fp32",
    threads: int | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> Predictor:
    """Opens whatever holds a model.

    Args:
        path: A checkpoint; a folder that `rsseg-tf export` wrote (the newest version is taken) or one version of it;
            a `.tflite`, `.onnx` or OpenVINO `.xml` file.
        config: Config of a checkpoint, instead of its own. Exported models know theirs.
        precision: `fp32`, `fp16` or `bf16`: type of activations of a checkpoint or an OpenVINO model.
        threads: Threads for TFLite, ONNX and OpenVINO; None leaves them the choice. TensorFlow's are set elsewhere, for
            the process.
        strategy: The devices that share the images of a batch, of a checkpoint only; None for one device.

    Raises:
        ConfigError: When `precision` is asked of another exported model.
        WeightsError: When `path` is neither a checkpoint nor anything exported, or a checkpoint does not fit `config`.
        ExportError: When an exported model is damaged, or the extra that runs it is not installed.
    """
    path = Path(path)
    kind, found = find_model(path)
    if kind == "checkpoint":
        config = config or load_config(config_file(found))
        predict = checkpoint_predictor(found, config, precision=precision, strategy=strategy)
        options = InferenceOptions.of(config, temperature=read_temperature(found))
        return Predictor(kind, config.dataset.spec, predict, options)
    if precision != "fp32" and kind != "openvino":
        raise ConfigError(
            f"precision {precision} is for checkpoints and OpenVINO; {found} computes as it was exported. Leave it "
            "out, or export with another --quantize."
        )
    if kind == "savedmodel":
        return load_savedmodel(found)
    if kind == "openvino":
        return load_openvino(found, threads=threads, precision=precision)
    return {"tflite": load_tflite, "onnx": load_onnx}[kind](found, threads=threads)


def find_model(path: StrPath) -> tuple[str, Path]:
    """Returns what kind of model a path means, and where exactly it is.

    Args:
        path: As `open_predictor`.

    Returns:
        One of `checkpoint`, `savedmodel`, `tflite`, `onnx`, `openvino`, and a checkpoint, version folder or file.

    Raises:
        WeightsError: When there is nothing of the kind.
        ExportError: When a folder holds several exported files and no SavedModel, or none at all.
    """
    path = Path(path)
    if not path.exists() and (hint := address_hint(path)):
        raise WeightsError(f"{path} is no model.{hint}")
    if path.is_file():
        if path.suffix.lower() not in _SUFFIXES:
            raise ExportError(
                f"{path} is no model; a checkpoint folder, a folder of `rsseg-tf export`, or a file that ends in "
                f"{', '.join(_SUFFIXES)} is needed.{_hint_about(path)}"
            )
        return _SUFFIXES[path.suffix.lower()], path
    folder = newest_version(path) or path
    if (folder / _SAVED_MODEL).is_file():
        return "savedmodel", folder
    if not (folder / MANIFEST_FILE).is_file():
        return "checkpoint", config_file(folder).parent  # raises for anything else
    artifacts = read_manifest(folder).artifacts
    if len(artifacts) != 1:
        names = ", ".join(str(folder / artifact.path) for artifact in artifacts)
        raise ExportError(
            f"{folder} holds {len(artifacts)} exported files: {names or 'none'}. Name one of them, or choose with "
            "--engine."
        )
    if artifacts[0].format == "savedmodel":  # its own copy of the manifest lies among its assets
        raise ExportError(f"{folder} is a part of a SavedModel; name the SavedModel itself: {folder.parent}.")
    # A page is opened by its TFLite file.
    return _SUFFIXES[Path(artifacts[0].path).suffix], folder / artifacts[0].path


def _hint_about(path: Path) -> str:
    """Returns a hint for a file that is no model; empty where nothing is known of it."""
    if (path.parent / "weights.npz").is_file() or (path.parent / MANIFEST_FILE).is_file():
        return f" It lies in the folder of one: name {path.parent}."
    kinds = {
        (".pdparams", ".pth", ".pt", ".gz", ".zip", ".h5", ".safetensors"): "Released weights become a checkpoint by "
        "rsseg-tf convert.",
        (".yml", ".yaml"): "A config goes with --config.",
        (".keras",): "A file of Keras is opened by keras.saving.load_model after `import rsseg_tf`; a checkpoint is "
        "what rsseg-tf train writes.",
    }
    return next((f" {what}" for suffixes, what in kinds.items() if path.suffix.lower() in suffixes), "")


def newest_version(folder: Path) -> Path | None:
    """Returns the subfolder with the highest number, as TensorFlow Serving chooses; None without any."""
    versions = [path for path in folder.glob("*") if path.name.isdecimal() and path.is_dir()]
    return max(versions, key=lambda path: int(path.name), default=None)
