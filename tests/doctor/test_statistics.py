from __future__ import annotations

import math

import pytest

from rsseg_tf.doctor.statistics import inverse_log_weights, median_frequency_weights


def test_median_frequency_by_hand() -> None:
    # Two images of 100 pixels: class 0 fills 90 and 40, class 1 fills 10 and 0, class 2 fills 0 and 60.
    weights = median_frequency_weights([130, 10, 60], [200, 100, 100])
    shares = [0.65, 0.1, 0.6]
    assert weights == pytest.approx([0.6 / share for share in shares], rel=1e-3)


def test_a_class_without_pixels_weighs_1_and_does_not_count_in_the_median() -> None:
    assert median_frequency_weights([50, 0, 50], [100, 0, 100]) == (1, 1, 1)
    assert median_frequency_weights([0, 0], [0, 0]) == (1, 1)


def test_inverse_log_by_hand() -> None:
    assert inverse_log_weights([100, 0]) == (float(f"{1 / math.log(2.02):.4g}"), float(f"{1 / math.log(1.02):.4g}"))
    assert inverse_log_weights([0, 0]) == (50.5, 50.5)
