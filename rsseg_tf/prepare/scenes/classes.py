"""Which classes the values of labels stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from rsseg_tf.datasets.spec import MAX_CLASSES
from rsseg_tf.errors import ConfigError, DataError

__all__ = ["BACKGROUND", "IGNORED", "IGNORED_ID", "ClassRules", "ClassTable", "class_table", "value_text"]

BACKGROUND = "background"
"""Name of the class of pixels that no label covers."""

IGNORED = "ignore"
"""Name that makes the pixels of a value ignored."""

IGNORED_ID = 255
"""Id of ignored pixels."""

_OTHERS = "*"
_SHOWN = 8


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
    if isinstance(value, float) and value == int(value):
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
                f"Add the value, or '{_OTHERS}={IGNORED}' for all others."
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


def _order(value: str) -> tuple[int, float, str]:
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value.casefold()


def _shown(values: Sequence[str]) -> str:
    return ", ".join(f"'{value}'" for value in values[:_SHOWN]) + (", …" if len(values) > _SHOWN else "")
