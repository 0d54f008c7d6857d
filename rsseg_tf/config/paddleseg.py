"""Turns configs of PaddleSeg into configs of rsseg-tf.

PaddleSeg's files are YAML with `_base_`: mappings merge, lists replace. A setting without a counterpart is a problem,
and all problems are listed; a decision of the importer is a note. The tables (`_LOSSES`, `_SEGMENTORS`, …) hold the
counterparts. The defaults are those of PaddleSeg's paddleseg/{cvlibs, transforms, models}.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rsseg_tf.config.document import Document
from rsseg_tf.config.foreign import ForeignSection, ImportReport, KeyRule, KindRule
from rsseg_tf.config.loader import config_from_document
from rsseg_tf.config.paddleseg_data import DATASETS, KnownDataset
from rsseg_tf.config.yaml_text import compose, read_text
from rsseg_tf.datasets.table import SPECS
from rsseg_tf.errors import ConfigError, address_hint, did_you_mean, reason
from rsseg_tf.files import StrPath

__all__ = ["ImportedConfig", "import_paddleseg", "names_a_model"]

_BACKBONES = {
    name: name.lower()
    for name in ("ResNet50", "ResNet101", "ResNet18_vd", "ResNet50_vd", "ResNet101_vd", "HRNet_W18", "HRNet_W48")
} | {f"MixVisionTransformer_B{size}": f"mit_b{size}" for size in range(6)}
# What PaddleSeg's normalisations of a MiT add to the variance.
_MIT_EPSILONS = {"norm_epsilon": 1e-6, "embed_epsilon": 1e-5}
# Of all branches together: 18 + 36 + 72 + 144, and 48 + 96 + 192 + 384.
_HRNET_CHANNELS = {"hrnet_w18": 270, "hrnet_w48": 720}
_MOST_FILES = 50  # real configs read two or three; two bases in each of ten files would be a thousand
_FEATURES = ("c2", "c3", "c4", "c5")  # by PaddleSeg's index, 0 to 3
_NO_NORMALIZE = "transforms: Normalize is needed: images are always normalized here."


@dataclass(frozen=True)
class ImportedConfig:
    """An imported config.

    Attributes:
        values: The sections of the config; without a model for a base file.
        notes: Decisions of the importer, for the reader.
    """

    values: dict[str, Any]
    notes: tuple[str, ...]

    def text(self, source: str) -> str:
        """Returns the YAML file, with the notes at the top."""
        comments = [f"From {source} of PaddleSeg.", *(f"Note: {note}" for note in self.notes)]
        comments = [f"# {' '.join(comment.split())}" for comment in comments]  # a name may hold a line break
        body = yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
        return "\n".join(comments) + "\n" + body


def import_paddleseg(path: StrPath) -> ImportedConfig:
    """Reads a config of PaddleSeg and its base files.

    Args:
        path: A YAML file of PaddleSeg. A base file without a model gives the sections that it has.

    Raises:
        ConfigError: One line per problem: keys, types and values without a counterpart, or an unreadable file.
    """
    path = Path(path)
    report = ImportReport()
    values = _convert(ForeignSection(_read(path, report, ()), path.name, report))
    report.finish()
    if not report.problems:
        # The result is checked as any config; a base file without a model is checked with the simplest one.
        stand_in = {
            "model": {"name": "fcn", "backbone": {"name": "hrnet_w18"}},
            "loss": {"main": {"name": "cross_entropy"}},
        }
        whole = values if "model" in values else {**values, **stand_in}
        try:
            config_from_document(Document(whole), path.name)
        except ConfigError as error:
            report.problems += str(error).splitlines()
    if report.problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in report.problems))
    return ImportedConfig(values, tuple(dict.fromkeys(report.notes)))


def names_a_model(path: StrPath) -> bool:
    """Returns whether a config of PaddleSeg or one of its bases has a section `model`; True if it cannot be read."""
    try:
        return "model" in _read(Path(path), ImportReport(), ())
    except ConfigError:
        return True


# === Reading ===


class _Loader(yaml.SafeLoader):
    """Keeps the last of two equal keys, as PaddleSeg's reader does, and notes that there were two."""

    duplicates: list[str]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(str(key.value) for key, _ in node.value)
        self.duplicates += [
            f"'{key}' is written twice (line {node.start_mark.line + 1} on); the last one counts, as in PaddleSeg."
            for key, count in keys.items()
            if count > 1
        ]
        return super().construct_mapping(node, deep)


