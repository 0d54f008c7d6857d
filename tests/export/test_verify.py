from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("ai_edge_litert", reason="extra tflite is not installed")

import rsseg_tf
from rsseg_tf.cli import main
from rsseg_tf.errors import ConfigError, DataError, ExportError
from rsseg_tf.export import TOLERANCES, ExportOptions, TrainedModel, compare, export_model, verify
from rsseg_tf.export.tiles import read_reference
from rsseg_tf.export.timing import time_in_process
from rsseg_tf.manifest import QUANTIZATIONS
from rsseg_tf.rasters.windows import Size
from tests.fixtures.checkpoints import pixels, write_checkpoint


@pytest.fixture(scope="module")
def folder(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    exported = export_model(
        trained,
        tmp_path_factory.mktemp("verified") / "out",
        ExportOptions(("savedmodel", "tflite"), ("float32", "dynamic"), tile=Size(32, 48)),
    )
    assert exported.folder is not None
    return exported.folder


def test_all_artifacts_are_compared_with_the_stored_answers(folder: Path) -> None:
    found = verify(folder.parent)
    assert [one.name for one in found] == ["savedmodel", "tflite float32", "tflite dynamic"]
    for one in found:
        assert one.passed and (one.made_up_tiles, one.real_tiles) == (2, 0) and one.latency_ms > 0
        assert one.size_bytes > 10_000
    sizes = {one.name: one.size_bytes for one in found}
    assert sizes["tflite float32"] == (folder / "model_float32.tflite").stat().st_size


def test_with_the_checkpoint_real_images_are_compared_too(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    for name, size in (("small.png", (20, 30)), ("large.png", (90, 60))):
        cv2.imwrite(str(tmp_path / name), pixels(*size)[0])
    found = verify(folder, checkpoint=checkpoint, images=[tmp_path / "small.png", tmp_path / "large.png"])
    assert [one.name for one in found][:2] == ["checkpoint (Keras)", "savedmodel"]
    assert all(one.passed and (one.made_up_tiles, one.real_tiles) == (2, 2) for one in found)
    with pytest.raises(ExportError, match="name the exported checkpoint: --checkpoint"):
        verify(folder, images=[tmp_path / "small.png"])


def test_the_function_of_the_library_takes_images_as_the_command_does(folder: Path, tmp_path: Path) -> None:
    assert [one.passed for one in rsseg_tf.verify(str(folder))] == [True, True, True]
    lines: list[str] = []
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="images has no images"):
        rsseg_tf.verify(folder, images=str(tmp_path / "images"), notify=lines.append)
    with pytest.raises(ExportError, match="name the exported checkpoint: --checkpoint"):
        rsseg_tf.verify(folder, images=[str(tmp_path / "one.png")])
    with pytest.raises(ConfigError, match="--model_name has an effect with --server only"):
        rsseg_tf.verify(folder, model_name="m")


def test_an_export_keeps_real_tiles_and_int8_is_judged_by_them_alone(trained: TrainedModel, tmp_path: Path) -> None:
    calibration = [pixels(40, 60, seed=seed)[0] for seed in range(5)]
    options: dict[str, Any] = {"quantizations": ("float32", "int8"), "tile": Size(32, 48), "calibration": calibration}
    kept = export_model(trained, tmp_path / "kept", ExportOptions(("tflite",), real_tiles=3, **options)).folder
    assert kept is not None
    reference = read_reference(kept)
    assert (reference.made_up, reference.real) == (2, 3)
    for position, index in enumerate((0, 2, 4)):
        np.testing.assert_array_equal(reference.pixels[2 + position], calibration[index][4:36, 6:54])
    np.testing.assert_allclose(reference.logits, trained.predict(reference.pixels), atol=1e-5)
    tiles = {one.name: (one.made_up_tiles, one.real_tiles) for one in verify(kept)}
    assert tiles == {"tflite float32": (2, 3), "tflite int8": (0, 3)}
    output = CliRunner().invoke(main, ["verify", str(kept)]).output
    assert "on 2 made-up and 3 real tiles" in output and "calibrated are compared on the real tiles alone" in output

    none = export_model(trained, tmp_path / "none", ExportOptions(("tflite",), **options)).folder
    assert none is not None
    assert {(one.made_up_tiles, one.real_tiles) for one in verify(none)} == {(2, 0)}


def test_a_model_elsewhere_is_compared_like_the_others(folder: Path, trained: TrainedModel) -> None:
    found = verify(folder, others={"server": trained.predict, "wrong": lambda batch: trained.predict(batch)[:, ::-1]})
    results = {one.name: one.passed for one in found}
    assert results["server"] and not results["wrong"]


def test_what_was_changed_since_the_export_is_named(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "1"
    shutil.copytree(folder, copy)
    with (copy / "model_dynamic.tflite").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ExportError, match=r"model_dynamic\.tflite is missing or is not what was exported"):
        verify(copy)
    (copy / "reference.npz").write_bytes(b"PK")
    with pytest.raises(ExportError, match=r"reference\.npz is missing or damaged"):
        verify(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(ExportError, match=r"has no readable manifest\.json"):
        verify(copy)


def test_another_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    other, _ = write_checkpoint(tmp_path, "model.channels=4")
    with pytest.raises(ExportError, match="was exported from other weights than those of"):
        verify(folder, checkpoint=other)


def test_a_comparison_measures_what_it_says(folder: Path) -> None:
    reference = read_reference(folder)
    shifted = compare("shifted", lambda batch: reference.logits[:1] + 3.0, reference._replace(
        pixels=reference.pixels[:1], logits=reference.logits[:1], made_up=1
    ))  # fmt: skip
    assert shifted.max_logit_difference == pytest.approx(3.0, rel=1e-5)
    assert shifted.max_probability_difference < 1e-6 and shifted.agreement == 1.0 and shifted.passed
    flipped = compare("flipped", lambda batch: -reference.logits[:1], reference._replace(
        pixels=reference.pixels[:1], logits=reference.logits[:1], made_up=1
    ))  # fmt: skip
    assert flipped.agreement == 0.0 and not flipped.passed
    with pytest.raises(ExportError, match=r"small answers \(2, 1, 1, 2\); the Keras model answers \(2, 32, 48, 2\)"):
        compare("small", lambda batch: np.zeros((1, 1, 1, 2), np.float32), reference)


def test_the_tolerances_are_those_of_the_help() -> None:
    assert set(TOLERANCES) == set(QUANTIZATIONS)
    text = CliRunner().invoke(main, ["verify", "--help"]).output
    for tolerance in TOLERANCES.values():
        assert f"{tolerance.probability:g}".replace("1e-", "0.000")[:6] in text
        assert f"{100 * tolerance.agreement:g} %" in text


def test_the_command_prints_a_table_and_fails_where_one_differs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = CliRunner().invoke(main, ["verify", str(folder), "--json", str(tmp_path / "v.json")])
    assert result.exit_code == 0, result.output
    assert "tflite dynamic" in result.output and "NO" not in result.output
    report = json.loads((tmp_path / "v.json").read_text("utf-8"))
    assert [one["passed"] for one in report["models"]] == [True, True, True]
    monkeypatch.setitem(TOLERANCES, "dynamic", TOLERANCES["dynamic"]._replace(agreement=1.1))
    result = CliRunner().invoke(main, ["verify", str(folder)])
    assert result.exit_code == 1 and "Beyond the tolerance: tflite dynamic." in result.output


@pytest.mark.slow
def test_each_artifact_is_timed_in_a_process_of_its_own(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "b.json"
    arguments = ["benchmark", str(folder.parent), "--size", "40", "50", "--runs", "3", "--threads", "1"]
    result = CliRunner().invoke(main, [*arguments, "--json", str(output)])
    assert result.exit_code == 0, result.output
    report = json.loads(output.read_text("utf-8"))
    assert [row["name"] for row in report["models"]] == ["savedmodel", "tflite float32", "tflite dynamic"]
    for row in report["models"]:
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] and row["runs"] == 3
        assert row["memory_mib"] > 0.1
    with pytest.raises(ExportError, match="nowhere could not be timed: .*is not a checkpoint"):
        time_in_process(tmp_path / "nowhere", Size(8, 8), threads=1, runs=1)
