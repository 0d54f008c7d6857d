"""TFLite files: every way of storing weights, any size or one, and nothing that LiteRT alone cannot run fast."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("ai_edge_litert", reason="extra tflite is not installed")

from rsseg_tf.errors import DataError, ExportError
from rsseg_tf.export import TrainedModel, load_trained, write_tflite
from rsseg_tf.export.flatbuffer import check_operators, operators, tensor_types
from rsseg_tf.manifest import Manifest, Quantization
from rsseg_tf.predictors import load_tflite, open_predictor
from rsseg_tf.rasters.windows import Size
from tests.fixtures.checkpoints import pixels, write_checkpoint

CALIBRATION = [pixels(40, 40, seed=seed)[0] for seed in range(4)]
# Largest difference of logits, in units of their spread, and share of pixels with the same class. The model is not
# trained: noise in gives logits that all but tie, so that whole numbers move some of them.
LIMITS: dict[Quantization, tuple[float, float]] = {
    "float32": (1e-5, 1.0),
    "float16": (0.1, 0.99),
    "dynamic": (0.5, 0.97),
    "int8": (3.0, 0.9),
    "int16x8": (3.0, 0.9),
}


@pytest.mark.parametrize(
    ("quantization", "tile"),
    [
        *(("float32", tile) for tile in (None, Size(32, 48))),
        *(("int8", tile) for tile in (None, Size(32, 48))),
        ("float16", None),
        ("dynamic", None),
        ("int16x8", Size(32, 48)),
    ],
)
def test_it_says_what_the_keras_model_says(
    trained: TrainedModel, tmp_path: Path, quantization: Quantization, tile: Size | None
) -> None:
    calibration = CALIBRATION if quantization.startswith("int") else []
    artifact = write_tflite(trained, tmp_path, quantization, tile=tile, calibration=calibration)
    assert artifact.path == f"model_{quantization}.tflite"
    image = pixels(*(tile or (33, 50)))
    expected = trained.predict(image)
    loaded = load_tflite(tmp_path / artifact.path, threads=2)
    assert loaded.manifest is not None and loaded.manifest.artifacts == (artifact,)
    logits = loaded.predict(image)
    assert logits.dtype == np.float32
    difference, agreement = LIMITS[quantization]
    assert np.abs(logits - expected).max() <= difference * expected.std()
    assert (logits.argmax(-1) == expected.argmax(-1)).mean() >= agreement
    counts = operators((tmp_path / artifact.path).read_bytes())
    assert counts["CONV_2D"] > 5 and not any("BATCH" in name for name in counts)


def test_an_integer_file_takes_and_gives_bytes(trained: TrainedModel, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    artifact = write_tflite(trained, tmp_path, "int8", tile=Size(32, 32), calibration=CALIBRATION)
    content = (tmp_path / artifact.path).read_bytes()
    types = tensor_types(content)
    assert types["pixels"] == ("uint8", 1.0, 0), "bytes come in as they are"
    assert types["class_map"] == ("uint8", 0.0, 0) and types["logits"][0] == "uint8"
    assert {tensor.name: (tensor.dtype, tensor.scale, tensor.zero_point) for tensor in artifact.outputs} == {
        name: types[name] for name in ("class_map", "logits")
    }
    assert not any(
        "float" in details["dtype"].__name__ for details in Interpreter(model_content=content).get_input_details()
    )
    image = pixels(32, 32)[:1]
    answer = Interpreter(model_content=content).get_signature_runner()(pixels=image)
    assert answer["class_map"].shape == (1, 32, 32) and answer["class_map"].dtype == np.uint8
    # where both logits are stored as the same byte, the file may take either
    differ = answer["logits"][..., 0] != answer["logits"][..., 1]
    assert differ.mean() > 0.5
    np.testing.assert_array_equal(answer["class_map"][differ], answer["logits"].argmax(-1)[differ])


def test_images_of_any_size_go_through_a_file_of_one_size(trained: TrainedModel, tmp_path: Path) -> None:
    write_tflite(trained, tmp_path, tile=Size(32, 48))
    predictor = open_predictor(tmp_path / "model_float32.tflite")
    assert predictor.tile == (32, 48) and predictor.kind == "tflite"
    for size in [(20, 90), (50, 31), (70, 100)]:
        assert predictor.predict(pixels(*size)).shape == (2, *size, 2)
    padded = np.pad(pixels(20, 30), ((0, 0), (0, 12), (0, 18), (0, 0)), mode="reflect")
    np.testing.assert_allclose(predictor.predict(pixels(20, 30)), trained.predict(padded)[:, :20, :30], atol=1e-5)


def test_manifest_and_class_names_are_inside(trained: TrainedModel, tmp_path: Path) -> None:
    write_tflite(trained, tmp_path)
    with zipfile.ZipFile(tmp_path / "model_float32.tflite") as archive:
        assert archive.read("labels.txt") == b"dark\nbright\n"
        inside = Manifest.from_json(archive.read("manifest.json"), "inside")
    assert inside.spec == trained.spec and inside.origin == trained.manifest.origin
    assert inside.artifacts[0].input.shape == (1, None, None, 3)


def test_dilated_depthwise_convolutions_stay_whole_for_any_size(tmp_path: Path) -> None:
    model = (
        "model={name: deeplabv3plus, backbone: {name: resnet18_vd}, aspp_channels: 8, decoder_channels: 8, "
        "low_level_channels: 4}"
    )
    checkpoint, config = write_checkpoint(tmp_path, model)
    trained = load_trained(checkpoint, config)
    write_tflite(trained, tmp_path)
    counts = operators((tmp_path / "model_float32.tflite").read_bytes())
    assert counts["DEPTHWISE_CONV_2D"] == 5 and not any("BATCH" in name for name in counts)
    image = pixels(37, 41)
    np.testing.assert_allclose(
        open_predictor(tmp_path / "model_float32.tflite").predict(image), trained.predict(image), atol=1e-5
    )


def converted(function: tf.types.experimental.GenericFunction, *sets: tf.lite.OpsSet) -> bytes:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, *sets]
    content: bytes = converter.convert()
    return content


def test_files_that_litert_cannot_run_or_runs_slowly_are_refused() -> None:
    signature = [tf.TensorSpec((1, None, None, 3), tf.float32)]
    square = [tf.TensorSpec((1, 3, 3), tf.float32)]
    flex = tf.function(lambda x: tf.linalg.det(x), input_signature=square)
    with pytest.raises(ExportError, match="that LiteRT does not bring: custom FlexMatrixDeterminant"):
        check_operators(converted(flex, tf.lite.OpsSet.SELECT_TF_OPS))
    layer = keras.layers.DepthwiseConv2D(3, dilation_rate=2, padding="same")
    layer.build((None, None, None, 3))
    torn = tf.function(lambda x: layer(x), input_signature=signature)
    with pytest.raises(ExportError, match="BATCH_TO_SPACE_ND, SPACE_TO_BATCH_ND: a dilated convolution was not"):
        check_operators(converted(torn))


def test_whole_numbers_need_images(trained: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="measures the range of activations on real images; there are none"):
        write_tflite(trained, tmp_path, "int8")
    assert list(tmp_path.iterdir()) == []


def test_pixels_that_are_no_bytes_are_refused(trained: TrainedModel, tmp_path: Path) -> None:
    write_tflite(trained, tmp_path)
    predict = load_tflite(tmp_path / "model_float32.tflite").predict
    image = pixels(32, 32).astype(np.float32)
    np.testing.assert_array_equal(predict(image + 0.3), predict(image.astype(np.uint8)))
    for wrong in (image + 200, image - 200, image * np.nan):
        with pytest.raises(DataError, match="takes bytes, 0..255; the image has float32 pixels"):
            predict(wrong)


@pytest.mark.parametrize("content", [b"", b"nothing", b"TFL3" * 50])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tflite").write_bytes(content)
    with pytest.raises(ExportError, match=r"a\.tflite is damaged, or no TFLite file that `rsseg-tf export` wrote"):
        open_predictor(tmp_path / "a.tflite")


def test_a_full_disk_under_the_converter_is_said(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would write a file without a signature."""

    def full(*_: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(sys.modules["tensorflow.lite.python.lite"]._save, "save", full)
    with pytest.raises(ExportError, match="has no signature, because the converter could not write its temporary fil"):
        write_tflite(trained, tmp_path, "float32", tile=Size(32, 32))
    assert list(tmp_path.iterdir()) == []
