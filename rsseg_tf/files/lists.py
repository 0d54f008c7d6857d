r"""List files: one sample per line, the image's path and the label's, relative to a root folder.

    img_dir/train/tile1_001_0_0.png ann_dir/train/tile1_001_0_0.png

Columns are separated by white space, or by a tab when the line has one: paths with spaces need the tab, or double
quotes. Blank lines and lines that start with `#` are skipped. A sample may stand in several lines; it is then seen
more often.

Lists of other systems are read too: with a byte-order mark (UTF-8, UTF-16, UTF-32), any line ends, `\` for `/`. A name
that is no UTF-8 stands for the file whose name has the same bytes.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import overload

import numpy as np

from rsseg_tf.errors import DataError, address_hint, reason
from rsseg_tf.files.paths import StrPath, readable_name
from rsseg_tf.files.walking import is_file
from rsseg_tf.files.writing import output_file

__all__ = ["Sample", "Samples", "list_lines", "missing_files", "read_list", "write_list"]

# Those of UTF-32 first: the mark of UTF-16 begins that of UTF-32.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_QUOTED = re.compile(r'"([^"]+)"|(\S+)')
_AT_ONCE = 4096  # samples whose paths are in memory while files are looked for
_ENCODING = ("utf-8", "surrogateescape")
"""How file names become bytes; names that are no UTF-8 keep their bytes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and its label, None where there is none."""

    image: Path
    label: Path | None


class Samples(Sequence[Sample]):
    """The samples of a list in little memory, a million of them in about 100 MB: each `Sample` is made on access.

    Equal to any sequence of the same samples.

    Args:
        root: Folder to which the columns are relative.
        columns: For each sample its image, and its label or None.
    """

    def __init__(self, root: Path, columns: Iterable[tuple[str, str | None]]) -> None:
        self._root = os.fspath(root)
        text = bytearray()
        ends: list[int] = []
        parts: list[np.ndarray] = []
        for image, label in columns:
            text += image.encode(*_ENCODING)
            if label is not None:
                text += b"\0" + label.encode(*_ENCODING)
            ends.append(len(text))
            if len(ends) == 1 << 16:  # Python integers take four times as much
                parts.append(np.array(ends, np.int64))
                ends.clear()
        self._text = bytes(text)
        self._ends = np.concatenate([np.zeros(1, np.int64), *parts, np.array(ends, np.int64)])

    def paths_of(self, start: int, stop: int) -> list[tuple[str, str | None]]:
        """Returns the paths of samples `start` to `stop` (exclusive), which is much cheaper than the samples."""
        ends = self._ends[start : stop + 1].tolist()
        found: list[tuple[str, str | None]] = []
        for begin, end in pairwise(ends):
            image, _, label = self._text[begin:end].decode(*_ENCODING).partition("\0")
            found.append((os.path.join(self._root, image), os.path.join(self._root, label) if label else None))
        return found

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Sample, ...]: ...

    def __getitem__(self, index: int | slice) -> Sample | tuple[Sample, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = int(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"sample {place} of {len(self)}")
        start = place % len(self)
        [(image, label)] = self.paths_of(start, start + 1)
        return Sample(Path(image), None if label is None else Path(label))

    def __iter__(self) -> Iterator[Sample]:
        return (self[place] for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == given for mine, given in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # equal to sequences of other types

    def __repr__(self) -> str:
        return f"Samples({len(self)} below {self._root})"


def read_list(list_file: StrPath, root: StrPath, *, labels: bool = True, must_exist: bool = True) -> Samples:
    """Reads a list file and checks that every file it names exists.

    Args:
        list_file: Text in the format of this module's docstring.
        root: Folder to which the paths are relative; absolute paths stay as they are.
        labels: Whether each line must name a label. If not, lines may have one or two columns, and the second is
            neither checked nor returned.
        must_exist: Whether to look for the files; a caller that looks at each of them itself need not.

    Returns:
        The samples in the order of the file.

    Raises:
        DataError: When the list is missing, no text in a known encoding, empty, has a line with a wrong number of
            columns, or names files that do not exist (all are counted, the first is named).
    """
    list_file, root = Path(list_file), Path(root)

    def columns_of_lines() -> Iterator[tuple[str, str | None]]:
        for number, columns in list_lines(list_file, root):
            if not labels:
                columns = _as_one(columns, root)
            if len(columns) not in ((2,) if labels else (1, 2)):
                wanted = "an image and a label" if labels else "an image and at most a label"
                raise DataError(
                    f"{list_file}, line {number}: {len(columns)} column{'s' if len(columns) != 1 else ''}; {wanted} "
                    "are expected. Separate paths that contain spaces by a tab."
                )
            yield columns[0], columns[1] if labels else None

    samples = Samples(root, columns_of_lines())
    if not samples:
        wanted = "an image and a label, relative to root" if labels else "an image"
        raise DataError(f"List file {list_file} is empty. Each line must name {wanted}.")
    if must_exist:
        absent = [
            path
            for start in range(0, len(samples), _AT_ONCE)
            for pair in samples.paths_of(start, min(start + _AT_ONCE, len(samples)))
            for path in pair
            if path and not is_file(path)
        ]
        if absent:
            raise missing_files(list_file, root, len(absent), absent[0])
    return samples


def missing_files(list_file: Path, root: Path, count: int, first: str) -> DataError:
    """Returns the error about files that a list names and that do not exist.

    Args:
        list_file: The list.
        root: Folder to which its paths are relative.
        count: How many there are.
        first: The path of the first.
    """
    number = next(
        (
            number
            for number, columns in list_lines(list_file, root)
            if any(os.path.join(root, column) == first for column in (*columns, *_as_one(columns, root)))
        ),
        0,
    )
    return DataError(
        f"{list_file} names {count} missing file{'s' if count != 1 else ''}; the first is {readable_name(first)} (line "
        f"{number}). Paths are relative to the root {root}; check it."
        f"{address_hint(first.removeprefix(os.path.join(root, '')))}",
        code="not-found",
    )


def list_lines(list_file: Path, root: Path | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yields the lines of a list file that name something: their numbers, from 1, and their columns.

    Args:
        list_file: Text in the format of this module's docstring.
        root: Folder to which the paths are relative; the list's own if None.

    Raises:
        DataError: When the file is missing, or is no text in a known encoding.
    """
    # Only a line with two meanings asks the disk which one is true, so a list of millions is read quickly.
    folder = list_file.parent if root is None else root
    for number, raw in enumerate(_text_lines(list_file), start=1):
        line = raw.lstrip("\ufeff")  # a list that was concatenated from several has marks inside too
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if "\0" in line:
            raise DataError(
                f"List file {list_file} is not UTF-8 text: line {number} holds zero bytes, as UTF-16 without a "
                "byte-order mark has them. Save it as UTF-8."
            )
        columns = _columns(line, folder)
        for place, column in enumerate(columns):
            if "\\" in column and os.sep == "/":
                columns[place] = _with_slashes(column, folder)
            if not column.isascii() and _is_undecoded(column) and not _names_file(folder, columns[place]):
                raise DataError(
                    f"List file {list_file} is not UTF-8 text: line {number} holds letters in another encoding, such "
                    "as Windows-1252 or GBK, and no file has a name of the same bytes. Save it as UTF-8."
                )
        yield number, columns


