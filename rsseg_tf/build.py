"""From a config to objects: the only place where names meet functions.

The rows of `rsseg_tf.config.zoo` say where each builder is. A builder gets the options of its row, and those of
`in_channels`, `num_classes`, `small_classes`, `steps`, `ignore_index`, `mean` and `seed` that its signature names.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import keras

from rsseg_tf import ssl
from rsseg_tf.config import Config, PretrainConfig
from rsseg_tf.config.zoo import Backbone, C2FNet, CustomModel, CustomRow, KerasModel, Loss, Mixed, Model, Row
from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.errors import ConfigError, RssegError, reason
from rsseg_tf.layers import automatic_name
from rsseg_tf.losses import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    FunctionLoss,
    KerasLoss,
    LovaszSoftmaxLoss,
    MixedLoss,
    OhemCrossEntropyLoss,
    PixelContrastLoss,
    WindowLoss,
)
from rsseg_tf.metrics.keras_metrics import Kappa, MeanDice, MeanIoU, PixelAccuracy
from rsseg_tf.plugins import import_plugin
from rsseg_tf.rasters.windows import Size
from rsseg_tf.segmentors.c2fnet import window_labels
from rsseg_tf.segmentors.keras_model import architecture_of_model, copy_weights, keras_model

__all__ = [
    "POLICIES",
    "HeadLoss",
    "as_segmentor",
    "build_backbone",
    "build_losses",
    "build_method",
    "build_model",
    "builder_of",
    "compile_options",
    "own_model_section",
]

# Name in the config -> the same loss for Keras; others are found by the place of their function.
_LOSS_OBJECTS: dict[str, Callable[..., KerasLoss]] = {
    "cross_entropy": CrossEntropyLoss,
    "ohem_cross_entropy": OhemCrossEntropyLoss,
    "dice": DiceLoss,
    "focal": FocalLoss,
    "lovasz_softmax": LovaszSoftmaxLoss,
    "pixel_contrast": PixelContrastLoss,
}
_SCORES = (MeanIoU, PixelAccuracy, Kappa, MeanDice)

POLICIES = {"fp32": "float32", "fp16": "mixed_float16", "bf16": "mixed_bfloat16"}


def builder_of(section: Row, where: str = "") -> Callable[..., Any]:
    """Returns the function or class that builds what a section describes.

    Args:
        section: A row of `rsseg_tf.config.zoo`.
        where: The section's key in the config, for messages.

    Raises:
        ConfigError: For code of a user's own that is not allowed or not there, see `rsseg_tf.plugins`.
    """
    if isinstance(section, CustomRow):
        return import_plugin(section.builder, f"{where}.builder")
    module, _, name = section.builder_path.partition(":")
    return getattr(importlib.import_module(module), name)


def _builder(section: Row, where: str, *offered: str, arguments: int = 0) -> Callable[..., Any]:
    """Returns a section's builder with its options filled in; what is `offered` and not wanted is dropped.

    Args:
        section: A row of `rsseg_tf.config.zoo`.
        where: The section's key in the config, for messages.
        *offered: Names of the keyword arguments that the caller will give.
        arguments: Number of positional arguments that the caller will give.

    Raises:
        ConfigError: When the builder does not take the options.
    """
    builder, options = builder_of(section, where), section.builder_options()
    signature = inspect.signature(builder)
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    wanted = [name for name in offered if takes_all or name in signature.parameters]
    try:
        if twice := sorted(options.keys() & wanted):
            raise TypeError(f"{', '.join(twice)} comes from the config's other sections")
        signature.bind(*[None] * arguments, **dict.fromkeys(wanted), **options)
    except TypeError as error:
        raise ConfigError(
            f"{where}.options does not fit {section.builder_path}{signature}: {error}. Got the options "
            f"{', '.join(options) or 'none'}."
        ) from error

    def build(*positional: Any, **given: Any) -> Any:
        return builder(*positional, **{name: given[name] for name in wanted}, **options)

    def build_custom(*positional: Any, **given: Any) -> Any:
        try:
            return build(*positional, **given)
        except RssegError:
            raise
        except Exception as error:  # a user's code may raise anything
            raise ConfigError(
                f"{where}.builder {section.builder_path} failed: {reason(error)}. "
                "RSSEG_TF_TRACEBACK=1 in the environment shows where."
            ) from error

    return build_custom if isinstance(section, CustomRow) else build


# === Models ===


def build_backbone(config: Backbone, *, in_channels: int = 3, where: str = "backbone") -> keras.Model:
    """Returns the backbone of a config: `(B, H, W, in_channels)` to features keyed "c2".."c5".

    Args:
        config: Its section.
        in_channels: Bands of an image.
        where: The section's key in the config, for messages.
    """
    backbone = _builder(config, where, "in_channels")(in_channels=in_channels)
    if isinstance(config, CustomRow):
        _require_named_layers(backbone, where, config.builder)
    return backbone


def build_model(config: Config, *, precision: str = "fp32") -> keras.Model:
    """Returns the segmentor of a config, with random weights.

    Args:
        config: A checked config; bands and number of classes come from its dataset.
        precision: `fp32`, `fp16` or `bf16`: the type of activations. Weights and outputs stay float32.

    Returns:
        A functional model: `(B, H, W, bands)` float32 normalised pixels to `{"main": (B, H, W, classes) logits, …}`.

    Raises:
        ConfigError: When a loss is configured for a head that the model does not have, or the other way round; when
            code of a user's own gives no such model.
    """
    with _dtype_policy(POLICIES[precision]):
        model = _build_segmentor(config.model, config.dataset.spec, "model")
    if isinstance(config.model, KerasModel):
        _require_labels_size(model, config.augment.crop, config.dataset.spec.bands)
    # The coarse logits of c2fnet are its main output; they do not learn.
    heads = ["fine"] if isinstance(config.model, C2FNet) else sorted(model.output)
    with_loss = sorted(config.loss)
    if heads != with_loss:
        raise ConfigError(
            f"loss names the heads {', '.join(with_loss)}, but {config.model.name} has the heads {', '.join(heads)}; "
            "write one loss for each head."
        )
    return model


def _build_segmentor(section: Model, spec: DatasetSpec, where: str) -> keras.Model:
    sizes: dict[str, Any] = {"num_classes": spec.num_classes}
    if isinstance(section, C2FNet):
        # Both parts have layers of the same names; the scopes keep the paths of their variables apart.
        with keras.name_scope("coarse"):
            sizes["coarse"] = _build_segmentor(section.coarse, spec, f"{where}.coarse")
        with keras.name_scope("fine"):
            backbone = build_backbone(section.backbone, in_channels=spec.bands, where=f"{where}.backbone")
        sizes["small_classes"] = spec.small_class_ids
    elif section.backbone is not None:
        backbone = build_backbone(section.backbone, in_channels=spec.bands, where=f"{where}.backbone")
    else:
        sizes["in_channels"] = spec.bands
    on = () if section.backbone is None else (backbone,)
    model = _builder(section, where, *sizes, arguments=len(on))(*on, **sizes)
    if isinstance(section, KerasModel):
        return _own_as_segmentor(model, spec)
    return _as_segmentor(model, section, spec, where) if isinstance(section, CustomModel) else model


# === Models of a user's own ===


def own_model_section(model: keras.Model, spec: DatasetSpec) -> KerasModel:
    """Returns the section `model` of a config for a Keras model of a user's own.

    Args:
        model: Normalised `(B, H, W, bands)` to logits `(B, H, W, classes)`, alone or in a dict as "main".
        spec: The dataset that it is for.

    Raises:
        ConfigError: When Keras cannot write and read the model, or it does not fit the dataset.
    """
    section = KerasModel(name="keras_model", architecture=architecture_of_model(model))
    copy_weights(model, _own_as_segmentor(keras_model(architecture=section.architecture), spec))
    return section


def _own_as_segmentor(model: keras.Model, spec: DatasetSpec) -> keras.Model:
    """Returns a model of a user's own that is to be trained with its outputs by head, in float32."""
    told = _Told(
        f"the Keras model '{model.name}' must be",
        f" Use keras.Input((None, None, {spec.bands})).",
        f" End with keras.layers.Conv2D({spec.num_classes}, 1).",
        "Leave activation='softmax' out.",
    )
    return _by_head(model, spec, told)


