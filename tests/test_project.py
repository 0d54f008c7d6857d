"""What surrounds the package: workflows, templates, versions, the citation and the page of public names."""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml

import rsseg_tf
from rsseg_tf.cli import main
from rsseg_tf.cli.commands import WithDefault

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
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


def test_ci_builds_the_site_and_the_image_and_looks_over_the_dockerfiles() -> None:
    path = ROOT / ".github/workflows/ci.yml"
    assert {"make check", "make version-check", "make docs", "make docker-lint", "make dist"} <= set(commands(path))
    assert "docker build -f docker/cpu.Dockerfile -t rsseg-tf ." in commands(path)
    for workflow in WORKFLOWS:
        for step in (step for job in jobs(workflow).values() for step in job["steps"]):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"] == {"persist-credentials": False}


def test_a_release_is_built_from_a_tag_whose_version_was_checked() -> None:
    path = ROOT / ".github/workflows/release.yml"
    assert 'make version-check TAG="$GITHUB_REF_NAME"' in commands(path)
    assert yaml.safe_load(path.read_text("utf-8"))[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads "on" as true
    steps = commands(path)
    assert steps.index('python scripts/release.py address "$GITHUB_SERVER_URL/$GITHUB_REPOSITORY"') < steps.index(
        "make dist"
    )
    assert "twine check --strict dist/*" in read("Makefile").partition("\ndist:")[2].partition("\n\n")[0]


def command_called(name: str) -> click.Command:
    command = main.get_command(click.Context(main), name)
    assert command is not None, name
    return command


def test_templates_are_all_tried() -> None:
    names = {path.stem for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")}
    assert names == {"bug_report", "feature_request", "question", "config"}
    for command in re.findall(r"`rsseg-tf ([a-z]+(?: [a-z]+)?)", "".join(map(read, TEMPLATES))):
        group = command_called(command.split()[0])
        assert not isinstance(group, click.Group) or command.split()[1] in group.commands


@pytest.mark.parametrize("name", ["bug_report", "feature_request", "question"])
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
    changelog = read("CHANGELOG.md")
    if "\n- " not in changelog.partition("## [Unreleased]")[2].partition("\n## ")[0]:  # a release was made a moment ago
        changelog = changelog.replace("## [Unreleased]\n", "## [Unreleased]\n\n- An entry.\n")
        (tmp_path / "CHANGELOG.md").write_text(changelog, "utf-8")
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
    with pytest.raises(SystemExit, match="has no entry under"):
        release.prepare(project, "97.2.0rc1", datetime.date(2030, 6, 7))
    (project / "CHANGELOG.md").write_text(changelog.replace("[Unreleased]\n", "[Unreleased]\n\n- More.\n"), "utf-8")
    release.prepare(project, "97.2.0rc1", datetime.date(2030, 6, 7))
    assert release.notes(project, "97.2.0rc1") == "- More.\n"
    assert (project / "CITATION.cff").read_text("utf-8").count("date-released") == 1
    with pytest.raises(SystemExit, match="has a section for 97.1.0 already"):
        release.prepare(project, "97.1.0", datetime.date(2030, 7, 8))
    for lower in ("97.2.0b9", "97.1.9", "9.9.9"):
        with pytest.raises(SystemExit, match="must be above 97.2.0rc1"):
            release.prepare(project, lower, datetime.date(2030, 7, 8))
    with pytest.raises(SystemExit, match="has no section for 98.0.0"):
        release.notes(project, "98.0.0")
    with pytest.raises(SystemExit, match=r"a version is X.Y.Z"):
        release.prepare(project, "v1", datetime.date(2030, 7, 8))


def test_the_present_tree_can_be_released_by_the_program_itself(project: Path) -> None:
    """As a person does it: the next version, from the changelog as it is."""
    (project / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/release.py", project / "scripts")
    major, minor, _ = rsseg_tf.__version__.split(".")
    version = f"{major}.{int(minor) + 1}.0"

    def run(*arguments: str) -> str:
        command = [sys.executable, "scripts/release.py", *arguments]
        return subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout

    before = (project / "CHANGELOG.md").read_text("utf-8")
    assert f"push the tag v{version}" in run("prepare", version)
    assert run("check", f"v{version}") == "The versions agree.\n"
    after = (project / "CHANGELOG.md").read_text("utf-8")
    heading = f"\n## [{version}] – {datetime.date.today():%Y-%m-%d}\n"
    assert after.replace(heading, "", 1) == before
    assert run("notes", version).strip() == after.partition(heading)[2].partition("\n## ")[0].strip() != ""


def test_the_address_stands_in_one_place(project: Path) -> None:
    release = program("scripts/release.py")
    for url in ("https://example.org/remote/sensing.git", "https://example.org/remote/seg/"):
        release.set_address(project, url)
    citation = (project / "CITATION.cff").read_text("utf-8")
    assert yaml.safe_load(citation)["repository-code"] == "https://example.org/remote/seg"
    assert citation.count("repository-code") == 1 and release.check(project) == []
    for url in ("http://example.org/a/b", "example.org/a/b", "https://example.org", "git@example.org:a/b"):
        with pytest.raises(SystemExit, match="the address of a repository"):
            release.set_address(project, url)


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
    assert bounds.keys() == set(re.findall(r'["\']([\w.-]+)(?:\[[\w-]+\])?>=[\d.]+,<', read("setup.py")))


# === Images ===

DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def instructions(path: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile and what follows them, lines joined."""
    text = re.sub(r"^#.*\n", "", path.read_text("utf-8"), flags=re.M).replace("\\\n", " ")
    found = (line.split(None, 1) for line in text.splitlines() if line.strip())
    return [(name, " ".join(rest.split())) for name, rest in found]


def test_there_is_an_image_for_processors_and_one_for_gpus() -> None:
    assert [path.stem for path in DOCKERFILES] == ["cpu", "gpu"]


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path: Path) -> None:
    assert HADOLINT is not None
    command = [HADOLINT, "--config", str(ROOT / ".hadolint.yaml"), str(path)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0 and not found.stdout, found.stdout + found.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_needs_no_root_and_runs_the_command(path: Path) -> None:
    steps = instructions(path)
    bases = [rest for name, rest in steps if name == "FROM"]
    assert bases == ["python:${PYTHON} AS wheel", "python:${PYTHON}"]
    (python,) = (rest.removeprefix("PYTHON=") for name, rest in steps if name == "ARG" and rest.startswith("PYTHON="))
    assert f'"Programming Language :: Python :: {python.partition("-")[0]}"' in read("setup.py")
    last = dict(steps)  # an instruction that comes again counts
    assert json.loads(last["ENTRYPOINT"]) == ["rsseg-tf"] and json.loads(last["CMD"]) == ["--help"]
    user, _, group = last["USER"].partition(":")
    assert 0 < int(user) == int(group) and [name for name, _ in steps].index("USER") > len(steps) - 6
    for name, rest in steps:
        assert name != "ADD" and "sudo" not in rest and "curl" not in rest
        if "pip install" in rest:
            assert "--no-cache-dir" in rest
        if "apt-get install" in rest:
            assert "--no-install-recommends" in rest and "rm -rf /var/lib/apt/lists/*" in rest


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_installs_extras_that_there_are(path: Path) -> None:
    (extras,) = (rest.removeprefix("EXTRAS=") for _, rest in instructions(path) if rest.startswith("EXTRAS="))
    assert ("gpu" in extras.split(",")) == (path.stem == "gpu")
    for extra in extras.split(","):
        assert re.search(rf'^    "{extra}": \[', read("setup.py"), re.M), extra


@pytest.mark.parametrize("path", [*DOCKERFILES, ROOT / "docker/README.md"], ids=lambda path: path.stem)
def test_what_is_run_in_a_container_has_options_that_there_are(path: Path) -> None:
    lines = re.findall(r"^(?:# +)?docker run .* rsseg-tf(?::gpu)? (\w.*)$", path.read_text("utf-8"), re.M)
    assert lines
    for line in lines:
        command = command_called(line.split()[0])
        if isinstance(command, WithDefault):
            command = command.commands[command.default]
        known = {option.replace("_", "-") for parameter in command.params for option in parameter.opts}
        assert {word.replace("_", "-") for word in line.split() if word.startswith("--")} <= known, line


# === Citation and public names ===


def test_the_citation_has_what_the_format_requires() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert all({"name"} <= author.keys() or {"family-names"} <= author.keys() for author in citation["authors"])
    assert f'license_expression="{citation["license"]}"' in read("setup.py")


def test_the_page_of_public_names_is_up_to_date() -> None:
    assert read("docs/api.md") == program("docs/make_api.py").page(), "run: make api"


def test_every_public_function_and_class_says_what_it_is() -> None:
    found = re.findall(r"^\| `((?:class \w+|\w+\(.*))` \|  \|$", read("docs/api.md"), re.M)
    assert found == []
