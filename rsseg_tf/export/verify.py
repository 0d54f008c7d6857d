"""Compares every artifact with the Keras model: the same tiles through all of them."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.errors import ExportError
from rsseg_tf.export.tiles import Reference, read_reference, read_tiles
from rsseg_tf.export.timing import time_runs
from rsseg_tf.export.trained import load_trained
from rsseg_tf.files import StrPath
from rsseg_tf.manifest import Manifest, Quantization, read_manifest, require_files
from rsseg_tf.predict import Predict, require_finite
from rsseg_tf.predictors import Predictor, open_predictor
from rsseg_tf.predictors.opening import newest_version
from rsseg_tf.rasters.windows import Size

__all__ = ["TOLERANCES", "Comparison", "Tolerance", "compare", "verify", "version_folder"]

_REPEATS = 3  # of each tile, for the latency


class Tolerance(NamedTuple):
    """How far a model may be from the Keras model.

    Attributes:
        probability: Largest mean difference of probabilities over all pixels and classes.
        agreement: Smallest share of pixels with the same class.
    """

    probability: float
    agreement: float


TOLERANCES: dict[Quantization, Tolerance] = {
    "float32": Tolerance(1e-4, 0.9995),
    "float16": Tolerance(1e-2, 0.99),
    "dynamic": Tolerance(3e-2, 0.97),
    "int16x8": Tolerance(3e-2, 0.97),
    "int8": Tolerance(6e-2, 0.93),
}
"""Rounding of weights moves probabilities a little everywhere, and classes where two are all but equally likely."""


@dataclass(frozen=True)
class Comparison:
    """A model beside the Keras model.

    Attributes:
        name: Name of the artifact, or of another model.
        size_bytes: Size of its files; 0 for a model elsewhere.
        made_up_tiles: Made-up tiles that were compared.
        real_tiles: Real tiles that were compared.
        max_logit_difference: Largest of all pixels and classes.
        max_probability_difference: The same of probabilities.
        mean_probability_difference: Over all pixels and classes.
        agreement: Share of pixels with the same class.
        latency_ms: Median time of one tile.
        tolerance: Bounds that it must keep.
    """

    name: str
    size_bytes: int
    made_up_tiles: int
    real_tiles: int
    max_logit_difference: float
    max_probability_difference: float
    mean_probability_difference: float
    agreement: float
    latency_ms: float
    tolerance: Tolerance

    @property
    def passed(self) -> bool:
        """Whether it keeps its tolerance."""
        near = self.mean_probability_difference <= self.tolerance.probability
        return near and self.agreement >= self.tolerance.agreement

    def to_json(self) -> dict[str, Any]:
        """Returns all fields, and whether it passed."""
        return {**dataclasses.asdict(self), "tolerance": self.tolerance._asdict(), "passed": self.passed}


def verify(
    folder: StrPath,
    *,
    images: Sequence[StrPath] = (),
    checkpoint: StrPath | None = None,
    others: Mapping[str, Predict | Predictor] | None = None,
    threads: int | None = None,
) -> list[Comparison]:
    """Compares all artifacts of a version with the Keras model.

    Without a checkpoint the Keras model's answers are those that were stored at the export. Files whose ranges were
    calibrated are compared on the real tiles alone, where there are any.

    Args:
        folder: A version, or the folder of all versions, of which the newest is taken.
        images: Real images to compare on too, the middle of each; these need the checkpoint.
        checkpoint: The checkpoint that was exported; it is then run again, and compared with the stored answers too.
        others: More models by name that should answer the same, such as one behind a server; held to the tolerance of
            `float32`. Of a predictor with a manifest, the weights must be those of the version.
        threads: Threads for TFLite, ONNX and OpenVINO.

    Raises:
        ExportError: When files are missing or were changed since the export, or `checkpoint` or one of `others` has
            other weights.
        DataError: When an image cannot be read or does not fit.
    """
    folder = Path(folder)
    checkpoint = None if checkpoint is None else Path(checkpoint)
    folder = version_folder(folder)
    manifest = read_manifest(folder)
    reference = read_reference(folder)
    models: dict[str, tuple[Predict, int, Quantization]] = {}
    if checkpoint is not None:
        trained = load_trained(checkpoint)
        origin = manifest.origin
        if trained.manifest.origin.weights_sha256 != origin.weights_sha256:
            raise ExportError(
                f"{folder} was exported from other weights than those of {checkpoint}: from {origin.checkpoint} at "
                f"step {origin.step}. Name that checkpoint."
            )
        models["checkpoint (Keras)"] = (trained.predict, 0, "float32")
        tiles = read_tiles(
            [Path(image) for image in images],
            manifest.spec,
            Size(*reference.pixels.shape[1:3]),
            trained.trust,
        )
        reference = reference.with_real(trained.predict, tiles)
    elif images:
        raise ExportError("Real images are compared with the Keras model; name the exported checkpoint: --checkpoint.")
    for artifact in manifest.artifacts:
        require_files(folder, artifact)
        predictor = open_predictor(folder / artifact.path, threads=threads)
        models[artifact.name] = (
            predictor.predict,
            sum((folder / name).stat().st_size for name in artifact.sha256),
            artifact.quantization,
        )
    for name, other in (others or {}).items():
        models[name] = _predict_of(name, other, folder, manifest), 0, "float32"
    return [compare(name, predict, reference, size, kind) for name, (predict, size, kind) in models.items()]


def compare(
    name: str, predict: Predict, reference: Reference, size_bytes: int = 0, quantization: Quantization = "float32"
) -> Comparison:
    """Runs a model on the tiles of a reference that suit it, one by one, and measures how it differs.

    Raises:
        ExportError: When its answer has another shape.
    """
    reference = reference.suited_to(quantization)
    predict(reference.pixels[:1])  # the first call is slower
    answers, milliseconds = [], []
    for tile in reference.pixels:
        answer, times = time_runs(predict, tile[np.newaxis], _REPEATS)
        answers.append(require_finite(answer, tile[np.newaxis], name))
        milliseconds += times
    logits = np.concatenate(answers)
    if logits.shape != reference.logits.shape:
        raise ExportError(f"{name} answers {logits.shape}; the Keras model answers {reference.logits.shape}.")
    difference = np.abs(_softmax(logits) - _softmax(reference.logits))
    return Comparison(
        name=name,
        size_bytes=size_bytes,
        made_up_tiles=reference.made_up,
        real_tiles=reference.real,
        max_logit_difference=float(np.abs(logits - reference.logits).max()),
        max_probability_difference=float(difference.max()),
        mean_probability_difference=float(difference.mean()),
        agreement=float((logits.argmax(-1) == reference.logits.argmax(-1)).mean()),
        latency_ms=statistics.median(milliseconds),
        tolerance=TOLERANCES[quantization],
    )


def _predict_of(name: str, other: Predict | Predictor, folder: Path, manifest: Manifest) -> Predict:
    """Returns the predict callable of another model, whose manifest, if there is one, must be of the same weights."""
    if not isinstance(other, Predictor):
        return other
    if other.manifest is not None and other.manifest.origin.weights_sha256 != manifest.origin.weights_sha256:
        origin = other.manifest.origin
        raise ExportError(
            f"{name} has other weights than {folder}: those of {origin.checkpoint} at step {origin.step}, exported "
            f"{origin.exported}. Serve this version, or name the folder of the one that is served."
        )
    return other.predict


def version_folder(folder: StrPath) -> Path:
    """Returns the newest version in a folder of versions, or the folder itself."""
    folder = Path(folder)
    return newest_version(folder) or folder


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    # Without the largest logit the powers would overflow float32 from 89 on.
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return result
