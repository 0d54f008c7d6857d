from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsseg_tf.datasets.spec import XYXY, YX, YYXX
from rsseg_tf.errors import DataError
from rsseg_tf.prepare.tile_names import parse_tile_name, tile_name
from rsseg_tf.rasters.windows import Window


@pytest.mark.parametrize(
    ("pattern", "name"), [(YX, "2_10_512_1024"), (XYXY, "2_10_1024_512_1324_712"), (YYXX, "2_10_512_712_1024_1324")]
)
def test_names(pattern: str, name: str) -> None:
    window = Window(512, 1024, 712, 1324)
    assert tile_name(pattern, "2_10", window) == name
    assert parse_tile_name(pattern, name, 200, 300) == ("2_10", window)


@given(
    st.sampled_from([YX, XYXY, YYXX]), st.from_regex(r"[a-z0-9_/.{}()]{1,12}", fullmatch=True),
    st.integers(0, 30000), st.integers(0, 30000), st.integers(1, 2000), st.integers(1, 2000),
)  # fmt: skip
def test_parsing_undoes_naming(pattern: str, stem: str, y0: int, x0: int, height: int, width: int) -> None:
    window = Window(y0, x0, y0 + height, x0 + width)
    assert parse_tile_name(pattern, tile_name(pattern, stem, window), height, width) == (stem, window)


def test_other_names_and_sizes() -> None:
    with pytest.raises(DataError, match=r"scene does not say where in its scene it lies; names like \{stem\}_\{x0\}"):
        parse_tile_name(XYXY, "scene", 10, 10)
    with pytest.raises(DataError, match="says 300x200 pixels, but the tile has 200x300"):
        parse_tile_name(XYXY, "2_10_0_0_300_200", 300, 200)
