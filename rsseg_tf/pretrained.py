"""Puts released weights into models: where they come from, which part of the model they are for, and what was used.

A source is a file (`.pdparams`, torch's `.pth`, or a zip or tar.gz archive with one of them), a URL of one, the folder
of a checkpoint of ours, or the name of a keras-hub preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from rsseg_tf.build import backbone_names, weight_names
from rsseg_tf.checkpoint import read_weights
from rsseg_tf.config import Config
from rsseg_tf.config.schema import Backbone, C2FNet, Model
from rsseg_tf.errors import WeightsError
from rsseg_tf.files.cache import Progress, cached, is_offline
from rsseg_tf.weights import TensorFile, assign_variables, inflate_bands, match_names, read_tensors
from rsseg_tf.weights.presets import is_preset, read_preset

__all__ = ["LoadReport", "Part", "load_backbone", "load_part", "load_pretrained", "open_source", "parts"]

_HINT = 15  # share of variables, in percent, below which a file is called one of another architecture


@dataclass(frozen=True)
class Part:
    """A part of a model that has a file of its own.

    Attributes:
        section: the section of the config, e.g. "model.backbone".
        source: what its `pretrained` says.
        names: the benchmark's names of its tensors, each with the path of our variable.
        prefix: what the paths begin with inside this model.
        stem: the name of the first convolution of its backbone.
        whole: whether a file must have nothing beyond these names; a backbone may come with the head it was trained
            with.
    """

    section: str
    source: str | None
    names: Mapping[str, str]
    prefix: str
    stem: str
    whole: bool


@dataclass(frozen=True)
class LoadReport:
    """What was loaded.

    Attributes:
        section: the section of the config.
        file: where it came from.
        tensors: number of tensors that were used.
        values: number of values in them.
        skipped: names in the file that have no place in this part.
    """

    section: str
    file: TensorFile
    tensors: int
    values: int
    skipped: tuple[str, ...]

    def summary(self) -> str:
        """Returns one line."""
        rest = f"; {len(self.skipped)} tensors of the file are not part of it" if self.skipped else ""
        return f"{self.section}: {self.tensors} tensors from {self.file.source} ({self.file.format}){rest}"


def parts(config: Config) -> tuple[Part, ...]:
    """Returns the parts of a config's model, in the order in which they are loaded."""

    def of(section: str, model: Model, prefix: str) -> tuple[Part, Part]:
        inner, outer = backbone_names(model.backbone), weight_names(model)
        stem = next(iter(inner))
        inner = {name: prefix + path for name, path in inner.items()}
        if not isinstance(model, C2FNet):  # whose names have their prefix already
            outer = {name: prefix + path for name, path in outer.items()}
        whole_stem = next(name for name, path in outer.items() if path == inner[stem])
        # A whole model brings its backbone along.
        source = None if model.pretrained else model.backbone.pretrained
        return (
            Part(f"{section}.backbone", source, inner, prefix, stem, False),
            Part(section, model.pretrained, outer, prefix, whole_stem, True),
        )

    if isinstance(config.model, C2FNet):
        return (*of("model.coarse", config.model.coarse, "coarse/"), *of("model", config.model, "fine/"))
    return of("model", config.model, "")


def load_pretrained(
    model: keras.Model, config: Config, *, offline: bool = False, progress: Progress | None = None
) -> list[LoadReport]:
    """Loads what the sections `pretrained` of a config name.

    Args:
        model: of this config.
        config: the config.
        offline: whether the network is forbidden.
        progress: called while files are downloaded.

    Returns:
        One report for each source.

    Raises:
        WeightsError: when a source cannot be had or read, or does not fit.
    """
    models = (config.model, config.model.coarse) if isinstance(config.model, C2FNet) else (config.model,)
    if not any(model.pretrained or model.backbone.pretrained for model in models):
        return []  # where nothing is released, there need be no map of names
    reports = []
    for part in parts(config):
        if part.source is not None:
            file = open_source(part.source, offline=offline, progress=progress)
            reports.append(load_part(model, part, file))
    return reports


