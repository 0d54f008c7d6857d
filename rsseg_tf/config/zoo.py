"""The table of what a config can name: backbones, segmentors, losses and self-supervised methods, a row each.

A row is a section of the config:

- `name` lists the names that it stands for;
- its other fields are the builder's options, with the builder's defaults;
- `built_by` is the function (or class) that builds it;
- `weight_names` is the function that gives the names of its tensors in released files, if there are any.

Both are written `module:name` and imported at first use, so that a config is checked without Keras. `{name}` stands for
the name in the config.

The unions (`Backbone`, `Model`, …) hold every row of their kind that stands above them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from pydantic import Field, JsonValue, field_validator, model_validator

from rsseg_tf.config.named_weights import (
    APPLICATION_WEIGHTS,
    Normalisation,
    application_normalisation,
    find_weights,
    weights_for,
)
from rsseg_tf.config.section import (
    AboveZero,
    ClassWeights,
    Fraction,
    Momentum,
    NotNegative,
    Positive,
    Section,
    plugin_path,
)
from rsseg_tf.errors import ConfigError

__all__ = [
    "FCN",
    "FPN",
    "LRASPP",
    "Backbone",
    "BackboneSection",
    "C2FNet",
    "CoarseModel",
    "ConvNeXt",
    "CrossEntropy",
    "CustomBackbone",
    "CustomLoss",
    "CustomMethod",
    "CustomModel",
    "CustomRow",
    "DANet",
    "DeepLabV3Plus",
    "DenseCLSection",
    "Dice",
    "EfficientNet",
    "Focal",
    "HRNet",
    "HRNetContrast",
    "KerasApplications",
    "KerasHub",
    "KerasModel",
    "Loss",
    "LossSection",
    "LovaszSoftmax",
    "Method",
    "MethodSection",
    "MiT",
    "Mixed",
    "MoCoBYOLSection",
    "MoCoV2Section",
    "MobileNetV3",
    "Model",
    "ModelSection",
    "OCRNet",
    "OhemCrossEntropy",
    "PSPNet",
    "PixProSection",
    "PixelContrast",
    "PixelLoss",
    "ResNet",
    "ResNetV1c",
    "ResNetVd",
    "Row",
    "SegFormer",
    "SegmentorSection",
    "SimSiamSection",
    "SwAVSection",
    "UNet",
    "UNetEncoder",
    "UPerNet",
    "check_queue",
]


class Row(Section):
    """A section with a builder.

    Attributes:
        built_by: Where the builder is, `module:name`.
        weight_names: Where the function is that names the tensors in released files; None where nothing is released.
        own: Fields that are no options of the builder.
    """

    name: str
    built_by: ClassVar[str]
    weight_names: ClassVar[str | None] = None
    own: ClassVar[frozenset[str]] = frozenset({"name"})

    @property
    def builder_path(self) -> str:
        """Where the builder is, `module:name`."""
        return self.built_by.format(name=self.name)

    @property
    def label(self) -> str:
        """What is built, in file names and reports."""
        return self.name

    def builder_options(self) -> dict[str, Any]:
        """Returns the fields that the builder takes."""
        return self.model_dump(exclude=set(self.own))


class CustomRow(Section):
    """Fields of a row for code of one's own, see `rsseg_tf.plugins`; mixed into one row of each kind."""

    builder: str = Field(description="a function of yours, module:function; its module must be in RSSEG_TF_PLUGINS")
    options: dict[str, JsonValue] = Field({}, description="keyword arguments for it")

    @field_validator("builder")
    @classmethod
    def _names_a_function(cls, value: str) -> str:
        return plugin_path(value, "builder")

    @property
    def builder_path(self) -> str:
        """Where the builder is, `module:name`."""
        return self.builder

    @property
    def label(self) -> str:
        """The function's name."""
        return self.builder.partition(":")[2]

    def builder_options(self) -> dict[str, Any]:
        """Returns the options."""
        return dict(self.options)


Variant = Annotated[
    Literal["paddleseg", "mmsegmentation"],
    Field(description="whose computation it is, where projects differ: the one that the weights come from"),
]

VariantOrTimm = Annotated[
    Literal["paddleseg", "mmsegmentation", "timm"],
    Field(description="whose computation it is, where projects differ: the one that the weights come from"),
]

