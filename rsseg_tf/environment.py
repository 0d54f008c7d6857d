"""The process's surroundings: removes variables of another GIS that would break rasterio, mutes standard error.

QGIS, conda and OSGeo4W set PROJ_DATA, GDAL_DATA and the like for their own libraries. rasterio's wheels bring GDAL and
PROJ with matching data, but these variables take precedence, and with a `proj.db` of another version no CRS is known.
So this module removes variables that point to unusable data from the environment of this process, before rasterio is
imported. It changes nothing where rasterio has no data of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["clean_environment", "has_nvidia_driver", "muted_stderr"]

_PLUGINS = (".so", ".dll", ".dylib")
# Settings of GDAL that change how files are read. They may be set on purpose, so they stay and are reported.
_CHANGE_READING = (
    "GDAL_DISABLE_READDIR_ON_OPEN",
    "GDAL_GEOREF_SOURCES",
    "GDAL_PAM_ENABLED",
    "GDAL_SKIP",
    "GTIFF_POINT_GEO_IGNORE",
    "GTIFF_SRS_SOURCE",
    "OGR_SKIP",
)


def has_nvidia_driver() -> bool:
    """Returns whether the driver of NVIDIA's GPUs is loaded, which is known without TensorFlow; on Linux alone."""
    return Path("/proc/driver/nvidia").exists()


@contextlib.contextmanager
def muted_stderr() -> Iterator[None]:
    """Drops what this process writes to standard error: C++ libraries print there, whatever the log level.

    Python's exceptions come through.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def clean_environment(notify: Callable[[str], object]) -> None:
    """Removes variables that point to the data of another GIS from `os.environ`.

    It must be called before rasterio is imported. Where none of the variables is set it does nothing.

    Args:
        notify: Called with a line for each variable that was removed, and one for settings of GDAL that change how
            files are read.
    """
    checks = (
        ("PROJ_DATA", _why_not_proj),
        ("PROJ_LIB", _why_not_proj),
        ("GDAL_DATA", _why_not_gdal),
        ("GDAL_DRIVER_PATH", _why_no_plugins),
    )
    given = [(name, why_not) for name, why_not in checks if os.environ.get(name)]
    own = _rasterio_with_data() if given else None
    if own is not None:
        for name, why_not in given:
            why = why_not(os.environ[name], own)
            if why:
                notify(f"Note: {name}={os.environ.pop(name)} is not used: {why}. rasterio brings its own.")
    settings = [f"{name}={os.environ[name]}" for name in _CHANGE_READING if os.environ.get(name)]
    if settings:
        notify(f"Note: settings of GDAL in the environment change how files are read: {', '.join(settings)}.")


def _rasterio_with_data() -> Path | None:
    """Returns rasterio's folder, if it holds data, without importing rasterio."""
    with contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec("rasterio")
        for place in (found.submodule_search_locations or ()) if found else ():
            if (Path(place) / "proj_data" / "proj.db").is_file():
                return Path(place)
    return None


def _why_not_proj(value: str, own: Path) -> str:
    """Returns why rasterio's PROJ cannot use these data; an empty text where it can."""
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
    """Returns the version of a PROJ database's tables; None for a damaged database."""
    import sqlite3  # imported here: some builds of Python lack it, and few processes need it

    try:
        with contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            rows = dict(connection.execute("SELECT key, value FROM metadata WHERE key LIKE 'DATABASE.LAYOUT.%'"))
        return int(rows["DATABASE.LAYOUT.VERSION.MAJOR"]), int(rows["DATABASE.LAYOUT.VERSION.MINOR"])
    except (sqlite3.Error, KeyError, ValueError, OSError):
        return None


def _why_not_gdal(value: str, own: Path) -> str:
    """Returns why rasterio's GDAL cannot use these data; an empty text where no file is missing."""
    there = {path.name for place in _places(value) for path in _listed(place)}
    needed = {path.name for path in _listed(own / "gdal_data")}
    missing = len(needed - there)
    return f"it lacks {missing} of the {len(needed)} files that this GDAL needs" if missing else ""


def _why_no_plugins(value: str, own: Path) -> str:
    """Returns why GDAL must not load these plugins; those of another build crash the process, or print errors."""
    plugins = [path.name for place in _places(value) for path in _listed(place) if path.suffix in _PLUGINS]
    return f"its plugins, such as {min(plugins)}, are for another GDAL" if plugins else ""


def _places(value: str) -> Iterator[Path]:
    return (Path(place) for place in value.split(os.pathsep) if place)


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
