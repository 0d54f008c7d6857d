"""The sections of a config of a segmentation model, their fields, types and ranges.

Sections that come in several kinds (dataset, model, backbone, optimizer, lr_schedule, loss) are told apart by their
`name`. Fields that follow from others do not exist: the number of classes, the ignored id and the number of bands
come from the dataset.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from rsseg_tf.config.named_weights import normalised_for
from rsseg_tf.config.section import (
    AboveZero,
    ClipNorm,
    ClipValue,
    Fraction,
    Loggers,
    Momentum,
    NotNegative,
    Positive,
    Section,
    plugin_path,
)
from rsseg_tf.config.zoo import C2FNet, CrossEntropy, CustomLoss, Loss, Mixed, Model, PixelContrast
from rsseg_tf.datasets import DatasetSpec, custom_spec
from rsseg_tf.datasets.protocols import PROTOCOLS, ProtocolName, present_name
from rsseg_tf.datasets.spec import TILE_NAME_PATTERNS
from rsseg_tf.datasets.table import SPECS
from rsseg_tf.errors import DataError
from rsseg_tf.moved import moved_name
from rsseg_tf.rasters.gdal import Trust
from rsseg_tf.rasters.windows import Size

__all__ = [
    "SGD",
    "AdamW",
    "Augment",
    "Config",
    "CosineSchedule",
    "CustomDataset",
    "Data",
    "Dataset",
    "Eval",
    "LrSchedule",
    "Optimizer",
    "PlainAdamW",
    "PlainSGD",
    "PolySchedule",
    "PreparedDataset",
    "Train",
]

if not TYPE_CHECKING:  # a type checker shall tell wrong names

    def __getattr__(name: str) -> Any:
        return moved_name(__name__, name)


_Byte = Annotated[int, Field(ge=0, le=255)]
Rgb = tuple[_Byte, _Byte, _Byte]


# === Dataset ===

if TYPE_CHECKING:
    DatasetName = str
else:  # pydantic wants the names themselves; a type checker cannot read them from the table
    DatasetName = Literal[tuple(sorted(SPECS))]


DatasetTitle = Annotated[
    Annotated[str, Field(min_length=1)] | None,
    Field(description="your name of it, in reports, eval.json, manifests; null: its name, or a custom one's folder"),
]
IgnoreNodata = Annotated[
    bool, Field(description="whether pixels where the image has no data count neither in training nor in evaluation")
]


class PreparedDataset(Section):
    """A dataset whose classes, palette and statistics are known by name; `rsseg-tf prepare` writes them.

    `mean` and `std` are as for custom datasets.
    """

    name: DatasetName
    title: DatasetTitle = None
    root: str
    train_list: str = "train.txt"
    val_list: str = "val.txt"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    ignore_nodata: IgnoreNodata = True

    @property
    def spec(self) -> DatasetSpec:
        """The dataset's classes, palette, ignored id, bands and statistics."""
        given = {field: values for field in ("mean", "std") if (values := getattr(self, field)) is not None}
        title = self.name if self.title is None else self.title
        return replace(SPECS[self.name], name=title, ignore_nodata=self.ignore_nodata, **given)

    @model_validator(mode="after")
    def _spec_is_sound(self) -> PreparedDataset:
        try:
            _ = self.spec
        except DataError as error:
            raise ValueError(str(error)) from error
        return self


