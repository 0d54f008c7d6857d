"""A user's own backbone, model, loss and method, from a module outside of the package."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rsseg_tf.build import build_losses, build_model
from rsseg_tf.cli import main
from rsseg_tf.config import load_config
from rsseg_tf.errors import ConfigError
from rsseg_tf.plugins import PLUGINS_VARIABLE, import_plugin
from rsseg_tf.predictors import open_predictor
from rsseg_tf.rasters.images import read_label
from rsseg_tf.weights.pretrained import load_pretrained
from tests.fixtures.configs import tiny_config
from tests.fixtures.pretraining import tiny_pretraining

MODULE = '''
import keras
from keras import ops

import rsseg_tf.ssl
from rsseg_tf.losses import cross_entropy
from rsseg_tf.ssl.monitors import spread


def net(*, in_channels, width=4):
    image = x = keras.Input((None, None, in_channels))
    features = {}
    for name, strides in (("c2", 4), ("c3", 2), ("c4", 2), ("c5", 2)):
        x = keras.layers.Conv2D(width, 3, strides, padding="same", activation="relu", name=name)(x)
        features[name] = x
    return keras.Model(image, features, name="net")


def whole(*, in_channels, num_classes, width=8):
    """A model as users have it: logits alone."""
    image = keras.Input((None, None, in_channels))
    x = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name="hidden")(image)
    return keras.Model(image, keras.layers.Conv2D(num_classes, 1, name="classes")(x))


def head(backbone, *, num_classes):
    x = keras.layers.Conv2D(num_classes, 1, name="classes")(backbone.output["c2"])
    x = keras.layers.UpSampling2D(4, interpolation="bilinear", name="up")(x)
    return keras.Model(backbone.input, {"main": x, "aux": x})


def half(output, labels, *, ignore_index, share=0.5):
    return share * cross_entropy(output, labels, ignore_index=ignore_index)


class Method(rsseg_tf.ssl.Method):
    def __init__(self, build_backbone, *, steps, scale=1.0):
        super().__init__(name="method")
        self.backbone, self.steps, self.scale = build_backbone(), steps, scale

    def objective(self, batch, *, step, devices):
        features = self.backbone(batch["views"][:, 0], training=True)["c5"]
        rows = ops.mean(features, axis=(1, 2))
        return rsseg_tf.ssl.Outcome(self.scale * ops.mean(ops.square(features)), {"spread": spread(rows)})


def softmax(*, in_channels, num_classes):
    image = keras.Input((None, None, in_channels))
    return keras.Model(image, keras.layers.Conv2D(num_classes, 1, activation="softmax", name="classes")(image))


def nameless(*, in_channels, num_classes):
    image = keras.Input((None, None, in_channels))
    return keras.Model(image, keras.layers.Conv2D(num_classes, 1)(image))


class Block(keras.layers.Layer):
    def build(self, shape):
        self.inner = keras.layers.Conv2D(2, 1)
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 2)


def nameless_inside(*, in_channels, num_classes):
    image = keras.Input((None, None, in_channels))
    return keras.Model(image, Block(name="block")(image))


def few_classes(*, in_channels, num_classes):
    image = keras.Input((None, None, in_channels))
    return keras.Model(image, keras.layers.Conv2D(1, 1, name="classes")(image))


def one_band(*, num_classes):
    image = keras.Input((None, None, 1))
    return keras.Model(image, keras.layers.Conv2D(num_classes, 1, name="classes")(image))


def nothing(**options):
    return None


def broken(**options):
    return 1 / 0


NUMBER = 3
'''
OWN_BACKBONE = "model={name: fcn, channels: 8, backbone: {name: custom, builder: 'my_nets:net', options: {width: 6}}}"
OWN_MODEL = "model={name: custom, builder: 'my_nets:whole', options: {width: 6}}"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of a user, allowed by the path of its file."""
    path = tmp_path / "code" / "my_nets.py"
    path.parent.mkdir()
    path.write_text(MODULE, "utf-8")
    monkeypatch.setenv(PLUGINS_VARIABLE, str(path))
    yield path
    sys.modules.pop("my_nets", None)


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


