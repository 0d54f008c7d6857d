from __future__ import annotations

import json
from pathlib import Path

import pytest
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


def test_a_table_of_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("list", "--table").output.splitlines()
    assert max(map(len, lines)) <= 80
    rows = {words[0]: words[1:] for line in lines if "/" in line and (words := line.split())}
    assert sorted(f"{name}.yml" for name in rows) == shipped_configs()
    assert rows["fcn/fcn_hrnet_w18_isaid_512x512_80k"] == ["9.6", "64.7", "GPU"]
    assert rows["unet/unet_efficientnet_lite0_dubai_256x256_cpu"][1:] == ["55.8*", "CPU"]
    headings = [line.split("  ")[0] for line in lines if line.endswith(" for")]
    assert headings == sorted(headings) and {"isaid", "potsdam", "dubai", "dota, pre-training"} <= set(headings)
    assert lines[-1].startswith("* measured here")


def test_what_is_known_as_json() -> None:
    rows = {row["name"]: row for row in json.loads(run("list", "--json").output)}
    assert sorted(rows) == shipped_configs()
    assert rows["upernet/upernet_resnet50_potsdam_512x512_80k.yml"] == {
        "name": "upernet/upernet_resnet50_potsdam_512x512_80k.yml", "task": "train", "dataset": "potsdam",
        "model": "upernet", "backbone": "resnet50", "parameters": 82916946, "miou": 77.59,
        "miou_source": "published", "trains_on": "gpu",
    }  # fmt: skip
    assert rows["ssl/pretrain/swav_resnet50_dota.yml"]["model"] == "swav"
    assert rows["ssl/pretrain/swav_resnet50_dota.yml"]["task"] == "pretrain"
    on_cpu = {name for name, row in rows.items() if row["trains_on"] == "cpu"}
    assert on_cpu == {name for name in rows if name.endswith(("_cpu.yml", "_quick.yml"))}
    assert all(row["parameters"] > 100_000 for row in rows.values())


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("unet", "dubai", "--device", "cpu"), ["unet/unet_efficientnet_lite0_dubai_256x256_cpu.yml"]),
        (("--dataset", "loveda", "--names", "Segformer"), ["segformer/segformer_mit_b0_loveda_512x512_80k.yml"]),
        (("swav", "--dataset", "dota", "million_aid"),
         ["ssl/pretrain/swav_resnet50_dota.yml", "ssl/pretrain/swav_resnet50_million_aid.yml"]),
    ],
)  # fmt: skip
def test_filters(arguments: tuple[str, ...], names: list[str]) -> None:
    assert run("list", *arguments).output.splitlines() == names
    rows = json.loads(run("list", *arguments, "--json").output)
    assert [row["name"] for row in rows] == names


def test_names_without_their_ending() -> None:
    name = "fcn/fcn_hrnet_w18_dubai_256x256_cpu"
    assert run("show", name).output == run("show", f"{name}.yml").output


def test_filters_that_find_nothing() -> None:
    result = run("list", "--dataset", "isiad")
    assert result.exit_code == 2 and "--dataset isiad: no shipped config has it. Did you mean 'isaid'?" in result.output
    result = run("list", "unet", "million", "--device", "cpu")
    assert result.exit_code == 2 and "No shipped config fits unet million --device cpu;" in result.output


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
