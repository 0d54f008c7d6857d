"""Compares what the package does with what it did when the recording was made; see `record.py`."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.recorded import compare
from tests.recorded.areas import AREAS, DATA
from tests.recorded.record import read_recording

_QUICK = ("help", "prepare")
_NEEDS = {"export": ("onnxruntime", "ai_edge_litert"), "serve": ("grpc", "tensorflow_serving", "uvicorn", "starlette")}
_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "area", [pytest.param(area, marks=() if area in _QUICK else pytest.mark.slow) for area in AREAS]
)
def test_nothing_changed(area: str, tmp_path: Path) -> None:
    for module in _NEEDS.get(area, ()):
        pytest.importorskip(module, reason="an extra is not installed")
    if area == "real" and not DATA.is_dir():
        pytest.skip("shared/data is not beside the checkout")
    recording = read_recording()
    output = tmp_path / "now.json"
    # A process of its own: as users have it, without the two devices and the strict warnings of the other tests.
    command = [sys.executable, "-m", "tests.recorded.record", "--only", area, "--output", str(output)]
    result = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-5000:]
    now = json.loads(output.read_text("utf-8"))[area]
    lines = list(compare.differences(recording[area], now, exact=recording["environment"] == compare.environment()))
    assert not lines, f"{len(lines)} differences from the recording:\n" + "\n".join(lines[:60])


def _stored(recording: Any, kind: str) -> list[dict[str, Any]]:
    """Returns all stored results of a kind below an entry."""
    if isinstance(recording, dict):
        if recording.get("kind") == kind:
            return [recording]
        return [found for value in recording.values() for found in _stored(value, kind)]
    return []


def test_recorded_maps_are_varied() -> None:
    """Maps of one class would prove nothing."""
    predicted = {name: _stored(entry, "labels") for name, entry in read_recording()["predict"].items()}
    numbers = [len(np.unique(compare.pixels(entry))) for entries in predicted.values() for entry in entries]
    assert min(numbers) >= 2 and np.mean(numbers) >= 4
    assert all(np.ptp(compare.pixels(entry).astype(int)) > 60 for entry in _stored(read_recording(), "levels"))


def test_differences_are_found() -> None:
    ids = np.arange(96 * 128, dtype=np.uint8).reshape(96, 128) % 6
    before = {
        "map": compare.labels(ids),
        "matrix": compare.counts([[3000, 1], [0, 5]]),
        "text": "one\ntwo\n",
        "numbers": compare.close(np.arange(9), 0.1),
        "picture": compare.rounded(ids),
        "score": 0.5,
    }
    assert list(compare.differences(before, copy.deepcopy(before), exact=True)) == []
    other = ids.copy()
    other[3, 4] = 5 - other[3, 4]
    after = {
        "map": compare.labels(other),
        "matrix": compare.counts([[2999, 2], [0, 5]]),
        "text": "one\nthree\n",
        "numbers": compare.close(np.arange(9) + 0.01, 0.1),
        "picture": compare.rounded(other),
        "score": 0.5001,
        "more": 1,
    }
    exactly = "\n".join(compare.differences(before, after, exact=True))
    assert exactly.count("\n") == 2 + len(after) - 1, exactly
    assert "map: 1 of 12288 stored pixels differ" in exactly and "now:      three" in exactly
    roughly = "\n".join(compare.differences(before, after, exact=False))
    assert "text" in roughly and "more" in roughly
    assert not any(name in roughly for name in ("map", "matrix", "numbers", "picture", "score"))
    after = {**before, "map": compare.labels(ids[::-1].copy())}
    assert "now 0: " in "\n".join(compare.differences(before, after, exact=False))
    assert list(compare.differences(before, {}, exact=False)) == [
        f"{name}: recorded, but absent now" for name in sorted(before)
    ]
