"""Names such as torchvision/resnet18 are downloaded once, checked and used offline; stems keep their bands."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from rsseg_tf.backbones import resnet
from rsseg_tf.build import build_backbone, build_model
from rsseg_tf.config import Config, named_weights
from rsseg_tf.config.named_weights import IMAGENET, NAMED_WEIGHTS, NamedWeights
from rsseg_tf.config.zoo import EfficientNet, ResNet
from rsseg_tf.errors import ConfigError, WeightsError
from rsseg_tf.files.cache import cached
from rsseg_tf.weights.named import normalisation_note, random_note
from rsseg_tf.weights.names import TORCH_VARIABLES, resnet_names
from rsseg_tf.weights.pretrained import load_backbone, load_pretrained
from rsseg_tf.weights.tensors import read_tensors
from tests.fixtures.configs import replace_builder, tiny_config
from tests.fixtures.weight_files import released, write_torch

MODEL = "model={name: fcn, channels: 8, backbone: {name: resnet18, pretrained: SOURCE}}"
NAMES = {3: "torchvision/resnet18", 13: "torchgeo/resnet18_sentinel2_all_moco"}
SENTINEL = ["augment.saturation_range=0.0", "augment.hue_range=0.0", "dataset.max_value=10000.0", "dataset.bands=13"]


def tiny(*, in_channels: int = 3, output_stride: int = 32) -> keras.Model:
    return resnet((1, 1, 1, 1), (8, 8, 16, 16), bottleneck=False, in_channels=in_channels, output_stride=output_stride)


def tensors_of(bands: int) -> dict[str, np.ndarray]:
    model = tiny(in_channels=bands)
    names = resnet_names([variable.path for variable in model.weights], TORCH_VARIABLES)
    return {**released(model, names), "fc.bias": np.zeros(10, np.float32)}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, NamedWeights]]:
    """A server with a small file for three bands and one for thirteen, to which two names lead."""
    replace_builder(monkeypatch, "rsseg_tf.backbones.resnet:resnet18", tiny)
    monkeypatch.setenv("RSSEG_TF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    files = {bands: write_torch(tmp_path / f"{bands}.pth", tensors_of(bands)).read_bytes() for bands in NAMES}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files[int(self.path.strip("/").partition("-")[0])]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    digits = {bands: hashlib.sha256(content).hexdigest()[:8] for bands, content in files.items()}
    found = {
        bands: dataclasses.replace(
            NAMED_WEIGHTS[name], sha256=digits[bands], url=f"{address}/{bands}-{digits[bands]}.pth"
        )
        for bands, name in NAMES.items()
    }
    table = {**NAMED_WEIGHTS, **{row.name: row for row in found.values()}}
    monkeypatch.setattr(named_weights, "NAMED_WEIGHTS", table)
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def config_of(tmp_path: Path, bands: int, *more: str) -> Config:
    return tiny_config(tmp_path, MODEL.replace("SOURCE", NAMES[bands]), *(SENTINEL if bands == 13 else []), *more)


@pytest.mark.parametrize("bands", NAMES)
def test_a_name_is_downloaded_once_and_then_works_offline(
    bands: int, rows: dict[int, NamedWeights], tmp_path: Path
) -> None:
    config = config_of(tmp_path, bands)
    model = build_model(config)
    with pytest.raises(WeightsError, match=r"-[0-9a-f]{8}.pth is not in the cache and the network is off"):
        load_pretrained(model, config, offline=True)
    (report,) = load_pretrained(model, config)
    (again,) = load_pretrained(model, config, offline=True)
    assert report.summary() == again.summary() and again.tensors == len(tiny().weights)
    assert report.summary().splitlines()[0].endswith("; 1 tensors of the file are not part of it (fc)")
    assert not report.notes  # the config's normalisation is that of the row
    stem = model.get_layer("stem_conv").kernel.numpy()
    assert stem.shape == (7, 7, bands, 8)
    np.testing.assert_array_equal(stem.transpose(3, 2, 0, 1), tensors_of(bands)["conv1.weight"])


def test_the_first_digits_of_the_hash_are_compared(
    rows: dict[int, NamedWeights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = dataclasses.replace(rows[3], sha256="f37072fd")
    monkeypatch.setattr(named_weights, "NAMED_WEIGHTS", {**NAMED_WEIGHTS, wrong.name: wrong})
    config = config_of(tmp_path, 3)
    with pytest.raises(WeightsError, match=r"hashes to [0-9a-f]{64}, not to f37072fd as required") as error:
        load_pretrained(build_model(config), config)
    assert "\n" not in str(error.value)
    with pytest.raises(WeightsError, match="as required"):
        cached(f"{rows[3].url}#sha256={rows[3].sha256[:4]}")  # too few digits prove nothing


@pytest.mark.parametrize("server", ["download.pytorch.org/models", "download.openmmlab.com/mmsegmentation"])
def test_names_of_files_that_hold_their_hash(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSSEG_TF_CACHE", str(tmp_path))
    digits = hashlib.sha256(b"weights").hexdigest()[:8]
    for name, passes in ((f"net-{digits}.pth", True), ("net-0123abcd.pth", False)):
        with pytest.raises(WeightsError) as error:
            cached(f"https://{server}/{name}", offline=True)
        target = Path(str(error.value).rsplit(" copy it to ", 1)[1].rstrip("."))
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(b"weights")
        if passes:
            assert cached(f"https://{server}/{name}", offline=True) == target
        else:
            with pytest.raises(WeightsError, match="not to 0123abcd as required"):
                cached(f"https://{server}/{name}", offline=True)


def test_every_name_tells_its_hash_and_the_bands_agree() -> None:
    downloads = [row for row in NAMED_WEIGHTS.values() if row.url]
    assert len(downloads) >= 20
    for row in downloads:
        assert row.url.endswith(f"-{row.sha256}.pth") and len(row.sha256) == 8, row.name
        assert row.normalisation is not None and len(row.normalisation.mean) in (3, 13)


# === What a config says of them ===


def test_images_are_normalised_as_the_weights_want(tmp_path: Path) -> None:
    config = config_of(tmp_path, 3)
    assert (config.dataset.spec.mean, config.dataset.spec.std) == IMAGENET
    sentinel = config_of(tmp_path, 13)
    assert (sentinel.dataset.spec.mean, sentinel.dataset.spec.std) == ((0.0,) * 13, (1.0,) * 13)
    assert normalisation_note(sentinel) is None
    note = normalisation_note(config_of(tmp_path, 13, "dataset.max_value=255.0"))
    assert note is not None and note.startswith("dataset.max_value is 255, and the weights torchgeo/resnet18_sentinel2")


def test_options_that_weights_want_are_told_early(tmp_path: Path) -> None:
    name = "torchvision/efficientnet_b0"
    with pytest.raises(ConfigError, match="want padding: symmetric, epsilon: 1e-05 in the backbone's section"):
        tiny_config(tmp_path, f"model={{name: fcn, backbone: {{name: efficientnet_b0, pretrained: {name}}}}}")
    EfficientNet(name="efficientnet_b0", pretrained=name, padding="symmetric", epsilon=1e-5)
    note = random_note(tiny_config(tmp_path, "model={name: fcn, backbone: {name: resnet50}}"))
    assert note is not None and note.endswith("`pretrained: torchvision/resnet50` begins with ImageNet-1k.")


# === Bands, and checkpoints of the methods ===


@pytest.mark.parametrize("bands", [3, 5])
def test_thirteen_bands_are_not_stretched_to_others(bands: int, rows: dict[int, NamedWeights], tmp_path: Path) -> None:
    config = config_of(tmp_path, 13, f"dataset.bands={bands}")
    with pytest.raises(
        WeightsError, match=f"first convolution conv1.weight is for 13 bands, and the dataset has {bands}"
    ):
        load_pretrained(build_model(config), config)


@pytest.mark.parametrize(
    ("prefix", "follower"),
    [("module.encoder_q.", "module.encoder_k."), ("module.base_encoder.", "module.momentum_encoder.")],
)
def test_checkpoints_of_moco(prefix: str, follower: str, rows: dict[int, NamedWeights], tmp_path: Path) -> None:
    tensors = tensors_of(13)
    both = {prefix + name: array for name, array in tensors.items()}
    both |= {follower + name: array + 1 for name, array in tensors.items()}
    assert_stem(write_torch(tmp_path / "w.pth", both, lambda state: {"epoch": 99, "state_dict": state}), tensors)


@pytest.mark.parametrize("prefix", ["backbone.", "module.backbone."])
def test_checkpoints_of_dino(prefix: str, rows: dict[int, NamedWeights], tmp_path: Path) -> None:
    tensors = tensors_of(13)
    teacher = {prefix + name: array for name, array in tensors.items()}
    teacher[prefix.replace("backbone", "head") + "mlp.0.weight"] = np.zeros((2, 2), np.float32)
    assert_stem(write_torch(tmp_path / "w.pth", teacher, lambda state: {"teacher": state, "epoch": 99}), tensors)


def assert_stem(file: Path, tensors: dict[str, np.ndarray]) -> None:
    """Loads a file for thirteen bands, and compares the first convolution."""
    assert read_tensors(file).format == "torch"
    row = ResNet(name="resnet18")
    model = build_backbone(row, in_channels=13)
    assert load_backbone(model, row, str(file)).tensors == len(model.weights)
    kernel = model.get_layer("stem_conv").kernel.numpy()
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), tensors["conv1.weight"])
