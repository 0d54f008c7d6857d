"""The package as a library: what it offers, how fast it loads, and that models run on JAX too."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import rsseg_tf
from rsseg_tf import backbones, build_model, load_config, segmentors
from tests.fixtures import jax_backend
from tests.fixtures.configs import tiny_config, use_tiny_backbone

ROOT = Path(__file__).resolve().parents[1]


def test_everything_that_is_offered_is_there() -> None:
    for name in rsseg_tf.__all__:
        assert name in dir(rsseg_tf)
        assert getattr(rsseg_tf, name) is not None
    assert rsseg_tf.build_model.__module__ == "rsseg_tf.library.building"
    assert rsseg_tf.segmentors is segmentors and rsseg_tf.backbones is backbones
    with pytest.raises(AttributeError, match="has no attribute 'segmentor'; it has Model, __version__, backbones"):
        rsseg_tf.segmentor  # noqa: B018


def test_the_import_loads_no_network_library() -> None:
    code = "import sys, rsseg_tf; print({'keras', 'tensorflow', 'numpy', 'pydantic'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "imports",
    ["import keras, rsseg_tf", "import rsseg_tf, keras", "from rsseg_tf import backbones, segmentors\nimport keras"],
)
def test_keras_reads_its_own_files_once_both_are_imported(tmp_path: Path, imports: str) -> None:
    model = segmentors.lraspp(backbones.mobilenet_v3_small(), num_classes=2)
    model.save(tmp_path / "m.keras")
    code = f"{imports}\nprint(keras.saving.load_model({str(tmp_path / 'm.keras')!r}).count_params())"
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environ)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip() == str(model.count_params())


def test_layers_of_c2fnet_are_registered_too() -> None:
    for code in ("import keras, rsseg_tf", "import rsseg_tf, keras"):
        code += "; print(keras.saving.get_registered_object('rsseg_tf>RefineSmallObjects') is not None)"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
        assert result.stdout.strip() == "True"


def test_a_model_from_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    tiny_config(tmp_path)
    model = build_model(load_config(str(tmp_path / "tiny.yml")))
    assert isinstance(model, keras.Model) and model.output["main"].shape == (None, None, None, 2)


@pytest.mark.parametrize("name", jax_backend.MODELS)
def test_a_summary_is_readable(name: str) -> None:
    """One line for each layer, with names that say what it is."""
    model = jax_backend.MODELS[name]()
    lines: list[str] = []
    model.summary(print_fn=lines.append, line_length=140)
    text = "\n".join(lines)
    assert f'Model: "{name}"' in text and "Trainable params" in text
    assert all(layer.name[:30] in text for layer in model.layers)
    assert not any(layer.name.rsplit("_", 1)[0] in ("conv2d", "re_lu", "add", "concatenate") for layer in model.layers)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_every_model_and_loss_runs_on_jax(tmp_path: Path) -> None:
    for name, build in jax_backend.MODELS.items():
        model = build()
        for variable in model.weights:
            if variable.name == "kernel":  # the initial ones make most logits almost 0
                stddev = float(np.prod(variable.shape[:3])) ** -0.5
                variable.assign(keras.random.normal(variable.shape, stddev=stddev, seed=1))
            elif variable.shape == (1,):
                variable.assign([0.5])
        arrays = {variable.path: variable.numpy() for variable in model.weights}
        np.savez(tmp_path / f"{name}.npz", main=jax_backend.forward(model), **arrays)
    np.savez(tmp_path / "losses.npz", allow_pickle=False, **jax_backend.loss_values())
    result = subprocess.run(
        [sys.executable, "-m", "tests.fixtures.jax_backend", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, check=False, env=os.environ | {
            "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu",
            # Nearly all of the time goes to compiling small operations, which needs no optimisation here.
            "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        },
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.splitlines()[-1] == "all of it without TensorFlow"
    assert len(result.stdout.splitlines()) == len(jax_backend.MODELS) + 1
