"""The table `layer_styles` of a GeoPackage, from which QGIS takes the style of a layer."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from rsseg_tf.errors import DataError, reason
from rsseg_tf.files import readable_name
from rsseg_tf.styles.documents import MOST_BYTES
from rsseg_tf.styles.entries import PaletteEntry
from rsseg_tf.styles.qml import read_qml

__all__ = ["read_layer_styles"]

_LONGEST_S = 20.0
_MOST_STYLES = 1000
_STEPS = 100_000  # of SQLite's machine between two looks at the clock


def read_layer_styles(path: Path, layer: str | None = None) -> list[PaletteEntry]:
    """Reads the style that a GeoPackage gives to a layer: its default style, else its newest.

    Args:
        path: The GeoPackage; it is not changed.
        layer: The layer; may be left out where one layer has a style.

    Returns:
        The entries; empty where no style is stored.

    Raises:
        DataError: When the file is damaged or hostile, or several layers have styles and none is named.
    """
    name = readable_name(path)
    try:
        with contextlib.closing(_opened(path)) as database:
            # A view or a virtual table could do anything when it is read.
            kinds = database.execute("select sql from sqlite_master where type = 'table' and name = 'layer_styles'")
            if not any(str(sql).lower().startswith("create table") for (sql,) in kinds.fetchall()):
                return []
            rows = database.execute(
                "select cast(f_table_name as text), id from layer_styles where length(styleQML) between 1 and ? "
                "order by coalesce(useAsDefault, 0) in (1, 'true') desc, update_time desc, id desc limit ?",
                (MOST_BYTES, _MOST_STYLES),
            )
            found: dict[str, int] = {}
            for table, number in rows:
                found.setdefault(table, number)
            if layer is None and len(found) > 1:
                names = ", ".join(map(repr, sorted(found)[:5]))
                raise DataError(f"{name} has styles for {len(found)} layers: {names}. Name one of them.")
            chosen = next(iter(found.values()), None) if layer is None else found.get(layer)
            if chosen is None:
                return []
            (style,) = database.execute(
                "select cast(styleQML as text) from layer_styles where id = ?", (chosen,)
            ).fetchone()
    except sqlite3.Error as error:
        raise DataError(
            f"the styles in {name} cannot be read: {reason(error)}. Save the layer and its style again."
        ) from error
    return read_qml(style.encode("utf-8", "replace"), f"the style in {name}")


def _opened(path: Path) -> sqlite3.Connection:
    """Opens a database that a stranger may have written, to read it for a limited time."""
    database = sqlite3.connect(f"file:{quote(bytes(path.absolute()))}?mode=ro", uri=True)
    until = time.monotonic() + _LONGEST_S
    database.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
    database.execute("pragma trusted_schema = off")
    return database