def load_backbone(model: keras.Model, section: Backbone, source: str, *, offline: bool = False) -> LoadReport:
    """Loads weights into a backbone by itself, or into a model whose backbone has the same paths.

    Raises:
        WeightsError: when the source cannot be had or read, or does not fit.
    """
    names = backbone_names(section)
    part = Part("backbone", source, names, "", next(iter(names)), False)
    return load_part(model, part, open_source(source, offline=offline))


def open_source(source: str, *, offline: bool = False, progress: Progress | None = None) -> TensorFile:
    """Reads the tensors of a source.

    Raises:
        WeightsError: when it is nothing that can be read.
    """
    if source.startswith(("http://", "https://")):
        return read_tensors(cached(source, offline=offline, progress=progress), source.partition("#")[0])
    path = Path(source)
    if is_preset(source) and not path.exists():
        return read_preset(source, offline=offline or is_offline())
    if path.is_dir():
        arrays, digest = read_weights(path)
        return TensorFile(source, "checkpoint", digest, arrays, ours=True)
    if path.is_file():
        return read_tensors(path)
    raise WeightsError(
        f"The weights {source} do not exist. Allowed: a file (.pdparams, .pth, or a zip or tar.gz archive with one), a "
        "URL that begins with http:// or https://, the folder of a checkpoint such as output/best_model, or a preset "
        "of keras-hub such as resnet_vd_50_ssld_v2_imagenet."
    )


def load_part(model: keras.Model, part: Part, file: TensorFile) -> LoadReport:
    """Assigns the tensors of a file to a part of a model; every variable of the part gets one.

    Raises:
        WeightsError: when one is missing, left over or has another shape. Nothing is assigned then.
    """
    paths = set(part.names.values())
    if file.ours and part.section == "model":  # our checkpoints hold whole models, the coarse one included
        paths = {variable.path for variable in model.weights}
    variables = {variable.path: variable for variable in model.weights if variable.path in paths}
    if file.ours:
        # A checkpoint of c2fnet has the prefix; one of a model by itself has not.
        names = {path if path in file.tensors else path.removeprefix(part.prefix): path for path in variables}
        found = {name: file.tensors[name] for name in names if name in file.tensors}
        skipped = tuple(name for name in file.tensors if name not in found)
    else:
        names = {name: path for name, path in part.names.items() if path in variables}
        found, skipped = match_names(file.tensors, names)
    _require_likeness(part, file, len(found), len(names))
    found = _fit_bands(found, names, variables, part)
    left_over = {
        name: file.tensors[name] for name in skipped if part.whole and not name.endswith("num_batches_tracked")
    }
    what = f"{part.section} ({file.source})"
    assign_variables(variables, found | left_over, names, what, theirs=not file.ours)
    values = sum(int(np.prod(array.shape)) for array in found.values())
    return LoadReport(part.section, file, len(found), values, skipped)


def _require_likeness(part: Part, file: TensorFile, found: int, wanted: int) -> None:
    if found * 100 >= wanted * _HINT:
        return
    examples = ", ".join(list(file.tensors)[:3])
    raise WeightsError(
        f"{file.source} is not for {part.section}: it has {found} of the {wanted} tensors of this architecture; its "
        f"own are called {examples}, …. Use the config of the model that it comes from."
    )


def _fit_bands(
    found: dict[str, np.ndarray], names: Mapping[str, str], variables: Mapping[str, keras.Variable], part: Part
) -> dict[str, np.ndarray]:
    """Inflates the first convolution where the dataset has another number of bands than three."""
    path = part.names[part.stem]
    name = next((name for name, own in names.items() if own == path), None)
    if name is None or name not in found or found[name].ndim != 4:
        return found
    ours = name != part.stem  # then (height, width, in, out)
    kernel, bands = found[name], variables[path].shape[2]
    theirs = kernel.transpose(3, 2, 0, 1) if ours else kernel
    if theirs.shape[1] != 3 or bands == 3:
        return found
    inflated = inflate_bands(theirs, bands)
    return {**found, name: inflated.transpose(2, 3, 1, 0) if ours else inflated}
