"""Makes docs/api.md, the list of what programs may import: names, how they are called, and what they are.

    python docs/make_api.py

Public is what a package of `rsseg_tf` names in `__all__` of its `__init__.py`, or a module at the top in its own. The
sources are parsed; imported is only what is called and has no `def`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_name("api.md")
HEAD = """\
# What programs may import

Made by `make api` from the first lines of the docstrings. What arguments are, with shapes and units, what is returned
and which errors there are, is told by Python's `help(rsseg_tf.train)` and by the site of `make docs`. A name that moves
stays importable for one release, with a warning that says where it went. For commands see `rsseg-tf COMMAND --help`.
"""
# Methods that Keras calls, and not its users.
OF_KERAS = {"build", "call", "compute_output_shape", "compute_output_spec", "from_config", "get_config"}


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


def call(node: ast.stmt, module: str, name: str) -> str:
    """Returns how a name is used: a function or a class with its arguments, without their types."""
    if isinstance(node, ast.FunctionDef):
        return f"{name}({arguments(node.args)})"
    if isinstance(node, ast.ClassDef):
        return f"class {name}{constructor(node)}"
    found = getattr(importlib.import_module(module), name)
    if not inspect.isfunction(found) or found.__name__ != name:
        return name
    parameters = [x.replace(annotation=inspect.Parameter.empty) for x in inspect.signature(found).parameters.values()]
    return f"{name}{inspect.Signature(parameters)}"


def arguments(args: ast.arguments, *, bound: bool = False) -> str:
    """Returns arguments without their types; `bound` leaves out the first, `self`."""
    for argument in [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]:
        if argument:
            argument.annotation = None
    text = ast.unparse(args)
    return text.partition(",")[2].strip() if bound else text


def constructor(node: ast.ClassDef) -> str:
    """Returns the arguments that make an object: of `__init__`, or the fields of a dataclass or a named tuple."""
    for method in methods(node):
        if method.name == "__init__":
            return f"({arguments(method.args, bound=True)})"
    told = {
        found.id for part in [*node.decorator_list, *node.bases] for found in ast.walk(part) if hasattr(found, "id")
    }
    if not told & {"dataclass", "NamedTuple"}:
        return ""
    fields = [x for x in node.body if isinstance(x, ast.AnnAssign) and isinstance(x.target, ast.Name)]
    return f"({', '.join(ast.unparse(x.target) + (f'={ast.unparse(x.value)}' if x.value else '') for x in fields)})"


def methods(node: ast.stmt) -> list[ast.FunctionDef]:
    """Returns the methods and properties of a class; nothing else has any."""
    return [x for x in node.body if isinstance(x, ast.FunctionDef)] if isinstance(node, ast.ClassDef) else []


def rows_of(module: str, name: str, node: ast.stmt, text: str) -> Iterator[str]:
    """Yields the lines of a name: its own, and those of the methods and properties of a class."""
    if isinstance(node, ast.Assign) and inspect.isfunction(found := getattr(importlib.import_module(module), name)):
        text = found.__doc__ or ""
    yield f"| `{call(node, module, name)}` | {summary(text)} |"
    for method in methods(node):
        told = ast.get_docstring(method)
        if not told or method.name.startswith("_") or method.name in OF_KERAS:
            continue
        is_property = any(
            isinstance(x, ast.Name) and x.id in ("property", "cached_property") for x in method.decorator_list
        )
        is_static = any(isinstance(x, ast.Name) and x.id == "staticmethod" for x in method.decorator_list)
        use = "" if is_property else f"({arguments(method.args, bound=not is_static)})"
        yield f"| `{name}.{method.name}{use}` | {summary(told)} |"


def summary(text: str) -> str:
    """Returns the first paragraph of a docstring in one line, fit for a table."""
    return " ".join(text.strip().split("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")


def sections() -> Iterator[str]:
    """Yields the page's sections."""
    for module in public_modules():
        rows: list[str] = []
        subpackages = []
        for name in sorted(exported(tree(module)), key=lambda name: (name.lower(), name)):
            found = definition(module, name)
            if found is None:
                subpackages.append(name)
            else:
                rows.extend(rows_of(module, name, *found))
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