VariantOrSmp = Annotated[
    Literal["paddleseg", "mmsegmentation", "smp"],
    Field(description="whose computation it is, where projects differ; smp is segmentation_models_pytorch"),
]


def _one_of(kind: type[Row]) -> Any:
    """Returns the union of the rows of a kind that are defined so far, told apart by their `name`."""

    def rows(section: type[Row]) -> list[type[Row]]:
        below = [row for child in section.__subclasses__() for row in rows(child)]
        return below or [section]

    return Annotated[Union[tuple(rows(kind))], Field(discriminator="name")]  # noqa: UP007  # `|` takes no tuple


# === Backbones: images (B, H, W, in_channels) to features keyed "c2".."c5" ===


_Padding = Literal["same", "symmetric"]


class BackboneSection(Row):
    """What all backbones have."""

    own = Row.own | {"pretrained"}
    pretrained: str | None = Field(
        None,
        description="released weights (name, file, URL, keras-hub preset) or one of our checkpoints; null for random",
    )

    @property
    def normalisation(self) -> Normalisation | None:
        """What images of three bands were normalised by in the training of the weights that `pretrained` names.

        A dataset without `mean` and `std` takes them from here. None where nothing is known: for files and addresses.
        """
        weights = find_weights(self.pretrained)
        return None if weights is None else weights.normalisation

    @model_validator(mode="after")
    def _weights_are_for_it(self) -> BackboneSection:
        weights = find_weights(self.pretrained)
        # A preset's name may also be that of a file or folder.
        if weights is None or not (weights.package or weights.url) or isinstance(self, CustomRow):
            return self
        if self.name not in weights.backbones:
            own = ", ".join(row.name for row in weights_for(self.name)) or "none by name"
            raise ValueError(
                f"pretrained is {weights.name}, which are weights of {' and '.join(weights.backbones)}; the backbone "
                f"is {self.name}. There are for it: {own}."
            )
        if any(getattr(self, option) != value for option, value in weights.options):
            raise ValueError(f"the weights {weights.name} want {weights.options_in_words()} in the backbone's section.")
        return self


class ResNet(BackboneSection):
    """ResNet with the classic 7x7 stem, as the benchmark's own ResNet50; dilation by `output_stride`."""

    built_by = "rsseg_tf.backbones.resnet:{name}"
    weight_names = "rsseg_tf.weights.names:resnet_names"
    name: Literal["resnet18", "resnet34", "resnet50", "resnet101"]
    output_stride: Literal[8, 16, 32] = 32


class ResNetV1c(BackboneSection):
    """ResNet-C of mmsegmentation: three 3x3 convolutions as stem, dilation by `output_stride`."""

    built_by = "rsseg_tf.backbones.resnet:{name}"
    weight_names = "rsseg_tf.weights.names:resnet_names"
    name: Literal["resnet18_v1c", "resnet50_v1c", "resnet101_v1c"]
    output_stride: Literal[8, 16, 32] = 8


class ResNetVd(BackboneSection):
    """ResNet-D: three 3x3 convolutions as stem, average pooling in the shortcuts, dilation by `output_stride`."""

    built_by = "rsseg_tf.backbones.resnet_vd:{name}"
    weight_names = "rsseg_tf.weights.names:resnet_vd_names"
    name: Literal["resnet18_vd", "resnet50_vd", "resnet101_vd"]
    output_stride: Literal[8, 16, 32] = 8
    multi_grid: tuple[Positive, Positive, Positive] = (1, 1, 1)


class HRNet(BackboneSection):
    """HRNet: four resolutions side by side, joined at stride 4; `variant` tells whose weights fit."""

    built_by = "rsseg_tf.backbones.hrnet:{name}"
    weight_names = "rsseg_tf.weights.names:hrnet_names"
    name: Literal["hrnet_w18", "hrnet_w18_small", "hrnet_w48"]
    variant: VariantOrTimm = "paddleseg"


class MobileNetV3(BackboneSection):
    """MobileNetV3 for phones: depthwise convolutions, dilation by `output_stride`; `reduced_tail` halves the end."""

    built_by = "rsseg_tf.backbones.mobilenet_v3:{name}"
    weight_names = "rsseg_tf.weights.names:mobilenet_v3_names"
    name: Literal["mobilenet_v3_large", "mobilenet_v3_small"]
    output_stride: Literal[8, 16, 32] = 16
    reduced_tail: bool = False


