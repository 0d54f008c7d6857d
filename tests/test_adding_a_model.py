"""The steps of CONTRIBUTING suffice: a backbone, a segmentor, a loss and a method are added to a copy, and used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.configs import write_config, write_dataset
from tests.fixtures.pretraining import write_images
from tests.fixtures.weight_files import write_pdparams

ROOT = Path(__file__).parents[1]

# The one file of each kind; its row is taken from CONTRIBUTING.
FILES = {
    "backbones/toy_net.py": '''"""One convolution for each stride."""

import keras


def toy_net(*, in_channels: int = 3, width: int = 4) -> keras.Model:
    image = x = keras.Input((None, None, in_channels))
    features = {}
    for name, strides in (("c2", 4), ("c3", 2), ("c4", 2), ("c5", 2)):
        features[name] = x = keras.layers.Conv2D(width, 3, strides, padding="same", name=name)(x)
    return keras.Model(image, features, name="toy_net")
''',
    "segmentors/toy_head.py": '''"""A classifier on the features of stride 4."""

import keras

from rsseg_tf.layers import ResizeLike, classifier


def toy_head(backbone, *, num_classes, dropout=0.0, align_corners=False):
    x = keras.layers.Dropout(dropout, name="head_dropout")(backbone.output["c2"])
    x = classifier(x, num_classes, name="head_classifier")
    main = ResizeLike(align_corners=align_corners, dtype="float32", name="main")(x, backbone.input)
    return keras.Model(backbone.input, {"main": main}, name="toy_head")
''',
    "losses/toy_loss.py": '''"""The mean squared logit."""

from keras import ops


def toy_loss(logits, labels, *, ignore_index, scale=1.0, mean=ops.mean):
    counted = ops.cast(ops.not_equal(labels, ignore_index), "float32")
    return scale * ops.mean(ops.mean(ops.square(logits), axis=-1) * counted) / (mean(counted) + 1e-8)
''',
    "ssl/toy_method.py": '''"""The features of both views are made equal."""

from keras import ops

from rsseg_tf.ssl.method import Method, Outcome
from rsseg_tf.ssl.monitors import spread


class Toy(Method):
    def __init__(self, build_backbone, *, scale=1.0):
        super().__init__(name="toy_method")
        self.backbone, self.scale = build_backbone(), scale

    def objective(self, batch, *, step, devices):
        one, other = (ops.mean(self.backbone(batch["views"][:, i], training=True)["c5"], axis=(1, 2)) for i in (0, 1))
        return Outcome(self.scale * ops.mean(ops.square(one - other)), {"spread": spread(one)})
''',
}
# Heading of CONTRIBUTING -> what the row stands above, as the text there says.
PLACES = {
    "A backbone": "class CustomBackbone(",
    "A segmentor": "if TYPE_CHECKING:\n    CoarseModel",
    "A loss": "if TYPE_CHECKING:\n    PixelLoss",
    "A self-supervised method": "class CustomMethod(",
}
NAMES = '''

def toy_net_names(paths):
    """Names of `rsseg_tf.backbones.toy_net`."""
    return renamed(paths, {"c{c}": "layer{c0}"})


def toy_head_names(paths, backbone):
    """Names of `rsseg_tf.segmentors.toy_head`."""
    return _prefixed(backbone) | renamed(paths, {"head_classifier": "head"})
'''
USE = """
import keras
from rsseg_tf.build import build_losses, build_model
from rsseg_tf.config import load_config
from rsseg_tf.errors import ConfigError, WeightsError
from rsseg_tf.weights.pretrained import load_pretrained, weight_names

