"""What a config of self-supervised pre-training holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from rsseg_tf.config.named_weights import IMAGENET, normalised_for
from rsseg_tf.config.schema import Data, PlainAdamW, PlainSGD
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
)
from rsseg_tf.config.zoo import Backbone, Method
from rsseg_tf.datasets import DatasetSpec, custom_spec
from rsseg_tf.datasets.table import UNLABELLED
from rsseg_tf.errors import DataError
from rsseg_tf.moved import moved_name

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Images",
    "LARSSection",
    "PretrainConfig",
    "PretrainSchedule",
    "PretrainTrain",
    "Views",
]

if not TYPE_CHECKING:  # a type checker shall tell wrong names

    def __getattr__(name: str) -> Any:
        return moved_name(__name__, name)


IMAGENET_MEAN, IMAGENET_STD = IMAGENET
"""Of pixels divided by 255, red first; what all six methods were trained with."""

if TYPE_CHECKING:
    UnlabelledName = str
else:  # as `schema.DatasetName`
    UnlabelledName = Literal[UNLABELLED]


class Images(Section):
    """Images without labels: a folder that `rsseg-tf prepare` wrote (million_aid, dota, images), or any other one.

    `mean` and `std` are those of pixels divided by `max_value`. By default they are those that the backbone's named
    weights were trained with; without such weights ImageNet's for three bands, and 0.5 for any other number.
    """

    name: UnlabelledName
    root: str
    train_list: str | None = Field(
        None, description="list file under root, the first column of each line an image; null: all images below root"
    )
    bands: Positive = 3
    max_value: AboveZero = 255.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def spec(self) -> DatasetSpec:
        """Bands and statistics; there are no classes, so the spec's one class is a placeholder."""
        mean, std = self.mean, self.std
        if self.bands == 3:
            mean, std = mean or IMAGENET_MEAN, std or IMAGENET_STD
        return custom_spec(self.name, ("unlabelled",), bands=self.bands, max_value=self.max_value, mean=mean, std=std)

    @model_validator(mode="after")
    def _spec_is_sound(self) -> Images:
        try:
            _ = self.spec
        except DataError as error:
            raise ValueError(str(error)) from error
        return self


class Views(Section):
    """Random views of an image: crops resized to a square, mirrored and turned, then changed in colour.

    Names and units are torchvision's. Pairs of probabilities are for the first and the second view; small views take
    the second.
    """

    crop_size: Positive = Field(224, description="side of both large views in pixels")
    scale_range: tuple[AboveZero, AboveZero] = Field((0.2, 1.0), description="share of the image's area")
    small_views: NotNegative = Field(0, description="number of further, small views (swav)")
    small_crop_size: Positive = 96
    small_scale_range: tuple[AboveZero, AboveZero] = (0.05, 0.14)
    ratio_range: tuple[AboveZero, AboveZero] = Field((0.75, 4 / 3), description="width over height of a crop")
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip_horizontal: Fraction = 0.5
    flip_vertical: Fraction = 0.0
    rotate90: Fraction = Field(0.0, description="probability of a turn by 90, 180 or 270 degrees")
    jitter_probability: Fraction = 0.8
    brightness: Fraction = 0.4
    contrast: Fraction = 0.4
    saturation: Fraction = Field(0.4, description="needs 3 bands (RGB)")
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(0.1, description="needs 3 bands (RGB)")
    gray_probability: Fraction = Field(0.2, description="needs 3 bands (RGB)")
    blur_probability: tuple[Fraction, Fraction] = (0.5, 0.5)
    blur_sigma: tuple[AboveZero, AboveZero] = Field((0.1, 2.0), description="in pixels of the view")
    solarize_probability: tuple[Fraction, Fraction] = (0.0, 0.0)
    solarize_threshold: Annotated[float, Field(ge=0, le=255)] = 128.0

    @model_validator(mode="after")
    def _consistent(self) -> Views:
        for name in ("scale_range", "small_scale_range", "ratio_range", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is smallest, largest; got {low}, {high}. Swap them.")
        for name in ("scale_range", "small_scale_range"):
            if getattr(self, name)[1] > 1:
                raise ValueError(f"{name} is a share of the image's area, at most 1; got {getattr(self, name)[1]}.")
        return self


# === Training ===


class LARSSection(Section):
    """Layer-wise adaptive rates, in the arithmetic of three official codes; see `training.optimizers.LARS`."""

    name: Literal["lars"]
    variant: Literal["pixpro", "larc", "paddle"]
    momentum: Momentum = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-6
    trust: AboveZero = 0.001
    epsilon: Annotated[float, Field(ge=0)] = 1e-8
    exclude_1d: bool = Field(True, description="biases and normalisations: no decay, no adaptation")
    clip_norm: ClipNorm = None
    clip_value: ClipValue = None


# Without what is for fine-tuning or for losses of single samples: accumulated batches would not add up to a large one,
# because these methods compare the samples of a batch; momentum encoders are moving averages already.
PretrainOptimizer = Annotated[PlainSGD | PlainAdamW | LARSSection, Field(discriminator="name")]


class PretrainSchedule(Section):
    """Half a cosine wave after a linear warm-up; with `base_batch_size` all rates scale with the batch."""

    name: Literal["cosine"]
    learning_rate: AboveZero = 0.03
    end_lr: Annotated[float, Field(ge=0)] = 0.0
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    warmup_start_lr: Annotated[float, Field(ge=0)] = 0.0
    base_batch_size: Positive | None = Field(
        None, description="train.total_batch_size that the rates are for; n times the batch makes them n times as large"
    )
    by_epoch: bool = Field(False, description="whether the rate changes at epochs only, as in the official MoCo")


class PretrainTrain(Section):
    """The run itself."""

    epochs: Positive = 200
    iters: Positive | None = Field(None, description="steps in all; null: as many as the epochs have")
    total_batch_size: Annotated[int, Field(ge=2)] = Field(256, description="images per step, over all devices")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    log_iters: Positive = 10
    loggers: Loggers = ("tensorboard",)
    save_interval: Positive = 1000
    keep_checkpoint_max: Positive = 5
    collapse_spread: Fraction = Field(0.05, description="an epoch with a smaller mean spread counts as collapsed")
    stop_after_collapsed: Positive | None = Field(None, description="collapsed epochs in a row that end the run")
    deterministic: bool = Field(False, description="whether equal runs give equal weights, to the bit")
    remat: bool = Field(
        False, description="whether activations are computed twice instead of being kept: less memory, more time"
    )


class PretrainConfig(Section):
    """A whole run of pre-training: images, backbone, method and recipe."""

    dataset: Images
    backbone: Backbone
    method: Method
    views: Views = Views()
    data: Data = Data()
    optimizer: PretrainOptimizer = PlainSGD(name="sgd", weight_decay=1e-4)
    lr_schedule: PretrainSchedule = PretrainSchedule(name="cosine")
    train: PretrainTrain = PretrainTrain()

    @model_validator(mode="after")
    def _agrees(self) -> PretrainConfig:
        object.__setattr__(self, "dataset", normalised_for(self.dataset, self.backbone.normalisation))
        if self.views.small_views and not self.method.takes_small_views:
            raise ValueError(
                f"views.small_views is {self.views.small_views}, but method {self.method.name} takes two views; set "
                "it to 0, or method.name to swav."
            )
        return self
