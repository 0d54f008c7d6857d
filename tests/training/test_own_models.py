"""A Keras model of a user's own through the loop, without a section `model`; what checkpoints of it serve for."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.build import build_model, own_model_section
from rsseg_tf.checkpoint import config_file
from rsseg_tf.config import load_config
from rsseg_tf.errors import ConfigError
from rsseg_tf.export.publish import ExportOptions, export_model
from rsseg_tf.export.trained import load_trained
from rsseg_tf.files.lists import read_list
from rsseg_tf.plugins import PLUGINS_VARIABLE
from rsseg_tf.predict import predict_labels
from rsseg_tf.predictors import open_predictor
from rsseg_tf.rasters.images import read_image
from rsseg_tf.segmentors.keras_model import architecture_of_model, copy_weights, keras_model
from rsseg_tf.training import train
from tests.fixtures.configs import samples, tiny_config
from tests.fixtures.devices import two_devices
from tests.fixtures.training import Record, StopAt, assert_equal_weights


def net(classes: int = 2, bands: int = 3, size: int | None = None, **last: Any) -> keras.Model:
    """A model as users write it: no names, batch normalisation, dropout, an operation."""
    image = keras.Input((size, size, bands))
    x = keras.layers.Conv2D(6, 3, padding="same")(image)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.2)(keras.ops.relu(x) + 0.5)
    return keras.Model(image, keras.layers.Conv2D(classes, 1, **last)(x), name="my_net")


def weights_of(model: keras.Model) -> list[np.ndarray]:
    return [np.array(value) for value in model.get_weights()]


def test_a_model_trains_from_its_own_weights_and_keeps_what_it_learnt(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "train.iters=30", "train.save_interval=30", "lr_schedule.learning_rate=0.2")
    model = net()
    first, record = weights_of(model), Record()
    result = train(
        config, tmp_path / "out", samples(config, "train"), samples(config, "val"), model=model, callbacks=[record]
    )
    assert record.evaluations[-1]["miou"] > 0.7  # type: ignore[operator]
    assert any(np.abs(a - b).max() > 0.01 for a, b in zip(first, weights_of(model), strict=True))

    # The checkpoint alone is enough: to build the model in another place, and to predict the same.
    stored = load_config(config_file(result.checkpoint))
    assert stored.model.label == "my_net"
    trained = load_trained(result.checkpoint)
    image = read_image(samples(config, "val")[0].image)
    pixels = (image[None].astype("float32") / 255 - 0.5) / 0.5
    np.testing.assert_allclose(trained.model([pixels])["main"], model(pixels), atol=1e-5)
    exported = export_model(trained, tmp_path / "export", ExportOptions(formats=("savedmodel",)))
    assert exported.folder is not None and exported.manifest.model == "my_net"
    labels = [
        predict_labels(opened.predict, image, opened.spec, opened.options)
        for opened in (open_predictor(exported.folder), open_predictor(result.checkpoint))
    ]
    np.testing.assert_array_equal(labels[0], labels[1])
    assert (labels[0] == 1).any() and (labels[0] == 0).any()


def test_the_first_loss_is_that_of_the_given_weights(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "train.iters=1", "train.log_iters=1")
    losses = []
    model = net()
    start = weights_of(model)
    for name in ("one", "two", "three"):
        model.set_weights(start if name != "three" else [3 * value for value in start])
        record = Record()
        train(config, tmp_path / name, samples(config, "train"), model=model, callbacks=[record])
        losses.append(record.steps[1]["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_a_resumed_run_is_that_of_a_straight_one(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "train.deterministic=true", "train.log_iters=1")
    train_samples = samples(config, "train")
    model = net()
    start = weights_of(model)
    train(config, tmp_path / "straight", train_samples, model=model)
    model.set_weights(start)
    train(config, tmp_path / "parts", train_samples, model=model, callbacks=[StopAt(3)])
    # With the model, and from the checkpoint's config alone.
    train(config, tmp_path / "parts", train_samples, model=net(), resume=tmp_path / "parts" / "iter_3")
    assert_equal_weights(tmp_path / "straight" / "iter_6", tmp_path / "parts" / "iter_6")
    stored = load_config(config_file(tmp_path / "straight" / "iter_3"))
    train(stored, tmp_path / "again", train_samples, resume=tmp_path / "straight" / "iter_3")
    assert_equal_weights(tmp_path / "straight" / "iter_6", tmp_path / "again" / "iter_6")


def test_two_devices_and_averages(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "train.iters=2", "train.batch_size=2", "train.ema=0.5")
    model = net()
    result = train(config, tmp_path / "out", samples(config, "train"), model=model, strategy=two_devices())
    with np.load(result.checkpoint / "weights.npz") as stored:
        kernel = next(value for name, value in stored.items() if name.startswith("conv2d") and value.shape[0] == 3)
    np.testing.assert_allclose(model.layers[1].get_weights()[0], kernel, atol=1e-7)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_run_decides_on_the_type_of_activations(precision: str, tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    config = config.model_copy(update={"model": own_model_section(net(), config.dataset.spec)})
    model = build_model(config, precision=precision)
    assert model.output["main"].dtype == "float32"
    wide = "float16" if precision == "fp16" else "bfloat16"
    assert {layer.compute_dtype for layer in model.layers if layer.name.startswith("conv2d")} == {wide}
    assert all(layer.compute_dtype == "float32" for layer in build_model(config).layers if hasattr(layer, "dtype"))


def test_float32_beside_mixed_precision_stays() -> None:
    image = keras.Input((None, None, 3), dtype="float32")
    x = keras.layers.Conv2D(2, 1, dtype="mixed_float16", name="mixed")(image)
    model = keras.Model(image, keras.layers.Conv2D(2, 1, dtype="float32", name="exact")(x))
    text = json.loads(architecture_of_model(model))
    kept = {layer["name"]: "dtype" in layer["config"] for layer in text["config"]["layers"]}
    assert not kept["mixed"] and kept["exact"]


def test_models_of_this_package_by_hand_are_models_too(tmp_path: Path) -> None:
    from rsseg_tf import backbones, segmentors

    config = tiny_config(tmp_path, "train.iters=1", "loss={main: {name: dice}, aux: {name: dice, weight: 0.4}}")
    backbone = backbones.resnet_vd((1, 1, 1, 1), (4, 4, 8, 8), bottleneck=False)
    model = segmentors.pspnet(backbone, num_classes=2, pyramid_channels=8)
    result = train(config, tmp_path / "out", samples(config, "train"), model=model)
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")
    trained = load_trained(result.checkpoint).model
    np.testing.assert_allclose(trained([image])["main"], model(image)["main"], atol=1e-5)


# === Refused ===


def small(**options: Any) -> keras.Model:
    image = keras.Input((None, None, 3))
    return keras.Model(image, keras.layers.Conv2D(2, 3, strides=2, padding="same", **options)(image), name="small")


class Subclassed(keras.Model):
    def call(self, x: Any) -> Any:
        return x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (net(classes=3), r"'my_net' must be a model with logits \(B, H, W, 2\).* End with keras.layers.Conv2D\(2, 1\)"),
        (net(bands=4), r"'my_net' must be a model of one image \(B, H, W, 3\).* Use keras.Input\(\(None, None, 3\)\)"),
        (net(activation="softmax"), "'my_net' must be a model that gives logits"),
        (small(), r"'small' gives logits of 16x16 for images of 32x32 pixels .*UpSampling2D"),
        (net(size=64), r"does not take images of 32x32 pixels \(augment.crop_size\): its input is 64x64"),
        (Subclassed(), "must be a keras.Model with inputs and outputs .*; got Subclassed"),
        (
            keras.Sequential([keras.Input((None, None, 3)), keras.layers.Lambda(lambda x: x[..., :2])], name="lam"),
            "cannot be built: .*[Ll]ambda",
        ),
    ],
    ids=["classes", "bands", "softmax", "size", "fixed", "subclassed", "lambda"],
)
def test_a_model_that_does_not_fit_is_refused_in_one_line(model: keras.Model, message: str, tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    with pytest.raises(ConfigError, match=message) as raised:
        train(config, tmp_path / "out", samples(config, "train"), model=model)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 700
    assert not (tmp_path / "out" / "iter_6").exists()


# === Layers of one's own ===

LAYERS = """
import keras