class EfficientNet(BackboneSection):
    """EfficientNet: blocks scaled in width and depth. Its Lite form, with ReLU6 and no gates, is made for int8."""

    built_by = "rsseg_tf.backbones.efficientnet:{name}"
    weight_names = "rsseg_tf.weights.names:efficientnet_names"
    name: Literal[
        "efficientnet_lite0",
        "efficientnet_lite1",
        "efficientnet_lite2",
        "efficientnet_b0",
        "efficientnet_b1",
        "efficientnet_b2",
        "efficientnet_b3",
        "efficientnet_b4",
    ]
    output_stride: Literal[8, 16, 32] = 32
    first_feature: Literal["block", "stem", "stem_alone"] = Field(
        "block",
        description="where c1 is taken: behind the last block of stride 2, or the stem (smp; its timm-*: alone)",
    )
    padding: _Padding | tuple[_Padding, _Padding, _Padding, _Padding, _Padding] = Field(
        "same", description="of weights from TensorFlow; symmetric for torch's own; or a list for the strides 2 to 32"
    )
    epsilon: AboveZero = Field(1e-3, description="of weights from TensorFlow; 1e-5 for torch's own")


class MiT(BackboneSection):
    """Mix Transformer, SegFormer's encoder: attention at four strides.

    mmsegmentation's `norm_epsilon` is 1e-6, PaddleSeg's too, with an `embed_epsilon` of 1e-5.
    """

    built_by = "rsseg_tf.backbones.mit:{name}"
    name: Literal["mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5"]
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    norm_epsilon: AboveZero = 1e-5
    embed_epsilon: AboveZero | None = Field(
        None, description="of the normalisations behind patches and reduced maps; null: norm_epsilon"
    )


class ConvNeXt(BackboneSection):
    """ConvNeXt: depthwise 7x7 convolutions in blocks with the proportions of a transformer."""

    built_by = "rsseg_tf.backbones.convnext:{name}"
    name: Literal["convnext_tiny"]
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1


class UNetEncoder(BackboneSection):
    """The encoder of PaddleSeg's U-Net: pairs of convolutions from the image's own size to stride 16."""

    built_by = "rsseg_tf.backbones.unet_encoder:unet_encoder"
    weight_names = "rsseg_tf.weights.names:unet_encoder_names"
    name: Literal["unet_encoder"]


class KerasApplications(BackboneSection):
    """Any model of keras.applications, such as MobileNetV2; `pretrained: imagenet` loads its weights."""

    built_by = "rsseg_tf.backbones.keras_applications:keras_applications"
    name: Literal["keras_applications"]
    model: str = Field(description="name of its function, e.g. MobileNetV2")
    options: dict[str, JsonValue] = Field({}, description="keyword arguments for it, e.g. {alpha: 0.5}")

    @property
    def label(self) -> str:
        """The model's name."""
        return self.model.lower()

    @property
    def normalisation(self) -> Normalisation | None:
        """That of the weights of keras.applications."""
        return application_normalisation(self.model) if self.pretrained == APPLICATION_WEIGHTS else None


class KerasHub(BackboneSection):
    """Any backbone of keras-hub with a feature pyramid: a preset, or an architecture with its options."""

    built_by = "rsseg_tf.backbones.keras_hub:keras_hub"
    own = BackboneSection.own | {"preset"}
    name: Literal["keras_hub"]
    preset: str | None = Field(
        None, description="a preset whose architecture is taken, without weights; null: that of `pretrained`"
    )
    architecture: str | None = Field(None, description="a class, e.g. CSPNetBackbone; null: that of the preset")
    options: dict[str, JsonValue] = Field({}, description="keyword arguments for that class")
    image_size: Annotated[int, Field(gt=0, multiple_of=32)] = Field(
        512, description="side of the windows in which a network of one size sees the image"
    )

    @property
    def label(self) -> str:
        """The preset or the architecture."""
        return (self.preset or self.pretrained or self.architecture or "").rpartition("/")[2].lower()

    @model_validator(mode="after")
    def _names_a_network(self) -> KerasHub:
        if not (self.architecture or self.preset or self.pretrained):
            raise ValueError(
                "a backbone keras_hub needs `preset: NAME` (random weights), `pretrained: NAME` (its weights too), or "
                "`architecture: CLASS` with options."
            )
        return self


