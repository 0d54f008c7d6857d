"""The losses as Keras objects: the functions' numbers, in `fit` too, and files of Keras."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf import losses
from rsseg_tf.build import _LOSS_OBJECTS, build_losses, compile_options
from rsseg_tf.errors import ConfigError
from rsseg_tf.plugins import PLUGINS_VARIABLE
from tests.fixtures.configs import tiny_config
from tests.fixtures.devices import two_devices

CLASSES = 4
RNG = np.random.default_rng(7)
LOGITS = RNG.normal(0, 2, (2, 24, 20, CLASSES)).astype("float32")
LABELS = RNG.integers(0, CLASSES, (2, 24, 20)).astype("uint8")
LABELS[RNG.random(LABELS.shape) < 0.3] = 255
EMBEDDING = LOGITS / np.linalg.norm(LOGITS, axis=-1, keepdims=True)
OUTPUTS = {"logits": LOGITS, "embedding": EMBEDDING}
WEIGHTS = (1.0, 0.5, 2.0, 0.0)

PAIRS: dict[str, tuple[losses.KerasLoss, Callable[[], Any]]] = {
    "cross_entropy": (
        losses.CrossEntropyLoss(class_weights=WEIGHTS),
        lambda: losses.cross_entropy(LOGITS, LABELS, ignore_index=255, class_weights=WEIGHTS),
    ),
    "ohem_cross_entropy": (
        losses.OhemCrossEntropyLoss(threshold=0.4, min_kept=50),
        lambda: losses.ohem_cross_entropy(LOGITS, LABELS, ignore_index=255, threshold=0.4, min_kept=50),
    ),
    "dice": (
        losses.DiceLoss(ignore_index=0, class_weights=WEIGHTS, smooth=0.5),
        lambda: losses.dice(LOGITS, LABELS, ignore_index=0, class_weights=WEIGHTS, smooth=0.5),
    ),
    "focal": (
        losses.FocalLoss(alpha=0.5, gamma=1.5),
        lambda: losses.focal(LOGITS, LABELS, ignore_index=255, alpha=0.5, gamma=1.5),
    ),
    "lovasz_softmax": (losses.LovaszSoftmaxLoss(), lambda: losses.lovasz_softmax(LOGITS, LABELS, ignore_index=255)),
    "mixed": (
        losses.MixedLoss([losses.CrossEntropyLoss(), losses.DiceLoss()], [0.25, 2.0]),
        lambda: (
            0.25 * losses.cross_entropy(LOGITS, LABELS, ignore_index=255)
            + 2.0 * losses.dice(LOGITS, LABELS, ignore_index=255)
        ),
    ),
    "function": (
        losses.FunctionLoss("rsseg_tf.losses.focal:focal", options={"gamma": 3.0}),
        lambda: losses.focal(LOGITS, LABELS, ignore_index=255, gamma=3.0),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_an_object_gives_the_number_of_its_function(name: str) -> None:
    loss, function = PAIRS[name]
    expected = float(function())
    assert expected > 0.05
    for labels in (LABELS, LABELS[..., None], LABELS.astype("int64")):
        assert float(loss(labels, LOGITS)) == pytest.approx(expected, rel=1e-6)


def test_pixel_contrast_gives_the_number_of_its_function_and_other_pixels_for_other_labels() -> None:
    options: dict[str, Any] = {"max_views": 20, "max_samples": 60}
    for seed in (0, 5):
        expected = float(losses.pixel_contrast(OUTPUTS, LABELS, ignore_index=255, seed=seed, **options))
        assert float(losses.PixelContrastLoss(seed=seed, **options)(LABELS, OUTPUTS)) == pytest.approx(
            expected, rel=1e-6
        )
    by_itself = losses.PixelContrastLoss(**options)
    both = {"logits": LABELS, "embedding": LABELS}
    assert float(by_itself(both, OUTPUTS)) == float(by_itself(LABELS, OUTPUTS))
    seed = int(LABELS.astype("int64").sum())
    expected = float(losses.pixel_contrast(OUTPUTS, LABELS, ignore_index=255, seed=seed, **options))
    assert float(by_itself(LABELS, OUTPUTS)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        *(loss for loss, _ in PAIRS.values()),
        losses.PixelContrastLoss(max_views=20, seed=3),
        losses.WindowLoss(losses.DiceLoss(), window_size=8, small_classes=(1,)),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_keras_writes_and_reads_an_object(loss: losses.KerasLoss) -> None:
    stored = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    again = keras.saving.deserialize_keras_object(stored)
    assert type(again) is type(loss) and again.get_config() == loss.get_config()
    if not isinstance(loss, losses.WindowLoss | losses.PixelContrastLoss):
        assert float(again(LABELS, LOGITS)) == float(loss(LABELS, LOGITS))


def test_every_loss_of_the_configs_has_an_object_with_its_options_and_defaults() -> None:
    functions = {name for name in losses.__all__ if name.islower()}
    assert functions == set(_LOSS_OBJECTS)
    for name, kind in _LOSS_OBJECTS.items():
        of_function = inspect.signature(getattr(losses, name)).parameters
        own = {key: value.default for key, value in inspect.signature(kind).parameters.items() if key != "name"}
        assert own.keys() == of_function.keys() - {"logits", "outputs", "labels", "mean", "pixel_weights"}
        same = own.keys() - {"ignore_index", "seed"}
        assert {key: own[key] for key in same} == {key: of_function[key].default for key in same}


WEIGHED: dict[str, losses.KerasLoss] = {
    "cross_entropy": losses.CrossEntropyLoss(class_weights=WEIGHTS),
    "focal": losses.FocalLoss(gamma=1.5),
    "ohem": losses.OhemCrossEntropyLoss(threshold=0.999, min_kept=5),  # nearly all are kept
    "mixed": losses.MixedLoss([losses.CrossEntropyLoss(), losses.FocalLoss()], [0.25, 2.0]),
    "function": losses.FunctionLoss("rsseg_tf.losses.focal:focal", options={"gamma": 3.0}),
}
PIXELS = RNG.integers(0, 4, LABELS.shape).astype("float32")  # weights


@pytest.mark.parametrize("name", WEIGHED)
def test_a_weight_counts_a_pixel_as_often(name: str) -> None:
    loss = WEIGHED[name]
    plain = float(loss(LABELS, LOGITS))
    for ones in (np.ones(2), np.full((2, 1), 3.0), np.full((*LABELS.shape, 1), 0.5)):
        assert float(loss(LABELS, LOGITS, sample_weight=ones)) == pytest.approx(plain, rel=1e-4)
    # Of weight 0: as ignored.
    without = np.where(PIXELS == 0, 255, LABELS)
    masked = float(loss(LABELS, LOGITS, sample_weight=PIXELS > 0))
    assert masked == pytest.approx(float(loss(without, LOGITS)), rel=1e-5) and masked != pytest.approx(plain, rel=5e-4)
    # Of whole numbers: as a batch that has each pixel so many times.
    count = PIXELS.astype(int).ravel()
    repeated = (
        np.repeat(LABELS.ravel(), count)[None, None],
        np.repeat(LOGITS.reshape(-1, CLASSES), count, 0)[None, None],
    )
    weighed = float(loss(LABELS, LOGITS, sample_weight=PIXELS))
    assert weighed == pytest.approx(float(loss(*repeated)), rel=1e-5)
    # Of images.
    twice = float(loss(np.concatenate([LABELS, LABELS[1:]]), np.concatenate([LOGITS, LOGITS[1:]])))
    assert float(loss(LABELS, LOGITS, sample_weight=np.array([1, 2]))) == pytest.approx(twice, rel=1e-5)


def test_weights_of_classes_can_be_those_of_pixels() -> None:
    by_pixel = np.where(LABELS == 255, 1, np.array(WEIGHTS)[np.minimum(LABELS, 3)])
    expected = float(losses.CrossEntropyLoss(class_weights=WEIGHTS)(LABELS, LOGITS))
    assert float(losses.CrossEntropyLoss()(LABELS, LOGITS, by_pixel)) == pytest.approx(expected, rel=1e-5)


def test_fit_takes_weights() -> None:
    same = keras.layers.Dense(CLASSES, kernel_initializer="identity")
    model = keras.Sequential([keras.Input((24, 20, CLASSES)), same])
    model.compile(keras.optimizers.SGD(1e-9), loss=losses.CrossEntropyLoss())
    for weights in (np.array([1.0, 3.0]), PIXELS):
        expected = float(losses.CrossEntropyLoss()(LABELS, LOGITS, weights))
        history = model.fit(LOGITS, LABELS, sample_weight=weights, batch_size=2, verbose=0).history
        assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
        found = model.evaluate(tf.data.Dataset.from_tensors((LOGITS, LABELS, weights)), verbose=0)
        assert found == pytest.approx(expected, rel=1e-5)


def test_other_weights_of_samples_are_refused() -> None:
    mixed = losses.MixedLoss([losses.CrossEntropyLoss(), losses.DiceLoss()])
    for loss in (losses.DiceLoss(), losses.LovaszSoftmaxLoss(), losses.PixelContrastLoss(), mixed):
        message = rf"The loss '{loss.name}' takes no sample_weight: .* Weigh classes by class_weights"
        with pytest.raises(ConfigError, match=message):
            loss(LABELS, LOGITS, sample_weight=np.ones(2))
    with pytest.raises(ConfigError, match=r"\(B, H, W\) for pixels; got \(2, 4\) for labels \(2, 24, 20\)"):
        losses.CrossEntropyLoss()(LABELS, LOGITS, sample_weight=np.ones((2, 4)))


def test_a_sum_of_no_losses_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"got 1 losses and 2 weights"):
        losses.MixedLoss([losses.DiceLoss()], [1.0, 2.0])


# === Of a config ===

MIXED = "loss={main: {name: mixed, losses: [{name: cross_entropy, class_weights: [1, 3]}, {name: dice, weight: 0.5}]}}"


@pytest.mark.parametrize(
    "text",
    [
        MIXED,
        "loss={main: {name: focal, gamma: 1.0, weight: 2.0}}",
        "loss={main: {name: ohem_cross_entropy, min_kept: 40}}",
        "loss={main: {name: lovasz_softmax}}",
    ],
)
def test_the_losses_of_a_config_are_those_of_the_loop(text: str, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, text)
    labels = np.where(LABELS == 255, 255, LABELS % 2)
    loss, weight = build_losses(config)["main"]
    options = compile_options(config)
    assert options["loss_weights"] == {"main": weight}
    assert float(options["loss"]["main"](labels, LOGITS[..., :2])) == pytest.approx(
        float(loss(LOGITS[..., :2], labels)), rel=1e-6
    )
    assert [metric.name for metric in options["metrics"]["main"]] == ["miou", "acc", "kappa", "dice"]


def test_a_loss_of_ones_own_keeps_to_the_allowed_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my_losses.py"
    path.write_text(
        "from keras import ops\n\n\ndef size(output, labels, *, ignore_index, scale=1.0):\n"
        "    return scale * ops.mean(ops.square(output))\n",
        "utf-8",
    )
    config = tiny_config(
        tmp_path, "loss={main: {name: custom, builder: 'my_losses:size', options: {scale: 2.0}, weight: 0.5}}"
    )
    with pytest.raises(ConfigError, match="it runs only if you allow it"):
        compile_options(config)
    monkeypatch.setenv(PLUGINS_VARIABLE, str(path))
    try:
        loss = compile_options(config)["loss"]["main"]
        assert float(loss(LABELS, LOGITS)) == pytest.approx(2 * np.mean(LOGITS**2), rel=1e-6)
        stored = keras.saving.serialize_keras_object(loss)
        assert float(keras.saving.deserialize_keras_object(stored)(LABELS, LOGITS)) == float(loss(LABELS, LOGITS))
        monkeypatch.delenv(PLUGINS_VARIABLE)
        with pytest.raises(ConfigError, match="it runs only if you allow it"):
            keras.saving.deserialize_keras_object(stored)
    finally:
        sys.modules.pop("my_losses", None)


# === In fit ===


def _model(heads: bool = True) -> keras.Model:
    keras.utils.set_random_seed(3)
    image = keras.Input((None, None, CLASSES))
    main = keras.layers.Conv2D(CLASSES, 1, name="main")(image)
    outputs = {"main": main, "aux": keras.layers.Conv2D(CLASSES, 1, name="aux")(image)} if heads else main
    return keras.Model(image, outputs)


def test_fit_takes_a_loss_for_each_head_and_a_model_file_holds_them(tmp_path: Path) -> None:
    model = _model()
    outputs = model(LOGITS)
    expected = {
        "main": float(losses.cross_entropy(outputs["main"], LABELS, ignore_index=255)),
        "aux": float(losses.dice(outputs["aux"], LABELS, ignore_index=255)),
    }
    model.compile(
        keras.optimizers.SGD(0.1),
        loss={"main": losses.CrossEntropyLoss(), "aux": losses.DiceLoss()},
        loss_weights={"main": 1.0, "aux": 0.4},
    )
    history = model.fit(LOGITS, {"main": LABELS, "aux": LABELS}, batch_size=2, verbose=0).history
    assert history["main_loss"][0] == pytest.approx(expected["main"], rel=1e-5)
    assert history["aux_loss"][0] == pytest.approx(expected["aux"], rel=1e-5)
    assert history["loss"][0] == pytest.approx(expected["main"] + 0.4 * expected["aux"], rel=1e-5)

    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    score = {"verbose": 0, "batch_size": 2, "return_dict": True}
    labels = {"main": LABELS, "aux": LABELS}
    assert again.evaluate(LOGITS, labels, **score) == pytest.approx(model.evaluate(LOGITS, labels, **score), rel=1e-6)


def test_two_devices_take_the_step_of_one() -> None:
    """Although one of them has far more labelled pixels than the other."""
    labels = LABELS.copy()
    labels[1, 2:] = 255
    weights: list[list[np.ndarray]] = []
    first = _model(heads=False).get_weights()
    for strategy in (tf.distribute.get_strategy(), two_devices()):
        with strategy.scope():
            model = _model(heads=False)
            model.set_weights(first)
            model.compile(keras.optimizers.SGD(0.5), loss=losses.CrossEntropyLoss(class_weights=WEIGHTS))
        batches = tf.data.Dataset.from_tensors((LOGITS, labels))
        history = model.fit(batches, verbose=0, shuffle=False).history
        weights.append([*model.get_weights(), np.array(history["loss"])])
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
