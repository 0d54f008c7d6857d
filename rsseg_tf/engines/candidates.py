"""What may run a model: all that a checkpoint or an exported version offers."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from rsseg_tf.errors import ExportError
from rsseg_tf.manifest import MANIFEST_FILE, Artifact, read_manifest
from rsseg_tf.predictors import find_model
from rsseg_tf.predictors.opening import newest_version

__all__ = ["ENGINES", "Candidate", "available_threads", "find_candidates", "named_candidate"]

ENGINES = ("keras", "savedmodel", "tflite", "onnx", "openvino")

_EXTRAS = {"tflite": "ai_edge_litert", "onnx": "onnxruntime", "openvino": "openvino"}  # extra: the module it brings


@dataclass(frozen=True)
class Candidate:
    """One way to run a model.

    Attributes:
        name: for people, such as `tflite dynamic` or `keras bf16`.
        engine: one of `ENGINES`.
        path: what `rsseg_tf.predictors.open_predictor` opens.
        precision: that it is opened with.
        artifact: what the manifest says of it; None for a checkpoint, or an export without a manifest beside it.
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
            return f'not installed (pip install "rsseg-tf[{self.engine}]")'
        if self.artifact and self.artifact.quantization == "int16x8":
            return "has no fast kernels on a CPU"
        return ""


def find_candidates(path: Path) -> tuple[Path, tuple[Candidate, ...]]:
    """Returns what may run the model that a path means.

    A checkpoint runs in Keras, also with activations of bfloat16, as OpenVINO models do. A page is run by its TFLite
    file where no other is there.

    Args:
        path: as `rsseg_tf.predictors.open_predictor`.

    Returns:
        The checkpoint or version folder, or the file; and the candidates, float32 before bfloat16.

    Raises:
        WeightsError: when `path` is neither a checkpoint nor anything exported.
        ExportError: when it is damaged.
    """
    folder = newest_version(path) or path
    if not (folder / MANIFEST_FILE).is_file():
        kind, place = find_model(path)
        engine = "keras" if kind == "checkpoint" else kind
        return place, _with_bfloat16(Candidate(engine, engine, place))
    artifacts = read_manifest(folder).artifacts
    if any(artifact.format == "tflite" for artifact in artifacts):
        artifacts = tuple(artifact for artifact in artifacts if artifact.format != "web")
    found: list[Candidate] = []
    for artifact in artifacts:
        engine = "tflite" if artifact.format == "web" else artifact.format
        found += _with_bfloat16(Candidate(artifact.name, engine, folder / artifact.path, artifact=artifact))
    return folder, tuple(found)


def named_candidate(path: Path, engine: str) -> Candidate:
    """Returns what runs a model by an engine that the user names.

    Raises:
        WeightsError: as `find_candidates`.
        ExportError: when there is nothing for this engine, or more than one file.
    """
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


def _with_bfloat16(candidate: Candidate) -> tuple[Candidate, ...]:
    """Adds the same in bfloat16, for engines that can choose."""
    if candidate.engine not in ("keras", "openvino"):
        return (candidate,)
    other = Candidate(f"{candidate.name} bf16", candidate.engine, candidate.path, "bf16", candidate.artifact)
    return candidate, other
