"""A name has one meaning: no two public classes of the package share one."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import rsseg_tf

PACKAGE = Path(rsseg_tf.__file__).parent


def public_classes() -> dict[str, list[str]]:
    """Returns the public classes at the top level of modules: name -> the modules that define it."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(path.relative_to(PACKAGE).as_posix())
    return found


def test_no_two_public_classes_share_a_name() -> None:
    assert {name: modules for name, modules in public_classes().items() if len(modules) > 1} == {}
