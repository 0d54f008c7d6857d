"""Items of the SpatioTemporal Asset Catalog (STAC, https://stacspec.org) as JSON: what models and results share.

Version 1.1.0 of the specification. The items stand for themselves: they are part of no collection and link to nothing.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine

from rsseg_tf.datasets.spec import RGB
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath, atomic_path
from rsseg_tf.rasters.ground import move, transformed
from rsseg_tf.rasters.windows import Size

__all__ = [
    "EXTENSIONS",
    "STAC_VERSION",
    "Footprint",
    "asset",
    "class_objects",
    "footprint",
    "item",
    "moment_fields",
    "spelled",
    "write_item",
]

STAC_VERSION = "1.1.0"
EXTENSIONS = {
    "classification": "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "file": "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "mlm": "https://stac-extensions.github.io/mlm/v1.5.2/schema.json",
    "processing": "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "proj": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "raster": "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
}
"""The schemas of the extensions that are written, by their prefix."""

_DECIMALS = 7  # of degrees, as RFC 7946 advises: about a centimetre; more for pixels that are finer than four of these
_MOST_DECIMALS = 15
_LEAST_DEGREES = 1e-6
_PARTS = 64
"""Each side of a scene is brought to degrees at this many places, because it is not straight there."""
_LONGEST_DEGREES = 90.0  # between two points of an outline
_TURN = 360.0


@dataclass(frozen=True)
class Footprint:
    """The outline of a scene in longitude and latitude of WGS 84.

    Attributes:
        geometry: A GeoJSON polygon; a multipolygon where the date line cuts the scene.
        bbox: West, south, east, north in degrees; west is larger than east where the date line cuts the scene, see
            RFC 7946, section 5.2.
    """

    geometry: dict[str, Any]
    bbox: tuple[float, float, float, float]


def item(
    identifier: str,
    properties: Mapping[str, Any],
    assets: Mapping[str, Mapping[str, Any]],
    *,
    place: Footprint | None = None,
) -> dict[str, Any]:
    """Returns an item; the extensions that it declares are those whose prefixes its fields have.

    Args:
        identifier: Its id. Characters that would end a part of an address become underscores.
        properties: Its properties, with `datetime`.
        assets: Its files by name, see `asset`.
        place: Where it lies; None for an item without a geometry.
    """
    fields = {*properties, *(name for one in assets.values() for name in one)}
    prefixes = {name.partition(":")[0] for name in fields if ":" in name}
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [url for prefix, url in EXTENSIONS.items() if prefix in prefixes],
        "id": re.sub(r"[/:\\?#]", "_", identifier),
        "geometry": None if place is None else place.geometry,
        **({} if place is None else {"bbox": list(place.bbox)}),
        "properties": dict(properties),
        "links": [],
        "assets": {name: dict(one) for name, one in assets.items()},
    }


def asset(
    path: StrPath, folder: StrPath, title: str, media_type: str, roles: Sequence[str], **fields: Any
) -> dict[str, Any]:
    """Returns an asset.

    Args:
        path: Its file.
        folder: The folder of the item, to which addresses are relative.
        title: For people.
        media_type: Such as `application/geo+json`.
        roles: What it is for.
        fields: More fields; a prefix is written with two underscores: `file__size`.
    """
    path = Path(path)
    folder = Path(folder)
    relative = Path(os.path.relpath(path, folder)).as_posix()
    # An address has no spaces and reserves a few characters; letters of all languages are allowed in it.
    address = re.sub(r"[\s%#?\"<>\\^`{|}\x00-\x1f]", lambda found: quote(found[0], safe=""), relative)
    found: dict[str, Any] = {"href": address if address.startswith(".") else f"./{address}"}
    found |= {"title": title, "type": media_type, "roles": list(roles)}
    return found | {name.replace("__", ":"): value for name, value in fields.items()}


def write_item(path: StrPath, content: Mapping[str, Any]) -> None:
    """Writes an item, whole or not at all."""
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def class_objects(classes: Mapping[int, str], palette: Mapping[int, RGB]) -> list[dict[str, Any]]:
    """Returns the classes as objects of the classification extension.

    Its names are for machines: letters of ASCII, digits, dashes and underscores, so that the names of the dataset are
    the titles. A name of which nothing is left, or that two classes would share, is `class_ID`.

    Args:
        classes: Names by class id.
        palette: Colours by class id; classes without one get no hint of colour.
    """
    spelled = {value: re.sub(r"[^0-9A-Za-z_-]+", "_", name).strip("_") for value, name in classes.items()}
    common = [name.lower() for name in spelled.values()]
    objects = []
    for value, name in classes.items():
        own = spelled[value]
        colour = palette.get(value)
        objects.append(
            {
                "value": value,
                "name": own if own and common.count(own.lower()) == 1 else f"class_{value}",
                "title": name,
                "description": name,
                **({} if colour is None else {"color_hint": "{:02X}{:02X}{:02X}".format(*colour)}),
            }
        )
    return objects


def moment_fields(text: str) -> dict[str, str | None]:
    """Returns the properties of a time that a user states.

    Args:
        text: A time by ISO 8601 (`2024-05-01T10:30:00Z`; without a zone it is UTC), a day (`2024-05-01`), which lasts
            from its first to its last second, or two of these with a slash between (`2024-04-01/2024-06-30`).

    Returns:
        `datetime`; for a period None, with `start_datetime` and `end_datetime`.

    Raises:
        ConfigError: When it is neither, or ends before it begins.
    """
    try:
        parts = [_span(part.strip()) for part in text.split("/")]
        first, last = parts[0][0], parts[-1][1]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 2:
        raise ConfigError(
            f"stac_datetime must be a time, a day, or two of them with a slash between; got '{text}'. Give for "
            "instance 2024-05-01T10:30:00Z, 2024-05-01 or 2024-04-01/2024-06-30."
        )
    if last < first:
        raise ConfigError(f"stac_datetime ends before it begins: '{text}'. Give the earlier time first.")
    if first == last:
        return {"datetime": spelled(first)}
    return {"datetime": None, "start_datetime": spelled(first), "end_datetime": spelled(last)}


def _span(text: str) -> tuple[datetime, datetime]:
    """Returns the first and last second of a time or a day."""
    moment = datetime.fromisoformat(text)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    is_day = re.fullmatch(r"\d{4}-?\d\d-?\d\d", text)
    return moment, moment + timedelta(days=1, seconds=-1) if is_day else moment


def spelled(moment: datetime) -> str:
    """Returns a time in UTC as RFC 3339 has it, to the second."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def footprint(size: Size, transform: Affine, crs: CRS | None) -> Footprint | None:
    """Returns the outline of a scene on the globe.

    Edges that are not straight in degrees get points in between, so that no place of them is off by more than about a
    quarter of a pixel. A scene around a pole reaches from the date line to the date line.

    Args:
        size: (height, width) of the scene in pixels.
        transform: From (column, row) to coordinates.
        crs: Their reference system.

    Returns:
        None without a CRS or a transform, and where a part of the outline has no place on WGS 84: beyond the edge of
        the Earth's disk, in a local CRS, on another planet.
    """
    if crs is None or transform == Affine.identity():
        return None
    height, width = size
    corners = np.array([(0, 0), (0, height), (width, height), (width, 0), (0, 0)], np.float64)
    steps = np.linspace(0, 1, _PARTS, endpoint=False)[:, None]
    sides = [first + (second - first) * steps for first, second in itertools.pairwise(corners)]
    ring = transformed(move(np.concatenate([*sides, corners[:1]]), transform), crs, CRS.from_epsg(4326))
    if not np.isfinite(ring).all():
        return None
    ring[:, 0] = np.unwrap(ring[:, 0], period=_TURN)
    pixel = float(np.ptp(ring, axis=0).max()) / max(size)
    # Grids whose first pixels have their centre on a pole reach half a pixel beyond it.
    if not pixel or np.abs(ring[:, 1]).max() > 90 + pixel:
        return None
    ring[:, 1] = np.clip(ring[:, 1], -90, 90)
    decimals = min(max(_DECIMALS, math.ceil(-math.log10(pixel / 4))), _MOST_DECIMALS)
    if abs(ring[-1, 0] - ring[0, 0]) > _TURN / 2:
        return _around_a_pole(ring[:-1], decimals)
    ring[:, 0] -= _TURN * math.floor((ring[:, 0].mean() + _TURN / 2) / _TURN)
    ring = np.round(_thinned(ring, max(pixel / 4, 10.0**-decimals)), decimals)
    if not np.ptp(ring, axis=0).all():  # a line, as of geocentric coordinates
        return None
    (left, bottom), (right, top) = ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
    if right - left >= _TURN - _LEAST_DEGREES:  # it begins and ends at one meridian, whichever that is
        left, right = -_TURN / 2, _TURN / 2
        parts = [np.array([(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)])]
        return Footprint(_geometry(parts), (left, bottom, right, top))
    parts = [part for turn in (-1, 0, 1) if (part := _within_turn(ring, turn, decimals)) is not None]
    if len(parts) == 1:
        left, right = float(parts[0][:, 0].min()), float(parts[0][:, 0].max())
    else:
        left, right = (round((x + _TURN / 2) % _TURN - _TURN / 2, decimals) for x in (left, right))
    return Footprint(_geometry(parts), (left, bottom, right, top))


