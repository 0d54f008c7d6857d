"""Released weights to checkpoints."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rsseg_tf.errors import ConfigError, WeightsError
from rsseg_tf.files import StrPath
from rsseg_tf.library.listening import Listener, Notify, listener_of
from rsseg_tf.library.startup import load_tensorflow
from rsseg_tf.library.training import with_settings

if TYPE_CHECKING:
    import keras

    from rsseg_tf.config import Config
    from rsseg_tf.weights.pretrained import LoadReport

__all__ = ["Conversion", "convert"]

_CHECKSUM = "verify.json"
# Rounding differs between machines and changes logits by far less than this share of their standard deviation; a wrong
# weight changes them by far more.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Conversion:
    """What `rsseg_tf.convert` did.

    Attributes:
        checkpoint: Folder of the checkpoint: for `rsseg_tf.load_model`, `model.pretrained` of a config or, of a
            backbone, `model.backbone.pretrained`.
        reports: What was read: source, SHA-256, tensors and values that were used, names that were not.
        difference: With `verify`: largest difference of the logits from the checkpoint's checksum, as a share of their
            standard deviation; else None.
    """

    checkpoint: Path
    reports: tuple[LoadReport, ...] = dataclasses.field(repr=False)
    difference: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the logits are those of the checksum, as far as they were compared; NaN never is."""
        return self.difference is None or self.difference <= _TOLERANCE


def convert(
    source: StrPath,
    config: StrPath | Mapping[str, Any] | Config,
    output: StrPath,
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    part: Literal["model", "backbone"] = "model",
    verify: bool = False,
    coarse_model: StrPath | None = None,
    offline: bool = False,
    overwrite: bool = False,
    notify: Notify | None = None,
) -> Conversion:
    """Turns released weights into a checkpoint, as `rsseg-tf convert` does, by the same names.

    Nothing in the source is executed, and every tensor must have a place in the config's model.

    Args:
        source: A file or URL (.pdparams, torch's .pth, .safetensors, or a zip or tar.gz archive with one of them), a
            checkpoint, or the name of a keras-hub preset.
        config: A YAML file, the name of a shipped one, or a plain mapping with the same keys.
        output: Folder for the checkpoint.
        overrides: Changes of the config: `["dataset.root=data/mine"]` or `{"dataset.root": "data/mine"}`.
        part: The part of the model that the source holds and the checkpoint will hold.
        verify: Compare the logits of a made-up image with the checksum in `output`; if there is no such folder, write
            it, read it again and compare then. An existing folder is not changed.
        coarse_model: Weights of the coarse model, for a config of c2fnet.
        offline: Never use the network; take downloads from the cache.
        overwrite: Replace `output` if it exists.
        notify: Called with a line for each fact about the source, and for what was written.

    Returns:
        The checkpoint; with `verify`, `.passed` tells whether the logits agree.

    Raises:
        ConfigError: When the config is wrong, or `output` exists.
        WeightsError: When the source cannot be had, is damaged, or does not fit the model; when the checksum of an
            existing `output` cannot be read.
    """
    from rsseg_tf.config import load_config

    listener, folder = listener_of(notify), Path(output)
    settings = {} if coarse_model is None else {"model.coarse.pretrained": str(coarse_model)}
    checked = load_config(config, with_settings(overrides, settings))
    if part not in ("model", "backbone"):
        raise ConfigError(f"--part is '{part}'. Allowed: model, backbone.")
    stored = _stored_checksum(folder) if verify and folder.exists() else None
    if folder.exists() and not (verify or overwrite):
        raise ConfigError(
            f"{folder} exists; choose another folder, replace it with --overwrite, or compare: --verify.", code="exists"
        )
    load_tensorflow()
    from rsseg_tf.checkpoint import TrainState, load_weights, save_checkpoint
    from rsseg_tf.weights.presets import with_preset

    checked = with_preset(checked, offline=offline)
    model, reports = _converted(checked, str(source), part, offline=offline, listener=listener)
    for report in reports:
        _tell(report, listener)
    checksum = _checksum(model)
    if stored is None:
        extra = {_CHECKSUM: json.dumps(checksum, indent=2).encode()}
        save_checkpoint(folder, model, None, TrainState(), checked, extra=extra)
        listener.say(f"Wrote {folder}")
    if not verify:
        return Conversion(folder, reports)
    if stored is None:
        # Zeros first: weights that are missing in the file would otherwise keep their values and pass.
        for variable in model.weights:
            variable.assign(variable * 0)
        load_weights(model, folder)
        checksum, stored = _checksum(model), _stored_checksum(folder)
    result = Conversion(folder, reports, _difference(checksum, stored))
    if result.passed:
        share = f"{result.difference:.1g} of their standard deviation"
        listener.say(f"verified: the logits differ from {folder / _CHECKSUM} by {share}")
    else:
        listener.fail(
            f"The logits differ from those in {folder / _CHECKSUM} by {result.difference:.2g} of their standard "
            "deviation."
        )
    return result