class CustomBackbone(CustomRow, BackboneSection):
    """A backbone of yours: `builder(in_channels=..., **options)` returns a Keras model with features "c2".."c5"."""

    name: Literal["custom"]


if TYPE_CHECKING:
    Backbone = BackboneSection
else:
    Backbone = _one_of(BackboneSection)


# === Models: images (B, H, W, bands) to {"main": logits, ...} ===


class ModelSection(Row):
    """What all models have. The backbone may be missing from a model of one's own alone.

    Attributes:
        parts_of_heads: Names of the tensors of the heads that give several; the others give logits.
    """

    own = Row.own | {"backbone", "pretrained", "num_classes", "freeze_backbone"}
    parts_of_heads: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    backbone: Backbone | None = None
    pretrained: str | None = Field(
        None, description="weights of the whole model (file or URL) or one of our checkpoints; null for random"
    )
    freeze_backbone: bool = Field(
        False, description="whether the backbone stays as it is in training, running statistics included"
    )

    @property
    def label(self) -> str:
        """Model and backbone."""
        return self.name if self.backbone is None else f"{self.name}_{self.backbone.label}"

    @model_validator(mode="after")
    def _has_what_is_frozen(self) -> ModelSection:
        if self.freeze_backbone and self.backbone is None:
            raise ValueError(
                f"model.freeze_backbone is true, but the model {self.label} has no section backbone. Build it on one, "
                "or remove freeze_backbone."
            )
        return self


class SegmentorSection(ModelSection):
    """What all segmentors have: a head, or several, on a backbone."""

    backbone: Backbone
    align_corners: bool = False
    num_classes: int | None = Field(None, description="follows from the dataset; if given it must agree")


class FCN(SegmentorSection):
    """A 1x1 convolution and a classifier on the deepest feature."""

    built_by = "rsseg_tf.segmentors.fcn:fcn"
    weight_names = "rsseg_tf.weights.names:fcn_names"
    name: Literal["fcn"]
    channels: Positive | None = None


class DeepLabV3Plus(SegmentorSection):
    """Atrous spatial pyramid pooling with a decoder at stride 4."""

    built_by = "rsseg_tf.segmentors.deeplabv3plus:deeplabv3plus"
    weight_names = "rsseg_tf.weights.names:deeplabv3plus_names"
    name: Literal["deeplabv3plus"]
    aspp_rates: tuple[Positive, ...] = (1, 12, 24, 36)
    aspp_channels: Positive = 256
    decoder_channels: Positive = 256
    low_level_channels: Positive = 48
    aux_head: bool = False
    variant: VariantOrSmp = "paddleseg"


class PSPNet(SegmentorSection):
    """Pyramid pooling on the deepest feature; auxiliary head on the one before."""

    built_by = "rsseg_tf.segmentors.pspnet:pspnet"
    weight_names = "rsseg_tf.weights.names:pspnet_names"
    name: Literal["pspnet"]
    pyramid_channels: Positive = 1024
    bin_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 3, 6)
    aux_head: bool = True
    feature: Literal["c2", "c3", "c4", "c5"] | None = Field(
        None, description="what is pooled; null: the deepest, in smp's variant c3"
    )
    variant: VariantOrSmp = "paddleseg"


class UPerNet(SegmentorSection):
    """Pyramid pooling and a feature pyramid over all four strides; auxiliary head on the third."""

    built_by = "rsseg_tf.segmentors.upernet:upernet"
    weight_names = "rsseg_tf.weights.names:upernet_names"
    name: Literal["upernet"]
    channels: Positive = 512
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    aux_head: bool = True
    aux_channels: Positive | None = Field(None, description="null: as many as the features; mmsegmentation: 256")
    variant: Variant = "paddleseg"


class DANet(SegmentorSection):
    """Position and channel attention on the deepest feature; heads main, cam, pam and aux."""

    built_by = "rsseg_tf.segmentors.danet:danet"
    weight_names = "rsseg_tf.weights.names:danet_names"
    name: Literal["danet"]


