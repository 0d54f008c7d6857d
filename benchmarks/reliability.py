"""Tortures the package and writes the table in reliability.md: `python benchmarks/reliability.py`.

Every module in tests/torture with `run(seed, limit)` has its part. With --limit each tries that many points of a kind,
chosen by the seed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.torture.figures import Figure, table

PAGE = Path(__file__).with_name("reliability.md")
INTRODUCTION = """\
# Reliability

What happens to running commands and to those who read files of others, counted. Each row is one kind of torture; it
survives where the message is one clear line, nothing is lost that was finished, nothing of somebody else is touched,
and the same command (or its way to resume) then ends with the result of an undisturbed run, to the bit, with nothing
left over.

"""


def modules() -> list[str]:
    """Returns the names of the torture modules, in order."""
    return sorted(path.stem for path in Path("tests/torture").glob("test_*.py"))


def tortured(names: list[str], seed: int, limit: int | None) -> list[Figure]:
    """Runs modules one after the other and says how each goes on."""
    found: list[Figure] = []
    for name in names:
        began = time.monotonic()
        print(f"{name} …", file=sys.stderr, flush=True)
        figures = importlib.import_module(f"tests.torture.{name}").run(seed, limit)
        print(table(figures) + f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        found += figures
    return found


def machine() -> str:
    """Returns cores, memory and versions in a line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def main() -> None:
    """Writes the page, or prints the table alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, help="points of each kind; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=modules(), help="modules, such as test_kills")
    parser.add_argument("--print", action="store_true", dest="alone", help="print the table, leave reliability.md")
    arguments = parser.parse_args()
    began = time.monotonic()
    figures = tortured(arguments.only, arguments.seed, arguments.limit)
    text = table(figures)
    if arguments.alone:
        print(text, end="")
        return
    command = "python benchmarks/reliability.py" + "".join(f" {word}" for word in sys.argv[1:])
    spent = (time.monotonic() - began) / 60
    made = f"`{command}` on {machine()}, {datetime.date.today():%Y-%m-%d}, {spent:.0f} minutes.\n"
    PAGE.write_text(INTRODUCTION + made + "\n" + text, "utf-8")


if __name__ == "__main__":
    main()
