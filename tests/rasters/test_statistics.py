from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg_tf.rasters import statistics
from rsseg_tf.rasters.statistics import Moments, look_at_band

TYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), dtype=st.sampled_from(TYPES), rows=st.integers(1, 40))
def test_one_look_gives_what_numpy_gives(seed: int, dtype: str, rows: int) -> None:
    rng = np.random.default_rng(seed)
    low, high = (0, 2) if dtype == "bool" else (0, 200) if dtype.startswith("u") else (-100, 100)
    band = rng.integers(low, high, (rows, 17)).astype(dtype)
    absent, limit = band == band[0, 0], float(high / 2)
    look = look_at_band(band, absent, limit)
    data = band[~absent].astype(np.float64)
    assert (look.moments.count, look.broken) == (data.size, 0)
    assert look.above == (data > limit).sum()
    if data.size:
        assert (look.moments.low, look.moments.high) == (data.min(), data.max())
        assert look.moments.mean == pytest.approx(data.mean(), abs=1e-9)
        assert look.moments.std == pytest.approx(data.std(), abs=1e-9)


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    band = np.array([[1, np.nan, 3], [np.inf, -np.inf, 5]], np.float32)
    look = look_at_band(band, None, 4)
    assert look.broken == 3 and look.above == 1
    assert (look.moments.count, look.moments.mean, look.moments.low, look.moments.high) == (3, 3, 1, 5)


def test_values_beyond_float32_are_not_finite_in_training() -> None:
    look = look_at_band(np.array([[-1.7e308, 1e39, -3e38, 2.0]]), None, None)
    assert look.broken == 2 and (look.moments.low, look.moments.high) == (-3e38, 2)
    assert math.isfinite(look.moments.std)


def test_blocks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    band = np.random.default_rng(0).normal(1e6, 1, (50, 30))  # far from 0, where sums of squares would fail
    monkeypatch.setattr(statistics, "_BLOCK_PIXELS", 64)
    look = look_at_band(band, None, None)
    assert look.moments.std == pytest.approx(band.std(), rel=1e-9)
    assert look.moments.mean == pytest.approx(band.mean(), rel=1e-15)


def test_a_band_without_data() -> None:
    for dtype in ("uint8", "float32"):
        look = look_at_band(np.full((4, 4), 9, dtype), np.ones((4, 4), bool), 3)
        assert look.moments == Moments() and look.above == 0
    assert Moments().std == 0 and Moments.joined([]) == Moments()


def test_joined_moments_are_those_of_all_values() -> None:
    parts = [np.random.default_rng(seed).normal(seed, 1 + seed, 10 + seed) for seed in range(4)]
    looks = [look_at_band(part[None], None, None).moments for part in parts]
    whole = np.concatenate(parts)
    joined = Moments.joined([Moments(), *looks])
    assert joined.mean == pytest.approx(whole.mean()) and joined.std == pytest.approx(whole.std())
    scaled = joined.scaled(0.5)
    assert scaled.std == pytest.approx(whole.std() / 2) and scaled.high == pytest.approx(whole.max() / 2)
