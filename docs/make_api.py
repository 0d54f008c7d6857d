"""Makes docs/api.md, the list of what programs may import: names, how they are called, and what they are.

    python docs/make_api.py

Public is what a package of `rsseg_tf` names in `__all__` of its `__init__.py`, or a module at the top in its own. The
sources are parsed, not imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_name("api.md")
HEAD = """\
# What programs may import

Made by `make api` from the docstrings, which say more. A name that moves stays importable for one release, with a
warning that says where it went. Commands are told by `rsseg-tf COMMAND --help`.
"""
WIDEST = 100  # of a call in one line


def tree(module: str) -> ast.Module:
    """Parses a module or a package."""
    path = ROOT / module.replace(".", "/")
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8"))


def public_modules() -> list[str]:
    """Returns the packages and the modules at the top that have an `__all__`, in order."""
    paths = [*(ROOT / "rsseg_tf").glob("*/__init__.py"), *(ROOT / "rsseg_tf").glob("*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths}
    return [name for name in sorted(names) if exported(tree(name))]


def exported(module: ast.Module) -> list[str]:
    """Returns what a module names in `__all__`."""
    for node in module.body:
        if isinstance(node, ast.Assign) and any(isinstance(x, ast.Name) and x.id == "__all__" for x in node.targets):
            return [name for name in ast.literal_eval(node.value) if not name.startswith("__")]
    return []


def definition(module: str, name: str) -> tuple[ast.stmt, str] | None:
    """Returns the statement that defines a name, and the sentence that tells of it; follows imports inside the package.

    None stands for a package or module that is public by its own name.
    """
    body = tree(module).body
    for node in ast.walk(ast.Module(body, [])):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rsseg_tf"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    if node.module == module or (ROOT / node.module.replace(".", "/") / alias.name).is_dir():
                        return None
                    return definition(node.module, alias.name)
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node, ast.get_docstring(node) or ""
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = {found.id for target in targets if target for found in ast.walk(target) if isinstance(found, ast.Name)}
        if name in names:
            told = following.value if isinstance(following, ast.Expr) else None
            return node, str(told.value) if isinstance(told, ast.Constant) and isinstance(told.value, str) else ""
    raise LookupError(f"{module} does not define {name}, which it exports")


def call(node: ast.stmt, name: str) -> str:
    """Returns how a name is used: a function with its arguments, without their types."""
    if not isinstance(node, ast.FunctionDef):
        return f"class {name}" if isinstance(node, ast.ClassDef) else name
    for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]:
        if argument:
            argument.annotation = None
    arguments = ast.unparse(node.args)
    return f"{name}({arguments})" if len(arguments) + len(name) <= WIDEST else f"{name}(…)"


def summary(text: str) -> str:
    """Returns the first paragraph of a docstring in one line, fit for a table."""
    return " ".join(text.strip().split("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")


def sections() -> Iterator[str]:
    """Yields the page's sections."""
    for module in public_modules():
        rows, subpackages = [], []
        for name in sorted(exported(tree(module)), key=lambda name: (name.lower(), name)):
            found = definition(module, name)
            if found is None:
                subpackages.append(name)
            else:
                rows.append(f"| `{call(found[0], name)}` | {summary(found[1])} |")
        yield f"\n## {module}\n\n{summary(ast.get_docstring(tree(module)) or '')}\n"
        if subpackages:
            yield f"\nIts packages {', '.join(f'`{name}`' for name in subpackages)} have sections of their own.\n"
        if rows:
            yield "\n| | |\n|---|---|\n" + "\n".join(rows) + "\n"


def page() -> str:
    """Returns the whole page."""
    return HEAD + "".join(sections())


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
