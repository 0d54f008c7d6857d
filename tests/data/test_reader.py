from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio

from rsseg_tf.config import load_config
from rsseg_tf.data import SampleReader
from rsseg_tf.data import reader as reader_module
from rsseg_tf.data.pipeline import train_batches
from rsseg_tf.datasets import DatasetSpec, custom_spec
from rsseg_tf.errors import DataError
from rsseg_tf.evaluate.evaluation import plan_evaluation
from rsseg_tf.files.lists import Sample, read_list
from rsseg_tf.predict import InferenceOptions
from rsseg_tf.rasters import inspection
from rsseg_tf.rasters.images import read_image
from rsseg_tf.rasters.inspection import Inspection
from rsseg_tf.rasters.scenes import read_pixels, scene_header

SPEC = custom_spec("town", ["ground", "roof"])
SIZE = (8, 6)  # height, width: not square, so that swapped sides show


def write_tiff(path: Path, image: np.ndarray) -> Path:
    """Writes (H, W, C) as stored."""
    height, width, bands = image.shape
    with rasterio.open(path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=image.dtype) as target:
        target.write(image.transpose(2, 0, 1))
    return path


def write_png(path: Path, pixels: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


def random_image(seed: int, bands: int = 3, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (*SIZE, bands), dtype)


def make(
    folder: Path, name: str, *, image: np.ndarray | None = None, label: np.ndarray | None = None, suffix: str = ".png"
) -> Sample:
    """Writes one sample; what is not given is sound."""
    image = random_image(0) if image is None else image
    label = np.tile(np.arange(SIZE[1], dtype=np.uint8) % 2, (SIZE[0], 1)) if label is None else label
    write = write_tiff if suffix == ".tif" else write_png
    return Sample(write(folder / f"{name}{suffix}", image), write_png(folder / f"{name}_label.png", label))


def read_first(sample: Sample, spec: DatasetSpec = SPEC) -> None:
    SampleReader([sample], spec)(0)


def check_first(sample: Sample, spec: DatasetSpec = SPEC) -> None:
    Inspection([sample], spec).raise_first()


both = pytest.mark.parametrize("look", [read_first, check_first], ids=["read", "check"])
Look = Callable[..., None]


# === What is read ===


def test_a_sample_is_image_and_ids_as_stored(tmp_path: Path) -> None:
    bgr = random_image(1)
    sample = make(tmp_path, "a", image=bgr)
    reader = SampleReader([sample], SPEC)
    image, label = reader(0)
    np.testing.assert_array_equal(image, bgr[..., ::-1])
    np.testing.assert_array_equal(label, [[0, 1, 0, 1, 0, 1]] * 8)
    assert image.dtype == label.dtype == reader.dtype == np.uint8 and reader.failure is None


def test_a_16_bit_png_keeps_its_16_bits(tmp_path: Path) -> None:
    bgr = random_image(2, dtype="uint16")
    assert bgr.max() > 255
    reader = SampleReader([make(tmp_path, "a", image=bgr)], SPEC)
    image, _ = reader(0)
    assert reader.dtype == image.dtype == np.uint16
    np.testing.assert_array_equal(image, bgr[..., ::-1])


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_a_tiff_of_five_bands_is_read_in_its_own_type_and_order(tmp_path: Path, dtype: str) -> None:
    stored = (random_image(3, bands=5, dtype="uint16") // 3).astype(dtype)
    reader = SampleReader([make(tmp_path, "a", image=stored, suffix=".tif")], custom_spec("s2", ["a", "b"], bands=5))
    image, _ = reader(0)
    assert reader.dtype == image.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(image, stored)


def test_a_label_of_16_bits_is_read_if_its_ids_fit(tmp_path: Path) -> None:
    label = np.full(SIZE, 255, np.uint16)
    label[0] = 1
    _, ids = SampleReader([make(tmp_path, "a", label=label)], SPEC)(0)
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, label)


@both
@pytest.mark.parametrize("ignored", [255, 9])
def test_the_ignored_id_is_allowed(tmp_path: Path, look: Look, ignored: int) -> None:
    label = np.full(SIZE, ignored, np.uint8)
    sample = make(tmp_path, "a", label=label)
    look(sample, custom_spec("town", ["ground", "roof"], ignore_index=ignored))
    with pytest.raises(DataError, match=f"holds the ids {ignored}"):
        look(sample, custom_spec("town", ["ground", "roof"], ignore_index=77))


# === What is refused ===


@both
@pytest.mark.parametrize(("bands", "wanted"), [(1, 3), (3, 2), (3, 5)])
def test_a_wrong_number_of_bands_is_refused(tmp_path: Path, look: Look, bands: int, wanted: int) -> None:
    sample = make(tmp_path, "a", image=random_image(0, bands))
    with pytest.raises(
        DataError, match=rf"a\.png has {bands} bands?, but the dataset 'town' has {wanted}\. Set dataset\.bands"
    ):
        look(sample, custom_spec("town", ["ground", "roof"], bands=wanted))


@both
def test_an_image_and_a_label_of_different_sizes_are_refused(tmp_path: Path, look: Look) -> None:
    sample = make(tmp_path, "a", label=np.zeros((6, 8), np.uint8))
    with pytest.raises(
        DataError, match=r"a\.png is 6x8 pixels, but its label .*a_label\.png is 8x6; both must have one size"
    ):
        look(sample)


@both
def test_a_mask_in_colours_is_refused(tmp_path: Path, look: Look) -> None:
    sample = make(tmp_path, "a", label=np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(DataError, match=r"a_label\.png is an RGB mask \(H,W,3\); class ids .*rgb_to_ids"):
        look(sample)


@both
@pytest.mark.parametrize(
    ("ids", "shown", "remedy"),
    [
        ((0, 2, 255), "2", "Correct the label, or the class list of the dataset"),
        ((0, 1, 7, 5), "5, 7", "Correct the label"),
        (tuple(range(0, 20)), "2, 3, 4, 5, 6, 7, 8, 9, …", "Correct the label"),
    ],
)
def test_ids_out_of_range_are_named(tmp_path: Path, look: Look, ids: tuple[int, ...], shown: str, remedy: str) -> None:
    label = np.resize(np.array(ids, np.uint8), SIZE)
    with pytest.raises(
        DataError,
        match=rf"a_label\.png holds the ids {shown}; the dataset 'town' allows 0\.\.1 and 255 \(ignored\)\. {remedy}",
    ):
        look(make(tmp_path, "a", label=label))


@both
def test_ids_beyond_eight_bits_are_named_and_not_wrapped(tmp_path: Path, look: Look) -> None:
    label = np.full(SIZE, 256, np.uint16)  # 0 in eight bits
    with pytest.raises(DataError, match=r"holds the ids 256; the dataset 'town' allows 0\.\.1 and 255"):
        look(make(tmp_path, "a", label=label))


@both
def test_a_black_and_white_mask_gets_its_own_remedy(tmp_path: Path, look: Look) -> None:
    label = np.zeros(SIZE, np.uint8)
    label[2:4] = 255
    sample = make(tmp_path, "a", label=label)
    with pytest.raises(DataError, match="holds the ids 255; .* 0 and 255 alone look like a black-and-white mask"):
        look(sample, custom_spec("town", ["ground", "roof"], ignore_index=9))


@both
def test_a_missing_label_in_the_list_is_named(tmp_path: Path, look: Look) -> None:
    sample = Sample(make(tmp_path, "a").image, None)
    with pytest.raises(DataError, match=r"a\.png has no label beside it in the list; write 'image label' on each line"):
        look(sample)


@both
@pytest.mark.parametrize("which", ["image", "label"])
def test_a_missing_file_is_named(tmp_path: Path, look: Look, which: str) -> None:
    sample = make(tmp_path, "a")
    path: Path = getattr(sample, which)
    path.unlink()
    with pytest.raises(DataError, match=rf"{path} does not exist"):
        look(sample)


@pytest.mark.parametrize("which", ["image", "label"])
def test_a_truncated_file_is_named(tmp_path: Path, which: str) -> None:
    sample = make(tmp_path, "a")
    path: Path = getattr(sample, which)
    path.write_bytes(path.read_bytes()[:-20])
    reader = SampleReader([sample], SPEC, cache_mb=1)
    for _ in range(2):  # a failure is not kept as a sample
        with pytest.raises(DataError, match=rf"{path} is a damaged PNG file: it is cut short at \d+ bytes") as error:
            reader(0)
    assert reader.failure is not None
    assert str(reader.failure) == str(error.value)


def test_images_of_different_types_are_refused(tmp_path: Path) -> None:
    samples = [make(tmp_path, "a"), make(tmp_path, "b", image=random_image(0, dtype="uint16"))]
    reader = SampleReader(samples, SPEC)
    reader(0)
    with pytest.raises(DataError, match=r"b\.png is uint16, but .*a\.png is uint8; all images .* must have one type"):
        reader(1)
    with pytest.raises(DataError, match=r"b\.png is uint16, but .*a\.png is uint8"):
        Inspection(samples, SPEC).raise_first()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_ignored(tmp_path: Path, value: float) -> None:
    image = np.ones((*SIZE, 3), np.float32)
    image[3, 2, 1] = value
    sample = make(tmp_path, "a", image=image, suffix=".tif")
    pixels, label = SampleReader([sample], SPEC)(0)
    assert np.isfinite(pixels).all() and np.argwhere(label == 255).tolist() == [[3, 2]]


def test_the_alpha_of_a_png_is_a_mask_for_three_bands_and_data_for_four(tmp_path: Path) -> None:
    image = random_image(0, 4)
    image[..., 3] = 255
    image[2, 1, 3] = 0
    sample = make(tmp_path, "a", image=image)
    pixels, label = SampleReader([sample], SPEC)(0)
    np.testing.assert_array_equal(pixels, image[..., 2::-1])
    assert np.argwhere(label == 255).tolist() == [[2, 1]]
    pixels, label = SampleReader([sample], custom_spec("town", ["ground", "roof"], bands=4))(0)
    assert pixels.shape == (*SIZE, 4) and not (label == 255).any()


def test_the_first_failure_is_remembered(tmp_path: Path) -> None:
    samples = [make(tmp_path, name) for name in "abc"]
    for sample in samples[1:]:
        assert sample.label is not None
        sample.label.unlink()
    reader = SampleReader(samples, SPEC)
    for index in (2, 1):
        with pytest.raises(DataError):
            reader(index)
    reader(0)
    assert "c_label.png" in str(reader.failure)


# === The memory ===


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of images in the order in which they are decoded."""
    names: list[str] = []

    def counted(path: Path, *rest: object, **options: object) -> object:
        names.append(path.stem)
        return read_pixels(path, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reader_module, "read_pixels", counted)
    return names


def test_kept_samples_are_not_read_again_and_are_the_same(tmp_path: Path, reads: list[str]) -> None:
    samples = [make(tmp_path, name, image=random_image(number)) for number, name in enumerate("abc")]
    reader = SampleReader(samples, SPEC, cache_mb=1)
    first = [reader(index) for index in range(3)]
    again = [reader(np.int64(index)) for index in range(3)]  # type: ignore[arg-type]  # what tf.data gives
    assert reads == ["a", "b", "c"]
    for one, other, sample in zip(first, again, samples, strict=True):
        assert one is other
        np.testing.assert_array_equal(one[0], read_image(sample.image))


def test_the_memory_stays_within_its_size(tmp_path: Path, reads: list[str]) -> None:
    image = np.zeros((256, 512, 3), np.uint8)
    label = np.zeros((256, 512), np.uint8)  # image and label: half a MiB
    samples = [make(tmp_path, name, image=image, label=label) for name in "abcde"]
    reader = SampleReader(samples, SPEC, cache_mb=1)
    for _ in range(3):
        for index in range(5):
            reader(index)
    assert reads == [*"abcde", *"cde", *"cde"], "two samples fit; the first two stay"
    assert sum(image.nbytes + label.nbytes for image, label in reader._cache.values()) == 2**20


def test_no_memory_means_reading_each_time(tmp_path: Path, reads: list[str]) -> None:
    reader = SampleReader([make(tmp_path, "a")], SPEC)
    reader(0)
    reader(0)
    assert reads == ["a", "a"]


def test_a_memory_that_threads_share_counts_each_sample_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [make(tmp_path, str(number), image=random_image(number)) for number in range(4)]
    barrier = threading.Barrier(8)

    def slow(path: Path, *rest: object, **options: object) -> object:
        pixels = read_pixels(path, *rest, **options)  # type: ignore[arg-type]
        barrier.wait(timeout=30)  # all eight have found the memory empty
        return pixels

    monkeypatch.setattr(reader_module, "read_pixels", slow)
    reader = SampleReader(samples, SPEC, cache_mb=1)
    with ThreadPoolExecutor(8) as pool:
        pairs = list(pool.map(reader, [0, 0, 1, 1, 2, 2, 3, 3]))
    for index, (image, _) in zip([0, 0, 1, 1, 2, 2, 3, 3], pairs, strict=True):
        np.testing.assert_array_equal(image, random_image(index)[..., ::-1])
    assert sorted(reader._cache) == [0, 1, 2, 3]
    held = sum(image.nbytes + label.nbytes for image, label in reader._cache.values())
    assert reader._free_bytes == 2**20 - held


# === The check before training ===


def test_the_check_names_the_first_wrong_sample_in_the_order_of_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [make(tmp_path, f"s{number}") for number in range(6)]
    for number in (2, 4):
        label = samples[number].label
        assert label is not None
        write_png(label, np.full(SIZE, 3 + number, np.uint8))

    def first_is_slow(path: Path, *rest: object, **options: object) -> object:
        if path.stem == "s2":
            time.sleep(0.2)
        return scene_header(path, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(inspection, "scene_header", first_is_slow)
    done: list[tuple[int, int]] = []
    with pytest.raises(DataError, match=r"s2_label\.png holds the ids 5;"):
        Inspection(samples, SPEC, workers=6).raise_first(lambda *now: done.append(now))
    assert done == [(1, 6), (2, 6)]


def test_the_check_reports_its_progress(tmp_path: Path) -> None:
    samples = [make(tmp_path, f"s{number}") for number in range(5)]
    done: list[tuple[int, int]] = []
    Inspection(samples, SPEC, workers=2).raise_first(lambda *now: done.append(now))
    assert done == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_the_check_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [make(tmp_path, f"s{number}") for number in range(40)]
    assert samples[0].label is not None
    samples[0].label.unlink()
    looked: list[str] = []

    def counted(path: Path, *rest: object, **options: object) -> object:
        looked.append(path.stem)
        time.sleep(0.02)
        return scene_header(path, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(inspection, "scene_header", counted)
    with pytest.raises(DataError, match=r"s0_label\.png does not exist"):
        Inspection(samples, SPEC, workers=1).raise_first()
    assert len(looked) < 20


# === No data in the image ===


def write_without_data(path: Path, how: str) -> Path:
    """Writes an image whose first two rows are marked as no data."""
    image = np.clip(random_image(3), 1, 254)
    inside = np.full(SIZE, 255, np.uint8)
    inside[:2] = 0
    bands = np.dstack([image, inside]) if how == "alpha" else image
    if how == "nodata":
        bands[:2] = 0
    profile = {"driver": "GTiff", "height": SIZE[0], "width": SIZE[1], "count": bands.shape[2], "dtype": "uint8"}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **profile, nodata=0 if how == "nodata" else None) as target,
    ):
        target.write(bands.transpose(2, 0, 1))
        if how == "mask":
            target.write_mask(inside)
        if how == "alpha":
            target.colorinterp = [*target.colorinterp[:3], rasterio.enums.ColorInterp.alpha]
    return path


@pytest.mark.parametrize("how", ["nodata", "mask", "alpha"])
def test_labels_where_an_image_has_no_data_count_where_a_config_says_so(tmp_path: Path, how: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    write_without_data(root / "a.tif", how)
    label = np.tile(np.arange(SIZE[1], dtype=np.uint8) % 2, (SIZE[0], 1))
    write_png(root / "a.png", label)
    (root / "train.txt").write_text("a.tif a.png\n")
    (root / "val.txt").write_text("a.tif a.png\n")
    (tmp_path / "mine.yml").write_text(
        f"dataset: {{name: custom, root: {root}, classes: [ground, roof]}}\n"
        "model: {name: fcn, backbone: {name: hrnet_w18}}\naugment: {crop_size: [6, 8], scale_range: [1.0, 1.0]}\n"
    )
    ignored = label.copy()
    ignored[:2] = 255
    for overrides, expected in (
        ([], ignored), (["dataset.ignore_nodata=true"], ignored), (["dataset.ignore_nodata=false"], label),
    ):  # fmt: skip
        config = load_config(tmp_path / "mine.yml", overrides)
        reader = SampleReader(read_list(root / "train.txt", root), config.dataset.spec)
        np.testing.assert_array_equal(reader(0)[1], expected)
        (batch,) = train_batches(reader, config.augment, batch_size=8, seed=0, workers=1).take(1)
        assert (batch["label"].numpy() == 255).any() == (expected is ignored), "what training learns from"
        evaluation = plan_evaluation(config, read_list(root / "val.txt", root))
        scores = evaluation.run(lambda images: np.zeros((*images.shape[:3], 2), np.float32), InferenceOptions())
        assert scores.ignored_pixels == (expected == 255).sum()
        assert scores.confusion.sum() == (expected != 255).sum()
