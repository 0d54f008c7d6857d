"""Painter of made-up aerial scenes with exact labels, for tests, demonstrations and first steps.

A scene is built in layers (ground, water, streets, buildings, trees, cars) on three maps: the surface colour, its
height above the ground and the class. Light comes last: one sun shades the roofs and crowns, and the heights cast
shadows over everything behind them. All lengths are pixels; at the ground sampling distance of 0.3 m a car is about
15 pixels long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["BUILDING", "CAR", "GROUND", "MIN_SIZE", "ROAD", "TREE", "WATER", "render_scene"]

GROUND, ROAD, BUILDING, TREE, WATER, CAR = range(6)

MIN_SIZE = 64

_FAR = np.float32(1e6)

# What a block between streets is used for.
_RESIDENTIAL, _WOOD, _FIELD, _PAVED = range(4)

# Roofs share their colours with asphalt (slate, concrete), soil (clay, sand), lawn (copper) and cars (white, blue).
_ROOFS = (
    (0.62, 0.33, 0.24),
    (0.52, 0.29, 0.22),
    (0.38, 0.33, 0.30),
    (0.34, 0.35, 0.38),
    (0.58, 0.57, 0.55),
    (0.84, 0.83, 0.80),
    (0.70, 0.61, 0.47),
    (0.33, 0.44, 0.55),
    (0.42, 0.52, 0.44),
)
_CARS = (
    (0.90, 0.90, 0.89),
    (0.68, 0.69, 0.71),
    (0.42, 0.43, 0.45),
    (0.10, 0.10, 0.12),
    (0.62, 0.13, 0.12),
    (0.16, 0.26, 0.50),
    (0.78, 0.72, 0.58),
)


@dataclass(frozen=True)
class _Sun:
    """Unit vector towards the sun: to the right, downwards, up."""

    x: float
    y: float
    z: float


@dataclass
class _Canvas:
    """The maps of a scene of side S: colour `(S, S, 3)` in 0..1, height, class and taken ground; and the sun."""

    colour: np.ndarray
    height: np.ndarray
    label: np.ndarray
    taken: np.ndarray
    sun: _Sun


@dataclass
class _Grid:
    """Coordinates along and across one family of curved, roughly parallel streets, each `(S, S)`.

    Attributes:
        across: Coordinate that is constant along a street.
        offset: Signed distance from the middle of the nearest street.
        half: Half width of the nearest street.
        edge: Distance from the edge of the nearest street, negative on it; very large where the street is missing.
        major: Whether the nearest street is a wide one.
        block: Index of the strip between two streets.
    """

    across: np.ndarray
    offset: np.ndarray
    half: np.ndarray
    edge: np.ndarray
    major: np.ndarray
    block: np.ndarray


@dataclass
class _Plan:
    """Where streets, water and blocks lie: two crossing street families, distance from the shore, use of each pixel."""

    first: _Grid
    second: _Grid
    shore: np.ndarray
    use: np.ndarray
    block: np.ndarray

    @property
    def edge(self) -> np.ndarray:
        """Distance from the nearest street's edge, negative on streets."""
        return np.minimum(self.first.edge, self.second.edge)