def _around_a_pole(curve: NDArray[np.float64], decimals: int) -> Footprint:
    """Returns the footprint between a pole and the curve of points around it."""
    pole = math.copysign(90.0, float(curve[:, 1].mean()))
    wrapped = (curve[:, 0] + _TURN / 2) % _TURN - _TURN / 2
    order = np.argsort(wrapped)
    latitude = float(np.interp(_TURN / 2, wrapped[order], curve[order, 1], period=_TURN))
    inner = np.stack([wrapped[order], curve[order, 1]], axis=1)
    half = _TURN / 2
    ring = np.concatenate(
        [[(-half, latitude)], inner, [(half, latitude), (half, pole), (-half, pole), (-half, latitude)]]
    )
    ring = np.round(ring, decimals)
    bottom, top = float(ring[:, 1].min()), float(ring[:, 1].max())
    return Footprint(_geometry([ring]), (-half, bottom, half, top))


def _thinned(ring: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Leaves out points of the four sides of a ring that lie close enough to the line between their neighbours."""
    kept = []
    for side in range(4):
        points = ring[side * _PARTS : (side + 1) * _PARTS + 1]
        for every in (64, 32, 16, 8, 4, 2, 1):
            known = np.arange(0, _PARTS + 1, every)
            straight = np.stack([np.interp(np.arange(_PARTS + 1), known, points[known, axis]) for axis in (0, 1)], 1)
            near = np.abs(straight - points).max() <= tolerance
            if near and np.abs(np.diff(points[known, 0])).max() <= _LONGEST_DEGREES:
                break
        kept.append(points[known[:-1]])
    return np.concatenate([*kept, ring[:1]])


def _within_turn(ring: NDArray[np.float64], turn: int, decimals: int) -> NDArray[np.float64] | None:
    """Returns the part of a ring between the date lines of a turn, brought to -180..180; None if there is none."""
    left, whole = _TURN * turn - _TURN / 2, ring
    for side, sign in ((left, 1.0), (left + _TURN, -1.0)):
        # Sutherland and Hodgman: points on the inner side stay, edges that cross the line get a point on it.
        inside = sign * (ring[:, 0] - side) >= 0
        found = []
        edges = zip(itertools.pairwise(ring), itertools.pairwise(inside), strict=True)
        for (here, after), (is_in, will_be) in edges:
            if is_in:
                found.append(here)
            if is_in != will_be:
                share = (side - here[0]) / (after[0] - here[0])
                found.append(np.array([side, here[1] + share * (after[1] - here[1])]))
        if len(found) < 3:
            return None
        ring = np.array([*found, found[0]])
    if np.ptp(ring[:, 0]) < min(_LEAST_DEGREES, np.ptp(whole[:, 0]) / 2):  # what rounding has left beyond the line
        return None
    return np.round(ring - (_TURN * turn, 0), decimals)


def _geometry(parts: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
    """Returns closed rings as GeoJSON, counterclockwise as RFC 7946 has it."""
    rings = []
    for part in parts:
        x, y = part[:, 0], part[:, 1]
        area = float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))
        rings.append((part if area > 0 else part[::-1]).tolist())
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings}
    return {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
