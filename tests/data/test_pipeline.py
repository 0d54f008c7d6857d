from __future__ import annotations

import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import tensorflow as tf

from rsseg_tf.config.schema import Augment
from rsseg_tf.data import SampleReader, sample_order, train_batches
from rsseg_tf.data.augment import normalise
from rsseg_tf.data.pipeline import endless_batches
from rsseg_tf.datasets import DatasetSpec, custom_spec
from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import Sample
from tests.fixtures.devices import two_devices

SPEC = custom_spec("town", ["ground", "roof"])
COUNT = 7  # not a multiple of the batch size
PLAIN = Augment(
    crop_size=(32, 24),
    scale_range=(1.0, 1.0),
    flip_horizontal=0.0,
    brightness_range=0.0,
    contrast_range=0.0,
    saturation_range=0.0,
    hue_range=0.0,
)
CHANGED = Augment(crop_size=(20, 16), scale_range=(0.5, 1.5), flip_vertical=0.5, rotate90=0.5, rotate_degrees=20.0)

Batch = dict[str, np.ndarray]


def write_samples(folder: Path, count: int = COUNT, *, bands: int = 3, dtype: str = "uint8") -> list[Sample]:
    """Writes random images (24, 32, bands) as TIFF, and labels with some ignored pixels."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(count):
        sample = Sample(folder / f"{number}.tif", folder / f"{number}.png")
        pixels = rng.integers(0, 256 if dtype == "uint8" else 10_000, (bands, 24, 32)).astype(dtype)
        with rasterio.open(sample.image, "w", driver="GTiff", width=32, height=24, count=bands, dtype=dtype) as target:
            target.write(pixels)
        cv2.imwrite(str(sample.label), rng.choice(np.array([0, 1, 255], np.uint8), (24, 32)))
        samples.append(sample)
    return samples


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return write_samples(tmp_path_factory.mktemp("samples"))


def take(
    samples: list[Sample], count: int, augment: Augment = CHANGED, *, spec: DatasetSpec = SPEC, **options: Any
) -> list[Batch]:
    """Returns the first batches as NumPy arrays."""
    settings = {"batch_size": 4, "seed": 5, "workers": 2} | options
    cache_mb = settings.pop("cache_mb", 16)
    dataset = train_batches(SampleReader(samples, spec, cache_mb=cache_mb), augment, **settings)
    return list(islice(dataset.as_numpy_iterator(), count))


def assert_equal(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        for key in ("index", "label", "image"):
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


# === What a batch is ===


def test_a_batch_has_fixed_shapes_types_and_range(samples: list[Sample]) -> None:
    dataset = train_batches(SampleReader(samples, SPEC), CHANGED, batch_size=4, seed=5)
    assert dataset.element_spec == {
        "image": tf.TensorSpec((4, 16, 20, 3), tf.uint8),
        "label": tf.TensorSpec((4, 16, 20), tf.int32),
        "index": tf.TensorSpec((4,), tf.int64),
    }
    for batch in islice(dataset.as_numpy_iterator(), 6):
        assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
            "image": ((4, 16, 20, 3), np.uint8),
            "label": ((4, 16, 20), np.int32),
            "index": ((4,), np.int64),
        }
        assert batch["image"].min() < 64 and 191 < batch["image"].max()
        assert set(np.unique(batch["label"])) <= {0, 1, 255}


def test_bytes_are_normalised_as_the_benchmark_does(samples: list[Sample]) -> None:
    reader = SampleReader(samples, SPEC)
    for batch in take(samples, 3, PLAIN):
        for image, label, index in zip(batch["image"], batch["label"], batch["index"], strict=True):
            pixels, ids = reader(index)
            np.testing.assert_array_equal(image, pixels)
            normal = normalise(image, SPEC)
            np.testing.assert_allclose(normal, (pixels.astype(np.float64) / 255 - 0.5) / 0.5, rtol=0, atol=3e-7)
            np.testing.assert_array_equal(label, ids)


def test_five_bands_of_16_bits_are_scaled_by_their_largest_value(tmp_path: Path) -> None:
    samples = write_samples(tmp_path, 4, bands=5, dtype="uint16")
    mean, std = (0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 0.4, 0.3, 0.2, 0.1)
    spec = custom_spec("s2", ["a", "b"], bands=5, max_value=10_000.0, mean=mean, std=std)
    reader = SampleReader(samples, spec)
    for batch in take(samples, 2, PLAIN, spec=spec):
        for image, index in zip(batch["image"], batch["index"], strict=True):
            pixels = reader(index)[0].astype(np.float64)
            np.testing.assert_array_equal(image, pixels)
            np.testing.assert_allclose(normalise(image, spec), (pixels / 10_000 - mean) / std, rtol=0, atol=5e-6)


def test_float_samples_in_memory_stay_as_they_were_read(tmp_path: Path) -> None:
    """TensorFlow takes over NumPy's memory without a copy where it can; nothing may write into it."""
    samples = write_samples(tmp_path, 3, dtype="float32")
    spec = custom_spec("dem", ["a", "b"], max_value=10_000.0)
    reader = SampleReader(samples, spec, cache_mb=16)
    before = [reader(index)[0].copy() for index in range(3)]
    batches = train_batches(reader, PLAIN, batch_size=3, seed=5, workers=2)
    for batch in islice(batches.as_numpy_iterator(), 6):
        for image, index in zip(batch["image"], batch["index"], strict=True):
            np.testing.assert_array_equal(image, before[index])
    for index in range(3):
        np.testing.assert_array_equal(reader(index)[0], before[index])


