"""Which jobs of a run are done, so that a run which was stopped does them once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsseg_tf.errors import ConfigError, DataError, reason
from rsseg_tf.predict.jobs import Job, JobSettings, PredictionResult, stamp

__all__ = ["JOURNAL", "FinishedJobs"]

JOURNAL = ".predicted.jsonl"
"""In `save_dir`: a line with the settings, then one per image that is done; what a kill has cut short is not read."""


class FinishedJobs:
    """The journal of a run.

    Args:
        settings: the run's; `settings.scenes.resume` says whether an earlier journal counts.
        jobs: its jobs.

    Raises:
        ConfigError: on resume, when one of the jobs was done with other options.
    """

    def __init__(self, settings: JobSettings, jobs: Sequence[Job]) -> None:
        self._save_dir = settings.save_dir
        self._path = settings.save_dir / JOURNAL
        self._settings: dict[str, Any] = json.loads(json.dumps(settings.identity()))
        self._done: dict[str, dict[str, Any]] = {}
        self._is_begun = False
        if not settings.scenes.resume or not self._path.is_file():
            return
        made, done = self._read()
        again = [job for job in jobs if str(job.name) in done]
        if made == self._settings:
            self._done, self._is_begun = done, True
        elif again:
            name = min(key for key in {*made, *self._settings} if made.get(key) != self._settings.get(key))
            raise ConfigError(
                f"{again[0].path} was predicted to {settings.save_dir} with another {name}: {made.get(name)}, now "
                f"{self._settings.get(name)}. Use the same options to resume, or leave --resume out."
            )

    def result(self, job: Job) -> PredictionResult | None:
        """Returns the result of a job that is done and whose image and results are still there unchanged."""
        line = self._done.get(str(job.name))
        if line is None or line.get("source") != [str(job.path), *stamp(job.path)]:
            return None
        try:
            files = {name: Path(path) for name, path in line["files"].items()}
            if not all(path.is_file() for path in files.values()):
                return None
            result = PredictionResult(job.path, note=line["note"] or "done by an earlier run")
            return replace(result, **files)  # type: ignore[arg-type]  # `files` has the names of fields that are paths
        except (KeyError, TypeError, AttributeError, ValueError):  # a damaged line: the job is done again
            return None

    def record(self, job: Job, result: PredictionResult) -> None:
        """Adds a job that is done; those that failed are left to the next run."""
        if not result.ok:
            return
        line = {
            "name": str(job.name),
            "source": [str(job.path), *stamp(job.path)],
            "files": {name: str(path) for name, path in result.files.items()},
            "note": result.note,
        }
        try:
            self._save_dir.mkdir(parents=True, exist_ok=True)
            with self._path.open("a" if self._is_begun else "w", encoding="utf-8") as handle:
                if not self._is_begun:
                    handle.write(json.dumps({"settings": self._settings}))
                # The line break in front ends a line that a kill has cut short.
                handle.write("\n" + json.dumps(line))
        except OSError as error:
            raise DataError(
                f"cannot write {self._path}: {reason(error)}. Check the folder and the free space."
            ) from error
        self._is_begun = True

    def _read(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Returns the settings and the lines by the names of their jobs."""
        lines = []
        for text in self._path.read_text("utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):  # cut short, or deeper than Python follows
                continue
            if isinstance(line, dict):
                lines.append(line)
        made: dict[str, Any] = next((line["settings"] for line in lines if "settings" in line), {})
        return made, {line["name"]: line for line in lines if "name" in line}
