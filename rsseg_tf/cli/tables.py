"""What the tables of several commands have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["narrow_table"]


def narrow_table(title: str) -> Table:
    """Returns an empty table without lines between its columns, for many columns in 80 characters."""
    from rich import box
    from rich.table import Table

    return Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
