"""The folder in which a dataset grows: several processes cut scenes, and a run that was stopped can be continued.

While the work goes on, everything lies in `.NAME.partial` beside the output NAME. A journal there names the finished
scenes. After a kill, or once a damaged file is repaired, the same command continues with the other scenes. In the end
the folder takes the place of the output. Scenes whose entry in the journal cannot be read are cut again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rsseg_tf
from rsseg_tf.datasets.recipe import SourceScene
from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import DataError, reason
from rsseg_tf.files import remove_leftovers
from rsseg_tf.files.archives import Member, close_archives, list_members
from rsseg_tf.files.journal import Journal
from rsseg_tf.files.lists import read_list
from rsseg_tf.files.parallel import in_processes
from rsseg_tf.files.walking import IMAGE_SUFFIXES, LeftOut
from rsseg_tf.files.writing import partial_folder, replace_folder
from rsseg_tf.prepare.cutting import SceneRecord, cut_scene
from rsseg_tf.prepare.output import (
    WORK,
    PreparedFolder,
    PrepareReport,
    SplitReport,
    check_replaceable,
    held_output,
    keep_configs,
    needed_splits,
    read_description,
    replaced_dataset,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Cut", "Workspace", "workspace"]

_CHUNK_BYTES = 64 << 20
_CHUNKS_PER_WORKER = 8
_SHOWN_FAILURES = 20

Cut = Callable[[Any, Any, Path, Path], SceneRecord]
"""Cuts a scene by a plan into a folder, with a scratch folder at hand; see `cut_scene`."""

Outcome = SceneRecord | DataError
Records = dict[tuple[str, str], SceneRecord]
"""Records by split and stem."""


class Workspace:
    """The folder that becomes the output; from `workspace`."""

    def __init__(self, output: Path, folder: Path, dataset: DatasetSpec | str) -> None:
        self.output = output
        self.folder = folder
        self.dataset = dataset
        self.scratch = folder / WORK / "scratch"
        self._journal = Journal(folder / WORK / "journal.jsonl")
        self._left_out = LeftOut(IMAGE_SUFFIXES)

    def open(self) -> None:
        """Makes the folders and removes halves that a kill has left in them; the caller holds the lock."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        remove_leftovers(self.scratch.parent)
        self._journal.recall()

    def members(self, sources: Sequence[Path]) -> tuple[Member, ...]:
        """Names every file of the sources; see `list_members`."""
        return list_members(sources, self.scratch, self._left_out)

    def prepare(
        self,
        scenes: Sequence[SourceScene],
        plan: DataclassInstance,
        facts: Mapping[str, Any],
        *,
        cut: Cut | None = None,
        splits: Sequence[str] | None = None,
        off_palette_fraction: float = 0.0,
        workers: int | None = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> PrepareReport:
        """Cuts the scenes that are not yet cut and finishes the output.

        Args:
            scenes: All scenes, or parts of scenes.
            plan: How to cut, a dataclass.
            facts: Entries for `dataset.json`.
            cut: Function of a module that cuts one of them; `cut_scene` by default.
            splits: Those that the scenes must have; None for the usual ones, see `needed_splits`.
            off_palette_fraction: Share of the pixels of a mask, 0..1, that may be off the palette.
            workers: Number of processes; 1 works in this one, None takes one for each core.
            progress: Called after each scene with the number done and the number of all.

        Returns:
            What was written, or already there.

        Raises:
            DataError: When scenes failed (after all others are done), an unfinished run had other settings, or a worker
                was killed.
            OSError: When something cannot be written.
        """
        name = self.dataset if isinstance(self.dataset, str) else self.dataset.name
        needed = needed_splits(self.dataset, splits)
        _check_complete(name, scenes, needed)
        settings = {"dataset": name, "format": 1, **json.loads(json.dumps(dataclasses.asdict(plan))), **facts}
        digest = _digest(settings, scenes, off_palette_fraction)
        finished = self._finished(digest)
        if finished is not None:
            return dataclasses.replace(finished, left_out=str(self._left_out))
        classes = {} if isinstance(self.dataset, str) else {"classes": self.dataset.classes}
        replaced = replaced_dataset(self.output, name, classes | dict(facts))
        PreparedFolder.unmark(self.folder)  # from here on the folder is unfinished
        self._check_settings(settings)
        prepared = PreparedFolder(self.folder, self.dataset, needed)
        for split in {scene.split for scene in scenes}:
            prepared.open_split(split)
        work = functools.partial(_cut_chunk, cut=cut or cut_scene, plan=plan, folder=self.folder, scratch=self.scratch)
        records, failures = self._cut(scenes, work, workers or os.cpu_count() or 1, progress)
        # Checked after cutting and against the records, so that a raised limit needs no scene to be cut again.
        failures += _off_palette(scenes, records, off_palette_fraction)
        if failures:
            raise DataError(self._failed(failures, len(scenes)))
        # In the order of the scenes, not of the workers, so that the lists are the same for any number of processes.
        for scene in scenes:
            prepared.add_record(records[scene.split, scene.stem])
        prepared.sweep()
        reports = prepared.finish(facts)
        prepared.mark(digest)
        return PrepareReport(name, self.output, reports, left_out=str(self._left_out), replaced=replaced)

    def _finished(self, digest: str) -> PrepareReport | None:
        """Returns the report of an earlier run that finished the very same work; None if there is none."""
        report = _finished_report(self.output, self.output, digest)
        if report is not None:
            shutil.rmtree(self.folder)
            return report
        # A run that was killed just before the folder took the place of the output.
        report = _finished_report(self.folder, self.output, digest)
        return None if report is None else dataclasses.replace(report, up_to_date=False)

    def _cut(
        self,
        scenes: Sequence[SourceScene],
        work: Callable[[Sequence[SourceScene]], list[Outcome]],
        workers: int,
        progress: Callable[[int, int], None] | None,
    ) -> tuple[Records, list[str]]:
        """Cuts the scenes that the journal does not name; returns the records of all scenes, and what failed."""
        records = self._load(scenes)
        todo = [scene for scene in scenes if (scene.split, scene.stem) not in records]
        done = len(records)
        if progress is not None and done:
            progress(done, len(scenes))
        failures: list[str] = []
        for outcomes in in_processes(work, list(_chunks(todo, workers)), workers, kept="finished scenes are kept"):
            fresh = [outcome for outcome in outcomes if isinstance(outcome, SceneRecord)]
            self._journal.append(*(record.to_json() for record in fresh))
            records |= {(record.split, record.stem): record for record in fresh}
            failures += [str(outcome) for outcome in outcomes if isinstance(outcome, DataError)]
            for _ in outcomes:
                done += 1
                if progress is not None:
                    progress(done, len(scenes))
        return records, failures

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        """Compares the settings with those of an unfinished run, and goes on with its journal."""
        difference = self._journal.difference(settings) if self._journal.settings is not None else None
        if difference is not None:
            raise DataError(
                f"An unfinished run in {self.folder} had {difference.name} {difference.earlier}, now it is "
                f"{difference.now}. Finish it with the earlier settings, or delete that folder to start anew."
            )
        self._journal.begin(settings, resume=True)

    def _load(self, scenes: Sequence[SourceScene]) -> Records:
        """Returns the records in the journal whose sources have not changed."""
        stamps = {(scene.split, scene.stem): scene.source for scene in scenes}
        records: Records = {}
        for record in self._records():
            if stamps.get((record.split, record.stem)) == record.source:
                records[record.split, record.stem] = record
        return records

    def _records(self) -> Iterator[SceneRecord]:
        """Yields the finished scenes of the journal; an entry that cannot be read counts as not made."""
        for entry in self._journal.entries:
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
                yield SceneRecord.from_json(entry)

    def _failed(self, failures: list[str], count: int) -> str:
        """Returns the message about scenes that failed."""
        kept = self.has_records()
        ending = f" The other scenes are kept in {self.folder}; mend it and run the same command again." if kept else ""
        if len(failures) == 1:
            return failures[0] + ending
        lines = sorted(failures)[:_SHOWN_FAILURES]
        more = len(failures) - len(lines)
        lines += [f"and {more} more"] if more else []
        return f"{len(failures)} of {count} scenes failed.{ending}" + "".join(f"\n  {line}" for line in lines)

    def has_records(self) -> bool:
        """Tells whether a finished scene would be lost with the folder."""
        return next(self._records(), None) is not None


@contextlib.contextmanager
def workspace(output: Path, dataset: DatasetSpec | str) -> Iterator[Workspace]:
    """Gives a folder that takes the place of `output` when the block ends without an error.

    On an error the folder stays if a scene in it is finished, and `output` stays as it was.

    Args:
        output: The folder to appear. Parents are made. It may exist if it is empty or a prepared dataset of this
            package with nothing else in it; that is then replaced.
        dataset: The spec; for images without labels, the dataset's name.

    Yields:
        The workspace, with the finished scenes of an earlier run.

    Raises:
        DataError: When `output` holds anything else, cannot be written, or is being prepared by another process.
    """
    output = Path(os.path.abspath(output))  # a name is needed, which "." has not
    folder = partial_folder(output)
    try:
        check_replaceable(output)
        with held_output(output):
            with _opened(Workspace(output, folder, dataset)) as work:
                yield work
            if folder.exists():  # not so when the output was up to date
                check_replaceable(output)  # once more: hours may have gone by
                keep_configs(output, folder)
                shutil.rmtree(folder / WORK)
                replace_folder(folder, output)
    except OSError as error:
        raise DataError(f"Cannot write {output}: {reason(error)}. Check the permissions and the free space.") from error


@contextlib.contextmanager
def _opened(work: Workspace) -> Iterator[Workspace]:
    """Opens a workspace; on an error, removes it again unless finished scenes would be lost."""
    try:
        work.open()
        yield work
    except BaseException:
        close_archives()
        keep = work.has_records()
        shutil.rmtree(work.scratch, ignore_errors=True)
        if not keep:
            shutil.rmtree(work.folder, ignore_errors=True)
        raise
    close_archives()


def _check_complete(name: str, scenes: Sequence[SourceScene], needed: Sequence[str]) -> None:
    """Raises DataError when a needed split has no scene."""
    there = sorted({scene.split for scene in scenes})
    for split in needed:
        if split not in there:
            raise DataError(
                f"Dataset '{name}' would have no {split} tiles. Check that the source is complete"
                + (f", or prepare what is there alone: splits {' '.join(there)}." if there else ".")
            )


def _digest(settings: Mapping[str, Any], scenes: Sequence[SourceScene], off_palette_fraction: float) -> str:
    """Returns a digest of everything that the output depends on."""
    # The version counts, because another version may cut otherwise.
    lines = sorted(f"{scene.split} {scene.stem} {scene.group} {scene.source}" for scene in scenes)
    text = json.dumps([rsseg_tf.__version__, settings, off_palette_fraction, lines], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _finished_report(folder: Path, output: Path, digest: str) -> PrepareReport | None:
    """Returns the report of a folder with this digest and all its files; None for other folders."""
    if PreparedFolder.marked(folder) != digest:
        return None
    try:
        content = read_description(folder / "dataset.json")
        splits = {name: SplitReport(**report) for name, report in content["splits"].items()}
        for split in splits:
            read_list(folder / f"{split}.txt", folder, labels=(folder / "labels.txt").exists() and split != "test")
    except (DataError, KeyError, TypeError):
        return None
    return PrepareReport(content["name"], output, splits, up_to_date=True)


def _off_palette(scenes: Sequence[SourceScene], records: Records, allowed: float) -> list[str]:
    """Returns a message for each mask with too many pixels off the palette."""
    messages = []
    for scene in scenes:
        record = records.get((scene.split, scene.stem))
        if record is None:
            continue
        try:
            record.off_palette.check(str(scene.mask), record.height * record.width, allowed)
        except DataError as error:
            messages.append(str(error))
    return messages


# --- chunks -------------------------------------------------------------------------------------------------------


def _chunks(scenes: Sequence[SourceScene], workers: int) -> Iterator[list[SourceScene]]:
    """Groups scenes, so that a worker gets small scenes together and each worker gets several groups."""
    total = sum(scene.image.size for scene in scenes)
    target = min(_CHUNK_BYTES, total // (workers * _CHUNKS_PER_WORKER))
    chunk: list[SourceScene] = []
    size = 0
    for scene in scenes:
        chunk.append(scene)
        size += scene.image.size
        if size >= target:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _cut_chunk(
    scenes: Iterable[SourceScene], cut: Cut, plan: DataclassInstance, folder: Path, scratch: Path
) -> list[Outcome]:
    """Cuts some scenes. The error of one scene is an outcome and does not stop the others."""
    outcomes: list[Outcome] = []
    for scene in scenes:
        try:
            outcomes.append(cut(scene, plan, folder, scratch))
        except DataError as error:
            outcomes.append(error)
    return outcomes
