"""From a YAML file and overrides to a checked, frozen config; each error names the file and line."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rsseg_tf.assets import find_config
from rsseg_tf.config.document import (
    Document,
    Path_,
    assignment,
    document_of,
    load_document,
    parse_assignments,
    quoting_hint,
)
from rsseg_tf.config.pretrain import PretrainConfig
from rsseg_tf.config.schema import Config
from rsseg_tf.datasets.table import UNLABELLED
from rsseg_tf.errors import ConfigError, OldKeyWarning, did_you_mean
from rsseg_tf.files import StrPath, several

__all__ = [
    "AnyConfig",
    "config_from_document",
    "dump_config",
    "load_any_config",
    "load_config",
    "load_pretrain_config",
    "root_hint",
]

AnyConfig = Config | PretrainConfig

C = TypeVar("C", Config, PretrainConfig)

# With these a config, or --learning_rate on the command line, may change one number without naming the kind.
_DEFAULT_KINDS = Document({"optimizer": {"name": "sgd"}, "lr_schedule": {"name": "poly"}})
_PRETRAIN_KINDS = Document({"optimizer": {"name": "sgd"}, "lr_schedule": {"name": "cosine"}})


def load_config(
    path: StrPath | Mapping[str, Any] | Config, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Config:
    """Reads and checks a config of a segmentation model.

    Args:
        path: A YAML file, or the name of a shipped one (`rsseg_tf.assets.shipped_configs`); or a plain mapping with the
            same keys. `base` in either is followed. Or a config that was checked before.
        overrides: Assignments `key.sub=value`, applied in order, under the same schema as the file; or a mapping of
            such keys to values.

    Raises:
        ConfigError: One line per problem: where, what, received, allowed.
    """
    if isinstance(path, Config) and not overrides:
        return path
    document, name = _document(path)
    if document.is_pretraining:
        raise ConfigError(
            f"{name} is a config of `rsseg-tf pretrain` (it has a section 'method'); a config with a section 'model' "
            "is expected here. To go on from its checkpoint, set model.backbone.pretrained to the folder."
        )
    return config_from_document(_rooted(_with(document, _DEFAULT_KINDS, overrides)), name)


def load_pretrain_config(
    path: StrPath | Mapping[str, Any] | PretrainConfig, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> PretrainConfig:
    """Reads and checks a config of self-supervised pre-training; arguments and errors as `load_config`."""
    if isinstance(path, PretrainConfig) and not overrides:
        return path
    document, name = _document(path)
    if "model" in document.values:
        raise ConfigError(
            f"{name} is a config of `rsseg-tf train` (it has a section 'model'); `rsseg-tf pretrain` takes one with a "
            "section 'method', such as ssl/pretrain/moco_v2_resnet50_million_aid.yml."
        )
    return _checked(_rooted(_with(document, _PRETRAIN_KINDS, overrides)), name, PretrainConfig)


def load_any_config(path: StrPath | Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any] = ()) -> AnyConfig:
    """Reads and checks a config of either kind; arguments and errors as `load_config`."""
    if _document(path)[0].is_pretraining:
        return load_pretrain_config(path, overrides)
    return load_config(path, overrides)


def config_from_document(document: Document, source: str) -> Config:
    """Checks the values of a document against the schema.

    Raises:
        ConfigError: As `load_config`.
    """
    return _checked(document, source, Config)


def _document(given: StrPath | Mapping[str, Any] | AnyConfig) -> tuple[Document, str]:
    """Returns what a caller gives as a config, and its name in messages."""
    if isinstance(given, BaseModel):
        return Document(given.model_dump(mode="json")), "the config"
    if isinstance(given, Mapping):
        return document_of(given), "the mapping"
    if not isinstance(given, str | os.PathLike):
        raise ConfigError(
            f"a config is a YAML file, the name of a shipped one, or a mapping; got {type(given).__name__}."
        )
    return load_document(find_config(os.fspath(given))), os.fspath(given)


def _with(document: Document, kinds: Document, overrides: Sequence[str] | Mapping[str, Any]) -> Document:
    document = kinds.merged_with(document)
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            document = document.merged_with(assignment(key, value))
        return document
    for changed in parse_assignments(several(overrides)):
        document = document.merged_with(changed)
    return document


class TwoRootsWarning(OldKeyWarning):
    """A relative dataset.root is beside the config, and in the working directory, where earlier versions looked."""


def _rooted(document: Document) -> Document:
    """Gives the dataset the folder that a file means.

    A relative root counts from the folder of the file that names it, if the dataset lies there, and else from the
    working directory, as it always has. Custom data without a root lie beside the file that names them. On the command
    line a root counts from the working directory, like all paths there.
    """
    dataset = document.values.get("dataset")
    if not isinstance(dataset, dict):
        return document
    key = "root" if "root" in dataset else "name"
    where, named = document.origin(("dataset", key)), dataset.get("root", ".")
    file = os.path.abspath(where.rpartition(":")[0])
    if not os.path.isfile(file) or not isinstance(named, str) or os.path.isabs(named):
        return document  # --set or a mapping names the data, or a root in full
    if key == "name" and dataset.get("name") != "custom":
        return document
    root = os.path.normpath(os.path.join(os.path.dirname(file), named))
    if key == "root":
        if not _holds_dataset(root, dataset) or (os.path.exists(named) and os.path.samefile(root, named)):
            return document
        if _holds_dataset(named, dataset):
            warnings.warn(
                f"{where}: dataset.root {named} is taken from beside the config, {root}; there is also "
                f"{os.path.abspath(named)}. Write the one that you mean in full.",
                TwoRootsWarning,
                stacklevel=2,
            )
    return document.merged_with(Document({"dataset": {"root": root}}, {("dataset", "root"): where}))


def _holds_dataset(folder: str, dataset: Mapping[str, Any]) -> bool:
    """Returns whether one of a dataset's lists lies in a folder; images without a list need the folder alone."""
    own = [dataset[name] for name in ("train_list", "val_list") if isinstance(dataset.get(name), str)]
    if not own and dataset.get("name") in UNLABELLED:
        return os.path.isdir(folder)
    lists = own or ["train.txt", "val.txt"]
    return any(os.path.isfile(os.path.join(folder, name)) for name in lists)


