"""Models that predict, whatever they were loaded from: checkpoints, exported files, servers, Keras models."""

from __future__ import annotations

import dataclasses
import html
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.rules import misfit
from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import ConfigError, DataError
from rsseg_tf.files import StrPath
from rsseg_tf.library.listening import Listener, Notify, listener_of
from rsseg_tf.library.opening import (
    Engine,
    ModelSource,
    Precision,
    choose_engine,
    config_of,
    locate_engine,
    open_source,
)
from rsseg_tf.library.startup import load_tensorflow
from rsseg_tf.library.windowing import changed_options, prediction_changes, size_of

if TYPE_CHECKING:
    import keras

    from rsseg_tf.config import Config
    from rsseg_tf.predict import PredictionResult
    from rsseg_tf.predictors import Predictor

__all__ = [
    "AnyModel",
    "Model",
    "Prediction",
    "Served",
    "as_model",
    "image_array",
    "is_array",
    "load_model",
    "load_remote_model",
]

AnyModel = Any
"""What functions take as a model: a `Model`, a path, or a Keras model together with a spec."""


_FILES = "Files are read by rsseg_tf.predict and .predict_scene."


class Prediction(tuple[NDArray[np.uint8], NDArray[np.float32]]):
    """Labels and their probabilities.

    Attributes:
        labels: `(H, W)` uint8 class ids.
        confidence: `(H, W)` float32: probability of that class, 0..1.
    """

    __slots__ = ()

    def __new__(cls, labels: NDArray[np.uint8], confidence: NDArray[np.float32]) -> Prediction:
        """Takes both."""
        return super().__new__(cls, (labels, confidence))

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)

    @property
    def labels(self) -> NDArray[np.uint8]:
        """`(H, W)` uint8 class ids."""
        return self[0]

    @property
    def confidence(self) -> NDArray[np.float32]:
        """`(H, W)` float32: probability of that class, 0..1."""
        return self[1]


