"""What a config may say: every section, its fields, types and ranges.

Sections that come in several kinds (dataset, model, backbone, optimizer, lr_schedule, loss) are told apart by their
`name`. Fields that follow from others are not asked for: the number of classes, the ignored id and the number of
bands come from the dataset.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rsseg_tf.datasets import SPECS as DATASET_SPECS
from rsseg_tf.datasets import DatasetSpec, custom_spec
from rsseg_tf.errors import DataError

__all__ = [
    "FCN",
    "SGD",
    "AdamW",
    "Augment",
    "Backbone",
    "Config",
    "CosineSchedule",
    "CrossEntropy",
    "CustomDataset",
    "Data",
    "Dataset",
    "DeepLabV3Plus",
    "Eval",
    "HRNet",
    "LrSchedule",
    "Model",
    "Optimizer",
    "PolySchedule",
    "PreparedDataset",
    "ResNet",
    "ResNetVd",
    "Train",
]

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Rgb = tuple[
    Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are never converted, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# === Dataset ===


class PreparedDataset(Section):
    """A dataset that `rsseg-tf prepare` wrote; its classes, palette and statistics are known by name."""

    name: Literal["dubai", "synthetic"]
    root: str
    train_list: str = "train.txt"
    val_list: str = "val.txt"

    @property
    def spec(self) -> DatasetSpec:
        """The dataset's classes, palette, ignored id, bands and statistics."""
        return DATASET_SPECS[self.name]


class CustomDataset(Section):
    """A user's own data: a root folder, two list files and the class names.

    `mean` and `std` are those of pixels divided by `max_value`, one value per band (default 0.5, as the benchmark).
    """

    name: Literal["custom"]
    root: str
    train_list: str = "train.txt"
    val_list: str = "val.txt"
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    palette: tuple[Rgb, ...] | None = None
    ignore_index: Annotated[int, Field(ge=0, le=255)] = 255
    bands: Positive = 3
    rgb_bands: tuple[int, ...] | None = None
    max_value: Annotated[float, Field(gt=0)] = 255.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def spec(self) -> DatasetSpec:
        """The dataset's classes, palette, ignored id, bands and statistics."""
        return custom_spec(
            "custom",
            self.classes,
            palette=self.palette,
            ignore_index=self.ignore_index,
            bands=self.bands,
            rgb_bands=self.rgb_bands,
            max_value=self.max_value,
            mean=self.mean,
            std=self.std,
        )

    @model_validator(mode="after")
    def _spec_is_sound(self) -> CustomDataset:
        try:
            _ = self.spec
        except DataError as error:
            raise ValueError(str(error)) from error
        return self


Dataset = Annotated[PreparedDataset | CustomDataset, Field(discriminator="name")]


# === Model ===


class ResNet(Section):
    """ResNet with the classic 7x7 stem and no dilation (stride 32), as the benchmark's own ResNet50."""

    name: Literal["resnet18", "resnet50", "resnet101"]


class ResNetVd(Section):
    """ResNet-D: three 3x3 convolutions as stem, average pooling in the shortcuts, dilation by `output_stride`."""

    name: Literal["resnet18_vd", "resnet50_vd", "resnet101_vd"]
    output_stride: Literal[8, 16, 32] = 8
    multi_grid: tuple[Positive, Positive, Positive] = (1, 1, 1)


class HRNet(Section):
    """HRNet: four resolutions side by side, joined at stride 4."""

    name: Literal["hrnet_w18", "hrnet_w48"]


Backbone = Annotated[ResNet | ResNetVd | HRNet, Field(discriminator="name")]


class FCN(Section):
    """A 1x1 convolution and a classifier on the deepest feature."""

    name: Literal["fcn"]
    backbone: Backbone
    channels: Positive | None = None
    align_corners: bool = False
    num_classes: int | None = Field(None, description="follows from the dataset; if given it must agree")


class DeepLabV3Plus(Section):
    """Atrous spatial pyramid pooling with a decoder at stride 4."""

    name: Literal["deeplabv3plus"]
    backbone: Backbone
    aspp_rates: tuple[Positive, ...] = (1, 12, 24, 36)
    aspp_channels: Positive = 256
    decoder_channels: Positive = 256
    low_level_channels: Positive = 48
    align_corners: bool = False
    num_classes: int | None = Field(None, description="follows from the dataset; if given it must agree")


Model = Annotated[FCN | DeepLabV3Plus, Field(discriminator="name")]


# === Training ===


