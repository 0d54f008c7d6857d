"""Tables fit 80 columns, whatever classes and models are called: no name and no number is cut."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rsseg_tf.cli import check_data
from rsseg_tf.cli.benchmark import speed_table, timing_table
from rsseg_tf.cli.evaluate import scores_table
from rsseg_tf.cli.output import fitting, print_prepared
from rsseg_tf.cli.probe import table as probe_table
from rsseg_tf.cli.verify import comparison_table
from rsseg_tf.rasters.windows import Size

CLASSES = ("impervious surfaces, roads and parking", "low_vegetation_and_agricultural_land_use", "bld")


def printed(*tables: Any) -> str:
    stream = io.StringIO()
    Console(file=stream, width=80).print(*tables, sep="\n")
    return stream.getvalue()


def assert_fits(text: str, *whole: str) -> None:
    """Checks the width, that nothing is cut off, and that each of these texts is there, on one line or on several."""
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text, text
    columns = [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in text.splitlines()]
    folded = ["".join(row[i] for row in columns if len(row) > i) for i in range(2)]
    together = " ".join([*folded, text]).replace(" ", "")
    for words in whole:
        assert words.replace(" ", "") in together, f"{words} is not whole in\n{text}"


def test_scores() -> None:
    values = np.array([0.1, 1.0, 0.3])
    scores = SimpleNamespace(
        classes=CLASSES, in_means=np.array([True, True, False]), class_iou=values, class_precision=values,
        class_recall=values, class_dice=values, label_pixels=np.array([123_456_789_012, 10, 3]), miou=0.5,
        macro_precision=0.5, macro_recall=0.5, dice=0.5,
    )  # fmt: skip
    text = printed(scores_table(scores, "stitched (24 scenes of 12,000 tiles, each pixel once)"))  # type: ignore[arg-type]
    assert_fits(text, *CLASSES, "bld (not in the means)", "123,456,789,012", "100.00")


@pytest.mark.parametrize("splits", [("train",), ("train", "val"), ("train", "val", "test")])
def test_classes_of_a_dataset(splits: tuple[str, ...]) -> None:
    classes = [
        SimpleNamespace(id=i, name=name, pixels=123_456_789_012, images=123_456) for i, name in enumerate(CLASSES)
    ]
    rows = [
        SimpleNamespace(
            name=name, labels=True, classes=classes, class_pixels=3 * 123_456_789_012, ignored_pixels=12_345_678_901,
            unknown_pixels=1, samples=100_000, sizes={"10000x10000": 1, "512x512": 3, "256x256": 3, "1x1": 1},
            bands={3: 1}, dtypes={"uint16": 1, "uint8": 3},
        )
        for name in splits
    ]  # fmt: skip
    expected = SimpleNamespace(name="a long name of a dataset")
    report: Any = SimpleNamespace(
        splits=rows, dataset=SimpleNamespace(expected=expected, root="/home/user/" + "x" * 99)
    )
    text = printed(*check_data._classes_tables(report, 80))
    assert_fits(text, *CLASSES, "123,456,789,012", "12,345,678,901", "123,456", "unknown ids", *splits)
    assert text.count("Pixels of each class") == len(splits), "one has no room beside another"
    assert_fits(printed(check_data._splits_table(report)), "100,000")


def test_short_names_and_counts_stay_in_one_table() -> None:
    classes = [SimpleNamespace(id=0, name="road", pixels=1_234_567, images=120)]
    rows = [
        SimpleNamespace(name=name, labels=True, classes=classes, class_pixels=9, ignored_pixels=1, unknown_pixels=0)
        for name in ("train", "val")
    ]
    assert len(check_data._classes_tables(SimpleNamespace(splits=rows), 80)) == 1  # type: ignore[arg-type]


def test_speeds() -> None:
    timing: Any = SimpleNamespace(
        threads=16, runs=200, p50_ms=12345.0, p90_ms=12345.0, p99_ms=123456.0, first_ms=123456.0, load_s=123.4,
        memory_mib=123456.0,
    )  # fmt: skip
    names = ["checkpoint (Keras)", "tflite float16", "openvino"]
    assert_fits(printed(timing_table(names, [timing] * 3, Size(1024, 1024))), *names, "123456", "123.4")
    rate = SimpleNamespace(per_s=12345.6, cpu_ms=12345.6, count=123456)
    speed: Any = SimpleNamespace(
        device="NVIDIA H100 80GB HBM3, 8 of them", cores=128, batch_size=1024, disk=rate, memory=rate, step=rate,
        training=rate, evaluation=rate, evaluation_mpx_per_s=123.45,
    )  # fmt: skip
    assert_fits(printed(speed_table(speed)), "evaluation (123.45 Mpx/s)", "12345.6", "123456")


def test_differences() -> None:
    compared: list[Any] = [
        SimpleNamespace(
            name=name, size_bytes=1_234_567_890, latency_ms=12345.0, max_logit_difference=1.2e-10,
            max_probability_difference=1.2e-10, mean_probability_difference=1.2e-10, agreement=1.0, passed=False,
            made_up_tiles=4, real_tiles=real,
        )
        for real, name in enumerate(("server http://example.org:8501/v1", "tflite int16x8"))
    ]  # fmt: skip
    text = printed(comparison_table(compared))
    assert_fits(text, "1177.4", "12345", "1.2e-10", "100.000", "passed", "tflite int16x8")
    assert "".join(line.split(" ")[0] for line in text.splitlines()).count("8501/v1") <= 1
    assert "http://" in text and "8501/v1" in text


def test_probes() -> None:
    accuracy = [0.5, 0.6, 0.7]
    scores = [SimpleNamespace(probe="linear", labels=labels, balanced_accuracy=accuracy) for labels in (40, 200, 12000)]
    scores.append(SimpleNamespace(probe="nearest", labels=0, balanced_accuracy=accuracy))
    row: Any = SimpleNamespace(features="output/a_long_name/iter_100000", levels="c3, c4, c5", dim=2048, scores=scores)
    text = printed(probe_table([row], "Mean recall of 6 classes, %; 2000 patches of 64x64, 3 seeds", 20))
    assert_fits(text, "12000", "2048", "nearest")
    assert text.count("60.0 ± 10.0") == 4


def test_prepared_counts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    split = SimpleNamespace(scenes=100_000, tiles=10_000_000, off_palette_pixels=1_000_000_000)
    report: Any = SimpleNamespace(
        name="mine", output="/home/user/" + "x" * 90, up_to_date=True, splits={"train": split}
    )
    print_prepared(report)
    title, table = capsys.readouterr().out.split("\n", 1)
    assert title == f"mine: {report.output} (already there, nothing to do)", "a path is not broken"
    assert_fits(table, "1,000,000,000", "10000000", "off-palette pixels")


def test_columns_are_dealt_out_in_order() -> None:
    room = {"a": 5, "b": 5, "c": 20, "d": 5}
    assert fitting("abcd", room, 12) == [["a", "b"], ["c"], ["d"]]
    assert fitting("abcd", room, 99) == [["a", "b", "c", "d"]]
