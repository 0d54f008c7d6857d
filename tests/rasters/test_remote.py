"""Rasters on servers: read by ranges, with the pixels of the file, and errors of one line."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio._env import get_gdal_config
from rasterio.env import getenv

from rsseg_tf.errors import DataError, reason
from rsseg_tf.rasters.remote import fingerprint, network
from rsseg_tf.rasters.scenes import open_scene, read_pixels
from rsseg_tf.rasters.sources import RemoteRaster, is_remote, named_source, stack_of
from rsseg_tf.rasters.windows import Window
from tests.fixtures.formats import PLACE, UTM, noise, write_tiff
from tests.fixtures.ranges import Served, served


def write_cog(path: Path, seed: int = 0, side: int = 1024) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, side, side), np.uint8)
    profile = {"count": 3, "height": side, "width": side, "dtype": "uint8", "crs": UTM, "transform": PLACE}
    with rasterio.open(path, "w", driver="COG", blocksize=256, **profile) as target:
        target.write(pixels)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_cog(folder / "cog.tif")
    (folder / "text.tif").write_text("no picture")
    (folder / "bucket").mkdir()
    write_cog(folder / "bucket/key.tif", seed=1)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    with served(folder) as running:
        yield running


def test_a_part_of_a_cog_has_the_pixels_of_the_file_and_costs_a_part_of_its_bytes(folder: Path, server: Served) -> None:
    part = Window(300, 300, 500, 500)
    with open_scene(folder / "cog.tif") as scene:
        expected, _ = scene.read(part)
        place = scene.crs, scene.transform, scene.size
    server.bytes_sent()
    with open_scene(RemoteRaster(f"{server.url}/cog.tif")) as scene:
        found, _ = scene.read(part)
        assert (scene.crs, scene.transform, scene.size) == place
    np.testing.assert_array_equal(found, expected)
    assert 0 < server.bytes_sent() < 0.2 * (folder / "cog.tif").stat().st_size


def test_no_side_files_and_no_folders_are_asked_for(folder: Path, server: Served) -> None:
    (folder / "alone.tif").write_bytes((folder / "cog.tif").read_bytes())
    server.paths()
    with open_scene(RemoteRaster(f"{server.url}/alone.tif")):
        pass
    assert set(server.paths()) == {"/alone.tif"}


def test_a_bucket_is_read_with_the_usual_variables(
    folder: Path, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_NO_SIGN_REQUEST": "YES",
        "AWS_S3_ENDPOINT": server.url.removeprefix("http://"),
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
    }.items():
        monkeypatch.setenv(name, value)
    expected = read_pixels(folder / "bucket/key.tif").values
    np.testing.assert_array_equal(read_pixels(named_source("s3://bucket/key.tif")).values, expected)
    with pytest.raises(DataError, match=r"s3://bucket/none\.tif cannot be read over the network: .*Check the address"):
        read_pixels(named_source("s3://bucket/none.tif"))


def test_a_bucket_without_credentials_names_the_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_NO_SIGN_REQUEST", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CPL_AWS_AUTODETECT_EC2", "NO")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("CPL_AWS_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"cannot be read over the network: AWS_.*Set AWS_ACCESS_KEY_ID and .*REQUEST"):
        read_pixels(RemoteRaster("s3://elsewhere/key.tif"))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("{}/none.tif?sig=secret", r"/none\.tif cannot be read over the network: HTTP response code: 404\. Check the"),
        ("{}/403/cog.tif", r"response code: 403\. The server wants other credentials"),
        ("{}/text.tif", r"not recognized .*Only Cloud Optimized GeoTIFFs, other TIFFs and JPEG 2000 are read"),
        ("http://127.0.0.1:9/once.tif", r"Could not connect.*Check the address and the network"),
        ("https://nowhere.invalid/a.tif", r"Could not resolve.*Check the address and the network"),
    ],
)
def test_errors_are_one_line_with_a_remedy(server: Served, address: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_pixels(named_source(address.format(server.url)))
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_an_address_that_fails_again_is_not_called_missing() -> None:
    for _ in range(2):
        with pytest.raises(DataError, match=r"network: .*Could not connect.*\. Check the address") as caught:
            read_pixels(named_source("http://127.0.0.1:9/twice.tif"))
        assert "does not exist" not in reason(caught.value)


def test_a_server_that_fails_later_is_told_as_such(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    with open_scene(RemoteRaster(f"{server.url}/cut/cog.tif")) as scene:
        with pytest.raises(DataError, match=r"/cut/cog\.tif cannot be read over the network: .* --resume"):
            scene.read()


def test_a_server_without_ranges_is_refused_or_read_right(folder: Path, server: Served) -> None:
    expected = read_pixels(folder / "cog.tif").values
    try:
        found = read_pixels(RemoteRaster(f"{server.url}/whole/cog.tif")).values
    except DataError as error:
        assert "cannot be read over the network" in str(error)
    else:
        np.testing.assert_array_equal(found, expected)


def test_settings_of_the_environment_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "9")
    with network():
        assert "GDAL_HTTP_MAX_RETRY" not in getenv() and getenv()["GDAL_DISABLE_READDIR_ON_OPEN"] == "EMPTY_DIR"
    found: list[Any] = []

    def look() -> None:
        with network():
            found.extend(map(get_gdal_config, ("GDAL_HTTP_RETRY_DELAY", "GDAL_DISABLE_READDIR_ON_OPEN")))

    with rasterio.Env(GDAL_HTTP_RETRY_DELAY="5"):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert found == [5, "EMPTY_DIR"]


def test_a_fingerprint_follows_the_pixels(folder: Path, server: Served) -> None:
    for name, seed in (("one.tif", 5), ("same.tif", 5), ("other.tif", 6)):
        write_cog(folder / name, seed=seed, side=512)
    one, same, other = (fingerprint(RemoteRaster(f"{server.url}/{name}.tif")) for name in ("one", "same", "other"))
    assert one == same != other


def test_a_stack_of_addresses_and_files(folder: Path, server: Served) -> None:
    stack = stack_of([f"{server.url}/cog.tif", str(folder / "cog.tif")])
    pixels = read_pixels(stack).values
    assert is_remote(stack) and pixels.shape == (1024, 1024, 6)
    np.testing.assert_array_equal(pixels[..., :3], pixels[..., 3:])


def test_addresses_are_shown_without_secrets() -> None:
    address = RemoteRaster("https://me:word@host/a/b%20c.tif?X-Amz-Signature=abc#x")
    assert str(address) == "https://host/a/b%20c.tif"
    assert (address.name, address.stem, address.suffix) == ("b c.tif", "b c", ".tif")
    assert named_source("/vsicurl/https://host/a.tif") == RemoteRaster("https://host/a.tif")
    assert named_source("/vsis3/bucket/a.tif") == RemoteRaster("s3://bucket/a.tif")
    assert isinstance(named_source("/vsizip/a.zip/a.tif"), Path)


def test_a_vrt_at_an_address_is_not_followed(folder: Path, server: Served) -> None:
    write_tiff(folder / "secret.tif", noise())
    (folder / "m.vrt").write_text(
        '<VRTDataset rasterXSize="30" rasterYSize="20"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="0">{folder / "secret.tif"}</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    (folder / "m.tif").write_bytes((folder / "m.vrt").read_bytes())
    for name in ("m.vrt", "m.tif"):
        with pytest.raises(DataError, match="not recognized"):
            read_pixels(RemoteRaster(f"{server.url}/{name}"))
