"""Reads YAML of unknown origin within bounds: any of YAML's encodings, limited size, depth and number of values.

A few lines of YAML can expand to a billion values (a list of nine references to a list of nine references ...), and can
nest deeper than Python's stack. Such a file is refused before its values are built.
"""

from __future__ import annotations

import codecs
from pathlib import Path

import yaml

from rsseg_tf.errors import ConfigError, reason

__all__ = ["compose", "explain_yaml", "read_text"]

_MAX_BYTES = 2**20  # the largest shipped config has 4 kB
_MAX_NODES = 20_000
_MAX_DEPTH = 50
# UTF-32 first, whose mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


def read_text(path: Path) -> str:
    """Reads a text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, as editors on Windows write it.

    Raises:
        OSError: When the file cannot be read.
        ConfigError: When the file is too large, or no text.
    """
    with path.open("rb") as file:  # pipes have no size that could be asked before
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{path} is larger than {_MAX_BYTES >> 20} MiB; it is no config. Check the name.")
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} cannot be read as {encoding.upper()} text: {reason(error)}.") from error


def compose(loader: yaml.SafeLoader, source: str) -> yaml.Node | None:
    """Returns the nodes of a loader's one document; their number and depth are limited, with references followed.

    Raises:
        yaml.YAMLError: When the text is no YAML.
        ConfigError: When it exceeds the limits.
    """
    try:
        node = loader.get_single_node()
    except RecursionError as error:
        raise ConfigError(f"{source} cannot be read as YAML: it nests too deeply; a config does not.") from error
    if node is not None:
        _check(node, source)
    return node


def _check(node: yaml.Node, source: str) -> None:
    """Visits every node as often as it is referred to, without recursion."""
    waiting = [(node, 1)]
    count = 0
    while waiting:
        one, depth = waiting.pop()
        count += 1
        line = one.start_mark.line + 1
        if depth > _MAX_DEPTH:
            raise ConfigError(f"{source}:{line}: the YAML nests deeper than {_MAX_DEPTH} levels; a config has a few.")
        if isinstance(one, yaml.MappingNode):
            waiting += [(child, depth + 1) for pair in one.value for child in pair]
        elif isinstance(one, yaml.SequenceNode):
            waiting += [(child, depth + 1) for child in one.value]
        if count + len(waiting) > _MAX_NODES:
            raise ConfigError(
                f"{source}:{line}: the YAML has more than {_MAX_NODES} values, including those repeated by "
                "references (*name); it is no config."
            )


def explain_yaml(error: yaml.YAMLError, source: str) -> str:
    """Returns what is wrong with a text that is not YAML, with its line, without a full stop."""
    mark = getattr(error, "problem_mark", None)
    line = f":{mark.line + 1}" if mark else ""
    if isinstance(error, yaml.reader.ReaderError):
        where = f" at position {error.position}" if isinstance(error.position, int) else ""
        return f"{source}: this is not valid YAML: the character {_shown(error.character)}{where} is not allowed"
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{source}{line}: this is not valid YAML: {problem}"


def _shown(character: object) -> str:
    code = ord(character) if isinstance(character, str) and len(character) == 1 else character
    return f"U+{code:04X}" if isinstance(code, int) else repr(character)
