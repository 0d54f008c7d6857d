"""How results are stored in the recording, and when a result equals a recorded one.

On the machine of the recording everything must be equal. Elsewhere rounding may move a few pixels: maps may differ in
one pixel of a thousand, counts by as much, and hashes of what depends on rounding are not compared.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import os
import platform
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_WHOLE = 20_000
_ENGINES = ("tensorflow", "keras", "numpy", "opencv-python-headless", "rasterio", "onnxruntime", "ai-edge-litert")
_MARK = "kind"


def environment() -> dict[str, str]:
    """Returns what results depend on to the last bit."""
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in _ENGINES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "none"
    cpu = [platform.machine(), f"{os.cpu_count()} cores"]
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = information.read_text("utf-8").splitlines()
        cpu += [line for line in lines if line.startswith(("flags", "model name"))][:2]
    return versions | {"cpu": sha("|".join(cpu).encode())}


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def array_sha(array: np.ndarray) -> str:
    array = np.ascontiguousarray(array)
    return sha(f"{array.dtype} {array.shape} ".encode() + array.tobytes())


def labels(array: np.ndarray) -> dict[str, Any]:
    """Stores a label map: its pixels, or every fourth in both directions of a large one."""
    return _stored("labels", array, 1 if array.size <= _WHOLE else 4)


def levels(array: np.ndarray) -> dict[str, Any]:
    """Stores uint8 levels, such as confidence: every eighth pixel in both directions."""
    return _stored("levels", array, 8)


def counts(matrix: Any) -> dict[str, Any]:
    """Stores a confusion matrix or other numbers of pixels."""
    return {_MARK: "counts", "values": matrix}


def rounded(content: bytes | np.ndarray) -> dict[str, Any]:
    """Stores a hash of what depends on rounding."""
    return {_MARK: "rounded", "sha": array_sha(content) if isinstance(content, np.ndarray) else sha(content)}


def close(values: np.ndarray, tolerance: float) -> dict[str, Any]:
    """Stores up to 64 of some numbers, which may differ by the tolerance elsewhere."""
    flat = np.asarray(values, np.float32).ravel()
    some = flat[:: max(1, -(-flat.size // 64))]
    return {
        _MARK: "close",
        "tolerance": tolerance,
        "shape": list(np.shape(values)),
        "sha": array_sha(flat),
        "values": [float(f"{value:.6g}") for value in some],
    }


def _stored(kind: str, array: np.ndarray, step: int) -> dict[str, Any]:
    some = np.ascontiguousarray(array[..., ::step, ::step])
    packed = base64.b64encode(zlib.compress(some.tobytes(), 9)).decode()
    return {_MARK: kind, "shape": list(array.shape), "step": step, "sha": array_sha(array), "pixels": packed}


def pixels(entry: dict[str, Any]) -> np.ndarray:
    """Returns the stored pixels of labels or levels, flat."""
    return np.frombuffer(zlib.decompress(base64.b64decode(entry["pixels"])), np.uint8)


def differences(recorded: Any, now: Any, *, exact: bool, where: str = "") -> Iterator[str]:
    """Yields a line for each difference.

    Args:
        recorded: An area's part of the recording, or something in it.
        now: The same of today.
        exact: Whether the machine is that of the recording.
        where: The entry's name.
    """
    if isinstance(recorded, dict) and isinstance(now, dict):
        if _MARK in recorded and recorded.get(_MARK) == now.get(_MARK):
            line = _difference(recorded, now, exact)
            if line:
                yield f"{where}: {line}"
            return
        for name in sorted(recorded.keys() | now.keys()):
            inside = f"{where} / {name}" if where else name
            if name not in now:
                yield f"{inside}: recorded, but absent now"
            elif name not in recorded:
                yield f"{inside}: new: {_short(now[name])}"
            else:
                yield from differences(recorded[name], now[name], exact=exact, where=inside)
    elif isinstance(recorded, list) and isinstance(now, list) and len(recorded) == len(now):
        for number, (before, after) in enumerate(zip(recorded, now, strict=True)):
            yield from differences(before, after, exact=exact, where=f"{where}[{number}]")
    elif isinstance(recorded, str) and isinstance(now, str) and "\n" in recorded and recorded != now:
        pairs = zip(recorded.splitlines(), now.splitlines(), strict=False)
        first = next(((a, b) for a, b in pairs if a != b), ("(end)", "(end)"))
        yield f"{where}: the text differs, first here:\n    recorded: {first[0]}\n    now:      {first[1]}"
    elif isinstance(recorded, float) and isinstance(now, float):
        if abs(recorded - now) > (1e-9 if exact else 2e-3) * max(1.0, abs(recorded)):
            yield f"{where}: recorded {recorded}, now {now}"
    elif recorded != now:
        yield f"{where}: recorded {_short(recorded)}, now {_short(now)}"


def _difference(recorded: dict[str, Any], now: dict[str, Any], exact: bool) -> str | None:
    """Says how two stored results of one kind differ; None where they are equal."""
    if recorded.get("shape") != now.get("shape"):
        return f"shape {recorded.get('shape')} recorded, {now.get('shape')} now"
    kind = recorded[_MARK]
    if kind == "counts":
        before, after = np.array(recorded["values"], np.int64), np.array(now["values"], np.int64)
        if before.shape != after.shape:
            return f"recorded {recorded['values']}, now {now['values']}"
        off = int(abs(before - after).sum())
        if off > (0 if exact else 2 + abs(before).sum() * 2 // 1000):
            return f"counts differ by {off} of {before.sum()}: recorded {before.tolist()}, now {after.tolist()}"
        return None
    if recorded["sha"] == now["sha"]:
        return None
    if kind == "rounded":
        return f"hash {recorded['sha']} recorded, {now['sha']} now" if exact else None
    if kind == "close":
        off = max(abs(np.array(recorded["values"]) - np.array(now["values"])))
        return f"values differ by up to {off:.3g}" if exact or off > recorded["tolerance"] else None
    before, after = pixels(recorded).astype(int), pixels(now).astype(int)
    apart = abs(before - after) > (0 if exact or kind == "labels" else 3)
    if exact or apart.mean() > 1e-3:
        where = f"{int(apart.sum())} of {apart.size} stored pixels differ (1 in {recorded['step']}² is stored)"
        return f"{where}; values recorded {_histogram(before)}, now {_histogram(after)}"
    return None


def _histogram(values: np.ndarray) -> str:
    if len(np.unique(values)) > 12:
        return f"mean {values.mean():.2f}"
    return ", ".join(f"{value}: {count}" for value, count in zip(*np.unique(values, return_counts=True), strict=True))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 300 else f"{text[:300]}…"
