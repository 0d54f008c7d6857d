"""Datasets for Keras's `fit`: the loop's batches, normalised, with labels by head; and the loop's first loss."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.backbones import resnet_vd
from rsseg_tf.build import build_model, compile_options
from rsseg_tf.config.schema import Augment, Sampling
from rsseg_tf.data import SampleReader, heads_of, train_batches, training_dataset, validation_dataset
from rsseg_tf.data.augment import normalise
from rsseg_tf.errors import ConfigError, DataError
from rsseg_tf.evaluate.evaluation import plan_evaluation
from rsseg_tf.losses import CrossEntropyLoss
from rsseg_tf.metrics import MeanIoU
from rsseg_tf.predict import InferenceOptions
from rsseg_tf.predictors import keras_predictor
from rsseg_tf.rasters.images import read_image
from rsseg_tf.training import train
from tests.fixtures.configs import samples, tiny_config, use_tiny_backbone
from tests.fixtures.training import Record

AUX = (
    "model={name: pspnet, pyramid_channels: 8, backbone: {name: resnet18_vd, output_stride: 16}}",
    "loss={main: {name: cross_entropy}, aux: {name: dice, weight: 0.4}}",
)
CONTRAST = (
    "model={name: hrnet_contrast, projection_channels: 4, dropout: 0.0, backbone: {name: resnet18_vd}}",
    "loss={main: {name: cross_entropy}, contrast: {name: pixel_contrast, max_views: 10, weight: 0.1}}",
)
C2FNET = (
    "dataset.small_classes=[bright]",
    "model={name: c2fnet, channels: 8, window_size: 16, training_stride: 8, windows_per_image: 2,"
    " backbone: {name: resnet18_vd}, coarse: {name: fcn, channels: 8, backbone: {name: resnet18_vd}}}",
    "loss={fine: {name: cross_entropy}}",
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)


def test_training_batches_are_the_loops_normalised(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "dataset.mean=[0.3, 0.4, 0.5]", "dataset.std=[0.2, 0.3, 0.4]")
    reader = SampleReader(samples(config, "train"), config.dataset.spec)
    loop = list(train_batches(reader, config.augment, batch_size=4, seed=3, start=4).take(3))
    for own in (
        training_dataset(config, start=4),
        training_dataset(
            samples(config, "train"), config.dataset.spec, augment=config.augment, seed=3, start=4, heads=("main",)
        ),
    ):
        for batch, (x, y) in zip(loop, own.take(3), strict=True):
            assert x.shape == (4, 32, 32, 3) and x.dtype == tf.float32
            np.testing.assert_array_equal(x, normalise(batch["image"], config.dataset.spec))
            assert y.keys() == {"main"} and y["main"].dtype == tf.int32
            np.testing.assert_array_equal(y["main"], batch["label"])


def test_samples_alone_give_labels_alone(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    augment = Augment(crop_size=(24, 16))
    x, y = next(iter(training_dataset(samples(config, "train"), config.dataset.spec, augment=augment, batch_size=2)))
    assert x.shape == (2, 16, 24, 3) and y.shape == (2, 16, 24)


def test_crops_are_drawn_as_the_config_says(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "augment.crop_size=[8, 8]")
    lines: list[str] = []
    sampling = Sampling(classes=("bright",), share=1.0)
    _, y = next(iter(training_dataset(config, sampling=sampling, batch_size=6, notify=lines.append)))
    assert (y["main"].numpy() == 1).any(axis=(1, 2)).all() and "bright" in lines[0]


def test_validation_has_every_sample_once_and_whole(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    found = list(validation_dataset(config))
    assert len(found) == 2 == len(samples(config, "val"))
    for sample, (x, y) in zip(samples(config, "val"), found, strict=True):
        np.testing.assert_array_equal(x[0], normalise(read_image(sample.image), config.dataset.spec))
        assert y["main"].shape == (1, 40, 40) and set(np.unique(y["main"])) == {0, 1, 255}
    ((x, y),) = validation_dataset(samples(config, "val"), config.dataset.spec, batch_size=2)
    assert x.shape == (2, 40, 40, 3) and y.shape == (2, 40, 40)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    spec = config.dataset.spec
    with pytest.raises(ConfigError, match="Samples need spec"):
        training_dataset(samples(config, "train"))
    with pytest.raises(ConfigError, match="leave spec out"):
        validation_dataset(config, spec)
    with pytest.raises(DataError, match="There is no sample to make a dataset of"):
        validation_dataset([], spec)
    with pytest.raises(DataError, match=r"The augmentation .*<lambda> must return an image \(32, 32, 3\) of uint8"):
        training_dataset(config, augmentation=lambda image, label, seed: (image[1:], label))


@pytest.mark.parametrize(
    ("overrides", "heads"),
    [
        ((), {"main": ()}),
        (AUX, {"main": (), "aux": ()}),
        (CONTRAST, {"main": (), "contrast": ("logits", "embedding")}),
        (C2FNET, {"main": (), "fine": ("logits", "windows")}),
    ],
    ids=["one", "two", "parts", "c2fnet"],
)
def test_heads_are_those_of_the_model(overrides: tuple[str, ...], heads: dict[str, object], tmp_path: Path) -> None:
    config = tiny_config(tmp_path, *overrides)
    model = build_model(config)
    assert heads_of(config) == heads
    _, y = next(iter(training_dataset(config)))
    keras.tree.assert_same_structure(y, model.output)


# c2fnet is built on a trained coarse model, which the loop asks for; its first loss is that of no run from scratch.
def test_fit_gives_the_first_loss_of_the_loop(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, *AUX, "train.log_iters=1", "train.iters=1")
    record = Record()
    train(config, tmp_path / "out", samples(config, "train"), callbacks=[record])
    keras.utils.set_random_seed(config.train.seed)
    model = build_model(config)
    model.compile(keras.optimizers.SGD(0.0), **compile_options(config))
    history = model.fit(training_dataset(config), steps_per_epoch=1, verbose=0, shuffle=False).history
    assert history["loss"][0] == pytest.approx(record.steps[1]["loss"], rel=1e-5)
    for head in ("main", "aux"):
        assert history[f"{head}_loss"][0] == pytest.approx(record.steps[1][f"loss_{head}"], rel=1e-5)


@pytest.mark.parametrize("overrides", [CONTRAST, C2FNET], ids=["contrast", "c2fnet"])
def test_fit_trains_heads_of_several_tensors(overrides: tuple[str, ...], tmp_path: Path) -> None:
    config = tiny_config(tmp_path, *overrides)
    model = build_model(config)
    # The windows of c2fnet follow from the pixels, which XLA cannot compile.
    model.compile("sgd", **compile_options(config), jit_compile=False)
    history = model.fit(
        training_dataset(config), steps_per_epoch=2, validation_data=validation_dataset(config), verbose=0,
        shuffle=False,
    ).history  # fmt: skip
    (miou,) = [values for name, values in history.items() if name.startswith("val_") and name.endswith("miou")]
    assert np.isfinite(history["loss"]).all() and 0 <= miou[0] <= 1


def test_evaluate_of_keras_counts_what_eval_counts(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    keras.utils.set_random_seed(1)
    model = build_model(config)
    model.compile(**compile_options(config))
    found = model.evaluate(validation_dataset(config), verbose=0, return_dict=True)
    predict = keras_predictor(model, config.dataset.spec)
    scores = plan_evaluation(config, samples(config, "val")).run(predict, InferenceOptions.of(config))
    for name in ("miou", "acc", "kappa", "dice"):
        key = name if name in found else f"main_{name}"
        assert found[key] == pytest.approx(getattr(scores, name), rel=1e-6, abs=1e-9)


def test_a_model_of_ones_own_is_fitted(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    spec = config.dataset.spec
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    model = keras.Model(image, keras.layers.Conv2D(2, 1)(x))
    model.compile(keras.optimizers.Adam(0.02), loss=CrossEntropyLoss(), metrics=[MeanIoU(2)])
    lists = [samples(config, split) for split in ("train", "val")]
    history = model.fit(
        training_dataset(lists[0], spec, augment=config.augment), steps_per_epoch=10, epochs=3, verbose=0,
        validation_data=validation_dataset(lists[1], spec), shuffle=False,
    ).history  # fmt: skip
    assert history["val_miou"][-1] > 0.8


def test_the_networks_of_the_package_are_fitted_alone(tmp_path: Path) -> None:
    """A backbone and a segmentor by hand, without a config's model."""
    from rsseg_tf.segmentors import fcn

    config = tiny_config(tmp_path)
    backbone = resnet_vd((1, 1, 1, 1), (4, 4, 8, 8), bottleneck=False, output_stride=16)
    model = fcn(backbone, num_classes=2, channels=4)
    model.compile("sgd", loss={"main": CrossEntropyLoss()}, metrics={"main": [MeanIoU(2)]})
    train_set = training_dataset(samples(config, "train"), config.dataset.spec, augment=config.augment, heads="main")
    history = model.fit(train_set, steps_per_epoch=1, verbose=0, shuffle=False).history
    assert np.isfinite(history["loss"]).all()
