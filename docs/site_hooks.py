"""What mkdocs.yml cannot say: pages that lie beside docs/, links among all of them, and the pages that are generated.

A page stays one file, whose links lead where they should in the repository's own view. On the way to the site

- pages of other folders (`benchmarks/`, `export/`, …) join those of `docs/`, and the README is the first page;
- links to pages, pictures and files of the repository become links within the site;
- headings get the anchors that they have in the repository's view;
- notebooks become pages, and so do the help of every command and the docstrings of every public module.
"""

from __future__ import annotations

import ast
import functools
import html
import json
import posixpath
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # `mkdocs`, unlike `python -m mkdocs`, does not find what lies in the current folder
from docs import make_api  # noqa: E402

DOCS = "docs/"
# Pages beside docs/: place in the repository -> place in the site.
BESIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "benchmarks/README.md": "benchmarks/README.md",
    "benchmarks/edge.md": "benchmarks/edge.md",
    "benchmarks/parity.md": "benchmarks/parity.md",
    "benchmarks/reliability.md": "benchmarks/reliability.md",
    "benchmarks/zoo_export.md": "benchmarks/zoo_export.md",
    "docker/README.md": "docker/README.md",
    "export/README.md": "export/README.md",
    "serving/README.md": "serving/README.md",
}
SOURCES = "source"
"""Folder of the site for files of the repository that pages link to."""
WITH_REFERENCES = ("how_to.md", "library.md", "keras.md", "index.md")
"""Pages on which names of functions and commands become links to the reference."""
COMMANDS, MODULES = "commands", "python"
"""Folders of the site for the generated pages."""

_CODE = re.compile(r"(^(`{3,})[^\n]*\n.*?^\2\s*?$|`[^`\n]+`)", re.M | re.S)
_LINKED_OR_CODE = re.compile(r"(\[[^\]\n]*\]\([^)\n]*\)|`[^`\n]+`)")
_LINK = re.compile(r'(\]\(|src=")([^)\s"]+)')


