"""Labels with confidence that a model finds itself are those that NumPy makes of its logits, byte by byte."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import tensorflow as tf
from numpy.typing import NDArray

from rsseg_tf.datasets import custom_spec
from rsseg_tf.errors import ConfigError
from rsseg_tf.predict import OutputOptions, predict_logits
from rsseg_tf.predict.decoding import labels_and_confidence
from rsseg_tf.predict.engine import augmented_logits
from rsseg_tf.predict.options import Doubt, InferenceOptions, View
from rsseg_tf.predictors import keras_predictor, search
from rsseg_tf.predictors.device import DevicePredictor
from rsseg_tf.predictors.search import search_of
from tests.fixtures.devices import two_devices
from tests.fixtures.labels import OPTIONS, SPEC, Spy, by_logits, pictures, small_model
from tests.fixtures.scenes import predict_one, write_scene

NONE = Doubt()


def echo(classes: int, **options: Any) -> DevicePredictor:
    """A model whose logits are its pixels."""
    return DevicePredictor(lambda pixels: pixels, bands=classes, **options)


def random_logits(*shape: int) -> NDArray[np.float32]:
    return (3 * np.random.default_rng(0).normal(size=shape)).astype(np.float32)


def expected(logits: NDArray[np.float32], doubt: Doubt = NONE) -> NDArray[np.uint8]:
    return np.stack([labels_and_confidence(one, doubt) for one in logits])


@pytest.mark.parametrize("at_once", [False, True], ids=["by chunks", "at once"])
@pytest.mark.parametrize("classes", [1, 2, 3, 6, 16, 40])
def test_bytes_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch, classes: int, at_once: bool) -> None:
    monkeypatch.setattr(search.Search, "is_frequent", lambda *_: at_once)
    logits = random_logits(2, 300, 301, classes)
    for doubt in (NONE, Doubt(0.6, 200), Doubt(1.0, 255), Doubt(0.6, 200, 1.7), Doubt(temperature=0.3)):
        found = echo(classes).labels_and_confidence(logits, [(False, False, False)], doubt)
        assert found is not None and found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected(logits, doubt))
    assert (expected(logits, Doubt(0.6, 200))[:, 0] == 200).any() == (classes > 1)


def answers_of(model: DevicePredictor, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collects what leaves the device."""
    left: list[Any] = []
    run = model._run

    def noted(*given: Any) -> Any:
        left.extend(answers := run(*given))
        return answers

    monkeypatch.setattr(model, "_run", noted)
    return left


def test_two_bytes_of_a_pixel_leave_the_device_and_few_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = echo(16)
    logits = random_logits(1, 300, 300, 16)
    left = answers_of(model, monkeypatch)
    model.labels_and_confidence(logits, [(False, False, False)], NONE)
    ((planes, unsure, rows),) = left
    assert planes.nbytes == 2 * 300 * 300 and 0 < len(unsure) < 0.003 * 300 * 300
    assert rows.shape == (1, len(unsure), 16)


