"""Turns configs of PaddleSeg into ours.

PaddleSeg's files are YAML with `_base_`: mappings merge, lists replace. What has no counterpart here is a problem, and
all problems are listed; what is decided on the way is a note. Source of the defaults: paddleseg/{cvlibs, transforms,
models} of PaddleSeg.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rsseg_tf.config.document import Document
from rsseg_tf.config.loader import config_from_document
from rsseg_tf.datasets import SPECS
from rsseg_tf.errors import ConfigError, did_you_mean
from rsseg_tf.files import StrPath

__all__ = ["Imported", "import_paddleseg"]

_BACKBONES = {
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "ResNet18_vd": "resnet18_vd",
    "ResNet50_vd": "resnet50_vd",
    "ResNet101_vd": "resnet101_vd",
    "HRNet_W18": "hrnet_w18",
    "HRNet_W48": "hrnet_w48",
}
_FEATURES = ("c2", "c3", "c4", "c5")


@dataclass(frozen=True)
class Imported:
    """What became of a config.

    Attributes:
        values: sections of a config of ours; without a model for a file that others are based on.
        notes: decisions that a reader may want to know of.
    """

    values: dict[str, Any]
    notes: tuple[str, ...]

    def text(self, source: str) -> str:
        """Returns the YAML file, with the notes on top."""
        comments = [f"# From {source} of PaddleSeg.", *(f"# Note: {note}" for note in self.notes)]
        body = yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
        return "\n".join(comments) + "\n" + body


@dataclass
class _Report:
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Section:
    """A mapping of the original that knows which of its keys nobody has asked for."""

    def __init__(self, values: Any, where: str, report: _Report) -> None:
        self.where, self.report = where, report
        if not isinstance(values, Mapping):
            report.problems.append(f"{where} must be a mapping; got {values!r}.")
            values = {}
        self.left = dict(values)

    def take(self, key: str, default: Any = None) -> Any:
        return self.left.pop(key, default)

    def number(self, key: str, default: float) -> Any:
        """Takes a number; 1e-4 is a string to the YAML reader that PaddleSeg uses, but a number to its users."""
        value = self.take(key, default)
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                pass
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.problem(f"{key} must be a number; got {value!r}.")
            return default
        return value

    def only(self, key: str, *allowed: Any, because: str) -> None:
        """Takes a value that has no counterpart unless it is one of these; the first is the original's default."""
        value = self.take(key, allowed[0])
        if value not in allowed:
            self.problem(f"{key} is {value!r}; {because}")

    def problem(self, text: str) -> None:
        self.report.problems.append(f"{self.where}: {text}")

    def finish(self) -> None:
        for key in self.left:
            self.problem(f"the key {key} has no counterpart here; remove it.")


def import_paddleseg(path: StrPath) -> Imported:
    """Reads a config of PaddleSeg and what it is based on.

    Args:
        path: a YAML file of PaddleSeg. One without a model, which others are based on, gives the sections it has.

    Raises:
        ConfigError: one line per problem: keys, types and values without a counterpart, or an unreadable file.
    """
    path = Path(path)
    report = _Report()
    values = _convert(_Section(_read(path, report, ()), path.name, report))
    if not report.problems:
        # Checked as any config; a file that others are based on stands in for one with the simplest model.
        stand_in = {"model": {"name": "fcn", "backbone": {"name": "hrnet_w18"}}, "loss": {"main": _cross_entropy()}}
        whole = values if "model" in values else {**values, **stand_in}
        try:
            config_from_document(Document(whole), path.name)
        except ConfigError as error:
            report.problems += str(error).splitlines()
    if report.problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in report.problems))
    return Imported(values, tuple(dict.fromkeys(report.notes)))


def _cross_entropy() -> dict[str, Any]:
    return {"name": "cross_entropy"}


# === Reading ===


class _Loader(yaml.SafeLoader):
    """Keeps the last of two equal keys, as the original's reader does, and remembers that there were two."""

    duplicates: list[str]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        self.duplicates += [
            f"'{key}' is written twice (line {node.start_mark.line + 1} on); the last one counts, as in the original."
            for key in dict.fromkeys(keys)
            if keys.count(key) > 1
        ]
        return super().construct_mapping(node, deep)


