"""Loads released weights into models: opens their source, finds the part of the model, and reports what was used.

A source is a name of `rsseg_tf.config.named_weights`, a file (`.pdparams`, torch's `.pth`, `.safetensors`, or a zip or
tar.gz archive with one of them), a URL of one, the folder of a checkpoint of ours, or the name of a keras-hub preset.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rsseg_tf.backbones.keras_hub import NECK
from rsseg_tf.build import build_backbone
from rsseg_tf.checkpoint import read_weights
from rsseg_tf.config import Config
from rsseg_tf.config.named_weights import APPLICATION_WEIGHTS, NAMED_WEIGHTS, find_weights
from rsseg_tf.config.zoo import Backbone, BackboneSection, C2FNet, KerasApplications, KerasHub, Model
from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.errors import WeightsError, did_you_mean
from rsseg_tf.files.cache import Progress, cached, is_offline
from rsseg_tf.weights.applications import read_application
from rsseg_tf.weights.assign import assign_variables
from rsseg_tf.weights.families import Family, Tensors, Translation, recognise, without_wrapper
from rsseg_tf.weights.labels import class_order, palette_note
from rsseg_tf.weights.layouts import inflate_bands, match_names
from rsseg_tf.weights.named import read_named
from rsseg_tf.weights.presets import is_hub_preset, is_preset, read_network, read_preset
from rsseg_tf.weights.tensors import TensorFile, read_tensors

__all__ = [
    "LoadReport",
    "Part",
    "backbone_names",
    "backbone_part",
    "backbone_paths",
    "load_backbone",
    "load_part",
    "load_pretrained",
    "open_source",
    "opened",
    "parts",
    "weight_names",
]

_LEAST_LIKENESS = 15  # percent of a part's tensors; a file with fewer of them is one of another architecture

_MOST_NAMED = 4  # layers of a file without a place here, such as a classifier


@dataclass(frozen=True)
class Part:
    """A part of a model that has a file of its own.

    Attributes:
        section: The section of the config, e.g. "model.backbone".
        row: What stands in that section.
        source: What its `pretrained` names.
        paths: Of its variables by itself, without `prefix`.
        prefix: What the paths begin with inside the model.
        whole: Whether a file must have nothing beyond this part; a backbone may come with the head it was trained with.
        spec: The dataset, for what the file says about classes and normalisation; None where it plays no part.
    """

    section: str
    row: Model | Backbone
    source: str | None
    paths: tuple[str, ...]
    prefix: str = ""
    whole: bool = False
    spec: DatasetSpec | None = None


@dataclass(frozen=True)
class LoadReport:
    """What was loaded.

    Attributes:
        section: The section of the config.
        file: Where it came from.
        tensors: Number of tensors that were used.
        values: Number of values in them.
        skipped: Names in the file that have no place in this part.
        notes: Lines about what was changed, or should be looked at.
    """

    section: str
    file: TensorFile
    tensors: int
    values: int
    skipped: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """Returns one line, and one for each note."""
        # Torch's counters are no weights.
        left = [name for name in self.skipped if not name.endswith("num_batches_tracked")]
        layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in left))
        named = ", ".join(layers[:_MOST_NAMED]) + (", …" if len(layers) > _MOST_NAMED else "")
        rest = f"; {len(left)} tensors of the file are not part of it ({named})" if left else ""
        line = f"{self.section}: {self.tensors} tensors from {self.file.source} ({self.file.format}){rest}"
        return "\n".join([line, *(f"{self.section}: {note}" for note in self.notes)])


def backbone_names(section: Backbone, paths: Iterable[str]) -> dict[str, str]:
    """Returns the names that a backbone's tensors have in released files, each with the path of the variable.

    Args:
        section: The backbone.
        paths: Of the variables of a model that holds the backbone; those of other layers are passed over.

    Returns:
        Nothing where no weights are released.
    """
    return {} if section.weight_names is None else _imported(section.weight_names)(paths)


def weight_names(section: Model, paths: Iterable[str]) -> dict[str, str]:
    """Returns the names that a model's tensors have in released files, each with the path of the variable.

    Args:
        section: The model. For c2fnet the names are those of the fine model.
        paths: Of all variables of the model. For c2fnet those of the fine model, without `fine/`.

    Returns:
        Nothing where no weights are released.

    Raises:
        WeightsError: When the rules of `rsseg_tf.weights.names` do not cover a variable.
    """
    paths = list(paths)
    if section.weight_names is None or section.backbone is None or section.backbone.weight_names is None:
        return {}
    names = _imported(section.weight_names)(paths, backbone_names(section.backbone, paths))
    if unnamed := sorted(set(paths) - set(names.values())):
        raise WeightsError(
            f"There is no name for {len(unnamed)} variables of {section.label} in released files (first: "
            f"{unnamed[0]}); add a rule to {section.weight_names}."
        )
    return dict(names)


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def backbone_part(section: Backbone, paths: Sequence[str], source: str | None = None) -> Part:
    """Returns a backbone as a part of a model whose variables have these paths."""
    own = set(backbone_names(section, paths).values())
    own = own or {variable.path for variable in build_backbone(section).weights}
    return Part("backbone", section, source, tuple(path for path in paths if path in own and not path.startswith(NECK)))


def parts(config: Config, model: Any) -> tuple[Part, ...]:
    """Returns the parts of a config's model, in the order in which they are loaded."""
    paths = [variable.path for variable in model.weights]

    def of(section: str, row: Model, prefix: str) -> list[Part]:
        own = [path.removeprefix(prefix) for path in paths if path.startswith(prefix)]
        found = [Part(section, row, row.pretrained, tuple(own), whole=True)]
        if row.backbone is not None:
            # A whole model brings its backbone along.
            source = None if row.pretrained else row.backbone.pretrained
            found = [replace(backbone_part(row.backbone, own, source), section=f"{section}.backbone"), *found]
        return [replace(part, prefix=prefix, spec=config.dataset.spec) for part in found]

    if isinstance(config.model, C2FNet):
        return (*of("model.coarse", config.model.coarse, "coarse/"), *of("model", config.model, "fine/"))
    return tuple(of("model", config.model, ""))


