"""Prediction of many files: from paths to pictures and label maps on disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rsseg_tf.datasets.spec import RGB, DatasetSpec
from rsseg_tf.errors import INTERRUPTS, ConfigError, DataError, RssegError, address_hint, reason, show_traceback
from rsseg_tf.files import StrPath
from rsseg_tf.files.lists import list_lines, missing_files, read_list
from rsseg_tf.files.walking import FOREIGN_SUFFIXES, IMAGE_SUFFIXES, SCENE_SUFFIXES, LeftOut, find_images, is_file
from rsseg_tf.predict.image import (
    RESULT_FOLDERS,
    Advance,
    ImageJob,
    PredictionResult,
    clear_leftovers,
    predict_image,
    styled,
)
from rsseg_tf.predict.model import Predict
from rsseg_tf.predict.resuming import JOURNAL, FinishedJobs
from rsseg_tf.predict.settings import PredictionSettings
from rsseg_tf.rasters.images import image_header
from rsseg_tf.rasters.scenes import open_scene, raster_driver
from rsseg_tf.rasters.sources import FileVariable, RemoteRaster, Source, Stack, local_files, named_source
from rsseg_tf.rasters.vrt import vrt_size
from rsseg_tf.rasters.windows import Size

__all__ = [
    "PredictionPlan",
    "attempt",
    "collect_images",
    "collect_sources",
    "image_size",
    "palette_with",
    "pixel_count",
    "predict_paths",
]


_LIST_SUFFIX = ".txt"


def collect_sources(
    path: StrPath | Source,
    exclude: StrPath | None = None,
    notify: Callable[[str], object] = lambda line: None,
    *,
    any_driver: bool = False,
) -> tuple[list[Source], Path]:
    """Finds the images that a user means by one text: as `collect_images` does, and those that are no plain files.

    Args:
        path: As there; a variable of a file or an address, see `named_source`; a list file with addresses among its
            paths; a stack, which is one image.
        exclude: As there.
        notify: As there.
        any_driver: Whether a file that is named itself may be of a format whose files lead to others.

    Returns:
        The images, and the folder that names of those that are files are relative to.

    Raises:
        DataError: As there.
    """
    source = _source(path)
    if not isinstance(source, Path):
        if missing := next((file for file in local_files(source) if not file.exists()), None):
            raise DataError(f"{missing} does not exist. Check the path.{address_hint(missing)}", code="not-found")
        return [source], Path()
    if not source.exists() and address_hint(path if isinstance(path, str) else source):
        raise DataError(
            f"{path} is an address of another kind than https://, http:// and s3://, which are read. Download the "
            "file, and name it."
        )
    if source.suffix.lower() == _LIST_SUFFIX and source.is_file():
        lines = list(dict.fromkeys(columns[0] for _, columns in list_lines(source)))
        if any(isinstance(named_source(line), RemoteRaster) for line in lines):
            return _read_addresses(source, lines)
    if any_driver and source.is_file() and source.suffix.lower() != _LIST_SUFFIX:
        return [source], source.parent
    images, base = collect_images(source, exclude, notify)
    return list(images), base


def _source(path: StrPath | Source) -> Source:
    return path if isinstance(path, RemoteRaster | FileVariable | Stack) else named_source(path)


def collect_images(
    path: StrPath, exclude: StrPath | None = None, notify: Callable[[str], object] = lambda line: None
) -> tuple[list[Path], Path]:
    """Finds the images that a user means by one path.

    Args:
        path: An image; a list file (.txt) as `read_list` takes it, with paths relative to the list's folder or
            absolute, whose second column does not matter; or a folder, searched with its subfolders and links for known
            suffixes. Left out are hidden files and folders, and results of earlier runs.
        exclude: A folder to leave out, such as the one that results go to.
        notify: Told in one line what was left out although it may be an image.

    Returns:
        The images (of a folder: sorted; of a list: in its order, each once) and the folder that their names are
        relative to.

    Raises:
        DataError: When the path is missing, of another kind, or holds no image, or a listed image is missing.
    """
    path = Path(path)
    exclude = None if exclude is None else Path(exclude)
    if path.is_dir() and raster_driver(path) is None:
        left_out = LeftOut(SCENE_SUFFIXES)
        # A run that writes into the folder that it reads has its results kept apart by the journal beside them.
        exclude = None if exclude is None or os.path.realpath(exclude) == os.path.realpath(path) else exclude
        images = sorted(find_images(path, SCENE_SUFFIXES, left_out, exclude=exclude, refuse=_is_result))
        if not images:
            because = f" ({left_out})" if left_out else ""
            raise DataError(
                f"{path} has no images{because}; files ending in {', '.join(IMAGE_SUFFIXES)}, .vrt are looked for, and "
                f"other rasters ({', '.join(FOREIGN_SUFFIXES)}), in subfolders too. Check the folder."
            )
        if left_out:
            notify(f"{path}: {left_out}.")
        return images, path
    if not path.is_file() and not path.is_dir():
        raise DataError(
            f"{path} does not exist; an image, a list file (.txt) or a folder is needed. Check the path."
            f"{address_hint(path)}",
            code="not-found",
        )
    if path.suffix.lower() in SCENE_SUFFIXES:
        return [path], path.parent
    if path.suffix.lower() != _LIST_SUFFIX:
        if raster_driver(path) is not None:
            return [path], path.parent
        raise DataError(
            f"{path} is neither an image ({', '.join(SCENE_SUFFIXES)}) nor a list file (.txt). Convert it, or give the "
            "list the suffix .txt; a raster that leads to other files needs --allow_vrt_sources."
        )
    return _read_list(path)


def palette_with(custom_color: Sequence[int] | None, spec: DatasetSpec) -> tuple[RGB, ...]:
    """Returns the spec's palette, its first colours replaced by `custom_color`.

    Args:
        custom_color: Red, green, blue of class 0, then of class 1, … as PaddleSeg's `--custom_color` takes them;
            classes beyond them keep the spec's colour. None for no change.
        spec: The dataset.

    Raises:
        ConfigError: When the numbers are not whole triples of 0..255, or more than the classes need.
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


