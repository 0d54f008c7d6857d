"""How an image is predicted: whole or by windows, with or without test-time augmentation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsseg_tf.errors import ConfigError
from rsseg_tf.predict.blending import Blend, Windows
from rsseg_tf.rasters.windows import Size
from rsseg_tf.stac import moment_fields

if TYPE_CHECKING:
    from rsseg_tf.config import Config

__all__ = [
    "VECTOR_SUFFIXES",
    "Doubt",
    "InferenceOptions",
    "OutputOptions",
    "SceneOptions",
    "View",
    "check_temperature",
    "check_window",
    "parse_memory",
    "usual_stride",
]

View = tuple[bool, bool, bool]
"""How an image is turned before it is predicted: (transposed, then mirrored top-bottom, then left-right)."""

VECTOR_SUFFIXES = (".gpkg", ".geojson", ".fgb", ".parquet")

_TILE = Size(512, 512)
_MIB = 2**20
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class InferenceOptions:
    """Options of a prediction, named as on PaddleSeg's command line.

    Attributes:
        scales: Factors by which the image is resized; the logits of all are averaged.
        flip_horizontal: Also predict the image mirrored left-right.
        flip_vertical: Also predict it mirrored top-bottom; with `flip_horizontal`, also both at once.
        rotate90: Also predict it turned by 90, 180 and 270 degrees; with a flip, all eight symmetries of a square.
        is_slide: Predict overlapping windows instead of the whole image.
        crop_size: Size of a window in pixels; with `is_slide` only.
        stride: Step from one window to the next, at most `crop_size`; with `is_slide` only.
        blend: Weights of overlapping windows, see `make_plan`: PaddleSeg's "mean", or a smooth "cosine".
        batch_size: Windows given to the model in one call.
        tile: Size of windows where none are asked for, but needed.
        fixed_tile: Whether the model takes windows of just that size.
        temperature: What logits are divided by before they become probabilities; the model's own, fitted by
            `rsseg-tf eval --calibrate`. No label depends on it.

    Raises:
        ConfigError: When a value is out of range, or window sizes are missing or have no effect.
    """

    scales: tuple[float, ...] = (1.0,)
    flip_horizontal: bool = False
    flip_vertical: bool = False
    rotate90: bool = False
    is_slide: bool = False
    crop_size: Size | None = None
    stride: Size | None = None
    blend: Blend = "mean"
    batch_size: int = 1
    tile: Size = _TILE
    fixed_tile: bool = False
    temperature: float = 1.0

    @classmethod
    def of(cls, config: Config, **more: Any) -> InferenceOptions:
        """Returns how a trained model predicts unless told otherwise.

        Args:
            config: Its config.
            **more: Fields that a config doesn't have.
        """
        return cls.spelled(config.eval.inference(), tile=config.augment.crop, **more)

    @classmethod
    def spelled(cls, values: Mapping[str, Any], **more: Any) -> InferenceOptions:
        """Returns options from PaddleSeg's spelling, in which `crop_size` and `stride` are width and height.

        Args:
            values: Fields as a config or a manifest has them.
            **more: Fields that these don't have.
        """
        given = {name: values.get(name) for name in ("crop_size", "stride")}
        sizes = {name: Size.from_width_height(sides) for name, sides in given.items() if sides is not None}
        return cls(**{**values, **sizes}, **more)

    def to_json(self) -> dict[str, Any]:
        """Returns the options for a report, spelled as in a config."""
        sizes = {name: size.width_height for name, size in vars(self).items() if isinstance(size, Size)}
        values = asdict(self) | sizes
        if self.temperature == 1:
            del values["temperature"]  # as in reports on models that were never calibrated
        return values

    def __post_init__(self) -> None:
        check_scales(self.scales)
        check_batch_size(self.batch_size)
        check_temperature(self.temperature)
        if not self.is_slide:
            if self.crop_size is not None or self.stride is not None:
                raise ConfigError(
                    f"crop_size and stride are used with is_slide only; got crop_size {self.crop_size} and stride "
                    f"{self.stride} without it. Set is_slide, or leave both out."
                )
            return
        if self.crop_size is None or self.stride is None:
            raise ConfigError(
                f"is_slide needs crop_size and stride, each as width and height; got crop_size {self.crop_size} and "
                f"stride {self.stride}. Give both, for instance crop_size 512 512 and stride 384 384."
            )
        check_window(self.crop_size, self.stride)

    @property
    def views(self) -> tuple[View, ...]:
        """How the image is turned, each way once; the image as it is first."""
        flips = [
            (v, h) for v in (False, True)[: 1 + self.flip_vertical] for h in (False, True)[: 1 + self.flip_horizontal]
        ]
        # A turn by 90 degrees is a transposition and one flip, by 180 two flips.
        turns = [(False, False, False)]
        if self.rotate90:
            turns += [(True, True, False), (False, True, True), (True, False, True)]
        views = [(turned, up ^ v, left ^ h) for turned, up, left in turns for v, h in flips]
        return tuple(dict.fromkeys(views))

    @property
    def is_augmented(self) -> bool:
        """Whether more than the image itself, at its own size, is predicted."""
        return self.scales != (1.0,) or len(self.views) > 1

    def windows(self, *, fits: bool) -> Windows | None:
        """Returns the windows that an image is cut into; None for an image that is predicted whole.

        Args:
            fits: Whether the image is small enough to be predicted whole.
        """
        if self.crop_size is not None and self.stride is not None:
            padded = self.blend == "cosine" or self.fixed_tile
            return Windows(self.crop_size, self.stride, self.blend, padded)
        if fits and not self.fixed_tile:
            return None
        return Windows(self.tile, usual_stride(self.tile), "cosine", padded=True)

    def with_blend(self, blend: Blend) -> InferenceOptions:
        """Returns the same options with windows that are weighted so: those asked for, or else those of the tile."""
        if self.is_slide:
            return replace(self, blend=blend)
        return replace(self, is_slide=True, crop_size=self.tile, stride=usual_stride(self.tile), blend=blend)


@dataclass(frozen=True)
class SceneOptions:
    """How scenes are read, and how much memory that may take.

    Attributes:
        bands: Bands of the file to give to the model, counted from 1, in the model's order. By default those with the
            names of the model's bands, if the file has them all, and otherwise all.
        max_value: Pixel value of the scenes that stands for the model's `max_value`; by default they are the same.
        match_gsd: Resample each window to the model's ground sampling distance.
        model_gsd: Metres per pixel that the model was trained on, where its dataset does not state them.
        aoi: File of polygons; only pixels whose centre is inside are predicted.
        max_memory: Bytes that may be held at once, beside the model and the libraries.
        resume: Go on where an earlier run with the same options was stopped.
        model: Identifies the model, for `resume`.
        allow_vrt_sources: Whether a VRT may name files away from its folder, servers, and formats that name others.

    Raises:
        ConfigError: When a value is out of range.
    """

    bands: tuple[int, ...] | None = None
    max_value: float | None = None
    match_gsd: bool = False
    model_gsd: float | None = None
    aoi: Path | None = None
    max_memory: int = 2048 * _MIB
    resume: bool = False
    model: str = ""
    allow_vrt_sources: bool = False

    def __post_init__(self) -> None:
        if self.aoi is not None:  # a text does as well
            object.__setattr__(self, "aoi", Path(self.aoi))
        if self.bands is not None and (not self.bands or min(self.bands) < 1):
            raise ConfigError(f"bands are counted from 1; got {list(self.bands)}. Give for instance 3 2 1.")
        if self.max_value is not None and not (math.isfinite(self.max_value) and self.max_value > 0):
            raise ConfigError(f"max_value must be above 0; got {self.max_value}. Give for instance 65535.")
        if self.max_memory < _MIB:
            raise ConfigError(f"max_memory must be at least 1M; got {self.max_memory} bytes. Give for instance 2G.")
        if self.model_gsd is not None and not (math.isfinite(self.model_gsd) and self.model_gsd > 0):
            raise ConfigError(f"model_gsd must be above 0 metres; got {self.model_gsd}. Give for instance 0.3.")


@dataclass(frozen=True)
class Doubt:
    """How probable classes are, and which pixels get none because none is probable enough.

    Attributes:
        below: The least probability that a class needs, 0..1.
        value: The id of pixels whose largest one is smaller.
        temperature: See `InferenceOptions`.
    """

    below: float = 0.0
    value: int = 0
    temperature: float = 1.0

    @property
    def sharpness(self) -> np.float32:
        """What logits are multiplied by before they become probabilities.

        A factor, because NumPy and every device give the same product to the bit.
        """
        return np.float32(1 / self.temperature)


@dataclass(frozen=True)
class OutputOptions:
    """What is written for a scene besides its labels.

    Attributes:
        cog: Write Cloud Optimized GeoTIFFs.
        confidence: Write the largest probability of each pixel.
        min_confidence: Pixels with a smaller one get `review_value` instead of a class.
        review_value: See there; no class id and not the ignored id.
        probabilities: Write the probability of each class.
        vector: A format (gpkg, geojson, fgb, parquet), or the file to write for one scene; None for no polygons.
        min_area: Smallest polygon in square metres; in pixels for scenes without a CRS.
        simplify: Tolerance of outlines in pixels, see `write_polygons`; 0 keeps the pixels' edges.
        pictures: Write the class ids and the overlay as pictures.
        stac: Write a STAC item that describes the other results.
        stac_datetime: When the image was taken, see `rsseg_tf.stac.moment_fields`; None for what it states.

    Raises:
        ConfigError: When a value is out of range or has no effect.
    """

    cog: bool = False
    confidence: bool = False
    min_confidence: float | None = None
    review_value: int = 254
    probabilities: bool = False
    vector: str | None = None
    min_area: float = 0.0
    simplify: float = 0.0
    pictures: bool = True
    stac: bool = False
    stac_datetime: str | None = None

    def __post_init__(self) -> None:
        if self.stac_datetime is not None and not self.stac:
            raise ConfigError("--stac_datetime has an effect with --stac only; add it or leave --stac_datetime out.")
        if self.stac_datetime is not None:
            moment_fields(self.stac_datetime)
        if self.min_confidence is not None and not 0 < self.min_confidence <= 1:
            raise ConfigError(f"min_confidence must be above 0 and at most 1; got {self.min_confidence}. 0.6 is usual.")
        if not 0 <= self.review_value <= 255:
            raise ConfigError(f"review_value must be in 0..255; got {self.review_value}. 254 is usual.")
        if self.vector is not None and self.vector_suffix not in VECTOR_SUFFIXES:
            raise ConfigError(
                f"vector must be gpkg, geojson, fgb or parquet, or a file of that kind; got '{self.vector}'. "
                "Give for instance --vector gpkg."
            )
        for name, value in (("min_area", self.min_area), ("simplify", self.simplify)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} must be 0 or above; got {value}.")
            if value and self.vector is None:
                raise ConfigError(f"--{name} has an effect with --vector only; add it or leave --{name} out.")

    @property
    def vector_suffix(self) -> str:
        """The suffix of vector files: ".gpkg", ".geojson", ".fgb" or ".parquet"; of other texts, what stands there."""
        text = self.vector or ""
        return (Path(text).suffix or f".{text}").lower()

    @property
    def vector_file(self) -> Path | None:
        """The one file that polygons go to, or None if each scene has its own."""
        return Path(self.vector) if self.vector is not None and Path(self.vector).suffix else None

    @property
    def needs_probabilities(self) -> bool:
        """Whether logits must be turned into probabilities."""
        return self.confidence or self.probabilities or self.vector is not None or self.min_confidence is not None

    @property
    def needs_confidence_alone(self) -> bool:
        """Whether of the probabilities only the largest one of each pixel is needed."""
        return self.needs_probabilities and not self.probabilities

    def doubt(self, temperature: float = 1.0) -> Doubt:
        """Returns which pixels get `review_value`.

        Args:
            temperature: See `InferenceOptions`.
        """
        below = (0.0, 0) if self.min_confidence is None else (self.min_confidence, self.review_value)
        return Doubt(*below, temperature)


def usual_stride(window: Size) -> Size:
    """Returns three quarters of a window: the step between windows where none was asked for."""
    return Size(max(1, window.height * 3 // 4), max(1, window.width * 3 // 4))


def parse_memory(text: str) -> int:
    """Returns the bytes that "800M", "2G" or "2GiB" mean.

    Raises:
        ConfigError: For another text.
    """
    number, unit = text.strip().upper().removesuffix("IB").removesuffix("B"), ""
    if number and number[-1] in _UNITS:
        number, unit = number[:-1], number[-1]
    try:
        size = float(number) * _UNITS[unit]
    except ValueError as error:
        raise ConfigError(f"max_memory must be a number with K, M, G or T; got '{text}'. Give for instance 2G.") from (
            error
        )
    if not math.isfinite(size):
        raise ConfigError(f"max_memory must be finite; got '{text}'. Give for instance 2G.")
    return int(size)


def check_scales(scales: tuple[float, ...]) -> None:
    """Raises `ConfigError` unless there is at least one scale and all are finite and above 0."""
    if not scales or not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise ConfigError(
            f"scales must be one or more numbers above 0; got {list(scales)}. Use 1.0 for the image's own size."
        )


def check_temperature(temperature: float) -> None:
    """Raises `ConfigError` unless a temperature is finite and above 0."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"a temperature must be finite and above 0; got {temperature}. 1.0 changes nothing.")


def check_batch_size(batch_size: int) -> None:
    """Raises `ConfigError` unless `batch_size` is at least 1."""
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1; got {batch_size}. Use 1 if memory is short.")


def check_window(crop_size: Size, stride: Size) -> None:
    """Raises `ConfigError` unless 1 <= stride <= crop_size for height and width.

    A stride larger than the window leaves pixels without a prediction. The original finds that out after all windows
    are predicted, and only where a gap arises; here it is refused before the first.
    """
    for name, size in (("crop_size", crop_size), ("stride", stride)):
        if not isinstance(size, Size):  # a pair would not tell which side it names first
            raise ConfigError(f"{name} must be a Size(height, width); got {size!r}. Give for instance Size(512, 512).")
        if min(size) < 1:
            raise ConfigError(
                f"{name} must be two whole numbers above 0; got {size}, width first. Give for instance 512 512."
            )
    if stride.height > crop_size.height or stride.width > crop_size.width:
        raise ConfigError(
            f"stride must be at most crop_size in width and height, or pixels are left out; got stride {stride} and "
            f"crop_size {crop_size}. Lower the stride, for instance to three quarters of the window."
        )
