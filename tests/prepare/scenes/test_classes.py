"""The classes of values do not depend on where and when they are found."""

from __future__ import annotations

import itertools
import math

from rsseg_tf.prepare.scenes.classes import ClassRules, class_table, value_text


def test_ids_do_not_depend_on_the_order_of_values() -> None:
    values = ["road", "Road", "nan", "10", "1", "01", "inf"]
    for found in itertools.permutations(values):
        table = class_table(found, ClassRules(), background=True, where="labels")
        assert table.names == ("background", "01", "1", "10", "inf", "nan", "Road", "road")


def test_numbers_are_values_in_their_shortest_form() -> None:
    texts = [value_text(value) for value in (3, 3.0, 2.5, True, " a ", "", None, math.nan, math.inf)]
    assert texts == ["3", "3", "2.5", "true", "a", None, None, None, "inf"]
