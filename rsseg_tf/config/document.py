"""YAML documents that record the file and line of each key.

Differences from plain PyYAML, whose rules have spoilt training runs:

- a key that is written twice in one mapping is an error (PyYAML keeps the last one silently);
- `1e-4` is a number and `on`, `no` or `12:30` are strings, as in YAML 1.2 (PyYAML follows YAML 1.1);
- `base:` names one or more files to start from, relative to the file or among the shipped configs. Mappings merge,
  lists and scalars replace, and a mapping whose `name` changes starts afresh, since the fields of one model are
  unknown to another.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rsseg_tf.assets import asset_dir
from rsseg_tf.config.paddleseg_hint import paddleseg_hint
from rsseg_tf.config.yaml_text import compose, explain_yaml, read_text
from rsseg_tf.errors import ConfigError, OldKeyWarning, reason

__all__ = [
    "Document",
    "assignment",
    "document_of",
    "load_document",
    "parse_assignment",
    "parse_assignments",
    "quoting_hint",
]

Path_ = tuple[str | int, ...]

_COLLECTIONS = ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")
_LARGEST_INTEGER = 2**63 - 1  # larger ones overflow in NumPy and TensorFlow, far from the line that names them


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalar rules of YAML 1.2."""


# A scalar's first character selects the patterns that PyYAML tries; without a match it is a string.
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"^(?:null|Null|NULL|~|)$", "nN~"),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^$"), [""])


# PyYAML's own constructors read 012 as octal and 1:30 as a number in base 60.
def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node))


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node), 10)


_Loader.add_constructor("tag:yaml.org,2002:float", _float)
_Loader.add_constructor("tag:yaml.org,2002:int", _int)


@dataclass
class Document:
    """A nested mapping and the place where each of its keys was written.

    Attributes:
        values: The values, merged with the bases.
        origins: Key path -> `file:line`, or `--set key=value` for an override.
    """

    values: dict[str, Any]
    origins: dict[Path_, str] = field(default_factory=dict)

    def origin(self, path: Path_) -> str:
        """Returns the place of `path`, or else of its nearest parent; empty if neither was written."""
        while path:
            if path in self.origins:
                return self.origins[path]
            path = path[:-1]
        return ""

    @property
    def is_pretraining(self) -> bool:
        """Whether this is a config of self-supervised pre-training."""
        return "method" in self.values and "model" not in self.values

    def merged_with(self, other: Document) -> Document:
        """Returns this document overridden by `other`."""
        result = Document({}, dict(self.origins))
        result.values = _merge(self.values, other.values, (), result.origins)
        result.origins.update(other.origins)
        _rename_old_keys(result)
        return result