class OCRNet(SegmentorSection):
    """Object-contextual representations; heads main and aux (the soft object regions)."""

    built_by = "rsseg_tf.segmentors.ocrnet:ocrnet"
    weight_names = "rsseg_tf.weights.names:ocrnet_names"
    name: Literal["ocrnet"]
    features: tuple[Literal["c2", "c3", "c4", "c5"], ...] | None = Field(
        None, description="one feature for both heads, or the auxiliary head's and the main head's; null: the deepest"
    )
    ocr_channels: Positive = 512
    key_channels: Positive = 256


class HRNetContrast(SegmentorSection):
    """FCN with a 3x3 convolution and, for training, a projection for the pixel-contrast loss (head contrast)."""

    built_by = "rsseg_tf.segmentors.hrnet_contrast:hrnet_contrast"
    weight_names = "rsseg_tf.weights.names:hrnet_contrast_names"
    parts_of_heads = MappingProxyType({"contrast": ("logits", "embedding")})
    name: Literal["hrnet_contrast"]
    projection_channels: Positive = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class LRASPP(SegmentorSection):
    """A head for phones: deepest features under a gate from their mean, joined with those of stride 8 as logits."""

    built_by = "rsseg_tf.segmentors.lraspp:lraspp"
    weight_names = "rsseg_tf.weights.names:lraspp_names"
    name: Literal["lraspp"]
    channels: Positive = 128


class UNet(SegmentorSection):
    """Features doubled in size step by step, and joined with the backbone's of each stride."""

    built_by = "rsseg_tf.segmentors.unet:unet"
    weight_names = "rsseg_tf.weights.names:unet_names"
    name: Literal["unet"]
    variant: Annotated[
        Literal["smp", "paddleseg"],
        Field(description="smp repeats pixels; paddleseg resizes bilinearly, and its convolutions have a bias"),
    ] = "smp"
    decoder_channels: Annotated[tuple[Positive, ...], Field(min_length=1)] = Field(
        (256, 128, 64, 32, 16), description="of the steps; fewer than five end at a stride above 1"
    )


class FPN(SegmentorSection):
    """A feature pyramid whose levels are brought to stride 4 by convolutions and added."""

    built_by = "rsseg_tf.segmentors.fpn:fpn"
    name: Literal["fpn"]
    pyramid_channels: Positive = 256
    segmentation_channels: Positive = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    align_corners: bool = True


class SegFormer(SegmentorSection):
    """SegFormer's head: a linear layer on the features of each stride, joined at the finest."""

    built_by = "rsseg_tf.segmentors.segformer:segformer"
    name: Literal["segformer"]
    channels: Positive = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    channel_dropout: bool = Field(False, description="whether dropout takes away whole channels, as in PaddleSeg")


if TYPE_CHECKING:
    CoarseModel = SegmentorSection
else:
    CoarseModel = _one_of(ModelSection)


class C2FNet(SegmentorSection):
    """A frozen coarse model, and a fine one that refines windows with small objects.

    The fine model is an FCN with two classes: the dataset's `small_classes`, and everything else.
    """

    built_by = "rsseg_tf.segmentors.c2fnet:c2fnet"
    weight_names = "rsseg_tf.weights.names:c2fnet_names"
    own = ModelSection.own | {"coarse"}
    parts_of_heads = MappingProxyType({"fine": ("logits", "windows")})
    name: Literal["c2fnet"]
    coarse: CoarseModel
    channels: Positive | None = None
    window_size: Positive = 128
    training_stride: Positive = 32
    windows_per_image: Positive = 32

    @field_validator("coarse")
    @classmethod
    def _is_frozen_anyway(cls, value: ModelSection) -> ModelSection:
        if value.freeze_backbone:
            raise ValueError("model.coarse.freeze_backbone is true, but the whole coarse model is frozen. Remove it.")
        return value


class CustomModel(CustomRow, ModelSection):
    """A model of yours.

    With a backbone it is built by `builder(backbone, num_classes=..., **options)`, else by
    `builder(in_channels=..., num_classes=..., **options)`. It gives logits, or logits by head with "main" among them.
    """

    name: Literal["custom"]

    @property
    def label(self) -> str:
        """The builder's name, and the backbone."""
        function = self.builder.partition(":")[2]
        return function if self.backbone is None else f"{function}_{self.backbone.label}"