class CustomDataset(Section):
    """A user's own data: a root folder, two list files and the class names.

    A relative `root` in a file counts from the file's folder if the dataset lies there, else from the working
    directory. A config without one lies beside its data: its folder is the root.

    `mean` and `std` are those of pixels divided by `max_value`, one value per band. By default they are those that the
    backbone's named weights were trained with, and without such weights 0.5, as in PaddleSeg.
    """

    name: Literal["custom"]
    root: str
    train_list: str = "train.txt"
    val_list: str = "val.txt"
    classes: tuple[str, ...]
    palette: tuple[Rgb, ...] | None = None
    ignore_index: _Byte = 255
    bands: Positive = 3
    rgb_bands: tuple[int, ...] | None = None
    max_value: AboveZero = 255.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    small_classes: tuple[str, ...] = Field((), description="names of the classes that c2fnet refines")
    title: DatasetTitle = None
    band_names: tuple[str, ...] = Field((), description="meaning of each band, e.g. [red, green, blue]")
    gsd: AboveZero | None = Field(None, description="metres per pixel, if all images have the same")
    tile_names: str | None = Field(None, description="pattern of tile names that hold the place in a scene")
    ignore_nodata: IgnoreNodata = True

    @classmethod
    def of(cls, spec: DatasetSpec, root: str, **more: Any) -> CustomDataset:
        """Returns the section of a dataset whose facts are known.

        Args:
            spec: The facts.
            root: The folder.
            **more: Other fields.
        """
        fields = {name: getattr(spec, name) for name in cls.model_fields if hasattr(spec, name) and name != "name"}
        return cls(name="custom", root=root, title=spec.name, **fields, **more)

    @field_validator("classes")
    @classmethod
    def _can_be_told_apart(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) < 2:
            raise ValueError(
                f"dataset.classes names {len(value)} class{'es' if not value else ''}; a model tells at least 2 apart. "
                f"Name what lies around it too, e.g. [background, {value[0] if value else 'building'}], and give it an "
                "id in the labels: 0 is the first class."
            )
        return value

    @field_validator("tile_names")
    @classmethod
    def _known_pattern(cls, value: str | None) -> str | None:
        if value is not None and value not in TILE_NAME_PATTERNS:
            raise ValueError(f"dataset.tile_names is '{value}'; it must be one of {', '.join(TILE_NAME_PATTERNS)}.")
        return value

    @property
    def spec(self) -> DatasetSpec:
        """The dataset's classes, palette, ignored id, bands and statistics."""
        # Of either system: a config written on Windows may be read elsewhere.
        folder = re.split(r"[/\\]", self.root.rstrip("/\\"))[-1]
        spec = custom_spec(
            self.title if self.title is not None else ("custom" if folder in ("", ".", "..") else folder),
            self.classes,
            palette=self.palette,
            ignore_index=self.ignore_index,
            bands=self.bands,
            rgb_bands=self.rgb_bands,
            max_value=self.max_value,
            mean=self.mean,
            std=self.std,
            small_classes=self.small_classes,
            band_names=self.band_names,
            gsd=self.gsd,
            tile_names=self.tile_names,
        )
        return replace(spec, ignore_nodata=self.ignore_nodata)

    @model_validator(mode="after")
    def _spec_is_sound(self) -> CustomDataset:
        try:  # the checks of the spec: palette, bands, mean and std
            _ = self.spec
        except DataError as error:
            raise ValueError(str(error)) from error
        return self


Dataset = Annotated[PreparedDataset | CustomDataset, Field(discriminator="name")]


# === Training ===


class Augment(Section):
    """Random changes to training samples, in this order: scale, crop, flips, rotations, colours, `custom`.

    Ranges and order are PaddleSeg's in the benchmark; vertical flips and rotations, which it lacks, are off by default.
    With `rotate_whole` the rotation by `rotate_degrees` stands between scale and crop.
    """

    crop_size: tuple[Positive, Positive] = Field((512, 512), description="width, height in pixels")
    scale_range: tuple[AboveZero, AboveZero] = (0.5, 2.0)
    scale_step: Annotated[float, Field(ge=0)] = 0.25
    image_padding: Annotated[float, Field(ge=0, le=255)] | None = Field(
        None, description="on the scale 0..255; null: 127.5 for bytes, the mean of each band for other types"
    )
    flip_horizontal: Fraction = 0.5
    flip_vertical: Fraction = 0.0
    rotate90: Fraction = 0.0
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    rotate_probability: Fraction = 0.5
    rotate_whole: bool = Field(
        False, description="whether rotate_degrees turns the whole image, which grows, before the crop, as in PaddleSeg"
    )
    brightness_range: Annotated[float, Field(ge=0, le=1)] = 0.4
    contrast_range: Annotated[float, Field(ge=0, le=1)] = 0.4
    saturation_range: Annotated[float, Field(ge=0, le=1)] = 0.4
    hue_range: Annotated[float, Field(ge=0, le=127)] = 18.0
    distort_probability: Fraction = 0.5
    custom: str | None = Field(
        None,
        description="a change of yours, module:function of (image, label, seed), the last one; its module must be in "
        "RSSEG_TF_PLUGINS",
    )

    @field_validator("custom")
    @classmethod
    def _names_a_function(cls, value: str | None) -> str | None:
        return None if value is None else plugin_path(value, "augment.custom")

    @property
    def crop(self) -> Size:
        """The size of training crops."""
        return Size.from_width_height(self.crop_size)

    @model_validator(mode="after")
    def _consistent(self) -> Augment:
        low, high = self.scale_range
        if low > high:
            raise ValueError(f"scale_range is smallest, largest; got {low}, {high}. Swap them.")
        if self.rotate_whole and not self.rotate_degrees:
            raise ValueError("rotate_whole has a meaning with rotate_degrees above 0 only; set it or remove both.")
        return self