def _require_labels_size(model: keras.Model, crop: Size, bands: int) -> None:
    """Refuses a model of a user's own that does not take crops, or gives logits of another size."""
    image = keras.KerasTensor((1, crop.height, crop.width, bands))
    given = f"{crop.width}x{crop.height} pixels (augment.crop_size)"
    try:
        shape = model.compute_output_spec(image)["main"].shape
    except ValueError as error:
        fixed = model.input_shape[1:3]
        raise ConfigError(
            f"The model '{model.name}' does not take images of {given}: its input is {fixed[1]}x{fixed[0]}. Build it "
            "on keras.Input((None, None, bands)), or set augment.crop_size to its size."
        ) from error
    if any(known is not None and known != wanted for known, wanted in zip(shape[1:3], crop, strict=True)):
        raise ConfigError(
            f"The model '{model.name}' gives logits of {shape[2]}x{shape[1]} for images of {given}; labels have the "
            "images' size. Resize its logits, e.g. by keras.layers.UpSampling2D(4, interpolation='bilinear')."
        )


def as_segmentor(model: Any, spec: DatasetSpec, *, from_logits: bool = True) -> keras.Model:
    """Returns a user's own Keras model in the form of those of this package.

    Args:
        model: One image `(B, H, W, bands)` to `(B, H, W, classes)`, alone or as the output `main`. A subclass of
            `keras.Model` without inputs gets some.
        spec: Its bands and classes.
        from_logits: Whether it gives logits; of probabilities the logarithm is taken, from which the same follow.

    Returns:
        A functional model with logits in float32 by head.

    Raises:
        ConfigError: When the model has other bands or classes, or gives probabilities against `from_logits`.
    """
    if not isinstance(model, keras.Model):
        raise ConfigError(f"a keras.Model, or the path of a model, is needed; got {type(model).__name__}.")
    if not getattr(model, "inputs", None):
        image = keras.Input((None, None, spec.bands), name="image")
        model = keras.Model(image, model(image), name=model.name)
    remedy = "Pass from_logits=False, or leave activation='softmax' out."
    told = _Told(f"the Keras model '{model.name}' must be", "", "", remedy)
    model = _by_head(model, spec, told, from_logits=from_logits)
    if from_logits:
        return model
    smallest = keras.config.epsilon()
    logits = {head: keras.ops.log(keras.ops.maximum(x, smallest)) for head, x in model.output.items()}
    return keras.Model(model.inputs[0], logits, name=model.name)