def root_hint(root: str) -> str:
    """Returns where a relative dataset.root was looked for, for errors about missing data; empty if that is clear."""
    if os.path.isabs(root) or os.path.isdir(root):
        return ""
    return (
        f" dataset.root {root} is relative: the data are neither beside the config that names it nor in the working "
        f"directory, {os.getcwd()}. Give the folder: --set dataset.root=FOLDER."
    )


def _checked(document: Document, source: str, kind: type[C]) -> C:
    try:
        # In JSON mode strict validation takes a list for a tuple, which Python mode refuses.
        text = json.dumps(document.values, allow_nan=False)
        return kind.model_validate_json(text)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise ConfigError("\n".join(_explain(problem, document, source, kind) for problem in problems)) from error
    except ValueError as error:  # of `json.dumps`; after ValidationError, which is a ValueError too
        raise ConfigError(f"{source}: numbers must be finite: {error}.") from error


def dump_config(config: AnyConfig) -> str:
    """Returns the whole config as YAML, defaults included; `load_any_config` reads it back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, default_flow_style=None)


def _explain(problem: ErrorDetails, document: Document, source: str, kind: type[BaseModel]) -> str:
    """Returns one line for one pydantic complaint."""
    path = _key_path(problem["loc"], document.values)
    where = document.origin(path) or source
    name = ".".join(str(part) for part in path) or "config"
    received = _shorten(problem["input"])
    context = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            allowed = _fields_at(problem["loc"][:-1], kind)
            hint = _colon_hint(path[-1:]) or _elsewhere(path, kind) or did_you_mean(str(path[-1]), allowed)
            return f"{where}: unknown key '{name}'.{hint} Allowed here: {', '.join(allowed)}."
        case "missing":
            return f"{where}: '{name}' is missing; it has no default."
        case "union_tag_invalid":
            # pydantic gives the tags as text: 'fcn', 'danet', ...
            allowed = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
            value = context["tag"]
            return (
                f"{where}: {name}.name is '{value}'.{did_you_mean(str(value), allowed)} Allowed: {', '.join(allowed)}."
            )
        case "union_tag_not_found":
            hint = _colon_hint(problem["input"]) if isinstance(problem["input"], dict) else ""
            return f"{where}: '{name}' needs a 'name' for its kind; got {received}.{hint}"
        case "value_error":
            return f"{where}: {context['error']}"
    rule = problem["msg"]
    for words, ours in _WORDS.items():
        rule = rule.replace(words, ours)
    # `--set 'loss.main={name: dice}'` without the quotes arrives as text, or as several assignments.
    wants_more = isinstance(problem["input"], str) and problem["type"] in ("tuple_type", "list_type", *_MAPPING_TYPES)
    hint = quoting_hint(problem["input"]) if where.startswith("--set") and wants_more else ""
    return f"{where}: {name} {rule[0].lower()}{rule[1:]}; got {received}.{hint}"


_WORDS = {"Input should be": "must be", "JSON": "YAML", "a valid array": "a list", "an object": "a mapping"}
"""Words of pydantic, and those for a reader of YAML."""
_MAPPING_TYPES = ("dict_type", "model_type", "model_attributes_type", "dataclass_type")


def _colon_hint(keys: Iterable[Any]) -> str:
    """Returns what is wrong with a key such as `name:dice`, which YAML takes as one word; empty for others."""
    word = next((str(key) for key in keys if ":" in str(key)), "")
    return f" YAML wants a space after a colon: {{{word.replace(':', ': ')}}}." if word else ""


def _key_path(loc: Sequence[str | int], values: Any) -> Path_:
    """Returns a location without the tags that pydantic adds for members of a union: they are no keys."""
    path: list[str | int] = []
    here: Any = values
    for part in loc:
        if isinstance(here, dict) and part not in here and here.get("name") == part:
            continue
        path.append(part)
        if isinstance(here, dict):
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        else:
            here = None
    return tuple(path)


def _fields_at(loc: Sequence[str | int], kind: type[BaseModel]) -> list[str]:
    """Returns the field names of the section at a pydantic location (tags included)."""
    model: type[BaseModel] | None = kind
    annotation: Any = kind
    for part in loc:
        if model is not None and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
            continue
        # A tag, or a member of a list or mapping: go on in the class that it names, else in the first.
        members = [m for m in _models_in(annotation) if _matches_tag(m, part)] or _models_in(annotation)
        model = members[0] if members else None
    return list(model.model_fields) if model else []


def _elsewhere(path: Sequence[str | int], kind: type[BaseModel]) -> str:
    """Returns a hint for a key that another section has, or an empty string: `iters` stands in `train`."""
    places = [
        f"'{name}.{path[-1]}'"
        for name, field in kind.model_fields.items()
        if name != path[0] and any(path[-1] in model.model_fields for model in _models_in(field.annotation))
    ]
    return f" Did you mean {' or '.join(places)}?" if places else ""


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _matches_tag(model: type[BaseModel], tag: str | int) -> bool:
    name = model.model_fields.get("name")
    return name is not None and tag in get_args(name.annotation)


def _shorten(value: Any, width: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"
