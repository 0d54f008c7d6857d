from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.config.schema import Augment
from rsseg_tf.data import augment as ops
from rsseg_tf.datasets import custom_spec
from rsseg_tf.rasters.windows import Size
from tests.fixtures.golden import GOLDEN, needs_golden

IGNORE = 255
QUIET: dict[str, Any] = {"brightness_range": 0.0, "contrast_range": 0.0, "saturation_range": 0.0, "hue_range": 0.0}


def seed(n: int) -> tf.Tensor:
    return tf.constant([n, 7], tf.int32)


def sample(height: int = 37, width: int = 53, bands: int = 3) -> tuple[tf.Tensor, tf.Tensor]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, bands)).astype(np.float32)
    label = rng.integers(0, 6, (height, width)).astype(np.int32)
    return tf.constant(image), tf.constant(label)


# === Against the original ===


@pytest.fixture(scope="module")
def pieces() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "pieces.npz") as archive:
        return dict(archive)


def original(pieces: dict[str, np.ndarray]) -> tuple[tf.Tensor, tf.Tensor]:
    image = np.ascontiguousarray(pieces["tr_bgr"][..., ::-1]).astype(np.float32)
    return tf.constant(image), tf.constant(pieces["tr_label"].astype(np.int32))


@needs_golden
@pytest.mark.parity
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colours_equal_the_originals_to_the_bit(pieces: dict[str, np.ndarray], name: str) -> None:
    image, _ = original(pieces)
    cases = [key for key in pieces if key.startswith(f"fx_{name}_")]
    assert len(cases) >= 3
    for key in cases:
        value = float(key.rsplit("_", 1)[1])
        got = getattr(ops, f"adjust_{name}")(image, tf.constant(value), quantise=True)
        np.testing.assert_array_equal(got.numpy(), pieces[key].astype(np.float32), err_msg=key)


@needs_golden
@pytest.mark.parity
@pytest.mark.parametrize("factor", ["0.5", "0.75", "1.25", "2"])
def test_scaling_equals_the_originals(pieces: dict[str, np.ndarray], factor: str) -> None:
    image, label = ops.rescale(*original(pieces), tf.constant(float(factor)))
    np.testing.assert_allclose(image, pieces[f"tr_scale_{factor}_img"].transpose(1, 2, 0), atol=2e-4)
    np.testing.assert_array_equal(label, pieces[f"tr_scale_{factor}_label"])


@needs_golden
@pytest.mark.parity
def test_padding_and_normalisation_equal_the_originals(pieces: dict[str, np.ndarray]) -> None:
    image, label = original(pieces)
    padded, padded_label = ops.pad_and_crop(image, label, seed(0), Size(64, 64), image_padding=127.5, label_padding=255)
    np.testing.assert_array_equal(padded, pieces["tr_pad_64_img"].transpose(1, 2, 0))
    np.testing.assert_array_equal(padded_label, pieces["tr_pad_64_label"])
    halves = custom_spec("halves", ("a", "b"), mean=(0.5,) * 3, std=(0.5,) * 3)
    normal = ops.normalise(image, halves)
    np.testing.assert_allclose(normal, pieces["tr_normalize_img"].transpose(1, 2, 0), atol=1e-6)


@needs_golden
@pytest.mark.parity
def test_the_originals_crop_is_one_of_ours(pieces: dict[str, np.ndarray]) -> None:
    image, label = original(pieces)
    wanted = pieces["tr_crop_32x20_wh_img"].transpose(1, 2, 0)
    starts = [(y, x) for y in range(18) for x in range(22) if np.array_equal(image[y : y + 20, x : x + 32], wanted)]
    assert len(starts) == 1
    seen = set()
    for n in range(400):
        crop, _ = ops.pad_and_crop(image, label, seed(n), Size(20, 32), image_padding=127.5, label_padding=255)
        if np.array_equal(crop, wanted):
            seen.add(n)
    assert seen, "no seed of 400 gave the original's window; its chance is 1 in 396 each"


# === Semantics ===


def test_scale_factors() -> None:
    assert ops.scale_factors((0.5, 2.0), 0.25) == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert ops.scale_factors((1.0, 1.0), 0.25) == [1.0]


def test_step_scaling_draws_each_factor_equally_often() -> None:
    image, label = sample(40, 40, 1)
    draw = tf.function(lambda s: tf.shape(ops.random_step_scale(image, label, s, (0.5, 2.0), 0.25)[1])[0])
    counts = Counter(int(draw(seed(n))) for n in range(700))
    assert sorted(counts) == [20, 30, 40, 50, 60, 70, 80]
    assert all(60 <= count <= 145 for count in counts.values()), counts


def test_continuous_and_fixed_scaling() -> None:
    image, label = sample(40, 40, 1)
    sizes = {ops.random_step_scale(image, label, seed(n), (0.5, 2.0), 0.0)[1].shape[0] for n in range(30)}
    assert len(sizes) > 10 and min(sizes) >= 20 and max(sizes) <= 80
    assert ops.random_step_scale(image, label, seed(0), (0.5, 0.5), 0.25)[1].shape == (20, 20)