def render_scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Paints one scene.

    Args:
        rng: Random generator; the same state gives the same scene.
        size: Side in pixels, at least `MIN_SIZE`.

    Returns:
        The image `(size, size, 3)` uint8 RGB and the class ids `(size, size)` uint8.
    """
    azimuth, elevation = rng.uniform(0, 2 * math.pi), math.radians(rng.uniform(36, 58))
    flat = math.cos(elevation)
    sun = _Sun(flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation))
    plan = _plan(rng, size)
    canvas = _Canvas(
        colour=_ground(rng, plan, size),
        height=np.zeros((size, size), np.float32),
        label=np.full((size, size), GROUND, np.uint8),
        taken=np.zeros((size, size), bool),
        sun=sun,
    )
    _pave(rng, canvas, plan)
    _water(rng, canvas, plan)
    _streets(rng, canvas, plan)
    canvas.taken |= (plan.edge < 9) | (plan.shore < 12)
    _buildings(rng, canvas, plan)
    _trees(rng, canvas, plan)
    _cars(rng, canvas, plan)
    return _expose(rng, canvas), canvas.label


# --- noise and geometry ------------------------------------------------------------------------------------------


def _noise(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    """Smooth noise `(size, size)` float32 with bumps of about `scale` pixels and unit variance."""
    if scale <= 1:
        return rng.standard_normal((size, size), np.float32)
    if scale > 16:  # smooth enough to be made at a quarter of the size
        quarter = size // 4 + 2
        large = cv2.resize(_noise(rng, quarter, scale / 4), (4 * quarter, 4 * quarter), interpolation=cv2.INTER_CUBIC)
        return large[4 : size + 4, 4 : size + 4]
    cells = int(size / scale) + 4
    side = int(cells * scale)
    coarse = rng.standard_normal((cells, cells), np.float32)
    smooth = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    y0, x0 = rng.integers(0, side - size + 1, 2)
    return smooth[y0 : y0 + size, x0 : x0 + size] * np.float32(1.2)


def _fractal(rng: np.random.Generator, size: int, largest: float, octaves: int = 4) -> np.ndarray:
    """Sum of noises, each half as large and 0.6 as strong as the one before; unit variance about."""
    total = np.zeros((size, size), np.float32)
    power = 0.0
    for octave in range(octaves):
        strength = 0.6**octave
        total += np.float32(strength) * _noise(rng, size, largest / 2**octave)
        power += strength**2
    return total / np.float32(math.sqrt(power))


def _step(values: np.ndarray, width: float) -> np.ndarray:
    """Smooth step from 0 to 1 over `width` around zero."""
    return np.clip(values / np.float32(width) + np.float32(0.5), 0, 1)


def _mix(colour: np.ndarray, other: np.ndarray | tuple[float, ...], share: np.ndarray) -> None:
    """Blends `other` into `colour` `(…, 3)` in place by `share` `(…)` in 0..1."""
    touched = np.nonzero(share)
    tint = np.asarray(other, np.float32)
    old = colour[touched]
    new = tint[touched] if tint.ndim > 1 else tint
    colour[touched] = old + (new - old) * share[touched][:, np.newaxis].astype(np.float32)


def _coordinates(size: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates `(size, size)` in axes turned by `angle`, with the origin in the middle."""
    line = np.arange(size, dtype=np.float32) - np.float32(size / 2)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return line[np.newaxis] * cos + line[:, np.newaxis] * sin, line[:, np.newaxis] * cos - line[np.newaxis] * sin


def _direction(across: np.ndarray, y: int, x: int) -> float:
    """Direction, in radians from the x axis, along which `across` stays constant at a pixel."""
    size = across.shape[0]
    y0, y1, x0, x1 = max(y - 2, 0), min(y + 2, size - 1), max(x - 2, 0), min(x + 2, size - 1)
    dy = float(across[y1, x] - across[y0, x]) / (y1 - y0)
    dx = float(across[y, x1] - across[y, x0]) / (x1 - x0)
    return math.atan2(dx, -dy)


def _patch(size: int, y: int, x: int, reach: float) -> tuple[slice, slice, np.ndarray, np.ndarray]:
    """The part of the scene within `reach` of a pixel, and the offsets from it: `(rows, columns, dy, dx)`."""
    span = math.ceil(reach)
    rows, columns = slice(max(y - span, 0), min(y + span + 1, size)), slice(max(x - span, 0), min(x + span + 1, size))
    dy = np.arange(rows.start, rows.stop, dtype=np.float32)[:, np.newaxis] - np.float32(y)
    dx = np.arange(columns.start, columns.stop, dtype=np.float32)[np.newaxis] - np.float32(x)
    return rows, columns, dy, dx