class PredictionPlan:
    """All images that one call predicts, and which of them an earlier call has done.

    Args:
        paths: Images, as `collect_images` finds them.
        settings: How they are predicted.
        base: Folder that names of results are relative to; the common folder of all paths if None.

    Attributes:
        jobs: An image each, in the order of `paths`.
        settings: As above.

    Raises:
        ConfigError: When one file of polygons is asked of several images, or on resume options differ from those of
            the run that was begun.
        DataError: When two images would give results of one name, or an image lies outside `base`.
    """

    def __init__(
        self, paths: Sequence[StrPath | Source], settings: PredictionSettings, *, base: StrPath | None = None
    ) -> None:
        images = [_source(path) for path in paths]
        output = settings.output
        if output.vector_file is not None and len(images) > 1:
            raise ConfigError(
                f"--vector {output.vector} is one file, but there are {len(images)} images. Give the format alone, "
                f"--vector {output.vector_suffix[1:]}, for one file each."
            )
        names = _result_names(images, None if base is None else Path(base))
        self.settings = settings
        self.jobs = [ImageJob(path, name) for path, name in zip(images, names, strict=True)]
        self._finished = FinishedJobs(settings, self.jobs)

    def todo(self) -> Iterator[tuple[ImageJob, PredictionResult | None]]:
        """Yields the jobs in order, with the result of those that need not be done again.

        What killed runs have left of them half-written is removed first.
        """
        clear_leftovers(self.jobs, self.settings)
        for job in self.jobs:
            result = self._finished.result(job)
            yield job, None if result is None else styled(result, self.settings)

    def record(self, job: ImageJob, result: PredictionResult) -> PredictionResult:
        """Remembers a job that is done, for a later run that resumes.

        Returns:
            The result, with a note if it cannot be remembered.
        """
        try:
            self._finished.record(job, result)
        except DataError as error:
            note = f"done, but a later --resume will do it again: {error}"
            return replace(result, note=note if result.note is None else f"{result.note}; {note}")
        return result

    def run(self, model: Predict, advance: Advance | None = None) -> Iterator[tuple[ImageJob, PredictionResult]]:
        """Predicts the images one by one; each step yields what became of the next.

        Args:
            model: See `Predict`.
            advance: Called with the job and the number of its pixels that were finished.
        """
        for job, result in self.todo():
            if result is None:
                result = self.record(job, attempt(job, self.settings, model, advance))
            yield job, result


