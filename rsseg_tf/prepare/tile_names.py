"""Names of tiles, which contain the tile's place in its scene; `rsseg_tf.datasets.spec` has the patterns."""

from __future__ import annotations

import re

from rsseg_tf.errors import DataError
from rsseg_tf.rasters.windows import Window

__all__ = ["parse_tile_name", "tile_name"]


def tile_name(pattern: str, stem: str, window: Window) -> str:
    """Returns the name of a tile without its suffix.

    Args:
        pattern: One of `rsseg_tf.datasets.spec.TILE_NAME_PATTERNS`.
        stem: Name of the scene.
        window: Where the tile lies.
    """
    return pattern.format(stem=stem, **window._asdict())


def parse_tile_name(pattern: str, name: str, height: int, width: int) -> tuple[str, Window]:
    """Reads scene and place from the name of a tile.

    Args:
        pattern: One of `rsseg_tf.datasets.spec.TILE_NAME_PATTERNS`.
        name: The name without its suffix.
        height: Rows of the tile.
        width: Columns of the tile.

    Raises:
        DataError: When the name does not follow the pattern, or gives another size than the tile has.
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
