"""From a YAML file and overrides to a checked, frozen `Config`; every complaint names the file and line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rsseg_tf.assets import find_config
from rsseg_tf.config.document import Document, Path_, load_document, parse_assignment
from rsseg_tf.config.schema import Config
from rsseg_tf.errors import ConfigError, did_you_mean

__all__ = ["config_from_document", "dump_config", "load_config"]

# So that a config, or --learning_rate on the command line, may change one number without saying the kind again.
_DEFAULT_KINDS = Document({"optimizer": {"name": "sgd"}, "lr_schedule": {"name": "poly"}})


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Reads and checks a config.

    Args:
        path: a YAML file, or the name of a shipped one (`rsseg_tf.assets.shipped_configs`); `base:` in it is followed.
        overrides: `key.sub=value` each, applied in order, under the same schema as the file.

    Raises:
        ConfigError: one line per problem: where, what, received, allowed.
    """
    document = _DEFAULT_KINDS.merged_with(load_document(find_config(str(path))))
    for text in overrides:
        document = document.merged_with(parse_assignment(text))
    return config_from_document(document, str(path))


def config_from_document(document: Document, source: str) -> Config:
    """Checks the values of a document against the schema.

    Raises:
        ConfigError: as `load_config`.
    """
    try:
        # In JSON mode strict validation takes a list for a tuple, which Python mode refuses.
        text = json.dumps(document.values, allow_nan=False)
        return Config.model_validate_json(text)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise ConfigError("\n".join(_explain(problem, document, source) for problem in problems)) from error
    except ValueError as error:
        raise ConfigError(f"{source}: numbers must be finite: {error}.") from error


def dump_config(config: Config) -> str:
    """Returns the whole config as YAML, defaults included; `load_config` reads it back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, default_flow_style=None)


def _explain(problem: ErrorDetails, document: Document, source: str) -> str:
    """Returns one line for one pydantic complaint."""
    path = _key_path(problem["loc"], document.values)
    where = document.origin(path) or source
    name = ".".join(str(part) for part in path) or "config"
    received = _shorten(problem["input"])
    context = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            allowed = _fields_at(problem["loc"][:-1])
            return (
                f"{where}: unknown key '{name}'.{did_you_mean(str(path[-1]), allowed)} "
                f"Allowed here: {', '.join(allowed)}."
            )
        case "missing":
            return f"{where}: '{name}' is missing; it has no default."
        case "union_tag_invalid":
            allowed = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
            value = context["tag"]
            return (
                f"{where}: {name}.name is '{value}'.{did_you_mean(str(value), allowed)} Allowed: {', '.join(allowed)}."
            )
        case "union_tag_not_found":
            return f"{where}: '{name}' needs a 'name' that says which kind it is; got {received}."
        case "value_error":
            return f"{where}: {context['error']}"
    rule = (
        problem["msg"].replace("Input should be", "must be").replace("JSON", "YAML").replace("a valid array", "a list")
    )
    return f"{where}: {name} {rule[0].lower()}{rule[1:]}; got {received}."


def _key_path(loc: Sequence[str | int], values: Any) -> Path_:
    """Drops the tags that pydantic puts into the location of a union's member; they are no keys of the document."""
    path: list[str | int] = []
    here: Any = values
    for part in loc:
        is_tag = isinstance(here, dict) and part not in here and here.get("name") == part
        if is_tag:
            continue
        path.append(part)
        if isinstance(here, dict):
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        else:
            here = None
    return tuple(path)


def _fields_at(loc: Sequence[str | int]) -> list[str]:
    """Returns the field names of the section at a pydantic location (tags included)."""
    model: type[BaseModel] | None = Config
    annotation: Any = Config
    for part in loc:
        if model is not None and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
            continue
        members = [m for m in _models_in(annotation) if _matches_tag(m, part)] or _models_in(annotation)
        model = members[0] if members else None
    return list(model.model_fields) if model else []


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
