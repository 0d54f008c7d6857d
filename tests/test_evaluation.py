from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from rsseg_tf.data import SampleReader
from rsseg_tf.datasets import DatasetSpec, Sample, custom_spec
from rsseg_tf.errors import DataError
from rsseg_tf.evaluation import evaluate, read_ahead
from rsseg_tf.inference import InferenceOptions

SPEC = custom_spec("town", ["ground", "roof", "tree"], mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
SIZES = [(5, 7), (8, 8), (3, 11), (6, 4), (9, 2), (4, 4)]


def write_samples(folder: Path, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Sample]:
    """Writes images of different sizes; the first band says the sample's number and guesses its label."""
    rng = np.random.default_rng(0)
    samples = []
    for number, size in enumerate(sizes):
        label = rng.choice(np.array([0, 1, 2, 255], np.uint8), size, p=[0.4, 0.3, 0.2, 0.1])
        guess = np.where(rng.random(size) < 0.7, label % 3, rng.integers(0, 3, size))
        rgb = np.stack([guess, np.full(size, number), np.zeros(size)], axis=-1).astype(np.uint8)
        sample = Sample(folder / f"{number}.png", folder / f"{number}_label.png")
        cv2.imwrite(str(sample.image), rgb[..., ::-1])
        cv2.imwrite(str(sample.label), label)
        samples.append(sample)
    return samples


def predict(images: np.ndarray) -> np.ndarray:
    """Takes the first band for the class: (B, H, W, 3) to logits (B, H, W, 3)."""
    guess = images[..., 0].astype(int)
    return (np.arange(3) == guess[..., None]).astype(np.float32)


def counted(samples: Sequence[Sample], spec: DatasetSpec) -> tuple[np.ndarray, int]:
    """Counts pixel by pixel: rows are labels, columns predictions; and the ignored pixels."""
    counts = np.zeros((3, 3), int)
    ignored = 0
    for sample in samples:
        label = cv2.imread(str(sample.label), cv2.IMREAD_UNCHANGED)
        guess = cv2.imread(str(sample.image), cv2.IMREAD_UNCHANGED)[..., 2]
        for y in range(label.shape[0]):
            for x in range(label.shape[1]):
                if label[y, x] == spec.ignore_index:
                    ignored += 1
                else:
                    counts[label[y, x], guess[y, x]] += 1
    return counts, ignored


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return write_samples(tmp_path)


# === evaluate ===


@pytest.mark.parametrize(
    "options",
    [
        InferenceOptions(),
        InferenceOptions(flip_horizontal=True, flip_vertical=True),
        InferenceOptions(is_slide=True, crop_size=(4, 3), stride=(3, 2)),
    ],
    ids=["whole", "flips", "windows"],
)
def test_the_counts_are_those_of_a_loop_over_pixels(samples: list[Sample], options: InferenceOptions) -> None:
    scores = evaluate(predict, samples, SPEC, options)
    counts, ignored = counted(samples, SPEC)
    np.testing.assert_array_equal(scores.confusion, counts)
    assert scores.ignored_pixels == ignored > 0
    assert counts.sum() + ignored == sum(height * width for height, width in SIZES)
    assert scores.classes == SPEC.classes
    assert scores.acc == pytest.approx(np.trace(counts) / counts.sum())
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    assert scores.miou == pytest.approx((np.diag(counts) / union).mean())


def test_a_sample_that_is_ignored_throughout_adds_nothing(tmp_path: Path) -> None:
    samples = write_samples(tmp_path, [(4, 4), (5, 5)])
    cv2.imwrite(str(samples[1].label), np.full((5, 5), 255, np.uint8))
    scores = evaluate(predict, samples, SPEC, InferenceOptions())
    counts, ignored = counted(samples[:1], SPEC)
    np.testing.assert_array_equal(scores.confusion, counts)
    assert scores.ignored_pixels == ignored + 25


def test_the_model_sees_pixels_as_they_are_in_the_file(tmp_path: Path) -> None:
    samples = write_samples(tmp_path, [(4, 4)])
    spec = custom_spec("town", ["ground", "roof", "tree"])
    seen: list[np.ndarray] = []

    def keep(images: np.ndarray) -> np.ndarray:
        seen.append(images.copy())
        return np.zeros((*images.shape[:3], 3), np.float32)

    evaluate(keep, samples, spec, InferenceOptions())
    pixels, _ = SampleReader(samples, spec)(0)
    assert seen[0].dtype == np.uint8
    np.testing.assert_array_equal(seen[0], pixels[np.newaxis])


def test_the_observer_is_called_in_order_with_what_was_read_and_predicted(samples: list[Sample]) -> None:
    calls: list[int] = []

    def observe(index: int, image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> None:
        calls.append(index)
        assert image.dtype == np.uint8
        assert image.shape == (*SIZES[index], 3)
        assert (image[..., 1] == index).all()
        np.testing.assert_array_equal(prediction, image[..., 0])
        np.testing.assert_array_equal(label, cv2.imread(str(samples[index].label), cv2.IMREAD_UNCHANGED))

    evaluate(predict, samples, SPEC, InferenceOptions(), observe=observe)
    assert calls == [0, 1, 2, 3, 4, 5]


def test_a_wrong_sample_ends_the_evaluation_with_its_message(samples: list[Sample]) -> None:
    cv2.imwrite(str(samples[3].label), np.full(SIZES[3], 7, np.uint8))
    seen: list[int] = []
    with pytest.raises(DataError, match=r"3_label\.png holds the ids 7"):
        evaluate(predict, samples, SPEC, InferenceOptions(), observe=lambda index, *_: seen.append(index))
    assert seen == [0, 1, 2]


def test_an_observer_can_leave_the_evaluation(samples: list[Sample]) -> None:
    class EnoughError(Exception):
        pass

    def observe(index: int, *_: np.ndarray) -> None:
        if index == 1:
            raise EnoughError

    with pytest.raises(EnoughError):
        evaluate(predict, samples, SPEC, InferenceOptions(), observe=observe)


# === read_ahead ===


class FakeReader(SampleReader):
    """Gives numbers; earlier ones take longer, so that they arrive last."""

    def __init__(self, *, wrong: int | None = None, seconds: float = 0.01) -> None:
        self.wrong, self.seconds = wrong, seconds
        self.started: list[int] = []
        self.running = self.most = 0
        self.guard = threading.Lock()

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        with self.guard:
            self.started.append(index)
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(self.seconds * (4 - index % 4))
        with self.guard:
            self.running -= 1
        if index == self.wrong:
            raise DataError(f"sample {index} is wrong")
        return np.array(index), np.array(-index)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 13])
def test_samples_come_in_order(count: int) -> None:
    reader = FakeReader()
    pairs = [(int(image), int(label)) for image, label in read_ahead(reader, count)]
    assert pairs == [(index, -index) for index in range(count)]
    assert sorted(reader.started) == list(range(count)), "each is read once"


def test_the_next_samples_are_read_while_one_is_used_and_no_more_than_that() -> None:
    reader = FakeReader(seconds=0.0)
    samples = read_ahead(reader, 100, ahead=3)
    assert reader.started == []
    next(samples)
    deadline = time.monotonic() + 30
    while len(reader.started) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert sorted(reader.started) == [0, 1, 2, 3]
    samples.close()  # type: ignore[attr-defined]  # a generator


def test_samples_are_read_side_by_side() -> None:
    reader = FakeReader()
    list(read_ahead(reader, 12, ahead=4))
    assert 2 <= reader.most <= 4


def test_an_error_comes_at_its_place() -> None:
    samples = read_ahead(FakeReader(wrong=5), 9)
    assert [int(image) for image, _ in islice(samples, 5)] == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="sample 5 is wrong"):
        next(samples)
