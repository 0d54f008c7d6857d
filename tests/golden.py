"""The original's outputs, where they lie beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = SHARED / "golden"
DUBAI = SHARED / "data" / "dubai"

needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="shared/golden is not beside the checkout")
needs_dubai = pytest.mark.skipif(not DUBAI.is_dir(), reason="shared/data/dubai is not beside the checkout")
