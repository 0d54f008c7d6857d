"""Reads the annotations of images: COCO's file of a whole set, or files of one image each, by labelme or ISAT."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rsseg_tf.errors import DataError, reason
from rsseg_tf.files import read_json, readable_name, walk_files
from rsseg_tf.prepare.annotations.shapes import (
    AnnotatedImage,
    Shape,
    circle,
    decoded_runs,
    outline,
    rectangle,
    stamp,
)
from rsseg_tf.prepare.scenes.classes import BACKGROUND, value_text
from rsseg_tf.rasters.windows import Size

__all__ = ["Annotations", "read_annotations"]

_MOST_BYTES = 1 << 30
# Names that labelme and ISAT give to what is no class.
_IGNORED, _BACKGROUNDS = "__ignore__", ("_background_", "__background__")
_WITHOUT_AREA = ("point", "points", "line", "linestrip")
_KINDS = "a file of COCO ('images', 'annotations', 'categories'), labelme ('shapes') or ISAT ('objects')"


@dataclass(frozen=True, eq=False)
class Annotations:
    """What files of annotations hold.

    Attributes:
        images: The images with their objects, in the order of the files.
        classes: Names of classes: COCO's in the order of their ids, others in the order of the alphabet.
        notes: Sentences for the user about objects that were left out.
    """

    images: tuple[AnnotatedImage, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> set[str]:
        """The classes that occur."""
        return {shape.name for image in self.images for shape in image.shapes if shape.name is not None}


def read_annotations(paths: Sequence[Path]) -> Annotations:
    """Reads annotations.

    Objects are polygons, or COCO's run lengths, compressed or not. labelme's rectangles, circles and masks are areas
    too; its points and lines have none and are left out. `__ignore__` and `_background_` mean what they mean there.
    Objects of ISAT lie on each other by their layers.

    Args:
        paths: Files, and folders in which every `.json` file is one of annotations.

    Raises:
        DataError: When there is none, or one is damaged or of another kind; the message names the object.
    """
    files = [file for path in paths for file in _files(path)]
    found: list[AnnotatedImage] = []
    classes: dict[str, None] = {}
    left_out: Counter[str] = Counter()
    kinds: dict[str, Path] = {}
    for path in files:
        content = _content(path)
        kind = "labelme" if "shapes" in content else "ISAT" if "objects" in content else "COCO"
        kinds.setdefault(kind, path)
        if len(kinds) > 1:
            one, other = (f"{readable_name(file)} is of {name}" for name, file in kinds.items())
            raise DataError(f"{one}, but {other}; all must be of one kind. Prepare them apart.")
        if kind == "labelme":
            found.append(_labelme_image(content, path, left_out))
        elif kind == "ISAT":
            found.append(_isat_image(content, path))
        else:
            categories = _categories(content, path)
            classes |= dict.fromkeys(categories.values())
            found += _coco_images(content, categories, path, left_out)
    if "COCO" not in kinds:
        classes = dict.fromkeys(sorted({shape.name for image in found for shape in image.shapes if shape.name}))
    notes = [f"{what}: {count:,} left out" for what, count in sorted(left_out.items())]
    return Annotations(tuple(found), tuple(classes), tuple(notes))


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    found = [file for file in walk_files(path) if file.suffix.lower() == ".json"]
    if not found:
        raise DataError(f"{readable_name(path)} holds no .json file; {_KINDS} is expected. Check the path.")
    yield from found


def _content(path: Path) -> dict[str, Any]:
    """Returns the content of a file of any kind."""
    name = readable_name(path)
    try:
        content = read_json(path, _MOST_BYTES)
    except FileNotFoundError as error:
        raise DataError(f"{name} does not exist; {_KINDS} is expected. Check the path.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{name} cannot be read as JSON: {reason(error)}. Export the annotations again.") from error
    if isinstance(content, dict) and {"shapes", "objects", "images", "annotations"} & content.keys():
        return content
    raise DataError(f"{name} is not {_KINDS}. Export the annotations as one of them.")


def _entries(content: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    """Returns a list of objects."""
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{readable_name(path)} has no list of objects '{key}'. Export the annotations again.")
    return entries


def _text(entry: Mapping[str, Any], key: str, what: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{what} has no text '{key}' (got {value!r:.40}). Mend it, or export the annotations again.")
    return value.strip()


def _class_name(entry: Mapping[str, Any], key: str, what: str) -> str:
    """Returns the name of a class, which some programs write as a number."""
    value = entry.get(key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (value_text(value) if is_number else None) or _text(entry, key, what)


def _size(entry: Mapping[str, Any], height: str, width: str, what: str) -> Size | None:
    """Returns a size that may be left out."""
    sides = entry.get(height), entry.get(width)
    if None in sides:
        return None
    if not all(isinstance(side, int | float) and math.isfinite(side) and side == int(side) > 0 for side in sides):
        raise DataError(
            f"{what} has the size {sides[1]!r:.20} x {sides[0]!r:.20}; whole numbers are expected. Mend it."
        )
    return Size(int(sides[0] or 0), int(sides[1] or 0))


def _plain(name: str) -> str:
    """Returns a file name with `/` between folders, without steps upwards."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return "/".join(part for part in parts if part not in ("..", ".", "/"))


