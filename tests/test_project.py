"""What surrounds the package: workflows, templates, versions, the citation and the page of public names."""

from __future__ import annotations

import datetime
import importlib.util
import re
import shutil
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import rsseg_tf

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def program(path: str) -> ModuleType:
    """Imports a program that is no module of a package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


# === Workflows and templates ===


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))["jobs"]
    return found


def commands(path: Path) -> list[str]:
    """The lines that a workflow runs."""
    steps = [step for job in jobs(path).values() for step in job["steps"]]
    return [line.strip() for step in steps for line in step.get("run", "").splitlines()]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_what_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.M))
    lines = commands(path)
    assert any(line.startswith("make ") for line in lines)
    for line in lines:
        if line.startswith("make "):
            assert line.split()[1] in targets, line
        if line.startswith("python ") and not line.startswith("python -m "):
            assert (ROOT / line.split()[1]).is_file(), line
    for job in jobs(path).values():
        needed = job.get("needs", [])
        assert {needed} <= jobs(path).keys() if isinstance(needed, str) else set(needed) <= jobs(path).keys()
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])
        assert all("@" in step["uses"] for step in job["steps"] if "uses" in step), "an action without a version"


def test_the_tests_run_on_every_python_and_on_both_bounds() -> None:
    matrix = jobs(ROOT / ".github/workflows/ci.yml")["test"]["strategy"]["matrix"]
    allowed = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', read("setup.py"))
    assert matrix["python"] == allowed
    assert matrix["bounds"] == ["newest"] and [entry["bounds"] for entry in matrix["include"]] == ["lowest"]


def test_a_release_is_built_from_a_tag_whose_version_was_checked() -> None:
    path = ROOT / ".github/workflows/release.yml"
    assert 'make version-check TAG="$GITHUB_REF_NAME"' in commands(path)
    assert yaml.safe_load(path.read_text("utf-8"))[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads "on" as true


@pytest.mark.parametrize("name", ["bug_report", "feature_request"])
def test_issue_forms_are_forms(name: str) -> None:
    form = yaml.safe_load(read(f".github/ISSUE_TEMPLATE/{name}.yml"))
    assert form["name"] and form["description"]
    for field in form["body"]:
        assert field["type"] in {"markdown", "textarea", "input", "dropdown", "checkboxes"}
        assert field["attributes"].get("value" if field["type"] == "markdown" else "label")
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(set(ids)) == len(ids) > 0


def test_phony_targets_of_make_are_there() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", read("Makefile"), re.M)
    assert set(phony.split()) <= set(re.findall(r"^([\w-]+):", read("Makefile"), re.M))


def test_coverage_has_a_floor_and_is_measured_by_ci() -> None:
    settings = tomllib.loads(read("pyproject.toml"))["tool"]["coverage"]
    assert settings["report"]["fail_under"] >= 85 and settings["run"]["branch"] and settings["run"]["patch"]
    (packages,) = re.findall(r"for package in ([\w ]+); do", read("Makefile"))
    assert all((ROOT / "rsseg_tf" / package).is_dir() for package in packages.split())
    assert "--fail-under=90" in read("Makefile")
    assert any(line.startswith("make coverage") for line in commands(ROOT / ".github/workflows/ci.yml"))


# === Versions ===


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what holds a version."""
    for name in ("rsseg_tf/__init__.py", "CHANGELOG.md", "CITATION.cff"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_version_is_the_same_everywhere() -> None:
    assert program("scripts/release.py").check(ROOT) == []


def test_a_release_writes_the_version_everywhere(project: Path) -> None:
    release = program("scripts/release.py")
    release.prepare(project, "97.1.0", datetime.date(2030, 5, 6))
    assert release.check(project, "v97.1.0") == []
    changelog = (project / "CHANGELOG.md").read_text("utf-8")
    assert changelog.index("## [Unreleased]\n\n## [97.1.0] – 2030-05-06\n") > 0
    citation = yaml.safe_load((project / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == "97.1.0" and citation["date-released"] == datetime.date(2030, 5, 6)
    release.prepare(project, "97.2.0rc1", datetime.date(2030, 6, 7))
    assert (project / "CITATION.cff").read_text("utf-8").count("date-released") == 1
    with pytest.raises(SystemExit, match="has a section for 97.1.0 already"):
        release.prepare(project, "97.1.0", datetime.date(2030, 7, 8))
    with pytest.raises(SystemExit, match=r"a version is X.Y.Z"):
        release.prepare(project, "v1", datetime.date(2030, 7, 8))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("rsseg_tf/__init__.py", f'"{rsseg_tf.__version__}"', '"98.0.0"', "CITATION.cff says version"),
        ("rsseg_tf/__init__.py", "__version__ = ", "__release__ = ", "must hold a line"),
        ("CITATION.cff", f"version: {rsseg_tf.__version__}", "version: 98.0.0", "CITATION.cff says version 98.0.0"),
        ("CHANGELOG.md", f"## [{rsseg_tf.__version__}]", "## [98.0.0]", "newest release in CHANGELOG.md is 98.0.0"),
        ("CHANGELOG.md", "## [Unreleased]", "## Soon", "must have a section"),
    ],
)
def test_a_version_that_does_not_fit_is_told(project: Path, name: str, old: str, new: str, message: str) -> None:
    text = (project / name).read_text("utf-8")
    assert old in text
    (project / name).write_text(text.replace(old, new), "utf-8")
    assert any(message in line for line in program("scripts/release.py").check(project))


def test_a_tag_of_another_version_is_told() -> None:
    (line,) = program("scripts/release.py").check(ROOT, "v98.0.0")
    assert line.startswith("the tag is v98.0.0")


def test_the_lowest_bounds_are_those_of_setup_py() -> None:
    bounds = program("scripts/lowest_bounds.py").lowest_bounds(read("setup.py"))
    assert bounds["tensorflow"] == "2.21" and bounds["numpy"] == "2.0" and bounds["pytest"] == "8.3"
    assert bounds.keys() == set(re.findall(r'"([\w.-]+)(?:\[[\w-]+\])?>=[\d.]+,<', read("setup.py")))


# === Citation and public names ===


def test_the_citation_has_what_the_format_requires() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert all({"name"} <= author.keys() or {"family-names"} <= author.keys() for author in citation["authors"])
    assert f'license="{citation["license"]}"' in read("setup.py")


def test_the_page_of_public_names_is_up_to_date() -> None:
    assert read("docs/api.md") == program("docs/make_api.py").page(), "run: make api"


def test_every_public_function_and_class_says_what_it_is() -> None:
    found = re.findall(r"^\| `((?:class \w+|\w+\(.*))` \|  \|$", read("docs/api.md"), re.M)
    assert found == []