def _as_segmentor(model: Any, section: CustomModel, spec: DatasetSpec, where: str) -> keras.Model:
    """Returns the model of a config's builder with its outputs by head, in float32."""
    _require_named_layers(model, where, section.builder)
    told = _Told(
        f"{where}.builder {section.builder} must return",
        " Take the argument in_channels.",
        " Take the argument num_classes.",
        "Leave activation='softmax' out.",
    )
    return _by_head(model, spec, told)


class _Told(NamedTuple):
    """What is said of a model that does not fit: who must do what, and the remedies, each a sentence or nothing."""

    who: str
    bands: str
    classes: str
    softmax: str


def _by_head(model: keras.Model, spec: DatasetSpec, told: _Told, *, from_logits: bool = True) -> keras.Model:
    """Returns a model with its outputs by head, in float32; see `as_segmentor`."""
    if len(model.inputs) != 1 or model.inputs[0].shape[-1] != spec.bands:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in model.inputs)
        raise ConfigError(
            f"{told.who} a model of one image (B, H, W, {spec.bands}), the bands of the dataset '{spec.name}'; "
            f"its inputs are {shapes}.{told.bands}"
        )
    # A Sequential model that was never called has no `output`, and never several.
    output = model.outputs[0] if isinstance(model, keras.Sequential) else model.output
    outputs = output if isinstance(output, dict) else {"main": output}
    shape = getattr(outputs.get("main"), "shape", None)
    if shape is None or len(shape) != 4 or shape[-1] != spec.num_classes:
        raise ConfigError(
            f"{told.who} a model with logits (B, H, W, {spec.num_classes}), one channel for each class of the "
            f"dataset '{spec.name}', alone or as the output 'main'; got "
            f"{tuple(shape) if shape is not None else ', '.join(outputs)}.{told.classes}"
        )
    last = model.layers[-1]
    is_softmax = getattr(last, "activation", None) is keras.activations.softmax
    if from_logits and (is_softmax or isinstance(last, keras.layers.Softmax)):
        raise ConfigError(
            f"{told.who} a model that gives logits; its last layer '{last.name}' has a softmax, which the losses bring "
            f"themselves. {told.softmax}"
        )
    if outputs is output and all(getattr(x, "dtype", "float32") == "float32" for x in outputs.values()):
        return model
    outputs = {
        head: keras.layers.Activation("linear", dtype="float32", name=f"{head}_logits")(x)
        if hasattr(x, "dtype") and x.dtype != "float32"
        else x
        for head, x in outputs.items()
    }
    return keras.Model(model.inputs[0], outputs, name=model.name)


