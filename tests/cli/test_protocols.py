"""Evaluation protocols through the command line, on a tiny Potsdam."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rsseg_tf.checkpoint import read_state
from rsseg_tf.cli import main
from tests.fixtures import downloads
from tests.fixtures.configs import CONFIG, use_tiny_backbone, write_config, write_dataset

TILES = 9  # of 32x32 in a scene of 70x90: the last row and column are shifted back


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_tiny_backbone(monkeypatch)
    downloads.potsdam(tmp_path / "download")
    run("prepare", "potsdam", tmp_path / "download", "-o", tmp_path / "data", "--tile-size", "32", "--workers", "1")
    text = CONFIG.replace("name: custom, root: ROOT, classes: [dark, bright]", f"name: potsdam, root: {tmp_path}/data")
    (tmp_path / "tiny.yml").write_text(text, "utf-8")
    return tmp_path


def evaluate(project: Path, *arguments: str | Path) -> tuple[str, dict[str, Any]]:
    output = run("eval", *arguments, "--save_dir", project / "report")
    return output, json.loads((project / "report" / "eval.json").read_text("utf-8"))


def test_train_and_eval_by_each_protocol(project: Path) -> None:
    out = project / "out"
    common = ("--config", project / "tiny.yml", "--save_dir", out, "--do_eval")
    output = run("train", *common, "--iters", "2", "--set", "eval.protocol=isprs5")
    assert "Protocol: isprs5 (1 scene, means without clutter)" in output
    state = read_state(out / "best_model")
    assert state.protocol == "isprs5"

    output, of_checkpoint = evaluate(project, "--model_path", out / "best_model")
    assert "Protocol: isprs5 (1 scene, means without clutter)" in output
    assert "clutter (not in the means)" in output and "mean of 5" in output
    assert of_checkpoint["macro"]["miou"] == pytest.approx(state.best_miou), "eval counts what training counted"
    assert of_checkpoint["protocol"]["left_out"] == ["clutter"]
    assert {entry["name"] for entry in of_checkpoint["classes"] if not entry["in_means"]} == {"clutter"}

    reports = {}
    for protocol in ("benchmark", "stitched", "isprs5"):
        output, reports[protocol] = evaluate(project, "--model_path", out / "best_model", "--protocol", protocol)
        assert f" Protocol: {protocol}" in output
        assert reports[protocol]["protocol"]["name"] == protocol
        assert reports[protocol]["images"] == reports[protocol]["protocol"]["tiles"] == TILES
    assert reports["isprs5"] == of_checkpoint
    _, batched = evaluate(project, "--model_path", out / "best_model", "--batch_size", "4", "--num_workers", "2")
    assert batched.pop("inference")["batch_size"] == 4 and of_checkpoint["inference"]["batch_size"] == 1
    assert batched.items() < of_checkpoint.items(), "and all counts are the same"
    counted = {name: report["counted_pixels"] + report["ignored_pixels"] for name, report in reports.items()}
    assert counted == {"benchmark": TILES * 32 * 32, "stitched": 70 * 90, "isprs5": 70 * 90}
    assert reports["benchmark"]["protocol"]["scenes"] is None and reports["stitched"]["protocol"]["scenes"] == 1
    assert reports["stitched"]["confusion_matrix"] == reports["isprs5"]["confusion_matrix"]
    assert reports["stitched"]["micro"] == reports["isprs5"]["micro"]
    ious = [entry["iou"] for entry in reports["stitched"]["classes"]]
    assert reports["stitched"]["macro"]["miou"] == pytest.approx(sum(ious) / 6)
    assert reports["isprs5"]["macro"]["miou"] == pytest.approx(sum(ious[:5]) / 5)


def test_a_run_resumed_with_another_protocol_looks_for_its_best_model_anew(project: Path) -> None:
    out = project / "out"
    common = ("--config", project / "tiny.yml", "--save_dir", out, "--do_eval")
    run("train", *common, "--iters", "1")
    before = read_state(out / "iter_1")
    assert before.protocol == "benchmark"
    protocol = ("--set", "eval.protocol=isprs5")
    output = run("train", *common, "--iters", "2", "--resume_model", out / "iter_1", *protocol)
    assert (
        f"The best mIoU so far, {before.best_miou:.4f}, was counted by protocol benchmark; from here on isprs5"
        in output
    )
    after = read_state(out / "best_model")
    assert (after.step, after.best_step, after.protocol) == (2, 2, "isprs5")
    output = run("train", *common, "--iters", "3", "--resume_model", out / "iter_2", *protocol)
    assert "was counted by" not in output


def test_isprs5_is_refused_on_full_labels(project: Path) -> None:
    run("train", "--config", project / "tiny.yml", "--save_dir", project / "out", "--iters", "1")
    description = project / "data" / "dataset.json"
    description.write_text(description.read_text("utf-8").replace('"eroded"', '"full"'), "utf-8")
    output = run("eval", "--model_path", project / "out" / "iter_1", "--protocol", "isprs5", code=2)
    assert "the folder has full labels of potsdam. Prepare it with rsseg-tf prepare potsdam SOURCE" in output


def test_protocols_that_do_not_fit_ones_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    config, out = write_config(tmp_path / "tiny.yml", write_dataset(tmp_path / "data")), tmp_path / "out"
    run("train", "--config", config, "--save_dir", out, "--iters", "1")
    for protocol, message in (
        ("stitched", "there are the patterns {stem}_{y0}_{x0}, {stem}_{x0}_{y0}_{x1}_{y1}, {stem}_{y0}_{y1}_{x0}_{x1}"),
        ("isprs5", "eval.protocol isprs5 is for the datasets potsdam and vaihingen; the dataset is 'custom'. Choose"),
        ("sead", "'sead' is not one of 'benchmark', 'stitched', 'isprs5'"),
    ):
        output = run("eval", "--model_path", out / "iter_1", "--protocol", protocol, "--save_dir", out / "r", code=2)
        assert message in output and "Traceback" not in output
    again = ("--overwrite", "--do_eval", "--set", "eval.protocol=stitched")
    output = run("train", "--config", config, "--save_dir", out, "--iters", "1", *again, code=2)
    assert "there are the patterns" in output
    assert [path.name for path in out.iterdir() if path.name != "tensorboard"] == ["iter_1"], "nothing was overwritten"
