"""What `eval` counts is, pixel for pixel, what `predict` writes, whatever the options."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rsseg_tf.evaluate.evaluation import evaluate, evaluate_stitched
from rsseg_tf.evaluate.stitching import find_scenes
from rsseg_tf.files.lists import Sample
from rsseg_tf.metrics import confusion_matrix
from rsseg_tf.predict import InferenceOptions, OutputOptions, any_size
from rsseg_tf.rasters.images import write_png
from rsseg_tf.rasters.windows import Size
from tests.fixtures.scenes import SPEC, noise, predict_files, read_band, write_scene

WHOLE = 24 * 24
"""Pixels up to which an image is predicted whole in these tests."""


def uneven(batch: NDArray) -> NDArray[np.float32]:
    """A model that sees a neighbourhood, the border of its window, and the place of a pixel in it."""
    height, width = batch.shape[1:3]
    blurred = np.stack([cv2.blur(image.astype(np.float32), (5, 3)).reshape(image.shape) for image in batch])
    weights = np.array([[1.0, -2.0, 0.5], [0.3, 0.8, -1.0], [-1.5, 0.1, 2.0]], np.float32) / 255
    down = np.linspace(-0.2, 0.2, height, dtype=np.float32)[:, np.newaxis, np.newaxis]
    across = np.linspace(0.3, -0.1, width, dtype=np.float32)[:, np.newaxis]
    logits = blurred @ weights + down * np.array([1, 0, -1], np.float32) + across * np.array([0, 1, -1], np.float32)
    return logits.astype(np.float32)


def of_one_size(batch: NDArray) -> NDArray[np.float32]:
    """The same as a file that takes one size alone."""
    assert batch.shape[1:3] == (9, 12), batch.shape
    return uneven(batch)


@dataclass(frozen=True)
class Case:
    """An image, how it is predicted, and where `predict` cuts it into strips."""

    size: tuple[int, int]
    options: InferenceOptions
    strips: tuple[tuple[int, int], ...]
    nodata: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    windows: dict[str, Any] = {}
    if draw(st.booleans()):
        window = Size(draw(st.integers(1, 20)), draw(st.integers(1, 20)))
        stride = Size(draw(st.integers(1, window.height)), draw(st.integers(1, window.width)))
        windows = {"is_slide": True, "crop_size": window, "stride": stride}
    options = InferenceOptions(
        scales=draw(st.sampled_from([(1.0,), (1.0,), (0.75, 1.5), (1.0, 1.25), (2.0,)])),
        flip_horizontal=draw(st.booleans()),
        flip_vertical=draw(st.booleans()),
        rotate90=draw(st.booleans()),
        blend=draw(st.sampled_from(["mean", "cosine"])),
        batch_size=draw(st.integers(1, 5)),
        tile=Size(9, 12),
        fixed_tile=draw(st.booleans()),
        **windows,
    )
    edges = [0, *sorted(draw(st.sets(st.integers(1, max(1, size[1] - 1)), max_size=2)) - {size[1]}), size[1]]
    return Case(size, options, tuple(pairwise(edges)), draw(st.booleans()))


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_eval_counts_what_predict_writes(case: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("case")
    bands = noise(*case.size)
    label = np.random.default_rng(1).integers(0, 3, case.size, dtype=np.uint8)
    if case.nodata:
        bands[:, noise(*case.size, 1, seed=2)[0] < 90] = 0
    image = write_scene(folder / "image.tif", bands, **({"nodata": 0} if case.nodata else {}))
    write_png(folder / "label.png", label)
    model = any_size(of_one_size, Size(9, 12), 3) if case.options.fixed_tile else uneven
    counted: list[NDArray[np.uint8]] = []
    with (
        mock.patch("rsseg_tf.predict.engine.WHOLE_PIXELS", WHOLE),
        mock.patch("rsseg_tf.predict.image.split_into_strips", lambda *_: case.strips),
    ):
        scores = evaluate(
            model,
            [Sample(image, folder / "label.png")],
            SPEC,
            case.options,
            observe=lambda index, pixels, label, prediction: counted.append(prediction),
        )
        (result,) = predict_files(
            [image], model, SPEC, folder / "out", case.options, output=OutputOptions(pictures=False)
        )
    assert result.ok and "geotiff" in result.files, result.error
    written = read_band(result.files["geotiff"])
    has_data = written != SPEC.ignore_index
    np.testing.assert_array_equal(written[has_data], counted[0][has_data])
    np.testing.assert_array_equal(has_data, (bands != 0).any(axis=0))
    label[~has_data] = SPEC.ignore_index
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(label, written, 3))


@pytest.mark.parametrize("whole", [WHOLE, 10**6])
def test_one_tile_that_is_a_scene_counts_the_same_by_the_stitched_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    monkeypatch.setattr("rsseg_tf.predict.engine.WHOLE_PIXELS", whole)
    image = write_scene(tmp_path / "scene_0_0_40_30.tif", noise(30, 40))
    write_png(tmp_path / "label.png", np.random.default_rng(1).integers(0, 3, (30, 40), dtype=np.uint8))
    samples = [Sample(image, tmp_path / "label.png")]
    options = InferenceOptions(
        scales=(0.75, 1.5), is_slide=True, crop_size=Size(11, 16), stride=Size(7, 9), blend="cosine", batch_size=3
    )
    whole_counts = evaluate(uneven, samples, SPEC, options).confusion
    stitched = evaluate_stitched(uneven, find_scenes(samples, "{stem}_{x0}_{y0}_{x1}_{y1}"), SPEC, options).confusion
    np.testing.assert_array_equal(whole_counts, stitched)


def test_small_images_keep_the_order_of_paddleseg_and_large_ones_have_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two orders differ, so the bound between them is no detail."""
    image = write_scene(tmp_path / "image.tif", noise(30, 40))
    write_png(tmp_path / "label.png", np.zeros((30, 40), np.uint8))
    options = InferenceOptions(scales=(0.5, 1.5), is_slide=True, crop_size=Size(12, 16), stride=Size(9, 12))
    sizes: dict[int, set[tuple[int, ...]]] = {}
    counts = []
    for whole in (30 * 40, 30 * 40 - 1):
        seen = sizes.setdefault(whole, set())

        def spy(batch: NDArray, seen: set[tuple[int, ...]] = seen) -> NDArray[np.float32]:
            seen.add(batch.shape[1:3])
            return uneven(batch)

        monkeypatch.setattr("rsseg_tf.predict.engine.WHOLE_PIXELS", whole)
        counts.append(evaluate(spy, [Sample(image, tmp_path / "label.png")], SPEC, options).confusion)
    assert sizes == {1200: {(12, 16)}, 1199: {(6, 8), (18, 24)}}
    assert (counts[0] != counts[1]).any()
