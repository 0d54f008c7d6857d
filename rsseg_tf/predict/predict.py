"""Prediction of many files: from paths to pictures and label maps on disk."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rsseg_tf.datasets.spec import RGB, DatasetSpec
from rsseg_tf.errors import INTERRUPTS, ConfigError, DataError, RssegError, address_hint, reason, show_traceback
from rsseg_tf.files import StrPath
from rsseg_tf.files.lists import read_list
from rsseg_tf.files.walking import LeftOut, find_images
from rsseg_tf.predict.decoding import check_review_value
from rsseg_tf.predict.jobs import RESULT_FOLDERS, Job, JobSettings, PredictionResult, clear_leftovers, run_job
from rsseg_tf.predict.logits import Predict
from rsseg_tf.predict.options import InferenceOptions, OutputOptions, SceneOptions
from rsseg_tf.predict.resuming import JOURNAL, FinishedJobs
from rsseg_tf.predict.vector_files import check_vector_file
from rsseg_tf.rasters.gdal import open_raster
from rsseg_tf.rasters.images import image_header
from rsseg_tf.rasters.scenes import raster_driver
from rsseg_tf.rasters.vrt import vrt_size

__all__ = [
    "IMAGE_SUFFIXES",
    "Progress",
    "Run",
    "attempt",
    "collect_images",
    "image_size",
    "iterate_predictions",
    "palette_with",
    "pixel_count",
    "predict_paths",
]

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".vrt")

_LIST_SUFFIX = ".txt"


Progress = Callable[[int, int, PredictionResult], None]
"""Called after each image with the number done, the number in all, and what became of it."""


def collect_images(
    path: StrPath, exclude: StrPath | None = None, notify: Callable[[str], object] = lambda line: None
) -> tuple[list[Path], Path]:
    """Finds the images that a user means by one path.

    Args:
        path: an image; a list file (.txt) as `read_list` takes it, with paths relative to the list's folder or
            absolute, whose second column does not matter; or a folder, searched with its subfolders and links for known
            suffixes. Left out are hidden files and folders, and results of earlier runs.
        exclude: a folder to leave out, such as the one that results go to.
        notify: told in one line what was left out although it may be an image.

    Returns:
        The images (of a folder: sorted; of a list: in its order, each once) and the folder that their names are
        relative to.

    Raises:
        DataError: when the path is missing, of another kind, or holds no image, or a listed image is missing.
    """
    path = Path(path)
    exclude = None if exclude is None else Path(exclude)
    if path.is_dir():
        left_out = LeftOut(IMAGE_SUFFIXES)
        # A run that writes into the folder that it reads has its results kept apart by the journal beside them.
        exclude = None if exclude is None or os.path.realpath(exclude) == os.path.realpath(path) else exclude
        images = sorted(find_images(path, IMAGE_SUFFIXES, left_out, exclude=exclude, refuse=_is_result))
        if not images:
            because = f" ({left_out})" if left_out else ""
            raise DataError(
                f"{path} has no images{because}; files ending in {', '.join(IMAGE_SUFFIXES)} are looked for, in "
                "subfolders too. Check the folder."
            )
        if left_out:
            notify(f"{path}: {left_out}.")
        return images, path
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; an image, a list file (.txt) or a folder is needed. Check the path."
            f"{address_hint(path)}"
        )
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


class Run:
    """All that one call predicts: which jobs there are, and which an earlier call has done.

    Args:
        paths: images, as `collect_images` finds them.
        spec: the data set that the model was trained for.
        save_dir: folder for the results.
        options: windows and augmentation.
        base: folder that names are relative to; the common folder of all paths if None.
        custom_color: flat list of RGB values, see `palette_with`.
        labels_too: whether to write the label map of a TIFF.
        scenes: how scenes are read.
        output: what is written.

    Raises:
        ConfigError: when options are wrong, or on resume differ from those of the run that was begun.
        DataError: when two images would give results of one name, an image lies outside `base`, or the one file of
            polygons holds what is not ours to replace.
    """

    def __init__(
        self,
        paths: Sequence[StrPath],
        spec: DatasetSpec,
        save_dir: StrPath,
        options: InferenceOptions,
        *,
        base: StrPath | None = None,
        custom_color: Sequence[int] | None = None,
        labels_too: bool = True,
        scenes: SceneOptions | None = None,
        output: OutputOptions | None = None,
    ) -> None:
        save_dir = Path(save_dir)
        base = None if base is None else Path(base)
        images = [Path(path) for path in paths]
        scenes, output = scenes or SceneOptions(), output or OutputOptions()
        check_review_value(output, spec)
        scenes = replace(scenes, model_gsd=scenes.model_gsd or spec.gsd)
        if scenes.match_gsd and scenes.model_gsd is None:
            raise ConfigError(
                f"--match_gsd needs the ground sampling distance that the model was trained on, and data set "
                f"'{spec.name}' states none. Give it with --model_gsd METRES."
            )
        if output.vector_file is not None and len(paths) > 1:
            raise ConfigError(
                f"--vector {output.vector} is one file, but there are {len(paths)} images. Give the format alone, "
                f"--vector {output.vector_suffix[1:]}, for one file each."
            )
        if output.vector_file is not None:
            check_vector_file(output.vector_file)
        palette = palette_with(custom_color, spec)
        self.settings = JobSettings(spec, palette, save_dir, options, scenes, output, labels_too)
        self.jobs = [Job(path, name) for path, name in zip(images, _result_names(images, base), strict=True)]
        self._finished = FinishedJobs(self.settings, self.jobs)

    def todo(self) -> Iterator[tuple[Job, PredictionResult | None]]:
        """Yields the jobs in order, with the result of those that need not be done again.

        What killed runs have left of them half-written is removed first.
        """
        clear_leftovers(self.jobs, self.settings)
        for job in self.jobs:
            yield job, self._finished.result(job)

    def record(self, job: Job, result: PredictionResult) -> PredictionResult:
        """Remembers a job that is done, for a later run that resumes.

        Returns:
            The result; if it cannot be remembered, with a note that says so.
        """
        try:
            self._finished.record(job, result)
        except DataError as error:
            note = f"done, but a later --resume will do it again: {error}"
            return replace(result, note=note if result.note is None else f"{result.note}; {note}")
        return result

    def steps(
        self, predict: Predict, advance: Callable[[Job, int], None] | None = None
    ) -> Iterator[tuple[Job, PredictionResult]]:
        """Does the jobs one by one; each step yields what became of the next.

        Args:
            predict: the model.
            advance: called with the job and the number of its pixels that were finished.
        """
        for job, result in self.todo():
            if result is None:
                result = self.record(job, attempt(job, self.settings, predict, advance))
            yield job, result


def attempt(
    job: Job, settings: JobSettings, predict: Predict, advance: Callable[[Job, int], None] | None = None
) -> PredictionResult:
    """Does a job; what goes wrong with its image becomes the result's error, in one line. See `run_job`.

    One image never ends a run, whatever exception it raises; only an interrupt does.
    """
    try:
        return run_job(job, settings, predict, advance)
    except INTERRUPTS:
        raise
    except BaseException as error:  # libraries in other languages raise what is no Exception
        if not isinstance(error, RssegError):
            show_traceback(error)
        return PredictionResult(job.path, error=reason(error))


def image_size(path: StrPath) -> tuple[int, int]:
    """Returns the (height, width) that a file says it has; zeros for one that says nothing sensible, or that fails."""
    path = Path(path)
    try:
        driver = raster_driver(path)
        if driver is None:
            header = image_header(path)
            return header.height, header.width
        if driver == "VRT":
            return vrt_size(path)
        with open_raster(path, driver) as source:
            return source.height, source.width
    except Exception:  # the job itself will say what is wrong with the file
        return 0, 0


def pixel_count(path: StrPath) -> int:
    """Returns the number of pixels that a file says it has; 0 for one that says nothing sensible."""
    return math.prod(image_size(path))


def iterate_predictions(
    paths: Sequence[StrPath],
    predict: Predict,
    spec: DatasetSpec,
    save_dir: StrPath,
    options: InferenceOptions,
    *,
    base: StrPath | None = None,
    custom_color: Sequence[int] | None = None,
    labels_too: bool = True,
    scenes: SceneOptions | None = None,
    output: OutputOptions | None = None,
    advance: Callable[[Job, int], None] | None = None,
) -> Iterator[PredictionResult]:
    """Predicts files one by one; each step yields what became of the next image.

    Arguments are checked and names of results settled at the call, before the first step. See `predict_paths`.
    """
    run = Run(
        paths,
        spec,
        save_dir,
        options,
        base=base,
        custom_color=custom_color,
        labels_too=labels_too,
        scenes=scenes,
        output=output,
    )

    return (result for _, result in run.steps(predict, advance))


def predict_paths(
    paths: Sequence[StrPath],
    predict: Predict,
    spec: DatasetSpec,
    save_dir: StrPath,
    options: InferenceOptions,
    *,
    base: StrPath | None = None,
    custom_color: Sequence[int] | None = None,
    labels_too: bool = True,
    scenes: SceneOptions | None = None,
    output: OutputOptions | None = None,
    progress: Progress | None = None,
    advance: Callable[[Job, int], None] | None = None,
) -> list[PredictionResult]:
    """Predicts files and writes their results, under the folder names that users of the original know.

    For each image:

    - `save_dir/pseudo_color_prediction/<name>.png`: class ids as an indexed PNG with the palette;
    - `save_dir/added_prediction/<name>.<jpg|png>`: the picture with class colours over it; JPEG for a JPEG, else PNG;
    - `save_dir/geotiff_prediction/<name>.tif`: for a TIFF or VRT, or a picture with a world file, class ids with CRS
      and transform of the input;
    - as `output` asks: `confidence_prediction/`, `probability_prediction/`, `vector_prediction/`.

    `<name>` is the path relative to `base` without suffix, so that subfolders are kept. Pixels without data get the
    ignored id. Files appear whole or not at all. An image that fails does not stop the others, and a result that cannot
    be written none of the others of its image. Pictures that
    would need more than half of `scenes.max_memory` are reduced to previews; the rasters never are.

    Args:
        paths: images, as `collect_images` finds them.
        predict: the model, see `Predict`.
        spec: the data set that the model was trained for.
        save_dir: folder for the results; made if missing.
        options: windows and augmentation.
        base: folder that names are relative to; the common folder of all paths if None.
        custom_color: flat list of RGB values, see `palette_with`.
        labels_too: whether to write the label map of a TIFF.
        scenes: how scenes are read.
        output: what is written besides.
        progress: called after each image.
        advance: called with the job and the number of its pixels that were finished.

    Returns:
        One result per path, in their order; failures have `error` set. The caller decides what a failure means.

    Raises:
        ConfigError: when options are wrong; see `Run`.
        DataError: when two images would give results of one name, or an image lies outside `base`.
    """
    results = []
    steps = iterate_predictions(
        paths,
        predict,
        spec,
        save_dir,
        options,
        base=base,
        custom_color=custom_color,
        labels_too=labels_too,
        scenes=scenes,
        output=output,
        advance=advance,
    )
    for result in steps:
        results.append(result)
        if progress is not None:
            progress(len(results), len(paths), result)
    return results


def _is_result(folder: Path) -> str:
    """Says of a folder that an earlier run wrote that it did."""
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
