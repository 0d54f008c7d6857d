from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rsseg_tf.datasets import DatasetSpec, custom_spec
from rsseg_tf.datasets.table import SPECS
from rsseg_tf.errors import ExportError
from rsseg_tf.manifest import Artifact, Classes, Inference, Manifest, Origin, Tensor, read_manifest
from rsseg_tf.rasters.windows import Size

FIVE_BANDS = custom_spec(
    "mine",
    ("a", "b"),
    bands=5,
    rgb_bands=(2, 1, 0),
    max_value=10000,
    mean=(0.1,) * 5,
    std=(0.2,) * 5,
    band_names=("blue", "green", "red", "edge", "nir"),
    gsd=3.0,
)


def manifest_of(spec: DatasetSpec) -> Manifest:
    return Manifest(
        model="fcn_hrnet_w18",
        dataset=Classes.of(spec),
        crop_size=Size(512, 256),
        size_multiple=32,
        inference=Inference(scales=(0.5, 1.0), is_slide=True, crop_size=Size(32, 64), stride=Size(32, 32)),
        origin=Origin(
            checkpoint="output/best_model",
            step=5,
            weights_sha256="0" * 64,
            config_sha256="1" * 64,
            exported="2026-01-01T00:00:00+00:00",
            versions={"keras": "3"},
        ),
        artifacts=(
            Artifact(
                format="tflite",
                path="model_int8.tflite",
                quantization="int8",
                tile=Size(512, 256),
                input=Tensor(name="pixels", dtype="uint8", shape=(1, 512, 256, spec.bands), meaning="pixels"),
                outputs=(
                    Tensor(name="logits", dtype="uint8", shape=(1, 512, 256, 2), meaning="", scale=0.5, zero_point=3),
                ),
                sha256={"model_int8.tflite": "2" * 64},
            ),
        ),
    )


@pytest.mark.parametrize("spec", [*SPECS.values(), FIVE_BANDS], ids=lambda spec: spec.name)
def test_a_manifest_is_read_as_it_was_written(tmp_path: Path, spec: DatasetSpec) -> None:
    manifest = manifest_of(spec)
    (tmp_path / "manifest.json").write_text(manifest.to_json(), "utf-8")
    again = read_manifest(tmp_path)
    assert again == manifest
    assert again.spec == spec
    assert json.loads(manifest.to_json())["dataset"]["gsd_m"] == spec.gsd


def test_known_resolutions_are_told() -> None:
    known = {name: spec.gsd for name, spec in SPECS.items()}
    assert known == {
        "dubai": None, "isaid": None, "loveda": 0.3, "potsdam": 0.05, "synthetic": 0.3, "vaihingen": 0.09,
    }  # fmt: skip


def test_a_name_says_what_tells_artifacts_apart() -> None:
    (artifact,) = manifest_of(FIVE_BANDS).artifacts
    assert artifact.name == "tflite int8"
    assert artifact.model_copy(update={"format": "onnx"}).name == "onnx"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version: Input should be 1.*export the model again"),
        ({"future": 1}, "future: Extra inputs are not permitted"),
        ({"crop_size": [0, 4]}, "crop_size: .*height and width must be above 0; got .0, 4."),
        ({"model": None}, "model: Input should be a valid string"),
        ({"dataset": {**manifest_of(FIVE_BANDS).model_dump(mode="json")["dataset"], "bands": 4}}, "contradicts itself"),
    ],
)
def test_what_cannot_be_used_is_named(change: dict[str, object], message: str) -> None:
    values = manifest_of(FIVE_BANDS).model_dump(mode="json") | change
    with pytest.raises(ExportError, match=f"The manifest of somewhere .*{message}"):
        Manifest.from_json(json.dumps(values), "somewhere")


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_other_files_are_no_manifest(text: str) -> None:
    with pytest.raises(ExportError, match="The manifest of somewhere cannot be used"):
        Manifest.from_json(text, "somewhere")


def test_reading_one_needs_no_network_library() -> None:
    code = "import sys, rsseg_tf.manifest; print({'keras', 'tensorflow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
