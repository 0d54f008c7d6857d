"""Labels that a model finds itself are those of its logits, pixel by pixel."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from rsseg_tf.data import SampleReader
from rsseg_tf.datasets import custom_spec
from rsseg_tf.errors import ConfigError, DataError, NotFiniteError
from rsseg_tf.evaluate import evaluation
from rsseg_tf.evaluate.evaluation import evaluate, evaluate_stitched
from rsseg_tf.evaluate.stitching import find_scenes
from rsseg_tf.files.lists import Sample
from rsseg_tf.library.devices import choose_device, choose_devices
from rsseg_tf.predict import InferenceOptions, predict_labels
from rsseg_tf.predict.decoding import largest_class
from rsseg_tf.predict.engine import label_model, make_tiling, predict_many_labels
from rsseg_tf.predictors import keras_predictor
from rsseg_tf.predictors.device import DevicePredictor
from rsseg_tf.predictors.search import Search, largest_classes, search_of
from rsseg_tf.rasters.windows import Size
from tests.fixtures.devices import two_devices
from tests.fixtures.labels import OPTIONS, SPEC, Spy, by_logits, pictures, small_model


@pytest.fixture(scope="module")
def predictor() -> DevicePredictor:
    return keras_predictor(small_model(), SPEC)


@pytest.fixture(scope="module")
def spread() -> DevicePredictor:
    """The same model on two devices."""
    with two_devices().scope():
        model = small_model()
    return keras_predictor(model, SPEC, strategy=two_devices())


# === The search ===


@pytest.mark.parametrize("at_once", [False, True], ids=["by chunks", "at once"])
@pytest.mark.parametrize("classes", [1, 2, 5, 16])
@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 300, 301)], ids=["part of a chunk", "several chunks"])
def test_the_class_is_numpys_also_on_ties(classes: int, shape: tuple[int, int, int], at_once: bool) -> None:
    logits = np.random.default_rng(0).integers(-3, 3, (*shape, classes)).astype(np.float32)
    found = largest_classes([tf.constant(logits)], classes, at_once=at_once)
    assert found.dtype == tf.uint8
    np.testing.assert_array_equal(found, logits.argmax(axis=-1))


@pytest.mark.parametrize("at_once", [False, True], ids=["by chunks", "at once"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_with_values_that_are_not_finite_are_told(value: float, at_once: bool) -> None:
    logits = np.random.default_rng(0).normal(size=(2, 300, 300, 5)).astype(np.float32)
    bad = np.zeros((2, 300, 300), bool)
    for place in [(0, 0, 0, 0), (0, 17, 5, 4), (1, 299, 299, 2)]:
        logits[place] = value
        bad[place[:3]] = True
    found = largest_classes([tf.constant(logits)], 5, at_once=at_once).numpy()
    np.testing.assert_array_equal(found == 255, bad)
    np.testing.assert_array_equal(found[~bad], logits.argmax(axis=-1)[~bad])


# === One model ===


def test_few_frequent_sizes_are_compiled_for() -> None:
    search = Search(5, 1, False)
    assert [search.is_frequent(100) for _ in range(10)] == [False] * 7 + [True] * 3
    for pixels in range(1, 9):
        for _ in range(20):
            search.is_frequent(pixels)
    assert [pixels for pixels in (*range(1, 9), 100) if search.is_frequent(pixels)] == [1, 2, 3, 100]


def test_a_frequent_size_is_searched_at_once(predictor: DevicePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    search_of.cache_clear()
    images, asked = pictures(2, 9, 14), []
    run = predictor._run

    def noted(pixels: NDArray, kind: Any, at_once: tf.Tensor) -> Any:
        asked.append(bool(at_once))
        return run(pixels, kind, at_once)

    monkeypatch.setattr(predictor, "_run", noted)
    answers = [predictor.labels(images if call % 2 else images[:1]) for call in range(18)]
    assert asked == [False] * 14 + [True] * 4
    for before, after in zip(answers[:2], answers[-2:], strict=True):
        assert before is not None and after is not None
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_labels_are_those_of_the_logits_for_each_type_of_pixels(predictor: DevicePredictor, dtype: str) -> None:
    images = pictures(2, 9, 13, dtype)
    logits = predictor(images)
    np.testing.assert_array_equal(logits, predictor(images.astype(np.float32)))
    found = predictor.labels(images)
    assert found is not None and found.dtype == np.uint8
    np.testing.assert_array_equal(found, logits.argmax(axis=-1))


@pytest.mark.parametrize("policy", ["mixed_float16", "float16", "bfloat16"])
def test_labels_of_narrow_types(policy: str) -> None:
    model = keras_predictor(small_model(policy), SPEC)
    image = pictures(1, 20, 30)[0]
    for options in (InferenceOptions(), InferenceOptions(flip_horizontal=True, flip_vertical=True)):
        found = predict_labels(model, image, SPEC, options)
        np.testing.assert_array_equal(found, predict_labels(by_logits(model), image, SPEC, options))


@pytest.mark.parametrize(("options", "asked"), OPTIONS.values(), ids=OPTIONS)
def test_labels_are_asked_for_where_no_logits_are_blended_and_are_the_same(
    predictor: DevicePredictor, options: InferenceOptions, asked: str
) -> None:
    image = pictures(1, 24, 18)[0]
    spy = Spy(predictor)
    found = predict_labels(spy, image, SPEC, options)
    np.testing.assert_array_equal(found, predict_labels(by_logits(predictor), image, SPEC, options))
    assert {kind for kind, _ in spy.asked} == {asked}


def test_images_go_to_the_model_together(predictor: DevicePredictor) -> None:
    images, spy = pictures(3, 10, 7), Spy(predictor)
    found = predict_many_labels(spy, list(images), SPEC, InferenceOptions())
    assert spy.asked == [("labels", 3)]
    for image, labels in zip(images, found, strict=True):
        np.testing.assert_array_equal(labels, largest_class(predictor(image[None])[0]))


def test_values_that_are_not_finite_are_told_as_before(predictor: DevicePredictor) -> None:
    images = pictures(3, 10, 7, "float32")
    images[1, 2, 3] = np.nan
    with pytest.raises(NotFiniteError) as known:
        predict_many_labels(by_logits(predictor), list(images), SPEC, InferenceOptions())
    with pytest.raises(NotFiniteError) as found:
        predict_many_labels(predictor, list(images), SPEC, InferenceOptions())
    assert str(found.value) == str(known.value) and found.value.index == known.value.index == 1


def test_the_number_of_an_image_is_told_where_it_is_cut_into_windows(predictor: DevicePredictor) -> None:
    images = pictures(3, 16, 12, "float32")
    images[2, 15, 11] = np.nan
    options, _ = OPTIONS["windows apart"]
    with pytest.raises(NotFiniteError, match="in the window at row 8, column 6") as found:
        predict_many_labels(predictor, list(images), SPEC, options)
    assert found.value.index == 2


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_sum_over_views_that_overflows_is_decided_by_the_logits() -> None:
    spec = custom_spec("three", ["a", "b", "c"])
    model = DevicePredictor(lambda pixels: pixels * 1e38, bands=3)
    image = np.array([[[1, 2, 3], [3, 3, 1]]], np.uint8)
    options = InferenceOptions(flip_horizontal=True, flip_vertical=True)
    expected = predict_labels(by_logits(model), image, spec, options)
    np.testing.assert_array_equal(predict_labels(model, image, spec, options), expected)


def test_a_model_of_other_classes_is_refused_as_before(predictor: DevicePredictor) -> None:
    spec = custom_spec("two", ["a", "b"])
    assert label_model(predictor, spec, InferenceOptions(), make_tiling(Size(4, 4), InferenceOptions())) is None
    with pytest.raises(DataError, match="the model gives 5 classes, dataset 'two' has 2"):
        predict_labels(predictor, pictures(1, 4, 4)[0], spec, InferenceOptions())


# === Evaluation ===


def write_tiles(folder: Path, step: int) -> list[Sample]:
    """Tiles of 16 x 12 pixels cut from one scene every `step` pixels, a little one among them."""
    rng = np.random.default_rng(7)
    scene, ids = rng.integers(0, 255, (64, 64, 3), np.uint8), rng.integers(0, 6, (64, 64), np.uint8)
    ids[ids == 5] = 255
    samples = []
    boxes = [(y, x, y + 16, x + 12) for y in range(0, 40, step) for x in range(0, 30, step)]
    for y0, x0, y1, x1 in [*boxes[:3], (48, 56, 56, 64), *boxes[3:]]:
        sample = Sample(folder / f"s_{x0}_{y0}_{x1}_{y1}.png", folder / f"l_{x0}_{y0}.png")
        cv2.imwrite(str(sample.image), scene[y0:y1, x0:x1, ::-1])
        cv2.imwrite(str(sample.label), ids[y0:y1, x0:x1])
        samples.append(sample)
    return samples


@pytest.mark.parametrize("step", [16, 8], ids=["apart", "overlapping"])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("way", ["whole", "flips", "overlap", "scales"])
def test_every_protocol_counts_the_same(
    tmp_path: Path, predictor: DevicePredictor, spread: DevicePredictor, way: str, batch_size: int, step: int
) -> None:
    samples = write_tiles(tmp_path, step)
    scenes = find_scenes(samples, "{stem}_{x0}_{y0}_{x1}_{y1}")
    options = OPTIONS[way][0]
    batched = dataclasses.replace(options, batch_size=batch_size)
    alone = dataclasses.replace(options, batch_size=1)
    expected = evaluate(by_logits(predictor), samples, SPEC, alone)
    stitched = evaluate_stitched(by_logits(predictor), scenes, SPEC, alone)
    assert expected.confusion.sum() > stitched.confusion.sum() or step == 16
    for model in (predictor, spread):
        for found, known in [
            (evaluate(model, samples, SPEC, batched), expected),
            (evaluate_stitched(model, scenes, SPEC, batched), stitched),
        ]:
            np.testing.assert_array_equal(found.confusion, known.confusion)
            assert found.ignored_pixels == known.ignored_pixels > 0


def test_samples_of_one_size_go_together_and_are_observed_in_order(tmp_path: Path, predictor: DevicePredictor) -> None:
    samples, spy, seen = write_tiles(tmp_path, 16), Spy(predictor), []
    evaluate(spy, samples, SPEC, InferenceOptions(batch_size=2), observe=lambda index, *_: seen.append(index))
    assert seen == list(range(len(samples)))
    assert [size for _, size in spy.asked][:4] == [2, 1, 1, 2], "the fourth sample is smaller than the others"
    assert sum(size for _, size in spy.asked) == len(samples)


def test_only_tiles_that_share_pixels_give_logits(tmp_path: Path, predictor: DevicePredictor) -> None:
    spy = Spy(predictor)
    evaluate_stitched(
        spy, find_scenes(write_tiles(tmp_path, 16), "{stem}_{x0}_{y0}_{x1}_{y1}"), SPEC, InferenceOptions()
    )
    assert {kind for kind, _ in spy.asked} == {"labels"}
    (tmp_path / "over").mkdir()
    spy = Spy(predictor)
    samples = write_tiles(tmp_path / "over", 8)
    evaluate_stitched(spy, find_scenes(samples, "{stem}_{x0}_{y0}_{x1}_{y1}"), SPEC, InferenceOptions())
    # The little one lies by itself.
    assert sorted({(kind, sum(one == kind for one, _ in spy.asked)) for kind, _ in spy.asked}) == [
        ("labels", 1),
        ("logits", len(samples) - 1),
    ]


def test_samples_before_a_damaged_one_are_counted_with_their_batch(tmp_path: Path, predictor: DevicePredictor) -> None:
    samples, seen = write_tiles(tmp_path, 16), []
    samples[2].image.write_bytes(b"no image")
    with pytest.raises(DataError, match=str(samples[2].image.name)):
        evaluate(predictor, samples, SPEC, InferenceOptions(batch_size=4), observe=lambda index, *_: seen.append(index))
    assert seen == [0, 1]


def test_an_image_of_a_batch_is_named(tmp_path: Path, predictor: DevicePredictor) -> None:
    samples = write_tiles(tmp_path, 16)[:3]

    def fails(images: NDArray) -> NDArray[np.float32]:
        raise MemoryError("3 GiB")

    def infinite(images: NDArray) -> NDArray[np.float32]:
        logits = predictor(images)
        logits[1, 0, 0, 0] = np.inf
        return logits

    with pytest.raises(DataError, match=f"^{samples[0].image} and the 2 after it cannot be used: MemoryError"):
        evaluate(fails, samples, SPEC, InferenceOptions(batch_size=3))
    with pytest.raises(NotFiniteError, match=f"^{samples[1].image}: the model gives"):
        evaluate(infinite, samples, SPEC, InferenceOptions(batch_size=3))


# === Several devices ===


def test_devices_share_the_images_of_a_batch(predictor: DevicePredictor, spread: DevicePredictor) -> None:
    assert (predictor.devices, spread.devices) == (1, 2)
    for count in (1, 2, 3, 5):
        images = pictures(count, 9, 13)
        np.testing.assert_array_equal(spread(images), predictor(images))
        np.testing.assert_array_equal(spread.labels(images), predictor.labels(images))


def test_each_device_runs_its_part(spread: DevicePredictor) -> None:
    seen: list[str] = []

    def forward(pixels: tf.Tensor) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        seen.append(context.devices[0])
        return tf.concat([pixels, tf.fill(tf.shape(pixels)[:3], 0.0)[..., None]], -1) + tf.cast(
            context.replica_id_in_sync_group, tf.float32
        )

    model = DevicePredictor(forward, bands=3, strategy=two_devices())
    answer = model(np.zeros((4, 2, 2, 3), np.float32))
    assert answer[:, 0, 0, 0].tolist() == [0, 0, 1, 1]


# === The command line ===


def test_one_gpu_for_predict_and_for_exported_models() -> None:
    with pytest.raises(ConfigError, match="this command runs on one GPU; got --gpus 0 1"):
        choose_device("auto", (0, 1))
    with pytest.raises(ConfigError, match="several GPUs share the images of a checkpoint only; got --gpus 0 1"):
        choose_devices("auto", (0, 1), "savedmodel")


def test_threads_and_batches_of_an_evaluation(tmp_path: Path, predictor: DevicePredictor) -> None:
    samples, names = write_tiles(tmp_path, 16), set()

    class Named(SampleReader):
        def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            names.add(threading.get_ident())
            time.sleep(0.02)
            return super().__call__(index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "SampleReader", Named)
        for workers in (1, 3):
            names.clear()
            evaluate(predictor, samples, SPEC, InferenceOptions(), workers=workers)
            assert len(names) == workers
