from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rsseg_tf.config.schema import Augment, Sampling
from rsseg_tf.data import SampleReader, sample_order, train_batches
from rsseg_tf.data.augment import Augmentation
from rsseg_tf.data.sampling import Crops, CropSampler, look_for_classes, rare_classes
from rsseg_tf.datasets import custom_spec
from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import Sample

SPEC = custom_spec("town", ["ground", "roof", "pool", "rail"], bands=1)
IGNORE = SPEC.ignore_index
COUNT = 24
COLOURS: dict[str, Any] = {"saturation_range": 0.0, "hue_range": 0.0}
AUGMENT = Augment(crop_size=(32, 32), flip_vertical=0.5, rotate90=0.5, rotate_degrees=20.0, **COLOURS)


def write(folder: Path, labels: Sequence[np.ndarray]) -> list[Sample]:
    """Writes labels, and images that are equal to them."""
    samples = []
    for number, label in enumerate(labels):
        sample = Sample(folder / f"{number}.png", folder / f"{number}_label.png")
        for path in (sample.image, sample.label):
            cv2.imwrite(str(path), label)
        samples.append(sample)
    return samples


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Labels of ground and roofs; each fourth has a small pool, each sixth a rail of one pixel's width."""
    rng = np.random.default_rng(0)
    labels = []
    for number in range(COUNT):
        label = np.zeros((96, 128), np.uint8)
        label[:, : rng.integers(30, 90)] = 1
        y, x = rng.integers(0, 90), rng.integers(0, 120)
        if number % 4 == 0:
            label[y : y + 5, x : x + 6] = 2
        if number % 6 == 1:
            label[y] = 3
        labels.append(label)
    return write(tmp_path_factory.mktemp("town"), labels)


def crops_of(sampling: Sampling, augment: Augment = AUGMENT) -> Crops:
    return Crops(Augmentation(augment, SPEC, np.dtype("uint8")), sampling)


def take(samples: Sequence[Sample], count: int, sampling: Sampling, **options: Any) -> list[dict[str, np.ndarray]]:
    settings: dict[str, Any] = {"batch_size": 4, "seed": 5, "workers": 2, "augment": AUGMENT} | options
    reader = SampleReader(samples, SPEC, cache_mb=16)
    batches = train_batches(reader, settings.pop("augment"), sampling=sampling, **settings)
    return list(islice(batches.as_numpy_iterator(), count))


def share_of(batches: Sequence[dict[str, np.ndarray]], classes: Sequence[int]) -> float:
    labels = np.concatenate([batch["label"] for batch in batches])
    return float(np.isin(labels, classes).any(axis=(1, 2)).mean())


# === The share of crops ===


@pytest.mark.parametrize(
    ("classes", "ids"), [(("pool",), [2]), (("pool", "rail"), [2, 3]), ("rare", [2, 3])], ids=["one", "two", "rare"]
)
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_wished_share_of_crops_holds_the_classes(
    samples: list[Sample], classes: Any, ids: list[int], share: float
) -> None:
    lines: list[str] = []
    wish = Sampling(classes=classes, share=share)
    batches = take(samples, 30, wish, batch_size=64, notify=lines.append)
    # 1920 crops: those that are placed are exactly as many as are wanted; the others hold a class by chance.
    assert abs(share_of(batches, ids) - share) < 0.02
    assert share_of(take(samples, 10, Sampling(), batch_size=64), ids) < 0.2, "by chance"
    (line,) = lines
    assert line.startswith("Sampling: ") and f"{100 * share:.1f} % are wanted" in line and "are placed" in line


def test_each_part_of_the_stream_has_its_share(samples: list[Sample]) -> None:
    reader = SampleReader(samples, SPEC)
    sampler = look_for_classes(reader, crops_of(Sampling(classes=("pool",), share=0.5)), 5)
    assert sampler is not None
    placed = [sampler.choose(5, position, 0)[1] is not None for position in range(3000, 5000)]
    for length in (10, 100, 1000):
        for start in range(0, 2000, length):
            assert abs(sum(placed[start : start + length]) - sampler.chance * length) < 2.5


