"""The facts about a dataset: its classes, colours, ignored id, bands and normalisation.

A `DatasetSpec` is the only place of these facts: the config, the model's head, the metrics and the export manifest take
them from it.
"""

from __future__ import annotations

import colorsys
import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rsseg_tf.errors import DataError, did_you_mean
from rsseg_tf.files import several

__all__ = [
    "MAX_CLASSES",
    "RGB",
    "TILE_NAME_PATTERNS",
    "XYXY",
    "YX",
    "YYXX",
    "DatasetSpec",
    "custom_spec",
    "default_palette",
    "unknown_ids",
]

RGB = tuple[int, int, int]

MAX_CLASSES = 255
"""Class ids are stored in eight bits and one value is needed for the ignored pixels."""

YX = "{stem}_{y0}_{x0}"
"""First row, first column: names of tiles where the benchmark has no custom."""

XYXY = "{stem}_{x0}_{y0}_{x1}_{y1}"
"""Columns first, two corners: Potsdam and Vaihingen in the benchmark."""

YYXX = "{stem}_{y0}_{y1}_{x0}_{x1}"
"""Rows first, from-to of each axis: iSAID in the benchmark."""

TILE_NAME_PATTERNS = (YX, XYXY, YYXX)
"""Every pattern that there is."""


@dataclass(frozen=True)
class DatasetSpec:
    """The facts about a dataset.

    Pixels are normalised as `(x / max_value - mean) / std`, band by band.

    Attributes:
        name: Short name, as in the config.
        classes: Class names; the position is the class id in the label files.
        palette: One RGB colour per class, 0..255, all different.
        ignore_index: Label value of pixels that neither the loss nor the metrics count.
        bands: Number of image bands.
        rgb_bands: Zero-based bands of pictures for people: three for red, green, blue, or one for grey.
        max_value: Pixel value that becomes 1.0 before the mean is taken off (255 for uint8).
        mean: Mean of each band, in units of `max_value`.
        std: Standard deviation of each band, in units of `max_value`.
        small_classes: Classes of small objects, which a coarse-to-fine model looks at twice.
        source: Origin of the data: title and publisher.
        band_names: Contents of the bands, in their order, such as `("red", "green", "blue")`; empty if unknown.
        gsd: Ground sampling distance in metres per pixel; None if unknown or not the same for all images.
        tile_names: Pattern by which the names of tiles tell their place in a scene, one of `TILE_NAME_PATTERNS`;
            None where they do not.
        ignore_nodata: Whether pixels where an image has no data count neither in training nor in evaluation.

    Raises:
        DataError: When any of these contradict each other; see `_check_classes`, `_check_bands`.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[RGB, ...]
    ignore_index: int = 255
    bands: int = 3
    rgb_bands: tuple[int, int, int] | tuple[int] = (0, 1, 2)
    max_value: float = 255.0
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    small_classes: tuple[str, ...] = ()
    source: str = ""
    band_names: tuple[str, ...] = ()
    gsd: float | None = None
    tile_names: str | None = dataclasses.field(default=None, compare=False)  # no fact that a model depends on
    ignore_nodata: bool = dataclasses.field(default=True, compare=False)  # neither, but how a config has it counted

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise DataError("A dataset needs a name; got an empty one. Give it a short one, such as 'my_city'.")
        self._check_classes()
        self._check_palette()
        self._check_bands()

    @property
    def num_classes(self) -> int:
        """Number of classes, ignored pixels not counted."""
        return len(self.classes)

    @property
    def small_class_ids(self) -> tuple[int, ...]:
        """Ids of `small_classes`, in rising order."""
        return tuple(sorted(self.classes.index(name) for name in self.small_classes))

    def _check_classes(self) -> None:
        count = len(self.classes)
        if not 1 <= count <= MAX_CLASSES:
            raise DataError(
                f"Dataset '{self.name}' has {count} classes; 1 to {MAX_CLASSES} are allowed, because labels hold "
                "eight-bit ids and one id is kept for ignored pixels. Merge classes or name at least one."
            )
        for position, name in enumerate(self.classes):
            if not name.strip() or "\n" in name:
                raise DataError(
                    f"Dataset '{self.name}': the name of class {position} is {name!r}; it must be one non-empty line."
                )
        duplicates = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if duplicates:
            raise DataError(
                f"Dataset '{self.name}' names class '{duplicates[0]}' more than once; names must differ. Rename one."
            )
        if not 0 <= self.ignore_index <= 255:
            raise DataError(
                f"Dataset '{self.name}': ignore_index is {self.ignore_index}; it must lie in 0..255. 255 is usual."
            )
        if self.ignore_index < count:
            raise DataError(
                f"Dataset '{self.name}': ignore_index {self.ignore_index} is also the id of class "
                f"'{self.classes[self.ignore_index]}'; it must be outside 0..{count - 1}. 255 is usual."
            )

        unknown = [name for name in self.small_classes if name not in self.classes]
        if unknown:
            raise DataError(
                f"Dataset '{self.name}': small_classes names '{unknown[0]}', which is no class of it; "
                f"allowed: {', '.join(self.classes)}.{did_you_mean(unknown[0], self.classes)}"
            )

    def _check_palette(self) -> None:
        if len(self.palette) != len(self.classes):
            raise DataError(
                f"Dataset '{self.name}' has {len(self.classes)} classes but {len(self.palette)} palette colours; "
                "one colour per class is needed. Use default_palette(n) if the colours do not matter."
            )
        for name, colour in zip(self.classes, self.palette, strict=True):
            if len(colour) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in colour):
                raise DataError(
                    f"Dataset '{self.name}': the colour of class '{name}' is {colour!r}; "
                    "three whole numbers in 0..255 (red, green, blue) are needed."
                )
        seen: dict[RGB, str] = {}
        for name, colour in zip(self.classes, self.palette, strict=True):
            if colour in seen:
                raise DataError(
                    f"Dataset '{self.name}': classes '{seen[colour]}' and '{name}' share the colour {colour}; "
                    "colours must differ. Change one."
                )
            seen[colour] = name

    def _check_bands(self) -> None:
        if self.bands < 1:
            raise DataError(f"Dataset '{self.name}': bands is {self.bands}; at least 1 is needed.")
        if len(self.rgb_bands) not in (1, 3) or not all(0 <= band < self.bands for band in self.rgb_bands):
            raise DataError(
                f"Dataset '{self.name}': rgb_bands is {self.rgb_bands}; one or three zero-based bands in "
                f"0..{self.bands - 1} are needed. Use (0,) to show the first band as grey."
            )
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.bands:
                raise DataError(
                    f"Dataset '{self.name}': {field} has {len(values)} values for {self.bands} bands; "
                    "one value per band is needed."
                )
            if not all(math.isfinite(value) for value in values):
                raise DataError(f"Dataset '{self.name}': {field} is {values}; all values must be finite.")
        if any(value <= 0 for value in self.std):
            raise DataError(f"Dataset '{self.name}': std is {self.std}; all values must be above 0. 0.5 is usual.")
        if not (math.isfinite(self.max_value) and self.max_value > 0):
            raise DataError(
                f"Dataset '{self.name}': max_value is {self.max_value}; it must be finite and above 0. "
                "Use 255 for uint8 images."
            )
        if self.band_names and (len(self.band_names) != self.bands or not all(self.band_names)):
            raise DataError(
                f"Dataset '{self.name}': band_names is {self.band_names} for {self.bands} bands; one name per band is "
                "needed, or none at all."
            )
        if self.gsd is not None and not (math.isfinite(self.gsd) and self.gsd > 0):
            raise DataError(
                f"Dataset '{self.name}': gsd is {self.gsd}; it must be finite and above 0, in metres per pixel."
            )


def unknown_ids(present: Iterable[int], num_classes: int, ignore_index: int) -> list[int]:
    """Returns the label values that are neither a class, 0..num_classes-1, nor the ignored one."""
    return [int(value) for value in present if not 0 <= value < num_classes and value != ignore_index]


def default_palette(n: int) -> tuple[RGB, ...]:
    """Returns `n` different colours, always the same ones, none of them black, white or grey.

    Hues step by the golden ratio, so that neighbouring ids look different; brightness and saturation change with
    every ten colours.

    Args:
        n: Number of colours, 0..255.

    Raises:
        DataError: When `n` lies outside 0..255.
    """
    if not 0 <= n <= MAX_CLASSES:
        raise DataError(f"default_palette makes 0 to {MAX_CLASSES} colours; {n} were asked for. Merge classes.")
    tones = ((0.75, 0.90), (0.55, 0.65), (0.45, 1.00), (0.90, 0.55), (0.35, 0.80))
    golden = (math.sqrt(5) - 1) / 2
    colours: list[RGB] = []
    for step in range(4 * MAX_CLASSES):
        if len(colours) == n:
            break
        saturation, value = tones[step // 10 % len(tones)]
        red, green, blue = colorsys.hsv_to_rgb((0.58 + step * golden) % 1.0, saturation, value)
        colour = (round(red * 255), round(green * 255), round(blue * 255))
        if colour not in colours:
            colours.append(colour)
    return tuple(colours)


def custom_spec(
    name: str,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None = None,
    *,
    ignore_index: int = 255,
    bands: int = 3,
    rgb_bands: Sequence[int] | None = None,
    max_value: float = 255.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    small_classes: Sequence[str] = (),
    source: str = "",
    band_names: Sequence[str] = (),
    gsd: float | None = None,
    tile_names: str | None = None,
) -> DatasetSpec:
    """Makes the spec of a user's own data, with defaults for the facts that are left out.

    Args:
        name: Short name of the data.
        classes: Class names in the order of their ids. Here and below a text alone is one name.
        palette: One RGB colour per class; `default_palette` when left out.
        ignore_index: Label value of ignored pixels.
        bands: Number of image bands.
        rgb_bands: Bands to show; the first three, or the first one when there are fewer than three.
        max_value: Pixel value that becomes 1.0.
        mean: Mean per band; 0.5 for each when left out.
        std: Standard deviation per band; 0.5 for each when left out.
        small_classes: Names of the classes of small objects.
        source: Origin of the data.
        band_names: Contents of each band, if known.
        gsd: Metres per pixel, if known.
        tile_names: Pattern of the names of tiles, if they tell the place.

    Raises:
        DataError: As `DatasetSpec`.
    """
    names = several(classes)
    colours = default_palette(min(len(names), MAX_CLASSES)) if palette is None else palette
    shown = tuple(rgb_bands) if rgb_bands is not None else ((0, 1, 2) if bands >= 3 else (0,))
    return DatasetSpec(
        name=name,
        classes=names,
        palette=tuple(tuple(colour) for colour in colours),  # type: ignore[misc]  # checked by DatasetSpec
        ignore_index=ignore_index,
        bands=bands,
        rgb_bands=shown,  # type: ignore[arg-type]  # checked by DatasetSpec
        max_value=max_value,
        mean=tuple(mean) if mean is not None else (0.5,) * bands,
        std=tuple(std) if std is not None else (0.5,) * bands,
        small_classes=several(small_classes),
        source=source,
        band_names=several(band_names),
        gsd=gsd,
        tile_names=tile_names,
    )