def _turn(dy: np.ndarray, dx: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Offsets along and across a direction."""
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return dx * cos + dy * sin, dy * cos - dx * sin


def _lambert(height: np.ndarray, sun: _Sun) -> np.ndarray:
    """Brightness of a surface under the sun, 1 where it is level, within 0.35..1.5."""
    down, right = np.gradient(height)
    light = (sun.z - right * sun.x - down * sun.y) / np.sqrt(1 + right**2 + down**2)
    return np.clip(light / sun.z, 0.35, 1.5).astype(np.float32)


# --- the plan ----------------------------------------------------------------------------------------------------


def _plan(rng: np.random.Generator, size: int) -> _Plan:
    """Lays out streets, water and blocks."""
    shore = _shore(rng, size)
    angle = rng.uniform(0, math.pi)
    bend = rng.uniform(6, 30)
    along, across = _coordinates(size, angle)
    along = along + np.float32(bend) * _noise(rng, size, 260)
    across = across + np.float32(bend) * _noise(rng, size, 260)
    rows, columns = _street_places(rng, across), _street_places(rng, along)
    first, second = _grid(rng, across, rows, along, columns, shore), _grid(rng, along, columns, across, rows, shore)
    block = first.block * 64 + second.block
    weights = rng.dirichlet((5.0, 1.2, 1.6, 1.8))  # mostly houses, but each scene its own character
    uses = rng.choice(4, 64 * 64, p=weights)
    return _Plan(first, second, shore, uses[block], block)


def _street_places(rng: np.random.Generator, across: np.ndarray) -> np.ndarray:
    """Values of `across` in the middle of each street of a family, beyond the scene on both sides."""
    places = [float(across.min()) - rng.uniform(150, 250)]
    while places[-1] < float(across.max()) + 250:
        places.append(places[-1] + rng.uniform(115, 215))
    return np.array(places, np.float32)


def _grid(
    rng: np.random.Generator,
    across: np.ndarray,
    places: np.ndarray,
    along: np.ndarray,
    crossings: np.ndarray,
    shore: np.ndarray,
) -> _Grid:
    """One family of streets; some are interrupted between two crossings, and narrow ones stop at the water."""
    is_major = rng.random(len(places)) < 0.25
    halves = np.where(is_major, rng.uniform(13, 17, len(places)), rng.uniform(8, 10.5, len(places))).astype(np.float32)
    nearest = np.searchsorted((places[1:] + places[:-1]) / 2, across)
    offset = across - places[nearest]
    half, major = halves[nearest], is_major[nearest]
    present = rng.random((len(places), len(crossings) + 1)) < 0.84
    exists = (present[nearest, np.searchsorted(crossings, along)] | major) & (major | (shore > 14))
    edge = np.where(exists, np.abs(offset) - half, _FAR).astype(np.float32)
    return _Grid(across, offset, half, edge, major, np.searchsorted(places, across))


def _shore(rng: np.random.Generator, size: int) -> np.ndarray:
    """Distance from the nearest river or lake, negative in it; far everywhere in scenes without water."""
    kind = rng.random()
    along, across = _coordinates(size, rng.uniform(0, math.pi))
    bank = 3 * _noise(rng, size, 24)
    if kind < 0.4:
        course = across + 38 * _noise(rng, size, 240) - np.float32(rng.uniform(-0.35, 0.35) * size)
        return np.abs(course) - np.float32(rng.uniform(14, 42)) + bank
    if kind < 0.75:
        along, across = along - rng.uniform(-0.4, 0.4) * size, across - rng.uniform(-0.4, 0.4) * size
        radius = np.sqrt(along**2 + (across * rng.uniform(1, 1.8)) ** 2)
        return (radius - rng.uniform(0.12, 0.26) * size + 16 * _noise(rng, size, 70) + bank).astype(np.float32)
    return np.full((size, size), _FAR, np.float32)


# --- ground, water, streets --------------------------------------------------------------------------------------


def _ground(rng: np.random.Generator, plan: _Plan, size: int) -> np.ndarray:
    """Grass and soil, lawns and ploughed fields: `(size, size, 3)` float32."""
    lush = np.array((0.34, 0.42, 0.22), np.float32) * rng.uniform(0.85, 1.1)
    dry = np.array((0.64, 0.56, 0.42), np.float32) * rng.uniform(0.85, 1.1)
    colour = np.empty((size, size, 3), np.float32)
    colour[:] = lush
    _mix(colour, dry, np.clip(rng.uniform(0.1, 0.75) + 0.28 * _fractal(rng, size, 90), 0, 1))
    sway = 0.5 * _noise(rng, size, 40)
    cover = np.clip(0.85 + 0.12 * _noise(rng, size, 50), 0, 1)
    for block in np.unique(plan.block):
        here = plan.block == block
        rows, columns = np.flatnonzero(here.any(axis=1)), np.flatnonzero(here.any(axis=0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        here, use = here[box], plan.use[here][0]
        if use == _FIELD:
            along = _coordinates(size, rng.uniform(0, math.pi))[0][box]
            furrows = 0.5 * np.sin(along * np.float32(2 * math.pi / rng.uniform(5, 11)) + sway[box])
            crop = np.array(((0.42, 0.50, 0.24), (0.68, 0.60, 0.36), (0.50, 0.39, 0.29))[rng.integers(3)], np.float32)
            _mix(colour[box], crop * (1 + np.float32(0.16) * furrows)[..., np.newaxis], here * cover[box])
        elif use == _WOOD:
            _mix(colour[box], (0.30, 0.33, 0.19), here * np.float32(0.6))
        elif use == _RESIDENTIAL:
            colour[box] *= np.where(here, np.float32(rng.uniform(0.92, 1.1)), np.float32(1))[..., np.newaxis]
    # Parcels, dirt and wear: coarse patches that follow no block.
    _mix(colour, (0.60, 0.53, 0.43), 0.5 * _step(_fractal(rng, size, 46) - 1.1, 0.7))
    _mix(colour, (0.25, 0.31, 0.16), 0.4 * _step(_fractal(rng, size, 22) - 1.2, 0.6))
    grain = 1 + 0.045 * _fractal(rng, size, 7, 3) + 0.04 * _noise(rng, size, 1.6)
    return colour * grain[..., np.newaxis]


def _pave(rng: np.random.Generator, canvas: _Canvas, plan: _Plan) -> None:
    """Yards and car parks: ground as grey as a street, with the lines of the stalls."""
    size = canvas.height.shape[0]
    yard = (plan.use == _PAVED) & (plan.edge > 5)
    if not yard.any():
        return
    share = yard * _step(plan.edge - 7, 3)
    tone = rng.uniform(0.42, 0.62)
    surface = tone * (1 + 0.06 * _fractal(rng, size, 60) + 0.03 * _noise(rng, size, 2))
    _mix(canvas.colour, surface[..., np.newaxis] * np.array((1.0, 0.98, 0.95), np.float32), share)
    row, stall = _stalls(plan)
    lines = yard & (np.abs(row) < 9) & (np.abs(stall) > 4.0) & (plan.edge > 16)
    _mix(canvas.colour, (0.80, 0.80, 0.77), lines * np.float32(0.6))


def _stalls(plan: _Plan) -> tuple[np.ndarray, np.ndarray]:
    """Distance from the middle of the row of parked cars, and from the middle of the stall within the row."""
    return plan.first.across % 46 - 23, plan.second.across % 9.5 - 4.75


def _water(rng: np.random.Generator, canvas: _Canvas, plan: _Plan) -> None:
    """River or lake with a sandy or reedy shore that shades into the ground."""
    size = canvas.height.shape[0]
    if plan.shore.min() >= 0:
        return
    bank = ((0.66, 0.60, 0.48), (0.36, 0.38, 0.24))[rng.integers(2)]
    _mix(canvas.colour, bank, 0.85 * _step(rng.uniform(4, 9) - plan.shore, 7))
    shallow = np.array((0.36, 0.42, 0.36), np.float32) * rng.uniform(0.85, 1.15)
    deep = np.array(((0.10, 0.20, 0.24), (0.16, 0.24, 0.20), (0.13, 0.27, 0.33))[rng.integers(3)], np.float32)
    depth = np.clip(-plan.shore / np.float32(rng.uniform(12, 30)), 0, 1)
    surface = np.empty_like(canvas.colour)
    surface[:] = shallow
    _mix(surface, deep, depth)
    ripples = (
        1 + 0.05 * _fractal(rng, size, 30) + 0.025 * cv2.GaussianBlur(_noise(rng, size, 1), (0, 0), 2.2, sigmaY=0.8)
    )
    wet = plan.shore < 0
    canvas.colour[wet] = (surface * ripples[..., np.newaxis])[wet]
    canvas.label[wet] = WATER


def _streets(rng: np.random.Generator, canvas: _Canvas, plan: _Plan) -> None:
    """Asphalt with wear, markings, pavements and bridges."""
    size = canvas.height.shape[0]
    edge = plan.edge
    pavement = (edge >= 0) & (edge < 5) & ((plan.use == _RESIDENTIAL) | (plan.use == _PAVED)) & (plan.shore > 0)
    slabs = 0.60 * (1 + 0.06 * _noise(rng, size, 3))
    _mix(canvas.colour, slabs[..., np.newaxis] * np.array((1, 0.98, 0.94), np.float32), pavement * np.float32(0.85))
    on = edge < 0
    tone = rng.uniform(0.31, 0.47)
    asphalt = tone * (1 + 0.07 * _fractal(rng, size, 70) + 0.035 * _noise(rng, size, 1.5))
    for grid in (plan.first, plan.second):
        wheels = np.abs(np.abs(grid.offset) - grid.half / 2)
        asphalt = np.where(grid.edge < 0, asphalt * (1 - 0.05 * _step(3 - wheels, 3)), asphalt)
    repairs = _step(_noise(rng, size, 26) - 1.5, 0.15)
    asphalt *= 1 - 0.16 * repairs
    canvas.colour[on] = (asphalt[..., np.newaxis] * np.array((1.0, 0.99, 0.98), np.float32))[on]
    for grid, other in ((plan.first, plan.second), (plan.second, plan.first)):
        _mix(canvas.colour, (0.86, 0.85, 0.80), _markings(rng, grid, other) * np.float32(rng.uniform(0.5, 0.85)))
    canvas.label[on] = ROAD
    ramp = 7 * np.clip((20 - plan.shore) / 17, 0, 1)
    canvas.height[on] = ramp[on]
    parapet = on & (plan.shore < 3) & (edge > -2.2)
    canvas.colour[parapet] = (0.66, 0.65, 0.62)
    canvas.height[parapet] = 9


def _markings(rng: np.random.Generator, grid: _Grid, other: _Grid) -> np.ndarray:
    """Middle lines, edge lines of wide streets and zebra crossings: shares `(S, S)` in 0..1."""
    clear = (grid.edge < 0) & (other.edge > 12)
    middle = _step(1.2 - np.abs(grid.offset), 1.0) * ((other.across % 24 < 11) | grid.major)
    sides = _step(1.0 - np.abs(grid.edge + 2.5), 1.0) * grid.major
    zebra = (grid.edge < -1.5) & (other.edge > 3) & (other.edge < 9) & (grid.offset % 4.2 < 2.1)
    crossings = zebra & (grid.major if rng.random() < 0.7 else False)
    return np.maximum(clear * np.maximum(middle, sides), crossings)


# --- things that stand -------------------------------------------------------------------------------------------


def _places(rng: np.random.Generator, where: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` random pixels `(n, 2)` of a mask, as row and column."""
    found = np.flatnonzero(where)
    if found.size == 0 or count == 0:
        return np.empty((0, 2), np.int64)
    picked = rng.choice(found, min(count, found.size), replace=False)
    return np.stack(np.divmod(picked, where.shape[1]), axis=1)


def _buildings(rng: np.random.Generator, canvas: _Canvas, plan: _Plan) -> None:
    """Houses along the streets and halls in the paved blocks."""
    size = canvas.height.shape[0]
    edge = plan.edge
    area = size * size / 512**2
    halls = _places(rng, (plan.use == _PAVED) & (edge > 38) & (edge < 90), math.ceil(40 * area))
    front = (plan.use == _RESIDENTIAL) & (edge > 24) & (edge < 38)
    behind = (plan.use == _RESIDENTIAL) & (edge >= 38) & (edge < 110)
    barns = _places(rng, (plan.use == _FIELD) & (edge > 30) & (edge < 60), math.ceil(5 * area))
    houses = np.concatenate([_places(rng, front, math.ceil(260 * area)), _places(rng, behind, math.ceil(130 * area))])
    palette = rng.choice(len(_ROOFS), 5, replace=False)  # a neighbourhood shares its fashions
    for (y, x), is_hall in [(place, True) for place in halls] + [(place, False) for place in (*barns, *houses)]:
        if canvas.taken[y, x]:
            continue
        grid = plan.first if plan.first.edge[y, x] < plan.second.edge[y, x] else plan.second
        angle = _direction(grid.across, y, x) + (rng.normal(0, 0.3) if rng.random() < 0.12 else 0.0)
        half = rng.uniform((30, 20), (58, 36)) if is_hall else rng.uniform((13, 10), (23, 15))
        roof = np.array(_ROOFS[rng.choice(palette)])
        if _building(rng, canvas, (int(y), int(x)), angle, half, roof, is_hall) and edge[y, x] < 60:
            _driveway(rng, canvas, plan, grid, (int(y), int(x)), angle)


def _building(
    rng: np.random.Generator,
    canvas: _Canvas,
    place: tuple[int, int],
    angle: float,
    half: np.ndarray,
    roof: np.ndarray,
    is_hall: bool,
) -> bool:
    """Adds one building and returns True; returns False where the ground is taken."""
    rows, columns, dy, dx = _patch(canvas.height.shape[0], *place, float(np.hypot(*half)) * 1.5 + 8)
    along, across = _turn(dy, dx, angle)
    kind = "flat" if is_hall or rng.random() < 0.15 else rng.choice(("gable", "hip"))
    shape = _roof_height(along, across, half[0], half[1], kind)
    if rng.random() < 0.45:  # a wing makes an L or a T
        reach = half[1] * rng.uniform(1.3, 1.7)
        shift = rng.uniform(-0.5, 0.5) * half[0]
        wing = _roof_height(across - reach * 0.5, along - shift, reach, half[1] * rng.uniform(0.6, 0.9), kind)
        shape = np.maximum(shape, wing)
    inside = shape > 0
    if kind == "flat":  # one parapet around all parts
        inner = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1) > 0
        shape = np.where(inner, 0.8, shape).astype(np.float32)
    around = cv2.dilate(inside.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    if (canvas.taken[rows, columns] & around).any():
        return False
    eaves = rng.uniform(16, 34) if is_hall else rng.uniform(9, 17)
    shade = _lambert(shape, canvas.sun)
    courses = 1 + (0.03 * np.sin(across * 2.1) if kind != "flat" else 0.02 * np.sin(along * 0.9))
    wear = 1 + 0.05 * _noise(rng, max(shape.shape), 9)[: shape.shape[0], : shape.shape[1]]
    tint = np.clip(roof * rng.uniform(0.85, 1.12) + rng.normal(0, 0.015, 3), 0.05, 0.95)
    surface = tint * (shade * courses * wear)[..., np.newaxis]
    height = eaves + shape
    if kind == "flat":
        _roof_furniture(rng, surface, height, along, across, half, is_hall)
    canvas.colour[rows, columns][inside] = surface[inside]
    canvas.height[rows, columns][inside] = height[inside]
    canvas.label[rows, columns][inside] = BUILDING
    canvas.taken[rows, columns] |= around
    return True


def _driveway(
    rng: np.random.Generator, canvas: _Canvas, plan: _Plan, grid: _Grid, place: tuple[int, int], angle: float
) -> None:
    """Paves the way from a house to its street."""
    y, x = place
    reach = float(plan.edge[y, x]) + 1
    rows, columns, dy, dx = _patch(canvas.height.shape[0], y, x, reach + 4)
    along, across = _turn(dy, dx, angle)
    nearer = grid.edge[rows, columns] < grid.edge[y, x] - 2
    way = (np.abs(along - rng.uniform(-8, 8)) < rng.uniform(3.2, 5.2)) & (np.abs(across) < reach) & nearer
    way &= (canvas.label[rows, columns] == GROUND) & (plan.edge[rows, columns] > 0)
    colour = np.array((1.0, 0.96, 0.90)) * rng.uniform(0.40, 0.68)
    patch = canvas.colour[rows, columns]
    _mix(patch, colour, way * 0.85)


def _roof_height(along: np.ndarray, across: np.ndarray, length: float, width: float, kind: str) -> np.ndarray:
    """Height of a roof above its eaves; 0 outside the walls and above 0 inside."""
    ends, sides = np.float32(length) - np.abs(along), np.float32(width) - np.abs(across)
    within = np.minimum(ends, sides)
    if kind == "flat":
        rise = np.full_like(within, 2.0)
    elif kind == "hip":
        rise = 0.8 + 0.55 * within
    else:
        rise = 0.8 + 0.55 * (sides if length >= width else ends)
    return np.where(within > 0, rise, 0).astype(np.float32)


def _roof_furniture(
    rng: np.random.Generator,
    surface: np.ndarray,
    height: np.ndarray,
    along: np.ndarray,
    across: np.ndarray,
    half: np.ndarray,
    is_hall: bool,
) -> None:
    """Boxes, skylights and vents on a flat roof, high enough to cast shadows."""
    for _ in range(rng.integers(3, 9) if is_hall else rng.integers(0, 3)):
        middle = rng.uniform(-0.7, 0.7, 2) * half
        extent = rng.uniform(1.8, 5.0, 2)
        box = (np.abs(along - middle[0]) < extent[0]) & (np.abs(across - middle[1]) < extent[1])
        surface[box] = rng.uniform(0.35, 0.85)
        height[box] += np.float32(rng.uniform(1.5, 5))


def _trees(rng: np.random.Generator, canvas: _Canvas, plan: _Plan) -> None:
    """Woods, clumps, garden and street trees, and bushes on the banks."""
    size = canvas.height.shape[0]
    area = size * size / 512**2
    built = canvas.label == BUILDING
    open_land = ~built & (plan.edge > 4) & (plan.shore > 2)
    clumps = _step(_fractal(rng, size, 60) - 0.9, 0.2) > 0.5
    lots = (
        (open_land & (plan.use == _WOOD), 190),
        (open_land & (plan.use == _RESIDENTIAL), 70),
        (open_land & clumps & (plan.use != _PAVED), 70),
        (open_land & (plan.edge < 9) & (plan.use != _FIELD), 26),
        (open_land & (plan.shore < 16), 36),
    )
    lumps = _noise(rng, size, 3.2)
    crown = np.array((0.22, 0.31, 0.14)) * rng.uniform(0.85, 1.2)
    for where, count in lots:
        share = min(1.0, 6 * np.count_nonzero(where) / where.size)
        for y, x in _places(rng, where, math.ceil(count * area * share)):
            radius = float(np.clip(rng.lognormal(2.1, 0.35), 3.5, 17))
            tint = np.clip(crown * rng.uniform(0.75, 1.3) + rng.normal(0, 0.022, 3), 0.04, 0.7)
            _tree(canvas, (int(y), int(x)), radius, tint, lumps, built)


def _tree(
    canvas: _Canvas,
    place: tuple[int, int],
    radius: float,
    tint: np.ndarray,
    lumps: np.ndarray,
    built: np.ndarray,
) -> None:
    """Adds one crown, unless it would touch a building; it may overlap other crowns and hang over a street."""
    rows, columns, dy, dx = _patch(canvas.height.shape[0], *place, radius + 5)
    bumps = lumps[rows, columns]
    ratio = np.sqrt(dy**2 + dx**2) / radius + 0.13 * bumps
    dome = np.sqrt(np.clip(1 - ratio**2, 0, None)) * np.float32(radius)
    height = dome * 0.9 + np.float32(radius * 0.9) + 0.5 * bumps
    inside = (ratio < 1) & (height > canvas.height[rows, columns])
    if (built[rows, columns] & (ratio < 1)).any():
        return
    shade = _lambert(dome * 0.7 + 1.1 * bumps, canvas.sun) * (0.8 + 0.25 * dome / np.float32(radius))
    surface = tint * shade[..., np.newaxis]
    canvas.colour[rows, columns][inside] = surface[inside]
    canvas.height[rows, columns][inside] = height[inside]
    canvas.label[rows, columns][inside] = TREE
    canvas.taken[rows, columns] |= inside


def _cars(rng: np.random.Generator, canvas: _Canvas, plan: _Plan) -> None:
    """Cars in their lanes, at the kerb and in the stalls of the car parks."""
    size = canvas.height.shape[0]
    area = size * size / 512**2
    free = ~((canvas.label == BUILDING) | (canvas.label == TREE))
    taken = ~free
    for grid, other in ((plan.first, plan.second), (plan.second, plan.first)):
        lane = np.where(grid.major, grid.half * 0.42, grid.half * 0.5)
        away = (grid.edge < 0) & (other.edge > 14) & free
        driving = _places(rng, away & (np.abs(np.abs(grid.offset) - lane) < 0.8), math.ceil(rng.uniform(6, 24) * area))
        parked = _places(rng, away & (np.abs(grid.edge + 4.2) < 0.7), math.ceil(rng.uniform(2, 16) * area))
        for y, x in (*driving, *parked):
            _car(rng, canvas, taken, (int(y), int(x)), _direction(grid.across, y, x) + rng.normal(0, 0.03))
    row, stall = _stalls(plan)
    stalls = free & (plan.use == _PAVED) & (np.abs(row) < 0.8) & (np.abs(stall) < 0.6) & (plan.edge > 24)
    for y, x in _places(rng, stalls & (plan.shore > 14), math.ceil(70 * area)):
        _car(rng, canvas, taken, (int(y), int(x)), _direction(plan.second.across, y, x) + rng.normal(0, 0.03))


def _car(rng: np.random.Generator, canvas: _Canvas, taken: np.ndarray, place: tuple[int, int], angle: float) -> None:
    """Adds one car, unless the ground is taken."""
    length, width = rng.uniform(6.4, 8.2), rng.uniform(2.9, 3.4)
    rows, columns, dy, dx = _patch(canvas.height.shape[0], *place, 12)
    along, across = _turn(dy, dx, angle + (math.pi if rng.random() < 0.5 else 0.0))
    body = (np.abs(along) / length) ** 4 + (np.abs(across) / width) ** 4 < 1
    margin = (np.abs(along) < length + 3) & (np.abs(across) < width + 2)
    if (taken[rows, columns] & margin).any():
        return
    tint = np.clip(np.array(_CARS[rng.integers(len(_CARS))]) + rng.normal(0, 0.02, 3), 0.04, 0.97)
    surface = np.broadcast_to(tint, (*body.shape, 3)).copy()
    front, rear = (along > 1.2) & (along < 3.2), (along < -3.6) & (along > -5.0)
    glass = (front | rear) & (np.abs(across) < width - 0.7)
    surface[glass] = (0.12, 0.14, 0.17)
    surface[(along <= 1.2) & (along >= -3.6)] *= 1.06
    canvas.colour[rows, columns][body] = surface[body]
    canvas.height[rows, columns][body] += np.float32(4.5)
    canvas.label[rows, columns][body] = CAR
    taken[rows, columns] |= margin


# --- light and camera --------------------------------------------------------------------------------------------


def _shadows(height: np.ndarray, sun: _Sun) -> np.ndarray:
    """Returns 1 where something higher stands between a pixel and the sun, else 0."""
    size = height.shape[0]
    flat = math.hypot(sun.x, sun.y)
    rise = sun.z / flat  # height gained per pixel towards the sun
    blocked = np.zeros(height.shape, bool)
    for step in range(1, min(math.ceil(float(height.max()) / rise) + 1, size)):
        dy, dx = round(step * sun.y / flat), round(step * sun.x / flat)
        here = (slice(max(-dy, 0), size - max(dy, 0)), slice(max(-dx, 0), size - max(dx, 0)))
        there = (slice(max(dy, 0), size - max(-dy, 0)), slice(max(dx, 0), size - max(-dx, 0)))
        blocked[here] |= height[there] > height[here] + np.float32(step * rise)
    return blocked.astype(np.float32)


def _expose(rng: np.random.Generator, canvas: _Canvas) -> np.ndarray:
    """Adds shadows, haze, uneven light, blur and sensor noise: `(S, S, 3)` uint8."""
    size = canvas.height.shape[0]
    shadow = cv2.GaussianBlur(_shadows(canvas.height, canvas.sun), (0, 0), 0.9)
    sky = np.array((0.31, 0.36, 0.45), np.float32) * np.float32(rng.uniform(0.8, 1.15))
    light = 1 - shadow[..., np.newaxis] * (1 - sky)
    light *= (1 + 0.035 * _noise(rng, size, 300))[..., np.newaxis]
    picture = canvas.colour * light * np.float32(rng.uniform(0.95, 1.2))
    picture *= np.array((1.0, 1.0, 1.0), np.float32) + rng.normal(0, 0.025, 3).astype(np.float32)
    haze = np.float32(rng.uniform(0.01, 0.07))
    grey = picture.mean(axis=2, keepdims=True)
    picture = grey + (picture - grey) * np.float32(rng.uniform(0.62, 0.92))
    picture = picture * (1 - haze) + haze * np.array((0.75, 0.80, 0.88), np.float32)
    picture = np.clip(picture, 0, 1) ** np.float32(rng.uniform(0.85, 1.05))
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.45, 0.75))
    grain = rng.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(0.006, 0.014))
    return np.clip((picture + grain) * 255 + 0.5, 0, 255).astype(np.uint8)