# === Files and the tree of pages ===


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Gives headings the anchors of the repository's view, and adds the generated pages to the tree."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = github_slug
    assert config.nav is not None
    for entry in config.nav:
        if isinstance(entry, dict) and "Reference" in entry:
            entry["Reference"] += [
                {"Commands": [f"{COMMANDS}/{name}.md" for name in ("index", *commands())]},
                {"Python": [f"{MODULES}/index.md", *(f"{MODULES}/{name}.md" for name in make_api.public_modules())]},
            ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages beside docs/, the generated ones, and what any of them links to."""
    for name, place in BESIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    for place, text in generated():
        files.append(File.generated(config, place, content=text))
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        place = str(Path(file.src_uri).with_suffix(".md"))
        files.append(File.generated(config, place, content=notebook(Path(str(file.abs_src_path)))))
    for page in list(files.documentation_pages()):
        if not is_generated(page.src_uri):
            _add_linked(page, files, config)
    return files


def is_generated(place: str) -> bool:
    """Says whether a page is made from click or from docstrings, with links that lead where they should."""
    return place.startswith((f"{COMMANDS}/", f"{MODULES}/"))


def _add_linked(page: File, files: Files, config: MkDocsConfig) -> None:
    """Copies the files of the repository that a page links to and that are no pages."""
    for _, target in _LINK.findall(_CODE.sub("", page.content_string)):
        name = in_repository(target.partition("#")[0], source_of(page.src_uri), config)
        if name and (ROOT / name).is_file() and files.get_file_from_path(place_of(name)) is None:
            files.append(File.generated(config, place_of(name), abs_src_path=str(ROOT / name)))


def generated() -> Iterator[tuple[str, str]]:
    """Yields place and text of the pages that are made from click and from docstrings."""
    yield f"{COMMANDS}/index.md", command_page(())
    for name in commands():
        yield f"{COMMANDS}/{name}.md", command_page((name,))
    rows = ""
    for module in make_api.public_modules():
        summary = make_api.summary(ast.get_docstring(make_api.tree(module)) or "")
        rows += f"| [`{module}`]({module}.md) | {summary} |\n"
        names = sorted(make_api.exported(make_api.tree(module)), key=str.lower)
        parts = [f"::: {where(module, name)}\n" for name in names if make_api.definition(module, name) is not None]
        yield f"{MODULES}/{module}.md", f"# {module}\n\n{summary}\n\n" + "\n".join(parts)
    yield f"{MODULES}/index.md", f"# Python\n\n{PYTHON_HEAD}\n| module | |\n|---|---|\n{rows}"


def where(module: str, name: str) -> str:
    """Returns under which path the reference has a public name: its own, unless a module of that name hides it."""
    path = ROOT / module.replace(".", "/") / name
    if not path.is_dir() and not path.with_suffix(".py").is_file():
        return f"{module}.{name}"
    while source := _imported_from(module, name):
        module = source
    return f"{module}.{name}"


def _imported_from(module: str, name: str) -> str | None:
    for node in ast.walk(make_api.tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
            return node.module if node.module.startswith("rsseg_tf.") else None
    return None


@functools.cache  # hundreds of files are parsed
def known_names() -> dict[str, str]:
    """Returns for each public name, such as `rsseg_tf.train`, under which path the reference has it."""
    names = {}
    for module in make_api.public_modules():
        for name in make_api.exported(make_api.tree(module)):
            if make_api.definition(module, name) is not None:
                names[f"{module}.{name}"] = where(module, name)
    return names


PYTHON_HEAD = """\
What programs may import, from the docstrings. [How to do what](../how_to.md) begins with the task;
[all names on one page](../api.md) is for looking one up.
"""


# === Links ===


def source_of(place: str) -> str:
    """Returns where a page of the site lies in the repository."""
    return next((name for name, known in BESIDE.items() if known == place), DOCS + place)


def place_of(name: str) -> str:
    """Returns where a file of the repository lies in the site."""
    if name in BESIDE:
        return BESIDE[name]
    if name.startswith(DOCS) and not name.endswith(".py"):
        return name.removeprefix(DOCS)
    return f"{SOURCES}/{name}"


def in_repository(target: str, page: str, config: MkDocsConfig) -> str | None:
    """Returns the path in the repository that a link of a page leads to; None for other addresses and anchors."""
    for view in ("blob", "raw", "tree"):
        base = f"{(config.repo_url or '').rstrip('/')}/{view}/main/"
        if config.repo_url and target.startswith(base):
            return target.removeprefix(base)
    if not target or re.match(r"\w+:", target) or target.startswith("/"):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links to files of the repository links within the site."""
    here = page.file.src_uri
    if is_generated(here):
        return markdown
    source = source_of(here)

    def change(link: re.Match[str]) -> str:
        target, mark, anchor = link[2].partition("#")
        name = in_repository(target, source, config)
        if name is None or not (ROOT / name).is_file():
            return link[0]
        place = posixpath.relpath(place_of(name), posixpath.dirname(here) or ".")
        if link[1] != "](":  # HTML is not looked through for links: name the file as the browser will ask for it
            place = posixpath.relpath(place_of(name), posixpath.dirname(page.file.dest_uri) or ".")
        return f"{link[1]}{place}{mark}{anchor}"

    names, ours = known_names(), commands()

    def named(code: str) -> str:
        path = names.get(code.strip("`"))
        command = re.fullmatch(r"`rsseg-tf ([\w-]+)[^`]*`", code)
        if path:
            return f"[{code}][{path}]"
        if command and command[1] in ours:
            there = posixpath.relpath(f"{COMMANDS}/{command[1]}.md", posixpath.dirname(here) or ".")
            return f"[{code}]({there})"
        return code

    pieces = _CODE.split(markdown)  # text, code, its fence, text, …
    text = "".join(piece for index, piece in enumerate(pieces) if index % 3 != 2 and piece is not None)
    parts = _LINKED_OR_CODE.split(text) if here in WITH_REFERENCES else [text]
    text = "".join(named(part) if index % 2 and part.startswith("`") else part for index, part in enumerate(parts))
    pieces = _CODE.split(text)
    return "".join(
        _LINK.sub(change, piece) if index % 3 == 0 else piece
        for index, piece in enumerate(pieces)
        if index % 3 != 2 and piece is not None
    )


def github_slug(text: str, separator: str) -> str:
    """Returns the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", html.unescape(text).strip().lower()).replace(" ", separator)


# === Commands ===


class Recorder(click.HelpFormatter):
    """Takes what a command writes as its help, and keeps it as Markdown: whatever --help shows, the page shows."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Keeps a line of usage."""
        self.text += f"```text\n{prog} {args}\n```\n\n"

    def write_text(self, text: str) -> None:
        """Keeps paragraphs."""
        for paragraph in text.split("\n\n"):
            if paragraph.startswith("\b"):
                self.text += f"```text\n{paragraph.lstrip(chr(8)).strip()}\n```\n\n"
            else:
                self.text += f"{prose(' '.join(paragraph.split()))}\n\n"

    def write_dl(self, rows: Iterable[tuple[str, str]], *sizes: Any, **more: Any) -> None:
        """Keeps a list of options or commands."""
        for name, told in rows:
            self.text += f"`{name}`\n:   {prose(' '.join(told.split())) or '…'}\n\n"

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Keeps a heading."""
        self.text += f"**{name}**\n\n"
        yield


def prose(text: str) -> str:
    """Returns text of a help as Markdown that shows it as it is."""
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [re.sub(r"([\\`*_\[\]|#])", r"\\\1", html.escape(part, quote=False)) for part in parts[::2]]
    return "".join(parts)


def commands() -> list[str]:
    """Returns the names of all commands."""
    from rsseg_tf.cli import main

    return list(main.list_commands(click.Context(main)))


def command_page(path: tuple[str, ...]) -> str:
    """Returns the page of a command with those below it; of no name, the list of commands."""
    from rsseg_tf.cli import main

    context = click.Context(main, info_name="rsseg-tf", **_settings(main))
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        inner = command.get_command(context, name)
        assert inner is not None
        command, context = inner, click.Context(inner, info_name=name, parent=context, **_settings(inner))
    title = " ".join(("rsseg-tf", *path)) if path else "Commands"
    text = f"{'#' * max(len(path), 1)} {title}\n\n{_help(command, context)}"
    if not path:
        rows = "".join(f"- [`rsseg-tf {name}`]({name}.md)\n" for name in commands())
        return f"{text}\n{rows}"
    if isinstance(command, click.Group):
        default = getattr(command, "default", None)
        names = [name for name in command.list_commands(context) if name != default]
        return text + "".join(command_page((*path, name)) for name in names)
    return text


def _help(command: click.Command, context: click.Context) -> str:
    recorder = Recorder()
    command.format_help(context, recorder)
    return recorder.text


def _settings(command: click.Command) -> dict[str, Any]:
    return dict(command.context_settings)


# === Notebooks ===


def notebook(path: Path) -> str:
    """Returns a notebook as a page: its text and its code."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    write: dict[str, Callable[[str], str]] = {
        "markdown": lambda text: text,
        "code": lambda text: f"```python\n{text}\n```",
    }
    pages = [write[cell["cell_type"]]("".join(cell["source"])) for cell in cells]
    title, *rest = pages
    return "\n\n".join([title, f"This page is a notebook: [{path.name}]({path.name}).", *rest]) + "\n"