@keras.saving.register_keras_serializable(package="own_layers")
class Scale(keras.layers.Layer):
    def build(self, shape):
        self.inner = keras.layers.Conv2D(shape[-1], 1)
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)

    def compute_output_shape(self, shape):
        return shape
"""


@pytest.fixture
def own_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    path = tmp_path / "code" / "own_layers.py"
    path.parent.mkdir()
    path.write_text(LAYERS, "utf-8")
    monkeypatch.syspath_prepend(str(path.parent))
    own_layers = importlib.import_module("own_layers")

    yield own_layers
    forget()


def forget() -> None:
    sys.modules.pop("own_layers", None)
    keras.saving.get_custom_objects().pop("own_layers>Scale", None)


def test_layers_of_ones_own_run_where_they_are_imported_or_allowed(
    own_layers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, "train.iters=1")
    keras.Sequential([keras.Input((4, 4, 1)), own_layers.Scale()])  # so that Keras's counters differ
    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.Conv2D(2, 1)(own_layers.Scale()(image)))
    result = train(config, tmp_path / "out", samples(config, "train"), model=model)
    pixels = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")
    expected = model(pixels)
    np.testing.assert_allclose(load_trained(result.checkpoint).model([pixels])["main"], expected, atol=1e-6)

    forget()  # as in another process
    with pytest.raises(ConfigError, match=r"It has layers of own_layers: import that first, or allow it by RSSEG_TF"):
        load_trained(result.checkpoint)
    assert "own_layers" not in sys.modules  # a checkpoint alone makes nobody import a module
    monkeypatch.setenv(PLUGINS_VARIABLE, "own_layers")
    np.testing.assert_allclose(load_trained(result.checkpoint).model([pixels])["main"], expected, atol=1e-6)


def test_weights_go_from_layer_to_layer() -> None:
    model = net()
    again = keras_model(architecture=architecture_of_model(model))
    copy_weights(model, again)
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ConfigError, match="changes when Keras writes and reads it"):
        copy_weights(model, small())


def test_lists_of_files_are_all_that_is_needed(tmp_path: Path) -> None:
    """No config file: sections as values, a model, lists."""
    from rsseg_tf.config import Config
    from rsseg_tf.config.schema import Augment, CustomDataset, Train

    tiny_config(tmp_path)
    root = tmp_path / "data"
    dataset = CustomDataset(name="custom", root=str(root), classes=("dark", "bright"))
    model = net()
    config = Config(
        dataset=dataset, model=own_model_section(model, dataset.spec), augment=Augment(crop_size=(32, 32)),
        train=Train(iters=1),
    )  # fmt: skip
    result = train(config, tmp_path / "out", read_list(root / "train.txt", root), model=model)
    assert result.state.step == 1 and tf.io.gfile.exists(str(result.checkpoint))


# === By the library ===


def test_train_of_the_library_takes_a_model_in_place_of_the_section(tmp_path: Path) -> None:
    import rsseg_tf

    tiny_config(tmp_path)
    config = {
        "dataset": {"name": "custom", "root": str(tmp_path / "data"), "classes": ["dark", "bright"]},
        "augment": {"crop_size": [32, 32], "scale_range": [0.75, 1.25]},
        "lr_schedule": {"learning_rate": 0.2},
    }

    def build(*, in_channels: int, num_classes: int) -> keras.Model:
        return net(num_classes, in_channels)

    run = rsseg_tf.train(config, tmp_path / "out", model=build, iters=30, save_interval=30, do_eval=True)
    assert run.best_miou > 0.6
    assert rsseg_tf.evaluate(tmp_path / "out" / "best_model").miou == pytest.approx(run.best_miou, abs=1e-6)
    image = read_image(tmp_path / "data" / "val_0.png")
    model = net()
    again = rsseg_tf.train(
        tmp_path / "tiny.yml", tmp_path / "again", model=model, iters=1, overrides=["train.log_iters=1"]
    )
    np.testing.assert_array_equal(
        again.load().predict(image), rsseg_tf.load_model(model, spec=again.load().spec).predict(image)
    )


def test_what_is_no_model_is_refused_by_the_library(tmp_path: Path) -> None:
    import rsseg_tf

    tiny_config(tmp_path)
    for model, message in (
        (3, "model must be a keras.Model or a function that returns one; got int"),
        (lambda: 1 / 0, "The model's function <lambda> failed: ZeroDivisionError"),
        (lambda: None, "The model's function <lambda> must return a keras.Model; it returned NoneType"),
    ):
        with pytest.raises(ConfigError, match=message):
            rsseg_tf.train(tmp_path / "tiny.yml", tmp_path / "out", model=model)
