"""A part of the bench on every run; `RSSEG_TF_TORTURE` says how many files of each reader instead."""

from __future__ import annotations

import os
import random

import pytest

from tests.torture.figures import asked, require_all_survived
from tests.torture.hostile_files import ALL, READERS, run_reader
from tests.torture.mutations import mutated

_LIMIT = asked(40) or ALL
_SEED = int(os.environ.get("RSSEG_TF_TORTURE_SEED", "0"))
_NEEDS = {"area": "pyogrio", "TFLite": "ai_edge_litert", "ONNX": "onnxruntime", "requests": "tensorflow_serving"}


def test_equal_seeds_make_equal_files() -> None:
    sound = bytes(range(256)) * 4
    first, second = (mutated(sound, b"other", random.Random("7/x/1")) for _ in range(2))
    assert first == second
    changed = {mutated(sound, b"other", random.Random(f"7/x/{item}")) for item in range(300)}
    assert len(changed) > 250 and b"" in changed | {mutated(sound, b"", random.Random(i)) for i in range(2000)}


@pytest.mark.parametrize("name", READERS)
def test_a_changed_file_gives_a_result_or_an_error_of_one_line(name: str) -> None:
    for start, module in _NEEDS.items():
        if name.startswith(start):
            pytest.importorskip(module, reason=f"{module} is not installed")
    require_all_survived([run_reader(name, _SEED, _LIMIT)])
