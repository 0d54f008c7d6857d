"""Which engine is chosen: models made up of a formula and a pause stand in for exported ones."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from rsseg_tf import engines
from rsseg_tf.engines import Choice, choose, find_candidates, named_candidate
from rsseg_tf.errors import ExportError, WeightsError
from rsseg_tf.manifest import Artifact, Format, Quantization
from rsseg_tf.predict import InferenceOptions
from rsseg_tf.predictors import Predictor, open_predictor
from rsseg_tf.rasters.windows import Size
from tests.fixtures.checkpoints import write_checkpoint
from tests.fixtures.configs import use_tiny_backbone
from tests.fixtures.models import SPEC, manifest

FILES = {
    "savedmodel": ".", "onnx": "model.onnx", "openvino": "model.xml", "web": "web/model.tflite",
    "tflite float32": "float32.tflite", "tflite dynamic": "dynamic.tflite", "tflite int16x8": "int16x8.tflite",
}  # fmt: skip
PAUSES = {".": 0.09, "model.onnx": 0.04, "float32.tflite": 0.018, "dynamic.tflite": 0.003, "model.xml": 0.06}


def artifact(name: str) -> Artifact:
    format: Format = name.split(" ")[0]  # type: ignore[assignment]
    quantization: Quantization = name.split(" ")[1] if " " in name else "float32"  # type: ignore[assignment]
    files = {} if FILES[name] == "." else {FILES[name]: "0"}
    like = manifest().artifacts[0]
    return like.model_copy(
        update={"format": format, "path": FILES[name], "quantization": quantization, "sha256": files}
    )


def answer(pixels: np.ndarray) -> np.ndarray:
    """Logits of three classes that depend on brightness."""
    bright = pixels.mean(-1, dtype=np.float32)
    return np.stack([100 - bright, np.full_like(bright, 20), bright - 150], -1)


def nearly(pixels: np.ndarray) -> np.ndarray:
    """The same, but for one pixel of a hundred."""
    logits = answer(pixels)
    logits[:, 0, :, :] = -logits[:, 0, :, :]
    return logits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An exported version without models."""
    return write_version(tmp_path / "out" / "1", "savedmodel", "onnx", "tflite float32", "tflite dynamic")


