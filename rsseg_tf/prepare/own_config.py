"""Writes the config of a user's own data beside them, so that training needs nothing else."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from rsseg_tf.config import load_config
from rsseg_tf.config.named_weights import NamedWeights, weights_for
from rsseg_tf.datasets.spec import RGB, DatasetSpec, custom_spec
from rsseg_tf.environment import has_nvidia_driver
from rsseg_tf.errors import ConfigError, DataError, reason
from rsseg_tf.extras import install_command, is_installed
from rsseg_tf.files import atomic_path, readable_name
from rsseg_tf.files.lists import read_list
from rsseg_tf.files.writing import output_file
from rsseg_tf.prepare.output import read_description
from rsseg_tf.prepare.tile_statistics import TileStatistics, measure_tiles
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust

__all__ = ["TrainsOn", "kept_note", "own_config_path", "write_own_config"]

TrainsOn = Literal["auto", "cpu", "gpu"]
"""What a config is written for; auto takes the GPU if the driver of one is loaded."""

_STRIDE = 32  # crops are multiples of the coarsest features' stride
_LARGEST_WHOLE = 2048  # pixels of a side that evaluation takes at once
_FINE_METRES = 1.0  # pixels no larger than this show more than a small network needs
_MUCH_IGNORED = 0.25
_RGB_NAMES = (("red", "green", "blue"), ("b04", "b03", "b02"), ("b4", "b3", "b2"), ("r", "g", "b"))


@dataclass(frozen=True)
class _Recipe:
    """A network and how it is trained, as the shipped configs for a CPU and for a GPU have it.

    Attributes:
        backbone: Name in configs.
        decoder_channels: Of the U-Net; None for its default.
        crop: Side of a crop in pixels.
        scale: Factor by which images are resized, in training and in evaluation.
        scale_range: Smallest and largest factor in training.
        scale_step: Distance of the factors; 0 for any factor.
        batch_size: Crops in a step.
        iters: Steps.
        learning_rate: Of the decoder.
        backbone_lr_factor: That of the backbone, as a multiple.
        warmup_steps: Steps in which the rate rises.
        colours: Ranges of brightness, contrast, saturation and hue.
        lovasz: Whether the loss has a second part, the Lovász softmax.
        flips: Whether evaluation looks at each image four times.
        save_interval: Steps from one checkpoint to the next.
    """

    backbone: str
    decoder_channels: tuple[int, ...] | None
    crop: int
    scale: float
    scale_range: tuple[float, float]
    scale_step: float
    batch_size: int
    iters: int
    learning_rate: float
    backbone_lr_factor: float
    warmup_steps: int
    colours: tuple[float, float, float, float]
    lovasz: bool
    flips: bool
    save_interval: int


def own_config_path(root: Path) -> Path:
    """Returns where the config of a prepared folder stands: `data/mine/mine.yml`."""
    root = Path(os.path.abspath(root))  # a name is needed, which ".." has not
    return root / f"{root.name}.yml"


def kept_note(config: Path, before: bytes | None) -> str:
    """Returns a sentence, without its full stop, about a config that was there and was not written anew; else nothing.

    Args:
        config: The config, which is there.
        before: Its content before the data were prepared; None where it was not there.
    """
    if before is None or config.read_bytes() != before:
        return ""
    return f"The config {config} describes these data and stays as it was; delete it to have it written anew"


def write_own_config(
    root: Path,
    *,
    classes: Sequence[str],
    palette: Sequence[RGB] | None = None,
    ignore_index: int = 255,
    ignore_background: bool = False,
    ground_resolution: float | None = None,
    band_names: Sequence[str] = (),
    trains_on: TrainsOn = "auto",
    trust: Trust = TRUSTING_NOBODY,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Looks at the training tiles of a prepared folder and writes a config with which they can be trained on.

    The config, `root/{root.name}.yml`, names no root, which stands for its own folder: it works from any directory, and
    the folder can be moved. `dataset.json`, where there is one, gets the same bands, `max_value`, mean and std.

    A config that is there and still describes the data stays as it is, with what the user has changed in it. One that
    describes other data is kept as `{root.name}.1.yml` (2, 3 …).

    The network is a U-Net on EfficientNet-Lite. On a CPU it is Lite0 with a narrow decoder, trained for about four
    passes over the pixels, 300 to 2000 steps. On a GPU it is Lite0 below 50 million training pixels with a class, Lite1
    below 500 million, then Lite2, trained for about 30 passes, 2000 to 80,000 steps. It begins with ImageNet weights if
    their package is installed. Mean and std are those of the tiles, except for images of three bands of bytes that go
    to such weights: these want their own, and those of the tiles stand in a comment.

    Args:
        root: The folder, with `train.txt`, and `val.txt` if there are tiles to evaluate on.
        classes: Names of the classes, by id.
        palette: One RGB colour a class; by default those of `dataset.json`, or else of `default_palette`.
        ignore_index: Label value of ignored pixels.
        ignore_background: Whether what no label covers was given `ignore_index`; the config then says so.
        ground_resolution: Metres per pixel; by default that of the tiles, where all have the same.
        band_names: What each band holds; by default as `dataset.json` says.
        trains_on: What the recipe is for.
        trust: Limits for files and for the sources of a VRT.
        workers: Processes that look at tiles; None takes one for each core.
        progress: Called with the number of looks at tiles done and of all.

    Returns:
        The config.

    Raises:
        DataError: When a list or a tile is missing or wrong, see `measure_tiles`; when there are fewer than two
            classes; when the config cannot be written.
    """
    if len(classes) < 2:
        raise DataError(
            f"{readable_name(root)} has {len(classes)} class{'es' if not classes else ''}; a model tells at least 2 "
            "apart. Let the background be a class instead of ignoring it."
        )
    root = Path(os.path.abspath(root))
    described = _described(root)
    samples = read_list(root / "train.txt", root)
    if has_val := (root / "val.txt").exists():
        read_list(root / "val.txt", root)
    tiles = measure_tiles(samples, classes, ignore_index=ignore_index, trust=trust, workers=workers, progress=progress)
    names = tuple(band_names) or tuple(described.get("band_names", ()))
    names = names if len(names) == tiles.bands else ()
    colours = palette or (described.get("palette") if described.get("classes") == list(classes) else None)
    spec = custom_spec(
        root.name,
        classes,
        colours,
        ignore_index=ignore_index,
        bands=tiles.bands,
        rgb_bands=_rgb_bands(names),
        max_value=tiles.max_value,
        mean=[_rounded(value) for value in tiles.mean],
        std=[_rounded(value) or 1.0 for value in tiles.std],  # a constant band has none
        band_names=names,
        gsd=ground_resolution or tiles.ground_resolution or described.get("gsd"),
        tile_names=described.get("tile_names"),
    )
    text = _text(spec, tiles, trains_on, ignore_background, has_val=has_val)
    path = own_config_path(root)
    if not _still_describes(path, spec):
        _set_aside(path)
        with output_file(path) as temporary:
            temporary.write_text(text, "utf-8")
    _update_description(root / "dataset.json", spec)
    return path