class KerasModel(ModelSection):
    """A Keras model that a program gave to `rsseg_tf.train`; checkpoints hold it here."""

    built_by = "rsseg_tf.segmentors.keras_model:keras_model"
    name: Literal["keras_model"]
    architecture: str = Field(description="the model as Keras writes it, without weights")

    @property
    def label(self) -> str:
        """The model's own name."""
        try:
            return str(json.loads(self.architecture)["config"]["name"])
        except (ValueError, LookupError, TypeError):
            return self.name


if TYPE_CHECKING:
    Model = ModelSection
else:
    Model = _one_of(ModelSection)


# === Losses: what a head gives and labels (B, H, W) to a scalar ===


class LossSection(Row):
    """What all losses have."""

    own = Row.own | {"weight"}
    weight: AboveZero = 1.0


class CrossEntropy(LossSection):
    """Cross-entropy of one head; ignored pixels have no part in it."""

    built_by = "rsseg_tf.losses.cross_entropy:cross_entropy"
    name: Literal["cross_entropy"]
    class_weights: ClassWeights = None


class OhemCrossEntropy(LossSection):
    """Cross-entropy of the hard pixels: those whose true class has a low probability, at least `min_kept`."""

    built_by = "rsseg_tf.losses.ohem:ohem_cross_entropy"
    name: Literal["ohem_cross_entropy"]
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.7
    min_kept: Positive = 10000


class Dice(LossSection):
    """One minus the soft Dice score, averaged over the classes."""

    built_by = "rsseg_tf.losses.dice:dice"
    name: Literal["dice"]
    class_weights: ClassWeights = None
    smooth: Annotated[float, Field(ge=0)] = 1.0


class Focal(LossSection):
    """Cross-entropy that counts easy pixels less."""

    built_by = "rsseg_tf.losses.focal:focal"
    name: Literal["focal"]
    alpha: AboveZero = 1.0
    gamma: Annotated[float, Field(ge=0)] = 2.0


class LovaszSoftmax(LossSection):
    """The Lovász extension of one minus the IoU, averaged over the classes that are present."""

    built_by = "rsseg_tf.losses.lovasz:lovasz_softmax"
    name: Literal["lovasz_softmax"]


if TYPE_CHECKING:
    PixelLoss = LossSection
else:
    PixelLoss = _one_of(LossSection)


class Mixed(LossSection):
    """A sum of losses of the same head, each with its weight."""

    name: Literal["mixed"]
    losses: Annotated[tuple[PixelLoss, ...], Field(min_length=1)]


class PixelContrast(LossSection):
    """Contrast of embeddings between classes, for the head contrast of hrnet_contrast."""

    built_by = "rsseg_tf.losses.pixel_contrast:pixel_contrast"
    name: Literal["pixel_contrast"]
    temperature: AboveZero = 0.1
    base_temperature: AboveZero = 0.07
    max_samples: Positive = 1024
    max_views: Positive = 100


class CustomLoss(CustomRow, LossSection):
    """A loss of yours: `builder(output, labels, ignore_index=..., mean=..., **options)`, as `rsseg_tf.losses` has."""

    name: Literal["custom"]


if TYPE_CHECKING:
    Loss = LossSection
else:
    Loss = _one_of(LossSection)


# === Self-supervised methods: a `rsseg_tf.ssl.Method` around a backbone ===


def check_queue(size: int, batch: int, *, keys_per_sample: int = 1) -> None:
    """Makes sure that a batch never wraps around the end of a queue.

    Raises:
        ConfigError: When `batch * keys_per_sample` does not divide `size`.
    """
    keys = batch * keys_per_sample
    if size % keys:
        below, above = size // keys * keys, (size // keys + 1) * keys
        nearest = f"{below} or {above}" if below else str(above)
        each = "" if keys_per_sample == 1 else f" of {keys_per_sample} keys each"
        raise ConfigError(
            f"method.queue_size is {size}, which a batch of {batch} samples{each} does not divide. "
            f"Set it to a multiple of {keys}, such as {nearest}, or change --total_batch_size."
        )


class MethodSection(Row):
    """What all methods have.

    Attributes:
        takes_small_views: Whether it makes use of more views than two.
    """

    takes_small_views: ClassVar[bool] = False

    def check_batch(self, batch: int, share: int) -> None:
        """Checks what follows from the size of a batch; most methods take any.

        Args:
            batch: Images of a step on all devices.
            share: Images of a step on one device.

        Raises:
            ConfigError: When they do not fit the queue, or the parts in which keys are normalised.
        """


