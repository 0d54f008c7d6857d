from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.config.pretrain import IMAGENET_MEAN, IMAGENET_STD, Images, Views
from rsseg_tf.data import ImageReader, view_batches
from rsseg_tf.data.views import blur, colour_views, crop_box, cut_view, jitter, rgb_only
from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import Sample
from rsseg_tf.rasters.images import write_image
from rsseg_tf.rasters.inspection import Inspection

OFF = Views(jitter_probability=0.0, gray_probability=0.0, blur_probability=(0.0, 0.0))
GEOMETRY = OFF.model_copy(update={"flip_vertical": 0.5, "rotate90": 0.75})


def seed_of(i: int) -> tf.Tensor:
    return tf.constant([i, 5], tf.int32)


def write_images(folder: Path, count: int = 5, size: int = 24, bands: int = 3) -> tuple[Sample, ...]:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        pixels = rng.integers(0, 256, (size, size + i, bands)).astype(np.uint8)
        path = folder / (f"{i}.png" if bands == 3 else f"{i}.tif")
        if bands == 3:
            cv2.imwrite(str(path), pixels)
        else:
            write_image(path, pixels)
        paths.append(path)
    return tuple(Sample(path, None) for path in paths)


def reader_of(samples: tuple[Sample, ...], **options: object) -> ImageReader:
    return ImageReader(samples, Images(name="images", root="", **options).spec, cache_mb=1)  # type: ignore[arg-type]


# === Geometry ===


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_views_affine_says_where_its_pixels_come_from(interpolation: str) -> None:
    """Each pixel of the image holds its own place, so a view can be asked where it was taken."""
    height, width = 61, 81
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    image = tf.constant(np.stack([x, y], -1) * 255, tf.float32)
    views = GEOMETRY.model_copy(update={"interpolation": interpolation, "scale_range": (0.1, 1.0)})
    cut = tf.function(lambda seed: cut_view(image, seed, views, size=16, scale_range=views.scale_range))
    shapes = set()
    for i in range(40):
        view, affine = (value.numpy() for value in cut(seed_of(i)))
        linear = affine[:, :2]
        shapes.add(tuple(np.sign(np.round(linear, 3)).ravel()))
        # The outermost pixels are smoothed with what lies inside alone.
        for row, column in ((4, 4), (4, 11), (11, 4), (8, 7)):
            expected = linear @ [(column + 0.5) / 16, (row + 0.5) / 16] + affine[:, 2]
            np.testing.assert_allclose(view[row, column] / 255, expected, atol=0.012)
    assert len(shapes) == 8, "four turns, each mirrored and not"


def test_an_affine_is_pixpros_box(monkeypatch: pytest.MonkeyPatch) -> None:
    image = tf.zeros((50, 40, 3))
    plain = OFF.model_copy(update={"flip_horizontal": 0.0})
    mirrored = OFF.model_copy(update={"flip_horizontal": 1.0})
    for i in range(5):
        seed = seed_of(i)
        top, left, h, w = (int(v) for v in crop_box(tf.random.split(seed, 4)[0], 50, 40, (0.2, 1.0), plain.ratio_range))
        x0, y0, x1, y1 = left / 39, top / 49, (left + w - 1) / 39, (top + h - 1) / 49
        _, affine = cut_view(image, seed, plain, size=8, scale_range=(0.2, 1.0))
        np.testing.assert_allclose(affine, [[x1 - x0, 0, x0], [0, y1 - y0, y0]], atol=1e-6)
        _, affine = cut_view(image, seed, mirrored, size=8, scale_range=(0.2, 1.0))
        np.testing.assert_allclose(affine, [[x0 - x1, 0, x1], [0, y1 - y0, y0]], atol=1e-6)


def test_crops_are_spread_over_sizes_shapes_and_places() -> None:
    draw = tf.function(lambda seed: tf.stack(crop_box(seed, 300, 200, (0.2, 0.6), (0.75, 4 / 3))))
    boxes = np.array([draw(seed_of(i)).numpy() for i in range(400)])
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= 300).all() and (left + w <= 200).all()
    share = h * w / 60000
    assert 0.195 < share.min() < 0.22 and 0.55 < share.max() < 0.61
    assert abs(share.mean() - 0.4) < 0.03
    assert 0.74 < (w / h).min() < 0.80 and 1.2 < (w / h).max() < 1.35
    assert abs(np.log(w / h).mean()) < 0.04
    assert abs((top / (300 - h)).mean() - 0.5) < 0.06