def _read(path: Path, report: ImportReport, parents: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in parents:
        raise ConfigError(f"{path} is based on itself; remove one `_base_`.")
    report.files += 1
    if report.files > _MOST_FILES:
        raise ConfigError(f"{path} is the {report.files}th file read as a `_base_`; at most {_MOST_FILES} are.")
    try:
        loader = _Loader(read_text(path))
        loader.duplicates = []
        node = compose(loader, str(path))
        values = None if node is None else loader.construct_document(node)
    # ValueError: numbers of thousands of digits, dates that do not exist.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        by = f", the _base_ of {parents[-1].name}," if parents else ""
        raise ConfigError(f"{path}{by} cannot be read as YAML: {reason(error)}.{address_hint(path)}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must be a mapping of sections; got {type(values).__name__}.")
    report.notes += loader.duplicates
    bases = values.pop("_base_", None) or []
    bases = bases if isinstance(bases, list) else [bases]
    if not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: _base_ must be a file or a list of files; got {bases!r}.")
    for base in bases:
        values = _merge(values, _read(path.parent / base, report, (*parents, path.resolve())))
    return values


def _merge(values: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Merges by PaddleSeg's rule: mappings merge unless `_inherited_: False`, everything else replaces."""
    if not values.get("_inherited_", True):
        return {key: value for key, value in values.items() if key != "_inherited_"}
    merged = dict(base)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(value, merged[key]) if both else value
    return merged


# === Sections ===


def _convert(file: ForeignSection) -> dict[str, Any]:
    values: dict[str, Any] = {}
    train, val = file.section("train_dataset"), file.section("val_dataset")
    ignored, classes = 255, None
    if train is not None or val is not None:
        values, ignored, classes = _datasets(train, val, file.report)
    _check_classes(file, classes)
    if (model := file.section("model")) is not None:
        values["model"] = _model(model, file)
    if (loss := file.section("loss")) is not None:
        values["loss"] = _losses(loss, _heads(values.get("model")), ignored)
    if (optimizer := file.section("optimizer")) is not None:
        values["optimizer"] = _optimizer(optimizer)
    run = {"iters": file.take("iters"), "batch_size": file.take("batch_size")}
    if (schedule := file.section("lr_scheduler")) is not None:
        values["lr_schedule"] = _schedule(schedule, run["iters"])
    if any(value is not None for value in run.values()):
        values["train"] = {key: value for key, value in run.items() if value is not None}
    if (evaluation := file.section("test_config")) is not None:
        values["eval"] = _evaluation(evaluation)
    file.only("to_static_training", False, True, because="it must be true or false.")
    return values


def _check_classes(file: ForeignSection, classes: Any) -> None:
    """Requires the dataset's number of classes in each model, as PaddleSeg does.

    Args:
        file: The whole file.
        classes: The dataset's number of classes; None without a dataset.
    """
    for key in ("model", "coase_model", "coarse_model"):
        model = file.unread.get(key)
        given = model.get("num_classes") if isinstance(model, Mapping) else None
        if given is not None and classes is None:
            file.report.notes.append(f"num_classes of {key} is left out: it follows from the dataset here.")
        elif given is not None and given != classes:
            file.problem(f"num_classes of {key} is {given!r}, that of the dataset {classes!r}; they must be the same.")


def _datasets(
    train: ForeignSection | None, val: ForeignSection | None, report: ImportReport
) -> tuple[dict[str, Any], int, Any]:
    """Returns the sections `dataset` and `augment`, the ignored id, and the number of classes."""
    parts = [part for part in (train, val) if part is not None]
    kinds = [_check_dataset(part, mode) for part, mode in ((train, "train"), (val, "val")) if part is not None]
    if kinds[-1] != kinds[0]:
        parts[1].problem(f"the type is {kinds[1]}, that of train_dataset {kinds[0]}; make them the same.")
    root = _common_root(parts)
    known = DATASETS.get(str(kinds[0]))
    if known is not None:
        dataset, classes, ignored = _known_dataset(known, train, val, root), len(known.classes) or None, 255
    else:
        dataset, classes, ignored = _listed_dataset(train, val, root)
    augment, normalizations = _all_transforms(train, val, ignored)
    if len(normalizations) == 2 and normalizations[0] != normalizations[1]:
        parts[1].problem(
            f"Normalize has {_in_words(normalizations[1])}, in train_dataset {_in_words(normalizations[0])}; images "
            "are normalized in one way here. Make them the same."
        )
    statistics = next(iter(normalizations), None) or {}
    if statistics and dataset["name"] != "custom":
        report.problems.append(f"Normalize: mean and std of '{dataset['name']}' are 0.5 here; got {statistics}.")
    return {"dataset": {**dataset, **statistics}} | ({"augment": augment} if train else {}), ignored, classes


def _check_dataset(part: ForeignSection, mode: str) -> Any:
    """Reads settings with one allowed value and those that PaddleSeg ignores; returns the type."""
    kind = part.take("type", "Dataset")
    part.only("edge", False, because="there are no labels of edges here.")
    if isinstance(kind, str) and kind in DATASETS:
        return kind  # its mode may be another one
    if kind != "Dataset":
        part.problem(
            f"the type {kind} is not known; allowed: Dataset with {mode}_path and dataset_root, "
            f"{', '.join(name for name, known in DATASETS.items() if known.refused is None)}."
        )
    part.only("mode", mode, because=f"it must be {mode}.")
    part.only("separator", " ", "\t", because="lists here separate image and label by a space or a tab.")
    part.only("img_channels", 3, because="the importer takes images of 3 bands.")
    others = [f"{name}_path" for name in ("train", "val", "test") if name != mode]
    part.unused(*others, because=f"PaddleSeg reads only {mode}_path in this section")
    return kind


def _common_root(parts: list[ForeignSection]) -> str:
    """Returns the root, which train and val share here."""
    roots = [part.text("dataset_root") for part in parts]
    for part, root in zip(parts[1:], roots[1:], strict=True):
        if os.path.normpath(root or "data") != os.path.normpath(roots[0] or "data"):
            part.problem(
                f"dataset_root is {root!r}, that of train_dataset {roots[0]!r}; there is one root here. Move the data "
                "under one folder, and write the paths in both lists relative to it."
            )
    return roots[0] or "data"


def _known_dataset(
    known: KnownDataset, train: ForeignSection | None, val: ForeignSection | None, root: str
) -> dict[str, Any]:
    """Returns the section `dataset` for one whose classes PaddleSeg knows."""
    dataset: dict[str, Any] = {"name": "custom", "root": root}
    commands = []
    for part, mode in ((train, "train"), (val, "val")):
        if part is None:
            continue
        given = part.take("mode", mode)
        if known.refused is not None:
            part.give_up(f"{known.title} cannot be taken: {known.refused}.")
            continue
        allowed = [name for name in (known.commands or known.lists) if (name == "val") == (mode == "val")]
        if given not in allowed:
            part.problem(f"mode is {given!r}; it must be {' or '.join(allowed)}.")
            continue
        if (name := known.lists.get(given, f"{mode}.txt")) != f"{mode}.txt":
            dataset[f"{mode}_list"] = name
        commands += [known.commands[given]] if given in known.commands else []
    report = next(part for part in (train, val) if part is not None).report
    if commands:
        report.notes.append(
            f"{known.title} brings no lists that are read here. {known.needs}{' ' if known.needs else ''}Write them "
            f"once: (cd {shlex.quote(root)} && {{ {'; '.join(commands)}; }})"
        )
    elif known.refused is None:
        report.notes.append(f"PaddleSeg downloads {known.title} by itself; here its files must lie in {root}.")
    dataset["classes"] = list(known.classes) or ["class_0", "class_1"]
    if known.palette:
        dataset["palette"] = [list(colour) for colour in known.palette]
    return {**dataset, "title": known.title}


def _listed_dataset(
    train: ForeignSection | None, val: ForeignSection | None, root: str
) -> tuple[dict[str, Any], Any, int]:
    """Returns the section `dataset` for one that is given by two lists, the number of classes and the ignored id."""
    parts = [part for part in (train, val) if part is not None]
    classes, ignored = _common_facts(parts)
    # PaddleSeg does not name datasets; the folder does, if the number of classes agrees.
    folder = Path(root).name.lower()
    is_known = folder in SPECS and SPECS[folder].num_classes == classes
    dataset: dict[str, Any] = {"name": folder if is_known else "custom", "root": root}
    lists = (("train_list", train, "train_path"), ("val_list", val, "val_path"))
    # Lists relative to the root; those with their default names are not written.
    for key, path in ((key, part.text(name)) for key, part, name in lists if part is not None):
        if path is not None and (relative := os.path.relpath(path, root)) != key.replace("_list", ".txt"):
            dataset[key] = relative
    if dataset["name"] == "custom":
        sound = isinstance(classes, int) and not isinstance(classes, bool) and 0 < classes <= 256
        if not sound:
            parts[0].problem(f"num_classes must be a number of classes, up to 256; got {classes!r}.")
        count = classes if sound else 1
        dataset["classes"] = [f"class_{i}" for i in range(count)]
        parts[0].report.notes.append(
            f"{root} is no dataset known here: its classes are called class_0 to class_{count - 1}."
        )
        if ignored != 255:
            dataset["ignore_index"] = ignored
    elif ignored != (expected := SPECS[dataset["name"]].ignore_index):
        parts[0].problem(f"ignore_index is {ignored!r}; that of {dataset['name']} is {expected} here.")
    return dataset, classes, ignored


def _common_facts(parts: list[ForeignSection]) -> tuple[Any, Any]:
    """Returns the number of classes and the ignored id, which train and val share here."""
    counts = [part.take("num_classes") for part in parts]
    if len(counts) == 2 and counts[0] != counts[1]:
        parts[1].problem(f"num_classes is {counts[1]!r}, that of train_dataset {counts[0]!r}; make them the same.")
    stated = [part.take("ignore_index") for part in parts]
    given = list(dict.fromkeys(repr(value) for value in stated if value is not None))
    ignored = next((value for value in stated if value is not None), 255)
    # Training ignores the id that either part states, evaluation the one of val_dataset, or 255.
    if len(given) > 1 or (len(parts) == 2 and stated[1] is None and ignored != 255):
        parts[1].problem(
            f"ignore_index is {255 if stated[1] is None else stated[1]!r}, that of train_dataset {stated[0]!r}; there "
            "is one ignored id here. Make them the same."
        )
    return counts[0], ignored


def _all_transforms(
    train: ForeignSection | None, val: ForeignSection | None, ignored: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the section `augment`, and mean and std of train and val."""
    augment: dict[str, Any] = {}
    normalizations = []
    if train is not None:
        augment, normalization = _augment(train, ignored)
        normalizations += [] if normalization is None else [normalization]
    if val is not None and ("transforms" in val.unread or augment.get("crop_size")):
        normalization = None
        for section in val.sections("transforms", "val_dataset.transforms"):
            if (kind := section.take("type")) == "Normalize":
                normalization = _statistics(section)
            elif kind == "Padding":
                size = section.take("target_size")
                section.unused("im_padding_value", "label_padding_value", because="nothing is padded here")
                section.report.notes.append(
                    f"PaddleSeg pads validation images to {size} before it predicts them, at the bottom and right; "
                    "here they are predicted at their own size, so that scores differ a little."
                )
            else:
                section.give_up(f"{kind} has no counterpart: images are evaluated at their own size. Remove it.")
        if normalization is None:
            val.problem(_NO_NORMALIZE)
        else:
            normalizations.append(normalization)
    return augment, normalizations


def _augment(train: ForeignSection, ignored: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Returns the section `augment`, and mean and std (see `_statistics`) where the file gives them."""
    # A transform that is not in the list does not happen, whatever the defaults of `Augment`.
    augment: dict[str, Any] = {"scale_range": [1.0, 1.0], "flip_horizontal": 0.0}
    augment |= {f"{name}_range": 0.0 for name in ("brightness", "contrast", "saturation", "hue")}
    if "transforms" not in train.unread:
        return augment, None
    statistics: dict[str, Any] | None = None
    # Flips and changes of colour of a crop give the same in any order.
    order = {"ResizeStepScaling": 0, "RandomRotation": 1, "RandomPaddingCrop": 2, "RandomHorizontalFlip": 3,
             "RandomVerticalFlip": 3, "RandomDistort": 3, "Normalize": 4}  # fmt: skip
    seen: list[str] = []
    for section in train.sections("transforms", "train_dataset.transforms"):
        kind = str(section.take("type"))
        section.where += f".{kind}"  # so that problems name the transform
        if kind in _SIZED:
            section.give_up(
                f"it brings images to {_SIZED[kind]}; here they keep theirs, and RandomPaddingCrop makes batches of "
                "one size. Use that instead."
            )
        elif kind not in order:
            section.give_up(f"it has no counterpart here; allowed: {', '.join(order)}.{did_you_mean(kind, order)}")
        else:
            seen.append(kind)
            if kind == "Normalize":
                statistics = _statistics(section)
            elif kind == "RandomPaddingCrop":
                turned = augment.get("image_padding", 127.5)
                augment |= _crop(section, ignored)
                if "rotate_degrees" in augment and turned != augment.get("image_padding", 127.5):
                    section.problem(
                        f"im_padding_value is {augment.get('image_padding', 127.5)}, that of RandomRotation {turned}; "
                        "there is one here."
                    )
            elif kind == "RandomRotation":
                augment |= _rotation(section, ignored)
            else:
                augment |= _TRANSFORMS[kind](section)
    if seen != sorted(seen, key=order.__getitem__) or len(set(seen)) != len(seen):
        train.problem(f"transforms: the order here is {', '.join(order)}, each once; got {', '.join(seen)}.")
    if augment.get("image_padding") == 127.5:  # the default of bytes, as PaddleSeg's
        del augment["image_padding"]
    if "RandomPaddingCrop" not in seen:
        train.problem("transforms: RandomPaddingCrop is needed: batches have one size.")
    if "Normalize" not in seen:
        train.problem(_NO_NORMALIZE)
    return augment, statistics


_SIZED = {
    "Resize": "a size that is not their own", "ResizeByShort": "a length of the short side",
    "ResizeByLong": "a length of the long side", "ResizeRangeScaling": "a random length of the long side",
    "ScalePadding": "a square of one size",
}  # fmt: skip
"""Transforms that scale images to a size, and which."""


def _statistics(section: ForeignSection) -> dict[str, Any]:
    """Returns mean and std of each band, or nothing where all are 0.5, the default of rsseg-tf."""
    given = {key: [float(value) for value in section.numbers(key, [0.5])] for key in ("mean", "std")}
    for key, values in given.items():
        if len(values) not in (1, 3):
            section.problem(f"{key} must have one value or one for each band; got {values}.")
    # One value stands for all bands: PaddleSeg's arrays broadcast.
    given = {key: values * 3 if len(values) == 1 else values for key, values in given.items()}
    return {} if all(value == 0.5 for values in given.values() for value in values) else given


def _in_words(statistics: dict[str, Any]) -> str:
    return f"mean {statistics['mean']} and std {statistics['std']}" if statistics else "mean and std 0.5"


def _scaling(section: ForeignSection) -> dict[str, Any]:
    low, high = section.number("min_scale_factor", 0.75), section.number("max_scale_factor", 1.25)
    return {"scale_range": [float(low), float(high)], "scale_step": section.real("scale_step_size", 0.25)}


def _crop(section: ForeignSection, ignored: int) -> dict[str, Any]:
    size, padding = section.take("crop_size", [512, 512]), section.numbers("im_padding_value", [127.5], single=True)
    section.only("label_padding_value", 255, ignored, because="what is padded is ignored here.")
    section.only("category_max_ratio", 1.0, because="crops are not chosen by their classes here.")
    section.unused("ignore_index", "loop_times", because="it counts with category_max_ratio alone")
    if len(set(padding)) != 1:
        section.problem(f"im_padding_value must be one value here; got {padding}.")
    return {"crop_size": size, "image_padding": float(padding[0])}


def _rotation(section: ForeignSection, ignored: int) -> dict[str, Any]:
    """PaddleSeg turns every image by an angle of -max_rotation to max_rotation, and lets it grow."""
    degrees = section.real("max_rotation", 15)
    if degrees <= 0:
        section.unused("im_padding_value", "label_padding_value", because="nothing is turned with max_rotation 0")
        return {}
    if degrees > 180:
        section.problem(f"max_rotation is {degrees:g}; 180 turns everywhere.")
    section.only("label_padding_value", 255, ignored, because="what is padded is ignored here.")
    padding = section.numbers("im_padding_value", [127.5], single=True)
    return {
        "rotate_degrees": degrees,
        "rotate_probability": 1.0,
        "rotate_whole": True,
        "image_padding": float(padding[0]),
    }


def _distort(section: ForeignSection) -> dict[str, Any]:
    augment: dict[str, Any] = {}
    probabilities = {}
    for name, default in (("brightness", 0.5), ("contrast", 0.5), ("saturation", 0.5), ("hue", 18)):
        augment[f"{name}_range"] = section.real(f"{name}_range", default)
        probability = probabilities[name] = section.real(f"{name}_prob", 0.5)
        if probability == 0:  # the change never happens, and has no probability of its own here
            augment[f"{name}_range"] = 0.0
    section.unused("sharpness_range", because="it counts with sharpness_prob alone")
    section.only("sharpness_prob", 0, because="sharpness has no counterpart; set it to 0.")
    used = {value for value in probabilities.values() if value}
    if len(used) > 1:
        section.problem(f"there is one probability for all colour changes here; got {probabilities}.")
    return augment | ({"distort_probability": used.pop()} if used and used != {0.5} else {})


# The defaults of probabilities are PaddleSeg's, 0.5 and 0.1, not those of `Augment`.
_TRANSFORMS: dict[str, Callable[[ForeignSection], dict[str, Any]]] = {
    "ResizeStepScaling": _scaling,
    "RandomHorizontalFlip": lambda section: {"flip_horizontal": section.real("prob", 0.5)},
    "RandomVerticalFlip": lambda section: {"flip_vertical": section.real("prob", 0.1)},
    "RandomDistort": _distort,
}


_REAL = ForeignSection.real
_DECAY = KeyRule("weight_decay", 0.0, _REAL)
_BETAS = {"beta1": KeyRule("beta_1", 0.9, _REAL), "beta2": KeyRule("beta_2", 0.999, _REAL)}
_ADAM = {"lazy_mode": ((False,), "all weights take part in each step here."),
         "epsilon": ((1e-8,), "the number that Adam divides by is fixed here.")}  # fmt: skip
_OPTIMIZERS = {
    # PaddleSeg's SGD is plain without the key momentum, and its Momentum with it.
    "sgd": KindRule("sgd", {"momentum": KeyRule("momentum", 0.0, _REAL), "weight_decay": _DECAY}),
    "momentum": KindRule("sgd", {"momentum": KeyRule("momentum", 0.9, _REAL), "weight_decay": _DECAY}, only={
        "use_nesterov": ((False,), "there is no Nesterov momentum here."),
    }),
    "adamw": KindRule("adamw", {**_BETAS, "weight_decay": KeyRule("weight_decay", 0.01, _REAL)}, only=_ADAM),
    "adam": KindRule("adamw", {**_BETAS}, only={
        **_ADAM, "weight_decay": ((None, 0, 0.0), "Adam's decay goes through its moments; here AdamW's does not."),
    }),
}  # fmt: skip
_RATE = KeyRule("learning_rate", 0.01, _REAL)
_SCHEDULES = {
    "PolynomialDecay": KindRule("poly", {
        "learning_rate": _RATE, "power": KeyRule("power", 1.0, _REAL), "end_lr": KeyRule("end_lr", 0, _REAL),
    }),
    "CosineAnnealingDecay": KindRule("cosine", {"learning_rate": _RATE, "eta_min": KeyRule("end_lr", 0, _REAL)}),
}  # fmt: skip


def _optimizer(section: ForeignSection) -> dict[str, Any]:
    plain_adam = str(section.unread.get("type")).lower() == "adam"
    kind = section.kind(_OPTIMIZERS, default="sgd", lower=True)
    if kind is None:
        return {"name": "sgd"}
    values = kind.values(section) | ({"weight_decay": 0.0} if plain_adam else {})
    return values | _limits(section) | _rates(section)


def _limits(section: ForeignSection) -> dict[str, Any]:
    """Reads the limits of gradients."""
    clip = section.section("grad_clip_cfg")
    if clip is None:
        return {}
    name = clip.take("name")
    if name == "ClipGradByGlobalNorm":
        return {"clip_norm": clip.real("clip_norm", 1.0)}
    if name == "ClipGradByValue":
        largest = clip.real("max", 1.0)
        clip.only("min", -largest, because=f"gradients are limited to the same size on both sides here, {-largest}.")
        return {"clip_value": largest}
    clip.give_up(
        f"{name} has no counterpart; allowed: ClipGradByGlobalNorm and ClipGradByValue. No limit here is for the "
        "gradient of each weight by itself."
    )
    return {}


def _rates(section: ForeignSection) -> dict[str, Any]:
    """Reads the rates of groups of weights; PaddleSeg finds a weight's group by a part of its name."""
    values: dict[str, Any] = {}
    for group in section.sections("custom_cfg", f"{section.where}.custom_cfg"):
        name, factor = group.take("name"), group.real("lr_mult", 1.0)
        group.only("weight_decay_mult", None, 1, 1.0, because="all weights decay alike here.")
        if name == "backbone":
            values = {"backbone_lr_factor": factor} if factor != 1.0 else {}
        elif factor != 1.0:
            group.problem(f"lr_mult of {name!r} is {factor}; only the group backbone has a rate of its own here.")
    return values


def _schedule(section: ForeignSection, iters: Any) -> dict[str, Any]:
    kind = section.kind(_SCHEDULES)
    if kind is None:
        return {"name": "poly"}
    values = kind.values(section)
    if kind.name == "cosine":
        section.only("T_max", iters, because="the wave here spans all iterations.")
    section.only("decay_steps", iters, because="decay here spans all iterations.")
    section.only("cycle", False, because="there is no repeated decay here.")
    if warmup := section.whole("warmup_iters", 0):
        values |= {"warmup_steps": warmup, "warmup_start_lr": section.real("warmup_start_lr", 1e-5)}
    section.unused("warmup_start_lr", because="it counts with warmup_iters alone")
    return values


def _evaluation(section: ForeignSection) -> dict[str, Any]:
    values: dict[str, Any] = {}
    flips = ("flip_horizontal", "flip_vertical")
    if section.switch("aug_eval"):
        values = {"scales": [float(scale) for scale in section.numbers("scales", [1.0], single=True)]}
        values |= {name: section.switch(name) for name in flips}
    section.unused("scales", *flips, because="it counts with aug_eval alone")
    if section.switch("is_slide"):
        values |= {"is_slide": True, "crop_size": section.take("crop_size"), "stride": section.take("stride")}
    section.unused("crop_size", "stride", because="it counts with is_slide alone")
    section.only("use_multilabel", False, because="a pixel has one label here.")
    if section.switch("auc_roc"):
        section.report.notes.append("test_config.auc_roc is left out: no area under a curve is counted here.")
    return values


# === Models ===


_C2FNET = KindRule("c2fnet", {
    "training_stride": KeyRule("training_stride", 32, here=32),
    "samples_per_gpu": KeyRule("windows_per_image", 32, here=32),
    "channels": KeyRule("channels", None),
}, only={"backbone_indices": (([-1], [0]), "the deepest features are used here.")})  # fmt: skip


def _model(section: ForeignSection, file: ForeignSection) -> dict[str, Any]:
    if section.unread.get("type") != "C2FNet":
        return _segmentor(section)
    section.take("type")
    backbone = _backbone(section)
    name = "coase_model" if "coase_model" in file.unread else "coarse_model"  # PaddleSeg's own spelling first
    coarse = _segmentor(ForeignSection(file.take(name), name, file.report))
    file.report.notes.append(
        "The coarse model's weights are not in the file: pass --coarse_model, or fill in coarse.pretrained."
    )
    # PaddleSeg calls the sides of a window sizes of a kernel.
    size = section.numbers("kernel_sizes", [128, 128])
    if len(set(size)) != 1:
        section.problem(f"kernel_sizes must be equal here; got {size}.")
    window = {} if size[0] == 128 else {"window_size": size[0]}
    return {"name": "c2fnet", "backbone": backbone, "coarse": coarse, **window, **_C2FNET.values(section)} | _common(
        section
    )


def _common(section: ForeignSection) -> dict[str, Any]:
    """Reads the settings that all models share, but for the number of classes, which `_check_classes` compared."""
    section.unread.pop("num_classes", None)
    values: dict[str, Any] = {}
    if section.switch("align_corners"):
        values["align_corners"] = True
    section.only("data_format", "NCHW", "NHWC", because="it must be NCHW or NHWC, which are the same here.")
    if (pretrained := section.text("pretrained")) is not None:
        values["pretrained"] = pretrained
    return values


def _backbone(parent: ForeignSection) -> dict[str, Any]:
    section = ForeignSection(parent.take("backbone"), f"{parent.where}.backbone", parent.report)
    name = section.kind(_BACKBONES)
    if name is None:
        return {"name": "hrnet_w18"}
    values: dict[str, Any] = {"name": name}
    if name.endswith("_vd"):  # the others have a fixed stride here
        values["output_stride"] = section.take("output_stride", 8)
        if (grid := section.take("multi_grid", [1, 1, 1])) != [1, 1, 1]:
            values["multi_grid"] = grid
    if name.startswith("mit_"):
        values |= _MIT_EPSILONS
    section.only("data_format", "NCHW", "NHWC", because="it must be NCHW or NHWC, which are the same here.")
    section.only("align_corners", False, because="HRNet resizes with half pixels here.")
    section.only("in_channels", 3, because="the number of bands follows from the dataset here.")
    # rsseg-tf recognises the layouts of weight files by itself.
    section.only("ssl_pretrained", False, True, because="it must be true or false.")
    if (pretrained := section.text("pretrained")) is not None:
        values["pretrained"] = pretrained
    return values


# `indices`: negative ones count from the last feature, and configs write either.
_SEGMENTORS = {
    "FCN": KindRule("fcn", {"channels": KeyRule("channels", None)}, indices=([-1], [3])),
    "DeepLabV3P": KindRule("deeplabv3plus", {
        "aspp_ratios": KeyRule("aspp_rates", [1, 6, 12, 18], here=[1, 12, 24, 36]),
        "aspp_out_channels": KeyRule("aspp_channels", 256, here=256),
    }, indices=([0, 3], [0, -1])),
    "PSPNet": KindRule("pspnet", {
        "pp_out_channels": KeyRule("pyramid_channels", 1024, here=1024),
        "bin_sizes": KeyRule("bin_sizes", [1, 2, 3, 6], here=[1, 2, 3, 6]),
        "enable_auxiliary_loss": KeyRule("aux_head", True, here=True),
    }, indices=([2, 3],)),
    "UPerNet": KindRule("upernet", {
        "channels": KeyRule("channels", 512, here=512),
        "dropout_prob": KeyRule("dropout", 0.1, here=0.1),
        "enable_auxiliary_loss": KeyRule("aux_head", False, here=True),
    }, indices=([0, 1, 2, 3],)),
    "DANet": KindRule("danet", indices=([2, 3], [3], [-1])),
    "OCRNet": KindRule("ocrnet", {
        "ocr_mid_channels": KeyRule("ocr_channels", 512, here=512),
        "ocr_key_channels": KeyRule("key_channels", 256, here=256),
    }),
    "UNet": KindRule("unet"),
    "SegFormer": KindRule("segformer", {"embedding_dim": KeyRule("channels", None, here=256)}),
    "HRNetW48Contrast": KindRule("hrnet_contrast", {
        "proj_dim": KeyRule("projection_channels", 256, here=256), "drop_prob": KeyRule("dropout", 0.1, here=0.1),
    }, indices=([0], [-1])),
}  # fmt: skip
# Our name -> heads in the order in which PaddleSeg lists their losses; those that are left out have "main" alone.
_HEADS = {
    "pspnet": ("main", "aux"),
    "upernet": ("main", "aux"),
    "danet": ("main", "cam", "pam", "aux"),
    "ocrnet": ("main", "aux"),
    "hrnet_contrast": ("main", "contrast"),
    "c2fnet": ("fine",),
}


_PADDLESEG_UNET = {
    "name": "unet",
    "variant": "paddleseg",
    "decoder_channels": [256, 128, 64, 64],
    "backbone": {"name": "unet_encoder"},
}


# Models with a name that is also one of ours, or nearly, which compute something else.
_NOT_OURS = {
    "LRASPP": "PaddleSeg's joins three features in a head of its own, and here lraspp is torchvision's, with two",
    "DeepLabV3": "here is DeepLabV3P alone, which has a decoder",
    "FastFCN": "here is FCN, whose features are not upsampled together",
    "MscaleOCRNet": "here is OCRNet at one scale",
    "UPerNetCAE": "here is UPerNet, without that backbone",
    "UPerNetViTAdapter": "here is UPerNet, without that backbone",
    "UNetPlusPlus": "here is unet, without nested paths", "UNet3Plus": "here is unet, without nested paths",
    "AttentionUNet": "here is unet, without attention",
}  # fmt: skip
# Stands for a model that could not be read.
_UNKNOWN_MODEL: dict[str, Any] = {"name": "fcn", "backbone": {"name": "hrnet_w18"}}


def _segmentor(section: ForeignSection) -> dict[str, Any]:
    if (why := _NOT_OURS.get(str(section.unread.get("type")))) is not None:
        section.give_up(f"{section.unread['type']} has no counterpart: {why}.")
        return _UNKNOWN_MODEL
    kind = section.kind(_SEGMENTORS, "C2FNet")
    if kind is None:
        return _UNKNOWN_MODEL
    if kind.name == "unet":
        section.only("in_channels", 3, because="the number of bands follows from the dataset here.")
        section.only("use_deconv", False, because="features are resized bilinearly here.")
        return _PADDLESEG_UNET | kind.values(section) | _common(section)
    backbone = _backbone(section)
    values = {"name": kind.name, "backbone": backbone, **kind.values(section)}
    indices = section.take("backbone_indices")
    if kind.name == "ocrnet":
        values |= _ocrnet_features(section, indices)
    elif indices is not None and indices not in kind.indices:
        allowed = " or ".join(map(str, kind.indices))
        section.problem(f"backbone_indices is {indices}; the features are fixed here, as with {allowed}.")
    if kind.name == "segformer":
        values["channel_dropout"] = True
    if kind.name == "hrnet_contrast":
        channels = _HRNET_CHANNELS.get(backbone["name"])
        for key in ("in_channels", "bb_channels"):
            section.only(key, channels, because=f"the backbone has {channels} channels.")
    return values | _common(section)


def _ocrnet_features(section: ForeignSection, indices: Any) -> dict[str, Any]:
    if not isinstance(indices, list) or not 1 <= len(indices) <= 2 or not all(i in range(4) for i in indices):
        section.problem(f"backbone_indices must be one or two of 0 to 3; got {indices}.")
        return {}
    return {"features": [_FEATURES[i] for i in indices]}


# === Losses ===


def _heads(model: dict[str, Any] | None) -> tuple[str, ...] | None:
    """Returns the heads in the order of PaddleSeg's list of losses; None for those of a model that is not known."""
    if model is _UNKNOWN_MODEL:
        return None
    if not model or not model.get("aux_head", True):
        return ("main",)
    return _HEADS.get(model["name"], ("main",))


_CLASS_WEIGHTS = KeyRule("class_weights", None, ForeignSection.reals)
_LOSSES = {
    "CrossEntropyLoss": KindRule("cross_entropy", {"weight": _CLASS_WEIGHTS}, only={
        "top_k_percent_pixels": ((1.0, 1), "use OhemCrossEntropyLoss instead."),
        "avg_non_ignore": ((True,), "the mean here is over the pixels that are not ignored."),
    }),
    "OhemCrossEntropyLoss": KindRule("ohem_cross_entropy", {
        "thresh": KeyRule("threshold", 0.7, _REAL), "min_kept": KeyRule("min_kept", 10000, ForeignSection.whole),
    }, only={"weight": ((None,), "there are no class weights with hard pixels here.")}),
    "DiceLoss": KindRule("dice", {"weight": _CLASS_WEIGHTS, "smooth": KeyRule("smooth", 1.0, _REAL)}),
    "MultiClassFocalLoss": KindRule("focal", {
        "alpha": KeyRule("alpha", 1.0, _REAL), "gamma": KeyRule("gamma", 2.0, _REAL),
    }),
    "LovaszSoftmaxLoss": KindRule("lovasz_softmax", only={
        "classes": (("present",), "the mean here is over the classes that are present."),
    }),
    "PixelContrastCrossEntropyLoss": KindRule("pixel_contrast", {
        "temperature": KeyRule("temperature", 0.1, _REAL), "base_temperature": KeyRule("base_temperature", 0.07, _REAL),
        "max_samples": KeyRule("max_samples", 1024), "max_views": KeyRule("max_views", 100),
    }),
    "MixedLoss": KindRule("mixed"),
}  # fmt: skip


def _losses(section: ForeignSection, heads: tuple[str, ...] | None, ignored: int) -> dict[str, Any]:
    types, weights = section.take("types", []), section.numbers("coef", [1])
    if not isinstance(types, list):
        section.problem(f"types must be a list of mappings; got {types!r}.")
        return {"main": {"name": "cross_entropy"}}
    if len(types) == 1:  # one for all heads, as in PaddleSeg
        types = types * len(weights)
    if heads is None:  # the losses are read all the same, for what has no counterpart in them
        heads = tuple(f"head {number}" for number in range(1, len(types) + 1))
        weights = (weights * len(types))[: len(types)]
    if not len(types) == len(weights) == len(heads):
        section.problem(
            f"the model has the heads {', '.join(heads)}, one loss each; got {len(types)} types and "
            f"{len(weights)} coef."
        )
        return {"main": {"name": "cross_entropy"}}
    return {
        head: _loss(ForeignSection(values, f"loss of {head}", section.report), weight, ignored)
        for head, values, weight in zip(heads, types, weights, strict=True)
    }


def _loss(section: ForeignSection, weight: float, ignored: int) -> dict[str, Any]:
    because = f"the ignored id follows from the dataset here, where it is {ignored}."
    section.only("ignore_index", ignored, because=because)
    kind = section.kind(_LOSSES)
    if kind is None:
        return {"name": "cross_entropy"}
    values = kind.values(section)
    if kind.name == "focal":
        section.unused("num_class", because="the number of classes follows from the dataset here")
    if kind.name == "mixed":
        parts, shares = section.sections("losses", f"{section.where}.losses"), section.numbers("coef", [])
        if len(parts) != len(shares):
            section.problem(f"{len(parts)} losses need as many coef; got {len(shares)}.")
        values["losses"] = [_loss(part, share, ignored) for part, share in zip(parts, shares, strict=False)]
    return values if weight == 1 else {**values, "weight": float(weight)}
