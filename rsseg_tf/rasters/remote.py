"""Rasters on servers, read by ranges: the header, and the blocks that are asked for.

GDAL takes credentials from the usual environment variables (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE,
AWS_NO_SIGN_REQUEST, AWS_S3_ENDPOINT, GDAL_HTTP_HEADERS, …), and proxies and certificates from those of curl.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import rasterio
from rasterio._env import get_gdal_config

from rsseg_tf.errors import DataError, reason
from rsseg_tf.rasters.gdal import RASTER_ERRORS
from rsseg_tf.rasters.sources import RemoteRaster

__all__ = ["fingerprint", "network", "open_address", "unreachable"]

_DRIVERS = {".jp2": "JP2OpenJPEG", ".j2k": "JP2OpenJPEG", ".j2c": "JP2OpenJPEG", ".jpx": "JP2OpenJPEG"}
"""Drivers by suffix; all other addresses are of TIFFs, whose driver follows no names in the file."""

_SETTINGS = {
    # No list of the folder and no side files: a request each, most of them for what is not there.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",  # headers of most files, in one request
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    # A server that sends nothing for this long is given up.
    "GDAL_HTTP_LOW_SPEED_TIME": "60",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
}
_S3 = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket AWS_NO_SIGN_REQUEST=YES; for "
    "a server that is not Amazon's AWS_S3_ENDPOINT."
)
# What GDAL, curl and S3 say, and what a user can do.
_REMEDIES: tuple[tuple[str, str], ...] = (
    (r"AWS_SECRET_ACCESS_KEY|InvalidAccessKeyId|SignatureDoesNotMatch|InvalidCredentials|ExpiredToken", _S3),
    (r"\b404\b|NoSuchKey|NoSuchBucket|does not exist|no such file", "Check the address."),
    (
        r"\b(401|403)\b|AccessDenied|Access Denied",
        "The server wants other credentials, or the address is signed and has expired: check both.",
    ),
    (r"range download", "The server sends whole files only. Download the file, and name it."),
    (
        r"not recogni[sz]ed",
        "Only Cloud Optimized GeoTIFFs, other TIFFs and JPEG 2000 are read from an address. Download the file, and "
        "name it.",
    ),
)
_NETWORK = "Check the address and the network, and try again; with --resume what is done stays."
_ASKED_BEFORE = "does not exist in the file system"
"""What GDAL says of an address from the second time on, whatever was wrong the first time, which it remembers."""
_first_causes: dict[str, str] = {}
"""By address, why it could not be read the first time."""
_BLOCKS = 64
_LARGEST_OVERVIEW = 2**20


@contextlib.contextmanager
def network() -> Iterator[None]:
    """Applies the settings for reading by ranges; those of the environment and of an outer `rasterio.Env` win."""
    # GDAL itself is asked, because an outer Env may be another thread's.
    with rasterio.Env(**{name: value for name, value in _SETTINGS.items() if get_gdal_config(name) is None}):
        yield


def open_address(address: RemoteRaster) -> tuple[rasterio.DatasetReader, str]:
    """Opens a raster on a server by its header; the caller closes it, and reads it within `network`.

    Returns:
        The open raster, and its driver.

    Raises:
        DataError: When it cannot be reached or is of another kind.
    """
    driver = _DRIVERS.get(address.suffix.lower(), "GTiff")
    with network():
        try:
            return rasterio.open(address.gdal_path, driver=driver), driver
        except RASTER_ERRORS as error:
            # What GDAL remembers of an earlier try is no cause.
            raise unreachable(address, error) from (None if _ASKED_BEFORE in str(error) else error)


def unreachable(address: RemoteRaster | str, error: BaseException | str) -> DataError:
    """Returns the error for a raster that cannot be read over the network, with the cause and a remedy.

    Args:
        address: The raster, or its name in errors.
        error: The library's error, or the cause as text.
    """
    why = error if isinstance(error, str) else reason(error)
    if isinstance(address, RemoteRaster):
        why = why.replace(address.gdal_path, str(address)).replace(address.url, str(address))
    why = re.sub(r"<[^>]*>|\s+", " ", why)  # servers answer with pages
    why = re.sub(r" {2,}", " ", why).strip(" .")
    if _ASKED_BEFORE in why:
        why = _first_causes.get(str(address), "it could not be read when it was asked for before")
    else:
        _first_causes[str(address)] = why
    found = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, why, re.IGNORECASE)), _NETWORK)
    return DataError(f"{address} cannot be read over the network: {why[:300]}. {found}")


@lru_cache(maxsize=256)
def fingerprint(address: RemoteRaster) -> int:
    """Returns a number that changes with a raster on a server, from its header and its smallest overview.

    Servers need not tell sizes and times of files. The lengths of compressed blocks change with their pixels.

    Raises:
        DataError: When it cannot be read.
    """
    source, driver = open_address(address)
    with source, network():
        try:
            facts: list[object] = [source.shape, source.dtypes, tuple(source.transform), source.crs, source.nodatavals]
            if driver == "GTiff":
                rows, columns = source.block_shapes[0]
                down, right = -(-source.height // rows), -(-source.width // columns)
                for place in np.unique(np.linspace(0, down * right - 1, _BLOCKS).astype(int)).tolist():
                    tag = f"BLOCK_SIZE_{place % right}_{place // right}"
                    facts.append(source.get_tag_item(tag, "TIFF", bidx=1))
            found = zlib.crc32(repr(facts).encode())
            if factors := source.overviews(1):
                shape = tuple(-(-side // factors[-1]) for side in source.shape)
                if shape[0] * shape[1] <= _LARGEST_OVERVIEW:
                    found = zlib.crc32(source.read(1, out_shape=shape).tobytes(), found)
        except RASTER_ERRORS as error:
            raise unreachable(address, error) from error
    return found
