"""Prints the lowest releases that setup.py allows, with any patch to them, as constraints for pip.

python scripts/lowest_bounds.py > lowest.txt
PIP_CONSTRAINT=lowest.txt make test
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

SETUP = Path(__file__).resolve().parents[1] / "setup.py"


def lowest_bounds(text: str) -> dict[str, str]:
    """Returns the lowest release of each requirement that a setup.py names, by project."""
    strings = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
    found = (re.match(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\d.]+),<", value) for value in strings if isinstance(value, str))
    return {match[1]: match[2] for match in found if match}


if __name__ == "__main__":
    for project, release in sorted(lowest_bounds(SETUP.read_text("utf-8")).items()):
        print(f"{project}=={release}.*")