def backbone_paths(config: Config, model: Any) -> tuple[str, ...]:
    """Returns the paths of the variables that are the backbone of a config's model; of c2fnet's fine one.

    Nothing for a model without a backbone.
    """
    found = next((part for part in parts(config, model) if part.section == "model.backbone"), None)
    return () if found is None else tuple(found.prefix + path for path in found.paths)


def load_pretrained(
    model: Any, config: Config, *, offline: bool = False, progress: Progress | None = None
) -> list[LoadReport]:
    """Loads what the sections `pretrained` of a config name.

    Args:
        model: The `keras.Model` of this config.
        config: The config.
        offline: Whether the network is forbidden.
        progress: Called while files are downloaded.

    Returns:
        One report for each source.

    Raises:
        WeightsError: When a source cannot be had or read, or does not fit.
    """
    models = (config.model, config.model.coarse) if isinstance(config.model, C2FNet) else (config.model,)
    if not any(row.pretrained or (row.backbone and row.backbone.pretrained) for row in models):
        return []
    reports = []
    for part in parts(config, model):
        if part.source is not None:
            file = opened(part.row, part.source, offline=offline, progress=progress)
            reports.append(load_part(model, part, file))
    return reports


def opened(row: Model | Backbone, source: str, *, offline: bool, progress: Progress | None = None) -> TensorFile:
    """Reads the tensors of a source; networks of keras-hub and keras.applications bring their own."""
    offline = offline or is_offline()
    if isinstance(row, KerasHub) and is_hub_preset(source):
        return read_network(source, row, offline=offline)
    if isinstance(row, KerasApplications) and source == APPLICATION_WEIGHTS:
        return read_application(row, offline=offline)
    return open_source(source, offline=offline, progress=progress)


def load_backbone(model: Any, section: Backbone, source: str, *, offline: bool = False) -> LoadReport:
    """Loads weights into a backbone by itself, or into a model whose backbone has the same paths.

    Raises:
        WeightsError: When the source cannot be had or read, or does not fit.
    """
    part = backbone_part(section, [variable.path for variable in model.weights])
    return load_part(model, part, opened(section, source, offline=offline))


def open_source(source: str, *, offline: bool = False, progress: Progress | None = None) -> TensorFile:
    """Reads the tensors of a source.

    Raises:
        WeightsError: When the source cannot be read.
    """
    if source.startswith(("http://", "https://")):
        return read_tensors(cached(source, offline=offline, progress=progress), source.partition("#")[0])
    path = Path(source)
    if (weights := find_weights(source)) is not None and (weights.package or weights.url):
        return read_named(weights, offline=offline, progress=progress)
    if is_preset(source) and not path.exists():
        return read_preset(source, offline=offline or is_offline())
    if path.is_dir():
        arrays, digest = read_weights(path)
        return TensorFile(source, "checkpoint", digest, arrays, by_path=True)
    if path.is_file():
        return read_tensors(path)
    raise WeightsError(
        f"The weights {source} do not exist.{did_you_mean(source, NAMED_WEIGHTS)} Allowed: a file (.pdparams, .pth, "
        ".safetensors, or a zip or tar.gz with one of them), a URL that begins with http:// or https://, the folder of "
        "a checkpoint such as output/best_model, a preset of keras-hub such as resnet_vd_50_ssld_v2_imagenet, or "
        "another name of docs/licences.md, such as torchvision/resnet50 or efficientnet_lite0."
    )