RARE = "rare"


class Sampling(Section):
    """Which crops are drawn; by default each sample is cropped anywhere, as in PaddleSeg.

    A crop holds a class if it has a pixel of it. Where more crops than `share` hold one of the classes by chance,
    nothing changes; else some crops are placed on one, in another sample if need be.
    """

    classes: tuple[str, ...] | Literal["rare"] = Field(
        (), description="names of classes, or rare: those with less than half of an equal share of the pixels"
    )
    share: Fraction | None = Field(None, description="of crops that are to hold one of the classes; null: 0.5")
    redraw_ignored: bool = Field(
        False, description="whether a crop with nothing but ignored pixels is drawn again, at most nine times"
    )

    @property
    def wish(self) -> float:
        """The share of crops that are to hold one of the classes."""
        return 0.5 if self.share is None else self.share

    @model_validator(mode="after")
    def _has_classes(self) -> Sampling:
        if self.share is not None and not self.classes:
            raise ValueError(
                "sampling.share has a meaning with sampling.classes only; name some, e.g. [building], or write rare."
            )
        return self


class Data(Section):
    """How samples are read."""

    workers: Positive | None = Field(None, description="samples read in parallel; null lets TensorFlow choose")
    cache_mb: NotNegative = Field(1024, description="decoded samples kept in memory, in MiB")
    max_image_mb: Positive = Field(1024, description="largest image that is decoded, in MiB of its pixels")
    allow_vrt_sources: bool = Field(
        False, description="whether a VRT may name files away from its folder, servers, and formats that name others"
    )

    @property
    def trust(self) -> Trust:
        """The limits for files and for the sources of a VRT."""
        return Trust(self.max_image_mb * 2**20, self.allow_vrt_sources)


_Exclude1D = Annotated[bool, Field(description="whether biases, scales and offsets of normalisations do not decay")]


class PlainSGD(Section):
    """SGD with momentum and L2 decay, which is added to the gradient of every trained parameter, as in PaddleSeg."""

    name: Literal["sgd"]
    momentum: Momentum = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    exclude_1d: _Exclude1D = False
    clip_norm: ClipNorm = None
    clip_value: ClipValue = None


class PlainAdamW(Section):
    """AdamW: decay is separate from the gradient."""

    name: Literal["adamw"]
    beta_1: Momentum = 0.9
    beta_2: Momentum = 0.999
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    exclude_1d: _Exclude1D = False
    clip_norm: ClipNorm = None
    clip_value: ClipValue = None


_AccumulateSteps = Annotated[
    int, Field(gt=0, description="batches whose gradients are averaged into one step; an iter is such a step")
]
_BackboneFactor = Annotated[
    AboveZero, Field(description="the backbone's learning rate, as a multiple of lr_schedule's")
]


class SGD(PlainSGD):
    """SGD for a segmentation model."""

    accumulate_steps: _AccumulateSteps = 1
    backbone_lr_factor: _BackboneFactor = 1.0


