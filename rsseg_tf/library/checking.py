"""The check of a dataset."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsseg_tf.assets import find_config
from rsseg_tf.errors import ConfigError, DataError, address_hint, did_you_mean
from rsseg_tf.files import StrPath, readable_name, several
from rsseg_tf.library.folders import make_file_place
from rsseg_tf.library.listening import Notify, listener_of

if TYPE_CHECKING:
    from rsseg_tf.config import Config
    from rsseg_tf.doctor import CheckedDataset, Report

__all__ = ["check_data"]


def check_data(
    source: StrPath | Mapping[str, Any] | Config,
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    unlabelled: bool = False,
    num_classes: int | None = None,
    ignore_index: int | None = None,
    near: int = 7,
    ignore: Sequence[str] = (),
    max_image_mb: int | None = None,
    allow_vrt_sources: bool = False,
    sheet: StrPath | None = None,
    sheet_count: int = 12,
    seed: int = 0,
    workers: int | None = None,
    notify: Notify | None = None,
) -> Report:
    """Finds problems in a dataset before hours of training, as `rsseg-tf check-data` does, by the same names.

    Args:
        source: A folder; or a config (a file, the name of a shipped one, a mapping) whose lists are checked.
        overrides: Of a config: changes, such as `["dataset.root=data/mine"]`.
        unlabelled: Of a folder: check images without labels.
        num_classes: Of a folder: number of classes, if neither dataset.json nor labels.txt gives it.
        ignore_index: Of a folder: label value of ignored pixels, if dataset.json does not give it; None for 255.
        near: Compare the pixels of images whose perceptual hashes differ in at most so many of 63 bits.
        ignore: Leave out findings of these kinds, such as `["small-image"]`.
        max_image_mb: Largest image that is decoded, in MiB of its pixels; None for the config's, or 1024.
        allow_vrt_sources: Follow VRTs and files of other formats to whatever they name.
        sheet: Write a contact sheet there: .png, or a self-contained .html.
        sheet_count: With `sheet`: pairs to show.
        seed: With `sheet`: seed of the choice of pairs.
        workers: Processes; None takes one for each core.
        notify: Called with a line for each note.

    Returns:
        The report; `.findings` has what is wrong, errors first.

    Raises:
        ConfigError: For options that are wrong or have no effect.
        DataError: When there is nothing to check.
    """
    from rsseg_tf import doctor
    from rsseg_tf.doctor.sheet import choose_samples
    from rsseg_tf.rasters.gdal import Trust

    listener = listener_of(notify)
    place = None if sheet is None else Path(sheet)
    left_out = several(ignore)
    _check_options(left_out, place)
    options = {"num_classes": num_classes, "ignore_index": ignore_index, "unlabelled": unlabelled}
    dataset = _find_dataset(source, overrides, options)
    max_bytes = dataset.trust.max_bytes if max_image_mb is None else max_image_mb * 2**20
    trust = Trust(max_bytes, allow_vrt_sources or dataset.trust.vrt_sources)
    dataset = dataclasses.replace(dataset, trust=trust)
    with listener.progress(f"Checking {readable_name(dataset.expected.name)}") as progress:
        report = doctor.check_data(
            dataset, near=near, leave_out=left_out, workers=workers or os.cpu_count() or 1, progress=progress
        )
    if place is not None:
        if choose_samples(report.evidence, 1, seed):
            doctor.write_sheet(place, report, count=sheet_count, seed=seed)
            listener.say(f"Written: {place}")
        else:
            listener.say(f"Not written: {place}, because no sample could be read.")
    return report


def _check_options(ignore: Sequence[str], sheet: Path | None) -> None:
    """Refuses unknown kinds, and a sheet that cannot be written, before hours of work."""
    from rsseg_tf.doctor import KINDS, SHEET_SUFFIXES
    from rsseg_tf.doctor.sheet import check_sheet_place

    for code in ignore:
        if code not in KINDS:
            raise ConfigError(
                f"--ignore {code}: there is no such kind of finding.{did_you_mean(code, KINDS)} Allowed: "
                f"{', '.join(KINDS)}."
            )
    if sheet is None:
        return
    if sheet.suffix.lower() not in SHEET_SUFFIXES:
        raise ConfigError(f"--sheet writes {' or '.join(SHEET_SUFFIXES)} files; got {sheet}. Change the suffix.")
    check_sheet_place(sheet)
    make_file_place(sheet)


def _find_dataset(source: Any, overrides: Any, options: Mapping[str, Any]) -> CheckedDataset:
    """Returns the dataset to check."""
    from rsseg_tf.config import load_config
    from rsseg_tf.doctor import dataset_from_config, dataset_from_folder

    is_named = isinstance(source, str | os.PathLike)
    if is_named and Path(source).is_dir():
        if overrides:
            raise ConfigError(f"--set changes a config; {source} is a folder. Leave it out.")
        return dataset_from_folder(Path(source), **options)
    name = os.fspath(source) if is_named else "the config"
    if is_named and not name.endswith((".yml", ".yaml")) and not os.path.lexists(name):
        try:
            find_config(name)
        except ConfigError as error:
            raise DataError(
                f"There is no folder {name}, and no config of that name either.{address_hint(name)} Name a prepared "
                "folder, such as data/dubai, or a config; `rsseg-tf config list` names the shipped ones.",
                code="not-found",
            ) from error
    for option, value in options.items():
        if value is not None and value is not False:
            raise ConfigError(
                f"--{option.replace('_', '-')} goes with a folder; {name} is a config, which describes its dataset."
            )
    return dataset_from_config(load_config(source, overrides), name)
