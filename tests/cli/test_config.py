from __future__ import annotations

from pathlib import Path

import yaml
from click.testing import CliRunner, Result

from rsseg_tf.assets import shipped_configs
from rsseg_tf.cli import main


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["config", *arguments])


def test_list_and_check_all_shipped_configs() -> None:
    listed = run("list").output.splitlines()
    assert listed == shipped_configs() and len(listed) >= 5
    result = run("check", *listed)
    assert result.exit_code == 0
    assert result.output.splitlines() == [f"{name}: ok" for name in listed]


def test_show_prints_the_resolved_config() -> None:
    result = run("show", "fcn/fcn_hrnet_w18_dubai_256x256_cpu.yml", "--set", "train.iters=9", "train.seed=5")
    assert result.exit_code == 0
    values = yaml.safe_load(result.output)
    assert values["train"]["iters"] == 9 and values["train"]["seed"] == 5
    assert values["augment"]["crop_size"] == [256, 256]
    assert values["augment"]["hue_range"] == 0 and values["augment"]["flip_horizontal"] == 0.5
    assert values["model"]["backbone"]["name"] == "hrnet_w18"


def test_check_reports_every_wrong_file_and_exits_with_2(tmp_path: Path) -> None:
    for name, text in (("a.yml", "modle: {}\n"), ("b.yml", "train: {iters: 1, iters: 2}\n")):
        (tmp_path / name).write_text(text, "utf-8")
    result = run("check", str(tmp_path / "a.yml"), "fcn/fcn_hrnet_w18_dubai_512x512_80k.yml", str(tmp_path / "b.yml"))
    assert result.exit_code == 2
    assert "fcn_hrnet_w18_dubai_512x512_80k.yml: ok" in result.output
    assert "unknown key 'modle'. Did you mean 'model'?" in result.output
    assert "b.yml:1: the key 'iters' was already written on line 1" in result.output
    assert "Traceback" not in result.output
