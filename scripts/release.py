"""Keeps the version in one place, and everything that repeats it in step.

    python scripts/release.py check [vX.Y.Z]    # the changelog and CITATION.cff agree with the package, and the tag
    python scripts/release.py prepare X.Y.Z     # writes the version and today's date into all of them

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
_VERSION = re.compile(r'^__version__ = "(.+)"$', re.M)
_HEADING = re.compile(r"^## \[(\d\S*)\] – (\d{4}-\d\d-\d\d)$", re.M)
_CITED = re.compile(r"^version: (.+)$", re.M)
_CITED_DATE = re.compile(r"^date-released: (.+)\n", re.M)


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
    """Writes a version into the package, the changelog and the citation."""
    if not re.fullmatch(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?", version):
        raise SystemExit(f"a version is X.Y.Z, or X.Y.ZrcN before a release; got {version}")
    changelog = read(root, CHANGELOG)
    if f"## [{version}]" in changelog:
        raise SystemExit(f"{CHANGELOG} has a section for {version} already")
    if UNRELEASED not in changelog:
        raise SystemExit(f"{CHANGELOG} must have a section '{UNRELEASED.strip()}', whose entries become {version}")
    citation = _CITED_DATE.sub("", read(root, CITATION))
    texts = {
        PACKAGE: _VERSION.sub(f'__version__ = "{version}"', read(root, PACKAGE)),
        CHANGELOG: changelog.replace(UNRELEASED, f"{UNRELEASED}\n## [{version}] – {today:%Y-%m-%d}\n", 1),
        CITATION: _CITED.sub(f"version: {version}\ndate-released: {today:%Y-%m-%d}", citation),
    }
    for name, text in texts.items():
        (root / name).write_text(text, "utf-8")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="compare versions").add_argument("tag", nargs="?", help="such as v1.2.0")
    commands.add_parser("prepare", help="write a version").add_argument("version", help="such as 1.2.0")
    arguments = parser.parse_args()
    if arguments.command == "prepare":
        prepare(ROOT, arguments.version, datetime.date.today())
        print(f"Look at the changes, commit them, and push the tag v{arguments.version}.")
        return
    wrong = check(ROOT, arguments.tag)
    if wrong:
        sys.exit("\n".join(wrong))
    print("The versions agree.")


if __name__ == "__main__":
    main()
