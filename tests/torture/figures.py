"""What the torture bench counts, and the table that it prints.

Each module of the bench has `run(seed, limit) -> list[Figure]`: it tries at most `limit` points of each kind (all of
them for None), chosen by `seed`, and says how many went right. Its tests call the same function with a small limit.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Figure", "asked", "chosen", "require_all_survived", "table"]

T = TypeVar("T")


def asked(usual: int) -> int | None:
    """Returns how many points of each kind a test tries: `usual`, or what `RSSEG_TF_TORTURE` says; None for `all`."""
    words = os.environ.get("RSSEG_TF_TORTURE", str(usual))
    return None if words == "all" else int(words)


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        name: what was done, such as `train, killed at a write`.
        tried: how often.
        survived: how often it went right.
        note: how many points there are, or what went wrong first.
    """

    name: str
    tried: int
    survived: int
    note: str = ""


def chosen(points: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """Returns at most `limit` of the points, in their order; the same ones for the same seed."""
    if limit is None or limit >= len(points):
        return list(points)
    places = sorted(random.Random(seed).sample(range(len(points)), limit))
    return [points[place] for place in places]


def table(figures: Iterable[Figure]) -> str:
    """Returns the figures as a table in Markdown."""
    lines = ["| what | tried | survived | |", "|---|---:|---:|---|"]
    lines += [f"| {one.name} | {one.tried:,} | {one.survived:,} | {one.note.replace('|', '/')} |" for one in figures]
    return "\n".join(lines) + "\n"


def require_all_survived(figures: Iterable[Figure]) -> None:
    """Fails a test with the figures where not all survived, or nothing was tried."""
    rows = list(figures)
    assert rows and all(row.tried > 0 and row.survived == row.tried for row in rows), "\n" + table(rows)
