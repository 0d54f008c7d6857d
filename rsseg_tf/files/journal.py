"""What a run that may be stopped has done so far: a file of JSON lines, the first of which holds the run's settings.

A later run with the same settings reads the entries and does the rest. A line that a kill, a full disk or a power cut
has cut short counts as not written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rsseg_tf.files.writing import atomic_path

__all__ = ["Difference", "Journal"]

_SETTINGS = "settings"


class Difference(NamedTuple):
    """A setting that two runs have different values of; None where a run has no such setting."""

    name: str
    earlier: Any
    now: Any


class Journal:
    """The journal of one run: `recall` what an earlier run did, `begin`, and `append` what is done.

    Args:
        path: The file; it appears with the first entry, and its folder with it.

    Attributes:
        path: The file.
        settings: Settings of the run; after `recall` those of the earlier run, None where nothing can be read.
        entries: Entries of the earlier run and of this one, in order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings: dict[str, Any] | None = None
        self.entries: list[dict[str, Any]] = []
        self._is_begun = False

    def recall(self) -> None:
        """Reads what an earlier run left, if it left anything.

        Raises:
            OSError: When a journal is there and cannot be read.
        """
        self.settings, self.entries = None, []
        for line in _lines(self.path) if self.path.is_file() else ():
            if self.settings is None and isinstance(line.get(_SETTINGS), dict):
                self.settings = line[_SETTINGS]
            else:
                self.entries.append(line)

    def difference(self, settings: Mapping[str, Any]) -> Difference | None:
        """Returns the first setting, by name, that the earlier run had another value of; None if all are the same."""
        earlier, now = self.settings or {}, _plain(settings)
        names = sorted(name for name in {*earlier, *now} if earlier.get(name) != now.get(name))
        return Difference(names[0], earlier.get(names[0]), now.get(names[0])) if names else None

    def begin(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Goes on with the earlier run's journal, or forgets it: the first entry then replaces the file.

        Args:
            settings: All that the entries depend on.
            resume: Whether to go on; the settings must be the same then.
        """
        self._is_begun = resume and self.settings is not None
        if not self._is_begun:
            self.settings, self.entries = _plain(settings), []

    def append(self, *entries: Mapping[str, Any]) -> None:
        """Writes entries to the disk.

        Raises:
            OSError: When they cannot be written; a later entry still can.
        """
        lines = "".join("\n" + json.dumps(entry) for entry in entries)  # its break also ends a line that was cut short
        if self._is_begun:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.path) as temporary:  # a journal is never seen without its settings
                temporary.write_text(json.dumps({_SETTINGS: self.settings}) + lines, "utf-8")
            self._is_begun = True
        self.entries += [dict(entry) for entry in entries]


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings as they come back from JSON: tuples as lists."""
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text("utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):  # cut short, or nested deeper than Python follows
            continue
        if isinstance(line, dict):
            yield line
