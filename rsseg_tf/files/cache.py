"""Files from the web: each is downloaded once to the user's cache folder, and its hash is checked at every use."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from rsseg_tf.errors import WeightsError
from rsseg_tf.files.reading import read_json
from rsseg_tf.files.writing import atomic_path

__all__ = ["cache_dir", "cached", "is_offline"]

Progress = Callable[[int, int | None], None]
"""Called with the bytes received so far and the bytes expected, None if unknown."""

_TIMEOUT = 60.0  # seconds without any data
_CHUNK = 1 << 20
_FEWEST_DIGITS = 8  # of a hash
# Servers that name files by the first digits of their SHA-256: `resnet50-11ad3fa6.pth`.
_NAMED_BY_HASH = ("download.pytorch.org", "download.openmmlab.com")


def cache_dir() -> Path:
    """Returns `$RSSEG_TF_CACHE`, or else the folder `rsseg_tf` where the system keeps caches."""
    if chosen := os.environ.get("RSSEG_TF_CACHE"):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "rsseg_tf"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "rsseg_tf"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "rsseg_tf" / "Cache"
    return Path.home() / ".cache" / "rsseg_tf"


def is_offline() -> bool:
    """Whether `$RSSEG_TF_OFFLINE` forbids the network."""
    return os.environ.get("RSSEG_TF_OFFLINE", "0") not in ("", "0")


def cached(url: str, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """Returns the local copy of a file on the web, downloading it if there is none.

    Args:
        url: An http or https address; the file must have the hash in a `#sha256=<hex>` at its end, whose first digits,
            eight or more, are enough. Torch's and OpenMMLab's servers put eight into the names of files, which are
            compared, too.
        offline: Whether the network is forbidden; `$RSSEG_TF_OFFLINE` forbids it too.
        progress: Called while the file is received.

    Raises:
        WeightsError: When there is no copy and no network, the download fails, or the hash differs. Nothing
            half-written stays behind.
    """
    address, _, fragment = url.partition("#")
    pinned = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else _digits_in(address)
    # The hash of the address keeps files of the same name from different places apart.
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name or "weights"
    target = cache_dir() / "weights" / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{name}"
    if not target.is_file():
        if offline or is_offline():
            raise WeightsError(
                f"{address} is not in the cache and the network is off. Download it elsewhere, and name the file "
                f"instead of the address, or copy it to {target}."
            )
        _download(address, target, progress)
    _check(address, target, pinned)
    return target


def _digits_in(address: str) -> str | None:
    """Returns the digits of the hash that the name of a file has on some servers, or None."""
    parts = urllib.parse.urlsplit(address)
    found = re.search(rf"-([0-9a-f]{{{_FEWEST_DIGITS}}})\.pth$", parts.path)
    return found[1] if found and parts.hostname in _NAMED_BY_HASH else None


def _check(address: str, target: Path, pinned: str | None) -> None:
    """Compares the file with the hash in the URL and with the hash that was recorded at its download."""
    record = target.with_name(target.name + ".json")
    with target.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if pinned is not None and not (len(pinned) >= _FEWEST_DIGITS and actual.startswith(pinned.lower())):
        raise WeightsError(f"{address} hashes to {actual}, not to {pinned} as required; the file is {target}.")
    if not record.is_file():  # copied here by hand
        return
    try:
        expected = read_json(record)["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        expected = None
    if actual != expected:
        raise WeightsError(f"{target} is not what was downloaded from {address} any more. Delete it and start again.")


def _download(address: str, target: Path, progress: Progress | None) -> None:
    record = target.with_name(target.name + ".json")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as partial:
            digest = _receive(address, partial, progress)
            # The record first: a file without a record counts as copied here by the user.
            record.write_text(json.dumps({"url": address, "sha256": digest}), "utf-8")
    except urllib.error.HTTPError as error:
        raise WeightsError(
            f"{address} could not be downloaded: the server says {error.code} {error.reason}."
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise WeightsError(
            f"{address} could not be downloaded: {reason}. Check the network, or download it elsewhere and name the "
            "file instead."
        ) from error


def _receive(address: str, partial: Path, progress: Progress | None) -> str:
    """Writes the body of the answer to a file and returns its SHA-256."""
    request = urllib.request.Request(address, headers={"User-Agent": "rsseg-tf"})
    digest, received = hashlib.sha256(), 0
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer, partial.open("wb") as file:
        # A redirection may lead to another scheme, such as ftp.
        if urllib.parse.urlsplit(answer.url).scheme not in ("http", "https"):
            raise ValueError(f"it leads to {answer.url}")
        length = answer.headers.get("Content-Length")
        expected = int(length) if length and length.isdecimal() else None
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            if progress:
                progress(received, expected)
        if expected is not None and received != expected:
            raise ValueError(f"the connection broke after {received} of {expected} bytes")
    return digest.hexdigest()
