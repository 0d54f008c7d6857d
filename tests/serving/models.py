"""SavedModels of a few weights with the signatures that `rsseg-tf export` writes, made in a moment."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

from rsseg_tf.datasets import custom_spec
from rsseg_tf.export.warmup import write_warmup
from rsseg_tf.manifest import Artifact, Classes, Inference, Manifest, Origin, Tensor

SPEC = custom_spec("tiny", ["dark", "grey", "bright"])
CLASSES = SPEC.num_classes


def manifest() -> Manifest:
    pixels = Tensor(name="pixels", dtype="uint8", shape=(None, None, None, 3), meaning="pixels")
    return Manifest(
        model="tiny",
        dataset=Classes.of(SPEC),
        crop_size=(32, 32),
        size_multiple=1,
        inference=Inference(),
        origin=Origin(checkpoint="tiny", step=1, weights_sha256="", config_sha256="", exported="", versions={}),
        artifacts=(Artifact(format="savedmodel", path=".", input=pixels, outputs=()),),
    )


class TinyModel(tf.Module):
    """Logits are a convolution, so that windows see their neighbours and sizes matter."""

    def __init__(self, *, offset: float = 0.0) -> None:
        super().__init__()
        kernel = np.random.default_rng(5).normal(size=(3, 3, 3, CLASSES)) / 255
        self.kernel = tf.Variable(kernel.astype(np.float32))
        self.bias = tf.Variable(np.full(CLASSES, offset, np.float32))

    def logits(self, pixels: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d(tf.cast(pixels, tf.float32), self.kernel, 1, "SAME") + self.bias


def write_model(folder: Path, *, offset: float = 0.0, warm_up: bool = True, with_manifest: bool = True) -> Path:
    """Writes one version; `offset` is added to all logits, to tell versions apart."""
    model = TinyModel(offset=offset)
    pixels = [tf.TensorSpec((None, None, None, 3), tf.uint8, name="pixels")]

    @tf.function(input_signature=pixels)
    def serving_default(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = tf.nn.softmax(model.logits(pixels))
        classes = tf.cast(tf.argmax(probabilities, -1), tf.uint8)
        return {"class_map": classes, "confidence": tf.reduce_max(probabilities, -1)}

    @tf.function(input_signature=pixels)
    def logits(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": model.logits(pixels)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")])
    def predict_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        def decode(data: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(tf.io.decode_image(data, 3, expand_animations=False), (None, None, 3))

        images = tf.map_fn(decode, image_bytes, fn_output_signature=tf.TensorSpec((None, None, 3), tf.uint8))
        classes = tf.cast(tf.argmax(model.logits(images), -1), tf.uint8)
        return {
            "class_map_png_bytes": tf.map_fn(tf.io.encode_png, classes[..., tf.newaxis], fn_output_signature=tf.string)
        }

    signatures = {"serving_default": serving_default, "logits": logits, "predict_bytes": predict_bytes}
    if with_manifest:
        text = manifest().to_json()

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="query")])
        def describe(query: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"manifest_json": tf.fill(tf.shape(query), text)}

        signatures["manifest"] = describe
    # Beside its place first: a server must never see half of it.
    hidden = folder.parent / f".{folder.name}"
    tf.saved_model.save(model, str(hidden), signatures=signatures)
    if warm_up:
        write_warmup(hidden / "assets.extra", "pixels", np.zeros((1, 8, 8, 3), np.uint8), ["serving_default", "logits"])
    hidden.rename(folder)
    return folder


def break_model(folder: Path) -> None:
    """Takes the weights of a version away."""
    shutil.rmtree(folder / "variables")


def pixels(rows: int, height: int = 12, width: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, height, width, 3), np.uint8)


def reference(pixels: np.ndarray, *, offset: float = 0.0) -> np.ndarray:
    """The logits that a server must give."""
    return TinyModel(offset=offset).logits(tf.constant(pixels)).numpy()
