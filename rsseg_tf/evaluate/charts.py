"""Diagrams as SVG, for pages that need no script. Both axes go from 0 to 1."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Line", "chart"]

_WIDTH, _HEIGHT = 320, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 26, 38
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MOST_POINTS = 120  # more cannot be told apart


@dataclass(frozen=True)
class Line:
    """A line of a diagram.

    Attributes:
        name: What it is, for the legend.
        colour: As CSS has it.
        x: `(N,)` in 0..1.
        y: `(N,)` in 0..1; nan where the line is interrupted.
    """

    name: str
    colour: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def chart(
    title: str,
    lines: Sequence[Line] = (),
    *,
    x_label: str,
    y_label: str,
    bars: Sequence[float] = (),
    diagonal: bool = False,
) -> str:
    """Returns a diagram.

    Args:
        title: What it shows.
        lines: Lines, the first at the bottom.
        x_label: Meaning of the horizontal axis.
        y_label: Meaning of the vertical axis.
        bars: Heights in 0..1 of bars side by side from 0 to 1, below the lines; nan for none.
        diagonal: Whether to draw where both axes are equal.
    """
    parts = [*_axes(x_label, y_label), *_bars(bars)]
    if diagonal:
        parts.append(f'<path class="diagonal" d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}"/>')
    for place, line in enumerate(lines):
        parts.append(f'<path class="line" stroke="{line.colour}" d="{_path(line)}"/>')
        left = _x(0) + 4 + 110 * place
        parts.append(f'<path class="line" stroke="{line.colour}" d="M{left} 14h16"/>')
        parts.append(f'<text x="{left + 20}" y="18">{html.escape(line.name)}</text>')
    inside = "".join(parts)
    return (
        f'<figure class="chart"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)}">{inside}</svg><figcaption>{html.escape(title)}</figcaption></figure>'
    )


def _x(value: float) -> float:
    return round(_LEFT + value * (_WIDTH - _LEFT - _RIGHT), 1)


def _y(value: float) -> float:
    return round(_HEIGHT - _BOTTOM - value * (_HEIGHT - _TOP - _BOTTOM), 1)


def _axes(x_label: str, y_label: str) -> Iterator[str]:
    for tick in _TICKS:
        yield f'<path class="grid" d="M{_x(0)} {_y(tick)}H{_x(1)}M{_x(tick)} {_y(0)}V{_y(1)}"/>'
        yield f'<text x="{_x(0) - 5}" y="{_y(tick) + 4}" text-anchor="end">{tick:g}</text>'
        yield f'<text x="{_x(tick)}" y="{_y(0) + 14}" text-anchor="middle">{tick:g}</text>'
    yield f'<text x="{_x(0.5)}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>'
    middle = f"11 {_y(0.5)}"
    yield f'<text transform="translate({middle}) rotate(-90)" text-anchor="middle">{html.escape(y_label)}</text>'


def _bars(heights: Sequence[float]) -> Iterator[str]:
    for place, height in enumerate(heights):
        if not math.isnan(height):
            left, right = _x(place / len(heights)), _x((place + 1) / len(heights))
            top, bottom = _y(min(1.0, height)), _y(0)
            yield f'<rect x="{left}" y="{top}" width="{right - left - 1:.1f}" height="{bottom - top:.1f}"/>'


def _path(line: Line) -> str:
    """Returns the commands of a line; every so many points are left out where they are many."""
    step = max(1, len(line.x) // _MOST_POINTS)
    commands, drawing = [], False
    for x, y in zip(line.x[::step], line.y[::step], strict=True):
        if math.isnan(y):
            drawing = False
            continue
        commands.append(f"{'L' if drawing else 'M'}{_x(float(x))} {_y(float(y))}")
        drawing = True
    return "".join(commands)