@pytest.mark.parametrize(("size", "expected"), [((10, 200), (10, 13)), ((200, 10), (13, 10)), ((9, 9), (9, 9))])
def test_where_no_crop_fits_the_middle_is_taken(size: tuple[int, int], expected: tuple[int, int]) -> None:
    scale = (1.0, 1.0) if size[0] != size[1] else (4.0, 4.0)
    top, left, h, w = (int(value) for value in crop_box(seed_of(1), *size, scale, (0.75, 4 / 3)))
    assert (h, w) == expected
    assert (top, left) == ((size[0] - h) // 2, (size[1] - w) // 2)


# === Colour ===


def draws(count: int, seed: int = 0) -> tf.Tensor:
    return tf.random.stateless_uniform((count, 13), (seed, 1))


def test_jitter_is_its_four_steps_in_order() -> None:
    rng = np.random.default_rng(2)
    images = rng.uniform(0, 255, (6, 4, 5, 3)).astype(np.float32)
    values, order = rng.uniform(size=(6, 4)).astype(np.float32), rng.uniform(size=(6, 4)).astype(np.float32)
    strengths = (0.4, 0.3, 0.2, 0.1)
    result = jitter(tf.constant(images), tf.constant(values), tf.constant(order), strengths).numpy()

    def gray(x: np.ndarray) -> np.ndarray:
        return (x @ [0.299, 0.587, 0.114])[..., None]

    def turn(x: np.ndarray, share: float) -> np.ndarray:
        rows = []
        for pixel in x.reshape(-1, 3):
            h, s, v = colorsys.rgb_to_hsv(*(pixel / 255))
            rows.append(colorsys.hsv_to_rgb((h + share) % 1, s, v))
        return np.array(rows).reshape(x.shape) * 255

    for i, image in enumerate(images.astype(np.float64)):
        b, c, s = (1 - w + values[i, k] * 2 * w for k, w in enumerate(strengths[:3]))
        steps = [
            lambda x, b=b: b * x,
            lambda x, c=c: gray(x).mean() + c * (x - gray(x).mean()),
            lambda x, s=s: gray(x) + s * (x - gray(x)),
            lambda x, i=i: turn(x, 0.1 * (2 * values[i, 3] - 1)),
        ]
        for k in np.argsort(order[i]):
            image = np.clip(steps[k](image), 0, 255)
        np.testing.assert_allclose(result[i], image, atol=0.02)


def test_blur_is_a_gaussian_of_each_images_own_width() -> None:
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (2, 40, 30, 3)).astype(np.float32)
    result = blur(tf.constant(images), tf.constant([0.1, 1.5])).numpy()
    np.testing.assert_allclose(result[0], images[0], atol=1e-3)
    expected = cv2.GaussianBlur(images[1], (23, 23), 1.5)
    np.testing.assert_allclose(result[1, 12:-12, 12:-12], expected[12:-12, 12:-12], atol=0.01)
    flat = blur(tf.fill((1, 9, 9, 1), 7.0), tf.constant([2.0]))
    np.testing.assert_allclose(flat, 7.0, atol=1e-5)


def test_colours_change_as_often_as_asked() -> None:
    count = 600
    images = tf.constant(np.random.default_rng(1).uniform(0, 255, (count, 4, 4, 3)).astype(np.float32))

    def changed(view: int = 0, **options: object) -> float:
        result = colour_views(images, draws(count), OFF.model_copy(update=options), view=view)
        return float(tf.reduce_mean(tf.cast(tf.reduce_any(tf.abs(result - images) > 1e-3, axis=(1, 2, 3)), tf.float32)))

    assert changed() == 0.0
    assert changed(jitter_probability=0.8) == pytest.approx(0.8, abs=0.05)
    assert changed(gray_probability=0.2) == pytest.approx(0.2, abs=0.05)
    assert changed(blur_probability=(0.1, 1.0)) == pytest.approx(0.1, abs=0.04)
    assert changed(blur_probability=(0.1, 1.0), blur_sigma=(1.0, 2.0), view=1) == 1.0
    assert changed(solarize_probability=(0.0, 0.3)) == 0.0
    assert changed(solarize_probability=(0.0, 0.3), view=1) == pytest.approx(0.3, abs=0.06)


def test_gray_and_solarised_pixels() -> None:
    images = tf.constant([[[[10.0, 200.0, 128.0]]]])
    gray = colour_views(images, draws(1), OFF.model_copy(update={"gray_probability": 1.0}), view=0)
    np.testing.assert_allclose(gray[0, 0, 0], [10 * 0.299 + 200 * 0.587 + 128 * 0.114] * 3, rtol=1e-5)
    solarised = colour_views(images, draws(1), OFF.model_copy(update={"solarize_probability": (1.0, 0.0)}), view=0)
    np.testing.assert_allclose(solarised[0, 0, 0], [10, 55, 127])