def write_version(version: Path, *names: str) -> Path:
    version.mkdir(parents=True, exist_ok=True)
    described = manifest().model_copy(update={"artifacts": tuple(artifact(name) for name in names)})
    (version / "manifest.json").write_text(described.to_json(), "utf-8")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 100, 20, 3), np.uint8)
    np.savez(version / "reference.npz", pixels=pixels, logits=answer(pixels), made_up=len(pixels))
    for name in names:
        if FILES[name] != ".":
            (version / FILES[name]).parent.mkdir(exist_ok=True)
            (version / FILES[name]).write_bytes(name.encode())
    return version


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Stands in for `open_predictor`, and lists what was opened; `dynamic.tflite` is fast and not exact."""
    names: list[tuple[str, str]] = []

    def pretend(path: Path, *, config: object, precision: str, threads: int) -> Predictor:
        assert config is None and threads >= 1
        name = path.name if path.suffix else "."
        names.append((name, precision))
        if path.is_file() and path.read_bytes() == b"damaged":
            raise ExportError(f"{path} is damaged")
        formula = nearly if name == "dynamic.tflite" or precision == "bf16" else answer

        def predict(pixels: np.ndarray) -> np.ndarray:
            time.sleep(PAUSES[name])
            return formula(pixels)

        return Predictor("made up", SPEC, predict, InferenceOptions())

    monkeypatch.setattr(engines, "open_predictor", pretend)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return names


def names_of(path: Path) -> list[str]:
    return [one.name for one in find_candidates(path)[1]]


# === Candidates ===


def test_candidates_are_all_that_a_version_holds(folder: Path) -> None:
    place, found = find_candidates(folder.parent)
    assert place == folder
    assert [(one.name, one.engine, one.path) for one in found] == [
        ("savedmodel", "savedmodel", folder),
        ("onnx", "onnx", folder / "model.onnx"),
        ("tflite float32", "tflite", folder / "float32.tflite"),
        ("tflite dynamic", "tflite", folder / "dynamic.tflite"),
    ]


def test_openvino_and_checkpoints_also_compute_in_bfloat16(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_version(folder, "openvino")
    assert [(one.name, one.precision) for one in find_candidates(folder)[1]] == [
        ("openvino", "fp32"),
        ("openvino bf16", "bf16"),
    ]
    checkpoint, _ = write_checkpoint(tmp_path / "trained")
    assert names_of(checkpoint) == ["keras", "keras bf16"]
    assert named_candidate(checkpoint, "keras").path == checkpoint
    with pytest.raises(ExportError, match=r"best_model holds nothing that onnx runs; it offers keras\. Export it"):
        named_candidate(checkpoint, "onnx")


def test_a_page_runs_by_its_tflite_file_where_there_is_no_other(folder: Path) -> None:
    write_version(folder, "web")
    assert [(one.name, one.engine, one.path.name) for one in find_candidates(folder)[1]] == [
        ("web", "tflite", "model.tflite")
    ]
    write_version(folder, "web", "tflite float32")
    assert names_of(folder) == ["tflite float32"]


def test_an_engine_is_one_by_name(folder: Path) -> None:
    assert named_candidate(folder.parent, "onnx").path == folder / "model.onnx"
    assert named_candidate(folder / "model.onnx", "onnx").path == folder / "model.onnx"
    with pytest.raises(ExportError, match=r"holds 2 files for tflite: .*float32\.tflite, .*dynamic\.tflite\. Name one"):
        named_candidate(folder, "tflite")
    with pytest.raises(ExportError, match="nothing that keras runs; it offers savedmodel, onnx, tflite. Name a check"):
        named_candidate(folder, "keras")
    with pytest.raises(ExportError, match=r"model\.onnx holds nothing that tflite runs; it offers onnx"):
        named_candidate(folder / "model.onnx", "tflite")
    with pytest.raises(WeightsError, match="is not a checkpoint"):
        named_candidate(folder / "nowhere", "onnx")


# === The choice ===


def test_the_fastest_that_is_exact_is_chosen_and_the_line_says_why(folder: Path, opened: list[tuple[str, str]]) -> None:
    choice = choose(folder.parent, size=Size(60, 80))
    assert choice.candidate.name == "tflite float32"
    assert [name for name, _ in opened] == [".", "model.onnx", "float32.tflite", "dynamic.tflite"]
    ms = {name: one.ms for name, one in choice.measured.items()}
    assert ms["tflite dynamic"] < ms["tflite float32"] < ms["onnx"] < ms["savedmodel"]
    assert ms["tflite float32"] >= 18 and ms["savedmodel"] >= 90
    assert choice.measured["tflite float32"].lost == 0
    assert re.fullmatch(
        r"Engine: tflite float32, [\d.]+ ms per 80x60 image, 0 % of pixels differ\. Others: tflite dynamic [\d.]+ ms, "
        r"but differs on 1 % of pixels \(--tolerance 0\.05\); onnx \d+ ms; savedmodel \d+ ms\.",
        str(choice),
    ), str(choice)


def test_a_higher_tolerance_chooses_what_is_faster(folder: Path, opened: list[tuple[str, str]]) -> None:
    choice = choose(folder, size=Size(60, 80), tolerance=1.5)
    assert choice.candidate.name == "tflite dynamic" and "1 % of pixels differ." in str(choice)


def test_large_images_are_cut(folder: Path, opened: list[tuple[str, str]]) -> None:
    assert choose(folder, size=Size(5000, 90)).size == Size(512, 90)
    assert choose(folder, size=Size(60, 90)).size == Size(60, 90)


def test_the_miou_that_the_export_measured_counts_instead(folder: Path, opened: list[tuple[str, str]]) -> None:
    report = {"miou_drop": {"tflite float32": 0.4, "tflite dynamic": -0.2, "onnx": 0.0}}
    (folder / "accuracy.json").write_text(json.dumps(report), "utf-8")
    choice = choose(folder, size=Size(60, 80))
    assert choice.candidate.name == "tflite dynamic" and "-0.2 points of mIoU lost" in str(choice)
    assert "but loses 0.4 points of mIoU (--tolerance 0.05)" in str(choice)
    (folder / "accuracy.json").write_text("{}", "utf-8")
    with pytest.raises(ExportError, match=r"accuracy\.json is damaged"):
        choose(folder, size=Size(60, 80))


def test_what_cannot_run_is_left_out_with_its_reason(
    folder: Path, opened: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_version(folder, "savedmodel", "openvino", "tflite float32", "tflite int16x8", "onnx")
    (folder / "float32.tflite").write_bytes(b"damaged")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else object())
    choice = choose(folder, size=Size(60, 80))
    assert choice.candidate.name == "openvino"
    for part in (
        'onnx not installed (pip install ".[onnx]")',
        "tflite int16x8 has no fast kernels on a CPU",
        f"tflite float32 cannot be opened ({folder / 'float32.tflite'} is damaged)",
        "openvino bf16 ",
    ):
        assert part in str(choice), str(choice)


def test_it_is_an_error_when_nothing_remains(folder: Path, opened: list[tuple[str, str]]) -> None:
    write_version(folder, "tflite dynamic", "tflite int16x8")
    with pytest.raises(ExportError, match=r"within the tolerance of 0\.05 points: tflite dynamic .* differs on 1 %"):
        choose(folder, size=Size(60, 80))
    with pytest.raises(ExportError, match=r"dynamic\.tflite is one file, and --engine auto chooses among several"):
        choose(folder / "dynamic.tflite", size=Size(60, 80))
    (folder / "reference.npz").unlink()
    with pytest.raises(ExportError, match=r"reference\.npz is missing or damaged"):
        choose(folder, size=Size(60, 80))
    write_version(folder)
    with pytest.raises(ExportError, match="holds no exported model"):
        choose(folder, size=Size(60, 80))


def test_answers_of_another_shape_or_that_are_no_numbers_are_not_chosen(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_version(folder, "savedmodel")
    for wrong, why in (
        (lambda pixels: answer(pixels)[:, ::2], "differs on 100 % of pixels"),
        (lambda pixels: answer(pixels) + np.float32("nan"), r"gives no answer \(the model gives values that are not"),
    ):
        predictor = Predictor("made up", SPEC, wrong, InferenceOptions())
        monkeypatch.setattr(engines, "open_predictor", lambda *_, predictor=predictor, **__: predictor)
        with pytest.raises(ExportError, match=f"savedmodel .*{why}"):
            choose(folder, size=Size(60, 80))


def test_a_checkpoint_is_compared_with_itself_in_float32(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_backbone(monkeypatch)
    checkpoint, config = write_checkpoint(tmp_path / "trained")
    choice: Choice = choose(checkpoint, config=config, size=Size(32, 32), tolerance=100)
    assert list(choice.measured) == ["keras", "keras bf16"]
    assert choice.measured["keras"].lost == 0 < choice.measured["keras bf16"].lost < 20
    assert all(one.ms > 0 for one in choice.measured.values())
    exact = choose(checkpoint, config=config, size=Size(32, 32), tolerance=0)
    assert exact.candidate.name == "keras"


def test_openvino_opens_in_bfloat16(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="extra openvino is not installed")
    pytest.importorskip("tf2onnx", reason="extra onnx is not installed")
    from rsseg_tf.export import load_trained, write_onnx, write_openvino

    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        trained = load_trained(write_checkpoint(tmp_path)[0])
    model = tmp_path / write_openvino(trained, tmp_path, tmp_path / write_onnx(trained, tmp_path).path).path
    pixels = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3), np.uint8)
    exact, rounded = (open_predictor(model, precision=one).predict(pixels) for one in ("fp32", "bf16"))
    np.testing.assert_allclose(exact, trained.predict(pixels), atol=1e-4)
    np.testing.assert_allclose(rounded, exact, atol=0.1 * np.abs(exact).max())
