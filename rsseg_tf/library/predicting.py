"""Prediction of files: images, scenes, folders and lists of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rsseg_tf.errors import ConfigError, DataError
from rsseg_tf.files import StrPath
from rsseg_tf.library.folders import check_save_dir
from rsseg_tf.library.listening import Listener, Notify, listener_of
from rsseg_tf.library.models import AnyModel, Model, as_model, is_array, is_path, loading_options, opened
from rsseg_tf.library.opening import (
    Engine,
    ModelSource,
    Precision,
    choose_engine,
    config_of,
    locate_engine,
    open_source,
)
from rsseg_tf.library.startup import load_tensorflow
from rsseg_tf.library.windowing import changed_options, prediction_changes, windows_note
from rsseg_tf.predict import PredictionResult

if TYPE_CHECKING:
    from rsseg_tf.config import Config
    from rsseg_tf.datasets.spec import DatasetSpec
    from rsseg_tf.predict import OutputOptions, Predict, PredictionPlan, SceneOptions

__all__ = ["Predictions", "predict"]


_OUTPUT = (
    "cog", "confidence", "min_confidence", "probabilities", "vector", "min_area", "simplify", "stac", "stac_datetime",
    "pictures",
)  # fmt: skip
"""Arguments that are fields of `OutputOptions`, too."""


class Predictions(list[PredictionResult]):
    """What became of each image, in their order; see `rsseg_tf.predict.PredictionResult`.

    Attributes:
        save_dir: The folder with the results.
    """

    def __init__(self, results: Sequence[PredictionResult], save_dir: Path) -> None:
        super().__init__(results)
        self.save_dir = save_dir

    @property
    def failed(self) -> list[PredictionResult]:
        """Those of images that could not be predicted, with the reason as `error`."""
        return [result for result in self if not result.ok]

    def raise_failed(self) -> None:
        """Raises DataError for the first image that could not be predicted, if there is one."""
        for result in self.failed:
            raise DataError(failure(result))

    def __repr__(self) -> str:
        return f"<{len(self) - len(self.failed)} of {len(self)} images predicted: {self.save_dir}>"


def failure(result: PredictionResult) -> str:
    """Returns why an image could not be predicted, with its name."""
    return result.error or "" if str(result.image) in str(result.error) else f"{result.image}: {result.error}"


def predict(
    model: AnyModel,
    image_path: Any = None,
    save_dir: StrPath = "output/result",
    *,
    spec: DatasetSpec | None = None,
    config: StrPath | Mapping[str, Any] | Config | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    engine: Engine | None = None,
    tolerance: float | None = None,
    precision: Precision | None = None,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    gpus: Sequence[int] = (),
    custom_color: Sequence[int] = (),
    pictures: bool = True,
    aug_pred: bool = False,
    scales: Sequence[float] = (),
    flip_horizontal: bool = False,
    flip_vertical: bool = False,
    rotate90: bool = False,
    is_slide: bool = False,
    crop_size: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    blend: Literal["mean", "cosine"] | None = None,
    batch_size: int = 4,
    bands: Sequence[int] = (),
    stack: Sequence[str] = (),
    stack_resampling: Literal["bilinear", "nearest"] | None = None,
    max_value: float | None = None,
    match_gsd: bool = False,
    model_gsd: float | None = None,
    aoi: StrPath | None = None,
    max_memory: str | int = "2G",
    resume: bool = False,
    allow_vrt_sources: bool = False,
    cog: bool = False,
    confidence: bool = False,
    min_confidence: float | None = None,
    review_value: int | None = None,
    probabilities: bool = False,
    vector: str | None = None,
    min_area: float = 0.0,
    simplify: float = 0.0,
    stac: bool = False,
    stac_datetime: str | None = None,
    dask: str | None = None,
    workers: int | None = None,
    notify: Notify | None = None,
) -> Predictions:
    """Predicts images and scenes of any size and writes the results, as `rsseg-tf predict` does, by the same names.

    Args:
        model: A model from `load_model`, what that takes as a path, or a Keras model together with `spec`.
        image_path: An image, a scene, a folder of them, or a list file (.txt); an address (https://, s3://); a variable
            of a netCDF, HDF5 or Zarr file (FILE:VARIABLE). Several as a list.
        save_dir: Folder for the results.
        spec: As `load_model` takes it, and the next six too: for a model that is a path.
        config: As there.
        overrides: As there.
        engine: As there.
        tolerance: As there.
        precision: As there.
        device: As there.
        gpus: As there.
        custom_color: Colours of the classes in order, three numbers each, instead of the dataset's palette.
        pictures: Whether to write pseudo_color_prediction/ and added_prediction/.
        aug_pred: As `Model.predict` takes it, and the next eight too.
        scales: As there.
        flip_horizontal: As there.
        flip_vertical: As there.
        rotate90: As there.
        is_slide: As there.
        crop_size: As there.
        stride: As there.
        blend: As there.
        batch_size: Windows per call of the model.
        bands: Bands to read, in the model's order, from 1.
        stack: One image of the bands of several files, instead of `image_path`.
        stack_resampling: With `stack`: how bands on other grids are resampled; None for bilinear.
        max_value: Pixel value that corresponds to the model's max_value, if the scene is scaled differently.
        match_gsd: Resample to the model's metres per pixel, and back.
        model_gsd: With `match_gsd`: the model's metres per pixel, if the model does not store them.
        aoi: File of polygons; only pixels inside are predicted.
        max_memory: Limit of buffers in bytes, or with K, M, G or T.
        resume: Go on where an earlier run with the same options was stopped.
        allow_vrt_sources: Follow VRTs and files of other formats to whatever they name.
        cog: Write Cloud Optimized GeoTIFFs.
        confidence: Also write the largest probability, in steps of 1/254.
        min_confidence: Give pixels with a smaller probability the review value.
        review_value: With `min_confidence`: id of uncertain pixels; None for 254.
        probabilities: Also write the probability of each class.
        vector: Also write polygons: gpkg, geojson, fgb or parquet; or for one scene the name of such a file.
        min_area: With `vector`: leave out polygons of fewer square metres.
        simplify: With `vector`: tolerance of outlines in pixels.
        stac: Also write a STAC item that describes the other results.
        stac_datetime: With `stac`: when the image was taken.
        dask: Predict on the workers of a Dask scheduler at this address, or of a `local` cluster.
        workers: With `dask="local"`: number of processes; None for 2.
        notify: Called with a line for each note; see `rsseg_tf.library.Listener` for how far it is.

    Returns:
        What became of each image. One that cannot be predicted does not stop the others: `.failed` has it with the
        reason, and `.raise_failed()` raises.

    Raises:
        ConfigError: For options that are wrong or have no effect, and results that must not be replaced.
        DataError: When there is no image.
        WeightsError: When there is no model.
        ExportError: When an exported model cannot be used.
    """
    from rsseg_tf.predict import OutputOptions
    from rsseg_tf.rasters.polygon_files import read_area

    given = dict(locals())
    listener = listener_of(notify)
    _check_combinations(given)
    if aoi is not None:
        read_area(Path(aoi))  # so that an error in it comes before a model is loaded, and once
    changes = prediction_changes("aug_pred", given | {"augmented": aug_pred})
    output = OutputOptions(
        **{name: given[name] for name in _OUTPUT},
        review_value=254 if review_value is None else review_value,
    )
    folder = Path(save_dir)
    check_save_dir(folder)
    paths, base = _collected(given, folder, listener)
    model = _opened(model, given, paths[0], changes.get("crop_size"), listener)
    if dask is not None and model.source is None:
        raise ConfigError(
            "--dask has no effect with --server, which does the work; use --in_flight, or leave it out."
            if model.kind == "server"
            else "--dask sends a model to its workers by its path; this one was given as a Keras model. Leave it out."
        )
    if line := windows_note(model.predictor, changes):
        listener.note(line)
    options = changed_options(model.options, changes)
    # A server takes as many windows as may be on their way.
    options = dataclasses.replace(options, batch_size=max(batch_size, options.batch_size))
    plan = _plan(model, paths, base, folder, options, output, given)
    if dask is None:
        results = _predict_here(plan, model.predictor.predict, listener)
    else:
        results = _predict_on_cluster(plan, model, given, listener)
    return Predictions(results, folder)


def _check_combinations(values: Mapping[str, Any]) -> None:
    """Refuses options without effect."""
    pairs = (("workers", "dask"), ("model_gsd", "match_gsd"), ("review_value", "min_confidence"))
    for name, needed in pairs:
        if values[name] is not None and not values[needed]:
            raise ConfigError(f"--{name} has an effect with --{needed} only; add it or leave --{name} out.")
    if values["workers"] is not None and values["dask"] != "local":
        raise ConfigError("--workers is for --dask local; the workers of a scheduler are started beside it.")


def _collected(given: Mapping[str, Any], folder: Path, listener: Listener) -> tuple[list[Any], Path | None]:
    """Returns the images, and the folder that the names of results are relative to; None for their common folder."""
    from rsseg_tf.library.stacking import stacked
    from rsseg_tf.predict import collect_sources

    stack, images = stacked(given["stack"], given["stack_resampling"]), given["image_path"]
    if (images is None) == (stack is None):
        which = "neither" if stack is None else "both"
        raise ConfigError(f"--image_path or --stack is needed, one of the two; got {which}.")
    named = list(images) if isinstance(images, list | tuple) else [images if stack is None else stack]
    if not named:
        raise DataError("image_path is an empty list; name at least one image.")
    for one in named:
        if is_array(one):
            raise DataError(
                "rsseg_tf.predict takes files; got an array. Arrays are predicted by load_model(…).predict."
            )
    found = [
        collect_sources(one, exclude=folder, notify=listener.note, any_driver=given["allow_vrt_sources"])
        for one in named
    ]
    return [path for paths, _ in found for path in paths], found[0][1] if len(found) == 1 else None


def _opened(model: AnyModel, given: Mapping[str, Any], image: Any, window: Any, listener: Listener) -> Model:
    """Returns the model; for the engine `auto` the image that comes first decides."""
    if not is_path(model):
        given_config = {"config": given["config"], "overrides": given["overrides"]}
        return as_model(model, listener, **loading_options(given), **given_config)
    if given["spec"] is not None:
        raise ConfigError(f"spec describes a Keras model; {model} has one itself. Leave it out.")
    source = locate_engine(model, given["engine"], given["tolerance"], given["precision"])
    config = config_of(source, given["config"], given["overrides"])
    from rsseg_tf.library.devices import choose_device

    choose_device(given["device"], given["gpus"])
    return opened(choose_engine(source, config, image, window, listener=listener), config)


def _plan(
    model: Model,
    paths: Sequence[Any],
    base: Path | None,
    folder: Path,
    options: Any,
    output: OutputOptions,
    given: Mapping[str, Any],
) -> PredictionPlan:
    from rsseg_tf.predict import PredictionPlan, PredictionSettings, palette_with

    palette = palette_with(given["custom_color"] or None, model.spec)
    settings = PredictionSettings(model.spec, folder, options, _scenes(model, given), output, palette)
    return PredictionPlan(paths, settings, base=base)


def _scenes(model: Model, given: Mapping[str, Any]) -> SceneOptions:
    from rsseg_tf.predict import SceneOptions
    from rsseg_tf.predict.options import parse_memory

    memory = given["max_memory"]
    return SceneOptions(
        bands=tuple(given["bands"]) or None,
        max_memory=memory if isinstance(memory, int) else parse_memory(memory),
        model=model.identity(),
        aoi=None if given["aoi"] is None else Path(given["aoi"]),
        **{name: given[name] for name in ("max_value", "match_gsd", "model_gsd", "resume", "allow_vrt_sources")},
    )


def _predict_here(plan: PredictionPlan, predict: Predict, listener: Listener) -> list[PredictionResult]:
    """Predicts in this process."""
    results: list[PredictionResult] = []
    with listener.pixels(plan) as (advance, finish):
        for job, result in plan.run(predict, advance):
            finish(job)
            results.append(result)
    return results


def _predict_on_cluster(
    plan: PredictionPlan, model: Model, given: Mapping[str, Any], listener: Listener
) -> list[PredictionResult]:
    """Predicts on Dask workers."""
    from rsseg_tf.predict.cluster import predict_on_cluster

    if model.source is None:
        raise ConfigError("--dask needs a model that was loaded from a path.")
    # A worker has another working directory, and shares the processors with other workers.
    remote = dataclasses.replace(model.source, path=model.source.path.absolute(), threads=None)
    open_model: Callable[[], Predict] = partial(
        _open_in_worker, remote, model.config, given["device"], tuple(given["gpus"])
    )
    address = None if given["dask"] == "local" else given["dask"]
    with listener.pixels(plan) as (_, finish):
        return predict_on_cluster(plan, open_model, address, workers=given["workers"] or 2, finish=finish)


def _open_in_worker(source: ModelSource, config: Config | None, device: str, gpus: tuple[int, ...]) -> Predict:
    """Opens the model in a worker."""
    load_tensorflow()
    from rsseg_tf.library.devices import choose_device

    choose_device(device, gpus)
    return open_source(source, config).predict