def predict_paths(
    paths: Sequence[StrPath | Source], model: Predict, settings: PredictionSettings, *, base: StrPath | None = None
) -> list[PredictionResult]:
    """Predicts images and writes their results, under the folder names that users of PaddleSeg know.

    For each image:

    - `save_dir/pseudo_color_prediction/<name>.png`: class ids as an indexed PNG with the palette;
    - `save_dir/added_prediction/<name>.<jpg|png>`: the picture with class colours over it; JPEG for a JPEG, else PNG;
    - `save_dir/geotiff_prediction/<name>.tif`: for a TIFF or VRT, or a picture with a world file, class ids with CRS
      and transform of the input;
    - as `settings.output` asks: `confidence_prediction/`, `probability_prediction/`, `vector_prediction/`;
    - beside label maps, confidence and polygons, a style `<name>.qml`; beside label maps also `<name>.tif.aux.xml`
      with names and colours of the classes.

    `<name>` is the path relative to `base` without suffix, so that subfolders are kept. Pixels without data get the
    ignored id. Files appear whole or not at all. An image that fails does not stop the others, and a result that
    cannot be written does not stop the other results of its image. Pictures that would need more than half of
    `settings.scenes.max_memory` are reduced to previews; the rasters never are.

    Args:
        paths: Images, as `collect_images` finds them.
        model: See `Predict`.
        settings: How they are predicted.
        base: See `PredictionPlan`, which also predicts them one by one.

    Returns:
        One result per path, in their order; failures have `error` set. The caller decides what a failure means.

    Raises:
        ConfigError: See `PredictionPlan`.
        DataError: See `PredictionPlan`.
    """
    return [result for _, result in PredictionPlan(paths, settings, base=base).run(model)]


def attempt(
    job: ImageJob, settings: PredictionSettings, model: Predict, advance: Advance | None = None
) -> PredictionResult:
    """Predicts an image; what goes wrong with it becomes the result's error, in one line. See `predict_image`.

    One image never ends a run, whatever exception it raises; only an interrupt does.
    """
    try:
        return predict_image(job, settings, model, advance)
    except INTERRUPTS:
        raise
    except BaseException as error:  # libraries in other languages raise what is no Exception
        if not isinstance(error, RssegError):
            show_traceback(error)
        return PredictionResult(job.path, error=reason(error))


def image_size(path: StrPath | Source) -> Size:
    """Returns the size in a file's header; zeros for a file without a sensible one, or that cannot be read."""
    source = _source(path)
    try:
        driver = raster_driver(source) if isinstance(source, Path) else None
        if isinstance(source, Path) and driver is None:
            header = image_header(source)
            return Size(header.height, header.width)
        if isinstance(source, Path) and driver == "VRT":
            return vrt_size(source)
        with open_scene(source) as scene:
            return scene.size
    except Exception:  # the job itself will say what is wrong with the file
        return Size(0, 0)


def pixel_count(path: StrPath | Source) -> int:
    """Returns the number of pixels by a file's header; 0 for a file without a sensible one."""
    return image_size(path).pixels


def _is_result(folder: Path) -> str:
    """Returns what a folder holds if an earlier run wrote it, else nothing."""
    written = folder.name in RESULT_FOLDERS and (folder.parent / JOURNAL).is_file()
    return "results of an earlier run" if written else ""


def _read_list(path: Path) -> tuple[list[Path], Path]:
    """Reads the first column of a list file."""
    # dict.fromkeys keeps the order and drops repetitions
    images = list(dict.fromkeys(sample.image for sample in read_list(path, path.parent, labels=False)))
    folder = Path(os.path.abspath(path.parent))
    if all(Path(os.path.abspath(image)).is_relative_to(folder) for image in images):
        return images, path.parent
    return images, _common_folder(images)


def _read_addresses(path: Path, lines: Sequence[str]) -> tuple[list[Source], Path]:
    """Returns the images of a list that names addresses, and perhaps files too."""
    images: list[Source] = []
    for line in lines:
        named = named_source(line)
        file = path.parent / line
        if not isinstance(named, RemoteRaster) and not is_file(file):
            raise missing_files(path, path.parent, 1, str(file))
        images.append(named if isinstance(named, RemoteRaster) else file)
    files = [image for image in images if isinstance(image, Path)]
    return images, _common_folder(files) if files else path.parent


def _common_folder(paths: Sequence[Path]) -> Path:
    """Returns the deepest folder that all `paths` lie in."""
    try:
        return Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))
    except ValueError as error:  # several drives on Windows
        raise DataError(f"the images have no folder in common: {error}. Predict them one drive at a time.") from error


def _result_names(paths: Sequence[Source], base: Path | None) -> list[Path]:
    """Returns for each image its path relative to `base` without suffix, of an address its name; all different."""
    files = [path for path in paths if isinstance(path, Path)]
    folder = _common_folder(files) if base is None and files else Path(os.path.abspath(base or Path()))
    names = []
    for path in paths:
        if not isinstance(path, Path):
            names.append(Path(path.stem))
            continue
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