def _require_named_layers(model: Any, where: str, builder: str) -> None:
    """Refuses what is no functional model, and layers whose variables have other paths in each process.

    Checkpoints find a variable by its path. Keras numbers layers without a name by how many a process has made.
    """
    if not isinstance(model, keras.Model) or not hasattr(model, "inputs") or model.inputs is None:
        raise ConfigError(
            f"{where}.builder {builder} must return a keras.Model with inputs and outputs (functional or Sequential); "
            f"got {type(model).__name__}."
        )
    keras_names = {automatic_name(name) for name in dir(keras.layers)}
    own_names = {automatic_name(type(layer).__name__) for layer in model.layers}
    # Layers inside of layers count too: their names are in the paths.
    parts = {part: re.sub(r"_\d+$", "", part) for variable in model.weights for part in variable.path.split("/")[:-1]}
    # A name such as "decoder" for a layer of a class Decoder may be the user's own choice; "decoder_1" is Keras's.
    numbered = [part for part, name in parts.items() if name in keras_names or (name in own_names and name != part)]
    if numbered:
        raise ConfigError(
            f"{where}.builder {builder}: {len(numbered)} layers with weights have no name of their own "
            f"({', '.join(numbered[:4])}{', …' if len(numbered) > 4 else ''}), so that a checkpoint could not find "
            "them again. Name them, e.g. keras.layers.Conv2D(8, 3, name='head_conv')."
        )


# === Self-supervised methods ===