def test_padding_gets_the_padding_value_and_the_ignored_id(samples: list[Sample]) -> None:
    augment = PLAIN.model_copy(update={"crop_size": (40, 30)})
    (batch,) = take(samples, 1, augment)
    assert (batch["image"][:, 24:] == 127.5).all()
    assert (batch["image"][:, :, 32:] == 127.5).all()
    assert (batch["label"][:, 24:] == 255).all()
    assert (batch["label"][:, :, 32:] == 255).all()
    assert (batch["label"][:, :24, :32] != 255).any()


# === The order is a pure function of seed and position ===


def test_one_seed_gives_one_stream_whatever_reads_it(samples: list[Sample]) -> None:
    reference = take(samples, 5, workers=1, cache_mb=0)
    assert_equal(reference, take(samples, 5, workers=4))
    assert_equal(reference, take(samples, 5, workers=None))


def test_samples_come_in_order_although_some_are_read_slowly(samples: list[Sample]) -> None:
    class Slow(SampleReader):
        def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            time.sleep(0.05 * (int(index) % 3))
            return super().__call__(index)

    dataset = train_batches(Slow(samples, SPEC), PLAIN, batch_size=1, seed=5, workers=4)
    order = [int(batch["index"][0]) for batch in islice(dataset.as_numpy_iterator(), COUNT)]
    assert order == list(sample_order(0, COUNT, 5))


def test_threads_go_on_while_one_sample_takes_long() -> None:
    later, lock, running, seen = threading.Event(), threading.Lock(), 0, []

    def make(position: int) -> np.int64:
        nonlocal running
        with lock:
            running += 1
            seen.append(running)
        if position == 0:
            later.wait(20)
        elif position == 5:
            later.set()
        time.sleep(0.002)
        with lock:
            running -= 1
        return np.int64(position if position or later.is_set() else -1)

    def load(position: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"index": tf.ensure_shape(tf.numpy_function(make, [position], tf.int64, stateful=False), ())}

    dataset = endless_batches(load, batch_size=2, start=0, workers=2)
    batches = [batch["index"].tolist() for batch in islice(dataset.as_numpy_iterator(), 4)]
    assert batches == [[0, 1], [2, 3], [4, 5], [6, 7]]  # -1: the fifth did not begin before the first was done
    assert max(seen) == 2  # no more threads than workers


def test_another_seed_gives_another_order_and_other_changes(samples: list[Sample]) -> None:
    one, other = take(samples, 4, seed=5), take(samples, 4, seed=6)
    assert [list(batch["index"]) for batch in one] != [list(batch["index"]) for batch in other]
    single = samples[:1]  # the order is the same; so what differs are the changes
    one, other = take(single, 1, seed=5), take(single, 1, seed=6)
    assert not np.array_equal(one[0]["image"], other[0]["image"])


