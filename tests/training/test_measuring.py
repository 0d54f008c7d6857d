from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from rsseg_tf.cli.main import main
from rsseg_tf.config import Config, load_config
from rsseg_tf.errors import DataError
from rsseg_tf.training.measuring import Rate, TrainingSpeed, measure_training, verdict
from tests.fixtures.configs import samples, tiny_config, use_tiny_backbone, write_config


def rate(per_s: float, cpu_ms: float = 10.0) -> Rate:
    return Rate(per_s, cpu_ms, 100)


SPEED = TrainingSpeed(
    device="CPU", cores=4, batch_size=8, train_samples=5000, val_images=100, decoded_mb=5000.0, cache_mb=1024,
    workers=None, iters=80000, save_interval=1000, disk=rate(100), memory=rate(300), step=rate(20), training=rate(19),
    waiting=0.01, evaluation=rate(30), evaluation_mpx_per_s=7.9, free_mb=30000.0, host_mb=4000.0, gpu_mb=(),
)  # fmt: skip


def speed(**changed: object) -> TrainingSpeed:
    return dataclasses.replace(SPEED, **changed)  # type: ignore[arg-type]


@pytest.fixture
def config() -> Config:
    return shipped()


def shipped(*overrides: str) -> Config:
    return load_config(Path(__file__).parents[2] / "configs/fcn/fcn_hrnet_w18_dubai_512x512_80k.yml", overrides)


# === What holds training up, by figures ===


def test_a_slow_step_is_told_with_what_makes_steps_faster(config: Config) -> None:
    judged = verdict(SPEED, config)
    assert judged.part == "step" and judged.remedies[0] == "a GPU"
    assert judged.why == (
        "The pipeline alone gives 100.0 samples/s, the step alone takes 20.0; training waits for data 1 % of the time."
    )
    on_gpu = verdict(speed(gpu_mb=(9000.0,)), config)
    assert "train.precision=bf16" in on_gpu.remedies[0] and "9000 MiB" in on_gpu.remedies[1]
    assert "bf16" not in str(verdict(speed(gpu_mb=(9000.0,)), shipped("train.precision=bf16")).remedies)


SLOW = {"step": rate(400), "training": rate(95), "waiting": 0.75}


def test_a_pipeline_that_reads_files_is_told_to_keep_them_in_memory(config: Config) -> None:
    judged = verdict(speed(**SLOW), config)
    assert judged.part == "pipeline" and "waits for data 75 %" in judged.why
    assert judged.remedies[0].startswith("data.cache_mb=5250 keeps all decoded samples in memory: 300.0 samples/s")
    assert "cache_mb" not in str(verdict(speed(**SLOW, free_mb=6000.0), config).remedies), "it would not fit"
    cached = verdict(speed(**SLOW, cache_mb=6000, memory=rate(95)), config)
    assert cached.part == "pipeline" and "cache_mb" not in str(cached.remedies)


def test_a_pipeline_that_leaves_processors_idle_is_told_to_use_more_workers(config: Config) -> None:
    assert any(
        remedy.startswith("data.workers=8: the pipeline alone keeps 1.0 of 4 cores busy")
        for remedy in verdict(speed(**SLOW), config).remedies
    )
    assert "data.workers=32" in str(verdict(speed(**SLOW, workers=16), config).remedies)
    busy = verdict(speed(**SLOW, disk=rate(100, cpu_ms=39)), config).remedies
    assert "data.workers" not in str(busy) and "less work for each sample (39 ms" in busy[-1]


def test_a_short_wait_of_a_slow_pipeline_is_told_too(config: Config) -> None:
    assert verdict(speed(disk=rate(19.5), waiting=0.02), config).part == "pipeline"
    assert verdict(speed(waiting=0.15), config).part == "pipeline"


def test_an_evaluation_that_takes_longer_than_the_steps_between_is_told(config: Config) -> None:
    # 1000 steps of 8 samples at 19/s are 421 s.
    assert verdict(speed(val_images=12000), config).part == "step"
    judged = verdict(speed(val_images=15000), config)
    assert (
        judged.part == "evaluation" and "takes 500 s, and the 1000 steps between two of them take 421 s" in judged.why
    )
    assert "train.save_interval above 1000" in judged.remedies[0]
    assert "eval.stride" in str(
        verdict(
            speed(val_images=15000),
            shipped("eval.is_slide=true", "eval.crop_size=[512, 512]", "eval.stride=[256, 256]"),
        ).remedies
    )
    assert SPEED.hours == pytest.approx((80000 * 8 / 19 + 80 * 100 / 30) / 3600)
    assert speed(evaluation=None).evaluation_s == 0


# === The measurement ===


def test_the_command_measures_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    tiny_config(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    arguments = ["benchmark", "train", "--config", str(tmp_path / "tiny.yml"), "--seconds", "0.5", "--batch_size", "2"]
    done = CliRunner().invoke(main, [*arguments, "--json", str(tmp_path / "speed.json")])
    assert done.exit_code == 0, done.output
    for text in ("pipeline, from disk", "from memory", "step", "training: both", "evaluation (", "holds training up"):
        assert text in done.output
    found = json.loads((tmp_path / "speed.json").read_text())
    assert set(found) == {field.name for field in dataclasses.fields(TrainingSpeed)} | {
        "hours", "evaluation_s", "interval_s", "verdict",
    }  # fmt: skip
    assert (found["batch_size"], found["train_samples"], found["val_images"]) == (2, 6, 2)
    for part in ("disk", "memory", "step", "training", "evaluation"):
        assert found[part]["per_s"] > 0 and found[part]["cpu_ms"] > 0 and found[part]["count"] > 0, part
    assert found["decoded_mb"] == pytest.approx(6 * 40 * 40 * 4 / 2**20)
    assert 0 <= found["waiting"] <= 1 and found["host_mb"] > 100 and found["gpu_mb"] == []
    assert found["verdict"]["part"] in ("pipeline", "step", "evaluation") and found["verdict"]["remedies"]
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "speed.json"]), "nothing else is written"


def test_a_damaged_sample_is_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    config = tiny_config(tmp_path)
    train = samples(config, "train")
    for sample in list(train)[1:]:
        sample.image.write_bytes(b"x")
    with pytest.raises(DataError, match=r"train_\d\.png"):
        measure_training(config, train, seconds=0.1)


def test_a_config_without_its_dataset_is_told_so(tmp_path: Path) -> None:
    write_config(tmp_path / "tiny.yml", tmp_path / "nowhere")
    done = CliRunner().invoke(main, ["benchmark", "train", "--config", str(tmp_path / "tiny.yml")])
    assert done.exit_code == 2 and "nowhere/train.txt" in done.output and len(done.output.splitlines()) == 1


def test_exports_are_timed_by_the_command_without_a_name(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["benchmark", "--runs", "3", str(tmp_path / "nowhere")])
    assert done.exit_code == 2 and "nowhere" in done.output
    texts = CliRunner().invoke(main, ["benchmark", "--help"]).output
    assert "benchmark [OPTIONS] DIR" in texts and "benchmark train [OPTIONS]" in texts and "--runs" in texts
    assert "--seconds" in CliRunner().invoke(main, ["benchmark", "train", "--help"]).output
