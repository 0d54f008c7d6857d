from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsseg_tf.errors import DataError
from rsseg_tf.rasters.windows import Window, sliding_windows, windows


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, int, tuple[int, int], tuple[int, int]]:
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    window = draw(st.integers(1, height)), draw(st.integers(1, width))
    stride = draw(st.integers(1, window[0])), draw(st.integers(1, window[1]))
    return height, width, window, stride


@given(layouts())
def test_windows_cover_everything_and_stay_inside(layout: tuple[int, int, tuple[int, int], tuple[int, int]]) -> None:
    height, width, window, stride = layout
    found = sliding_windows(height, width, window, stride)
    covered = np.zeros((height, width), bool)
    for y0, x0, y1, x1 in found:
        assert 0 <= y0
        assert y1 <= height
        assert 0 <= x0
        assert x1 <= width
        assert (y1 - y0, x1 - x0) == window
        covered[y0:y1, x0:x1] = True
    assert covered.all()
    assert len(set(found)) == len(found)
    assert found == sorted(found)


@given(layouts())
def test_no_window_is_superfluous(layout: tuple[int, int, tuple[int, int], tuple[int, int]]) -> None:
    height, width, window, stride = layout
    rows = {w.y0 for w in sliding_windows(height, width, window, stride)}
    assert len(rows) == -(-(height - window[0]) // stride[0]) + 1


def test_last_window_is_shifted_back() -> None:
    assert windows(600, 512, 512) == [Window(0, 0, 512, 512), Window(88, 0, 600, 512)]
    assert [w.x0 for w in windows(512, 1300, 512, 128)] == [0, 384, 768, 788]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 10, (11, 5), (5, 5)), "window of 11 rows does not fit into an image of 10"),
        ((10, 10, (5, 11), (5, 5)), "window of 11 columns does not fit"),
        ((10, 10, (5, 5), (6, 5)), "a stride of 6"),
        ((10, 10, (5, 5), (5, 0)), "a stride of 0"),
        ((10, 10, (0, 5), (1, 5)), "A window of 0 rows"),
    ],
)
def test_refuses(arguments: tuple[int, int, tuple[int, int], tuple[int, int]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        sliding_windows(*arguments)


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (8, 8), (8, -1)])
def test_refuses_tile_or_overlap(tile: int, overlap: int) -> None:
    with pytest.raises(DataError, match=r"tile size is 0|overlap is"):
        windows(20, 20, tile, overlap)
