"""`load_model`: whatever a model was loaded from, it predicts alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import rsseg_tf
from rsseg_tf.checkpoint import load_weights
from rsseg_tf.errors import ConfigError, DataError, ExportError, RssegError, WeightsError
from tests.fixtures.checkpoints import lively, write_checkpoint
from tests.fixtures.configs import use_tiny_backbone

SPEC = rsseg_tf.custom_spec("two", ["dark", "bright"], [[0, 0, 0], [250, 250, 250]], gsd=0.5)


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_tiny_backbone(monkeypatch)
    return write_checkpoint(tmp_path)[0]


def image(*size: int, bands: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, bands), dtype=np.uint8)


def own_net(last: str | None = None, size: tuple[int | None, int | None] = (None, None)) -> keras.Model:
    x = keras.Input((*size, 3))
    y = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    y = keras.layers.Conv2D(2, 1, activation=last)(y)
    return lively(keras.Model(x, y, name="own"))


class OtherPath(os.PathLike[str]):
    """A path that is neither text nor a `Path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def test_a_checkpoint_by_any_kind_of_path(checkpoint: Path) -> None:
    pixels = image(30, 40)
    models = [rsseg_tf.load_model(path) for path in (checkpoint, str(checkpoint), OtherPath(checkpoint))]
    labels = [model.predict(pixels) for model in models]
    assert labels[0].shape == (30, 40) and labels[0].dtype == np.uint8
    assert all((labels[0] == other).all() for other in labels[1:])
    model = models[0]
    assert (model.kind, model.spec.classes, model.spec.bands) == ("checkpoint", ("dark", "bright"), 3)
    assert isinstance(model.keras_model, keras.Model)
    load_weights(model.keras_model, checkpoint)
    assert "dark, bright" in repr(model) and "rgb(" in model._repr_html_()


def test_several_images_and_confidence(checkpoint: Path) -> None:
    model = rsseg_tf.load_model(checkpoint)
    images = [image(30, 40), image(17, 23, seed=1)]
    several = model.predict(images)
    assert [labels.shape for labels in several] == [(30, 40), (17, 23)]
    batch = model.predict(np.stack([images[0], images[0]]))
    assert len(batch) == 2 and (batch[1] == several[0]).all()
    told = model.predict(images[0], confidence=True)
    labels, confidence = told
    assert (told.labels == several[0]).all() and (labels == told.labels).all()
    logits = model.predictor.predict(images[0][np.newaxis])[0]
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(confidence, softmax.max(-1), atol=1e-5)
    slid = model.predict(images[0], is_slide=True, crop_size=(20, 16), stride=(10, 8), blend="cosine")
    assert slid.shape == (30, 40)
    turned = model.predict(images[0], aug_pred=True, flip_horizontal=True)
    assert (turned[:, ::-1] == model.predict(images[0][:, ::-1], aug_pred=True, flip_horizontal=True)).mean() > 0.99


def test_what_numpy_makes_an_array_of_is_an_image(checkpoint: Path) -> None:
    model, pixels = rsseg_tf.load_model(checkpoint), image(12, 18)
    labels = model.predict(pixels)
    for other in (keras.ops.convert_to_tensor(pixels), pixels.astype(np.int64), pixels.astype(np.float32)):
        assert (model.predict(other) == labels).all()
    assert [one.shape for one in model.predict(keras.ops.stack([pixels, pixels]))] == [(12, 18)] * 2
    assert model.predict(np.zeros((5, 6, 3), np.float32)).shape == (5, 6)  # black is no normalised image


def test_a_scene_and_what_goes_wrong(checkpoint: Path, tmp_path: Path) -> None:
    model = rsseg_tf.load_model(checkpoint)
    result = model.predict_scene(str(tmp_path / "data" / "val_0.png"), tmp_path / "out", pictures=False, vector="gpkg")
    assert set(result.files) == {"geotiff", "vector"} or "vector" in result.files
    lines: list[str] = []
    some = rsseg_tf.predict(
        model, [tmp_path / "data" / "val_0.png", str(tmp_path / "data" / "val_1.png")], tmp_path / "two",
        notify=lines.append,
    )  # fmt: skip
    assert len(some) == 2 and repr(some) == f"<2 of 2 images predicted: {tmp_path / 'two'}>"
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bad = rsseg_tf.predict(model, tmp_path / "bad.png", tmp_path / "three")
    assert len(bad.failed) == 1 and "bad.png" in str(bad.failed[0].error)
    with pytest.raises(DataError, match=r"bad\.png"):
        bad.raise_failed()
    with pytest.raises(DataError, match=r"bad\.png"):
        model.predict_scene(tmp_path / "bad.png", tmp_path / "four")


def test_evaluation_of_what_is_loaded(checkpoint: Path, tmp_path: Path) -> None:
    model = rsseg_tf.load_model(checkpoint)
    result = rsseg_tf.evaluate(model)
    again = rsseg_tf.evaluate(checkpoint, samples=tmp_path / "data" / "val.txt")
    assert (result.scores.confusion == again.scores.confusion).all() and result.images == 2
    assert result.file is None and not (checkpoint / "eval.json").exists()
    assert set(result.class_iou) == {"dark", "bright"} and 0 <= result.miou <= 1
    assert "<table>" in result._repr_html_() and "bright" in repr(result)
    written = result.write(tmp_path / "report")
    assert written == tmp_path / "report" / "eval.json" and written.exists()


def test_a_keras_model_of_ones_own(tmp_path: Path, checkpoint: Path) -> None:
    net, pixels = own_net(), image(20, 30)
    model = rsseg_tf.load_model(net, spec=SPEC)
    logits = np.asarray(net((pixels[np.newaxis] / 255 - 0.5) / 0.5))[0]
    assert (model.predict(pixels) == logits.argmax(-1)).all()
    scores = rsseg_tf.evaluate(net, spec=SPEC, samples=tmp_path / "data" / "val.txt")
    assert scores.images == 2 and scores.scores.classes == ("dark", "bright")
    results = rsseg_tf.predict(net, tmp_path / "data" / "val_0.png", tmp_path / "out", spec=SPEC)
    results.raise_failed()
    softmax = own_net("softmax")
    told = rsseg_tf.load_model(softmax, spec=SPEC, from_logits=False).predict(pixels, confidence=True)
    probabilities = np.asarray(softmax((pixels[np.newaxis] / 255 - 0.5) / 0.5))[0]
    np.testing.assert_allclose(told.confidence, probabilities.max(-1), atol=1e-5)
    fixed = rsseg_tf.load_model(own_net(size=(16, 16)), spec=SPEC)
    assert fixed.predict(pixels).shape == (20, 30)


@pytest.mark.slow
def test_its_export_needs_no_config(tmp_path: Path) -> None:
    net, pixels = own_net(), image(32, 48)
    exported = rsseg_tf.export_model(net, SPEC, tmp_path / "export", format=["savedmodel", "onnx"])
    assert exported.folder == tmp_path / "export" / "1" and not (exported.folder / "config.yml").exists()
    labels = rsseg_tf.load_model(net, spec=SPEC).predict(pixels)
    for path in (tmp_path / "export", exported.folder / "model.onnx"):
        model = rsseg_tf.load_model(path)
        assert (model.predict(pixels) == labels).all()
        assert (model.spec.name, model.spec.palette, model.spec.gsd) == ("two", SPEC.palette, 0.5)
    with pytest.raises(ExportError, match="never overwritten") as caught:
        rsseg_tf.export_model(net, SPEC, tmp_path / "export", version=1)
    assert caught.value.code == "exists"


def test_its_export_is_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes images of 16x16 pixels alone; a SavedModel takes any size"):
        rsseg_tf.export_model(own_net(size=(16, 16)), SPEC, tmp_path / "export")
    with pytest.raises(ConfigError, match="int8 and int16x8 measure activations on images"):
        rsseg_tf.export_model(own_net(), SPEC, tmp_path / "export", format="tflite", quantize="int8")
    assert not (tmp_path / "export").exists() or not any((tmp_path / "export").iterdir())


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"engine": "kears"}, "--engine is 'kears'. Did you mean 'keras'?"),
    ({"precision": "fp8"}, "precision is 'fp8'"),
    ({"tolerance": 1.0}, "--tolerance has an effect with --engine auto only"),
    ({"spec": SPEC}, "spec, tile and from_logits describe a Keras model"),
    ({"overrides": ["trian.iters=3"]}, "unknown key 'trian'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options_are_one_line(checkpoint: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rsseg_tf.load_model(checkpoint, **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_models_and_images(checkpoint: Path, tmp_path: Path) -> None:
    model, own = rsseg_tf.load_model(checkpoint), rsseg_tf.load_model(own_net(), spec=SPEC)
    cases: list[tuple[Any, type[RssegError], str, str]] = [
        (lambda: rsseg_tf.load_model(tmp_path / "nowhere"), WeightsError, "not-found", "does not exist"),
        (lambda: rsseg_tf.load_model(3), ConfigError, "config", "a keras.Model, or the path of a model"),
        (lambda: rsseg_tf.load_model(own_net()), ConfigError, "config", "pass spec"),
        (lambda: rsseg_tf.load_model(own_net(), spec=SPEC, engine="onnx"), ConfigError, "config", "engine tell how"),
        (lambda: rsseg_tf.load_model(own_net("softmax"), spec=SPEC), ConfigError, "config", "from_logits=False"),
        (lambda: rsseg_tf.predict(model, tmp_path / "x.png", tmp_path), DataError, "not-found", "does not exist"),
        (lambda: rsseg_tf.predict(model), ConfigError, "config", "--image_path or --stack is needed"),
        (lambda: rsseg_tf.predict(model, "x", precision="bf16"), DataError, "not-found", "x does not exist"),
        (lambda: rsseg_tf.evaluate(model, precision="bf16"), ConfigError, "config", "was loaded. Leave them out"),
        (lambda: rsseg_tf.evaluate(own_net(), spec=SPEC), ConfigError, "config", "The labelled images are unknown"),
        (lambda: rsseg_tf.evaluate(model, protocol="benchmrk"), ConfigError, "config", "Did you mean 'benchmark'?"),
        (lambda: rsseg_tf.export(own, tmp_path / "e"), ConfigError, "config", "rsseg_tf.export_model"),
        (lambda: model.predict(image(3, 20, bands=30)), DataError, "data", "numpy.moveaxis(image, 0, -1)"),
        (lambda: model.predict("tile.png"), DataError, "data", "Files are read by rsseg_tf.predict"),  # type: ignore[arg-type]
        (lambda: model.predict(image(20, 20, bands=4)), DataError, "data", "needs 3 bands; the image has 4"),
        (lambda: model.predict(image(20, 20), scales=(0.5,)), ConfigError, "config", "--scales has an effect with"),
        (lambda: model.predict(tmp_path / "x.png"), DataError, "data", "got the path "),  # type: ignore[call-overload]
        (lambda: model.predict([tmp_path / "x.png"]), DataError, "data", "and .predict_scene"),  # type: ignore[list-item]
        (lambda: model.predict(None), DataError, "data", "got NoneType"),  # type: ignore[call-overload]
        (lambda: model.predict(image(20, 20).tolist()), DataError, "data", "numpy.asarray(image)"),
        (lambda: model.predict(image(9, 9).astype("uint16")), DataError, "data", "the image holds uint16 (0..65535)"),
        (lambda: model.predict(image(9, 9) / 255), DataError, "data", "as they are in the files, not normalised"),
        (lambda: model.predict(image(9, 9).astype(int) * 99), DataError, "data", "the image holds int64 with values"),
        (lambda: model.predict(image(9, 9), is_slide=True, crop_size=8), ConfigError, "config", "height); got 8"),
        (lambda: model.predict(image(9, 9), aug_pred=True, scales="1.0"), ConfigError, "config", "--scales takes"),
        (lambda: model.predict_scene(image(9, 9), tmp_path), DataError, "data", "takes files; got an array"),
        (lambda: rsseg_tf.export(model, tmp_path / "e", format="tflite", tile=(0, 8)), ConfigError, "config", "--tile"),
    ]  # fmt: skip
    for call, kind, code, message in cases:
        with pytest.raises(kind) as caught:
            call()
        assert message in str(caught.value) and caught.value.code == code, caught.value