def test_crop_offsets_are_uniform_and_complete() -> None:
    rows = tf.tile(tf.range(10, dtype=tf.float32)[:, None, None], [1, 9, 1])
    label = tf.tile(tf.range(9)[None], [10, 1])
    crop = tf.function(lambda s: ops.pad_and_crop(rows, label, s, Size(8, 8), image_padding=0.0, label_padding=255))
    offsets = Counter((int(image[0, 0, 0]), int(part[0, 0])) for image, part in (crop(seed(n)) for n in range(600)))
    assert set(offsets) == {(y, x) for y in range(3) for x in range(2)}
    assert all(60 <= count <= 140 for count in offsets.values()), offsets


def test_padding_is_at_the_bottom_and_right() -> None:
    image, label = sample(5, 6)
    padded, padded_label = ops.pad_and_crop(
        image, label, seed(1), Size(8, 8), image_padding=127.5, label_padding=IGNORE
    )
    np.testing.assert_array_equal(padded[:5, :6], image)
    assert (padded.numpy()[5:] == 127.5).all() and (padded.numpy()[:, 6:] == 127.5).all()
    assert (padded_label.numpy()[5:] == IGNORE).all() and (padded_label.numpy()[:5, :6] == label.numpy()).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_flips(axis: int) -> None:
    image, label = sample()
    flipped, flipped_label = ops.random_flip(image, label, seed(0), 1.0, axis=axis)
    np.testing.assert_array_equal(flipped, np.flip(image, axis))
    np.testing.assert_array_equal(flipped_label, np.flip(label, axis))
    flips = sum(
        not np.array_equal(ops.random_flip(image, label, seed(n), 0.5, axis=axis)[1], label) for n in range(200)
    )
    assert 70 <= flips <= 130


def test_rotations_by_90_turn_image_and_label_alike() -> None:
    label = tf.reshape(tf.range(16), (4, 4))
    image = tf.cast(label, tf.float32)[..., None]
    seen = set()
    for n in range(60):
        turned, turned_label = ops.random_rotate90(image, label, seed(n), 1.0)
        np.testing.assert_array_equal(turned[..., 0], turned_label)
        turns = [k for k in range(4) if np.array_equal(turned_label, np.rot90(label.numpy(), k))]
        seen.update(turns)
    assert seen == {1, 2, 3}
    turned, _ = ops.random_rotate90(image[:3], label[:3], seed(0), 1.0)
    assert turned.shape == (3, 4, 1)


def test_rotation_keeps_the_centre_and_fills_the_corners() -> None:
    image, label = tf.ones((33, 33, 3)) * 9, tf.ones((33, 33), tf.int32)
    changed = 0
    for n in range(12):
        turned, turned_label = ops.random_rotation(
            image, label, seed(n), 45.0, 1.0, image_padding=127.5, label_padding=IGNORE
        )
        assert set(np.unique(turned_label)) <= {1, IGNORE}
        assert (turned_label.numpy()[12:21, 12:21] == 1).all() and (turned.numpy()[12:21, 12:21] == 9).all()
        changed += int(turned_label[0, 0] == IGNORE)
        # image and label are uncovered at the same places, but for the image's soft border
        assert (turned.numpy()[turned_label.numpy() == 1][:, 0] < 127.5).all()
    assert changed > 6
    same, _ = ops.random_rotation(image, label, seed(0), 45.0, 0.0, image_padding=0.0, label_padding=IGNORE)
    np.testing.assert_array_equal(same, image)


def test_distortions_draw_order_chance_and_strength() -> None:
    image, _ = sample(8, 8)
    options: dict[str, Any] = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 18.0, "quantise": True}
    distort = tf.function(lambda s: ops.random_distort(image, s, probability=0.5, **options))
    same = sum(np.array_equal(distort(seed(n)), image) for n in range(160))
    assert 2 <= same <= 24, "half to the fourth of 160 is 10"
    assert all(np.array_equal(distort(seed(n)), np.floor(distort(seed(n)))) for n in range(5))
    assert ops.random_distort(image, seed(0), probability=0.0, **options) is image


def test_brightness_stays_in_its_range() -> None:
    image = tf.fill((2, 2, 3), 100.0)
    only: dict[str, Any] = {"brightness": 0.4, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "quantise": False}
    values = [float(ops.random_distort(image, seed(n), probability=1.0, **only)[0, 0, 0]) for n in range(100)]
    assert min(values) >= 60 and max(values) <= 140 and max(values) - min(values) > 60


