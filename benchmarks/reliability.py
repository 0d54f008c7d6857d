"""Tortures the package and writes the table in reliability.md: `python -m benchmarks.reliability`.

Every module in tests/torture with `run(seed, limit)` is a part. All of it takes hours; `--limit test_kills=6` tries
about six points of each kind in that part, chosen by the seed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import sys
import time
from pathlib import Path

from benchmarks.measuring import machine
from tests.torture.figures import Figure, table

PAGE = Path(__file__).with_name("reliability.md")
INTRODUCTION = """\
# Reliability

What happens to running commands and to those who read files of others, counted. Each row is one kind of torture; it
survives where the message is one clear line, nothing is lost that was finished, nothing of somebody else is touched,
and the same command (or its way to resume) then ends with the result of an undisturbed run, to the bit, with nothing
left over.

"""


def parts() -> list[str]:
    """Returns the names of the modules that torture, in order."""
    files = sorted(Path("tests/torture").glob("*.py"))
    return [path.stem for path in files if "\ndef run(seed" in path.read_text("utf-8")]


def tortured(limits: dict[str, int | None], seed: int) -> list[Figure]:
    """Runs the parts one after the other and says on standard error how each goes."""
    found: list[Figure] = []
    for name, limit in limits.items():
        began = time.monotonic()
        print(f"{name} …", file=sys.stderr, flush=True)
        figures = importlib.import_module(f"tests.torture.{name}").run(seed, limit)
        print(table(figures) + f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        found += figures
    return found


def main() -> None:
    """Writes the page, or prints the table alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", nargs="*", default=[], metavar="PART=N", help="how much of a part; default: all")
    parser.add_argument("--only", nargs="*", default=parts(), choices=parts(), help="parts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--print", action="store_true", dest="alone", help="print the table, leave reliability.md")
    arguments = parser.parse_args()
    limits: dict[str, int | None] = dict.fromkeys(arguments.only)
    for name, _, count in (word.partition("=") for word in arguments.limit):
        if name not in limits:
            parser.error(f"--limit {name}: the parts are {', '.join(limits)}")
        limits[name] = int(count)
    began = time.monotonic()
    figures = tortured(limits, arguments.seed)
    text = table(figures)
    if arguments.alone:
        print(text, end="")
        return
    command = "python -m benchmarks.reliability" + "".join(f" {word}" for word in sys.argv[1:])
    spent = (time.monotonic() - began) / 60
    made = f"`{command}` on {machine()}, {datetime.date.today():%Y-%m-%d}, {spent:.0f} minutes.\n"
    PAGE.write_text(INTRODUCTION + made + "\n" + text, "utf-8")


if __name__ == "__main__":
    main()