# === Through every command ===


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "label"), [(OWN_BACKBONE, "fcn_net"), (OWN_MODEL, "whole")], ids=["backbone", "model"]
)
def test_own_code_is_trained_resumed_evaluated_exported_and_predicted(
    model: str, label: str, module: Path, tmp_path: Path
) -> None:
    tiny_config(tmp_path)
    out = tmp_path / "out"
    common = ("--config", tmp_path / "tiny.yml", "--set", model, "--save_dir", out, "--save_interval", "1")
    run("train", *common, "--iters", "1", "--do_eval")
    run("train", *common, "--iters", "2", "--resume_model", out / "iter_1")
    report = run("eval", "--model_path", out / "iter_2")
    assert "mIoU" in report

    exported = tmp_path / "exported"
    run("export", out / "iter_2", "-o", exported, "--format", "savedmodel", "--format", "onnx")
    (version,) = (path for path in exported.iterdir() if path.is_dir())
    assert json.loads((version / "manifest.json").read_text("utf-8"))["model"] == label
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    kept = open_predictor(out / "iter_2").predict(image)
    for file in (version, next(version.rglob("*.onnx"))):
        np.testing.assert_allclose(open_predictor(file).predict(image), kept, atol=1e-4)

    images, result = tmp_path / "data" / "val.txt", tmp_path / "result"
    run("predict", "--model_path", out / "iter_2", "--image_path", images, "--save_dir", result)
    labels = read_label(result / "pseudo_color_prediction" / "val_0.png")
    assert labels.shape == (40, 40) and set(np.unique(labels)) <= {0, 1}


