"""Evaluation of a model on labelled images."""

from __future__ import annotations

import dataclasses
import html
import itertools
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rsseg_tf.datasets.protocols import PROTOCOLS, present_name
from rsseg_tf.errors import ConfigError, did_you_mean
from rsseg_tf.files import StrPath
from rsseg_tf.library.devices import choose_devices, expect_workers
from rsseg_tf.library.folders import check_file_place, check_save_dir, make_file_place, write_report
from rsseg_tf.library.listening import Listener, Notify, listener_of
from rsseg_tf.library.models import AnyModel, Model, as_model, is_path, load_model, loading_options
from rsseg_tf.library.opening import (
    Engine,
    ModelSource,
    Precision,
    choose_engine,
    load_beside,
    locate_engine,
    open_model,
    require_classes_of,
)
from rsseg_tf.library.training import with_settings
from rsseg_tf.library.windowing import changed_options, prediction_changes, windows_note

if TYPE_CHECKING:
    from rsseg_tf.config import Config
    from rsseg_tf.datasets.spec import DatasetSpec
    from rsseg_tf.evaluate.details import Details
    from rsseg_tf.evaluate.evaluation import Evaluation, Look, Observer
    from rsseg_tf.metrics import Calibration, SegmentationScores
    from rsseg_tf.predictors import Predictor
    from rsseg_tf.training.workers import Workers

__all__ = ["EvalResult", "evaluate"]

_KEYS = {"protocol": "eval.protocol", "batch_size": "eval.batch_size", "num_workers": "data.workers"}
"""Option -> the key of the config that it sets."""
_WEIGHTS = ("weights.npz", "saved_model.pb", "variables/*")
"""Files with the weights, in the folder of a checkpoint or a SavedModel."""