def _text_lines(list_file: Path) -> Iterator[str]:
    """Yields the lines of a text file; bytes that are no UTF-8 come as surrogates."""
    try:
        with list_file.open("rb") as handle:
            head = handle.read(4)
        encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
        errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
        with list_file.open(encoding=encoding, errors=errors) as lines:
            yield from lines
    except FileNotFoundError as error:
        hint = address_hint(list_file) or " Check the path or prepare the dataset first."
        raise DataError(f"List file {list_file} does not exist.{hint}", code="not-found") from error
    except UnicodeError as error:
        raise DataError(f"List file {list_file} is not UTF-8 text ({reason(error)}). Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"List file {list_file} cannot be read: {error.strerror or error}.") from error


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
    with output_file(path) as temporary:
        temporary.write_text("".join(lines), *_ENCODING, newline="\n")


def _columns(line: str, folder: Path) -> list[str]:
    if "\t" in line:
        columns = [column.strip() for column in line.split("\t") if column.strip()]
        # A spreadsheet ends lines with a tab; white space separates the columns then.
        if len(columns) == 1 and not _names_file(folder, columns[0]):
            return columns[0].split()
    elif '"' in line:
        columns = [quoted or plain for quoted, plain in _QUOTED.findall(line)]
        if len(plain := line.split()) <= 2 and all(_names_file(folder, column) for column in plain):
            return plain  # the quotes are part of the names
    else:
        return line.split()
    return [_unquoted(column, folder) if column[0] == '"' == column[-1] else column for column in columns]


def _unquoted(column: str, folder: Path) -> str:
    inside = column[1:-1]
    return column if not inside or _names_file(folder, column) else inside


def _as_one(columns: list[str], folder: Path) -> list[str]:
    """Takes the words of a line for one path with spaces, if there is such a file and none of the first word's name."""
    if len(columns) == 1 or _names_file(folder, columns[0]):
        return columns
    joined = " ".join(columns)
    return [joined] if _names_file(folder, joined) else columns


def _with_slashes(column: str, folder: Path) -> str:
    """Returns a path that was written on Windows as this system writes it, unless a file has the very name."""
    slashed = column.replace("\\", "/")
    exists = not _names_file(folder, column) and _names_file(folder, slashed)
    return slashed if exists else column


def _is_undecoded(text: str) -> bool:
    """Tells whether a text holds bytes that are no UTF-8."""
    return any("\udc80" <= character <= "\udcff" for character in text)


def _names_file(folder: Path, column: str) -> bool:
    return is_file(os.path.join(folder, column))


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
    if len(columns) == 1:  # a tab at the end tells a reader that the spaces separate no columns
        return columns[0] + ("\t\n" if spaced else "\n")
    return ("\t" if spaced else " ").join(columns) + "\n"
