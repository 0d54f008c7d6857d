"""Self-contained HTML pages: pictures are embedded, nothing is fetched, no script is needed."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.spec import RGB
from rsseg_tf.errors import DataError

__all__ = ["STYLE", "check_page_place", "image_tag", "page", "swatches"]

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff; }
h1 { font-size: 1.3rem; }
ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; }
li i { display: inline-block; width: 1em; height: 1em; border: 1px solid #222; vertical-align: -.15em; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; }
figure div { display: flex; gap: 4px; }
img { flex: 1 1 0; min-width: 0; max-width: 320px; height: auto; }
.label { image-rendering: pixelated; }
figcaption { font-size: .85rem; overflow-wrap: anywhere; }
small { color: #555; }
"""

_JPEG_QUALITY = 90
_HEAD = 4096  # bytes in which the mark stands


def page(title: str, body: str, *, generator: str, style: str = STYLE) -> str:
    """Returns an HTML page.

    Args:
        title: Its title and first heading.
        body: HTML below the heading.
        generator: What wrote it, see `check_page_place`.
        style: CSS.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="generator" content="{generator}">\n<meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}\n</html>\n"
    )


def swatches(entries: Sequence[tuple[str, RGB]]) -> str:
    """Returns a list of names with their colours."""
    items = "".join(f'<li><i style="background: rgb{colour}"></i> {html.escape(name)}</li>' for name, colour in entries)
    return f"<ul>{items}</ul>"


def image_tag(picture: NDArray[np.uint8], what: str, *, smooth: bool = True) -> str:
    """Returns an image with its pixels inside.

    Args:
        picture: `(H, W, 3)` RGB.
        what: What it shows, in plain words.
        smooth: Whether it is stored as JPEG; class colours, whose edges are sharp, are stored as PNG.
    """
    suffix, kind, settings = ".jpg", "jpeg", [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    if not smooth:
        suffix, kind, settings = ".png", "png", []
    _, data = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), settings)
    label = "" if smooth else ' class="label"'
    return f'<img{label} src="data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}" alt="{what}">'


def check_page_place(path: Path, mark: bytes, what: str) -> None:
    """Raises DataError if a path is a file that is not ours to overwrite.

    Args:
        path: Where a page or picture is to be written.
        mark: What stands near the beginning of each of ours.
        what: What those are, in words.
    """
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            is_ours = mark in file.read(_HEAD)
    except OSError:
        is_ours = False
    if not is_ours:
        raise DataError(f"{path} exists and is no {what}. Choose another name, or remove it.")