def _converted(
    config: Config, source: str, part: str, *, offline: bool, listener: Listener
) -> tuple[keras.Model, tuple[LoadReport, ...]]:
    """Returns the model, or its backbone, with the weights of the source."""
    from rsseg_tf.build import build_backbone, build_model
    from rsseg_tf.weights.pretrained import backbone_part, load_part, open_source, parts

    progress = listener.download()
    file = open_source(source, offline=offline, progress=progress)
    if part == "backbone":
        if (section := config.model.backbone) is None:
            raise ConfigError(f"{config.model.label} has no backbone of its own. Use --part model.")
        model = build_backbone(section, in_channels=config.dataset.spec.bands, where="model.backbone")
        wanted = backbone_part(section, [variable.path for variable in model.weights])
        wanted = dataclasses.replace(wanted, section="model.backbone", spec=config.dataset.spec)
        return model, (load_part(model, wanted, file),)
    model = build_model(config)
    found = {piece.section: piece for piece in parts(config, model)}
    reports = []
    if (coarse := found.get("model.coarse")) is not None and not file.by_path:
        if coarse.source is None:
            raise ConfigError("A model of c2fnet has a coarse model too; name its weights with --coarse_model.")
        reports.append(load_part(model, coarse, open_source(coarse.source, offline=offline, progress=progress)))
    return model, (*reports, load_part(model, found["model"], file))


def _tell(report: LoadReport, listener: Listener) -> None:
    listener.say(f"source:   {report.file.source} ({report.file.format})")
    listener.say(f"sha256:   {report.file.sha256}")
    listener.say(f"{report.section}: {report.tensors} tensors, {report.values} values assigned")
    skipped = [name for name in report.skipped if not name.endswith("num_batches_tracked")]  # torch's counters
    if skipped:
        shown = ", ".join(skipped[:8]) + (", …" if len(skipped) > 8 else "")
        listener.say(f"not used: {len(skipped)} tensors of the file ({shown})")
    for note in report.notes:
        listener.say(note)


def _checksum(model: keras.Model) -> dict[str, Any]:
    """Returns statistics of a model's logits for a random image, which depends on the number of bands only."""
    bands = model.input_shape[-1]
    image = np.random.default_rng(0).uniform(-1, 1, (1, 128, 128, bands)).astype(np.float32)
    outputs = model(image, training=False)
    logits = np.asarray(outputs["main"] if "main" in outputs else outputs[max(outputs)], np.float64)
    return {
        "input": "numpy.random.default_rng(0).uniform(-1, 1, (1, 128, 128, bands))",
        "shape": list(logits.shape),
        "mean": logits.mean(),
        "std": logits.std(),
        "min": logits.min(),
        "max": logits.max(),
        "values": logits.ravel()[:: max(1, logits.size // 16)][:16].tolist(),
    }


def _stored_checksum(folder: Path) -> dict[str, Any]:
    from rsseg_tf.files import read_json

    try:
        return dict(read_json(folder / _CHECKSUM))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{folder} has no readable {_CHECKSUM}, which `rsseg-tf convert` writes: {error}. Convert again."
        ) from error


def _difference(actual: Mapping[str, Any], stored: Mapping[str, Any]) -> float:
    """Returns the largest difference of two checksums, as a share of the logits' standard deviation."""

    def figures(checksum: Mapping[str, Any]) -> list[float]:
        return [checksum[name] for name in ("mean", "std", "min", "max")] + list(checksum["values"])

    if actual["shape"] != stored.get("shape"):
        return float("inf")
    # NumPy's maximum of numbers with a NaN is NaN, which no tolerance passes.
    largest = np.max(np.abs(np.subtract(figures(actual), figures(stored))))
    return float(largest / max(actual["std"], 1e-12))
