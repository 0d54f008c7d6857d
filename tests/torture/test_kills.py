"""kill -9 at any write of train, predict, prepare and export; then the same command again."""

from __future__ import annotations

import sys

import pytest

from tests.torture.commands import COMMANDS
from tests.torture.figures import Figure, asked, require_all_survived
from tests.torture.worker import all_figures, figures

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks at /proc")

# Points in a test run; see `asked` for more of them.
LIMITS = {
    "train": 3,
    "train --overwrite": 2,
    "predict": 8,
    "prepare": 12,
    "prepare over an earlier output": 8,
    "export": 2,
}


def run(seed: int, limit: int | None) -> list[Figure]:
    """Tries about `limit` points of each command; all of them for None."""
    return all_figures("kill", seed, limit)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_at_any_write_costs_nothing(name: str) -> None:
    require_all_survived(figures("kill", [name], 0, asked(LIMITS[name])))
