from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rsseg_tf.datasets import DatasetSpec, custom_spec, default_palette
from rsseg_tf.datasets.spec import unknown_ids
from rsseg_tf.errors import DataError

GOOD: dict[str, Any] = {"name": "city", "classes": ("road", "roof"), "palette": ((1, 2, 3), (4, 5, 6))}


def test_defaults() -> None:
    spec = DatasetSpec(**GOOD)
    assert spec.num_classes == 2
    assert (spec.ignore_index, spec.bands, spec.rgb_bands, spec.max_value) == (255, 3, (0, 1, 2), 255.0)
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)


def test_is_frozen_and_hashable() -> None:
    spec = DatasetSpec(**GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.name = "other"  # type: ignore[misc]
    assert hash(spec) == hash(DatasetSpec(**GOOD))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": " "}, "needs a name"),
        ({"classes": (), "palette": ()}, "has 0 classes; 1 to 255"),
        ({"classes": ("a", "a")}, "names class 'a' more than once"),
        ({"classes": ("a", "")}, "name of class 1 is ''"),
        ({"palette": ((1, 2, 3),)}, "2 classes but 1 palette colours"),
        ({"palette": ((1, 2, 3), (4, 5, 256))}, r"colour of class 'roof' is \(4, 5, 256\)"),
        ({"palette": ((1, 2, 3), (4, 5))}, "colour of class 'roof'"),
        ({"palette": ((1, 2, 3), (1, 2, 3))}, "'road' and 'roof' share the colour"),
        ({"ignore_index": 1}, "ignore_index 1 is also the id of class 'roof'"),
        ({"ignore_index": 256}, "ignore_index is 256"),
        ({"ignore_index": -1}, "ignore_index is -1"),
        ({"bands": 0}, "bands is 0"),
        ({"bands": 4}, "mean has 3 values for 4 bands"),
        ({"std": (0.5, 0.5)}, "std has 2 values for 3 bands"),
        ({"std": (0.5, 0.0, 0.5)}, "all values must be above 0"),
        ({"mean": (0.5, float("nan"), 0.5)}, "must be finite"),
        ({"rgb_bands": (0, 1, 3)}, r"rgb_bands is \(0, 1, 3\)"),
        ({"rgb_bands": (0, 1)}, r"rgb_bands is \(0, 1\)"),
        ({"max_value": 0.0}, "max_value is 0.0"),
    ],
)
def test_contradictions_are_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        DatasetSpec(**{**GOOD, **change})
    assert "\n" not in str(caught.value)


def test_255_classes_fit_and_256_do_not() -> None:
    names = [f"class{i}" for i in range(256)]
    assert custom_spec("many", names[:255]).num_classes == 255
    with pytest.raises(DataError, match="has 256 classes"):
        custom_spec("many", names)


@pytest.mark.parametrize("n", [0, 1, 7, 255])
def test_default_palette_is_distinct_deterministic_and_grows(n: int) -> None:
    palette = default_palette(n)
    assert len(set(palette)) == len(palette) == n
    assert palette == default_palette(255)[:n]
    assert all(0 <= value <= 255 and max(colour) - min(colour) > 20 for colour in palette for value in colour)


def test_first_colours_are_far_apart() -> None:
    palette = default_palette(10)
    distances = [sum(abs(a - b) for a, b in zip(p, q, strict=True)) for i, p in enumerate(palette) for q in palette[:i]]
    assert min(distances) > 50


@pytest.mark.parametrize("n", [-1, 256])
def test_default_palette_refuses(n: int) -> None:
    with pytest.raises(DataError, match=f"{n} were asked for"):
        default_palette(n)


@pytest.mark.parametrize(("bands", "shown"), [(1, (0,)), (2, (0,)), (3, (0, 1, 2)), (13, (0, 1, 2))])
def test_custom_spec_fills_in_bands(bands: int, shown: tuple[int, ...]) -> None:
    spec = custom_spec("mine", ["a", "b"], bands=bands)
    assert spec.rgb_bands == shown
    assert len(spec.mean) == len(spec.std) == bands


def test_custom_spec_takes_lists() -> None:
    spec = custom_spec("mine", ["a", "b"], [[1, 2, 3], [4, 5, 6]], mean=[0.1, 0.2, 0.3], rgb_bands=[2, 1, 0])
    assert spec.palette == ((1, 2, 3), (4, 5, 6))
    assert spec.mean == (0.1, 0.2, 0.3)
    assert spec.rgb_bands == (2, 1, 0)
    hash(spec)


def test_a_text_is_one_name_and_no_letters() -> None:
    spec = custom_spec("mine", ["car", "road"], small_classes="car", band_names="grey", bands=1)
    assert (spec.small_classes, spec.band_names) == (("car",), ("grey",))
    assert custom_spec("mine", "car").classes == ("car",)


def test_unknown_ids_are_neither_classes_nor_ignored() -> None:
    assert unknown_ids([-1, 0, 2, 3, 254, 255, 300], 3, 255) == [-1, 3, 254, 300]
    assert unknown_ids([0, 1], 1, 1) == []