def load_part(model: Any, part: Part, file: TensorFile) -> LoadReport:
    """Assigns the tensors of a file to a part of a `keras.Model`; every variable of the part gets one.

    Raises:
        WeightsError: When one is missing, left over or has another shape. Nothing is assigned then.
    """
    paths = {part.prefix + path for path in part.paths}
    if file.by_path and part.section == "model":  # our checkpoints hold whole models, the coarse one included
        paths = {variable.path for variable in model.weights}
    variables = {variable.path: variable for variable in model.weights if variable.path in paths}
    if file.by_path:
        # A checkpoint of c2fnet has the prefix; one of a model by itself has not.
        names = {path if path in file.tensors else path.removeprefix(part.prefix): path for path in variables}
        found = {name: file.tensors[name] for name in names if name in file.tensors}
        match = _Match(names, found, {name: array for name, array in file.tensors.items() if name not in found})
    else:
        match = _translated(part, file)
    names, found, rest = match.names, match.found, match.rest
    _require_likeness(part, file, len(found), len(names))
    found = _fit_bands(found, names, variables, file, part.section)
    left_over = {name: array for name, array in rest.items() if part.whole and not name.endswith("num_batches_tracked")}
    what = f"{part.section} ({file.source})"
    assign_variables(variables, found | left_over, names, what, channels_first=not file.by_path)
    used = [array for name, array in found.items() if name not in match.made]
    values = sum(int(np.prod(array.shape)) for array in used)
    return LoadReport(part.section, file, len(used), values, tuple(rest), match.notes)


@dataclass(frozen=True)
class _Match:
    """A file's tensors beside the variables of a part.

    Attributes:
        names: Names of the part's tensors, each with the path of its variable.
        found: Those that are there, by name.
        rest: The file's others.
        made: Names of tensors that are not from the file.
        notes: Lines for the report.
    """

    names: dict[str, str]
    found: dict[str, np.ndarray]
    rest: dict[str, np.ndarray]
    made: Collection[str] = ()
    notes: tuple[str, ...] = ()


def _translated(part: Part, file: TensorFile) -> _Match:
    """Finds the tensors of a part by the rules of their family.

    Raises:
        WeightsError: When no rules of names are for this part, or the file tells other classes apart.
    """
    tensors = without_wrapper(file.tensors)
    family = recognise(tensors)
    if family is None:
        names = _released(part)
        found, skipped = match_names(file.tensors, names)
        if len(found) * 100 >= len(names) * _LEAST_LIKENESS:
            _require_variant_of_paddleseg(part, file)
        match = _Match(names, found, {name: file.tensors[name] for name in skipped})
    else:
        match = _of_family(part, file, family, tensors)
    return replace(match, names={name: part.prefix + path for name, path in match.names.items()})


def _require_variant_of_paddleseg(part: Part, file: TensorFile) -> None:
    """Refuses weights with PaddleSeg's names for a network that is built as another project does."""
    for section, row in ((part.section, part.row), (f"{part.section}.backbone", getattr(part.row, "backbone", None))):
        variant = getattr(row, "variant", "paddleseg")
        if variant != "paddleseg":
            raise WeightsError(
                f"{file.source} is not for {part.section}: its tensors have PaddleSeg's names, and {section}.variant "
                f"is {variant}, which computes something else. Write {section}.variant: paddleseg."
            )


