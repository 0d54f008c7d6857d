"""Export of checkpoints and of Keras models, and the comparison of what was exported."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsseg_tf.errors import ConfigError, did_you_mean
from rsseg_tf.files import StrPath, several
from rsseg_tf.library.listening import Listener, Notify, listener_of
from rsseg_tf.library.models import AnyModel, Model, image_array, is_path
from rsseg_tf.library.startup import load_tensorflow
from rsseg_tf.library.windowing import size_of
from rsseg_tf.manifest import CALIBRATED, FORMATS, QUANTIZATIONS, Format, Quantization
from rsseg_tf.rasters.windows import Size

if TYPE_CHECKING:
    import keras
    from numpy.typing import NDArray

    from rsseg_tf.config import Config
    from rsseg_tf.datasets.spec import DatasetSpec
    from rsseg_tf.export import AccuracyLimit, Comparison, ExportResult, Page, TrainedModel
    from rsseg_tf.predictors import Predictor
    from rsseg_tf.rasters.gdal import Trust

__all__ = ["export", "export_model", "verify"]

_REAL_TILES = 4
_COUNT = 32  # of images for calibration


def export(
    checkpoint: AnyModel,
    output: StrPath,
    *,
    format: Format | Sequence[Format] = "savedmodel",
    quantize: Quantization | Sequence[Quantization] = (),
    tile: tuple[int, int] | None = None,
    calibration: StrPath | Sequence[NDArray[Any]] | None = None,
    calibration_count: int | None = None,
    seed: int | None = None,
    eval: StrPath | None = None,
    max_miou_drop: float | None = None,
    real_tiles: int | None = None,
    web_sample: StrPath | None = None,
    web_title: str | None = None,
    web_urls: Sequence[str] = (),
    litertjs: StrPath | None = None,
    version: int | None = None,
    config: StrPath | Mapping[str, Any] | Config | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    notify: Notify | None = None,
) -> ExportResult:
    """Exports a checkpoint as a new version in `output`, as `rsseg-tf export` does, by the same names.

    Args:
        checkpoint: A folder such as `output/best_model`, or a model that `load_model` loaded from one.
        output: Folder of the model's versions. A version appears whole or not at all, and none is ever overwritten.
        format: What to write: `savedmodel`, `tflite`, `onnx`, `openvino`, `web`, `deepness`; one, or several.
        quantize: TFLite files to write: `float32`, `float16`, `dynamic`, `int8`, `int16x8`; one, or several; none means
            `float32`.
        tile: Fixed input size of TFLite, ONNX and OpenVINO files, height first; None for any size.
        calibration: Images that int8 and int16x8 measure activations on: a list file, or arrays `(H, W, bands)`; None
            for the training list.
        calibration_count: How many images to draw from the list; None for 32.
        seed: Of that draw; None for 0.
        eval: A list of labelled images to score the checkpoint and each artifact on.
        max_miou_drop: With `eval`: publish nothing if an artifact loses more mIoU, in points of 100; None for 1.0.
        real_tiles: With `eval` or calibration: tiles of these images to keep for `verify`; None for 4.
        web_sample: With web: an image that the page offers to try; it becomes public.
        web_title: With web: headline of the page.
        web_urls: With web: servers whose GeoTIFF files the page may read by address.
        litertjs: With web: the packages of the page as npm pack writes them.
        version: Number of the version; None for the next free one.
        config: Another config than the checkpoint's own.
        overrides: Changes of the config.
        notify: Called with a line for each file that was written.

    Returns:
        The version, as `.folder`; None there where a model lost more than it may, whose scores are in `.accuracy`.

    Raises:
        ConfigError: For options that are wrong or have no effect.
        WeightsError: When it is no checkpoint.
        ExportError: When something cannot be exported, or the version exists.
    """
    given = dict(locals())
    plan = _Plan(given)
    load_tensorflow()
    from rsseg_tf.checkpoint import config_file
    from rsseg_tf.config import load_config
    from rsseg_tf.export import check_output, load_trained

    check_output(output, version)
    folder = _checkpoint_of(checkpoint)
    own = checkpoint.config if isinstance(checkpoint, Model) else None
    checked = load_config(config or own or config_file(folder), overrides)
    return plan.publish(lambda: load_trained(folder, checked), checked.dataset.spec, checked.data.trust)


def _checkpoint_of(model: AnyModel) -> Path:
    """Returns the folder of a checkpoint."""
    if is_path(model):
        return Path(model)
    if isinstance(model, Model) and model.source is not None and model.kind == "checkpoint":
        return model.source.path
    name = model.name if isinstance(model, Model) else type(model).__name__
    raise ConfigError(
        f"a checkpoint is exported, by its folder or loaded from it; got {name}. A Keras model is exported by "
        "rsseg_tf.export_model."
    )


def export_model(
    model: keras.Model,
    spec: DatasetSpec,
    output: StrPath,
    *,
    format: Format | Sequence[Format] = "savedmodel",
    quantize: Quantization | Sequence[Quantization] = (),
    tile: tuple[int, int] | None = None,
    calibration: StrPath | Sequence[NDArray[Any]] | None = None,
    calibration_count: int | None = None,
    seed: int | None = None,
    eval: StrPath | None = None,
    max_miou_drop: float | None = None,
    real_tiles: int | None = None,
    web_sample: StrPath | None = None,
    web_title: str | None = None,
    web_urls: Sequence[str] = (),
    litertjs: StrPath | None = None,
    version: int | None = None,
    crop_size: tuple[int, int] = (512, 512),
    temperature: float = 1.0,
    from_logits: bool = True,
    notify: Notify | None = None,
) -> ExportResult:
    """Exports a Keras model of your own as a new version in `output`; no config is needed.

    Args:
        model: Takes normalised `(B, H, W, bands)`, gives `(B, H, W, classes)`, alone or as the output `main`, for
            images of any size.
        spec: Its classes, bands and normalisation, from `rsseg_tf.custom_spec`. The files take pixels as they are in
            the images and normalise them inside.
        output: As `export` takes it, and all up to `version` too.
        format: As there.
        quantize: As there.
        tile: As there.
        calibration: As there, but needed for int8 and int16x8.
        calibration_count: As there.
        seed: As there.
        eval: As there.
        max_miou_drop: As there.
        real_tiles: As there.
        web_sample: As there.
        web_title: As there.
        web_urls: As there.
        litertjs: As there.
        version: As there.
        crop_size: Size of images that it was trained on, width first: that of windows of large images.
        temperature: What logits are divided by before they become probabilities.
        from_logits: Whether it gives logits; False for probabilities.
        notify: Called with a line for each file that was written.

    Returns:
        As `export`.

    Raises:
        ConfigError: When the model does not fit the spec, and for options that are wrong or have no effect.
        ExportError: When something cannot be exported, or the version exists.
    """
    given = dict(locals())
    plan = _Plan(given)
    load_tensorflow()
    from rsseg_tf.export import check_output, own_trained
    from rsseg_tf.rasters.gdal import TRUSTING_NOBODY

    check_output(output, version)
    plan.take_size_of(model)
    trained = own_trained(
        model,
        spec,
        crop_size=size_of("crop_size", crop_size, width_first=True),
        temperature=temperature,
        from_logits=from_logits,
    )
    return plan.publish(lambda: trained, spec, TRUSTING_NOBODY)


def verify(
    folder: StrPath,
    *,
    images: StrPath | Sequence[StrPath] = (),
    checkpoint: StrPath | None = None,
    server: str | None = None,
    model_name: str | None = None,
    threads: int | None = None,
    notify: Notify | None = None,
) -> list[Comparison]:
    """Compares everything in an exported version with the Keras model, as `rsseg-tf verify` does, by the same names.

    Args:
        folder: A version, or the folder of all versions, of which the newest is taken.
        images: With `checkpoint`: an image, a folder or a list file (.txt) to compare on too, or several images; the
            middle of each.
        checkpoint: The exported checkpoint, to run again; None compares with its answers at the time of the export.
        server: A server of this export to compare too: `HOST:PORT` for gRPC, `http://HOST:PORT` for REST.
        model_name: With `server`: the model's name there; None for that of the folder of versions.
        threads: For TFLite, ONNX and OpenVINO.
        notify: Called with a line for each note about the images.

    Returns:
        For each model how far it is from the Keras model; `.passed` tells whether that is within its tolerance.

    Raises:
        ConfigError: For options without effect.
        ExportError: When files are missing or were changed since the export, or `checkpoint` or the server's model has
            other weights.
        DataError: When an image cannot be read or does not fit.
        ServingError: When the server does not answer.
    """
    if model_name is not None and server is None:
        raise ConfigError("--model_name has an effect with --server only; add it or leave --model_name out.")
    listener = listener_of(notify)
    load_tensorflow()
    from rsseg_tf.export.verify import verify as compared
    from rsseg_tf.predict import collect_images

    paths: Sequence[StrPath]
    if isinstance(images, str | os.PathLike):
        paths = collect_images(images, notify=listener.note)[0]
    else:
        paths = images
    others = {} if server is None else {f"server {server}": _served(server, model_name, folder, listener)}
    return compared(folder, images=paths, checkpoint=checkpoint, others=others, threads=threads)


def _served(server: str, model_name: str | None, folder: StrPath, listener: Listener) -> Predictor:
    """Opens the model on a server; by default by the name of the folder of versions, as `rsseg-tf serve` calls it."""
    from rsseg_tf.extras import require

    require("tensorflow_serving", "serving")
    from rsseg_tf.export import version_folder
    from rsseg_tf.serving.client import remote_predictor

    name = model_name or version_folder(Path(folder)).resolve().parent.name
    return remote_predictor(server, name, in_flight=1, notify=listener.note)


# === What export and export_model share ===


def _named(what: str, value: Any, allowed: tuple[str, ...]) -> tuple[Any, ...]:
    """Returns names given as one or several, each once.

    Raises:
        ConfigError: For an unknown name.
    """
    names = several(value)
    for name in names:
        if name not in allowed:
            raise ConfigError(f"--{what}: '{name}' is not one of {', '.join(allowed)}.{did_you_mean(name, allowed)}")
    return tuple(dict.fromkeys(names))


class _Plan:
    """What an export writes, as its caller gave it; options without effect are refused.

    Args:
        given: The arguments of `export` or `export_model`.

    Raises:
        ConfigError: For options that are wrong or have no effect.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        self.listener = listener_of(given["notify"])
        self.formats: tuple[Format, ...] = _named("format", given["format"], FORMATS)
        self.quantizations: tuple[Quantization, ...] = _named("quantize", given["quantize"], QUANTIZATIONS)
        self.tile = size_of("tile", given["tile"]) if given["tile"] else None
        self.calibrated = bool({"tflite", "web"} & set(self.formats) and set(CALIBRATED) & set(self.quantizations))
        self._require_effect()

    def _require_effect(self) -> None:
        given, formats, quantizations = self.given, self.formats, self.quantizations
        if quantizations and not {"tflite", "web"} & set(formats):
            raise ConfigError("--quantize is for TFLite files; add tflite to --format, or web.")
        if len(quantizations) > 1 and "tflite" not in formats:
            raise ConfigError(
                f"A page runs one model; got --quantize {','.join(quantizations)}. Name one, or add tflite."
            )
        for name in ("calibration", "calibration_count", "seed"):
            if given[name] is not None and not self.calibrated:
                raise ConfigError(f"--{name} has an effect with --quantize int8 or int16x8 only; leave it out.")
        if given["max_miou_drop"] is not None and given["eval"] is None:
            raise ConfigError("--max_miou_drop has an effect with --eval only; add the list, or leave it out.")
        if given["real_tiles"] is not None and given["eval"] is None and not self.calibrated:
            raise ConfigError("--real_tiles takes tiles of the images of --eval or of calibration, and there are none.")
        for name in ("web_sample", "web_title", "web_urls", "litertjs"):
            if given[name] not in (None, ()) and "web" not in formats:
                raise ConfigError(f"--{name} is for a page; add web to --format.")

    def take_size_of(self, model: keras.Model) -> None:
        """Makes the only size of a model's input that of its files.

        Raises:
            ConfigError: When a file of another size, or of any size, is asked for.
        """
        shape = getattr(model, "input_shape", None)
        if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:3]:
            return
        fixed = Size(*shape[1:3])
        if "savedmodel" in self.formats or self.tile not in (None, fixed):
            raise ConfigError(
                f"The model '{model.name}' takes images of {fixed} pixels alone; a SavedModel takes any size. Name "
                "another --format and leave --tile out, or build the model on keras.Input((None, None, bands)) and set "
                "its weights."
            )
        self.tile = fixed

    def page(self) -> Page | None:
        """Returns what the format web needs; None without it."""
        if "web" not in self.formats:
            return None
        from rsseg_tf.export import Page, find_page_packages

        given = self.given
        packages = find_page_packages(_path(given["litertjs"]))
        return Page(packages, given["web_title"], _path(given["web_sample"]), several(given["web_urls"]))

    def publish(self, load: Callable[[], TrainedModel], spec: DatasetSpec, trust: Trust) -> ExportResult:
        """Exports a model.

        Args:
            load: Loads it; called when all else is known to be there.
            spec: Its dataset.
            trust: How large images may be.
        """
        from rsseg_tf.export import ExportOptions, publish

        given, page = self.given, self.page()  # npm may be missing, which is better known before the model is loaded
        with self._limit(spec, trust) as limit:
            trained = load()
            options = ExportOptions(
                formats=self.formats,
                quantizations=self.quantizations or ("float32",),
                tile=self.tile,
                calibration=self._calibration(trained) if self.calibrated else (),
                real_tiles=_REAL_TILES if given["real_tiles"] is None else given["real_tiles"],
                page=page,
            )
            return publish.export_model(
                trained, given["output"], options, version=given["version"], limit=limit, notify=self.listener.say
            )

    def _calibration(self, trained: TrainedModel) -> Sequence[NDArray[Any]]:
        from rsseg_tf.export import calibration_images

        given, images = self.given, self.given["calibration"]
        if images is not None and not is_path(images):
            for name in ("calibration_count", "seed"):
                if given[name] is not None:
                    raise ConfigError(f"--{name} draws from a list; calibration holds the images. Leave it out.")
            return [image_array(image, trained.spec) for image in images]
        if images is None:
            if trained.config is None:
                raise ConfigError("int8 and int16x8 measure activations on images: name a list of some (calibration).")
            dataset = trained.config.dataset
            images = Path(dataset.root) / dataset.train_list
        return calibration_images(
            images,
            trained.spec,
            self.tile or trained.manifest.crop_size,
            count=given["calibration_count"] or _COUNT,
            seed=given["seed"] or 0,
            trust=trained.trust,
        )

    @contextmanager
    def _limit(self, spec: DatasetSpec, trust: Trust) -> Iterator[AccuracyLimit | None]:
        """Yields what must be passed before publication, with a bar for each model."""
        eval_list = self.given["eval"]
        if eval_list is None:
            yield None
            return
        from rsseg_tf.export import AccuracyLimit
        from rsseg_tf.library.samples import checked_eval_list

        samples = checked_eval_list(Path(eval_list), spec, trust=trust, listener=self.listener)
        drop = self.given["max_miou_drop"]
        with self.listener.bars(len(samples)) as advance:
            yield AccuracyLimit(samples, 1.0 if drop is None else drop, advance)


def _path(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)