def test_a_sample_is_changed_anew_in_each_epoch(samples: list[Sample]) -> None:
    (batch,) = take(samples[:1], 1)
    assert list(batch["index"]) == [0, 0, 0, 0]
    for position in range(1, 4):
        assert not np.array_equal(batch["image"][0], batch["image"][position])


@pytest.mark.parametrize("count", [1, 2, 3, COUNT])
def test_each_epoch_visits_every_sample_once_in_an_order_of_its_own(samples: list[Sample], count: int) -> None:
    epochs = 12
    batches = take(samples[:count], epochs * count, PLAIN, batch_size=1)
    orders = np.concatenate([batch["index"] for batch in batches]).reshape(epochs, count)
    for epoch, order in enumerate(orders):
        assert sorted(order) == list(range(count))
        np.testing.assert_array_equal(order, sample_order(epoch, count, seed=5))
    distinct = len({tuple(order) for order in orders})
    assert distinct == 1 if count == 1 else distinct >= min(2, epochs)
    if count == COUNT:
        assert distinct == epochs
        assert len(set(orders[:, 0])) > 2, "epochs begin with different samples"


@pytest.mark.parametrize("skipped", [1, 3])
def test_starting_at_a_position_equals_skipping_what_came_before(samples: list[Sample], skipped: int) -> None:
    assert_equal(take(samples, skipped + 3)[skipped:], take(samples, 3, start=skipped * 4))


def test_a_start_that_is_no_multiple_of_the_batch_goes_on_at_that_sample(samples: list[Sample]) -> None:
    singly = take(samples, 9, batch_size=1)
    (batch,) = take(samples, 1, start=5)
    np.testing.assert_array_equal(batch["image"], np.concatenate([one["image"] for one in singly[5:9]]))


def test_a_late_position_of_a_long_run_is_reached_at_once(samples: list[Sample]) -> None:
    start = 2**31 + 8  # beyond 32 bits
    (batch,) = take(samples, 1, start=start)
    epoch, place = divmod(start, COUNT)
    expected = [*sample_order(epoch, COUNT, 5)[place:], *sample_order(epoch + 1, COUNT, 5)][:4]
    assert list(batch["index"]) == expected
    assert np.isfinite(batch["image"]).all()


# === Errors and devices ===


def test_an_error_of_the_reader_is_kept_beside_tensorflows(tmp_path: Path) -> None:
    samples = write_samples(tmp_path)
    cv2.imwrite(str(samples[3].label), np.full((24, 32), 7, np.uint8))
    reader = SampleReader(samples, SPEC, cache_mb=1)
    with pytest.raises(tf.errors.OpError):
        list(islice(train_batches(reader, PLAIN, batch_size=4, seed=5), 2))
    assert isinstance(reader.failure, DataError)
    assert "3.png holds the ids 7; the dataset 'town' allows 0..1 and 255" in str(reader.failure)


def test_two_devices_get_the_halves_of_each_batch_in_order(samples: list[Sample]) -> None:
    strategy = two_devices()
    dataset = train_batches(SampleReader(samples, SPEC), CHANGED, batch_size=4, seed=5)
    for whole, split in zip(
        take(samples, 4), islice(strategy.experimental_distribute_dataset(dataset), 4), strict=True
    ):
        for key, value in whole.items():
            parts = [part.numpy() for part in strategy.experimental_local_results(split[key])]
            assert [len(part) for part in parts] == [2, 2]
            np.testing.assert_array_equal(np.concatenate(parts), value, err_msg=key)


def test_the_parts_of_several_processes_are_the_batches_of_one(samples: list[Sample]) -> None:
    whole = take(samples, 3, start=8)
    parts = [take(samples, 3, start=8, share=(index, 2)) for index in range(2)]
    joined = [{key: np.concatenate([part[i][key] for part in parts]) for key in batch} for i, batch in enumerate(whole)]
    assert_equal(whole, joined)
    assert [len(batch["index"]) for batch in parts[0]] == [2, 2, 2]
