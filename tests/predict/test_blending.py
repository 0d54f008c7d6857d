"""The rolling blend against a sum over the whole scene, for random sizes, windows and steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg_tf.errors import DataError
from rsseg_tf.predict.blending import Block, Plan, blend_blocks, make_plan
from rsseg_tf.rasters.windows import Size
from tests.fixtures.scenes import blend_in_memory, lopsided


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    size = Size(draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    window = Size(draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    stride = Size(draw(st.integers(1, window.height)), draw(st.integers(1, window.width)))
    return make_plan(size, window, stride, draw(st.sampled_from(["mean", "cosine"])))


def windows_of(
    plan: Plan,
    pixels: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
    rows: range | None = None,
    columns: range | None = None,
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Predicts the windows one by one, reflected where they reach over the border."""
    for r in rows or range(len(plan.rows.starts)):
        for c in columns or range(len(plan.columns.starts)):
            part = pixels[plan.rows.starts[r] : plan.rows.end(r), plan.columns.starts[c] : plan.columns.end(c)]
            padding = (0, plan.rows.window - part.shape[0]), (0, plan.columns.window - part.shape[1]), (0, 0)
            yield r, c, predict(np.pad(part, padding, mode="reflect")[np.newaxis])[0]


def assemble(blocks: Iterable[Block], height: int, width: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the blocks hold, and how often each pixel came."""
    result, count = np.full((height, width, classes), np.nan), np.zeros((height, width), int)
    for block in blocks:
        rows, columns = block.logits.shape[:2]
        place = slice(block.top, block.top + rows), slice(block.left, block.left + columns)
        result[place] = block.logits
        count[place] += 1
    return result, count


@settings(max_examples=80)
@given(plan=plans())
def test_blocks_cover_each_pixel_once_and_equal_the_sum_in_memory_to_the_bit(plan: Plan) -> None:
    height, width = plan.rows.size, plan.columns.size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    result, count = assemble(blend_blocks(plan, windows_of(plan, pixels, lopsided), 3), height, width)
    assert (count == 1).all()
    np.testing.assert_array_equal(result, blend_in_memory(pixels, lopsided, plan))


@settings(max_examples=40)
@given(plan=plans(), data=st.data())
def test_any_rows_and_columns_of_windows_give_the_same_pixels(plan: Plan, data: st.DataObject) -> None:
    """What lets a scene be resumed in the middle, and be cut into strips."""
    height, width = plan.rows.size, plan.columns.size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    whole = blend_in_memory(pixels, lopsided, plan)
    top = data.draw(st.integers(0, height - 1))
    left = data.draw(st.integers(0, width - 1))
    right = data.draw(st.integers(left + 1, width))
    rows = range(plan.rows.touching(top, height)[0], len(plan.rows.starts))
    columns = plan.columns.touching(left, right)
    windows = windows_of(plan, pixels, lopsided, rows, columns)
    result, _ = assemble(blend_blocks(plan, windows, 3, rows=rows, columns=columns), height, width)
    np.testing.assert_array_equal(result[top:, left:right], whole[top:, left:right])


@settings(max_examples=40)
@given(plan=plans())
def test_constant_logits_have_no_seams(plan: Plan) -> None:
    height, width = plan.rows.size, plan.columns.size
    constant = np.array([0.375, -1.7, 3.3], np.float32)

    def predict(batch: np.ndarray) -> np.ndarray:
        return np.broadcast_to(constant, (*batch.shape[:3], 3))

    windows = windows_of(plan, np.zeros((height, width, 3), np.uint8), predict)
    result, _ = assemble(blend_blocks(plan, windows, 3), height, width)
    np.testing.assert_allclose(result, np.broadcast_to(constant, result.shape), rtol=1e-6, atol=0)


@settings(max_examples=80)
@given(plan=plans())
def test_weights_are_above_zero_and_windows_lie_as_promised(plan: Plan) -> None:
    for axis in (plan.rows, plan.columns):
        assert (axis.profile > 0).all() and (axis.total > 0).all()
        assert axis.starts[0] == 0 and axis.end(len(axis.starts) - 1) == axis.size
        assert list(axis.starts) == sorted(set(axis.starts))
        if axis.blend == "mean":
            assert axis.window <= axis.size, "the original pads nothing"
        else:
            steps = np.diff(axis.starts)
            assert axis.window > axis.size or len(steps) == 0 or steps.max() - steps.min() <= 1


def test_a_blended_seam_is_smaller_than_a_cut() -> None:
    """Two halves that disagree: the blend goes from one to the other without a jump."""
    plan = make_plan(Size(8, 64), Size(8, 40), Size(8, 24), "cosine")
    logits = [np.full((8, 40, 1), value, np.float32) for value in (0.0, 1.0)]
    blocks = blend_blocks(plan, [(0, index, one) for index, one in enumerate(logits)], 1)
    result, _ = assemble(blocks, 8, 64, 1)
    steps = np.diff(result[0, :, 0])
    assert (steps >= 0).all() and steps.max() < 0.2 and result[0, 0, 0] == 0 and result[0, -1, 0] == 1


def test_windows_out_of_order_are_a_mistake_of_the_program() -> None:
    plan = make_plan(Size(8, 8), Size(4, 4), Size(4, 4), "mean")
    with pytest.raises(ValueError, match=r"window \(0, 1\) came where \(0, 0\) was due"):
        list(blend_blocks(plan, [(0, 1, np.zeros((4, 4, 2), np.float32))], 2))


def test_impossible_windows_are_refused() -> None:
    with pytest.raises(DataError, match="stride"):
        make_plan(Size(8, 8), Size(4, 4), Size(5, 4), "mean")
    with pytest.raises(DataError, match="stride"):
        make_plan(Size(8, 8), Size(4, 4), Size(4, 5), "cosine")
