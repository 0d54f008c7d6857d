"""Journals are read as far as they are whole, and tell with what other settings they were begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsseg_tf.files.journal import Difference, Journal

SETTINGS = {"stride": (48, 48), "blend": "mean"}


def recalled(path: Path) -> Journal:
    journal = Journal(path)
    journal.recall()
    return journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of two entries."""
    journal = Journal(tmp_path / "folder" / "journal.jsonl")
    journal.begin(SETTINGS, resume=False)
    journal.append({"name": "a"}, {"name": "b"})
    return journal.path


def test_a_later_run_goes_on(path: Path) -> None:
    journal = recalled(path)
    assert journal.entries == [{"name": "a"}, {"name": "b"}]
    assert journal.difference(SETTINGS) is None
    journal.begin(SETTINGS, resume=True)
    journal.append({"name": "c"})
    assert journal.entries == recalled(path).entries == [{"name": "a"}, {"name": "b"}, {"name": "c"}]


def test_a_run_that_does_not_resume_replaces_the_journal_with_its_first_entry(path: Path) -> None:
    journal = Journal(path)
    journal.begin({"blend": "cosine"}, resume=False)
    assert len(recalled(path).entries) == 2
    journal.append({"name": "c"})
    assert recalled(path).entries == [{"name": "c"}]
    assert recalled(path).difference({"blend": "cosine"}) is None


def test_the_first_setting_that_differs_is_named(path: Path) -> None:
    journal = recalled(path)
    assert journal.difference({"stride": (48, 32), "blend": "cosine"}) == Difference("blend", "mean", "cosine")
    assert journal.difference({**SETTINGS, "stride": (48, 32)}) == Difference("stride", [48, 48], [48, 32])
    assert journal.difference({"blend": "mean"}) == Difference("stride", [48, 48], None)


@pytest.mark.parametrize("end", ["", "\n", '\n{"name": "c', "\n[1]", "\nnull", "\n" + "[" * 100_000])
def test_lines_that_are_cut_short_count_as_not_written(path: Path, end: str) -> None:
    path.write_text(path.read_text("utf-8") + end, "utf-8")
    journal = recalled(path)
    assert journal.entries == [{"name": "a"}, {"name": "b"}]
    journal.begin(SETTINGS, resume=True)
    journal.append({"name": "d"})
    assert recalled(path).entries[2:] == [{"name": "d"}]


def test_a_journal_without_settings_is_begun_anew(path: Path) -> None:
    path.write_text('{"settings"', "utf-8")
    journal = recalled(path)
    assert journal.settings is None and journal.entries == []
    journal.begin(SETTINGS, resume=True)
    journal.append({"name": "d"})
    assert recalled(path).entries == [{"name": "d"}] and recalled(path).settings == {**SETTINGS, "stride": [48, 48]}
