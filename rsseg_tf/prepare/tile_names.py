"""Names of tiles, which say where in its scene a tile lies; each dataset of the benchmark has its own order."""

from __future__ import annotations

import re

from rsseg_tf.errors import DataError
from rsseg_tf.rasters.windows import Window

__all__ = ["TILE_NAME_PATTERNS", "XYXY", "YX", "YYXX", "parse_tile_name", "tile_name"]

YX = "{stem}_{y0}_{x0}"
"""First row, first column: what this package uses where the benchmark has no custom."""

XYXY = "{stem}_{x0}_{y0}_{x1}_{y1}"
"""Columns first, two corners: Potsdam and Vaihingen in the benchmark."""

YYXX = "{stem}_{y0}_{y1}_{x0}_{x1}"
"""Rows first, from-to of each axis: iSAID in the benchmark."""

TILE_NAME_PATTERNS = (YX, XYXY, YYXX)
"""All patterns that there are; a dataset's own is in its spec."""


def tile_name(pattern: str, stem: str, window: Window) -> str:
    """Returns the name of a tile without its suffix.

    Args:
        pattern: `YX`, `XYXY` or `YYXX`.
        stem: Name of the scene.
        window: Where the tile lies.
    """
    return pattern.format(stem=stem, **window._asdict())


def parse_tile_name(pattern: str, name: str, height: int, width: int) -> tuple[str, Window]:
    """Returns the scene and the place that the name of a tile says.

    Args:
        pattern: `YX`, `XYXY` or `YYXX`.
        name: The name without its suffix.
        height: Rows of the tile.
        width: Columns of the tile.

    Raises:
        DataError: When the name does not follow the pattern, or says another size than the tile has.
    """
    expression = re.escape(pattern).replace(r"\{stem\}", r"(?P<stem>.+)")
    for place in ("y0", "y1", "x0", "x1"):
        expression = expression.replace(rf"\{{{place}\}}", rf"(?P<{place}>\d+)")
    match = re.fullmatch(expression, name)
    if match is None:
        raise DataError(
            f"{name} does not say where in its scene it lies; names like {pattern} are expected. "
            "Prepare the dataset with rsseg-tf prepare."
        )
    found = {key: int(value) for key, value in match.groupdict().items() if key != "stem"}
    window = Window(
        found["y0"], found["x0"], found.get("y1", found["y0"] + height), found.get("x1", found["x0"] + width)
    )
    if (window.y1 - window.y0, window.x1 - window.x0) != (height, width):
        raise DataError(
            f"{name} says {window.x1 - window.x0}x{window.y1 - window.y0} pixels, but the tile has {width}x{height}. "
            "Prepare the dataset again."
        )
    return match["stem"], window
