"""Prediction of many files: from paths to pictures and label maps on disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from rsseg_tf.datasets.images import atomic_path, write_png
from rsseg_tf.datasets.spec import RGB, DatasetSpec
from rsseg_tf.errors import ConfigError, DataError, RssegError
from rsseg_tf.inference.logits import Predict, predict_labels
from rsseg_tf.inference.options import InferenceOptions
from rsseg_tf.inference.pictures import as_rgb, colour_table, overlay
from rsseg_tf.inference.raster import Scene, read_scene, write_labels

__all__ = [
    "GEOTIFF_FOLDER",
    "IMAGE_SUFFIXES",
    "OVERLAY_FOLDER",
    "PSEUDO_COLOR_FOLDER",
    "PredictionResult",
    "Progress",
    "collect_images",
    "iterate_predictions",
    "palette_with",
    "predict_paths",
]

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff")
PSEUDO_COLOR_FOLDER = "pseudo_color_prediction"
OVERLAY_FOLDER = "added_prediction"
GEOTIFF_FOLDER = "geotiff_prediction"

_JPEG_SUFFIXES = (".jpeg", ".jpg")
_LIST_SUFFIX = ".txt"


@dataclass(frozen=True)
class PredictionResult:
    """What became of one image.

    Attributes:
        image: the file that was predicted.
        pseudo_color: indexed PNG of class ids with the palette, or None if it failed.
        overlay: picture with the class colours laid over it, or None if it failed.
        geotiff: label map that lies where the image lies; None for PNG and JPEG, if switched off, or if it failed.
        error: why it failed, in one line; None if all is well.
    """

    image: Path
    pseudo_color: Path | None = None
    overlay: Path | None = None
    geotiff: Path | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the image was predicted and all its files written."""
        return self.error is None


Progress = Callable[[int, int, PredictionResult], None]
"""Called after each image with the number done, the number in all, and what became of it."""


def collect_images(path: Path, exclude: Path | None = None) -> tuple[list[Path], Path]:
    """Finds the images that a user means by one path.

    Args:
        path: an image; a list file (.txt) whose lines begin with an image's path, relative to the list's folder or
            absolute; or a folder, searched with its subfolders for known suffixes. Hidden files and folders are
            skipped.
        exclude: a folder to leave out, such as the one that results go to.

    Returns:
        The images (of a folder: sorted; of a list: in its order, each once) and the folder that their names are
        relative to.

    Raises:
        DataError: when the path is missing, of another kind, or holds no image, or a listed image is missing.
    """
    if path.is_dir():
        images = sorted(_walk(path, exclude))
        if not images:
            raise DataError(
                f"{path} has no images; files ending in {', '.join(IMAGE_SUFFIXES)} are looked for, in subfolders too. "
                "Check the folder."
            )
        return images, path
    if not path.is_file():
        raise DataError(f"{path} does not exist; an image, a list file (.txt) or a folder is needed. Check the path.")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return [path], path.parent
    if path.suffix.lower() != _LIST_SUFFIX:
        raise DataError(
            f"{path} is neither an image ({', '.join(IMAGE_SUFFIXES)}) nor a list file (.txt). "
            "Convert it, or give the list the suffix .txt."
        )
    return _read_list(path)


def palette_with(custom_color: Sequence[int] | None, spec: DatasetSpec) -> tuple[RGB, ...]:
    """Returns the spec's palette, its first colours replaced by `custom_color`.

    Args:
        custom_color: red, green, blue of class 0, then of class 1, … as the original's `--custom_color` takes them;
            classes beyond them keep the spec's colour. None for no change.
        spec: the data set.

    Raises:
        ConfigError: when the numbers are not whole triples of 0..255, or more than the classes need.
    """
    if custom_color is None:
        return spec.palette
    values = list(custom_color)
    count = len(values)
    if count == 0 or count % 3 or count > 3 * spec.num_classes or not all(0 <= value <= 255 for value in values):
        raise ConfigError(
            f"custom_color must be red, green and blue in 0..255 for 1 to {spec.num_classes} classes, so 3 to "
            f"{3 * spec.num_classes} numbers; got {count}: {values}. Give for instance 0 0 0 255 255 255."
        )
    given = tuple((values[i], values[i + 1], values[i + 2]) for i in range(0, count, 3))
    return given + spec.palette[len(given) :]


