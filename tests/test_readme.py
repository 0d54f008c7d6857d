"""What the README says: commands parse, configs load, links lead somewhere, the tour of one's own data runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import keras
import pytest
import rasterio
from click.testing import CliRunner

from rsseg_tf.build import build_model
from rsseg_tf.cli import main
from rsseg_tf.config import load_any_config, load_config
from tests.fixtures import own_scenes
from tests.fixtures.configs import use_tiny_backbone, write_dataset

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
YAML = [text for kind, text in BLOCKS if kind == "yaml"]
DOCUMENTS = [
    path
    for path in ROOT.rglob("*.md")
    if not any(
        part in {"quickstart", "build", "output", "data", "node_modules"} or part.startswith(".")
        for part in path.relative_to(ROOT).parts
    )
]


def commands_of(document: str) -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```$", document, re.M | re.S)
    lines = (line.partition(" > ")[0] for text in blocks for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line.startswith("rsseg-tf ")]


COMMANDS = commands_of(README)
ALL_COMMANDS = sorted({line for path in DOCUMENTS for line in commands_of(path.read_text("utf-8"))})


def test_the_readme_has_commands_and_configs() -> None:
    assert len(COMMANDS) >= 10 and len(YAML) == 2 and len(PYTHON) == 3


@pytest.mark.parametrize("line", ALL_COMMANDS)
def test_every_command_parses_and_its_config_exists(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fields.geojson").touch()  # an area of interest must exist
    name, *arguments = shlex.split(line)[1:]
    with click.Context(main, **{"token_normalize_func": main.context_settings["token_normalize_func"]}) as parent:
        command = main.get_command(parent, name)
        assert command is not None
        context = command.make_context(name, arguments, parent=parent)  # raises for a wrong option or value
        if isinstance(context.command, click.Group):  # whose subcommand the line names
            _, inner, arguments = context.command.resolve_command(context, arguments)
            assert inner is not None
            context = inner.make_context(inner.name, arguments, parent=context)
    config = context.params.get("config_path")
    if config and Path(config).name not in ("mine.yml", "pairs.yml"):  # which preparing writes
        load_any_config(config, context.params["overrides"])


def test_the_configuration_example_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "example.yml"
    path.write_text(YAML[1].replace("../_base_", str(ROOT / "configs" / "_base_")), "utf-8")
    backbone = load_config(path).model.backbone
    assert backbone is not None and backbone.name == "resnet50_vd"


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON[:2])
def test_examples_of_the_library_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\nassert " in code, "an example says itself what must come out"
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    keras.backend.clear_session()


def test_a_model_of_ones_own_is_built_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_models.py").write_text(PYTHON[2], "utf-8")
    setting, variable = re.findall(r"`(model: \{.*?\})`[^`]*`RSSEG_TF_PLUGINS=(.*?)`", README, re.DOTALL)[0]
    monkeypatch.setenv("RSSEG_TF_PLUGINS", variable)
    Path("mine.yml").write_text(f"base: fcn/fcn_hrnet_w18_dubai_256x256_cpu.yml\n{setting}\n", "utf-8")
    assert build_model(load_config("mine.yml")).output["main"].shape == (None, None, None, 5)


@pytest.mark.slow
def test_the_way_from_a_scene_to_a_map_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    monkeypatch.chdir(tmp_path)
    own_scenes.scene(tmp_path / "ortho.tif", (480, 640))
    polygons = own_scenes.houses(200, (480, 640))
    classes: dict[str, Any] = {"class": ["house", "road"] * 100}
    own_scenes.write_polygons(tmp_path / "landuse.gpkg", polygons, **classes)
    first = README.index("## From your scene to a map in QGIS")
    lines = commands_of(README[first : README.index("\n## ", first + 1)])
    assert [shlex.split(line)[1] for line in lines] == ["prepare", "train", "eval", "predict"]
    for line in lines:
        name, *arguments = shlex.split(line)[1:]
        if name == "train":
            arguments += ["--iters", "1", "--batch_size", "1", "--set", "augment.crop_size=[32, 32]"]
            arguments += ["model={name: fcn, backbone: {name: resnet18_vd}}"]
        result = CliRunner().invoke(main, [name, *arguments])
        assert result.exit_code == 0, result.output
    assert "Boundary IoU" in (tmp_path / "report.html").read_text("utf-8")
    with rasterio.open("result/geotiff_prediction/ortho.tif") as labels, rasterio.open("ortho.tif") as ortho:
        assert labels.transform == ortho.transform and labels.crs == ortho.crs
    assert (tmp_path / "result/vector_prediction/ortho.gpkg").is_file()


@pytest.mark.slow
def test_the_tour_of_ones_own_pairs_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    monkeypatch.chdir(tmp_path)
    pairs_folder = tmp_path / "data" / "pairs"
    write_dataset(pairs_folder)
    for folder, files in (("labels", pairs_folder.glob("*_label.png")), ("images", pairs_folder.glob("*.png"))):
        (pairs_folder / folder).mkdir()
        for file in list(files):
            file.rename(pairs_folder / folder / file.name)
    for split in ("train", "val"):
        pairs = (line.split() for line in (pairs_folder / f"{split}.txt").read_text("utf-8").splitlines())
        lines = "".join(f"images/{image} labels/{label}\n" for image, label in pairs)
        (pairs_folder / f"{split}.txt").write_text(lines, "utf-8")
    (tmp_path / "pairs.yml").write_text(YAML[0], "utf-8")
    for line in COMMANDS:
        if "pairs" not in line:
            continue
        name, *arguments = shlex.split(line)[1:]
        if name == "train":  # the same command on a network and for a time that a test can afford
            arguments += ["--iters", "1", "--batch_size", "1", "--set", "augment.crop_size=[32, 32]"]
            arguments += ["model.backbone={name: resnet18_vd}"]
        result = CliRunner().invoke(main, [name, *arguments])
        assert result.exit_code == 0, result.output
    assert (tmp_path / "output" / "pairs" / "best_model" / "eval.json").is_file()
    assert len(list((tmp_path / "output" / "pairs" / "result" / "added_prediction").iterdir())) == 8


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name) if name else document
        assert path.exists(), f"{document.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{document.name} links to {target}"


def test_the_readme_names_the_commands_that_exist() -> None:
    for name in main.list_commands(click.Context(main)):
        assert f"rsseg-tf {name}" in README


def test_make_targets_that_documents_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for document in DOCUMENTS:
        for target in re.findall(r"\bmake ([\w-]+)", "\n".join(re.findall(r"`+[^`]+`+", document.read_text("utf-8")))):
            assert re.search(rf"^{target}:", makefile, re.M), f"{document.name}: make {target}"