def _read(path: Path, report: _Report, parents: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in parents:
        raise ConfigError(f"{path} is based on itself; remove one `_base_`.")
    try:
        with path.open(encoding="utf-8") as file:
            loader = _Loader(file)
            loader.duplicates = []
            values = loader.get_single_data()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        by = f", the _base_ of {parents[-1].name}," if parents else ""
        raise ConfigError(f"{path}{by} cannot be read as YAML: {reason}.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must be a mapping of sections; got {type(values).__name__}.")
    report.notes += loader.duplicates
    bases = values.pop("_base_", None) or []
    for base in [bases] if isinstance(bases, str) else bases:
        values = _merge(values, _read(path.parent / base, report, (*parents, path.resolve())))
    return values


def _merge(values: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The original's rule: mappings merge unless `_inherited_: False`, everything else replaces."""
    if not values.get("_inherited_", True):
        return {key: value for key, value in values.items() if key != "_inherited_"}
    merged = dict(base)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(value, merged[key]) if both else value
    return merged


# === Sections ===


def _convert(file: _Section) -> dict[str, Any]:
    report = file.report
    values: dict[str, Any] = {}
    train, val = file.take("train_dataset"), file.take("val_dataset")
    if train is not None or val is not None:
        values |= _datasets(train or {}, val, report)
    if "model" in file.left:
        values["model"] = _model(file, report)
    if "loss" in file.left:
        heads = _heads(values.get("model"))
        values["loss"] = _losses(_Section(file.take("loss"), "loss", report), heads)
    if "optimizer" in file.left:
        values["optimizer"] = _optimizer(_Section(file.take("optimizer"), "optimizer", report))
    if "lr_scheduler" in file.left:
        schedule = _schedule(_Section(file.take("lr_scheduler"), "lr_scheduler", report), file.left.get("iters"))
        values["lr_schedule"] = schedule
    run = {ours: file.take(theirs) for theirs, ours in (("iters", "iters"), ("batch_size", "batch_size"))}
    if any(value is not None for value in run.values()):
        values["train"] = {key: value for key, value in run.items() if value is not None}
    if (test := file.take("test_config")) is not None:
        values["eval"] = _evaluation(_Section(test, "test_config", report))
    file.only("to_static_training", False, True, because="it must be true or false.")
    file.finish()
    return values


def _datasets(train: Any, val: Any, report: _Report) -> dict[str, Any]:
    first = _Section(train or val, "train_dataset" if train else "val_dataset", report)
    kind, root = first.take("type", "Dataset"), first.take("dataset_root", "data")
    if kind != "Dataset":
        first.problem(f"the type {kind} is not known; allowed: Dataset with train_path and dataset_root.")
    classes = first.take("num_classes")
    lists = {"train_list": first.take("train_path"), "val_list": first.take("val_path")}
    first.only("mode", "train", "val", because="allowed: train, val.")
    first.only("separator", " ", because="lists here separate image and label by a space.")
    first.only("ignore_index", 255, because="only 255 is taken over; set dataset.ignore_index of a custom dataset.")
    transforms = first.take("transforms", [])
    first.finish()
    if train and val is not None:
        second = _Section(val, "val_dataset", report)
        for key in ("type", "dataset_root", "num_classes", "mode", "ignore_index", "separator"):
            second.take(key)
        lists["val_list"] = second.take("val_path")
        _check_val_transforms(second.take("transforms", []), report)
        second.finish()
    dataset: dict[str, Any] = {"name": _dataset_name(root, classes), "root": root}
    for key, path in lists.items():
        if path is not None and (relative := os.path.relpath(path, root)) != key.replace("_list", ".txt"):
            dataset[key] = relative
    if dataset["name"] == "custom":
        if not isinstance(classes, int) or classes < 1:
            first.problem(f"num_classes must be a number of classes; got {classes!r}.")
            classes = 1
        dataset["classes"] = [f"class_{i}" for i in range(classes)]
        report.notes.append(f"{root} is no dataset known here: its classes are called class_0 to class_{classes - 1}.")
    augment, statistics = _augment(transforms, report) if train else ({}, {})
    if statistics and dataset["name"] != "custom":
        report.problems.append(f"Normalize: mean and std of '{dataset['name']}' are 0.5 here; got {statistics}.")
    return {"dataset": {**dataset, **statistics}} | ({"augment": augment} if train else {})


def _dataset_name(root: Any, classes: Any) -> str:
    name = Path(str(root)).name.lower()
    known = name in SPECS and SPECS[name].num_classes == classes
    return name if known else "custom"


def _check_val_transforms(transforms: Any, report: _Report) -> None:
    for transform in transforms or []:
        section = _Section(transform, "val_dataset.transforms", report)
        if (kind := section.take("type")) != "Normalize":
            section.problem(f"{kind} has no counterpart: images are evaluated at their own size. Remove it.")


def _augment(transforms: Any, report: _Report) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns our `augment` section and, where they are not 0.5, mean and std."""
    # What a list of transforms leaves out does not happen.
    augment: dict[str, Any] = {"scale_range": [1.0, 1.0], "flip_horizontal": 0.0}
    augment |= {f"{name}_range": 0.0 for name in ("brightness", "contrast", "saturation", "hue")}
    statistics: dict[str, Any] = {}
    order = ("ResizeStepScaling", "RandomPaddingCrop", "RandomHorizontalFlip", "RandomVerticalFlip", "RandomRotation",
             "RandomDistort", "Normalize")  # fmt: skip
    seen: list[str] = []
    for transform in transforms or []:
        section = _Section(transform, "train_dataset.transforms", report)
        kind = section.take("type")
        section.where += f".{kind}"
        if kind not in order:
            section.problem(f"it has no counterpart here; allowed: {', '.join(order)}.{did_you_mean(str(kind), order)}")
            continue
        seen.append(kind)
        if kind == "Normalize":
            statistics = _statistics(section)
        else:
            augment |= _TRANSFORMS[kind](section)
        section.finish()
    if seen != sorted(seen, key=order.index) or len(set(seen)) != len(seen):
        report.problems.append(
            f"train_dataset.transforms: the order here is {', '.join(order)}, each once; got {', '.join(seen)}."
        )
    if "RandomPaddingCrop" not in seen and transforms:
        report.problems.append("train_dataset.transforms: RandomPaddingCrop is needed: batches have one size.")
    return augment, statistics


def _statistics(section: _Section) -> dict[str, Any]:
    given = {key: [float(v) for v in section.take(key, [0.5])] for key in ("mean", "std")}
    return {} if all(value == 0.5 for values in given.values() for value in values) else given


def _scaling(section: _Section) -> dict[str, Any]:
    low, high = section.number("min_scale_factor", 0.75), section.number("max_scale_factor", 1.25)
    return {"scale_range": [float(low), float(high)], "scale_step": float(section.number("scale_step_size", 0.25))}


def _crop(section: _Section) -> dict[str, Any]:
    size, padding = section.take("crop_size", [512, 512]), section.take("im_padding_value", 127.5)
    section.only("label_padding_value", 255, because="what is padded is ignored here.")
    values = set(padding) if isinstance(padding, list) else {padding}
    if len(values) != 1:
        section.problem(f"im_padding_value must be one value here; got {padding}.")
    return {"crop_size": size} | ({} if values == {127.5} else {"image_padding": float(values.pop())})


def _rotation(section: _Section) -> dict[str, Any]:
    section.only("im_padding_value", 127.5, because="only 127.5 is taken over.")
    section.only("label_padding_value", 255, because="what is padded is ignored here.")
    return {"rotate_degrees": float(section.number("max_rotation", 15)), "rotate_probability": 1.0}


def _distort(section: _Section) -> dict[str, Any]:
    augment: dict[str, Any] = {}
    probabilities = {}
    for name, default in (("brightness", 0.5), ("contrast", 0.5), ("saturation", 0.5), ("hue", 18)):
        augment[f"{name}_range"] = float(section.number(f"{name}_range", default))
        probability = probabilities[name] = float(section.number(f"{name}_prob", 0.5))
        if probability == 0:
            augment[f"{name}_range"] = 0.0
    section.take("sharpness_range")
    section.only("sharpness_prob", 0, because="sharpness has no counterpart; set it to 0.")
    used = {value for value in probabilities.values() if value}
    if len(used) > 1:
        section.problem(f"there is one probability for all colour changes here; got {probabilities}.")
    return augment | ({"distort_probability": used.pop()} if used and used != {0.5} else {})


_TRANSFORMS: dict[str, Callable[[_Section], dict[str, Any]]] = {
    "ResizeStepScaling": _scaling,
    "RandomPaddingCrop": _crop,
    "RandomHorizontalFlip": lambda section: {"flip_horizontal": float(section.number("prob", 0.5))},
    "RandomVerticalFlip": lambda section: {"flip_vertical": float(section.number("prob", 0.1))},
    "RandomRotation": _rotation,
    "RandomDistort": _distort,
}


def _optimizer(section: _Section) -> dict[str, Any]:
    kind = str(section.take("type", "sgd")).lower()
    if kind == "sgd":
        values = {"momentum": float(section.number("momentum", 0.9))}
    elif kind == "adamw":
        values = {"beta_1": float(section.number("beta1", 0.9)), "beta_2": float(section.number("beta2", 0.999))}
    else:
        section.problem(f"the type {kind} has no counterpart; allowed: sgd, adamw.")
        return {"name": "sgd"}
    values["weight_decay"] = float(section.number("weight_decay", 0.0 if kind == "sgd" else 0.01))
    section.finish()
    return {"name": kind, **values}


def _schedule(section: _Section, iters: Any) -> dict[str, Any]:
    kind = section.take("type")
    values: dict[str, Any] = {"learning_rate": float(section.number("learning_rate", 0.01))}
    if kind == "PolynomialDecay":
        values = {"name": "poly", **values, "power": float(section.number("power", 1.0))}
        values["end_lr"] = float(section.number("end_lr", 0))
    elif kind == "CosineAnnealingDecay":
        values = {"name": "cosine", **values, "end_lr": float(section.number("eta_min", 0))}
        section.only("T_max", iters, because="the wave here spans all iterations.")
    else:
        section.problem(f"the type {kind} has no counterpart; allowed: PolynomialDecay, CosineAnnealingDecay.")
        return {"name": "poly"}
    section.only("decay_steps", iters, because="decay here spans all iterations.")
    section.only("cycle", False, because="there is no repeated decay here.")
    if warmup := section.number("warmup_iters", 0):
        values |= {"warmup_steps": int(warmup), "warmup_start_lr": float(section.number("warmup_start_lr", 1e-5))}
    section.finish()
    return values


def _evaluation(section: _Section) -> dict[str, Any]:
    augmented = section.take("aug_eval", False)
    scales = section.take("scales", 1.0)
    values: dict[str, Any] = {}
    flips = {name: bool(section.take(name, False)) for name in ("flip_horizontal", "flip_vertical")}
    if augmented:
        values = {"scales": [float(scale) for scale in (scales if isinstance(scales, list) else [scales])], **flips}
    if section.take("is_slide", False):
        values |= {"is_slide": True, "crop_size": section.take("crop_size"), "stride": section.take("stride")}
    section.finish()
    return values


# === Models ===


def _model(file: _Section, report: _Report) -> dict[str, Any]:
    section = _Section(file.take("model"), "model", report)
    if section.left.get("type") != "C2FNet":
        return _segmentor(section)
    section.take("type")
    values: dict[str, Any] = {"name": "c2fnet", "backbone": _backbone(section)}
    coarse = file.take("coase_model", file.take("coarse_model"))
    values["coarse"] = _segmentor(_Section(coarse, "coase_model", report))
    report.notes.append(
        "The coarse model's weights are not in the file: pass --coarse_model, or fill in coarse.pretrained."
    )
    size = section.take("kernel_sizes", [128, 128])
    if len(set(size)) != 1:
        section.problem(f"kernel_sizes must be equal here; got {size}.")
    options = {
        "window_size": (size[0], 128),
        "training_stride": (section.take("training_stride", 32), 32),
        "windows_per_image": (section.take("samples_per_gpu", 32), 32),
        "channels": (section.take("channels"), None),
    }
    values |= {key: value for key, (value, default) in options.items() if value != default}
    section.only("backbone_indices", [-1], [0], because="the deepest features are used here.")
    return values | _common(section)


def _common(section: _Section) -> dict[str, Any]:
    """Takes what all models have; the number of classes follows from the dataset."""
    section.take("num_classes")
    values = {}
    if section.take("align_corners", False):
        values["align_corners"] = True
    if (pretrained := section.take("pretrained")) is not None:
        values["pretrained"] = pretrained
    section.finish()
    return values


def _backbone(parent: _Section) -> dict[str, Any]:
    section = _Section(parent.take("backbone"), f"{parent.where}.backbone", parent.report)
    kind = section.take("type")
    name = _BACKBONES.get(kind)
    if name is None:
        allowed = ", ".join(_BACKBONES)
        section.problem(f"the type {kind} has no counterpart; allowed: {allowed}.{did_you_mean(str(kind), _BACKBONES)}")
        return {"name": "hrnet_w18"}
    values: dict[str, Any] = {"name": name}
    if name.endswith("_vd"):
        values["output_stride"] = section.take("output_stride", 8)
        if (grid := section.take("multi_grid", [1, 1, 1])) != [1, 1, 1]:
            values["multi_grid"] = grid
    section.only("align_corners", False, because="HRNet resizes with half pixels here.")
    section.only("in_channels", 3, because="the number of bands follows from the dataset here.")
    section.take("ssl_pretrained")  # ours tells the layouts of files apart by itself
    if (pretrained := section.take("pretrained")) is not None:
        values["pretrained"] = pretrained
    section.finish()
    return values


def _segmentor(section: _Section) -> dict[str, Any]:
    kind = section.take("type")
    if kind not in _SEGMENTORS:
        allowed = ", ".join([*_SEGMENTORS, "C2FNet"])
        section.problem(
            f"the type {kind} has no counterpart; allowed: {allowed}.{did_you_mean(str(kind), _SEGMENTORS)}"
        )
        return {"name": "fcn", "backbone": {"name": "hrnet_w18"}}
    name, options, indices = _SEGMENTORS[kind]
    values: dict[str, Any] = {"name": name, "backbone": _backbone(section)}
    for theirs, ours, default, our_default in options:
        value = section.take(theirs, default)
        if value != our_default:
            values[ours] = value
    given = section.take("backbone_indices")
    if name == "ocrnet":
        values |= _ocrnet_features(section, given)
    elif given is not None and list(given) not in indices:
        allowed = " or ".join(map(str, indices))
        section.problem(f"backbone_indices is {given}; the features are fixed here, as with {allowed}.")
    if name == "hrnet_contrast":
        section.take("in_channels", section.take("bb_channels"))  # follows from the backbone
    return values | _common(section)


# Original name -> our name; (their option, ours, their default, our default); indices that mean what ours does.
_SEGMENTORS: dict[str, tuple[str, tuple[tuple[str, str, Any, Any], ...], tuple[Sequence[int], ...]]] = {
    "FCN": ("fcn", (("channels", "channels", None, None),), ([-1], [3])),
    "DeepLabV3P": (
        "deeplabv3plus",
        (
            ("aspp_ratios", "aspp_rates", [1, 6, 12, 18], [1, 12, 24, 36]),
            ("aspp_out_channels", "aspp_channels", 256, 256),
        ),
        ([0, 3], [0, -1]),
    ),
    "PSPNet": (
        "pspnet",
        (
            ("pp_out_channels", "pyramid_channels", 1024, 1024),
            ("bin_sizes", "bin_sizes", [1, 2, 3, 6], [1, 2, 3, 6]),
            ("enable_auxiliary_loss", "aux_head", True, True),
        ),
        ([2, 3],),
    ),
    "UPerNet": (
        "upernet",
        (
            ("channels", "channels", 512, 512),
            ("dropout_prob", "dropout", 0.1, 0.1),
            ("enable_auxiliary_loss", "aux_head", False, True),
        ),
        ([0, 1, 2, 3],),
    ),
    "DANet": ("danet", (), ([2, 3], [3], [-1])),
    "OCRNet": (
        "ocrnet",
        (("ocr_mid_channels", "ocr_channels", 512, 512), ("ocr_key_channels", "key_channels", 256, 256)),
        (),
    ),
    "HRNetW48Contrast": (
        "hrnet_contrast",
        (("proj_dim", "projection_channels", 256, 256), ("drop_prob", "dropout", 0.1, 0.1)),
        ([0], [-1]),
    ),
}


def _ocrnet_features(section: _Section, indices: Any) -> dict[str, Any]:
    if not isinstance(indices, list) or not 1 <= len(indices) <= 2 or not all(0 <= i < 4 for i in indices):
        section.problem(f"backbone_indices must be one or two of 0 to 3; got {indices}.")
        return {}
    return {"features": [_FEATURES[i] for i in indices]}


# === Losses ===


def _heads(model: dict[str, Any] | None) -> tuple[str, ...]:
    """Returns the heads in the order in which the original lists its losses."""
    if model is None:
        return ("main",)
    match model["name"]:
        case "pspnet" | "upernet":
            return ("main", "aux") if model.get("aux_head", True) else ("main",)
        case "danet":
            return ("main", "cam", "pam", "aux")
        case "ocrnet":
            return ("main", "aux")
        case "hrnet_contrast":
            return ("main", "contrast")
        case "c2fnet":
            return ("fine",)
        case _:
            return ("main",)


def _losses(section: _Section, heads: tuple[str, ...]) -> dict[str, Any]:
    types, weights = section.take("types", []), section.take("coef", [1])
    section.finish()
    if len(types) == 1:  # one for all
        types = types * len(weights)
    if not len(types) == len(weights) == len(heads):
        section.problem(
            f"the model has the heads {', '.join(heads)}, one loss each; got {len(types)} types and "
            f"{len(weights)} coef."
        )
        return {"main": _cross_entropy()}
    losses = {}
    for head, values, weight in zip(heads, types, weights, strict=True):
        losses[head] = _loss(_Section(values, f"loss of {head}", section.report), weight)
    return losses


def _loss(section: _Section, weight: Any) -> dict[str, Any]:
    kind = section.take("type")
    section.only("ignore_index", 255, because="the ignored id follows from the dataset here.")
    values: dict[str, Any]
    match kind:
        case "CrossEntropyLoss":
            section.only("top_k_percent_pixels", 1.0, 1, because="use OhemCrossEntropyLoss instead.")
            section.only("avg_non_ignore", True, because="the mean here is over the pixels that are not ignored.")
            values = _cross_entropy() | _class_weights(section)
        case "OhemCrossEntropyLoss":
            section.only("weight", None, because="there are no class weights with hard pixels here.")
            values = {"name": "ohem_cross_entropy", "threshold": float(section.number("thresh", 0.7))}
            values["min_kept"] = int(section.number("min_kept", 10000))
        case "DiceLoss":
            values = {"name": "dice"} | _class_weights(section) | {"smooth": float(section.number("smooth", 1.0))}
        case "MultiClassFocalLoss":
            section.take("num_class")
            values = {"name": "focal"}
            values |= {key: float(section.number(key, default)) for key, default in (("alpha", 1.0), ("gamma", 2.0))}
        case "LovaszSoftmaxLoss":
            section.only("classes", "present", because="the mean here is over the classes that are present.")
            values = {"name": "lovasz_softmax"}
        case "PixelContrastCrossEntropyLoss":
            values = {"name": "pixel_contrast"}
            for key, default in (("temperature", 0.1), ("base_temperature", 0.07)):
                values[key] = float(section.number(key, default))
            values |= {key: section.take(key, n) for key, n in (("max_samples", 1024), ("max_views", 100))}
        case "MixedLoss":
            parts, shares = section.take("losses", []), section.take("coef", [])
            if len(parts) != len(shares):
                section.problem(f"{len(parts)} losses need as many coef; got {len(shares)}.")
            pairs = zip(parts, shares, strict=False)
            values = {"name": "mixed"}
            values["losses"] = [_loss(_Section(p, f"{section.where}.losses", section.report), s) for p, s in pairs]
        case _:
            section.problem(f"the type {kind} has no counterpart here.")
            return _cross_entropy()
    section.finish()
    if not isinstance(weight, int | float) or not math.isfinite(weight):
        section.problem(f"coef must be a number; got {weight!r}.")
        return values
    return values if weight == 1 else {**values, "weight": float(weight)}


def _class_weights(section: _Section) -> dict[str, Any]:
    weights = section.take("weight")
    return {} if weights is None else {"class_weights": [float(weight) for weight in weights]}
