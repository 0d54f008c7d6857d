"""Names of the first release, which had a function for each dataset; they go with the next release."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rsseg_tf.datasets.protocols import present_name
from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.datasets.table import RECIPES, UNLABELLED
from rsseg_tf.prepare.output import PrepareReport
from rsseg_tf.prepare.run import PrepareOptions, prepare_dataset

__all__ = [
    "OUTPUTS",
    "PREPARERS",
    "UNLABELLED",
    "Preparer",
    "prepare_dubai",
    "prepare_isaid",
    "prepare_isprs",
    "prepare_loveda",
    "prepare_unlabelled",
]

Preparer = Callable[[Sequence[Path], Path, PrepareOptions], PrepareReport]

PREPARERS: Mapping[str, Preparer] = MappingProxyType(
    {name: functools.partial(prepare_dataset, name) for name in RECIPES}
)
OUTPUTS: Mapping[str, Path] = MappingProxyType({name: recipe.output for name, recipe in RECIPES.items()})


def prepare_unlabelled(
    name: str, source: Path | Sequence[Path], output: Path, *, workers: int | None = 1, **options: Any
) -> PrepareReport:
    """Calls `prepare_dataset`; the options are the fields of `PrepareOptions`."""
    if "protocol" in options:
        options["cutting"] = present_name(options.pop("protocol"))
    if options.get("splits") is not None:
        options["splits"] = tuple(options["splits"])
    return prepare_dataset(name, source, output, PrepareOptions(workers=workers, **options))


def prepare_isprs(spec: DatasetSpec, source: Path | Sequence[Path], output: Path, **options: Any) -> PrepareReport:
    """Calls `prepare_dataset` for Potsdam or Vaihingen."""
    return prepare_unlabelled(spec.name, source, output, **options)


prepare_dubai = functools.partial(prepare_unlabelled, "dubai")
prepare_isaid = functools.partial(prepare_unlabelled, "isaid")
prepare_loveda = functools.partial(prepare_unlabelled, "loveda")
