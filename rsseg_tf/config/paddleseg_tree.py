"""Imports a folder of PaddleSeg's configs: each file on its own, then all that were imported at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rsseg_tf.config.paddleseg import ImportedConfig, import_paddleseg, names_a_model
from rsseg_tf.errors import ConfigError, reason
from rsseg_tf.files import StrPath
from rsseg_tf.files.walking import walk_files
from rsseg_tf.files.writing import atomic_folder, atomic_path

__all__ = ["TreeEntry", "import_tree", "write_tree"]

_SUFFIXES = (".yml", ".yaml")


@dataclass(frozen=True)
class TreeEntry:
    """What became of a file.

    Attributes:
        path: Of the file, relative to the folder.
        imported: The config; None for a file that is refused.
        problems: Why it is refused, a line each.
        is_base: Whether it names no model. Those that name it as `_base_` have its content in them.
    """

    path: Path
    imported: ImportedConfig | None
    problems: tuple[str, ...] = ()
    is_base: bool = False

    @property
    def result(self) -> str:
        """One of `imported`, `base`, `refused`."""
        return "refused" if self.imported is None and not self.is_base else "base" if self.is_base else "imported"

    @property
    def why(self) -> str:
        """One problem, that with the model if there is one, and how many there are more."""
        if not self.problems:
            return ""
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return next((line for line in self.problems if line.startswith("model")), self.problems[0]) + more


def import_tree(folder: StrPath) -> tuple[TreeEntry, ...]:
    """Imports every YAML file below a folder; nothing is written.

    Args:
        folder: Hidden files and folders in it are passed over.

    Returns:
        What became of each file, in the order of their names.

    Raises:
        ConfigError: When there is no YAML file.
    """
    folder = Path(folder)
    files = [path for path in walk_files(folder) if path.suffix.lower() in _SUFFIXES]
    if not files:
        raise ConfigError(f"{folder} holds no file that ends in {' or '.join(_SUFFIXES)}. Name a folder of configs.")
    return tuple(_entry(path, path.relative_to(folder)) for path in files)


def _entry(path: Path, relative: Path) -> TreeEntry:
    is_base = not names_a_model(path)
    try:
        return TreeEntry(relative, import_paddleseg(path), is_base=is_base)
    except ConfigError as error:
        lines = [line.removeprefix(f"{path}: ") for line in str(error).splitlines()]
        return TreeEntry(relative, None, tuple(lines), is_base)


def write_tree(entries: Sequence[TreeEntry], output: StrPath, *, overwrite: bool = False) -> Counter[str]:
    """Writes what was imported into folders as those it came from, and no base: the configs hold what bases say.

    A new folder appears whole or not at all; in one that is there each file does.

    Args:
        entries: From `import_tree`.
        output: Folder to write to.
        overwrite: Whether files that are there are replaced.

    Returns:
        How many files were `imported`, `base` and `refused`.

    Raises:
        ConfigError: When nothing was imported, files are there, or cannot be written.
    """
    output = Path(output)
    counts = Counter(entry.result for entry in entries)
    wanted = {entry.path: entry.imported for entry in entries if entry.result == "imported" and entry.imported}
    if not wanted:
        raise ConfigError(f"None of {len(entries)} files could be imported, so that {output} was not written.")
    there = [path for path in wanted if (output / path).exists()]
    if there and not overwrite:
        raise ConfigError(
            f"{output / there[0]} exists, and so do {len(there) - 1} others of the files to be written; choose another "
            "folder, or replace them with --overwrite."
        )
    try:
        if output.exists():
            for path, config in wanted.items():
                (output / path).parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(output / path) as partial:
                    partial.write_text(config.text(path.as_posix()), "utf-8")
            return counts
        with atomic_folder(output) as folder:
            for path, config in wanted.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(config.text(path.as_posix()), "utf-8")
    except OSError as error:
        raise ConfigError(
            f"{output} cannot be written: {reason(error)}. Choose another place.", code="not-written"
        ) from error
    return counts
