"""The process around the package: variables of another GIS in its environment, and its standard error.

QGIS, conda and OSGeo4W set PROJ_DATA, GDAL_DATA and the like for the libraries that they bring. rasterio brings its own
GDAL and PROJ, with the data that fit them, and uses those variables instead of its own data where they are set: a
`proj.db` of another version then knows no CRS at all. So variables that point to what cannot fit are taken out of this
process's environment before rasterio is imported. Nothing is changed where rasterio has no data of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["mend_environment", "muted_stderr"]

_PLUGINS = (".so", ".dll", ".dylib")
# Settings of GDAL that are left as they are, because somebody may want them, but that change what is read.
_CHANGE_READING = (
    "GDAL_DISABLE_READDIR_ON_OPEN",
    "GDAL_GEOREF_SOURCES",
    "GDAL_PAM_ENABLED",
    "GDAL_SKIP",
    "GTIFF_POINT_GEO_IGNORE",
    "GTIFF_SRS_SOURCE",
    "OGR_SKIP",
)


def mend_environment(tell: Callable[[str], object]) -> None:
    """Takes variables that point to the data of another GIS out of `os.environ`.

    It must be called before rasterio is imported; where none of the variables is set it does nothing.

    Args:
        tell: called with a line for each variable that was taken out, and one for settings of GDAL that change what is
            read.
    """
    checks = (
        ("PROJ_DATA", _why_not_proj),
        ("PROJ_LIB", _why_not_proj),
        ("GDAL_DATA", _why_not_gdal),
        ("GDAL_DRIVER_PATH", _why_no_plugins),
    )
    given = [(name, why_not) for name, why_not in checks if os.environ.get(name)]
    own = _brought_by_rasterio() if given else None
    if own is not None:
        for name, why_not in given:
            why = why_not(os.environ[name], own)
            if why:
                tell(f"Note: {name}={os.environ.pop(name)} is not used: {why}. rasterio brings its own.")
    settings = [f"{name}={os.environ[name]}" for name in _CHANGE_READING if os.environ.get(name)]
    if settings:
        tell(f"Note: settings of GDAL in the environment change how files are read: {', '.join(settings)}.")


def _brought_by_rasterio() -> Path | None:
    """Returns rasterio's folder, if it brings data; rasterio itself is not imported."""
    with contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec("rasterio")
        for place in (found.submodule_search_locations or ()) if found else ():
            if (Path(place) / "proj_data" / "proj.db").is_file():
                return Path(place)
    return None


def _why_not_proj(value: str, own: Path) -> str:
    """Says why PROJ data do not suit rasterio's PROJ; nothing where they do."""
    databases = [place / "proj.db" for place in _places(value) if (place / "proj.db").is_file()]
    if not databases:
        return "there is no proj.db"
    needed, found = _layout(own / "proj_data" / "proj.db"), _layout(databases[0])
    if needed is None:
        return ""
    if found is None:
        return "its proj.db cannot be read"
    # PROJ takes a database of its own major version with at least its own minor version.
    if found[0] == needed[0] and found[1] >= needed[1]:
        return ""
    return f"its proj.db has the layout {found[0]}.{found[1]}, and {needed[0]}.{needed[1]} is needed"


def _layout(database: Path) -> tuple[int, int] | None:
    """Returns the version of a PROJ database's tables; None for one that is damaged."""
    import sqlite3  # some builds of Python lack it, and most processes never come here

    try:
        with contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            rows = dict(connection.execute("SELECT key, value FROM metadata WHERE key LIKE 'DATABASE.LAYOUT.%'"))
        return int(rows["DATABASE.LAYOUT.VERSION.MAJOR"]), int(rows["DATABASE.LAYOUT.VERSION.MINOR"])
    except (sqlite3.Error, KeyError, ValueError, OSError):
        return None


def _why_not_gdal(value: str, own: Path) -> str:
    """Says why GDAL's data do not suit rasterio's GDAL; nothing where no file is missing."""
    there = {path.name for place in _places(value) for path in _listed(place)}
    needed = {path.name for path in _listed(own / "gdal_data")}
    missing = len(needed - there)
    return f"it lacks {missing} of the {len(needed)} files that this GDAL needs" if missing else ""


def _why_no_plugins(value: str, own: Path) -> str:
    """Says why GDAL should not look for plugins: those of another build end the process, or print errors."""
    plugins = [path.name for place in _places(value) for path in _listed(place) if path.suffix in _PLUGINS]
    return f"its plugins, such as {min(plugins)}, are for another GDAL" if plugins else ""


def _places(value: str) -> Iterator[Path]:
    return (Path(place) for place in value.split(os.pathsep) if place)


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


@contextlib.contextmanager
def muted_stderr() -> Iterator[None]:
    """Drops what this process writes to standard error, also by C++ code; Python's exceptions come through."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
