"""The jobs of a run on the workers of a Dask cluster: one image or scene is one task.

Workers write where this process would write, so `save_dir` must be a folder that all of them share. A task whose worker
dies is given to another, which goes on from the rows that the first has finished.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from rsseg_tf.errors import INTERRUPTS, ConfigError, reason
from rsseg_tf.extras import require
from rsseg_tf.predict import (
    ImageJob,
    Predict,
    PredictionPlan,
    PredictionResult,
    PredictionSettings,
    attempt,
    discard_partial,
)
from rsseg_tf.rasters.sources import absolute

__all__ = ["predict_on_cluster"]


def predict_on_cluster(
    plan: PredictionPlan,
    open_model: Callable[[], Predict],
    address: str | None,
    *,
    workers: int = 2,
    finish: Callable[[ImageJob], None] | None = None,
) -> list[PredictionResult]:
    """Predicts all images of a plan.

    Args:
        plan: The jobs.
        open_model: Opens the model; called once in each worker, so it must be possible to pickle it.
        address: Address of a running scheduler, such as tcp://10.0.0.5:8786; None for processes on this machine.
        workers: Number of processes on this machine.
        finish: Called with each job that is done.

    Returns:
        One result per job, in their order.

    Raises:
        ConfigError: When the scheduler cannot be reached.
        ExportError: When the extra `cluster` is not installed.
    """
    distributed = require("distributed", "cluster")
    results: dict[ImageJob, PredictionResult] = {}
    waiting = []
    for job, result in plan.todo():
        if result is None:
            if not plan.settings.scenes.resume:
                # What an earlier run has left counts on resume only; a name that cannot be removed fails its own job.
                with contextlib.suppress(OSError, ValueError):
                    discard_partial(job, plan.settings)
            waiting.append(job)
            continue
        results[job] = result
        if finish is not None:
            finish(job)
    # A worker that takes over from a dead one resumes. Paths are absolute: workers may run in another folder.
    scenes = replace(plan.settings.scenes, resume=True)
    if scenes.aoi is not None:
        scenes = replace(scenes, aoi=Path(os.path.abspath(scenes.aoi)))
    settings = replace(plan.settings, scenes=scenes, save_dir=Path(os.path.abspath(plan.settings.save_dir)))
    model = pickle.dumps(open_model)
    with _client(distributed, address, workers) as client:
        tasks = {
            client.submit(_do, replace(job, path=absolute(job.path)), settings, model, pure=False): job
            for job in waiting
        }
        for task in distributed.as_completed(tasks):
            job = tasks[task]
            results[job] = plan.record(job, replace(_result(job, task), image=job.path))
            if finish is not None:
                finish(job)
    return [results[job] for job in plan.jobs]


@contextlib.contextmanager
def _client(distributed: ModuleType, address: str | None, workers: int) -> Iterator[Any]:
    """Connects to a scheduler, or starts a cluster on this machine."""
    with contextlib.ExitStack() as stack:
        if address is None:
            address = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
                )
            )
        try:
            client = distributed.Client(address)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"no Dask scheduler answers at {address}: {reason(error)}. Start one, or use --dask local."
            ) from error
        yield stack.enter_context(client)


@functools.lru_cache(maxsize=1)
def _opened(model: bytes) -> Predict:
    """Opens the model once in a worker."""
    opened: Predict = pickle.loads(model)()
    return opened


def _do(job: ImageJob, settings: PredictionSettings, model: bytes) -> PredictionResult:
    """Does a job in a worker. A worker that cannot open the model fails its own images, not the plan."""
    try:
        predict = _opened(model)
    except INTERRUPTS:
        raise
    except BaseException as error:
        return PredictionResult(job.path, error=f"the model cannot be opened in a worker: {reason(error)}")
    return attempt(job, settings, predict)


def _result(job: ImageJob, task: Any) -> PredictionResult:
    """Returns the result of a task; a task without one gives a result with the reason as error."""
    killed = require("distributed.scheduler", "cluster").KilledWorker
    try:
        result: PredictionResult = task.result()
    except killed as error:
        why = f"the workers that tried it died one after the other, probably for want of memory ({error.last_worker})"
        return PredictionResult(job.path, error=why)
    except INTERRUPTS:
        raise
    except BaseException as error:  # such as a lost connection to the scheduler
        return PredictionResult(job.path, error=reason(error))
    return result
