"""A full disk at any write of train, predict, prepare and export; then the same command with room."""

from __future__ import annotations

import sys

import pytest

from tests.torture.commands import COMMANDS, LIMITS
from tests.torture.figures import Figure, asked, require_all_survived
from tests.torture.worker import all_figures, figures, may_mount

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks at /proc")


def run(seed: int, limit: int | None) -> list[Figure]:
    """Tries about `limit` points of each command, and sizes of disks where they can be mounted; all for None."""
    return all_figures("full", seed, limit) + (all_figures("disk", seed, limit) if may_mount() else [])


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_from_any_write_on_costs_nothing(name: str) -> None:
    require_all_survived(figures("full", [name], 1, asked(LIMITS[name])))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "predict", "prepare"])
def test_a_disk_that_is_really_full_costs_nothing(name: str) -> None:
    if not may_mount():
        pytest.skip("only root may mount a small disk, and not everywhere")
    require_all_survived(figures("disk", [name], 2, asked(min(4, LIMITS[name]))))
