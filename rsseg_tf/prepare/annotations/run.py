"""Prepares image tiles with outlines: the function behind `rsseg-tf prepare annotations`."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from rsseg_tf.datasets.spec import RGB, YX, custom_spec
from rsseg_tf.errors import ConfigError, DataError, naming
from rsseg_tf.files import readable_name
from rsseg_tf.files.archives import Member, list_members, local_copy
from rsseg_tf.files.walking import IMAGE_SUFFIXES, LeftOut
from rsseg_tf.prepare.annotations.cutting import AnnotatedScene, AnnotationsPlan, cut_annotated
from rsseg_tf.prepare.annotations.files import Annotations, read_annotations
from rsseg_tf.prepare.annotations.shapes import AnnotatedImage
from rsseg_tf.prepare.output import OwnDataReport
from rsseg_tf.prepare.own_config import TrainsOn, kept_note, own_config_path, write_own_config
from rsseg_tf.prepare.scenes.classes import BACKGROUND, IGNORED_ID, ClassRules, ClassTable, class_table, nearly_alike
from rsseg_tf.prepare.workspace import workspace
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust
from rsseg_tf.rasters.scenes import DOUBTFUL_ALPHA, open_scene, scene_header
from rsseg_tf.styles import class_palette, plain_palette, read_palette

__all__ = ["AnnotationsOptions", "prepare_annotations"]

_LOOKED_AT = 50  # images whose bands decide on those of all
_SHOWN = 3


@dataclass(frozen=True)
class AnnotationsOptions:
    """What a user may choose when preparing annotated images.

    Attributes:
        val_labels: Annotations of the images that validate; empty to draw a share.
        val_share: Share of the images that validates, above 0 and below 1.
        seed: Of the draw.
        together: Pattern of names; images in which it finds the same text stay in one split, as tiles of one scene
            should. Its first group counts, if it has one.
        classes: Which names are which classes, see `ClassRules.parse`; empty for all that occur.
        background: `"class"` makes pixels that no object covers a class, `"ignore"` leaves them out of training.
        crowd: `"class"` draws crowds of COCO, below all other objects; `"ignore"` leaves their pixels out of training.
        style: A file with names and colours, see `rsseg_tf.styles.read_palette`.
        skip_empty: Leave out images and tiles without an object.
        tile_size: Side of the tiles that images are cut to; None copies the images as they are.
        overlap: Pixels that neighbouring tiles share.
        trains_on: What the config is written for, see `write_own_config`.
        workers: Number of processes; None takes one for each core.
        trust: Limits for files.
        progress: Called with the number of images that are done and the number of all.
    """

    val_labels: tuple[Path, ...] = ()
    val_share: float = 0.2
    seed: int = 0
    together: str | None = None
    classes: tuple[str, ...] = ()
    background: str = "class"
    crowd: str = "class"
    style: Path | None = None
    skip_empty: bool = False
    tile_size: int | None = None
    overlap: int = 0
    trains_on: TrainsOn = "auto"
    workers: int | None = None
    trust: Trust = TRUSTING_NOBODY
    progress: Callable[[int, int], None] | None = None


def prepare_annotations(
    images: Sequence[Path], labels: Sequence[Path], output: Path, options: AnnotationsOptions | None = None
) -> OwnDataReport:
    """Draws the objects of images as labels, splits the images, and writes a config to train with.

    Equal files and options give equal bytes.

    Args:
        images: Folders of the images, or zip files.
        labels: Annotations, see `read_annotations`; empty where they lie in the folders of the images.
        output: The folder to appear; see `rsseg_tf.prepare.output` for what it holds.
        options: What the user chose.

    Raises:
        ConfigError: When an option is out of range or has no use.
        DataError: When files are missing, damaged or do not fit each other, or the output cannot be written.
    """
    options = options or AnnotationsOptions()
    output = Path(os.path.abspath(output))  # a name is needed, which ".." has not
    rules = ClassRules.parse(options.classes)
    _check(options)
    train = read_annotations(labels or images)
    val = read_annotations(options.val_labels) if options.val_labels else None
    table, notes = _classes(train, val, rules, options)
    left_out = LeftOut(IMAGE_SUFFIXES)
    members = [member for member in list_members(images, left_out=left_out) if _suffix(member.path) in IMAGE_SUFFIXES]
    scenes, unused = _scenes(train, val, members, options)
    notes += [*train.notes, *(val.notes if val else ())]
    if unused:
        notes.append(f"images without annotations: {len(unused):,} left out, such as {unused[0]}")
    palette = _palette(table, options.style)
    notes += _mask_notes(scenes[0], options.trust)
    spec = custom_spec(
        output.name,
        table.names,
        palette,
        bands=_usual_bands(scenes, options.trust),
        tile_names=YX if options.tile_size else None,
    )
    plan = AnnotationsPlan(
        bands=spec.bands,
        ids=tuple(sorted(table.ids.items())),
        background=table.background,
        palette=spec.palette,
        ignores_crowds=options.crowd == "ignore",
        skips_empty=options.skip_empty,
        tile_size=options.tile_size,
        overlap=options.overlap,
        trust=options.trust,
    )
    facts = {"tile_size": options.tile_size, "overlap": options.overlap}
    config = own_config_path(output)
    before = config.read_bytes() if config.is_file() else None
    with workspace(output, spec) as work:
        report = work.prepare(
            scenes, plan, facts, cut=cut_annotated, workers=options.workers, progress=options.progress
        )
    if not (report.up_to_date and config.exists()):
        write_own_config(
            output,
            classes=table.names,
            palette=spec.palette,
            ignore_background=table.background == IGNORED_ID,
            trains_on=options.trains_on,
            trust=options.trust,
            workers=options.workers,
        )
    if kept := kept_note(config, before):
        notes.append(kept)
    if left_out:
        notes.append(str(left_out))
    return OwnDataReport(report, config, tuple(f"{note[0].upper()}{note[1:]}." for note in notes))


def _check(options: AnnotationsOptions) -> None:
    if not 0 < options.val_share < 1:
        raise ConfigError(f"--val_share is {options.val_share:g}; above 0 and below 1 is expected. 0.2 is usual.")
    if options.overlap and (options.tile_size is None or options.overlap >= options.tile_size):
        raise ConfigError(
            f"--overlap {options.overlap} needs tiles that are larger: give --tile_size, or leave it out."
        )
    if options.val_labels and options.together is not None:
        raise ConfigError("--together has no use with --val_labels, which say what validates. Leave one of them out.")
    try:
        re.compile(options.together or "")
    except re.error as error:
        raise ConfigError(
            f"--together is no regular expression: {error}. '^[^_]+' takes what stands before a _."
        ) from error


# === Classes ===


def _classes(
    train: Annotations, val: Annotations | None, rules: ClassRules, options: AnnotationsOptions
) -> tuple[ClassTable, list[str]]:
    """Returns the classes of what occurs, in the order of the files, and notes."""
    parts = [train, *([val] if val else [])]
    present = set().union(*(part.names for part in parts))
    listed = list(dict.fromkeys(name for part in parts for name in part.classes))
    unused = [name for name in listed if name not in present]
    if not rules.names and rules.others is None:
        first = [BACKGROUND] if BACKGROUND in present else []
        rules = ClassRules(tuple((name, name) for name in dict.fromkeys(first + listed) if name in present))
    where = " and ".join(dict.fromkeys(readable_name(part.images[0].source) for part in parts if part.images))
    if not present:
        raise DataError(
            f"{where or 'The annotations'} hold no object with an area. Check that the right file is given."
        )
    table = class_table(present, rules, background=options.background == "class", where=where)
    notes = [f"no object is of {_some(unused)}, which become no classes"] if unused else []
    notes += nearly_alike(table.names)
    if options.skip_empty and table.background == IGNORED_ID:
        raise ConfigError(
            "--skip_empty has no use where the background is ignored: images without objects are left out."
        )
    return table, notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _palette(table: ClassTable, style: Path | None) -> tuple[RGB, ...]:
    if style is None:
        return plain_palette(table.names)
    values = {value: table.names[number] for value, number in table.ids.items() if number != IGNORED_ID}
    palette = class_palette(read_palette(style), table.names, values)
    if palette is None:
        raise DataError(
            f"{readable_name(style)} has no colour for any of the classes {_some(table.names)}. Give another style, or "
            "none."
        )
    return palette


# === Images ===


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _scenes(
    train: Annotations, val: Annotations | None, members: Sequence[Member], options: AnnotationsOptions
) -> tuple[list[AnnotatedScene], list[str]]:
    """Finds the file of each image, and its split; returns the names of other images too."""
    found = _found(train.images, members)
    if val is None:
        splits = _drawn(found, options)
        chosen = [(split, image, found[image]) for image, split in splits.items()]
    else:
        others = _found(val.images, members)
        twice = sorted({member.path for member in found.values()} & {member.path for member in others.values()})
        if twice:
            raise DataError(
                f"{twice[0]} is an image of both --labels and --val_labels ({len(twice)} in all). Take it out of one."
            )
        chosen = [(split, image, here[image]) for split, here in (("train", found), ("val", others)) for image in here]
    stems = _stems([(split, member) for split, _, member in chosen])
    scenes = [
        AnnotatedScene(split, stem, member, None, shapes=image.shapes, size=image.size, stamp=image.digest())
        for (split, image, member), stem in zip(chosen, stems, strict=True)
    ]
    used = {member.path for _, _, member in chosen}
    return scenes, [member.path for member in members if member.path not in used]


def _found(images: Sequence[AnnotatedImage], members: Sequence[Member]) -> dict[AnnotatedImage, Member]:
    """Returns the file of each image, by its name."""
    by_name: defaultdict[str, list[Member]] = defaultdict(list)
    for one in members:
        by_name[one.name].append(one)
        by_name[PurePosixPath(one.name).stem].append(one)
    found: dict[AnnotatedImage, Member] = {}
    missing: list[AnnotatedImage] = []
    known: dict[str, AnnotatedImage] = {}
    for image in images:
        if (member := _member(image, by_name)) is None:
            missing.append(image)
            continue
        if member.path in known:
            sources = dict.fromkeys(readable_name(one.source) for one in (known[member.path], image))
            raise DataError(f"{member} has annotations twice, in {' and '.join(sources)}. Remove one of them.")
        known[member.path] = image
        found[image] = member
    if missing:
        name = readable_name(missing[0].source)
        raise DataError(
            f"{len(missing)} of {len(images)} annotated images are not in the folders; the first is {missing[0].file} "
            f"of {name}. Give the folder that holds them, or take them out of the annotations."
        )
    return found


def _member(image: AnnotatedImage, by_name: Mapping[str, Sequence[Member]]) -> Member | None:
    """Returns the file of an image; None if there is none."""
    parts = PurePosixPath(image.file).parts
    candidates = list(by_name.get(parts[-1], ())) if parts else []
    # As much of the path as agrees, then the folder of the annotations.
    for count in range(2, len(parts) + 1):
        ending = "/" + "/".join(parts[-count:])
        candidates = [member for member in candidates if f"/{member.path}".endswith(ending)] or candidates
    if len(candidates) > 1:
        folder = image.source.absolute().parent
        candidates = [member for member in candidates if member.file.is_relative_to(folder)] or candidates
    if len(candidates) > 1:
        raise DataError(
            f"{image.file} of {readable_name(image.source)} may be {candidates[0]} or {candidates[1]}. Give the folder "
            "that is meant alone."
        )
    return candidates[0] if candidates else None


def _stems(chosen: Sequence[tuple[str, Member]]) -> list[str]:
    """Returns names for images, with their folders below the one that was given, and with that where names meet."""
    below = [_stem(member.path.partition("/")[2]) for _, member in chosen]
    whole = [_stem(member.path) for _, member in chosen]
    stems = below if len(set(below)) == len(below) else whole
    again = [stem for stem, count in Counter(stems).items() if count > 1]
    if again:
        one, other = [member for (_, member), stem in zip(chosen, stems, strict=True) if stem == again[0]][:2]
        raise DataError(f"{one} and {other} would have one label; their names must differ. Rename one.")
    return stems


def _stem(path: str) -> str:
    return path[: len(path) - len(PurePosixPath(path).suffix)]


def _drawn(found: Mapping[AnnotatedImage, Member], options: AnnotationsOptions) -> dict[AnnotatedImage, str]:
    """Draws the images that validate, by groups that stay together."""
    groups: defaultdict[str, list[AnnotatedImage]] = defaultdict(list)
    for image, member in found.items():
        name = member.path.partition("/")[2]
        match = re.search(options.together, PurePosixPath(name).name) if options.together is not None else None
        groups[name if match is None else (match[1] if match.re.groups else match[0])].append(image)
    names = sorted(groups)
    if len(names) < 2:
        kind = "image" if options.together is None else "group of images"
        raise DataError(f"There is one {kind} alone; two are needed, one to train on and one to validate. Label more.")
    order = np.random.default_rng(options.seed).permutation(len(names))
    wanted, taken = options.val_share * len(found), 0
    chosen: set[str] = set()
    for place in order.tolist():
        if len(chosen) < len(names) - 1 and (not chosen or taken + len(groups[names[place]]) / 2 <= wanted):
            chosen.add(names[place])
            taken += len(groups[names[place]])
    return {image: "val" if name in chosen else "train" for name in names for image in groups[name]}


def _usual_bands(scenes: Sequence[AnnotatedScene], trust: Trust) -> int:
    """Returns the number of bands that most of some images have."""
    counts: Counter[int] = Counter()
    for scene in scenes[:: max(1, len(scenes) // _LOOKED_AT)]:
        with naming(scene.image), local_copy(scene.image) as path:
            counts[scene_header(path, trust=trust).read.bands] += 1
    return counts.most_common(1)[0][0]


def _mask_notes(scene: AnnotatedScene, trust: Trust) -> list[str]:
    """Returns a note where a band of an image is taken for a mask, and may be one of its bands."""
    with naming(scene.image), local_copy(scene.image) as path, open_scene(path, trust=trust, placed=False) as opened:
        if (alpha := opened.doubtful_alpha) is None:
            return []
    return [
        f"band {alpha} of {scene.image} is {DOUBTFUL_ALPHA}; to have it read, take the mark away: gdal_edit.py "
        f"-colorinterp_{alpha} undefined"
    ]
