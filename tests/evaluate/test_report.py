"""The details of an evaluation and their page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from rsseg_tf.checkpoint import read_temperature
from rsseg_tf.cli import main
from rsseg_tf.datasets import custom_spec
from rsseg_tf.evaluate.charts import Line, chart
from rsseg_tf.evaluate.details import TILES, Details
from rsseg_tf.evaluate.evaluation import evaluate, evaluate_stitched
from rsseg_tf.evaluate.report import write_report
from rsseg_tf.evaluate.stitching import find_scenes
from rsseg_tf.files.lists import Sample
from rsseg_tf.metrics import BoundaryCounts, LogitSample, ObjectCounts
from rsseg_tf.metrics.calibration import confidence_of
from rsseg_tf.predict import InferenceOptions, predict_logits
from rsseg_tf.rasters.windows import Size
from tests.fixtures.checkpoints import write_checkpoint
from tests.fixtures.configs import use_tiny_backbone

SPEC = custom_spec("town", ["ground", "roof <b>", "tree"], mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
OPTIONS = {
    "whole": InferenceOptions(batch_size=2),
    "windows": InferenceOptions(is_slide=True, crop_size=Size(8, 8), stride=Size(5, 6)),
}


def predict(images: NDArray) -> NDArray[np.float32]:
    """Logits that follow from the colours."""
    values = images.astype(np.float32) / 40
    return np.stack([values[..., 0], values[..., 1], 3 + 0 * values[..., 2]], axis=-1)


def write_samples(folder: Path, count: int = 9, suffix: str = "") -> list[Sample]:
    """Writes tiles of 20x24, or of 14x14, whose labels are more and more often other than what `predict` finds."""
    rng = np.random.default_rng(5)
    samples = []
    for number in range(count):
        size = (20, 24) if number < 6 else (14, 14)
        image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        label = predict(image[np.newaxis])[0].argmax(axis=-1).astype(np.uint8)
        wrong = rng.random(size) < number / 12
        label[wrong] = (label[wrong] + 1) % 3
        label[rng.random(size) < 0.1] = 255
        sample = Sample(folder / f"{number}{suffix}.png", folder / f"{number}{suffix}_label.png")
        cv2.imwrite(str(sample.image), image[..., ::-1])
        cv2.imwrite(str(sample.label), label)
        samples.append(sample)
    return samples


def arrays(sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return cv2.imread(str(sample.image))[..., ::-1], cv2.imread(str(sample.label), cv2.IMREAD_UNCHANGED)


def details_of(samples: list[Sample], temperature: float = 1.0, **more: Any) -> Details:
    return Details(SPEC, samples, temperature, **more)


# === What is collected ===


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_details_are_those_of_each_tile_and_scores_stay_as_they_are(tmp_path: Path, options: InferenceOptions) -> None:
    samples = write_samples(tmp_path)
    details = details_of(samples, 2.0, sample=LogitSample(3))
    scores = evaluate(predict, samples, SPEC, options, observe=details.observe, look=details.look)
    assert scores.to_json() == evaluate(predict, samples, SPEC, options).to_json()

    boundaries, objects, confidences, shares = BoundaryCounts(3), ObjectCounts(3), [], []
    for sample in samples:
        image, label = arrays(sample)
        logits = predict_logits(predict, image, SPEC, options)
        found, counted = logits.argmax(axis=-1).astype(np.uint8), label != 255
        boundaries.add(label, found)
        objects.add(label, found)
        confidences.append(confidence_of(logits, 2.0)[counted])
        shares.append((found == label)[counted].mean())
    np.testing.assert_array_equal(details.boundaries.class_iou, boundaries.class_iou)
    np.testing.assert_array_equal(details.objects.hits, objects.hits)
    assert details.confidence.pixels == scores.confusion.sum()
    assert details.confidence.confidence.sum() == pytest.approx(np.concatenate(confidences).sum(), rel=1e-6)
    assert details.sample is not None and details.sample.seen == scores.confusion.sum() == len(details.sample.pixels[1])

    ranked = np.argsort(shares, kind="stable").tolist()
    assert [tile.index for tile in details.worst] == ranked[:TILES]
    assert [tile.index for tile in details.best] == ranked[: TILES - 1 : -1]
    assert details.worst[0].accuracy == pytest.approx(shares[ranked[0]])
    assert details.worst[0].name == f"{ranked[0]}.png"


def test_pictures_show_what_is_wrong(tmp_path: Path) -> None:
    samples = write_samples(tmp_path, 1)
    details = details_of(samples)
    label = np.zeros((8, 4), np.uint8)
    label[:2], label[2:4] = 255, 1
    prediction = np.zeros((8, 4), np.uint8)
    prediction[4:6] = 2
    details.observe(0, np.zeros((8, 4, 3), np.uint8), label, prediction)
    (tile,) = details.worst
    assert tile.image.shape == tile.errors.shape == tile.label.shape == (288, 144, 3)
    red = (tile.errors == (214, 39, 40)).all(axis=-1)
    assert not red[:72].any() and red[72:216].all() and not red[216:].any()
    ignored, classes = (0, 0, 0), [tuple(colour) for colour in SPEC.palette]
    for picture, rows in ((tile.label, [ignored, classes[1], classes[0], classes[0]]),
                          (tile.prediction, [ignored, classes[0], classes[2], classes[0]])):  # fmt: skip
        assert [tuple(picture[place, 70].tolist()) for place in (10, 100, 180, 250)] == rows
    assert tile.accuracy == pytest.approx(2 / 6) and not details.best


def test_a_tile_that_is_all_ignored_is_not_shown(tmp_path: Path) -> None:
    details = details_of(write_samples(tmp_path, 1))
    details.observe(0, np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8))
    assert not details.worst and not details.best
    assert details.to_json()["boundary_iou"] == {
        "width": "0.02 of a tile's diagonal", "mean_present": None, "classes": [None] * 3,
    }  # fmt: skip


def test_tiles_that_overlap_are_looked_at_one_by_one(tmp_path: Path) -> None:
    samples = []
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8), rng.integers(0, 3, (20, 30)).astype(np.uint8)
    for x0, x1 in ((0, 16), (10, 30)):
        name = tmp_path / f"a_{x0}_0_{x1}_20"
        samples.append(Sample(name.with_suffix(".png"), tmp_path / f"{name.name}_label.png"))
        cv2.imwrite(str(samples[-1].image), image[:, x0:x1, ::-1])
        cv2.imwrite(str(samples[-1].label), label[:, x0:x1])
    details = details_of(samples)
    scenes = find_scenes(samples, "{stem}_{x0}_{y0}_{x1}_{y1}")
    scores = evaluate_stitched(predict, scenes, SPEC, InferenceOptions(), observe=details.observe, look=details.look)
    assert scores.confusion.sum() == 600 and details.confidence.pixels == 20 * (16 + 20)
    assert sorted(tile.index for tile in details.worst) == [0, 1]


# === The page ===


class Page(HTMLParser):
    """Notes what a page holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def written(tmp_path: Path) -> tuple[str, Details]:
    samples = write_samples(tmp_path)
    details = details_of(samples)
    scores = evaluate(predict, samples, SPEC, OPTIONS["whole"], observe=details.observe, look=details.look)
    path = tmp_path / "report.html"
    write_report(path, scores, details, {"model": "a <model>"})
    write_report(path, scores, details, {"model": "a <model>"})  # ours may be overwritten
    return path.read_text("utf-8"), details


