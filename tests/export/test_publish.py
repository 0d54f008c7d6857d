"""A version appears whole or not at all; a worse model is not published."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.config import dump_config
from rsseg_tf.errors import ExportError
from rsseg_tf.export import AccuracyLimit, ExportOptions, TrainedModel, check_output, export_model, publish
from rsseg_tf.files import hold
from rsseg_tf.manifest import Artifact, changed_files, file_sha256, read_manifest
from rsseg_tf.predict import InferenceOptions
from rsseg_tf.predictors import Predictor, open_predictor
from tests.fixtures.configs import samples


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes a few bytes where a SavedModel would take seconds."""

    def write(trained: TrainedModel, folder: Path) -> Artifact:
        (folder / "saved_model.pb").write_bytes(b"a graph")
        (folder / "variables").mkdir()
        (folder / "variables" / "data").write_bytes(b"weights")
        return trained.describe("savedmodel", ".", ["class_map"])

    monkeypatch.setattr(publish, "write_savedmodel", write)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("fast")
def test_versions_count_up_and_hold_all_that_is_said(trained: TrainedModel, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "model"
    lines: list[str] = []
    first = export_model(trained, out, notify=lines.append)
    assert first.folder == out / "1" and lines == ["savedmodel: 0.0 MiB"]
    assert export_model(trained, out, version=7).folder == out / "7"
    assert export_model(trained, out).folder == out / "8"
    assert names(out) == ["1", "7", "8"], "nothing else is left"
    assert names(out / "1") == ["config.yml", "manifest.json", "reference.npz", "saved_model.pb", "stac", "variables"]
    manifest = read_manifest(out / "1")
    assert manifest == first.manifest
    (artifact,) = manifest.artifacts
    assert artifact.sha256 == {
        "saved_model.pb": hashlib.sha256(b"a graph").hexdigest(),
        "variables/data": hashlib.sha256(b"weights").hexdigest(),
    }
    assert changed_files(out / "1", artifact) == []
    (out / "1" / "variables" / "data").write_bytes(b"other")
    assert changed_files(out / "1", artifact) == ["variables/data"]
    assert trained.config is not None
    assert (out / "1" / "config.yml").read_text("utf-8") == dump_config(trained.config)
    assert file_sha256(out / "1" / "config.yml") == manifest.origin.config_sha256
    assert manifest.origin.step == 7 and manifest.origin.checkpoint.endswith("/best_model")
    with np.load(out / "1" / "reference.npz") as stored:
        assert stored["pixels"].shape == (2, 32, 32, 3) and stored["pixels"].dtype == np.uint8
        np.testing.assert_allclose(stored["logits"], trained.predict(stored["pixels"]), atol=1e-6)


@pytest.mark.usefixtures("fast")
def test_a_version_is_never_overwritten(trained: TrainedModel, tmp_path: Path) -> None:
    export_model(trained, tmp_path / "out")
    before = (tmp_path / "out" / "1" / "manifest.json").read_bytes()
    with pytest.raises(ExportError, match=r"out/1 exists, and a published version is never overwritten"):
        export_model(trained, tmp_path / "out", version=1)
    assert (tmp_path / "out" / "1" / "manifest.json").read_bytes() == before and names(tmp_path / "out") == ["1"]


@pytest.mark.usefixtures("fast")
def test_of_two_exports_at_once_each_gets_a_number(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def slower(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        (target / "of another").mkdir(parents=True)  # between the look at what is there and the rename
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", slower)
    assert export_model(trained, tmp_path / "out").folder == tmp_path / "out" / "2"
    assert names(tmp_path / "out" / "1") == ["of another"]


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    "raised",
    [
        OSError(28, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "saved_model.pb; No space left on device"),
        RuntimeError("cannot write: No space left on device"),
    ],
)
def test_a_failure_leaves_nothing(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool, raised: Exception
) -> None:
    out = tmp_path / "out"
    if existing:
        export_model(trained, out)

    def full(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(publish, "write_onnx", full)
    with pytest.raises(ExportError, match="could not be written: .*No space left on device. Nothing was published"):
        export_model(trained, out, ExportOptions(("savedmodel", "onnx")))
    assert names(out) == ["1"] if existing else not out.exists()


@pytest.mark.usefixtures("fast")
def test_what_a_killed_export_left_is_cleared_and_a_running_one_is_not(trained: TrainedModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in (".00000001.partial", ".00000002.partial", ".mine.partial"):
        (out / name).mkdir(parents=True)
        (out / name / "model.tflite").write_bytes(b"half")
    (out / ".00000003.partial.lock").write_bytes(b"")  # killed before it made its folder
    running = hold(out / ".00000002.partial.lock")
    assert running is not None
    with running:
        export_model(trained, out)
        assert names(out) == [".00000002.partial", ".00000002.partial.lock", ".mine.partial", "1"]
    export_model(trained, out)
    assert names(out) == [".mine.partial", "1", "2"]


def test_temporary_files_of_converters_lie_in_the_stage(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the next export removes them."""
    seen: list[Path] = []

    def write(trained: TrainedModel, folder: Path) -> Artifact:
        seen.append(Path(tempfile.mkdtemp()))
        (folder / "saved_model.pb").write_bytes(b"a graph")
        return trained.describe("savedmodel", ".", ["class_map"])

    monkeypatch.setattr(publish, "write_savedmodel", write)
    before = tempfile.gettempdir()
    export_model(trained, tmp_path / "out")
    assert seen[0].parent.parent.parent == tmp_path / "out"
    assert tempfile.gettempdir() == before and not [n for n in names(tmp_path / "out" / "1") if n.startswith(".")]


def test_a_full_disk_under_tensorflow_is_one_line(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "saved_model.pb; No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(ExportError, match=r"could not be written: .*No space left on device\. Nothing was published"):
        export_model(trained, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_output_must_be_of_one_model(tmp_path: Path) -> None:
    check_output(tmp_path / "new", None)
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ExportError, match="file is a file; a folder for the versions of a model is needed"):
        check_output(tmp_path / "file", None)
    with pytest.raises(ExportError, match="holds file; only versions of one exported model may lie there"):
        check_output(tmp_path, None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(trained: TrainedModel, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match="could not be written: Permission denied"):
        export_model(trained, tmp_path / "out")


# === The accuracy limit ===


def accuracy_limit(trained: TrainedModel, **limits: float) -> tuple[AccuracyLimit, list[str]]:
    seen: list[str] = []
    assert trained.config is not None
    return AccuracyLimit(samples(trained.config, "val"), progress=seen.append, **limits), seen


def test_a_model_that_is_as_good_is_published_with_its_scores(trained: TrainedModel, tmp_path: Path) -> None:
    passing, seen = accuracy_limit(trained, max_miou_drop=0.0)
    exported = export_model(trained, tmp_path / "out", limit=passing)
    assert exported.folder == tmp_path / "out" / "1" and exported.report == exported.folder / "accuracy.json"
    assert seen == ["checkpoint"] * 2 + ["savedmodel"] * 2
    report = json.loads(exported.report.read_text("utf-8"))
    assert report["images"] == 2 and report["refused"] == [] and report["miou_drop"] == {"savedmodel": 0.0}
    before, after = report["scores"]["checkpoint"], report["scores"]["savedmodel"]
    assert before == after and before["counted_pixels"] == 2 * 1600 - 6


@pytest.mark.usefixtures("fast")
def test_a_worse_model_is_refused_and_its_scores_are_kept(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upside_down(path: Path) -> Predictor:
        predictor = Predictor("savedmodel", trained.spec, trained.predict, options=InferenceOptions())
        return dataclasses.replace(predictor, predict=lambda pixels: -trained.predict(pixels))

    monkeypatch.setattr(publish, "open_predictor", upside_down)
    strict, _ = accuracy_limit(trained, max_miou_drop=-100.0)
    exported = export_model(trained, tmp_path / "out", limit=strict)
    assert exported.folder is None and exported.report == tmp_path / "out" / "refused.json"
    assert exported.accuracy is not None and exported.accuracy.refused == ("savedmodel",)
    assert names(tmp_path / "out") == ["refused.json"]
    drop = json.loads(exported.report.read_text("utf-8"))["miou_drop"]["savedmodel"]
    assert drop == pytest.approx(exported.accuracy.drops["savedmodel"]) and abs(drop) > 1
    lenient, _ = accuracy_limit(trained, max_miou_drop=100.0)
    assert export_model(trained, tmp_path / "out", limit=lenient).folder == tmp_path / "out" / "1"


def test_what_was_published_can_be_opened(trained: TrainedModel, tmp_path: Path) -> None:
    exported = export_model(trained, tmp_path / "out")
    assert exported.folder is not None
    predictor = open_predictor(tmp_path / "out")
    assert predictor.manifest is not None and predictor.manifest.origin == exported.manifest.origin
