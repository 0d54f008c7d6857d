"""Which classes the values of labels stand for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from rsseg_tf.datasets.spec import MAX_CLASSES
from rsseg_tf.errors import ConfigError, DataError

__all__ = [
    "BACKGROUND",
    "IGNORED",
    "IGNORED_ID",
    "ClassRules",
    "ClassTable",
    "class_table",
    "nearly_alike",
    "value_text",
]

BACKGROUND = "background"
"""Name of the class of pixels that no label covers."""

IGNORED = "ignore"
"""Name that makes the pixels of a value ignored."""

IGNORED_ID = 255
"""Id of ignored pixels."""

_OTHERS = "*"
_SHOWN = 8
_SHORTEST_TYPO = 4  # letters of a word; shorter ones are alike by chance


@dataclass(frozen=True)
class ClassRules:
    """What `--classes` says.

    Attributes:
        names: The name of each value that is listed, in the order of the list.
        others: The name of all other values; None where they are an error.
    """

    names: tuple[tuple[str, str], ...] = ()
    others: str | None = None

    @classmethod
    def parse(cls, words: Sequence[str]) -> ClassRules:
        """Reads words such as `building`, `3=road`, `9=ignore` and `*=ignore`.

        Raises:
            ConfigError: When a word lacks value or name, or a value stands twice.
        """
        names: dict[str, str] = {}
        for word in words:
            value, equals, name = word.partition("=")
            value, name = value.strip(), (name if equals else value).strip()
            if not value or not name:
                raise ConfigError(
                    f"--classes got {word!r}; NAME, VALUE=NAME, VALUE={IGNORED} or {_OTHERS}={IGNORED} is expected."
                )
            if value in names:
                raise ConfigError(f"--classes names the value {value} twice. Leave one out.")
            names[value] = name
        others = names.pop(_OTHERS, None)
        return cls(tuple(names.items()), others)


@dataclass(frozen=True)
class ClassTable:
    """The classes of a dataset.

    Attributes:
        names: Class names in the order of their ids.
        ids: The id of each value of the labels, as text; `IGNORED_ID` for ignored ones.
        background: Id of pixels that no label covers.
    """

    names: tuple[str, ...]
    ids: dict[str, int]
    background: int

    def id_of(self, value: Any) -> int:
        """Returns the id of a value of a field or a raster; values without content are ignored."""
        text = value_text(value)
        return IGNORED_ID if text is None else self.ids[text]


def value_text(value: Any) -> str | None:
    """Returns a value of a field as text: 3 and 3.0 are `3`; None for a value without content."""
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def class_table(
    values: Iterable[str],
    rules: ClassRules,
    *,
    background: bool,
    where: str,
    names: Mapping[str, str] = MappingProxyType({}),
) -> ClassTable:
    """Makes classes of the values that labels hold.

    Without rules each value is a class, in the order of the numbers, or of the alphabet. The background comes first,
    unless the rules name it.

    Args:
        values: All values, as text.
        rules: Names and order that the user chose.
        names: Names of values that the rules do not name.
        background: Whether pixels without a label are a class; else they are ignored.
        where: The field or the files that hold the values, for errors.

    Raises:
        DataError: When values have no name by the rules, or the classes are fewer than two or too many.
    """
    found = sorted(set(values), key=_order)
    listed = dict(rules.names)
    if rules.names and rules.others is None:
        unknown = [value for value in found if value not in listed]
        if unknown:
            raise DataError(
                f"{where} holds {_shown(unknown)}, which --classes does not name; it names {_shown(list(listed))}. "
                f"Add the value, or '{_OTHERS}={IGNORED}' for all others.{_slips(unknown, listed.keys() - found)}"
            )
    others = rules.others if rules.names or rules.others is not None else None
    named = {**listed, **{value: others or names.get(value, value) for value in found if value not in listed}}
    classes = list(dict.fromkeys(name for name in named.values() if name != IGNORED))
    if background and BACKGROUND not in classes:
        classes.insert(0, BACKGROUND)
    if len(classes) > MAX_CLASSES:
        raise DataError(
            f"{where} gives {len(classes)} classes ({_shown(classes)}); {MAX_CLASSES} at most are possible. Choose "
            "another field, or join values with --classes."
        )
    if len(classes) < 2:
        raise DataError(
            f"{where} gives one class alone ({classes[0] if classes else 'none'}); a model needs two to tell apart. "
            "Take the background as a class (--background class), or label a second one."
        )
    ids = {value: IGNORED_ID if name == IGNORED else classes.index(name) for value, name in named.items()}
    return ClassTable(tuple(classes), ids, classes.index(BACKGROUND) if background else IGNORED_ID)


def nearly_alike(names: Sequence[str]) -> list[str]:
    """Returns a sentence, without its full stop, for each pair of classes that may be one, typed in two ways.

    Such are names that differ in case, spaces and punctuation alone, and names in which one word of four letters or
    more lacks a letter, as in `bulding` and `building`, or has two neighbours swapped. Other letters in the place of
    some are more often meant: `track a`, `track b`.
    """
    found = []
    for place, later in enumerate(names):
        for earlier in names[:place]:
            if _is_typo(_words(earlier), _words(later)):
                found.append(
                    f"The classes '{earlier}' and '{later}' are nearly alike; if they are one, join them: --classes "
                    f"'{later}={earlier}' and the others"
                )
    return found


def _words(name: str) -> list[str]:
    return re.findall(r"\w+", name.casefold().replace("_", " "))


def _is_typo(one: list[str], other: list[str]) -> bool:
    if "".join(one) == "".join(other):
        return True
    if len(one) != len(other):
        return False
    differing = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
    return len(differing) == 1 and _has_slip(*sorted(differing[0], key=len))


def _has_slip(short: str, long: str) -> bool:
    """Returns whether a word lacks one letter of another, or has two neighbouring letters swapped."""
    if not (short.isalpha() and long.isalpha()) or len(short) < _SHORTEST_TYPO:
        return False
    if len(long) == len(short) + 1:
        return any(long[:place] + long[place + 1 :] == short for place in range(len(long)))
    if len(long) != len(short):
        return False
    places = [place for place, (a, b) in enumerate(zip(short, long, strict=True)) if a != b]
    return (
        len(places) == 2
        and places[1] == places[0] + 1
        and short[places[0]] + short[places[1]] == (long[places[1]] + long[places[0]])
    )


def _slips(unknown: Sequence[str], unused: Iterable[str]) -> str:
    """Returns which of the user's words that stand for no value may be meant for one, or an empty string."""
    near = {value: get_close_matches(value, sorted(unused), n=1) for value in unknown}
    return "".join(f" '{words[0]}' may be a slip for '{value}'." for value, words in near.items() if words)


def _order(value: str) -> tuple[bool, float, str, str]:
    """Numbers by size, then text by the alphabet; no two values are equal, so ids do not depend on a set's order."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    is_number = math.isfinite(number)
    return not is_number, number if is_number else 0.0, value.casefold(), value


def _shown(values: Sequence[str]) -> str:
    return ", ".join(f"'{value}'" for value in values[:_SHOWN]) + (", …" if len(values) > _SHOWN else "")
