"""The tables of known datasets, and the one signature behind the command ``rsseg-tf prepare``.

A new dataset brings a module with its spec and a function of its own, an adapter below, and one line in each table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import DataError, did_you_mean
from rsseg_tf.prepare.dubai import DUBAI, prepare_dubai
from rsseg_tf.prepare.isaid import ISAID, prepare_isaid
from rsseg_tf.prepare.isprs import POTSDAM, VAIHINGEN, prepare_isprs
from rsseg_tf.prepare.loveda import LOVEDA, prepare_loveda
from rsseg_tf.prepare.prepared import PrepareReport
from rsseg_tf.prepare.synthetic import SYNTHETIC, generate_synthetic
from rsseg_tf.prepare.unlabelled import UNLABELLED, prepare_unlabelled

__all__ = ["OUTPUTS", "PREPARERS", "SPECS", "PrepareOptions", "Preparer", "dataset_spec", "prepare_dataset"]


@dataclass(frozen=True)
class PrepareOptions:
    """What a user may choose when preparing a dataset; None takes the dataset's own default.

    An option that a dataset has no use for is refused, not ignored.

    Attributes:
        tile_size: Side of a tile (of a scene, for made-up data) in pixels.
        overlap: Pixels that neighbouring tiles share.
        protocol: Which windows the ISPRS scenes are cut by: ``"seed"`` or ``"overlap"``.
        labels: Which ISPRS masks: ``"eroded"`` or ``"full"``.
        off_palette_fraction: Share of the pixels of a mask, 0..1, that may have a colour outside the palette.
        splits: Parts of a labelled dataset: ``"train"``, ``"val"`` and, where there is one, ``"test"``.
        image_format: Kind of file for crops without labels: ``"jpg"``, ``"png"`` or ``"tif"``.
        scenes_train: Number of training scenes to make.
        scenes_val: Number of validation scenes to make.
        seed: Seed of made-up data.
        workers: Processes; here, None is one for each core.
        progress: Called after each scene with the number done and the number of all.
    """

    tile_size: int | None = None
    overlap: int | None = None
    protocol: str | None = None
    labels: str | None = None
    off_palette_fraction: float | None = None
    splits: tuple[str, ...] | None = None
    image_format: str | None = None
    scenes_train: int | None = None
    scenes_val: int | None = None
    seed: int | None = None
    workers: int | None = None
    progress: Callable[[int, int], None] | None = None

    def chosen(self, dataset: str, allowed: Iterable[str]) -> dict[str, Any]:
        """Returns the options that were chosen, as keyword arguments.

        Raises:
            DataError: When one was chosen that the dataset has no use for.
        """
        names = {*allowed, "workers"} if dataset != SYNTHETIC.name else set(allowed)
        chosen: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if field.name not in names | {"progress"}:
                raise DataError(
                    f"Dataset '{dataset}' has no option {field.name} (got {value}); "
                    f"it takes {', '.join(sorted(names))}. Leave it out."
                )
            chosen[field.name] = value
        return {"workers": None, **chosen} if "workers" in names else chosen


Preparer = Callable[[Sequence[Path], Path, PrepareOptions], PrepareReport]

_TILES = ("tile_size", "overlap")
_LABELLED = (*_TILES, "splits", "off_palette_fraction")


def _prepare_dubai(sources: Sequence[Path], output: Path, options: PrepareOptions) -> PrepareReport:
    return prepare_dubai(_needed("dubai", sources), output, **options.chosen("dubai", _LABELLED))


def _prepare_isaid(sources: Sequence[Path], output: Path, options: PrepareOptions) -> PrepareReport:
    return prepare_isaid(_needed("isaid", sources), output, **options.chosen("isaid", _LABELLED))


def _prepare_loveda(sources: Sequence[Path], output: Path, options: PrepareOptions) -> PrepareReport:
    return prepare_loveda(_needed("loveda", sources), output, **options.chosen("loveda", _LABELLED))


def _isprs_preparer(spec: DatasetSpec) -> Preparer:
    def prepare(sources: Sequence[Path], output: Path, options: PrepareOptions) -> PrepareReport:
        chosen = options.chosen(spec.name, (*_LABELLED, "protocol", "labels"))
        return prepare_isprs(spec, _needed(spec.name, sources), output, **chosen)

    return prepare


def _unlabelled_preparer(name: str) -> Preparer:
    def prepare(sources: Sequence[Path], output: Path, options: PrepareOptions) -> PrepareReport:
        chosen = options.chosen(name, (*_TILES, "image_format"))
        return prepare_unlabelled(name, _needed(name, sources), output, **chosen)

    return prepare


def _prepare_synthetic(sources: Sequence[Path], output: Path, options: PrepareOptions) -> PrepareReport:
    chosen = options.chosen("synthetic", ("tile_size", "scenes_train", "scenes_val", "seed"))
    if sources:
        raise DataError(f"The synthetic dataset is made, not read; got the source {sources[0]}. Leave the source out.")
    if "tile_size" in chosen:
        chosen["size"] = chosen.pop("tile_size")
    return generate_synthetic(output, **chosen)


PREPARERS: Mapping[str, Preparer] = MappingProxyType(
    {
        "dubai": _prepare_dubai,
        "isaid": _prepare_isaid,
        "loveda": _prepare_loveda,
        "potsdam": _isprs_preparer(POTSDAM),
        "synthetic": _prepare_synthetic,
        "vaihingen": _isprs_preparer(VAIHINGEN),
        **{name: _unlabelled_preparer(name) for name in UNLABELLED},
    }
)
"""Preparing functions by dataset name: ``(sources, output, options)``; made-up data have no sources."""

OUTPUTS: Mapping[str, Path] = MappingProxyType(
    {
        "dubai": Path("data/dubai"),
        "isaid": Path("data/iSAID"),
        "loveda": Path("data/LoveDA"),
        "potsdam": Path("data/Potsdam"),
        "synthetic": Path("data/synthetic"),
        "vaihingen": Path("data/Vaihingen"),
        "million_aid": Path("data/Million-AID"),
        "dota": Path("data/DOTA"),
        "images": Path("data/images"),
    }
)
"""Where each dataset goes by default: where the shipped configs look for it, as the benchmark's do."""

SPECS: Mapping[str, DatasetSpec] = MappingProxyType(
    {spec.name: spec for spec in (DUBAI, ISAID, LOVEDA, POTSDAM, SYNTHETIC, VAIHINGEN)}
)
"""Specs by dataset name. A user's own data are not here: see `custom_spec`."""


def prepare_dataset(name: str, sources: Sequence[Path], output: Path, options: PrepareOptions) -> PrepareReport:
    """Prepares a known dataset.

    Args:
        name: A key of `PREPARERS`.
        sources: The downloaded folders or archives; empty for made-up data.
        output: The folder to appear.
        options: What the user chose.

    Raises:
        DataError: When the name is unknown, an option or the source does not fit it, or preparing fails.
    """
    if name not in PREPARERS:
        raise DataError(_unknown(name, PREPARERS))
    return PREPARERS[name](sources, output, options)


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


def _needed(name: str, sources: Sequence[Path]) -> Sequence[Path]:
    if not sources:
        raise DataError(f"Preparing '{name}' needs the downloaded folder or zip file; none was given.")
    return sources