@pytest.mark.parametrize(
    ("dtype", "max_value", "limits"),
    [
        ("uint8", 255.0, (0.0, 255.0)),
        ("uint8", 100.0, (0.0, 255.0)),
        ("uint16", 65535.0, (0.0, 255.0)),
        ("uint16", 10000.0, (0.0, 65535 * 255 / 10000)),
        ("float32", 1.0, (-math.inf, math.inf)),
    ],
)
def test_colour_changes_go_as_far_as_the_type(dtype: str, max_value: float, limits: tuple[float, float]) -> None:
    found = ops.value_limits(np.dtype(dtype), max_value)
    assert found == pytest.approx(limits)
    image = tf.fill((2, 2, 3), 250.0)
    only: dict[str, Any] = {"brightness": 0.4, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "quantise": False}
    most = max(
        float(ops.random_distort(image, seed(n), probability=1.0, limits=found, **only)[0, 0, 0]) for n in range(40)
    )
    assert (most == 255) if limits[1] == 255 else (300 < most <= 350)


def test_padding_is_the_mean_where_bytes_do_not_say_otherwise() -> None:
    spec = custom_spec("s2", "ab", bands=2, max_value=10000.0, mean=(0.1, 0.3), std=(0.05, 0.1))
    assert ops.padding_of(Augment(), spec, np.dtype("uint8")) == 127.5
    assert ops.padding_of(Augment(), custom_spec("x", "ab"), np.dtype("float32")) == 127.5, "the default mean is 0.5"
    assert ops.padding_of(Augment(image_padding=9.0), spec, np.dtype("uint16")) == 9.0
    means = ops.padding_of(Augment(), spec, np.dtype("uint16"))
    assert means == pytest.approx((25.5, 76.5))
    image, label = tf.fill((4, 4, 2), 50.0), tf.zeros((4, 4), tf.int32)
    padded, ids = ops.pad_and_crop(image, label, seed(1), Size(8, 8), image_padding=means, label_padding=IGNORE)
    np.testing.assert_allclose(padded.numpy()[ids.numpy() == IGNORE], np.tile(means, (48, 1)), rtol=1e-6)
    np.testing.assert_array_equal(padded.numpy()[ids.numpy() == 0], 50)
    turned, ids = ops.random_rotation(image, label, seed(2), 45.0, 1.0, image_padding=means, label_padding=IGNORE)
    even = tf.fill((4, 4, 2), 1.0) * tf.constant(means)
    same, _ = ops.random_rotation(even, label, seed(2), 45.0, 1.0, image_padding=means, label_padding=IGNORE)
    np.testing.assert_allclose(same, even, rtol=1e-5)
    assert (ids == IGNORE).numpy().any() and turned.shape == image.shape


@pytest.mark.parametrize("bands", [1, 5])
def test_colour_changes_of_other_bands_keep_fractions(bands: int) -> None:
    image, label = sample(16, 16, bands)
    image = image * (255.0 / 256) + 0.25
    augment = Augment(crop_size=(16, 16), saturation_range=0.0, hue_range=0.0)
    out, _ = ops.augment_sample(image, label, seed(3), augment, ignore_index=IGNORE, quantise=False)
    assert out.shape == (16, 16, bands)
    assert np.isfinite(out).all()


# === The whole chain ===

FULL = Augment(crop_size=(32, 24), flip_vertical=0.5, rotate90=0.5, rotate_degrees=10.0)


def test_the_chain_is_the_same_eagerly_in_a_graph_and_in_tf_data() -> None:
    image, label = sample()

    def chain(s: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return ops.augment_sample(image, label, s, FULL, ignore_index=IGNORE, quantise=True)

    seeds = [seed(n) for n in range(6)]
    mapped = list(tf.data.Dataset.from_tensor_slices(tf.stack(seeds)).map(chain))
    graph = tf.function(chain)
    for s, (image_mapped, label_mapped) in zip(seeds, mapped, strict=True):
        eager_image, eager_label = chain(s)
        assert eager_image.shape == (24, 32, 3) and eager_label.shape == (24, 32)
        np.testing.assert_allclose(eager_image, image_mapped, atol=1e-3)
        np.testing.assert_array_equal(eager_label, label_mapped)
        np.testing.assert_allclose(graph(s)[0], image_mapped, atol=1e-3)
    assert not np.array_equal(mapped[0][0], mapped[1][0])


def test_labels_only_hold_what_they_held_and_the_ignored_id() -> None:
    image, label = sample()
    for n in range(10):
        _, out = ops.augment_sample(image, label, seed(n), FULL, ignore_index=IGNORE, quantise=True)
        assert set(np.unique(out)) <= set(range(6)) | {IGNORE}


def test_image_and_label_stay_in_register() -> None:
    _, label = sample(64, 64)
    blocks = tf.repeat(tf.repeat(label[:8, :8], 8, 0), 8, 1)
    image = tf.cast(blocks, tf.float32)[..., None] * 40
    augment = Augment(crop_size=(48, 48), flip_vertical=0.5, rotate90=0.5, **QUIET)
    for n in range(8):
        out, out_label = ops.augment_sample(image, blocks, seed(n), augment, ignore_index=IGNORE, quantise=False)
        inside = out_label.numpy() != IGNORE
        exact = np.isclose(out.numpy()[..., 0] / 40, out_label.numpy(), atol=1e-3)
        assert exact[inside].mean() > 0.55, "pixels away from the block borders carry their class"