def build_method(config: PretrainConfig, *, steps: int, devices: int = 1, precision: str = "fp32") -> ssl.Method:
    """Returns the self-supervised method of a config around a new backbone.

    Args:
        config: A checked config.
        steps: Of the whole run, which schedules of momentum go by.
        devices: How many share a batch.
        precision: `fp32`, `fp16` or `bf16`: the type of activations. Weights, queues and losses stay float32.

    Raises:
        ConfigError: When the batch does not fit the devices, the queue or the parts in which keys are normalised.
    """
    section, batch = config.method, config.train.total_batch_size
    if batch % devices:
        raise ConfigError(
            f"train.total_batch_size is {batch}, the images of a step on all devices, and {devices} devices cannot "
            f"share it equally. Use a multiple of {devices}."
        )
    section.check_batch(batch, batch // devices)

    def backbone() -> keras.Model:
        return build_backbone(config.backbone, in_channels=config.dataset.bands)

    with _dtype_policy(POLICIES[precision]):
        method = _builder(section, "method", "steps", arguments=1)(backbone, steps=steps)
    if not isinstance(method, ssl.Method):
        raise ConfigError(
            f"method.builder {section.builder_path} must return a rsseg_tf.ssl.Method; got {type(method).__name__}."
        )
    return method


# === Losses ===


class HeadLoss(Protocol):
    """The loss of one head."""

    def __call__(self, output: Any, labels: Any, *, mean: Callable[[Any], Any] = ..., seed: Any = ...) -> Any:
        """Returns the loss as a float32 scalar.

        Args:
            output: What the model returns for the head.
            labels: (B, H, W) integer class ids, or the dataset's `ignore_index`.
            mean: Mean over all elements of all devices, see `rsseg_tf.losses.cross_entropy`.
            seed: Integer that draws of random pixels follow from; another one for each step.
        """


def build_losses(config: Config) -> dict[str, tuple[HeadLoss, float]]:
    """Returns for each head its loss and the loss's weight in the sum."""
    spec = config.dataset.spec
    by_head = {head: _build_loss(section, spec.ignore_index, head) for head, section in config.loss.items()}
    if isinstance(config.model, C2FNet):
        by_head = {head: _on_windows(loss, config.model, spec) for head, loss in by_head.items()}
    return {head: (loss, config.loss[head].weight) for head, loss in by_head.items()}


def compile_options(config: Config) -> dict[str, Any]:
    """Returns what `rsseg_tf.library.compile_options` tells of, for a checked config."""
    spec = config.dataset.spec
    losses = {head: _keras_loss(section, spec.ignore_index, head) for head, section in config.loss.items()}
    if isinstance(config.model, C2FNet):
        size, small = config.model.window_size, spec.small_class_ids
        losses = {
            head: WindowLoss(loss, window_size=size, small_classes=small, ignore_index=spec.ignore_index, name=head)
            for head, loss in losses.items()
        }
    scores = [score(spec.num_classes, ignore_index=spec.ignore_index) for score in _SCORES]
    metrics: dict[str, Any] = {
        head: dict.fromkeys(config.model.parts_of_heads[head]) if head in config.model.parts_of_heads else None
        for head in config.loss
    }
    return {
        "loss": losses,
        "loss_weights": {head: section.weight for head, section in config.loss.items()},
        "metrics": {**metrics, "main": scores},
    }


def _keras_loss(section: Loss, ignore_index: int, head: str) -> KerasLoss:
    if isinstance(section, Mixed):
        parts = [_keras_loss(part, ignore_index, head) for part in section.losses]
        return MixedLoss(parts, [part.weight for part in section.losses])
    options = section.builder_options()
    if (kind := _LOSS_OBJECTS.get(section.name)) is not None:
        return kind(ignore_index=ignore_index, **options)
    return FunctionLoss(section.builder_path, ignore_index=ignore_index, options=options, name=section.label)


def _build_loss(section: Loss, ignore_index: int, head: str) -> HeadLoss:
    if isinstance(section, Mixed):
        return _sum_of([(_build_loss(part, ignore_index, head), part.weight) for part in section.losses])
    function = _builder(section, f"loss.{head}", "ignore_index", "mean", "seed", arguments=2)

    def loss(output: Any, labels: Any, *, mean: Callable[[Any], Any] = keras.ops.mean, seed: Any = 0) -> Any:
        return function(output, labels, ignore_index=ignore_index, mean=mean, seed=seed)

    return loss


def _sum_of(parts: list[tuple[HeadLoss, float]]) -> HeadLoss:
    def mixed(output: Any, labels: Any, *, mean: Callable[[Any], Any] = keras.ops.mean, seed: Any = 0) -> Any:
        return sum(weight * part(output, labels, mean=mean, seed=seed) for part, weight in parts)

    return mixed


def _on_windows(loss: HeadLoss, section: C2FNet, spec: DatasetSpec) -> HeadLoss:
    """Returns the loss of c2fnet's fine head, whose labels are cut out of those of the images."""

    def of_windows(output: Any, labels: Any, *, mean: Callable[[Any], Any] = keras.ops.mean, seed: Any = 0) -> Any:
        targets = window_labels(
            labels,
            output["windows"],
            window_size=section.window_size,
            small_classes=spec.small_class_ids,
            ignore_index=spec.ignore_index,
        )
        return loss(output["logits"], targets, mean=mean, seed=seed)

    return of_windows


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
