"""A run that was stopped goes on where it was: rows of a scene, and scenes of a list."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import rasterio
from filelock import FileLock

from rsseg_tf.errors import ConfigError, DataError
from rsseg_tf.predict import InferenceOptions, OutputOptions, SceneOptions
from rsseg_tf.rasters.windows import Size
from tests.fixtures.scenes import (
    COSINE,
    SPEC,
    TILES,
    Stopped,
    hidden_files,
    lopsided,
    noise,
    pointwise,
    predict_files,
    predict_one,
    read_band,
    stopping_after,
    write_scene,
)

ALL_OUTPUTS = OutputOptions(confidence=True, probabilities=True)
ROOT = Path(__file__).resolve().parents[2]


def finished(journal: Path) -> dict[str, Any]:
    """Returns how far a scene is; the last line may be half-written after a kill."""
    lines = journal.read_text("utf-8").splitlines()[1:]
    return next(json.loads(line)["finished"] for line in reversed(lines) if line.endswith("}"))


def test_a_stopped_scene_is_finished_without_its_finished_rows(tmp_path: Path, every_row_is_saved: None) -> None:
    path = write_scene(tmp_path / "a.tif", noise(900, 100))
    whole = predict_one(path, tmp_path / "whole", TILES, output=ALL_OUTPUTS)
    calls = []

    def counted(batch: np.ndarray) -> np.ndarray:
        calls.append(len(batch))
        return lopsided(batch)

    predict_one(path, tmp_path / "counted", TILES, predict=counted)
    everything = sum(calls)
    calls.clear()
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        predict_files([path], stopping_after(28), SPEC, out, TILES, output=ALL_OUTPUTS)
    rows = finished(out / "geotiff_prediction" / ".a.partial.json")["rows"]
    assert rows > 0 and rows % 256 == 0
    assert not (out / "geotiff_prediction" / "a.tif").exists()
    result = predict_one(path, out, TILES, predict=counted, scenes=SceneOptions(resume=True), output=ALL_OUTPUTS)
    assert sum(calls) < everything - (rows // 48 - 2) * 2, "windows of finished rows are not predicted again"
    for product in ("geotiff", "confidence", "probabilities"):
        with rasterio.open(whole.files[product]) as one, rasterio.open(result.files[product]) as other:
            np.testing.assert_array_equal(one.read(), other.read())
    assert hidden_files(out) == []


def test_a_killed_process_leaves_what_a_later_one_finishes(tmp_path: Path) -> None:
    """SIGKILL, in the middle of writing: nothing can be cleaned up."""
    path = write_scene(tmp_path / "a.tif", noise(1500, 100))
    whole = predict_one(path, tmp_path / "whole", TILES)
    program = f"""
        import time
        from pathlib import Path
        from rsseg_tf.predict import writing
        from tests.fixtures.scenes import SPEC, TILES, lopsided, predict_files
        writing._CHECKPOINT_S = 0.0
        def slowly(batch):
            time.sleep(0.02)
            return lopsided(batch)
        predict_files([Path({str(path)!r})], slowly, SPEC, Path({str(tmp_path / "out")!r}), TILES)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT)
    journal = tmp_path / "out" / "geotiff_prediction" / ".a.partial.json"
    deadline = time.monotonic() + 60
    while not journal.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = finished(journal)["rows"]
    assert 0 < rows < 1500
    calls = []

    def counted(batch: np.ndarray) -> np.ndarray:
        calls.append(len(batch))
        return lopsided(batch)

    result = predict_one(path, tmp_path / "out", TILES, predict=counted, scenes=SceneOptions(resume=True))
    np.testing.assert_array_equal(read_band(result.files["geotiff"]), read_band(whole.files["geotiff"]))
    assert sum(calls) <= ((1500 - rows) // 46 + 3) * 2
    assert hidden_files(tmp_path / "out") == []


def test_strips_are_resumed_too(tmp_path: Path, every_row_is_saved: None, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_scene(tmp_path / "a.tif", noise(600, 700))
    whole = predict_one(path, tmp_path / "whole", TILES)
    strips = ((0, 256), (256, 512), (512, 700))
    monkeypatch.setattr("rsseg_tf.predict.image.split_into_strips", lambda *_: strips)
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        predict_files([path], stopping_after(140), SPEC, out, TILES)
    assert finished(out / "geotiff_prediction" / ".a.partial.json")["strip"] == 1
    result = predict_one(path, out, TILES, scenes=SceneOptions(resume=True))
    np.testing.assert_array_equal(read_band(result.files["geotiff"]), read_band(whole.files["geotiff"]))


def test_other_options_are_refused_and_without_resume_all_begins_anew(tmp_path: Path, every_row_is_saved: None) -> None:
    path = write_scene(tmp_path / "a.tif", noise(900, 100))
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        predict_files([path], stopping_after(28), SPEC, out, TILES)
    other = InferenceOptions(is_slide=True, crop_size=Size(64, 64), stride=Size(32, 32), blend="cosine")
    (failed,) = predict_files([path], lopsided, SPEC, out, other, scenes=SceneOptions(resume=True))
    assert "was begun with another stride: [48, 48], now [32, 32]" in (failed.error or "")
    (failed,) = predict_files([path], lopsided, SPEC, out, TILES, scenes=SceneOptions(resume=True, model="new"))
    assert "with another model" in (failed.error or "")
    journal = out / "geotiff_prediction" / ".a.partial.json"
    journal.write_text("{", "utf-8")
    (failed,) = predict_files([path], lopsided, SPEC, out, TILES, scenes=SceneOptions(resume=True))
    assert "is damaged" in (failed.error or "") and "Remove it" in (failed.error or "")
    result = predict_one(path, out, other)
    np.testing.assert_array_equal(
        read_band(result.files["geotiff"]), read_band(predict_one(path, tmp_path / "fresh", other).files["geotiff"])
    )
    assert hidden_files(out) == []


def test_batch_size_and_memory_may_change_on_resume(tmp_path: Path, every_row_is_saved: None) -> None:
    path = write_scene(tmp_path / "a.tif", noise(900, 100))
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        predict_files([path], stopping_after(28), SPEC, out, TILES)
    bigger = InferenceOptions(is_slide=True, crop_size=Size(64, 64), stride=Size(48, 48), blend="cosine", batch_size=7)
    predict_one(path, out, bigger, scenes=SceneOptions(resume=True, max_memory=2**30))


def test_scenes_that_are_done_are_not_done_again(tmp_path: Path) -> None:
    paths = [write_scene(tmp_path / f"{name}.tif", noise(30, 40, seed=i)) for i, name in enumerate("abc")]
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        predict_files(paths, stopping_after(14), SPEC, out, COSINE)
    calls = []

    def counted(batch: np.ndarray) -> np.ndarray:
        calls.append(1)
        return lopsided(batch)

    resume = SceneOptions(resume=True)
    results = predict_files(paths, counted, SPEC, out, COSINE, scenes=resume)
    assert [result.note for result in results] == ["done by an earlier run"] * 2 + [None]
    assert all(result.ok and result.files["geotiff"].is_file() for result in results)
    first = len(calls)
    assert predict_files(paths, counted, SPEC, out, COSINE, scenes=resume)[2].note == "done by an earlier run"
    assert len(calls) == first
    results[0].files["geotiff"].unlink()  # lost: done again
    write_scene(paths[1], noise(30, 40, seed=9))  # changed: done again
    notes = [result.note for result in predict_files(paths, counted, SPEC, out, COSINE, scenes=resume)]
    assert notes == [None, None, "done by an earlier run"]
    with pytest.raises(ConfigError, match=r"a\.tif was predicted to .* with another cog: False, now True"):
        predict_files(paths, counted, SPEC, out, COSINE, scenes=resume, output=OutputOptions(cog=True))
    results = predict_files(paths, counted, SPEC, out, COSINE)
    assert [result.note for result in results] == [None] * 3


def test_a_line_that_a_kill_has_cut_short_is_not_read(tmp_path: Path) -> None:
    paths = [write_scene(tmp_path / f"{name}.tif", noise(20, 20)) for name in "ab"]
    out = tmp_path / "out"
    predict_files(paths, pointwise, SPEC, out, COSINE)
    journal = out / ".predicted.jsonl"
    journal.write_text(journal.read_text("utf-8")[:-30], "utf-8")
    resume = SceneOptions(resume=True)
    for notes in (["done by an earlier run", None], ["done by an earlier run"] * 2):
        results = predict_files(paths, pointwise, SPEC, out, COSINE, scenes=resume)
        assert [result.note for result in results] == notes


def test_failed_scenes_are_tried_again(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(20, 20))

    def gone(batch: np.ndarray) -> NoReturn:
        raise DataError("the model is gone")

    (failed,) = predict_files([path], gone, SPEC, tmp_path / "out", COSINE)
    assert failed.error == "the model is gone"
    assert predict_one(path, tmp_path / "out", COSINE, scenes=SceneOptions(resume=True)).note is None


def test_two_processes_do_not_write_one_scene(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(20, 20))
    folder = tmp_path / "out" / "geotiff_prediction"
    folder.mkdir(parents=True)
    with FileLock(folder / ".a.partial.lock"):
        (failed,) = predict_files([path], pointwise, SPEC, tmp_path / "out", COSINE)
    assert "is being written by another process" in (failed.error or "")
    predict_one(path, tmp_path / "out", COSINE)