class _KeyEncoder(MethodSection):
    dim: Positive = 128
    hidden: Positive | None = Field(None, description="channels inside the head; null: those of the backbone")
    queue_size: Positive = 65536
    momentum: Momentum = 0.999
    temperature: AboveZero = 0.2
    key_bn: Literal["ema_stats", "split"] = Field("split", description="how keys are normalised, see ssl/moco_v2.py")
    key_bn_splits: Positive = 8

    def check_batch(self, batch: int, share: int) -> None:
        """Checks the queue and the parts in which keys are normalised."""
        check_queue(self.queue_size, batch)
        splits = self.key_bn_splits
        if self.key_bn == "split" and (share % splits or share // splits < 2):
            raise ConfigError(
                f"method.key_bn is split: a device's {share} images are normalised in {splits} equal parts, of at "
                "least two images each. Change method.key_bn_splits or --total_batch_size, or set method.key_bn to "
                "ema_stats."
            )


class MoCoV2Section(_KeyEncoder):
    """MoCo v2: an image's two views against a queue."""

    built_by = "rsseg_tf.ssl.moco_v2:MoCoV2"
    name: Literal["moco_v2"]


class DenseCLSection(_KeyEncoder):
    """DenseCL: MoCo, and the same for the cells of feature maps."""

    built_by = "rsseg_tf.ssl.densecl:DenseCL"
    name: Literal["densecl"]
    dense_weight: Fraction = 0.5
    dense_warmup_steps: NotNegative = 0


class SimSiamSection(MethodSection):
    """SimSiam: views predict each other, without negatives."""

    built_by = "rsseg_tf.ssl.simsiam:SimSiam"
    name: Literal["simsiam"]
    dim: Positive = 2048
    predictor_hidden: Positive = 512
    constant_predictor_lr: bool = True
    zero_init_residual: bool = True


class SwAVSection(MethodSection):
    """SwAV: views predict each other's assignment to prototypes."""

    built_by = "rsseg_tf.ssl.swav:SwAV"
    takes_small_views = True
    name: Literal["swav"]
    dim: Positive = 128
    hidden: Positive = 2048
    prototypes: Annotated[int, Field(ge=2)] = 3000
    temperature: AboveZero = 0.1
    epsilon: AboveZero = 0.05
    sinkhorn_iterations: Positive = 3
    freeze_prototypes_steps: NotNegative = 313
    queue_size: NotNegative = 0
    queue_start_step: NotNegative = 0

    def check_batch(self, batch: int, share: int) -> None:
        """Checks the queue, if there is one."""
        if self.queue_size:
            check_queue(self.queue_size, batch)


class PixProSection(MethodSection):
    """PixPro: cells of two views that show the same place agree."""

    built_by = "rsseg_tf.ssl.pixpro:PixPro"
    name: Literal["pixpro"]
    dim: Positive = 256
    hidden: Positive = 4096
    momentum: Momentum = 0.99
    radius: AboveZero = 0.7
    sharpness: AboveZero = 2.0
    instance_weight: Annotated[float, Field(ge=0)] = 0.0


class MoCoBYOLSection(MethodSection):
    """MoCo-BYOL: views predict a moving target, with a little contrast against a queue."""

    built_by = "rsseg_tf.ssl.moco_byol:MoCoBYOL"
    name: Literal["moco_byol"]
    dim: Positive = 256
    hidden: Positive = 4096
    queue_size: Positive = 65536
    momentum: Momentum = 0.99
    temperature: AboveZero = 0.2
    contrast_weight: Annotated[float, Field(ge=0)] = 0.03

    def check_batch(self, batch: int, share: int) -> None:
        """Checks the queue, which takes in the keys of both views."""
        check_queue(self.queue_size, batch, keys_per_sample=2)


class CustomMethod(CustomRow, MethodSection):
    """A method of yours: `builder(build_backbone, **options)` returns a `rsseg_tf.ssl.Method`."""

    takes_small_views = True
    name: Literal["custom"]


if TYPE_CHECKING:
    Method = MethodSection
else:
    Method = _one_of(MethodSection)
