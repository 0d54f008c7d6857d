"""The same jobs on a Dask cluster of two processes; one of them is killed."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsseg_tf.errors import ConfigError
from rsseg_tf.predict import ImageJob, PredictionPlan, PredictionResult, SceneOptions, cluster, writing
from tests.fixtures.scenes import SPEC, TILES, lopsided, noise, plan_of, predict_files, read_band, write_scene

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
cloudpickle = pytest.importorskip("cloudpickle")
pytestmark = pytest.mark.slow


def open_slow_model(folder: str, pause_s: float, fatal: str = "") -> Any:
    """Returns a model that notes each call by process, and kills the first process that meets a pixel value `fatal`."""
    writing._CHECKPOINT_S = 0.0

    def predict(batch: np.ndarray) -> Any:
        time.sleep(pause_s)
        with (Path(folder) / f"calls.{os.getpid()}").open("a") as file:
            file.write(f"{len(batch)}\n")
        partial = Path(folder) / "out" / "geotiff_prediction" / f".{fatal}.partial.json"
        if fatal and partial.exists() and not (Path(folder) / "killed").exists():
            (Path(folder) / "killed").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return lopsided(batch)

    return predict


def windows_predicted(folder: Path) -> int:
    return sum(int(line) for file in folder.glob("calls.*") for line in file.read_text().split())


def test_a_worker_is_killed_and_another_goes_on_where_it_was(tmp_path: Path) -> None:
    paths = [write_scene(tmp_path / f"{name}.tif", noise(900, 100, seed=i)) for i, name in enumerate("abc")]
    paths.append(tmp_path / "broken.tif")
    paths[-1].write_bytes(b"II*\0 this is no picture")
    expected = predict_files(paths, lopsided, SPEC, tmp_path / "expected", TILES)
    run = plan_of(paths, SPEC, tmp_path / "out", TILES)
    finished = []
    model = functools.partial(open_slow_model, str(tmp_path), 0.01, "b")
    results = cluster.predict_on_cluster(run, model, None, workers=2, finish=lambda job: finished.append(job.path))
    assert (tmp_path / "killed").exists(), "a worker died in the middle of scene b"
    assert [result.image for result in results] == paths
    assert sorted(map(str, finished)) == sorted(map(str, paths))
    assert [result.ok for result in results] == [True, True, True, False]
    assert "broken.tif" in (results[3].error or "")
    for one, other in zip(results[:3], expected, strict=False):
        np.testing.assert_array_equal(read_band(one.files["geotiff"]), read_band(other.files["geotiff"]))
    assert len(list(tmp_path.glob("calls.*"))) >= 2, "two workers had a share"
    each = 19 * 2
    assert windows_predicted(tmp_path) < 4 * each, "the scene was not begun anew"

    resumed = plan_of(paths, SPEC, tmp_path / "out", TILES, scenes=SceneOptions(resume=True))
    notes = [result.note for result in predict_on(resumed, tmp_path)]
    assert notes == ["done by an earlier run"] * 3 + [None]


def predict_on(plan: PredictionPlan, folder: Path) -> list[PredictionResult]:
    return cluster.predict_on_cluster(plan, functools.partial(open_slow_model, str(folder), 0.0), None, workers=1)


def open_wrong_model() -> Any:
    def wrong(batch: np.ndarray) -> None:
        raise TypeError("a bug")

    return wrong


def test_whatever_an_image_raises_is_its_own_error(tmp_path: Path) -> None:
    paths = [write_scene(tmp_path / f"{name}.tif", noise(20, 20)) for name in "ab"]
    results = cluster.predict_on_cluster(
        plan_of(paths, SPEC, tmp_path / "out", TILES), open_wrong_model, None, workers=1
    )
    assert [(result.image, result.error) for result in results] == [(path, "TypeError: a bug") for path in paths]


def test_a_worker_that_cannot_open_the_model_ends_no_run() -> None:
    def cannot() -> None:
        raise ImportError("no such library")

    settings = plan_of([], SPEC, Path("out"), TILES).settings
    result = cluster._do(ImageJob(Path("a.tif"), Path("a")), settings, cloudpickle.dumps(cannot))
    assert result.error == "the model cannot be opened in a worker: ImportError: no such library"


def test_a_task_that_is_lost_is_the_error_of_its_image() -> None:
    class Lost:
        def result(self) -> None:
            raise asyncio.CancelledError("lost")

    assert cluster._result(ImageJob(Path("a.tif"), Path("a")), Lost()).error == "CancelledError: lost"


def test_no_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dask

    run = plan_of([write_scene(tmp_path / "a.tif", noise(20, 20))], SPEC, tmp_path / "out", TILES)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ConfigError, match="no Dask scheduler answers at tcp://127.0.0.1:9"),
    ):
        cluster.predict_on_cluster(run, open_wrong_model, "tcp://127.0.0.1:9", workers=1)
