"""LiteRT.js, the runtime that a page brings along: fetched once from npm, pinned, and copied into each page.

The packages are tar archives as `npm pack` writes them. They hold 39 MB, mostly WebAssembly, so they are neither part
of this package nor of its repository.
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

__all__ = ["PACKAGES", "VERSION", "NpmPackage", "find_litertjs", "write_litertjs"]

VERSION = "2.5.3"
_TIMEOUT_S = 600  # for 39 MB over a slow line


class NpmPackage(NamedTuple):
    """A package on npm.

    Attributes:
        name: Name with its scope.
        file: The archive that `npm pack` writes.
        integrity: SHA-512 of the archive in Base64, as the registry states it.
    """

    name: str
    file: str
    integrity: str


PACKAGES = (
    NpmPackage(
        "@litertjs/core",
        f"litertjs-core-{VERSION}.tgz",
        "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
    ),
    NpmPackage(
        "@litertjs/wasm-utils",
        f"litertjs-wasm-utils-{VERSION}.tgz",
        "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
    ),
)

_BY_HAND = (
    "On a machine with Node.js run `npm pack "
    + " ".join(f"{package.name}@{VERSION}" for package in PACKAGES)
    + "` and name the folder with the two .tgz files: --litertjs FOLDER."
)

# Builds of the WebAssembly: one thread, several threads, and for browsers without relaxed SIMD. The fourth of the
# package (JSPI) serves accelerators that the page does not use.
_BUILDS = ("litert_wasm_internal", "litert_wasm_threaded_internal", "litert_wasm_compat_internal")
_IMPORT, _IMPORT_BESIDE = b'from "@litertjs/wasm-utils"', b'from "./wasm-utils.js"'

_NOTICE = f"""\
LiteRT.js {VERSION}: {" and ".join(package.name for package in PACKAGES)} from npm,
https://github.com/google-ai-edge/LiteRT. Copyright Google LLC, Apache License 2.0; see LICENSE in the folder above.
The notices of the libraries inside of the WebAssembly files are in that repository.

litert.js       dist/index.js of @litertjs/core, changed: it imports ./wasm-utils.js instead of @litertjs/wasm-utils,
                a name that workers cannot look up.
wasm-utils.js   dist/index.js of @litertjs/wasm-utils, unchanged.
wasm/           from @litertjs/core, unchanged.
"""


def find_litertjs(folder: Path | None = None) -> Path:
    """Returns a folder with the archives of LiteRT.js, fetching them into the cache if need be.

    Args:
        folder: Folder with the archives; None for the cache, filled by `npm pack` the first time.

    Raises:
        ExportError: When they are missing or are not the pinned ones, or npm is missing or fails.
    """
    where = folder or cache_dir() / "litertjs"
    missing = [package for package in PACKAGES if not (where / package.file).is_file()]
    if missing and folder is not None:
        raise ExportError(f"{folder} has no {missing[0].file}, which a page needs. {_BY_HAND}")
    if missing:
        _fetch(missing, where)
    for package in PACKAGES:
        digest = hashlib.sha512((where / package.file).read_bytes()).digest()
        if base64.b64encode(digest).decode() != package.integrity:
            raise ExportError(
                f"{where / package.file} is not {package.name} {VERSION} as npm has it (its SHA-512 differs). Delete "
                "it and start again."
            )
    return where


def _fetch(packages: Sequence[NpmPackage], where: Path) -> None:
    """Lets npm write the archives into the cache; each appears whole or not at all."""
    npm = shutil.which("npm")
    wanted = ", ".join(package.name for package in packages)
    if is_offline() or npm is None:
        why = "the network is off" if is_offline() else "npm is not installed"
        raise ExportError(f"A page needs {wanted} {VERSION} from npm, once, and {why}. {_BY_HAND}")
    where.mkdir(parents=True, exist_ok=True)
    # Beside the target, because a file is renamed in one step on the same disk only.
    with tempfile.TemporaryDirectory(dir=where) as temporary:
        command = [npm, "pack", *(f"{package.name}@{VERSION}" for package in packages)]
        # Scripts of a package would run code of its authors before its checksum is compared.
        command += ["--ignore-scripts", "--pack-destination", temporary]
        try:
            subprocess.run(command, cwd=temporary, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
            for package in packages:
                (Path(temporary) / package.file).replace(where / package.file)
        except (OSError, subprocess.SubprocessError) as error:
            said = str(getattr(error, "stderr", "") or error).strip().splitlines()
            raise ExportError(
                f"npm could not fetch {wanted} {VERSION}: {said[0] if said else error}. Check the network. {_BY_HAND}"
            ) from error


def write_litertjs(archives: Path, folder: Path) -> None:
    """Copies what a page needs of LiteRT.js.

    Args:
        archives: What `find_litertjs` returned.
        folder: Folder to write to; made if missing.

    Raises:
        ExportError: When an archive is damaged or lacks a file.
    """
    (folder / "wasm").mkdir(parents=True, exist_ok=True)
    core, helpers = (archives / package.file for package in PACKAGES)
    wasm = [f"wasm/{build}.{suffix}" for build in _BUILDS for suffix in ("js", "wasm")]
    files = _members(core, ["dist/index.js", *wasm])
    for name in wasm:
        (folder / name).write_bytes(files[name])
    script = files["dist/index.js"]
    if script.count(_IMPORT) != 1:
        raise ExportError(f"{core} is not laid out as expected: it imports @litertjs/wasm-utils not once. {_BY_HAND}")
    (folder / "litert.js").write_bytes(_without_map(script.replace(_IMPORT, _IMPORT_BESIDE)))
    helper = _members(helpers, ["dist/index.js"])["dist/index.js"]
    (folder / "wasm-utils.js").write_bytes(_without_map(helper))
    (folder / "NOTICE.txt").write_text(_NOTICE, "utf-8")


def _members(archive: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Reads files of a package, by their paths in it."""
    found = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for name in names:
                file = tar.extractfile(f"package/{name}")
                if file is None:
                    raise KeyError(f"{name} is no file")
                found[name] = file.read()
    except (OSError, KeyError, tarfile.TarError) as error:
        raise ExportError(f"{archive} cannot be used: {error}. {_BY_HAND}") from error
    return found


def _without_map(script: bytes) -> bytes:
    """Leaves out the last line, which names a source map that does not come along."""
    lines = script.rstrip().split(b"\n")
    return b"\n".join(lines[:-1] if lines[-1].startswith(b"//# sourceMappingURL=") else lines) + b"\n"