def iterate_predictions(
    paths: Sequence[Path],
    predict: Predict,
    spec: DatasetSpec,
    save_dir: Path,
    options: InferenceOptions,
    *,
    base: Path | None = None,
    custom_color: Sequence[int] | None = None,
    labels_too: bool = True,
) -> Iterator[PredictionResult]:
    """Predicts files one by one; each step yields what became of the next image.

    Arguments are checked and names of results settled at the call, before the first step. See `predict_paths`.
    """
    palette = palette_with(custom_color, spec)
    names = _result_names(paths, base)

    def steps() -> Iterator[PredictionResult]:
        for path, name in zip(paths, names, strict=True):
            try:
                yield _predict_file(path, name, predict, spec, save_dir, options, palette, labels_too)
            except (RssegError, OSError, RasterioError, cv2.error, MemoryError) as error:
                line = " ".join(str(error).split()) or type(error).__name__
                yield PredictionResult(path, error=line)

    return steps()


def predict_paths(
    paths: Sequence[Path],
    predict: Predict,
    spec: DatasetSpec,
    save_dir: Path,
    options: InferenceOptions,
    *,
    base: Path | None = None,
    custom_color: Sequence[int] | None = None,
    labels_too: bool = True,
    progress: Progress | None = None,
) -> list[PredictionResult]:
    """Predicts files and writes their results, under the folder names that users of the original know.

    For each image:

    - `save_dir/pseudo_color_prediction/<name>.png`: class ids as an indexed PNG with the palette;
    - `save_dir/added_prediction/<name>.<jpg|png>`: the picture with class colours over it; JPEG for a JPEG, else PNG;
    - `save_dir/geotiff_prediction/<name>.tif`: for a TIFF, class ids with CRS and transform of the input.

    `<name>` is the path relative to `base` without suffix, so that subfolders are kept. Pixels without data get the
    ignored id. Files appear whole or not at all. An image that fails does not stop the others.

    Args:
        paths: images, as `collect_images` finds them.
        predict: the model, see `Predict`.
        spec: the data set that the model was trained for.
        save_dir: folder for the results; made if missing.
        options: windows and augmentation.
        base: folder that names are relative to; the common folder of all paths if None.
        custom_color: flat list of RGB values, see `palette_with`.
        labels_too: whether to write the label map of a TIFF.
        progress: called after each image.

    Returns:
        One result per path, in their order; failures have `error` set. The caller decides what a failure means.

    Raises:
        ConfigError: when `custom_color` is wrong.
        DataError: when two images would give results of one name, or an image lies outside `base`.
    """
    results = []
    steps = iterate_predictions(
        paths, predict, spec, save_dir, options, base=base, custom_color=custom_color, labels_too=labels_too
    )
    for result in steps:
        results.append(result)
        if progress is not None:
            progress(len(results), len(paths), result)
    return results


def _predict_file(
    path: Path,
    name: Path,
    predict: Predict,
    spec: DatasetSpec,
    save_dir: Path,
    options: InferenceOptions,
    palette: Sequence[RGB],
    labels_too: bool,
) -> PredictionResult:
    """Predicts one file and writes its results."""
    scene = read_scene(path)
    _check_bands(scene, spec)
    labels = scene.without_nodata(predict_labels(predict, scene.pixels, spec, options), spec.ignore_index)
    suffix = path.suffix if path.suffix.lower() in _JPEG_SUFFIXES else ".png"
    pseudo_color = _placed(save_dir / PSEUDO_COLOR_FOLDER, name, ".png")
    write_png(pseudo_color, labels, colour_table(palette, ignore_index=spec.ignore_index))
    laid_over = _placed(save_dir / OVERLAY_FOLDER, name, suffix)
    picture = overlay(as_rgb(scene.pixels, spec, scene.nodata), labels, palette, ignore_index=spec.ignore_index)
    _write_picture(laid_over, picture)
    geotiff = None
    if scene.is_tiff and labels_too:
        geotiff = _placed(save_dir / GEOTIFF_FOLDER, name, ".tif")
        write_labels(geotiff, labels, scene, spec, palette)
    return PredictionResult(path, pseudo_color, laid_over, geotiff)


