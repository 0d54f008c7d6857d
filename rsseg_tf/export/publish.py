"""From a checkpoint to a published version: everything is written aside, checked, and appears at once.

export/dubai/                    what TensorFlow Serving calls the base path of a model
    1/                           a version; never overwritten
        saved_model.pb, variables/, assets/, assets.extra/
        model_float32.tflite, model_int8.tflite, ...
        model.onnx
        model_openvino.xml, model_openvino.bin
        model_deepness.onnx
        web/                     a page that runs a TFLite file in the browser
        manifest.json            description of all of these
        stac/                    the same as STAC items, for catalogs of models
        config.yml               the resolved config of the training
        reference.npz            the Keras model's answers to made-up and a few real tiles
        accuracy.json            scores before and after, if they were measured
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.config import dump_config
from rsseg_tf.errors import ExportError, RssegError, reason
from rsseg_tf.export.accuracy import Accuracy, AccuracyLimit, measure_accuracy
from rsseg_tf.export.deepness import check_deepness, write_deepness
from rsseg_tf.export.onnx import write_onnx, write_openvino
from rsseg_tf.export.savedmodel import write_savedmodel
from rsseg_tf.export.stac import write_model_items
from rsseg_tf.export.tflite import write_tflite
from rsseg_tf.export.tiles import made_up_reference, middle_of, read_tiles, reference_size
from rsseg_tf.export.trained import TrainedModel
from rsseg_tf.export.web import WEB_FOLDER, Page, check_page, write_web
from rsseg_tf.files import StrPath
from rsseg_tf.files.writing import staging_folder
from rsseg_tf.manifest import MANIFEST_FILE, Artifact, Format, Manifest, Quantization, file_sha256
from rsseg_tf.predictors import open_predictor
from rsseg_tf.rasters.windows import Size

__all__ = ["ACCURACY_FILE", "REFUSED_FILE", "ExportOptions", "ExportResult", "check_output", "export_model"]

ACCURACY_FILE = "accuracy.json"
REFUSED_FILE = "refused.json"
_CONFIG_FILE = "config.yml"


@dataclass(frozen=True)
class ExportOptions:
    """What an export writes.

    Attributes:
        formats: Formats to write.
        quantizations: Which TFLite files to write; a page runs the first.
        tile: Size of the input of TFLite, ONNX and OpenVINO files; None for any size. SavedModels take any.
        calibration: Images for `int8` and `int16x8`.
        real_tiles: How many tiles to keep with the Keras model's answers, for `verify` to compare on: of the images of
            the accuracy limit, or else of those for calibration. Made-up tiles are kept in any case.
        page: What the format `web` needs.
    """

    formats: Sequence[Format] = ("savedmodel",)
    quantizations: Sequence[Quantization] = ("float32",)
    tile: Size | None = None
    calibration: Sequence[NDArray] = ()
    real_tiles: int = 0
    page: Page | None = None


@dataclass(frozen=True)
class ExportResult:
    """Outcome of an export.

    Attributes:
        folder: The published version, such as `export/dubai/1`; None where it was refused.
        manifest: Manifest of the version.
        accuracy: Scores, if they were measured.
        report: The file with these scores.
    """

    folder: Path | None
    manifest: Manifest
    accuracy: Accuracy | None = None
    report: Path | None = None

    def __repr__(self) -> str:
        names = ", ".join(artifact.name for artifact in self.manifest.artifacts)
        if self.folder is not None:
            return f"<{self.manifest.model} as {names} in {self.folder}>"
        refused = ", ".join(self.accuracy.refused) if self.accuracy else ""
        return f"<{self.manifest.model} not published; {refused} lost too much mIoU: {self.report}>"


def check_output(output: StrPath, version: int | None) -> None:
    """Raises ExportError unless a version can be published in `output`; ask it before a model is loaded."""
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise ExportError(f"{output} is a file; a folder for the versions of a model is needed. Name another one.")
    if output.is_dir():
        names = sorted(path.name for path in output.iterdir())
        # Names with a dot in front are stages of exports, and what file managers leave behind.
        foreign = [name for name in names if not (name.isdecimal() or name == REFUSED_FILE or name.startswith("."))]
        if foreign:
            raise ExportError(
                f"{output} holds {', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''}; only versions of one "
                "exported model may lie there, because servers watch the folder. Name a new folder.",
                code="exists",
            )
    if version is not None and (output / str(version)).exists():
        raise ExportError(
            f"{output / str(version)} exists, and a published version is never overwritten. Leave --version out for "
            "the next free number, or name another.",
            code="exists",
        )


def export_model(
    trained: TrainedModel,
    output: StrPath,
    options: ExportOptions | None = None,
    *,
    version: int | None = None,
    limit: AccuracyLimit | None = None,
    notify: Callable[[str], object] = lambda line: None,
) -> ExportResult:
    """Exports a model and publishes it as a new version in `output`.

    Args:
        trained: The model.
        output: Folder of the model's versions; made if missing.
        options: What to write; a SavedModel if None.
        version: Number of the version; None for the one after the highest.
        limit: Accuracy that artifacts must keep; not measured if None.
        notify: Called with a line for each file that was written.

    Returns:
        The version; or its scores alone, where an artifact lost more than the limit allows. These scores are then in
        `output/refused.json`, and nothing else is left.

    Raises:
        ExportError: When something cannot be exported, or the version exists. Nothing is left behind.
    """
    output = Path(output)
    options = options or ExportOptions()
    check_output(output, version)
    real = _real_tiles(trained, options, limit)
    try:
        with staging_folder(output) as stage:
            manifest = _write_version(trained, stage, options, real, notify)
            accuracy = None
            if limit is not None:
                opened = {one.name: open_predictor(stage / one.path) for one in manifest.artifacts}
                accuracy = measure_accuracy(trained, opened, limit)
                (stage / ACCURACY_FILE).write_text(json.dumps(accuracy.to_json(), indent=2) + "\n", "utf-8")
                if accuracy.refused:
                    # Leaving the block removes the stage with everything else.
                    os.replace(stage / ACCURACY_FILE, output / REFUSED_FILE)
                    return ExportResult(None, manifest, accuracy, output / REFUSED_FILE)
            folder = _publish(stage, output, version)
    except Exception as error:
        if not _is_about_the_disk(error):
            raise
        raise ExportError(
            f"The export to {output} could not be written: {reason(error)}. Nothing was published; make room "
            "or correct the permissions.",
            code="not-written",
        ) from error
    return ExportResult(folder, manifest, accuracy, folder / ACCURACY_FILE if accuracy else None)


def _is_about_the_disk(error: Exception) -> bool:
    """Tells whether a file could not be written; libraries have error types of their own for that."""
    messages = (os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO))
    return isinstance(error, OSError) or (
        not isinstance(error, RssegError) and any(one in str(error) for one in messages)
    )


@contextlib.contextmanager
def _temporary_files_in(stage: Path) -> Iterator[None]:
    """Keeps the temporary files of this process in the stage meanwhile: converters leave theirs behind when killed."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=stage) as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def _write_version(
    trained: TrainedModel,
    stage: Path,
    options: ExportOptions,
    real: Sequence[NDArray],
    notify: Callable[[str], object],
) -> Manifest:
    """Writes all files of a version into the stage."""
    with _temporary_files_in(stage):
        artifacts = _write_artifacts(trained, stage, options, notify)
    size = reference_size(trained.manifest.crop_size, options.tile)
    made_up_reference(trained.predict, trained.spec, size).with_real(trained.predict, real).write(stage)
    if trained.config is not None:
        (stage / _CONFIG_FILE).write_text(dump_config(trained.config), "utf-8")
    manifest = trained.manifest.model_copy(update={"artifacts": artifacts})
    (stage / MANIFEST_FILE).write_text(manifest.to_json(), "utf-8")
    write_model_items(trained, stage, artifacts)
    return manifest


