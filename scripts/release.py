"""Keeps the version and the project's address in one place each, and everything that repeats them in step.

    python scripts/release.py check [vX.Y.Z]    # the changelog and CITATION.cff agree with the package, and the tag
    python scripts/release.py prepare X.Y.Z     # writes the version and today's date into all of them
    python scripts/release.py address URL       # writes where the project lives, which the package's metadata repeat
    python scripts/release.py notes X.Y.Z       # prints what the changelog says about a release

The version is that of `rsseg_tf/__init__.py`. Between two releases it is the last one that was made, and the changelog
collects what has come since under "Unreleased".
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, CHANGELOG, CITATION = Path("rsseg_tf/__init__.py"), Path("CHANGELOG.md"), Path("CITATION.cff")
UNRELEASED = "## [Unreleased]\n"
_FORM = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:(a|b|rc)(\d+))?")
_VERSION = re.compile(r'^__version__ = "(.+)"$', re.M)
_HEADING = re.compile(r"^## \[(\d\S*)\] – (\d{4}-\d\d-\d\d)$", re.M)
_CITED = re.compile(r"^version: (.+)$", re.M)
_CITED_DATE = re.compile(r"^date-released: (.+)\n", re.M)
_ADDRESS = re.compile(r'^repository-code: "(.+)"\n', re.M)


def read(root: Path, name: Path) -> str:
    """Returns the text of a file of the project."""
    return (root / name).read_text("utf-8")


def check(root: Path, tag: str | None = None) -> list[str]:
    """Returns what does not fit together, a line each.

    Args:
        root: Folder of the project.
        tag: Name of the tag to release, if there is one: then the changelog must have its section.
    """
    found = _VERSION.search(read(root, PACKAGE))
    if found is None:
        return [f'{PACKAGE} must hold a line __version__ = "X.Y.Z"']
    version, wrong = found[1], []
    changelog, cited = read(root, CHANGELOG), _CITED.search(read(root, CITATION))
    heading = _HEADING.search(changelog)
    if UNRELEASED not in changelog:
        wrong.append(f"{CHANGELOG} must have a section '{UNRELEASED.strip()}'")
    if heading and heading[1] != version:
        wrong.append(f"the newest release in {CHANGELOG} is {heading[1]}, but {PACKAGE} says {version}")
    if cited is None or cited[1] != version:
        wrong.append(f"{CITATION} says version {cited[1] if cited else 'nothing'}, but {PACKAGE} says {version}")
    if tag is not None and tag != f"v{version}":
        wrong.append(f"the tag is {tag}, but {PACKAGE} says {version}; expected v{version}")
    if tag is not None and heading is None:
        wrong.append(f"{CHANGELOG} has no release yet; run: python scripts/release.py prepare {version}")
    return wrong


def prepare(root: Path, version: str, today: datetime.date) -> None:
    """Writes a version into the package, the changelog and the citation; the entries of "Unreleased" become its own.

    Raises:
        SystemExit: When it is no version, or not above the last one, or nothing is there to release.
    """
    if not _FORM.fullmatch(version):
        raise SystemExit(f"a version is X.Y.Z, or X.Y.ZrcN before a release; got {version}")
    changelog, package = read(root, CHANGELOG), read(root, PACKAGE)
    if f"## [{version}]" in changelog:
        raise SystemExit(f"{CHANGELOG} has a section for {version} already")
    if UNRELEASED not in changelog:
        raise SystemExit(f"{CHANGELOG} must have a section '{UNRELEASED.strip()}', whose entries become {version}")
    last = _VERSION.search(package)
    if last is None or _order(version) <= _order(last[1]):
        raise SystemExit(f"the next version must be above {last[1] if last else 'what ' + str(PACKAGE) + ' says'}")
    if "\n- " not in _section(changelog, UNRELEASED):
        raise SystemExit(f"{CHANGELOG} has no entry under '{UNRELEASED.strip()}'; there is nothing to release")
    citation = _CITED_DATE.sub("", read(root, CITATION))
    texts = {
        PACKAGE: _VERSION.sub(f'__version__ = "{version}"', package),
        CHANGELOG: changelog.replace(UNRELEASED, f"{UNRELEASED}\n## [{version}] – {today:%Y-%m-%d}\n", 1),
        CITATION: _CITED.sub(f"version: {version}\ndate-released: {today:%Y-%m-%d}", citation),
    }
    for name, text in texts.items():
        (root / name).write_text(text, "utf-8")


def set_address(root: Path, url: str) -> None:
    """Writes the project's address into the citation, from which setup.py takes it.

    Raises:
        SystemExit: When it is no address of a repository.
    """
    url = url.rstrip("/").removesuffix(".git")
    if not re.fullmatch(r"https://[\w.-]+(?:/[\w.-]+)+", url):
        raise SystemExit(f"the address of a repository is https://HOST/OWNER/NAME; got {url}")
    text = _ADDRESS.sub("", read(root, CITATION))
    (root / CITATION).write_text(_CITED.sub(rf'repository-code: "{url}"\n\g<0>', text), "utf-8")


def notes(root: Path, version: str) -> str:
    """Returns what the changelog says about a release.

    Raises:
        SystemExit: When it has no such section.
    """
    changelog = read(root, CHANGELOG)
    heading = next((match[0] for match in _HEADING.finditer(changelog) if match[1] == version), None)
    if heading is None:
        raise SystemExit(f"{CHANGELOG} has no section for {version}")
    return _section(changelog, heading).strip() + "\n"


def _section(changelog: str, heading: str) -> str:
    """Returns what stands between a heading and the next one of its kind."""
    return changelog.partition(heading)[2].partition("\n## ")[0]


def _order(version: str) -> tuple[int, int, int, str, int]:
    """Returns what sorts versions: 1.2.0a1 < 1.2.0b1 < 1.2.0rc1 < 1.2.0."""
    match = _FORM.fullmatch(version)
    if match is None:
        raise SystemExit(f"{PACKAGE} says {version}, which is no version X.Y.Z")
    major, minor, patch, kind, number = match.groups()
    return int(major), int(minor), int(patch), kind or "released", int(number or 0)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="compare versions").add_argument("tag", nargs="?", help="such as v1.2.0")
    commands.add_parser("prepare", help="write a version").add_argument("version", help="such as 1.2.0")
    commands.add_parser("address", help="write where the project lives").add_argument(
        "url", help="https://HOST/OWNER/NAME"
    )
    commands.add_parser("notes", help="print a section of the changelog").add_argument("version", help="such as 1.2.0")
    arguments = parser.parse_args()
    if arguments.command == "prepare":
        prepare(ROOT, arguments.version, datetime.date.today())
        print(f"Look at the changes, commit them, and push the tag v{arguments.version}.")
    elif arguments.command == "address":
        set_address(ROOT, arguments.url)
        print(f"{CITATION} says where the project lives; commit it.")
    elif arguments.command == "notes":
        print(notes(ROOT, arguments.version), end="")
    elif wrong := check(ROOT, arguments.tag):
        sys.exit("\n".join(wrong))
    else:
        print("The versions agree.")


if __name__ == "__main__":
    main()