def test_a_page_holds_everything_and_needs_nothing(written: tuple[str, Details]) -> None:
    text, details = written
    page = Page(text)
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == 4 * 9 and all(source and source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?://|<script|<link|url\(", text)
    words = " ".join(page.words)
    assert "a <model>" in words and words.count("roof <b>") >= 4
    assert {tag for tag, _ in page.tags} >= {"table", "svg", "figure"} and "b" in {tag for tag, _ in page.tags}
    for wanted in ("Boundary IoU", "Confusion", "Objects by size", "against confidence", "Calibration", "Most wrong"):
        assert wanted in words
    for tile in (*details.worst, *details.best):
        assert tile.name in words
    assert f"{100 * details.confidence.ece:.2f} %" in words


def test_another_file_is_not_overwritten(tmp_path: Path, written: tuple[str, Details]) -> None:
    (tmp_path / "mine.html").write_text("<html>mine")
    result = CliRunner().invoke(main, ["eval", "--model_path", str(tmp_path), "--report", str(tmp_path / "mine.html")])
    assert result.exit_code == 2 and "exists and is no page of rsseg-tf eval" in result.output
    for path, said in (
        (tmp_path / "a.pdf", "writes an HTML page"),
        (tmp_path / "mine.html" / "a.html", "mine.html is a file. Choose another place"),
        (tmp_path / "no" / "a.html", "is not a checkpoint"),
    ):
        result = CliRunner().invoke(main, ["eval", "--model_path", str(tmp_path), "--report", str(path)])
        assert result.exit_code == 2 and said in result.output
    assert not (tmp_path / "no").exists(), "a folder is made when there is a page for it"


def test_a_chart_is_sound_xml_with_gaps() -> None:
    x = np.linspace(0, 1, 5)
    line = Line("a & b", "#123456", x, np.array([0, 0.5, np.nan, 1, 1]))
    text = chart("<title>", [line], x_label="x", y_label="y", bars=[0.5, float("nan"), 1.0], diagonal=True)
    svg = ElementTree.fromstring(text)[0]
    drawn = [one.get("d", "") for one in svg if one.get("class") == "line"]
    assert drawn[0].count("M") == 2 and drawn[0].count("L") == 2 and "nan" not in text
    assert len([one for one in svg if one.tag == "rect"]) == 2
    assert svg.get("aria-label") == "<title>"


# === The command ===


def test_the_command_writes_the_page_and_stores_a_temperature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    checkpoint, _ = write_checkpoint(tmp_path)

    def run(*arguments: str) -> tuple[str, dict[str, Any]]:
        result = CliRunner().invoke(main, ["eval", "--model_path", str(checkpoint), *arguments])
        assert result.exit_code == 0, result.output
        return result.output, json.loads((checkpoint / "eval.json").read_text())

    _, plain = run()
    page = tmp_path / "out.html"
    output, first = run("--report", str(page), "--calibrate")
    assert set(first) - set(plain) == {"calibration", "details"} and plain.items() <= first.items()
    temperature = first["calibration"]["temperature"]
    assert (
        f"[CALIBRATION] temperature: {temperature:g} ECE: {first['calibration']['ece_before']:.4f} ->" in output
        and temperature != 1
    )
    assert read_temperature(checkpoint) == temperature
    assert json.loads((checkpoint / "calibration.json").read_text())["pixels"] == first["counted_pixels"]
    assert f"temperature {temperature:.4g}" in page.read_text("utf-8")

    _, second = run("--report", str(page), "--calibrate")
    assert second["inference"].pop("temperature") == second["details"]["confidence"]["temperature"] == temperature
    assert second["confusion_matrix"] == plain["confusion_matrix"] and second["inference"] == plain["inference"]
    assert second["calibration"] == first["calibration"], "fitted to the logits, whatever was there before"
    assert second["details"]["confidence"]["ece"] == pytest.approx(first["calibration"]["ece_after"], abs=1e-6)
    assert first["details"]["confidence"]["ece"] == pytest.approx(first["calibration"]["ece_before"], abs=1e-6)


def test_an_export_is_not_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsseg_tf.predictors.find_model", lambda path: ("tflite", path))
    path = tmp_path / "model.tflite"
    path.touch()
    result = CliRunner().invoke(main, ["eval", "--model_path", str(path), "--calibrate"])
    assert result.exit_code == 2, result.output
    assert re.search(r"--calibrate stores a temperature in a checkpoint; .* was\s+exported", result.output)


def test_a_chosen_engine_is_not_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    checkpoint, _ = write_checkpoint(tmp_path)
    result = CliRunner().invoke(main, ["eval", "--model_path", str(checkpoint), "--calibrate", "--engine", "auto"])
    assert result.exit_code == 2 and "--engine auto may run another file" in result.output
