"""Variables of another GIS: what cannot fit is taken out before rasterio is imported, and nothing else is."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from rsseg_tf import environment
from rsseg_tf.environment import clean_environment

ROOT = Path(__file__).resolve().parents[1]
VARIABLES = ("PROJ_DATA", "PROJ_LIB", "GDAL_DATA", "GDAL_DRIVER_PATH", *environment._CHANGE_READING)
# Reads and writes a GeoTIFF and a GeoPackage with a CRS: both bring a GDAL of their own.
USE = """
import numpy as np, rasterio, rsseg_tf.predict, rsseg_tf.doctor
from rasterio.crs import CRS
profile = dict(driver="GTiff", width=4, height=4, count=1, dtype="uint8", crs="EPSG:32633")
with rasterio.open("a.tif", "w", **profile, transform=rasterio.transform.from_origin(5e5, 5e6, 1, 1)) as file:
    file.write(np.zeros((1, 4, 4), "uint8"))
with rasterio.open("a.tif") as file:
    print(file.crs.to_epsg(), CRS.from_wkt(CRS.from_epsg(3035).to_wkt()).to_epsg())
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # remembered, and so restored
        monkeypatch.delenv(name)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the folder of a rasterio that brings its data."""
    for name in ("proj_data", "gdal_data"):
        (tmp_path / "rasterio" / name).mkdir(parents=True)
    write_database(tmp_path / "rasterio" / "proj_data", 1, 6)
    (tmp_path / "rasterio" / "gdal_data" / "gdalvrt.xsd").touch()
    monkeypatch.setattr(environment, "_rasterio_with_data", lambda: tmp_path / "rasterio")
    return tmp_path / "rasterio"


def write_database(folder: Path, major: int, minor: int) -> Path:
    folder.mkdir(exist_ok=True)
    with sqlite3.connect(folder / "proj.db") as connection:
        connection.execute("CREATE TABLE metadata (key TEXT, value TEXT)")
        rows = [("DATABASE.LAYOUT.VERSION.MAJOR", str(major)), ("DATABASE.LAYOUT.VERSION.MINOR", str(minor))]
        connection.executemany("INSERT INTO metadata VALUES (?, ?)", rows)
    connection.close()
    return folder


@pytest.mark.parametrize("name", ["PROJ_DATA", "PROJ_LIB"])
@pytest.mark.parametrize(
    ("layout", "why"),
    [
        ((1, 2), "its proj.db has the layout 1.2, and 1.6 is needed"),
        ((2, 7), "its proj.db has the layout 2.7, and 1.6 is needed"),
        ((1, 6), None),
        ((1, 9), None),
        ("damaged", "its proj.db cannot be read"),
        ("empty", "there is no proj.db"),
        ("nowhere", "there is no proj.db"),
    ],
)
def test_projections_of_another_version_are_not_used(
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    layout: tuple[int, int] | str,
    why: str | None,
) -> None:
    folder = tmp_path / "other (GIS)"
    if isinstance(layout, tuple):
        write_database(folder, *layout)
    elif layout != "nowhere":
        folder.mkdir()
    if layout == "damaged":
        (folder / "proj.db").write_bytes(b"no database" * 100)
    monkeypatch.setenv(name, str(folder))
    lines: list[str] = []
    clean_environment(lines.append)
    assert os.environ.get(name) == (str(folder) if why is None else None)
    assert lines == ([] if why is None else [f"Note: {name}={folder} is not used: {why}. rasterio brings its own."])


def test_data_and_plugins_of_another_gdal_are_not_used(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, lines = tmp_path / "other", list[str]()
    other.mkdir()
    monkeypatch.setenv("GDAL_DATA", str(other))
    monkeypatch.setenv("GDAL_DRIVER_PATH", str(other))
    clean_environment(lines.append)
    assert len(lines) == 1 and "lacks 1 of the 1 files that this GDAL needs" in lines[0]
    assert "GDAL_DATA" not in os.environ and os.environ["GDAL_DRIVER_PATH"] == str(other)
    (other / "gdalvrt.xsd").touch()
    (other / "ogr_Arrow.so").touch()
    monkeypatch.setenv("GDAL_DATA", str(other))
    clean_environment(lines.append)
    assert len(lines) == 2 and "its plugins, such as ogr_Arrow.so, are for another GDAL" in lines[1]
    assert os.environ["GDAL_DATA"] == str(other) and "GDAL_DRIVER_PATH" not in os.environ


def test_a_rasterio_of_the_system_is_left_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_rasterio_with_data", lambda: None)
    monkeypatch.setenv("PROJ_LIB", "/nonexistent")
    clean_environment(pytest.fail)
    assert os.environ["PROJ_LIB"] == "/nonexistent"


def test_settings_that_change_what_is_read_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")
    lines: list[str] = []
    clean_environment(lines.append)
    assert lines == ["Note: settings of GDAL in the environment change how files are read: "
                     "GDAL_DISABLE_READDIR_ON_OPEN=EMPTY_DIR."]  # fmt: skip
    assert os.environ["GDAL_DISABLE_READDIR_ON_OPEN"] == "EMPTY_DIR"


def run(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=folder, env=environ
    )


@pytest.mark.skipif(environment._rasterio_with_data() is None, reason="this rasterio brings no data")
def test_geodata_are_read_and_written_in_the_environment_of_another_gis(tmp_path: Path) -> None:
    old = str(write_database(tmp_path / "old", 1, 2))
    result = run(USE, tmp_path, PROJ_LIB=old, PROJ_DATA="/nonexistent", GDAL_DATA=old, GDAL_DRIVER_PATH="/nonexistent")
    assert result.stdout.split() == ["32633", "3035"], result.stderr
    assert [line.split("=")[0] for line in result.stderr.splitlines()] == [
        "Note: PROJ_DATA", "Note: PROJ_LIB", "Note: GDAL_DATA",
    ]  # fmt: skip


def test_nothing_depends_on_the_projections_at_import_and_errors_name_what_to_unset(tmp_path: Path) -> None:
    # Set too late for the package to take it out, as where rasterio comes from a system without its data.
    code = """
import rsseg_tf, os, pkgutil, importlib
os.environ["PROJ_DATA"] = "/nonexistent"
for found in pkgutil.walk_packages(rsseg_tf.__path__, "rsseg_tf."):
    if not found.name.startswith((
        "rsseg_tf.serving", "rsseg_tf.export", "rsseg_tf.predict.cluster", "rsseg_tf.cli.__main__"
    )):
        importlib.import_module(found.name)
from rasterio.crs import CRS
from rsseg_tf.errors import reason
try:
    CRS.from_epsg(32633)
except Exception as error:
    print(reason(error))
"""
    result = run(code, tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "(set in the environment: PROJ_DATA=/nonexistent; unset it if it belongs to another GIS)" in result.stdout