def _merge(old: Mapping[str, Any], new: Mapping[str, Any], path: Path_, origins: dict[Path_, str]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        here = (*path, key)
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            # Fields of one model are unknown to another, so that a new name starts afresh.
            is_renamed = "name" in value and value["name"] != before.get("name", value["name"])
            if not is_renamed:
                merged[key] = _merge(before, value, here, origins)
                continue
        # The value goes with all its keys, and so do the places where they were written.
        for stale in [known for known in origins if known[: len(here)] == here]:
            del origins[stale]
        merged[key] = value
    return merged


def _rename_old_keys(document: Document) -> None:
    """Gives keys of configs that earlier versions wrote their present names.

    Each merge calls this, so that an old key in a file still overrides the present one of the file's base.
    """
    train = document.values.get("train")
    if not (document.is_pretraining and isinstance(train, dict) and "batch_size" in train):
        return
    document.values["train"] = {key: value for key, value in train.items() if key != "batch_size"}
    document.values["train"]["total_batch_size"] = train["batch_size"]
    where = document.origins.pop(("train", "batch_size"), "train.batch_size")
    document.origins["train", "total_batch_size"] = where
    warnings.warn(
        f"{where}: in pre-training it counts the images of all devices; write train.total_batch_size: "
        f"{train['batch_size']} instead. train.batch_size counts those of one device, as in rsseg-tf train.",
        OldKeyWarning,
        stacklevel=2,
    )


def load_document(path: Path, _from: tuple[Path, ...] = (), _known: dict[Path, Document] | None = None) -> Document:
    """Reads a YAML file and its base files.

    Args:
        path: The file. `base:` in it names a file or a list of files, relative to its folder or as
            `rsseg-tf config list` names them; later ones win.

    Raises:
        ConfigError: For a file that cannot be read, broken YAML, a duplicate key, or files based on each other.
    """
    resolved = path.resolve()
    if resolved in _from:
        chain = " -> ".join(p.name for p in (*_from, resolved))
        raise ConfigError(f"{path}: these configs are based on each other: {chain}. Remove one `base:`.")
    # A base that several bases name is read once. Otherwise n levels of two bases each would take 2**n reads.
    known = {} if _known is None else _known
    if resolved in known:
        return known[resolved]
    try:
        text = read_text(path)
    except FileNotFoundError:
        by = f", which {_from[-1]} names as its base," if _from else ""
        raise ConfigError(f"The config {path}{by} does not exist.", code="not-found") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise ConfigError(f"The config {path} cannot be read: {reason(error)}.") from error
    if (hint := paddleseg_hint(path, text)) is not None:
        raise ConfigError(hint)
    own = _parse(text, str(path))
    known[resolved] = _on_bases(own, str(path), path.parent, (*_from, resolved), known)
    return known[resolved]


def document_of(values: Mapping[str, Any]) -> Document:
    """Returns the document of a plain mapping, whose `base` counts from the working directory.

    Raises:
        ConfigError: For values that YAML could not hold, or a base that cannot be read.
    """
    return _on_bases(Document(_plain(values, ())), "the mapping", Path(), (), {})


def _plain(value: Any, path: Path_) -> Any:
    """Returns mappings as dicts, sequences as lists, paths as texts; a copy, so that the caller's stay as they are."""
    where = ".".join(map(str, path)) or "the config"
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise ConfigError(f"{where}: keys of a config are texts; got {odd[0]!r:.60}.")
        return {key: _plain(one, (*path, key)) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, (*path, place)) for place, one in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a number of NumPy
        return value.item()
    if value is not None and not isinstance(value, str | int | float):
        raise ConfigError(f"{where}: a value is text, a number, true, false or null; got {type(value).__name__}.")
    return value


def _on_bases(
    own: Document, source: str, folder: Path, above: tuple[Path, ...], known: dict[Path, Document]
) -> Document:
    """Returns a document merged with the bases that it names.

    Args:
        own: What was written; `base` is taken out of it.
        source: Name of the place, for messages.
        folder: What relative names of bases count from.
        above: Files that this one is a base of.
        known: Documents that were read before.
    """
    bases = own.values.pop("base", [])
    where = own.origins.pop(("base",), source)
    names = [bases] if isinstance(bases, str) else bases
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{where}: base must be a file name or a list of them; got {bases!r:.100}.")
    document = Document({})
    for name in names:
        base = folder / name  # counts before a shipped config of this name
        if not base.is_file() and (shipped := asset_dir("configs") / name).is_file():
            base = shipped
        document = document.merged_with(load_document(base, above, known))
    return document.merged_with(own)


def parse_assignment(text: str) -> Document:
    """Turns `key.sub=value` into a document of that one value; the value is read as YAML.

    Raises:
        ConfigError: Without `=`, with an empty key, or with a value that is not YAML.
    """
    key, sign, value = text.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts):
        raise ConfigError(
            f"--set takes KEY=VALUE, for example --set train.iters=100; got '{text}'.{quoting_hint(text)}"
        )
    try:
        parsed = _parse(f"value: {value}" if value.strip() else "value: null", f"--set {text}")
    except ConfigError as error:
        raise ConfigError(f"{error}{quoting_hint(text)}") from error
    return _nested(tuple(parts), parsed.values["value"], f"--set {text}")


def assignment(key: str, value: Any) -> Document:
    """Returns the document of one value.

    Args:
        key: Where it belongs, such as `train.iters`.
        value: What `document_of` takes.

    Raises:
        ConfigError: For an empty part of the key, or another value.
    """
    parts = tuple(key.split("."))
    if not all(parts):
        raise ConfigError(f"a key is names with dots between them, such as train.iters; got '{key}'.")
    return _nested(parts, _plain(value, parts), f"{key}={value!r:.60}")


