"""C2FNet beyond what the original can do; where the original is defined, see ``tests/parity/test_c2fnet.py``."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.backbones import hrnet
from rsseg_tf.errors import ConfigError
from rsseg_tf.losses import cross_entropy
from rsseg_tf.segmentors import c2fnet, fcn
from rsseg_tf.segmentors.c2fnet import RefineSmallObjects, window_labels

CLASSES, SMALL, SIZE = 4, (1, 3), 16


def _hrnet(in_channels: int = 3) -> keras.Model:
    return hrnet(2, stem_width=4, modules=(1, 1, 1), blocks=1, in_channels=in_channels)


def _model(in_channels: int = 3, **options: Any) -> keras.Model:
    with keras.name_scope("coarse"):
        coarse = fcn(_hrnet(in_channels), num_classes=CLASSES)
    with keras.name_scope("fine"):
        backbone = _hrnet(in_channels)
    options = {"window_size": SIZE, "training_stride": 4, "windows_per_image": 5, **options}
    model = c2fnet(backbone, coarse=coarse, num_classes=CLASSES, small_classes=SMALL, **options)
    for weight in model.weights:  # The initial kernels make all logits almost 0, whatever the image.
        if weight.name == "kernel":
            weight.assign(keras.random.normal(weight.shape, stddev=np.prod(weight.shape[:3]) ** -0.5, seed=1))
    return model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return _model()


def _image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(*shape, 3)).astype("float32")


def _coarse_logits(*shape: int, density: float = 0.002) -> np.ndarray:
    """Logits that say a small class for this part of the pixels."""
    rng = np.random.default_rng(1)
    logits = rng.uniform(-1, 0, (*shape, CLASSES)).astype("float32")
    logits[..., 0] = 1.0
    chosen = rng.random(shape) < density
    logits[chosen, 3] = 2.0
    return logits


def _refined(fine: keras.Model, image: np.ndarray, coarse: np.ndarray) -> tuple[np.ndarray, int]:
    """The definition, in loops: returns the refined logits and how many windows were looked at."""
    refined, looked_at = coarse.copy(), 0
    count, height, width = image.shape[:3]
    small = np.isin(coarse.argmax(-1), SMALL)
    for b, top, left in itertools.product(range(count), range(0, height, SIZE), range(0, width, SIZE)):
        tile = (b, slice(top, min(top + SIZE, height)), slice(left, min(left + SIZE, width)))
        if not small[tile].any():
            continue
        looked_at += 1
        first_row, first_column = max(0, min(top, height - SIZE)), max(0, min(left, width - SIZE))
        window = np.zeros((1, SIZE, SIZE, image.shape[-1]), np.float32)
        pixels = image[b, first_row : first_row + SIZE, first_column : first_column + SIZE]
        window[0, : pixels.shape[0], : pixels.shape[1]] = pixels
        logits = np.asarray(fine(window, training=False)["main"], np.float64)[0]
        probability = np.exp(logits[..., 1]) / np.exp(logits).sum(-1)
        inside = probability[top - first_row :, left - first_column :]
        rows, columns = refined[tile].shape[:2]
        for channel in SMALL:
            refined[(*tile, channel)] += inside[:rows, :columns]
    return refined, looked_at


@pytest.mark.parametrize(
    "shape",
    [(1, 32, 32), (2, 32, 48), (1, 33, 47), (2, 16, 17), (3, 50, 16), (1, 7, 40), (2, 5, 9), (1, 1, 1), (2, 64, 31)],
)
@pytest.mark.parametrize("density", [0.003, 0.5])
def test_every_window_with_a_small_object_is_refined(
    model: keras.Model, shape: tuple[int, int, int], density: float
) -> None:
    layer = model.get_layer("refine")
    image, coarse = _image(*shape), _coarse_logits(*shape, density=density)
    expected, looked_at = _refined(layer.fine, image, coarse)
    outputs = layer(image, coarse, training=False)
    np.testing.assert_allclose(outputs["main"], expected, atol=1e-5)
    assert outputs["fine"]["logits"].shape == (max(looked_at, 1), SIZE, SIZE, 2), "no time is spent on other windows"


def test_without_small_objects_the_coarse_logits_come_back_unchanged(model: keras.Model) -> None:
    coarse = _coarse_logits(2, 40, 40, density=0.0)
    np.testing.assert_array_equal(model.get_layer("refine")(_image(2, 40, 40), coarse, training=False)["main"], coarse)


def test_images_of_a_batch_do_not_influence_each_other(model: keras.Model) -> None:
    image = _image(3, 40, 24)
    together = model(image, training=False)["main"]
    assert (np.asarray(together).argmax(-1) != 0).any()
    for i in range(3):
        np.testing.assert_allclose(together[i], model(image[i : i + 1], training=False)["main"][0], atol=1e-5)


def test_a_graph_takes_any_size(model: keras.Model) -> None:
    call = tf.function(
        lambda image: model(image, training=False)["main"],
        input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)],
    )
    for shape in [(1, 32, 48), (2, 33, 17), (1, 9, 9)]:
        image = _image(*shape)
        np.testing.assert_allclose(call(image), model(image, training=False)["main"], atol=1e-5)


# === Training ===


def _windows(model: keras.Model, coarse: np.ndarray) -> np.ndarray:
    image = _image(*coarse.shape[:3])
    return np.asarray(model.get_layer("refine")(image, coarse, training=True)["fine"]["windows"])


def test_training_takes_the_windows_with_the_most_small_objects(model: keras.Model) -> None:
    coarse = _coarse_logits(2, 36, 30, density=0.02)
    windows = _windows(model, coarse)
    small = np.isin(coarse.argmax(-1), SMALL)
    places = [(b, y, x) for b in range(2) for y in range(0, 21, 4) for x in (0, 4, 8, 12, 14)]
    counts = {(b, y, x): small[b, y : y + SIZE, x : x + SIZE].sum() for b, y, x in places}
    assert len(windows) == 2 * 5
    chosen = [(int(b), int(y), int(x)) for b, y, x in windows]
    assert len(set(chosen)) == len(chosen) and set(chosen) <= set(places)
    assert sorted((counts[place] for place in chosen), reverse=True) == sorted(counts.values(), reverse=True)[:10]


def test_training_takes_fewer_windows_where_few_show_small_objects() -> None:
    model = _model(windows_per_image=16, training_stride=16)
    coarse = _coarse_logits(1, 64, 64, density=0.0)
    coarse[0, 20, 40, 1] = 5.0
    windows = _windows(model, coarse)
    assert len(windows) == 16 // 8
    assert [0, 16, 32] in windows.tolist()


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 5, 9), (1, 18, 16)])
def test_training_takes_all_windows_of_a_small_image(model: keras.Model, shape: tuple[int, int, int]) -> None:
    """The original fails where an image has fewer windows than it wants."""
    every = _windows(model, _coarse_logits(*shape, density=1.0))
    assert every.tolist() == [[0, y, 0] for y in ([0, 2] if shape[1] == 18 else [0])][: len(every)]
    assert len(every) >= 1


def test_labels_of_windows_keep_what_is_ignored() -> None:
    labels = np.array([[[0, 1, 255], [2, 3, 0]]], np.uint8)
    targets = window_labels(
        labels, np.array([[0, 0, 0], [0, 0, 1]], np.int32), window_size=2, small_classes=SMALL, ignore_index=255
    )
    np.testing.assert_array_equal(targets, [[[0, 1], [0, 1]], [[1, 255], [1, 0]]])


def test_what_lies_outside_of_an_image_is_ignored() -> None:
    labels = np.ones((1, 2, 3), np.int32)
    targets = window_labels(labels, np.zeros((1, 3), np.int32), window_size=4, small_classes=SMALL, ignore_index=255)
    assert np.asarray(targets).tolist() == [[[1, 1, 1, 255], [1, 1, 1, 255], [255] * 4, [255] * 4]]


def test_only_the_fine_model_learns(model: keras.Model) -> None:
    image, labels = _image(2, 40, 40), np.random.default_rng(2).integers(0, CLASSES, (2, 40, 40))
    before = {weight.path: weight.numpy() for weight in model.weights}
    with tf.GradientTape() as tape:
        outputs = model(image, training=True)
        fine = outputs["fine"]
        targets = window_labels(labels, fine["windows"], window_size=SIZE, small_classes=SMALL, ignore_index=255)
        loss = cross_entropy(fine["logits"], targets, ignore_index=255)
    variables = model.trainable_variables
    assert all(variable.path.startswith("fine/") for variable in variables)
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    # Windows of 16 pixels leave a branch at stride 32 a single one; the activation may stop its gradient.
    moved = {v.path for v, gradient in zip(variables, gradients, strict=True) if np.abs(gradient).max() > 0}
    assert {"fine/stem_conv1/kernel", "fine/head_conv/kernel", "fine/head_classifier/bias"} <= moved
    changed = {weight.path for weight in model.weights if not np.array_equal(weight.numpy(), before[weight.path])}
    assert changed and all(path.startswith("fine/") for path in changed), "batch statistics of the fine model"
    for weight in model.weights:
        weight.assign(before[weight.path])


# === As a Keras model ===


def test_saved_model_is_the_same(model: keras.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    image = _image(2, 33, 47)
    np.testing.assert_array_equal(loaded(image, training=False)["main"], model(image, training=False)["main"])
    assert [weight.path for weight in loaded.weights] == [weight.path for weight in model.weights]
    assert len({weight.path for weight in loaded.weights}) == len(loaded.weights)
    trainable = [weight.path for weight in model.trainable_weights]
    assert [weight.path for weight in loaded.trainable_weights] == trainable


def test_exported_model_is_the_same(model: keras.Model, tmp_path: Path) -> None:
    keras.Model(model.input, model.output["main"]).export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    for shape in [(1, 32, 32), (2, 20, 37)]:
        image = _image(*shape)
        np.testing.assert_allclose(exported.serve(image), model(image, training=False)["main"], atol=1e-5)


def test_shapes_are_known_before_the_call(model: keras.Model) -> None:
    assert model.output["main"].shape == (None, None, None, CLASSES)
    assert model.output["fine"]["logits"].shape == (None, SIZE, SIZE, 2)
    assert model.output["fine"]["windows"].shape == (None, 3)


def test_mixed_precision_gives_float32() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = _model()
    finally:
        keras.config.set_dtype_policy(before)
    assert model.get_layer("refine").fine.get_layer("head_conv").compute_dtype == "bfloat16"
    for training in (False, True):
        outputs = model(_image(1, 40, 40), training=training)
        assert outputs["main"].dtype == outputs["fine"]["logits"].dtype == tf.float32


# === What is refused ===


def test_parts_that_do_not_fit_are_refused() -> None:
    with keras.name_scope("coarse"):
        coarse = fcn(_hrnet(), num_classes=CLASSES)
    with pytest.raises(ConfigError, match="same number of bands; got 3 and 4"):
        c2fnet(_hrnet(4), coarse=coarse, num_classes=CLASSES, small_classes=SMALL)
    with pytest.raises(ConfigError, match="coarse model has 4 classes; num_classes is 7"):
        c2fnet(_hrnet(), coarse=coarse, num_classes=7, small_classes=SMALL)
    with pytest.raises(ConfigError, match=r'weights of the same name .* keras.name_scope\("coarse"\)'):
        c2fnet(_hrnet(), coarse=fcn(_hrnet(), num_classes=CLASSES), num_classes=CLASSES, small_classes=SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"small_classes": ()}, r"one or more class ids of at least 0; got \(\)"),
        ({"small_classes": (-1,)}, r"class ids of at least 0; got \(-1,\)"),
        ({"small_classes": (1,), "window_size": 0}, "must be at least 1; got 0, 32 and 32"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RefineSmallObjects(_hrnet(), **options)


def test_a_class_that_the_coarse_logits_lack_is_refused(model: keras.Model) -> None:
    layer = RefineSmallObjects(model.get_layer("refine").fine, small_classes=(9,), window_size=SIZE)
    with pytest.raises(ConfigError, match=r"below the number of classes, 4; got \(9,\)"):
        layer(_image(1, 16, 16), _coarse_logits(1, 16, 16))
