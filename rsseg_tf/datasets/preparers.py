"""The tables of known datasets, and the one signature behind the command ``rsseg-tf prepare``.

A new dataset brings a module with its spec and a function of its own, an adapter below, and one line in each table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from rsseg_tf.datasets.dubai import DUBAI, prepare_dubai
from rsseg_tf.datasets.isaid import ISAID
from rsseg_tf.datasets.isprs import POTSDAM, VAIHINGEN
from rsseg_tf.datasets.prepared import PrepareReport
from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.datasets.synthetic import SYNTHETIC, generate_synthetic
from rsseg_tf.errors import DataError, did_you_mean

__all__ = ["PREPARERS", "SPECS", "PrepareOptions", "Preparer", "dataset_spec", "prepare_dataset"]


@dataclass(frozen=True)
class PrepareOptions:
    """What a user may choose when preparing a dataset; None takes the dataset's own default.

    An option that a dataset has no use for is refused, not ignored.

    Attributes:
        tile_size: Side of a tile (of a scene, for made-up data) in pixels.
        overlap: Pixels that neighbouring tiles share.
        off_palette_fraction: Share of the pixels of a mask, 0..1, that may have a colour outside the palette.
        scenes_train: Number of training scenes to make.
        scenes_val: Number of validation scenes to make.
        seed: Seed of made-up data.
        progress: Called after each scene with the number done and the number of all.
    """

    tile_size: int | None = None
    overlap: int | None = None
    off_palette_fraction: float | None = None
    scenes_train: int | None = None
    scenes_val: int | None = None
    seed: int | None = None
    progress: Callable[[int, int], None] | None = None


Preparer = Callable[[Path | None, Path, PrepareOptions], PrepareReport]


def _prepare_dubai(source: Path | None, output: Path, options: PrepareOptions) -> PrepareReport:
    _refuse_unused("dubai", options, {"tile_size", "overlap", "off_palette_fraction"})
    return prepare_dubai(
        _needed_source("dubai", source),
        output,
        tile_size=512 if options.tile_size is None else options.tile_size,
        overlap=0 if options.overlap is None else options.overlap,
        off_palette_fraction=0.0 if options.off_palette_fraction is None else options.off_palette_fraction,
        progress=options.progress,
    )


def _prepare_synthetic(source: Path | None, output: Path, options: PrepareOptions) -> PrepareReport:
    _refuse_unused("synthetic", options, {"tile_size", "scenes_train", "scenes_val", "seed"})
    if source is not None:
        raise DataError(f"The synthetic dataset is made, not read; got the source {source}. Leave the source out.")
    return generate_synthetic(
        output,
        scenes_train=18 if options.scenes_train is None else options.scenes_train,
        scenes_val=6 if options.scenes_val is None else options.scenes_val,
        size=512 if options.tile_size is None else options.tile_size,
        seed=0 if options.seed is None else options.seed,
        progress=options.progress,
    )


PREPARERS: Mapping[str, Preparer] = MappingProxyType({"dubai": _prepare_dubai, "synthetic": _prepare_synthetic})
"""Preparing functions by dataset name: ``(source, output, options)``; the source is None for made-up data."""

SPECS: Mapping[str, DatasetSpec] = MappingProxyType(
    {spec.name: spec for spec in (DUBAI, ISAID, POTSDAM, SYNTHETIC, VAIHINGEN)}
)
"""Specs by dataset name. A user's own data are not here: see `custom_spec`."""


def prepare_dataset(name: str, source: Path | None, output: Path, options: PrepareOptions) -> PrepareReport:
    """Prepares a known dataset.

    Args:
        name: A key of `PREPARERS`.
        source: The downloaded folder or archive; None for made-up data.
        output: The folder to appear.
        options: What the user chose.

    Raises:
        DataError: When the name is unknown, an option or the source does not fit it, or preparing fails.
    """
    if name not in PREPARERS:
        raise DataError(_unknown(name, PREPARERS))
    return PREPARERS[name](source, output, options)


def dataset_spec(name: str) -> DatasetSpec:
    """Returns the spec of a known dataset.

    Raises:
        DataError: When the name is unknown.
    """
    if name not in SPECS:
        raise DataError(_unknown(name, SPECS))
    return SPECS[name]


def _unknown(name: str, table: Mapping[str, object]) -> str:
    return f"There is no dataset '{name}'; known are {', '.join(sorted(table))}.{did_you_mean(name, table)}"


def _needed_source(name: str, source: Path | None) -> Path:
    if source is None:
        raise DataError(f"Preparing '{name}' needs the downloaded folder or zip file; none was given.")
    return source


def _refuse_unused(name: str, options: PrepareOptions, used: set[str]) -> None:
    """Raises when an option was chosen that the dataset has no use for."""
    for field in dataclasses.fields(options):
        if field.name not in used | {"progress"} and getattr(options, field.name) is not None:
            raise DataError(
                f"Dataset '{name}' has no option {field.name} (got {getattr(options, field.name)}); "
                f"it takes {', '.join(sorted(used))}. Leave it out."
            )
