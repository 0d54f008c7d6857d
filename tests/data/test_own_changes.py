"""A user's own change to training samples: the last one, pure, exact on resume, and refused where it is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.config import dump_config, load_config
from rsseg_tf.data import SampleReader, train_batches
from rsseg_tf.data.own_changes import OwnChange, own_seed
from rsseg_tf.errors import ConfigError, DataError
from rsseg_tf.files.lists import Sample
from rsseg_tf.plugins import PLUGINS_VARIABLE
from rsseg_tf.training import train
from tests.fixtures.configs import samples, tiny_config, use_tiny_backbone
from tests.fixtures.training import StopAt, assert_equal_weights

MODULE = '''
import numpy as np


def dim(image, label, seed):
    """Darkens half of the crops, and hides a random row of the label."""
    rng = np.random.default_rng(seed)
    image = (image * rng.uniform(0.3, 1.0)).astype(image.dtype)
    label[rng.integers(label.shape[0])] = 255
    return image, label
'''


def dim(image: np.ndarray, label: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = (image * rng.uniform(0.3, 1.0)).astype(image.dtype)
    label[rng.integers(label.shape[0])] = 255
    return image, label


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    path = tmp_path / "code" / "my_changes.py"
    path.parent.mkdir()
    path.write_text(MODULE, "utf-8")
    monkeypatch.setenv(PLUGINS_VARIABLE, str(path))
    yield "augment.custom='my_changes:dim'"
    sys.modules.pop("my_changes", None)


def batches(
    tmp_path: Path, *overrides: str, change: Any = None, count: int = 3, workers: int | None = 1
) -> list[dict[str, np.ndarray]]:
    config = tiny_config(tmp_path, *overrides)
    reader = SampleReader(samples(config, "train"), config.dataset.spec)
    found = train_batches(reader, config.augment, batch_size=4, seed=3, workers=workers, augmentation=change)
    return [{name: value.numpy() for name, value in batch.items()} for batch in found.take(count)]


def assert_equal(one: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]]) -> None:
    for left, right in zip(one, other, strict=True):
        for name, value in left.items():
            np.testing.assert_array_equal(value, right[name])


def test_it_comes_last_and_depends_on_the_position_alone(tmp_path: Path) -> None:
    without = batches(tmp_path)
    seen: list[int] = []

    def change(image: np.ndarray, label: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        seen.append(seed)
        return dim(image, label, seed)

    found = batches(tmp_path, change=change)
    for number, (before, after) in enumerate(zip(without, found, strict=True)):
        for row in range(4):
            # What it got is the finished crop, of the type that the batches have.
            seed = own_seed(3, 4 * number + row)
            image, label = dim(before["image"][row].copy(), before["label"][row].astype("uint8"), seed)
            np.testing.assert_array_equal(after["image"][row], image)
            np.testing.assert_array_equal(after["label"][row], label)
            assert 0 <= seed < 2**31 and seed in seen
    assert len({own_seed(3, position) for position in range(1000)} | {own_seed(4, 0)}) == 1001


def test_a_config_names_it_and_threads_change_nothing(module: str, tmp_path: Path) -> None:
    expected = batches(tmp_path, change=dim)
    assert_equal(batches(tmp_path, module), expected)
    assert_equal(batches(tmp_path, module, workers=3), expected)
    config = tiny_config(tmp_path, module)
    path = tmp_path / "again.yml"
    path.write_text(dump_config(config), "utf-8")
    assert load_config(path) == config and config.augment.custom == "my_changes:dim"


def test_a_config_alone_imports_nothing(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PLUGINS_VARIABLE)
    with pytest.raises(ConfigError, match=r"augment.custom is my_changes:dim, .* it runs only if you allow it"):
        batches(tmp_path, module)
    assert "my_changes" not in sys.modules


def test_two_of_them_and_wrong_names_are_refused(module: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="augment.custom is my_changes:dim, and the program gives an aug"):
        batches(tmp_path, module, change=dim)
    with pytest.raises(ConfigError, match=r"augment.custom must be module:function, .* got 'dim'"):
        tiny_config(tmp_path, "augment.custom=dim")
    with pytest.raises(ConfigError, match="has no function dym. Did you mean 'dim'"):
        batches(tmp_path, "augment.custom='my_changes:dym'")


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "shape": (
        lambda i, y, s: (i[:-1], y),
        r"an image \(32, 32, 3\) of uint8, as it was given; it returned \(31, 3",
    ),
    "dtype": (lambda i, y, s: (i / 2, y), r"an image .* it returned \(32, 32, 3\) of float64 on .*train_\d.png\. Keep"),
    "label": (lambda i, y, s: (i, y.astype("int32")), r"a label .* it returned \(32, 32\) of int32"),
    "ids": (lambda i, y, s: (i, y + np.uint8(7)), r"labels of 0..1 and 255 \(ignored\); it returned 7 on"),
    "nothing": (lambda i, y, s: None, r"must return \(image, label\); it returned NoneType on"),
    "three": (lambda i, y, s: (i, y, s), r"must return \(image, label\); it returned 3 values"),
    "tensor": (lambda i, y, s: (tf.constant(i), y), r"it returned EagerTensor"),
    "raises": (lambda i, y, s: 1 / 0, r"failed on .*train_\d.png: ZeroDivisionError: division by zero. Correct it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_result_is_told_in_one_line(name: str) -> None:
    function, message = WRONG[name]
    from rsseg_tf.datasets import custom_spec

    change = OwnChange(function, "mine", custom_spec("tiny", ["dark", "bright"]))
    sample = Sample(Path("train_1.png"), Path("train_1_label.png"))
    with pytest.raises(DataError, match=message) as raised:
        change(np.zeros((32, 32, 3), "uint8"), np.zeros((32, 32), "uint8"), 1, sample)
    assert "\n" not in str(raised.value)


def test_a_run_ends_with_that_line_and_keeps_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    config = tiny_config(tmp_path)
    bad = own_seed(config.train.seed, 13)

    def change(image: np.ndarray, label: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return (image[1:] if seed == bad else image), label

    with pytest.raises(
        DataError, match=r"^The augmentation .*change must return an image .*go on with --resume"
    ) as raised:
        train(config, tmp_path / "out", samples(config, "train"), augmentation=change)
    assert "\n" not in str(raised.value) and (tmp_path / "out" / "iter_3").is_dir()


def test_a_resumed_run_is_that_of_a_straight_one(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    config = tiny_config(tmp_path, "train.deterministic=true", "train.log_iters=1", module)
    without = tiny_config(tmp_path, "train.deterministic=true")
    train_samples = samples(config, "train")
    train(config, tmp_path / "straight", train_samples)
    train(config, tmp_path / "parts", train_samples, callbacks=[StopAt(3)])
    train(config, tmp_path / "parts", train_samples, resume=tmp_path / "parts" / "iter_3")
    assert_equal_weights(tmp_path / "straight" / "iter_6", tmp_path / "parts" / "iter_6")
    train(without, tmp_path / "without", train_samples, augmentation=dim)  # the same function by a program
    assert_equal_weights(tmp_path / "straight" / "iter_6", tmp_path / "without" / "iter_6")


def test_shares_of_a_batch_are_its_parts(tmp_path: Path) -> None:
    """So workers on several machines change their samples as one would."""
    config = tiny_config(tmp_path)
    whole = batches(tmp_path, change=dim, count=2)
    reader = SampleReader(samples(config, "train"), config.dataset.spec)
    for index in (0, 1):
        part = train_batches(reader, config.augment, batch_size=4, seed=3, augmentation=dim, share=(index, 2))
        rows = slice(2 * index, 2 * index + 2)
        for one, batch in zip(part.take(2), whole, strict=True):
            np.testing.assert_array_equal(one["image"], batch["image"][rows])
            np.testing.assert_array_equal(one["label"], batch["label"][rows])
