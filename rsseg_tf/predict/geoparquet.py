"""Polygons as GeoParquet 1.1, which tables, databases and GIS read by column and by place.

Format: https://geoparquet.org/releases/v1.1.0/
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from rsseg_tf.errors import reason
from rsseg_tf.extras import require

__all__ = ["EXTRA", "GeoParquetWriter", "parquet_fields"]

EXTRA = "parquet"
"""The extra that installs what this module needs."""

_GEOMETRY, _BOX = "geometry", "bbox"
_SIDES = ("xmin", "ymin", "xmax", "ymax")


class GeoParquetWriter:
    """Writes polygons batch by batch; each batch becomes a row group, so that memory holds one.

    A column `bbox` has the bounds of each polygon, by which readers skip what lies elsewhere.

    Args:
        path: The file, which is replaced.
        fields: Name and NumPy type of each attribute; `object` stands for text.
        crs: Reference system of the polygons; None where they have none.

    Raises:
        ExportError: When the extra `parquet` is not installed.
        OSError: When the file cannot be written.
    """

    def __init__(self, path: Path, fields: Sequence[tuple[str, np.dtype[Any]]], crs: CRS | None) -> None:
        arrow, parquet = _arrow()
        kinds = [(name, arrow.string() if kind.hasobject else arrow.from_numpy_dtype(kind)) for name, kind in fields]
        box = arrow.struct([arrow.field(side, arrow.float64(), nullable=False) for side in _SIDES])
        self._schema = arrow.schema([*kinds, (_GEOMETRY, arrow.binary()), (_BOX, box)])
        self._crs = None if crs is None else crs.to_dict(projjson=True)
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        self._file = path.open("wb")  # the library takes no names that are not UTF-8
        try:
            # The library's own form of the schema would hide the metadata from its readers.
            self._writer = parquet.ParquetWriter(self._file, self._schema, compression="zstd", store_schema=False)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> GeoParquetWriter:
        return self

    def write(self, polygons: NDArray[Any], columns: Sequence[NDArray[Any]]) -> None:
        """Writes polygons and the values of their attributes."""
        if not len(polygons):
            return
        arrow, _ = _arrow()
        shapely = require("shapely", "vector")
        bounds = shapely.bounds(polygons)
        self._bounds[:2] = np.minimum(self._bounds[:2], bounds[:, :2].min(axis=0))
        self._bounds[2:] = np.maximum(self._bounds[2:], bounds[:, 2:].max(axis=0))
        box = arrow.StructArray.from_arrays(
            [arrow.array(side) for side in bounds.T], fields=list(self._schema.field(_BOX).type)
        )
        # Readers may take the way around a ring from what `_about` states.
        wkb = shapely.to_wkb(shapely.orient_polygons(polygons), flavor="iso")
        arrays = [arrow.array(column) for column in columns]
        self._writer.write_table(arrow.table([*arrays, arrow.array(wkb, arrow.binary()), box], schema=self._schema))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The writer closes itself when it is forgotten, which would fail once its file is closed.
        with self._file, contextlib.nullcontext() if error is None else contextlib.suppress(Exception):
            self._writer.add_key_value_metadata({"geo": json.dumps(self._about())})
            self._writer.close()

    def _about(self) -> dict[str, Any]:
        """Returns the metadata that make a Parquet file a GeoParquet file."""
        column = {
            "encoding": "WKB",
            "geometry_types": ["Polygon"],
            "crs": self._crs,
            "orientation": "counterclockwise",
            "edges": "planar",
            "covering": {_BOX: {side: [_BOX, side] for side in _SIDES}},
        }
        if np.isfinite(self._bounds).all():
            column["bbox"] = self._bounds.tolist()
        return {"version": "1.1.0", "primary_column": _GEOMETRY, "columns": {_GEOMETRY: column}}


def parquet_fields(path: Path) -> tuple[list[str], int]:
    """Returns the attributes of a GeoParquet file of ours, without geometry and bounds, and its number of rows.

    Raises:
        ExportError: When the extra `parquet` is not installed.
        OSError: When the file cannot be read.
    """
    arrow, parquet = _arrow()
    try:
        with path.open("rb") as file:
            about = parquet.ParquetFile(file)
            names, rows = list(about.schema_arrow.names), int(about.metadata.num_rows)
    except arrow.ArrowException as error:
        raise OSError(reason(error)) from error
    return [name for name in names if name not in (_GEOMETRY, _BOX)], rows


def _arrow() -> tuple[Any, Any]:
    return require("pyarrow", EXTRA), require("pyarrow.parquet", EXTRA)
