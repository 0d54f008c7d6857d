"""Modules and names that moved: the old ones work for one release, with a `DeprecationWarning` that names the new.

A row of `MODULES` holds for the submodules of a package too.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["MODULES", "NAMES", "moved_name", "redirect_imports"]

MODULES = {
    "rsseg_tf.checking": "rsseg_tf.doctor",
    "rsseg_tf.checking.starting": "rsseg_tf.doctor.first_look",
    "rsseg_tf.checking.targets": "rsseg_tf.doctor.dataset",
    "rsseg_tf.cluster": "rsseg_tf.predict.cluster",
    "rsseg_tf.datasets.archives": "rsseg_tf.files.archives",
    "rsseg_tf.datasets.cutting": "rsseg_tf.prepare.cutting",
    "rsseg_tf.datasets.finding": "rsseg_tf.files.walking",
    "rsseg_tf.datasets.gdal": "rsseg_tf.rasters.gdal",
    "rsseg_tf.datasets.images": "rsseg_tf.rasters.images",
    "rsseg_tf.datasets.judging": "rsseg_tf.datasets.rules",
    "rsseg_tf.datasets.listing": "rsseg_tf.files.lists",
    "rsseg_tf.datasets.looking": "rsseg_tf.rasters.inspection",
    "rsseg_tf.datasets.npz": "rsseg_tf.files.npz",
    "rsseg_tf.datasets.pairing": "rsseg_tf.datasets.recipe",
    "rsseg_tf.datasets.pixel_rows": "rsseg_tf.rasters.pixel_rows",
    "rsseg_tf.datasets.prepared": "rsseg_tf.prepare.output",
    "rsseg_tf.datasets.preparers": "rsseg_tf.prepare.run",
    "rsseg_tf.datasets.preparing": "rsseg_tf.prepare.workspace",
    "rsseg_tf.datasets.processes": "rsseg_tf.files.parallel",
    "rsseg_tf.datasets.ranges": "rsseg_tf.rasters.nodata",
    "rsseg_tf.datasets.rasters": "rsseg_tf.rasters.scenes",
    "rsseg_tf.datasets.remembering": "rsseg_tf.rasters.memory",
    "rsseg_tf.datasets.rgb_masks": "rsseg_tf.datasets.label_codings",
    "rsseg_tf.datasets.tile_names": "rsseg_tf.prepare.tile_names",
    "rsseg_tf.datasets.tiling": "rsseg_tf.rasters.windows",
    "rsseg_tf.datasets.vrt": "rsseg_tf.rasters.vrt",
    "rsseg_tf.datasets.world_files": "rsseg_tf.rasters.world_files",
    "rsseg_tf.evaluation": "rsseg_tf.evaluate.evaluation",
    "rsseg_tf.export.benchmark": "rsseg_tf.export.timing",
    "rsseg_tf.export.calibration": "rsseg_tf.export.tflite",
    "rsseg_tf.export.reference": "rsseg_tf.export.tiles",
    "rsseg_tf.export.warmup": "rsseg_tf.export.savedmodel",
    "rsseg_tf.inference": "rsseg_tf.predict",
    "rsseg_tf.inference.background": "rsseg_tf.files.parallel",
    "rsseg_tf.inference.ground": "rsseg_tf.rasters.ground",
    "rsseg_tf.inference.jobs": "rsseg_tf.predict.image",
    "rsseg_tf.inference.logits": "rsseg_tf.predict.engine",
    "rsseg_tf.inference.plain_paths": "rsseg_tf.files.paths",
    "rsseg_tf.inference.predict": "rsseg_tf.predict.plan",
    "rsseg_tf.pretrained": "rsseg_tf.weights.pretrained",
    "rsseg_tf.probe": "rsseg_tf.evaluate.probe",
    "rsseg_tf.protocols": "rsseg_tf.datasets.protocols",
    "rsseg_tf.serving.addresses": "rsseg_tf.serving.transports",
    "rsseg_tf.serving.json_text": "rsseg_tf.serving.tensors",
    "rsseg_tf.serving.loaded": "rsseg_tf.serving.versions",
    "rsseg_tf.serving.names": "rsseg_tf.serving.versions",
    "rsseg_tf.serving.protobufs": "rsseg_tf.serving.service",
    "rsseg_tf.serving.work": "rsseg_tf.serving.limits",
    "rsseg_tf.stitching": "rsseg_tf.evaluate.stitching",
    "rsseg_tf.serving.image_headers": "rsseg_tf.rasters.headers",
    "rsseg_tf.weights.cache": "rsseg_tf.files.cache",
}
"""Old module -> new one."""

NAMES = {
    "rsseg_tf.config.pretrain": {
        "DenseCL": "rsseg_tf.config.zoo:DenseCLSection",
        "LARS": "rsseg_tf.config.pretrain:LARSSection",
        "MoCoBYOL": "rsseg_tf.config.zoo:MoCoBYOLSection",
        "MoCoV2": "rsseg_tf.config.zoo:MoCoV2Section",
        "PixPro": "rsseg_tf.config.zoo:PixProSection",
        "SimSiam": "rsseg_tf.config.zoo:SimSiamSection",
        "SwAV": "rsseg_tf.config.zoo:SwAVSection",
    },
    "rsseg_tf.config.schema": dict.fromkeys(
        "Backbone CoarseModel DANet DeepLabV3Plus Dice FCN Focal HRNet HRNetContrast LRASPP LovaszSoftmax MobileNetV3 "
        "OCRNet OhemCrossEntropy PSPNet PixelLoss ResNet ResNetVd UPerNet".split(),
        "rsseg_tf.config.zoo",
    ),
    "rsseg_tf.datasets": {
        "DUBAI": "rsseg_tf.datasets.dubai",
        "ISAID": "rsseg_tf.datasets.isaid",
        "ImageHeader": "rsseg_tf.rasters.headers",
        "LOVEDA": "rsseg_tf.datasets.loveda",
        "OUTPUTS": "rsseg_tf.prepare.earlier",
        "POTSDAM": "rsseg_tf.datasets.isprs",
        "PREPARERS": "rsseg_tf.prepare.earlier",
        "PrepareOptions": "rsseg_tf.prepare.run",
        "PrepareReport": "rsseg_tf.prepare.output",
        "Preparer": "rsseg_tf.prepare.earlier",
        "SPECS": "rsseg_tf.datasets.table",
        "SYNTHETIC": "rsseg_tf.datasets.synthetic",
        "Sample": "rsseg_tf.files.lists",
        "Samples": "rsseg_tf.files.lists",
        "SplitReport": "rsseg_tf.prepare.output",
        "TILE_NAME_PATTERNS": "rsseg_tf.datasets.spec",
        "UNLABELLED": "rsseg_tf.prepare.earlier",
        "VAIHINGEN": "rsseg_tf.datasets.isprs",
        "Window": "rsseg_tf.rasters.windows",
        "dataset_spec": "rsseg_tf.datasets.table",
        "generate_synthetic": "rsseg_tf.prepare.synthetic",
        "image_header": "rsseg_tf.rasters.images",
        "list_images": "rsseg_tf.datasets.unlabelled",
        "missing_files": "rsseg_tf.files.lists",
        "parse_tile_name": "rsseg_tf.prepare.tile_names",
        "prepare_dataset": "rsseg_tf.prepare.run",
        "prepare_dubai": "rsseg_tf.prepare.earlier",
        "prepare_isaid": "rsseg_tf.prepare.earlier",
        "prepare_isprs": "rsseg_tf.prepare.earlier",
        "prepare_loveda": "rsseg_tf.prepare.earlier",
        "prepare_unlabelled": "rsseg_tf.prepare.earlier",
        "read_dataset_json": "rsseg_tf.prepare.output",
        "read_description": "rsseg_tf.prepare.output",
        "read_image": "rsseg_tf.rasters.images",
        "read_label": "rsseg_tf.rasters.images",
        "read_list": "rsseg_tf.files.lists",
        "rgb_to_ids": "rsseg_tf.datasets.label_codings",
        "sliding_windows": "rsseg_tf.rasters.windows",
        "tile_name": "rsseg_tf.prepare.tile_names",
        "windows": "rsseg_tf.rasters.windows",
        "write_image": "rsseg_tf.rasters.images",
        "write_list": "rsseg_tf.files.lists",
        "write_png": "rsseg_tf.rasters.images",
    },
    "rsseg_tf.doctor": {
        "Expected": "rsseg_tf.doctor.dataset:Expectation",
        "Target": "rsseg_tf.doctor.dataset:CheckedDataset",
        "target_from_config": "rsseg_tf.doctor.dataset:dataset_from_config",
        "target_from_folder": "rsseg_tf.doctor.dataset:dataset_from_folder",
    },
    "rsseg_tf.training.loop": {"train": "rsseg_tf.training.segmentation"},
}
"""Module that offered a name -> the name -> module that has it now; a name that changed stands behind a colon."""


def moved_name(package: str, name: str) -> Any:
    """Returns what a package offered under a name, from the module that has it now.

    Args:
        package: The package's full name.
        name: The name that was asked for.

    Raises:
        AttributeError: When the package never offered it.
    """
    place = NAMES.get(package, {}).get(name)
    if place is None:
        raise AttributeError(f"module '{package}' has no attribute '{name}'")
    module, _, present = place.partition(":")
    present = present or name
    _warn(f"{package}.{name}", f"{module}.{present}", stacklevel=4)
    return getattr(importlib.import_module(module), present)


def redirect_imports() -> None:
    """Makes imports by old names find the modules under their new names."""
    sys.meta_path.insert(0, _Redirect())


class _Redirect:
    """Finds and loads modules by their old names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answers for old names alone."""
        return ModuleSpec(fullname, self) if _new_name(fullname) else None  # type: ignore[arg-type]  # a loader by shape

    def create_module(self, spec: ModuleSpec) -> None:
        """Leaves the stand-in to the import system; `exec_module` replaces it."""

    def exec_module(self, module: ModuleType) -> None:
        """Puts the module with the new name in the stand-in's place: there is only one of it."""
        old = module.__name__
        new = _new_name(old)
        _warn(old, new, stacklevel=3)
        sys.modules[old] = importlib.import_module(new)


def _new_name(old: str) -> str:
    """Returns the new name of a module, or nothing for one that did not move."""
    if old in MODULES:
        return MODULES[old]
    parent, _, name = old.rpartition(".")
    return f"{MODULES[parent]}.{name}" if parent in MODULES else ""


def _warn(old: str, new: str, *, stacklevel: int) -> None:
    """Warns at the line that imports, which is `stacklevel` calls above."""
    text = f"{old} is {new} now; the old name will go with the next release."
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel)