# === COCO ===


def _categories(content: Mapping[str, Any], path: Path) -> dict[Any, str]:
    """Returns the names of classes by id, in the order of the ids."""
    found: dict[Any, str] = {}
    for number, entry in enumerate(_entries(content, "categories", path)):
        what = f"{readable_name(path)}: category {entry.get('id', f'number {number}')!r:.40}"
        if not isinstance(entry.get("id"), int | str):
            raise DataError(f"{what} has no id. Export the annotations again.")
        if entry["id"] in found:
            raise DataError(f"{what} stands twice. Export the annotations again.")
        found[entry["id"]] = _class_name(entry, "name", what)
    return dict(sorted(found.items(), key=lambda entry: (isinstance(entry[0], str), entry[0])))


def _coco_images(
    content: Mapping[str, Any], categories: Mapping[Any, str], path: Path, left_out: Counter[str]
) -> list[AnnotatedImage]:
    """Returns the images of a file of COCO."""
    images: dict[Any, tuple[str, Size | None]] = {}
    for number, entry in enumerate(_entries(content, "images", path)):
        what = f"{readable_name(path)}: image {entry.get('id', f'number {number}')!r:.40}"
        if not isinstance(entry.get("id"), int | str):
            raise DataError(f"{what} has no id. Export the annotations again.")
        if entry["id"] in images:
            raise DataError(f"{what} stands twice. Export the annotations again.")
        images[entry["id"]] = _plain(_text(entry, "file_name", what)), _size(entry, "height", "width", what)
    shapes: dict[Any, list[Shape]] = {identity: [] for identity in images}
    without = 0
    entries = _entries(content, "annotations", path)
    for number, entry in enumerate(entries):
        what = f"{readable_name(path)}: annotation {entry.get('id', f'number {number}')!r:.40}"
        identity, category = entry.get("image_id"), entry.get("category_id")
        for key, value, known in (("image_id", identity, images), ("category_id", category, categories)):
            if not isinstance(value, int | str) or value not in known:
                raise DataError(
                    f"{what} has the {key} {value!r:.40}, which the file does not describe. Export it again."
                )
        segmentation = entry.get("segmentation")
        if not segmentation:
            without += 1
            continue
        shapes[identity].append(_coco_shape(entry, segmentation, categories[category], images[identity][1], what))
    if entries and without == len(entries):
        raise DataError(f"{readable_name(path)} holds boxes and no outlines ('segmentation'). Export it with outlines.")
    if without:
        left_out["annotations with a box and no outline"] += without
    return [AnnotatedImage(name, path, size, tuple(shapes[identity])) for identity, (name, size) in images.items()]


