from __future__ import annotations

from typing import get_args

import pytest

from rsseg_tf.datasets.protocols import PROTOCOLS, ProtocolName, present_name
from rsseg_tf.datasets.table import SPECS
from rsseg_tf.errors import OldKeyWarning


def test_names_and_table_agree() -> None:
    assert tuple(PROTOCOLS) == get_args(ProtocolName)
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())


@pytest.mark.parametrize("name", PROTOCOLS)
def test_what_a_protocol_names_exists(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert set(protocol.datasets) <= set(SPECS)
    for dataset in protocol.datasets or SPECS:
        assert set(protocol.left_out) <= set(SPECS[dataset].classes)
    assert protocol.description.endswith(".")


def test_isprs5_is_over_the_five_classes_of_the_papers() -> None:
    left_out = PROTOCOLS["isprs5"].left_out
    for dataset in ("potsdam", "vaihingen"):
        kept = [name for name in SPECS[dataset].classes if name not in left_out]
        assert kept == ["impervious_surface", "building", "low_vegetation", "tree", "car"]


def test_the_earlier_name_of_the_benchmark_is_accepted_with_a_note() -> None:
    with pytest.warns(OldKeyWarning, match="'seed' is called 'benchmark' now"):
        assert present_name("seed") == "benchmark"
    assert [present_name(name) for name in ("benchmark", "isprs5")] == ["benchmark", "isprs5"]
