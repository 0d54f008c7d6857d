"""List files: one sample per line, the image's path and the label's, relative to a root folder.

    img_dir/train/tile1_001_0_0.png ann_dir/train/tile1_001_0_0.png

Columns are separated by white space, or by a tab when the line has one: paths with spaces need the tab. Blank lines
and lines that start with ``#`` are skipped. A sample may stand in several lines; it is then seen more often.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rsseg_tf.errors import DataError
from rsseg_tf.files import StrPath, atomic_path

__all__ = ["Sample", "list_lines", "read_list", "write_list"]


@dataclass(frozen=True)
class Sample:
    """One image and its label, None where there is none."""

    image: Path
    label: Path | None


def read_list(list_file: StrPath, root: StrPath, *, labels: bool = True) -> tuple[Sample, ...]:
    """Reads a list file and checks that every file it names exists.

    Args:
        list_file: UTF-8 text in the format of this module's docstring.
        root: Folder to which the paths are relative; absolute paths stay as they are.
        labels: Whether each line must name a label. If not, lines may have one or two columns, and the second is
            neither checked nor returned.

    Returns:
        The samples in the order of the file.

    Raises:
        DataError: When the list is missing, no UTF-8 text, empty, has a line with a wrong number of columns, or names
            files that do not exist (all are counted, the first is named).
    """
    list_file = Path(list_file)
    root = Path(root)
    samples: list[Sample] = []
    missing: list[tuple[int, Path]] = []
    for number, columns in list_lines(list_file):
        if not (len(columns) == 2 or (len(columns) == 1 and not labels)):
            wanted = "an image and a label" if labels else "an image and at most a label"
            raise DataError(
                f"{list_file}, line {number}: {len(columns)} column{'s' if len(columns) != 1 else ''}; {wanted} are "
                "expected. Separate paths that contain spaces by a tab."
            )
        sample = Sample(root / columns[0], root / columns[1] if labels else None)
        missing.extend((number, path) for path in (sample.image, sample.label) if path and not path.is_file())
        samples.append(sample)
    if not samples:
        raise DataError(f"List file {list_file} is empty. Each line must name an image and a label, relative to root.")
    if missing:
        number, path = missing[0]
        raise DataError(
            f"{list_file} names {len(missing)} missing file{'s' if len(missing) != 1 else ''}; "
            f"the first is {path} (line {number}). Paths are relative to the root {root}; check it."
        )
    return tuple(samples)


def list_lines(list_file: Path) -> list[tuple[int, list[str]]]:
    """Returns the lines of a list file that name something: their numbers, from 1, and their columns.

    Raises:
        DataError: When the file is missing or is no UTF-8 text.
    """
    try:
        text = list_file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"List file {list_file} does not exist. Check the path or prepare the dataset first.") from (
            error
        )
    except UnicodeDecodeError as error:
        raise DataError(f"List file {list_file} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"List file {list_file} cannot be read: {error.strerror or error}.") from error
    return [
        (number, _columns(line))
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]


def write_list(path: StrPath, samples: Iterable[Sample], root: StrPath) -> None:
    """Writes a list file that `read_list` gives back, whole or not at all.

    Args:
        path: The file to write; its folder must exist.
        samples: What to list; all with a label or all without one.
        root: Folder to which the paths are written relative.

    Raises:
        DataError: When a file lies outside `root`, a path cannot stand in a line, there is nothing to write, or the
            file cannot be written.
    """
    path = Path(path)
    root = Path(root)
    lines = [_line(sample, root) for sample in samples]
    if not lines:
        raise DataError(f"There is no sample to write to {path}; a list needs at least one.")
    try:
        with atomic_path(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8", newline="\n")
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error.strerror or error}. Check the folder and the free space.") from (
            error
        )


def _columns(line: str) -> list[str]:
    if "\t" in line:
        return [column.strip() for column in line.split("\t") if column.strip()]
    return line.split()


def _line(sample: Sample, root: Path) -> str:
    columns = []
    for path in (sample.image, sample.label):
        if path is None:
            continue
        try:
            column = path.relative_to(root).as_posix()
        except ValueError as error:
            raise DataError(f"{path} lies outside the root {root}; lists hold paths below their root.") from error
        if column.startswith("#") or column != column.strip() or any(character in column for character in "\t\r\n"):
            raise DataError(
                f"{column!r} cannot stand in a list: no leading '#', outer space, tab or line break is "
                "allowed. Rename it."
            )
        columns.append(column)
    spaced = any(len(column.split()) > 1 for column in columns)
    if len(columns) == 1:
        return columns[0] + ("\t\n" if spaced else "\n")
    return ("\t" if spaced else " ").join(columns) + "\n"
