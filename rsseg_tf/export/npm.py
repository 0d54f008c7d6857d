"""JavaScript packages that a page brings along: fetched once from npm, pinned, and copied into each page.

The packages are tar archives as `npm pack` writes them. They are neither part of this package nor of its repository.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rsseg_tf.errors import ExportError
from rsseg_tf.files.cache import cache_dir, is_offline

__all__ = ["NpmPackage", "find_npm_packages", "package_members", "without_map"]

_CACHE = "litertjs"  # LiteRT.js was the only package when caches were filled first
_TIMEOUT_S = 600  # for 40 MB over a slow line


class NpmPackage(NamedTuple):
    """A package on npm.

    Attributes:
        name: Name with its scope.
        version: The pinned version.
        integrity: SHA-512 of the archive in Base64, as the registry states it.
    """

    name: str
    version: str
    integrity: str

    @property
    def file(self) -> str:
        """The archive that `npm pack` writes."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def spec(self) -> str:
        """Name and version, as npm takes them."""
        return f"{self.name}@{self.version}"


def find_npm_packages(packages: Sequence[NpmPackage], folder: Path | None = None) -> Path:
    """Returns a folder with the archives of packages, fetching them into the cache if need be.

    Args:
        packages: What is needed.
        folder: Folder with the archives; None for the cache, filled by `npm pack` the first time.

    Raises:
        ExportError: When they are missing or are not the pinned ones, or npm is missing or fails.
    """
    where = folder or cache_dir() / _CACHE
    missing = [package for package in packages if not (where / package.file).is_file()]
    if missing and folder is not None:
        raise ExportError(f"{folder} has no {missing[0].file}, which a page needs. {_by_hand(packages)}")
    if missing:
        _fetch(missing, where, _by_hand(packages))
    for package in packages:
        digest = hashlib.sha512((where / package.file).read_bytes()).digest()
        if base64.b64encode(digest).decode() != package.integrity:
            raise ExportError(
                f"{where / package.file} is not {package.name} {package.version} as npm has it (its SHA-512 differs). "
                "Delete it and start again."
            )
    return where


def package_members(archive: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Reads files of a package, by their paths in it.

    Raises:
        ExportError: When the archive is damaged or lacks a file.
    """
    found = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for name in names:
                file = tar.extractfile(f"package/{name}")
                if file is None:
                    raise KeyError(f"{name} is no file")
                found[name] = file.read()
    except (OSError, KeyError, tarfile.TarError) as error:
        raise ExportError(f"{archive} cannot be used: {error}. Delete it and export again.") from error
    return found


def without_map(script: bytes) -> bytes:
    """Leaves out the last line, which names a source map that does not come along."""
    lines = script.rstrip().split(b"\n")
    return b"\n".join(lines[:-1] if lines[-1].startswith(b"//# sourceMappingURL=") else lines) + b"\n"


def _by_hand(packages: Sequence[NpmPackage]) -> str:
    return (
        f"On a machine with Node.js run `npm pack {' '.join(package.spec for package in packages)}` and name the "
        f"folder with the {len(packages)} .tgz files: --litertjs FOLDER."
    )


def _fetch(packages: Sequence[NpmPackage], where: Path, by_hand: str) -> None:
    """Lets npm write the archives into the cache; each appears whole or not at all."""
    npm = shutil.which("npm")
    wanted = ", ".join(package.spec for package in packages)
    if is_offline() or npm is None:
        why = "the network is off" if is_offline() else "npm is not installed"
        raise ExportError(f"A page needs {wanted} from npm, once, and {why}. {by_hand}")
    where.mkdir(parents=True, exist_ok=True)
    # Beside the target, because a file is renamed in one step on the same disk only.
    with tempfile.TemporaryDirectory(dir=where) as temporary:
        command = [npm, "pack", *(package.spec for package in packages)]
        # Scripts of a package would run code of its authors before its checksum is compared.
        command += ["--ignore-scripts", "--pack-destination", temporary]
        try:
            subprocess.run(command, cwd=temporary, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
            for package in packages:
                (Path(temporary) / package.file).replace(where / package.file)
        except (OSError, subprocess.SubprocessError) as error:
            said = str(getattr(error, "stderr", "") or error).strip().splitlines()
            raise ExportError(
                f"npm could not fetch {wanted}: {said[0] if said else error}. Check the network. {by_hand}"
            ) from error
