"""kill -9 at any write of train, predict, prepare and export; then the same command again."""

from __future__ import annotations

import sys

import pytest

from tests.torture.commands import COMMANDS, LIMITS
from tests.torture.figures import Figure, asked, require_all_survived
from tests.torture.worker import all_figures, figures

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks at /proc")


def run(seed: int, limit: int | None) -> list[Figure]:
    """Tries about `limit` points of each command; all of them for None."""
    return all_figures("kill", seed, limit)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_at_any_write_costs_nothing(name: str) -> None:
    require_all_survived(figures("kill", [name], 0, asked(LIMITS[name])))
