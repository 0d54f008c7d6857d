"""Two processes evaluate one model: as one process does, and with one end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rsseg_tf.cli.main import main
from rsseg_tf.evaluate.evaluation import plan_evaluation
from rsseg_tf.export import load_trained
from rsseg_tf.library.evaluating import weights_digest
from rsseg_tf.predict import InferenceOptions
from tests.fixtures.checkpoints import write_checkpoint
from tests.fixtures.configs import samples, use_tiny_backbone, write_dataset
from tests.fixtures.workers import Pair


@pytest.mark.slow
def test_two_workers_count_as_one_and_notice_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    write_dataset(tmp_path / "data", val=5)
    checkpoint, config = write_checkpoint(tmp_path)
    command = ["eval", "--model_path", str(checkpoint), "--batch_size", "2", "--save_dir"]
    with Pair(tmp_path, *command, str(tmp_path / "two"), name="two") as pair:
        assert pair.wait_for_both() == [0, 0], pair.said(0) + pair.said(1)
        assert pair.said(1) == "", "one worker alone prints"
        assert pair.said(0).count("[EVAL] #Images: 5 ") == 1
    report = json.loads((tmp_path / "two" / "eval.json").read_text("utf-8"))
    evaluation = plan_evaluation(config, samples(config, "val"))
    scores = evaluation.run(load_trained(checkpoint, config).predict, InferenceOptions.of(config))
    assert report.items() >= json.loads(json.dumps(scores.to_json())).items()
    assert report["images"] == 5 and np.sum(scores.confusion) + scores.ignored_pixels == 5 * 40 * 40

    # The chief times engines while the other one waits.
    with Pair(tmp_path, *command, str(tmp_path / "killed"), "--engine", "auto", name="killed") as pair:
        pair.wait_for("Engine: keras")
        pair.processes[1].kill()
        assert pair.wait(0, timeout_s=60) == 2
        error = pair.said(0).splitlines()[-1]
        assert error.startswith("Error: Worker 1 of this run has ended or cannot be reached, so this one ends too")
        assert "Traceback" not in pair.said(0) and not (tmp_path / "killed" / "eval.json").exists()


@pytest.mark.parametrize("option", [["--calibrate"], ["--report", "page.html"]])
def test_what_needs_all_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: list[str]) -> None:
    checkpoint, _ = write_checkpoint(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 0}}')
    result = CliRunner().invoke(main, ["eval", "--model_path", str(checkpoint), *option])
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert f"Error: {option[0]} looks at all images in one process, and here 2 workers share them" in result.stderr


def test_models_with_other_weights_are_told_apart(tmp_path: Path) -> None:
    one, other = (write_checkpoint(tmp_path / name)[0] for name in ("one", "other"))
    assert weights_digest(one) == weights_digest(other) != 0
    (other / "eval.json").write_text("{}", "utf-8")
    assert weights_digest(one) == weights_digest(other) != weights_digest(other / "config.yml")
    (other / "weights.npz").write_bytes(b"others")
    assert weights_digest(one) != weights_digest(other)