def _coco_shape(entry: Mapping[str, Any], segmentation: Any, name: str, size: Size | None, what: str) -> Shape:
    """Returns an object from its polygons or its run lengths."""
    is_crowd = bool(entry.get("iscrowd", 0))
    if isinstance(segmentation, dict):
        runs, own = decoded_runs(segmentation.get("counts"), segmentation.get("size"), what)
        if size is not None and own != size:
            raise DataError(f"{what} has runs for an image of {own}; its image has {size}. Export it again.")
        return Shape(name, runs=runs, is_crowd=is_crowd)
    if not isinstance(segmentation, list):
        raise DataError(f"{what} has a 'segmentation' that is neither polygons nor run lengths. Export it again.")
    return Shape(name, tuple(outline(points, what) for points in _outlines(segmentation)), is_crowd=is_crowd)


def _outlines(segmentation: list[Any]) -> list[Any]:
    """Returns polygons; some programs write the one that there is without a list around it, or as pairs."""
    is_flat = all(isinstance(value, int | float) for value in segmentation)
    is_pairs = len(segmentation) > 2 and all(
        isinstance(value, list) and len(value) == 2 and all(isinstance(number, int | float) for number in value)
        for value in segmentation
    )
    return [segmentation] if is_flat or is_pairs else segmentation


# === One file for each image ===


def _named(name: str) -> str | None:
    """Returns the class of a label; None for what is to be ignored."""
    return None if name == _IGNORED else BACKGROUND if name in _BACKGROUNDS else name


def _labelme_image(content: Mapping[str, Any], path: Path, left_out: Counter[str]) -> AnnotatedImage:
    """Returns the image of a file of labelme, or of tools that write like it."""
    shapes = []
    for number, entry in enumerate(_entries(content, "shapes", path), 1):
        what = f"{readable_name(path)}: shape {number}"
        name = _class_name(entry, "label", what)
        kind = entry.get("shape_type") or "polygon"
        points = entry.get("points")
        named = _named(name)
        if kind in _WITHOUT_AREA:
            left_out["points and lines, which have no area"] += 1
        elif kind == "polygon" or kind == "rotation":
            shapes.append(Shape(named, (outline(points, what),)))
        elif kind == "rectangle":
            shapes.append(Shape(named, (rectangle(points, what),)))
        elif kind == "circle":
            shapes.append(Shape(named, (circle(points, what),)))
        elif kind == "mask":
            corner = rectangle(points, what).min(axis=0)
            mask = stamp(entry.get("mask"), what)
            shapes.append(Shape(named, mask=mask, corner=(int(corner[0]), int(corner[1]))))
        else:
            raise DataError(
                f"{what} is of the type {kind!r:.40}; polygon, rectangle, circle and mask are read. Mend it, or delete "
                "the object."
            )
    image = content.get("imagePath")
    file = _plain(image) if isinstance(image, str) and image.strip() else path.stem
    return AnnotatedImage(file, path, _size(content, "imageHeight", "imageWidth", readable_name(path)), tuple(shapes))


def _isat_image(content: Mapping[str, Any], path: Path) -> AnnotatedImage:
    """Returns the image of a file of ISAT; its objects by their layers, the lowest first."""
    found: list[tuple[float, Shape]] = []
    for number, entry in enumerate(_entries(content, "objects", path), 1):
        what = f"{readable_name(path)}: object {number}"
        layer = entry.get("layer", 0)
        if not isinstance(layer, int | float) or not math.isfinite(layer):
            raise DataError(f"{what} has the layer {layer!r:.40}; a number is expected. Mend it.")
        name = _named(_class_name(entry, "category", what))
        points = outline(entry.get("segmentation"), what)
        found.append((layer, Shape(name, (points,), is_crowd=bool(entry.get("iscrowd", False)))))
    found.sort(key=lambda one: one[0])  # keeps the order of the file within a layer
    information = content.get("info")
    info = information if isinstance(information, dict) else {}
    name = info.get("name")
    file = _plain(name) if isinstance(name, str) and name.strip() else path.stem
    size = _size(info, "height", "width", readable_name(path))
    return AnnotatedImage(file, path, size, tuple(shape for _, shape in found))
