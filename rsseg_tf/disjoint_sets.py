"""Numbers in sets that are joined two at a time (union-find)."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["DisjointSets"]


class DisjointSets:
    """Sets of numbers; a number that was never joined is a set of its own."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def root(self, number: int) -> int:
        """Returns the number that stands for the set of a number."""
        root = number
        while (above := self._parents.get(root, root)) != root:
            root = above
        while number != root:  # so that the next search is short
            number, self._parents[number] = self._parents[number], root
        return root

    def join(self, root: int, other: int) -> None:
        """Joins the sets of two roots; the first stands for both."""
        self._parents[other] = root

    def keep(self, numbers: Iterable[int]) -> None:
        """Forgets all numbers but some, whose roots stay what they are."""
        self._parents = {number: self.root(number) for number in numbers}
