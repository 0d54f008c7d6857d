from __future__ import annotations

import numpy as np

from rsseg_tf.disjoint_sets import DisjointSets


def test_joined_numbers_have_one_root_as_in_a_plain_labelling() -> None:
    rng = np.random.default_rng(0)
    labels, sets = np.arange(60), DisjointSets()
    for one, other in rng.integers(0, 60, (40, 2)).tolist():
        labels[labels == labels[other]] = labels[one]
        first, second = sets.root(one), sets.root(other)
        if first != second:
            sets.join(first, second)
    roots = np.array([sets.root(number) for number in range(60)])
    np.testing.assert_array_equal(roots[:, None] == roots, labels[:, None] == labels)


def test_what_is_kept_keeps_its_root() -> None:
    sets = DisjointSets()
    for number in range(3):
        sets.join(number + 1, number)
    sets.keep([0, 7])
    assert (sets.root(0), sets.root(7), sets.root(1)) == (3, 7, 1), "1 was forgotten"