def _nested(path: tuple[str, ...], value: Any, origin: str) -> Document:
    for part in reversed(path):
        value = {part: value}
    return Document(value, {path[: i + 1]: origin for i in range(len(path))})


def parse_assignments(texts: Sequence[str]) -> list[Document]:
    """Returns what `parse_assignment` gives for each; a list or mapping that a shell took apart is told as such.

    Raises:
        ConfigError: As `parse_assignment`; with the command to write where words without `=` follow.
    """
    documents = []
    for i, text in enumerate(texts):
        rest = list(itertools.takewhile(lambda word: "=" not in word, texts[i + 1 :]))
        if "=" not in text or text.startswith("="):
            found = " ".join(texts[i:])
            example = re.sub(r"\s*=\s*", "=", found) if "=" in found else found.replace(" ", "=", 1)
            hint = f" Write it without spaces: --set {shlex.quote(example)}" if " " in found else quoting_hint(text)
            raise ConfigError(f"--set takes KEY=VALUE, for example --set train.iters=100; got '{found}'.{hint}")
        if rest:
            whole = " ".join([text, *rest])
            raise ConfigError(
                f"--set takes KEY=VALUE; got '{text}' and then '{' '.join(rest)}' without a key. If this is one value, "
                f"quote it: --set {shlex.quote(whole)}"
            )
        documents.append(parse_assignment(text))
    return documents


def quoting_hint(text: str) -> str:
    """Returns how to write an assignment that a shell may have changed, or an empty string.

    Shells split at spaces, take quotes away, and make several words of `{a,b}`.
    """
    if re.search(r"[][{}, :'\"]", text):
        return (
            " If the shell took spaces, quotes or braces apart, quote the whole: "
            "--set 'augment.crop_size=[256, 256]', --set 'loss.main={name: dice}'."
        )
    return ""


def _parse(text: str, file: str) -> Document:
    try:
        loader = _Loader(text)  # raises for characters that YAML forbids
        node = compose(loader, file)
        document = Document({})
        if node is None:
            return document
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{file}: a config is a mapping of keys to values; got {node.tag.rpartition(':')[2]}.")
        document.values = _construct(loader, node, (), document.origins, file)
        return document
    except yaml.YAMLError as error:
        raise ConfigError(f"{explain_yaml(error, file)}.") from error


def _construct(loader: _Loader, node: yaml.Node, path: Path_, origins: dict[Path_, str], file: str) -> Any:
    """Builds the value of a node and records the line of each key below it."""
    if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTIONS:
        raise ConfigError(
            f"{file}:{node.start_mark.line + 1}: the YAML tag {node.tag:.60} is not supported; remove it."
        )
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*path, i), origins, file) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(loader, node, file)
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        where = file if file.startswith("--set") else f"{file}:{line}"
        if not isinstance(key_node, yaml.ScalarNode) or key_node.value == "<<":
            raise ConfigError(f"{where}: keys are plain words; YAML merge keys are not supported, use `base:`.")
        key = key_node.value
        if key in values:
            raise ConfigError(f"{where}: the key '{key}' was already written on line {lines[key]}; remove one of them.")
        lines[key] = line
        origins[(*path, key)] = where
        values[key] = _construct(loader, value_node, (*path, key), origins, file)
    return values


def _scalar(loader: _Loader, node: yaml.Node, file: str) -> Any:
    """Returns the value of a scalar node."""
    where = file if file.startswith("--set") else f"{file}:{node.start_mark.line + 1}"
    try:
        value = loader.construct_object(node)
    except ValueError as error:  # such as a number of thousands of digits
        raise ConfigError(f"{where}: the value {node.value!r:.40} cannot be read: {reason(error)}.") from error
    if not isinstance(value, str | int | float | None):
        raise ConfigError(f"{where}: a value is text, a number, true, false or null; got the YAML tag {node.tag:.60}.")
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        raise ConfigError(f"{where}: the number {node.value:.40} is too large; at most {_LARGEST_INTEGER} is taken.")
    return value
