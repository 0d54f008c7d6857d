"""The table `layer_styles` of a GeoPackage, from which QGIS takes the style of a layer."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from rsseg_tf.errors import DataError, reason
from rsseg_tf.files import StrPath, readable_name
from rsseg_tf.styles.documents import MOST_BYTES
from rsseg_tf.styles.entries import PaletteEntry
from rsseg_tf.styles.qml import is_ours, read_qml

__all__ = ["STYLE_TABLE", "put_layer_style", "read_layer_styles", "users_styles"]

STYLE_TABLE = "layer_styles"
Row = tuple[object, ...]

# The table as QGIS makes it. The key comes first.
_COLUMNS = (
    "f_table_catalog", "f_table_schema", "f_table_name", "f_geometry_column", "styleName", "styleQML", "styleSLD",
    "useAsDefault", "description", "owner", "ui", "update_time",
)  # fmt: skip
_CREATE = """
create table layer_styles (
    id integer primary key autoincrement not null, f_table_catalog text(256), f_table_schema text(256),
    f_table_name text(256), f_geometry_column text(256), styleName text(30), styleQML text, styleSLD text,
    useAsDefault boolean, description text, owner text(30), ui text(30),
    update_time datetime default (strftime('%Y-%m-%dT%H:%M:%fZ','now'))
)"""
_REGISTER = """
insert into gpkg_contents (table_name, data_type, identifier, description, srs_id)
values ('layer_styles', 'attributes', 'layer_styles', '', 0)"""
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
            if not _has_table(database):
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


def users_styles(path: StrPath, layer: str) -> list[Row]:
    """Returns the rows of a layer's styles that a user has saved, as `put_layer_style` takes them.

    Args:
        path: A GeoPackage.
        layer: The layer.

    Raises:
        sqlite3.Error: When they cannot be read.
    """
    path = Path(path)
    with contextlib.closing(_opened(path)) as database:
        if not _has_table(database):
            return []
        query = f"select {', '.join(_COLUMNS)} from layer_styles where f_table_name = ?"
        return [row for row in database.execute(query, (layer,)) if not is_ours(str(row[_COLUMNS.index("styleQML")]))]


def put_layer_style(path: StrPath, layer: str, qml: str, users: Sequence[Row] = ()) -> None:
    """Gives a layer of a GeoPackage its style, and those that a user has saved for it.

    Ours is the default unless one of the user's is. Styles of other layers stay.

    Args:
        path: The GeoPackage, which has the layer.
        layer: The layer.
        qml: Our style.
        users: What `users_styles` has returned.

    Raises:
        sqlite3.Error: When it cannot be written.
    """
    path = Path(path)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        if not _has_table(database):
            database.execute(_CREATE)
            database.execute(_REGISTER)
        database.execute("delete from layer_styles where f_table_name = ?", (layer,))
        marks = ", ".join("?" * len(_COLUMNS))
        database.executemany(f"insert into layer_styles ({', '.join(_COLUMNS)}) values ({marks})", users)
        is_default = not any(row[_COLUMNS.index("useAsDefault")] in (1, "true") for row in users)
        columns = "select column_name from gpkg_geometry_columns where table_name = ?"
        (column,) = database.execute(columns, (layer,)).fetchone() or ("",)
        database.execute(
            "insert into layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, "
            "styleQML, styleSLD, useAsDefault, description, owner) "
            "values ('', '', ?, ?, 'classes', ?, '', ?, 'Colours of the classes', '')",
            (layer, column, qml, is_default),
        )


def _has_table(database: sqlite3.Connection) -> bool:
    """Tells whether there is a plain table of styles: a view or a virtual one could do anything when it is read."""
    kinds = database.execute("select sql from sqlite_master where type = 'table' and name = 'layer_styles'")
    return any(str(sql).lower().startswith("create table") for (sql,) in kinds.fetchall())


def _opened(path: Path) -> sqlite3.Connection:
    """Opens a database that a stranger may have written, to read it for a limited time."""
    database = sqlite3.connect(f"file:{quote(bytes(path.absolute()))}?mode=ro", uri=True)
    until = time.monotonic() + _LONGEST_S
    database.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
    database.execute("pragma trusted_schema = off")
    return database
