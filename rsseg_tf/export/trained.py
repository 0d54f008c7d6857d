"""A checkpoint as it is exported: the main head alone, with normalisation inside and a manifest."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import rsseg_tf
from rsseg_tf.build import as_segmentor, build_model
from rsseg_tf.checkpoint import config_file, load_weights, read_state, read_temperature, read_weights
from rsseg_tf.config import Config, dump_config, load_config
from rsseg_tf.config.zoo import C2FNet
from rsseg_tf.data.augment import normalise
from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.errors import ExportError
from rsseg_tf.export.tiles import pixel_dtype
from rsseg_tf.files import StrPath
from rsseg_tf.layers import converting
from rsseg_tf.manifest import PIXELS, Artifact, Classes, Format, Inference, Manifest, Origin, Tensor
from rsseg_tf.predict import InferenceOptions, Predict
from rsseg_tf.predictors import keras_predictor
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust
from rsseg_tf.rasters.windows import Size

__all__ = ["TrainedModel", "WeightsHolder", "load_trained", "own_trained"]


class WeightsHolder(tf.Module):
    """Holds the variables of a model, bare, for a SavedModel or a converter to find.

    A Keras model as an attribute would be saved with a second set of variables that nothing restores: Python would
    load it well, TensorFlow Serving not.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.weights = [variable.value for variable in model.weights]


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, ready for export.

    Attributes:
        model: Normalised `(B, H, W, bands)` float32 to `{"main": logits (B, H, W, classes)}`, without other heads.
        config: The resolved config; None for a model that was made without one.
        manifest: Without artifacts.
    """

    model: keras.Model
    config: Config | None
    manifest: Manifest

    @property
    def spec(self) -> DatasetSpec:
        """Classes, bands and statistics."""
        return self.manifest.spec if self.config is None else self.config.dataset.spec

    @property
    def trust(self) -> Trust:
        """How large images may be, and what a VRT may name."""
        return TRUSTING_NOBODY if self.config is None else self.config.data.trust

    @property
    def options(self) -> InferenceOptions:
        """How it predicts unless told otherwise."""
        if self.config is not None:
            return InferenceOptions.of(self.config)
        return InferenceOptions.spelled(self.manifest.inference.model_dump(), tile=self.manifest.crop_size)

    @property
    def dtype(self) -> str:
        """What artifacts take, see `pixel_dtype`."""
        return pixel_dtype(self.spec)

    @cached_property
    def predict(self) -> Predict:
        """The Keras model itself, for comparisons; traced once."""
        return keras_predictor(self.model, self.spec, name=f"the checkpoint {self.manifest.origin.checkpoint}")

    def convertible(self, tile: Size | None, dtype: str, *, eight_bits: bool = False) -> Any:
        """Returns the class map and logits of one image as a concrete function for TensorFlow Lite's converter.

        Its graph need not run in TensorFlow. `eight_bits`: see `rsseg_tf.layers.converting`.
        """

        def outputs(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            logits = self.logits(pixels)
            return {"class_map": tf.cast(tf.argmax(logits, -1, output_type=tf.int32), tf.uint8), "logits": logits}

        signature = self.input_spec(tile, batch=1, dtype=dtype)
        with converting(eight_bits=eight_bits):
            return tf.function(outputs, input_signature=[signature]).get_concrete_function()

    def logits(self, pixels: tf.Tensor) -> tf.Tensor:
        """`(B, H, W, bands)` pixels to `(B, H, W, classes)` float32 logits, in a graph."""
        return self.model(normalise(pixels, self.spec), training=False)["main"]

    def outputs(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns class map, confidence and logits of `(B, H, W, bands)` pixels, in a graph."""
        logits = self.logits(pixels)
        class_map, confidence = self.class_and_confidence(logits)
        return {"class_map": class_map, "confidence": confidence, "logits": tf.identity(logits)}

    def class_and_confidence(self, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the class of the largest logit, (B, H, W) uint8, and its probability, (B, H, W) float32."""
        class_map = tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32), tf.uint8)
        logits = self.tempered(logits)
        # The largest probability of a softmax, without the others: exp(top - top) is 1 above the sum.
        top = tf.reduce_max(logits, axis=-1, keepdims=True)
        confidence = 1.0 / tf.reduce_sum(tf.exp(logits - top), axis=-1)
        return class_map, confidence

    def tempered(self, logits: tf.Tensor) -> tf.Tensor:
        """Divides logits by the model's temperature, in a graph; their softmax are its probabilities."""
        temperature = self.manifest.inference.temperature
        return logits if temperature == 1 else logits / temperature

    def input_spec(self, tile: Size | None = None, *, batch: int | None = None, dtype: str = "") -> tf.TypeSpec:
        """Returns the signature of `pixels`; sizes that are not given are free."""
        height, width = tile or (None, None)
        return tf.TensorSpec((batch, height, width, self.spec.bands), dtype or self.dtype, name=PIXELS)

    def describe(
        self,
        kind: Format,
        path: str,
        outputs: Sequence[str],
        tile: Size | None = None,
        *,
        batch: int | None = None,
    ) -> Artifact:
        """Returns the manifest's entry of an artifact.

        Args:
            kind: Its format.
            path: Its file, relative to the version's folder.
            outputs: Some of `class_map`, `confidence`, `probabilities` and `logits`.
            tile: (height, width) that it takes; None for any.
            batch: Images that it takes at once; None for any number.
        """
        height, width = tile or (None, None)
        classes = (self.spec.num_classes,)
        known = {
            "class_map": ("uint8", (), "class ids"),
            "confidence": ("float32", (), "probability of the class in class_map, 0..1"),
            "probabilities": ("float32", classes, "probability of each class, 0..1"),
            "logits": ("float32", classes, "logit of each class"),
        }
        tensors = []
        for name in outputs:
            dtype, channels, meaning = known[name]
            shape = (batch, height, width, *channels)
            tensors.append(Tensor(name=name, dtype=dtype, shape=shape, meaning=meaning))
        pixels = Tensor(
            name=PIXELS,
            dtype=self.dtype,
            shape=(batch, height, width, self.spec.bands),
            meaning=f"pixels as they are in the file, 0..{self.spec.max_value:g}; normalised inside",
        )
        return Artifact(format=kind, path=path, tile=tile, input=pixels, outputs=tuple(tensors))

    def manifest_of(self, artifact: Artifact) -> str:
        """Returns the manifest that goes into an artifact, as JSON."""
        inside = artifact.model_copy(update={"sha256": {}})  # a file cannot hold its own checksum
        return self.manifest.model_copy(update={"artifacts": (inside,)}).to_json()

    def refuse_unless_static(self, what: str) -> None:
        """Raises ExportError for a model whose shapes follow from the pixels, which only TensorFlow runs."""
        if self.config is not None and isinstance(self.config.model, C2FNet):
            raise ExportError(
                f"{what} cannot hold c2fnet: it cuts out as many windows as the image shows small objects, and shapes "
                "that follow from pixels run in TensorFlow alone. Export it with --format savedmodel; its coarse model "
                "goes into every format."
            )


def load_trained(checkpoint: StrPath, config: Config | None = None) -> TrainedModel:
    """Loads a checkpoint for export.

    Args:
        checkpoint: Folder such as `output/best_model`.
        config: Instead of the one that lies in it.

    Raises:
        WeightsError: When it is no checkpoint, damaged, or does not fit `config`.
    """
    checkpoint = Path(checkpoint)
    config = config or load_config(config_file(checkpoint))
    model = build_model(config)
    load_weights(model, checkpoint)
    weights_sha256 = read_weights(checkpoint)[1]
    # Auxiliary heads serve training alone.
    main = keras.Model(model.inputs, {"main": model.output["main"]}, name=model.name)
    section = config.model
    manifest = Manifest(
        model=section.label,
        dataset=Classes.of(config.dataset.spec),
        crop_size=config.augment.crop,
        size_multiple=int(getattr(section.backbone, "output_stride", 32)),
        inference=Inference(**config.eval.inference(), temperature=read_temperature(checkpoint)),
        origin=Origin(
            # The whole path would tell strangers about the machine, and the last part alone is often best_model.
            checkpoint="/".join(checkpoint.absolute().parts[-2:]),
            step=read_state(checkpoint).step,
            weights_sha256=weights_sha256,
            config_sha256=hashlib.sha256(dump_config(config).encode()).hexdigest(),
            exported=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions=_versions(),
        ),
    )
    return TrainedModel(main, config, manifest)


def _versions() -> dict[str, str]:
    return {"rsseg_tf": rsseg_tf.__version__, "keras": keras.__version__, "tensorflow": tf.__version__}


def own_trained(
    model: keras.Model,
    spec: DatasetSpec,
    *,
    crop_size: Size,
    size_multiple: int = 32,
    temperature: float = 1.0,
    from_logits: bool = True,
) -> TrainedModel:
    """Makes a user's own Keras model ready for export.

    Args:
        model: Normalised `(B, H, W, bands)` to `(B, H, W, classes)`, alone or as the output `main`.
        spec: Its classes, and how pixels are normalised.
        crop_size: Size of images that it was trained on.
        size_multiple: No layer has to round the size of an image whose height and width are multiples of this.
        temperature: What logits are divided by before they become probabilities.
        from_logits: Whether it gives logits; False for probabilities.

    Raises:
        ConfigError: When the model does not fit the spec.
    """
    segmentor = as_segmentor(model, spec, from_logits=from_logits)
    main = keras.Model(segmentor.inputs[0], {"main": segmentor.output["main"]}, name=model.name)
    digest = hashlib.sha256()
    for variable in main.weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable.value)).tobytes())
    manifest = Manifest(
        model=model.name,
        dataset=Classes.of(spec),
        crop_size=crop_size,
        size_multiple=size_multiple,
        inference=Inference(temperature=temperature),
        origin=Origin(
            checkpoint=f"the Keras model {model.name}",
            step=0,
            weights_sha256=digest.hexdigest(),
            config_sha256="",
            exported=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions=_versions(),
        ),
    )
    return TrainedModel(main, None, manifest)
