"""Networks of mmsegmentation compute here what they compute there, on values that follow from names.

The values go the way of a downloaded file: they are written as a checkpoint, recognised by their names and loaded.
`mmsegmentation/generate.py` wrote what the originals compute; where it can run, other values and sizes are tried.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from rsseg_tf.build import build_model
from rsseg_tf.weights.pretrained import load_pretrained
from tests.fixtures.configs import tiny_config
from tests.fixtures.weight_files import write_torch
from tests.parity import detinit
from tests.parity.cases import count

pytestmark = [pytest.mark.parity, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / "mmsegmentation"
FACTS: dict[str, dict[str, Any]] = json.loads((FOLDER / "facts.json").read_text("utf-8"))
PYTHON = ROOT / ".mmseg" / "bin" / "python"
SIZE = (97, 131)
MODELS = {
    "pspnet": "name: pspnet, variant: mmsegmentation, pyramid_channels: 512, backbone: {name: resnet50_v1c}",
    "deeplabv3plus": "name: deeplabv3plus, variant: mmsegmentation, aspp_channels: 128, decoder_channels: 128, "
    "low_level_channels: 12, aux_head: true, backbone: {name: resnet18_v1c}",
    "upernet": "name: upernet, variant: mmsegmentation, backbone: {name: resnet18_v1c, output_stride: 32}",
    "fcn_hrnet": "name: fcn, channels: null, backbone: {name: hrnet_w18_small, variant: mmsegmentation}",
}
OTHERS = {
    "pspnet/pspnet_r101-d8_4xb4-80k_potsdam-512x512.py": MODELS["pspnet"].replace("resnet50", "resnet101"),
    "deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_vaihingen-512x512.py": "name: deeplabv3plus, aspp_channels: 512, "
    "decoder_channels: 512, aux_head: true, variant: mmsegmentation, backbone: {name: resnet50_v1c}",
    "upernet/upernet_r50_4xb4-80k_ade20k-512x512.py": MODELS["upernet"].replace("resnet18", "resnet50"),
    "hrnet/fcn_hr48_4xb4-80k_loveda-512x512.py": MODELS["fcn_hrnet"].replace("hrnet_w18_small", "hrnet_w48"),
}


def load(folder: Path, file: Path, model: str, classes: int, heads: Any) -> keras.Model:
    """Returns the model with a file's values; the file names no classes."""
    losses = ", ".join(f"{head}: {{name: cross_entropy}}" for head in heads)
    names = ", ".join(f"class{i}" for i in range(classes))
    overrides = f"model={{{model}, pretrained: {file}}}", f"loss={{{losses}}}", f"dataset.classes=[{names}]"
    config = tiny_config(folder, *overrides)
    built = build_model(config)
    (report,) = load_pretrained(built, config)
    assert all(name.endswith("num_batches_tracked") for name in report.skipped)
    return built


def assert_close(ours: Any, theirs: np.ndarray, spread: float) -> None:
    ours = keras.ops.convert_to_numpy(ours)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-4 * spread


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_every_head(name: str, tmp_path: Path) -> None:
    facts = FACTS[name]
    with np.load(FOLDER / f"{name}.npz") as stored:
        arrays = dict(stored)
    tensors = {}
    for key, shape in json.loads(arrays.pop("shapes").tobytes()).items():
        known = key.replace("running_mean", "_mean").replace("running_var", "_variance")
        counter = key.endswith("num_batches_tracked")
        tensors[key] = np.zeros(1, np.int64) if counter else detinit.weight(known, tuple(shape))
    file = write_torch(tmp_path / "w.pth", tensors, lambda state: {"meta": {"cfg": "model = ..."}, "state_dict": state})
    model = load(tmp_path, file, MODELS[name], facts["classes"], arrays)
    # Our heads have biases before normalisations, which are zero here.
    without = [v for v in model.trainable_weights if not (v.name == "bias" and np.all(v.numpy() == 0))]
    assert count(without) == facts["trainable"]
    outputs = model(detinit.image(f"eval_{SIZE[0]}x{SIZE[1]}", 1, *SIZE), training=False)
    for head, expected in arrays.items():
        assert_close(outputs[head][:, ::8, ::8], expected, facts["std"][head])


@pytest.mark.skipif(
    not PYTHON.exists(), reason="there is no .mmseg with mmsegmentation, see mmsegmentation/generate.py"
)
@pytest.mark.parametrize("config", OTHERS)
def test_other_values_sizes_and_networks(config: str, tmp_path: Path) -> None:
    command = [
        str(PYTHON),
        str(FOLDER / "generate.py"),
        "--folder",
        str(tmp_path),
        "--prefix",
        "other/",
        "--no-classes",
    ]
    sizes = ["--size", "65", "33", "--size", "64", "96"]
    subprocess.run([*command, *sizes, config], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT)
    stem = tmp_path / Path(config).stem
    with np.load(f"{stem}.npz") as stored:
        arrays = dict(stored)
    heads, classes = {key.split("_")[0] for key in arrays}, next(iter(arrays.values())).shape[-1]
    model = load(tmp_path, Path(f"{stem}.pth"), OTHERS[config], classes, heads)
    for key, expected in arrays.items():
        head, _, size = key.partition("_")
        height, width = map(int, size.split("x"))
        outputs = model(detinit.image(f"other/eval_{size}", 1, height, width), training=False)
        assert_close(outputs[head], expected, float(expected.std()))