class Augment(Section):
    """Random changes to training samples, in this order: scale, crop, flips, rotations, colours.

    Ranges and order are the benchmark's; what it lacks (vertical flip, rotations) is off by default.
    """

    crop_size: tuple[Positive, Positive] = Field((512, 512), description="width, height in pixels")
    scale_range: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 2.0)
    scale_step: Annotated[float, Field(ge=0)] = 0.25
    image_padding: Annotated[float, Field(ge=0, le=255)] = 127.5
    flip_horizontal: Fraction = 0.5
    flip_vertical: Fraction = 0.0
    rotate90: Fraction = 0.0
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    rotate_probability: Fraction = 0.5
    brightness_range: Annotated[float, Field(ge=0, le=1)] = 0.4
    contrast_range: Annotated[float, Field(ge=0, le=1)] = 0.4
    saturation_range: Annotated[float, Field(ge=0, le=1)] = 0.4
    hue_range: Annotated[float, Field(ge=0, le=127)] = 18.0
    distort_probability: Fraction = 0.5

    @model_validator(mode="after")
    def _consistent(self) -> Augment:
        low, high = self.scale_range
        if low > high:
            raise ValueError(f"scale_range is smallest, largest; got {low}, {high}. Swap them.")
        return self


class Data(Section):
    """How samples are read."""

    workers: Positive | None = Field(None, description="samples read in parallel; null lets TensorFlow choose")
    cache_mb: Annotated[int, Field(ge=0)] = Field(1024, description="decoded samples kept in memory, in MiB")


class SGD(Section):
    """SGD with momentum and the original's L2 decay: added to the gradient of every trained parameter."""

    name: Literal["sgd"]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4


class AdamW(Section):
    """AdamW: decay apart from the gradient."""

    name: Literal["adamw"]
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    weight_decay: Annotated[float, Field(ge=0)] = 0.01


Optimizer = Annotated[SGD | AdamW, Field(discriminator="name")]


class _Schedule(Section):
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    end_lr: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    warmup_start_lr: Annotated[float, Field(ge=0)] = 0.0


class PolySchedule(_Schedule):
    """Polynomial decay over all iterations after the warm-up."""

    name: Literal["poly"]
    power: Annotated[float, Field(gt=0)] = 0.9


class CosineSchedule(_Schedule):
    """Half a cosine wave over all iterations after the warm-up."""

    name: Literal["cosine"]


LrSchedule = Annotated[PolySchedule | CosineSchedule, Field(discriminator="name")]


class CrossEntropy(Section):
    """Cross-entropy of one head; ignored pixels have no part in it."""

    name: Literal["cross_entropy"]
    weight: Annotated[float, Field(gt=0)] = 1.0
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None


class Train(Section):
    """The run itself."""

    iters: Positive = 80000
    batch_size: Positive = Field(4, description="samples per device")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    log_iters: Positive = 10
    save_interval: Positive = 1000
    keep_checkpoint_max: Positive = 5
    early_stop_intervals: Positive | None = None


class Eval(Section):
    """How validation images are predicted, in training (`--do_eval`) and by `rsseg-tf eval`."""

    scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    flip_horizontal: bool = False
    flip_vertical: bool = False
    is_slide: bool = False
    crop_size: tuple[Positive, Positive] | None = Field(None, description="width, height of the window in pixels")
    stride: tuple[Positive, Positive] | None = Field(None, description="horizontal, vertical step in pixels")

    @model_validator(mode="after")
    def _window(self) -> Eval:
        given = self.crop_size is not None and self.stride is not None
        if self.is_slide and not given:
            raise ValueError("is_slide needs crop_size and stride (width height each), e.g. [512, 512] and [384, 384].")
        if not self.is_slide and (self.crop_size is not None or self.stride is not None):
            raise ValueError("crop_size and stride have a meaning with is_slide: true only; add it or remove them.")
        return self


class Config(Section):
    """A whole run: data, model and recipe."""

    dataset: Dataset
    model: Model
    augment: Augment = Augment()
    data: Data = Data()
    optimizer: Optimizer = SGD(name="sgd")
    lr_schedule: LrSchedule = PolySchedule(name="poly")
    loss: Annotated[dict[str, CrossEntropy], Field(min_length=1)] = Field(
        default_factory=lambda: {"main": CrossEntropy(name="cross_entropy")}
    )
    train: Train = Train()
    eval: Eval = Eval()

    @model_validator(mode="after")
    def _agrees(self) -> Config:
        spec = self.dataset.spec
        given = self.model.num_classes
        if given is not None and given != spec.num_classes:
            raise ValueError(
                f"model.num_classes is {given}, but the dataset '{spec.name}' has {spec.num_classes} classes "
                f"({', '.join(spec.classes[:6])}{', …' if spec.num_classes > 6 else ''}). Remove model.num_classes."
            )
        if spec.bands != 3 and (self.augment.saturation_range or self.augment.hue_range):
            raise ValueError(
                f"augment.saturation_range and augment.hue_range need 3 bands (RGB); the dataset '{spec.name}' has "
                f"{spec.bands}. Set both to 0."
            )
        for head, loss in self.loss.items():
            if loss.class_weights is not None and len(loss.class_weights) != spec.num_classes:
                raise ValueError(
                    f"loss.{head}.class_weights has {len(loss.class_weights)} values; the dataset '{spec.name}' has "
                    f"{spec.num_classes} classes, one weight each."
                )
        return self