def _write_artifacts(
    trained: TrainedModel, stage: Path, options: ExportOptions, notify: Callable[[str], object]
) -> tuple[Artifact, ...]:
    """Writes the formats; cheap ones first, so that what cannot be exported is known early."""
    formats, tile, calibration = options.formats, options.tile, options.calibration
    artifacts: list[Artifact] = []

    def add(artifact: Artifact) -> None:
        files = _files_of(stage, artifact)
        artifacts.append(artifact.model_copy(update={"sha256": {name: file_sha256(stage / name) for name in files}}))
        size = sum((stage / name).stat().st_size for name in files)
        notify(f"{artifact.name}: {size / 2**20:.1f} MiB")

    if "web" in formats:
        if options.page is None:
            raise ExportError("The format web needs LiteRT.js; pass a Page.")
        check_page(trained, options.page, options.quantizations[0])
    if "deepness" in formats:
        check_deepness(trained, tile)
    if "savedmodel" in formats:
        add(write_savedmodel(trained, stage))
    if "onnx" in formats:
        add(write_onnx(trained, stage, tile=tile))
    if "deepness" in formats:
        add(write_deepness(trained, stage, tile=tile))
    if "openvino" in formats:
        with tempfile.TemporaryDirectory() as temporary:
            onnx_file = Path(temporary) / write_onnx(trained, Path(temporary), tile=tile).path
            add(write_openvino(trained, stage, onnx_file, tile=tile))  # from a file that is not published itself
    if "tflite" in formats:
        for quantization in options.quantizations:
            add(write_tflite(trained, stage, quantization, tile=tile, calibration=calibration, notify=notify))
    if "web" in formats and options.page is not None:
        quantization = options.quantizations[0]
        add(write_web(trained, stage, options.page, quantization, tile=tile, calibration=calibration, notify=notify))
    return tuple(artifacts)