def test_where_rounding_decides_numpy_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four equal logits have a probability of 63.5 steps; 0.5 is the least that is no doubt."""
    model = echo(4)
    left = answers_of(model, monkeypatch)
    logits = np.zeros((1, 2, 3, 4), np.float32)
    logits[0, 0, :, 2:] = -200
    doubt = Doubt(0.5, 9)
    found = model.labels_and_confidence(logits, [(False, False, False)], doubt)
    assert found is not None and len(left[0][1]) == 6
    np.testing.assert_array_equal(found, expected(logits, doubt))
    assert found[0].tolist() == [[[0] * 3, [9] * 3], [[127] * 3, [64] * 3]]


def test_the_error_that_is_allowed_for_is_more_than_what_occurs() -> None:
    """Of a hundred times less, some pixels still are unsure, and none else differs; of none at all, some do."""
    logits = random_logits(1, 1000, 1000, 16)
    planes, confidence, unsure = (
        x.numpy().reshape(1000, 1000)
        for x in search_of(16, 1, True)(
            [tf.constant(logits)], tf.constant(True), tf.constant(0.0), tf.constant(0, tf.uint8), tf.constant(1.0)
        )
    )
    labels, right = expected(logits)[0]
    np.testing.assert_array_equal(planes, labels)
    differs = confidence != right
    assert differs.any(), "if the device's bits were NumPy's, no logits would have to leave it"
    assert not (differs & ~unsure).any() and differs.sum() * 20 < unsure.sum()


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "bfloat16"])
@pytest.mark.parametrize(
    "options",
    [
        InferenceOptions(),
        InferenceOptions(flip_horizontal=True),
        InferenceOptions(flip_horizontal=True, flip_vertical=True),
        InferenceOptions(rotate90=True),
    ],
)
def test_views_are_averaged_as_by_numpy(policy: str, options: InferenceOptions) -> None:
    model = keras_predictor(small_model(policy), SPEC)
    images = pictures(2, 24, 24)
    found = model.labels_and_confidence(images, options.views, Doubt(0.4, 100))
    if options.is_augmented and not model._is_float32:
        assert found is None, "narrow logits are added up by NumPy"
        return
    logits = augmented_logits(by_logits(model), images, options).astype(np.float32)
    np.testing.assert_array_equal(found, expected(logits, Doubt(0.4, 100)))


def test_devices_share_the_images() -> None:
    one, two = echo(5), echo(5, strategy=two_devices())
    for count in (1, 2, 3, 5):
        logits = random_logits(count, 90, 70, 5)
        found = two.labels_and_confidence(logits, [(False, False, False)], Doubt(0.5, 77))
        np.testing.assert_array_equal(found, one.labels_and_confidence(logits, [(False, False, False)], Doubt(0.5, 77)))
        np.testing.assert_array_equal(found, expected(logits, Doubt(0.5, 77)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_left_to_the_logits(value: float) -> None:
    logits = random_logits(2, 30, 20, 5)
    logits[1, 29, 19, 3] = value
    assert echo(5).labels_and_confidence(logits, [(False, False, False)], NONE) is None


# === Files ===


class ConfidentSpy(Spy):
    """A model that also notes that it was asked for confidence."""

    def labels_and_confidence(self, batch: NDArray, views: Sequence[View], doubt: Doubt) -> NDArray[np.uint8] | None:
        self.asked.append(("confidence", len(batch)))
        return self.model.labels_and_confidence(batch, views, doubt)


@pytest.fixture(scope="module")
def predictor() -> DevicePredictor:
    return keras_predictor(small_model(), SPEC)


OUTPUTS = {
    "confidence": OutputOptions(confidence=True, pictures=False),
    "review": OutputOptions(min_confidence=0.9, review_value=77, pictures=False),
    "both": OutputOptions(confidence=True, min_confidence=0.9, pictures=False),
    "polygons": OutputOptions(vector="geojson", min_confidence=0.9, pictures=False),
}
TEMPERATURES = {"both": 0.6}  # of the model; 1 for other outputs


def same_files(one: Path, other: Path) -> list[str]:
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*.*") if path.suffix != ".jsonl")
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    return names


@pytest.mark.parametrize(("options", "asked"), OPTIONS.values(), ids=OPTIONS)
def test_files_are_the_same_and_logits_stay_where_none_is_blended(
    tmp_path: Path, predictor: DevicePredictor, options: InferenceOptions, asked: str
) -> None:
    bands = pictures(1, 24, 18)[0]
    bands[:5, :7] = 0
    path = write_scene(tmp_path / "a.tif", bands.transpose(2, 0, 1), nodata=0)
    for name, output in OUTPUTS.items():
        if output.vector is not None and asked == "logits":
            continue
        spy = ConfidentSpy(predictor)
        how: dict[str, Any] = {"output": output, "spec": SPEC}
        tempered = dataclasses.replace(options, temperature=TEMPERATURES.get(name, 1.0))
        predict_one(path, tmp_path / name, tempered, predict=spy, **how)
        predict_one(path, tmp_path / "logits" / name, tempered, predict=by_logits(predictor), **how)
        assert len(same_files(tmp_path / name, tmp_path / "logits" / name)) >= 1
        assert {kind for kind, _ in spy.asked} == {"confidence" if asked == "labels" else "logits"}


@pytest.mark.parametrize("options", [OPTIONS["whole"][0], OPTIONS["overlap"][0]], ids=["whole", "overlap"])
def test_a_temperature_changes_probabilities_as_stated_and_no_label(
    tmp_path: Path, predictor: DevicePredictor, options: InferenceOptions
) -> None:
    path = write_scene(tmp_path / "a.tif", pictures(1, 24, 18)[0].transpose(2, 0, 1))
    logits = predict_logits(predictor, pictures(1, 24, 18)[0], SPEC, options).astype(np.float64)
    written = {}
    for temperature in (1.0, 0.5, 3.0):
        tempered = dataclasses.replace(options, temperature=temperature)
        probabilities = np.exp(logits / temperature) / np.exp(logits / temperature).sum(axis=-1, keepdims=True)
        for every in (False, True):  # one asks for the confidence alone, which the device may give
            folder, output = tmp_path / f"{temperature}{every}", OutputOptions(confidence=True, probabilities=every)
            predict_one(path, folder, tempered, predict=predictor, spec=SPEC, output=output)
            files = {file.parent.name: file for file in folder.rglob("*.tif")}
            with rasterio.open(files["confidence_prediction"]) as file:
                assert np.abs(file.read(1) - 254 * probabilities.max(axis=-1)).max() < 0.51
            with rasterio.open(files["geotiff_prediction"]) as file:
                written[temperature, every] = file.read(1)
        with rasterio.open(files["probability_prediction"]) as file:
            assert np.abs(file.read().transpose(1, 2, 0) - 254 * probabilities).max() < 0.51
    assert all((labels == written[1.0, False]).all() for labels in written.values())
    with pytest.raises(ConfigError, match=r"a temperature must be finite and above 0; got 0\. 1\.0 changes nothing"):
        InferenceOptions(temperature=0)


def test_pictures_of_a_folder_and_probabilities(tmp_path: Path, predictor: DevicePredictor) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), pictures(1, 30, 20)[0])
    for output, asked in (
        (OutputOptions(confidence=True), "confidence"),
        (OutputOptions(), "labels"),
        (OutputOptions(probabilities=True), "logits"),
    ):
        spy = ConfidentSpy(predictor)
        predict_one(tmp_path / "a.png", tmp_path / asked, InferenceOptions(), predict=spy, spec=SPEC, output=output)
        assert spy.asked == [(asked, 1)]
    # A model that has labels and no confidence is asked for logits.
    old, output = Spy(predictor), OutputOptions(confidence=True)
    predict_one(tmp_path / "a.png", tmp_path / "old", InferenceOptions(), predict=old, spec=SPEC, output=output)
    assert old.asked == [("logits", 1)]
    same_files(tmp_path / "confidence", tmp_path / "old")


def test_an_error_names_what_is_not_finite_as_before(tmp_path: Path) -> None:
    spec = dataclasses.replace(custom_spec("three", ["a", "b", "c"]), max_value=1.0)
    model = DevicePredictor(lambda pixels: pixels * 1e38 * 9, bands=3)
    bands = np.ones((3, 20, 20), np.float32)
    path = write_scene(tmp_path / "a.tif", bands)
    how: dict[str, Any] = {"output": OutputOptions(confidence=True, pictures=False), "spec": spec}
    messages = []
    for name, predict in (("own", model), ("logits", by_logits(model))):
        with pytest.raises(AssertionError, match="are not finite: 1200 of 1200 are NaN") as caught:
            predict_one(path, tmp_path / name, InferenceOptions(), predict=predict, **how)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
