from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from rsseg_tf.config import Config, load_config
from rsseg_tf.data import SampleReader
from rsseg_tf.datasets import DatasetSpec, custom_spec
from rsseg_tf.datasets.isprs import POTSDAM
from rsseg_tf.datasets.protocols import PROTOCOLS
from rsseg_tf.datasets.spec import TILE_NAME_PATTERNS, XYXY, YX
from rsseg_tf.errors import DataError, NotFiniteError, ServingError
from rsseg_tf.evaluate.evaluation import Evaluation, evaluate, evaluate_stitched, plan_evaluation
from rsseg_tf.evaluate.stitching import find_scenes
from rsseg_tf.files.lists import Sample, read_list
from rsseg_tf.metrics import SegmentationScores, confusion_matrix
from rsseg_tf.predict import InferenceOptions, Predict, predict_logits
from rsseg_tf.prepare.tile_names import tile_name
from rsseg_tf.rasters.windows import Size, Window, windows
from tests.fixtures import downloads
from tests.fixtures.downloads import prepare

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
        InferenceOptions(is_slide=True, crop_size=Size(3, 4), stride=Size(2, 3)),
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


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (MemoryError("3 GiB"), DataError, "cannot be used: MemoryError: 3 GiB"),
        (DataError("the scale is wrong."), DataError, "1.png: the scale is wrong."),
        (ServingError("busy"), ServingError, "1.png: busy"),
    ],
)
def test_whatever_an_image_raises_names_it(
    samples: list[Sample], raised: Exception, kind: type[BaseException], said: str
) -> None:
    calls: list[int] = []

    def second(images: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == 2:
            raise raised
        return predict(images)

    with pytest.raises(kind, match=re.escape(said)) as caught:
        evaluate(second, samples, SPEC, InferenceOptions())
    assert str(caught.value).startswith(str(samples[1].image))


def test_values_that_are_not_finite_are_not_scored(samples: list[Sample]) -> None:
    def nan(images: np.ndarray) -> np.ndarray:
        return np.full((*images.shape[:3], SPEC.num_classes), np.nan, np.float32)

    with pytest.raises(NotFiniteError, match=r"0\.png: the model gives values that are not finite"):
        evaluate(nan, samples, SPEC, InferenceOptions())


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


# === evaluate_stitched ===

PLACES = np.random.default_rng(5).normal(size=(40, 40, 3)).astype(np.float32)


def uneven(images: np.ndarray) -> np.ndarray:
    """Gives logits that depend on the pixel and on its place in the tile: (B, H, W, 3) to (B, H, W, 3)."""
    height, width = images.shape[1:3]
    return images[..., ::-1] / np.float32(255) + PLACES[:height, :width]


def write_scene(folder: Path, stem: str, size: tuple[int, int], places: Sequence[Window], seed: int) -> list[Sample]:
    """Cuts a random scene, some of its pixels ignored, into tiles that are named after their places."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    label = rng.choice(np.array([0, 1, 2, 255], np.uint8), size)
    samples = []
    for place in places:
        part = np.s_[place.y0 : place.y1, place.x0 : place.x1]
        name = tile_name(XYXY, stem, place)
        samples.append(Sample(folder / f"{name}.png", folder / f"{name}_label.png"))
        cv2.imwrite(str(folder / f"{name}.png"), image[part])
        cv2.imwrite(str(folder / f"{name}_label.png"), label[part])
    return samples


def stitched_in_one_piece(
    samples: Sequence[Sample], places: Sequence[Window], size: tuple[int, int], options: InferenceOptions
) -> tuple[np.ndarray, int]:
    """Adds the logits of all tiles up in arrays of the whole scene; returns counts and ignored pixels."""
    total, cover, label = np.zeros((*size, 3)), np.zeros(size, int), np.zeros(size, np.uint8)
    for sample, place in zip(samples, places, strict=True):
        part = np.s_[place.y0 : place.y1, place.x0 : place.x1]
        pixels = cv2.imread(str(sample.image))[..., ::-1]
        total[part] += predict_logits(uneven, pixels, SPEC, options)
        cover[part] += 1
        label[part] = cv2.imread(str(sample.label), cv2.IMREAD_UNCHANGED)
    seen = cover > 0
    prediction = (total[seen] / cover[seen][:, np.newaxis]).argmax(axis=-1)
    return confusion_matrix(label[seen], prediction, 3), int((label[seen] == 255).sum())


TILINGS = {
    "the last ones shifted back": ((50, 61), windows(50, 61, 20)),
    "overlap": ((50, 61), windows(50, 61, 24, 10)),
    "one tile": ((30, 17), [Window(0, 0, 30, 17)]),
    "gaps and sizes": (
        (40, 40),
        [Window(0, 0, 9, 12), Window(4, 6, 24, 30), Window(20, 28, 40, 40), Window(4, 6, 9, 9)],
    ),
}


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize(
    "options",
    [
        InferenceOptions(),
        InferenceOptions(scales=(0.75, 1.0), flip_horizontal=True),
        InferenceOptions(is_slide=True, crop_size=Size(7, 8), stride=Size(4, 5)),
    ],
    ids=["whole", "augmented", "windows"],
)
def test_stitched_counts_are_those_of_scenes_in_one_piece(
    tmp_path: Path, tiling: str, options: InferenceOptions
) -> None:
    size, places = TILINGS[tiling]
    samples: list[Sample] = []
    counts, ignored = np.zeros((3, 3), int), 0
    for seed, stem in enumerate(("north", "south")):
        ours = write_scene(tmp_path, stem, size, places, seed)
        some, more = stitched_in_one_piece(ours, places, size, options)
        counts, ignored, samples = counts + some, ignored + more, samples + ours[::-1]
    scores = evaluate_stitched(uneven, find_scenes(samples, XYXY), SPEC, options)
    np.testing.assert_array_equal(scores.confusion, counts)
    assert scores.ignored_pixels == ignored > 0


def test_without_overlap_stitched_equals_seed(tmp_path: Path) -> None:
    samples = write_scene(tmp_path, "a", (40, 60), windows(40, 60, 20), 0)
    for options in (InferenceOptions(), InferenceOptions(is_slide=True, crop_size=Size(9, 9), stride=Size(7, 7))):
        once = evaluate_stitched(uneven, find_scenes(samples, XYXY), SPEC, options)
        assert once.to_json() == evaluate(uneven, samples, SPEC, options).to_json()
    overlapping = write_scene(tmp_path, "b", (40, 50), windows(40, 50, 20), 0)
    once = evaluate_stitched(uneven, find_scenes(overlapping, XYXY), SPEC, InferenceOptions())
    twice = evaluate(uneven, overlapping, SPEC, InferenceOptions())
    assert once.confusion.sum() + once.ignored_pixels == 40 * 50
    assert twice.confusion.sum() + twice.ignored_pixels == 40 * 60


def test_observers_of_stitched_scenes_see_each_tile_with_its_own_prediction(tmp_path: Path) -> None:
    samples = write_scene(tmp_path, "a", (30, 30), windows(30, 30, 20), 0)[::-1]
    seen: list[int] = []

    def observe(index: int, image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> None:
        seen.append(index)
        np.testing.assert_array_equal(image, cv2.imread(str(samples[index].image))[..., ::-1])
        np.testing.assert_array_equal(label, cv2.imread(str(samples[index].label), cv2.IMREAD_UNCHANGED))
        np.testing.assert_array_equal(prediction, uneven(image[None])[0].argmax(-1))

    evaluate_stitched(uneven, find_scenes(samples, XYXY), SPEC, InferenceOptions(), observe=observe)
    assert seen == [3, 2, 1, 0]


def test_stitched_refuses_labels_that_disagree_and_another_number_of_classes(tmp_path: Path) -> None:
    samples = write_scene(tmp_path, "a", (30, 20), windows(30, 20, 20), 0)
    with pytest.raises(DataError, match="the model gives 2 classes, dataset 'town' has 3"):
        evaluate_stitched(lambda b: uneven(b)[..., :2], find_scenes(samples, XYXY), SPEC, InferenceOptions())
    cv2.imwrite(str(samples[1].label), np.full((20, 20), 1, np.uint8))
    with pytest.raises(DataError, match="a_0_0_20_20_label.png and .*a_0_10_20_30_label.png overlap and disagree"):
        evaluate_stitched(uneven, find_scenes(samples, XYXY), SPEC, InferenceOptions())


# === Protocols by name ===


def config_of(tmp_path: Path, dataset: str, protocol: str) -> Config:
    path = tmp_path / "config.yml"
    path.write_text(f"dataset: {dataset}\nmodel: {{name: fcn, backbone: {{name: hrnet_w18}}}}\n", "utf-8")
    return load_config(path, [f"eval.protocol={protocol}"])


def potsdam(tmp_path: Path, labels: str = "eroded") -> tuple[Path, Sequence[Sample], tuple[np.ndarray, np.ndarray]]:
    """Prepares a tiny Potsdam; returns its folder, validation tiles, and image and label of the validation scene."""
    scenes = downloads.potsdam(tmp_path / "download")
    if labels == "full":
        masks = {}
        for name, (_, ids) in scenes.items():
            mask = downloads.isprs_mask(np.where(ids == 255, 1, ids))
            masks[f"top_potsdam_{name}_label.tif"] = downloads.encoded(mask, ".tif")
        downloads.write_zip(tmp_path / "download/5_Labels_all.zip", masks)
    root = tmp_path / "potsdam"
    prepare("potsdam", tmp_path / "download", root, tile_size=32, labels=labels)
    return root, read_list(root / "val.txt", root), scenes["2_13"]


def by_red(images: np.ndarray) -> np.ndarray:
    """Takes the red band for the class, 0..5 in turn: (B, H, W, 3) to logits (B, H, W, 6)."""
    red = np.rint(images[..., 0]).astype(int)
    return (np.arange(6) == (red % 6)[..., None]).astype(np.float32)


def test_isprs5_on_potsdam_by_hand(tmp_path: Path) -> None:
    root, samples, (image, label) = potsdam(tmp_path)
    evaluation = plan_evaluation(config_of(tmp_path, f"{{name: potsdam, root: {root}}}", "isprs5"), samples)
    scores = evaluation.run(by_red, InferenceOptions())
    prediction, counted = image[..., 0] % 6, label != 255
    ious, f1s = [], []
    for c in range(5):
        both = ((prediction == c) & (label == c)).sum()
        predicted, labelled = ((prediction == c) & counted).sum(), (label == c).sum()  # clutter's pixels are among them
        ious.append(both / (predicted + labelled - both))
        f1s.append(2 * both / (predicted + labelled))
    assert scores.miou == pytest.approx(np.mean(ious))
    assert scores.macro_f1 == pytest.approx(np.mean(f1s))
    assert scores.acc == pytest.approx((prediction == label)[counted].mean())
    assert scores.confusion.sum() == counted.sum() and scores.label_pixels[5] == (label == 5).sum() > 0
    assert evaluation.summary == "isprs5 (1 scene, means without clutter)"
    report = evaluation.to_json()
    assert (report["name"], report["stitched"], report["left_out"]) == ("isprs5", True, ["clutter"])
    assert (report["tiles"], report["scenes"], report["tile_pixels"]) == (9, 1, 9 * 32 * 32)


def test_protocols_count_differently(tmp_path: Path) -> None:
    root, samples, (image, label) = potsdam(tmp_path)
    found: dict[str, SegmentationScores] = {}
    for protocol in ("benchmark", "stitched", "isprs5"):
        evaluation = plan_evaluation(config_of(tmp_path, f"{{name: potsdam, root: {root}}}", protocol), samples)
        found[protocol] = evaluation.run(by_red, InferenceOptions())
    assert found["benchmark"].to_json() == evaluate(by_red, samples, POTSDAM, InferenceOptions()).to_json()
    assert found["benchmark"].confusion.sum() + found["benchmark"].ignored_pixels == 9 * 32 * 32
    once = confusion_matrix(label, image[..., 0] % 6, 6)
    np.testing.assert_array_equal(found["stitched"].confusion, once)
    np.testing.assert_array_equal(found["isprs5"].confusion, once)
    assert found["stitched"].miou == pytest.approx(found["stitched"].class_iou.mean())
    assert found["isprs5"].miou == pytest.approx(found["stitched"].class_iou[:5].mean())


def test_isaid_is_stitched_by_its_own_names(tmp_path: Path) -> None:
    scenes = downloads.isaid(tmp_path / "download")
    root = tmp_path / "isaid"
    prepare("isaid", tmp_path / "download", root, tile_size=32, overlap=12)
    samples = read_list(root / "val.txt", root)
    config = config_of(tmp_path, f"{{name: isaid, root: {root}}}", "stitched")
    evaluation = plan_evaluation(config, samples)
    (scene,) = evaluation.scenes
    assert len(scene.tiles) == len(samples) == 6
    (root / "dataset.json").unlink()  # as of tiles that the original's scripts made: the pattern follows from the name
    assert plan_evaluation(config, samples) == evaluation
    scores = evaluation.run(lambda images: np.zeros((*images.shape[:3], 16), np.float32), InferenceOptions())
    np.testing.assert_array_equal(scores.label_pixels, np.bincount(scenes["P0100"][1].ravel(), minlength=16))


def test_ones_own_tiles_are_stitched_by_a_pattern(tmp_path: Path) -> None:
    write_scene(tmp_path, "a", (30, 30), windows(30, 30, 20), 0)
    named = [
        Sample(
            path.rename(tmp_path / f"{tile_name(YX, 'a', Window(y, x, y + 20, x + 20))}.png"),
            tmp_path / f"a_{x}_{y}_{x + 20}_{y + 20}_label.png",
        )
        for y in (0, 10)
        for x in (0, 10)
        for path in [tmp_path / f"a_{x}_{y}_{x + 20}_{y + 20}.png"]
    ]
    custom = f"{{name: custom, root: {tmp_path}, classes: [ground, roof, tree]"
    config = config_of(tmp_path, custom + f", tile_names: '{YX}'}}", "stitched")
    evaluation = plan_evaluation(config, named)
    scores = evaluation.run(uneven, InferenceOptions())
    assert scores.confusion.sum() + scores.ignored_pixels == 30 * 30
    with pytest.raises(DataError) as caught:
        plan_evaluation(config_of(tmp_path, custom + "}", "stitched"), named)
    message = str(caught.value)
    assert "those of the dataset 'custom' are named" in message and "Set dataset.tile_names to one of them" in message
    assert all(pattern in message for pattern in TILE_NAME_PATTERNS)
    assert plan_evaluation(config_of(tmp_path, custom + "}", "benchmark"), named).scenes == ()


def test_whole_scenes_cannot_be_stitched(tmp_path: Path) -> None:
    config = config_of(tmp_path, f"{{name: synthetic, root: {tmp_path}}}", "stitched")
    with pytest.raises(
        DataError, match="dataset 'synthetic' are named .* Choose protocol benchmark, which counts each pixel"
    ):
        plan_evaluation(config, [])


def test_isprs5_wants_eroded_labels(tmp_path: Path) -> None:
    root, samples, _ = potsdam(tmp_path, labels="full")
    config = config_of(tmp_path, f"{{name: potsdam, root: {root}}}", "isprs5")
    remedy = "rsseg-tf prepare potsdam SOURCE --labels eroded"
    with pytest.raises(DataError, match=f"the folder has full labels of potsdam. Prepare it with {remedy}"):
        plan_evaluation(config, samples)
    other = config_of(tmp_path, f"{{name: vaihingen, root: {root}}}", "isprs5")
    with pytest.raises(DataError, match="eroded labels of vaihingen; .* the folder has full labels of potsdam"):
        plan_evaluation(other, samples)
    (root / "dataset.json").unlink()
    with pytest.raises(DataError, match="is not known, because there is no .*dataset.json. Prepare it with"):
        plan_evaluation(config, samples)


# === Shares ===


def shared(whole: Evaluation, model: Predict, count: int) -> tuple[np.ndarray, int, list[int]]:
    """Returns the counts of all shares added up, and the places of what was observed in any."""
    confusion, ignored, seen = np.zeros((3, 3), np.int64), 0, []

    def total(counts: np.ndarray, more: int) -> tuple[np.ndarray, int]:
        nonlocal confusion, ignored
        confusion, ignored = confusion + counts, ignored + more
        return np.eye(3, dtype=np.int64), 0  # as if others had counted something

    for index in range(count):
        part = whole.share(index, count)
        part.run(model, InferenceOptions(), observe=lambda i, *_: seen.append(i), total=total)
        assert seen[len(seen) - len(part.places) :] == part.places
    return confusion, ignored, seen


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_shares_add_up_to_the_whole(count: int, samples: list[Sample], tmp_path: Path) -> None:
    """Also where there are more workers than samples."""
    whole = Evaluation(PROTOCOLS["benchmark"], SPEC, samples)
    confusion, ignored, seen = shared(whole, predict, count)
    scores = whole.run(predict, InferenceOptions())
    np.testing.assert_array_equal(confusion, scores.confusion)
    assert ignored == scores.ignored_pixels and len(seen) == len(samples)

    size, places = TILINGS["overlap"]
    tiles = [tile for seed in range(3) for tile in write_scene(tmp_path, f"scene{seed}", size, places, seed)]
    stitched = Evaluation(PROTOCOLS["stitched"], SPEC, tiles, find_scenes(tiles, XYXY))
    confusion, ignored, seen = shared(stitched, uneven, count)
    scores = stitched.run(uneven, InferenceOptions())
    np.testing.assert_array_equal(confusion, scores.confusion)
    assert ignored == scores.ignored_pixels and sorted(seen) == list(range(len(tiles)))