def _described(root: Path) -> dict[str, Any]:
    """Returns the content of the folder's `dataset.json`; nothing where there is none."""
    return read_description(root / "dataset.json") if (root / "dataset.json").exists() else {}


def _update_description(path: Path, spec: DatasetSpec) -> None:
    """Writes what the tiles hold into `dataset.json`, from which checks of the folder take it."""
    if not path.exists():
        return
    content = read_description(path)
    facts = {key: value for key, value in dataclasses.asdict(spec).items() if key in content and key != "name"}
    if spec.tile_names is None:
        facts.pop("tile_names", None)
    text = json.dumps(content | facts, indent=2, ensure_ascii=False) + "\n"
    with output_file(path) as temporary:
        temporary.write_text(text, "utf-8")


def _still_describes(path: Path, spec: DatasetSpec) -> bool:
    """Returns whether there is a config that describes these data, whatever else it says."""
    if not path.exists():
        return False
    try:
        there = load_config(path).dataset.spec
    except ConfigError:
        return False
    facts = ("classes", "ignore_index", "bands", "max_value")
    return all(getattr(there, fact) == getattr(spec, fact) for fact in facts)


def _set_aside(path: Path) -> None:
    """Gives a config that is there another name, so that nothing a user has written is lost."""
    if not path.exists():
        return
    number = 1
    while (kept := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    try:
        with atomic_path(kept) as temporary:
            temporary.write_bytes(path.read_bytes())
    except OSError as error:
        raise DataError(f"Cannot write {kept}: {reason(error)}. Check the folder and the free space.") from error


def _rgb_bands(names: Sequence[str]) -> tuple[int, ...] | None:
    """Returns the bands to show, by their names; None where the names do not tell."""
    lower = [name.lower() for name in names]
    for wanted in _RGB_NAMES:
        if all(name in lower for name in wanted):
            return tuple(lower.index(name) for name in wanted)
    return None


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


# === The recipe ===


def _recipe(tiles: TileStatistics, spec: DatasetSpec, gpu: bool) -> _Recipe:
    """Chooses the network and the training for the tiles."""
    usual = (0.4, 0.4, 0.4, 18.0) if gpu else (0.2, 0.2, 0.2, 0.0)
    # Saturation and hue are defined for three bands. A factor does not make decibels brighter.
    colours = usual if spec.bands == 3 else (*usual[:2], 0.0, 0.0)
    colours = (0.0,) * 4 if tiles.goes_below_zero else colours
    whole_crop = max(_STRIDE, tiles.shortest // _STRIDE * _STRIDE)
    pixels = sum(tiles.pixels)
    if gpu:
        crop, batch = min(512, whole_crop), 8
        backbone = next(f"efficientnet_lite{size}" for size, most in enumerate((5e7, 5e8, math.inf)) if pixels < most)
        iters = _steps(30 * pixels / (batch * crop**2), 2000, 80_000)
        return _Recipe(
            backbone, None, crop, 1.0, (0.5, 2.0), 0.25, batch, iters, 0.001, 0.1, min(1500, iters // 10), colours,
            lovasz=False, flips=False, save_interval=1000,
        )  # fmt: skip
    crop, batch = min(256, whole_crop), 4
    # Half of the size shows more of the surroundings for the same work, where pixels are fine enough.
    is_fine = spec.gsd is None or spec.gsd <= _FINE_METRES
    scale = 0.5 if is_fine and tiles.side >= 2 * crop else 1.0
    iters = _steps(4 * pixels * scale**2 / (batch * crop**2), 300, 2000)
    return _Recipe(
        "efficientnet_lite0", (160, 96, 64), crop, scale, (0.75 * scale, 1.25 * scale), 0, batch, iters, 0.0005, 1.0,
        10, colours, lovasz=True, flips=True, save_interval=_interval(iters),
    )  # fmt: skip


def _steps(wanted: float, least: int, most: int) -> int:
    """Rounds a number of steps to hundreds, within limits."""
    return int(min(max(math.ceil(wanted / 100) * 100, least), most))


def _interval(iters: int) -> int:
    """Returns the steps from one checkpoint to the next, about 500, so that the last step has one."""
    return iters // max(1, round(iters / 500))


# === The text ===


def _text(
    spec: DatasetSpec, tiles: TileStatistics, trains_on: TrainsOn, ignore_background: bool, *, has_val: bool = True
) -> str:
    """Returns the config as YAML with comments."""
    gpu = has_nvidia_driver() if trains_on == "auto" else trains_on == "gpu"
    recipe = _recipe(tiles, spec, gpu)
    # Those of a package alone: the extra `pretrained` installs them, and training needs no network then.
    weights = next((row for row in weights_for(recipe.backbone) if row.package), None)
    installed = weights is not None and _is_installed(weights)
    total = sum(tiles.pixels)
    shares = [f"{name} {count / total:.1%}" for name, count in zip(spec.classes, tiles.pixels, strict=True)]
    lines = [
        f"# Written by `rsseg-tf prepare` for training on a {'GPU' if gpu else 'CPU'}. It is yours to change:",
        f"#   rsseg-tf train --config THIS_FILE{' --do_eval' if has_val else ''}",
        f"# {tiles.tiles} training tiles, {total:,} pixels with a class ({tiles.left_out:,} without):",
        f"# {_listed(shares)}.",
        *_dataset_lines(spec, tiles, ignore_background, own_values=not _as_weights(spec, tiles, installed)),
        *_augment_lines(recipe),
    ]
    if tiles.left_out > _MUCH_IGNORED * (total + tiles.left_out):
        lines += ["sampling:", "  redraw_ignored: true  # much of the tiles is ignored"]
    lines += [*_model_lines(recipe, weights, installed, spec.bands), *_training_lines(recipe, installed)]
    lines += _eval_lines(recipe, tiles)
    return "\n".join(lines) + "\n"


def _listed(shares: Sequence[str], most: int = 12) -> str:
    return ", ".join(shares[:most]) + (f" and {len(shares) - most} more" if len(shares) > most else "")


def _as_weights(spec: DatasetSpec, tiles: TileStatistics, installed: bool) -> bool:
    """Returns whether images are normalised as they were in the training of the weights: images like theirs."""
    return installed and spec.bands == 3 and tiles.dtype == "uint8"


def _is_installed(weights: NamedWeights) -> bool:
    """Returns whether a package brings the weights and is there; others have to be downloaded first."""
    return bool(weights.package) and is_installed(weights.package)


def _value(value: Any) -> str:
    """Returns a value as YAML in one line."""
    plain = json.loads(json.dumps(value))  # tuples are lists in YAML
    return (
        yaml.safe_dump(plain, default_flow_style=True, width=math.inf, allow_unicode=True)
        .removesuffix("\n...\n")
        .strip()
    )


def _dataset_lines(spec: DatasetSpec, tiles: TileStatistics, ignore_background: bool, *, own_values: bool) -> list[str]:
    ignored = "pixels that no label covers, and those without data" if ignore_background else "pixels that do not count"
    lines = [
        "dataset:",
        "  name: custom  # root is left out, which stands for the folder of this file, wherever it lies",
        f"  classes: {_value(spec.classes)}",
        f"  palette: {_value(spec.palette)}",
        f"  ignore_index: {spec.ignore_index}  # {ignored}",
        f"  bands: {spec.bands}",
    ]
    if spec.bands != 3 or spec.rgb_bands != (0, 1, 2):
        lines.append(f"  rgb_bands: {_value(spec.rgb_bands)}  # bands of pictures for people, from 0")
    if spec.band_names:
        lines.append(f"  band_names: {_value(spec.band_names)}")
    rule = "" if tiles.max_value == 255 else ": the highest 99.9th percentile of a tile, rounded up"
    lines.append(f"  max_value: {spec.max_value:.15g}  # {tiles.dtype}{rule}")
    normalised = [f"mean: {_value(spec.mean)}", f"std: {_value(spec.std)}"]
    if own_values:
        lines += [f"  {line}" for line in normalised]
    else:
        lines.append("  # Left out, so that images are normalised as the weights want it; those of the training tiles:")
        lines += [f"  # {line}" for line in normalised]
    if spec.gsd is not None:
        lines.append(f"  gsd: {_value(spec.gsd)}  # metres per pixel")
    if spec.tile_names is not None:
        lines.append(f"  tile_names: {_value(spec.tile_names)}")
    return lines


def _augment_lines(recipe: _Recipe) -> list[str]:
    why = "  # half of the size: a crop shows more of the surroundings" if recipe.scale < 1 else ""
    names = ("brightness_range", "contrast_range", "saturation_range", "hue_range")
    return [
        "augment:",
        f"  crop_size: [{recipe.crop}, {recipe.crop}]",
        f"  scale_range: {_value(recipe.scale_range)}{why}",
        f"  scale_step: {_value(recipe.scale_step)}",
        "  flip_vertical: 0.5  # seen from above, up is as good as down",
        "  rotate90: 0.5",
        *(f"  {name}: {value:g}" for name, value in zip(names, recipe.colours, strict=True)),
    ]


def _model_lines(recipe: _Recipe, weights: NamedWeights | None, installed: bool, bands: int) -> list[str]:
    lines = ["model:", "  name: unet"]
    if weights is not None and installed:
        lines.append(f"  backbone: {{name: {recipe.backbone}, pretrained: {weights.name}}}")
        if bands != 3:
            lines[-1] += "  # their filters for red, green and blue are spread over the bands"
    else:
        if weights is not None:
            lines += [
                f"  # Weights of {weights.data}: {install_command('pretrained')}, then write",
                f"  #   backbone: {{name: {recipe.backbone}, pretrained: {weights.name}}}",
                f"  # and learning_rate: {_value(recipe.learning_rate)} below"
                + (", and leave out mean and std above." if bands == 3 else "."),
            ]
        lines.append(f"  backbone: {{name: {recipe.backbone}}}")
    if recipe.decoder_channels is not None:
        lines.append(f"  decoder_channels: {_value(recipe.decoder_channels)}  # up to stride 4; finer ones cost more")
    return lines


def _training_lines(recipe: _Recipe, pretrained: bool) -> list[str]:
    # From random weights the backbone has as much to learn as the decoder, and a faster rate does better.
    rate = recipe.learning_rate if pretrained else max(recipe.learning_rate, 0.002)
    factor = recipe.backbone_lr_factor if pretrained else 1.0
    lines = ["optimizer:", "  name: adamw", "  weight_decay: 0.01"]
    if factor != 1:
        lines.append(f"  backbone_lr_factor: {_value(factor)}  # the weights are good already")
    lines += [
        "lr_schedule:",
        "  name: poly",
        f"  learning_rate: {_value(rate)}",
        f"  warmup_steps: {recipe.warmup_steps}",
    ]
    if recipe.lovasz:
        lines += ["loss:", "  main:", "    name: mixed"]
        lines.append("    losses: [{name: cross_entropy}, {name: lovasz_softmax}]")
    return [
        *lines,
        "train:",
        f"  iters: {recipe.iters}",
        f"  batch_size: {recipe.batch_size}",
        f"  save_interval: {recipe.save_interval}",
    ]


def _eval_lines(recipe: _Recipe, tiles: TileStatistics) -> list[str]:
    lines = []
    if recipe.scale != 1:
        lines.append(f"  scales: [{recipe.scale:g}]")
    if recipe.flips:
        lines += ["  flip_horizontal: true  # four looks at each image", "  flip_vertical: true"]
    if tiles.longest * recipe.scale > _LARGEST_WHOLE:
        lines += ["  is_slide: true  # the images are large", "  crop_size: [1024, 1024]", "  stride: [768, 768]"]
    return ["eval:", *lines] if lines else []
