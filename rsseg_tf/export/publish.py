"""From a checkpoint to a published version: everything is written aside, checked, and appears at once.

export/dubai/                    what TensorFlow Serving calls the base path of a model
    1/                           a version; never overwritten
        saved_model.pb, variables/, assets/, assets.extra/
        model_float32.tflite, model_int8.tflite, ...
        model.onnx
        model_openvino.xml, model_openvino.bin
        web/                     a page that runs a TFLite file in the browser
        manifest.json            what all of these are
        config.yml               the resolved config of the training
        reference.npz            what the Keras model says about made-up and a few real tiles
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
from rsseg_tf.export.accuracy import Accuracy, measure_accuracy
from rsseg_tf.export.onnx import write_onnx, write_openvino
from rsseg_tf.export.reference import reference_size, write_reference
from rsseg_tf.export.savedmodel import write_savedmodel
from rsseg_tf.export.tflite import write_tflite
from rsseg_tf.export.tiles import middle_of, read_tiles
from rsseg_tf.export.trained import Trained
from rsseg_tf.export.web import WEB_FOLDER, Page, check_page, write_web
from rsseg_tf.files import StrPath
from rsseg_tf.files.lists import Sample
from rsseg_tf.files.writing import staging_folder
from rsseg_tf.manifest import MANIFEST_FILE, Artifact, Format, Manifest, Quantization, file_sha256
from rsseg_tf.predict import InferenceOptions
from rsseg_tf.predictors import open_predictor
from rsseg_tf.rasters.windows import Size

__all__ = ["ACCURACY_FILE", "REFUSED_FILE", "Exported", "Gate", "check_output", "export_model"]

ACCURACY_FILE = "accuracy.json"
REFUSED_FILE = "refused.json"
_CONFIG_FILE = "config.yml"


@dataclass(frozen=True)
class Gate:
    """What an export must pass before it is published.

    Attributes:
        samples: labelled images.
        max_miou_drop: points of mIoU (0..100) that an artifact may lose.
        progress: called with the name of a model after each image.
    """

    samples: Sequence[Sample]
    max_miou_drop: float = 1.0
    progress: Callable[[str], object] = lambda name: None


@dataclass(frozen=True)
class Exported:
    """What became of an export.

    Attributes:
        folder: the published version, such as `export/dubai/1`; None where it was refused.
        manifest: of the version.
        accuracy: scores, if they were measured.
        report: the file with these scores.
    """

    folder: Path | None
    manifest: Manifest
    accuracy: Accuracy | None = None
    report: Path | None = None


def check_output(output: StrPath, version: int | None) -> None:
    """Raises ExportError unless a version can be published in `output`; ask it before a model is loaded."""
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise ExportError(f"{output} is a file; a folder for the versions of a model is needed. Name another one.")
    if output.is_dir():
        foreign = sorted(
            path.name for path in output.iterdir() if not path.name.isdecimal() and path.name != REFUSED_FILE
        )
        foreign = [name for name in foreign if not name.startswith(".")]
        if foreign:
            raise ExportError(
                f"{output} holds {', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''}; only versions of one "
                "exported model may lie there, because servers watch the folder. Name a new folder."
            )
    if version is not None and (output / str(version)).exists():
        raise ExportError(
            f"{output / str(version)} exists, and a published version is never overwritten. Leave --version out for "
            "the next free number, or name another."
        )


def export_model(
    trained: Trained,
    output: StrPath,
    formats: Sequence[Format] = ("savedmodel",),
    *,
    quantizations: Sequence[Quantization] = ("float32",),
    tile: Size | None = None,
    calibration: Sequence[NDArray] = (),
    version: int | None = None,
    gate: Gate | None = None,
    real_tiles: int = 0,
    page: Page | None = None,
    notify: Callable[[str], object] = lambda line: None,
) -> Exported:
    """Exports a model and publishes it as a new version in `output`.

    Args:
        trained: the model.
        output: folder of the model's versions; made if missing.
        formats: what to write.
        quantizations: which TFLite files to write; a page runs the first.
        tile: Size of the input of TFLite, ONNX and OpenVINO files; None for any size. SavedModels take any.
        calibration: images for `int8` and `int16x8`.
        version: number of the version; None for the one after the highest.
        gate: what to measure before; nothing if None.
        real_tiles: how many tiles to keep with the Keras model's answers, of the gate's images or else of those for
            calibration, for `verify` to compare on; it has made-up tiles in any case.
        page: what the format `web` needs.
        notify: called with a line for each file that was written.

    Returns:
        The version; or its scores alone, where an artifact lost more than the gate allows. These scores are then in
        `output/refused.json`, and nothing else is left.

    Raises:
        ExportError: when something cannot be exported, or the version exists. Nothing is left behind.
    """
    output = Path(output)
    check_output(output, version)
    real = _real_tiles(trained, tile, calibration, gate, real_tiles)
    try:
        with staging_folder(output) as stage:
            with _temporary_files_in(stage):
                artifacts = _write_all(trained, stage, formats, quantizations, tile, calibration, page, notify)
            write_reference(trained, stage, tile, real)
            (stage / _CONFIG_FILE).write_text(dump_config(trained.config), "utf-8")
            manifest = trained.manifest.model_copy(update={"artifacts": artifacts})
            (stage / MANIFEST_FILE).write_text(manifest.to_json(), "utf-8")
            accuracy = _pass(gate, trained, stage, artifacts) if gate else None
            if accuracy:
                (stage / ACCURACY_FILE).write_text(json.dumps(accuracy.to_json(), indent=2) + "\n", "utf-8")
            if accuracy and accuracy.refused:
                os.replace(stage / ACCURACY_FILE, output / REFUSED_FILE)
                return Exported(None, manifest, accuracy, output / REFUSED_FILE)
            folder = _publish(stage, output, version)
    except Exception as error:
        if not _is_about_the_disk(error):
            raise
        raise ExportError(
            f"The export to {output} could not be written: {reason(error)}. Nothing was published; make room "
            "or correct the permissions."
        ) from error
    return Exported(folder, manifest, accuracy, folder / ACCURACY_FILE if accuracy else None)


def _is_about_the_disk(error: Exception) -> bool:
    """Tells whether a file could not be written: the libraries that write models have types of their own for that."""
    said = (os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO))
    return isinstance(error, OSError) or (not isinstance(error, RssegError) and any(one in str(error) for one in said))


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


def _write_all(
    trained: Trained,
    stage: Path,
    formats: Sequence[Format],
    quantizations: Sequence[Quantization],
    tile: Size | None,
    calibration: Sequence[NDArray],
    page: Page | None,
    notify: Callable[[str], object],
) -> tuple[Artifact, ...]:
    """Writes all files into the stage; cheap ones first, so that what cannot be exported is known early."""
    artifacts: list[Artifact] = []

    def add(artifact: Artifact) -> None:
        files = _files_of(stage, artifact)
        artifacts.append(artifact.model_copy(update={"sha256": {name: file_sha256(stage / name) for name in files}}))
        size = sum((stage / name).stat().st_size for name in files)
        notify(f"{artifact.name}: {size / 2**20:.1f} MiB")

    if "web" in formats:
        if page is None:
            raise ExportError("The format web needs LiteRT.js; pass a Page.")
        check_page(trained, page, quantizations[0])
    if "savedmodel" in formats:
        add(write_savedmodel(trained, stage))
    if "onnx" in formats:
        add(write_onnx(trained, stage, tile=tile))
    if "openvino" in formats:
        with tempfile.TemporaryDirectory() as temporary:
            onnx_file = Path(temporary) / write_onnx(trained, Path(temporary), tile=tile).path
            add(write_openvino(trained, stage, onnx_file, tile=tile))
    if "tflite" in formats:
        for quantization in quantizations:
            add(write_tflite(trained, stage, quantization, tile=tile, calibration=calibration, notify=notify))
    if "web" in formats and page is not None:
        add(write_web(trained, stage, page, quantizations[0], tile=tile, calibration=calibration, notify=notify))
    return tuple(artifacts)


def _real_tiles(
    trained: Trained, tile: Size | None, calibration: Sequence[NDArray], gate: Gate | None, count: int
) -> list[NDArray]:
    """Returns the middle of some images at equal distances in the list."""
    available = gate.samples if gate else calibration
    chosen = np.linspace(0, len(available) - 1, min(count, len(available))).astype(int)
    size = reference_size(trained, tile)
    if gate:
        images = [gate.samples[index].image for index in chosen]
        return read_tiles(images, trained.spec, size, trained.config.data.trust)
    return [middle_of(calibration[index], size) for index in chosen]


def _files_of(stage: Path, artifact: Artifact) -> list[str]:
    """Returns an artifact's files, relative to the stage."""
    if artifact.format == "savedmodel":
        parts = ("saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra")
        found = [path for part in parts for path in [stage / part, *(stage / part).rglob("*")] if path.is_file()]
        return [path.relative_to(stage).as_posix() for path in found]
    if artifact.format == "web":
        found = [path for path in (stage / WEB_FOLDER).rglob("*") if path.is_file()]
        return sorted(path.relative_to(stage).as_posix() for path in found)
    names = [artifact.path]
    if artifact.format == "openvino":
        names.append(artifact.path.removesuffix(".xml") + ".bin")
    return names


def _pass(gate: Gate, trained: Trained, stage: Path, artifacts: Sequence[Artifact]) -> Accuracy:
    """Measures the checkpoint and the staged artifacts."""
    return measure_accuracy(
        trained.predict,
        {artifact.name: open_predictor(stage / artifact.path) for artifact in artifacts},
        gate.samples,
        trained.spec,
        InferenceOptions.of(trained.config),
        max_miou_drop=gate.max_miou_drop,
        trust=trained.config.data.trust,
        progress=gate.progress,
    )


def _publish(stage: Path, output: Path, version: int | None) -> Path:
    """Renames the stage to its number; another export that was faster gets to keep its own."""
    while True:
        taken = [int(path.name) for path in output.iterdir() if path.name.isdecimal()]
        target = output / str(version if version is not None else max(taken, default=0) + 1)
        if version is not None and target.exists():
            check_output(output, version)
        try:
            stage.rename(target)
        except OSError:
            if version is None and target.exists():
                continue
            raise
        return target
