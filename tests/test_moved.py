"""Old names of modules and functions still work, and say where the new ones are."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from rsseg_tf.datasets.isprs import POTSDAM
from rsseg_tf.errors import DataError, OldKeyWarning
from rsseg_tf.moved import MODULES, NAMES
from rsseg_tf.prepare import earlier
from tests.fixtures import downloads


@pytest.mark.parametrize("old", sorted(MODULES))
def test_an_old_module_is_the_new_one(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=MODULES[old]):
        module = importlib.import_module(old)
    assert module is importlib.import_module(MODULES[old])


def test_submodules_move_with_their_package() -> None:
    sys.modules.pop("rsseg_tf.inference.writing", None)
    with pytest.warns(DeprecationWarning, match=r"rsseg_tf\.predict\.writing"):
        module = importlib.import_module("rsseg_tf.inference.writing")
    assert module is importlib.import_module("rsseg_tf.predict.writing")


@pytest.mark.parametrize(("package", "name"), [(package, name) for package in NAMES for name in sorted(NAMES[package])])
def test_an_old_name_is_the_new_one(package: str, name: str) -> None:
    module, _, present = NAMES[package][name].partition(":")
    home = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f"{module}.{present or name}"):
        assert getattr(importlib.import_module(package), name) is getattr(home, present or name)


def test_the_functions_of_each_dataset_still_prepare(tmp_path: Path) -> None:
    downloads.potsdam(tmp_path / "potsdam")
    options: dict[str, Any] = {"tile_size": 32, "protocol": "seed", "splits": ["val"]}
    with pytest.warns(OldKeyWarning):
        earlier.prepare_isprs(POTSDAM, tmp_path / "potsdam", tmp_path / "a", **options)
    downloads.prepare("potsdam", tmp_path / "potsdam", tmp_path / "b", tile_size=32, splits=("val",))
    assert (tmp_path / "a/val.txt").read_bytes() == (tmp_path / "b/val.txt").read_bytes()
    with pytest.raises(DataError, match="dubai"):
        earlier.prepare_dubai([], tmp_path / "c")


def test_what_never_was_there_is_told() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = importlib.import_module("rsseg_tf.datasets").nonsense
