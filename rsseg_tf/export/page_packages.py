"""What a page brings along from npm: LiteRT.js, which runs the model, and geotiff.js, which reads GeoTIFF files."""

from __future__ import annotations

from pathlib import Path

from rsseg_tf.errors import ExportError
from rsseg_tf.export.npm import NpmPackage, find_npm_packages, package_members, without_map
from rsseg_tf.files import StrPath

__all__ = ["PACKAGES", "find_page_packages", "write_page_packages"]

CORE = NpmPackage(
    "@litertjs/core",
    "2.5.3",
    "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
)
WASM_UTILS = NpmPackage(
    "@litertjs/wasm-utils",
    "2.5.3",
    "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
)
GEOTIFF = NpmPackage(
    "geotiff",
    "3.0.5",
    "OWcL9S9+yDZ6iAlXMt32T1iwUApJM8UiD47xbm6ZP1h33d10fqkPs14EG/ttT5EnefpZSx3G15iDFC5FxUNUwA==",
)
PACKAGES = (CORE, WASM_UTILS, GEOTIFF)

# Builds of the WebAssembly: one thread, several threads, and for browsers without relaxed SIMD. The fourth of the
# package (JSPI) serves accelerators that the page does not use.
_BUILDS = ("litert_wasm_internal", "litert_wasm_threaded_internal", "litert_wasm_compat_internal")
_IMPORT, _IMPORT_BESIDE = b'from "@litertjs/wasm-utils"', b'from "./wasm-utils.js"'

_NOTICE = f"""\
LiteRT.js {CORE.version}: {CORE.name} and {WASM_UTILS.name} from npm, https://github.com/google-ai-edge/LiteRT.
Copyright Google LLC, Apache License 2.0; see LICENSE in the folder above. The notices of the libraries inside of the
WebAssembly files are in that repository.

litert.js       dist/index.js of @litertjs/core, changed: it imports ./wasm-utils.js instead of @litertjs/wasm-utils,
                a name that workers cannot look up.
wasm-utils.js   dist/index.js of @litertjs/wasm-utils, unchanged.
wasm/           from @litertjs/core, unchanged.

geotiff.js {GEOTIFF.version}: {GEOTIFF.name} from npm, https://github.com/geotiffjs/geotiff.js.
MIT License; see geotiff-LICENSE.txt. It holds pako, lerc, zstddec, xml-utils, quick-lru, parse-headers, web-worker and
float16, whose licences are in their packages on npm.

geotiff.js      dist-browser/geotiff.js, unchanged but for the line that names its source map.
"""


def find_page_packages(folder: StrPath | None = None) -> Path:
    """Returns a folder with the archives of the packages of a page, fetching them into the cache if need be.

    Args:
        folder: Folder with the archives; None for the cache, filled by `npm pack` the first time.

    Raises:
        ExportError: When they are missing or are not the pinned ones, or npm is missing or fails.
    """
    folder = None if folder is None else Path(folder)
    return find_npm_packages(PACKAGES, folder)


def write_page_packages(archives: Path, folder: Path) -> None:
    """Copies what a page needs of its packages.

    Args:
        archives: What `find_page_packages` returned.
        folder: Folder to write to; made if missing.

    Raises:
        ExportError: When an archive is damaged or lacks a file.
    """
    (folder / "wasm").mkdir(parents=True, exist_ok=True)
    core = archives / CORE.file
    wasm = [f"wasm/{build}.{suffix}" for build in _BUILDS for suffix in ("js", "wasm")]
    files = package_members(core, ["dist/index.js", *wasm])
    for name in wasm:
        (folder / name).write_bytes(files[name])
    script = files["dist/index.js"]
    if script.count(_IMPORT) != 1:
        raise ExportError(
            f"{core} is not laid out as expected: it imports @litertjs/wasm-utils not once. Delete it and export again."
        )
    (folder / "litert.js").write_bytes(without_map(script.replace(_IMPORT, _IMPORT_BESIDE)))
    helper = package_members(archives / WASM_UTILS.file, ["dist/index.js"])["dist/index.js"]
    (folder / "wasm-utils.js").write_bytes(without_map(helper))
    reader = package_members(archives / GEOTIFF.file, ["dist-browser/geotiff.js", "LICENSE"])
    (folder / "geotiff.js").write_bytes(without_map(reader["dist-browser/geotiff.js"]))
    (folder / "geotiff-LICENSE.txt").write_bytes(reader["LICENSE"])
    (folder / "NOTICE.txt").write_text(_NOTICE, "utf-8")