class Model:
    """A model that predicts images; from `rsseg_tf.load_model`.

    Attributes:
        name: What it is called in messages.
        kind: `checkpoint`, `keras`, `savedmodel`, `tflite`, `onnx`, `openvino` or `server`.
        spec: Classes, palette, ignored id, bands, statistics and ground sampling distance.
        options: How it predicts unless told otherwise.
        config: The config of a checkpoint; None for all others.
        source: Where it was opened; None for a Keras model and a server.
        predictor: The same for the functions of this package's rooms.
    """

    def __init__(
        self,
        predictor: Predictor,
        name: str,
        *,
        source: ModelSource | None = None,
        config: Config | None = None,
        identity: str = "",
    ) -> None:
        self.predictor = predictor
        self.name = name
        self.source = source
        self.config = config
        self._identity = identity

    @property
    def kind(self) -> str:
        """What it was loaded from."""
        return self.predictor.kind

    @property
    def spec(self) -> DatasetSpec:
        """Classes, palette, ignored id, bands, statistics and ground sampling distance."""
        return self.predictor.spec

    @property
    def options(self) -> Any:
        """The `rsseg_tf.predict.InferenceOptions` that it predicts with unless told otherwise."""
        return self.predictor.options

    @property
    def precision(self) -> str:
        """Type of activations: `fp32`, `fp16` or `bf16`."""
        return "fp32" if self.source is None else self.source.precision

    @property
    def keras_model(self) -> keras.Model:
        """The Keras model of a checkpoint: normalised `(B, H, W, bands)` to `{"main": logits (B, H, W, classes), …}`.

        Raises:
            ConfigError: For a model that is no Keras model, such as an exported file.
        """
        model = getattr(self.predictor.predict, "keras_model", None)
        if model is None:
            raise ConfigError(f"{self.name} ({self.kind}) holds no Keras model; load its checkpoint instead.")
        return model

    def identity(self) -> str:
        """Returns a text that identifies the model: name, kind, checksum of the weights.

        Rasters carry it as a tag, so its form must not change.
        """
        if self._identity:
            return self._identity
        manifest = self.predictor.manifest
        if manifest is not None:
            stored = manifest.artifacts[0].quantization if manifest.artifacts else ""
            kind = self.kind if self.precision == "fp32" else f"{self.kind} {self.precision}"
            return f"{manifest.model} {kind} {stored} {manifest.origin.weights_sha256[:12]}"
        if self.source is None:
            return self.name
        from rsseg_tf.checkpoint import read_weights

        return f"{self.source.path.name} {self.precision} {read_weights(self.source.path)[1][:12]}"

    @overload
    def predict(
        self, images: NDArray[Any], *, confidence: Literal[False] = False, **options: Any
    ) -> NDArray[np.uint8]: ...

    @overload
    def predict(
        self, images: Sequence[NDArray[Any]], *, confidence: Literal[False] = False, **options: Any
    ) -> list[NDArray[np.uint8]]: ...

    @overload
    def predict(self, images: NDArray[Any], *, confidence: Literal[True], **options: Any) -> Prediction: ...

    @overload
    def predict(
        self, images: Sequence[NDArray[Any]], *, confidence: Literal[True], **options: Any
    ) -> list[Prediction]: ...

    def predict(  # type: ignore[misc]  # the forms above leave the options to this one
        self,
        images: NDArray[Any] | Sequence[NDArray[Any]],
        *,
        confidence: bool = False,
        aug_pred: bool = False,
        scales: Sequence[float] = (),
        flip_horizontal: bool = False,
        flip_vertical: bool = False,
        rotate90: bool = False,
        is_slide: bool = False,
        crop_size: tuple[int, int] | None = None,
        stride: tuple[int, int] | None = None,
        blend: Literal["mean", "cosine"] | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Predicts images in memory: the labels that `rsseg-tf predict` writes.

        Args:
            images: `(H, W, bands)` in the units and the type of the files, not normalised; `(H, W)` for one band. Or
                several, of any sizes: a list of these, or an array `(B, H, W, bands)`. Tensors are arrays, too.
            confidence: Whether to return the probabilities, too.
            aug_pred: Average over scales and flips.
            scales: With `aug_pred`: resize factors.
            flip_horizontal: With `aug_pred`: also mirrored left-right.
            flip_vertical: With `aug_pred`: also mirrored top-bottom.
            rotate90: With `aug_pred`: also turned by 90, 180 and 270 degrees.
            is_slide: Predict overlapping windows and average them.
            crop_size: With `is_slide`: size of a window, width first.
            stride: With `is_slide`: step between windows, width first.
            blend: Weights of windows; None takes `mean` with `is_slide`, else `cosine`.
            batch_size: Windows per call of the model.

        Returns:
            `(H, W)` uint8 class ids, or a `Prediction` of these and `(H, W)` float32 probabilities; of several images a
            list of them.

        Raises:
            ConfigError: For options that are wrong or have no effect.
            DataError: When an image does not fit the model.
            NotFiniteError: When a logit is NaN or infinite.
        """
        values = {
            "augmented": aug_pred,
            "scales": scales,
            "flip_horizontal": flip_horizontal,
            "flip_vertical": flip_vertical,
            "rotate90": rotate90,
            "is_slide": is_slide,
            "crop_size": crop_size,
            "stride": stride,
            "blend": blend,
        }
        options = changed_options(self.options, prediction_changes("aug_pred", values))
        if batch_size is not None:
            options = dataclasses.replace(options, batch_size=batch_size)
        one = partial(self._predict_one, options=options, confidence=confidence)
        if is_array(images):
            array = np.asarray(images)
            return one(array) if array.ndim < 4 else [one(image) for image in array]
        if is_path(images) or not isinstance(images, Iterable):
            raise DataError(
                f"an image must be an array (height, width, bands) of numbers; got {_named(images)}. {_FILES}"
            )
        return [one(image) for image in images]

    def _predict_one(self, image: Any, *, options: Any, confidence: bool) -> Any:
        from rsseg_tf.predict import predict_labels
        from rsseg_tf.predict.decoding import largest_class
        from rsseg_tf.predict.engine import predict_parts

        pixels = image_array(image, self.spec)
        if not confidence:
            return predict_labels(self.predictor.predict, pixels, self.spec, options)
        labels = np.empty(pixels.shape[:2], np.uint8)
        probable = np.empty(pixels.shape[:2], np.float32)
        for part in predict_parts(self.predictor.predict, [pixels], self.spec, options):
            logits = part.logits
            part.of(labels)[...] = largest_class(logits)
            # The largest probability of a softmax, without the others: exp(top - top) is 1 above the sum.
            below = (logits - logits.max(axis=-1, keepdims=True)) / np.float32(options.temperature)
            part.of(probable)[...] = 1 / np.exp(below).sum(axis=-1)
        return Prediction(labels, probable)

    def predict_scene(self, path: Any, save_dir: StrPath, **options: Any) -> PredictionResult:
        """Predicts one image or scene of any size, and writes the results.

        Args:
            path: A file, an address, or a variable of a file, as `rsseg_tf.predict` takes it.
            save_dir: Folder for the results.
            **options: As `rsseg_tf.predict` takes them.

        Returns:
            What was written; `.files` by what they hold.

        Raises:
            ConfigError: For options that are wrong or have no effect.
            DataError: When the image cannot be predicted, or a result cannot be written.
        """
        from rsseg_tf.library.predicting import predict

        results = predict(self, path, save_dir, **options)
        if len(results) != 1:
            raise DataError(f"{path} holds {len(results)} images; predict_scene takes one. Use rsseg_tf.predict.")
        results.raise_failed()
        return results[0]

    def __repr__(self) -> str:
        classes = ", ".join(self.spec.classes)
        return f"<Model {self.name} ({self.kind}): {self.spec.bands} bands -> {classes}>"

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: the model, and its classes in their colours."""
        swatches = " ".join(
            f'<span style="border-left: 1em solid rgb{colour}; padding-left: .3em">{html.escape(name)}</span>'
            for name, colour in zip(self.spec.classes, self.spec.palette, strict=True)
        )
        gsd = "" if self.spec.gsd is None else f", {self.spec.gsd:g} m per pixel"
        told = f"{html.escape(self.name)} ({self.kind}): {self.spec.bands} bands{gsd}"
        return f"<div>{told}<br>{swatches}</div>"


def load_model(
    path: StrPath | keras.Model,
    *,
    spec: DatasetSpec | None = None,
    config: StrPath | Mapping[str, Any] | Config | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    engine: Engine | None = None,
    tolerance: float | None = None,
    precision: Precision | None = None,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    gpus: Sequence[int] = (),
    tile: tuple[int, int] | None = None,
    from_logits: bool = True,
    notify: Notify | None = None,
) -> Model:
    """Loads a model to predict with.

    Args:
        path: A checkpoint such as `output/best_model`; what `rsseg_tf.export` wrote: a folder of versions, a version, a
            `.tflite`, `.onnx` or `.xml` file; or a Keras model that takes normalised `(B, H, W, bands)` and gives
            `(B, H, W, classes)`, alone or as the output `main`.
        spec: Of a Keras model: its dataset, from `rsseg_tf.datasets.custom_spec`. Pixels are normalised by it.
        config: Of a checkpoint: another config than its own.
        overrides: Of a checkpoint: changes of its config, such as `["dataset.root=data/mine"]`.
        engine: What runs the model, of all that the folder of an export or a checkpoint offers; `auto` is the fastest
            here within `tolerance`. None takes what `path` names, of a folder its SavedModel.
        tolerance: With `auto`: points of mIoU that the engine may lose, where the export measured it, else how many of
            100 pixels may get another class.
        precision: `fp32`, `fp16` or `bf16`: type of activations, of checkpoints and OpenVINO models; None for `fp32`.
        device: `auto` takes a GPU if there is one, else the CPU.
        gpus: Number of the GPU.
        tile: Of a Keras model: the only size of its input, height first, if its shape does not tell.
        from_logits: Of a Keras model: whether it gives logits; False for probabilities.
        notify: Called with a line about the engine that was chosen.

    Raises:
        ConfigError: For options that are wrong or have no effect.
        WeightsError: When there is no model, or a checkpoint does not fit its config.
        ExportError: When an exported model is damaged, or the extra that runs it is not installed.
    """
    if not is_path(path):
        given = {"config": config, "overrides": overrides, "engine": engine, "tolerance": tolerance}
        _refuse_for_keras(given | {"precision": precision, "device": device, "gpus": gpus})
        return _own_model(path, spec, tile, from_logits=from_logits)
    if spec is not None or tile is not None or not from_logits:
        raise ConfigError(f"spec, tile and from_logits describe a Keras model; {path} has them itself. Leave them out.")
    source = locate_engine(path, engine, tolerance, precision)
    resolved = config_of(source, config, overrides)
    from rsseg_tf.library.devices import choose_device

    choose_device(device, gpus)
    source = choose_engine(source, resolved, listener=listener_of(notify))
    return opened(source, resolved)


def load_remote_model(
    server: str,
    model_name: str,
    *,
    in_flight: int = 4,
    timeout: float | None = None,
    patience: float | None = None,
    manifest: StrPath | None = None,
    notify: Notify | None = None,
) -> Model:
    """Opens a model on a server, which then does the work.

    Args:
        server: `HOST:PORT` for gRPC, `http://HOST:PORT` for REST.
        model_name: What the model is called there, such as the export's folder.
        in_flight: Most requests in flight at the same time.
        timeout: Seconds to wait for an answer before the request is sent again; None for 60.
        patience: Seconds after which to give up a server that is busy or unreachable; None for 120.
        manifest: `manifest.json` of the export, for servers that do not offer it.
        notify: Called with a line when the server does not answer at once.

    Raises:
        ConfigError: When the address or a number is wrong.
        ServingError: When the server does not answer, or has no such model.
    """
    return Served(server, model_name, in_flight, timeout, patience, manifest).open(listener_of(notify))


@dataclass(frozen=True)
class Served:
    """A model on a server that is not asked yet; attributes as the arguments of `load_remote_model`."""

    server: str
    model_name: str
    in_flight: int = 4
    timeout: float | None = None
    patience: float | None = None
    manifest: StrPath | None = None

    def open(self, listener: Listener) -> Model:
        """Asks the server for the model; see `load_remote_model`."""
        from rsseg_tf.extras import require

        require("tensorflow_serving", "serving")
        load_tensorflow()
        from rsseg_tf.serving.client import Retry, remote_predictor

        usual = Retry()
        timeout = usual.timeout_s if self.timeout is None else self.timeout
        patience = usual.patience_s if self.patience is None else self.patience
        predictor = remote_predictor(
            self.server,
            self.model_name,
            manifest=self.manifest,
            in_flight=self.in_flight,
            retry=Retry(timeout, patience),
            notify=listener.note,
        )
        return Model(predictor, f"{self.model_name} on {self.server}")


def opened(source: ModelSource, config: Config | None) -> Model:
    """Opens a model whose engine is known, on the chosen device."""
    name = str(source.path)
    own = config if source.kind == "checkpoint" else None
    return Model(open_source(source, own), name, source=source, config=own)


def is_path(model: AnyModel) -> bool:
    """Whether a model is named by its path."""
    return isinstance(model, str | os.PathLike)


def loading_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of a function's arguments that tell how to load a model."""
    names = ("spec", "engine", "tolerance", "precision", "device", "gpus")
    return {name: given[name] for name in names}


def as_model(model: AnyModel, listener: Listener, **options: Any) -> Model:
    """Returns the model that a function was given, with `options` of `load_model` for what is no `Model` yet.

    Raises:
        ConfigError: When options of loading are given for a model that was loaded.
    """
    if isinstance(model, Served):
        model = model.open(listener)
    if not isinstance(model, Model):
        return load_model(model, **options)
    if given := [name for name, value in options.items() if not _is_default(name, value)]:
        raise ConfigError(f"{', '.join(given)} tell how to load a model; {model.name} was loaded. Leave them out.")
    return model


def _is_default(name: str, value: Any) -> bool:
    if name == "from_logits":
        return value is True
    return value is None or value == "auto" or (hasattr(value, "__len__") and len(value) == 0)


def _refuse_for_keras(given: Mapping[str, Any]) -> None:
    """Raises ConfigError for options without effect on a Keras model."""
    if names := [name for name, value in given.items() if not _is_default(name, value)]:
        raise ConfigError(
            f"{', '.join(names)} tell how a path is opened, and a Keras model is open; it runs where TensorFlow places "
            "it. Leave them out."
        )


def _own_model(model: Any, spec: DatasetSpec | None, tile: tuple[int, int] | None, *, from_logits: bool) -> Model:
    """Returns a user's own Keras model."""
    load_tensorflow()
    import keras

    from rsseg_tf.predictors.models import own_predictor

    if not isinstance(model, keras.Model):
        raise ConfigError(f"a keras.Model, or the path of a model, is needed; got {type(model).__name__}.")
    if spec is None:
        raise ConfigError(
            "A Keras model does not know its classes, bands and normalisation: pass spec, such as "
            "rsseg_tf.datasets.custom_spec('mine', ['field', 'road'])."
        )
    return Model(
        own_predictor(model, spec, tile=None if tile is None else size_of("tile", tile), from_logits=from_logits),
        str(getattr(model, "name", "model")),
    )


def image_array(image: Any, spec: DatasetSpec) -> NDArray[Any]:
    """Returns an image as `(H, W, bands)`.

    Args:
        image: A NumPy array, or what NumPy makes one of: a tensor, a picture of Pillow.
        spec: Of the model that it is for.

    Raises:
        DataError: For what is no array of numbers of two or three axes, has the bands first, or holds other values than
            the model was trained on.
    """
    if not is_array(image):
        remedy = _FILES if is_path(image) else "Make an array of it: numpy.asarray(image)."
        raise DataError(f"an image must be an array (height, width, bands) of numbers; got {_named(image)}. {remedy}")
    pixels = np.asarray(image)
    if pixels.dtype.kind not in "uif" or pixels.ndim not in (2, 3):
        raise DataError(
            f"an image must be an array (height, width, bands) of numbers; got {pixels.dtype} of shape "
            f"{pixels.shape}. {_FILES}"
        )
    if pixels.ndim == 3 and pixels.shape[-1] != spec.bands == pixels.shape[0]:
        raise DataError(
            f"an image must be (height, width, {spec.bands}), the bands last; got shape {pixels.shape}. Move the axis: "
            "numpy.moveaxis(image, 0, -1)."
        )
    if values := _misfit(pixels, spec.max_value):
        raise DataError(
            f"the model for dataset '{spec.name}' was trained on values 0..{spec.max_value:g}; the image holds "
            f"{values}. Give the pixels as they are in the files, not normalised, or multiply them into that range."
        )
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


def is_array(value: Any) -> bool:
    """Whether NumPy makes an array of a value as it is: an array, a tensor, a picture of Pillow."""
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


def _named(value: Any) -> str:
    """Returns how a message calls what is no image."""
    return f"the path {os.fspath(value)!s}" if is_path(value) else f"{type(value).__name__}"


def _misfit(pixels: NDArray[Any], max_value: float) -> str:
    """Returns what contradicts the model's largest value, as for files; an empty text for nothing.

    Arrays of types that are not those of files, such as int64, come from somebody's arithmetic: their values decide.
    """
    if pixels.dtype in (np.uint8, np.uint16):
        return misfit(pixels.dtype, max_value, 0, 0)
    steps = [max(1, side // 64) for side in pixels.shape[:2]]
    sample = pixels[:: steps[0], :: steps[1]].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    largest, middle = (float(sample.max()), float(np.median(sample))) if sample.size else (0.0, 0.0)
    found = misfit(sample.dtype, max_value, largest, middle)
    return found.replace(str(sample.dtype), str(pixels.dtype))
