"""The wheel, built from what git knows and used from an empty folder, as someone who installs it would."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import rsseg_tf

ROOT = Path(__file__).resolve().parents[1]
SHIPPED_CONFIG = "fcn/fcn_hrnet_w18_dubai_512x512_80k.yml"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout: there is no list of its files"),
]


def run(command: Sequence[str], folder: Path, **environment: str) -> str:
    """Runs a command without GPUs and network; its output goes into the message if it fails."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    apart = {"CUDA_VISIBLE_DEVICES": "", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    result = subprocess.run(
        command,
        cwd=folder,
        env=inherited | apart | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies the files that git knows, and so no build/ folder; the build leaves its own in the copy."""
    folder = tmp_path_factory.mktemp("wheel") / "source"
    for name in filter(None, run(["git", "ls-files", "-z"], ROOT).split("\0")):
        if (ROOT / name).is_file():  # one may have been removed and not yet committed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def packaged(source: Path) -> dict[str, bytes]:
    """What the copy holds before the build."""
    return {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def wheel(source: Path, packaged: dict[str, bytes]) -> Path:
    """Builds a wheel from the copy with the setuptools that is installed."""
    options = ["--no-deps", "--no-build-isolation", "--no-cache-dir", "--wheel-dir", str(source.parent)]
    run([sys.executable, "-m", "pip", "wheel", ".", *options], source)
    (built,) = source.parent.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installs the wheel, without what it requires, into an empty folder."""
    target = tmp_path_factory.mktemp("installed")
    run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--target", str(target), str(wheel)],
        target.parent,
    )
    return target


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_string(archive.read(name).decode())


def within(files: dict[str, bytes], folder: str) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.startswith(f"{folder}/")}


# === What is in it ===


@pytest.mark.parametrize("folder", ["configs", "export", "serving"])
def test_the_shipped_folders_are_in_the_wheel_unchanged(wheel: Path, packaged: dict[str, bytes], folder: str) -> None:
    prefix = "rsseg_tf/_assets/"
    with zipfile.ZipFile(wheel) as archive:
        packed = {
            name.removeprefix(prefix): archive.read(name)
            for name in archive.namelist()
            if name.startswith(f"{prefix}{folder}/") and not name.endswith("/")
        }
    assert packed == within(packaged, folder)
    assert packed or folder != "configs"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path, packaged: dict[str, bytes]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    others = {name.split("/")[0] for name in names} - {"rsseg_tf"}
    assert others == {f"rsseg_tf-{rsseg_tf.__version__}.dist-info"}
    modules = {name for name in names if name.startswith("rsseg_tf/") and not name.startswith("rsseg_tf/_assets/")}
    assert modules == set(within(packaged, "rsseg_tf"))
    assert "rsseg_tf/py.typed" in modules


def test_an_index_takes_the_wheel(wheel: Path) -> None:
    told = run([sys.executable, "-m", "twine", "check", "--strict", str(wheel)], wheel.parent)
    assert "PASSED" in told and "warning" not in told.lower()


def test_an_image_builds_the_same_wheel_from_what_docker_is_given(
    source: Path, packaged: dict[str, bytes], wheel: Path, tmp_path: Path
) -> None:
    """`.dockerignore` leaves out all but what the wheel needs; `source` itself holds what a build left."""
    lines = packaged[".dockerignore"].decode().splitlines()
    kept = tuple(line[1:] for line in lines if line.startswith("!"))
    assert "*" in lines and kept
    for name, content in packaged.items():
        if name.split("/")[0] in kept:
            (tmp_path / "context" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "context" / name).write_bytes(content)
    options = ["--no-deps", "--no-build-isolation", "--no-cache-dir", "--wheel-dir", str(tmp_path)]
    run([sys.executable, "-m", "pip", "wheel", ".", *options], tmp_path / "context")
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(built) as other:
        assert {info.filename: info.CRC for info in one.infolist()} == {
            info.filename: info.CRC for info in other.infolist()
        }


