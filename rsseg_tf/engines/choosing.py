"""The fastest candidate within a tolerance, measured once per machine and remembered."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras

from rsseg_tf.config import Config, dump_config
from rsseg_tf.engines.candidates import Candidate, available_threads, find_candidates
from rsseg_tf.engines.measuring import Measured, measure
from rsseg_tf.errors import ExportError
from rsseg_tf.export.publish import ACCURACY_FILE
from rsseg_tf.export.reference import REFERENCE_FILE
from rsseg_tf.files import atomic_path, read_json
from rsseg_tf.files.cache import cache_dir
from rsseg_tf.manifest import MANIFEST_FILE

__all__ = ["DEFAULT_TOLERANCE", "Choice", "choose"]

DEFAULT_TOLERANCE = 0.05
"""Points; what rounding to float32 does on pixels where two classes are all but equally likely stays below it."""

_LARGEST_SIDE = 512  # pixels that are timed: time grows with the area, and large images would take minutes
_BUSY = 1.5  # running processes per processor, above which times say little of the machine
_PACKAGES = ("rsseg-tf", "tensorflow", "keras", "ai-edge-litert", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Choice:
    """The engine that was chosen, and what it was chosen from.

    Attributes:
        candidate: the fastest within the tolerance.
        measured: all candidates, by name.
        tolerance: points that it may lose.
        size: (height, width) that was timed.
        remembered: whether the numbers are from an earlier run.
        busy: whether the machine had other work when they were taken.
    """

    candidate: Candidate
    measured: Mapping[str, Measured]
    tolerance: float
    size: tuple[int, int]
    remembered: bool = False
    busy: bool = False

    def __str__(self) -> str:
        """Returns a line that names the engine and says why it is that one."""
        own = self.measured[self.candidate.name]
        lost = f"{own.lost:.3g} points of mIoU lost" if own.of_miou else f"{own.lost:.3g} % of pixels differ"
        when = ", measured earlier" if self.remembered else ""
        when += ", while other programs kept the machine busy" if self.busy else ""
        text = f"Engine: {self.candidate.name}, {_time(own.ms)} per {self.size[1]}x{self.size[0]} image, {lost}{when}."
        others = {name: one for name, one in self.measured.items() if name != self.candidate.name}
        if not others:
            return text
        ordered = sorted(others.items(), key=lambda item: (bool(item[1].obstacle), item[1].ms))
        return f"{text} Others: {'; '.join(f'{name} {_why_not(one, self.tolerance)}' for name, one in ordered)}."


def choose(
    path: Path, *, config: Config | None = None, size: tuple[int, int], tolerance: float = DEFAULT_TOLERANCE
) -> Choice:
    """Chooses the fastest engine for a model on this machine.

    All candidates are timed on an image of the size, at most 512x512 or the largest tile among them, and compared with
    the Keras model: by the mIoU that the export measured, or else on the tiles whose answers it stored. Of a
    checkpoint, bfloat16 is compared with float32. The numbers are kept in the cache folder, as long as files,
    packages, machine, devices and size are the same; those of a busy machine until it is not busy any more.

    Args:
        path: a checkpoint, an exported version, or a folder of versions.
        config: of a checkpoint.
        size: (height, width) of images that will be predicted.
        tolerance: points in 0..100 that the engine may lose.

    Raises:
        WeightsError: when `path` is neither a checkpoint nor anything exported, or does not fit `config`.
        ExportError: when it is one file, or nothing that it holds can be run within the tolerance.
    """
    place, candidates = find_candidates(path)
    if place.is_file():
        raise ExportError(f"{place} is one file, and --engine auto chooses among several. Name the folder it was in.")
    if not candidates:
        raise ExportError(f"{place} holds no exported model; its manifest names none. Export the model again.")
    tiles = [one.artifact.tile for one in candidates if one.artifact and one.artifact.tile]
    limits = [max(_LARGEST_SIDE, *sides) for sides in zip((0, 0), *tiles, strict=True)]
    size = min(size[0], limits[0]), min(size[1], limits[1])
    record = cache_dir() / "engines" / f"{_fingerprint(place, candidates, config, size)}.json"
    load = _load()
    recalled = _recall(record, candidates)
    remembered = recalled is not None and (recalled[0] <= _BUSY or load > _BUSY)
    if recalled is not None and remembered:
        load, measured = recalled
    else:
        measured = measure(place, candidates, config, size, available_threads())
        _remember(record, load, measured)
    usable = [one for one in candidates if not _why_not(measured[one.name], tolerance, slower="")]
    if not usable:
        why = "; ".join(f"{name} {_why_not(one, tolerance)}" for name, one in measured.items())
        raise ExportError(
            f"Nothing in {place} runs here within the tolerance of {tolerance:g} points: {why}. Raise --tolerance, "
            "install what is missing, or name a checkpoint."
        )
    fastest = min(usable, key=lambda one: measured[one.name].ms)
    return Choice(fastest, measured, tolerance, size, remembered, load > _BUSY)


def _why_not(one: Measured, tolerance: float, slower: str = "{time}") -> str:
    """Says in a clause why a candidate was not chosen; `slower` where it could have been."""
    if one.obstacle:
        return one.obstacle
    if one.lost <= tolerance:
        return slower.format(time=_time(one.ms))
    what = f"loses {one.lost:.3g} points of mIoU" if one.of_miou else f"differs on {one.lost:.3g} % of pixels"
    return f"{_time(one.ms)}, but {what} (--tolerance {tolerance:g})"


def _time(ms: float) -> str:
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.2g} ms"


def _fingerprint(place: Path, candidates: Sequence[Candidate], config: Config | None, size: tuple[int, int]) -> str:
    """Returns a checksum over all that the numbers depend on."""
    names = {name for one in candidates if one.artifact for name in one.artifact.sha256}
    names |= {path.name for path in place.glob("*.npz")} | {MANIFEST_FILE, ACCURACY_FILE, REFERENCE_FILE}
    stats = {name: (place / name).stat() for name in sorted(names) if (place / name).is_file()}
    facts = {
        "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
        "config": dump_config(config) if config else "",
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": [platform.node(), platform.machine(), _processor()],
        "devices": keras.distribution.list_devices(),
        "threads": available_threads(),
        "size": size,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    """Returns the name of the processor, as far as the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _load() -> float:
    """Returns how many processes per processor ran or waited in the last minute; 0 where the system does not tell."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):  # as on Windows
        return 0.0


def _recall(record: Path, candidates: Sequence[Candidate]) -> tuple[float, dict[str, Measured]] | None:
    """Returns load and numbers of an earlier run; None where there are none, or not readable any more."""
    try:
        found = read_json(record)
        load = float(found["load"])
        measured = {name: Measured(**values) for name, values in found["measured"].items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None
    return (load, measured) if list(measured) == [one.name for one in candidates] else None


def _remember(record: Path, load: float, measured: Mapping[str, Measured]) -> None:
    """Writes a record; where the cache cannot be written, the next run measures again."""
    with contextlib.suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(record) as partial:
            values = {"load": load, "measured": {name: dataclasses.asdict(one) for name, one in measured.items()}}
            partial.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