def test_a_checkpoint_of_own_code_runs_only_where_it_is_allowed(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint from a stranger names code that happens to be installed here."""
    tiny_config(tmp_path)
    out = tmp_path / "out"
    run("train", "--config", tmp_path / "tiny.yml", "--set", OWN_MODEL, "--save_dir", out, "--iters", "1")
    monkeypatch.delenv(PLUGINS_VARIABLE)
    monkeypatch.syspath_prepend(module.parent)
    sys.modules.pop("my_nets", None)
    refused = run("eval", "--model_path", out / "iter_1", code=2)
    assert (
        "model.builder is my_nets:whole, code that is not part of rsseg_tf; it runs only if you allow it, and "
        "RSSEG_TF_PLUGINS is not set. If you trust that code, set RSSEG_TF_PLUGINS=my_nets"
    ) in refused
    assert "my_nets" not in sys.modules
    monkeypatch.setenv(PLUGINS_VARIABLE, "my_nets")
    run("eval", "--model_path", out / "iter_1")


# === Models ===


def test_a_model_by_head_on_a_backbone_of_ours(module: Path, tmp_path: Path) -> None:
    model = build_model(
        tiny_config(
            tmp_path,
            "model={name: custom, builder: 'my_nets:head', backbone: {name: custom, builder: 'my_nets:net'}}",
            "loss={main: {name: cross_entropy}, aux: {name: cross_entropy}}",
        ),
        precision="fp16",
    )
    assert {head: logits.dtype for head, logits in model.output.items()} == {"main": "float32", "aux": "float32"}


def test_weights_of_own_code_come_from_its_own_checkpoints(module: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, OWN_BACKBONE)
    out = tmp_path / "out"
    run("train", "--config", tmp_path / "tiny.yml", "--set", OWN_BACKBONE, "--save_dir", out, "--iters", "1")
    begun = tiny_config(tmp_path, OWN_BACKBONE, f"model.backbone.pretrained={out / 'iter_1'}")
    model = build_model(begun)
    (report,) = load_pretrained(model, begun)
    assert (report.section, report.tensors) == ("model.backbone", 8)
    with np.load(out / "iter_1" / "weights.npz") as stored:
        kernels = {variable.path: variable.numpy() for variable in model.weights}
        np.testing.assert_array_equal(kernels["c3/kernel"], stored["c3/kernel"])
    assert load_pretrained(build_model(config), config) == []


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        ("softmax", "must return a model that gives logits; its last layer 'classes' has a softmax"),
        ("nameless", r"1 layers with weights have no name of their own \(conv2d(_\d+)?\)"),
        ("nameless_inside", r"1 layers with weights have no name of their own \(conv2d(_\d+)?\)"),
        ("few_classes", r"must return a model with logits \(B, H, W, 2\).*; got \(None, None, None, 1\)"),
        ("one_band", r"must return a model of one image \(B, H, W, 3\).*; its inputs are \(None, None, None, 1\)"),
        ("nothing", "must return a keras.Model with inputs and outputs .*; got NoneType"),
        ("broken", "model.builder my_nets:broken failed: ZeroDivisionError: division by zero. RSSEG_TF_TRACEBACK=1"),
        ("wole", r"my_nets has no function wole. Did you mean 'whole'\? It has "),
        ("NUMBER", "my_nets has no function NUMBER"),
    ],
)
def test_what_is_no_model_is_refused(builder: str, message: str, module: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, f"model={{name: custom, builder: 'my_nets:{builder}'}}")
    with pytest.raises(ConfigError, match=message) as error:
        build_model(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{widht: 3}", r"model.options does not fit my_nets:whole\(.*unexpected keyword argument 'widht'"),
        ("{num_classes: 3}", "num_classes comes from the config's other sections. Got the options num_classes"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: str, message: str, module: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, f"model={{name: custom, builder: 'my_nets:whole', options: {options}}}")
    with pytest.raises(ConfigError, match=message):
        build_model(config)


@pytest.mark.parametrize("builder", ["my_nets", "my_nets:", ":net", "my nets:net", "my_nets:net()"])
def test_a_builder_is_a_module_and_a_function(builder: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="builder must be module:function, such as my_models.nets:my_net; got"):
        tiny_config(tmp_path, f"model={{name: custom, builder: '{builder}'}}")


# === Losses and methods ===


def test_an_own_loss(module: Path, tmp_path: Path) -> None:
    losses = build_losses(
        tiny_config(
            tmp_path,
            "loss={main: {name: mixed, losses: [{name: cross_entropy}]}, "
            "aux: {name: custom, builder: 'my_nets:half', options: {share: 0.25}, weight: 3.0}}",
        )
    )
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(1, 4, 4, 2)).astype(np.float32), rng.integers(0, 2, (1, 4, 4))
    (plain, _), (quarter, weight) = losses["main"], losses["aux"]
    assert float(quarter(logits, labels)) == pytest.approx(0.25 * float(plain(logits, labels)))
    assert weight == 3.0


def test_an_own_method(module: Path, tmp_path: Path) -> None:
    tiny_pretraining(tmp_path, "simsiam")
    out = tmp_path / "out"
    settings: tuple[str, ...] = ("method={name: custom, builder: 'my_nets:Method', options: {scale: 2.0}}",)
    settings += ("backbone={name: custom, builder: 'my_nets:net'}", "train.iters=2")
    overrides = [part for setting in settings for part in ("--set", setting)]
    run("pretrain", "--config", tmp_path / "simsiam.yml", *overrides, "--save_dir", out)
    with np.load(out / "iter_2" / "weights.npz") as stored:
        assert "c5/kernel" in stored
    backbone = f"{{name: custom, builder: 'my_nets:net', pretrained: {out / 'iter_2'}}}"
    config = tiny_config(tmp_path, f"model={{name: fcn, channels: 8, backbone: {backbone}}}")
    assert len(load_pretrained(build_model(config), config)) == 1


# === Modules ===


def test_modules_are_allowed_by_name_by_package_and_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("", "utf-8")
    (package / "nets.py").write_text("def net():\n    return 'mine'\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    other = tmp_path / "other.py"
    other.write_text("def net():\n    return 'other'\n", "utf-8")
    monkeypatch.setenv(PLUGINS_VARIABLE, os.pathsep.join(["my_package", str(other)]))
    assert import_plugin("my_package.nets:net", "model.builder")() == "mine"
    assert import_plugin("other:net", "model.builder")() == "other"
    assert import_plugin("other:net", "model.builder") is import_plugin("other:net", "model.builder")
    for path in ("os:system", "my_packages:net", "rsseg_tf.files:read_json", "other.more:net"):
        with pytest.raises(ConfigError, match=f"backbone.builder is {path}, .* RSSEG_TF_PLUGINS is my_package"):
            import_plugin(path, "backbone.builder")


@pytest.mark.parametrize(
    ("entry", "text", "message"),
    [
        ("missing_module", None, "missing_module cannot be imported: .*No module named 'missing_module'. Install its"),
        ("gone.py", None, "gone cannot be imported: .*gone.py does not exist"),
        ("broken.py", "1 / 0", "broken cannot be imported: .*division by zero"),
        ("json.py", "", "json cannot be imported: .*another module is called json; rename"),
    ],
)
def test_a_module_that_cannot_be_imported(
    entry: str, text: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / entry).write_text(text, "utf-8")
    monkeypatch.setenv(PLUGINS_VARIABLE, str(tmp_path / entry) if entry.endswith(".py") else entry)
    with pytest.raises(ConfigError, match=message) as error:
        import_plugin(f"{entry.removesuffix('.py')}:net", "model.builder")
    assert "\n" not in str(error.value)
    assert entry == "json.py" or entry.removesuffix(".py") not in sys.modules


def test_a_resolved_config_keeps_the_names(module: Path, tmp_path: Path) -> None:
    from rsseg_tf.config import dump_config

    config = tiny_config(tmp_path, OWN_MODEL)
    again = tmp_path / "again.yml"
    again.write_text(dump_config(config), "utf-8")
    assert load_config(again) == config