def test_the_command_is_declared(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        assert re.search(r"^rsseg-tf = rsseg_tf\.cli:main$", archive.read(name).decode(), re.M)
    from rsseg_tf.cli import main

    assert callable(main)


def test_the_wheel_can_be_built_from_the_source_archive(
    source: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Who installs from the archive gets the same files as who installs from a checkout."""
    folder = tmp_path_factory.mktemp("archive")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), "."], source)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(built) as other:
        assert set(one.namelist()) == set(other.namelist())
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    assert {"tests/conftest.py", "docs/api.md", "benchmarks/README.md", "CITATION.cff", "Makefile"} <= names
    assert {"mkdocs.yml", "docker/cpu.Dockerfile", ".github/workflows/ci.yml", ".ci/run"} <= names


# === What it says of itself ===


def test_the_pythons_named_are_those_allowed(metadata: Message) -> None:
    prefix = "Programming Language :: Python :: "
    classifiers = [value.removeprefix(prefix) for value in metadata.get_all("Classifier") or []]
    assert [value for value in classifiers if re.fullmatch(r"\d\.\d+", value)] == ["3.11", "3.12", "3.13"]
    specifiers = Requirement(f"python{metadata['Requires-Python']}").specifier
    assert [minor for minor in range(8, 20) if specifiers.contains(f"3.{minor}.1")] == [11, 12, 13]


def test_every_requirement_has_a_lower_and_an_upper_bound(metadata: Message) -> None:
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist") or []]
    assert {"tensorflow", "keras", "pytest"} <= {requirement.name for requirement in requirements}
    for requirement in requirements:
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators & {">=", ">", "==", "~="}, f"{requirement} has no lower bound"
        assert operators & {"<=", "<", "==", "~="}, f"{requirement} has no upper bound"


def test_one_name_has_one_range_in_all_extras(metadata: Message) -> None:
    ranges: dict[str, set[str]] = {}
    for text in metadata.get_all("Requires-Dist") or []:
        requirement = Requirement(text)
        ranges.setdefault(requirement.name.lower(), set()).add(str(requirement.specifier))
    assert not {name: found for name, found in ranges.items() if len(found) > 1}


def test_the_version_is_the_newest_one_of_the_changelog(metadata: Message, packaged: dict[str, bytes]) -> None:
    assert metadata["Version"] == rsseg_tf.__version__
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+[^\]\s]*)", packaged["CHANGELOG.md"].decode(), re.M)
    assert versions[0] == rsseg_tf.__version__


def test_the_readme_is_the_description(metadata: Message, packaged: dict[str, bytes]) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    if "repository-code" not in packaged["CITATION.cff"].decode():
        assert metadata.get_payload() == packaged["README.md"].decode()


def test_the_metadata_say_who_what_and_under_which_licence(metadata: Message) -> None:
    assert metadata["Author"] and metadata["Summary"] and metadata["License-Expression"] == "Apache-2.0"
    assert {"remote sensing", "semantic segmentation", "tensorflow"} <= set(metadata["Keywords"].split(","))


def test_the_address_comes_from_the_citation_and_leads_links_home(
    packaged: dict[str, bytes], tmp_path: Path, metadata: Message
) -> None:
    """An index shows the README where relative links lead nowhere; without an address there are no URLs."""
    if b"repository-code" not in packaged["CITATION.cff"]:
        assert metadata.get_all("Project-URL") is None
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "rsseg_tf/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(packaged[name])
    readme = (
        "[docs](docs/a.md) ![map](docs/a.jpg) [up](#top) [out](https://example.com) ![x](https://example.com/x.png)"
    )
    (tmp_path / "README.md").write_text(readme, "utf-8")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/release.py").write_bytes(packaged["scripts/release.py"])
    home = "https://example.org/remote/seg"
    run([sys.executable, "scripts/release.py", "address", home], tmp_path)
    run([sys.executable, "setup.py", "--quiet", "egg_info"], tmp_path)
    (found,) = tmp_path.glob("*.egg-info/PKG-INFO")
    told = email.message_from_string(found.read_text("utf-8"))
    urls = dict(line.split(", ") for line in told.get_all("Project-URL") or [])
    version = f"v{rsseg_tf.__version__}"
    assert urls == {
        "Source": home,
        "Documentation": f"{home}/tree/{version}/docs",
        "Changelog": f"{home}/blob/{version}/CHANGELOG.md",
        "Issues": f"{home}/issues",
        "Security": f"{home}/security",
    }
    assert str(told.get_payload()).strip() == (
        f"[docs]({home}/blob/{version}/docs/a.md) ![map]({home}/raw/{version}/docs/a.jpg) [up](#top) "
        "[out](https://example.com) ![x](https://example.com/x.png)"
    )
    (tmp_path / "README.md").write_bytes(packaged["README.md"])
    run([sys.executable, "setup.py", "--quiet", "egg_info"], tmp_path)
    shown = email.message_from_string(found.read_text("utf-8")).get_payload()
    assert f"]({home}/blob/{version}/" in str(shown)
    assert not re.findall(r"\]\((?![a-z]+:|#)[^)]*\)", str(shown))


# === It works from anywhere ===


def test_an_installed_package_says_how_its_extras_are_installed(installed: Path, tmp_path: Path) -> None:
    code = "from rsseg_tf.extras import install_command as c; print(c('tflite'), c('gpu'), sep='\\n')"
    told = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(installed)).splitlines()
    commands = [[Requirement(one) for one in re.findall(r'"(.*?)"', line)] for line in told]
    assert commands == [[Requirement("ai-edge-litert>=2.3,<3")], [Requirement("tensorflow[and-cuda]>=2.21,<2.22")]]


def test_an_installed_package_finds_its_configs(installed: Path, packaged: dict[str, bytes], tmp_path: Path) -> None:
    cli = [sys.executable, "-m", "rsseg_tf.cli", "config"]
    place = [sys.executable, "-c", "import rsseg_tf; print(rsseg_tf.__file__)"]
    where = run(place, tmp_path, PYTHONPATH=str(installed))
    assert Path(where.strip()).is_relative_to(installed), "another installation was tested"

    listed = run([*cli, "list"], tmp_path, PYTHONPATH=str(installed)).split()
    shipped = [name.removeprefix("configs/") for name in within(packaged, "configs") if name.endswith(".yml")]
    assert listed == sorted(name for name in shipped if not name.startswith("_base_/"))

    shown = run([*cli, "show", SHIPPED_CONFIG], tmp_path, PYTHONPATH=str(installed))
    assert re.search(r"^  name: fcn$", shown, re.M)
    assert "hrnet_w18" in shown