def _real_tiles(trained: TrainedModel, options: ExportOptions, limit: AccuracyLimit | None) -> list[NDArray]:
    """Returns the middle of some images at equal distances in the list."""
    available = limit.samples if limit else options.calibration
    chosen = np.linspace(0, len(available) - 1, min(options.real_tiles, len(available))).astype(int)
    size = reference_size(trained.manifest.crop_size, options.tile)
    if limit:
        images = [limit.samples[index].image for index in chosen]
        return read_tiles(images, trained.spec, size, trained.trust)
    return [middle_of(options.calibration[index], size) for index in chosen]


def _files_of(stage: Path, artifact: Artifact) -> list[str]:
    """Returns an artifact's files, relative to the stage."""
    if artifact.format == "savedmodel":
        # Its folder is the version's, where other formats lie too.
        parts = ("saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra")
        found = [path for part in parts for path in [stage / part, *(stage / part).rglob("*")] if path.is_file()]
        return [path.relative_to(stage).as_posix() for path in found]
    if artifact.format == "web":
        found = [path for path in (stage / WEB_FOLDER).rglob("*") if path.is_file()]
        return sorted(path.relative_to(stage).as_posix() for path in found)
    if artifact.format == "openvino":
        return [artifact.path, artifact.path.removesuffix(".xml") + ".bin"]
    return [artifact.path]


def _publish(stage: Path, output: Path, version: int | None) -> Path:
    """Renames the stage to its number; another export that was faster gets to keep its own."""
    while True:
        taken = [int(path.name) for path in output.iterdir() if path.name.isdecimal()]
        target = output / str(version if version is not None else max(taken, default=0) + 1)
        if version is not None and target.exists():
            check_output(output, version)
        try:
            # A rename is atomic: a server never sees half a version. It fails where the number was taken meanwhile.
            stage.rename(target)
        except OSError:
            if version is None and target.exists():
                continue
            raise
        return target
