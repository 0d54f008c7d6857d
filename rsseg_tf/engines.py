"""Engines that can run a model on this machine, and the choice of the fastest that gives the same classes."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsseg_tf.config import Config
from rsseg_tf.errors import ExportError, NotFiniteError
from rsseg_tf.export.publish import ACCURACY_FILE
from rsseg_tf.export.tiles import Reference, made_up_reference, random_tiles, read_reference, reference_size
from rsseg_tf.export.timing import time_runs
from rsseg_tf.extras import install_command
from rsseg_tf.files import StrPath, read_json
from rsseg_tf.manifest import MANIFEST_FILE, Artifact, Format, read_manifest
from rsseg_tf.predict import Predict, require_finite
from rsseg_tf.predictors import find_model, open_predictor
from rsseg_tf.predictors.opening import newest_version
from rsseg_tf.rasters.windows import Size

__all__ = [
    "DEFAULT_TOLERANCE",
    "ENGINES",
    "Candidate",
    "Choice",
    "Measurement",
    "available_threads",
    "choose",
    "find_candidates",
    "named_candidate",
]

ENGINES = ("keras", "savedmodel", "tflite", "onnx", "openvino")

DEFAULT_TOLERANCE = 0.05
"""Points; what rounding to float32 does on pixels where two classes are all but equally likely stays below it."""

_EXTRAS = {"tflite": "ai_edge_litert", "onnx": "onnxruntime", "openvino": "openvino"}  # extra: the module it brings
_RUN_AS: dict[Format, Format] = {"web": "tflite", "deepness": "onnx"}  # files for other programs, by what runs them
_LARGEST_SIDE = 512  # pixels that are timed: time grows with the area, and large images would take minutes
_RUNS, _SECONDS = 3, 1.5  # of each candidate
_DEFAULT_CROP = Size(512, 512)


@dataclass(frozen=True)
class Candidate:
    """One way to run a model.

    Attributes:
        name: For people, such as `tflite dynamic` or `keras bf16`.
        engine: One of `ENGINES`.
        path: What `rsseg_tf.predictors.open_predictor` opens.
        precision: The precision that it is opened with.
        artifact: The manifest's entry; None for a checkpoint, or an export without a manifest beside it.
    """

    name: str
    engine: str
    path: Path
    precision: str = "fp32"
    artifact: Artifact | None = None

    @property
    def obstacle(self) -> str:
        """Why it is not worth a try on this machine, in a clause; empty otherwise."""
        module = _EXTRAS.get(self.engine)
        if module and importlib.util.find_spec(module) is None:
            return f"not installed ({install_command(self.engine)})"
        if self.artifact and self.artifact.quantization == "int16x8":
            return "has no fast kernels on a CPU"
        return ""


@dataclass(frozen=True)
class Measurement:
    """Speed and exactness of a candidate.

    Attributes:
        ms: Time of an image, the fastest of a few runs; 0 where it cannot run.
        lost: Points in 0..100: of mIoU where the export measured it, else the share of pixels with another class than
            the Keras model gives.
        of_miou: Whether `lost` is of mIoU.
        obstacle: Why it cannot run, or is not worth a try, in a clause; empty otherwise.
    """

    ms: float = 0.0
    lost: float = 0.0
    of_miou: bool = False
    obstacle: str = ""

    def objection(self, tolerance: float) -> str:
        """Returns in a clause why it must not be chosen; empty where it may be."""
        if self.obstacle or self.lost <= tolerance:
            return self.obstacle
        what = f"loses {self.lost:.3g} points of mIoU" if self.of_miou else f"differs on {self.lost:.3g} % of pixels"
        return f"{_time(self.ms)}, but {what} (--tolerance {tolerance:g})"


@dataclass(frozen=True)
class Choice:
    """The engine that was chosen, with all candidates.

    Attributes:
        candidate: The fastest within the tolerance.
        measured: All candidates, by name.
        tolerance: Points that it may lose.
        size: Size that was timed.
    """

    candidate: Candidate
    measured: Mapping[str, Measurement]
    tolerance: float
    size: Size

    def __str__(self) -> str:
        """Returns a line that names the engine and the reason for it."""
        own = self.measured[self.candidate.name]
        lost = f"{own.lost:.3g} points of mIoU lost" if own.of_miou else f"{own.lost:.3g} % of pixels differ"
        text = f"Engine: {self.candidate.name}, {_time(own.ms)} per {self.size} image, {lost}."
        others = [(name, one) for name, one in self.measured.items() if name != self.candidate.name]
        if not others:
            return text
        # The fastest first; those that do not run at the end.
        others.sort(key=lambda item: (bool(item[1].obstacle), item[1].ms))
        lines = (f"{name} {one.objection(self.tolerance) or _time(one.ms)}" for name, one in others)
        return f"{text} Others: {'; '.join(lines)}."


def find_candidates(path: StrPath) -> tuple[Path, tuple[Candidate, ...]]:
    """Returns what may run the model that a path means.

    A checkpoint runs in Keras, also with activations of bfloat16, as OpenVINO models do. A page is run by its TFLite
    file where no other is there, and so is a file for Deepness by ONNX Runtime.

    Args:
        path: As `rsseg_tf.predictors.open_predictor`.

    Returns:
        The checkpoint or version folder, or the file; and the candidates, float32 before bfloat16.

    Raises:
        WeightsError: When `path` is neither a checkpoint nor anything exported.
        ExportError: When it is damaged.
    """
    path = Path(path)
    folder = newest_version(path) or path
    if not (folder / MANIFEST_FILE).is_file():
        kind, place = find_model(path)
        engine = "keras" if kind == "checkpoint" else kind
        return place, _with_bfloat16(Candidate(engine, engine, place))
    artifacts = read_manifest(folder).artifacts
    formats = {artifact.format for artifact in artifacts}
    # The files of other programs stand in for those that serve nothing else, where these are missing.
    spare = {special for special, plain in _RUN_AS.items() if plain in formats}
    found: list[Candidate] = []
    for artifact in artifacts:
        if artifact.format in spare:
            continue
        engine = _RUN_AS.get(artifact.format, artifact.format)
        found += _with_bfloat16(Candidate(artifact.name, engine, folder / artifact.path, artifact=artifact))
    return folder, tuple(found)


def named_candidate(path: StrPath, engine: str) -> Candidate:
    """Returns what runs a model by an engine that the user names.

    Raises:
        WeightsError: As `find_candidates`.
        ExportError: When there is nothing for this engine, or more than one file.
    """
    path = Path(path)
    place, candidates = find_candidates(path)
    own = [one for one in candidates if one.engine == engine and one.precision == "fp32"]
    if len(own) == 1:
        return own[0]
    if own:
        files = ", ".join(str(one.path) for one in own)
        raise ExportError(f"{place} holds {len(own)} files for {engine}: {files}. Name one of them, or --engine auto.")
    offered = ", ".join(dict.fromkeys(one.engine for one in candidates)) or "nothing"
    remedy = (
        "Name a checkpoint for keras." if engine == "keras" else f"Export it for {engine} too, or name another engine."
    )
    raise ExportError(f"{place} holds nothing that {engine} runs; it offers {offered}. {remedy}")


def available_threads() -> int:
    """Returns how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose(path: StrPath, *, config: Config | None = None, size: Size, tolerance: float = DEFAULT_TOLERANCE) -> Choice:
    """Chooses the fastest engine for a model on this machine.

    All candidates are timed on an image of the size, at most 512x512 or the largest tile among them, and compared with
    the Keras model: by the mIoU that the export measured, or else on the tiles whose answers it stored. Of a
    checkpoint, bfloat16 is compared with float32.

    Args:
        path: A checkpoint, an exported version, or a folder of versions.
        config: Config of a checkpoint.
        size: Size of images that will be predicted.
        tolerance: Points in 0..100 that the engine may lose.

    Raises:
        WeightsError: When `path` is neither a checkpoint nor anything exported, or does not fit `config`.
        ExportError: When it is one file, or nothing that it holds can be run within the tolerance.
    """
    path = Path(path)
    place, candidates = find_candidates(path)
    if place.is_file():
        raise ExportError(f"{place} is one file, and --engine auto chooses among several. Name the folder it was in.")
    if not candidates:
        raise ExportError(f"{place} holds no exported model; its manifest names none. Export the model again.")
    tiles = [one.artifact.tile for one in candidates if one.artifact and one.artifact.tile]
    # An image larger than a file's tile would be cut into several, and all engines must be timed on one image.
    limits = [max(_LARGEST_SIDE, *sides) for sides in zip((0, 0), *tiles, strict=True)]
    size = Size(min(size.height, limits[0]), min(size.width, limits[1]))
    measured = _measure(place, candidates, config, size)
    usable = [one for one in candidates if not measured[one.name].objection(tolerance)]
    if not usable:
        why = "; ".join(f"{name} {one.objection(tolerance)}" for name, one in measured.items())
        raise ExportError(
            f"Nothing in {place} runs here within the tolerance of {tolerance:g} points: {why}. Raise --tolerance, "
            "install what is missing, or name a checkpoint."
        )
    return Choice(min(usable, key=lambda one: measured[one.name].ms), measured, tolerance, size)


