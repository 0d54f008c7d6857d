"""Reads mappings of another program's configs by tables, and reports every key without a row."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from rsseg_tf.errors import did_you_mean

__all__ = ["ForeignSection", "ImportReport", "KeyRule", "KindRule"]

T = TypeVar("T")


class ImportReport:
    """Problems, notes, and every mapping that was opened."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.sections: list[ForeignSection] = []
        self.files = 0  # read so far, for a bound on bases of bases

    def finish(self) -> None:
        """Adds a problem for each key that was never read."""
        for section in self.sections:
            for key in section.unread:
                section.problem(f"the key {key} has no counterpart here; remove it.")


class ForeignSection:
    """A mapping of another program's config that records which of its keys were never read.

    Each method that reads a key returns its value or reports what becomes of it, so that no key is dropped silently.
    """

    def __init__(self, values: Any, where: str, report: ImportReport) -> None:
        self.where, self.report = where, report
        if not isinstance(values, Mapping):
            report.problems.append(f"{where} must be a mapping; got {values!r}.")
            values = {}
        self.unread = dict(values)  # each read removes its key
        report.sections.append(self)

    def take(self, key: str, default: Any = None) -> Any:
        """Reads a value that goes unchanged into the new config, whose schema checks it."""
        return self.unread.pop(key, default)

    def text(self, key: str, default: str | None = None) -> str | None:
        """Reads a string; the default for a missing key."""
        value = self.take(key, default)
        if value is not None and (not isinstance(value, str) or not value):
            self.problem(f"{key} must be a text; got {value!r}.")
            return default
        return value

    def number(self, key: str, default: float) -> Any:
        """Reads a number."""
        given = self.take(key, default)
        value = _number(given)
        if value is None:
            self.problem(f"{key} must be a number; got {given!r}.")
            return default
        return value

    def numbers(self, key: str, default: Sequence[float], *, single: bool = False) -> list[Any]:
        """Reads a list of numbers; with `single`, one number stands for a list with that number."""
        given = self.take(key, default)
        values = [_number(value) for value in (given if isinstance(given, list | tuple) else [given])]
        if None in values or not values or not (single or isinstance(given, list | tuple)):
            self.problem(f"{key} must be a list of numbers; got {given!r}.")
            return list(default)
        return values

    def real(self, key: str, default: float) -> float:
        """Reads a number as a float."""
        return float(self.number(key, default))

    def reals(self, key: str, default: None) -> list[float] | None:
        """Reads a list of numbers as floats; the default for a missing key."""
        given = self.unread.get(key)
        return self.take(key, default) if given is None else [float(value) for value in self.numbers(key, [1.0])]

    def whole(self, key: str, default: int) -> int:
        """Reads a whole number."""
        value = self.number(key, default)
        if value != int(value):  # 80000.0 is a whole number
            self.problem(f"{key} must be a whole number; got {value}.")
        return int(value)

    def switch(self, key: str, default: bool = False) -> bool:
        """Reads true or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            self.problem(f"{key} must be true or false; got {value!r}.")
            return default
        return value

    def kind(self, table: Mapping[str, T], *others: str, default: Any = None, lower: bool = False) -> T | None:
        """Reads the `type` and returns its counterpart; without one the mapping is given up.

        Args:
            table: Type -> its counterpart.
            *others: Types that are allowed as well.
            default: PaddleSeg's default.
            lower: Whether the case of letters does not matter.
        """
        given = self.take("type", default)
        name = str(given).lower() if lower else given
        if isinstance(name, str) and name in table:
            return table[name]
        allowed = [*table, *others]
        self.give_up(
            f"the type {given} has no counterpart; allowed: {', '.join(allowed)}.{did_you_mean(str(given), table)}"
        )
        return None

    def section(self, key: str) -> ForeignSection | None:
        """Reads a mapping; None for a missing key."""
        return ForeignSection(self.take(key), key, self.report) if key in self.unread else None

    def sections(self, key: str, where: str) -> list[ForeignSection]:
        """Reads a list of mappings."""
        values = self.take(key, [])
        if not isinstance(values, list):
            self.problem(f"{key} must be a list of mappings; got {values!r}.")
            return []
        return [ForeignSection(value, where, self.report) for value in values]

    def only(self, key: str, *allowed: Any, because: str) -> None:
        """Reads a value without a counterpart, which must be one of `allowed`; the first is PaddleSeg's default."""
        value = self.take(key, allowed[0])
        if not any(_same(value, one) for one in allowed):
            self.problem(f"{key} is {value!r}; {because}")

    def unused(self, *keys: str, because: str) -> None:
        """Reads values that have no effect in PaddleSeg either, and notes that."""
        for key in keys:
            if key in self.unread:
                self.take(key)
                self.report.notes.append(f"{self.where}.{key} is left out: {because}.")

    def problem(self, text: str) -> None:
        """Reports what is wrong."""
        self.report.problems.append(f"{self.where}: {text}")

    def give_up(self, text: str) -> None:
        """Reports why this mapping cannot be imported; its keys then need no problems of their own."""
        self.problem(text)
        self.unread.clear()


class KeyRule(NamedTuple):
    """The counterpart of a key.

    Attributes:
        name: The key here.
        default: PaddleSeg's default.
        read: The method that reads the value.
        here: The default of this package, which is not written; None writes every value.
    """

    name: str
    default: Any
    read: Callable[[ForeignSection, str, Any], Any] = ForeignSection.take
    here: Any = None


class KindRule(NamedTuple):
    """The counterpart of a mapping with a certain `type`.

    Attributes:
        name: The name here.
        keys: Key there -> key here.
        only: Key -> the values that have a counterpart, PaddleSeg's default first, and why there are no others.
        indices: Of a segmentor, the values of `backbone_indices` that name the features that it takes here.
    """

    name: str
    keys: Mapping[str, KeyRule] = MappingProxyType({})
    only: Mapping[str, tuple[tuple[Any, ...], str]] = MappingProxyType({})
    indices: tuple[Sequence[int], ...] = ()

    def values(self, section: ForeignSection) -> dict[str, Any]:
        """Returns the section of a config of rsseg-tf."""
        values: dict[str, Any] = {"name": self.name}
        for key, counterpart in self.keys.items():
            value = counterpart.read(section, key, counterpart.default)
            if value is not None and value != counterpart.here:
                values[counterpart.name] = value
        for key, (allowed, because) in self.only.items():
            section.only(key, *allowed, because=because)
        return values


def _number(value: Any) -> Any:
    """Returns a finite number or None; PyYAML reads 1e-4 as a string."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= sys.float_info.max else None  # neither NaN nor what no float holds


def _same(value: Any, other: Any) -> bool:
    """Tells whether two values are equal, where true differs from 1."""
    return type(value) is not bool and value == other if type(other) is not bool else value is other