@pytest.mark.parametrize("bands", [1, 4])
def test_changes_that_need_rgb_are_left_out_for_other_bands(bands: int) -> None:
    views = Views(jitter_probability=1.0, brightness=0.0, contrast=0.0, gray_probability=1.0, blur_probability=(0, 0))
    images = tf.random.stateless_uniform((3, 5, 5, bands), (1, 2)) * 255
    np.testing.assert_array_equal(colour_views(images, draws(3), views, view=0), images)
    assert rgb_only(views, bands) == ("saturation", "hue", "grayscale")
    assert rgb_only(views, 3) == () == rgb_only(OFF, bands)
    bright = colour_views(images, draws(3), views.model_copy(update={"brightness": 0.4}), view=0)
    ratio = bright / images
    np.testing.assert_allclose(tf.math.reduce_std(ratio[images < 150]), tf.math.reduce_std(ratio), atol=0.2)
    assert not np.array_equal(bright, images)


# === Batches ===


def test_batches_have_all_views_normalised_and_go_on_anywhere(tmp_path: Path) -> None:
    samples = write_images(tmp_path)
    views = Views(crop_size=16, small_views=3, small_crop_size=8, rotate90=0.5)
    options: dict[str, Any] = {"batch_size": 4, "seed": 3}
    batches = list(view_batches(reader_of(samples), views, **options).take(4))
    shapes = {name: tuple(value.shape) for name, value in batches[0].items()}
    assert shapes == {
        "index": (4,), "views": (4, 2, 16, 16, 3), "affines": (4, 2, 2, 3),
        "small_views": (4, 3, 8, 8, 3), "small_affines": (4, 3, 2, 3),
    }  # fmt: skip
    seen = np.concatenate([batch["index"] for batch in batches])
    assert sorted(seen[:5]) == sorted(seen[5:10]) == [0, 1, 2, 3, 4]
    pixels = batches[0]["views"].numpy() * IMAGENET_STD + IMAGENET_MEAN
    assert -1e-5 <= pixels.min() and pixels.max() <= 1 + 1e-5
    assert not np.array_equal(batches[0]["views"][:, 0], batches[0]["views"][:, 1])
    resumed = next(iter(view_batches(reader_of(samples), views, start=8, workers=1, **options)))
    for name, value in batches[2].items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    parts = [next(iter(view_batches(reader_of(samples), views, start=8, share=(i, 2), **options))) for i in range(2)]
    for name, value in batches[2].items():
        np.testing.assert_allclose(np.concatenate([part[name] for part in parts]), value, atol=1e-5, err_msg=name)
    other = next(iter(view_batches(reader_of(samples), views, batch_size=4, seed=4)))
    assert not np.array_equal(other["views"], batches[0]["views"])


def test_an_image_is_read_once_for_all_its_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = write_images(tmp_path)
    reader = ImageReader(samples, Images(name="images", root="").spec)
    read: list[int] = []
    whole = ImageReader.__call__
    monkeypatch.setattr(ImageReader, "__call__", lambda self, i: (read.append(int(i)), whole(self, i))[1])
    dataset = view_batches(
        reader, Views(crop_size=8, small_views=2, small_crop_size=8), batch_size=5, seed=0, workers=1
    )
    next(iter(dataset))
    assert sorted(read[:5]) == [0, 1, 2, 3, 4]


def test_images_of_many_bands(tmp_path: Path) -> None:
    samples = write_images(tmp_path, bands=5)
    reader = reader_of(samples, bands=5)
    batch = next(iter(view_batches(reader, Views(crop_size=8), batch_size=2, seed=0)))
    assert batch["views"].shape == (2, 2, 8, 8, 5)


def test_grey_images_among_rgb_ones_get_three_bands(tmp_path: Path) -> None:
    samples = write_images(tmp_path)
    cv2.imwrite(str(samples[1].image), np.full((9, 9), 77, np.uint8))
    Inspection(samples, Images(name="images", root="").spec, labels=False).raise_count()
    np.testing.assert_array_equal(reader_of(samples)(1), np.full((9, 9, 3), 77))


def test_all_unusable_images_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    samples = write_images(tmp_path)
    samples[1].image.write_bytes(b"no image")
    write_image(tmp_path / "deep.png", np.zeros((9, 9, 3), np.uint16))
    samples[3].image.write_bytes((tmp_path / "deep.png").read_bytes())
    with pytest.raises(DataError, match=r"2 of 5 images cannot be used\. The first: .*1\.png"):
        Inspection(samples, Images(name="images", root="").spec, labels=False).raise_count()


def test_a_broken_image_found_while_training_is_named(tmp_path: Path) -> None:
    samples = write_images(tmp_path)
    samples[2].image.write_bytes(samples[2].image.read_bytes()[:-40])
    reader = reader_of(samples)
    with pytest.raises(tf.errors.OpError):
        list(view_batches(reader, Views(crop_size=8), batch_size=5, seed=0).take(1))
    assert reader.failure is not None and "2.png" in str(reader.failure)