model = "model={name: toy_head, dropout: 0.1, backbone: {name: toy_net, width: 6}}"
config = load_config("tiny.yml", [model, "loss={main: {name: toy_loss, scale: 2.0}}"])
built = build_model(config)
assert built.get_layer("c2").filters == 6 and built.output["main"].shape[-1] == 2
logits, labels = keras.ops.ones((1, 2, 2, 2)), keras.ops.array([[[0, 1], [255, 255]]])
assert abs(float(build_losses(config)["main"][0](logits, labels)) - 2.0) < 1e-6
try:
    load_config("tiny.yml", [model, "model.backbone.widht=3"])
except ConfigError as error:
    assert "unknown key 'model.backbone.widht'. Did you mean 'width'?" in str(error), error
else:
    raise AssertionError("an unknown key")
"""
USE_WITHOUT_NAMES = """
try:
    load_pretrained(built, load_config("tiny.yml", [model, "model.pretrained=released.pdparams"]))
except WeightsError as error:
    assert "no map of released weights for toy_head" in str(error), error
else:
    raise AssertionError("weights without a map of their names")
print("used")
"""
USE_NAMES = """
names = weight_names(config.model, [weight.path for weight in built.weights])
assert names["backbone.layer1.weight"] == "c2/kernel" and names["head.bias"] == "head_classifier/bias", names
print("used")
"""


def shown_row(heading: str) -> str:
    """Returns the row that CONTRIBUTING shows under a heading."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    match = re.search(rf"\*\*{heading}\*\*:.*?```python\n(.*?)```", text, re.DOTALL)
    assert match, heading
    return match[1]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package to which one file and one row of each kind were added, and a tiny dataset."""
    for name in ("rsseg_tf", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES.items():
        (tmp_path / "rsseg_tf" / name).write_text(text, "utf-8")
    zoo = tmp_path / "rsseg_tf" / "config" / "zoo.py"
    table = zoo.read_text("utf-8")
    for heading, place in PLACES.items():
        assert table.count(place) == 1, place
        table = table.replace(place, f"{shown_row(heading)}\n\n{place}")
    zoo.write_text(table, "utf-8")
    write_config(tmp_path / "tiny.yml", write_dataset(tmp_path / "data"))
    return tmp_path


def run(copy: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_one_file_and_one_row_suffice(copy: Path) -> None:
    write_pdparams(copy / "released.pdparams", {"layer1.weight": np.zeros((4, 3, 3, 3), np.float32)})
    assert run(copy, "-c", USE + USE_WITHOUT_NAMES).splitlines()[-1] == "used"

    command = ("-m", "rsseg_tf.cli", "train", "--config", "tiny.yml", "--save_dir", "out", "--iters", "1")
    model = "model={name: toy_head, backbone: {name: toy_net}}"
    run(copy, *command, "--set", model, "--set", "loss={main: {name: toy_loss}}")
    assert (copy / "out" / "iter_1" / "weights.npz").is_file()

    write_images(copy / "images")
    (copy / "pretrain.yml").write_text(
        "dataset: {name: images, root: images}\nbackbone: {name: toy_net}\nmethod: {name: toy_method}\n"
        "views: {crop_size: 32}\ntrain: {iters: 1, total_batch_size: 4}\n",
        "utf-8",
    )
    run(copy, "-m", "rsseg_tf.cli", "pretrain", "--config", "pretrain.yml", "--save_dir", "pretrained")
    assert (copy / "pretrained" / "iter_1" / "weights.npz").is_file()


@pytest.mark.slow
def test_released_weights_need_a_map_as_well(copy: Path) -> None:
    with (copy / "rsseg_tf" / "weights" / "names.py").open("a", encoding="utf-8") as file:
        file.write(NAMES)
    zoo = copy / "rsseg_tf" / "config" / "zoo.py"
    table = zoo.read_text("utf-8")
    for name in ("toy_net", "toy_head"):
        field = f'    name: Literal["{name}"]'
        table = table.replace(field, f'    weight_names = "rsseg_tf.weights.names:{name}_names"\n{field}')
    zoo.write_text(table, "utf-8")
    assert run(copy, "-c", USE + USE_NAMES).splitlines()[-1] == "used"
