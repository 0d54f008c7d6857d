"""`rsseg-tf check-data` as a user meets it: tables, JSON, exit codes, errors."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from rsseg_tf import doctor
from rsseg_tf.cli import main
from rsseg_tf.doctor import FORMAT, KINDS, SEVERITIES
from rsseg_tf.files import readable_name
from tests.fixtures.datasets import ids, picture, write, write_config, write_sound

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "check_data.md"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_sound(tmp_path / "data")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["check-data", "--workers", "1", *map(str, arguments)])


def run_json(*arguments: object) -> tuple[int, dict[str, Any]]:
    result = run("--json", *arguments)
    return result.exit_code, json.loads(result.stdout)


def spoil(root: Path) -> None:
    """One error, one warning, one note."""
    (root / "images/train_1.png").unlink()
    write(root / "labels/train_2.png", np.full((64, 64), 255, np.uint8))
    write(root / "images/train_4.png", picture(3)[::-1])


# === Exit codes ===


def test_a_sound_folder_gives_0_and_the_tables(root: Path) -> None:
    result = run(root)
    assert result.exit_code == 0, result.output
    assert "0 errors, 0 warnings, 0 notes." in result.stdout
    for text in ("train", "val", "64x64", "uint8", "ground", "roof", "road", "ignored"):
        assert text in result.stdout
    assert re.search(r"^  dataset: \{mean: \[0\.\d+, 0\.\d+, 0\.\d+\], std: ", result.stdout, re.M)
    assert len(re.findall(r"^  loss: \{main: \{name: cross_entropy, class_weights: \[", result.stdout, re.M)) == 2


def test_errors_give_1_after_the_whole_report(root: Path) -> None:
    spoil(root)
    result = run(root)
    assert result.exit_code == 1
    assert result.stdout.endswith("\n1 error, 1 warning, 1 note.\n")
    assert "  images/train_1.png does not exist\n" in result.stdout
    places = [
        result.stdout.index(f"\n{text}\n")
        for text in ("error: file-missing", "warning: all-ignored", "note: near-duplicate")
    ]
    assert places == sorted(places)
    assert KINDS["all-ignored"].remedy in result.stdout


@pytest.mark.parametrize(
    ("options", "code"), [((), 0), (("--strict",), 1), (("--strict", "--ignore", "all-ignored"), 1)]
)
def test_warnings_give_1_with_strict_alone(root: Path, options: tuple[str, ...], code: int) -> None:
    write(root / "labels/train_2.png", np.full((64, 64), 255, np.uint8))
    write(root / "images/train_2.png", np.zeros((64, 64, 3), np.uint8))
    assert run(root, *options).exit_code == code, "leaving one of two warnings out does not change it"


def test_findings_that_are_left_out_change_the_exit_code(root: Path) -> None:
    spoil(root)
    result = run(root, "--ignore", "file-missing", "all-ignored", "--strict")
    assert result.exit_code == 0 and "0 errors, 0 warnings, 1 note." in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Name one thing to check: a folder or a config"),
        (("ROOT", "--config", "x.yml"), "Name one thing to check"),
        (("nowhere",), "There is no folder nowhere, and no config of that name"),
        (("ROOT", "--ignore", "near-duplicates"), "no such kind of finding. Did you mean 'near-duplicate'?"),
        (("ROOT", "--set", "dataset.root=x"), "--set changes a config"),
        (("ROOT", "--sheet", "x.gif"), "--sheet writes .png or .html files; got x.gif"),
        (("ROOT", "--sheet", "ROOT/train.txt/x.png"), "cannot be written"),
        (("ROOT", "--num-classes", "7"), "labels.txt names 3 classes; got 7"),
        (("CONFIG", "--num-classes", "3"), "--num-classes goes with a folder"),
        (("CONFIG", "--ignore-index", "0"), "--ignore-index goes with a folder"),
        (("CONFIG", "--unlabelled"), "--unlabelled goes with a folder"),
        (("CONFIG", "--set", "dataset.root=nowhere"), "The folder nowhere (dataset.root of"),
        (("CONFIG", "--set", "dataset.clases=[a]"), "unknown key"),
        (("ROOT", "--sheet-count", "3"), "--sheet-count has an effect with --sheet only"),
        (("ROOT", "--seed", "3"), "--seed has an effect with --sheet only"),
        (("ROOT", "--show", "3", "--json"), "--show has an effect without --json only"),
        (("ROOT", "--near", "12"), "12 is not in the range"),
        (("ROOT", "--sheet-count", "0"), "0 is not in the range"),
    ],
)
def test_wrong_usage_gives_2_and_one_line(root: Path, arguments: tuple[str, ...], message: str) -> None:
    config = write_config(root)
    result = run(*(text.replace("ROOT", str(root)).replace("CONFIG", str(config)) for text in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr and "Traceback" not in result.output and result.stdout == ""


def test_stopping_gives_130(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "check_data", interrupted)
    result = run(root)
    assert result.exit_code == 130 and result.stderr.strip() == "Stopped." and result.stdout == ""


def test_ctrl_c_stops_all_processes_without_a_traceback(tmp_path: Path) -> None:
    """The signal goes to the parent and its workers alike, as from a terminal."""
    write_sound(tmp_path / "data", train=60)
    code = (
        "import os, signal, sys\n"
        "from rsseg_tf import doctor\n"
        "from rsseg_tf.cli import main\n"
        "real = doctor.check_data\n"
        "def stopped(*a, progress, **k):\n"
        "    return real(*a, progress=lambda done, total: os.killpg(0, signal.SIGINT), **k)\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # jobs in the background start without
        "    doctor.check_data = stopped\n"
        "    main(['check-data', sys.argv[1], '--workers', '2'])\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "data")],
        capture_output=True, text=True, start_new_session=True, env=environment, timeout=120, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr.strip()) == (130, "", "Stopped.")


# === What is named ===


def test_a_config_is_named_in_two_ways(root: Path) -> None:
    config = write_config(root)
    write(root / "images/train_1.png", picture(9, 40, 40))
    write(root / "labels/train_1.png", ids(9, 40, 40))
    for arguments in ((config,), ("--config", config)):
        code, report = run_json(*arguments)
        assert code == 0 and [finding["code"] for finding in report["findings"]] == ["small-image"]
    code, report = run_json(config, "--set", "augment.crop_size=[32, 32]")
    assert report["findings"] == []


def test_options_for_folders(root: Path) -> None:
    (root / "labels.txt").unlink()
    assert run_json(root, "--num-classes", 2)[0] == 1
    assert run_json(root, "--num-classes", 3)[0] == 0
    assert run_json(root, "--num-classes", 3, "--ignore_index", 200)[0] == 1, "255 is then an id too many"
    _, report = run_json(root, "--unlabelled")
    assert report["dataset"]["labelled"] is False and report["class_weights"] == {}


# === JSON ===

TOP = {"format": int, "written_by": str, "version": str, "source": str, "root": str, "dataset": dict,
       "summary": dict, "splits": dict, "class_weights": dict, "findings": list}  # fmt: skip
DATASET = {"name": str, "labelled": bool, "classes": list, "ignore_index": int, "max_value": float}
SPLIT = {"samples": int, "labelled": bool, "images": int, "labels": int, "sizes": dict, "bands": dict, "dtypes": dict,
         "ignored_pixels": int, "unknown_pixels": int, "classes": list, "band_statistics": list}  # fmt: skip
CLASS = {"id": int, "name": str, "pixels": int, "share": float, "images": int}
BAND = {"mean": float, "std": float, "min": float, "max": float}
FINDING = {"severity": str, "code": str, "splits": list, "files": list, "message": str, "remedy": str}


def assert_fields(value: dict[str, Any], fields: Mapping[str, type]) -> None:
    assert {name: type(entry) for name, entry in value.items()} == fields


def test_json_has_the_documented_fields_and_nothing_else_is_printed(root: Path) -> None:
    spoil(root)
    result = run(root, "--json", "--sheet", root.parent / "sheet.png")
    assert result.exit_code == 1 and "Written: " in result.stderr
    report = json.loads(result.stdout)
    assert_fields(report, TOP)
    assert_fields(report["dataset"], DATASET)
    assert report["format"] == FORMAT and report["summary"] == {"errors": 1, "warnings": 1, "notes": 1}
    assert list(report["splits"]) == ["train", "val"]
    for split in report["splits"].values():
        assert_fields(split, SPLIT)
        for entry in split["classes"]:
            assert_fields(entry, CLASS)
        for band in split["band_statistics"]:
            assert_fields(band, BAND)
    assert set(report["class_weights"]) == {"median_frequency", "inverse_log"}
    for finding in report["findings"]:
        assert_fields(finding, FINDING)
        assert finding["severity"] == KINDS[finding["code"]].severity
    assert report["findings"][0]["files"] == ["images/train_1.png"]


def test_json_has_all_findings_whatever_is_shown(root: Path) -> None:
    for path in (root / "images").iterdir():
        path.unlink()
    assert len(run_json(root)[1]["findings"]) == 8
    printed = run(root, "--show", 2).stdout
    assert printed.count("does not exist\n") == 2 and "… and 6 more (--show 8, or --json)" in printed
    assert "does not exist" not in run(root, "--show", 0).stdout.split("Paths in lists")[1]


def test_a_band_without_data_is_null_in_json(tmp_path: Path) -> None:
    root = write_sound(tmp_path, train=1, val=1)
    write(root / "images/train_0.png", np.zeros((64, 64, 3), np.uint8))
    assert all(band["max"] == 0 for band in run_json(root)[1]["splits"]["train"]["band_statistics"])
    (root / "images/train_0.png").unlink()
    code, report = run_json(root)
    assert code == 1 and report["splits"]["train"]["band_statistics"] == []


# === Names and text ===


@pytest.mark.parametrize("name", ["[bold]a.png", "a\x1b[31mb.png", "a\udcffb.png", "日本.png"])
def test_any_file_name_can_be_printed(root: Path, name: str) -> None:
    (root / "images/train_1.png").rename(root / "images" / name)
    for path in (root / "labels/train_1.png", root / "train.txt", root / "val.txt"):
        path.unlink()
    result = run(root)
    assert result.exit_code == 1 and "Traceback" not in result.output, result.output
    shown = {"a\x1b[31mb.png": r"a\x1b[31mb.png", "a\udcffb.png": r"a\xffb.png"}.get(name, name)
    assert f"images/{shown} has no label" in result.stdout
    assert "\x1b[31m" not in result.stdout
    assert any(readable_name(name) in finding["message"] for finding in run_json(root)[1]["findings"])


def test_lines_with_names_are_not_wrapped(root: Path) -> None:
    name = "x" * 150 + ".png"
    write(root / "images" / name, np.zeros((64, 64, 3), np.uint8))
    (root / "train.txt").write_text(f"images/{name} labels/train_1.png\n")
    assert f"  images/{name} has the value 0, 0, 0 in all pixels\n" in run(root).stdout


def test_a_sheet_is_written_beside_the_report(root: Path, tmp_path: Path) -> None:
    for name in ("new/s.png", "s.html"):
        result = run(root, "--sheet", tmp_path / name, "--sheet-count", 3)
        assert result.exit_code == 0 and f"Written: {tmp_path / name}" in result.stdout
        assert (tmp_path / name).is_file()
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    result = run(root, "--sheet", tmp_path / "none.png")
    assert result.exit_code == 1 and "no sample could be read" in result.stderr
    assert not (tmp_path / "none.png").exists()


def test_the_help_says_what_is_checked() -> None:
    result = run("--help")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for words in (
        "CONFIG|FOLDER",
        "before hours of training",
        "Exit code 1 if there are errors",
    ):
        assert words in text


# === The document ===


def test_the_document_has_every_kind_with_its_severity_and_remedy() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \| (.+?) \| (.+?) \|$", DOCUMENT.read_text("utf-8"), re.M)
    assert rows == [(code, kind.severity, kind.what, kind.remedy) for code, kind in KINDS.items()]


def test_the_document_has_every_field_of_the_json() -> None:
    text = DOCUMENT.read_text("utf-8")
    for fields in (TOP, DATASET, SPLIT, CLASS, BAND, FINDING):
        for name in fields:
            assert f'"{name}"' in text, name


def test_every_kind_reads_as_sentences() -> None:
    for code, kind in KINDS.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code) and kind.severity in SEVERITIES
        for text in (kind.what, kind.remedy):
            assert text.endswith(".") and text[0].isupper() and "|" not in text
