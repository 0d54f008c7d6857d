"""What the README says: figures are those of their pages, links lead somewhere, examples are those that run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import nbformat
import pytest

from rsseg_tf.build import build_model
from rsseg_tf.cli import main
from rsseg_tf.config import load_config
from tests.fixtures.documents import DOCUMENTS, ROOT, blocks_of

PAGE = ROOT / "README.md"
README = PAGE.read_text("utf-8")
RESULTS = re.findall(r"^\| ([^|]+) \| ([^|]+) \| \[\w+\]\(([^)#]+)#?([^)]*)\) \|$", README, re.M)


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def section(path: Path, anchor: str) -> str:
    """Returns a section of a page, or all of it."""
    text = path.read_text("utf-8")
    parts = re.split(r"^#+ (.+)$", text, flags=re.M)
    sections = {slug(heading): body for heading, body in zip(parts[1::2], parts[2::2], strict=True)}
    return sections[anchor] if anchor else text


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250
    first = README[: README.index("\n## ")]
    assert "](docs/pictures/" in first and "rsseg-tf quickstart" in first and "import rsseg_tf" in first
    assert len(RESULTS) >= 5


@pytest.mark.parametrize(("what", "told", "page", "anchor"), RESULTS, ids=[row[0][:30] for row in RESULTS])
def test_figures_are_those_of_their_page(what: str, told: str, page: str, anchor: str) -> None:
    source = section(ROOT / page, anchor)
    text = f"{what} {told}".replace("512x512", "").replace("40000 x", "")  # sizes of images
    for number in re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?%?", text):
        found = re.search(rf"(?<![\d.]){re.escape(number)}(?![\d]|\.\d)", source)
        assert found, f"{page}#{anchor} does not say {number}"


def test_the_commands_of_ones_own_scene_are_those_of_the_tutorial() -> None:
    def commands(page: Path) -> list[str]:
        found = [line for block in blocks_of(page) for line in block.lines() if "mine" in line]
        return [line.replace("landuse.geojson", "landuse.gpkg") for line in found if "check-data" not in line]

    ours = commands(PAGE)
    assert [shlex.split(line)[1] for line in ours] == ["prepare", "train", "eval", "predict"]
    assert ours == commands(ROOT / "docs" / "tutorial_scene.md")


def test_the_first_python_is_the_notebook_of_the_quickstart() -> None:
    (code, *_) = (block.text for block in blocks_of(PAGE) if block.kind == "python")
    lines = [line for line in code.splitlines() if line]
    assert len(lines) == 8
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / "quickstart.ipynb", as_version=4)
    cells = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code").replace("iters=STEPS, ", "")
    run = [line for line in lines if not re.match("print|image|labels", line)]
    assert all(line in cells for line in run)


def test_the_configuration_example_is_sound(tmp_path: Path) -> None:
    (text, *_) = (block.text for block in blocks_of(ROOT / "docs" / "configuration.md") if block.kind == "yaml")
    path = tmp_path / "example.yml"
    path.write_text(text.replace("../_base_", str(ROOT / "configs" / "_base_")), "utf-8")
    backbone = load_config(path).model.backbone
    assert backbone is not None and backbone.name == "resnet50_vd"


def test_a_model_of_ones_own_is_built_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "own_models.md"
    (block,) = (block for block in blocks_of(page) if block.title == "my_models.py")
    Path("my_models.py").write_text(block.text, "utf-8")
    setting, variable = re.findall(
        r"`(model: \{.*?\})`[^`]*`RSSEG_TF_PLUGINS=(.*?)`", page.read_text("utf-8"), re.DOTALL
    )[0]
    monkeypatch.setenv("RSSEG_TF_PLUGINS", variable)
    Path("mine.yml").write_text(f"base: fcn/fcn_hrnet_w18_dubai_256x256_cpu.yml\n{setting}\n", "utf-8")
    assert build_model(load_config("mine.yml")).output["main"].shape == (None, None, None, 5)


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
            assert anchor in {slug(heading) for heading in headings}, f"{document.name} links to {target}"


def test_the_readme_names_the_commands_that_exist() -> None:
    for name in main.list_commands(click.Context(main)):
        assert f"rsseg-tf {name}" in README


def test_make_targets_that_documents_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for document in DOCUMENTS:
        for target in re.findall(r"\bmake ([\w-]+)", "\n".join(re.findall(r"`+[^`]+`+", document.read_text("utf-8")))):
            assert re.search(rf"^{target}:", makefile, re.M), f"{document.name}: make {target}"