@dataclass(frozen=True)
class EvalResult:
    """The outcome of an evaluation.

    Attributes:
        scores: All scores, from the confusion matrix.
        protocol: The protocol in a few words, such as `stitched (14 scenes)`.
        images: Number of images.
        report: What eval.json says.
        calibration: The temperature that was fitted, if one was.
        file: The file eval.json, if it was written.
        beside: Folder of the model, where the command writes eval.json; None for a Keras model and a server, and in all
            workers but the first.
    """

    scores: SegmentationScores
    protocol: str
    images: int
    report: Mapping[str, Any] = field(repr=False)
    calibration: Calibration | None = None
    file: Path | None = None
    beside: Path | None = field(default=None, repr=False)

    @property
    def miou(self) -> float:
        """Mean IoU, 0..1."""
        return self.scores.miou

    @property
    def acc(self) -> float:
        """Share of correct pixels, 0..1."""
        return self.scores.acc

    @property
    def kappa(self) -> float:
        """Cohen's kappa, at most 1."""
        return self.scores.kappa

    @property
    def dice(self) -> float:
        """Mean Dice, 0..1."""
        return self.scores.dice

    @property
    def class_iou(self) -> dict[str, float]:
        """IoU of each class, 0..1, by name."""
        return dict(zip(self.scores.classes, map(float, self.scores.class_iou), strict=True))

    def summary(self) -> str:
        """Returns PaddleSeg's line about the scores."""
        scores = self.scores
        return (
            f"[EVAL] #Images: {self.images} mIoU: {scores.miou:.4f} Acc: {scores.acc:.4f} Kappa: {scores.kappa:.4f} "
            f"Dice: {scores.dice:.4f} Protocol: {self.protocol}"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns what eval.json says, as plain values."""
        return dict(self.report)

    def write(self, folder: StrPath) -> Path:
        """Writes eval.json to a folder, which is made if missing, and returns the file.

        Raises:
            ConfigError: When it cannot be written.
        """
        file = Path(folder) / "eval.json"
        write_report(file, self.report)
        return file

    def __repr__(self) -> str:
        classes = ", ".join(f"{name} {iou:.4f}" for name, iou in self.class_iou.items())
        return (
            f"<mIoU {self.miou:.4f}, Acc {self.acc:.4f}, Kappa {self.kappa:.4f}, Dice {self.dice:.4f} on {self.images} "
            f"images; IoU: {classes}>"
        )

    def _repr_html_(self) -> str:
        """Returns the scores as a table for a notebook, in percent."""
        scores = self.scores
        columns = (scores.class_iou, scores.class_precision, scores.class_recall, scores.class_dice)
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td>"
            + "".join(f"<td>{100 * column[place]:.2f}</td>" for column in columns)
            + f"<td>{int(scores.label_pixels[place]):,}</td></tr>"
            for place, name in enumerate(scores.classes)
        )
        means = (scores.miou, scores.macro_precision, scores.macro_recall, scores.dice)
        mean = "".join(f"<td><b>{100 * value:.2f}</b></td>" for value in means)
        head = "".join(f"<th>{name}</th>" for name in ("class", "IoU", "precision", "recall", "Dice", "pixels"))
        told = f"{self.images} images, protocol {html.escape(self.protocol)}; Acc {100 * self.acc:.2f} %"
        return (
            f"<table><caption>{told}</caption><thead><tr>{head}</tr></thead><tbody>{rows}"
            f"<tr><td><b>mean</b></td>{mean}<td></td></tr></tbody></table>"
        )


def evaluate(
    model_path: AnyModel,
    *,
    spec: DatasetSpec | None = None,
    config: StrPath | Mapping[str, Any] | Config | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    samples: StrPath | None = None,
    engine: Engine | None = None,
    tolerance: float | None = None,
    precision: Precision | None = None,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    gpus: Sequence[int] = (),
    protocol: str | None = None,
    aug_eval: bool = False,
    scales: Sequence[float] = (),
    flip_horizontal: bool = False,
    flip_vertical: bool = False,
    rotate90: bool = False,
    is_slide: bool = False,
    crop_size: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    blend: Literal["mean", "cosine"] | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    save_dir: StrPath | None = None,
    report: StrPath | None = None,
    calibrate: bool = False,
    notify: Notify | None = None,
) -> EvalResult:
    """Scores a model's predictions on labelled images, as `rsseg-tf eval` does, by the same names.

    Args:
        model_path: A model from `load_model`, what that takes as a path, or a Keras model together with `spec`.
        spec: As `load_model` takes it.
        config: Names the dataset; None takes the one beside the model.
        overrides: Changes of the config: `["dataset.root=data/mine"]` or `{"dataset.root": "data/mine"}`.
        samples: A list of labelled images (`image label` per line, relative to its folder) in place of the config's.
        engine: As `load_model` takes it, and the next four too: for a model that is a path.
        tolerance: As there.
        precision: As there.
        device: As there; several GPUs share the images of a checkpoint.
        gpus: As there.
        protocol: Pixels that count: `benchmark`, `stitched` or `isprs5`; None takes the config's.
        aug_eval: As `aug_pred` of `Model.predict`, and the next eight as there.
        scales: As there.
        flip_horizontal: As there.
        flip_vertical: As there.
        rotate90: As there.
        is_slide: As there.
        crop_size: As there.
        stride: As there.
        blend: As there.
        batch_size: Images of one size, or windows, that each device predicts at a time; None takes the config's.
        num_workers: Images read in parallel; None takes the config's.
        save_dir: Folder for eval.json; None writes none.
        report: Write a page there (.html) that shows where the model fails.
        calibrate: Fit a temperature to these images and store it in the checkpoint.
        notify: Called with each line about the evaluation, such as `print`.

    Raises:
        ConfigError: For options that are wrong or have no effect, and a config that does not fit the model.
        DataError: When images or labels are wrong.
        WeightsError: When there is no model.
        ExportError: When an exported model cannot be used.
    """
    given = dict(locals())
    listener = listener_of(notify)
    expect_workers()
    changes = prediction_changes("aug_eval", given | {"augmented": aug_eval})
    _check_places(save_dir, report)
    if protocol is not None and present_name(protocol) not in PROTOCOLS:
        raise ConfigError(
            f"--protocol is '{protocol}'.{did_you_mean(protocol, PROTOCOLS)} Allowed: {', '.join(PROTOCOLS)}."
        )
    model = None if is_path(model_path) else as_model(model_path, listener, **loading_options(given))
    source = locate_engine(model_path, engine, tolerance, precision) if model is None else model.source
    if calibrate:
        _require_checkpoint(source, engine)
    config_used = _config(model, source, given)
    if calibrate or report is not None:
        _require_alone("calibrate" if calibrate else "report")
    return _Work(given, changes, listener, config_used, source, model).run()


def _check_places(save_dir: StrPath | None, report: StrPath | None) -> None:
    """Finds out before the work whether the results can be written."""
    if save_dir is not None:
        check_save_dir(Path(save_dir))
    if report is None:
        return
    from rsseg_tf.evaluate.report import check_report_place

    path = Path(report)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--report writes an HTML page; got {path}. Name a file such as report.html.")
    check_report_place(path)
    check_file_place(path)


def _require_checkpoint(source: ModelSource | None, engine: str | None) -> None:
    """Raises ConfigError where --calibrate has no checkpoint to store a temperature in."""
    if engine == "auto":
        raise ConfigError(
            "--calibrate fits a checkpoint, and --engine auto may run another file; leave one of them out."
        )
    if source is None:
        raise ConfigError("--calibrate stores a temperature in a checkpoint; a Keras model has no place for it.")
    if source.kind != "checkpoint":
        raise ConfigError(
            f"--calibrate stores a temperature in a checkpoint; {source.path} was exported. Calibrate its checkpoint, "
            "and export it again."
        )


def _require_alone(option: str) -> None:
    """Raises ConfigError where several workers would share the images."""
    from rsseg_tf.training.cluster import read_cluster

    if cluster := read_cluster():
        raise ConfigError(
            f"--{option} looks at all images in one process, and here {len(cluster.addresses)} workers share them "
            "(docs/several_machines.md). Leave it out, or run one process without TF_CONFIG and SLURM_STEP_NUM_TASKS."
        )


def _config(model: Model | None, source: ModelSource | None, given: Mapping[str, Any]) -> Config:
    """Returns the config that names the labelled images, with what options change in it.

    Where `samples` names them and nothing else does, it is made from what the model knows of its classes.
    """
    settings: dict[str, Any] = {key: given[name] for name, key in _KEYS.items() if given[name] is not None}
    if given["samples"] is not None:
        samples = Path(given["samples"]).absolute()
        settings |= {"dataset.root": str(samples.parent), "dataset.val_list": samples.name}
    config = given["config"]
    if config is None and model is not None:
        config = model.config
    if config is None and source is None:
        if model is None or given["samples"] is None:
            raise ConfigError(
                "The labelled images are unknown: name their list (samples), or a config with the dataset."
            )
        config = _config_around(model.spec)
    # As texts, paths would have to be written as YAML wants them.
    changes = with_settings(given["overrides"] or {}, settings)
    if source is None:
        from rsseg_tf.config import load_config

        return load_config(config, changes)
    beside = source.path if source.path.is_dir() else source.path.parent
    if config is None and given["samples"] is not None and not (beside / "config.yml").is_file():
        opened_model = model or load_model(given["model_path"], **loading_options(given))
        config = _config_around(opened_model.spec)
    return load_beside(source.path, config, changes)


def _config_around(spec: DatasetSpec) -> dict[str, Any]:
    """Returns a config that tells a dataset's facts; a section that fits any dataset stands for the model."""
    from rsseg_tf.config.schema import CustomDataset

    dataset = CustomDataset.of(spec, root=".").model_dump(mode="json")
    return {"dataset": dataset, "model": {"name": "keras_model", "architecture": ""}, "train": {"iters": 1}}


@dataclass(frozen=True)
class _Work:
    """An evaluation whose options were checked.

    Attributes:
        given: The arguments of `evaluate`.
        changes: From `prediction_changes`.
        listener: Hears lines.
        config: Names the images.
        source: What runs the model; None for a Keras model and a server.
        model: The model, if it is open.
    """

    given: Mapping[str, Any]
    changes: dict[str, Any]
    listener: Listener
    config: Config
    source: ModelSource | None
    model: Model | None

    def run(self) -> EvalResult:
        """Evaluates, and writes what was asked for."""
        from rsseg_tf.evaluate.details import Details
        from rsseg_tf.evaluate.evaluation import plan_evaluation
        from rsseg_tf.library.samples import checked_samples
        from rsseg_tf.metrics import Calibration, LogitSample
        from rsseg_tf.training.workers import end_when_stuck

        config, listener, given = self.config, self.listener, self.given
        strategy, workers = self._devices()
        with end_when_stuck(workers):
            with workers.reporting():
                (samples,) = checked_samples(config, "val", listener=listener)
                evaluation = plan_evaluation(config, samples)
                source = self.source
                if workers.is_chief and source is not None and self.model is None:
                    window = self.changes.get("crop_size")
                    source = choose_engine(source, config, samples[0].image, window, listener=listener)
            if source is not None and self.model is None:
                source = _agreed(workers, source, config, self.changes, len(samples))
            with workers.reporting():
                predictor = self._predictor(source, strategy)
                if line := windows_note(predictor, self.changes):
                    listener.note(line)
                calibrate, detailed = given["calibrate"], given["report"] is not None
                drawn = LogitSample(evaluation.spec.num_classes) if calibrate else None
                details = Details(evaluation.spec, samples, predictor.options.temperature, drawn, detailed=detailed)
                look = details.look if calibrate or detailed else None
                scores = _scores(predictor, evaluation, details.observe, look, config.data.workers, workers, listener)
        calibration = None if drawn is None else Calibration.fit(drawn)
        result = EvalResult(
            scores,
            evaluation.summary,
            len(samples),
            self._report(scores, evaluation, predictor, source),
            calibration,
        )
        return self._written(result, details, source) if workers.is_chief else result

    def _devices(self) -> tuple[Any, Workers]:
        if self.model is None and self.source is not None:
            return choose_devices(self.given["device"], self.given["gpus"], self.source.kind, self.listener)
        from rsseg_tf.training.workers import Workers

        return None, Workers()

    def _predictor(self, source: ModelSource | None, strategy: Any) -> Predictor:
        changes = self.changes | {"batch_size": self.config.eval.batch_size}
        if self.model is None and source is not None:
            return open_model(source, self.config, changes, strategy)
        if self.model is None:
            raise ConfigError("There is no model.")
        predictor = self.model.predictor
        require_classes_of(predictor.spec.classes, self.config, self.model.name)
        return dataclasses.replace(predictor, options=changed_options(predictor.options, changes))

    @property
    def name(self) -> str:
        """The model's name in reports."""
        return str(self.given["model_path"]) if self.model is None else self.model.name

    def _report(
        self, scores: SegmentationScores, evaluation: Evaluation, model: Predictor, source: ModelSource | None
    ) -> dict[str, Any]:
        """Returns what eval.json says of the scores and of how they came about."""
        return {
            "model_path": self.name,
            "dataset": evaluation.spec.name,
            "protocol": evaluation.to_json(),
            "images": len(evaluation.samples),
            "inference": model.options.to_json(),
            "precision": "fp32" if source is None else source.precision,
            "engine": None if source is None else source.engine,
            **scores.to_json(),
        }

    def _written(self, result: EvalResult, details: Details, source: ModelSource | None) -> EvalResult:
        """Tells the scores, and writes all that was asked for."""
        self.listener.scores(result)
        report = dict(result.report)
        if result.calibration is not None and source is not None:
            report["calibration"] = result.calibration.to_json()
            _store(result.calibration, source.path, report["dataset"], result.images, self.listener)
        if self.given["report"] is not None:
            report["details"] = details.to_json()
            self._write_page(result, details, source)
        beside = None if source is None else source.path if source.path.is_dir() else source.path.parent
        result = dataclasses.replace(result, report=report, beside=beside)
        if self.given["save_dir"] is None:
            return result
        file = result.write(self.given["save_dir"])
        self.listener.say(f"Written: {file}")
        return dataclasses.replace(result, file=file)

    def _write_page(self, result: EvalResult, details: Details, source: ModelSource | None) -> None:
        """Writes the page of `report`, which says what was evaluated and how."""
        from rsseg_tf.evaluate.report import write_report as write_page

        path, scores = Path(self.given["report"]), result.scores
        engine = "keras" if source is None else source.engine or source.kind
        facts = {
            "model": self.name,
            "images": f"{result.images:,} of {self.config.dataset.val_list}",
            "protocol": result.protocol,
            "engine": engine,
            "precision": "fp32" if source is None else source.precision,
            "pixels": f"{int(scores.confusion.sum()):,} counted, {scores.ignored_pixels:,} ignored",
        }
        make_file_place(path)
        write_page(path, scores, details, facts, result.calibration)
        self.listener.say(f"Written: {path}")


def _agreed(
    workers: Workers, source: ModelSource, config: Config, changes: Mapping[str, Any], images: int
) -> ModelSource:
    """Returns what runs the model, the same in all workers; waits until all have come here.

    Args:
        workers: Of this run.
        source: What was chosen, in the chief; what to choose from, in the others.
        config: The config.
        changes: What the caller changes in the prediction.
        images: How many there are.

    Raises:
        ConfigError: When workers would evaluate different things.
    """
    from rsseg_tf.training.workers import config_digest

    if workers.count == 1:
        return source
    workers.any(False, False)
    told = json.dumps([str(source.path), source.precision, source.engine])
    path, precision, engine = json.loads(workers.from_chief(told))
    workers.require_equal(
        validation_images=images,
        config=config_digest(config),
        options=zlib.crc32(repr(sorted(changes.items())).encode()),
        weights=weights_digest(Path(path)),
    )
    return dataclasses.replace(source, path=Path(path), precision=precision, engine=engine, tolerance=None)


def weights_digest(path: Path) -> int:
    """Returns a number that differs between models.

    Args:
        path: A checkpoint, a SavedModel or the file of an exported model.
    """
    found = [path] if path.is_file() else [one for name in _WEIGHTS for one in sorted(path.glob(name))]
    digest = 0
    for file in found:
        digest = zlib.crc32(file.read_bytes(), digest)
    return digest


def _scores(
    model: Predictor,
    evaluation: Evaluation,
    observe: Observer,
    look: Look | None,
    readers: int | None,
    workers: Workers,
    listener: Listener,
) -> SegmentationScores:
    """Predicts this worker's share of the images, and returns the scores of all of them."""
    own, evaluated = evaluation.share(*workers.share), itertools.count(1)
    images = len(own.places)
    with listener.progress("Evaluating") as progress:

        def observe_and_count(*seen: Any) -> None:
            observe(*seen)
            progress(next(evaluated), images)

        return own.run(
            model.predict,
            model.options,
            observe=observe_and_count,
            workers=readers,
            total=workers.total,
            look=look,
        )


def _store(calibration: Calibration, checkpoint: Path, dataset: str, images: int, listener: Listener) -> None:
    """Stores a fitted temperature in the checkpoint and tells what it changes."""
    from rsseg_tf.checkpoint import write_calibration
    from rsseg_tf.metrics.calibration import TEMPERATURES

    facts = {"dataset": dataset, "images": images, **calibration.to_json()}
    write_calibration(checkpoint, facts.pop("temperature"), facts)
    brier, brier_after = calibration.brier
    listener.say(
        f"[CALIBRATION] temperature: {calibration.temperature:g} ECE: {calibration.before.ece:.4f} -> "
        f"{calibration.after.ece:.4f} Brier: {brier:.4f} -> {brier_after:.4f}, on {calibration.pixels:,} of "
        f"{calibration.seen:,} pixels"
    )
    if calibration.temperature == 1:
        listener.note("no temperature lowers the ECE of these tiles: confidence stays as it is.")
    if calibration.at_bound:
        low, high = TEMPERATURES
        listener.note(
            f"the temperature is looked for in {low:g}..{high:g} and lies at the border: these labels are all right or "
            "all wrong, and say nothing about confidence."
        )
