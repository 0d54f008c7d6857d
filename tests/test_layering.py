"""The rules that the source itself must keep: who imports whom, and what is not written at all."""

from __future__ import annotations

import ast
import sys
from collections.abc import Container, Iterator
from pathlib import Path

import pytest

import rsseg_tf

PACKAGE = Path(rsseg_tf.__file__).parent
# Each row may import the rows before it, and itself. `rsseg_tf` alone (the version) is open to all.
ORDER = (
    "environment",
    "moved",
    "errors",
    "disjoint_sets",
    "plugins",
    "extras",
    "assets",
    "files",
    "datasets",
    "rasters",
    "stac",
    "styles",
    "config",
    "prepare",
    "manifest",
    "data",
    "layers",
    "backbones",
    "segmentors",
    "losses",
    "ssl",
    "metrics",
    "predict",
    "doctor",
    "checkpoint",
    "build",
    "weights",
    "predictors",
    "evaluate",
    "export",
    "engines",
    "training",
    "serving",
    "library",
    "cli",
    "__main__",
)
# What a process may do without loading a network library: describe data, read configs, count, cut and blend.
WITHOUT_KERAS = {
    "environment",
    "moved",
    "errors",
    "disjoint_sets",
    "plugins",
    "extras",
    "assets",
    "files",
    "datasets",
    "rasters",
    "stac",
    "styles",
    "prepare",
    "config",
    "manifest",
    "metrics",
    "inference",
    "stitching",
    "checking",
    "weights",
}
# But for single modules, which are imported when somebody asks for what they hold.
KERAS_MODULES = {"rsseg_tf.metrics.keras_metrics"}
# Everything else is pure Keras, so that models run on any of its backends.
WITH_TENSORFLOW = {"data", "export", "training", "predictors", "serving"}
# Single places: the quiet first import for the command line, resizing to a size known only at run time, dilated
# convolutions as one operation, and losses that devices share in `fit`.
TENSORFLOW_MODULES = {
    "rsseg_tf.library.startup",
    "rsseg_tf.layers.constants",
    "rsseg_tf.layers.conv",
    "rsseg_tf.layers.norm",
    "rsseg_tf.layers.resize",
    "rsseg_tf.losses.keras_losses",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_text("utf-8"), str(path)) for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = sorted(TREES)


def row(module: str) -> str:
    """Returns the row of a module of ours: `cli` for `rsseg_tf.cli.main`, nothing for `rsseg_tf` itself."""
    return module.split(".")[1] if "." in module else ""


def imports_of(tree: ast.AST, module: str, trees: Container[str] = TREES.keys()) -> Iterator[str]:
    """Yields the full names that a module imports, wherever in it; names in `trees` as modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: import by the full name"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in trees else str(node.module)


def lines_of(kind: type[ast.AST]) -> list[str]:
    return [
        f"{module}, line {node.lineno}"  # type: ignore[attr-defined]
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, kind)
    ]


# === Who imports whom ===


def test_every_module_has_its_row() -> None:
    assert {row(module) for module in MODULES} == {"", *ORDER}, "add new rows to ORDER, or remove old ones"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_rows_above_its_own(module: str) -> None:
    own = row(module)
    # `rsseg_tf` itself offers what a program starts from, but loads none of it before it is asked for (see below).
    allowed = {"", *ORDER[: ORDER.index(own) + 1]} if own else set(ORDER)
    ours = [name for name in imports_of(TREES[module], module) if name.split(".")[0] == "rsseg_tf"]
    below = sorted(name for name in ours if row(name) not in allowed)
    assert not below, f"{module} imports {', '.join(below)}, which comes later in the order"


@pytest.mark.parametrize("module", MODULES)
def test_network_libraries_are_imported_only_where_they_belong(module: str) -> None:
    heavy = {name.split(".")[0] for name in imports_of(TREES[module], module)}
    if row(module) not in WITH_TENSORFLOW and module not in TENSORFLOW_MODULES:
        assert "tensorflow" not in heavy
    if row(module) in WITHOUT_KERAS and module not in KERAS_MODULES:
        assert "keras" not in heavy
    assert not heavy & {"torch", "jax", "paddle", "tf_keras"}


def test_the_exceptions_are_in_use() -> None:
    for module in TENSORFLOW_MODULES:
        assert any(name.split(".")[0] == "tensorflow" for name in imports_of(TREES[module], module)), module
    for name in WITH_TENSORFLOW:
        assert any(
            imported.split(".")[0] == "tensorflow"
            for module in MODULES
            if row(module) == name
            for imported in imports_of(TREES[module], module)
        ), name


def test_the_errors_need_the_standard_library_alone() -> None:
    roots = {name.split(".")[0] for name in imports_of(TREES["rsseg_tf.errors"], "rsseg_tf.errors")}
    assert roots <= sys.stdlib_module_names


# === What is not written ===


def test_keras_is_never_reached_through_tensorflow() -> None:
    found = [
        f"{module}, line {node.lineno}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "keras"
        and isinstance(node.value, ast.Name)
        and node.value.id in {"tf", "tensorflow"}
    ]
    imported = [
        module
        for module, tree in TREES.items()
        for name in imports_of(tree, module)
        if name.startswith("tensorflow.keras")
    ]
    imported += [
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module == "tensorflow"
        and any(alias.name == "keras" for alias in node.names)
    ]
    assert not found + imported


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"util", "utils", "helper", "helpers", "misc", "common"}
    assert not [module for module in MODULES if drawers & set(module.split("."))]


def test_input_is_never_checked_by_assert() -> None:
    """`python -O` leaves assertions out, and their messages are for nobody."""
    assert lines_of(ast.Assert) == []


def test_no_error_is_caught_without_a_type() -> None:
    found = [
        f"{module}, line {node.lineno}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert not found


def test_nothing_is_imported_by_a_star() -> None:
    found = [
        f"{module}, line {node.lineno}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]
    assert not found


# === Tests ===

TESTS = Path(__file__).parent
TEST_TREES = {
    ".".join(path.relative_to(TESTS.parent).with_suffix("").parts): ast.parse(path.read_text("utf-8"), str(path))
    for path in sorted(TESTS.rglob("*.py"))
}


def test_no_module_imports_from_a_module_of_tests() -> None:
    """What two modules need stands in `tests/fixtures`."""
    found = [
        f"{module} imports {name}"
        for module, tree in TEST_TREES.items()
        for name in imports_of(tree, module, TEST_TREES)
        if name.startswith("tests.") and "test_" in name
    ]
    assert not found


def test_no_test_evaluates_text() -> None:
    found = [
        f"{module}, line {node.lineno}"
        for module, tree in TEST_TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "eval"
    ]
    assert not found


# === Docstrings ===


def undocumented(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    """Yields public functions and classes without a docstring, and methods of public classes."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        name = f"{prefix}.{node.name}"
        if any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in node.decorator_list):
            continue  # the function itself, which follows, says it
        if not ast.get_docstring(node):
            yield name
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, name)


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(TREES[module]), f"{module} has no docstring"
    assert list(undocumented(TREES[module].body, module)) == []