def test_each_of_several_classes_gets_its_part(samples: list[Sample]) -> None:
    batches = take(samples, 20, Sampling(classes=("pool", "rail"), share=1.0), batch_size=64)
    assert min(share_of(batches, [2]), share_of(batches, [3])) > 0.4


def test_a_share_that_chance_gives_anyway_changes_nothing(samples: list[Sample]) -> None:
    lines: list[str] = []
    plain = take(samples, 4, Sampling())
    wished = take(samples, 4, Sampling(classes=("roof",), share=0.1), notify=lines.append)
    for one, other in zip(plain, wished, strict=True):
        for key, value in one.items():
            np.testing.assert_array_equal(value, other[key], err_msg=key)
    assert lines[0].endswith("10.0 % are wanted, so none is placed.")


def test_crops_that_are_not_placed_are_those_of_a_run_without_sampling(samples: list[Sample]) -> None:
    plain, wished = take(samples, 12, Sampling()), take(samples, 12, Sampling(classes=("pool",), share=0.5))
    equal = [
        bool(np.array_equal(a, b)) and i == j
        for one, other in zip(plain, wished, strict=True)
        for a, b, i, j in zip(one["image"], other["image"], one["index"], other["index"], strict=True)
    ]
    assert 0.3 < np.mean(equal) < 0.75


def test_the_sample_that_is_due_is_kept_where_it_holds_the_class(samples: list[Sample]) -> None:
    batches = take(samples, 24, Sampling(classes=("pool",), share=1.0))
    due = np.concatenate([sample_order(epoch, COUNT, 5) for epoch in range(4)])
    drawn = np.concatenate([batch["index"] for batch in batches])
    assert (drawn % 4 == 0).all()
    np.testing.assert_array_equal(drawn[due % 4 == 0], due[due % 4 == 0])
    assert len(set(drawn[due % 4 != 0])) == COUNT // 4


def test_image_label_and_index_belong_together(samples: list[Sample]) -> None:
    plain: dict[str, Any] = {
        "scale_range": (1.0, 1.0),
        "image_padding": 0.0,
        "brightness_range": 0.0,
        "contrast_range": 0.0,
    }
    augment = Augment(crop_size=(32, 32), **plain, **COLOURS)
    reader = SampleReader(samples, SPEC)
    for batch in take(samples, 6, Sampling(classes="rare", share=1.0), augment=augment):
        np.testing.assert_array_equal(batch["image"][..., 0], batch["label"])
        for label, index in zip(batch["label"], batch["index"], strict=True):
            assert set(np.unique(label)) <= set(np.unique(reader(int(index))[1]))


# === Stateless ===


@pytest.mark.parametrize("sampling", [Sampling(classes="rare", share=0.6), Sampling(redraw_ignored=True)])
def test_a_resumed_stream_goes_on_as_it_was_with_any_number_of_workers(
    samples: list[Sample], sampling: Sampling
) -> None:
    straight = take(samples, 8, sampling, workers=1)
    for resumed in (take(samples, 3, sampling, start=5 * 4, workers=3), take(samples, 3, sampling, start=5 * 4)):
        for one, other in zip(straight[5:], resumed, strict=True):
            for key, value in one.items():
                np.testing.assert_array_equal(value, other[key], err_msg=key)
    other_seed = take(samples, 8, sampling, seed=6)
    assert not all(np.array_equal(a["label"], b["label"]) for a, b in zip(straight, other_seed, strict=True))


