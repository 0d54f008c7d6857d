"""Paths as arguments, as text in messages, and for libraries that parse paths.

The vector library takes paths as text and parses them as URLs: it loses what follows `;`, what precedes `!`, and a last
`?`, and takes no names that are not UTF-8. Such a file is opened through a link with a plain name (`plain_path`).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar, cast

from rsseg_tf.files.locks import hold

__all__ = ["StrPath", "plain_path", "readable_name", "several"]

StrPath = str | os.PathLike[str]
"""Type of every argument of the package that is a file or a folder."""

Name = TypeVar("Name", bound=StrPath)


def several(given: Name | Iterable[Name]) -> tuple[Name, ...]:
    """Returns one or several names or paths as several.

    Args:
        given: A text or a path alone, which is one and no sequence of letters; or any number of them.
    """
    return (cast("Name", given),) if isinstance(given, str | os.PathLike) else tuple(given)


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}
"""For `str.translate`: characters that break lines or steer terminals, with their escapes."""

_PLAIN = re.compile(r"/(?!/)[\w/.,+@~ ()\[\]{}=&$'-]*")
_PREFIX = "rsseg_tf_link_"
_LOCK = "lock"


def readable_name(path: str | Path) -> str:
    r"""Returns a path as text that can be written anywhere, in one line.

    Bytes that are no UTF-8 become `\xe9`, control characters `\x0a`.
    """
    text = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text.translate(_CONTROLS)


@contextlib.contextmanager
def plain_path(path: Path, suffix: str | None = None, *, whole_family: bool = False) -> Iterator[str]:
    """Gives a path to a file that the vector library cannot mistake for anything else.

    Args:
        path: The file; it need not exist yet, but its folder must.
        suffix: Suffix of the given path, for a library that knows formats by it; the file's own if None.
        whole_family: Whether files that differ in the suffix alone are needed too, as those of a shapefile.

    Yields:
        The absolute path if it is plain; otherwise a link to the file, in the temporary folder.

    Raises:
        OSError: When the link cannot be made.
    """
    absolute = os.path.abspath(path)
    fits = suffix is None or path.suffix == suffix
    # On Windows the library takes paths with a drive letter as they are, and links need a privilege.
    if fits and (sys.platform == "win32" or (_PLAIN.fullmatch(absolute) and not absolute.endswith(".zip"))):
        yield absolute
        return
    _remove_leftovers(Path(tempfile.gettempdir()))
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        # The lock tells `_remove_leftovers` of other processes that this folder is in use.
        stack.enter_context(hold(folder / _LOCK) or contextlib.nullcontext())
        link = folder / f"polygons{path.suffix if suffix is None else suffix}"
        link.symlink_to(absolute)
        if whole_family:
            for other in path.parent.iterdir():
                if other.stem == path.stem and other.suffix.lower() != path.suffix.lower():
                    (folder / f"polygons{other.suffix.lower()}").symlink_to(os.path.abspath(other))
        yield str(link)


def _remove_leftovers(temporary: Path) -> None:
    """Removes the links of processes that were killed; no process holds their locks."""
    for folder in temporary.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            held = hold(folder / _LOCK) if (folder / _LOCK).exists() else None
            if held is not None:
                held.release()
                shutil.rmtree(folder, ignore_errors=True)
