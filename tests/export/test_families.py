"""Every kind of segmentor comes out of every format with the labels that the Keras model gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.errors import ExportError
from rsseg_tf.export import ExportOptions, export_model, load_trained
from rsseg_tf.manifest import Format, Quantization
from rsseg_tf.predictors import open_predictor
from rsseg_tf.rasters.windows import Size
from tests.fixtures.backbones import narrow_mobilenet_v3
from tests.fixtures.checkpoints import pixels, write_checkpoint
from tests.fixtures.configs import replace_builder

pytestmark = pytest.mark.slow

BACKBONE = "backbone: {name: resnet18_vd}"
MODELS = {
    "pspnet": f"model={{name: pspnet, {BACKBONE}, pyramid_channels: 8}}",
    "upernet": f"model={{name: upernet, {BACKBONE}, channels: 8}}",
    "danet": f"model={{name: danet, {BACKBONE}}}",
    "ocrnet": f"model={{name: ocrnet, {BACKBONE}, ocr_channels: 8, key_channels: 4}}",
    "hrnet_contrast": f"model={{name: hrnet_contrast, {BACKBONE}, projection_channels: 8}}",
}
LOSSES = {
    "pspnet": ("main", "aux"),
    "upernet": ("main", "aux"),
    "danet": ("main", "cam", "pam", "aux"),
    "ocrnet": ("main", "aux"),
}
QUANTIZED = {
    **MODELS,
    "fcn": f"model={{name: fcn, {BACKBONE}, channels: 8}}",
    "deeplabv3plus": f"model={{name: deeplabv3plus, {BACKBONE}, aspp_channels: 8, decoder_channels: 8}}",
    "lraspp": "model={name: lraspp, backbone: {name: mobilenet_v3_small}}",
}
# The largest mean difference of logits, in units of their spread: the models are not trained, and noise goes in.
QUANTIZATIONS: dict[Quantization, float] = {"float16": 0.01, "dynamic": 0.3, "int8": 0.5, "int16x8": 0.5}
C2FNET = (
    "dataset.small_classes=[bright]",
    f"model={{name: c2fnet, coarse: {{name: fcn, {BACKBONE}, channels: 8}}, {BACKBONE}, channels: 8, window_size: 16}}",
    "loss={fine: {name: cross_entropy}}",
)


def overrides(name: str) -> tuple[str, ...]:
    if name == "hrnet_contrast":
        return MODELS[name], "loss={main: {name: cross_entropy}, contrast: {name: pixel_contrast}}"
    heads = ", ".join(f"{head}: {{name: cross_entropy}}" for head in LOSSES.get(name, ("main",)))
    return QUANTIZED[name], f"loss={{{heads}}}"


@pytest.mark.parametrize("name", MODELS)
def test_labels_are_equal_in_every_format(tmp_path: Path, name: str) -> None:
    pytest.importorskip("tf2onnx", reason="extra onnx is not installed")
    pytest.importorskip("ai_edge_litert", reason="extra tflite is not installed")
    checkpoint, config = write_checkpoint(tmp_path, *overrides(name))
    trained = load_trained(checkpoint, config)
    exported = export_model(trained, tmp_path / "out", ExportOptions(("savedmodel", "onnx", "tflite")))
    assert exported.folder is not None
    for artifact in exported.manifest.artifacts:
        predict = open_predictor(exported.folder / artifact.path).predict
        for size in [(32, 32), (33, 47)]:
            image = pixels(*size)
            expected, logits = trained.predict(image), predict(image)
            np.testing.assert_allclose(logits, expected, atol=2e-5 * max(1, np.abs(expected).max()))
            # Rounding decides where two logits all but tie.
            tie = np.abs(expected[..., 0] - expected[..., 1]) < 1e-4 * np.abs(expected).max()
            differs = logits.argmax(-1) != expected.argmax(-1)
            assert not (differs & ~tie).any() and tie.mean() < 0.05, artifact.name


@pytest.mark.parametrize("name", QUANTIZED)
def test_every_quantization_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pytest.importorskip("ai_edge_litert", reason="extra tflite is not installed")
    replace_builder(monkeypatch, "rsseg_tf.backbones.mobilenet_v3:mobilenet_v3_small", narrow_mobilenet_v3)
    checkpoint, config = write_checkpoint(tmp_path, *overrides(name))
    trained = load_trained(checkpoint, config)
    calibration = [pixels(32, 32, seed=seed)[0] for seed in range(4)]
    out, quantizations = tmp_path / "out", tuple(QUANTIZATIONS)
    exported = export_model(
        trained, out, ExportOptions(("tflite",), quantizations, tile=Size(32, 32), calibration=calibration)
    )
    assert exported.folder is not None
    image = pixels(32, 32, seed=9)
    expected = trained.predict(image)
    assert [artifact.quantization for artifact in exported.manifest.artifacts] == list(QUANTIZATIONS)
    for artifact in exported.manifest.artifacts:
        logits = open_predictor(exported.folder / artifact.path).predict(image)
        assert np.abs(logits - expected).mean() <= QUANTIZATIONS[artifact.quantization] * expected.std(), artifact.name


def test_c2fnet_is_a_savedmodel_and_says_why_it_is_nothing_else(tmp_path: Path) -> None:
    checkpoint, config = write_checkpoint(tmp_path, *C2FNET)
    trained = load_trained(checkpoint, config)
    exported = export_model(trained, tmp_path / "out")
    assert exported.folder is not None
    for size in [(32, 32), (33, 47)]:
        image = pixels(*size)
        logits = open_predictor(exported.folder).predict(image)
        np.testing.assert_allclose(logits, trained.predict(image), atol=1e-5)
    formats: tuple[Format, ...] = ("tflite", "onnx", "openvino")
    for kind in formats:
        with pytest.raises(ExportError, match="cannot hold c2fnet: .* --format savedmodel"):
            export_model(trained, tmp_path / "other", ExportOptions((kind,)))
        assert not (tmp_path / "other").exists()
