"""Which jobs of a run are done, so that a run which was stopped does them once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsseg_tf.errors import ConfigError
from rsseg_tf.files.journal import Journal
from rsseg_tf.predict.image import ImageJob, PredictionResult
from rsseg_tf.predict.settings import PredictionSettings
from rsseg_tf.predict.writing import unwritable
from rsseg_tf.rasters.stamps import source_stamp

__all__ = ["JOURNAL", "FinishedJobs"]

JOURNAL = ".predicted.jsonl"
"""Name of the journal in `save_dir`, which has an entry for each image that is done."""


class FinishedJobs:
    """The journal of a run.

    Args:
        settings: Settings of the run; `settings.scenes.resume` decides whether an earlier journal counts.
        jobs: Jobs of the run.

    Raises:
        ConfigError: On resume, when one of the jobs was done with other options.
    """

    def __init__(self, settings: PredictionSettings, jobs: Sequence[ImageJob]) -> None:
        self._journal = Journal(settings.save_dir / JOURNAL)
        self._done: dict[str, dict[str, Any]] = {}
        identity, difference = settings.identity(), None
        if settings.scenes.resume:
            self._journal.recall()
            self._done = {entry["name"]: entry for entry in self._journal.entries if "name" in entry}
            difference = self._journal.difference(identity)
        if difference is not None:
            if again := next((job for job in jobs if str(job.name) in self._done), None):
                raise ConfigError(
                    f"{again.path} was predicted to {settings.save_dir} with another {difference.name}: "
                    f"{difference.earlier}, now {difference.now}. Use the same options to resume, or leave --resume "
                    "out."
                )
            self._done = {}  # all of other images, whose entries would be taken for results of these settings
        self._journal.begin(identity, resume=settings.scenes.resume and difference is None)

    def result(self, job: ImageJob) -> PredictionResult | None:
        """Returns the result of a job that is done and whose image and results are still there unchanged."""
        line = self._done.get(str(job.name))
        if line is None or line.get("source") != _source(job):
            return None
        try:
            files = {name: Path(path) for name, path in line["files"].items()}
            if not all(path.is_file() for path in files.values()):
                return None
            return PredictionResult(job.path, files, line["note"] or "done by an earlier run")
        except (KeyError, TypeError, AttributeError, ValueError):  # a damaged line: the job is done again
            return None

    def record(self, job: ImageJob, result: PredictionResult) -> None:
        """Adds a job that is done; a failed job is left to the next run."""
        if not result.ok:
            return
        entry = {
            "name": str(job.name),
            "source": _source(job),
            "files": {name: str(path) for name, path in result.files.items()},
            "note": result.note,
        }
        try:
            self._journal.append(entry)
        except OSError as error:
            raise unwritable(self._journal.path, error) from error


def _source(job: ImageJob) -> list[Any]:
    """Returns path, size and time of a job's image; another image under the same name is predicted again."""
    return [str(job.path), *source_stamp(job.path)]
