from __future__ import annotations

import pytest


@pytest.fixture
def every_row_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsseg_tf.predict.writing._CHECKPOINT_S", 0.0)