def _measure(place: Path, candidates: Sequence[Candidate], config: Config | None, size: Size) -> dict[str, Measurement]:
    """Runs all candidates, one after the other, so that one at a time is in memory; returns them by name."""
    reference = None if candidates[0].engine == "keras" else read_reference(place)
    miou_drops = _miou_drops(place)
    found: dict[str, Measurement] = {}
    for candidate in candidates:
        if candidate.obstacle:
            found[candidate.name] = Measurement(obstacle=candidate.obstacle)
            continue
        try:
            predictor = open_predictor(
                candidate.path, config=config, precision=candidate.precision, threads=available_threads()
            )
        except ExportError as error:
            found[candidate.name] = Measurement(obstacle=f"cannot be opened ({error})")
            continue
        if reference is None:  # a checkpoint's first candidate is what the others are compared with
            crop = config.augment.crop if config else _DEFAULT_CROP
            reference = made_up_reference(predictor.predict, predictor.spec, reference_size(crop))
        quantization = candidate.artifact.quantization if candidate.artifact else "float32"
        try:
            lost = _differing(predictor.predict, reference.suited_to(quantization))
        except (ExportError, NotFiniteError) as error:
            found[candidate.name] = Measurement(obstacle=f"gives no answer ({error})")
            continue
        of_miou = candidate.precision == "fp32" and candidate.name in miou_drops
        pixels = random_tiles(predictor.spec, size, 1, dtype=str(reference.pixels.dtype))
        # The first run of a size is slower; the fastest is the one that other programs disturbed least.
        _, times = time_runs(predictor.predict, pixels, 1 + _RUNS, seconds=_SECONDS)
        found[candidate.name] = Measurement(min(times[1:]), miou_drops[candidate.name] if of_miou else lost, of_miou)
    return found


def _differing(predict: Predict, reference: Reference) -> float:
    """Returns the share of pixels with another class, in points; all where the answer has another shape."""
    tiles = [tile[np.newaxis] for tile in reference.pixels]
    logits = np.concatenate([require_finite(predict(tile), tile) for tile in tiles])
    if logits.shape != reference.logits.shape:
        return 100.0
    return 100 * float((logits.argmax(-1) != reference.logits.argmax(-1)).mean())


def _miou_drops(place: Path) -> Mapping[str, float]:
    """Returns the points of mIoU that artifacts lost at the export, by name; none where it did not measure them."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        try:
            report: Any = read_json(place / ACCURACY_FILE)
            return {str(name): float(drop) for name, drop in report["miou_drop"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ExportError(f"{place / ACCURACY_FILE} is damaged: {error}. Export the model again.") from error
    return {}


def _time(ms: float) -> str:
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.2g} ms"


def _with_bfloat16(candidate: Candidate) -> tuple[Candidate, ...]:
    """Adds the same in bfloat16, for engines that can choose."""
    if candidate.engine not in ("keras", "openvino"):
        return (candidate,)
    other = Candidate(f"{candidate.name} bf16", candidate.engine, candidate.path, "bf16", candidate.artifact)
    return candidate, other
