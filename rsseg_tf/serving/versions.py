"""The versions of a model in a folder: loaded when they appear, replaced without a gap, released when they are done.

    MODEL/1/saved_model.pb  MODEL/2/saved_model.pb  …

The folder is looked at every few seconds. A new version is loaded beside the old one, which goes once the new one
answers and the last request that runs on it has ended. A version that cannot be loaded changes nothing but the status;
it is tried again when its files change, such as when copying ends.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rsseg_tf.errors import ConfigError, ServingError, address_hint, reason
from rsseg_tf.serving.loaded import LoadedVersion
from rsseg_tf.serving.status import Code, RequestError

__all__ = ["VersionStatus", "Versions", "version_folders"]

State = Literal["LOADING", "AVAILABLE", "UNLOADING", "END"]
_MOST_ENDED = 16  # statuses of versions long gone that are still told
_MOST_DIGITS = 18  # of a version, which is a 64-bit number


@dataclass(frozen=True)
class VersionStatus:
    """What is told of a version: its state, and why it ended if something failed."""

    number: int
    state: State
    error: str = ""


def version_folders(folder: Path) -> dict[int, Path]:
    """Finds the versions of a model: subfolders whose names are numbers.

    Raises:
        ServingError: when the folder cannot be read.
    """
    try:
        children = list(folder.iterdir())
    except OSError as error:
        raise ServingError(
            f"{folder} cannot be read: {error.strerror}. Name a folder of `rsseg-tf export`.{address_hint(folder)}"
        ) from error
    return {
        int(path.name): path
        for path in children
        if path.name.isascii() and path.name.isdecimal() and len(path.name) <= _MOST_DIGITS and path.is_dir()
    }


class Versions:
    """Keeps the right versions of one model in memory.

    Args:
        name: of the model, for messages.
        folder: the versions are subfolders of it.
        keep: how many of the newest versions are served; 0 for all.
        labels: version by label.
        threads: how many one operation of a model may use; None leaves it to TensorFlow.
        report: called with a line whenever a version comes, goes or fails.

    Raises:
        ConfigError: when `keep` is negative.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        keep: int = 1,
        labels: Mapping[str, int] | None = None,
        threads: int | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        if keep < 0:
            raise ConfigError(f"the number of versions to keep must be at least 0, for all; got {keep}.")
        self.name = name
        self.folder = folder
        self.keep = keep
        self.labels = dict(labels or {})
        self._threads = threads
        self._report = report
        self._loaded: dict[int, LoadedVersion] = {}
        self._states: dict[int, VersionStatus] = {}
        self._failed: dict[int, object] = {}  # what the files of a version that failed looked like
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    # === What requests ask ===

    def acquire(self, number: int | None = None, label: str | None = None) -> LoadedVersion:
        """Returns a version, the newest one unless told otherwise; the caller releases it.

        Raises:
            RequestError: when there is no such version or label.
        """
        with self._lock:
            if label is not None:
                if label not in self.labels:
                    known = ", ".join(sorted(self.labels)) or "none"
                    raise RequestError(
                        Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label:.100}; labels: {known}"
                    )
                number = self.labels[label]
            if number is None and self._loaded:
                number = max(self._loaded)
            version = self._loaded.get(number) if number is not None else None
            if version is None:
                wanted = f"Latest({self.name})" if number is None else f"Specific({self.name}, {number})"
                known = ", ".join(map(str, sorted(self._loaded))) or "none"
                raise RequestError(
                    Code.NOT_FOUND, f"Servable not found for request: {wanted}; available versions: {known}"
                )
            version.acquire()
            return version

    def statuses(self, number: int | None = None, label: str | None = None) -> list[VersionStatus]:
        """Returns the status of all versions, newest first, or of one.

        Raises:
            RequestError: when there is no such version or label.
        """
        with self._lock:
            if label is not None:
                number = self.labels.get(label, -1)
            found = [status for status in self._states.values() if number in (None, status.number)]
        if not found:
            raise RequestError(Code.NOT_FOUND, f"Could not find version {label or number} of model {self.name}")
        return sorted(found, key=lambda status: -status.number)

    @property
    def available(self) -> list[int]:
        """Numbers of the versions that answer."""
        with self._lock:
            return sorted(self._loaded)

    @property
    def is_watching(self) -> bool:
        """Whether versions that appear would be seen."""
        return self._watcher is not None and self._watcher.is_alive()

    # === What keeps them up to date ===

    def start(self, poll_s: float) -> None:
        """Loads what is there, and then watches the folder.

        Raises:
            ServingError: when no version can be loaded.
        """
        failures = self.refresh()
        if not self.available:
            raise ServingError(failures[0] if failures else f"{self.folder} has no version to serve.")
        self._watcher = threading.Thread(target=self._watch, args=(poll_s,), name="versions", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Stops watching and releases all versions."""
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()
        for number in self.available:
            self._retire(number)

    def refresh(self) -> list[str]:
        """Looks at the folder once: loads new versions, retires those that are no longer wanted.

        Returns:
            Why versions failed to load, this time.

        Raises:
            ServingError: when the folder cannot be read.
        """
        found = version_folders(self.folder)
        newest = sorted(found, reverse=True)
        wanted = set(newest[: self.keep] if self.keep else newest) | (set(self.labels.values()) & set(found))
        failures = []
        for number in sorted(wanted - set(self.available)):
            looks = _looks(found[number])
            if self._failed.get(number) == looks:
                continue
            self._failed.pop(number, None)
            failure = self._load(number, found[number])
            if failure:
                self._failed[number] = looks
                failures.append(failure)
        for number in set(self._failed) - set(found):
            del self._failed[number]
        available = set(self.available)
        # While none of the wanted versions answers, the old one goes on.
        if available & wanted:
            for number in available - wanted:
                self._retire(number)
        return failures

    def _watch(self, poll_s: float) -> None:
        told = ""
        while not self._stop.wait(poll_s):
            try:
                self.refresh()
                told = ""
            except Exception as error:  # a network drive may come back, and a folder vanish at any moment
                line = str(error) if isinstance(error, ServingError) else self._unseen(error)
                if line != told:
                    self._report(line)
                told = line

    def _unseen(self, error: Exception) -> str:
        return f"Model {self.name}: {self.folder} could not be looked at: {reason(error)}. It is tried again."

    def _load(self, number: int, folder: Path) -> str:
        """Loads a version; returns why it failed, or nothing."""
        self._set(VersionStatus(number, "LOADING"))
        try:
            version = LoadedVersion(folder, number, threads=self._threads)
        except ServingError as error:
            self._set(VersionStatus(number, "END", str(error)))
            self._report(f"Model {self.name}: {error}")
            return str(error)
        with self._lock:
            self._loaded[number] = version
            self._states[number] = VersionStatus(number, "AVAILABLE")
        self._report(f"Model {self.name}: version {number} answers requests")
        return ""

    def _retire(self, number: int) -> None:
        with self._lock:
            version = self._loaded.pop(number)
            self._states[number] = VersionStatus(number, "UNLOADING")

        def closed() -> None:
            self._set(VersionStatus(number, "END"))
            self._report(f"Model {self.name}: version {number} is released")

        version.retire(closed)

    def _set(self, status: VersionStatus) -> None:
        with self._lock:
            self._states[status.number] = status
            ended = [number for number, known in self._states.items() if known.state == "END"]
            for number in ended[:-_MOST_ENDED]:
                del self._states[number]


def _looks(folder: Path) -> object:
    """Returns what changes when a file of a version does."""
    looks = []
    # Not by rglob, which fails where a folder is removed meanwhile.
    for place, _, names in os.walk(folder):
        for path in (place, *(os.path.join(place, name) for name in names)):
            try:
                stat = os.stat(path)
            except OSError:  # removed meanwhile
                continue
            looks.append((path, stat.st_size, stat.st_mtime_ns))
    return sorted(looks)