def _check_bands(scene: Scene, spec: DatasetSpec) -> None:
    """Raises `DataError` when the scene's bands do not fit, saying what became of an alpha band."""
    bands = scene.pixels.shape[2]
    if bands == spec.bands:
        return
    alpha = " beside its alpha band, which is a mask" if scene.has_alpha else ""
    raise DataError(
        f"the model for data set '{spec.name}' needs {spec.bands} bands; {scene.path} has {bands}{alpha}. "
        "Choose the bands that the model was trained with, in its order"
        + (", and clear the mark 'alpha' if that band is data." if scene.has_alpha else ".")
    )


def _placed(folder: Path, name: Path, suffix: str) -> Path:
    """Returns the result's path and makes its folder."""
    path = folder / name.parent / f"{name.name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes `(H, W, 3)` RGB as JPEG or PNG, by the suffix."""
    if path.suffix.lower() not in _JPEG_SUFFIXES:
        write_png(path, picture)
        return
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise DataError(f"OpenCV cannot encode {path} of {picture.shape} as JPEG. Convert the image to PNG first.")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())


def _walk(folder: Path, exclude: Path | None) -> Iterator[Path]:
    """Yields the images under a folder; hidden files and folders, and `exclude`, are skipped."""
    left_out = None if exclude is None else exclude.absolute()
    for root, folders, files in os.walk(folder):
        here = Path(root)
        folders[:] = [name for name in folders if name[0] != "." and (here / name).absolute() != left_out]
        yield from (here / name for name in files if name[0] != "." and Path(name).suffix.lower() in IMAGE_SUFFIXES)


def _read_list(path: Path) -> tuple[list[Path], Path]:
    """Reads the first column of a list file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8. Save the list as UTF-8.") from error
    # dict.fromkeys keeps the order and drops repetitions
    images = list(dict.fromkeys(path.parent / line.split()[0] for line in lines if line.strip()))
    if not images:
        raise DataError(f"{path} lists no images; one path per line is needed. Fill the list.")
    missing = [image for image in images if not image.is_file()]
    if missing:
        raise DataError(
            f"{path} lists {len(missing)} files that do not exist, the first {missing[0]}; paths are relative to the "
            "list's folder. Correct the list."
        )
    folder = Path(os.path.abspath(path.parent))
    if all(Path(os.path.abspath(image)).is_relative_to(folder) for image in images):
        return images, path.parent
    return images, _common_folder(images)


def _common_folder(paths: Sequence[Path]) -> Path:
    """Returns the deepest folder that all `paths` lie in."""
    try:
        return Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))
    except ValueError as error:  # several drives on Windows
        raise DataError(f"the images have no folder in common: {error}. Predict them one drive at a time.") from error


def _result_names(paths: Sequence[Path], base: Path | None) -> list[Path]:
    """Returns for each image its path relative to `base` without suffix; all different."""
    if not paths:
        return []
    folder = Path(os.path.abspath(base)) if base is not None else _common_folder(paths)
    names = []
    for path in paths:
        absolute = Path(os.path.abspath(path))
        if not absolute.is_relative_to(folder):
            raise DataError(f"{path} does not lie in {folder}, which results are named after. Pass a folder above it.")
        names.append(absolute.relative_to(folder).with_suffix(""))
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        same = [str(path) for path, name in zip(paths, names, strict=True) if name == twice[0]]
        raise DataError(
            f"{' and '.join(same[:2])} would write results of one name, '{twice[0]}'; names must differ in more than "
            "the suffix. Rename one, or list only those to predict in a .txt file."
        )
    return names