def _of_family(part: Part, file: TensorFile, family: Family, tensors: Tensors) -> _Match:
    notes: list[str] = []
    try:
        translation = family.translate(tensors, part.row, part.paths)
        notes += [*_normalisation_notes(part, family, translation), *translation.notes]
        if part.whole and translation.names:
            notes += family.agrees(part.row, file.training_config)
    except WeightsError as error:
        raise WeightsError(f"{file.source} does not fit {part.section}: {error}.") from error
    names = dict(translation.names)
    if not names:
        raise WeightsError(
            f"{file.source} is not for {part.section}, which is {part.row.label}: it holds "
            f"{family.describe(tensors)}, as {family.name} names it. Write the section model of that network."
        )
    prepared = dict(translation.tensors)
    if part.whole and part.spec is not None and file.labels is not None:
        order = class_order(file.labels, part.spec, file.source)
        if order is not None:
            prepared |= {
                name: prepared[name][list(order)]
                for name in translation.classifiers
                if name in prepared and prepared[name].shape[:1] == (len(order),)
            }
            notes.append("classes: the file has them in another order; their channels were put into the dataset's")
        if (note := palette_note(file.labels, part.spec)) is not None:
            notes.append(note)
    found = {name: prepared[name] for name in names if name in prepared}
    rest = {name: array for name, array in prepared.items() if name not in found}
    return _Match(names, found, rest, translation.made, tuple(notes))


def _normalisation_notes(part: Part, family: Family, translation: Translation) -> list[str]:
    """Returns a line if the dataset's images are not normalised as the family's weights want it as a rule.

    The rule is for weights of three bands, of which nothing more is known.
    """
    spec = part.spec
    if spec is None or family.normalisation is None or (part.source and find_weights(part.source) is not None):
        return []
    kernels = (translation.tensors.get(name) for name in translation.names)
    stem = next((kernel for kernel in kernels if kernel is not None and kernel.ndim == 4), None)
    if stem is None or stem.shape[1] != 3:
        return []
    usual = family.normalisation.for_bands(spec.bands)
    if np.allclose(spec.mean, usual.mean, atol=1e-3) and np.allclose(spec.std, usual.std, atol=1e-3):
        return []
    return [
        f"normalisation: weights of {family.name} are as a rule trained with mean {list(usual.mean)} and std "
        f"{list(usual.std)}; the config has mean {list(spec.mean)} and std {list(spec.std)}"
    ]


def _released(part: Part) -> dict[str, str]:
    """Returns the names of a part's tensors in files of the benchmark, each with the path of the variable by itself."""
    names_of: Any = backbone_names if isinstance(part.row, BackboneSection) else weight_names
    names: dict[str, str] = names_of(part.row, part.paths)
    if not names:
        raise WeightsError(
            f"There is no map of released weights for {part.row.name} ({part.section}). Leave `pretrained` out, name a "
            "checkpoint of ours, or write the map: weight_names of its row in rsseg_tf/config/zoo.py."
        )
    return names


def _require_likeness(part: Part, file: TensorFile, found: int, wanted: int) -> None:
    if found * 100 >= wanted * _LEAST_LIKENESS:
        return
    family = recognise(without_wrapper(file.tensors))
    if family is None:
        holds = f"its own are called {', '.join(list(file.tensors)[:3])}, …"
    else:
        holds = f"it is {family.describe(without_wrapper(file.tensors))} ({family.name})"
    raise WeightsError(
        f"{file.source} is not for {part.section}: it has {found} of the {wanted} tensors of this architecture; "
        f"{holds}. Use the config of the model that it comes from."
    )


def _fit_bands(
    found: dict[str, np.ndarray], names: Mapping[str, str], variables: Mapping[str, Any], file: TensorFile, section: str
) -> dict[str, np.ndarray]:
    """Inflates the first convolution of weights for three bands where the dataset has another number.

    Args:
        found: Tensors by their names in the file.
        names: Names in the file, each with the path of the variable.
        variables: By path, the first convolution's kernel before all others.
        file: Where the tensors are from; its kernels are (out, in, height, width) unless it goes by paths.
        section: Of the config.

    Raises:
        WeightsError: When they are for another number of bands than the dataset's, and not for three: nothing tells
            which filter would be for which band.
    """
    stem = next((path for path, variable in variables.items() if len(variable.shape) == 4), None)
    name = next((name for name, path in names.items() if path == stem), None)
    if stem is None or name is None or name not in found or found[name].ndim != 4:
        return found
    kernel, (height, width, bands, channels) = found[name], variables[stem].shape
    kernel = kernel.transpose(3, 2, 0, 1) if file.by_path else kernel
    if kernel.shape[1] == bands:
        return found
    if kernel.shape[1] == 3:
        inflated = inflate_bands(kernel, bands)
        return {**found, name: inflated.transpose(2, 3, 1, 0) if file.by_path else inflated}
    if (kernel.shape[0], *kernel.shape[2:]) == (channels, height, width):
        raise WeightsError(
            f"{file.source} does not fit {section}: its first convolution {name} is for {kernel.shape[1]} bands, and "
            f"the dataset has {bands}. Use images with the bands that the weights are for, or weights for three bands, "
            "which fit any number."
        )
    return found