def test_what_is_remembered_does_not_depend_on_threads(samples: list[Sample]) -> None:
    reader = SampleReader(samples, SPEC)
    crops = crops_of(Sampling(classes=("pool", "rail")))
    one, other = (look_for_classes(reader, crops, 5, workers=workers) for workers in (1, 4))
    assert one is not None and other is not None
    for field in dataclasses.fields(CropSampler):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, tuple):
            assert all(np.array_equal(a, b) for a, b in zip(left, right, strict=True)), field.name
        else:
            assert left == right, field.name
    assert [list(holders) for holders in one.holders] == [[0, 4, 8, 12, 16, 20], [1, 7, 13, 19]]
    for number, holders, places in zip(one.classes, one.holders, one.places, strict=True):
        assert places.shape == (len(holders), 8)
        for index, pixels in zip(holders, places, strict=True):
            assert (reader.label(int(index)).ravel()[pixels] == number).all()


# === Ignored pixels ===


def test_crops_of_ignored_pixels_alone_are_drawn_again(tmp_path: Path) -> None:
    label = np.full((96, 96), IGNORE, np.uint8)
    label[60:, 50:] = 1
    samples = write(tmp_path, [label])

    def empty(sampling: Sampling, augment: Augment) -> float:
        batches = take(samples, 3, sampling, augment=augment, batch_size=64)
        return float(np.mean([(one == IGNORE).all() for batch in batches for one in batch["label"]]))

    augment = Augment(crop_size=(24, 24), **COLOURS)
    often = empty(Sampling(), augment)
    assert often > 0.4
    assert empty(Sampling(redraw_ignored=True), augment) < often**8, "ten draws, of which all would have to fail"


def test_a_sample_of_ignored_pixels_alone_ends_the_draws(tmp_path: Path) -> None:
    samples = write(tmp_path, [np.full((40, 40), IGNORE, np.uint8)])
    (batch,) = take(samples, 1, Sampling(redraw_ignored=True))
    assert (batch["label"] == IGNORE).all()


# === Which classes ===


def test_rare_classes_have_less_than_half_of_an_equal_share() -> None:
    assert rare_classes(SPEC, np.array([700, 176, 124, 0])) == (2,), "those that are nowhere cannot be drawn"
    assert rare_classes(SPEC, np.array([900, 40, 30, 30])) == (1, 2, 3)
    with pytest.raises(DataError, match=r"no class of 'town' has less than half of an equal share of the pixels \(12"):
        rare_classes(SPEC, np.array([30, 25, 25, 20]))


def test_a_class_that_no_label_holds_is_named(samples: list[Sample]) -> None:
    with pytest.raises(DataError, match=r"^sampling\.classes names pool, rail, but no label of the training samples"):
        take(samples[2:3], 1, Sampling(classes=("pool", "rail")))


def test_a_damaged_label_is_named(samples: list[Sample], tmp_path: Path) -> None:
    broken = Sample(samples[0].image, tmp_path / "broken.png")
    cv2.imwrite(str(broken.label), np.full((96, 128), 77, np.uint8))
    with pytest.raises(DataError, match=r"broken\.png holds the ids 77"):
        take([*samples, broken], 1, Sampling(classes="rare"))


def test_crops_hold_their_class_where_whole_images_are_turned(samples: list[Sample]) -> None:
    turning: dict[str, Any] = {
        "rotate_degrees": 60.0,
        "rotate_probability": 1.0,
        "rotate_whole": True,
        "scale_range": (1.0, 1.0),
    }
    crops = crops_of(Sampling(classes=("pool",)), Augment(crop_size=(32, 32), **turning, **COLOURS))
    label = cv2.imread(str(samples[0].label), cv2.IMREAD_GRAYSCALE)
    assert label is not None
    pool = np.flatnonzero(label == 2).astype(np.uint32)
    held, first = 0, 0
    for position in range(60):
        draw, ids = crops.draw(label, 3, position, (2, pool))
        held += bool((ids == 2).any())
        first += bool((crops.changes.label(label, dataclasses.replace(draw, place=(0.0, 0.0))) == 2).any())
    assert held == 60 and first < 30