class AdamW(PlainAdamW):
    """AdamW for a segmentation model."""

    accumulate_steps: _AccumulateSteps = 1
    backbone_lr_factor: _BackboneFactor = 1.0


Optimizer = Annotated[SGD | AdamW, Field(discriminator="name")]


class _Schedule(Section):
    learning_rate: AboveZero = 0.01
    end_lr: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: NotNegative = 0
    warmup_start_lr: Annotated[float, Field(ge=0)] = 0.0


class PolySchedule(_Schedule):
    """Polynomial decay over all iterations after the warm-up."""

    name: Literal["poly"]
    power: AboveZero = 0.9


class CosineSchedule(_Schedule):
    """Half a cosine wave over all iterations after the warm-up."""

    name: Literal["cosine"]


LrSchedule = Annotated[PolySchedule | CosineSchedule, Field(discriminator="name")]


class Train(Section):
    """The run itself."""

    iters: Positive = 80000
    batch_size: Positive = Field(
        4, description="samples per step on each device, as in PaddleSeg; optimizer.accumulate_steps multiplies them"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    log_iters: Positive = 10
    loggers: Loggers = ("tensorboard",)
    save_interval: Positive = 1000
    keep_checkpoint_max: Positive = 5
    early_stop_intervals: Positive | None = None
    deterministic: bool = Field(False, description="whether equal runs give equal weights, to the bit")
    remat: bool = Field(
        False, description="whether activations are computed twice instead of being kept: less memory, more time"
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="decay of a moving average of the weights, e.g. 0.999, which is then evaluated; null: none"
    )


class Eval(Section):
    """How validation images are predicted and scored, in training (`--do_eval`) and by `rsseg-tf eval`.

    All but `protocol` are the fields of `rsseg_tf.predict.InferenceOptions`. `data.workers` threads read the images.
    """

    protocol: ProtocolName = Field("benchmark", description="what is counted, see rsseg_tf.datasets.protocols")
    batch_size: Positive = Field(1, description="images of one size, or windows, that each device predicts at a time")
    scales: Annotated[tuple[AboveZero, ...], Field(min_length=1)] = (1.0,)
    flip_horizontal: bool = False
    flip_vertical: bool = False
    is_slide: bool = False
    crop_size: tuple[Positive, Positive] | None = Field(None, description="width, height of the window in pixels")
    stride: tuple[Positive, Positive] | None = Field(None, description="horizontal, vertical step in pixels")

    def inference(self) -> dict[str, Any]:
        """Returns the options that decide on labels, as `InferenceOptions` takes them; how many at a time does not."""
        return self.model_dump(exclude={"protocol", "batch_size"})

    @field_validator("protocol", mode="before")
    @classmethod
    def _present_name(cls, value: Any) -> Any:
        return present_name(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _window(self) -> Eval:
        given = self.crop_size is not None and self.stride is not None
        if self.is_slide and not given:
            raise ValueError("is_slide needs crop_size and stride (width height each), e.g. [512, 512] and [384, 384].")
        if not self.is_slide and (self.crop_size is not None or self.stride is not None):
            raise ValueError("crop_size and stride have a meaning with is_slide: true only; add it or remove them.")
        return self


def _default_loss() -> dict[str, Loss]:
    return {"main": CrossEntropy(name="cross_entropy")}


class Config(Section):
    """A whole run: data, model and recipe."""

    dataset: Dataset
    model: Model
    augment: Augment = Augment()
    sampling: Sampling = Sampling()
    data: Data = Data()
    optimizer: Optimizer = SGD(name="sgd")
    lr_schedule: LrSchedule = PolySchedule(name="poly")
    loss: Annotated[dict[str, Loss], Field(min_length=1)] = Field(default_factory=_default_loss)
    train: Train = Train()
    eval: Eval = Eval()

    @model_validator(mode="after")
    def _agrees(self) -> Config:
        if self.model.backbone is not None:
            # The section is frozen for others.
            object.__setattr__(self, "dataset", normalised_for(self.dataset, self.model.backbone.normalisation))
        spec = self.dataset.spec
        # Saturation and hue are defined for red, green and blue alone.
        if spec.bands != 3 and (self.augment.saturation_range or self.augment.hue_range):
            raise ValueError(
                f"augment.saturation_range and augment.hue_range need 3 bands (RGB); the dataset '{spec.name}' has "
                f"{spec.bands}. Set both to 0."
            )
        self._check_classes(spec)
        self._check_sampling(spec)
        self._check_losses(spec)
        self._check_protocol()
        self._check_backbone()
        return self

    def _check_backbone(self) -> None:
        factor = self.optimizer.backbone_lr_factor
        if factor != 1.0 and self.model.backbone is None:
            raise ValueError(
                f"optimizer.backbone_lr_factor is {factor}, but the model {self.model.label} has no section backbone. "
                "Build it on one (model.backbone), or remove the factor."
            )
        if factor != 1.0 and self.model.freeze_backbone:
            raise ValueError(
                f"optimizer.backbone_lr_factor is {factor}, but model.freeze_backbone keeps the backbone as it is. "
                "Remove one of both."
            )

    def _check_classes(self, spec: DatasetSpec) -> None:
        for model in (self.model, *([self.model.coarse] if isinstance(self.model, C2FNet) else [])):
            stated = getattr(model, "num_classes", None)
            if stated is not None and stated != spec.num_classes:
                raise ValueError(
                    f"model.num_classes is {stated}, but the dataset '{spec.name}' has {spec.num_classes} "
                    f"classes ({', '.join(spec.classes[:6])}{', …' if spec.num_classes > 6 else ''}). "
                    "Remove model.num_classes."
                )
        if isinstance(self.model, C2FNet) and not spec.small_classes:
            raise ValueError(
                f"model.name c2fnet needs classes of small objects; the dataset '{spec.name}' names none. "
                "Use a dataset that has some (isaid), or list them in dataset.small_classes of a custom one."
            )

    def _check_sampling(self, spec: DatasetSpec) -> None:
        unknown = [] if self.sampling.classes == RARE else [c for c in self.sampling.classes if c not in spec.classes]
        if unknown:
            raise ValueError(
                f"sampling.classes names {', '.join(unknown)}; the dataset '{spec.name}' has "
                f"{', '.join(spec.classes)}. Take some of these, or write rare."
            )

    def _check_protocol(self) -> None:
        allowed = PROTOCOLS[self.eval.protocol].datasets  # empty for protocols of any dataset
        if allowed and self.dataset.name not in allowed:
            others = [name for name, protocol in PROTOCOLS.items() if not protocol.datasets]
            raise ValueError(
                f"eval.protocol {self.eval.protocol} is for the datasets {' and '.join(allowed)}; the dataset is "
                f"'{self.dataset.name}'. Choose {' or '.join(others)}."
            )

    def _check_losses(self, spec: DatasetSpec) -> None:
        # The number of class weights, and the words that explain it.
        classes, of = spec.num_classes, f"the dataset '{spec.name}' has {spec.num_classes} classes"
        if isinstance(self.model, C2FNet):
            classes, of = 2, "the fine model of c2fnet has 2 classes (other, small object)"
        for head, loss in self.loss.items():
            # This head gives projections of features, which are no logits of classes.
            if (head == "contrast") != isinstance(loss, PixelContrast) and not isinstance(loss, CustomLoss):
                raise ValueError(
                    f"loss.{head}.name is {loss.name}; pixel_contrast is for the head contrast, and that head takes "
                    "no other loss."
                )
            for part in loss.losses if isinstance(loss, Mixed) else (loss,):
                weights = getattr(part, "class_weights", None)
                if weights is not None and len(weights) != classes:
                    raise ValueError(f"loss.{head}.class_weights has {len(weights)} values; {of}, one weight each.")
                if weights is not None and not any(weights):
                    raise ValueError(
                        f"loss.{head}.class_weights are all 0, so that nothing would be learnt; at least one must be "
                        "above 0. Remove class_weights, or take those that `rsseg-tf check-data` suggests."
                    )
